"""Messages about task suites: durable batch work, the workers that do it, and what agents say of them."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from mgmt.protocol import defaults, references
from mgmt.protocol.table import Audience, Message, Name, Need, NodeProblem, Role
from mgmt.protocol.table import enter_notice as notice
from mgmt.protocol.table import enter_request as request

# Of the group of the suite or task, which the handler finds out.
READ_IN_GROUP, WRITE_IN_GROUP = Need("group", Role.READ), Need("group", Role.WRITE)

SuiteState = Literal["OPEN", "CLOSED", "COMPLETE", "CANCELLED"]
TaskState = Literal["PENDING", "READY", "RUNNING", "FINISHED", "CANCELLED", "UNKNOWN", "FAILED"]
Strategy = Literal["round-robin", "exclusive", "shared"]
WorkerKind = Literal["process", "resident"]
SuiteKey = Annotated[
    str, Field(min_length=1, max_length=defaults.MAX_NAME_CHARS, description="its number, UUID or name")
]
TaskKey = Annotated[int, Field(ge=1, description="number of the task")]
Labels = Annotated[list[Name], Field(max_length=defaults.MAX_LABELS)]


def _given_by_hand(labels: list[str]) -> list[str]:
    for label in labels:
        if label.startswith(defaults.CANDIDATE_LABEL):
            raise ValueError(
                f"{label!r:.60} would say whose task of `mgmt candidates` it is, which only the daemon does: "
                f"choose a label that does not begin with {defaults.CANDIDATE_LABEL}"
            )
    return labels


OwnLabels = Annotated[Labels, AfterValidator(_given_by_hand)]
Tags = Annotated[list[Name], Field(max_length=defaults.MAX_NODE_TAGS)]
Clean = Annotated[str, Field(pattern=r"^[^\x00]*$")]
Variables = Annotated[
    dict[
        Annotated[str, Field(min_length=1, pattern=r"^[^=\x00]+$")],
        Annotated[str, Field(pattern=r"^[^\x00]*$")],
    ],
    Field(max_length=defaults.MAX_VARIABLES),
]
Arguments = Annotated[
    list[Clean],
    Field(min_length=1, max_length=defaults.MAX_ARGUMENTS),
]
Priority = Annotated[int, Field(ge=-(1 << 31), lt=1 << 31)]
# A task has many fields that are mostly absent, and a submission many tasks: a plain `[]` as the default is copied
# deeply for each of them, which takes longer than everything else that is checked.
NOTHING_LISTED: dict[str, Any] = {"default_factory": list, "json_schema_extra": {"default": []}}
NOTHING_NAMED: dict[str, Any] = {"default_factory": dict, "json_schema_extra": {"default": {}}}
Positive = Annotated[float, Field(gt=0, le=defaults.MAX_TASK_S)]


# ---- what a suite is -------------------------------------------------------------------------------------


class CpuBinding(Message):
    """Which CPUs the workers of a suite run on, in force before they are executed."""

    cores: list[Annotated[int, Field(ge=0, le=defaults.MAX_CPU)]] = Field(
        min_length=1, max_length=1024, description="CPUs of the node"
    )
    strategy: Strategy = Field(
        default="round-robin",
        description="round-robin: worker i gets cores[i mod n]; exclusive: equal parts, the rest to the last; "
        "shared: each gets all",
    )


class WorkerSchedule(Message):
    """How many workers each node runs for a suite, and where."""

    worker_count: int = Field(default=1, ge=1, le=defaults.MAX_WORKERS, description="workers on each node")
    cpu_binding: CpuBinding | None = Field(default=None, description="None: wherever the machine has room")
    task_prefetch_count: int = Field(
        default=defaults.TASK_PREFETCH,
        ge=1,
        le=4096,
        description="tasks fetched ahead for each worker, at most: what it does in 20 ms is enough",
    )
    kind: WorkerKind = Field(
        default="process",
        description="process: one for each task; resident: Python that calls functions",
    )

    @model_validator(mode="after")
    def _enough_cores(self) -> Self:
        binding = self.cpu_binding
        if binding is not None and binding.strategy == "exclusive" and self.worker_count > len(binding.cores):
            raise ValueError(
                f"{self.worker_count} workers cannot have one of {len(binding.cores)} cores each: use fewer "
                "workers, more cores, or another strategy"
            )
        return self


class IndependentWorker(WorkerSchedule):
    """What an independent worker runs; `lifetime_s` after its start it ends, with what it runs then."""

    lifetime_s: Positive | None = None


class Resource(Message):
    """A file put where a task or hook finds it, before it starts."""

    blob: Annotated[str, Field(min_length=1, max_length=1024)] = Field(
        description="`sha256:HEX`, `GROUP/KEY` of an attachment, or `task:NUMBER/KIND` of an artifact"
    )
    path: Annotated[str, Field(min_length=1, max_length=1024, pattern=r"^[^/\x00][^\x00]*$")] = Field(
        description="below the resource folder, without `..`"
    )

    @model_validator(mode="after")
    def _has_its_place(self) -> Self:
        if ".." in self.path.split("/"):
            raise ValueError(f"path {self.path!r} leaves the resource folder: write it without `..`")
        references.parse(self.blob)
        return self


class SuiteHook(Message):
    """A command run on each node of a suite, once."""

    args: Arguments = Field(description="argument vector")
    envs: Variables = {}
    resources: list[Resource] = Field(default=[], max_length=64)
    timeout_s: Positive | None = Field(
        default=None,
        description="None: ten minutes, two for cleanup; an hour at most, ten minutes for cleanup",
    )


class BackgroundHook(Message):
    """A command that runs beside the workers; it must stay up."""

    args: Arguments = Field(description="argument vector")
    envs: Variables = {}
    resources: list[Resource] = Field(default=[], max_length=64)
    policy: Literal["restart", "fail"] = Field(
        default="restart", description="when it ends: start it again, or abort the suite on this node"
    )


class SuiteHooks(Message):
    """What happens on a node before, beside and after the tasks of a suite."""

    provision: SuiteHook | None = Field(default=None, description="before the workers; failed: no work here")
    background: BackgroundHook | None = Field(default=None, description="beside the workers")
    cleanup: SuiteHook | None = Field(default=None, description="after the workers")

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        most = {"provision": defaults.MAX_PROVISION_S, "cleanup": defaults.MAX_CLEANUP_S}
        for which, most_s in most.items():
            hook: SuiteHook | None = getattr(self, which)
            if hook is not None and (hook.timeout_s or 0) > most_s:
                raise ValueError(
                    f"{which}: timeout_s is {hook.timeout_s:g}, a {which} hook has {most_s:g} at most"
                )
        return self


class SuiteCounters(Message):
    total: int
    pending: int = Field(description="tasks that have not ended")
    ready: int
    running: int
    finished: int = Field(description="tasks that ended, whatever their exit status")
    failed: int = Field(description="dead letters: given up after too many attempts")
    cancelled: int


class SuiteNode(Message):
    """A node that works on a suite, or may."""

    node: str
    selection: Literal["specified", "matched"] = Field(description="added by somebody, or by its tags")
    phase: Literal["", "preparing", "executing", "cleanup"] = Field(
        description="empty: not at work on it now"
    )
    workers: int
    reason: str = ""


class SuiteStatus(Message):
    """A suite and what became of its tasks so far."""

    suite: int = Field(description="its number")
    uuid: str
    name: str
    description: str
    group: str
    creator: str
    state: SuiteState
    reason: str = Field(description="why it was cancelled")
    priority: int
    tags: list[str]
    labels: list[str]
    worker: WorkerSchedule
    hooks: SuiteHooks
    tasks: SuiteCounters
    nodes: list[SuiteNode]
    created_at: float = Field(description="epoch seconds")
    submitted_at: float | None = Field(description="of the last task")
    completed_at: float | None


@request("suite-create", SuiteStatus, Audience.USER, WRITE_IN_GROUP)
class SuiteCreate(Message):
    """Create a suite: an open list of tasks, and how nodes work on them."""

    name: Name | None = Field(default=None, description="unique among the suites that are not ended")
    description: str = Field(default="", max_length=4096)
    group: Name | None = Field(default=None, description="the group it belongs to; your own when absent")
    tags: Tags = Field(default=[], description="a node must have all of these")
    labels: Labels = Field(default=[], description="for queries")
    priority: Priority = Field(default=0, description="suites with more go first")
    worker: WorkerSchedule = Field(default_factory=WorkerSchedule)
    hooks: SuiteHooks = Field(default_factory=SuiteHooks)


class SuitesReply(Message):
    suites: list[SuiteStatus]
    total: int = Field(description="how many there are, with those before `offset` and after the last")


@request("suites", SuitesReply, Audience.USER, READ_IN_GROUP)
class Suites(Message):
    """List suites, newest first."""

    suites: list[SuiteKey] = Field(default=[], max_length=1024, description="only these")
    group: Name | None = None
    tags: Tags = Field(default=[], description="that have all of these")
    labels: Labels = []
    states: list[SuiteState] = []
    limit: int = Field(default=100, ge=0, le=10_000)
    offset: int = Field(default=0, ge=0)


class SuiteCancelled(Message):
    suite: SuiteStatus
    cancelled: int = Field(description="tasks that will not run")


@request("suite-cancel", SuiteCancelled, Audience.USER, WRITE_IN_GROUP)
class SuiteCancel(Message):
    """Cancel a suite for good. Running tasks go on unless told otherwise; a second cancel changes nothing."""

    suite: SuiteKey
    reason: str = Field(default="", max_length=1024)
    cancel_running: bool = Field(default=False, description="end running tasks, too")


@request("suite-close", SuiteStatus, Audience.USER, WRITE_IN_GROUP)
class SuiteClose(Message):
    """Close a suite: nodes may leave it. A new task opens it again."""

    suite: SuiteKey


@request("suite-wait", SuiteStatus, Audience.USER, READ_IN_GROUP)
class SuiteWait(Message):
    """Wait until a suite is complete, or ended in any way; the request's deadline bounds it."""

    suite: SuiteKey
    condition: Literal["complete", "ended", "progress"] = Field(
        default="ended", description="progress: anything of it changed since `seen`"
    )
    seen: SuiteCounters | None = Field(default=None, description="of progress: what is known")


class SuiteAgentsReply(Message):
    added: list[str]
    removed: list[str]
    rejected: dict[str, str] = Field(description="why, by node")
    nodes: list[SuiteNode] = Field(description="all that may work on it now")


@request("suite-refresh", SuiteAgentsReply, Audience.USER, WRITE_IN_GROUP)
class SuiteRefresh(Message):
    """Match nodes by tags anew; this also happens whenever a suite or a node changes."""

    suite: SuiteKey


@request("suite-agents", SuiteAgentsReply, Audience.USER, WRITE_IN_GROUP)
class SuiteAgents(Message):
    """Have nodes work on a suite whatever their tags, or keep them from it."""

    suite: SuiteKey
    add: list[Name] = Field(default=[], max_length=1024)
    remove: list[Name] = Field(default=[], max_length=1024)


# ---- tasks -----------------------------------------------------------------------------------------------


class Retries(Message):
    """When a task that ran is run again."""

    limit: int = Field(ge=1, le=1000, description="runs after the first")
    on_exit: list[int] | Literal["any"] = Field(
        default="any", description="exit statuses that are worth it; signals as negative numbers"
    )
    delay_s: float = Field(default=0.0, ge=0, le=defaults.MAX_TASK_S, description="before each; doubles")


class Watch(Message):
    """Start only when another task has come this far."""

    task: TaskKey
    state: str = Field(max_length=32, description="an exec state, such as ExecSpawned or TaskCommitted")


class Task(Message):
    """One task: a command, or a Python function for resident workers."""

    args: Arguments | None = Field(default=None, description="argument vector of a process")
    function: Annotated[str, Field(max_length=256, pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$")] | None = (
        Field(default=None, description="`module:function` for a resident worker")
    )
    params: list[Any] = Field(**NOTHING_LISTED, max_length=256, description="of the function")
    kw: dict[str, Any] = Field(**NOTHING_NAMED, max_length=256, description="of the function, by name")
    envs: Variables = Field(**NOTHING_NAMED)
    cwd: Annotated[str, Field(min_length=1, max_length=4096)] | None = Field(
        default=None, description="working folder; a fresh one when absent"
    )
    timeout_s: Positive | None = Field(default=None, description="then it is ended with all it started")
    priority: Priority = Field(default=0, description="tasks with more go first")
    labels: OwnLabels = Field(**NOTHING_LISTED)
    terminal_output: bool = Field(default=False, description="keep all its output, as the artifact std-log")
    exec_log: bool = Field(
        default=False, description="keep what it leaves in $MITO_EXEC_DIR, as the artifact exec-log"
    )
    resources: list[Resource] = Field(**NOTHING_LISTED, max_length=256)
    retries: Retries | None = Field(
        default=None, description="None: an exit status is a result, whatever it is"
    )
    after: list[TaskKey] = Field(**NOTHING_LISTED, max_length=1024, description="tasks that must end first")
    after_condition: Literal["finished", "success"] = Field(
        default="finished",
        description="finished: whatever their exit status; success: with 0, else this one is cancelled",
    )
    watch: Watch | None = None

    @model_validator(mode="after")
    def _one_thing_to_do(self) -> Self:
        if (self.args is None) == (self.function is None):
            raise ValueError("give either `args` (a process) or `function` (for resident workers)")
        if self.function is None and (self.params or self.kw):
            raise ValueError("`params` and `kw` belong to a `function`")
        return self


class TaskResult(Message):
    """How a task ended."""

    exit_status: int | None = Field(description="exit code, or the negative number of the signal")
    message: str = Field(description="what else there is to say, such as ExecTimeout")
    tail: str = Field(description="the end of its output")
    value: Any = Field(default=None, description="what its function returned")


class TaskEnd(TaskResult):
    state: TaskState


class TasksSubmitted(Message):
    suite: int | None
    tasks: list[int] = Field(description="their numbers, in the order of the request")
    already: bool = Field(default=False, description="the key was used before, with the same tasks")
    ended: TaskEnd | None = Field(default=None, description="with `wait`: how the task ended")


@request("task-submit", TasksSubmitted, Audience.USER, WRITE_IN_GROUP)
class TaskSubmit(Message):
    """Submit tasks, all or none. Answered when they are durable; with `wait`, when the result is."""

    suite: SuiteKey | None = Field(
        default=None, description="None: independent tasks, for independent workers"
    )
    group: Name | None = Field(default=None, description="of independent tasks; your own when absent")
    tags: Tags = Field(default=[], description="of independent tasks: their worker must have all of these")
    tasks: list[Task] = Field(min_length=1, max_length=defaults.MAX_SUBMITTED_TASKS)
    key: Annotated[str, Field(min_length=1, max_length=128)] | None = Field(
        default=None, description="submitting again with the same key and tasks changes nothing"
    )
    wait: bool = Field(
        default=False,
        description="of one task: answer when it has ended; the request's deadline bounds that, not the task",
    )


class TaskStatus(Message):
    task: int
    uuid: str
    suite: int | None
    group: str
    state: TaskState
    exec_state: str
    priority: int
    labels: list[str]
    attempt: int = Field(description="how often it was handed to a worker")
    node: str
    worker: str
    command: str = Field(description="its first words")
    exit_status: int | None
    message: str
    submitted_at: float
    started_at: float | None
    finished_at: float | None


class TasksReply(Message):
    tasks: list[TaskStatus]
    total: int


class TaskFilter(Message):
    """Which tasks; all conditions hold."""

    tasks: list[TaskKey] = Field(default=[], max_length=10_000, description="only these")
    suite: SuiteKey | None = None
    group: Name | None = None
    creators: list[Name] = []
    states: list[TaskState] = []
    tags: Tags = []
    labels: Labels = []
    exit_status: Annotated[str, Field(pattern=r"^(=|!=|<|<=|>|>=)?-?\d+$")] | None = Field(
        default=None, description="a number, with = != < <= > >= before it"
    )
    priority: Annotated[str, Field(pattern=r"^(=|!=|<|<=|>|>=)?-?\d+$")] | None = None
    node: Name | None = Field(default=None, description="that ran, or runs, on it")


@request("tasks", TasksReply, Audience.USER, READ_IN_GROUP)
class Tasks(TaskFilter):
    """List tasks, by number."""

    limit: int = Field(default=100, ge=0, le=10_000)
    offset: int = Field(default=0, ge=0)
    count_only: bool = False


class TaskDetail(Message):
    """Everything that is known of a task."""

    status: TaskStatus
    spec: dict[str, Any]
    result: TaskResult | None
    upstream: list[int]
    downstream: list[int]
    failures: list[dict[str, Any]] = Field(
        description="deaths of workers that ran it: node, count, last, message"
    )
    lines: list[str] = Field(description="why it is where it is, most important first")
    artifacts: list[dict[str, Any]] = Field(description="kind, blob, bytes")


@request("task-show", TaskDetail, Audience.USER, READ_IN_GROUP)
class TaskShow(Message):
    """Show one task: what it does, where it is, how it ended, and why it does not run."""

    task: TaskKey


class TasksCancelled(Message):
    cancelled: int = Field(description="tasks that will not run")
    ending: int = Field(description="running tasks that are being ended")


@request("task-cancel", TasksCancelled, Audience.USER, WRITE_IN_GROUP)
class TaskCancel(TaskFilter):
    """Cancel tasks that have not ended; running ones are ended with all they started."""

    running: bool = Field(default=True, description="false: leave running ones alone")


class TasksRetried(Message):
    tasks: list[int] = Field(description="those that will run again")


@request("task-retry", TasksRetried, Audience.USER, WRITE_IN_GROUP)
class TaskRetry(TaskFilter):
    """Run tasks again that ended: failed and cancelled ones, and finished ones that are named."""


@request("task-change", TaskStatus, Audience.USER, WRITE_IN_GROUP)
class TaskChange(Message):
    """Change a task that waits to be run."""

    task: TaskKey
    priority: Priority | None = None
    add_labels: OwnLabels = []
    remove_labels: OwnLabels = []


@request("task-wait", TaskStatus, Audience.USER, READ_IN_GROUP)
class TaskWait(Message):
    """Wait until a task has come so far; the request's deadline bounds it."""

    task: TaskKey
    state: str = Field(default="TaskCommitted", max_length=32, description="an exec state; by default: ended")


# ---- workers ---------------------------------------------------------------------------------------------


class WorkerStatus(Message):
    """A worker: managed by a node for its suite, or independent."""

    worker: str
    node: str
    suite: int | None
    state: Literal["starting", "idle", "busy", "paused", "stopping", "down"]
    task: int | None
    done: int = Field(description="tasks since it was started")
    pid: int | None
    started_at: float | None = Field(default=None, description="of its process, in epoch seconds")
    cpus: list[int]
    tags: list[str]
    independent: bool = False
    kind: WorkerKind | None = None
    workers: int = Field(default=1, description="tasks it runs at a time")
    roles: dict[str, str] = Field(default={}, description="of the groups that have one on it")
    reason: str = Field(default="", description="why it is down, or what it waits for")


class WorkersReply(Message):
    workers: list[WorkerStatus]
    unreachable: list[NodeProblem] = Field(default=[], description="nodes that did not tell of theirs")


class WorkerFilter(Message):
    """Which workers; all conditions hold."""

    workers: list[Name] = Field(default=[], max_length=10_000, description="only these")
    tags: Tags = Field(default=[], description="that have all of these")
    group: Name | None = Field(default=None, description="to which this group may send work")


@request("workers", WorkersReply, Audience.USER, READ_IN_GROUP)
class Workers(WorkerFilter):
    """List workers."""

    node: Name | None = None
    suite: SuiteKey | None = None
    independent: bool | None = Field(default=None, description="true: only those; false: only managed ones")


@request("worker-shutdown", WorkersReply, Audience.USER, Need("worker", Role.ADMIN, "workers"))
class WorkerShutdown(WorkerFilter):
    """End independent workers when what they run has ended, and forget them."""

    force: bool = Field(default=False, description="at once; what they run is done again by others")


@request("worker-tags", WorkersReply, Audience.USER, Need("worker", Role.ADMIN, "worker"))
class WorkerTags(Message):
    """Change which tags an independent worker has."""

    worker: Name
    add: Tags = []
    remove: Tags = []


@request("worker-pause", WorkersReply, Audience.USER, Need("node", Role.ADMIN, "node"))
class WorkerPause(Message):
    """Have the workers of a node finish what they run and take nothing new, or go on."""

    node: Name
    paused: bool = Field(default=True, description="false: go on")


# ---- figures ---------------------------------------------------------------------------------------------


class Sample(Message):
    """One value of a metric; of a histogram, `name` ends in `_bucket`, `_sum` or `_count`."""

    name: str
    labels: dict[str, str] = {}
    value: float


class Metric(Message):
    """A metric as Prometheus has them."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    samples: list[Sample]


class MetricsReply(Message):
    metrics: list[Metric]


@request("metrics", MetricsReply, Audience.CLIENT)
class Metrics(Message):
    """Show figures of task suites, nodes and the queue, as Prometheus reads them."""


# ---- between a daemon and its agents ---------------------------------------------------------------------


@notice("crew-exchange", Audience.AGENT)
class CrewExchange(Message):
    """Agent to daemon: results of tasks, and how many more it can take; one `crew-work` follows.

    `number` grows from exchange to exchange of a holder; the same again has the same answer. One without outcomes
    may be answered late: when there is work. `outcomes`: see `mgmt.core.suites.crew`.
    """

    holder: int = Field(ge=1)
    number: int = Field(ge=1)
    want: int = Field(ge=0, le=1 << 20)
    outcomes: list[list[Any]] = Field(max_length=1 << 16)
    states: list[list[int]] = Field(max_length=1 << 16, description="[task, attempt, exec state]")


@notice("crew-work", Audience.AGENT)
class CrewWork(Message):
    """Daemon to agent: the outcomes of exchange `number` are committed, and these are its tasks."""

    holder: int = Field(ge=1)
    number: int = Field(ge=1)
    tasks: list[list[Any]] = Field(
        default=[], description="[task, attempt, spec, uuid, uuid of the upstream]"
    )
    cancelling: list[list[int]] = Field(default=[], description="[task, attempt] to be ended")
    stale: int = Field(default=0, description="outcomes that came too late to count")


@notice("crew-phase", Audience.AGENT)
class CrewPhase(Message):
    """Agent to daemon: where it is with its suite; `held`: the tasks that are here, after a restart."""

    holder: int = Field(ge=0, description="0: it has no suite")
    phase: Literal["preparing", "executing", "cleanup", "idle"]
    reason: str
    failed: bool = Field(description="it gave the suite up")
    completed: int = Field(ge=0)
    held: list[list[int]] | None = Field(description="[task, attempt]; others are done again")
    crowded: bool = Field(
        default=False,
        description="others have its CPUs; told anew without this when they are free",
        json_schema_extra={"since": 2},
    )
