"""The readable twin of the ranking: offsets of candidates, and the best of them."""

from __future__ import annotations

import math
from collections.abc import MutableSequence, Sequence
from heapq import nsmallest

CODEBASE_DEFAULT = 0.5
CODEBASE_LEAST = 0.1


def score(
    value: Sequence[float],
    probability: Sequence[float],
    duration_us: Sequence[float],
    previous_runs: Sequence[float] | None = None,
    codebase_value: Sequence[float] | None = None,
    *,
    default_offset: float = 0.0,
    first_run_bonus: float = 100.0,
    minimum_cost_ms: float = 20000.0,
    subsecond_twice: bool = False,
    out: MutableSequence[float] | None = None,
) -> Sequence[float]:
    n = len(value)
    for name, column in (
        ("probability", probability),
        ("duration_us", duration_us),
        ("previous_runs", previous_runs),
        ("codebase_value", codebase_value),
        ("out", out),
    ):
        if column is not None and len(column) != n:
            raise ValueError(f"{name} has {len(column)} entries, value {n}")
    result = memoryview(bytearray(8 * n)).cast("d") if out is None else out
    for i in range(n):
        worth = 1.0
        if not math.isnan(value[i]):
            first = previous_runs is not None and previous_runs[i] == 0
            worth = value[i] + (first_run_bonus if first else 0.0)
        base = CODEBASE_DEFAULT
        if codebase_value is not None and not math.isnan(codebase_value[i]):
            base = max(codebase_value[i], CODEBASE_LEAST)
        us = duration_us[i]
        expected = base * probability[i] * worth
        result[i] = math.nan
        if 0 <= probability[i] <= 1 and expected > 0 and 0 <= us < math.inf:
            cost = minimum_cost_ms + us / 1000.0
            if subsecond_twice:
                cost += math.fmod(us, 1e6) / 1000.0
            result[i] = cost / expected + default_offset
    return result


def top_k(scores: Sequence[float], k: int) -> list[int]:
    if k < 0:
        raise ValueError(f"k is {k}: must not be negative")
    return nsmallest(k, (i for i, x in enumerate(scores) if not math.isnan(x)), key=lambda i: (scores[i], i))
