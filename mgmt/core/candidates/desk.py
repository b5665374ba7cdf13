"""The desk: candidates of this daemon, and the tasks of a suite that they become.

The queue of tasks keeps their rows and runs, and is the truth. Here is a policy that has seen them (`Judge`),
built when it is asked for and told of each run that ends, and which candidates are in the queue. What takes time,
reading rows into a judge and a pass over all of them, is computed beside the loop, one after the other.
"""

from __future__ import annotations

import json
import math
import shlex
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import Any

from mgmt.core import effect as fx
from mgmt.core.event import Computed, Now
from mgmt.core.suites import operations as op
from mgmt.core.suites.board import Board
from mgmt.core.suites.candidate_rows import ChangePriorities, GetRows, PutRows, RecordRun, Row
from mgmt.core.suites.entry import Entry
from mgmt.core.suites.specs import CANCELLED
from mgmt.core.suites.states import ENDED, Task
from mgmt.protocol import frames
from mgmt.protocol.errors import MgmtError

from . import batches
from .compat_queue import RANK
from .outcomes import outcome_of
from .policies import AGED, Decision, Judge, Policy, priority_of
from .records import EPOCH, Candidate, Run
from .settings import Settings, settings_of
from .stored import Stored, build

Key = tuple[str, str, str]
Then = Callable[[Now, Any, list[fx.Effect]], None]
LABEL = "candidates"  # of tasks whose end is not recorded yet
NAMED = "candidate:"  # begins the label that says which candidate a task is
BATCHES = 50  # in one page of what is stored
MOST_TASKS = 1_000_000  # of candidates in the queue
PREFIX = "candidates_"


@dataclass(frozen=True, slots=True)
class Rules:
    """What is set of candidates. `codes`: exit status of a task -> result code; others are `failed-STATUS`."""

    settings: Settings
    policy: Policy
    campaigns: frozenset[str]
    suite: str | None
    codes: Mapping[str, str]


def rules_of(told: Mapping[str, Any]) -> Rules:
    """Out of the configuration's table, which has checked it."""
    own = {"policy", "suite", "campaigns", "result_codes"}
    sections = {name: value for name, value in told.items() if name not in own}
    return Rules(
        settings_of(sections),
        told["policy"],
        frozenset(told["campaigns"]),
        told["suite"],
        told["result_codes"],
    )


@dataclass(frozen=True, slots=True)
class InQueue:
    """A candidate's task that has not ended, as far as is known here."""

    task: int
    priority: int
    submitted_ms: int
    probability: float | None = None
    duration_us: float | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a pass is about; empty: all. `bucket`: of what it puts into the queue."""

    codebases: frozenset[str] = frozenset()
    campaigns: frozenset[str] = frozenset()
    limit: int | None = None
    bucket: str = "default"

    def has(self, candidate: Candidate) -> bool:
        return (not self.codebases or candidate.codebase in self.codebases) and (
            not self.campaigns or candidate.campaign in self.campaigns
        )


@dataclass(frozen=True, slots=True)
class Decided:
    """`new` ones with their task and priority, best first; `changes`: (task, priority) of those in the queue."""

    considered: int
    new: tuple[tuple[Decision, op.NewTask], ...]
    changes: tuple[tuple[int, int], ...]
    held: tuple[Decision, ...]
    judge: Judge


class Desk:
    """`rules` says what is set now."""

    def __init__(self, board: Board, rules: Callable[[], Rules]) -> None:
        self.queued: dict[Key, InQueue] = {}
        self._board, self._rules = board, rules
        self._open: set[int] = set()  # tasks whose end is not on its way into the records
        self._judges: dict[str, Judge] = {}  # by policy
        self._version = 0  # of what is stored; a judge of older rows is not kept
        self._jobs: deque[tuple[Callable[[], Any], Then]] = deque()
        self._number = self._batches = 0
        self._late: list[Run] = []  # ended while a judge was at work

    def restore(self, now: Now, out: list[fx.Effect]) -> None:
        """What is in the queue, and tasks whose end the former daemon did not record."""
        self._sync(now, lambda now, result, out: None, out)

    def _sync(self, now: Now, then: Then, out: list[fx.Effect]) -> None:
        """Know what is in the queue, which other daemons use, too; `then` gets None, or a MgmtError."""

        def listed(now: Now, result: Any, out: list[fx.Effect]) -> None:
            if isinstance(result, MgmtError):
                then(now, result, out)
                return
            there = set()
            for task in result.tasks:
                key = key_of(task.labels)
                if key is None:
                    continue
                there.add(task.task)
                if task.task not in self._open:
                    self._open.add(task.task)
                    self.queued[key] = InQueue(task.task, task.priority, task.submitted_ms)
                    self._watch(task.task, key)
                if task.state in ENDED:
                    self._board.on_task(task.task, out)
            gone = [(one.task, key) for key, one in self.queued.items() if one.task and one.task not in there]
            for number, key in gone:
                self._gone(number, key)
            if gone:
                self.forget()  # another daemon has recorded their runs
            then(now, None, out)

        self._board.ask(op.ListTasks(op.TaskFilter(labels=(LABEL,)), MOST_TASKS), listed, out)

    # ---- beside the loop ----

    def compute(self, work: Callable[[], Any], then: Then, out: list[fx.Effect]) -> None:
        """`then(now, result, out)`; `result` may be a MgmtError."""
        self._jobs.append((work, then))
        if len(self._jobs) == 1:
            self._begin(out)

    def _begin(self, out: list[fx.Effect]) -> None:
        self._number -= 1
        out.append(fx.Compute(self._number, self._jobs[0][0]))

    def on_computed(self, now: Now, event: Computed, out: list[fx.Effect]) -> None:
        _, then = self._jobs.popleft()
        late, self._late = self._late, []
        for run in late:
            self._learn(run)
        try:
            then(now, event.result, out)
        finally:
            if self._jobs:
                self._begin(out)

    def with_judge(self, now: Now, policy: Policy, then: Then, out: list[fx.Effect]) -> None:
        """`then` with the judge, or with the MgmtError why there is none."""
        known = self._judges.get(policy)
        if known is not None:
            then(now, known, out)
            return
        version, rows, stored = self._version, list[Row](), Stored()

        def page(now: Now, result: Any, out: list[fx.Effect]) -> None:
            if isinstance(result, MgmtError):
                then(now, result, out)
                return
            rows.extend(result.rows)
            if result.rows:
                last = rows[-1]
                few = {"limit": BATCHES} if last.kind == batches.KIND else {}
                self._board.ask(GetRows((last.kind, last.name), **few), page, out)
            else:
                settings, now_us = self._rules().settings, us(now)
                self.compute(partial(build, policy, rows, settings, now_us, stored), built, out)

        def built(now: Now, result: Any, out: list[fx.Effect]) -> None:
            if not isinstance(result, MgmtError) and version == self._version:
                self._judges[policy] = result
                if stored.gone:
                    rows = [self._batch(now, stored.record)] if stored.record else []
                    self._board.ask(PutRows(rows, gone=stored.gone), lambda now, result, out: None, out)
            then(now, result, out)

        self._board.ask(GetRows(limit=BATCHES), page, out)

    def _batch(self, now: Now, record: bytes) -> Row:
        """Later ones sort behind."""
        self._batches += 1
        return Row(batches.KIND, f"{now.real_ms:015d} {self._batches:09d}", record)

    def batched(self, now: Now, runs: list[tuple[str, Run]], rows: list[Row]) -> list[Row]:
        """Runs in one row instead of these, where that can be."""
        batch = batches.batch_of(runs)
        return rows if batch is None else [self._batch(now, batches.packed(batch))]

    def default_duration_us(self) -> float:
        return self._rules().settings.default_duration_s * 1e6

    def forget(self) -> None:
        """What is stored has changed, or what is set: judges are built anew."""
        self._judges.clear()
        self._version += 1

    # ---- passes ----

    def decide(self, now: Now, policy: Policy, wanted: Wanted, then: Then, out: list[fx.Effect]) -> None:
        """`then` with what a pass of now would do (`Decided`), or a MgmtError."""

        def judged(now: Now, judge: Any, out: list[fx.Effect]) -> None:
            if isinstance(judge, MgmtError):
                then(now, judge, out)
                return
            max_wait_us = round(self._rules().settings.max_wait_s * 1e6)
            work = partial(decided, judge, us(now), wanted, dict(self.queued), max_wait_us)
            self.compute(work, then, out)

        def synced(now: Now, result: Any, out: list[fx.Effect]) -> None:
            if isinstance(result, MgmtError):
                then(now, result, out)
            else:
                self.with_judge(now, policy, judged, out)

        self._sync(now, synced, out)

    def push(
        self, now: Now, entry: Entry, creator: str, found: Decided, then: Then, out: list[fx.Effect]
    ) -> None:
        """Put a pass into the queue of a suite; `then` with how many tasks are new, or a MgmtError."""
        metrics = self._board.metrics
        metrics.add(f"{PREFIX}processed_total", found.considered)
        # Another pass may have put it in meanwhile.
        new = [one for one in found.new if one[0].candidate.key not in self.queued]

        def submitted(now: Now, result: Any, out: list[fx.Effect]) -> None:
            if isinstance(result, MgmtError):
                for decision, _ in new:
                    self.queued.pop(decision.candidate.key, None)
                then(now, result, out)
                return
            metrics.add(f"{PREFIX}queued_total", result.count)
            for i, (decision, task) in enumerate(new):
                key = decision.candidate.key
                self.queued[key] = InQueue(
                    result.first + i, task.priority, now.real_ms, decision.probability, decision.duration_us
                )
                self._open.add(result.first + i)
                self._watch(result.first + i, key)
            changed(now, None, out)

        def changed(now: Now, result: Any, out: list[fx.Effect]) -> None:
            if found.changes:
                self._board.ask(ChangePriorities(found.changes), done, out)
            else:
                done(now, None, out)

        def done(now: Now, result: Any, out: list[fx.Effect]) -> None:
            if isinstance(result, MgmtError):
                then(now, result, out)
                return
            keys = {one.task: key for key, one in self.queued.items()}
            for task, priority in found.changes:
                if task in keys:
                    self.queued[keys[task]] = replace(self.queued[keys[task]], priority=priority)
            then(now, len(new), out)

        if not new:
            changed(now, None, out)
            return
        for decision, task in new:
            self.queued[decision.candidate.key] = InQueue(0, task.priority, now.real_ms)
        self._board.ask(
            op.Submit(entry.number, [task for _, task in new], creator, now.real_ms), submitted, out
        )

    # ---- what becomes of tasks ----

    def _watch(self, task: int, key: Key) -> None:
        def look(now: Now, found: Any, out: list[fx.Effect]) -> bool:
            if task not in self._open:
                return True
            if isinstance(found, MgmtError):
                if found.code == "unknown-task":
                    self._gone(task, key)
                return found.code == "unknown-task"
            if found.state in ENDED:
                self._ended(now, key, found, out)
            return found.state in ENDED

        self._board.task_waiters.setdefault(task, []).append(look)

    def _gone(self, task: int, key: Key) -> InQueue | None:
        """It is in the queue no longer; what was known of it there."""
        self._open.discard(task)
        known = self.queued.get(key)
        return self.queued.pop(key) if known is not None and known.task == task else None

    def _ended(self, now: Now, key: Key, task: op.TaskRecord, out: list[fx.Effect]) -> None:
        """Record the run that it was, and tell the judges once that is durable."""
        known = self._gone(task.task, key)
        run = run_of_task(key, task, self._rules().codes)
        row = None if run is None else Row("runs", f"task {task.task}.{task.attempt}", packed(run))

        def then(now: Now, result: Any, out: list[fx.Effect]) -> None:
            if not isinstance(result, MgmtError) and run is not None:
                if known is not None:
                    self._count(known, run)
                self._late.append(run) if self._jobs else self._learn(run)

        self._board.ask(RecordRun(task.task, LABEL, row), then, out)

    def _learn(self, run: Run) -> None:
        self._version += 1  # a judge that is being built may not have it
        for judge in self._judges.values():
            judge.finished(run)

    def _count(self, known: InQueue, run: Run) -> None:
        """How good the expectations were with which it went into the queue."""
        metrics, outcome = self._board.metrics, outcome_of(run)
        metrics.add(f"{PREFIX}runs_total", of=("success", "failure", "nothing", "transient")[outcome])
        if known.probability is not None and outcome < 2:
            metrics.add(f"{PREFIX}predicted_total")
            metrics.add(f"{PREFIX}brier_sum", (known.probability - (outcome == 0)) ** 2)
        took_us = run.duration_us
        if known.duration_us and took_us:
            metrics.add(f"{PREFIX}timed_total")
            metrics.add(f"{PREFIX}duration_error_sum", abs(math.log(known.duration_us / took_us)))


# ---- beside the loop -------------------------------------------------------------------------------------


def decided(
    judge: Judge, now_us: int, wanted: Wanted, queued: Mapping[Key, InQueue], max_wait_us: int
) -> Decided:
    """One pass. A task in the queue keeps the better of its bucket and this one's; whoever has waited for
    `max_wait` comes before all others."""
    told = [one for one in judge.decisions(now_us) if wanted.has(one.candidate)]
    new: list[tuple[Decision, op.NewTask]] = []
    changes: list[tuple[int, int]] = []
    for one in told:
        known = queued.get(one.candidate.key)
        if known is None:
            if not one.held and (wanted.limit is None or len(new) < wanted.limit):
                new.append((one, task_of(one, wanted.bucket)))
        elif known.task and not one.held:
            bucket = better(known.priority, wanted.bucket)
            aged = now_us - known.submitted_ms * 1000 >= max_wait_us
            priority = AGED if aged else priority_of(bucket, one.turn)
            if priority != known.priority:
                changes.append((known.task, priority))
    held = tuple(one for one in told if one.held)
    return Decided(len(told), tuple(new), tuple(changes), held, judge)


def better(priority: int, bucket: str) -> str:
    """The more urgent of a bucket and that of a task with this priority."""
    return min(bucket, bucket_of(priority), key=RANK.__getitem__)


def bucket_of(priority: int) -> str:
    """The bucket of a task; of one that has waited too long, the most urgent one."""
    return next(name for name in reversed(RANK) if priority <= priority_of(name, 0.0) or RANK[name] == 0)


def task_of(one: Decision, bucket: str) -> op.NewTask:
    """Its command, split like a shell does, with what it is about in variables."""
    candidate = one.candidate
    spec = {
        "args": shlex.split(candidate.command),
        "envs": {
            "CODEBASE": candidate.codebase, "CAMPAIGN": candidate.campaign,
            "CHANGE_SET": candidate.change_set or "", "CONTEXT": candidate.context or "",
        },
    }  # fmt: skip
    name = NAMED + json.dumps(candidate.key, ensure_ascii=False)
    return op.NewTask(frames.pack_body(spec), priority_of(bucket, one.turn), op.Extra((LABEL, name)))


def key_of(labels: Collection[str]) -> Key | None:
    """Whose task it is."""
    for label in labels:
        if label.startswith(NAMED):
            codebase, campaign, change_set = json.loads(label.removeprefix(NAMED))
            return codebase, campaign, change_set
    return None


def run_of_task(key: Key, task: op.TaskRecord, codes: Mapping[str, str]) -> Run | None:
    """The run that an ended task was; None for one that never began."""
    if not task.started_ms:
        return None
    if task.message == CANCELLED:
        code = "cancelled"
    elif task.state == Task.FAILED or task.status is None:
        code = "worker-failure"
    else:
        code = codes.get(str(task.status), "success" if task.status == 0 else f"failed-{task.status}")
    context = (frames.unpack(task.spec).get("envs") or {}).get("CONTEXT") if task.spec else None
    return Run(
        key[0], key[1], code, task.started_ms * 1000, max(task.started_ms, task.finished_ms) * 1000,
        context=context or None,
    )  # fmt: skip


def packed(run: Run) -> bytes:
    """As a row of a file: times in ISO 8601."""
    return frames.pack_body(
        {
            "codebase": run.codebase, "campaign": run.campaign, "result_code": run.result_code,
            "start_time": iso(run.start_us), "finish_time": iso(run.finish_us), "context": run.context,
        }
    )  # fmt: skip


def iso(at_us: int | None) -> str | None:
    return None if at_us is None else (EPOCH + timedelta(microseconds=at_us)).isoformat()


def us(now: Now) -> int:
    return round(now.real_s * 1e6)
