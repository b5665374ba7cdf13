"""`mgmt suite list`, `close`, `cancel`, `agents`, `refresh`."""

from __future__ import annotations

from typing import Any

import click

from mgmt.protocol.errors import Exit

from .._table import VERBS
from ..completion import complete_suites
from ..invocation import Invocation, verb
from . import COMMANDS, tables
from .asking import nearest

STATES = ["OPEN", "CLOSED", "COMPLETE", "CANCELLED"]
CANCEL = VERBS["suite-cancel"][1]


def ask(invocation: Invocation, request: str, body: dict[str, Any]) -> dict[str, Any]:
    """One request about a suite."""
    with invocation.client() as client, nearest(client):
        return client.request(request, body)


@verb("list", COMMANDS["list"][1])
@click.argument("suites", nargs=-1, shell_complete=complete_suites)
@click.option("--group", metavar="GROUP", help="Only those of this group.")
@click.option("--tag", "tags", metavar="TAG", multiple=True, help="That have this tag; may be repeated.")
@click.option(
    "--label", "labels", metavar="LABEL", multiple=True, help="That have this label; may be repeated."
)
@click.option(
    "--state",
    "states",
    type=click.Choice(STATES, case_sensitive=False),
    multiple=True,
    help="That are in this state, or in one of these.",
)
@click.option(
    "--limit", type=click.IntRange(0, 10_000), default=100, show_default=True, help="So many at most."
)
@click.option("--offset", type=click.IntRange(0), default=0, help="Leave out the first ones.")
@click.option("--no-headers", is_flag=True, help="Only the rows.")
def list_(
    invocation: Invocation,
    suites: tuple[str, ...],
    group: str | None,
    tags: tuple[str, ...],
    labels: tuple[str, ...],
    states: tuple[str, ...],
    limit: int,
    offset: int,
    no_headers: bool,
) -> int:
    body = {
        "suites": list(suites),
        "group": group,
        "tags": list(tags),
        "labels": list(labels),
        "states": list(states),
        "limit": limit,
        "offset": offset,
    }
    reply = ask(invocation, "suites", body)
    if invocation.json:
        invocation.emit("mgmt.suites/1", reply)
        return Exit.OK
    rows = reply["suites"]
    lines = tables.suites(rows, invocation.colored)[1 if no_headers else 0 :]
    if lines:
        click.echo("\n".join(lines))
    if reply["total"] > offset + len(rows):
        click.echo(f"{len(rows)} of {reply['total']} are shown; --limit and --offset show others", err=True)
    elif not rows and not no_headers:
        click.echo("no suite; `mgmt suite create` makes one", err=True)
    return Exit.OK


@verb("close", COMMANDS["close"][1])
@click.argument("suite", shell_complete=complete_suites)
def close(invocation: Invocation, suite: str) -> int:
    """Its tasks are still worked on. One without a new task for three minutes is closed anyway."""
    told = ask(invocation, "suite-close", {"suite": suite})
    if invocation.json:
        invocation.emit("mgmt.suite/1", told)
    else:
        click.echo(f"{tables.label(told)} is {told['state']}; tasks {tables.counts(told)}")
    return Exit.OK


@verb("cancel", COMMANDS["cancel"][1])
@click.argument("suite", shell_complete=complete_suites)
@click.option("--reason", default="", metavar="TEXT", help="Why, for whoever looks at it later.")
@click.option("--running", is_flag=True, help=CANCEL["cancel_running"])
def cancel(invocation: Invocation, suite: str, reason: str, running: bool) -> int:
    reply = ask(invocation, "suite-cancel", {"suite": suite, "reason": reason, "cancel_running": running})
    if invocation.json:
        invocation.emit("mgmt.suite-cancel/1", reply)
    else:
        told = reply["suite"]
        left = told["tasks"]["running"]
        click.echo(
            f"{tables.label(told)} is {told['state']}: {reply['cancelled']} tasks will not run"
            + (f", {left} still run" if left else "")
        )
    return Exit.OK


@verb("agents", COMMANDS["agents"][1])
@click.argument("suite", shell_complete=complete_suites)
@click.option(
    "--add", metavar="NODE", multiple=True, help="Work on it whatever the node's tags; may be repeated."
)
@click.option("--remove", metavar="NODE", multiple=True, help="Never work on it; may be repeated.")
def agents(invocation: Invocation, suite: str, add: tuple[str, ...], remove: tuple[str, ...]) -> int:
    """`local` is the daemon's own machine. Exits 9 when some nodes were not accepted."""
    reply = ask(invocation, "suite-agents", {"suite": suite, "add": list(add), "remove": list(remove)})
    return _changed(invocation, reply)


@verb("refresh", COMMANDS["refresh"][1])
@click.argument("suite", shell_complete=complete_suites)
def refresh(invocation: Invocation, suite: str) -> int:
    """Nodes that gave it up, after a failed provision hook for example, try once more."""
    return _changed(invocation, ask(invocation, "suite-refresh", {"suite": suite}))


def _changed(invocation: Invocation, reply: dict[str, Any]) -> int:
    if invocation.json:
        invocation.emit("mgmt.suite-agents/1", reply)
    else:
        for word in ("added", "removed"):
            if reply[word]:
                click.echo(f"{word}: {', '.join(reply[word])}")
        for node, why in reply["rejected"].items():
            click.echo(f"not {node}: {why}", err=True)
        click.echo("\n".join(tables.nodes(reply["nodes"])) if reply["nodes"] else tables.NO_NODES)
    return Exit.PARTIAL if reply["rejected"] else Exit.OK
