"""Running what is in force: tasks with a command are units, here or on nodes with an agent, released together.

A workload's segments are laid down and watched on each of its nodes, its processes are started, and when all of
them are there they are released from one common instant on. What runs on other nodes is staged there before the
workload is in force, so that a node which cannot, or is not there, leaves everything as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mgmt.core import effect as fx
from mgmt.core import event as ev
from mgmt.core.event import Now
from mgmt.core.journal import Journal
from mgmt.core.nodes import Node, NodeState, Roster
from mgmt.core.nodes.assignment import Posting, assignment_body
from mgmt.core.supervision import Ordering, State, Supervisor, Unit, UnitSpec
from mgmt.protocol import defaults
from mgmt.protocol.errors import MgmtError

from .force import Entry
from .processes import plan_of, unit_name, unit_of
from .workload import LOCAL

Done = Callable[[Now, MgmtError | None, list[fx.Effect]], None]


@dataclass(slots=True)
class Group:
    """The tasks of a workload that are processes.

    `staged`: nodes that watch theirs; `late`: of these, whoever is to be told the common start `t0_ns` (monotonic)
    of the others. One that is not `started` enters the grid of a `t0_ns` that is known: its former place had it.
    """

    workload: str
    generation: int
    t0_ns: int
    started: bool
    units: dict[str, tuple[str, UnitSpec]] = field(default_factory=dict)  # unit -> (task, specification)
    plans: dict[str, list[fx.TaskPlan]] = field(default_factory=dict)  # by node
    staged: set[str] = field(default_factory=set)
    late: set[str] = field(default_factory=set)

    def others(self) -> list[str]:
        return sorted(node for node in self.plans if node != LOCAL)

    def here(self) -> fx.StageTasks | None:
        plans = self.plans.get(LOCAL)
        return fx.StageTasks(self.workload, self.generation, tuple(plans)) if plans else None

    def next_ns(self, soonest_ns: int) -> int:
        """The first instant T0 + k * hyperperiod that is not before this one."""
        cycle_ns = 1000 * next(plan.hyperperiod_us for plans in self.plans.values() for plan in plans)
        return self.t0_ns + max(0, -((self.t0_ns - soonest_ns) // cycle_ns)) * cycle_ns


@dataclass(slots=True)
class _Stage:
    """Groups that nodes prepare for, to be in force together or not at all."""

    groups: list[Group]
    done: Done

    def missing(self) -> list[str]:
        """The nodes that have not said that they are ready."""
        return sorted({node for group in self.groups for node in group.others() if node not in group.staged})


class Execution:
    """Groups by name of the workload; `declare` makes these specifications the tasks that there are, `started` is
    told the common start of a workload: its instant, and its error in words. Nodes have `stage_s` to prepare.

    What nodes are told are numbered pushes, which are repeated until they are acknowledged; one that comes back
    otherwise is told all of it. So no word is lost, and each names a generation, so none is misunderstood.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        ordering: Ordering,
        journal: Journal,
        roster: Roster,
        declare: Callable[[dict[str, UnitSpec], list[fx.Effect]], None],
        started: Callable[[Now, str, int, str, list[fx.Effect]], None],
        stage_s: float,
    ) -> None:
        self.groups: dict[str, Group] = {}
        self._of: dict[str, str] = {}  # unit -> workload
        self._supervisor, self._ordering, self._journal = supervisor, ordering, journal
        self._roster = roster
        self._declare, self._started = declare, started
        self._stage_s = stage_s
        self._pending: _Stage | None = None
        self._staged: list[Group] = []  # by the last request
        self._prepared: list[Group] = []  # staged, and about to be in force, or to be followed

    # ---- before it is in force ----

    def needed(self, entry: Entry) -> bool:
        """Whether it has processes on other nodes."""
        places = zip(entry.workload.tasks, entry.cpus, strict=True)
        return any(task.command and node != LOCAL for task, (node, _) in places)

    def stage(self, now: Now, entries: Iterable[Entry], done: Done, out: list[fx.Effect]) -> None:
        """Have all other nodes prepare; MgmtError `unreachable` when one is not there, before any is asked."""
        groups = [_group(entry) for entry in entries]
        for group in groups:
            for name in group.others():
                node = self._roster.nodes.get(name)
                if node is None or not node.peer or node.state is not NodeState.ALIVE:
                    why = f"is {node.state}: {node.reason}" if node is not None else "has never joined"
                    raise _unreachable([name], f"node {name}, where tasks with a command are to run, {why}")
        self._pending, self._staged = _Stage(groups, done), groups
        self._prepared += groups
        for group in groups:
            for name in group.others():
                self._push_stage(group, name, out)
        out.append(fx.SetTimer(("staging", ""), now.mono_ns + int(self._stage_s * 1e9)))

    def discard(self, out: list[fx.Effect]) -> None:
        """What was staged is not wanted."""
        groups, self._staged = self._staged, []
        self._prepared = [group for group in self._prepared if not any(group is one for one in groups)]
        self._hold({name for group in groups for name in group.others()}, out)

    def on_stage_timer(self, now: Now, out: list[fx.Effect]) -> None:
        if self._pending is not None:
            late = self._pending.missing()
            why = f"{_nodes(late)} did not prepare within {self._stage_s:g} s (`timing.stage_s`)"
            self._finish(now, _unreachable(late, why), out)

    def _finish(self, now: Now, error: MgmtError | None, out: list[fx.Effect]) -> None:
        assert self._pending is not None
        done, self._pending = self._pending.done, None
        out.append(fx.CancelTimer(("staging", "")))
        done(now, error, out)

    # ---- what is in force ----

    def restore(self, entries: Mapping[str, Entry], out: list[fx.Effect]) -> None:
        """What a former daemon had in force, before its units are looked for; those that run go on."""
        self._set(entries, out)
        out += [here for group in self.groups.values() if (here := group.here()) is not None]

    def is_new(self, entries: Mapping[str, Entry]) -> bool:
        """Whether nothing that is here is concerned, but processes are to be started that nobody knows.

        A daemon that is killed before it follows leaves them to the next one, which starts what is in force. What
        is to be stopped or started anew has to be written together with the schedule that says so.
        """
        kept = all(
            name in entries and entries[name].generation == g.generation for name, g in self.groups.items()
        )
        added = [entry for name, entry in entries.items() if name not in self.groups]
        units = self._supervisor.units
        return kept and not any(
            unit_name(entry.workload.name, task.name) in units
            for entry in added
            for task in entry.workload.tasks
        )

    def follow(self, now: Now, entries: Mapping[str, Entry], stopping: bool, out: list[fx.Effect]) -> None:
        """Other workloads are in force: start, restart and stop what differs."""
        former, former_units, prepared = self.groups, self._of, self._prepared
        self._set(entries, out)
        units = self._supervisor.units
        left: set[str] = set()
        for name, group in former.items():
            if self.groups.get(name) is not group:
                left |= set(group.others())
                if group.here() is not None:
                    out.append(fx.DropTasks(name, group.generation))
        wanted = (*self._prepared, *self.groups.values())
        for group in prepared:  # removed before it was followed
            if not any(group is one for one in wanted):
                left |= set(group.others())
        self._hold(left, out)
        gone = [units[unit] for unit in former_units if unit not in self._of and unit in units]
        if gone:
            self._ordering.stop(now, gone, out, "its workload no longer has it")
        for name, group in self.groups.items():
            if former.get(name) is group or stopping:
                continue
            here = group.here()
            if here is not None:
                out.append(here)
            for node in group.others():
                if node not in group.staged:
                    self._push_stage(group, node, out)
            why = dict.fromkeys(group.units, f"workload {name} is new, or was moved")
            mine = [units[unit] for unit in group.units]
            try:
                self._ordering.restart(now, mine, out, why)
            except MgmtError:  # for one of them, and nothing was changed
                self._restart_each(now, mine, why, out)

    def _restart_each(self, now: Now, units: list[Unit], why: dict[str, str], out: list[fx.Effect]) -> None:
        for unit in units:
            try:
                self._ordering.restart(now, [unit], out, why)
            except MgmtError as error:
                self._supervisor.refuse(unit, error.text)

    def _set(self, entries: Mapping[str, Entry], out: list[fx.Effect]) -> None:
        groups: dict[str, Group] = {}
        for name, entry in entries.items():
            group = self.groups.get(name)
            if group is None or group.generation != entry.generation:
                prepared = (group for group in self._prepared if group.generation == entry.generation)
                group = next(prepared, None) or _group(entry)
            if group.units:
                groups[name] = group
        self._prepared = list(self._staged) if self._pending is not None else []
        if not groups and not self.groups:
            return
        self.groups = groups
        self._of = {unit: name for name, group in groups.items() for unit in group.units}
        self._declare({unit: spec for g in groups.values() for unit, (_, spec) in g.units.items()}, out)

    def rows(self, entries: Mapping[str, Entry]) -> list[tuple[str, int, dict[str, Any]]]:
        """(unit, version, the first fields of a TaskStatistics) of all tasks that are processes, by workload."""
        found = []
        for name in sorted(self.groups):
            group, entry = self.groups[name], entries[name]
            for task, (node, cpu) in zip(entry.workload.tasks, entry.cpus, strict=True):
                unit = unit_name(name, task.name)
                if unit in group.units:
                    body = {"workload": name, "task": task.name, "unit": unit, "node": node, "cpu": cpu}
                    times = {"period_us": task.period_us, "deadline_us": task.deadline_us, "offset_ns": 0}
                    found.append((unit, group.generation, {**body, **times}))
        return found

    # ---- what happens here ----

    def on_unit_change(self, now: Now, unit: Unit, out: list[fx.Effect]) -> None:
        workload = self._of.get(unit.spec.name)
        if workload is not None and unit.state is State.RUNNING and unit.pid is not None:
            if not unit.node:
                generation = self.groups[workload].generation
                out.append(fx.BindTask(unit.spec.name, generation, unit.pid, unit.start_ticks))
            self._release(now, self.groups[workload], out)

    def on_staged(self, now: Now, event: ev.TasksStaged, out: list[fx.Effect]) -> None:
        group = self.groups.get(event.workload)
        if group is not None and group.generation == event.version and not event.error:
            if group.started and not event.started:
                out.append(fx.ReleaseTasks(group.workload, group.generation, group.next_ns(_soonest_ns(now))))
            group.staged.add(LOCAL)
            self._release(now, group, out)

    def on_reported(
        self, now: Now, event: ev.TaskReported, hosted: tuple[str, str], out: list[fx.Effect]
    ) -> None:
        """`hosted`: (workload, task) of a task that this agent runs for its daemon."""
        workload = self._of.get(event.unit, "")
        task = self.groups[workload].units[event.unit][0] if workload else ""
        workload, task = (workload, task) if workload else hosted
        body = {
            "what": event.what,
            "workload": workload,
            "task": task,
            "node": LOCAL,
            "count": event.count,
            "job": event.job,
            "misses": event.misses,
            "action": event.action,
            "reason": event.reason,
            "source": "",
        }
        self._journal.record(now, "fault", body, out)
        out.append(fx.Note("WARNING", f"{event.unit or event.what}: {event.reason}", {"unit": event.unit}))
        unit = self._supervisor.units.get(event.unit)
        if unit is not None and event.action == "restart" and unit.state is State.RUNNING:
            self._ordering.restart(now, [unit], out, {event.unit: event.reason})

    # ---- what happens on other nodes ----

    def on_node_fault(self, now: Now, node: str, fault: dict[str, Any], out: list[fx.Effect]) -> None:
        self._journal.record(now, "fault", {**fault, "node": node}, out)

    def on_told(self, now: Now, source: str, faults: list[dict[str, Any]], out: list[fx.Effect]) -> None:
        """ReportedMisses of nodes that are another program's."""
        for fault in faults:
            reason = f"a deadline was missed, says {source}"
            body = {"what": "miss", **fault, "count": 1, "job": 0, "action": "", "reason": reason}
            self._journal.record(now, "fault", {**body, "source": source}, out)

    def on_node_staged(self, now: Now, node: str, report: dict[str, Any], out: list[fx.Effect]) -> None:
        """A StageReport of a node; one of what is not wanted any more says nothing."""
        workload, generation = report["workload"], report["generation"]
        error = MgmtError.from_body(report["error"]) if report["error"] else None
        stage, group = self._pending, self.groups.get(workload)
        pending = (
            [g for g in stage.groups if (g.workload, g.generation) == (workload, generation)] if stage else []
        )
        if pending and error is not None:
            text = f"node {node} refuses workload {workload!r}: {error.text}"
            refusal = MgmtError("not-schedulable", text, node=node, reason="refused", workload=workload)
            self._finish(now, refusal, out)
        elif pending:
            pending[0].staged.add(node)
            if stage is not None and not stage.missing():
                self._finish(now, None, out)
        elif group is not None and group.generation == generation and node in group.plans:
            if error is not None:
                text = f"node {node} no longer takes workload {workload!r}: {error.text}"
                out.append(fx.Note("ERROR", text, {"node": node, "workload": workload}))
                return
            group.staged.add(node)
            if group.started and not report["started"]:
                group.late.add(node)
            self._release(now, group, out)

    def tell_all(self, node: str, out: list[fx.Effect]) -> None:
        """An agent that comes back may know nothing: it is told all, which changes nothing of what it knows."""
        self._hold({node}, out)
        for group in (*self._staging(), *self.groups.values()):
            if node in group.plans:
                group.staged.discard(node)
                self._push_stage(group, node, out)

    def on_node_lost(self, now: Now, node: str, out: list[fx.Effect]) -> None:
        if self._pending is not None and any(node in group.plans for group in self._pending.groups):
            self._finish(now, _unreachable([node], f"node {node} was lost before it was ready"), out)
        for group in list(self.groups.values()):
            if node in group.plans:
                group.staged.discard(node)
                self._release(now, group, out)

    def on_timer(self, now: Now, name: str, out: list[fx.Effect]) -> None:
        if name in self.groups:
            self._release(now, self.groups[name], out)

    def _release(self, now: Now, group: Group, out: list[fx.Effect]) -> None:
        """Once all are there but for those of lost nodes. Who comes later, or again, enters at a hyperperiod."""
        self._release_late(now, group, out)
        known = self._roster.nodes
        lost = {n for n in group.others() if n not in known or known[n].state is NodeState.LOST}
        if group.started or not group.staged.issuperset(group.plans.keys() - lost):
            return
        units = self._supervisor.units
        waited = 0
        for name in group.units:
            unit = units[name]
            if unit.node not in lost:
                if unit.state is not State.RUNNING or unit.pid is None:
                    return
                waited += 1
        if not waited:
            return
        nodes = [self._roster.nodes[name] for name in group.others() if name not in lost]
        if any(node.offset_ns is None for node in nodes):
            self._look_again(now, group, out)
            return
        soonest_ns = _soonest_ns(now) if nodes else now.mono_ns + int(defaults.TASK_LEAD_S * 1e9)
        group.t0_ns = group.next_ns(soonest_ns) if group.t0_ns else soonest_ns
        group.started = True
        if LOCAL in group.plans:
            out.append(fx.ReleaseTasks(group.workload, group.generation, group.t0_ns))
        for node in nodes:
            self._push_start(group, node, group.t0_ns, out)
        reason = f"{waited} processes start together"
        if nodes:
            # Each is right within half its round trip of this machine, so two of them within the sum of theirs.
            errors_ns = sorted((node.round_trip_ns or 0) / 2 for node in nodes)
            there_too = sorted(group.plans.keys() - lost)
            error_ns = sum(errors_ns[-2:]) if len(there_too) > 1 else 0.0
            reason += f", on {', '.join(there_too)}: within {error_ns / 1e6:.3f} ms of one another"
        if lost:
            reason += f"; {_nodes(sorted(lost))} enter at a later hyperperiod"
        self._started(now, group.workload, group.t0_ns, reason, out)

    def _release_late(self, now: Now, group: Group, out: list[fx.Effect]) -> None:
        """Nodes that came when the others were released already."""
        for name in sorted(group.late):
            node = self._roster.nodes[name]
            if node.offset_ns is None:
                self._look_again(now, group, out)
            else:
                group.late.discard(name)
                self._push_start(group, node, group.next_ns(_soonest_ns(now)), out)
                error_ms = (node.round_trip_ns or 0) / 2e6
                reason = (
                    f"node {name} enters at a later hyperperiod: within {error_ms:.3f} ms of this machine"
                )
                body = {"what": "started", "workload": group.workload, "reason": reason}
                self._journal.record(now, "schedule", body, out)

    def _look_again(self, now: Now, group: Group, out: list[fx.Effect]) -> None:
        """A node's clock is not known yet: the next heartbeat tells."""
        at_ns = now.mono_ns + int(defaults.TASK_LEAD_NODES_S * 1e9)
        out.append(fx.SetTimer(("tasks", group.workload), at_ns))

    # ---- words to agents ----

    def _staging(self) -> list[Group]:
        return [group for group in self._prepared if self.groups.get(group.workload) is not group]

    def _hold(self, names: Iterable[str], out: list[fx.Effect]) -> None:
        """These nodes let go of all other generations."""
        for name in sorted(names):
            node = self._roster.nodes.get(name)
            if node is not None:
                groups = (*self._staging(), *self.groups.values())
                held = [[group.workload, group.generation] for group in groups if name in group.plans]
                self._roster.push(node, "hold", {"groups": held}, out)

    def _push_stage(self, group: Group, name: str, out: list[fx.Effect]) -> None:
        node = self._roster.nodes.get(name)
        if node is not None:
            tasks = []
            for plan in group.plans[name]:
                unit = Unit(group.units[plan.unit][1])
                assignment = assignment_body(unit, Posting(name, 0, 0, wanted=True))
                told = {name: getattr(plan, name) for name in fx.TaskPlan.__slots__}
                tasks.append({"plan": told, "assignment": assignment})
            body = {"workload": group.workload, "generation": group.generation, "tasks": tasks}
            self._roster.push(node, "stage", body, out)

    def _push_start(self, group: Group, node: Node, t0_ns: int, out: list[fx.Effect]) -> None:
        """`t0_ns` on our clock; the node is told on its own."""
        body = {"workload": group.workload, "generation": group.generation}
        self._roster.push(node, "start", {**body, "t0_ns": t0_ns - (node.offset_ns or 0)}, out)


def _soonest_ns(now: Now) -> int:
    """When all nodes have heard what they are told now."""
    return now.mono_ns + int(defaults.TASK_LEAD_NODES_S * 1e9)


def _nodes(names: list[str]) -> str:
    return f"node{'s' * (len(names) > 1)} {', '.join(names)}"


def _unreachable(nodes: list[str], why: str) -> MgmtError:
    text = f"{why}; nothing was changed: start its agent, or give the tasks other nodes (`mgmt node list`)"
    return MgmtError("unreachable", text, nodes=nodes)


def _group(entry: Entry) -> Group:
    name = entry.workload.name
    group = Group(name, entry.generation, entry.t0_ns, entry.started)
    for task, (node, cpu) in zip(entry.workload.tasks, entry.cpus, strict=True):
        if task.command:
            spec = unit_of(name, task, node, cpu, entry.generation)
            group.units[spec.name] = task.name, spec
            group.plans.setdefault(node, []).append(plan_of(name, task, entry.hyperperiod_us))
    return group
