"""Running what is in force: the tasks of this machine that have a command are units, released together.

A workload's segments are laid down and watched, its processes are started, and when all of them are there they
are released from one common instant on. Whatever changes of it is another version, with segments and a start of
its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mgmt.core import effect as fx
from mgmt.core import event as ev
from mgmt.core.event import Now
from mgmt.core.journal import Journal
from mgmt.core.supervision import Ordering, State, Supervisor, Unit, UnitSpec
from mgmt.protocol.errors import MgmtError

from .force import Entry
from .processes import plan_of, unit_name, unit_of
from .workload import LOCAL


@dataclass(slots=True)
class Group:
    """The tasks of a workload that run here. `staged`: they are watched; `released`: they have a common start."""

    version: int
    units: dict[str, tuple[str, UnitSpec]] = field(default_factory=dict)  # unit -> (task, specification)
    plans: list[fx.TaskPlan] = field(default_factory=list)
    staged: bool = False
    released: bool = False


class Execution:
    """Groups by name of the workload; `declare` makes these specifications the tasks that there are."""

    def __init__(
        self,
        supervisor: Supervisor,
        ordering: Ordering,
        journal: Journal,
        declare: Callable[[dict[str, UnitSpec], list[fx.Effect]], None],
    ) -> None:
        self.groups: dict[str, Group] = {}
        self._of: dict[str, str] = {}  # unit -> workload
        self._supervisor, self._ordering, self._journal = supervisor, ordering, journal
        self._declare = declare

    # ---- what is in force ----

    def restore(self, entries: Mapping[str, Entry], out: list[fx.Effect]) -> None:
        """What a former daemon had in force, before its units are looked for; those that run go on."""
        self._set(entries, out)
        for name, group in self.groups.items():
            out.append(fx.StageTasks(name, group.version, tuple(group.plans)))

    def follow(self, now: Now, entries: Mapping[str, Entry], stopping: bool, out: list[fx.Effect]) -> None:
        """Other workloads are in force: start, restart and stop what differs."""
        former, former_units = self.groups, self._of
        self._set(entries, out)
        units = self._supervisor.units
        for name, group in former.items():
            if self.groups.get(name) is not group:
                out.append(fx.DropTasks(name, group.version))
        gone = [units[unit] for unit in former_units if unit not in self._of and unit in units]
        if gone:
            self._ordering.stop(now, gone, out, "its workload no longer has it")
        for name, group in self.groups.items():
            if former.get(name) is group or stopping:
                continue
            out.append(fx.StageTasks(name, group.version, tuple(group.plans)))
            why = dict.fromkeys(group.units, f"version {group.version} of workload {name}")
            for unit in group.units:
                try:
                    self._ordering.restart(now, [units[unit]], out, why)
                except MgmtError as error:
                    self._supervisor.refuse(units[unit], error.text)

    def _set(self, entries: Mapping[str, Entry], out: list[fx.Effect]) -> None:
        groups: dict[str, Group] = {}
        for name, entry in entries.items():
            known = self.groups.get(name)
            group = known if known is not None and known.version == entry.version else _group(entry)
            if group.units:
                groups[name] = group
        if not groups and not self.groups:
            return
        self.groups = groups
        self._of = {unit: name for name, group in groups.items() for unit in group.units}
        self._declare({unit: spec for g in groups.values() for unit, (_, spec) in g.units.items()}, out)

    def rows(
        self, entries: Mapping[str, Entry], workload: str | None
    ) -> list[tuple[str, int, dict[str, Any]]]:
        """(unit, version, the first fields of a TaskStatistics) of the tasks that run here, in order of name."""
        found = []
        for name in sorted(self.groups) if workload is None else [workload] * (workload in self.groups):
            group, entry = self.groups[name], entries[name]
            for task, (node, cpu) in zip(entry.workload.tasks, entry.cpus, strict=True):
                unit = unit_name(name, task.name)
                if unit in group.units:
                    body = {"workload": name, "task": task.name, "unit": unit, "node": node, "cpu": cpu}
                    times = {"period_us": task.period_us, "deadline_us": task.deadline_us}
                    found.append((unit, group.version, {**body, **times}))
        return found

    # ---- what happens ----

    def on_unit_change(self, unit: Unit, out: list[fx.Effect]) -> None:
        workload = self._of.get(unit.spec.name)
        if workload is not None and unit.state is State.RUNNING and unit.pid is not None:
            out.append(fx.BindTask(unit.spec.name, unit.pid, unit.start_ticks))
            self._release(workload, out)

    def on_staged(self, event: ev.TasksStaged, out: list[fx.Effect]) -> None:
        group = self.groups.get(event.workload)
        if group is not None and group.version == event.version:
            group.staged, group.released = True, event.started
            self._release(event.workload, out)

    def on_reported(self, now: Now, event: ev.TaskReported, out: list[fx.Effect]) -> None:
        workload = self._of.get(event.unit, "")
        if event.unit and not workload:
            return  # it is no longer in force
        body = {
            "what": event.what,
            "workload": workload,
            "task": self.groups[workload].units[event.unit][0] if workload else "",
            "count": event.count,
            "job": event.job,
            "misses": event.misses,
            "action": event.action,
            "reason": event.reason,
        }
        self._journal.record(now, "fault", body, out)
        out.append(fx.Note("WARNING", f"{event.unit or 'executive'}: {event.reason}", {"unit": event.unit}))
        unit = self._supervisor.units.get(event.unit)
        if unit is not None and event.action == "restart" and unit.state is State.RUNNING:
            self._ordering.restart(now, [unit], out, {event.unit: event.reason})

    def _release(self, workload: str, out: list[fx.Effect]) -> None:
        """Once all are there. One that comes later, or again, enters at the next hyperperiod by itself."""
        group = self.groups[workload]
        units = [self._supervisor.units[name] for name in group.units]
        there = all(unit.state is State.RUNNING and unit.pid is not None for unit in units)
        if group.staged and not group.released and there:
            group.released = True
            out.append(fx.ReleaseTasks(workload, group.version))


def _group(entry: Entry) -> Group:
    group = Group(entry.version)
    name = entry.workload.name
    for task, (node, cpu) in zip(entry.workload.tasks, entry.cpus, strict=True):
        if node == LOCAL and task.command:
            spec = unit_of(name, task, node, cpu, entry.version)
            group.units[spec.name] = task.name, spec
            group.plans.append(plan_of(name, task, entry.hyperperiod_us))
    return group
