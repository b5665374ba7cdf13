"""Mode janitor_compat: values, chances, durations and offsets exactly as Janitor computes them, oddities included.

Where Janitor ends with an exception, which takes a whole pass with it, a CompatError is raised for that item.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from fractions import Fraction
from typing import Any, Protocol

from .compat_queue import CompatError, Queue, QueueItem
from .records import DAY_US, Candidate, Run, World
from .relations import RelationError, satisfied
from .settings import Settings

FIRST_RUN_BONUS = 100.0
DEFAULT_DURATION_US = 15_000_000
DEFAULT_SCHEDULE_OFFSET = -1.0
MINIMUM_COST_MS = 20000.0
MINIMUM_NORMALIZED_CODEBASE_VALUE = 0.1
DEFAULT_NORMALIZED_CODEBASE_VALUE = 0.5
# `push-derived`, which their database knows too, is missing in their table.
PUBLISH_MODE_VALUE = {
    "skip": 0, "build-only": 0, "push": 500, "propose": 400, "attempt-push": 450, "bts": 100,
}  # fmt: skip
WORKER_FAILURE = "worker-failure"
WORKER_FAILURES_DAYS = 1  # after which they are not counted
Versions = Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True)
class Constants:
    """What Janitor has in its code, and its migration plan as keys."""

    first_run_bonus: float = FIRST_RUN_BONUS
    default_duration_us: int = DEFAULT_DURATION_US
    default_schedule_offset: float = DEFAULT_SCHEDULE_OFFSET
    publish_mode_value: Mapping[str, float] = field(default_factory=lambda: PUBLISH_MODE_VALUE)
    ignore_worker_failures_us: int = WORKER_FAILURES_DAYS * DAY_US
    window_us: int | None = None  # of the runs that are looked at; None: all


JANITOR = Constants()


def constants_of(settings: Settings) -> Constants:
    """Janitor's, but for what was set. A publish mode that only the default policy knows stays unknown."""
    own, bonus, ignore = (
        Settings().publish_mode_values,
        settings.first_run_bonus,
        settings.ignore_worker_failures_s,
    )
    window_s = settings.history_window_s
    return Constants(
        FIRST_RUN_BONUS if bonus is None else bonus,
        round(settings.default_duration_s * 1e6),
        settings.default_schedule_offset,
        {
            mode: value
            for mode, value in settings.publish_mode_values.items()
            if mode in PUBLISH_MODE_VALUE or mode not in own
        },
        WORKER_FAILURES_DAYS * DAY_US if ignore is None else round(ignore * 1e6),
        None if window_s is None else round(window_s * 1e6),
    )


@dataclass(frozen=True, slots=True)
class Estimate:
    probability: float
    duration_us: int
    total: int  # runs that were counted


@dataclass(frozen=True, slots=True)
class Scored:
    """What a pass made of one candidate. `error` says why there is nothing else, else it is empty."""

    candidate: Candidate
    error: str = ""
    value: float | None = None
    normalized: float = 0.0
    estimate: Estimate | None = None
    offset: float = 0.0
    bucket: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """What the runs of a series say that are counted: how many, how many of them succeeded, the sum of their
    durations, whether one was tried in the context that is asked for."""

    total: int
    success: int
    duration_s: float
    same_context: bool


class Past(Protocol):
    """A history of runs, however it is kept. CompatError for a series on which Janitor fails."""

    constants: Constants

    def add(self, run: Run) -> None: ...

    def facts(self, codebase: str, campaign: str, context: str | None, now_us: int) -> Facts: ...

    def mean_us(self, codebase: str | None, campaign: str | None, now_us: int) -> int | None:
        """Of runs that were not transient and have a duration; None for a name: of any."""


class History:
    """Runs by codebase and campaign, and the versions that are available."""

    def __init__(self, runs: Iterable[Run], versions: Versions, constants: Constants | None = None) -> None:
        self.versions, self.constants = versions, constants or JANITOR
        self._of: dict[tuple[str | None, str | None], list[Run]] = {}
        for run in runs:
            self.add(run)

    def add(self, run: Run) -> None:
        if run.failure_transient is not True:
            for key in ((run.codebase, run.campaign), (run.codebase, None), (None, run.campaign)):
                self._of.setdefault(key, []).append(run)

    def runs(self, codebase: str | None, campaign: str | None, now_us: int) -> Sequence[Run]:
        """Not transient; None: any."""
        found, window_us = self._of.get((codebase, campaign), ()), self.constants.window_us
        return found if window_us is None else [run for run in found if _at_us(run) >= now_us - window_us]

    def mean_us(self, codebase: str | None, campaign: str | None, now_us: int) -> int | None:
        """As the database averages: runs without a duration are passed over."""
        found = [us for run in self.runs(codebase, campaign, now_us) if (us := run.duration_us) is not None]
        return round(Fraction(sum(found), len(found))) if found else None

    def facts(self, codebase: str, campaign: str, context: str | None, now_us: int) -> Facts:
        total = success = 0
        duration_s, same_context = 0.0, False
        for run in self.runs(codebase, campaign, now_us):
            if is_ignored(run, now_us, self.constants.ignore_worker_failures_us):
                continue
            if run.duration_us is None:
                raise CompatError("a run has no duration")
            duration_s += run.duration_us / 1e6
            total += 1
            success += run.result_code == "success"
            same = bool(context) and context in (run.instigated_context, run.context)
            lacked = run.result_code == "install-deps-unsatisfied-dependencies" and run.relations
            if lacked and are_satisfied(run.relations, self.versions):
                success += 1
                same = False
            same_context = same_context or same
        return Facts(total, success, duration_s, same_context)


def _at_us(run: Run) -> int:
    """When it was over, as far as that is known."""
    return run.finish_us or run.start_us or 0


def policy_value(
    value: float | None, modes: Sequence[str] | None, constants: Constants | None = None
) -> float | None:
    """The value with what publishing is worth, for each entry of the policy."""
    worth = (constants or JANITOR).publish_mode_value
    if modes is None:
        raise CompatError("the publish policy has no entries at all (NULL)")
    for mode in modes:
        if mode not in worth:
            raise CompatError(f"the publish mode {mode!r} has no value")
        if value is None:
            raise CompatError("the candidate has no value, to which its publish policy adds")
        value += worth[mode]
    return value


def is_ignored(run: Run, now_us: int, after_us: int) -> bool:
    """CompatError where nobody knows how old it is."""
    if run.result_code != WORKER_FAILURE:
        return False
    if run.start_us is None:
        raise CompatError("a worker failure has no start time")
    return now_us - run.start_us >= after_us


def estimate(history: Past, codebase: str, campaign: str, context: str | None, now_us: int) -> Estimate:
    """Chance of success and duration of the regular path."""
    found = history.facts(codebase, campaign, context, now_us)
    total = found.total
    if total:
        multiplier = 0.1 if found.same_context else 0.5 if context is None else 1.0
        duration_us = timedelta(seconds=found.duration_s / total) // timedelta(microseconds=1)
    else:
        multiplier = 1.0
        duration_us = _first(history, now_us, (codebase, None), (None, campaign))
    return Estimate((found.success * 10 + 1) / (total * 10 + 1) * multiplier, duration_us, total)


def are_satisfied(relations: Any, versions: Versions) -> bool:
    """CompatError for what means nothing."""
    try:
        return satisfied(relations, versions)
    except RelationError as error:
        raise CompatError(str(error)) from None


def _first(history: Past, now_us: int, *levels: tuple[str | None, str | None]) -> int:
    means_us = (history.mean_us(*level, now_us) for level in levels)
    return next((us for us in means_us if us is not None), history.constants.default_duration_us)


def manual_duration_us(history: Past, codebase: str, campaign: str, now_us: int) -> int:
    return _first(history, now_us, (codebase, campaign), (codebase, None), (None, campaign))


def offset(
    duration_us: int,
    normalized: float | None,
    probability: float,
    value: float | None,
    total: int,
    constants: Constants | None = None,
) -> float:
    """Expected cost in ms by expected value, without the default offset; lower is earlier."""
    normalized = DEFAULT_NORMALIZED_CODEBASE_VALUE if normalized is None else normalized
    normalized = max(MINIMUM_NORMALIZED_CODEBASE_VALUE, normalized)
    if value is None:
        value = 1.0
    elif total == 0:
        value += (constants or JANITOR).first_run_bonus
    if not 0 <= probability <= 1:
        raise CompatError(f"the probability {probability} is not from 0 to 1")
    # What is below a second counts twice.
    cost_ms = MINIMUM_COST_MS + (1000.0 * (duration_us / 1e6) + duration_us % 1_000_000 / 1000.0)
    expected = normalized * probability * value
    if not (value > 0 and expected > 0):
        raise CompatError(f"nothing is expected of it: value {value}, probability {probability}")
    if not cost_ms > 0:
        raise CompatError(f"its cost of {cost_ms} ms is not positive")
    return cost_ms / expected


def most_of(world: World) -> float:
    """The value of the most valuable codebase; 0 where there is none."""
    return max((one.value or 0 for one in world.codebases.values()), default=0)


def bulk_normalized(world: World, codebase: str, most: float | None = None) -> float:
    """How much a codebase is worth of the most valuable one, in a pass over all; `most`: of `most_of`."""
    if not world.codebases:
        return 1.0
    most = most_of(world) if most is None else most
    if not most:
        raise CompatError("no codebase has a value: their maximum is 0, by which is divided")
    found = world.codebases.get(codebase)
    return min(((found.value or 0) if found else 0.0) / most, 1.0)


def single_normalized(world: World, codebase: str) -> float | None:
    """The same for one candidate alone, where a codebase without a value is worth most. None: not known."""
    found = world.codebases.get(codebase)
    if found is None:
        return None
    if found.value is None:
        return 1.0
    most = max(one.value for one in world.codebases.values() if one.value is not None)
    if not most:
        raise CompatError("no codebase has a value: their maximum is 0, by which is divided")
    return min(found.value / most, 1.0)


@dataclass(frozen=True, slots=True)
class Scheduled:
    offset: float  # the default offset included
    duration_us: int
    queue_id: int  # -1: a dry run
    bucket: str
    estimate: Estimate | None = None


class Engine:
    """One world at one time, with its queue."""

    def __init__(
        self, world: World, now_us: int, constants: Constants | None = None, history: Past | None = None
    ) -> None:
        """`history`: the runs, instead of those of `world`."""
        self.world, self.now_us = world, now_us
        self.constants = constants or JANITOR
        self.history: Past = History(world.runs, world.versions, constants) if history is None else history
        self.queue = Queue(world.codebases, world.change_sets)
        self._candidates: dict[tuple[str, str, str], Candidate] = {}
        self._any: dict[tuple[str, str], Candidate] = {}  # whatever its change set, the oldest row
        for candidate in world.candidates:
            self._candidates.setdefault(candidate.key, candidate)
            self._any.setdefault(candidate.key[:2], candidate)

    def renew(self, candidate: Candidate) -> None:
        """Another row under the same key."""
        self._candidates[candidate.key] = self._any[candidate.key[:2]] = candidate

    def regular(
        self,
        codebase: str,
        campaign: str,
        *,
        command: str | None = None,
        candidate_value: float | None = None,
        success_chance: float | None = None,
        normalized_codebase_value: float | None = None,
        requester: str | None = None,
        default_offset: float = 0.0,
        context: str | None = None,
        change_set: str | None = None,
        dry_run: bool = False,
        refresh: bool = False,
        bucket: str | None = None,
    ) -> Scheduled:
        """What is missing is taken from the candidate, the context only where something else is missing too."""
        if candidate_value is None or success_chance is None or command is None:
            row = self._candidates.get((codebase, campaign, change_set or ""))
            if row is None:
                raise CompatError(f"there is no candidate {codebase} in {campaign}")
            candidate_value = row.value if candidate_value is None else candidate_value
            context = row.context if context is None else context
            command = row.command if command is None else command
        found = estimate(self.history, codebase, campaign, context, self.now_us)
        if found.duration_us < 0:
            raise CompatError(f"its duration of {found.duration_us} us is negative")
        if normalized_codebase_value is None:
            normalized_codebase_value = single_normalized(self.world, codebase)
        at = default_offset + offset(
            found.duration_us, normalized_codebase_value, found.probability, candidate_value, found.total,
            self.constants,
        )  # fmt: skip
        if not command:
            raise CompatError("the command is empty")
        item = QueueItem(
            codebase, campaign, command, bucket=bucket or "default", context=context, change_set=change_set,
            estimated_duration_us=found.duration_us, refresh=refresh, requester=requester or "scheduler",
        )  # fmt: skip
        queue_id, bucket = (-1, item.bucket) if dry_run else self.queue.add(item, at)
        return Scheduled(at, found.duration_us, queue_id, bucket, found)

    def manual(
        self,
        codebase: str,
        campaign: str,
        bucket: str | None = None,
        *,
        change_set: str | None = None,
        offset: float | None = None,
        refresh: bool = False,
        requester: str | None = None,
        estimated_duration_us: int | None = None,
        command: str | None = None,
    ) -> Scheduled:
        """As a person asks for it: ahead of everything there is, without an estimate of success."""
        if command is None:
            row = self._any.get((codebase, campaign))
            if row is None:
                raise CompatError(f"there is no candidate {codebase} in {campaign}")
            command = row.command
        if estimated_duration_us is None:
            estimated_duration_us = manual_duration_us(self.history, codebase, campaign, self.now_us)
        at = self.constants.default_schedule_offset if offset is None else offset
        item = QueueItem(
            codebase, campaign, command, bucket=bucket or "default", change_set=change_set,
            estimated_duration_us=estimated_duration_us, refresh=refresh, requester=requester,
        )  # fmt: skip
        queue_id, bucket = self.queue.add(item, at)
        return Scheduled(at, estimated_duration_us, queue_id, bucket)

    def selected(
        self, codebases: Sequence[str] | None = None, campaign: str | None = None
    ) -> Iterator[Candidate]:
        """Those with a codebase and a policy, in the order of their rows; of a change set too."""
        for candidate in self.world.candidates:
            known = (
                candidate.codebase in self.world.codebases and candidate.publish_policy in self.world.policies
            )
            wanted = (codebases is None or candidate.codebase in codebases) and (
                campaign is None or candidate.campaign == campaign
            )
            if known and wanted:
                yield candidate

    def bulk(
        self,
        codebases: Sequence[str] | None = None,
        campaign: str | None = None,
        *,
        default_offset: float = 0.0,
        bucket: str = "default",
        dry_run: bool = False,
    ) -> list[Scored]:
        """One pass over all candidates that are selected; one that cannot be scored is told and passed over."""
        most = most_of(self.world)
        return [
            self.scored(candidate, default_offset, bucket, dry_run, most)
            for candidate in self.selected(codebases, campaign)
        ]

    def scored(
        self,
        candidate: Candidate,
        default_offset: float = 0.0,
        bucket: str = "default",
        dry_run: bool = True,
        most: float | None = None,
    ) -> Scored:
        """One of a pass. `most`: of `most_of`, where it is known."""
        try:
            return self._bulk_one(candidate, most, default_offset, bucket, dry_run)
        except CompatError as error:
            return Scored(candidate, str(error))

    def _bulk_one(
        self, candidate: Candidate, most: float | None, default_offset: float, bucket: str, dry_run: bool
    ) -> Scored:
        assert candidate.publish_policy is not None  # by selected()
        modes = self.world.policies[candidate.publish_policy]
        value = policy_value(candidate.value, modes, self.constants)
        normalized = bulk_normalized(self.world, candidate.codebase, most)
        # A change set's candidate is queued, and completed, as if it had none.
        done = self.regular(
            candidate.codebase, candidate.campaign, command=candidate.command, candidate_value=value,
            success_chance=candidate.success_chance, normalized_codebase_value=normalized,
            default_offset=default_offset, context=candidate.context, bucket=bucket, dry_run=dry_run,
        )  # fmt: skip
        return Scored(candidate, "", value, normalized, done.estimate, done.offset, done.bucket)
