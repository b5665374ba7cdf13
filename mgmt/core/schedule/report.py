"""What the daemon answers about its schedule: a part of it, and why a task is where it is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

from mgmt.protocol import defaults
from mgmt.protocol.errors import MgmtError

from .admission import Placed, chain_bound, utilisation
from .analysis import analysed, by_urgency, largest_wcet_us
from .force import Admitted, Entry, Snapshot
from .rebalance import Rebalancing
from .rows import chain_row
from .workload import LOCAL

ROW_BYTES = 300  # of a task in a message, at most, beside its names and the CPUs it is bound to
CPU_BYTES = 96
DUMPED = 200  # tasks of a workload; `mgmt schedule show` has the others
NAMED = 8  # tasks that one line lists
TESTS = {
    "fp": "exact response-time analysis of fixed priorities",
    "edf": "exact test of earliest deadline first",
    "utilisation": "sum of utilisations",
}


def task_row(placed: Placed) -> dict[str, Any]:
    """A ScheduledTask."""
    task = placed.task
    return {
        "workload": placed.workload,
        "task": task.name,
        "node": placed.node,
        "cpu": placed.cpu,
        "policy": task.policy,
        "priority": task.priority,
        "period_us": task.period_us,
        "wcet_us": task.wcet_us,
        "deadline_us": task.deadline_us,
        "release_us": task.release_us,
        "jitter_us": task.jitter_us,
        "memory_mb": task.memory_mb,
        "max_dmiss": task.max_dmiss,
        "target": task.node,
        "allowed": None if task.cpus is None else list(task.cpus),
        "bound": placed.bound,
        "response_us": placed.response_us,
        "slack_us": placed.slack_us,
    }


def workload_row(entry: Entry, placed: Sequence[Placed]) -> dict[str, Any]:
    """A Workload; `placed` has its tasks, with their responses."""
    workload = entry.workload
    return {
        "workload": workload.name,
        "version": entry.version,
        "at": entry.at,
        "algorithm": entry.algorithm,
        "tasks": len(workload.tasks),
        "nodes": [node.name for node in workload.nodes],
        "hyperperiod_us": entry.hyperperiod_us,
        "chains": [chain_row(chain_bound(workload.name, chain, placed)) for chain in workload.chains],
    }


def cpu_rows(
    entries: Iterable[Entry], placed: Iterable[Placed], closed: Mapping[int, str]
) -> list[dict[str, Any]]:
    """A ScheduleCpu for each CPU of the nodes of these workloads."""
    on: dict[tuple[str, int], list[Placed]] = {
        (node.name, cpu): [] for entry in entries for node in entry.workload.nodes for cpu in node.cpus
    }
    for one in placed:
        on[one.node, one.cpu].append(one)
    return [
        {
            "node": node,
            "cpu": cpu,
            "tasks": len(tasks),
            "utilisation": float(utilisation(p.task for p in tasks)),
            "test": tasks[0].bound if tasks else None,
            "closed": closed.get(cpu, "") if node == LOCAL else "",
        }
        for (node, cpu), tasks in sorted(on.items())
    ]


def submitted(snapshot: Snapshot, admitted: Admitted) -> dict[str, Any]:
    """A ScheduleSubmitted, but for its version, which is known when it is in force."""
    entry = admitted.entry
    name = entry.workload.name
    mine = [placed for placed in admitted.placed if placed.workload == name]
    others = [other for key, other in snapshot.entries.items() if key != name]
    named = {node.name for node in entry.workload.nodes}
    cpus = cpu_rows([entry, *others], (p for p in admitted.placed), snapshot.closed)
    body = _part([workload_row(entry, mine)], [row for row in cpus if row["node"] in named], mine, 0)
    return {**body, "workload": name, "already": admitted.already, "replaced": admitted.replaced}


def shown(
    snapshot: Snapshot, known: tuple[Placed, ...] | None, workload: str | None, offset: int
) -> tuple[tuple[Placed, ...], dict[str, Any]]:
    """(all tasks with their responses, a ScheduleReply without its version); `known`: the former from before."""
    entries = snapshot.entries
    placed = analysed(p for entry in entries.values() for p in entry.placed()) if known is None else known
    chosen = [entries[workload]] if workload is not None else [entries[name] for name in sorted(entries)]
    names = {entry.workload.name for entry in chosen}
    mine = [one for one in placed if one.workload in names]
    rows = []
    cpus: list[dict[str, Any]] = []
    if not offset:
        by_name: dict[str, list[Placed]] = {name: [] for name in names}
        for one in mine:
            by_name[one.workload].append(one)
        rows = [workload_row(entry, by_name[entry.workload.name]) for entry in chosen]
        named = {node.name for entry in chosen for node in entry.workload.nodes}
        every = cpu_rows(entries.values(), placed, snapshot.closed)
        cpus = [row for row in every if row["node"] in named]
    return placed, _part(rows, cpus, mine, offset)


def _part(
    workloads: list[dict[str, Any]], cpus: list[dict[str, Any]], tasks: Sequence[Placed], offset: int
) -> dict[str, Any]:
    """As many tasks as fit, one at least."""
    left = defaults.SCHEDULE_PAGE_BYTES - sum(CPU_BYTES + 4 * len(row["node"]) for row in cpus)
    left -= sum(ROW_BYTES + 4 * sum(map(len, row["nodes"])) for row in workloads)
    end = offset
    while end < len(tasks):
        one = tasks[end]
        names = len(one.workload) + len(one.task.name) + len(one.node) + len(one.task.node)
        left -= ROW_BYTES + 4 * names + 3 * len(one.task.cpus or ())
        if left < 0 and end > offset:
            break
        end += 1
    return {
        "workloads": workloads,
        "cpus": cpus,
        "tasks": [task_row(one) for one in tasks[offset:end]],
        "total": len(tasks),
        "next": end if end < len(tasks) else None,
    }


def find(entries: Mapping[str, Entry], name: str) -> tuple[str, str]:
    """(workload, task) of `NAME` or `WORKLOAD/NAME`; MgmtError `unknown-task`, or `conflict` for several."""
    found = [
        (entry.workload.name, task.name)
        for entry in entries.values()
        for task in entry.workload.tasks
        if name in (task.name, f"{entry.workload.name}/{task.name}")
    ]
    if not found:
        text = f"no workload has a task {name!r}; `mgmt schedule show` lists those in force"
        raise MgmtError("unknown-task", text, task=name)
    if len(found) > 1:
        among = ", ".join("/".join(one) for one in sorted(found)[:NAMED])
        raise MgmtError("conflict", f"several workloads have a task {name!r}: name one of {among}", task=name)
    return found[0]


def explained(snapshot: Snapshot, name: str) -> dict[str, Any]:
    """A TaskExplanation of a task in force."""
    workload, task = find(snapshot.entries, name)
    entry = snapshot.entries[workload]
    place = entry.cpus[[one.name for one in entry.workload.tasks].index(task)]
    on = analysed(
        placed
        for other in snapshot.entries.values()
        for placed in other.placed()
        if (placed.node, placed.cpu) == place
    )
    of = next(placed for placed in on if (placed.workload, placed.task.name) == (workload, task))
    return explanation(of, on, entry.algorithm, entry.hyperperiod_us)


def explanation(of: Placed, on: Sequence[Placed], algorithm: str, hyperperiod_us: int) -> dict[str, Any]:
    """A TaskExplanation of one of the tasks `on` a CPU; needs no daemon."""
    task = of.task
    beside = by_urgency(on)
    grown_us = largest_wcet_us(of, on)
    level = f", priority {task.priority}" if task.priority else ""
    job = f"a job of {task.wcet_us} us every {task.period_us} us, due after {task.deadline_us} us"
    lines = [
        f"on CPU {of.cpu} of node {of.node!r}: {_chosen(of, algorithm)}",
        f"{job}; policy {task.policy}{level}",
    ]
    if of.response_us is not None:
        lines.append(f"its worst response is {of.response_us} us, {of.slack_us} us before its deadline")
    load = float(utilisation(placed.task for placed in on)) * 100
    many = f"{len(on)} task{'' if len(on) == 1 else 's'}"
    lines.append(f"the CPU has {many}, {load:.1f} % of it, admitted by the {TESTS[of.bound]}")
    if of.bound == "fp":
        before = [one.task.name for one in beside[: beside.index(of)]]
        lines.append(f"more urgent there: {_names(before)}")
    if grown_us > task.wcet_us:
        lines.append(f"its WCET could grow to {grown_us} us, all else unchanged")
    else:
        lines.append("its WCET could not grow at all, all else unchanged")
    lines.append(f"its workload {of.workload!r} repeats itself every {hyperperiod_us} us")
    return {
        "task": task_row(of),
        "lines": lines,
        "beside": [task_row(one) for one in beside[: defaults.SCHEDULE_PAGE_BYTES // (2 * ROW_BYTES)]],
        "largest_wcet_us": grown_us,
    }


def dumped(entry: Entry) -> dict[str, Any]:
    """A workload for a dump, which has to fit into one message whatever is in force."""
    places = zip(entry.workload.tasks, entry.cpus, strict=True)
    return {
        "version": entry.version,
        "algorithm": entry.algorithm,
        "test": entry.test,
        "count": len(entry.cpus),
        "tasks": {task.name: f"{node}/{cpu}" for task, (node, cpu) in islice(places, DUMPED)},
    }


def rebalanced(found: Rebalancing, applied: bool, version: int) -> dict[str, Any]:
    """A ScheduleRebalanced."""
    return {
        "moves": [
            {
                "workload": move.workload,
                "task": move.task,
                "node": move.before[0],
                "cpu": move.before[1],
                "to_node": move.after[0],
                "to_cpu": move.after[1],
            }
            for move in found.moves
        ],
        "before": float(found.before),
        "after": float(found.after),
        "applied": applied,
        "version": version,
    }


def _chosen(of: Placed, algorithm: str) -> str:
    bound = []
    if of.task.node:
        bound.append("to that node")
    if of.task.cpus is not None:
        cpus = ", ".join(map(str, of.task.cpus[:16])) + (", ..." if len(of.task.cpus) > 16 else "")
        bound.append(f"to CPU {cpus}")
    return f"chosen by {algorithm}, " + (f"bound {' and '.join(bound)}" if bound else "bound to nothing")


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return (", ".join(names[:NAMED]) or "none") + more
