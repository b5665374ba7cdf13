"""The agent's side of tasks that are processes: what its daemon has it stage, start and let go of.

The units come as assignments, like all others; here are only their segments. What is staged is written down, so
an agent that comes back alone lays down what is missing and watches all of it. Words are numbered pushes, and each
says the generation that it is about: one that comes late, or again, changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from mgmt.core import effect as fx
from mgmt.core import event as ev
from mgmt.core.nodes.assignment import from_body
from mgmt.core.supervision import State, Supervisor, Unit, UnitSpec
from mgmt.protocol.errors import MgmtError

from .processes import version_of

Key = tuple[str, int]  # workload, generation


@dataclass(slots=True)
class _Hosted:
    """`report`: a StageReport, once it is known."""

    group: fx.StageTasks
    report: dict[str, Any] | None = None


class Hosting:
    """What is staged, by workload and generation."""

    def __init__(self, supervisor: Supervisor) -> None:
        self.hosted: dict[Key, _Hosted] = {}
        self.stale = 0  # words about what is not staged, or was started before
        self._supervisor = supervisor
        self._unsaved: set[Key] = set()
        self._untold: dict[Key, dict[str, Any]] = {}
        self._refused: dict[Key, dict[str, Any]] = {}  # until the daemon has heard of it

    # ---- what the daemon says ----

    def restore(self, records: dict[str, dict[str, Any]], out: list[fx.Effect]) -> None:
        """What was staged in a former life; before its units are looked for."""
        for record in records.values():
            key = record["workload"], record["generation"]
            try:
                group = fx.StageTasks(*key, tuple(fx.TaskPlan(**plan) for plan in record["tasks"]))
            except TypeError:
                self._unsaved.add(key)  # of another version: the daemon will tell it again
            else:
                self.hosted[key] = _Hosted(group)
                out.append(group)

    def on_push(
        self,
        what: str,
        body: dict[str, Any],
        why_not: Callable[[list[UnitSpec]], str],
        out: list[fx.Effect],
    ) -> None:
        """`why_not` says why the policy does not allow these units, or nothing."""
        if what == "hold":
            held = {(workload, generation) for workload, generation in body["groups"]}
            for key in sorted(self.hosted.keys() - held):
                self._drop(key, out)
            self._refused = {key: report for key, report in self._refused.items() if key in held}
            return
        key = body["workload"], body["generation"]
        hosted = self.hosted.get(key)
        if what == "stage" and hosted is None:
            error = self._stage(key, body["tasks"], why_not, out)
            if error is not None:
                self._refuse(key, error)
        elif what == "stage" and hosted is not None and hosted.report is not None:
            self._untold[key] = hosted.report
        elif (
            what == "start"
            and hosted is not None
            and hosted.report is not None
            and not hosted.report["started"]
        ):
            hosted.report = _report(key, started=True)
            out.append(fx.ReleaseTasks(*key, body["t0_ns"]))
        else:
            self.stale += 1

    def _stage(
        self,
        key: Key,
        tasks: list[dict[str, Any]],
        why_not: Callable[[list[UnitSpec]], str],
        out: list[fx.Effect],
    ) -> MgmtError | None:
        try:
            plans = tuple(fx.TaskPlan(**task["plan"]) for task in tasks)
            specs = [from_body(task["assignment"]).spec() for task in tasks]
        except (KeyError, TypeError) as error:
            return MgmtError("bad-body", f"this agent does not understand the tasks: {error!r}")
        except MgmtError as error:
            return error
        refusal = why_not(specs)
        if refusal:
            return MgmtError("denied", refusal)
        group = fx.StageTasks(*key, plans)
        self._refused.pop(key, None)
        self.hosted[key] = _Hosted(group)
        self._unsaved.add(key)
        out.append(group)
        for plan in plans:
            unit = self._supervisor.units.get(plan.unit)
            if unit is not None:
                self._bind(unit, out)
        return None

    def _refuse(self, key: Key, error: MgmtError) -> None:
        self._refused[key] = self._untold[key] = _report(key, error=error)

    def _drop(self, key: Key, out: list[fx.Effect]) -> None:
        del self.hosted[key]
        self._untold.pop(key, None)
        self._unsaved.add(key)
        out.append(fx.DropTasks(*key))

    # ---- what it is told, and what is written down ----

    @property
    def dirty(self) -> bool:
        return bool(self._unsaved)

    def records(self) -> dict[str, dict[str, Any] | None]:
        records: dict[str, dict[str, Any] | None] = {}
        for key in sorted(self._unsaved):
            hosted, record = self.hosted.get(key), None
            if hosted is not None:
                record = {"workload": key[0], "generation": key[1]}
                record["tasks"] = [asdict(plan) for plan in hosted.group.tasks]
            records[f"{key[0]}@{key[1]}"] = record  # no unit's name has an @
        self._unsaved.clear()
        return records

    def fresh_reports(self) -> list[dict[str, Any]]:
        reports = [self._untold[key] for key in sorted(self._untold)]
        self._untold.clear()
        return reports

    def reports(self) -> list[dict[str, Any]]:
        self._untold.clear()
        known = [
            hosted.report
            for _, hosted in sorted(self.hosted.items(), key=lambda item: item[0])
            if hosted.report is not None
        ]
        return known + [report for _, report in sorted(self._refused.items(), key=lambda item: item[0])]

    # ---- what happens here ----

    def on_staged(self, event: ev.TasksStaged) -> None:
        key = event.workload, event.version
        hosted = self.hosted.get(key)
        if hosted is None:
            return  # let go of meanwhile
        if event.error:
            del self.hosted[key]
            self._unsaved.add(key)
            self._refuse(key, MgmtError("start-failed", event.error))
        elif hosted.report is None or not hosted.report["started"]:  # else it was staged for a next executive
            hosted.report = self._untold[key] = _report(key, started=event.started)

    def on_unit_change(self, unit: Unit, out: list[fx.Effect]) -> None:
        if self.hosted:
            self._bind(unit, out)

    def _bind(self, unit: Unit, out: list[fx.Effect]) -> None:
        version = version_of(unit.spec)
        there = unit.state is State.RUNNING and unit.pid is not None
        if there and any(key[1] == version and self.named(unit.spec.name) for key in self.hosted):
            out.append(fx.BindTask(unit.spec.name, version, unit.pid or 0, unit.start_ticks))

    def rows(self, node: str) -> list[tuple[str, int, dict[str, Any]]]:
        """(unit, version, the first fields of a TaskStatistics) of the tasks that run here, by workload."""
        found = []
        for (workload, version), hosted in sorted(self.hosted.items(), key=lambda item: item[0]):
            for plan in hosted.group.tasks:
                unit = self._supervisor.units.get(plan.unit)
                if unit is None or version_of(unit.spec) != version:
                    continue
                task = plan.unit.removeprefix(f"{workload}.")
                body: dict[str, Any] = {"workload": workload, "task": task, "unit": plan.unit, "node": node}
                body |= {"cpu": int(unit.spec.backend.cpus or 0), "period_us": plan.period_us}
                body |= {"deadline_us": plan.deadline_us, "offset_ns": 0}
                found.append((plan.unit, version, body))
        return found

    def named(self, unit: str) -> tuple[str, str]:
        """(workload, task) of a unit; empty when it is none of these."""
        for (workload, _), hosted in self.hosted.items():
            if any(plan.unit == unit for plan in hosted.group.tasks):
                return workload, unit.removeprefix(f"{workload}.")
        return "", ""


def _report(key: Key, *, started: bool = False, error: MgmtError | None = None) -> dict[str, Any]:
    """A StageReport."""
    told = error.as_body() if error is not None else {}
    return {"workload": key[0], "generation": key[1], "started": started, "error": told}
