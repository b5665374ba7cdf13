"""Why a task was not placed."""

from __future__ import annotations

from typing import Literal

Reason = Literal["no_cpu", "memory", "utilisation", "deadline", "demand", "undecided"]


class Refused(ValueError):
    """No CPU passes its test with this task; nothing was changed.

    `task`: its number. `test`: the test of the placement. `cpu`: the CPU that comes closest, or -1; `node`: its
    node, or -1.
    By `reason`:
    "no_cpu": target and mask leave none. "memory": `needed` of `available` on the node that has most.
    "utilisation": the CPU's load would be `needed` millionths, rounded up, of which its reserve leaves
    `available`; a task with more than 1 of its own counts as 1.
    "deadline": task `late_task` would answer after `needed` (-1: more than 16 deadlines), due at `available`.
    "demand": in an interval of `available` time `needed` must be served (0 and 0: utilisation above 1).
    "undecided": the test passes 64 bits or its limit of steps, so that nothing is proven.
    `largest_wcet`: what would fit on that CPU with all else unchanged; 0: nothing.
    """

    def __init__(
        self,
        task: int,
        test: str,
        reason: Reason,
        cpu: int,
        late_task: int,
        needed: int,
        available: int,
        largest_wcet: int,
        node: int = -1,
    ) -> None:
        super().__init__(task, test, reason, cpu, late_task, needed, available, largest_wcet, node)
        self.task = task
        self.test = test
        self.reason: Reason = reason
        self.cpu = cpu
        self.node = node
        self.late_task = late_task
        self.needed = needed
        self.available = available
        self.largest_wcet = largest_wcet

    def __str__(self) -> str:
        return f"task {self.task}: {self._what()}{self._remedy()}"

    def _what(self) -> str:
        match self.reason:
            case "no_cpu":
                return "its target node and its mask leave no CPU; widen one of them"
            case "memory":
                return (
                    f"its memory {self.needed} passes the {self.available} left on node {self.node}, "
                    "which has most left"
                )
            case "utilisation":
                return (
                    f"the load of {self._where()} would be {self.needed / 1e6:.6f}, "
                    f"more than its {self.available / 1e6:.6f}"
                )
            case "deadline":
                whose = "it" if self.late_task == self.task else f"task {self.late_task}"
                when = f"at {self.needed}" if self.needed >= 0 else "far too late"
                return f"on {self._where()} {whose} would answer {when}, due at {self.available}"
            case "demand":
                return f"on {self._where()} {self.needed} must be served within {self.available}"
        return f"on {self._where()} the test exceeds its limits of size or steps; use a coarser time unit"

    def _where(self) -> str:
        return f"CPU {self.cpu} of node {self.node}"

    def _remedy(self) -> str:
        if self.reason == "no_cpu":
            return ""
        if self.reason == "memory":
            return f"; {self.needed - self.available} less would fit there"
        if self.largest_wcet:
            return f"; a WCET of at most {self.largest_wcet} would fit there"
        return "; no WCET would fit there: free some load, or add a CPU"
