"""What a policy makes of all candidates: an order, with what is expected of each, and what has to wait and why."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from mgmt.kernel.reference_history import TRANSIENT

from . import compat
from .history import ENDED, STREAK, Columns, latest_of
from .outcomes import outcome_of
from .records import Candidate, Codebase, RowError, Run, World
from .scoring import CandidateScore, PriorityFactor, Scorer
from .settings import Settings
from .sums import Key
from .tallies import Tallies

Policy = Literal["default", "janitor_compat"]


@dataclass(frozen=True, slots=True)
class Decision:
    """`turn`: the sum of the scores up to its own in its campaign, by the campaign's weight; lower is earlier.

    `held`: why it cannot run now, else empty; `due_us`: until when, 0 where that is not known. `late_us`: nine of
    ten runs take less.
    `beside`: probability and duration in us by the policy that only looks on.
    """

    candidate: Candidate
    score: float | None
    probability: float | None
    duration_us: float | None
    turn: float = 0.0
    held: str = ""
    due_us: int = 0
    late_us: float | None = None
    beside: tuple[float, float] | None = None


class Judge(Protocol):
    """A policy with the history that it has seen. Not to be used while it decides in another thread."""

    faults: list[RowError]
    warnings: set[str]
    fallbacks: int  # candidates, and passes, that janitor_compat decided, because the default policy failed
    compared: dict[str, float]  # with the policy that looks on, in the latest pass
    codebases: Mapping[str, Codebase]

    def decisions(self, now_us: int) -> list[Decision]:
        """All candidates, the best first; those that are held last."""

    def finished(self, run: Run) -> None:
        """One more run; in constant time."""

    def one(self, key: Key, now_us: int) -> Decision | None:
        """One of them, scored again; without a turn. O(1)."""

    def last(self, key: Key) -> tuple[int, float]:
        """How many transient failures in a row its latest runs are, and when the latest ended, -inf for never."""

    def dependants(self, codebase: str, campaign: str) -> list[Key]:
        """Candidates that wait for a success of this one."""

    def explain(self, key: Key, now_us: int) -> CandidateScore | None:
        """Its score with every factor."""

    def cycles(self) -> list[list[str]]:
        """Candidates that require one another."""


class ByDefault:
    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer
        self.codebases: Mapping[str, Codebase] = scorer.world.codebases
        self.faults, self.warnings = scorer.faults, scorer.warnings
        self.fallbacks, self.compared = 0, dict[str, float]()
        self._dependants: dict[tuple[str, str], list[Key]] = {}
        for candidate in scorer.candidates:
            for campaign in candidate.requires:
                self._dependants.setdefault((candidate.codebase, campaign), []).append(candidate.key)

    def finished(self, run: Run) -> None:
        self.scorer.finished(run)

    def decisions(self, now_us: int) -> list[Decision]:
        clocks: dict[str, float] = {}
        ready: list[Decision] = []
        held: list[Decision] = []
        scorer, weight, fair = self.scorer, self.scorer.settings.weight, self.scorer.settings.parts.fairness
        scorer.forget(now_us)
        late_us = memoryview(scorer.estimates(now_us, 1))[len(scorer.candidates) :]
        for i, score, p, us, not_before_us, waits_for in scorer.expected(now_us):
            candidate, turn, why, due_us = scorer.candidates[i], 0.0, "", 0
            if waits_for or not_before_us or score is None:
                reason = "nothing is expected of it" if score is None else ""
                told = CandidateScore(*candidate.key, score, p, us, not_before_us, waits_for, reason)
                why, due_us = _held(told, now_us)
            elif fair:
                turn = clocks.get(candidate.campaign, 0.0) + score / weight(candidate.campaign)
                clocks[candidate.campaign] = turn
            else:
                turn = score
            (held if why else ready).append(Decision(candidate, score, p, us, turn, why, due_us, late_us[i]))
        return [*sorted(ready, key=lambda one: (one.turn, one.candidate.key)), *held]

    def one(self, key: Key, now_us: int) -> Decision | None:
        number = self.scorer.number_of(*key)
        if number is None:
            return None
        found, late_us = self.scorer.score(number, now_us), self.scorer.late_us(number, now_us)
        why, due_us = _held(found, now_us)
        return Decision(
            self.scorer.candidates[number], found.score, found.probability, found.duration_us, 0.0, why, due_us,
            late_us,
        )  # fmt: skip

    def last(self, key: Key) -> tuple[int, float]:
        level = self.scorer.history.series
        row = level.rows.get(key[:2])
        return (0, -math.inf) if row is None else (int(level.at(STREAK, row)), level.at(ENDED, row))

    def dependants(self, codebase: str, campaign: str) -> list[Key]:
        return self._dependants.get((codebase, campaign), [])

    def explain(self, key: Key, now_us: int) -> CandidateScore | None:
        number = self.scorer.number_of(*key)
        return None if number is None else self.scorer.explain(number, now_us)

    def cycles(self) -> list[list[str]]:
        return [[" ".join(filter(None, key)) for key in cycle] for cycle in self.scorer.order().cycles]


class ByCompat:
    """Orders by Janitor's offsets; what has to wait, and for what, it does not know."""

    def __init__(
        self,
        world: World,
        now_us: int,
        settings: Settings,
        left_out: Iterable[RowError] = (),
        columns: Columns | None = None,
        tallies: Tallies | None = None,
    ) -> None:
        """`columns` and `tallies`: the runs, instead of those of `world`."""
        constants = compat.constants_of(settings)
        own = compat.History(world.runs, world.versions, constants) if tallies is None else tallies
        self._history: compat.Past = own
        self.engine = compat.Engine(world, now_us, constants, self._history)
        self.codebases: Mapping[str, Codebase] = world.codebases
        self._left_out = tuple(left_out)
        self.faults = [*self._left_out]
        self.warnings: set[str] = set()
        self.fallbacks, self.compared = 0, dict[str, float]()
        self._candidates = {candidate.key: candidate for candidate in self.engine.selected()}
        self._last = {} if columns is None else latest_of(columns)
        for run in sorted(world.runs, key=_ended_us):
            self._note(run)

    def finished(self, run: Run) -> None:
        self._history.add(run)
        self._note(run)

    def _note(self, run: Run) -> None:
        streak, ended_us = self._last.get((run.codebase, run.campaign), (0, -math.inf))
        streak = streak + 1 if outcome_of(run) == TRANSIENT else 0
        self._last[run.codebase, run.campaign] = streak, max(ended_us, _ended_us(run))

    def last(self, key: Key) -> tuple[int, float]:
        return self._last.get((key[0], key[1]), (0, -math.inf))

    def dependants(self, codebase: str, campaign: str) -> list[Key]:
        return []  # it knows of none

    def one(self, key: Key, now_us: int) -> Decision | None:
        if key not in self._candidates:
            return None
        self.engine.now_us = now_us
        return self._decision(self.engine.scored(self._candidates[key]))

    def _decision(self, one: compat.Scored) -> Decision:
        if one.estimate is None:
            return Decision(one.candidate, None, None, None, 0.0, one.error)
        p, us = one.estimate.probability, float(one.estimate.duration_us)
        return Decision(one.candidate, one.offset, p, us, max(0.0, one.offset))

    def explain(self, key: Key, now_us: int) -> CandidateScore | None:
        if key not in self._candidates:
            return None
        self.engine.now_us = now_us
        one = self.engine.scored(self._candidates[key])
        if one.estimate is None:
            return CandidateScore(*key, None, None, None, reason=one.error)
        found, value = one.estimate, one.value or 1.0
        factors = (
            PriorityFactor("value", "expected", value, "publishing included; 1 for none"),
            PriorityFactor("codebase value", "expected", max(0.1, one.normalized), "at least 0.1"),
            PriorityFactor("success", "expected", found.probability, f"{found.total} runs that count"),
            PriorityFactor("duration", "cost", found.duration_us / 1000, "mean, ms"),
        )
        return CandidateScore(
            *key, one.offset, found.probability, float(found.duration_us), factors=factors
        )  # fmt: skip

    def decisions(self, now_us: int) -> list[Decision]:
        self.engine.now_us = now_us
        self.faults = [*self._left_out]
        found = []
        for one in self.engine.bulk(dry_run=True):
            if one.estimate is None:
                key = f"{one.candidate.codebase} {one.candidate.campaign}"
                self.faults.append(RowError("candidates", key, "", one.error))
                continue
            found.append(self._decision(one))
        return sorted(found, key=lambda one: (one.turn, one.candidate.key))

    def cycles(self) -> list[list[str]]:
        return []


def _held(one: CandidateScore, now_us: int) -> tuple[str, int]:
    """Why it cannot run now, empty when it can, and until when; 0 where that is not known."""
    if one.waits_for:
        return f"waits for {', '.join(one.waits_for)}", 0
    if one.not_before_us:
        pause_s = (one.not_before_us - now_us) / 1e6
        return f"pauses for {pause_s:.0f} s after transient failures", one.not_before_us
    return one.reason, 0


def _ended_us(run: Run) -> float:
    return float(run.finish_us or run.start_us or 0)
