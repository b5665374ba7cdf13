"""What is in force, and what may join it: every workload with the CPUs of its tasks, beside the units.

Pure functions of a snapshot, worked by a thread: the state that they are asked about may have changed when they
are done, which `Schedules` looks after.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from mgmt.protocol import defaults
from mgmt.protocol.errors import MgmtError

from .admission import Algorithm, Placed, Schedule, Test, place
from .analysis import analysed
from .documents import read
from .processes import unit_names
from .workload import LOCAL, Node, Workload


@dataclass(frozen=True, slots=True)
class Entry:
    """A workload in force.

    `workload` has the nodes that it may use, this machine under the name `local`. `cpus`: (node, CPU) of each of
    its tasks, in their order. `version`: number of the event that told its last change; `at`: of its submission,
    epoch seconds. `generation`: of its segments; whatever moves it is another one. `t0_ns`: the common start
    of its processes on the monotonic clock of this boot, `t0_real_ns`: on the wall clock of then; 0: none yet.
    Processes that are not `started` are to enter the grid of that start.
    """

    workload: Workload
    algorithm: Algorithm
    test: Test
    hyperperiod_us: int
    cpus: tuple[tuple[str, int], ...]
    version: int = 0
    at: float = 0.0
    generation: int = 0
    t0_ns: int = 0
    t0_real_ns: int = 0
    started: bool = False

    def placed(self) -> list[Placed]:
        """Its tasks where they are; their responses are not known here."""
        return [
            Placed(self.workload.name, task, node, cpu, None, None, self.test)
            for task, (node, cpu) in zip(self.workload.tasks, self.cpus, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that admission depends on, at one moment; `version` is that of the entries.

    `local`: this machine, `host`: what it calls itself; `free_mb`: the memory of it that units leave; `closed`:
    the unit that keeps tasks off a CPU of it, by CPU; `configured`: names that the configuration has taken.
    """

    entries: Mapping[str, Entry]
    version: int
    local: Node
    host: str
    free_mb: int
    closed: Mapping[int, str]
    configured: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Admitted:
    """What a submission leads to; `placed` is all that is on the nodes of the workload, with worst responses."""

    entry: Entry
    placed: tuple[Placed, ...]
    already: bool
    replaced: bool


def admit(
    snapshot: Snapshot, documents: Sequence[Any], nodes: Sequence[Any], algorithm: Algorithm, replaces: bool
) -> Admitted:
    """Place a workload beside everything in force.

    MgmtError `bad-workload`, `not-schedulable`, or `conflict`: the name is taken, or a node is described in
    another way than by a workload in force.
    """
    workload = at_home(read(documents, nodes), snapshot)
    name = workload.name
    former = snapshot.entries.get(name)
    if former is not None and _same(former.workload, workload) and former.algorithm == algorithm:
        return Admitted(former, on_nodes(snapshot.entries, workload), already=True, replaced=False)
    if former is not None and not replaces:
        text = f"workload {name!r} is in force already, and differs"
        text += ": submit it with --replace, or under another name"
        raise MgmtError("conflict", text, workload=name)
    others = [entry for other, entry in snapshot.entries.items() if other != name]
    for node in workload.nodes:
        _agree(node, name, others)
    _countable(workload, others)
    taken = unit_names(workload) & snapshot.configured
    taken |= unit_names(workload).intersection(*[set().union(*(unit_names(o.workload) for o in others))])
    if taken:
        text = (
            f"a task of workload {name!r} would be unit {min(taken)!r}, and there is one of that name: rename"
        )
        raise MgmtError("conflict", f"{text} the task or the workload", workload=name)
    open_nodes = [
        node
        if node.name != LOCAL
        else replace(
            node,
            cpus=tuple(cpu for cpu in node.cpus if cpu not in snapshot.closed),
            memory_mb=min(node.memory_mb, snapshot.free_mb),
        )
        for node in workload.nodes
    ]
    put = partial(
        place,
        nodes=open_nodes,
        held=[placed for entry in others for placed in entry.placed()],
        algorithm=algorithm,
        held_chains={entry.workload.name: entry.workload.chains for entry in others},
    )
    try:
        schedule = _beside_itself(put, workload, former) if former is not None else put(workload)
    except MgmtError as error:
        raise _with_reasons(error, workload, snapshot.closed) from None
    mine = {placed.task.name: placed for placed in schedule.placed if placed.workload == name}
    tasks = [mine[task.name] for task in workload.tasks]
    entry = Entry(
        workload,
        algorithm,
        tasks[0].bound,
        schedule.hyperperiods[name],
        tuple((placed.node, placed.cpu) for placed in tasks),
    )
    named = {node.name for node in workload.nodes}
    seen = tuple(placed for placed in schedule.placed if placed.node in named)
    return Admitted(entry, seen, already=False, replaced=former is not None)


def _same(one: Workload, other: Workload) -> bool:
    """Whether they are the same, in whatever order things are told."""

    def told(workload: Workload) -> tuple[Any, ...]:
        nodes = {node.name: replace(node, cpus=tuple(sorted(node.cpus))) for node in workload.nodes}
        return workload.name, set(workload.tasks), nodes, set(workload.chains)

    return told(one) == told(other)


def _beside_itself(put: Callable[[Workload], Schedule], workload: Workload, former: Entry) -> Schedule:
    """Tasks that are as they were stay where they are, if the others fit beside them; else all are placed anew."""
    at = dict(zip(former.workload.tasks, former.cpus, strict=True))
    known = {node.name: set(node.cpus) for node in workload.nodes}
    stay = {
        task: at[task] for task in workload.tasks if task in at and at[task][1] in known.get(at[task][0], ())
    }
    bound = (
        replace(task, node=stay[task][0], cpus=(stay[task][1],)) if task in stay else task
        for task in workload.tasks
    )
    if stay:
        try:
            schedule = put(replace(workload, tasks=tuple(bound)))
        except MgmtError as error:
            if error.code != "not-schedulable":
                raise
        else:
            whole = {task.name: task for task in workload.tasks}
            placed = (
                replace(one, task=whole[one.task.name]) if one.workload == workload.name else one
                for one in schedule.placed
            )
            return replace(schedule, placed=tuple(placed))
    return put(workload)


def on_nodes(entries: Mapping[str, Entry], workload: Workload) -> tuple[Placed, ...]:
    """All that is on the nodes of a workload, with worst responses."""
    named = {node.name for node in workload.nodes}
    held = (placed for entry in entries.values() for placed in entry.placed() if placed.node in named)
    return analysed(held)


def at_home(workload: Workload, snapshot: Snapshot) -> Workload:
    """With this machine under one name, and its own CPUs where nothing else is said.

    MgmtError `bad-workload`: it has no such CPU, or a task wants a node that nobody described.
    """

    def home(node: str) -> str:
        return LOCAL if node and node == snapshot.host else node

    nodes = tuple(replace(node, name=home(node.name)) for node in workload.nodes) or (snapshot.local,)
    tasks = tuple(
        task if home(task.node) == task.node else replace(task, node=LOCAL) for task in workload.tasks
    )
    known = {node.name: node for node in nodes}
    problems = []
    if len(known) < len(nodes):
        problems.append(f"nodes {LOCAL!r} and {snapshot.host!r} are both this machine: give one of them")
    local = known.get(LOCAL)
    if local is not None:
        missing = sorted(set(local.cpus) - set(snapshot.local.cpus))
        if missing:
            text = f"node {LOCAL!r}: CPU {_list(missing)} is not of this machine, or not the daemon's to use"
            problems.append(f"{text}; it has {_list(snapshot.local.cpus)}")
        memory_mb = min(local.memory_mb, snapshot.local.memory_mb)
        nodes = tuple(replace(node, memory_mb=memory_mb) if node is local else node for node in nodes)
    for task in tasks:
        if task.node and task.node not in known:
            text = f"task {task.name!r}: node is {task.node!r}, which is not configured: known are"
            problems.append(f"{text} {', '.join(sorted(known)[:8])}; describe the others with --nodes FILE")
    if problems:
        more = f"\n... and {len(problems) - 20} more" if len(problems) > 20 else ""
        rows = [{"path": "", "problem": problem} for problem in problems[:20]]
        raise MgmtError("bad-workload", "\n".join(problems[:20]) + more, problems=rows)
    return replace(workload, nodes=nodes, tasks=tasks)


def _agree(node: Node, workload: str, others: Iterable[Entry]) -> None:
    """A node is described once and for all; of this machine, the daemon itself knows the CPUs and memory."""
    for entry in others:
        for known in entry.workload.nodes:
            if known.name != node.name:
                continue
            mine, its = (
                f"reserve {n.reserve_ppm} ppm"
                if n.name == LOCAL
                else f"CPUs {_list(sorted(n.cpus))}, {n.memory_mb} MB, reserve {n.reserve_ppm} ppm"
                for n in (node, known)
            )
            if mine != its:
                text = (
                    f"node {node.name!r} has {mine} for workload {workload!r}, and {its} for "
                    f"{entry.workload.name!r}, which is in force: describe it alike, or remove the other first"
                )
                raise MgmtError("conflict", text, node=node.name, workload=entry.workload.name)


def _countable(workload: Workload, others: Iterable[Entry]) -> None:
    nodes = {node.name: node for entry in others for node in entry.workload.nodes}
    nodes |= {node.name: node for node in workload.nodes}
    count = sum(len(node.cpus) for node in nodes.values())
    if count > defaults.MAX_SCHEDULE_CPUS:
        text = (
            f"all nodes together have {count} CPUs, {defaults.MAX_SCHEDULE_CPUS} is the limit: leave some out"
        )
        raise MgmtError("bad-workload", text, problems=[{"path": "nodes", "problem": text}])


def _with_reasons(error: MgmtError, workload: Workload, closed: Mapping[int, str]) -> MgmtError:
    """A refusal that also says which CPUs of this machine are not to be had, and why."""
    lines = [
        f"CPU {cpu} of {LOCAL!r} takes no task: unit {closed[cpu]!r} holds it (`mgmt explain {closed[cpu]}`)"
        for node in workload.nodes
        if node.name == LOCAL
        for cpu in node.cpus
        if cpu in closed
    ]
    if error.code != "not-schedulable" or not lines:
        return error
    more = [f"... and {len(lines) - 8} CPUs more"] if len(lines) > 8 else []
    return MgmtError(error.code, "\n".join([error.text, *lines[:8], *more]), **error.detail, closed=lines[:8])


def _list(numbers: Iterable[int]) -> str:
    found = list(numbers)
    return ", ".join(map(str, found[:16])) + (", ..." if len(found) > 16 else "") or "none"
