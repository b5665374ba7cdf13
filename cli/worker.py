"""`mgmt worker`: who does the tasks on the nodes."""

from __future__ import annotations

from typing import Any

import click

from mgmt.protocol.errors import Exit

from . import render
from .completion import complete_suites
from .groups import NearGroup, sub
from .invocation import Invocation, shared_options, verb
from .suite.asking import nearest

HEADER = ["WORKER", "NODE", "SUITE", "STATE", "TASK", "DONE", "PID", "CPUS"]
RIGHT = "SUITE TASK DONE PID"


@click.group("worker", cls=NearGroup, params=shared_options())
def worker() -> None:
    """Show the workers of nodes, pause and resume them.

    Nodes start the workers of the suite they work on by themselves, and end them with it.
    """


@sub(worker, "list", "workers")
@click.option("--node", metavar="NODE", help="Only those of this node.")
@click.option("--suite", metavar="SUITE", shell_complete=complete_suites, help="Only those of this suite.")
@click.option("--no-headers", is_flag=True, help="Only the rows.")
def list_(invocation: Invocation, node: str | None, suite: str | None, no_headers: bool) -> int:
    with invocation.client() as client, nearest(client):
        reply = client.request("workers", {"node": node, "suite": suite})
    if invocation.json:
        invocation.emit("mgmt.workers/1", reply)
        return Exit.OK
    lines = render.table(HEADER, [_row(one) for one in reply["workers"]], RIGHT)[1 if no_headers else 0 :]
    if lines:
        click.echo("\n".join(lines))
    return Exit.OK


@verb("pause", "Have the workers of a node finish what they run and take nothing new.")
@click.argument("node")
def pause(invocation: Invocation, node: str) -> int:
    """What they run ends as usual. The node keeps its suite."""
    return _pause(invocation, node, True)


@verb("resume", "Let the workers of a node go on.")
@click.argument("node")
def resume(invocation: Invocation, node: str) -> int:
    return _pause(invocation, node, False)


for command in (pause, resume):
    worker.add_command(command)


def _pause(invocation: Invocation, node: str, paused: bool) -> int:
    with invocation.client() as client:
        reply = client.request("worker-pause", {"node": node, "paused": paused})
    if invocation.json:
        invocation.emit("mgmt.workers/1", reply)
    else:
        click.echo(f"{node}: its workers {'take nothing new' if paused else 'go on'}")
    return Exit.OK


def _row(one: dict[str, Any]) -> list[str]:
    return [
        one["worker"],
        one["node"],
        render.dashed(one["suite"]),
        one["state"],
        render.dashed(one["task"]),
        str(one["done"]),
        render.dashed(one["pid"]),
        render.cpu_list(one["cpus"]),
    ]
