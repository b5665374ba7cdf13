"""Moves that even out the load of the CPUs, one task at a time; after each of them every deadline is kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction

from mgmt import kernel
from mgmt.protocol import defaults

from .admission import Placed, Test, level_of, utilisation
from .force import Entry, Snapshot
from .workload import LOCAL

Cpu = tuple[str, int]
TRIES = 16  # emptier CPUs that are tested for one task before the next one is looked at


@dataclass(frozen=True, slots=True)
class Move:
    """A task that goes from its CPU to another."""

    workload: str
    task: str
    before: Cpu
    after: Cpu


@dataclass(frozen=True, slots=True)
class Rebalancing:
    """Moves in the order in which they are admitted; utilisation of the fullest CPU before and after them."""

    moves: tuple[Move, ...]
    before: Fraction
    after: Fraction

    def moved(self, entries: Mapping[str, Entry]) -> dict[str, Entry]:
        """The workloads of moved tasks, as they are then."""
        to: dict[str, dict[str, Cpu]] = {}
        for move in self.moves:
            to.setdefault(move.workload, {})[move.task] = move.after
        found: dict[str, Entry] = {}
        for name, at in to.items():
            entry = entries[name]
            places = zip(entry.workload.tasks, entry.cpus, strict=True)
            found[name] = replace(entry, cpus=tuple(at.get(task.name, place) for task, place in places))
        return found


def rebalance(snapshot: Snapshot) -> Rebalancing:
    """Moves that lower the load of the fullest CPU, as long as a move of one task does."""
    entries = snapshot.entries
    held = [placed for entry in entries.values() for placed in entry.placed()]
    now_at: dict[tuple[str, str], Cpu] = {(p.workload, p.task.name): (p.node, p.cpu) for p in held}
    before = _fullest(held, now_at)
    moves: list[Move] = []
    for test in ("fp", "edf", "utilisation"):
        chosen = [placed for placed in held if placed.bound == test]
        # One test holds on a CPU, so those of the others are no places for these.
        shut = {now_at[p.workload, p.task.name] for p in held if p.bound != test}
        shut |= {(LOCAL, cpu) for cpu in snapshot.closed}
        if chosen:
            found = _Group(snapshot, chosen, test, shut).moves(defaults.MAX_REBALANCE_MOVES - len(moves))
            now_at |= {(move.workload, move.task): move.after for move in found}
            moves += found
    return Rebalancing(tuple(moves), before, _fullest(held, now_at))


def _fullest(held: Iterable[Placed], at: Mapping[tuple[str, str], Cpu]) -> Fraction:
    tasks: dict[Cpu, list[Placed]] = {}
    for placed in held:
        tasks.setdefault(at[placed.workload, placed.task.name], []).append(placed)
    return max((utilisation(p.task for p in on) for on in tasks.values()), default=Fraction())


class _Group:
    """The tasks of one test and the CPUs that they may be on."""

    def __init__(self, snapshot: Snapshot, tasks: list[Placed], test: Test, shut: set[Cpu]) -> None:
        entries = snapshot.entries
        self.tasks = tasks
        nodes = {
            (node.name, cpu): node
            for entry in entries.values()
            for node in entry.workload.nodes
            for cpu in node.cpus
        }
        self.places = sorted(place for place in nodes if place not in shut)
        self.index = {place: q for q, place in enumerate(self.places)}
        # The CPUs of a workload's nodes: another one may know more of the same machine.
        self.allowed = {
            name: frozenset((node.name, cpu) for node in entry.workload.nodes for cpu in node.cpus)
            for name, entry in entries.items()
        }
        # Chains are promised the responses that their tasks have: these stay, and their CPUs get no more.
        self.bound = {
            (name, task)
            for name, entry in entries.items()
            for chain in entry.workload.chains
            if chain.deadline_us is not None
            for task in chain.tasks
        }
        self.timed = {(p.node, p.cpu) for p in tasks if (p.workload, p.task.name) in self.bound}
        self.memory_mb = {
            node.name: node.memory_mb for entry in entries.values() for node in entry.workload.nodes
        }
        self.memory_mb[LOCAL] = snapshot.free_mb
        for entry in entries.values():
            for placed in entry.placed():
                self.memory_mb[placed.node] -= placed.task.memory_mb
        # CPUs as nodes of their own: a task is told its CPU by the node. Memory is counted here.
        self.cpus = kernel.Placement(
            range(len(self.places)),
            reserve=[nodes[place].reserve_ppm for place in self.places],
            test=test,
            priorities=test == "fp",
        )
        self.load = [0.0] * len(self.places)
        self.on: list[set[int]] = [set() for _ in self.places]
        for number, placed in enumerate(tasks):
            self._put(number, self.index[placed.node, placed.cpu])

    def moves(self, most: int) -> list[Move]:
        found: list[Move] = []
        while len(found) < most and (move := self._next()) is not None:
            found.append(move)
        return found

    def _next(self) -> Move | None:
        """A move away from the fullest CPU to one that is then emptier than that was; the emptiest that can."""
        fullest = max(range(len(self.places)), key=lambda q: (self.load[q], -q))
        emptier = sorted(range(len(self.places)), key=lambda q: (self.load[q], q))
        for number in sorted(self.on[fullest], key=lambda number: (-self._share(number), number)):
            share, tries = self._share(number), 0
            if (self.tasks[number].workload, self.tasks[number].task.name) in self.bound:
                continue
            for q in emptier:
                if tries == TRIES or self.load[q] + share >= self.load[fullest] * (1 - 1e-9):
                    break
                if self._may(number, fullest, q):
                    tries += 1
                    if self._goes(number, fullest, q):
                        placed = self.tasks[number]
                        return Move(placed.workload, placed.task.name, self.places[fullest], self.places[q])
        return None

    def _may(self, number: int, source: int, q: int) -> bool:
        placed, (node, cpu) = self.tasks[number], self.places[q]
        task = placed.task
        return (
            (node, cpu) not in self.timed
            and (node, cpu) in self.allowed[placed.workload]
            and task.node in ("", node)
            and (task.cpus is None or cpu in task.cpus)
            and (node == self.places[source][0] or task.memory_mb <= self.memory_mb[node])
        )

    def _goes(self, number: int, source: int, q: int) -> bool:
        self.cpus.remove(number)
        self.on[source].discard(number)
        self.load[source] -= self._share(number)
        try:
            self._put(number, q)
        except kernel.Refused:
            self._put(number, source)
            return False
        if self.places[source][0] != self.places[q][0]:
            memory_mb = self.tasks[number].task.memory_mb
            self.memory_mb[self.places[source][0]] += memory_mb
            self.memory_mb[self.places[q][0]] -= memory_mb
        return True

    def _put(self, number: int, q: int) -> None:
        task = self.tasks[number].task
        self.cpus.admit(
            number,
            task.wcet_us,
            task.period_us,
            task.deadline_us,
            jitter=task.jitter_us,
            priority=level_of(task),
            target=q,
        )
        self.on[q].add(number)
        self.load[q] += self._share(number)

    def _share(self, number: int) -> float:
        task = self.tasks[number].task
        return task.wcet_us / task.period_us
