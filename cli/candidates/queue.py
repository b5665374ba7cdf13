"""`mgmt candidates queue`, `position`, `eta`, `next`: candidates that are tasks of a suite."""

from __future__ import annotations

from typing import Any

import click

from mgmt.protocol.errors import Exit, MgmtError

from .. import render
from ..invocation import Invocation, verb
from . import COMMANDS

QUEUE_S = 60.0


@verb("queue", COMMANDS["queue"][1])
@click.option("--codebase", help="Of this codebase only.")
@click.option("--campaign", help="Of this campaign only.")
@click.option("--limit", type=click.IntRange(1, 2000), default=20, show_default=True, help="How many.")
def queue(invocation: Invocation, codebase: str | None, campaign: str | None, limit: int) -> int:
    """POSITION counts those that run. START is when a worker is expected to take it; - without any worker."""
    told = _ask(invocation, codebase, campaign, limit)
    if invocation.json:
        invocation.emit("mgmt.candidates-queue/1", told)
    else:
        click.echo(
            "\n".join([*_shown(told["queue"]), f"{told['total']} in the queue, {told['workers']} workers"])
        )
    return Exit.OK


@verb("position", COMMANDS["position"][1])
@click.argument("codebase")
@click.argument("campaign")
@click.option("--change-set", default="", help="The candidate of this change set.")
def position(invocation: Invocation, codebase: str, campaign: str, change_set: str) -> int:
    """1 is the next, or runs already; of those of the same suite."""
    body = {"codebase": codebase, "campaign": campaign, "change_set": change_set}
    with invocation.client(QUEUE_S) as client:
        told = client.request("candidates-position", body)
    if invocation.json:
        invocation.emit("mgmt.candidates-position/1", told)
    else:
        click.echo(f"{told['position']} of {told['total']}")
    return Exit.OK


@verb("eta", COMMANDS["eta"][1])
@click.argument("codebase")
@click.argument("campaign")
def eta(invocation: Invocation, codebase: str, campaign: str) -> int:
    """By the expected durations of those before it, on the workers of the suite: as likely sooner as later."""
    told = _ask(invocation, codebase, campaign, 1)
    if not told["queue"]:
        text = f"{codebase} in {campaign} is not in the queue; `mgmt candidates explain` says why"
        raise MgmtError("unknown-candidate", text)
    row = told["queue"][0]
    if invocation.json:
        invocation.emit("mgmt.candidates-queue/1", told)
    elif row["eta_s"] is None:
        click.echo("nobody knows: no node works on the suite")
    else:
        late = f", 9 of 10 within {render.duration(row['late_s'])}" if row["late_s"] > row["eta_s"] else ""
        running = row["state"] == "RUNNING"
        click.echo("it runs" if running else f"in {render.duration(row['eta_s'])}{late}")
    return Exit.OK


@verb("next", COMMANDS["next"][1])
def next_(invocation: Invocation) -> int:
    with invocation.client(QUEUE_S) as client:
        told = client.request("candidates-next", {})
    if invocation.json:
        invocation.emit("mgmt.candidates-next/1", told)
    else:
        click.echo("\n".join(_shown(told["queue"])) if told["queue"] else "no candidate is in the queue")
    return Exit.OK


def _ask(invocation: Invocation, codebase: str | None, campaign: str | None, limit: int) -> dict[str, Any]:
    body = {"codebase": codebase, "campaign": campaign, "limit": limit}
    with invocation.client(QUEUE_S) as client:
        return client.request("candidates-queue", {k: v for k, v in body.items() if v is not None})


def _shown(rows: list[dict[str, Any]]) -> list[str]:
    cells = [
        [
            str(row["position"]), row["codebase"], row["campaign"], row["bucket"], str(row["task"]),
            row["state"].lower(), render.duration(row["duration_s"]), render.duration(row["eta_s"]),
        ]
        for row in rows
    ]  # fmt: skip
    header = ["POSITION", "CODEBASE", "CAMPAIGN", "BUCKET", "TASK", "STATE", "DURATION", "START"]
    return render.table(header, cells, "POSITION TASK DURATION START")
