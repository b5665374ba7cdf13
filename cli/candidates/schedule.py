"""`mgmt candidates schedule`: one pass over a Janitor's candidates, into its own queue."""

from __future__ import annotations

from typing import Any

import click

from mgmt.protocol.errors import Exit

from .. import render
from ..invocation import Invocation, verb
from . import COMMANDS
from .files import chosen, clock_us, moment, shared
from .janitor import adapter
from .score import fault_text, row_of, state

SHOWN = 20


@verb("schedule", COMMANDS["schedule"][1])
@click.argument("codebases", nargs=-1)
@click.option("--database", metavar="URL", required=True, help="Like postgresql://janitor@host/janitor.")
@click.option(
    "--policy", type=click.Choice(["default", "janitor_compat"]), default="default", help="By whose rules."
)
@click.option("--campaign", help="Candidates of this campaign only.")
@click.option("--limit", type=click.IntRange(1), help="The best so many only.")
@click.option("--dry-run", is_flag=True, help="Decide, and write nothing.")
@click.option("--redis", metavar="URL", help="Keep a mirror of the queue there, a sorted set a bucket.")
@shared
def schedule(
    invocation: Invocation,
    codebases: tuple[str, ...],
    database: str,
    policy: str,
    campaign: str | None,
    limit: int | None,
    dry_run: bool,
    redis: str | None,
    now: str | None,
    settings: str | None,
) -> int:
    """CODEBASES: these only. What is decided is committed at once; rows of a more urgent bucket stay. Rows that
    cannot be used are told and left out, and the exit status is 9 then."""
    passes = adapter("passes", "postgres")
    mirror = adapter("mirror", "redis").Mirror(redis) if redis is not None and not dry_run else None
    now_us, wanted = clock_us(now), passes.Choice(codebases, campaign, limit, dry_run)
    with adapter("database", "postgres").Database(database) as source:
        if policy == "default":
            done = passes.default_pass(source, wanted, chosen(settings), now_us)
        else:
            done = passes.compat_pass(source, wanted, now_us)
    told = {
        "policy": policy, "now": moment(now_us), "dry_run": dry_run, "considered": done.considered,
        "decided": [_item(item) for item in done.decided], "written": done.written,
        "held": [row_of(one, None) for one in done.held],
        "mirrored": mirror.replace(done.queue) if mirror is not None else None,
        "faults": [fault.as_row() for fault in done.faults], "warnings": list(done.warnings),
    }  # fmt: skip
    if mirror is not None:
        mirror.close()
    if invocation.json:
        invocation.emit("mgmt.candidates-schedule/1", told)
    else:
        click.echo("\n".join(shown(told)))
    return Exit.PARTIAL if told["faults"] else Exit.OK


def _item(item: Any) -> dict[str, Any]:
    us = item.estimated_duration_us
    return {
        "codebase": item.codebase, "campaign": item.campaign, "change_set": item.change_set or "",
        "bucket": item.bucket, "priority": item.priority, "command": item.command,
        "duration_s": None if us is None else us / 1e6,
    }  # fmt: skip


def shown(told: dict[str, Any]) -> list[str]:
    rows = told["decided"]
    cells = [
        [
            row["bucket"],
            str(row["priority"]),
            row["codebase"],
            row["campaign"],
            render.duration(row["duration_s"]),
        ]
        for row in rows[:SHOWN]
    ]
    lines = render.table(
        ["BUCKET", "PRIORITY", "CODEBASE", "CAMPAIGN", "DURATION"], cells, "PRIORITY DURATION"
    )
    if rows[SHOWN:]:
        lines.append(f"and {len(rows) - SHOWN} more: --json has them")
    lines += [f"held: {row['codebase']} {row['campaign']}: {state(row)}" for row in told["held"][:SHOWN]]
    lines += [f"warning: {warning}" for warning in told["warnings"]]
    lines += [f"left out: {fault_text(fault)}" for fault in told["faults"][:SHOWN]]
    written = "nothing was written" if told["dry_run"] else f"{told['written']} written"
    lines.append(
        f"{told['considered']} candidates, {len(rows)} decided, {len(told['held'])} held, "
        f"{len(told['faults'])} rows left out; {written}"
    )
    if told["mirrored"] is not None:
        lines.append(f"{told['mirrored']} rows in the mirror")
    return lines
