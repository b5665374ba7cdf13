"""Mode `compat`: the scheduling of Eclipse TIMPANI's C++ orchestrator, oddities included, and said to be so.

Names and texts are turned into the numbers `mgmt.kernel` works on, and its columns into the ancestor's
schedule. The placement rules are the kernel's; what is text is here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from mgmt import kernel

ALGORITHMS = ("target_node_priority", "best_fit_decreasing", "least_loaded")
DEFAULT_MEMORY_MB = 4096
NAME_BYTES = 15  # the ancestor's name[16], with its final 0
_WORD = (1 << 64) - 1
_ANY_MASKS = (0, 0xFFFF_FFFF)
_LEADING_INTEGER = re.compile(r"[ \t\n\v\f\r]*([+-]?[0-9]+)")


class CompatError(ValueError):
    """An input on which the ancestor would end."""


class Node(NamedTuple):
    """A node as configured: CPU order and duplicates kept, memory in MB."""

    name: str
    available_cpus: tuple[int, ...] = ()
    max_memory_mb: int = DEFAULT_MEMORY_MB


DEFAULT_NODE = Node("default_node", (0, 1, 2, 3))
"""What a loaded file without nodes means."""


class Task(NamedTuple):
    """A task as submitted, times in us. `affinity_mask`, where given, overrides `affinity`."""

    name: str
    workload_id: str = ""
    target_node: str = ""
    priority: int = 0
    policy: int = 0
    period_us: int = 0
    runtime_us: int = 0
    deadline_us: int = 0
    release_time_us: int = 0
    max_dmiss: int = 0
    affinity: str = ""
    memory_mb: int = 64
    affinity_mask: int | None = None


class Entry(NamedTuple):
    """One line of a node's schedule. CPU -1: a phantom, which the ancestor's executor puts on CPU 0."""

    task_name: str
    cpu: int
    period_ns: int
    runtime_ns: int
    deadline_ns: int
    release_time_us: int
    sched_policy: int
    sched_priority: int
    max_dmiss: int
    assigned_node: str


class Hyperperiod(NamedTuple):
    """Of one workload: modulo 2**64, 0 when no period is non-zero; every task is counted."""

    hyperperiod_us: int
    periods: tuple[int, ...]
    task_count: int


@dataclass(frozen=True)
class Placement:
    """What the ancestor's `schedule()` leaves behind.

    `assignments`: (node, CPU) per task in input order; ("", -1): dropped; (node, -1): phantom.
    `schedule`: node to entries in the order in which the scheduler took the tasks.
    """

    ok: bool
    assignments: tuple[tuple[str, int], ...]
    schedule: Mapping[str, tuple[Entry, ...]]
    hyperperiods: Mapping[str, Hyperperiod]

    @property
    def placed(self) -> int:
        return sum(cpu >= 0 for _, cpu in self.assignments)

    @property
    def phantom(self) -> int:
        return sum(node != "" and cpu == -1 for node, cpu in self.assignments)

    @property
    def unplaced(self) -> int:
        return sum(node == "" for node, _ in self.assignments)


def leading_integer(text: str) -> int | None:
    """The number rule: white space, sign, digits, the rest ignored. None: no digits, or outside 32 bits."""
    match = _LEADING_INTEGER.match(text)
    value = int(match[1]) if match else 1 << 31
    return value if -(1 << 31) <= value < 1 << 31 else None


def affinity_cpu(task: Task) -> int:
    """The one CPU id the ancestor makes of an affinity, or `kernel.NO_AFFINITY`.

    Of a mask the highest bit of the low 32; a mask with only higher bits means CPU 0.
    """
    if task.affinity_mask is not None:
        if task.affinity_mask in _ANY_MASKS:
            return kernel.NO_AFFINITY
        return max((task.affinity_mask & 0xFFFF_FFFF).bit_length() - 1, 0)
    if task.affinity in ("", "any"):
        return kernel.NO_AFFINITY
    cpu = leading_integer(task.affinity)
    return kernel.NO_AFFINITY if cpu is None else cpu


def hyperperiods(tasks: Sequence[Task]) -> dict[str, Hyperperiod]:
    by_workload: dict[str, list[int]] = {}
    for task in tasks:
        by_workload.setdefault(task.workload_id, []).append(task.period_us)
    return {
        workload: Hyperperiod(
            kernel.compat_hyperperiod(periods), tuple(sorted({p for p in periods if p})), len(periods)
        )
        for workload, periods in by_workload.items()
    }


def place(algorithm: str, nodes: Sequence[Node] | None, tasks: Sequence[Task]) -> Placement:
    """Run one algorithm. `nodes` None: the configuration was not loaded; empty: the one default node.

    An unknown algorithm, an empty task list and a missing configuration give `ok` False, not an error.
    """
    if nodes is None or algorithm not in ALGORITHMS or not tasks:
        return Placement(False, (("", -1),) * len(tasks), {}, hyperperiods(tasks))
    # A map of the ancestor: the last of equal ids counts, visited in byte order.
    known = {node.name: node for node in nodes or [DEFAULT_NODE]}
    ordered = sorted(known.values(), key=lambda node: node.name.encode())
    node_of, cpu_of = _columns(algorithm, ordered, tasks)
    assignments = tuple(
        (ordered[k].name if k >= 0 else "", cpu) for k, cpu in zip(node_of, cpu_of, strict=True)
    )
    order: Sequence[int] = range(len(tasks))
    if algorithm == "best_fit_decreasing":
        order = sorted(order, key=lambda i: -tasks[i].runtime_us)
    schedule: dict[str, list[Entry]] = {}
    for i in order:
        name, cpu = assignments[i]
        if name:
            schedule.setdefault(name, []).append(_entry(tasks[i], name, cpu))
    return Placement(
        bool(schedule), assignments, {k: tuple(v) for k, v in schedule.items()}, hyperperiods(tasks)
    )


def _columns(algorithm: str, nodes: Sequence[Node], tasks: Sequence[Task]) -> tuple[list[int], list[int]]:
    number = {node.name: k for k, node in enumerate(nodes)}
    offset = [0]
    cpus: list[int] = []
    for node in nodes:
        cpus.extend(node.available_cpus)
        offset.append(len(cpus))
    memory = [node.max_memory_mb for node in nodes]
    period = [task.period_us for task in tasks]
    runtime = [task.runtime_us for task in tasks]
    affinity = [affinity_cpu(task) for task in tasks]
    wanted = [task.memory_mb for task in tasks]
    if algorithm == "least_loaded":
        return kernel.compat_least_loaded(period, runtime, wanted, affinity, offset, cpus, memory)
    if algorithm == "best_fit_decreasing":
        target = [
            number.get(task.target_node, kernel.UNKNOWN) if task.target_node else kernel.UNSET
            for task in tasks
        ]
        return kernel.compat_best_fit_decreasing(
            period, runtime, wanted, target, affinity, offset, cpus, memory
        )
    target = [
        number.get(task.target_node, kernel.UNKNOWN) if task.workload_id else kernel.UNKNOWN for task in tasks
    ]
    return kernel.compat_target_node_priority(period, runtime, target, affinity, offset, cpus)


def _entry(task: Task, node: str, cpu: int) -> Entry:
    return Entry(
        task.name.encode()[:NAME_BYTES].decode(errors="ignore"), cpu,
        task.period_us * 1000 & _WORD, task.runtime_us * 1000 & _WORD, task.deadline_us * 1000 & _WORD,
        task.release_time_us, task.policy, task.priority, task.max_dmiss, node,
    )  # fmt: skip
