"""Mode compat: the ancestor's own scheduler, held in this process, with its one workload at a time."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

from mgmt.core.schedule import compat
from mgmt.protocol.errors import MgmtError

from .plan import MASK_CPUS, NO_CPU_MASK, NodePlan, Plan, Slot

log = logging.getLogger(__name__)

RAW = "Apex.OS"  # a workload that the ancestor hands on as it is, unscheduled
MEMORY_MB = 256  # of every task that comes by gRPC
TIMES = ("period", "release_time", "runtime", "deadline")


class Compat:
    """Any workload replaces the one before; nothing is kept on disk, and the daemon knows nothing of it.

    Two things are not as they were: times below zero are refused, which became huge there, and a refused workload
    leaves the former one in force.
    """

    def __init__(self, nodes: Sequence[compat.Node], changed: Callable[[Plan], None]) -> None:
        self._nodes = nodes
        self._changed = changed
        self._version = time.time_ns()  # grows; other than that of a former process

    def canonical(self, node: str) -> str:
        return node

    async def submit(self, info: Any, timeout_s: float | None) -> None:
        """MgmtError: nothing was changed."""
        _check(info)
        name = info.workload_id
        nodes = self._raw(info) if name == RAW else self._placed(info)
        self._version += 1
        self._changed(Plan(nodes, ((name, self._version),)))

    async def start(self) -> None:
        self._changed(Plan())

    async def run(self) -> None:
        """Until cancelled; nothing changes by itself."""
        await asyncio.Event().wait()

    def _placed(self, info: Any) -> dict[str, NodePlan]:
        name = info.workload_id
        tasks = [
            compat.Task(
                task.name, name, task.node_id, task.priority, task.policy, task.period, task.runtime,
                task.deadline, task.release_time, task.max_dmiss, "", MEMORY_MB, task.cpu_affinity,
            )
            for task in info.tasks
        ]  # fmt: skip
        placement = compat.place("target_node_priority", self._nodes, tasks)
        length_us = placement.hyperperiods[name].hyperperiod_us if tasks else 0
        if not length_us:
            text = f"workload {name!r}: no task has a period, so there is no hyperperiod"
            raise MgmtError("not-schedulable", text, reason="no_valid_periods")
        if not placement.ok:
            known = ", ".join(node.name for node in self._nodes or [compat.DEFAULT_NODE])
            text = f"workload {name!r}: no task names a node with CPUs; known are {known}"
            raise MgmtError("not-schedulable", text, reason="no_schedulable_node")
        slots: dict[str, list[Slot]] = {}
        for task, (node, cpu) in zip(info.tasks, placement.assignments, strict=True):
            if not node:
                log.warning("task %r of workload %r was left out: node %r", task.name, name, task.node_id)
                continue
            if cpu < 0:
                log.warning("task %r of workload %r got no CPU of node %r, and is sent all the same",
                            task.name, name, node)  # fmt: skip
            slots.setdefault(node, []).append(_slot(name, task, cpu, NO_CPU_MASK if cpu < 0 else 1 << cpu))
        return {node: NodePlan(length_us, tuple(mine), _problem(node, mine)) for node, mine in slots.items()}

    def _raw(self, info: Any) -> dict[str, NodePlan]:
        slots: dict[str, list[Slot]] = {}
        for task in info.tasks:
            slots.setdefault(task.node_id, []).append(_slot(RAW, task, -1, task.cpu_affinity))
        return {node: NodePlan(0, tuple(mine)) for node, mine in slots.items()}


def _slot(workload: str, task: Any, cpu: int, mask: int) -> Slot:
    return Slot(
        workload, task.name, task.priority, task.policy, task.period, task.release_time, task.runtime,
        task.deadline, cpu, mask, task.max_dmiss,
    )  # fmt: skip


def _check(info: Any) -> None:
    """The one thing that is judged before the ancestor's rules: values that would wrap."""
    wrong = [
        f"tasks[{i}].{field}: task {task.name!r}: {field} is {getattr(task, field)}: must not be below 0 us"
        for i, task in enumerate(info.tasks)
        for field in TIMES
        if getattr(task, field) < 0
    ]
    if wrong:
        more = [f"and {len(wrong) - 20} more"] if len(wrong) > 20 else []
        raise MgmtError("bad-workload", "\n".join([*wrong[:20], *more]))


def _problem(node: str, slots: Sequence[Slot]) -> str:
    beyond = next((slot for slot in slots if slot.cpu >= MASK_CPUS), None)
    if beyond is None:
        return ""
    return (
        f"task {beyond.name!r} on node {node!r} is on CPU {beyond.cpu}, and a mask of this family ends at 63"
    )
