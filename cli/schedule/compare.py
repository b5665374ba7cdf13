"""`mgmt schedule compare`: the shadow run, two engines on the same workloads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from mgmt.protocol.errors import Exit, MgmtError

from .. import render
from ..invocation import Invocation, verb
from . import COMMANDS
from .compat import summary, where
from .plan import count, nodes_option, read, this_machine

if TYPE_CHECKING:
    from mgmt.core.schedule.workload import Workload

SHOWN = 40  # differences that a person is shown


@verb("compare", COMMANDS["compare"][1])
@click.argument("file", required=False, type=click.Path())
@nodes_option
@click.option("--left", default="strict:best_fit_decreasing", help="MODE:ALGORITHM of the one.")
@click.option("--right", default="compat:best_fit_decreasing", help="MODE:ALGORITHM of the other.")
@click.option("--random", "runs", type=click.IntRange(1, 100_000), help="Instead of FILE: so many by chance.")
@click.option("--seed", type=click.IntRange(0), default=1, help="Start number of the first one by chance.")
@click.option("--tasks", type=click.IntRange(1, 10_000), default=12, help="Tasks of each one by chance.")
@click.option(
    "--load", type=click.FloatRange(1, 100), default=70.0, help="Their load of all CPUs, in percent."
)
def compare(
    invocation: Invocation,
    file: str | None,
    nodes: str | None,
    left: str,
    right: str,
    runs: int | None,
    seed: int,
    tasks: int,
    load: float,
) -> int:
    """MODE is strict or compat (TIMPANI's rules), ALGORITHM one of best_fit_decreasing, least_loaded and
    target_node_priority. Exits 0 when every task has the same place in both, 1 when not."""
    from mgmt.core.schedule import comparison

    if (file is None) == (runs is None):
        raise MgmtError("bad-body", "name a FILE to compare, or ask for some by chance: --random 100")
    one, other = comparison.engine_of(left), comparison.engine_of(right)
    if file is not None:
        workloads = iter([read(file, nodes)])
    else:
        workloads = drawn(runs or 0, seed, tasks, load)
    found = [
        comparison.compared(one, other, workload, workload.nodes or (this_machine(),))
        for workload in workloads
    ]
    differing = [result for result in found if result["differences"]]
    if invocation.json:
        head = {"left": left, "right": right, "compared": len(found), "differing": len(differing)}
        # Of many only those that tell something.
        rows = found if len(found) == 1 else differing
        invocation.emit("mgmt.schedule-compare/1", {**head, "workloads": rows})
    else:
        click.echo("\n".join(shown(found, differing, left, right)))
    return Exit.FAILED if differing else Exit.OK


def drawn(runs: int, seed: int, tasks: int, load: float) -> Iterator[Workload]:
    from mgmt.core.schedule import generator

    for number in range(seed, seed + runs):
        yield generator.workload(number, tasks=tasks, load_ppm=round(load * 10_000))


def shown(found: list[dict[str, Any]], differing: list[dict[str, Any]], left: str, right: str) -> list[str]:
    if len(found) == 1:
        return one_of(found[0], left, right)
    lines = [f"{count(len(found), 'workload')}, {len(differing)} with differences", ""]
    cells = []
    for side, name in (("left", left), ("right", right)):
        sides = [result[side] for result in found]
        cells.append(
            [
                name,
                str(sum(1 for one in sides if one["placed"] and not one["phantom"] and not one["unplaced"])),
                str(sum(1 for one in sides if one["refusal"])),
                str(sum(1 for one in sides if one["phantom"])),
                str(sum(1 for one in sides if one["unplaced"] and not one["refusal"])),
                str(sum(1 for one in sides if one["late"])),
            ]
        )
    header = ["ENGINE", "WHOLE", "REFUSED", "PHANTOMS", "PARTIAL", "LATE"]
    lines += render.table(header, cells, "WHOLE REFUSED PHANTOMS PARTIAL LATE")
    return [*lines, "in workloads; LATE: accepted, and a deadline would be missed"]


def one_of(result: dict[str, Any], left: str, right: str) -> list[str]:
    """Both outcomes, then a line for each task that has two places."""
    lines = []
    for side, name in (("left", left), ("right", right)):
        told = result[side]
        lines.append(f"{name}: {told['refusal'] or summary(told)}")
    differences = result["differences"]
    if not differences:
        return [*lines, "no difference"]
    lines += ["", f"{len(differences)} of {count(result['tasks'], 'task')} differ"]
    cells = [[row["task"], spot(row["left"]), spot(row["right"])] for row in differences[:SHOWN]]
    lines += render.table(["TASK", left, right], cells)
    rest = len(differences) - SHOWN
    return [*lines, f"and {rest} more: --json has them all"] if rest > 0 else lines


def spot(row: dict[str, Any]) -> str:
    return f"{row['node']} CPU {row['cpu']}" if row["cpu"] >= 0 else f"{row['node']} {where(row)}".strip()
