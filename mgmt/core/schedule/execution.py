"""Running what is in force: tasks with a command are units, here or on nodes with an agent, released together.

A workload's segments are laid down and watched on each of its nodes, its processes are started, and when all of
them are there they are released from one common instant on. What runs on other nodes is staged there before the
workload is in force, so that a node which cannot, or is not there, leaves everything as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from mgmt.core import effect as fx
from mgmt.core import event as ev
from mgmt.core.event import Now
from mgmt.core.journal import Journal
from mgmt.core.nodes import NodeState, Roster
from mgmt.core.nodes.assignment import Posting, assignment_body
from mgmt.core.supervision import Ordering, State, Supervisor, Unit, UnitSpec
from mgmt.protocol import defaults
from mgmt.protocol.errors import MgmtError

from .force import Entry
from .processes import plan_of, unit_name, unit_of
from .workload import LOCAL

FIRST_ASK = 1 << 61  # numbers of questions to agents that nobody waits for at an endpoint
Done = Callable[[Now, MgmtError | None, list[fx.Effect]], None]


@dataclass(slots=True)
class Group:
    """The tasks of a workload that are processes.

    `staged`: nodes that watch theirs; `t0_real_ns` 0: not released; `late`: nodes that are to be told the start.
    """

    workload: str
    generation: int
    t0_real_ns: int
    units: dict[str, tuple[str, UnitSpec]] = field(default_factory=dict)  # unit -> (task, specification)
    plans: dict[str, list[fx.TaskPlan]] = field(default_factory=dict)  # by node
    staged: set[str] = field(default_factory=set)
    late: set[str] = field(default_factory=set)

    def others(self) -> list[str]:
        return sorted(node for node in self.plans if node != LOCAL)

    def here(self) -> fx.StageTasks | None:
        plans = self.plans.get(LOCAL)
        return fx.StageTasks(self.workload, self.generation, tuple(plans)) if plans else None


class Execution:
    """Groups by name of the workload; `declare` makes these specifications the tasks that there are, `started` is
    told the common start of a workload: its instant, and its error in words."""

    def __init__(
        self,
        supervisor: Supervisor,
        ordering: Ordering,
        journal: Journal,
        roster: Roster,
        declare: Callable[[dict[str, UnitSpec], list[fx.Effect]], None],
        started: Callable[[Now, str, int, str, list[fx.Effect]], None],
    ) -> None:
        self.groups: dict[str, Group] = {}
        self._of: dict[str, str] = {}  # unit -> workload
        self._supervisor, self._ordering, self._journal = supervisor, ordering, journal
        self._roster = roster
        self._declare, self._started = declare, started
        self._asked: dict[int, tuple[Group, str]] = {}  # number -> what stages, on which node
        self._asks = FIRST_ASK
        self._pending: tuple[Group, Done] | None = None
        self._prepared: Group | None = None  # staged, and about to be in force

    # ---- before it is in force ----

    def needed(self, entry: Entry) -> bool:
        """Whether it has processes on other nodes."""
        places = zip(entry.workload.tasks, entry.cpus, strict=True)
        return any(task.command and node != LOCAL for task, (node, _) in places)

    def stage(self, now: Now, entry: Entry, done: Done, out: list[fx.Effect]) -> None:
        """Have all other nodes prepare; MgmtError `unreachable` when one is not there, before any is asked."""
        group = _group(entry)
        for name in group.others():
            node = self._roster.nodes.get(name)
            if node is None or not node.peer or node.state is not NodeState.ALIVE:
                why = f"is {node.state}: {node.reason}" if node is not None else "has never joined"
                raise _unreachable(
                    group, [name], f"node {name}, where tasks with a command are to run, {why}"
                )
        self._pending, self._prepared = (group, done), group
        for name in group.others():
            self._ask_to_stage(group, name, out)
        out.append(fx.SetTimer(("tasks", group.workload), now.mono_ns + int(defaults.STAGE_S * 1e9)))

    def discard(self, out: list[fx.Effect]) -> None:
        """What was staged is not wanted."""
        group, self._prepared = self._prepared, None
        if group is not None:
            for name in group.others():
                self._tell(name, "drop", group, out)

    def _finish(self, now: Now, error: MgmtError | None, out: list[fx.Effect]) -> None:
        assert self._pending is not None
        (group, done), self._pending = self._pending, None
        out.append(fx.CancelTimer(("tasks", group.workload)))
        done(now, error, out)

    def _missing(self, now: Now, names: list[str], why: str, out: list[fx.Effect]) -> None:
        assert self._pending is not None
        self._finish(now, _unreachable(self._pending[0], names, why), out)

    # ---- what is in force ----

    def restore(self, entries: Mapping[str, Entry], out: list[fx.Effect]) -> None:
        """What a former daemon had in force, before its units are looked for; those that run go on."""
        self._set(entries, out)
        out += [here for group in self.groups.values() if (here := group.here()) is not None]

    def follow(self, now: Now, entries: Mapping[str, Entry], stopping: bool, out: list[fx.Effect]) -> None:
        """Other workloads are in force: start, restart and stop what differs."""
        former, former_units = self.groups, self._of
        self._set(entries, out)
        units = self._supervisor.units
        for name, group in former.items():
            if self.groups.get(name) is not group:
                if group.here() is not None:
                    out.append(fx.DropTasks(name, group.generation))
                for node in group.others():
                    self._tell(node, "drop", group, out)
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
                    self._ask_to_stage(group, node, out)
            why = dict.fromkeys(group.units, f"workload {name} is new, or was moved")
            for unit in group.units:
                try:
                    self._ordering.restart(now, [units[unit]], out, why)
                except MgmtError as error:
                    self._supervisor.refuse(units[unit], error.text)

    def _set(self, entries: Mapping[str, Entry], out: list[fx.Effect]) -> None:
        groups: dict[str, Group] = {}
        for name, entry in entries.items():
            group = self.groups.get(name)
            if group is None or group.generation != entry.generation:
                prepared, group = self._prepared, _group(entry)
                if prepared is not None and prepared.generation == group.generation:
                    group.staged, self._prepared = prepared.staged, None
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
                if unit in group.units and node == LOCAL:
                    body = {"workload": name, "task": task.name, "unit": unit, "node": node, "cpu": cpu}
                    times = {"period_us": task.period_us, "deadline_us": task.deadline_us}
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
            if group.t0_real_ns and not event.started:
                out.append(fx.ReleaseTasks(group.workload, group.generation, _here_ns(now, group)))
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
        }
        self._journal.record(now, "fault", body, out)
        out.append(fx.Note("WARNING", f"{event.unit or event.what}: {event.reason}", {"unit": event.unit}))
        unit = self._supervisor.units.get(event.unit)
        if unit is not None and event.action == "restart" and unit.state is State.RUNNING:
            self._ordering.restart(now, [unit], out, {event.unit: event.reason})

    # ---- what happens on other nodes ----

    def on_node_fault(self, now: Now, node: str, fault: dict[str, Any], out: list[fx.Effect]) -> None:
        self._journal.record(now, "fault", {**fault, "node": node}, out)

    def is_mine(self, number: int) -> bool:
        return number >= FIRST_ASK

    def on_answer(
        self, now: Now, number: int, node: str, error: MgmtError | None, out: list[fx.Effect]
    ) -> None:
        group, name = self._asked.pop(number, (None, ""))
        if group is None or name != node:
            return
        if self._pending is not None and self._pending[0] is group:
            if error is not None:
                text = f"node {node} refuses workload {group.workload!r}: {error.text}"
                refusal = MgmtError(
                    "not-schedulable", text, node=node, reason="refused", workload=group.workload
                )
                self._finish(now, refusal, out)
                return
            group.staged.add(node)
            if group.staged.issuperset(group.others()):
                self._finish(now, None, out)
        elif self.groups.get(group.workload) is group and error is None:
            group.staged.add(node)
            if group.t0_real_ns:
                group.late.add(node)
            self._release(now, group, out)

    def on_hello(self, now: Now, node: str, out: list[fx.Effect]) -> None:
        """An agent that comes back may know nothing: it is told again, which changes nothing of what it knows."""
        for group in self.groups.values():
            if node in group.plans:
                self._ask_to_stage(group, node, out)

    def on_node_lost(self, now: Now, node: str, out: list[fx.Effect]) -> None:
        if self._pending is not None and node in self._pending[0].plans:
            self._missing(now, [node], f"node {node} was lost before it was ready", out)

    def on_timer(self, now: Now, name: str, out: list[fx.Effect]) -> None:
        if self._pending is not None and self._pending[0].workload == name:
            late = [node for node in self._pending[0].others() if node not in self._pending[0].staged]
            self._missing(now, late, f"{', '.join(late)}: not ready within {defaults.STAGE_S:g} s", out)
        elif name in self.groups:
            self._release(now, self.groups[name], out)

    def _release(self, now: Now, group: Group, out: list[fx.Effect]) -> None:
        """Once all are there. One that comes later, or again, enters at the next hyperperiod by itself."""
        self._release_late(now, group, out)
        units = [self._supervisor.units[name] for name in group.units]
        there = all(unit.state is State.RUNNING and unit.pid is not None for unit in units)
        if group.t0_real_ns or not there or not group.staged.issuperset(group.plans):
            return
        others = group.others()
        nodes = [self._roster.nodes[name] for name in others]
        if any(node.offset_ns is None for node in nodes):
            self._look_again(now, group, out)
            return
        lead_ns = int((defaults.TASK_LEAD_NODES_S if others else defaults.TASK_LEAD_S) * 1e9)
        group.t0_real_ns = int(now.real_s * 1e9) + lead_ns
        t0_ns = now.mono_ns + lead_ns
        if LOCAL in group.plans:
            out.append(fx.ReleaseTasks(group.workload, group.generation, t0_ns))
        for name in others:
            self._tell(name, "release", group, out, t0_ns)
        error_ns = max((node.round_trip_ns or 0) // 2 for node in nodes) if nodes else 0
        reason = f"{len(group.units)} processes start together"
        if others:
            reason += f", on {', '.join(sorted(group.plans))}: within {error_ns / 1e6:.3f} ms of one another"
        self._started(now, group.workload, group.t0_real_ns, reason, out)

    def _release_late(self, now: Now, group: Group, out: list[fx.Effect]) -> None:
        """Nodes that came when the others were released already."""
        for name in sorted(group.late):
            if self._roster.nodes[name].offset_ns is None:
                self._look_again(now, group, out)
            else:
                group.late.discard(name)
                self._tell(name, "release", group, out, _here_ns(now, group))

    def _look_again(self, now: Now, group: Group, out: list[fx.Effect]) -> None:
        """A node's clock is not known yet: the next heartbeat tells."""
        at_ns = now.mono_ns + int(defaults.TASK_LEAD_NODES_S * 1e9)
        out.append(fx.SetTimer(("tasks", group.workload), at_ns))

    # ---- words to agents ----

    def _ask_to_stage(self, group: Group, name: str, out: list[fx.Effect]) -> None:
        tasks = []
        for plan in group.plans[name]:
            unit = Unit(group.units[plan.unit][1])
            assignment = assignment_body(unit, Posting(name, 0, 0, wanted=True))
            tasks.append({"plan": asdict(plan), "assignment": assignment})
        number = self._tell(name, "stage", group, out, tasks=tasks)
        if number:
            self._asked[number] = group, name

    def _tell(
        self,
        name: str,
        what: str,
        group: Group,
        out: list[fx.Effect],
        t0_ns: int = 0,
        tasks: list[dict[str, Any]] | None = None,
    ) -> int:
        """The number of the question; 0 when nobody is there. `t0_ns` on our clock."""
        node = self._roster.nodes.get(name)
        if node is None or not node.peer:
            return 0
        self._asks += 1
        body: dict[str, Any] = {"ask": self._asks, "what": what, "workload": group.workload}
        body |= {"generation": group.generation, "tasks": tasks or []}
        if t0_ns:
            body["t0_ns"] = t0_ns - (node.offset_ns or 0)
        out.append(fx.ToNode(node.peer, node.session, "node-tasks", body))
        return self._asks


def _here_ns(now: Now, group: Group) -> int:
    """The next instant T0 + k * hyperperiod that all can still be told, on our monotonic clock."""
    cycle_ns = 1000 * next(plan.hyperperiod_us for plans in group.plans.values() for plan in plans)
    soonest_ns = int((now.real_s + defaults.TASK_LEAD_NODES_S) * 1e9)
    cycles = max(0, -((group.t0_real_ns - soonest_ns) // cycle_ns))
    return now.mono_ns + group.t0_real_ns + cycles * cycle_ns - int(now.real_s * 1e9)


def _unreachable(group: Group, nodes: list[str], why: str) -> MgmtError:
    text = f"{why}; nothing was changed: start its agent, or give the tasks other nodes (`mgmt node list`)"
    return MgmtError("unreachable", text, nodes=nodes, workload=group.workload)


def _group(entry: Entry) -> Group:
    name = entry.workload.name
    group = Group(name, entry.generation, entry.t0_real_ns)
    for task, (node, cpu) in zip(entry.workload.tasks, entry.cpus, strict=True):
        if task.command:
            spec = unit_of(name, task, node, cpu, entry.generation)
            group.units[spec.name] = task.name, spec
            group.plans.setdefault(node, []).append(plan_of(name, task, entry.hyperperiod_us))
    return group
