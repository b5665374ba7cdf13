"""`mgmt candidates`: what to run next, and why.

A command's module is imported when it is invoked. Those on files and on a Janitor's database need no daemon: they
work by the functions of `mgmt.core.candidates`. The others ask it.
"""

from __future__ import annotations

import click

from ..groups import LazyGroup
from ..invocation import shared_options

# name -> (module of this package, first line of its help)
COMMANDS: dict[str, tuple[str, str]] = {
    "score": ("score", "Order the candidates of a file: the best first, with what is expected of each."),
    "explain": ("explain", "Show every factor of a candidate's score, and where it comes from."),
    "compare": (
        "compare",
        "Run two policies on the same history and show who was right, and where they differ.",
    ),
    "analytics": (
        "analytics",
        "Show how many runs there were, how well they went, how long they took, and the trend.",
    ),
    "load": ("load", "Store the candidates and runs of a file in the daemon."),
    "list": ("list_", "Show the daemon's candidates with their scores, the next to be run first."),
    "queue": ("queue", "Show the candidates in the queue in the order in which they are run."),
    "position": ("queue", "Say how many come before a candidate in the queue, and itself."),
    "eta": ("queue", "Say how long until a candidate in the queue starts."),
    "next": ("queue", "Say which candidate in the queue is run next."),
    "deps": ("deps", "Show what the daemon's candidates wait for, and those that require one another."),
    "hosts": ("hosts", "Leave a host of repositories alone for a while, or show which are."),
    "reset": ("reset", "Take candidates out of the queue that do not run yet, or forget all of them."),
    "export": ("export", "Write the candidates and runs of the daemon into a file."),
    "import": ("import_", "Write the candidates and runs of a Janitor's database into a file."),
    "schedule": ("schedule", "Score all candidates and put them into the queue."),
    "replay": (
        "replay",
        "Run a file of recorded cases against the mode janitor_compat and count what matches.",
    ),
}


class Candidates(LazyGroup):
    """The commands of candidates."""

    package = __package__
    commands_of = COMMANDS


@click.group(cls=Candidates, params=shared_options())
def candidates() -> None:
    """Say what to run next, and why, from a history of runs.

    \b
    FILE is JSON with tables: codebases, policies, candidates, runs, versions, or those
    of a Janitor's database; or JSON lines, each a row with the name of its `table`.
    Commands without a file ask the daemon, which is given them by `load`; `compare`
    and `analytics` do so when none is named."""
