"""After how long a set of periods starts again, checked; and what to do where that is too long."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import lcm

from mgmt.protocol import defaults
from mgmt.protocol.errors import MgmtError

_GRAINS_US = (1_000_000, 500_000, 100_000, 50_000, 10_000, 5_000, 1_000, 500, 100, 50, 10, 5, 1)
_SHOWN = 8


def strict(
    periods_us: Iterable[int], limit_us: int | None = defaults.MAX_HYPERPERIOD_US, *, whose: str = ""
) -> int:
    """The least common multiple in us. `limit_us` None: as long as it is.

    MgmtError `not-schedulable` with `reason` no_valid_periods, overflow (past 63 bits) or too_large; it names
    the periods and the nearest set that was found in which each period divides the next.
    """
    periods = sorted(set(periods_us))
    if not periods or periods[0] < 1:
        text = f"{whose}there is no hyperperiod without periods of at least 1 us"
        raise MgmtError("not-schedulable", text, reason="no_valid_periods")
    length_us = lcm(*periods)
    overflow = length_us >= 1 << 63
    if limit_us is None or (length_us <= limit_us and not overflow):
        return length_us
    nearest = harmonic(periods)
    named = ", ".join(map(str, periods[:_SHOWN])) + (
        f" and {len(periods) - _SHOWN} more" if periods[_SHOWN:] else ""
    )
    changes = [f"{old} to {new}" for old, new in zip(periods, nearest, strict=True) if old != new]
    advice = ", ".join(changes[:_SHOWN]) + (f" and {len(changes) - _SHOWN} more" if changes[_SHOWN:] else "")
    rounded = rounding(periods, limit_us)
    if rounded:
        grain_us, after_us = rounded
        coarse = f"Rounded to {grain_us} us they repeat after {after_us} us; the nearest"
    else:
        coarse = "The nearest"
    what = "passes 63 bits" if overflow else f"is {length_us} us ({length_us / 3.6e9:.1f} h)"
    raise MgmtError(
        "not-schedulable",
        f"{whose}the hyperperiod of the periods {named} us {what}; the limit is {limit_us} us. "
        f"{coarse} harmonic periods repeat after {max(nearest)} us: change {advice}",
        reason="overflow" if overflow else "too_large",
        periods=periods[:100],
        harmonic=nearest[:100],
        available=limit_us,
    )


def rounding(periods: Sequence[int], limit_us: int) -> tuple[int, int] | None:
    """(grain, hyperperiod), us, of the finest grain that keeps the limit when every period is rounded to it."""
    for grain_us in reversed(_GRAINS_US):
        if grain_us > periods[0]:
            break
        length_us = lcm(*(max(1, (2 * p + grain_us) // (2 * grain_us)) * grain_us for p in periods))
        if length_us <= limit_us:
            return grain_us, length_us
    return None


def harmonic(periods: Sequence[int]) -> list[int]:
    """For each of ascending periods one near it, such that each divides the next.

    Of the chains tried the one whose largest relative change is least. The first period starts a chain as it
    is, rounded to a coarser grain, and divided so that later ones are met better.
    """
    first = periods[0]
    starts = {first}
    for grain in _GRAINS_US:
        if grain <= first:
            starts |= {first // grain * grain, -(-first // grain) * grain}
    chains = []
    for start in sorted(starts):
        chain = [start]
        for period in periods[1:]:
            chain.append(chain[-1] * max(1, (2 * period + chain[-1]) // (2 * chain[-1])))
        cost = max(abs(new - old) / old for new, old in zip(chain, periods, strict=True))
        chains.append((cost, chain))
    return min(chains)[1]
