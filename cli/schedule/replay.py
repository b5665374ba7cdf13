"""`mgmt schedule replay`: recorded cases of TIMPANI's scheduler against the mode compat."""

from __future__ import annotations

import click

from ..invocation import Invocation, verb
from ..recorded import cases, tell
from . import COMMANDS
from .files import read_text


@verb("replay", COMMANDS["replay"][1])
@click.argument("file", type=click.Path())
def replay(invocation: Invocation, file: str) -> int:
    """FILE is JSON with a list `cases`, each with its input and what TIMPANI made of it. Exits 0 only when all
    of them match."""
    from mgmt.core.schedule.replay import replay as run

    verdicts = run(cases(file, read_text(file), "bad-workload"))
    return tell(invocation, "mgmt.schedule-replay/1", file, verdicts, "category")
