"""What a policy makes of all candidates: an order, with what is expected of each, and what has to wait and why."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, Protocol

from . import compat
from .compat_queue import BUCKETS, RANK
from .history import Columns
from .records import Candidate, RowError, Run, World
from .scoring import Scorer
from .settings import Settings

Policy = Literal["default", "janitor_compat"]
LEVELS = 1 << 28  # priorities of tasks within a bucket
AGED = (1 << 31) - 1  # of a task that has waited too long: before all others
_SPAN = math.log1p(1e15)


@dataclass(frozen=True, slots=True)
class Decision:
    """`turn`: the sum of the scores up to its own in its campaign, by the campaign's weight; lower is earlier.

    `held`: why it cannot run now, else empty. `requires` is the candidate's.
    """

    candidate: Candidate
    score: float | None
    probability: float | None
    duration_us: float | None
    turn: float = 0.0
    held: str = ""


class Judge(Protocol):
    """A policy with the history that it has seen. Not to be used while it decides in another thread."""

    faults: list[RowError]
    warnings: set[str]

    def decisions(self, now_us: int) -> list[Decision]:
        """All candidates, the best first; those that are held last."""

    def finished(self, run: Run) -> None:
        """One more run; in constant time."""

    def cycles(self) -> list[list[str]]:
        """Candidates that require one another."""


class ByDefault:
    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer
        self.faults, self.warnings = scorer.faults, scorer.warnings

    def finished(self, run: Run) -> None:
        self.scorer.finished(run)

    def decisions(self, now_us: int) -> list[Decision]:
        clocks: dict[str, float] = {}
        ready: list[Decision] = []
        held: list[Decision] = []
        candidates, weight = self.scorer.candidates, self.scorer.settings.weight
        for i, score, p, us, not_before_us, waits_for in self.scorer.expected(now_us):
            candidate, turn, why = candidates[i], 0.0, ""
            if waits_for:
                why = f"waits for {', '.join(waits_for)}"
            elif not_before_us:
                why = f"pauses for {(not_before_us - now_us) / 1e6:.0f} s after transient failures"
            elif score is None:
                why = "nothing is expected of it"
            else:
                turn = clocks.get(candidate.campaign, 0.0) + score / weight(candidate.campaign)
                clocks[candidate.campaign] = turn
            (held if why else ready).append(Decision(candidate, score, p, us, turn, why))
        return [*sorted(ready, key=lambda one: (one.turn, one.candidate.key)), *held]

    def cycles(self) -> list[list[str]]:
        return [[" ".join(filter(None, key)) for key in cycle] for cycle in self.scorer.order().cycles]


class ByCompat:
    """Orders by Janitor's offsets; what has to wait, and for what, it does not know."""

    def __init__(self, world: World, now_us: int) -> None:
        self._history = compat.History(world.runs, world.versions)
        self.engine = compat.Engine(world, now_us, history=self._history)
        self.faults: list[RowError] = []
        self.warnings: set[str] = set()

    def finished(self, run: Run) -> None:
        self._history.add(run)

    def decisions(self, now_us: int) -> list[Decision]:
        self.engine.now_us = now_us
        self.faults = []
        found = []
        for one in self.engine.bulk(dry_run=True):
            if one.estimate is None:
                key = f"{one.candidate.codebase} {one.candidate.campaign}"
                self.faults.append(RowError("candidates", key, "", one.error))
                continue
            p, us = one.estimate.probability, float(one.estimate.duration_us)
            found.append(Decision(one.candidate, one.offset, p, us, max(0.0, one.offset)))
        return sorted(found, key=lambda one: (one.turn, one.candidate.key))

    def cycles(self) -> list[list[str]]:
        return []


def judge_of(
    policy: Policy,
    world: World,
    settings: Settings,
    now_us: int,
    faults: Iterable[RowError],
    columns: Columns | None = None,
) -> Judge:
    """A policy over these rows; `faults`: of rows that were left out before. The default one takes `columns` for
    the runs, where there are some."""
    judge: Judge
    if policy == "janitor_compat":
        judge = ByCompat(world, now_us)
    else:
        judge = ByDefault(Scorer(world, settings, now_us, columns))
    judge.faults[:0] = faults
    if policy == "default":
        world.runs = []  # the history has them in its columns
    return judge


def priority_of(bucket: str, turn: float) -> int:
    """The priority of a task, higher ones first: by bucket, then by turn, which 28 bits tell from another whose
    logarithm differs by 1e-7."""
    late = min(LEVELS - 1, int(math.log1p(turn) / _SPAN * LEVELS))
    return (len(BUCKETS) - 1 - RANK[bucket]) * LEVELS - late
