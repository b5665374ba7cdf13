"""The ledger: who holds what at this moment. A place is granted whole or refused with the names in the way."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from mgmt.core.placement.plan import Place
from mgmt.core.placement.topology import Topology
from mgmt.protocol.errors import MgmtError


class Ledger:
    """Places held by units with a process."""

    def __init__(self, topology: Topology, places: dict[str, Place]) -> None:
        self.topology = topology
        self.places = places
        self.held: dict[str, Place] = {}

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
        if not (place.cpus or place.gpus or place.memory_bytes):
            return  # most units: nobody can be in the way of nothing
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
        if place.memory_bytes and total > self.topology.memory_bytes:
            raise MgmtError(
                "no-capacity",
                f"unit {unit!r} needs {place.memory_bytes} bytes of memory: {total} would be promised, "
                f"{self.topology.memory_bytes} exist",
                unit=unit,
            )

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
