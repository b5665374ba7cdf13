"""`mgmt candidates replay`: recorded cases of Janitor's engine against the mode janitor_compat."""

from __future__ import annotations

import json
from typing import Any

import click

from mgmt.protocol.errors import Exit, MgmtError

from ..invocation import Invocation, verb
from ..schedule.files import read_text
from . import COMMANDS
from .files import CODE

SHOWN = 20


@verb("replay", COMMANDS["replay"][1])
@click.argument("file", type=click.Path())
def replay(invocation: Invocation, file: str) -> int:
    """FILE is JSON with a list `cases`, each with its input and what Janitor made of it. Exits 0 only when all
    of them match."""
    from mgmt.core.candidates.replay import replay as run

    verdicts = run(cases(file))
    failures = [verdict for verdict in verdicts if verdict.difference]
    passed = len(verdicts) - len(failures)
    if invocation.json:
        rows = [{"id": v.id, "kind": v.kind, "difference": v.difference} for v in failures]
        head = {"file": file, "passed": passed, "failed": len(failures)}
        invocation.emit("mgmt.candidates-replay/1", {**head, "failures": rows})
    else:
        for verdict in failures[:SHOWN]:
            click.echo(f"{verdict.id} ({verdict.kind}): {verdict.difference}")
        if failures[SHOWN:]:
            click.echo(f"and {len(failures) - SHOWN} more: --json has them all")
        click.echo(f"{passed} passed, {len(failures)} failed")
    return Exit.FAILED if failures else Exit.OK


def cases(file: str) -> list[Any]:
    """MgmtError `bad-candidates` for a file without cases: nothing was checked, so nothing has passed."""
    try:
        value = json.loads(read_text(file, CODE))
    except (ValueError, RecursionError) as error:
        raise MgmtError(CODE, f"{file}: not JSON: {error}") from None
    found = value.get("cases") if isinstance(value, dict) else value
    if not isinstance(found, list) or not found:
        raise MgmtError(CODE, f"{file}: has no cases: must be an object with a list `cases`")
    return found
