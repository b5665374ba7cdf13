"""What each node of the family is to run, as values; nothing here waits or talks."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from mgmt.core.schedule.workload import Node
from mgmt.protocol.errors import MgmtError

from .messages import POLICIES

MASK_CPUS = 64  # of cpu_affinity
NO_CPU_MASK = (1 << 64) - 1  # what the ancestor sends for a task that got no CPU
NAME_BYTES = 15  # of a task's name in the kernel: a node that finds tasks by it reports no more
MAX_HYPERPERIOD_US = (1 << 63) - 1


class Slot(NamedTuple):
    """A task on a node. Times in us; `policy` as SchedPolicy numbers it; `cpu` -1: it got none (compat)."""

    workload: str
    name: str
    priority: int
    policy: int
    period_us: int
    release_us: int
    runtime_us: int
    deadline_us: int
    cpu: int
    mask: int
    max_dmiss: int


@dataclass(frozen=True)
class NodePlan:
    """The tasks of one node. `hyperperiod_us`: after it they repeat; 0: unknown. `problem`: why they cannot be
    told in the family's messages; empty: they can.
    """

    hyperperiod_us: int
    slots: tuple[Slot, ...]
    problem: str = ""

    @property
    def workload_id(self) -> str:
        """The workloads that its tasks are of, with commas between them."""
        return ",".join(dict.fromkeys(slot.workload for slot in self.slots))

    @cached_property
    def _by_name(self) -> Mapping[str, tuple[Slot, ...]]:
        found: dict[str, list[Slot]] = {}
        for slot in self.slots:
            for name in {slot.name, short(slot.name)}:
                found.setdefault(name, []).append(slot)
        return {name: tuple(slots) for name, slots in found.items()}

    def named(self, name: str) -> Sequence[Slot]:
        """Tasks that a node may mean by `name`: the one of that very name, else those that it is cut from."""
        found = self._by_name.get(name, ())
        return [slot for slot in found if slot.name == name] or found


@dataclass(frozen=True)
class Plan:
    """Nodes that have tasks, by name. Equal plans are one generation: their nodes started together.

    `versions`: (workload, version) of each that has tasks here; one that was removed and came back is another.
    """

    nodes: Mapping[str, NodePlan] = field(default_factory=dict)
    versions: tuple[tuple[str, int], ...] = ()

    @property
    def fingerprint(self) -> str:
        """Equal for equal plans, in this process and the next one."""
        told = repr(
            (
                self.versions,
                sorted((name, node.hyperperiod_us, node.slots) for name, node in self.nodes.items()),
            )
        )
        return hashlib.sha256(told.encode("utf-8", "surrogatepass")).hexdigest()


def short(name: str) -> str:
    return name.encode("utf-8", "surrogatepass")[:NAME_BYTES].decode("utf-8", "ignore")


def in_force(reply: Mapping[str, Any], takes_part: Callable[[str], bool]) -> Plan:
    """The plan of a ScheduleReply with all its parts, less nodes that do not take part."""
    workloads = {row["workload"]: row for row in reply["workloads"]}
    slots: dict[str, list[Slot]] = {}
    problems: dict[str, str] = {}
    for row in reply["tasks"]:
        node = row["node"]
        if not takes_part(node):
            continue
        what = f"task {row['task']!r} of workload {row['workload']!r} on node {node!r}"
        if row["policy"] not in POLICIES:
            problems.setdefault(
                node, f"{what} has policy {row['policy']}, which messages of this family lack"
            )
            continue
        if row["cpu"] >= MASK_CPUS:
            problems.setdefault(node, f"{what} is on CPU {row['cpu']}, and a mask of this family ends at 63")
            continue
        slots.setdefault(node, []).append(
            Slot(
                row["workload"], row["task"], row["priority"], POLICIES.index(row["policy"]), row["period_us"],
                row["release_us"], row["wcet_us"], row["deadline_us"], row["cpu"], 1 << row["cpu"],
                row["max_dmiss"],
            )
        )  # fmt: skip
    nodes = {}
    for node in sorted({*slots, *problems}):
        mine = tuple(slots.get(node, ()))
        length_us = math.lcm(
            *(workloads[name]["hyperperiod_us"] for name in {slot.workload for slot in mine})
        )
        if length_us > MAX_HYPERPERIOD_US:
            problems.setdefault(node, f"the hyperperiod of the workloads on node {node!r} passes 63 bits")
        nodes[node] = NodePlan(length_us, mine, problems.get(node, ""))
    seen = {slot.workload for node in nodes.values() for slot in node.slots}
    return Plan(nodes, tuple(sorted((name, workloads[name]["version"]) for name in seen)))


def document(info: Any) -> dict[str, Any]:
    """A SchedInfo as a document for `schedule-submit`, which judges its fields.

    proto3 cannot tell a zero from nothing, so a deadline of 0 is none.
    """
    return {"workload_id": info.workload_id, "tasks": [_task(task) for task in info.tasks]}


def _task(task: Any) -> dict[str, Any]:
    told = {
        "name": task.name,
        "priority": task.priority,
        "policy": task.policy,
        "cpu_affinity": task.cpu_affinity,
        "period": task.period,
        "release_time": task.release_time,
        "runtime": task.runtime,
        "node_id": task.node_id,
        "max_dmiss": task.max_dmiss,
    }
    return told | ({"deadline": task.deadline} if task.deadline else {})


def check_masks(nodes: Iterable[Node]) -> None:
    """MgmtError `bad-workload` for a node with a CPU that the family's masks cannot name."""
    for node in nodes:
        beyond = [cpu for cpu in node.cpus if cpu >= MASK_CPUS]
        if beyond:
            text = f"node {node.name!r}: CPU {min(beyond)} cannot be told to it, whose masks end at CPU 63"
            raise MgmtError("bad-workload", f"{text}: leave it out of available_cpus")
