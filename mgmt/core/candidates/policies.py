"""What a policy makes of all candidates: an order, with what is expected of each, and what has to wait and why."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from . import compat
from .comparison import TOP, correlation
from .compat_queue import BUCKETS, RANK
from .records import Candidate, RowError, Run, World
from .scoring import Scorer
from .settings import Settings

Policy = Literal["default", "janitor_compat"]
Mode = Literal["native", "fallback", "shadow"]
# In whatever a fault of the default policy shows itself, the other one decides.
FAILURES = (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError)
LEVELS = 1 << 28  # priorities of tasks within a bucket
AGED = (1 << 31) - 1  # of a task that has waited too long: before all others
_SPAN = math.log1p(1e15)


@dataclass(frozen=True, slots=True)
class Decision:
    """`turn`: the sum of the scores up to its own in its campaign, by the campaign's weight; lower is earlier.

    `held`: why it cannot run now, else empty. `beside`: probability and duration in us by the policy that only
    looks on.
    """

    candidate: Candidate
    score: float | None
    probability: float | None
    duration_us: float | None
    turn: float = 0.0
    held: str = ""
    beside: tuple[float, float] | None = None


class Judge(Protocol):
    """A policy with the history that it has seen. Not to be used while it decides in another thread."""

    faults: list[RowError]
    warnings: set[str]
    fallbacks: int  # candidates, and passes, that janitor_compat decided, because the default policy failed
    compared: dict[str, float]  # with the policy that looks on, in the latest pass

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
        self.fallbacks, self.compared = 0, dict[str, float]()

    def finished(self, run: Run) -> None:
        self.scorer.finished(run)

    def decisions(self, now_us: int) -> list[Decision]:
        return in_turns(self.expected(now_us), self.scorer.settings)

    def expected(self, now_us: int) -> list[Decision]:
        """By their scores, before anything is shared among campaigns."""
        found, scorer = [], self.scorer
        for one in scorer.pass_over(now_us):
            number = scorer.number_of(*one.key)
            assert number is not None  # it was scored
            why = one.reason
            if one.waits_for:
                why = f"waits for {', '.join(one.waits_for)}"
            elif one.not_before_us:
                why = f"pauses for {(one.not_before_us - now_us) / 1e6:.0f} s after transient failures"
            found.append(
                Decision(scorer.candidates[number], one.score, one.probability, one.duration_us, 0.0, why)
            )
        return found

    def cycles(self) -> list[list[str]]:
        return [[" ".join(filter(None, key)) for key in cycle] for cycle in self.scorer.order().cycles]


def in_turns(rows: Iterable[Decision], settings: Settings) -> list[Decision]:
    """`rows` by their scores; those that are held come last."""
    clocks: dict[str, float] = {}
    ready: list[Decision] = []
    held: list[Decision] = []
    for one in rows:
        if one.held:
            held.append(one)
            continue
        assert one.score is not None  # it would be held
        campaign, turn = one.candidate.campaign, one.score
        if settings.parts.fairness:
            turn = clocks.get(campaign, 0.0) + one.score / settings.weight(campaign)
            clocks[campaign] = turn
        ready.append(replace(one, turn=turn))
    return [*sorted(ready, key=lambda one: (one.turn, one.candidate.key)), *held]


class ByCompat:
    """Orders by Janitor's offsets; what has to wait, and for what, it does not know."""

    def __init__(
        self, world: World, now_us: int, settings: Settings, left_out: Iterable[RowError] = ()
    ) -> None:
        self.engine = compat.Engine(world, now_us, compat.constants_of(settings))
        self._left_out = tuple(left_out)
        self.faults = [*self._left_out]
        self.warnings: set[str] = set()
        self.fallbacks, self.compared = 0, dict[str, float]()

    def finished(self, run: Run) -> None:
        self.engine.history.add(run)

    def decisions(self, now_us: int) -> list[Decision]:
        self.engine.now_us = now_us
        self.faults = [*self._left_out]
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


class Both:
    """The default policy and Janitor's rules on the same rows. A fault of the first stops neither."""

    def __init__(
        self, world: World, settings: Settings, now_us: int, left_out: Iterable[RowError] = ()
    ) -> None:
        self.settings, self.fallbacks, self.compared = settings, 0, dict[str, float]()
        self.compat = ByCompat(world, now_us, settings, left_out)
        self.default: ByDefault | None = None
        self.faults = [*self.compat.faults]
        self.warnings: set[str] = set()
        try:
            self.default = ByDefault(Scorer(world, settings, now_us))
        except FAILURES as error:
            self._failed(error)
        else:
            self.faults, self.warnings = [*self.faults, *self.default.faults], self.default.warnings

    def _failed(self, error: Exception) -> None:
        self.fallbacks += 1
        self.warnings.add(
            f"the default policy failed, and janitor_compat decided: {type(error).__name__}: {error}"
        )

    def finished(self, run: Run) -> None:
        self.compat.finished(run)
        if self.default is not None:
            try:
                self.default.finished(run)
            except FAILURES as error:
                self._failed(error)
                self.default = None  # it does not know this run; it is built anew with the next rows

    def _expected(self, now_us: int) -> list[Decision] | None:
        """Of the default policy; None: it failed."""
        if self.default is None:
            self.fallbacks += 1
            return None
        try:
            return self.default.expected(now_us)
        except FAILURES as error:
            self._failed(error)
            return None

    def cycles(self) -> list[list[str]]:
        return [] if self.default is None else self.default.cycles()


class Fallback(Both):
    """The default policy decides; a candidate, or a pass, on which it fails is decided by Janitor's rules."""

    def decisions(self, now_us: int) -> list[Decision]:
        ours = self._expected(now_us)
        if ours is None:
            return self.compat.decisions(now_us)
        known = {one.candidate.key for one in ours}
        if all(candidate.key in known for candidate in self.compat.engine.world.candidates):
            return in_turns(ours, self.settings)
        instead = [one for one in self.compat.decisions(now_us) if one.candidate.key not in known]
        self.fallbacks += len(instead)
        for one in instead:
            name = f"{one.candidate.codebase} in {one.candidate.campaign}"
            self.warnings.add(f"{name}: the default policy failed, and janitor_compat decided")
        rows = sorted(
            [*ours, *instead], key=lambda one: (bool(one.held), one.score or 0.0, one.candidate.key)
        )
        return in_turns(rows, self.settings)


class Shadow(Both):
    """Janitor's rules decide; what the default policy would have done is compared with that."""

    def decisions(self, now_us: int) -> list[Decision]:
        theirs, ours = self.compat.decisions(now_us), self._expected(now_us)
        if ours is None:
            return theirs
        turns = [one for one in in_turns(ours, self.settings) if not one.held]
        self.compared = likeness(theirs, turns)
        beside = {
            one.candidate.key: (one.probability, one.duration_us)
            for one in ours
            if one.probability is not None and one.duration_us is not None
        }
        return [replace(one, beside=beside.get(one.candidate.key)) for one in theirs]


def likeness(left: Sequence[Decision], right: Sequence[Decision]) -> dict[str, float]:
    """Of two orders: rank correlation where there is one, and the share of the first that both have."""
    keys = [[one.candidate.key for one in side] for side in (left, right)]
    places = [{key: place for place, key in enumerate(side)} for side in keys]
    rank, most = correlation(places[0], places[1]), min(TOP, max(map(len, keys)))
    found = {} if rank is None else {"rank_correlation": rank}
    return found | ({"overlap": len({*keys[0][:TOP]} & {*keys[1][:TOP]}) / most} if most else {})


def judge_of(
    policy: Policy,
    world: World,
    settings: Settings,
    now_us: int,
    faults: Iterable[RowError],
    mode: Mode = "native",
) -> Judge:
    """A policy over these rows; `faults`: of rows that were left out before. `mode` is of the default policy."""
    judge: Judge
    if policy == "janitor_compat":
        judge = ByCompat(world, now_us, settings, faults)
    elif mode == "native":
        judge = ByDefault(Scorer(world, settings, now_us))
        judge.faults[:0] = faults
    else:
        judge = (Fallback if mode == "fallback" else Shadow)(world, settings, now_us, faults)
    if policy == "default":
        world.runs = []  # the histories have them
    return judge


def priority_of(bucket: str, turn: float) -> int:
    """The priority of a task, higher ones first: by bucket, then by turn, which 28 bits tell from another whose
    logarithm differs by 1e-7."""
    late = min(LEVELS - 1, int(math.log1p(turn) / _SPAN * LEVELS))
    return (len(BUCKETS) - 1 - RANK[bucket]) * LEVELS - late
