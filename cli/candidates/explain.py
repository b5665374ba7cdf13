"""`mgmt candidates explain`: one score, factor by factor."""

from __future__ import annotations

from typing import Any

import click

from mgmt.protocol.errors import Exit, MgmtError

from .. import render
from ..invocation import Invocation, verb
from . import COMMANDS
from .files import load, moment, shared
from .list_ import LIST_S
from .score import row_of, state

KINDS = {"expected": "×", "cost": "+", "about": ""}


@verb("explain", COMMANDS["explain"][1])
@click.argument("names", nargs=-1, metavar="[FILE] CODEBASE CAMPAIGN")
@click.option("--change-set", default="", help="The candidate of this change set.")
@click.option(
    "--policy", type=click.Choice(["default", "janitor_compat"]), help="By whose rules; not of a file."
)
@shared
def explain(
    invocation: Invocation,
    names: tuple[str, ...],
    change_set: str,
    policy: str | None,
    now: str | None,
    settings: str | None,
) -> int:
    """Factors marked × multiply up to the expected value, those marked + add up to the cost in ms; the score is
    the cost by the value. The others say where these come from.

    Without FILE the daemon's candidate, with its place in the queue and what it waits for; --now and --settings
    are for a file."""
    if len(names) == 2:
        if now or settings:
            raise click.UsageError("--now and --settings belong to a FILE")
        return _ask(invocation, names[0], names[1], change_set, policy)
    if len(names) != 3:
        raise click.UsageError("give CODEBASE and CAMPAIGN, or FILE, CODEBASE and CAMPAIGN")
    if policy:
        raise click.UsageError(
            "--policy is for the daemon's candidates: a file is explained by the default one"
        )
    return _of_file(invocation, *names, change_set, now, settings)


def _ask(invocation: Invocation, codebase: str, campaign: str, change_set: str, policy: str | None) -> int:
    body = {"codebase": codebase, "campaign": campaign, "change_set": change_set}
    with invocation.client(LIST_S) as client:
        told = client.request("candidates-explain", {**body, **({"policy": policy} if policy else {})})
    if invocation.json:
        invocation.emit("mgmt.candidates-explained/1", told)
        return Exit.OK
    score = "none" if told["score"] is None else f"{told['score']:.6g}"
    lines = [f"{codebase} in {campaign}: score {score} by {told['policy']}"]
    place = told["place"]
    if place is not None:
        how = "runs" if place["state"] == "RUNNING" else f"is {place['position']} of {place['total']}"
        lines.append(f"task {place['task']} of suite {place['suite']}, bucket {place['bucket']}: {how}")
    else:
        lines.append("is not in the queue" + ("" if told["held"] else ": the next pass puts it there"))
    if told["held"]:
        until = "" if told["not_before"] is None else f", until {moment(round(told['not_before'] * 1e6))}"
        lines.append(f"held: {told['held']}{until}")
    click.echo("\n".join([*lines, "", *_factors(told)]))
    return Exit.OK


def _of_file(
    invocation: Invocation,
    file: str,
    codebase: str,
    campaign: str,
    change_set: str,
    now: str | None,
    settings: str | None,
) -> int:
    from mgmt.core.candidates.scoring import Scorer

    loaded = load(file, now, settings)
    scorer = Scorer(loaded.world, loaded.settings, loaded.now_us)
    number = scorer.number_of(codebase, campaign, change_set)
    if number is None:
        raise MgmtError("unknown-candidate", unknown(scorer, codebase, campaign, file))
    found = scorer.explain(number, loaded.now_us)
    ordered = [one.key for one in scorer.pass_over(loaded.now_us)]
    rank = None if found.score is None else ordered.index(found.key) + 1
    factors = [
        {"name": one.name, "kind": one.kind, "value": one.value, "source": one.source}
        for one in found.factors
    ]
    told = {**row_of(found, rank), "now": loaded.now, "of": len(ordered), "factors": factors}
    if invocation.json:
        invocation.emit("mgmt.candidates-explain/1", told)
    else:
        click.echo("\n".join(shown(told)))
    return Exit.OK


def unknown(scorer: Any, codebase: str, campaign: str, file: str) -> str:
    from difflib import get_close_matches

    names = sorted(" ".join(filter(None, candidate.key)) for candidate in scorer.candidates)
    near = get_close_matches(f"{codebase} {campaign}", names, n=3)
    left_out = any(fault.table == "candidates" for fault in scorer.faults)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    why = "; rows were left out: `mgmt candidates score` tells them" if left_out else ""
    return f"{file}: has no candidate {codebase} in {campaign}{hint}{why}"


def shown(told: dict[str, Any]) -> list[str]:
    place = f"rank {told['rank']} of {told['of']}" if told["rank"] else "has no rank"
    score = "none" if told["score"] is None else f"{told['score']:.6g}"
    lines = [f"{told['codebase']} in {told['campaign']}: score {score}, {place}, {state(told)}", ""]
    return lines + _factors(told)


def _factors(told: dict[str, Any]) -> list[str]:
    cells = [
        [KINDS[one["kind"]], one["name"], f"{one['value']:.6g}", one["source"]] for one in told["factors"]
    ]
    return render.table(["", "FACTOR", "VALUE", "SOURCE"], cells, "VALUE")
