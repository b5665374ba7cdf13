"""Tasks that are processes: how a document says so, and the unit and the plan that each becomes."""

from __future__ import annotations

from functools import cache
from typing import TypeVar

from pydantic import ValidationError

from mgmt.core.effect import TaskPlan
from mgmt.core.supervision import UnitSpec
from mgmt.protocol import defaults
from mgmt.settings import ModelSettings, UnitSettings

from .fields import Fields, shown
from .workload import LOCAL, Overrun, Release, Task, Workload

RELEASES: tuple[Release, ...] = ("self", "signal")
T = TypeVar("T", Release, Overrun)
OVERRUNS: tuple[Overrun, ...] = ("log", "skip", "kill", "restart")


def unit_name(workload: str, task: str) -> str:
    return f"{workload}.{task}"


def unit_names(workload: Workload) -> set[str]:
    """The units that its tasks become."""
    return {unit_name(workload.name, task.name) for task in workload.tasks if task.command}


def run_of(task: Task, fields: Fields) -> Task:
    """The task with how it is run; what is wrong is told."""
    command = fields["command"]
    if "command" not in fields:
        for field in ("released", "overrun", "locked"):
            if field in fields:
                fields.wrong(
                    field, f"{fields.key(field)} belongs to a task with a `command`, which this has not"
                )
        return task
    if not isinstance(command, list) or not all(isinstance(item, str) for item in command):
        fields.wrong("command", f"command is {shown(command)}: must be a list of texts, the program first")
        return task
    try:
        UnitSettings(command=tuple(command))
    except ValidationError as error:
        fields.wrong("command", f"command: {error.errors(include_url=False)[0]['msg']}")
        return task
    release: Release = _one_of(fields, "released", RELEASES)
    overrun: Overrun = _one_of(fields, "overrun", OVERRUNS)
    locked = "locked" in fields and fields["locked"]
    if not isinstance(locked, bool):
        fields.wrong("locked", f"memory_locked is {shown(locked)}: must be true or false")
        return task
    if task.policy == "deadline":
        text = "policy deadline has no `command`: the kernel takes such a process off the CPU that is proven"
        fields.wrong("policy", f"{text}; use fifo or rr")
    if task.release_us >= task.period_us:
        text = f"release_us is {task.release_us}: with a `command` it must be below the period"
        fields.wrong("release", text)
    if overrun in ("kill", "restart") and not task.max_dmiss:
        fields.wrong("overrun", f"overrun {overrun} acts on faults: set max_dmiss to 1 or more")
    if release == "signal" and (task.max_dmiss or overrun != "log"):
        text = "when a job of a task that is released by signal ends is not known: leave out max_dmiss and overrun"
        fields.wrong("released", text)
    return Task(
        **{name: getattr(task, name) for name in _GIVEN},
        command=tuple(command),
        release=release,
        overrun=overrun,
        memory_locked=locked,
    )


_GIVEN = (
    "name", "period_us", "wcet_us", "deadline_us", "priority", "policy", "release_us", "jitter_us",
    "node", "cpus", "memory_mb", "max_dmiss",
)  # fmt: skip


def _one_of(fields: Fields, field: str, known: tuple[T, ...]) -> T:
    for value in known:
        if fields[field] == value:
            return value
    if field in fields:
        fields.wrong(
            field, f"{fields.key(field)} is {shown(fields[field])}: must be one of {', '.join(known)}"
        )
    return known[0]


def name_fault(workload: str, task: Task) -> str:
    """Why no unit can have the name of a task with a command; empty when one can."""
    name = unit_name(workload, task.name)
    try:
        ModelSettings(name=name, type="unit")
    except ValidationError as error:
        return f"with a `command` it is unit {name!r}, which {error.errors(include_url=False)[0]['msg']}"
    if len(task.name.encode()) > 63:
        return "with a `command` its name has at most 63 bytes"
    return ""


def unit_of(workload: str, task: Task, node: str, cpu: int, version: int) -> UnitSpec:
    """The unit of a task that is on this CPU.

    Its variable MGMT_RT names its segment without the folder, which the node's own shell knows.
    """
    name = unit_name(workload, task.name)
    urgent = task.policy in ("fifo", "rr")
    backend = _plain_unit(task.policy if urgent else "other", task.priority if urgent else None, task.overrun)
    # What is said of one task was checked with its document: to validate it again takes longer than to admit it.
    backend = backend.model_copy(
        update={
            "command": task.command,
            "cpus": str(cpu),
            "env": {"MGMT_RT": segment_name(name, version)},
            "node": None if node == LOCAL else node,
        }
    )
    model = _PLAIN_MODEL.model_copy(update={"name": name})
    return UnitSpec(name, model, backend, admitted=True)


_PLAIN_MODEL = ModelSettings(name="task", type="unit")


@cache
def _plain_unit(policy: str, priority: int | None, overrun: Overrun) -> UnitSettings:
    """What tasks of this kind have in common."""
    return UnitSettings.model_validate(
        {
            "command": ("/bin/true",),
            "scheduling": {"policy": policy} | ({} if priority is None else {"priority": priority}),
            # Killed for its lateness is killed; whoever wants it back says restart.
            "restart": {"policy": "no" if overrun == "kill" else "on-failure"},
            "autostart": True,
            "grace_s": defaults.TASK_GRACE_S,
        }
    )


def segment_name(unit: str, version: int) -> str:
    """The file of its segment; another version is another start."""
    return f"{unit}.{version}"


def plan_of(workload: str, task: Task, hyperperiod_us: int) -> TaskPlan:
    """When its process is released."""
    by_signal = task.release == "signal"
    return TaskPlan(
        unit=unit_name(workload, task.name),
        period_us=task.period_us,
        release_us=task.release_us,
        deadline_us=0 if by_signal else task.deadline_us,
        hyperperiod_us=hyperperiod_us,
        overrun=task.overrun,
        max_dmiss=task.max_dmiss,
        memory_locked=task.memory_locked,
        by_signal=by_signal,
    )


def version_of(spec: UnitSpec) -> int:
    """The version of the segment that the unit's process uses; -1 when it is no such unit."""
    number = spec.backend.env.get("MGMT_RT", "").rpartition(".")[2]
    return int(number) if number.isdigit() else -1
