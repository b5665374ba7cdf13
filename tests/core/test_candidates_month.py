"""Months with known truth: what each policy earns, and whose chances come true.

The default policy was tuned on months 1 to 12 of the usual world. None of these is played here: what is asserted
is of months, and of kinds of worlds, that nobody looked at meanwhile.
"""

from __future__ import annotations

import pytest

from mgmt.core.candidates.comparison import Tally
from tests.core.candidates_world import USUAL, Month, Shape, by_compat, by_default

HELD_OUT = (101, 102, 103, 104)
MARGIN = 1.05  # what the default policy earns at least, of what janitor_compat earns, over all of these
WORST = 1.0  # in the worst of them
CALIBRATED = 0.05  # of all months of a world together; a month alone has some 2000 runs, and its chance
OF_A_MONTH = 0.06
OTHERS = {
    "often out of reach": Shape(outages=1 / 2, outage_hours=30, slow=0.05),
    "most chances change": Shape(drift=0.7, past=25),
    "runs of any length": Shape(duration_log=(5.6, 1.4)),
    "what failed fails again, and nobody guesses": Shape(repeats=0.02, guesses=0.0),
    "campaigns say little": Shape(spread=1.5, guesses=0.2, past=4),
}


def played(shape: Shape, seeds: tuple[int, ...]) -> tuple[list[float], list[Tally], Tally, Tally]:
    """How much more is earned in each month, its predictions, and both policies' of all months."""
    margins, each, ours, theirs = [], list[Tally](), Tally(), Tally()
    for seed in seeds:
        month = Month(seed, shape)
        (earned, told), (other, told_theirs) = by_default(month), by_compat(month)
        margins.append(earned / other)
        each.append(told)
        for one, all_of_them in ((told, ours), (told_theirs, theirs)):
            all_of_them.chances.extend(one.chances)
            all_of_them.outcomes.extend(one.outcomes)
    return margins, each, ours, theirs


def calibration(tally: Tally) -> float:
    error = tally.figures("").calibration_error
    assert error is not None
    return error


def test_a_month_that_was_not_tuned_on_earns_more_and_its_chances_come_true() -> None:
    margins, each, ours, theirs = played(USUAL, HELD_OUT)
    assert sum(margins) / len(margins) >= MARGIN
    assert min(margins) >= WORST
    for tally in each:
        assert calibration(tally) < OF_A_MONTH
    assert calibration(ours) < CALIBRATED
    assert calibration(ours) < calibration(theirs) / 3
    one, other = ours.figures("default").brier, theirs.figures("janitor_compat").brier
    assert one is not None and other is not None and one < 0.9 * other


@pytest.mark.parametrize("shape", OTHERS.values(), ids=OTHERS)
def test_so_does_a_world_of_another_kind(shape: Shape) -> None:
    margins, _, ours, theirs = played(shape, HELD_OUT[:2])
    assert min(margins) >= WORST
    assert calibration(ours) < CALIBRATED < calibration(theirs)
