"""`mgmt candidates compare`: the shadow run, two policies on the same history."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mgmt.protocol.errors import Exit

from .. import render
from ..invocation import Invocation, verb
from . import COMMANDS
from .files import loaded, shared


@verb("compare", COMMANDS["compare"][1])
@click.argument("file", type=click.Path(), required=False)
@click.option("--top", type=click.IntRange(1, 1000), default=20, help="How many first ones are compared.")
@click.option("--svg", metavar="OUT", type=click.Path(), help="Draw it into this file as well.")
@shared
def compare(
    invocation: Invocation,
    file: str | None,
    top: int,
    svg: str | None,
    now: str | None,
    settings: str | None,
) -> int:
    """Without FILE of the daemon's own history, with its settings; the work is done here. Each policy is told of a
    run only after it was asked what to expect of it. Brier score and calibration are of runs that succeeded or
    failed; the duration error is the middle |ln(expected / real)|; regret is what the first ones bring less per
    hour than the best ones would, by the default policy's estimates."""
    from mgmt.core.candidates.comparison import compared

    found = loaded(invocation, file, now, settings)
    told = {"now": found.now, **compared(found.world, found.settings, found.now_us, top=top)}
    told["faults"] = [fault.as_row() for fault in found.faults] + told["faults"]
    if svg is not None:
        from .picture import svg as draw

        Path(svg).write_text(draw(Path(file).name if file else "the daemon", told), encoding="utf-8")
    if invocation.json:
        invocation.emit("mgmt.candidates-compare/1", told)
    else:
        click.echo("\n".join(shown(told)))
    return Exit.PARTIAL if told["faults"] else Exit.OK


def figure(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def shown(told: dict[str, Any]) -> list[str]:
    cells = [
        [
            one["policy"], str(one["predicted"]), str(one["refused"]), figure(one["brier"]),
            figure(one["calibration_error"]), figure(one["duration_error"]), figure(one["value_per_hour"], 1),
            figure(one["regret"], 1),
        ]
        for one in told["policies"]
    ]  # fmt: skip
    header = ["POLICY", "PREDICTED", "REFUSED", "BRIER", "CALIBRATION", "DURATION", "VALUE/H", "REGRET"]
    lines = render.table(header, cells, " ".join(header[1:]))
    both = f"rank correlation {figure(told['rank_correlation'])}, {100 * told['overlap']:.0f} % of the first"
    lines += ["", f"{both} {told['top']} are the same", ""]
    names = [one["policy"] for one in told["policies"]]
    places = [
        [row["codebase"], row["campaign"], render.dashed(row["left"]), render.dashed(row["right"])]
        for row in told["rows"]
    ]
    lines += render.table(["CODEBASE", "CAMPAIGN", *names], places, " ".join(names))
    if told["faults"]:
        lines.append(f"{len(told['faults'])} rows left out: `mgmt candidates score` tells them")
    return lines
