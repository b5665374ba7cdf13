"""What the history of runs says in whole: by campaign and by codebase how many, how well, how long, and whether it
gets better."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from mgmt.kernel.reference_history import FAILURE, NOTHING, SUCCESS, TRANSIENT

from .outcomes import outcome_of
from .records import DAY_US, Run

PERIOD_DAYS = 30.0
NAMED = {SUCCESS: "success", FAILURE: "failure", NOTHING: "nothing", TRANSIENT: "transient"}


def analytics(runs: Iterable[Run], now_us: int, period_days: float = PERIOD_DAYS) -> dict[str, Any]:
    """`all`, `campaigns` and `codebases`, those with most runs first. What ends after `now_us` is left out.

    `rate`: successes by successes and failures. `p50_s`, `p90_s`: of what was not transient and has a duration.
    `trend`: the rate of the latest period without that of the one before. None: there is nothing to say it of.
    """
    period_us = period_days * DAY_US
    known = [(run, _at_us(run)) for run in runs]
    past = [(run, at_us) for run, at_us in known if at_us is not None and at_us <= now_us]
    return {
        "runs": len(past), "period_days": period_days,
        "all": _row("", past, now_us, period_us) if past else None,
        "campaigns": _by(lambda run: run.campaign, past, now_us, period_us),
        "codebases": _by(lambda run: run.codebase, past, now_us, period_us),
    }  # fmt: skip


def _at_us(run: Run) -> int | None:
    return run.start_us if run.finish_us is None else run.finish_us


def _by(
    name: Callable[[Run], str], runs: list[tuple[Run, int]], now_us: int, period_us: float
) -> list[dict[str, Any]]:
    groups: dict[str, list[tuple[Run, int]]] = {}
    for run, at_us in runs:
        groups.setdefault(name(run), []).append((run, at_us))
    order = sorted(groups, key=lambda one: (-len(groups[one]), one))
    return [_row(one, groups[one], now_us, period_us) for one in order]


def _row(name: str, runs: list[tuple[Run, int]], now_us: int, period_us: float) -> dict[str, Any]:
    counts = dict.fromkeys(NAMED.values(), 0)
    durations_us: list[int] = []
    latest, former = [0, 0], [0, 0]  # failures, successes
    for run, at_us in runs:
        outcome = outcome_of(run)
        counts[NAMED[outcome]] += 1
        if outcome != TRANSIENT and run.duration_us is not None:
            durations_us.append(run.duration_us)
        age_us = now_us - at_us
        if outcome in (SUCCESS, FAILURE) and age_us < 2 * period_us:
            (latest if age_us < period_us else former)[outcome == SUCCESS] += 1
    rates = [side[1] / sum(side) if sum(side) else None for side in (latest, former)]
    done = counts["success"] + counts["failure"]
    ordered, n = sorted(durations_us), len(durations_us)
    return {
        "name": name, "runs": len(runs), **counts, "rate": counts["success"] / done if done else None,
        "p50_s": ordered[n // 2] / 1e6 if n else None, "p90_s": ordered[9 * n // 10] / 1e6 if n else None,
        "trend": None if rates[0] is None or rates[1] is None else rates[0] - rates[1],
    }  # fmt: skip
