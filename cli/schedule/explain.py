"""`mgmt schedule explain`: one task, in force or of a file."""

from __future__ import annotations

from typing import Any

import click

from mgmt.protocol.errors import Exit, MgmtError

from ..completion import complete_tasks
from ..invocation import Invocation, verb
from . import COMMANDS, tables
from .plan import algorithm_option, nodes_option, read, this_machine


@verb("explain", COMMANDS["explain"][1])
@click.argument("task", shell_complete=complete_tasks)
@click.option(
    "--file",
    metavar="FILE",
    type=click.Path(),
    help="Of this workload, as it would be placed; needs no daemon.",
)
@nodes_option
@algorithm_option
def explain(invocation: Invocation, task: str, file: str | None, nodes: str | None, algorithm: Any) -> int:
    """TASK is a task in force, WORKLOAD/TASK where several have that name. --nodes and --algorithm belong
    to --file."""
    if file is None:
        with invocation.client() as client:
            reply = client.request("schedule-explain", {"task": task})
    else:
        reply = of_file(task, file, nodes, algorithm)
    if invocation.json:
        invocation.emit("mgmt.schedule-explain/1", reply)
    else:
        click.echo("\n".join(shown(reply, invocation.colored)))
    return Exit.OK


def of_file(name: str, file: str, nodes: str | None, algorithm: Any) -> dict[str, Any]:
    """A TaskExplanation; MgmtError `unknown-task`, or why the workload is refused."""
    from mgmt.core.schedule import admission, report

    workload = read(file, nodes)
    names = [task.name for task in workload.tasks]
    wanted = name.removeprefix(f"{workload.name}/")
    if wanted not in names:
        known = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if names[8:] else "")
        text = f"workload {workload.name!r} of {file} has no task {name!r}; it has {known}"
        raise MgmtError("unknown-task", text, task=name)
    schedule = admission.place(workload, workload.nodes or (this_machine(),), algorithm=algorithm)
    of = next(placed for placed in schedule.placed if placed.task.name == wanted)
    on = schedule.by_cpu[of.node, of.cpu]
    return report.explanation(of, on, algorithm, schedule.hyperperiods[workload.name])


def shown(reply: dict[str, Any], colored: bool = False) -> list[str]:
    task = reply["task"]
    head = f"{task['workload']}/{task['task']}"
    return [
        head,
        *(f"  {line}" for line in reply["lines"]),
        "",
        *tables.tasks(reply["beside"], colored),
        "times in ms",
    ]
