"""`mgmt suite`: open lists of tasks, and how nodes work on them. A command's module is imported when invoked."""

from __future__ import annotations

import click

from .._table import VERBS
from ..groups import LazyGroup
from ..invocation import shared_options

# name -> (module of this package, first line of its help)
COMMANDS: dict[str, tuple[str, str]] = {
    "create": ("create", VERBS["suite-create"][0]),
    "submit": (
        "submit",
        "Put tasks into a suite: a command, a file of them, or lines of JSON on standard input.",
    ),
    "list": ("manage", VERBS["suites"][0]),
    "status": ("status", "Show a suite, its tasks by state, and its nodes; follow it with -f."),
    "wait": ("status", VERBS["suite-wait"][0]),
    "close": ("manage", VERBS["suite-close"][0]),
    "cancel": ("manage", VERBS["suite-cancel"][0]),
    "agents": ("manage", "Show the nodes of a suite; have more work on it, or keep some from it."),
    "refresh": ("manage", VERBS["suite-refresh"][0]),
}


class Suite(LazyGroup):
    """The commands of suites."""

    package = __package__
    commands_of = COMMANDS


@click.group(cls=Suite, params=shared_options())
def suite() -> None:
    """Create, follow and end suites of tasks.

    SUITE is its number, its name or its UUID. Independent tasks are submitted with `mgmt task submit`.
    """
