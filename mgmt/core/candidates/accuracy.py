"""How good predictions are of late: decayed sums of what was predicted and what came of it, and an alert.

A prediction weighs half as much after `accuracy.half_life`, so an alert ends by itself when predictions are good
again. Nothing is said before enough of them are there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from .settings import Settings

BINS = 10
# What is measured -> (how an alert begins, the key of its limit).
MEASURES = {
    "brier": ("the Brier score of predicted chances is", "accuracy.brier"),
    "calibration": ("predicted and real rates of success are apart by", "accuracy.calibration"),
    "duration": ("|ln(expected / real duration)| is in the mean", "accuracy.duration"),
}


@dataclass(slots=True)
class Sums:
    """By their weight: predictions, (prediction - outcome) squared, and by tenth predictions, chances, successes;
    durations and their errors."""

    runs: float = 0.0
    squares: float = 0.0
    counts: list[float] = field(default_factory=lambda: [0.0] * BINS)
    chances: list[float] = field(default_factory=lambda: [0.0] * BINS)
    successes: list[float] = field(default_factory=lambda: [0.0] * BINS)
    timed: float = 0.0
    errors: float = 0.0


class Accuracy:
    """Of one policy's predictions. Sums are those of `_at_us` and decay from there."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._sums = Sums()
        self._at_us = 0

    def note(
        self,
        at_us: int,
        chance: float | None,
        success: bool,
        expected_us: float | None,
        took_us: float | None,
    ) -> None:
        """A run that succeeded or failed. None: nothing was predicted, or it is not known."""
        self._decay(at_us)
        sums = self._sums
        if chance is not None:
            tenth = min(int(chance * BINS), BINS - 1)
            sums.runs += 1
            sums.squares += (chance - success) ** 2
            sums.counts[tenth] += 1
            sums.chances[tenth] += chance
            sums.successes[tenth] += success
        if expected_us and took_us:
            sums.timed += 1
            sums.errors += abs(math.log(expected_us / took_us))

    def _decay(self, at_us: int) -> None:
        factor = 0.5 ** (max(0, at_us - self._at_us) / (self.settings.accuracy_half_life_s * 1e6))
        self._at_us = max(at_us, self._at_us)
        sums = self._sums
        for column in (sums.counts, sums.chances, sums.successes):
            column[:] = [one * factor for one in column]
        sums.runs, sums.squares = sums.runs * factor, sums.squares * factor
        sums.timed, sums.errors = sums.timed * factor, sums.errors * factor

    def figures(self, now_us: int) -> dict[str, float]:
        """`runs` by their weight, and of each measure its value when there are enough of them."""
        self._decay(now_us)
        sums, least = self._sums, max(self.settings.accuracy_runs, 1e-9)
        found = {"runs": sums.runs}
        if sums.runs >= least:
            apart = (
                abs(chance - success) for chance, success in zip(sums.chances, sums.successes, strict=True)
            )
            found |= {"brier": sums.squares / sums.runs, "calibration": math.fsum(apart) / sums.runs}
        if sums.timed >= least:
            found["duration"] = sums.errors / sums.timed
        return found

    def alerts(self, now_us: int) -> dict[str, str]:
        """Measures that are worse than their limit now, with what is to be said of it."""
        settings, figures = self.settings, self.figures(now_us)
        limits = {
            "brier": settings.most_brier, "calibration": settings.most_calibration_error,
            "duration": settings.most_duration_error,
        }  # fmt: skip
        return {
            name: f"candidates: {words} {figures[name]:.3f}, more than {limits[name]:g} ({key}): something has "
            "changed that the history of runs does not show; `mgmt candidates analytics` shows what"
            for name, (words, key) in MEASURES.items()
            if name in figures and figures[name] > limits[name]
        }
