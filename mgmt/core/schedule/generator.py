"""Workloads by chance, the same for the same start number on every machine and every version of Python."""

from __future__ import annotations

from collections.abc import Sequence

from .workload import Node, Task, Workload

PERIODS_US = (1000, 2000, 4000, 5000, 8000, 10_000, 20_000, 25_000, 40_000, 50_000, 100_000)
"""They repeat after 200 ms together, so that a whole hyperperiod can be looked at."""

_WORD = (1 << 64) - 1


class Chance:
    """The generator splitmix64."""

    def __init__(self, seed: int) -> None:
        self._state = seed & _WORD

    def below(self, bound: int) -> int:
        """0 to bound - 1; the bias of the remainder is far below what a workload could show."""
        self._state = (self._state + 0x9E37_79B9_7F4A_7C15) & _WORD
        mixed = self._state
        mixed = (mixed ^ mixed >> 30) * 0xBF58_476D_1CE4_E5B9 & _WORD
        mixed = (mixed ^ mixed >> 27) * 0x94D0_49BB_1331_11EB & _WORD
        return (mixed ^ mixed >> 31) % bound

    def of(self, values: Sequence[int]) -> int:
        return values[self.below(len(values))]


def workload(
    seed: int, *, tasks: int = 12, nodes: int = 2, cpus: int = 2, load_ppm: int = 800_000
) -> Workload:
    """`tasks` tasks that need about `load_ppm` millionths of all `cpus` of all `nodes`.

    One in four is bound to a node and one in eight to a CPU of it; one in three has a deadline before its
    period; priorities follow the deadlines in three of four workloads.
    """
    chance = Chance(seed)
    names = [f"node{k:02}" for k in range(1, nodes + 1)]
    weights = [1 + chance.below(1000) for _ in range(tasks)]
    by_deadline = chance.below(4) > 0
    drawn = []
    for i, weight in enumerate(weights):
        period_us = chance.of(PERIODS_US)
        share_ppm = min(load_ppm * nodes * cpus * weight // sum(weights), 950_000)
        wcet_us = max(1, period_us * share_ppm // 1_000_000)
        deadline_us = period_us
        if chance.below(3) == 0:
            deadline_us = period_us - chance.below(max((period_us - wcet_us) // 2, 1))
        bound = chance.below(8)
        node = names[chance.below(nodes)] if bound < 2 else ""
        allowed = (2 + chance.below(cpus),) if bound == 0 else None
        priority = 99 - deadline_us // 1100 if by_deadline else 1 + chance.below(99)
        drawn.append(
            Task(
                f"t{i:03}", period_us, wcet_us, deadline_us, max(priority, 1), node=node, cpus=allowed,
                memory_mb=16 * (1 + chance.below(16)),
            )
        )  # fmt: skip
    places = tuple(Node(name, tuple(range(2, 2 + cpus)), 4096) for name in names)
    return Workload(f"random-{seed}", tuple(drawn), places)
