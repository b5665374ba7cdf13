"""THE message table: every request, reply, notice and event of the native protocol, declared once.

The command line's help, `proto/mgmt.schema.json`, docs/protocol.md and the golden frames in `proto/vectors/`
are derived from this module and from those it imports at its end. A model's docstring is its help text; a field's
description is its documentation.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from mgmt.protocol import defaults
from mgmt.protocol.frames import FrameError, Request
from mgmt.protocol.table import (
    EVENTS,
    NOTICES,
    REQUESTS,
    Audience,
    Message,
    Name,
    Need,
    NodeProblem,
    Role,
    Verb,
)
from mgmt.protocol.table import enter_event as _event
from mgmt.protocol.table import enter_notice as _notice
from mgmt.protocol.table import enter_request as _request

__all__ = ["EVENTS", "NOTICES", "REQUESTS", "Audience", "Message", "Need", "Role", "Verb", "validate"]


def _nearest(verb: str) -> str:
    near = get_close_matches(verb[:60], REQUESTS, 3, 0.6)
    return f"did you mean {' or '.join(near)}?" if near else "docs/protocol.md has all there are"


def validate(request: Request) -> Message:
    """The validated body; FrameError `unknown-verb`, or `bad-body` naming the first wrong field."""
    verb = REQUESTS.get(request.verb)
    if verb is None:
        raise FrameError(
            "unknown-verb",
            f"there is no request {request.verb!r:.60}; {_nearest(request.verb)}",
            request.id,
            request.session,
        )
    try:
        return verb.body.model_validate(request.body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "body"
        raise FrameError(
            "bad-body",
            f"{request.verb}: field `{field}`: {first['msg']}",
            request.id,
            request.session,
            field=field,
        ) from None


class Empty(Message):
    """No fields."""


__all__ = [
    "EVENTS",
    "NOTICES",
    "REQUESTS",
    "Audience",
    "Empty",
    "Message",
    "Name",
    "Verb",
    "validate",
]

# ---- shared shapes ---------------------------------------------------------------------------------------

Mode = Literal["direct", "relay"]
Secret = Annotated[str, Field(min_length=1, max_length=defaults.MAX_NAME_CHARS)]
MANAGES = Need("node", Role.ADMIN, "node")
UnitState = Literal["STOPPED", "STARTING", "RUNNING", "BACKOFF", "STOPPING", "EXITED", "FATAL"]
NodeState = Literal["ALIVE", "SUSPECT", "LOST"]
Tag = Annotated[
    str, Field(min_length=1, max_length=defaults.MAX_NAME_CHARS, pattern=r"^[A-Za-z0-9][A-Za-z0-9._+:-]*$")
]


class Lease(Message):
    """The right to send requests to a model, and where to."""

    lease: int = Field(description="number to put in every data tag")
    model: str
    mode: Mode
    endpoint: str = Field(description="where to connect a DEALER: the backend (direct) or the relay")
    unit: str | None = Field(description="the replica behind a direct lease; None for a relay")
    protocols: list[str] = Field(description="what the backend speaks, in wire-significant order")


class ExitRecord(Message):
    """How a process ended."""

    code: int | None = Field(description="exit status, None when a signal ended it")
    signal: int | None = Field(description="number of the signal that ended it")
    reason: str = Field(description="one line for people")
    at: float = Field(description="epoch seconds")


class UnitStatus(Message):
    """One supervised process."""

    unit: str
    model: str
    type: str
    state: UnitState
    ready: bool
    reason: str = Field(
        description="why it is in this state; ends in `when last heard of` while its process is looked for"
    )
    pid: int | None
    incarnation: int = Field(description="counts the starts of this unit")
    restarts: int = Field(description="restarts since the last load")
    started_at: float | None = Field(description="epoch seconds of the present process")
    uptime_s: float | None = Field(description="monotonic age of the present process")
    cpus: list[int] = Field(description="CPUs it is pinned to; empty: not pinned")
    cpu_percent: float | None
    memory_bytes: int | None = Field(description="resident memory")
    endpoint: str
    protocols: list[str]
    last_exit: ExitRecord | None
    next_start_s: float | None = Field(description="seconds until the next attempt, in BACKOFF")
    log: str = Field(description="path of the log file, on the machine it runs on")
    node: str | None = Field(default=None, description="the node that runs it; None: this machine")


class ServiceStatus(Message):
    """The daemon itself."""

    state: Literal["running", "stopping"]
    version: str
    pid: int
    epoch: int = Field(description="number of this run of the daemon; changes at every start")
    started_at: float
    uptime_s: float
    config: str = Field(description="path of the configuration, or `built-in`")
    control_endpoint: str
    relay_endpoint: str
    client_endpoint: str = Field(description="legacy handshake endpoint")
    cli_endpoint: str = Field(description="legacy JSON endpoint")
    sessions: int
    workloads: int = Field(description="workloads of periodic tasks that are in force")
    seq: int = Field(description="sequence number of the last event")
    counters: dict[str, int]
    degraded: str = Field(default="", description="why the queue of tasks cannot be written now")
    alerts: list[str] = Field(default=[], description="what somebody should look at, though all goes on")


# ---- sessions --------------------------------------------------------------------------------------------


class Welcome(Message):
    """The answer to a hello."""

    version: int
    session: int = Field(description="to be put into every frame of this session")
    epoch: int
    heartbeat_s: float = Field(description="send a heartbeat this often")
    session_timeout_s: float = Field(description="silence after which the session ends")
    max_frame_bytes: int
    lease: Lease | None


@_request("hello", Welcome, Audience.ANYBODY)
class Hello(Message):
    """Open a session: agree on a version, and optionally get a lease on a model at once."""

    versions: list[int] = Field(min_length=1, max_length=16, description="revisions the peer speaks")
    name: str = Field(
        default="", max_length=defaults.MAX_NAME_CHARS, description="who is speaking, for people"
    )
    model: Name | None = Field(default=None, description="model to lease; none: no lease")
    mode: Mode = "direct"
    token: Secret | None = Field(
        default=None, repr=False, description="speak as the user of this token; none: as the connection's own"
    )


@_notice("heartbeat")
class Heartbeat(Message):
    """I am alive. The daemon answers each with its own."""


@_notice("bye")
class Bye(Message):
    """The session ends now; its leases close."""


@_notice("session-gone")
class SessionGone(Message):
    """The daemon does not know this session (any more): say hello again."""


@_notice("lease-closed")
class LeaseClosed(Message):
    """A direct lease ended because its backend is gone: outstanding requests will not be answered."""

    lease: int
    unit: str
    reason: str


# ---- state -----------------------------------------------------------------------------------------------


class StatusReply(Message):
    service: ServiceStatus
    units: list[UnitStatus]


@_request("status", StatusReply, Audience.CLIENT)
class Status(Message):
    """Show the daemon and its units."""

    units: list[Name] = Field(
        default=[], max_length=1024, description="only these units or models; empty: all"
    )
    all: bool = Field(default=False, description="also those that were never started")


class Model(Message):
    """A model of the configuration and what is loaded of it."""

    model: str
    fullname: str
    type: str
    aliases: list[str]
    replicas: int
    ready: int = Field(description="replicas ready now")
    state: UnitState
    default: bool


class ModelsReply(Message):
    models: list[Model]


@_request("models", ModelsReply, Audience.CLIENT)
class Models(Message):
    """List the models of the configuration."""


class Loaded(Message):
    """The model is loaded; with several replicas, `endpoint` and `pid` are the first one's."""

    model: str
    type: str
    state: UnitState
    endpoint: str
    pid: int | None
    units: list[str]
    already: bool = Field(description="it was loaded before this request")


@_request("load-model", Loaded)
class LoadModel(Message):
    """Load a model: start its backend and answer when it is ready."""

    model: Name = Field(description="name, full name or alias")
    config_path: str | None = Field(
        default=None,
        max_length=4096,
        description="configuration file for the backend, when its command has a place for one",
    )
    wait: bool = Field(default=True, description="answer when ready; else as soon as it is starting")
    starting_after_ms: int | None = Field(
        default=None, ge=0, description="answer with state STARTING after this time if it is still alive"
    )


class Unloaded(Message):
    model: str
    units: list[str]


@_request("unload-model", Unloaded)
class UnloadModel(Message):
    """Unload a model: stop its backends with their whole process trees."""

    model: Name = Field(description="name, full name or alias")
    wait: bool = Field(default=True, description="answer when the last process is gone")


class Stopping(Message):
    message: str
    units: list[str] = Field(description="units that are being stopped")


@_request("stop-service", Stopping)
class StopService(Message):
    """Stop the daemon and every unit, in parallel, bounded by the longest grace."""


class Condition(Message):
    """A waited-for condition came true."""

    target: str
    condition: str
    state: UnitState


@_request("wait", Condition, Audience.CLIENT)
class Wait(Message):
    """Wait until a unit or model is in a condition; the request's deadline bounds it."""

    target: Name = Field(description="unit or model")
    condition: Literal["ready", "active", "stopped", "failed"] = "ready"


class Targets(Message):
    """What was asked for is done, or is under way when it was not waited for."""

    units: list[str]
    states: dict[str, UnitState]
    already: list[str] = Field(description="units of which nothing had to be changed")
    along: list[str] = Field(default=[], description="of a stop: units that were up and require one of these")


@_request("start", Targets)
class Start(Message):
    """Start units or models, after what they require; answered when they are ready."""

    targets: list[Name] = Field(min_length=1, max_length=1024, description="units or models")
    wait: bool = Field(default=True, description="answer when ready; else at once")


@_request("stop", Targets)
class Stop(Message):
    """Stop units or models, and before them whoever requires them, with their whole process trees."""

    targets: list[Name] = Field(min_length=1, max_length=1024, description="units or models")
    wait: bool = Field(default=True, description="answer when the last process is gone; else at once")


@_request("restart", Targets)
class Restart(Message):
    """Stop units or models, then start them again; answered when they are ready."""

    targets: list[Name] = Field(min_length=1, max_length=1024, description="units or models")
    wait: bool = Field(default=True, description="answer when ready; else at once")


@_request("reset-failed", Targets)
class ResetFailed(Message):
    """Forget failures: FATAL and EXITED units are STOPPED again, those in BACKOFF count from zero."""

    targets: list[Name] = Field(default=[], max_length=1024, description="units or models; empty: all")


class Action(Message):
    """One row of a plan."""

    unit: str
    action: Literal["start", "restart", "stop", "keep"]
    reason: str


class PlanReply(Message):
    """What the configuration changes. `daemon` names settings that only a restart of the daemon can change."""

    actions: list[Action]
    daemon: list[str]
    warnings: list[str]


@_request("plan", PlanReply)
class Plan(Message):
    """Show what applying a configuration would do, and do nothing."""

    config: dict[str, Any] | None = Field(
        default=None, description="its content; none: the daemon reads its own file"
    )
    path: str | None = Field(
        default=None, max_length=4096, description="file it came from; base of relative folders"
    )


@_request("apply", PlanReply)
class Apply(Message):
    """Make a configuration the one in force: start, restart and stop what differs, and only that."""

    config: dict[str, Any] | None = Field(
        default=None, description="its content; none: the daemon reads its own file"
    )
    path: str | None = Field(
        default=None, max_length=4096, description="file it came from; base of relative folders"
    )


class Explanation(Message):
    """Why a unit is where it is, or why it is not running."""

    unit: str
    state: UnitState
    reason: str
    lines: list[str] = Field(description="one fact each, most important first")
    holds: dict[str, Any] = Field(description="CPUs, GPUs and memory it has in the ledger now")
    place: dict[str, Any] = Field(description="the place it has in the plan")


@_request("explain", Explanation, Audience.CLIENT)
class Explain(Message):
    """Explain a unit: its state, its place, whom it waits for, its probes."""

    target: Name = Field(description="unit or model")


class DumpReply(Message):
    """The whole state, for people who look for a fault; its shape is not part of the contract."""

    state: dict[str, Any]


@_request("dump", DumpReply)
class Dump(Message):
    """Show the whole state of the daemon."""


# ---- leases ----------------------------------------------------------------------------------------------


@_request("lease", Lease, Audience.CLIENT)
class LeaseModel(Message):
    """Get the right to send requests to a model; with several replicas, to the least used one."""

    model: Name
    mode: Mode = "direct"
    load: bool = Field(default=False, description="load the model when it is not loaded")


@_request("release", Empty, Audience.CLIENT)
class Release(Message):
    """Give a lease back."""

    lease: int = Field(ge=0)


# ---- schedules -------------------------------------------------------------------------------------------

Algorithm = Literal["best_fit_decreasing", "least_loaded", "target_node_priority"]
Test = Literal["fp", "edf", "utilisation"]


class ScheduledTask(Message):
    """A periodic task on its CPU. Times in us."""

    workload: str
    task: str
    node: str
    cpu: int
    policy: Literal["fifo", "rr", "deadline", "normal"]
    priority: int
    period_us: int
    wcet_us: int = Field(description="worst-case execution time of one job")
    deadline_us: int = Field(description="after the release")
    release_us: int
    jitter_us: int
    memory_mb: int
    max_dmiss: int = Field(description="deadlines it may miss before that is a fault")
    target: str = Field(description="node it was bound to; empty: any")
    allowed: list[int] | None = Field(description="CPUs it was bound to; None: any")
    bound: Test = Field(description="the test its CPU passes")
    response_us: int | None = Field(description="worst response time, where the test gives one")
    slack_us: int | None = Field(description="how far its deadline lies behind that")


class ScheduleCpu(Message):
    """A CPU that takes periodic tasks."""

    node: str
    cpu: int
    tasks: int
    utilisation: float = Field(description="share of it that its tasks may use, 0 to 1")
    test: Test | None = Field(description="what its tasks are tested by; None: it has none")
    closed: str = Field(description="unit that keeps tasks off it; empty: none does")


class ScheduleChain(Message):
    """Tasks that hand data on one after the other."""

    chain: str
    tasks: list[str]
    deadline_us: int | None
    bound_us: int = Field(description="from the first input to the last output, at worst")


class Workload(Message):
    """What was admitted as one."""

    workload: str
    version: int = Field(description="of the schedule since its last change; 0: it is not in force")
    at: float = Field(description="epoch seconds of its submission")
    algorithm: Algorithm
    tasks: int
    nodes: list[str]
    hyperperiod_us: int
    chains: list[ScheduleChain]


class ScheduleReply(Message):
    """A part of the schedule: tasks from `offset` on, as many as fit into one message."""

    version: int = Field(
        description="number of the event that told the last change; parts of one version belong together"
    )
    workloads: list[Workload]
    cpus: list[ScheduleCpu] = Field(description="in the first part only")
    tasks: list[ScheduledTask] = Field(description="in order of workload and name")
    total: int = Field(description="tasks in all parts")
    next: int | None = Field(description="offset of the next part; None: this is the last one")


class ScheduleSubmitted(ScheduleReply):
    """The workload is in force, or would be: its tasks, and every CPU with them."""

    workload: str
    already: bool = Field(description="the same was in force before; nothing was changed")
    replaced: bool


@_request("schedule-submit", ScheduleSubmitted)
class ScheduleSubmit(Message):
    """Admit a workload of periodic tasks: all of them get CPUs where every deadline is kept, or none does."""

    documents: list[Any] = Field(
        min_length=1, max_length=64, description="YAML or JSON documents of one workload, parsed"
    )
    nodes: list[Any] = Field(
        default=[],
        max_length=64,
        description="documents of nodes, parsed; none: those of the workload, else this machine",
    )
    algorithm: Algorithm = Field(default="best_fit_decreasing", description="which CPUs are tried first")
    replace: bool = Field(default=False, description="take the place of a workload of the same name")
    dry_run: bool = Field(default=False, description="only say what would be; change nothing")


@_request("schedule-show", ScheduleReply, Audience.CLIENT)
class ScheduleShow(Message):
    """Show the periodic tasks that are in force, and where."""

    workload: Name | None = Field(default=None, description="only this workload; none: all")
    offset: int = Field(
        default=0, ge=0, description="tasks to leave out, of a schedule that takes several parts"
    )


class Percentiles(Message):
    """Durations of all jobs so far, in us; a percentile is at most 6.25 % above the true value."""

    mean_us: float
    p50_us: float
    p90_us: float
    p99_us: float
    max_us: float


class JobRecord(Message):
    """A completed job; instants on the monotonic clock of its node."""

    job: int = Field(description="its number; releases are counted from the common start")
    release_ns: int
    start_ns: int
    end_ns: int
    execution_ns: int = Field(description="CPU time of its thread")


class CpuSlice(Message):
    """One stay of a thread on a CPU; instants on the monotonic clock of its node."""

    start_ns: int
    end_ns: int
    thread: int
    cpu: int


class Observed(Message):
    """What the kernel says of all threads of a task's process, since it was bound to the task.

    An activation is from the waking of a thread to its going to sleep. None: the mechanism cannot tell.
    """

    mechanism: Literal["ebpf", "perf", "schedstat"]
    reason: str = Field(description="why it is not a better one, and what it lacks here")
    threads: int = Field(description="that there are now")
    switches: int = Field(description="away from a CPU")
    involuntary: int = Field(description="... because of a preemption, or of yielding")
    migrations: int | None = Field(description="from one CPU to another")
    cpu_us: float = Field(description="on a CPU")
    waited_us: float | None = Field(description="ready to run, without a CPU")
    activations: int | None = Field(description="complete")
    lost: int = Field(description="switches, or threads, that could not be followed")
    wakeup: Percentiles | None = Field(description="from waking to running")
    on_cpu: Percentiles | None = Field(description="on a CPU in one activation")
    response: Percentiles | None = Field(description="from waking to going to sleep")
    slices: list[CpuSlice] = Field(description="the last ones, when records were asked for; oldest first")


class TaskStatistics(Message):
    """What was measured of a periodic task that is a process."""

    workload: str
    task: str
    unit: str
    node: str
    cpu: int
    period_us: int
    deadline_us: int
    state: Literal["staged", "released", "unreadable"] = Field(
        description="staged: it waits for the common start; unreadable: its segment is gone or damaged"
    )
    t0_ns: int = Field(description="the common start, on the monotonic clock of its node; 0: none yet")
    offset_ns: int = Field(
        default=0, description="what makes such an instant one of the daemon's monotonic clock"
    )
    jobs: int = Field(description="completed")
    late: int = Field(description="completed after their deadlines")
    misses: int = Field(description="not complete at their deadlines, those skipped among them")
    skipped: int = Field(description="releases left out")
    unchecked: int = Field(description="whose records were gone before somebody looked")
    faults: int
    signals: int = Field(description="releases told by signal")
    jitter: Percentiles | None = Field(description="from release to start; none: nothing was measured")
    execution: Percentiles | None
    response: Percentiles | None = Field(description="from release to end")
    records: list[JobRecord] = Field(description="the last jobs, when they were asked for")
    observed: Observed | None = Field(
        default=None, description="by the kernel; none: it has no process, or off"
    )


class ScheduleStatistics(Message):
    """What was measured of tasks from `offset` on, as many as fit into one message."""

    tasks: list[TaskStatistics] = Field(description="those that are processes, in order of workload")
    next: int | None = Field(description="offset of the next part; none: this was the last")
    unreachable: list[NodeProblem] = Field(default=[], description="nodes whose tasks are left out")


@_request("schedule-stat", ScheduleStatistics, Audience.CLIENT)
class ScheduleStat(Message):
    """Show what was measured of tasks that are processes.

    Jobs, misses, release jitter, execution and response times.
    """

    workload: Name | None = Field(default=None, description="only this workload; none: all")
    units: list[Name] = Field(
        default=[],
        max_length=defaults.MEASURED_TASKS,
        description="only the tasks of these units; empty: all",
    )
    records: bool = Field(default=False, description="with the last 256 jobs, and slices of a CPU, of each")
    offset: int = Field(default=0, ge=0, description="tasks to leave out, when they take several parts")


class ScheduleRemoved(Message):
    workload: str
    tasks: int = Field(description="tasks that are gone")
    version: int


@_request("schedule-remove", ScheduleRemoved)
class ScheduleRemove(Message):
    """Take a workload and all its tasks out of the schedule."""

    workload: Name = Field(description="its name")


class TaskExplanation(Message):
    """Why a task is where it is, and what it could grow to."""

    task: ScheduledTask
    lines: list[str] = Field(description="one fact each, most important first")
    beside: list[ScheduledTask] = Field(description="tasks of its CPU, itself included; most urgent first")
    largest_wcet_us: int = Field(description="what its WCET could grow to, all else unchanged")


@_request("schedule-explain", TaskExplanation, Audience.CLIENT)
class ScheduleExplain(Message):
    """Explain a periodic task: its place, its worst response, and how much it could grow."""

    task: str = Field(
        min_length=1,
        max_length=2 * defaults.MAX_NAME_CHARS + 1,
        description="its name, or WORKLOAD/NAME where several have it",
    )


class ReportedMiss(Message):
    """A missed deadline that another program knows of."""

    workload: str = Field(max_length=4096)
    task: str = Field(max_length=defaults.MAX_NAME_CHARS)
    node: str = Field(max_length=defaults.MAX_NAME_CHARS)
    misses: int = Field(ge=0, description="of this task, this one included; 0: not known")


class FaultsReported(Message):
    faults: int = Field(description="how many events were made of them")


@_request("fault-report", FaultsReported)
class FaultReport(Message):
    """Tell the daemon of deadlines that were missed on nodes which are not its own."""

    source: Name = Field(description="who tells it")
    faults: list[ReportedMiss] = Field(min_length=1, max_length=1000)


class ScheduleMove(Message):
    """A task that changes its CPU."""

    workload: str
    task: str
    node: str
    cpu: int
    to_node: str
    to_cpu: int


class ScheduleRebalanced(Message):
    """Moves that lower the load of the fullest CPU; in this order, every deadline is kept after each of them."""

    version: int
    moves: list[ScheduleMove]
    before: float = Field(description="utilisation of the fullest CPU, 0 to 1")
    after: float
    applied: bool


@_request("schedule-rebalance", ScheduleRebalanced)
class ScheduleRebalance(Message):
    """Propose moves of periodic tasks that even out the load of the CPUs."""

    apply: bool = Field(default=False, description="make the moves; else only say them")


# ---- events and logs -------------------------------------------------------------------------------------


@_event("unit")
class UnitEvent(Message):
    """A unit changed its state."""

    seq: int
    at: float = Field(description="epoch seconds")
    unit: str
    model: str
    was: UnitState
    state: UnitState
    reason: str
    incarnation: int
    pid: int | None
    exit: ExitRecord | None
    node: str | None = Field(default=None, description="the node that runs it; None: this machine")


@_event("node")
class NodeEvent(Message):
    """A node changed its state."""

    seq: int
    at: float
    node: str
    was: NodeState
    state: NodeState
    reason: str


@_event("daemon")
class DaemonEvent(Message):
    """The daemon itself did something worth knowing."""

    seq: int
    at: float
    what: str
    reason: str


@_event("schedule")
class ScheduleEvent(Message):
    """Periodic tasks were admitted, moved or taken away, or a workload was refused."""

    seq: int = Field(
        description="also the version of the schedule from this change on; not of one that was refused or started"
    )
    at: float = Field(description="epoch seconds")
    what: Literal["submitted", "replaced", "removed", "refused", "rebalanced", "started"]
    workload: str = Field(
        description="empty when it concerns several, or was refused before its name was read"
    )
    reason: str


@_event("fault")
class FaultEvent(Message):
    """A periodic task was late, or is not watched; several of a kind are put together when they come fast."""

    seq: int
    at: float = Field(description="epoch seconds")
    what: Literal["miss", "fault", "lost", "executive", "observer"] = Field(
        description="miss: a job was not complete at its deadline; fault: misses reached max_dmiss; lost: its "
        "segment was damaged; executive, observer: about mgmt-executive, mgmt-observer itself"
    )
    workload: str
    task: str = Field(description="empty when it concerns all")
    node: str
    count: int = Field(description="how many there were since the last event of this kind about this task")
    job: int = Field(
        description="number of the job, of the last one; releases are counted from the common start"
    )
    misses: int = Field(description="in a row, up to that job")
    action: str = Field(description="of a fault: log, skip, kill, restart")
    reason: str
    source: str = Field(default="", description="who else told it; empty: the node's mgmt-executive")


class Snapshot(Message):
    """The state at `seq`, or the past events asked for; what follows comes as events `seq` + 1 and on."""

    seq: int
    epoch: int
    units: list[UnitStatus]
    events: list[dict[str, Any]] = Field(description="events after `since`, when it is still remembered")
    gap: bool = Field(description="`since` is older than what is remembered, or was never given here")


@_request("subscribe", Snapshot, Audience.CLIENT)
class Subscribe(Message):
    """Get a snapshot, then every event after it."""

    since: int | None = Field(default=None, ge=0, description="replay the events after this number first")
    epoch: int | None = Field(
        default=None, description="the epoch `since` was heard in; the numbers go on through all epochs"
    )
    follow: bool = Field(default=True, description="false: only the answer, no subscription")


class LogChunk(Message):
    unit: str
    path: str
    data: bytes
    offset: int = Field(description="where to go on")
    inode: int = Field(description="file the offset belongs to; a rotated file is finished first")


@_request("logs", LogChunk, Audience.CLIENT)
class Logs(Message):
    """Read a unit's log: its last lines, what was written lately, or what follows an earlier chunk."""

    unit: Name = Field(description="unit or model")
    lines: int = Field(default=20, ge=0, le=100_000, description="last lines, when no offset is given")
    since_s: float | None = Field(
        default=None,
        ge=0,
        description="not the last lines but what was written this many seconds ago and later, or a bit more",
    )
    offset: int | None = Field(default=None, ge=0)
    inode: int | None = None


# ---- backends --------------------------------------------------------------------------------------------


class BackendWelcome(Message):
    version: int
    session: int
    epoch: int
    heartbeat_s: float


@_request("backend-hello", BackendWelcome, Audience.BACKEND)
class BackendHello(Message):
    """A started backend names itself; repeated after every change of the daemon's epoch."""

    versions: list[int] = Field(min_length=1, max_length=16)
    unit: Name
    incarnation: int = Field(ge=1)
    token: str = Field(max_length=128, description="the secret it was started with")
    pid: int


@_request("backend-ready", Empty, Audience.BACKEND)
class BackendReady(Message):
    """The backend serves requests on its endpoint from now on."""

    unit: Name
    incarnation: int = Field(ge=1)
    token: str = Field(max_length=128)
    protocols: list[str] = Field(default=[], max_length=64)


@_notice("backend-heartbeat", Audience.BACKEND)
class BackendHeartbeat(Message):
    """The backend's own thread is alive; `queued` requests wait in it."""

    unit: Name
    incarnation: int = Field(ge=1)
    queued: int = Field(default=0, ge=0)


@_notice("drain", Audience.BACKEND)
class Drain(Message):
    """Daemon to backend: finish what you have, accept nothing new; SIGTERM follows."""


# ---- nodes -----------------------------------------------------------------------------------------------


class NodeStatus(Message):
    """A node: this machine (`local`), or one whose agent joined."""

    node: str
    state: NodeState
    reason: str = Field(description="why it is in this state")
    cordoned: bool = Field(description="nothing new is put on it")
    leaving: bool = Field(description="its agent is being stopped")
    drained: bool = Field(description="cordoned, and no process of a unit is left on it")
    tags: list[str]
    labels: dict[str, str]
    machine_id: str
    version: str
    pid: int | None = Field(description="of the agent, on its machine")
    seen_s: float | None = Field(description="since it was last heard; None for this machine")
    round_trip_ms: float | None
    clock_offset_ms: float | None = Field(
        description="its monotonic clock is behind this machine's by so much"
    )
    clock_error_ms: float | None = Field(description="the offset is right within this")
    units: int = Field(description="units assigned to it")
    processes: int = Field(description="units that have a process there")
    facts: dict[str, Any] = Field(description="CPUs, NUMA nodes, GPUs, memory and mechanisms of the machine")


class NodesReply(Message):
    nodes: list[NodeStatus]


@_request("nodes", NodesReply, Audience.CLIENT)
class Nodes(Message):
    """List the nodes, or show some of them."""

    nodes: list[Name] = Field(default=[], max_length=1024, description="only these; empty: all")


@_request("node-cordon", NodeStatus, Audience.USER, MANAGES)
class NodeCordon(Message):
    """Put nothing new on a node, or allow it again; what runs there is left alone."""

    node: Name
    cordoned: bool = Field(default=True, description="false: allow it again")


@_request("node-drain", NodeStatus, Audience.USER, MANAGES)
class NodeDrain(Message):
    """Cordon a node and stop its units; those that another node may run go on there."""

    node: Name
    wait: bool = Field(default=True, description="answer when no process is left on it; else at once")


@_request("node-shutdown", NodeStatus, Audience.USER, MANAGES)
class NodeShutdown(Message):
    """End the agent of a node, and its units with it; its next start starts them again.

    Tasks that run there are done again by others: drain the node before, to let them end. Answered when the agent
    was told.
    """

    node: Name
    force: bool = Field(default=False, description="kill its units at once; else each has its grace")


@_request("node-wait", NodeStatus, Audience.CLIENT)
class NodeWait(Message):
    """Wait until a node is alive, lost or drained; the request's deadline bounds it."""

    node: Name
    condition: Literal["alive", "lost", "drained"] = "alive"


@_request("node-tags", NodeStatus, Audience.USER, MANAGES)
class NodeTags(Message):
    """Give a node tags or take some away, those of its agent included."""

    node: Name
    add: list[Tag] = Field(default=[], max_length=defaults.MAX_NODE_TAGS, description="tags it gets")
    remove: list[Tag] = Field(default=[], max_length=defaults.MAX_NODE_TAGS, description="tags it loses")


class AgentExit(ExitRecord):
    """How a process of an agent ended, with the last lines of its log."""

    tail: str


class UnitReport(Message):
    """What an agent says of one of its units; `epoch` is that of the last assignment it has carried out."""

    unit: Name
    epoch: int = Field(ge=0)
    state: UnitState
    reason: str
    incarnation: int = Field(ge=0)
    has_process: bool
    leader_gone: bool
    pid: int | None
    age_s: float | None = Field(description="of the present process")
    restarts: int
    ready: bool
    protocols: list[str]
    exit: AgentExit | None
    next_start_s: float | None
    cpus: list[int]


class StageReport(Message):
    """What became of a `stage`; told again with every hello."""

    workload: str
    generation: int = Field(ge=0)
    started: bool = Field(description="it has its common start already, and goes on")
    error: dict[str, Any] = Field(
        default={}, description="code, text and detail of why it cannot be; empty: it is staged"
    )


class NodeWelcome(Message):
    """The answer to an agent's hello; pushes follow."""

    version: int
    session: int = Field(description="to be put into every frame of this session")
    epoch: int = Field(description="number of this run of the daemon: pushes are numbered anew in each")
    heartbeat_s: float
    lost_s: float = Field(description="silence after which either side gives the other up")
    token: str = Field(description="proves the connection that carries requests to models")
    resumed: bool = Field(
        description="pushes go on after the acknowledged one; else they are numbered from 1"
    )
    faults: int | None = Field(
        default=None,
        description="number of the last fault that was heard of; later ones are told; None: new ones",
    )


@_request("agent-hello", NodeWelcome, Audience.AGENT)
class AgentHello(Message):
    """An agent joins, or comes back: who it is, what its machine has, and everything it runs."""

    versions: list[int] = Field(min_length=1, max_length=16)
    node: Tag = Field(description="name of the node")
    agent: str = Field(
        max_length=64, description="id of the agent's state folder, which has one agent at a time"
    )
    machine_id: str = Field(max_length=128)
    incarnation: int = Field(ge=0, description="random number of this run of the agent")
    started_at: float = Field(description="epoch seconds")
    version: str = Field(max_length=64)
    pid: int
    tags: list[Tag] = Field(default=[], max_length=defaults.MAX_NODE_TAGS)
    labels: dict[str, str] = Field(default={}, max_length=defaults.MAX_NODE_TAGS)
    facts: dict[str, Any] = Field(default={})
    epoch: int = Field(default=0, ge=0, description="run of the daemon whose pushes it knows; 0: none")
    acked: int = Field(default=0, ge=0, description="number of the last push of that run it has carried out")
    log_dir: str = Field(default="", max_length=4096)
    units: list[UnitReport] = Field(default=[], max_length=100_000)
    token: Secret | None = Field(
        default=None, repr=False, description="a node's token: its user manages a node that has nobody yet"
    )
    groups: list[str] = Field(
        default=[],
        max_length=defaults.MAX_NODE_TAGS,
        description="what such a node gives: NAME[:ROLE], or write",
    )
    staged: list[StageReport] = Field(default=[], max_length=100_000)
    worker: mgmt.protocol.messages_suites.IndependentWorker | None = Field(
        default=None, description="it is an independent worker, and no node"
    )


@_notice("agent-heartbeat", Audience.AGENT)
class AgentHeartbeat(Message):
    """The agent is alive; `clock_ns` comes back with the daemon's own."""

    clock_ns: int = Field(ge=0, description="the agent's monotonic clock")
    acked: int = Field(ge=0)
    round_trip_ns: int | None = Field(default=None, ge=0)
    offset_ns: int | None = Field(default=None, description="daemon's monotonic clock less the agent's")


@_notice("agent-report", Audience.AGENT)
class AgentReport(Message):
    """What changed on a node. `acked` is the last push up to which all are carried out and written down."""

    acked: int = Field(ge=0)
    units: list[UnitReport] = Field(default=[], max_length=100_000)
    staged: list[StageReport] = Field(default=[], max_length=100_000)
    usage: dict[str, list[float | None]] = Field(
        default={}, description="[CPU per cent, resident bytes] by unit", max_length=100_000
    )
    leaving: bool = Field(default=False, description="the agent is being stopped")
    faults: list[dict[str, Any]] = Field(
        default=[],
        max_length=1000,
        description="FaultEvents of tasks, numbered as in the agent's own journal",
    )
    counts: dict[str, dict[str, float]] = Field(
        default={},
        max_length=64,
        description="what its workers and hooks count since the agent was started, by metric, then by label",
        json_schema_extra={"since": 2},
    )


@_notice("agent-answer", Audience.AGENT)
class AgentAnswer(Message):
    """The answer of an agent to `node-ask`."""

    ask: int = Field(ge=0)
    outcome: str
    body: dict[str, Any]


@_notice("node-heartbeat", Audience.AGENT)
class NodeHeartbeat(Message):
    """Daemon to agent: the agent's clock of its heartbeat, and the daemon's when it came."""

    clock_ns: int = Field(ge=0)
    daemon_ns: int = Field(ge=0, description="the daemon's monotonic clock")
    next_ns: int = Field(ge=0, description="when the next heartbeat is due, from the arrival of this one")


@_notice("node-push", Audience.AGENT)
class NodePush(Message):
    """Daemon to agent: one numbered word about what the node shall run; kept until it is acknowledged.

    assign: a unit's specification and whether it shall be up; keep: these units are the node's, no others;
    drop: forget one; reset: forget the failures of one. Of tasks that are processes, by workload and generation:
    stage: lay down and watch their segments beside those of other generations, a `staged` of a report follows;
    start: release them from this instant of the agent's monotonic clock on; hold: these generations, no others.
    suite: work on this one; suite-end: leave it; suite-cancel: end some of its tasks; suite-pause: take none.
    """

    seq: int = Field(ge=1)
    what: Literal[
        "assign", "keep", "drop", "reset", "stage", "start", "hold",
        "suite", "suite-end", "suite-cancel", "suite-pause", "shutdown",
    ]  # fmt: skip
    body: dict[str, Any]


@_notice("node-ask", Audience.AGENT)
class NodeAsk(Message):
    """Daemon to agent: a question somebody asked about units of it; one `agent-answer` follows."""

    ask: int = Field(ge=0)
    verb: Literal["logs", "explain", "schedule-stat"]
    body: dict[str, Any]
    timeout_ms: int = Field(ge=0)


@_notice("node-gone", Audience.AGENT)
class NodeGone(Message):
    """Daemon to agent: the session is unknown or ended; say hello again."""


# Their rows follow these.
import mgmt.protocol.messages_blobs  # noqa: E402
import mgmt.protocol.messages_candidates  # noqa: E402
import mgmt.protocol.messages_suites  # noqa: E402
import mgmt.protocol.messages_users  # noqa: E402

AgentHello.model_rebuild()
