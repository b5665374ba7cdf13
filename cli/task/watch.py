"""`mgmt task watch` and `wait`: how far a task is, until it has ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from mgmt.protocol.errors import Exit, MgmtError

from ..following import Patience
from ..invocation import Invocation, verb
from . import COMMANDS, tables

if TYPE_CHECKING:
    from mgmt.client import Client

WAIT_TIMEOUT_S = 86_400.0
ENDED = ("FINISHED", "CANCELLED", "FAILED")
# Stations of an execution that people care for, in order; those that were skipped count as passed.
STATIONS = ("FetchResource", "ExecPending", "ExecSpawned", "ExecFinished", "UploadResult", "TaskCommitted")


class TaskNumber(click.IntRange):
    name = "task number"


task_argument = click.argument("task", type=TaskNumber(1))


@verb("wait", COMMANDS["wait"][1])
@task_argument
@click.option(
    "--for",
    "state",
    metavar="STATE",
    default="TaskCommitted",
    help="An exec state, such as ExecSpawned; by default TaskCommitted: it has ended.",
)
def wait(invocation: Invocation, task: int, state: str) -> int:
    """Exits 7 when --timeout passes first, a day by default, and 8 when it has ended without having come so far.
    The exit status is not the task's: see `mgmt task show`, or `mgmt task submit --wait`."""
    timeout_s = invocation.timeout(WAIT_TIMEOUT_S)
    with invocation.client(WAIT_TIMEOUT_S) as client:
        told = client.request("task-wait", {"task": task, "state": state}, timeout_s=timeout_s)
    if invocation.json:
        invocation.emit("mgmt.task/1", told)
    else:
        click.echo(_line(told))
    return Exit.OK


@verb("watch", COMMANDS["watch"][1])
@task_argument
def watch(invocation: Invocation, task: int) -> int:
    """A line for each state of its execution; quick tasks skip some. The exit status is 0 when the task's was,
    else 1. With --json each line is an object."""
    with invocation.client(WAIT_TIMEOUT_S) as client:
        told = client.request("task-show", {"task": task})["status"]
        _say(invocation, told)
        seen = (told["state"], told["exec_state"])
        patience = Patience()
        patience.heard()
        for station in STATIONS:
            if told["state"] in ENDED:
                break
            told = _reached(client, task, station, patience) or told
            if (told["state"], told["exec_state"]) != seen:
                seen = (told["state"], told["exec_state"])
                _say(invocation, told)
    return Exit.OK if told["exit_status"] == 0 and told["state"] == "FINISHED" else Exit.FAILED


def _reached(client: Client, task: int, station: str, patience: Patience) -> dict[str, Any] | None:
    """Its status when it has come so far; None when it ended without."""
    while True:
        try:
            told = client.request("task-wait", {"task": task, "state": station})
            patience.heard()
            return told
        except MgmtError as error:
            if error.code == "conflict":
                return None
            if error.code == "expired":
                raise
            patience.wait(error)


def _say(invocation: Invocation, told: dict[str, Any]) -> None:
    if invocation.json:
        invocation.emit("mgmt.task/1", told)
    else:
        click.echo(_line(told))


def _line(told: dict[str, Any]) -> str:
    where = f" on {told['node']}" if told["node"] else ""
    far = f" ({told['exec_state']})" if told["exec_state"] and told["state"] not in ENDED else ""
    return f"{tables.summary(told)}{far}{where}"
