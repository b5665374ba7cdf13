"""How often a task may take its worker with it before its node, or everybody, refuses it.

A strike is the death of a worker while it ran the task, never the exit status of the task's own command.
"""

from __future__ import annotations

_FAULTS = frozenset({-4, -7, -8, -11})  # SIGILL, SIGBUS, SIGFPE, SIGSEGV: it will do it again
_ORDERS = frozenset({0, -15, -2})  # an end in peace, SIGTERM, SIGINT: somebody wanted it

FAULT_LIMIT = 2
LIMIT = 3


def limit_of(status: int | None) -> int | None:
    """Strikes at which a node gives the task up; None when this end is no strike.

    `status`: the exit code, minus the signal, or None when nobody knows.
    """
    if status in _ORDERS:
        return None
    return FAULT_LIMIT if status in _FAULTS else LIMIT
