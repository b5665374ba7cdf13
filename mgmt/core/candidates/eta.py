"""When a candidate in the queue starts: its line is worked off, each by the worker that is free first.

That is done 53 times at once, each time with other durations: of each candidate the same 53 quantiles of its own,
in another order (Latin hypercube). The order is made by a generator with a fixed seed, so the same line has the
same answer.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from heapq import heapify, heapreplace
from statistics import NormalDist
from typing import NamedTuple

TIMES = 53  # a prime, for the orders; odd, so that the middle one is the median
_NORMAL = [NormalDist().inv_cdf((i + 0.5) / TIMES) for i in range(TIMES)]
_Z90 = NormalDist().inv_cdf(0.9)
_LATE = round(0.9 * TIMES - 0.5)


class Start(NamedTuple):
    """Seconds from now: as likely sooner as later, and what nine of ten are sooner than."""

    median_s: float
    late_s: float


def starts(durations: Iterable[tuple[float, float]], busy: Iterable[tuple[float, float]]) -> Iterator[Start]:
    """When each starts, one after the other. Durations: (median, 90 % quantile) in seconds, taken as log-normal.
    `busy`: what each worker has left to do, (0, 0) for one that is free; there is one."""
    draws = _Draws()
    columns = [draws.of(*one) for one in busy]
    workers = [list(column) for column in zip(*columns, strict=True)]
    for free in workers:
        heapify(free)
    for duration in durations:
        told = sorted([free[0] for free in workers])
        yield Start(told[TIMES // 2], told[_LATE])
        for free, lasts_s in zip(workers, draws.of(*duration), strict=True):
            heapreplace(free, free[0] + lasts_s)


class _Draws:
    def __init__(self) -> None:
        self._state = 1

    def of(self, median_s: float, late_s: float) -> list[float]:
        """The quantiles of a duration, in an order of its own."""
        if median_s <= 0 or late_s <= median_s:
            return [max(0.0, median_s)] * TIMES
        self._state = (self._state * 6364136223846793005 + 1442695040888963407) & (1 << 64) - 1
        step, first = 1 + (self._state >> 33) % (TIMES - 1), (self._state >> 48) % TIMES
        sigma = math.log(late_s / median_s) / _Z90
        return [median_s * math.exp(sigma * _NORMAL[(first + i * step) % TIMES]) for i in range(TIMES)]
