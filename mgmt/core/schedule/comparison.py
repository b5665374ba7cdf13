"""Two algorithms or modes on one workload, side by side: where they differ, and what of it would be late."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mgmt import kernel
from mgmt.protocol.errors import MgmtError

from . import compat
from .admission import ALGORITHMS, Placed, Test, level_of, place
from .workload import Node, Policy, Task, Workload, mask_of

Mode = Literal["strict", "compat"]
_POLICY_NUMBERS: dict[Policy, int] = {"normal": 0, "fifo": 1, "rr": 2, "deadline": 6}


@dataclass(frozen=True, slots=True)
class Engine:
    """What runs: `strict:best_fit_decreasing`."""

    mode: Mode
    algorithm: str

    def __str__(self) -> str:
        return f"{self.mode}:{self.algorithm}"


def engine_of(text: str) -> Engine:
    """MgmtError `bad-body` for one that there is not."""
    mode, _, algorithm = text.partition(":")
    for known in ("strict", "compat"):
        if mode == known and algorithm in ALGORITHMS:
            return Engine("strict" if mode == "strict" else "compat", algorithm)
    text = f"{text!r} is no engine: MODE:ALGORITHM, strict or compat, and one of {', '.join(ALGORITHMS)}"
    raise MgmtError("bad-body", text)


@dataclass(frozen=True, slots=True)
class Outcome:
    """`places`: (node, CPU) of each task by name; ("", -1): none; (node, -1): a phantom, on no CPU.

    `late`: tasks that would miss deadlines there. `refusal`: why strict placed nothing.
    """

    places: dict[str, tuple[str, int]]
    late: tuple[str, ...] = ()
    refusal: MgmtError | None = None

    def told(self) -> dict[str, Any]:
        spots = list(self.places.values())
        return {
            "placed": sum(cpu >= 0 for _, cpu in spots),
            "phantom": sum(cpu < 0 and node != "" for node, cpu in spots),
            "unplaced": sum(node == "" for node, _ in spots),
            "late": list(self.late),
            "refusal": self.refusal.text if self.refusal else None,
        }


def compared(left: Engine, right: Engine, workload: Workload, nodes: Sequence[Node]) -> dict[str, Any]:
    """The outcomes and, of every task that got different places, both."""
    one = run(left, workload, nodes)
    other = one if left == right else run(right, workload, nodes)
    differences = [
        {"task": task.name, "left": _spot(one.places[task.name]), "right": _spot(other.places[task.name])}
        for task in workload.tasks
        if one.places[task.name] != other.places[task.name]
    ]
    return {
        "workload": workload.name,
        "tasks": len(workload.tasks),
        "left": one.told(),
        "right": other.told(),
        "differences": differences,
    }


def run(engine: Engine, workload: Workload, nodes: Sequence[Node]) -> Outcome:
    if engine.mode == "compat":
        return judged(workload, compat_placement(engine.algorithm, workload, nodes).assignments)
    try:
        algorithm = next(known for known in ALGORITHMS if known == engine.algorithm)
        schedule = place(workload, nodes, algorithm=algorithm)
    except MgmtError as refusal:
        return Outcome({task.name: ("", -1) for task in workload.tasks}, refusal=refusal)
    return Outcome({placed.task.name: (placed.node, placed.cpu) for placed in schedule.placed})


def compat_placement(algorithm: str, workload: Workload, nodes: Sequence[Node]) -> compat.Placement:
    """What the ancestor would do with the same tasks; no nodes mean its own default node."""
    return compat.place(
        algorithm,
        [compat.Node(node.name, node.cpus, node.memory_mb) for node in nodes],
        [
            compat.Task(
                task.name, workload.name, task.node, task.priority, _POLICY_NUMBERS[task.policy],
                task.period_us, task.wcet_us, task.deadline_us, task.release_us, task.max_dmiss,
                memory_mb=task.memory_mb, affinity_mask=mask_of(task.cpus) or 0,
            )
            for task in workload.tasks
        ],
    )  # fmt: skip


def judged(workload: Workload, assignments: Iterable[tuple[str, int]]) -> Outcome:
    """A placement that was made without an exact test, with the tasks that are late in it."""
    places = dict(zip((task.name for task in workload.tasks), assignments, strict=True))
    on: dict[tuple[str, int], list[Task]] = {}
    for task in workload.tasks:
        if places[task.name][1] >= 0:
            on.setdefault(places[task.name], []).append(task)
    late = {
        task.name
        for tasks in on.values()
        for task, r in responses(tasks)
        if r is None or r > task.deadline_us
    }
    return Outcome(places, tuple(task.name for task in workload.tasks if task.name in late))


def responses(tasks: Sequence[Task]) -> list[tuple[Task, int | None]]:
    """Worst response of each task of one CPU; None: late. A deadline task precedes every fixed priority."""
    dynamic = [task for task in tasks if task.policy == "deadline"]
    kept = not dynamic or kernel.edf_schedulable(*_columns(dynamic), jitter=[t.jitter_us for t in dynamic])
    found: list[tuple[Task, int | None]] = [(task, task.deadline_us if kept else None) for task in dynamic]
    for task in tasks:
        if task.policy == "deadline":
            continue
        ahead = [
            other
            for other in tasks
            if other is not task and (other.policy == "deadline" or level_of(other) >= level_of(task))
        ]
        chosen = [*ahead, task]
        response_us = kernel.response_times(*_columns(chosen), jitter=[t.jitter_us for t in chosen])[-1]
        found.append((task, response_us if response_us >= 0 else None))
    return found


def as_placed(workload: Workload, outcome: Outcome) -> list[Placed]:
    """For a picture: the tasks that have a CPU, late ones without a response."""
    test: Test = "edf" if {task.policy for task in workload.tasks} == {"deadline"} else "fp"
    on: dict[tuple[str, int], list[Task]] = {}
    for task in workload.tasks:
        if outcome.places[task.name][1] >= 0:
            on.setdefault(outcome.places[task.name], []).append(task)
    return [
        Placed(workload.name, task, node, cpu, r, None if r is None else task.deadline_us - r, test)
        for (node, cpu), tasks in sorted(on.items())
        for task, r in responses(tasks)
    ]


def _columns(tasks: Sequence[Task]) -> tuple[list[int], list[int], list[int]]:
    return (
        [task.wcet_us for task in tasks],
        [task.period_us for task in tasks],
        [task.deadline_us for task in tasks],
    )


def _spot(place: tuple[str, int]) -> dict[str, Any]:
    return {"node": place[0], "cpu": place[1]}
