"""`mgmt schedule plan --mode compat`: what TIMPANI's own orchestrator would do, and what of it would be late."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from mgmt.protocol.errors import Exit, MgmtError

from .. import render
from ..invocation import Invocation
from . import files
from .plan import count, draw

if TYPE_CHECKING:
    from mgmt.core.schedule.workload import Node, Workload


def planned(
    invocation: Invocation,
    file: str,
    nodes: str | None,
    algorithm: str,
    gantt: str | None,
    span: float | None,
) -> int:
    """Exits 0 when the ancestor would accept and nothing would be late or without a CPU, else 1."""
    from mgmt.core.schedule import comparison, report

    workload, places = read(file, nodes)
    placement = comparison.compat_placement(algorithm, workload, places)
    outcome = comparison.judged(workload, placement.assignments)
    told = outcome.told()
    tasks: list[dict[str, Any]] = [
        {"task": name, "node": node, "cpu": cpu} for name, (node, cpu) in outcome.places.items()
    ]
    if gantt:
        rows = [report.task_row(one) for one in comparison.as_placed(workload, outcome)]
        title = f"What TIMPANI would do with {workload.name}"
        reply = {"workload": workload.name, "tasks": rows, "cpus": loads(rows), "about": summary(told)}
        reply["algorithm"] = f"compat:{algorithm}"
        draw(gantt, reply, span, title)
    good = placement.ok and not told["late"] and told["placed"] == len(tasks)
    if invocation.json:
        head = {"file": file, "mode": "compat", "algorithm": algorithm, "workload": workload.name}
        invocation.emit("mgmt.schedule-compat/1", {**head, "ok": placement.ok, **told, "tasks": tasks})
        return Exit.OK if good else Exit.FAILED
    answer = "accepted" if placement.ok else "refused"
    click.echo(f"workload {workload.name}: {answer} by TIMPANI's {algorithm}; {summary(told)}\n")
    late = set(told["late"])
    cells = [
        [row["task"], row["node"] or "-", where(row), "misses its deadline" if row["task"] in late else ""]
        for row in tasks
    ]
    click.echo("\n".join(render.table(["TASK", "NODE", "CPU", "NOTE"], cells)))
    if gantt:
        click.echo(f"drawn: {gantt}")
    return Exit.OK if good else Exit.FAILED


def read(file: str, nodes: str | None) -> tuple[Workload, tuple[Node, ...]]:
    """The workload and its nodes; --nodes by the rules of the ancestor's line scanner, which is no YAML."""
    from mgmt.core.schedule import compat, documents
    from mgmt.core.schedule.compat_yaml import scan_nodes
    from mgmt.core.schedule.workload import Node

    source = files.read(file)
    try:
        workload = documents.read(source.documents)
    except MgmtError as error:
        raise files.located(error, source) from None
    if nodes is None:
        return workload, workload.nodes
    try:
        scanned = scan_nodes(files.read_text(nodes))
    except compat.CompatError as error:
        raise MgmtError("bad-workload", f"{nodes}: {error}") from None
    return workload, tuple(Node(node.name, node.available_cpus, node.max_memory_mb) for node in scanned)


def summary(told: dict[str, Any]) -> str:
    """8 placed, 1 phantom, 2 left out, 3 late."""
    parts = [f"{told['placed']} placed"]
    if told["phantom"]:
        parts.append(f"{count(told['phantom'], 'phantom')} (on no CPU, and accepted)")
    if told["unplaced"]:
        parts.append(f"{told['unplaced']} left out")
    if told["late"]:
        parts.append(f"{count(len(told['late']), 'task')} would miss deadlines")
    return ", ".join(parts)


def where(row: dict[str, Any]) -> str:
    if row["cpu"] >= 0:
        return str(row["cpu"])
    return "none: phantom" if row["node"] else "none"


def loads(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The CPUs of task rows, with their loads."""
    on: dict[tuple[str, int], float] = {}
    for row in rows:
        key = row["node"], row["cpu"]
        on[key] = on.get(key, 0.0) + row["wcet_us"] / row["period_us"]
    return [{"node": node, "cpu": cpu, "utilisation": load} for (node, cpu), load in sorted(on.items())]
