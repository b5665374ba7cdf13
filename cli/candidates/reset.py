"""`mgmt candidates reset`: out of the queue, or forgotten altogether."""

from __future__ import annotations

import click

from mgmt.protocol.errors import Exit

from ..invocation import Invocation, verb
from . import COMMANDS


@verb("reset", COMMANDS["reset"][1])
@click.option("--codebase", help="Of this codebase only.")
@click.option("--campaign", help="Of this campaign only.")
@click.option("--forget", is_flag=True, help="Forget candidates, codebases, policies and runs as well.")
def reset(invocation: Invocation, codebase: str | None, campaign: str | None, forget: bool) -> int:
    """What runs goes on, and its run is recorded."""
    wanted = {"codebase": codebase, "campaign": campaign}
    body = {name: value for name, value in wanted.items() if value is not None}
    with invocation.client() as client:
        told = client.request("candidates-reset", {**body, "forget": forget})
    if invocation.json:
        invocation.emit("mgmt.candidates-reset/1", told)
    else:
        also = ", and everything is forgotten" if told["forgotten"] else ""
        click.echo(f"{told['cancelled']} taken out of the queue{also}")
    return Exit.OK
