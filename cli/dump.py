"""`mgmt dump`: everything the daemon knows, for people who look for a fault."""

from __future__ import annotations

import json

import click

from mgmt.protocol.errors import Exit

from .invocation import Invocation, verb


@verb("dump")
def dump(invocation: Invocation) -> int:
    """One JSON value, with --json in one line. What is in it is not part of the contract."""
    with invocation.client() as client:
        state = client.request("dump", {})["state"]
    if invocation.json:
        invocation.emit("mgmt.dump/1", {}, {"state": state})
    else:
        from .render import plain

        value = {"schema": "mgmt.dump/1", "state": plain(state, frozenset())}
        click.echo(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))
    return Exit.OK
