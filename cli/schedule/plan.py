"""`mgmt schedule plan`: what admission would say of a file, without a daemon."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from mgmt.protocol import defaults
from mgmt.protocol.errors import Exit, MgmtError

from ..invocation import Duration, Invocation, verb
from . import COMMANDS, files, tables

if TYPE_CHECKING:
    from mgmt.core.schedule.workload import Node, Workload

ALGORITHMS = ("best_fit_decreasing", "least_loaded", "target_node_priority")
algorithm_option = click.option(
    "--algorithm",
    type=click.Choice(ALGORITHMS),
    default=ALGORITHMS[0],
    help="Which CPUs are tried first.",
)
nodes_option = click.option(
    "--nodes", metavar="FILE", type=click.Path(), help="Nodes: YAML or JSON; else those in FILE."
)
gantt_option = click.option(
    "--gantt", metavar="OUT.svg", type=click.Path(), help="Draw the schedule into this file."
)
span_option = click.option(
    "--span", type=Duration(), help="How much of it to draw: 50ms, 2s; default: what can be read."
)


@verb("plan", COMMANDS["plan"][1])
@click.argument("file", type=click.Path())
@nodes_option
@algorithm_option
@click.option(
    "--mode", type=click.Choice(["strict", "compat"]), default="strict", help="compat: TIMPANI's own rules."
)
@click.option(
    "--test",
    type=click.Choice(["fp", "edf", "utilisation"]),
    help="Instead of the one that the policies call for.",
)
@gantt_option
@span_option
def plan(
    invocation: Invocation,
    file: str,
    nodes: str | None,
    algorithm: str,
    mode: str,
    test: str | None,
    gantt: str | None,
    span: float | None,
) -> int:
    """Without nodes in FILE or --nodes: the CPUs of this machine. Exits 0 when every task has a CPU and keeps
    its deadline there, 1 when not, with the task, the numbers and what would help."""
    if mode == "compat":
        from .compat import planned

        return planned(invocation, file, nodes, algorithm, gantt, span)
    reply = placed(file, nodes, algorithm, test)
    if gantt:
        draw(gantt, reply, span)
    if invocation.json:
        invocation.emit("mgmt.schedule-plan/1", {"file": file, "mode": mode, **reply})
    else:
        click.echo("\n".join(shown(reply, invocation.colored)))
        if gantt:
            click.echo(f"drawn: {gantt}")
    return Exit.OK


def placed(file: str, nodes: str | None, algorithm: Any, test: Any = None) -> dict[str, Any]:
    """The schedule of a file as rows; MgmtError `bad-workload`, with lines, or `not-schedulable`."""
    from mgmt.core.schedule import admission, report, rows

    workload = read(file, nodes)
    schedule = admission.place(workload, workload.nodes or (this_machine(),), algorithm=algorithm, test=test)
    return {
        "workload": workload.name,
        "algorithm": algorithm,
        "hyperperiod_us": schedule.hyperperiods[workload.name],
        "cpus": rows.cpu_rows(schedule),
        "tasks": [report.task_row(one) for one in schedule.placed],
        "chains": [rows.chain_row(bound) for bound in schedule.chains],
    }


def read(file: str, nodes: str | None) -> Workload:
    """The workload of a file; MgmtError `bad-workload` with the line of each fault."""
    from mgmt.core.schedule import documents

    source = files.read(file)
    node_source = files.read(nodes) if nodes else None
    try:
        return documents.read(source.documents, node_source.documents if node_source else ())
    except MgmtError as error:
        raise files.located(error, source, node_source) from None


def this_machine() -> Node:
    """The CPUs that this command may use, and the memory of the machine."""
    from mgmt.core.schedule.workload import LOCAL, Node

    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Node(LOCAL, tuple(sorted(os.sched_getaffinity(0))), memory_bytes >> 20)


def shown(reply: dict[str, Any], colored: bool = False) -> list[str]:
    """What a person reads of one workload."""
    rows, cpus = reply["tasks"], reply["cpus"]
    used = sum(1 for row in cpus if row["tasks"])
    nodes = len({row["node"] for row in cpus if row["tasks"]})
    bounds = sorted({tables.TESTS[row["bound"]] for row in rows})
    where = f"{count(used, 'CPU')} of {count(nodes, 'node')}"
    proof = f"proven by {' and by '.join(bounds)}"
    return [
        f"workload {reply['workload']}: {count(len(rows), 'task')} on {where}; every deadline is kept",
        f"{reply['algorithm']}; {proof}; hyperperiod {tables.time(reply['hyperperiod_us'])}",
        "",
        *tables.cpus(cpus, colored),
        "",
        *tables.tasks(rows, colored),
        *(["", *chains] if (chains := tables.chains(reply["chains"])) else []),
        "times in ms",
    ]


def count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def draw(path: str, reply: dict[str, Any], span_s: float | None, title: str | None = None) -> None:
    """Write the picture of a schedule's rows; what was there is replaced as a whole."""
    from mgmt.core.schedule.rows import placed_of
    from mgmt.core.schedule.timeline import timeline

    from .gantt import svg

    placed = [placed_of(row) for row in reply["tasks"]]
    if not placed:
        raise MgmtError("bad-body", f"{path} was not drawn: there are no tasks to show")
    periods = [one.task.period_us for one in placed]
    # Two rounds of the slowest task, or as many jobs of the fastest as have room side by side.
    until_us = max(2 * max(periods), 40 * min(periods)) if span_s is None else max(round(span_s * 1e6), 1)
    line = timeline(placed, until_us, defaults.MAX_TIMELINE_JOBS)
    about = reply.get("about") or count(len(placed), "task")
    subtitle = f"{about}; hyperperiod {tables.time(line.hyperperiod_us)}"
    if reply.get("algorithm"):
        subtitle = f"{reply['algorithm']}; {subtitle}"
    write(path, svg(title or f"Schedule of {reply['workload']}", subtitle, reply["cpus"], line))


def write(path: str, picture: str) -> None:
    """What was there is replaced as a whole. MgmtError `bad-body` when it cannot be written."""
    temporary = f"{path}.{os.getpid()}.new"
    try:
        with open(temporary, "w", encoding="utf-8") as opened:
            opened.write(picture)
        os.replace(temporary, path)
    except OSError as error:
        raise MgmtError("bad-body", f"{path}: cannot be written: {error.strerror}") from None
