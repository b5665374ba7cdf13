"""What a fault of the default policy ends: the pass, or nothing, as Janitor's rules decide then, or always."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Literal, TypeVar

from .comparison import TOP, correlation
from .history import Columns
from .policies import ByCompat, ByDefault, Decision, Judge, Policy
from .records import Codebase, RowError, Run, World
from .scoring import CandidateScore, Scorer
from .settings import Settings
from .sums import Key
from .tallies import Tallies

Mode = Literal["native", "fallback", "shadow"]
# In whatever a fault of the default policy shows itself, the other one decides.
FAILURES = (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError)
T = TypeVar("T")


class Both:
    """The default policy and Janitor's rules on the same rows. A fault of the first stops neither."""

    def __init__(
        self,
        world: World,
        settings: Settings,
        now_us: int,
        left_out: Iterable[RowError] = (),
        columns: Columns | None = None,
        tallies: Tallies | None = None,
    ) -> None:
        self.settings, self.fallbacks, self.compared = settings, 0, dict[str, float]()
        self.compat = ByCompat(world, now_us, settings, left_out, columns, tallies)
        self.codebases: Mapping[str, Codebase] = world.codebases
        self.default: ByDefault | None = None
        self.faults = [*self.compat.faults]
        self.warnings: set[str] = set()
        try:
            self.default = ByDefault(Scorer(world, settings, now_us, columns, tallies))
        except FAILURES as error:
            self._failed(error)
        else:
            self.faults, self.warnings = [*self.faults, *self.default.faults], self.default.warnings
        self._ours_faults = self.faults

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

    def _ours(self, ask: Callable[[ByDefault], T]) -> T | None:
        """What the default policy says; None: it failed."""
        if self.default is None:
            self.fallbacks += 1
            return None
        try:
            return ask(self.default)
        except FAILURES as error:
            self._failed(error)
            return None

    def last(self, key: Key) -> tuple[int, float]:
        return self.compat.last(key)

    def dependants(self, codebase: str, campaign: str) -> list[Key]:
        return [] if self.default is None else self.default.dependants(codebase, campaign)

    def cycles(self) -> list[list[str]]:
        return [] if self.default is None else self.default.cycles()


class Fallback(Both):
    """The default policy decides; a candidate, or a pass, on which it fails is decided by Janitor's rules."""

    def decisions(self, now_us: int) -> list[Decision]:
        ours = self._ours(lambda default: default.decisions(now_us))
        if ours is None:
            theirs = self.compat.decisions(now_us)
            self.faults = self.compat.faults
            return theirs
        self.faults = self._ours_faults
        known = {one.candidate.key for one in ours}
        if all(candidate.key in known for candidate in self.compat.engine.world.candidates):
            return ours
        instead = [one for one in self.compat.decisions(now_us) if one.candidate.key not in known]
        self.fallbacks += len(instead)
        for one in instead:
            name = f"{one.candidate.codebase} in {one.candidate.campaign}"
            self.warnings.add(f"{name}: the default policy failed, and janitor_compat decided")
        rows = sorted(
            [*ours, *instead], key=lambda one: (bool(one.held), one.score or 0.0, one.candidate.key)
        )
        return in_turns(rows, self.settings)

    def one(self, key: Key, now_us: int) -> Decision | None:
        found = self._ours(lambda default: default.one(key, now_us))
        return self.compat.one(key, now_us) if found is None else found

    def explain(self, key: Key, now_us: int) -> CandidateScore | None:
        found = self._ours(lambda default: default.explain(key, now_us))
        return self.compat.explain(key, now_us) if found is None else found


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


class Shadow(Both):
    """Janitor's rules decide; what the default policy would have done is compared with that."""

    def decisions(self, now_us: int) -> list[Decision]:
        theirs = self.compat.decisions(now_us)
        self.faults = self.compat.faults
        ours = self._ours(lambda default: default.decisions(now_us))
        if ours is None:
            return theirs
        self.compared = likeness(theirs, [one for one in ours if not one.held])
        known = {one.candidate.key: one for one in ours}
        return [_beside(one, known.get(one.candidate.key)) for one in theirs]

    def one(self, key: Key, now_us: int) -> Decision | None:
        found = self.compat.one(key, now_us)
        return None if found is None else _beside(found, self._ours(lambda default: default.one(key, now_us)))

    def explain(self, key: Key, now_us: int) -> CandidateScore | None:
        return self.compat.explain(key, now_us)


def _beside(one: Decision, other: Decision | None) -> Decision:
    if other is None or other.probability is None or other.duration_us is None:
        return one
    return replace(one, beside=(other.probability, other.duration_us))


def likeness(left: Sequence[Decision], right: Sequence[Decision]) -> dict[str, float]:
    """Of two orders: rank correlation where there is one, and the share of the first that both have."""
    keys = [[one.candidate.key for one in side] for side in (left, right)]
    places = [{key: place for place, key in enumerate(side)} for side in keys]
    rank, most = correlation(places[0], places[1]), min(TOP, max(map(len, keys)))
    found = {} if rank is None else {"rank_correlation": rank}
    return found | ({"overlap": len({*keys[0][:TOP]} & {*keys[1][:TOP]}) / most} if most else {})


def is_default_alone(policy: Policy, settings: Settings, mode: Mode) -> bool:
    """Whether nothing of Janitor's rules is needed."""
    return policy == "default" and mode == "native" and settings.parts.are_columns_enough


def are_columns_enough(policy: Policy, settings: Settings, mode: Mode) -> bool:
    """Whether nobody looks at runs one by one: Janitor's rules do, where a window moves over them."""
    return settings.history_window_s is None or is_default_alone(policy, settings, mode)


def judge_of(
    policy: Policy,
    world: World,
    settings: Settings,
    now_us: int,
    faults: Iterable[RowError],
    mode: Mode = "native",
    columns: Columns | None = None,
    tallies: Tallies | None = None,
) -> Judge:
    """A policy over these rows; `faults`: of rows that were left out before. `mode` is of the default policy.
    `columns`, and `tallies` unless `is_default_alone`: the runs, instead of those of `world`."""
    judge: Judge
    if policy == "janitor_compat":
        judge = ByCompat(world, now_us, settings, faults, columns, tallies)
    elif mode == "native":
        judge = ByDefault(Scorer(world, settings, now_us, columns, tallies))
        judge.faults[:0] = faults
    else:
        judge = (Fallback if mode == "fallback" else Shadow)(
            world, settings, now_us, faults, columns, tallies
        )
    if policy == "default":
        world.runs = []  # the histories have them
    return judge
