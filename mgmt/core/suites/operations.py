"""What the queue is asked and what it answers: each operation is one transaction, done wholly or not at all.

Every operation carries the time it happens at (`now_ms`, epoch milliseconds): the queue has no clock. A refusal is
a MgmtError and changed nothing. Answers of operations that moved tasks carry the `Counts` of the lanes concerned.

A *lane* is what a claim draws from: one per suite, with the suite's number, and one per (group, set of tags) for
independent tasks. A *holder* is one assignment of a suite to a node, or one session of an independent worker; its
number is the epoch: once it has ended, whatever it still says is `stale`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from mgmt.core.suites.blobs import BlobAnswer, BlobOp, BlobQuery
from mgmt.core.suites.candidate_rows import (
    Changed,
    ChangePriorities,
    GetLabelled,
    GetRows,
    Labelled,
    PutRows,
    RecordRun,
    Rows,
    SubmitNew,
    SubmittedNew,
)

# ---- parts ------------------------------------------------------------------------------------------------


class Retry(NamedTuple):
    """Opt-in: try again after a non-zero exit, `most` times, `delay_ms` later; `codes` empty: any of them."""

    most: int
    codes: tuple[int, ...] = ()
    delay_ms: int = 0


class After(NamedTuple):
    """Wait for another task. A `task` that is not positive is number -`task` of the same submission, from 0.

    `success`: its exit status has to be 0; else any end but a cancelled or failed one will do. `reached`: an exec
    state that its execution has to reach, instead of its end. What can no longer be cancels the waiting task.
    """

    task: int
    success: bool = False
    reached: int | None = None


class Extra(NamedTuple):
    """What few tasks have."""

    labels: tuple[str, ...] = ()
    after: tuple[After, ...] = ()
    retry: Retry | None = None


class NewTask(NamedTuple):
    """One task of a submission; `spec` is packed, and the queue never looks into it."""

    spec: bytes
    priority: int = 0
    extra: Extra | None = None


class Result(NamedTuple):
    """How an attempt ended. `status`: exit code or minus the signal, None when it never ran.

    `message`: "", or why it is not just its exit ("UserCancellation" makes it Cancelled); `detail`: packed, not
    looked into; `new_task`: becomes ready in the same transaction, with this task as its upstream.
    """

    task: int
    attempt: int
    status: int | None
    message: str = ""
    started_ms: int = 0
    finished_ms: int = 0
    detail: bytes | None = None
    new_task: NewTask | None = None


class Claim(NamedTuple):
    """A task that is the holder's now; `attempt` goes with everything that is said about it."""

    task: int
    attempt: int
    priority: int
    spec: bytes


class Held(NamedTuple):
    holder: int
    task: int
    attempt: int


class Ack(IntEnum):
    """What became of a result: committed now, committed before, or refused because it is not the holder's."""

    OK = 0
    DUPLICATE = 1
    STALE = 2


class Counts(NamedTuple):
    """Of one lane. `pending`: all that have not ended, thus ready, running, and waiting ones."""

    lane: int
    state: int
    total: int
    pending: int
    ready: int
    running: int
    finished: int
    failed: int
    cancelled: int


# ---- suites and lanes -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CreateSuite:
    """A new suite, Open. Answer: `SuiteRecord`. The same `creator` and `key` again: the suite of then.

    `record`: packed (description, schedule, hooks, whatever); not looked into.
    """

    group: str
    creator: str
    now_ms: int
    name: str = ""
    tags: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    priority: int = 0
    record: bytes = b""
    key: str = ""


@dataclass(frozen=True, slots=True)
class CloseSuite:
    """Open → Closed. Answer: `Counts`. A closed one stays closed; `conflict` for others."""

    suite: int
    now_ms: int


@dataclass(frozen=True, slots=True)
class CancelSuite:
    """→ Cancelled, with all tasks that do not run; `running`: those too. Answer: `Cancelled`.

    A second one is a no-op, unless it asks for the running ones for the first time.
    """

    suite: int
    now_ms: int
    reason: str = ""
    running: bool = False


@dataclass(frozen=True, slots=True)
class ChangeSuite:
    """New `priority`, `labels` or `record`; None: as it is. Answer: `SuiteRecord`."""

    suite: int
    now_ms: int
    priority: int | None = None
    labels: tuple[str, ...] | None = None
    record: bytes | None = None


@dataclass(frozen=True, slots=True)
class OpenLane:
    """The lane of independent tasks of a group with these tags, made when there is none. Answer: `LaneRecord`."""

    group: str
    tags: tuple[str, ...]
    now_ms: int


@dataclass(frozen=True, slots=True)
class SuiteFilter:
    """Suites that have all of this; empty: any."""

    groups: tuple[str, ...] = ()
    creators: tuple[str, ...] = ()
    name: str = ""
    tags: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    states: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ListSuites:
    """Suites, newest first. Answer: `Suites`. `count_only`: none of them, just how many."""

    filter: SuiteFilter = SuiteFilter()
    limit: int = 100
    offset: int = 0
    count_only: bool = False


@dataclass(frozen=True, slots=True)
class GetSuite:
    """Answer: `SuiteRecord`; `unknown-suite`."""

    suite: int


@dataclass(frozen=True, slots=True)
class ListLanes:
    """Lanes with something pending, or all. Answer: tuple of `LaneRecord`."""

    pending_only: bool = True


@dataclass(frozen=True, slots=True)
class SuiteRecord:
    """A suite; times in epoch milliseconds, 0 for never."""

    suite: int
    name: str
    group: str
    creator: str
    tags: tuple[str, ...]
    labels: tuple[str, ...]
    priority: int
    record: bytes
    reason: str
    created_ms: int
    submitted_ms: int
    completed_ms: int
    counts: Counts


@dataclass(frozen=True, slots=True)
class LaneRecord:
    """A lane; `is_suite` tells whose it is."""

    lane: int
    is_suite: bool
    group: str
    tags: tuple[str, ...]
    priority: int
    created_ms: int
    counts: Counts


@dataclass(frozen=True, slots=True)
class Suites:
    suites: tuple[SuiteRecord, ...]
    count: int


# ---- tasks ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Submit:
    """New tasks of one lane, in order. Answer: `Submitted`.

    The same `creator` and `key` again: the numbers of then, nothing new; with other tasks: `conflict`. Into a
    cancelled suite: `conflict`; after a task that is not there: `unknown-task`.

    `waiting`: it has all of them at once, without their having been ready, if it may have so many, they are plain,
    and nothing else of the suite comes before them.
    """

    lane: int
    tasks: Sequence[NewTask]
    creator: str
    now_ms: int
    key: str = ""
    waiting: Waiting | None = None


class Waiting(NamedTuple):
    """A holder that waits for tasks: what its exchange `number` asks for."""

    holder: int
    number: int
    want: int


@dataclass(frozen=True, slots=True)
class Submitted:
    """Tasks `first` to `first` + `count` - 1; `sequence` is the first one's number in its group.

    `known`: they were submitted before, under this key. `claims`: all of them when they are the waiting holder's.
    """

    first: int
    count: int
    sequence: int
    known: bool
    counts: Counts
    claims: tuple[Claim, ...] = ()


@dataclass(frozen=True, slots=True)
class TaskFilter:
    """Tasks that have all of this; empty: any. `priority` and `exit_status`: (one of = != < <= > >=, number)."""

    tasks: tuple[int, ...] = ()
    lane: int = 0
    groups: tuple[str, ...] = ()
    creators: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    states: tuple[int, ...] = ()
    nodes: tuple[str, ...] = ()
    independent: bool | None = None
    priority: tuple[str, int] | None = None
    exit_status: tuple[str, int] | None = None


@dataclass(frozen=True, slots=True)
class ListTasks:
    """Tasks by number. Answer: `Tasks`. `count_only`: none of them, just how many."""

    filter: TaskFilter
    limit: int = 100
    offset: int = 0
    count_only: bool = False


@dataclass(frozen=True, slots=True)
class GetTask:
    """Answer: `TaskRecord` with spec, history, and what it waits for; `unknown-task`."""

    task: int


SPEC_HEAD_BYTES = 400  # of a task in a list: enough for what is shown of its command


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """A task; times in epoch milliseconds, 0 for never. `spec`: in a list its first bytes only.

    `history`: packed entries, oldest first, see `Death`.
    """

    task: int
    lane: int
    group: str
    creator: str
    sequence: int
    state: int
    priority: int
    attempt: int
    holder: int
    node: str
    cancelling: bool
    status: int | None
    message: str
    exec_state: int | None
    submitted_ms: int
    due_ms: int
    started_ms: int
    finished_ms: int
    labels: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    spec: bytes = b""
    detail: bytes | None = None
    after: tuple[After, ...] = ()
    history: tuple[Death, ...] = ()


@dataclass(frozen=True, slots=True)
class Tasks:
    tasks: tuple[TaskRecord, ...]
    count: int


@dataclass(frozen=True, slots=True)
class CancelTasks:
    """Cancel what matches and has not ended. Answer: `Cancelled`. `running`: those that run, too."""

    filter: TaskFilter
    now_ms: int
    running: bool = False
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Cancelled:
    """How many are Cancelled now, and which run until their holder has ended them."""

    count: int
    running: tuple[Held, ...]
    counts: tuple[Counts, ...]


@dataclass(frozen=True, slots=True)
class ChangeTask:
    """New `priority` or `labels` of a task nobody holds; None: as it is. Answer: `Counts`; `conflict` else."""

    task: int
    now_ms: int
    priority: int | None = None
    labels: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class RetryTask:
    """An ended task is Ready again, its strikes and retries forgotten. Answer: `Counts`; else `conflict`.

    `labels`: it has these, too, from now on.
    """

    task: int
    now_ms: int
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Prune:
    """Forget at most `most` tasks that ended before `before_ms`, then suites left empty. Answer: `Pruned`.

    A suite's tasks go together, once it is Complete or Cancelled.
    """

    before_ms: int
    now_ms: int
    most: int = 10_000


@dataclass(frozen=True, slots=True)
class Pruned:
    """`more`: there are others; ask again."""

    tasks: int
    suites: tuple[int, ...]
    more: bool


# ---- holders ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OpenHolder:
    """A new holder on a node. Answer: `HolderRecord`. `suite` 0: an independent worker, which sees no suite.

    `owner`: the daemon that looks after it. A suite that is neither Open nor Closed is a `conflict`.
    """

    node: str
    owner: str
    lease_until_ms: int
    now_ms: int
    suite: int = 0
    worker: str = ""


@dataclass(frozen=True, slots=True)
class HolderRecord:
    holder: int
    node: str
    owner: str
    worker: str
    suite: int
    lease_until_ms: int
    opened_ms: int
    number: int  # of its last Exchange
    held: int  # tasks it holds; only in the answer to ListHolders


@dataclass(frozen=True, slots=True)
class ListHolders:
    """Those that have not ended. Answer: tuple of `HolderRecord`."""

    owner: str = ""


@dataclass(frozen=True, slots=True)
class RenewHolders:
    """Answer: `Renewed`."""

    holders: tuple[int, ...]
    lease_until_ms: int
    now_ms: int


@dataclass(frozen=True, slots=True)
class Renewed:
    """`gone`: those that have ended. `cancelling`: what they run and somebody wants cancelled."""

    gone: tuple[int, ...]
    cancelling: tuple[Held, ...]


@dataclass(frozen=True, slots=True)
class EndHolder:
    """All it holds goes back. Answer: `Returned`; a second time nothing happens."""

    holder: int
    now_ms: int


@dataclass(frozen=True, slots=True)
class Returned:
    """`tasks` are Ready again, or Cancelled where that was asked for, or Failed with too many attempts."""

    tasks: int
    counts: tuple[Counts, ...]


@dataclass(frozen=True, slots=True)
class Reconcile:
    """After a link was broken: `held` is what the holder has. Answer: `Reconciled`; `stale` when it has ended."""

    holder: int
    held: tuple[tuple[int, int], ...]  # (task, attempt)
    now_ms: int


@dataclass(frozen=True, slots=True)
class Reconciled:
    """`returned` tasks it did not know of are Ready again; it has to drop `foreign` and end `cancelling`."""

    returned: int
    foreign: tuple[tuple[int, int], ...]
    cancelling: tuple[tuple[int, int], ...]
    counts: tuple[Counts, ...]


@dataclass(frozen=True, slots=True)
class Exchange:
    """Commit results, give tasks back, claim up to `want` others. Answer: `Exchanged`; `stale` when it has ended.

    `number` counts the holder's exchanges from 1. One that is not greater than the last repeats that one: results
    are committed that are not yet, what was claimed then and is still held is the answer, nothing is claimed.
    `returned`: (task, attempt) it will not run. `lanes`: where an independent worker claims. `fallback`: also
    what excludes this node, because nobody else is there. `told`: tasks among the results that somebody waits for.
    """

    holder: int
    number: int
    now_ms: int
    results: Sequence[Result] = ()
    want: int = 0
    returned: tuple[tuple[int, int], ...] = ()
    lanes: tuple[int, ...] = ()
    fallback: bool = False
    told: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Exchanged:
    """`claims` by priority, of several groups in turns, then by age; `acks` in the order of the results;
    `cancelling`: what it should end; `retried`: how many of the results are tried again instead of ended;
    `repeated`: claims and acks were told before, or their answer was lost on the way; `told`: the tasks that were
    asked for, as they are now.
    """

    claims: tuple[Claim, ...]
    acks: tuple[Ack, ...]
    cancelling: tuple[tuple[int, int], ...]
    retried: int
    counts: tuple[Counts, ...]
    repeated: bool = False
    told: tuple[TaskRecord, ...] = ()


@dataclass(frozen=True, slots=True)
class ExecStates:
    """How far executions are: (task, attempt, exec state). Answer: `Returned`, `tasks` of them were still held."""

    holder: int
    states: tuple[tuple[int, int, int], ...]
    now_ms: int


class Death(NamedTuple):
    """One strike of a task's history."""

    attempt: int
    node: str
    at_ms: int
    status: int | None
    message: str


@dataclass(frozen=True, slots=True)
class ReportDeath:
    """The worker that ran this task died of `status`. Answer: `Struck`; `stale` when it is not the holder's.

    `eligible`: the nodes that could run it now; when it has struck out on all of them, it is Failed.
    """

    holder: int
    task: int
    attempt: int
    status: int | None
    message: str
    now_ms: int
    eligible: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Struck:
    """`strikes` on this node; `excluded` from it now; `state`: Ready, Cancelled or Failed."""

    strikes: int
    excluded: bool
    state: int
    counts: tuple[Counts, ...]


@dataclass(frozen=True, slots=True)
class Sweep:
    """What time does: leases end, retries fall due, suites close. Answer: `Swept`."""

    now_ms: int
    auto_close_ms: int


@dataclass(frozen=True, slots=True)
class Swept:
    """`next_ms`: when there is something to sweep again, if nothing else happens; 0 for never.

    `returned` tasks of `expired` holders and `due` retries are Ready; `closed` suites.
    """

    expired: tuple[int, ...]
    returned: int
    due: int
    closed: tuple[int, ...]
    next_ms: int
    counts: tuple[Counts, ...]


Op = (
    CreateSuite | CloseSuite | CancelSuite | ChangeSuite | OpenLane | Submit | CancelTasks | ChangeTask | RetryTask
    | Prune | OpenHolder | RenewHolders | EndHolder | Reconcile | Exchange | ExecStates | ReportDeath | Sweep
    | BlobOp | PutRows | RecordRun | ChangePriorities | SubmitNew
)  # fmt: skip
Query = (
    ListSuites | GetSuite | ListLanes | ListTasks | GetTask | ListHolders | BlobQuery | GetRows | GetLabelled
)
Answer = (
    SuiteRecord | Suites | LaneRecord | tuple[LaneRecord, ...] | Counts | Submitted | Cancelled | Tasks
    | TaskRecord | Pruned | HolderRecord | tuple[HolderRecord, ...] | Renewed | Returned | Reconciled | Exchanged
    | Struck | Swept | BlobAnswer | Changed | Rows | SubmittedNew | tuple[Labelled, ...]
)  # fmt: skip
