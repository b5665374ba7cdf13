"""`mgmt task`: single pieces of batch work. A command's module is imported when it is invoked."""

from __future__ import annotations

import click

from .._table import VERBS
from ..groups import LazyGroup
from ..invocation import shared_options

# name -> (module of this package, first line of its help)
COMMANDS: dict[str, tuple[str, str]] = {
    "submit": ("submit", "Submit tasks: a command, a file of them, or lines of JSON on standard input."),
    "list": ("manage", VERBS["tasks"][0]),
    "show": ("show", VERBS["task-show"][0]),
    "explain": ("show", "Explain why a task is where it is, and does not run."),
    "logs": ("show", "Show the end of what a task wrote."),
    "watch": ("watch", "Watch how far a task is, until it has ended."),
    "wait": ("watch", VERBS["task-wait"][0]),
    "change": ("manage", VERBS["task-change"][0]),
    "cancel": ("manage", VERBS["task-cancel"][0]),
    "retry": ("manage", VERBS["task-retry"][0]),
}


class Task(LazyGroup):
    """The commands of tasks."""

    package = __package__
    commands_of = COMMANDS


@click.group(cls=Task, params=shared_options())
def task() -> None:
    """Submit tasks, look at them, cancel and repeat them.

    A task is named by its number; where several may be given, so may spans like 12-40.
    """
