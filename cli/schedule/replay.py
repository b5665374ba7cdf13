"""`mgmt schedule replay`: recorded cases of TIMPANI's scheduler against the mode compat."""

from __future__ import annotations

import json
from typing import Any

import click

from mgmt.protocol.errors import Exit, MgmtError

from ..invocation import Invocation, verb
from . import COMMANDS, files

SHOWN = 20


@verb("replay", COMMANDS["replay"][1])
@click.argument("file", type=click.Path())
def replay(invocation: Invocation, file: str) -> int:
    """FILE is JSON with a list `cases`, each with its input and what TIMPANI made of it. Exits 0 only when all
    of them match."""
    from mgmt.core.schedule.replay import replay as run

    verdicts = run(cases(file))
    failures = [verdict for verdict in verdicts if verdict.difference]
    passed = len(verdicts) - len(failures)
    if invocation.json:
        rows = [{"id": v.id, "category": v.category, "difference": v.difference} for v in failures]
        head = {"file": file, "passed": passed, "failed": len(failures)}
        invocation.emit("mgmt.schedule-replay/1", {**head, "failures": rows})
    else:
        for verdict in failures[:SHOWN]:
            click.echo(f"{verdict.id} ({verdict.category}): {verdict.difference}")
        if failures[SHOWN:]:
            click.echo(f"and {len(failures) - SHOWN} more: --json has them all")
        click.echo(f"{passed} passed, {len(failures)} failed")
    return Exit.FAILED if failures else Exit.OK


def cases(file: str) -> list[Any]:
    """MgmtError `bad-workload` for a file without cases: nothing was checked, so nothing has passed."""
    try:
        value = json.loads(files.read_text(file))
    except (ValueError, RecursionError) as error:
        raise MgmtError("bad-workload", f"{file}: not JSON: {error}") from None
    found = value.get("cases") if isinstance(value, dict) else value
    if not isinstance(found, list) or not found:
        raise MgmtError("bad-workload", f"{file}: has no cases: must be an object with a list `cases`")
    return found
