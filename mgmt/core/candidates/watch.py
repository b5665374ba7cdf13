"""How the policy does: what it predicted and what came, where it failed, how it differs from the one beside it.

Figures for monitoring, and an alert while predictions are worse than they may be.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from mgmt.core import effect as fx
from mgmt.core.event import Now
from mgmt.core.suites.metrics import Metrics
from mgmt.kernel.reference_history import FAILURE, SUCCESS

from .accuracy import MEASURES, Accuracy
from .line import Queued
from .outcomes import outcome_of
from .policies import Judge
from .records import Run
from .settings import Settings

PREFIX = "candidates_"
OUTCOMES = ("success", "failure", "nothing", "transient")
LIKENESS = ("rank_correlation", "overlap")


class Watch:
    """`settings` says what is set now."""

    def __init__(self, metrics: Metrics, settings: Callable[[], Settings]) -> None:
        self._metrics, self._settings = metrics, settings
        self._accuracy = Accuracy(settings())
        self._alerts: dict[str, str] = {}  # that were told
        self._compared: dict[str, float] = {}

    @property
    def accuracy(self) -> Accuracy:
        """By the limits of now."""
        self._accuracy.settings = self._settings()
        return self._accuracy

    def ended(self, now: Now, known: Queued, run: Run, out: list[fx.Effect]) -> None:
        """How good the expectations were with which it went into the queue."""
        metrics, outcome, took_us = self._metrics, outcome_of(run), run.duration_us
        metrics.add(f"{PREFIX}runs_total", of=OUTCOMES[outcome])
        if known.duration_us and took_us:
            metrics.add(f"{PREFIX}timed_total")
            metrics.add(f"{PREFIX}duration_error_sum", abs(math.log(known.duration_us / took_us)))
        if outcome in (SUCCESS, FAILURE):
            success = outcome == SUCCESS
            if known.probability is not None:
                metrics.add(f"{PREFIX}predicted_total")
                metrics.add(f"{PREFIX}brier_sum", (known.probability - success) ** 2)
            if known.beside is not None:
                metrics.add(f"{PREFIX}beside_predicted_total")
                metrics.add(f"{PREFIX}beside_brier_sum", (known.beside[0] - success) ** 2)
            self.accuracy.note(_us(now), known.probability, success, known.duration_us, took_us)
        self.look(now, out)

    def passed(self, judge: Judge) -> None:
        """A pass is over."""
        count, judge.fallbacks = judge.fallbacks, 0
        if count:
            self._metrics.add(f"{PREFIX}fallback_total", count)
        self._compared = judge.compared

    def look(self, now: Now, out: list[fx.Effect]) -> None:
        """Say what has become an alert, and what is none any more."""
        found = self.accuracy.alerts(_us(now))
        for name, text in found.items():
            if name not in self._alerts:
                out.append(fx.Note("WARNING", text, {"measure": name}))
        for name in self._alerts:
            if name not in found:
                text = f"candidates: the alert of {MEASURES[name][1]} is over"
                out.append(fx.Note("INFO", text, {"measure": name}))
        self._alerts = found

    def alerts(self, now: Now) -> list[str]:
        return list(self.accuracy.alerts(_us(now)).values())

    def gauges(self, now: Now) -> dict[tuple[str, str], float]:
        """Of monitoring, taken now."""
        figures, alerts = self.accuracy.figures(_us(now)), self.accuracy.alerts(_us(now))
        found = {(f"{PREFIX}accuracy", name): figures.get(name, 0.0) for name in MEASURES}
        found |= {(f"{PREFIX}alert", name): float(name in alerts) for name in MEASURES}
        return found | {(f"{PREFIX}shadow_{name}", ""): self._compared.get(name, 0.0) for name in LIKENESS}


def _us(now: Now) -> int:
    return round(now.real_s * 1e6)
