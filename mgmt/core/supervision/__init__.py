"""Supervision: units, their state table, restart, probes, hooks, order and stop.

The ancestor's words: a `ModelInstance` is a unit here, a watcher (circus) or program (supervisord) likewise.
Not here: which model a unit serves and who waits for it (`core.models`).
"""

from mgmt.core.supervision.dependencies import dependants
from mgmt.core.supervision.ordering import Ordering
from mgmt.core.supervision.records import from_record, ghost, to_record
from mgmt.core.supervision.supervisor import Change, Supervisor
from mgmt.core.supervision.unit import AT_REST, LOCAL, TRANSITIONS, Exit, State, Unit, UnitSpec

__all__ = [
    "AT_REST",
    "LOCAL",
    "TRANSITIONS",
    "Change",
    "Exit",
    "Ordering",
    "State",
    "Supervisor",
    "Unit",
    "UnitSpec",
    "dependants",
    "from_record",
    "ghost",
    "to_record",
]
