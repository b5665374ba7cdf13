"""`mgmt schedule submit`, `show`, `remove`, `rebalance`: the schedule of the daemon."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from mgmt.protocol.errors import Exit, MgmtError

from .. import render
from .._table import VERBS
from ..completion import complete_workloads
from ..invocation import Invocation, verb
from . import COMMANDS, files, tables
from .plan import algorithm_option, count, draw, gantt_option, nodes_option, span_option
from .plan import shown as planned

if TYPE_CHECKING:
    from mgmt.client import Client

SUBMIT_TIMEOUT_S = 60.0
TRIES = 8  # a schedule that changes while its parts are asked for is asked for again
SUBMIT = VERBS["schedule-submit"][1]


@verb("submit", COMMANDS["submit"][1])
@click.argument("file")
@nodes_option
@algorithm_option
@click.option("--replace", is_flag=True, help=SUBMIT["replace"])
@click.option("--dry-run", is_flag=True, help=SUBMIT["dry_run"])
def submit(
    invocation: Invocation, file: str, nodes: str | None, algorithm: str, replace: bool, dry_run: bool
) -> int:
    """Without nodes in FILE or --nodes: the CPUs of the daemon's machine, less those that its units have for
    themselves. A workload that is refused changes nothing, not even the one it was to replace. Submitting the
    same again changes nothing and is no error."""
    source = files.read(file)
    node_source = files.read(nodes) if nodes else None
    body = {
        "documents": [_packable(document) for document in source.documents],
        "nodes": [_packable(document) for document in node_source.documents] if node_source else [],
        "algorithm": algorithm,
        "replace": replace,
        "dry_run": dry_run,
    }
    try:
        with invocation.client(SUBMIT_TIMEOUT_S) as client:
            reply = client.request("schedule-submit", body)
    except MgmtError as error:
        raise files.located(error, source, node_source) from None
    if invocation.json:
        invocation.emit("mgmt.schedule-submit/1", reply)
        return Exit.OK
    (row,) = reply["workloads"]
    click.echo("\n".join(planned({**reply, **_head(row)}, invocation.colored)))
    if reply["next"] is not None:
        click.echo(f"{reply['next']} of {reply['total']} tasks are shown")
    click.echo(_outcome(reply, dry_run))
    return Exit.OK


@verb("show", COMMANDS["show"][1])
@click.argument("workload", required=False, shell_complete=complete_workloads)
@gantt_option
@span_option
def show(invocation: Invocation, workload: str | None, gantt: str | None, span: float | None) -> int:
    """Without WORKLOAD: all of them. A picture of one has all that shares its CPUs."""
    with invocation.client(SUBMIT_TIMEOUT_S) as client:
        reply = all_parts(client, workload)
        if gantt:
            draw(gantt, _drawn(client, reply, workload), span, _title(workload))
    if invocation.json:
        invocation.emit("mgmt.schedule-show/1", reply)
        return Exit.OK
    if not reply["workloads"]:
        click.echo("no workload is in force; `mgmt schedule submit FILE` admits one")
        return Exit.OK
    click.echo("\n".join(shown(reply, invocation.colored)))
    if gantt:
        click.echo(f"drawn: {gantt}")
    return Exit.OK


@verb("remove", COMMANDS["remove"][1])
@click.argument("workload", shell_complete=complete_workloads)
def remove(invocation: Invocation, workload: str) -> int:
    """The other workloads stay where they are; `mgmt schedule rebalance` may even out what is left."""
    with invocation.client() as client:
        reply = client.request("schedule-remove", {"workload": workload})
    invocation.say(f"removed {workload}: {count(reply['tasks'], 'task')}")
    if invocation.json:
        invocation.emit("mgmt.schedule-remove/1", reply)
    return Exit.OK


@verb("rebalance", COMMANDS["rebalance"][1])
@click.option("--apply", is_flag=True, help=VERBS["schedule-rebalance"][1]["apply"])
def rebalance(invocation: Invocation, apply: bool) -> int:
    """Every deadline is kept after each of the moves, in their order. What is proposed is computed anew with
    --apply, for what is in force by then."""
    with invocation.client(SUBMIT_TIMEOUT_S) as client:
        reply = client.request("schedule-rebalance", {"apply": apply})
    if invocation.json:
        invocation.emit("mgmt.schedule-rebalance/1", reply)
    elif not reply["moves"]:
        click.echo(f"no move of one task lowers the fullest CPU: {_percent(reply['before'])}")
    else:
        rows = [
            [move["workload"], move["task"], _place(move, ""), _place(move, "to_")] for move in reply["moves"]
        ]
        click.echo("\n".join(render.table(["WORKLOAD", "TASK", "FROM", "TO"], rows)))
        load = f"the fullest CPU: {_percent(reply['before'])} -> {_percent(reply['after'])}"
        what = "done" if reply["applied"] else "proposed; --apply makes the moves"
        click.echo(f"{load}, {count(len(rows), 'move')} {what}")
    return Exit.OK


def shown(reply: dict[str, Any], colored: bool = False) -> list[str]:
    """The workloads, their CPUs, their tasks."""
    rows = [
        [
            row["workload"],
            str(row["tasks"]),
            ",".join(row["nodes"][:4]) + (f" and {len(row['nodes']) - 4} more" if row["nodes"][4:] else ""),
            row["algorithm"],
            tables.time(row["hyperperiod_us"]),
            str(row["version"]),
            render.moment(row["at"]),
        ]
        for row in reply["workloads"]
    ]
    header = ["WORKLOAD", "TASKS", "NODES", "ALGORITHM", "HYPERPERIOD", "VERSION", "SUBMITTED"]
    chains = tables.chains([chain for row in reply["workloads"] for chain in row["chains"]])
    return [
        *render.table(header, rows, "TASKS VERSION"),
        "",
        *tables.cpus(reply["cpus"], colored),
        "",
        *tables.tasks(reply["tasks"], colored),
        *(["", *chains] if chains else []),
        "times in ms",
    ]


def all_parts(client: Client, workload: str | None) -> dict[str, Any]:
    """A ScheduleReply with all its tasks, of one version."""
    chosen = {} if workload is None else {"workload": workload}
    for _ in range(TRIES):
        reply = part = client.request("schedule-show", chosen)
        while part["next"] is not None and part["version"] == reply["version"]:
            part = client.request("schedule-show", {**chosen, "offset": part["next"]})
            reply["tasks"] += part["tasks"]
        if part["version"] == reply["version"]:
            return {**reply, "next": None}
    raise MgmtError("busy", "the schedule changed again and again while it was read; try again later")


def _drawn(client: Client, reply: dict[str, Any], workload: str | None) -> dict[str, Any]:
    """The rows of the CPUs on which a workload has tasks, with those of others there."""
    if workload is None:
        return reply
    places = {(row["node"], row["cpu"]) for row in reply["tasks"]}
    every = all_parts(client, None)
    return {
        key: [row for row in every[key] if (row["node"], row["cpu"]) in places] for key in ("cpus", "tasks")
    }


def _title(workload: str | None) -> str:
    return "Schedule in force" if workload is None else f"Schedule in force: CPUs of {workload}"


def _head(row: dict[str, Any]) -> dict[str, Any]:
    return {key: row[key] for key in ("workload", "algorithm", "hyperperiod_us", "chains")}


def _outcome(reply: dict[str, Any], dry_run: bool) -> str:
    if reply["already"]:
        return "the same is in force already; nothing was changed"
    if dry_run:
        what = "replace the one of its name" if reply["replaced"] else "come into force"
        return f"nothing was changed: without --dry-run it would {what}"
    return f"{'replaced' if reply['replaced'] else 'in force'}, version {reply['version']}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _place(move: dict[str, Any], side: str) -> str:
    return f"{move[f'{side}node']}/{move[f'{side}cpu']}"


def _packable(value: Any) -> Any:
    """The value with text for what only YAML knows, such as dates and keys that are numbers: it is judged by
    the daemon, which says what it should be."""
    if isinstance(value, dict):
        return {str(key): _packable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_packable(item) for item in value]
    if isinstance(value, int) and not isinstance(value, bool) and not -(1 << 63) <= value < 1 << 64:
        return str(value)
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)
