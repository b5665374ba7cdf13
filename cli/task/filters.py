"""Which tasks: the options that `list`, `cancel` and `retry` have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from .._table import VERBS
from ..completion import complete_suites

STATES = ["PENDING", "READY", "RUNNING", "FINISHED", "CANCELLED", "FAILED"]
FIELDS = VERBS["tasks"][1]
MAX_SPAN = 10_000


class Span(click.ParamType):  # type: ignore[type-arg]  # generic in the newest click only
    """The number of a task, or the first and last of several: 7 or 12-40."""

    name = "task"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> range:
        if isinstance(value, range):
            return value
        first, dash, last = str(value).partition("-")
        if not (first.isdecimal() and (last.isdecimal() or not dash)) or int(first) < 1:
            self.fail(f"{value!r} is not the number of a task, or a span of them like 12-40", param, ctx)
        span = range(int(first), int(last or first) + 1)
        if not 0 < len(span) <= MAX_SPAN:
            self.fail(f"{value!r} is no span of 1 to {MAX_SPAN} tasks", param, ctx)
        return span


_OPTIONS = [
    click.argument("tasks", nargs=-1, type=Span(), metavar="[TASK]..."),
    click.option(
        "--suite", metavar="SUITE", shell_complete=complete_suites, help="Only those of this suite."
    ),
    click.option("--group", metavar="GROUP", help="Only those of this group."),
    click.option(
        "--creator", "creators", metavar="USER", multiple=True, help="Of this user; may be repeated."
    ),
    click.option(
        "--state",
        "states",
        type=click.Choice(STATES, case_sensitive=False),
        multiple=True,
        help="In this state, or in one of these.",
    ),
    click.option(
        "--tag", "tags", metavar="TAG", multiple=True, help="Whose suite has this tag; may be repeated."
    ),
    click.option(
        "--label", "labels", metavar="LABEL", multiple=True, help="With this label; may be repeated."
    ),
    click.option("--exit-status", metavar="COMPARISON", help=FIELDS["exit_status"]),
    click.option("--priority", metavar="COMPARISON", help="Likewise."),
    click.option("--node", metavar="NODE", help=FIELDS["node"]),
]


def filtered(function: Callable[..., int]) -> Callable[..., int]:
    """The options of a TaskFilter; `body` makes one of them."""
    for decorate in reversed(_OPTIONS):
        function = decorate(function)
    return function


def body(options: dict[str, Any]) -> dict[str, Any]:
    """The fields of a TaskFilter that were given."""
    tasks = [number for span in options.pop("tasks") for number in span]
    chosen = {name: list(value) if isinstance(value, tuple) else value for name, value in options.items()}
    return {"tasks": tasks, **{name: value for name, value in chosen.items() if value not in (None, [])}}
