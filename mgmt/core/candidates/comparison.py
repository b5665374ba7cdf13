"""The shadow run: two policies on the same history, each told of a run only after it was asked what to expect."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from mgmt.kernel.reference_history import FAILURE, SUCCESS

from . import compat
from .compat_queue import CompatError
from .outcomes import outcome_of
from .records import Run, World
from .scoring import Scorer
from .settings import Settings

BINS = 10
TOP = 20
Key = tuple[str, str, str]


class Policy(Protocol):
    """What a shadow run asks of a policy."""

    name: str

    def predict(self, run: Run, now_us: int) -> tuple[float, float] | None: ...
    def learn(self, run: Run) -> None: ...
    def ranking(self, now_us: int) -> list[tuple[Key, float]]: ...


class Compat:
    """Janitor's own rules."""

    name = "janitor_compat"

    def __init__(self, world: World, now_us: int) -> None:
        self.world = world
        self.history = compat.History((), world.versions)
        self.context = {candidate.key[:2]: candidate.context for candidate in world.candidates}

    def predict(self, run: Run, now_us: int) -> tuple[float, float] | None:
        context = self.context.get((run.codebase, run.campaign))
        try:
            found = compat.estimate(self.history, run.codebase, run.campaign, context, now_us)
        except CompatError:
            return None
        return found.probability, float(found.duration_us)

    def learn(self, run: Run) -> None:
        self.history.add(run)

    def ranking(self, now_us: int) -> list[tuple[Key, float]]:
        scored = compat.Engine(self.world, now_us).bulk(dry_run=True)
        rows = {one.candidate.key: one.offset for one in scored if not one.error}
        return sorted(rows.items(), key=lambda row: (row[1], row[0]))


class Default:
    """The default policy."""

    name = "default"

    def __init__(self, world: World, settings: Settings, now_us: int) -> None:
        self.chance = {one.key[:2]: one.success_chance for one in world.candidates}
        self.scorer = Scorer(_without_runs(world), settings, now_us)

    def predict(self, run: Run, now_us: int) -> tuple[float, float] | None:
        chance = self.chance.get((run.codebase, run.campaign))
        return self.scorer.predict(run.codebase, run.campaign, chance, now_us)

    def learn(self, run: Run) -> None:
        self.scorer.finished(run)

    def ranking(self, now_us: int) -> list[tuple[Key, float]]:
        return [
            (found.key, found.score) for found in self.scorer.pass_over(now_us) if found.score is not None
        ]


def _without_runs(world: World) -> World:
    return World(world.codebases, world.policies, world.candidates, [], world.versions, world.change_sets)


@dataclass(frozen=True, slots=True)
class Figures:
    """Of the predictions of one policy. `calibration`: (mean prediction, share that succeeded, runs) a bin."""

    name: str
    predicted: int
    refused: int
    brier: float | None
    calibration_error: float | None
    duration_error: float | None
    calibration: tuple[tuple[float, float, int], ...]
    value_per_hour: float | None = None
    regret: float | None = None

    def as_row(self) -> dict[str, Any]:
        return {
            "policy": self.name, "predicted": self.predicted, "refused": self.refused, "brier": self.brier,
            "calibration_error": self.calibration_error, "duration_error": self.duration_error,
            "calibration": [list(one) for one in self.calibration],
            "value_per_hour": self.value_per_hour, "regret": self.regret,
        }  # fmt: skip


class Tally:
    """Predictions and what came of them: runs that succeeded or failed, no others."""

    def __init__(self) -> None:
        self.chances, self.outcomes = array("d"), array("d")
        self._durations: list[float] = []
        self.refused = 0

    def note(self, predicted: tuple[float, float] | None, run: Run) -> None:
        outcome = outcome_of(run)
        if outcome not in (SUCCESS, FAILURE):
            return
        if predicted is None:
            self.refused += 1
            return
        self.chances.append(predicted[0])
        self.outcomes.append(float(outcome == SUCCESS))
        if run.duration_us:
            self._durations.append(abs(math.log(max(predicted[1], 1.0) / run.duration_us)))

    def figures(self, name: str) -> Figures:
        n = len(self.chances)
        brier = (
            math.fsum((p - o) ** 2 for p, o in zip(self.chances, self.outcomes, strict=True)) / n
            if n
            else None
        )
        bins: list[list[tuple[float, float]]] = [[] for _ in range(BINS)]
        for p, o in zip(self.chances, self.outcomes, strict=True):
            bins[min(int(p * BINS), BINS - 1)].append((p, o))
        rows = [
            (math.fsum(p for p, _ in one) / len(one), math.fsum(o for _, o in one) / len(one), len(one))
            for one in bins
            if one
        ]
        error = sum(abs(p - o) * count for p, o, count in rows) / n if n else None
        # A factor either way: 0.7 says that the middle one is wrong by a factor of 2.
        wrong = sorted(self._durations)
        return Figures(
            name, n, self.refused, brier, error, wrong[len(wrong) // 2] if wrong else None, tuple(rows)
        )


def compared(
    world: World, settings: Settings, now_us: int, policies: Sequence[Policy] | None = None, top: int = TOP
) -> dict[str, Any]:
    """Figures of both, and where they would begin: `rows` of the candidates that either has among its first."""
    ordered = sorted(
        (run for run in world.runs if run.start_us is not None),
        key=lambda run: (run.start_us, run.finish_us or 0),
    )
    began_us = ordered[0].start_us if ordered else now_us
    assert began_us is not None  # by the filter
    both = policies or (Compat(world, began_us), Default(world, settings, began_us))
    tallies = [Tally() for _ in both]
    pending = sorted(ordered, key=_end_us)
    learned = 0
    for run in ordered:
        assert run.start_us is not None
        # Not even itself, of a run that took no time.
        while learned < len(pending) and _end_us(pending[learned]) < run.start_us:
            for policy in both:
                policy.learn(pending[learned])
            learned += 1
        for policy, tally in zip(both, tallies, strict=True):
            tally.note(policy.predict(run, run.start_us), run)
    for run in pending[learned:]:
        for policy in both:
            policy.learn(run)
    rankings = [policy.ranking(now_us) for policy in both]
    judge = Scorer(world, settings, now_us)
    worth = _worth(judge, now_us)
    order = sorted(worth, key=lambda key: (-worth[key][0] / worth[key][1], key))
    hours = math.fsum(worth[key][1] for key in order[:top])  # as long as the best ones take
    best = _per_hour(order, worth, hours)
    figures = []
    for policy, tally, ranking in zip(both, tallies, rankings, strict=True):
        per_hour = _per_hour([key for key, _ in ranking], worth, hours)
        told = tally.figures(policy.name).as_row()
        told["value_per_hour"] = per_hour
        told["regret"] = None if best is None or per_hour is None else max(0.0, best - per_hour)
        figures.append(told)
    left, right = ([key for key, _ in ranking] for ranking in rankings)
    places = [{key: place for place, key in enumerate(keys, 1)} for keys in (left, right)]
    shown = sorted({*left[:top], *right[:top]}, key=lambda key: (places[1].get(key, math.inf), key))
    return {
        "candidates": len(world.candidates), "runs": len(world.runs), "top": top, "policies": figures,
        "rank_correlation": correlation(places[0], places[1]),
        "overlap": len({*left[:top]} & {*right[:top]}) / min(top, max(len(left), len(right), 1)),
        "rows": [
            {
                "codebase": key[0], "campaign": key[1], "change_set": key[2],
                "left": places[0].get(key), "right": places[1].get(key),
            }
            for key in shown
        ],
        "faults": [fault.as_row() for fault in judge.faults],
    }  # fmt: skip


def _end_us(run: Run) -> int:
    end_us = run.start_us if run.finish_us is None else run.finish_us
    assert end_us is not None
    return end_us


def _worth(judge: Scorer, now_us: int) -> dict[Key, tuple[float, float]]:
    """Expected value and cost in hours of each candidate, by the estimates of the default policy."""
    found = {}
    for one in judge.pass_over(now_us):
        if one.score is not None and one.duration_us is not None:
            hours = (judge.settings.minimum_cost_s + one.duration_us / 1e6) / 3600
            found[one.key] = hours * 3_600_000 / one.score, hours
    return found


def _per_hour(keys: Sequence[Key], worth: Mapping[Key, tuple[float, float]], hours: float) -> float | None:
    """What is earned an hour by running these in turn for so many hours, the last one in part."""
    left, earned = hours, 0.0
    for value, needed in (worth[key] for key in keys if key in worth):
        share = min(1.0, left / needed)
        earned += value * share
        left -= needed * share
        if left <= 0:
            break
    return earned / hours if hours else None


def correlation(left: Mapping[Key, int], right: Mapping[Key, int]) -> float | None:
    """Spearman's, of the candidates that both rank; None of fewer than two."""
    common = [key for key in left if key in right]
    n = len(common)
    if n < 2:
        return None
    ranks: list[dict[Key, int]] = []
    for places in (left, right):
        ranks.append({key: rank for rank, key in enumerate(sorted(common, key=_place(places)))})
    squares = sum((ranks[0][key] - ranks[1][key]) ** 2 for key in common)
    return 1 - 6 * squares / (n * (n * n - 1))


def _place(places: Mapping[Key, int]) -> Callable[[Key], int]:
    return lambda key: places[key]
