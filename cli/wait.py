"""`mgmt wait`: block until a unit or model is what it should be."""

from __future__ import annotations

import click

from mgmt.protocol.errors import Exit

from .completion import complete_units
from .invocation import Invocation, verb
from .progress import Spinner

WAIT_TIMEOUT_S = 600.0


@verb("wait")
@click.argument("name", shell_complete=complete_units)
@click.option(
    "--for",
    "condition",
    type=click.Choice(["ready", "active", "stopped", "failed"]),
    default="ready",
    help="What to wait for.",
)
def wait(invocation: Invocation, name: str, condition: str) -> int:
    """Exits 7 when --timeout passes first (10 minutes by default), 1 as soon as it can no longer happen."""
    timeout_s = invocation.timeout(WAIT_TIMEOUT_S)
    body = {"target": name, "condition": condition}
    with invocation.client(WAIT_TIMEOUT_S) as client, Spinner(invocation, name):
        met = client.request("wait", body, timeout_s=timeout_s)
    invocation.say(f"{met['target']} is {met['condition']} ({met['state']})")
    if invocation.json:
        invocation.emit("mgmt.wait/1", met)
    return Exit.OK
