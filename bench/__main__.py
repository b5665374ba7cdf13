"""`python -m bench [NAME...] [--quick] [--json FILE] [--write-docs]`; exit status 1 when a goal was missed."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench import (
    candidates,
    control,
    kernel,
    kernel_placement,
    lifecycle,
    machine,
    nodes,
    relay,
    resources,
    rt,
    suites,
    supervision,
    workers,
)
from bench.figure import HEAD, Figure

GROUPS: dict[str, Callable[[bool], list[Figure]]] = {
    "control": control.control,
    "relay": relay.relay,
    "tail": control.tail,
    "load": lifecycle.load,
    "command-line": lifecycle.command_line,
    "ancestor": lifecycle.ancestor,
    "resources": resources.resources,
    "supervision": supervision.supervision,
    "kernel": kernel.kernel,
    "kernel-placement": kernel_placement.kernel_placement,
    "candidates": candidates.candidates,
    "rt": rt.rt,
    "workers": workers.workers,
    "suites": suites.suites,
    "nodes": nodes.nodes,
}
DOCUMENT = Path(__file__).parent.parent / "docs" / "performance.md"
BEGIN, END = "<!-- figures: begin -->\n", "<!-- figures: end -->\n"


def show(console: Console, name: str, figures: list[Figure]) -> None:
    table = Table(title=name, title_justify="left")
    for column in HEAD:
        table.add_column(column, justify="left" if column in ("figure", "unit", "") else "right")
    for figure in figures:
        table.add_row(*figure.row(), style={True: "green", False: "red", None: ""}[figure.met])
    console.print(table)


def markdown(facts: dict[str, str], groups: dict[str, list[Figure]]) -> str:
    lines = ["", *(f"- {name}: {value}" for name, value in facts.items()), ""]
    for name, figures in groups.items():
        lines += [f"### {name}", "", "| " + " | ".join(HEAD) + " |", "|" + "---|" * len(HEAD)]
        lines += ["| " + " | ".join(figure.row()) + " |" for figure in figures]
        lines += ["", *(f"- {figure.name}: {figure.note}" for figure in figures if figure.note), ""]
    return "\n".join(lines).replace("\n\n\n", "\n\n").rstrip() + "\n\n"


def write_document(text: str) -> None:
    before, begin, rest = DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{DOCUMENT}: the markers {BEGIN.strip()} and {END.strip()} are missing")
    DOCUMENT.write_text(before + begin + text + end + after, encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(GROUPS)}; none: all")
    parser.add_argument("--quick", action="store_true", help="fewer rounds and shorter soaks")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample as JSON")
    parser.add_argument("--write-docs", action="store_true", help=f"put the tables into {DOCUMENT.name}")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(GROUPS)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(GROUPS)}")
    # A process that compiles its modules anew at each start is not what anybody installs.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    console = Console()
    facts = machine.describe()
    measured: dict[str, list[Figure]] = {}
    for name in arguments.names or GROUPS:
        measured[name] = GROUPS[name](arguments.quick)
        show(console, name, measured[name])
    if arguments.json:
        told = {name: [figure.as_dict() for figure in figures] for name, figures in measured.items()}
        arguments.json.write_text(json.dumps({"machine": facts, "figures": told}, indent=1) + "\n")
    if arguments.write_docs:
        write_document(markdown(facts, measured))
    short = [figure.name for figures in measured.values() for figure in figures if figure.met is False]
    if short:
        print("short of the goal: " + "; ".join(short), file=sys.stderr)
    return 1 if short else 0


if __name__ == "__main__":
    sys.exit(main())
