"""The agent's side of tasks that are processes: what its daemon has it prepare, release and let go of.

The units come as assignments, like all others; here are only their segments. Nothing of it is written down: the
daemon tells it again when the agent says hello, and segments that are there go on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mgmt.core import effect as fx
from mgmt.core import event as ev
from mgmt.core.nodes.assignment import from_body
from mgmt.core.supervision import State, Supervisor, Unit, UnitSpec
from mgmt.protocol.errors import MgmtError

from .processes import version_of

Answer = tuple[int, dict[str, Any] | MgmtError]  # number of what was asked, 0: nothing is to be answered


class Hosting:
    """Staged generations by (workload, generation)."""

    def __init__(self, supervisor: Supervisor) -> None:
        self.groups: dict[tuple[str, int], fx.StageTasks] = {}
        self._asks: dict[tuple[str, int], int] = {}
        self._supervisor = supervisor

    def on_told(
        self, body: dict[str, Any], why_not: Callable[[list[UnitSpec]], str], out: list[fx.Effect]
    ) -> Answer:
        """What the daemon said; the answer, when it is known at once."""
        key = body["workload"], body["generation"]
        if body["what"] == "stage":
            return self._stage(body, key, why_not, out)
        if body["what"] == "drop":
            self._drop(key, out)
        elif key in self.groups:
            out.append(fx.ReleaseTasks(*key, body["t0_ns"]))
            for other in [other for other in self.groups if other[0] == key[0] and other != key]:
                self._drop(other, out)
        return body["ask"], {}

    def _stage(
        self,
        body: dict[str, Any],
        key: tuple[str, int],
        why_not: Callable[[list[UnitSpec]], str],
        out: list[fx.Effect],
    ) -> Answer:
        try:
            plans = tuple(fx.TaskPlan(**task["plan"]) for task in body["tasks"])
            specs = [from_body(task["assignment"]).spec() for task in body["tasks"]]
        except (KeyError, TypeError) as error:
            return body["ask"], MgmtError("bad-body", f"this agent does not understand the tasks: {error!r}")
        except MgmtError as error:
            return body["ask"], error
        refusal = why_not(specs)
        if refusal:
            return body["ask"], MgmtError("denied", refusal)
        group = self.groups[key] = fx.StageTasks(*key, plans)
        self._asks[key] = body["ask"]
        out.append(group)
        for plan in plans:
            unit = self._supervisor.units.get(plan.unit)
            if unit is not None:
                self._bind(unit, out)
        return 0, {}

    def _drop(self, key: tuple[str, int], out: list[fx.Effect]) -> None:
        if self.groups.pop(key, None) is not None:
            self._asks.pop(key, None)
            out.append(fx.DropTasks(*key))

    def on_staged(self, event: ev.TasksStaged) -> Answer:
        key = event.workload, event.version
        ask = self._asks.pop(key, 0)
        if event.error:
            self.groups.pop(key, None)
            return ask, MgmtError("start-failed", event.error)
        return ask, {"started": event.started}

    def on_unit_change(self, unit: Unit, out: list[fx.Effect]) -> None:
        if self.groups:
            self._bind(unit, out)

    def _bind(self, unit: Unit, out: list[fx.Effect]) -> None:
        version = version_of(unit.spec)
        there = unit.state is State.RUNNING and unit.pid is not None
        if there and any(key[1] == version and self.named(unit.spec.name) for key in self.groups):
            out.append(fx.BindTask(unit.spec.name, version, unit.pid or 0, unit.start_ticks))

    def named(self, unit: str) -> tuple[str, str]:
        """(workload, task) of a unit; empty when it is none of these."""
        for (workload, _), group in self.groups.items():
            if any(plan.unit == unit for plan in group.tasks):
                return workload, unit.removeprefix(f"{workload}.")
        return "", ""
