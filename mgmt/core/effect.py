"""What the core wants done; the shell carries these out and decides nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mgmt.core.event import Route
from mgmt.settings import HookSettings, ModelSettings, ProbeSettings, RunSettings


@dataclass(slots=True)  # not frozen, like the events of a request
class Answer:
    """The one terminal answer of a request. `body` is a map, or bytes that are msgpack already."""

    route: Route
    outcome: str
    body: dict[str, Any] | bytes


@dataclass(frozen=True, slots=True)
class Tell:
    """A one-way message to a session."""

    peer: bytes
    session: int
    name: str
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Publish:
    """An event to every subscriber: (peer, session) pairs."""

    seq: int
    kind: str
    body: dict[str, Any]
    to: tuple[tuple[bytes, int], ...]


@dataclass(frozen=True, slots=True)
class SetTimer:
    """Fire TimerFired(key) at `at_ns` (monotonic); replaces a timer of the same key."""

    key: tuple[Any, ...]
    at_ns: int


@dataclass(frozen=True, slots=True)
class CancelTimer:
    key: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Spawn:
    """Start a unit's process: Started or SpawnFailed follows, then Exited, then Emptied.

    Its memory comes from the NUMA nodes `memory_nodes` alone, from any when that is empty. `env` comes on top of
    the daemon's environment and the specification's. `lease_ns`: see LeaseUnit; 0: none.
    """

    unit: str
    backend: RunSettings
    model: ModelSettings
    cpus: tuple[int, ...]
    memory_nodes: tuple[int, ...]
    gpus: tuple[str, ...]
    incarnation: int
    endpoint: str
    config_path: str | None
    env: Mapping[str, str]
    lease_ns: int = 0


@dataclass(frozen=True, slots=True)
class LeaseUnit:
    """At this instant (monotonic) the unit's shim kills it, unless it hears of a later one before; 0: never.

    It does so whether this agent lives, is stopped or is gone.
    """

    unit: str
    incarnation: int
    until_ns: int


@dataclass(frozen=True, slots=True)
class SignalUnit:
    """Send a signal to the unit's process group."""

    unit: str
    incarnation: int
    signal: str


@dataclass(frozen=True, slots=True)
class KillUnit:
    """End every process of the unit's tree; Emptied follows."""

    unit: str
    incarnation: int


@dataclass(frozen=True, slots=True)
class Adopt:
    """Find the process that a former daemon started: Adopted follows, or Exited, or Emptied, or several."""

    unit: str
    incarnation: int


@dataclass(frozen=True, slots=True)
class Forget:
    """Nothing of this process is needed any more: its traces may go. Before, they tell a next daemon its end."""

    unit: str
    incarnation: int


@dataclass(frozen=True, slots=True)
class AskProbe:
    """Ask one question about a unit's health; ProbeAnswered follows."""

    unit: str
    incarnation: int
    which: str
    probe: ProbeSettings


@dataclass(frozen=True, slots=True)
class ForgetProbes:
    """No answer about this unit is wanted any more."""

    unit: str


@dataclass(frozen=True, slots=True)
class RunHook:
    """Run a hook command with the unit's folder and environment; HookEnded follows."""

    unit: str
    incarnation: int
    which: str
    hook: HookSettings
    backend: RunSettings
    model: ModelSettings
    endpoint: str
    env: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class CancelHook:
    """End a running hook of the unit with its tree; HookEnded follows."""

    unit: str
    incarnation: int
    which: str


@dataclass(frozen=True, slots=True)
class Commit:
    """Make this durable before anything else of the same step is carried out.

    `units`, `workloads`, `assignments` (by unit), `nodes`: record by name, None to forget it; `accounts` has such
    records for `users`, `groups` and `tokens`. `events` are numbered; older ones than `keep_events_from` go.
    """

    units: Mapping[str, Mapping[str, Any] | None]
    events: tuple[Mapping[str, Any], ...]
    keep_events_from: int
    workloads: Mapping[str, Mapping[str, Any] | None] = field(default_factory=dict)
    assignments: Mapping[str, Mapping[str, Any] | None] = field(default_factory=dict)
    nodes: Mapping[str, Mapping[str, Any] | None] = field(default_factory=dict)
    meta: Mapping[str, Any] = field(default_factory=dict)
    accounts: Mapping[str, Mapping[str, Mapping[str, Any] | None]] = field(default_factory=dict)
    outbox: Mapping[str, Mapping[str, Any] | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ProbeHandshake:
    """Send legacy handshakes to the endpoint until it answers (HandshakeAnswered) or the unit ends."""

    unit: str
    incarnation: int
    endpoint: str


@dataclass(frozen=True, slots=True)
class Inspect:
    """Look at a unit that came up: the CPU mask of every thread of its tree (MaskChecked follows), the mode of
    its socket, and a first sample of its use."""

    unit: str
    incarnation: int
    pid: int
    cpus: tuple[int, ...]
    endpoint: str


@dataclass(frozen=True, slots=True)
class RemoveEndpoint:
    """Delete the socket file of an ipc endpoint, if any."""

    endpoint: str


@dataclass(frozen=True, slots=True)
class RelayGroup:
    """The replicas that serve a model's relay leases from now on: (unit, endpoint) pairs.

    Requests outstanding at a replica that is no longer listed are answered `backend-lost`.
    """

    model: str
    replicas: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class RelayLease:
    """Data messages carrying `lease` go to the group of `model`; None: the lease is gone."""

    lease: int
    model: str | None


@dataclass(frozen=True, slots=True)
class ReadLog:
    """Read a unit's log in a worker thread and answer the route with a LogChunk; `since` in epoch seconds."""

    route: Route
    unit: str
    lines: int
    offset: int | None
    inode: int | None
    since: float | None = None


@dataclass(frozen=True, slots=True)
class ReadConfig:
    """Check a configuration (None: read the daemon's own file); ConfigRead follows."""

    route: Route | None
    apply: bool
    config: Mapping[str, Any] | None
    path: str | None


@dataclass(frozen=True, slots=True)
class Compute:
    """Call a pure function in a worker thread; Computed follows with its result.

    `number`: positive ones are of schedules, negative ones of candidates.
    """

    number: int
    work: Callable[[], Any]


# ---- periodic tasks that are processes ----


@dataclass(frozen=True, slots=True)
class TaskPlan:
    """When the process of a unit is released, and what its deadline means; see mgmt_rt.h. Times in us.

    `deadline_us` 0: nobody looks. `overrun`: log, skip, kill or restart.
    """

    unit: str
    period_us: int
    release_us: int
    deadline_us: int
    hyperperiod_us: int
    overrun: str
    max_dmiss: int
    memory_locked: bool
    by_signal: bool


@dataclass(frozen=True, slots=True)
class StageTasks:
    """Lay down the segments of a workload where there are none, and have them watched; TasksStaged follows.

    `version` tells the segments of one submission from those of the next.
    """

    workload: str
    version: int
    tasks: tuple[TaskPlan, ...]


@dataclass(frozen=True, slots=True)
class BindTask:
    """The process of a task that is staged."""

    unit: str
    version: int
    pid: int
    start_ticks: int


@dataclass(frozen=True, slots=True)
class ReleaseTasks:
    """All processes of a workload are there: release them from this common instant on (monotonic)."""

    workload: str
    version: int
    t0_ns: int


@dataclass(frozen=True, slots=True)
class DropTasks:
    """The workload is no longer in force in this version: its segments go."""

    workload: str
    version: int


@dataclass(frozen=True, slots=True)
class ReadTasks:
    """Read what the segments of these tasks say, in a worker thread; the answer is a ScheduleStatistics.

    `rows`: (unit, version, the first fields of its TaskStatistics). `records`: with its last jobs. `next`: of the
    answer.
    """

    route: Route
    rows: tuple[tuple[str, int, Mapping[str, Any]], ...]
    records: bool
    next: int | None


@dataclass(frozen=True, slots=True)
class Note:
    """A line for the daemon's own log; `level` as in logging."""

    level: str
    text: str
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Quit:
    """Leave the loop: every unit is stopped. `status` is that of the process."""

    status: int = 0


# ---- nodes: from the daemon to its agents, and from an agent to its daemon ----


@dataclass(frozen=True, slots=True)
class ToNode:
    """A notice to an agent."""

    peer: bytes
    session: int
    name: str
    body: dict[str, Any]


@dataclass(slots=True)
class Beat:
    """A heartbeat, which waits for nothing that is being written. `peer` None: to the daemon, else to an agent."""

    peer: bytes | None
    session: int
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class AdmitNode:
    """The agent at `peer` is the node's from now on, and so is the connection that shows `token`.

    `peer` None: the node has no agent. Requests to its models that are outstanding are answered `backend-lost`.
    """

    node: str
    peer: bytes | None
    token: str


@dataclass(frozen=True, slots=True)
class SayHello:
    """An agent asks its daemon to join; Welcomed follows, or Refused, or nothing."""

    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ToDaemon:
    """A notice of an agent."""

    session: int
    name: str
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class OpenRelay:
    """The agent may carry requests to models: `token` proves its second connection."""

    token: str


@dataclass(frozen=True, slots=True)
class Relink:
    """Close the connections to the daemon and make new ones; LinkUp follows when there is one.

    `connect_s` is how long the other machine's kernel has for its first answer, each time.
    """

    connect_s: float


@dataclass(frozen=True, slots=True)
class FollowSchedule:
    """The event of the same name, once the schedule that is in force now is written and told."""


# ---- task suites ----


@dataclass(frozen=True, slots=True)
class Queue:
    """Have the queue of tasks carry out an operation; Queued with the same tag follows when it is durable."""

    tag: tuple[Any, ...]
    operation: Any  # of mgmt.core.suites.operations


@dataclass(frozen=True, slots=True)
class MakeSuiteFolder:
    """Make the folder of a suite; SuiteFolderMade follows."""

    holder: int
    path: str


@dataclass(slots=True)
class ToWorker:
    """Messages of mgmt.worker.wire to a worker, in order."""

    connection: int
    messages: tuple[list[Any], ...]


@dataclass(frozen=True, slots=True)
class CloseWorker:
    """Nobody expects this worker, or another one took its place."""

    connection: int


# ---- files: what may block, in worker threads; Filed with the same tag follows ----


@dataclass(frozen=True, slots=True)
class OpenSpool:
    """Where an upload stands. Result: bytes that are there."""

    upload: int


@dataclass(frozen=True, slots=True)
class WriteSpool:
    """Append to an upload; in the order of asking. Result: bytes that are there; `conflict` at another offset."""

    upload: int
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class PlaceSpool:
    """The upload is whole: keep it as content. `corrupt` when it is not of this digest; it is gone then."""

    upload: int
    digest: str


@dataclass(frozen=True, slots=True)
class DropSpools:
    """Nothing will come of these uploads."""

    uploads: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ReadContent:
    """Result: at most so many bytes. `verify`: all of it is looked through first."""

    digest: str
    offset: int
    most_bytes: int
    verify: bool


@dataclass(frozen=True, slots=True)
class ListContents:
    """Result: tuple of digests that were not taken since this time, epoch seconds.

    Spools that were not written since `orphans_before_s` are removed: their uploads were given up.
    """

    before_s: float
    orphans_before_s: float


@dataclass(frozen=True, slots=True)
class RemoveContents:
    """Unless they were taken since this time. Result: bytes that are free now."""

    digests: tuple[str, ...]
    before_s: float


FileWork = OpenSpool | WriteSpool | PlaceSpool | DropSpools | ReadContent | ListContents | RemoveContents


@dataclass(frozen=True, slots=True)
class File:
    """Do this in a worker thread; Filed with the same tag follows."""

    tag: int
    work: FileWork


# ---- files of tasks on the machine that runs them ----


@dataclass(frozen=True, slots=True)
class FetchInputs:
    """Put (blob, path) pairs into a folder, which is there, whole, afterwards; InputsFetched follows."""

    holder: int
    task: int
    attempt: int
    folder: str
    resources: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class KeepOutputs:
    """Have what a task left (paths; None: nothing) kept as its artifacts, and remove it; OutputsKept follows."""

    holder: int
    task: int
    attempt: int
    results: str | None
    log: str | None
    exec_log: str | None = None


@dataclass(frozen=True, slots=True)
class DropJobs:
    """Fetch and keep nothing for this holder any more, or for these of its tasks (none: all); no event follows."""

    holder: int
    tasks: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class MoveFolder:
    """At once, within a file system."""

    path: str
    to: str


@dataclass(frozen=True, slots=True)
class RemoveTree:
    path: str


Effect = (
    Answer
    | File
    | FetchInputs
    | KeepOutputs
    | DropJobs
    | MoveFolder
    | RemoveTree
    | Tell
    | Publish
    | SetTimer
    | CancelTimer
    | Spawn
    | SignalUnit
    | LeaseUnit
    | KillUnit
    | Adopt
    | Forget
    | AskProbe
    | ForgetProbes
    | RunHook
    | CancelHook
    | Commit
    | ProbeHandshake
    | Inspect
    | RemoveEndpoint
    | RelayGroup
    | RelayLease
    | ReadLog
    | ReadConfig
    | Compute
    | StageTasks
    | BindTask
    | ReleaseTasks
    | DropTasks
    | ReadTasks
    | Note
    | Quit
    | ToNode
    | Beat
    | AdmitNode
    | SayHello
    | ToDaemon
    | OpenRelay
    | Relink
    | FollowSchedule
    | Queue
    | MakeSuiteFolder
    | ToWorker
    | CloseWorker
)
