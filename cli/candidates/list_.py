"""`mgmt candidates list`: the daemon's candidates in their order."""

from __future__ import annotations

from typing import Any

import click

from mgmt.protocol.errors import Exit

from .. import render
from ..invocation import Invocation, verb
from . import COMMANDS

LIST_S = 300.0  # with the history read first


@verb("list", COMMANDS["list"][1])
@click.option("--codebase", help="Of this codebase only.")
@click.option("--campaign", help="Of this campaign only.")
@click.option("--policy", type=click.Choice(["default", "janitor_compat"]), help="By whose rules.")
@click.option("--limit", type=click.IntRange(1, 2000), default=20, show_default=True, help="How many.")
@click.option("--offset", type=click.IntRange(0), default=0, help="After so many others.")
def list_(
    invocation: Invocation,
    codebase: str | None,
    campaign: str | None,
    policy: str | None,
    limit: int,
    offset: int,
) -> int:
    """TURN is the sum of the scores up to its own in its campaign, by the campaign's weight: lower is earlier."""
    wanted = {"codebase": codebase, "campaign": campaign, "policy": policy}
    body = {name: value for name, value in wanted.items() if value is not None}
    with invocation.client(LIST_S) as client:
        told = client.request("candidates-list", {**body, "limit": limit, "offset": offset})
    if invocation.json:
        invocation.emit("mgmt.candidates-list/1", told)
        return Exit.OK
    lines = listed(told["candidates"])
    more = told["total"] - offset - len(told["candidates"])
    if more > 0:
        lines.append(f"and {more} more: --limit or --offset shows them")
    lines += [f"cycle: {' -> '.join([*cycle, cycle[0]])}" for cycle in told["cycles"]]
    if not told["total"]:
        lines = ["no candidates: `mgmt candidates load FILE` stores some"]
        if wanted["codebase"] or wanted["campaign"]:
            lines = ["no candidate is like that: `mgmt candidates list` shows those there are"]
    if told["faults"]:
        lines.append(f"{len(told['faults'])} rows left out: `mgmt candidates schedule --dry-run` tells them")
    click.echo("\n".join(lines))
    return Exit.OK


def listed(rows: list[dict[str, Any]]) -> list[str]:
    cells = [
        [
            row["codebase"], row["campaign"], "-" if row["score"] is None else f"{row['score']:.6g}",
            "-" if row["held"] else f"{row['turn']:.6g}",
            "-" if row["probability"] is None else f"{row['probability']:.3f}",
            render.duration(row["duration_s"]), row["held"] or (f"task {row['task']}" if row["task"] else "ready"),
        ]
        for row in rows
    ]  # fmt: skip
    header = ["CODEBASE", "CAMPAIGN", "SCORE", "TURN", "SUCCESS", "DURATION", "STATE"]
    return render.table(header, cells, "SCORE TURN SUCCESS DURATION")
