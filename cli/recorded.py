"""Recorded cases of an ancestor's engine against ours: read from a file, counted, and told."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Protocol

import click

from mgmt.protocol.errors import Exit, MgmtError

from .invocation import Invocation

SHOWN = 20


class Verdict(Protocol):
    """`difference`: between theirs and ours, empty when they agree."""

    @property
    def id(self) -> str: ...
    @property
    def difference(self) -> str: ...


def cases(file: str, text: str, code: str) -> list[Any]:
    """MgmtError `code` for a file without cases: there was nothing to check."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MgmtError(code, f"{file}: not JSON: {error}") from None
    found = value.get("cases") if isinstance(value, dict) else value
    if not isinstance(found, list):
        raise MgmtError(code, f"{file}: has no cases: must be an object with a list `cases`")
    if not found:
        raise MgmtError(code, f"{file}: its list of cases is empty: there was nothing to check")
    return found


def tell(invocation: Invocation, schema: str, file: str, verdicts: Sequence[Verdict], sort: str) -> int:
    """The exit status: OK only when all agree. `sort`: the attribute of a verdict that says of what sort it is."""
    failures = [verdict for verdict in verdicts if verdict.difference]
    passed = len(verdicts) - len(failures)
    if invocation.json:
        rows = [{"id": v.id, sort: getattr(v, sort), "difference": v.difference} for v in failures]
        head = {"file": file, "passed": passed, "failed": len(failures)}
        invocation.emit(schema, {**head, "failures": rows})
    else:
        for verdict in failures[:SHOWN]:
            click.echo(f"{verdict.id} ({getattr(verdict, sort)}): {verdict.difference}")
        if failures[SHOWN:]:
            click.echo(f"and {len(failures) - SHOWN} more: --json has them all")
        click.echo(f"{passed} passed, {len(failures)} failed")
    return Exit.FAILED if failures else Exit.OK
