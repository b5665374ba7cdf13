"""What can happen to the daemon; the shell turns sockets, processes, timers and signals into these."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from mgmt.protocol import keys
from mgmt.protocol.errors import MgmtError
from mgmt.protocol.keys import Grant
from mgmt.protocol.messages import Message
from mgmt.settings import Settings

LEGACY_PLANE = "legacy"  # its requests have no sessions
NODES_PLANE = "nodes"  # where agents join
UPLINK_PLANE = "uplink"  # what the daemon asks its agent on somebody's behalf
CREW_PLANE = "crew"  # this machine's own crew asks for files
SESSIONLESS = frozenset({LEGACY_PLANE, NODES_PLANE, UPLINK_PLANE, CREW_PLANE})


class Now(NamedTuple):
    """The instant of an event: monotonic nanoseconds for every decision, epoch seconds for people."""

    mono_ns: int
    real_s: float

    @property
    def real_ms(self) -> int:
        """Epoch milliseconds, as the queue has them."""
        return int(self.real_s * 1000)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: `role` is a row of `core.access`, `via` says for people how that is known.

    `user` is one of `core.users`, empty for nobody by name; `node` is the only one an agent may speak for, or
    empty; `token` is the id of the one that was shown, or empty.
    """

    role: str
    user: str = ""
    via: str = ""
    node: str = ""
    token: str = ""

    @property
    def is_administrator(self) -> bool:
        return self.role in (MACHINE, keys.OPERATOR)


MACHINE = "machine"  # role of who came through a file of this machine, whose mode is the authority
ADMINISTRATOR = "administrator"  # the user behind that file and behind operators' keys
OWNER = Caller(MACHINE, ADMINISTRATOR, "the socket's file")
NOBODY = Caller("nobody")


# Nobody changes these either, but a frozen one takes three times as long to make, and each request makes them.
@dataclass(slots=True)
class Route:
    """The way back to whoever asked; opaque to the core except for `serial`, which is unique per run.

    `plane` names the wire format, `id` and `session` are those of the frame, `envelope` is what the
    format's encoder needs to answer (legacy: mirrored frames and correlation id). `grant` is what the key of the
    connection may do; None: it came through a file of this machine, or keys are switched off.
    """

    serial: int
    plane: str
    peer: bytes
    id: int = 0
    session: int = 0
    envelope: Any = None
    grant: Grant | None = None

    def __hash__(self) -> int:
        return self.serial


@dataclass(slots=True)
class Asked:
    """A valid request; `deadline_ns` is monotonic, 0 for none. `by` is found out before anything is done."""

    route: Route
    verb: str
    body: Message
    deadline_ns: int = 0
    key: str = ""
    by: Caller = NOBODY


@dataclass(frozen=True, slots=True)
class HandshakeAsked:
    """A legacy handshake: it names no model."""

    route: Route


@dataclass(frozen=True, slots=True)
class Noticed:
    """A one-way message of a peer."""

    peer: bytes
    session: int
    name: str
    body: dict[str, Any]
    grant: Grant | None = None


@dataclass(frozen=True, slots=True)
class KeysRevoked:
    """These keys, with their names, may not speak any more, or not as what they were; nor for these nodes."""

    keys: dict[str, str]
    nodes: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class PeerLost:
    """The shell gave up on a peer that does not read its answers."""

    peer: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class TimerFired:
    key: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Started:
    """The program of a unit was executed. `start_ticks`: field 22 of /proc/PID/stat."""

    unit: str
    incarnation: int
    pid: int
    start_ticks: int


@dataclass(frozen=True, slots=True)
class Restored:
    """What the store knew at the start of this daemon; the first event of its life.

    `same_boot` is false when the machine was restarted since: no process of then exists.
    """

    units: dict[str, dict[str, Any]]
    events: list[dict[str, Any]]
    same_boot: bool
    workloads: dict[str, dict[str, Any]] = field(default_factory=dict)
    assignments: dict[str, dict[str, Any]] = field(default_factory=dict)
    nodes: dict[str, dict[str, Any]] = field(default_factory=dict)
    accounts: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)  # users, groups, tokens
    crew: dict[str, Any] | None = None  # what this machine was at work on
    outbox: dict[str, dict[str, Any]] = field(default_factory=dict)  # what its crew had to tell
    suites: tuple[Any, ...] = ()  # of the queue
    holders: tuple[Any, ...] = ()
    storage: tuple[tuple[str, int], ...] = ()  # bytes by group


@dataclass(frozen=True, slots=True)
class Adopted:
    """The process of a former daemon's unit lives, is proven, and its end will be heard."""

    unit: str
    incarnation: int
    pid: int
    start_ticks: int


@dataclass(frozen=True, slots=True)
class Vanished:
    """There is no trace of the process that a former daemon was to start."""

    unit: str
    incarnation: int


@dataclass(frozen=True, slots=True)
class ProbeAnswered:
    unit: str
    incarnation: int
    which: str
    ok: bool
    detail: str


@dataclass(frozen=True, slots=True)
class HookEnded:
    unit: str
    incarnation: int
    which: str
    ok: bool
    detail: str


@dataclass(frozen=True, slots=True)
class SpawnFailed:
    """The program of a unit could not be executed; no process is left."""

    unit: str
    incarnation: int
    reason: str


@dataclass(frozen=True, slots=True)
class Exited:
    """The leader of a unit ended; `left` of its descendants still live, `tail` is the end of its log."""

    unit: str
    incarnation: int
    code: int | None
    signal: int | None
    left: int
    tail: str


@dataclass(frozen=True, slots=True)
class Emptied:
    """No process of the unit's tree is left."""

    unit: str
    incarnation: int


@dataclass(frozen=True, slots=True)
class HandshakeAnswered:
    """A backend that speaks the legacy data plane answered on its endpoint: it is ready."""

    unit: str
    incarnation: int
    protocols: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MaskChecked:
    """Result of reading the CPU mask of every thread of a unit; `wrong` names the offending threads."""

    unit: str
    incarnation: int
    wrong: str


@dataclass(frozen=True, slots=True)
class Sampled:
    """CPU per cent since the last sample and resident bytes, by unit."""

    usage: dict[str, tuple[float | None, int]]


@dataclass(frozen=True, slots=True)
class LogRead:
    """What a worker thread read of a log for the request of `route`."""

    route: Route
    result: dict[str, Any] | MgmtError


@dataclass(frozen=True, slots=True)
class ConfigRead:
    """A configuration was read for a plan or an apply; `route` is None when nobody waits (SIGHUP)."""

    route: Route | None
    apply: bool
    settings: Settings | MgmtError


@dataclass(frozen=True, slots=True)
class Computed:
    """What the function of a Compute returned, or the error that it raised."""

    number: int
    result: Any


@dataclass(frozen=True, slots=True)
class TasksStaged:
    """The tasks of a workload are watched, or cannot be: `error`. `started`: released before, they go on."""

    workload: str
    version: int
    started: bool
    error: str = ""


@dataclass(frozen=True, slots=True)
class FollowSchedule:
    """What is run has to follow what is in force."""


@dataclass(frozen=True, slots=True)
class TaskReported:
    """What the executive has to say of a task, or of itself or the observer when `unit` is empty.

    `what`: miss, fault, lost, executive or observer. `count` words of the same kind were put together; `job`,
    `misses` and `action` are those of the last.
    """

    unit: str
    what: str
    reason: str
    count: int = 1
    job: int = 0
    misses: int = 0
    action: str = ""


@dataclass(frozen=True, slots=True)
class HandOver:
    """Leave without stopping the units."""

    reason: str


@dataclass(frozen=True, slots=True)
class Faulted:
    """The step of an earlier event raised an exception: a bug, whose traceback the shell has logged.

    `effects` are those it had come to, `route` is whoever asked by that event and has no answer among them.
    """

    route: Route | None
    what: str
    effects: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class StopRequested:
    """SIGTERM or SIGINT; the second one is `fast`, as is any that comes when the daemon is stopping already."""

    reason: str
    fast: bool


# ---- nodes ----


@dataclass(slots=True)
class NodeNoticed:
    """A notice of an agent; `body` is of its shape in the message table."""

    peer: bytes
    session: int
    name: str
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class NodePeerLost:
    """The shell gave up on an agent that does not read what it is sent, or is gone."""

    peer: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class LinkUp:
    """The agent's connection to its daemon stands."""


@dataclass(frozen=True, slots=True)
class LinkDown:
    """The agent's connection to its daemon is gone, or was refused for good: `error` says how."""

    reason: str
    error: MgmtError | None = None


@dataclass(frozen=True, slots=True)
class Welcomed:
    """The answer to an agent's hello."""

    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Refused:
    """The daemon does not want this agent."""

    error: MgmtError


@dataclass(slots=True)
class DaemonNoticed:
    """A notice of the daemon to its agent."""

    session: int
    name: str
    body: dict[str, Any]


# ---- task suites ----


@dataclass(slots=True)
class Queued:
    """What the queue of tasks answered to the Queue of this tag: its result, durable, or why there is none."""

    tag: tuple[Any, ...]
    result: Any


@dataclass(frozen=True, slots=True)
class SuiteFolderMade:
    """The folder of a suite is there; `error`: why it is not."""

    holder: int
    error: str = ""


@dataclass(slots=True)
class Filed:
    """What became of the File of this tag: its result, or why there is none."""

    tag: int
    result: Any


@dataclass(frozen=True, slots=True)
class InputsFetched:
    """The files of a task are there; `message`: a word of wire.TASK_MESSAGES says why not, `detail` more."""

    holder: int
    task: int
    attempt: int
    message: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class OutputsKept:
    """What a task left is kept; `message`, a word of wire.TASK_MESSAGES or a sentence: it is not, and why."""

    holder: int
    task: int
    attempt: int
    message: str = ""


@dataclass(frozen=True, slots=True)
class WorkerHello:
    """A worker connected; `held` has the [task, attempt] of what it was handed and has not told the end of."""

    connection: int
    unit: str
    incarnation: int
    token: str
    held: list[list[int]]


@dataclass(slots=True)
class WorkerSaid:
    """Messages of a worker, in order."""

    connection: int
    messages: list[list[Any]]


@dataclass(frozen=True, slots=True)
class WorkerGone:
    """The connection is closed and all that was said on it is heard."""

    connection: int


Event = (
    Asked
    | HandshakeAsked
    | Noticed
    | KeysRevoked
    | PeerLost
    | TimerFired
    | Started
    | Restored
    | Adopted
    | Vanished
    | ProbeAnswered
    | HookEnded
    | SpawnFailed
    | Exited
    | Emptied
    | HandshakeAnswered
    | MaskChecked
    | Sampled
    | LogRead
    | ConfigRead
    | Computed
    | TasksStaged
    | FollowSchedule
    | TaskReported
    | HandOver
    | Faulted
    | StopRequested
    | NodeNoticed
    | NodePeerLost
    | LinkUp
    | LinkDown
    | Welcomed
    | Refused
    | DaemonNoticed
    | Queued
    | SuiteFolderMade
    | Filed
    | InputsFetched
    | OutputsKept
    | WorkerHello
    | WorkerSaid
    | WorkerGone
)
