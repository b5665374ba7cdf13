"""When a candidate in the queue starts: its line is worked off, each by the worker that is free first."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from heapq import heapify, heapreplace
from typing import NamedTuple

Z90 = 1.2815515655446004  # what 90 % of a normal distribution are below, in standard deviations


class Start(NamedTuple):
    """Seconds from now: as likely sooner as later, and what nine of ten are sooner than."""

    median_s: float
    late_s: float


def moments(median: float, late: float) -> tuple[float, float]:
    """Mean and variance of a duration of which these are the median and the 90 % quantile: log-normal, as durations
    are."""
    if median <= 0:
        return 0.0, 0.0
    sigma = max(0.0, math.log(late / median)) / Z90 if late > median else 0.0
    growth = math.exp(min(sigma * sigma, 50.0))
    mean = median * math.sqrt(growth)
    return mean, (growth - 1) * mean * mean


def starts(durations: Iterable[tuple[float, float]], busy: Iterable[tuple[float, float]]) -> Iterator[Start]:
    """When each starts, one after the other. Durations: (median, 90 %) in seconds. `busy`: what each worker has
    left to do, (0, 0) for one that is free; there is one.

    A sum of log-normal durations is taken as log-normal, with the mean and the variance of the sum (Fenton,
    Wilkinson), and what `n` workers do at once as varying by 1/n of it.
    """
    known = [moments(*one) for one in busy]
    free = [mean for mean, _ in known]
    variance = math.fsum(one for _, one in known)
    heapify(free)
    for duration in durations:
        start_s = free[0]
        yield _quantiles(start_s, variance / len(free) ** 2)
        mean, more = moments(*duration)
        heapreplace(free, start_s + mean)
        variance += more


def _quantiles(mean: float, variance: float) -> Start:
    if mean <= 0:
        return Start(0.0, 0.0)
    spread = math.log1p(variance / (mean * mean))
    median = mean / math.exp(spread / 2)
    return Start(median, median * math.exp(Z90 * math.sqrt(spread)))
