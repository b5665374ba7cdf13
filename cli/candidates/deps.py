"""`mgmt candidates deps`: which candidates wait for which."""

from __future__ import annotations

from typing import Any

import click

from mgmt.protocol.errors import Exit

from .. import render
from ..invocation import Invocation, verb
from . import COMMANDS
from .list_ import LIST_S

PAGE = 2000


@verb("deps", COMMANDS["deps"][1])
@click.option("--codebase", help="Of this codebase only.")
def deps(invocation: Invocation, codebase: str | None) -> int:
    """REQUIRES: campaigns that must have succeeded for the codebase before. The exit status is 1 with a cycle."""
    told: dict[str, Any] = {"candidates": []}
    found: list[dict[str, Any]] = []
    body: dict[str, Any] = {"limit": PAGE} if codebase is None else {"limit": PAGE, "codebase": codebase}
    with invocation.client(LIST_S) as client:
        offset, total = 0, 1
        while offset < total:
            told = client.request("candidates-list", {**body, "offset": offset})
            found += [row for row in told["candidates"] if row["requires"] or row["held"].startswith("waits")]
            offset, total = offset + PAGE, told["total"]
    if invocation.json:
        invocation.emit("mgmt.candidates-list/1", {**told, "candidates": found})
    else:
        cells = [
            [row["codebase"], row["campaign"], ", ".join(row["requires"]) or "-", row["held"] or "met"]
            for row in found
        ]
        lines = render.table(["CODEBASE", "CAMPAIGN", "REQUIRES", "STATE"], cells, "") if cells else []
        lines += [f"cycle: {' -> '.join([*cycle, cycle[0]])}" for cycle in told["cycles"]]
        click.echo("\n".join(lines or ["nothing waits for anything"]))
    return Exit.FAILED if told["cycles"] else Exit.OK
