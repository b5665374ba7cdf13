"""The ledger: who holds what at this moment. A place is granted whole or refused with the names in the way.

It also knows on which CPUs of this machine periodic tasks are admitted: their deadlines are promised, so no unit
may have such a CPU for itself, or run there under a real-time policy of a demand that nobody knows.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from mgmt.core.placement.plan import Place
from mgmt.core.placement.topology import Topology
from mgmt.protocol.errors import MgmtError


class Ledger:
    """Places held by units with a process; `tasks` by CPU the workload that has tasks there, `task_memory_bytes`
    what the tasks of this machine are promised."""

    def __init__(self, topology: Topology, places: dict[str, Place]) -> None:
        self.topology = topology
        self.places = places
        self.held: dict[str, Place] = {}
        self.tasks: Mapping[int, str] = {}
        self.task_memory_bytes = 0

    def acquire(self, unit: str) -> Place:
        """Grant the unit's place; MgmtError `no-capacity` when another holds part of it. Idempotent.

        What it held of another plan is given back.
        """
        self.check(unit)
        place = self.held[unit] = self.places.get(unit, Place())
        return place

    def is_as_planned(self, unit: str) -> bool:
        """Whether the unit holds the place that it would be given now."""
        return self.held.get(unit) == self.places.get(unit, Place())

    def check(self, unit: str, together: Iterable[str] = (), without: Collection[str] = ()) -> None:
        """MgmtError `no-capacity` when the unit's place, beside those of `together`, cannot be granted now.

        What the units `without` hold counts as free.
        """
        if self.is_as_planned(unit):
            return
        place = self.places.get(unit, Place())
        if place.fault:
            text = f"unit {unit!r} has no place on this machine: {place.fault}"
            raise MgmtError("no-capacity", text, unit=unit)
        if not (place.cpus or place.gpus or place.memory_bytes or place.realtime):
            return  # most units: nobody can be in the way of nothing
        self._check_tasks(unit, place)
        rivals = {name: self.places.get(name, Place()) for name in together} | self.held
        rivals = {name: held for name, held in rivals.items() if name != unit and name not in without}
        for other, held in rivals.items():
            conflict = conflict_between(place, held)
            if conflict:
                raise MgmtError(
                    "no-capacity",
                    f"unit {unit!r} needs {conflict}, which {other!r} holds; stop it, or give them other places",
                    unit=unit,
                    holder=other,
                )
        total = sum(held.memory_bytes for held in rivals.values()) + place.memory_bytes
        total += self.task_memory_bytes
        if place.memory_bytes and total > self.topology.memory_bytes:
            raise MgmtError(
                "no-capacity",
                f"unit {unit!r} needs {place.memory_bytes} bytes of memory: {total} would be promised, "
                f"{self.topology.memory_bytes} exist",
                unit=unit,
            )

    def _check_tasks(self, unit: str, place: Place) -> None:
        both = sorted(self.tasks.keys() & self.cpus_without_tasks(place))
        if both:
            workload = self.tasks[both[0]]
            wants = "for itself" if place.exclusive else "under a real-time policy"
            raise MgmtError(
                "no-capacity",
                f"unit {unit!r} needs CPU {', '.join(map(str, both))} {wants}, where tasks of workload "
                f"{workload!r} are admitted; give the unit other CPUs, or `mgmt schedule remove {workload}`",
                unit=unit,
                holder=workload,
            )

    def cpus_without_tasks(self, place: Place) -> frozenset[int]:
        """The CPUs on which nothing can be promised to a task beside this place."""
        if not place.excludes_tasks:
            return frozenset()
        return frozenset(place.cpus) if place.cpus or place.exclusive else self.topology.ids

    def closed(self) -> dict[int, str]:
        """The unit that keeps tasks off a CPU now, by CPU."""
        return {
            cpu: unit
            for unit, held in sorted(self.held.items())
            for cpu in sorted(self.cpus_without_tasks(held))
        }

    def is_holder(self, name: str) -> bool:
        """Whether it holds a place, or is a workload with tasks here."""
        return name in self.held or name in self.tasks.values()

    def release(self, unit: str) -> None:
        self.held.pop(unit, None)

    def replan(self, places: dict[str, Place]) -> None:
        """Adopt a new plan; who holds a place of the old one keeps it until it is released."""
        self.places = places


def conflict_between(place: Place, held: Place) -> str:
    """What of `place` the holder of `held` excludes, in words; empty when they can live side by side."""
    if place.exclusive or held.exclusive:
        both = sorted(set(place.cpus) & set(held.cpus))
        if both:
            return f"CPU {', '.join(map(str, both))} for itself" if place.exclusive else f"CPU {both[0]}"
    gpus = sorted(set(place.gpus) & set(held.gpus))
    return f"GPU {', '.join(gpus)}" if gpus else ""
