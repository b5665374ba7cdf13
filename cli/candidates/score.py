"""`mgmt candidates score`: all candidates of a file in their order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from mgmt.protocol.errors import Exit

from .. import render
from ..invocation import Invocation, verb
from . import COMMANDS
from .files import Loaded, load, moment, shared

if TYPE_CHECKING:
    from mgmt.core.candidates.scoring import CandidateScore

SHOWN = 20


@verb("score", COMMANDS["score"][1])
@click.argument("file", type=click.Path())
@click.option(
    "--policy", type=click.Choice(["default", "janitor_compat"]), default="default", help="By whose rules."
)
@click.option("--top", type=click.IntRange(1), default=SHOWN, help="How many are shown; --json has all.")
@shared
def score(
    invocation: Invocation, file: str, policy: str, top: int, now: str | None, settings: str | None
) -> int:
    """The score is the expected cost in ms by the expected value: lower is earlier. Rows that cannot be used are
    told and left out, and the exit status is 9 then."""
    loaded = load(file, now, settings)
    told = by_default(loaded) if policy == "default" else by_compat(loaded)
    told = {"policy": policy, "now": loaded.now, **told}
    if invocation.json:
        invocation.emit("mgmt.candidates-score/1", told)
    else:
        click.echo("\n".join(shown(told, top)))
    return Exit.PARTIAL if told["faults"] else Exit.OK


def row_of(found: CandidateScore, rank: int | None) -> dict[str, Any]:
    return {
        "codebase": found.codebase, "campaign": found.campaign, "change_set": found.change_set, "rank": rank,
        "score": found.score, "probability": found.probability,
        "duration_s": None if found.duration_us is None else found.duration_us / 1e6,
        "not_before": moment(found.not_before_us) if found.not_before_us else None,
        "waits_for": list(found.waits_for), "reason": found.reason,
    }  # fmt: skip


def by_default(loaded: Loaded) -> dict[str, Any]:
    from mgmt.core.candidates.scoring import Scorer

    scorer = Scorer(loaded.world, loaded.settings, loaded.now_us)
    rows = [
        row_of(found, None if found.score is None else rank)
        for rank, found in enumerate(scorer.pass_over(loaded.now_us), 1)
    ]
    cycles = [[" ".join(filter(None, key)) for key in cycle] for cycle in scorer.order().cycles]
    faults = [fault.as_row() for fault in (*loaded.faults, *scorer.faults)]
    return {"candidates": rows, "cycles": cycles, "faults": faults, "warnings": sorted(scorer.warnings)}


def by_compat(loaded: Loaded) -> dict[str, Any]:
    from mgmt.core.candidates.compat import Engine

    scored = Engine(loaded.world, loaded.now_us).bulk(dry_run=True)
    fine = sorted((one for one in scored if one.estimate is not None), key=lambda one: one.offset)
    rows = []
    for rank, one in enumerate(fine, 1):
        assert one.estimate is not None  # by the filter
        rows.append(
            {
                "codebase": one.candidate.codebase, "campaign": one.candidate.campaign,
                "change_set": one.candidate.change_set or "", "rank": rank, "score": one.offset,
                "probability": one.estimate.probability, "duration_s": one.estimate.duration_us / 1e6,
                "not_before": None, "waits_for": [], "reason": "",
            }
        )  # fmt: skip
    faults = [fault.as_row() for fault in loaded.faults]
    for one in scored:
        if one.error:
            key = f"{one.candidate.codebase} {one.candidate.campaign}"
            faults.append({"table": "candidates", "row": key, "column": "", "problem": one.error})
    return {"candidates": rows, "cycles": [], "faults": faults, "warnings": []}


def state(row: dict[str, Any]) -> str:
    """Why it cannot run at once."""
    if row["waits_for"]:
        return f"waits for {', '.join(row['waits_for'])}"
    return f"not before {row['not_before']}" if row["not_before"] else row["reason"] or "ready"


def shown(told: dict[str, Any], top: int) -> list[str]:
    rows = told["candidates"]
    cells = [
        [
            render.dashed(row["rank"]), row["codebase"], row["campaign"],
            "-" if row["score"] is None else f"{row['score']:.6g}",
            "-" if row["probability"] is None else f"{row['probability']:.3f}",
            render.duration(row["duration_s"]), state(row),
        ]
        for row in rows[:top]
    ]  # fmt: skip
    header = ["RANK", "CODEBASE", "CAMPAIGN", "SCORE", "SUCCESS", "DURATION", "STATE"]
    lines = render.table(header, cells, "RANK SCORE SUCCESS DURATION")
    if rows[top:]:
        lines.append(f"and {len(rows) - top} more: --top or --json shows them")
    lines += [f"cycle: {' -> '.join([*cycle, cycle[0]])}" for cycle in told["cycles"]]
    lines += [f"warning: {warning}" for warning in told["warnings"]]
    lines += [f"left out: {fault_text(fault)}" for fault in told["faults"][:top]]
    if told["faults"][top:]:
        lines.append(f"and {len(told['faults']) - top} more rows left out")
    return lines


def fault_text(fault: dict[str, Any]) -> str:
    column = f".{fault['column']}" if fault["column"] else ""
    return f"{fault['table']}[{fault['row']}]{column}: {fault['problem']}"
