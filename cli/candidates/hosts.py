"""`mgmt candidates hosts`: hosts of repositories that are left alone for a while."""

from __future__ import annotations

import click

from mgmt.protocol.errors import Exit

from .. import render
from ..invocation import Duration, Invocation, verb
from . import COMMANDS
from .files import moment
from .list_ import LIST_S


@verb("hosts", COMMANDS["hosts"][1])
@click.argument("host", required=False)
@click.option("--for", "for_s", type=Duration(), help="How long, like 1h, from now on.")
@click.option("--again", is_flag=True, help="It is left alone no longer.")
def hosts(invocation: Invocation, host: str | None, for_s: float | None, again: bool) -> int:
    """HOST is what stands in the address of a codebase, with its port. What is queued of codebases there is taken
    out of the queue, and what runs goes on; when the time is over, the next pass puts them in again."""
    if (host is None) != (for_s is None and not again) or (again and for_s is not None):
        raise click.UsageError("give HOST with --for or --again, or none of these")
    for_s = 0.0 if again else for_s
    with invocation.client(LIST_S) as client:
        told = client.request("candidates-hosts", {} if host is None else {"host": host, "for_s": for_s})
    if invocation.json:
        invocation.emit("mgmt.candidates-hosts/1", told)
        return Exit.OK
    cells = [[row["host"], moment(round(row["until"] * 1e6))] for row in told["hosts"]]
    lines = render.table(["HOST", "UNTIL"], cells, "") if cells else ["no host is left alone"]
    if told["cancelled"]:
        lines.append(f"{told['cancelled']} taken out of the queue")
    click.echo("\n".join(lines))
    return Exit.OK
