"""`mgmt task show`, `explain`, `logs`: one task in detail, why it waits, and what it wrote."""

from __future__ import annotations

import sys
from typing import Any

import click

from mgmt.protocol.errors import Exit, MgmtError

from ..invocation import Invocation, verb
from . import COMMANDS, tables
from .watch import WAIT_TIMEOUT_S, task_argument

TAIL_BYTES = 4096  # of the output of a task that does not keep it


@verb("show", COMMANDS["show"][1])
@task_argument
def show(invocation: Invocation, task: int) -> int:
    shown = _ask(invocation, task)
    if invocation.json:
        _emit(invocation, shown)
    else:
        click.echo("\n".join(tables.detail(shown, invocation.colored)))
    return Exit.OK


@verb("explain", COMMANDS["explain"][1])
@task_argument
def explain(invocation: Invocation, task: int) -> int:
    """The most important reason first; then the workers it killed, if any."""
    shown = _ask(invocation, task)
    if invocation.json:
        _emit(invocation, shown)
        return Exit.OK
    click.echo(tables.summary(shown["status"]))
    for line in shown["lines"]:
        click.echo(f"  {line}")
    for death in shown["failures"]:
        told = ", ".join(f"{key} {value}" for key, value in death.items() if value not in (None, ""))
        click.echo(f"  a worker died of it: {told}")
    return Exit.OK


@verb("logs", COMMANDS["logs"][1])
@task_argument
@click.option("-f", "--follow", is_flag=True, help="Wait for its end first.")
def logs(invocation: Invocation, task: int, follow: bool) -> int:
    """Standard output and error as they came: all of a task with terminal_output, else the last 4 KiB. Exits 3
    while it has not ended."""
    with invocation.client(WAIT_TIMEOUT_S if follow else 10.0) as client:
        if follow:
            client.request("task-wait", {"task": task})
        shown = client.request("task-show", {"task": task})
        if shown["result"] is None:
            state = shown["status"]["state"]
            text = f"task {task} is {state} and has no output yet; `mgmt task logs -f {task}` waits for it"
            raise MgmtError("not-ready", text, task=task)
        whole = next((one["blob"] for one in shown["artifacts"] if one["kind"] == "std-log"), None)
        if whole is not None and not invocation.json:
            from mgmt.client import files

            files.read(client, whole, sys.stdout.buffer.write)
            return Exit.OK
    if invocation.json:
        tail = shown["result"]["tail"]
        invocation.emit("mgmt.task-log/1", {"task": task, "whole": whole}, {"tail": tail})
    else:
        tail = shown["result"]["tail"]
        click.echo(tail, nl=False)
        if len(tail.encode()) >= TAIL_BYTES:
            text = "that was the end of it: `mgmt task submit --output` has all of a task's output kept"
            click.echo(f"mgmt: {text}", err=True)
    return Exit.OK


def _ask(invocation: Invocation, task: int) -> dict[str, Any]:
    with invocation.client() as client:
        return client.request("task-show", {"task": task})


def _emit(invocation: Invocation, shown: dict[str, Any]) -> None:
    opaque = {name: shown.pop(name) for name in ("spec", "result", "failures", "artifacts")}
    invocation.emit("mgmt.task-show/1", shown, opaque)
