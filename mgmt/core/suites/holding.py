"""A holding: one suite given to one node, or the work of one independent worker, by the number of its holder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mgmt.core.suites import operations as op
from mgmt.core.suites.pool import Ending, Phase


@dataclass(slots=True)
class Holding:
    """`parked`: number and credits of an exchange that waits for work; without credits it asks anew then."""

    node: str
    suite: int  # 0: of an independent worker
    holder: int = 0  # 0: being opened
    phase: Phase = Phase.PREPARING
    reason: str = ""
    completed: int = 0
    parked: tuple[int, int] | None = None
    ending: Ending | None = None
    idle_ns: int = 0  # since when it waits for work
    offer: dict[str, Any] | None = None  # what the independent worker runs
    busy: int = 0  # tasks that were given to it and are not done
    done: int = 0
    asked: int = 0  # number of its last exchange
    emptied: int = 0  # ... of the last one that was answered with nothing
    vain: op.Counts | None = None  # with these, nothing is ready for it: its workers died of what there is
    unsure: bool = False  # the queue could not write what it holds, or what died

    @property
    def is_idle(self) -> bool:
        return self.parked is not None


def idleness(holding: Holding) -> tuple[int, int]:
    """The smallest has the next task: who has the fewest, then who waits longest."""
    return holding.busy, holding.idle_ns
