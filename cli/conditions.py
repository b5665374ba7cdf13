"""`mgmt is-ready`, `is-active`, `is-failed`: a state as an exit status, for scripts and units."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from mgmt.protocol.errors import Exit

from .completion import complete_units
from .invocation import Invocation, verb

if TYPE_CHECKING:
    from mgmt.client import Client

# Of the replicas of a model the worst speaks for it, in the order in which the daemon's own `wait` judges.
WORST_FIRST = ("FATAL", "BACKOFF", "STOPPING", "STARTING", "EXITED", "STOPPED", "RUNNING")
MET = {
    "ready": ("RUNNING",),
    "active": ("STARTING", "RUNNING", "BACKOFF", "STOPPING"),
    "failed": ("FATAL",),
}


@verb("is-ready")
@click.argument("name", shell_complete=complete_units)
@click.option("--monitor", is_flag=True, help="Stay while it is ready; exit when it no longer is.")
def is_ready(invocation: Invocation, name: str, monitor: bool) -> int:
    """Exits 0 when it is, 3 when not, 1 when it failed for good, 4 when there is no such unit or model."""
    with invocation.client() as client:
        state = state_of(client, name)
        if not monitor or state != "RUNNING":
            return told(invocation, name, "ready", state)
        if not invocation.json:
            told(invocation, name, "ready", state)
        with invocation.client() as watcher:
            # The stream begins with a snapshot, so a change before it is not missed.
            for _ in watcher.events(since=None, follow=True):
                state = state_of(client, name)
                if state != "RUNNING":
                    break
        return told(invocation, name, "ready", state)


@verb("is-active")
@click.argument("name", shell_complete=complete_units)
def is_active(invocation: Invocation, name: str) -> int:
    """Exits 0 when it is, 3 when not, 1 when it failed for good, 4 when there is no such unit or model."""
    with invocation.client() as client:
        return told(invocation, name, "active", state_of(client, name))


@verb("is-failed")
@click.argument("name", shell_complete=complete_units)
def is_failed(invocation: Invocation, name: str) -> int:
    """Exits 0 when it is, 1 when not, 4 when there is no such unit or model."""
    with invocation.client() as client:
        return told(invocation, name, "failed", state_of(client, name))


def state_of(client: Client, name: str) -> str:
    """The state of a unit or model; `unknown-unit` or `unknown-model` when there is neither."""
    units: list[dict[str, Any]] = client.request("status", {"units": [name]})["units"]
    return min((unit["state"] for unit in units), key=WORST_FIRST.index, default="STOPPED")


def told(invocation: Invocation, name: str, condition: str, state: str) -> int:
    """Say the state; the exit status of the answer."""
    met = state in MET[condition]
    invocation.say(state)
    if invocation.json:
        invocation.emit(
            "mgmt.condition/1", {"target": name, "condition": condition, "state": state, "met": met}
        )
    if met:
        return Exit.OK
    return Exit.FAILED if condition == "failed" or state == "FATAL" else Exit.NOT_READY
