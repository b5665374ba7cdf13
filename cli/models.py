"""`mgmt models`: what can be loaded, and what is."""

from __future__ import annotations

import click

from mgmt.protocol.errors import Exit

from . import render
from .invocation import Invocation, verb


@verb("models")
@click.option("--no-headers", is_flag=True, help="Only the rows.")
def models(invocation: Invocation, no_headers: bool) -> int:
    """The default model, given to clients that name none, has a star."""
    with invocation.client() as client:
        rows = client.request("models", {})["models"]
    if invocation.json:
        invocation.emit("mgmt.models/1", {"models": rows})
        return Exit.OK
    cells = [
        [
            row["model"] + ("*" if row["default"] else ""),
            row["state"],
            f"{row['ready']}/{row['replicas']}",
            row["type"],
            ",".join(row["aliases"]) or "-",
            row["fullname"],
        ]
        for row in rows
    ]
    lines = render.table(["MODEL", "STATE", "READY", "TYPE", "ALIASES", "FULL NAME"], cells)
    if invocation.colored:
        lines[1:] = [render.painted(line, row["state"]) for line, row in zip(lines[1:], rows, strict=True)]
    click.echo("".join(f"{line}\n" for line in lines[no_headers:]), nl=False)
    return Exit.OK
