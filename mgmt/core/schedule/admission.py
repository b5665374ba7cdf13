"""Mode `strict`: all tasks of a workload get CPUs that pass an exact test with them, or none does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from .workload import Node, Task, Workload

Test = Literal["fp", "edf", "utilisation"]
Algorithm = Literal["target_node_priority", "best_fit_decreasing", "least_loaded"]


@dataclass(frozen=True, slots=True)
class Placed:
    """A task of `workload` on its CPU. `bound`: the test it passed there.

    `response_us`: its worst response from the nominal arrival, None where the test gives none; `slack_us`: how
    far its deadline lies behind that.
    """

    workload: str
    task: Task
    node: str
    cpu: int
    response_us: int | None
    slack_us: int | None
    bound: Test


@dataclass(frozen=True)
class Schedule:
    """Everything that is placed, what was held before included, in order of workload and task name.

    `hyperperiods`: us by workload.
    """

    nodes: tuple[Node, ...]
    placed: tuple[Placed, ...]
    hyperperiods: Mapping[str, int]

    def utilisation(self, node: str, cpu: int) -> Fraction:
        return sum(
            (
                Fraction(p.task.wcet_us, p.task.period_us)
                for p in self.placed
                if p.node == node and p.cpu == cpu
            ),
            Fraction(),
        )


def place(
    workload: Workload,
    nodes: Sequence[Node],
    held: Sequence[Placed] = (),
    *,
    algorithm: Algorithm = "best_fit_decreasing",
    test: Test | None = None,
) -> Schedule:
    """`held` stays where it is; the responses in the result are those with the new tasks.

    MgmtError `not-schedulable` has in its detail `reason`, and where they apply `task`, `workload`, `node`,
    `cpu`, `test`, `needed`, `available`, `largest_wcet_us`.
    """
    raise NotImplementedError
