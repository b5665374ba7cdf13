"""`mgmt schedule`: periodic real-time tasks on CPUs, with proof of every deadline.

A command's module is imported when it is invoked. `plan`, `compare`, `replay` and `explain --file` need no
daemon: they call the same functions of `mgmt.core.schedule` as the daemon does.
"""

from __future__ import annotations

import click

from ..groups import LazyGroup
from ..invocation import shared_options

# name -> (module of this package, first line of its help)
COMMANDS: dict[str, tuple[str, str]] = {
    "plan": ("plan", "Say where the tasks of a file would run and prove their deadlines; changes nothing."),
    "submit": (
        "online",
        "Admit a workload: all its tasks get CPUs where every deadline is kept, or none does.",
    ),
    "show": ("online", "Show the periodic tasks that are in force, and where."),
    "stat": ("measured", "Show what was measured of tasks that are processes."),
    "gantt": ("measured", "Draw what the tasks did lately, against what was proven."),
    "remove": ("online", "Take a workload and all its tasks out of the schedule."),
    "explain": ("explain", "Explain a task: its place, its worst response, and how much it could grow."),
    "rebalance": ("online", "Propose moves of tasks that even out the load of the CPUs."),
    "compare": ("compare", "Run two algorithms or modes on the same workloads and show where they differ."),
    "replay": ("replay", "Run a file of recorded cases against the mode compat and count what matches."),
}


class Schedule(LazyGroup):
    """The commands of schedules."""

    package = __package__
    commands_of = COMMANDS


@click.group(cls=Schedule, params=shared_options())
def schedule() -> None:
    """Place periodic tasks on CPUs, prove their deadlines, draw the schedule.

    \b
    FILE is YAML or JSON: a workload of mgmt's own form, PULLPIRI's `kind: Schedule`,
    TIMPANI's SchedInfo; nodes are in it or in --nodes FILE."""
