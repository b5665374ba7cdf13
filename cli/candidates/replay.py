"""`mgmt candidates replay`: recorded cases of Janitor's engine against the mode janitor_compat."""

from __future__ import annotations

import click

from ..invocation import Invocation, verb
from ..recorded import cases, tell
from ..schedule.files import read_text
from . import COMMANDS
from .files import CODE


@verb("replay", COMMANDS["replay"][1])
@click.argument("file", type=click.Path())
def replay(invocation: Invocation, file: str) -> int:
    """FILE is JSON with a list `cases`, each with its input and what Janitor made of it. Exits 0 only when all
    of them match."""
    from mgmt.core.candidates.replay import replay as run

    verdicts = run(cases(file, read_text(file, CODE), CODE))
    return tell(invocation, "mgmt.candidates-replay/1", file, verdicts, "kind")
