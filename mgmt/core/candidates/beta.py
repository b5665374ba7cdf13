"""The Beta distribution's quantiles, for the interval in which a rate of success probably is."""

from __future__ import annotations

import math


def interval(a: float, b: float, mass: float = 0.9) -> tuple[float, float]:
    """The bounds of the middle `mass` of Beta(a, b); a or b of 0 is a certainty."""
    if a <= 0 or b <= 0:
        certain = 0.0 if a <= 0 else 1.0
        return certain, certain
    tail = (1 - mass) / 2
    return quantile(a, b, tail), quantile(a, b, 1 - tail)


def quantile(a: float, b: float, share: float) -> float:
    """Where the distribution function is `share`, to 1e-9, by bisection: it is monotone."""
    low, high = 0.0, 1.0
    while high - low > 1e-9:
        middle = (low + high) / 2
        if below(a, b, middle) < share:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def below(a: float, b: float, x: float) -> float:
    """The regularised incomplete beta function: the mass below x."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    )
    # The continued fraction converges fast on this side of the mean.
    if x < (a + 1) / (a + b + 2):
        return front * _fraction(a, b, x) / a
    return 1 - front * _fraction(b, a, 1 - x) / b


def _fraction(a: float, b: float, x: float) -> float:
    """Lentz's evaluation of the continued fraction of the incomplete beta function."""
    tiny = 1e-300
    c, d = 1.0, 1 / (1 - (a + b) * x / (a + 1) or tiny)
    result = d
    for m in range(1, 500):
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 / (1 + term * d or tiny)
            c = 1 + term / c or tiny
            result *= c * d
        if abs(c * d - 1) < 1e-14:
            break
    return result
