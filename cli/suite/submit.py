"""`mgmt suite submit SUITE`: what `mgmt task submit --suite SUITE` does, found where suites are worked with."""

from __future__ import annotations

from typing import Any

import click

from ..completion import complete_suites
from ..task.submit import WithCommand
from ..task.submit import submit as of_tasks
from . import COMMANDS

_TARGET = ("suite", "group", "tags")  # of tasks in a suite the suite says the other two


def _submit(**told: Any) -> Any:
    assert of_tasks.callback is not None
    return of_tasks.callback(group=None, tags=(), **told)


submit = WithCommand(
    "submit",
    callback=_submit,
    params=[
        click.Argument(["suite"], metavar="SUITE", shell_complete=complete_suites),
        *(param for param in of_tasks.params if param.name not in _TARGET),
    ],
    help=f"{COMMANDS['submit'][1]}\n\n    The same as `mgmt task submit --suite SUITE`, whose help says more.",
)
