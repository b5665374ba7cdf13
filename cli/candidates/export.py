"""`mgmt candidates export`: what the daemon has, as a file that the other commands and `load` read."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from mgmt.protocol.errors import Exit

from ..invocation import Invocation, verb
from . import COMMANDS
from .files import pages, written


@verb("export", COMMANDS["export"][1])
@click.option(
    "-o", "--output", metavar="FILE", type=click.Path(), help="What is written; default: the output."
)
def export(invocation: Invocation, output: str | None) -> int:
    """JSON lines, a row each with the name of its `table`, runs that were recorded included. FILE is there wholly
    or not at all. What changes meanwhile may be in it or not."""
    counts: dict[str, int] = {}
    lines = _lines(invocation, counts)
    if output is None:
        sys.stdout.writelines(lines)
        return Exit.OK
    written(Path(output), lines)
    if invocation.json:
        invocation.emit("mgmt.candidates-export/1", {"file": output, "rows": counts})
    else:
        told = ", ".join(f"{count} {table}" for table, count in counts.items())
        click.echo(f"{output}: {told or 'no rows'}")
    return Exit.OK


def _lines(invocation: Invocation, counts: dict[str, int]) -> Iterator[str]:
    for told in pages(invocation):
        for row in told["rows"]:
            counts[row["table"]] = counts.get(row["table"], 0) + 1
            record: dict[str, Any] = row["record"]
            yield json.dumps({"table": row["table"], **record}, ensure_ascii=False) + "\n"
