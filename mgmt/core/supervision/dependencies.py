"""What a unit needs of others before it starts, and who must stop before it may.

Three relations, as in systemd: `requires` starts the other and fails with it, `wants` starts the other and goes
on without it, `after` only waits for one that is meant to run anyway. Each names a condition of the other:
started (its program was executed), ready, or completed (it ended well).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

CONDITIONS = ("started", "ready", "completed")


@dataclass(frozen=True, slots=True)
class Needs:
    """A unit's relations: the other's name -> condition."""

    requires: Mapping[str, str] = field(default_factory=dict)
    wants: Mapping[str, str] = field(default_factory=dict)
    after: Mapping[str, str] = field(default_factory=dict)

    @property
    def any(self) -> bool:
        return bool(self.requires or self.wants or self.after)

    def all(self) -> dict[str, str]:
        """Every other unit with its condition; a requirement outranks a want, a want an ordering."""
        return {**self.after, **self.wants, **self.requires}


def _others(graph: Mapping[str, Needs], name: str) -> list[str]:
    needs = graph.get(name)
    return sorted(needs.all(), reverse=True) if needs is not None else []


def start_set(graph: Mapping[str, Needs], names: Iterable[str]) -> set[str]:
    """The names and everything they require or want, transitively."""
    found: set[str] = set()
    open_ = list(names)
    while open_:
        name = open_.pop()
        if name in found:
            continue
        found.add(name)
        needs = graph.get(name)
        if needs is not None:
            open_.extend((*needs.requires, *needs.wants))
    return found


def start_order(graph: Mapping[str, Needs], names: Iterable[str]) -> list[str]:
    """The names and everything they require or want, what is needed before who needs it; ties by name."""
    found = start_set(graph, names)
    order: list[str] = []
    seen: set[str] = set()
    stack = [(name, False) for name in sorted(found, reverse=True)]
    while stack:
        name, needs_are_listed = stack.pop()
        if needs_are_listed:
            order.append(name)
        elif name not in seen:
            seen.add(name)
            stack.append((name, True))
            stack.extend((other, False) for other in _others(graph, name) if other in found)
    return order


def dependants(graph: Mapping[str, Needs], name: str) -> set[str]:
    """Who requires `name`, transitively: they must stop before it does."""
    found: set[str] = set()
    open_ = [name]
    while open_:
        current = open_.pop()
        for other, needs in graph.items():
            if current in needs.requires and other not in found:
                found.add(other)
                open_.append(other)
    return found
