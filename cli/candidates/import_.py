"""`mgmt candidates import`: a Janitor's tables as a file that the other commands read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import click

from mgmt.protocol.errors import Exit

from ..invocation import Invocation, verb
from . import COMMANDS
from .files import written
from .janitor import adapter

TABLES = ("codebases", "policies", "change_sets", "versions", "candidates", "runs")


@verb("import", COMMANDS["import"][1])
@click.option("--database", metavar="URL", required=True, help="Like postgresql://janitor@host/janitor.")
@click.option("-o", "--output", metavar="FILE", type=click.Path(), required=True, help="What is written.")
def import_(invocation: Invocation, database: str, output: str) -> int:
    """FILE is JSON lines, a row each, all of one moment, and is there wholly or not at all. It takes little
    memory, however large the tables are. The database is only read."""
    counts: dict[str, int] = {}
    with adapter("database", "postgres").Database(database) as source, source.snapshot():
        written(Path(output), _lines(source, counts))
    told = {"file": output, "rows": counts}
    if invocation.json:
        invocation.emit("mgmt.candidates-import/1", told)
    else:
        click.echo(f"{output}: {', '.join(f'{count} {table}' for table, count in counts.items())}")
    return Exit.OK


def _lines(source: Any, counts: dict[str, int]) -> Iterator[str]:
    for table in TABLES:
        counts[table] = 0
        for row in source.rows(table):
            counts[table] += 1
            yield json.dumps({"table": table, **row}, ensure_ascii=False, default=_plain) + "\n"


def _plain(value: object) -> str | float:
    return value.isoformat() if isinstance(value, date) else float(str(value))
