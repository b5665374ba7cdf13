"""`mgmt candidates analytics`: what the history of runs says by campaign and by codebase."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mgmt.protocol.errors import Exit

from .. import render
from ..invocation import Invocation, verb
from . import COMMANDS
from .compare import figure
from .files import loaded, shared

GROUPS = {"campaign": "campaigns", "codebase": "codebases"}


@verb("analytics", COMMANDS["analytics"][1])
@click.argument("file", type=click.Path(), required=False)
@click.option("--by", type=click.Choice(list(GROUPS)), help="One of the two tables; default: both.")
@click.option("--campaign", help="Runs of this campaign only.")
@click.option("--codebase", help="Runs of this codebase only.")
@click.option("--days", type=click.FloatRange(0, min_open=True), default=30.0, help="Of what TREND is.")
@click.option("--top", type=click.IntRange(1), default=20, help="How many of each are shown; --json has all.")
@click.option("--svg", metavar="OUT", type=click.Path(), help="Draw it into this file as well.")
@shared
def analytics(
    invocation: Invocation,
    file: str | None,
    by: str | None,
    campaign: str | None,
    codebase: str | None,
    days: float,
    top: int,
    svg: str | None,
    now: str | None,
    settings: str | None,
) -> int:
    """Without FILE of the daemon's own history. RATE: successes by successes and failures; P50 and P90 of the
    durations of all that was not transient; TREND: the rate of the latest days without that of as many before."""
    from mgmt.core.candidates.analytics import analytics as tell

    found = loaded(invocation, file, now, settings)
    runs = [
        run
        for run in found.world.runs
        if campaign in (None, run.campaign) and codebase in (None, run.codebase)
    ]
    told = {"now": found.now, **tell(runs, found.now_us, days)}
    told["faults"] = [fault.as_row() for fault in found.faults]
    wanted = [GROUPS[by]] if by else list(GROUPS.values())
    if svg is not None:
        from .chart import svg as draw

        Path(svg).write_text(
            draw(Path(file).name if file else "the daemon", told, wanted, top), encoding="utf-8"
        )
    if invocation.json:
        invocation.emit("mgmt.candidates-analytics/1", told)
    else:
        click.echo("\n".join(shown(told, wanted, top)))
    return Exit.PARTIAL if told["faults"] else Exit.OK


def shown(told: dict[str, Any], wanted: list[str], top: int) -> list[str]:
    lines: list[str] = []
    for group in wanted:
        rows = told[group]
        header = [
            group[:-1].upper(),
            "RUNS",
            "SUCCESS",
            "FAILURE",
            "NOTHING",
            "TRANSIENT",
            "RATE",
            "P50",
            "P90",
        ]
        cells = [[row["name"], *_figures(row)] for row in rows[:top]]
        if told["all"] is not None:
            cells.append(["all", *_figures(told["all"])])
        lines += render.table([*header, "TREND"], cells, " ".join([*header[1:], "TREND"]))
        if rows[top:]:
            lines.append(f"and {len(rows) - top} more: --top or --json shows them")
        lines.append("")
    lines.append(f"{told['runs']} runs until {told['now']}; the trend is of {told['period_days']:g} days")
    if told["faults"]:
        lines.append(f"{len(told['faults'])} rows left out: --json tells them")
    return lines


def _figures(row: dict[str, Any]) -> list[str]:
    counts = [str(row[name]) for name in ("runs", "success", "failure", "nothing", "transient")]
    trend = "-" if row["trend"] is None else f"{row['trend']:+.3f}"
    return [*counts, figure(row["rate"]), render.duration(row["p50_s"]), render.duration(row["p90_s"]), trend]
