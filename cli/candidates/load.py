"""`mgmt candidates load`: rows of a file into the daemon, in requests of a bounded size."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from mgmt.protocol import defaults, frames
from mgmt.protocol.errors import Exit, MgmtError

from ..invocation import Invocation, verb
from . import COMMANDS
from .files import CODE, tables
from .score import SHOWN, fault_text

# Rows are only useful with those that they name, which are therefore sent first.
ORDER = ("codebases", "policies", "change_sets", "versions", "candidates", "runs")
REQUEST_BYTES = defaults.MAX_CONTROL_FRAME_BYTES // 4  # of packed rows
LOAD_S = 60.0


@verb("load", COMMANDS["load"][1])
@click.argument("file", type=click.Path())
def load(invocation: Invocation, file: str) -> int:
    """A row takes the place of one of the same key: loading a file again changes nothing, and what was loaded from
    others stays. Rows that cannot be used are told and left out, and the exit status is 9 then."""
    from mgmt.core.candidates.records import table_of

    value = tables(file)
    if not isinstance(value, dict):
        raise MgmtError(CODE, f"{file}: must be an object with tables: codebases, candidates, runs, ...")
    value.pop("now", None)
    found: dict[str, list[Any]] = {}
    for given, rows in value.items():
        table = table_of(given)
        if table is None:
            raise MgmtError(CODE, f"{file}: there is no table {given!r}; known are {', '.join(ORDER)}")
        found[table] = _rows(file, table, rows)
    counts, faults = dict[str, int](), list[dict[str, Any]]()
    with invocation.client(LOAD_S) as client:
        for table in ORDER:
            for part in _parts(table, found.get(table, []), faults):
                told = client.request("candidates-load", {"table": table, "rows": list(part.values())})
                counts[table] = counts.get(table, 0) + told["stored"]
                numbers = list(part)  # in the file: the daemon counts from the first of the request
                faults += [{**fault, "row": _number(fault["row"], numbers)} for fault in told["faults"]]
    if invocation.json:
        invocation.emit("mgmt.candidates-load/1", {"file": file, "rows": counts, "faults": faults})
    else:
        for fault in faults[:SHOWN]:
            click.echo(f"left out: {fault_text(fault)}")
        click.echo(f"{file}: {', '.join(f'{count} {table}' for table, count in counts.items()) or 'no rows'}")
    return Exit.PARTIAL if faults else Exit.OK


def _rows(file: str, table: str, rows: Any) -> list[Any]:
    if table == "policies" and isinstance(rows, dict):
        return [{"name": name, "per_branch_policy": entries} for name, entries in rows.items()]
    if not isinstance(rows, list):
        raise MgmtError(CODE, f"{file}: {table}: must be a list of rows")
    if table == "change_sets":
        return [row if isinstance(row, dict) else {"id": row} for row in rows]
    return rows


def _number(row: str, numbers: list[int]) -> str:
    return str(numbers[int(row)]) if row.isdecimal() and int(row) < len(numbers) else row


def _parts(table: str, rows: list[Any], faults: list[dict[str, Any]]) -> Iterator[dict[int, Any]]:
    """Rows by their numbers. One that cannot be sent is a fault, and the others go on."""
    part: dict[int, Any] = {}
    size = 0
    for number, row in enumerate(rows):
        try:
            row_bytes = len(frames.pack(row))
        except (OverflowError, ValueError) as error:
            problem = f"cannot be sent to the daemon: {error}"
        else:
            problem = "" if isinstance(row, dict) else f"is {row!r}: must be an object"
            if row_bytes > REQUEST_BYTES:
                problem = f"has {row_bytes} bytes: at most {REQUEST_BYTES} can be sent"
        if problem:
            faults.append({"table": table, "row": str(number), "column": "", "problem": problem})
            continue
        if part and (size + row_bytes > REQUEST_BYTES or len(part) == defaults.MAX_CANDIDATE_ROWS):
            yield part
            part, size = {}, 0
        part[number] = row
        size += row_bytes
    if part:
        yield part
