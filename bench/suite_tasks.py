"""Functions that workers of the measurements call."""

from __future__ import annotations

import time
from itertools import pairwise

from bench.figure import percentile

_called_s: list[float] = []


def tick() -> None:
    """Do nothing but note when: the time between two calls is how long the worker had no task."""
    _called_s.append(time.perf_counter())


def gap_p95_ms() -> float:
    """Between two calls of `tick` in this process."""
    return percentile((after - before for before, after in pairwise(_called_s)), 0.95) * 1e3
