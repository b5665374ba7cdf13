"""A figure: samples of ours beside samples of the floor, a goal, and how they are told."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Sense = Literal["ratio<=", "ratio>=", "value<=", "value<", "told"]


@dataclass(frozen=True)
class Figure:
    """One row. `ours` and `floor` hold one sample a round, both in `unit`; the ratio is that of the medians.

    `sense` says what `goal` bounds: the ratio, our own median, or nothing (`told`: only reported).
    """

    name: str
    unit: str
    ours: Sequence[float]
    floor: Sequence[float] = ()
    floor_name: str = ""
    sense: Sense = "told"
    goal: float = 0.0
    note: str = ""

    @property
    def ratio(self) -> float | None:
        if not self.floor:
            return None
        floor = statistics.median(self.floor)
        return statistics.median(self.ours) / floor if floor else None

    @property
    def met(self) -> bool | None:
        """None when the figure has no goal."""
        ours, ratio = statistics.median(self.ours), self.ratio
        match self.sense:
            case "ratio<=":
                return ratio is not None and ratio <= self.goal
            case "ratio>=":
                return ratio is not None and ratio >= self.goal
            case "value<=":
                return ours <= self.goal
            case "value<":
                return ours < self.goal
        return None

    def row(self) -> tuple[str, str, str, str, str, str, str]:
        """(name, unit, ours, floor, ratio, goal, verdict) as text."""
        ratio = self.ratio
        signs = {"ratio<=": "≤ {:g} ×", "ratio>=": "≥ {:g} ×", "value<=": "≤ {:g}", "value<": "< {:g}"}
        goal = signs[self.sense].format(self.goal) if self.sense in signs else ""
        floor = f"{spread(self.floor)} {self.floor_name}" if self.floor else self.floor_name
        verdict = {True: "met", False: "short", None: ""}[self.met]
        return (
            self.name,
            self.unit,
            spread(self.ours),
            floor,
            "" if ratio is None else f"{ratio:.2f}",
            goal,
            verdict,
        )

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "unit": self.unit,
            "ours": list(self.ours),
            "floor": list(self.floor),
            "floor_name": self.floor_name,
            "ratio": self.ratio,
            "sense": self.sense,
            "goal": self.goal if self.sense != "told" else None,
            "met": self.met,
            "note": self.note,
        }


HEAD = ("figure", "unit", "ours", "floor", "ratio", "goal", "")


def number(value: float) -> str:
    """Three significant digits, thousands in full."""
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    digits = max(0, 3 - len(str(int(abs(value))).lstrip("0"))) if abs(value) >= 1 else 3
    return f"{value:.{digits}f}" if abs(value) >= 0.001 else f"{value:.1e}"


def spread(samples: Sequence[float]) -> str:
    """Median, and the smallest and largest sample when there are several."""
    text = number(statistics.median(samples))
    if len(samples) > 1:
        text += f" [{number(min(samples))}–{number(max(samples))}]"
    return text


def percentile(samples: Iterable[float], share: float) -> float:
    """The nearest-rank percentile."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def median_us(durations_s: Sequence[float]) -> float:
    return statistics.median(durations_s) * 1e6


def interleave(rounds: int, *measures: Callable[[], float]) -> list[list[float]]:
    """One sample of each measure a round; every second round runs them in reverse, so that none leads always."""
    samples: list[list[float]] = [[] for _ in measures]
    for turn in range(rounds):
        order = list(zip(measures, samples, strict=True))
        for measure, into in reversed(order) if turn % 2 else order:
            into.append(measure())
    return samples
