"""The fleet: a supervisor some of whose units are on other machines.

Such a unit is a mirror: it is a Unit like any other, so loading, order, conditions and the journal work on it, but
its life is that of its node's report. What is asked of it becomes an assignment; what the node says moves it along
the same table, step by step where steps were not heard. `Unit.node` says which of the two a unit is, and only the
methods below that override those of Supervisor look at it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mgmt.core import effect as fx
from mgmt.core.event import Now
from mgmt.core.nodes.assignment import Posting, assignment_body
from mgmt.core.nodes.node import Node, NodeState
from mgmt.core.nodes.roster import Roster
from mgmt.core.placement import Ledger
from mgmt.core.supervision import AT_REST, Exit, State, Supervisor, Unit, UnitSpec
from mgmt.protocol import defaults
from mgmt.protocol.errors import MgmtError

UP = frozenset({State.STARTING, State.RUNNING})


class Fleet(Supervisor):
    """`postings` says where each unit is that is not here, or was when it was last told something."""

    def __init__(
        self,
        secret: bytes,
        epoch: int,
        control_endpoint: str,
        socket_prefix: str,
        ledger: Ledger,
        roster: Roster,
    ) -> None:
        super().__init__(secret, epoch, control_endpoint, socket_prefix, ledger)
        self.roster = roster
        self.postings: dict[str, Posting] = {}
        self._reposted: set[str] = set()  # to be written
        self.strays = 0  # reports that were too late to mean anything
        self.closing = False  # nothing is put on a node any more
        # Of an agent: until when it may run a unit of which there must be one only; 0: now not, None: for ever.
        self.lease: Callable[[Unit], int | None] = lambda unit: None
        self._fenced: set[str] = set()  # units that a lost node may not have given up yet
        # Above all of former lives as long as the clock is roughly right; agents tell when it is not.
        self._epoch = epoch << 12

    # ---- where a unit goes ----

    def obstacle(self, unit: Unit) -> str:
        asked = unit.spec.node
        if self.lease(unit) == 0:
            return "its daemon to be heard: it may run on another node"
        if unit.spec.name in self._fenced:
            return f"node {unit.node} to have given it up"
        if asked is None:
            return ""
        if self.closing:
            return "the daemon to be started again"
        if self._choose(unit) is not None:
            return ""
        if not isinstance(asked, str):
            return f"a node with the tags {', '.join(asked.tags)} that takes units"
        node = self.roster.nodes.get(asked)
        if node is not None and node.cordoned:
            return f"node {asked} to be uncordoned"
        return f"node {asked} to be alive"

    def unreachable(self, unit: Unit) -> MgmtError | None:
        asked, nodes = unit.spec.node, self.roster.nodes
        fenced = unit.spec.name in self._fenced
        if asked is None or self.closing or fenced or self._choose(unit) is not None:
            return None
        if isinstance(asked, str):
            what, candidates = f"node {asked}", [nodes[asked]] if asked in nodes else []
        else:
            what = f"a node with the tags {', '.join(asked.tags)}"
            candidates = [node for node in nodes.values() if node.tags.issuperset(asked.tags)]
        if any(node.state is NodeState.SUSPECT and not node.cordoned for node in candidates):
            return None  # it is known in a moment
        name = unit.spec.name
        names = [node.name for node in candidates]
        then = f"or say --no-wait (`mgmt start --no-wait {name}`), and it starts as soon as it can"
        if not candidates:
            wait = f"`mgmt node wait {asked}`" if isinstance(asked, str) else "`mgmt node list`"
            text = f"unit {name!r} runs on {what}, and none has ever joined: start an agent there ({wait}), {then}"
            return MgmtError("unknown-node", text, unit=name, nodes=names)
        each = "; ".join(
            f"{node.name} is {'cordoned' if node.cordoned and node.state is NodeState.ALIVE else node.state}"
            f" ({node.reason})"
            for node in candidates[:8]
        )
        if any(node.cordoned and node.state is NodeState.ALIVE for node in candidates):
            text = f"unit {name!r} runs on {what}: {each}; `mgmt node uncordon` one of them, {then}"
            return MgmtError("conflict", text, unit=name, nodes=names)
        text = f"unit {name!r} runs on {what}: {each}; wait for one (`mgmt node wait {names[0]}`), {then}"
        return MgmtError("node-lost", text, unit=name, nodes=names)

    def _lease_ns(self, unit: Unit) -> int:
        return self.lease(unit) or 0

    def _fence(self, unit: Unit, at_ns: int, out: list[fx.Effect]) -> None:
        """Its node cannot be heard: it is started elsewhere when the node must have ended it by itself."""
        grace_s = unit.spec.backend.grace_s + defaults.NODE_FENCE_S
        self._fenced.add(unit.spec.name)
        out.append(fx.SetTimer(("fenced", unit.spec.name), at_ns + int(grace_s * 1e9)))

    def _unfence(self, unit: Unit) -> None:
        if unit.spec.name in self._fenced:
            self._fenced.discard(unit.spec.name)
            self.touch(unit)

    def on_timer(self, now: Now, what: str, name: str, out: list[fx.Effect]) -> None:
        if what != "fenced":
            super().on_timer(now, what, name, out)
        elif name in self.units:
            self._unfence(self.units[name])

    def _choose(self, unit: Unit) -> Node | None:
        """The node for a new start: the one it was on, else the one with the fewest units, ties by name."""
        asked, nodes = unit.spec.node, self.roster.nodes
        if asked is None:
            return None
        if isinstance(asked, str):
            candidates = [nodes[asked]] if asked in nodes else []
        else:
            candidates = [node for node in nodes.values() if node.tags.issuperset(asked.tags)]
        candidates = [node for node in candidates if node.takes_units]
        for node in candidates:
            if node.name == unit.node:
                return node
        if len(candidates) < 2:
            return candidates[0] if candidates else None  # nothing to count
        return min(candidates, key=lambda node: (self.count(node.name), node.name))

    def on_node(self, name: str) -> list[Unit]:
        """The units that are on a node, in name order."""
        there = (unit for unit, posting in self.postings.items() if posting.node == name)
        return [self.units[unit] for unit in sorted(there) if unit in self.units]

    def count(self, name: str) -> int:
        return sum(posting.node == name and posting.wanted for posting in self.postings.values())

    def processes(self, name: str) -> int:
        """How many units have a process on the node, as far as is known."""
        return sum(posting.node == name and posting.there for posting in self.postings.values())

    # ---- what the slices above ask for, of units that are elsewhere ----

    def _prepare(self, now: Now, unit: Unit, out: list[fx.Effect]) -> None:
        if unit.spec.node is None:
            self._withdraw(unit, out)  # it was elsewhere, and comes back
            super()._prepare(now, unit, out)
            return
        node = self._choose(unit) or self.roster.nodes.get(unit.node)
        if node is None:
            raise MgmtError("no-capacity", f"unit {unit.spec.name!r} has no node: {self.obstacle(unit)}")
        if unit.node != node.name:
            self._withdraw(unit, out)
        self._clean(unit)
        former = self.postings.get(unit.spec.name)
        unit.node, unit.endpoint = node.name, f"node://{node.name}/{unit.spec.name}"
        unit.has_process, unit.reason = True, f"sent to node {node.name}"
        life = former.life + 1 if former is not None else 1
        posting = self.postings[unit.spec.name] = Posting(node.name, 0, life, True, there=True)
        self._tell(unit, posting, out)

    def stop(self, now: Now, unit: Unit, out: list[fx.Effect], reason: str, wanted: bool = False) -> None:
        super().stop(now, unit, out, reason, wanted)
        posting = self.postings.get(unit.spec.name)
        if posting is None or not unit.node or unit.state not in (State.STOPPING, *AT_REST):
            return
        if posting.wanted:
            posting.wanted, posting.reason = False, reason
            self._tell(unit, posting, out)
        if unit.state is State.STOPPING and self.roster.nodes[unit.node].state is NodeState.LOST:
            # Nobody who waits for it, or is to be stopped after it, waits for a node that may never come back.
            self._empty(now, unit, out)
            unit.reason = f"node {unit.node} is lost; what is left of it there is ended when the node returns"

    def kill(self, unit: Unit, out: list[fx.Effect], verdict: str = "") -> None:
        if not unit.node:
            super().kill(unit, out, verdict)

    def reset_failed(self, unit: Unit, out: list[fx.Effect]) -> None:
        posting = self.postings.get(unit.spec.name)
        if posting is not None and unit.node and unit.state is not State.STOPPED:
            self.roster.push(self.roster.nodes[unit.node], "reset", {"unit": unit.spec.name}, out)
            if unit.state in (State.FATAL, State.EXITED):
                posting.wanted, posting.reason = False, "failures were reset"
                self._tell(unit, posting, out)
        super().reset_failed(unit, out)

    def refresh(self, now: Now, unit: Unit, out: list[fx.Effect]) -> None:
        posting = self.postings.get(unit.spec.name)
        if posting is None or not unit.node:
            super().refresh(now, unit, out)
        elif posting.wanted:
            self._tell(unit, posting, out)

    def forget(self, name: str, out: list[fx.Effect]) -> None:
        self._withdraw(self.units[name], out)
        super().forget(name, out)

    def is_busy(self) -> bool:
        """Units elsewhere run on without this daemon."""
        return bool(self.hooks) or any(unit.has_process and not unit.node for unit in self.units.values())

    def _end(self, now: Now, unit: Unit, was: State, out: list[fx.Effect]) -> None:
        if not unit.node:
            super()._end(now, unit, was, out)

    def _run_hook(self, unit: Unit, which: str, out: list[fx.Effect]) -> None:
        if not unit.node:  # else its agent does
            super()._run_hook(unit, which, out)

    def restore(self, now: Now, unit: Unit, out: list[fx.Effect], declared: bool = True) -> None:
        posting = self.postings.get(unit.spec.name)
        if posting is None:
            super().restore(now, unit, out, declared)
            return
        unit.node = posting.node
        if is_exclusive(unit.spec) and posting.there and unit.state in AT_REST:
            self._fence(unit, now.mono_ns + self.roster.lost_ns, out)
        self.units[unit.spec.name] = unit
        self.version += 1
        if unit.has_process or unit.state not in AT_REST:
            self.ledger.held[unit.spec.name] = unit.place
        self.health.reset(unit)
        unit.sought = unit.has_process
        unit.retry_ns = now.mono_ns if unit.state is State.BACKOFF else None

    def restore_postings(self, records: dict[str, dict[str, Any]]) -> None:
        """Where a former daemon put its units; before they are restored themselves."""
        for name, record in records.items():
            if record["node"] in self.roster.nodes:
                posting = self.postings[name] = Posting(**record)
                self._epoch = max(self._epoch, posting.epoch)

    @property
    def has_unsaved(self) -> bool:
        return bool(self._reposted)

    def unsaved(self) -> dict[str, dict[str, Any] | None]:
        """Records of postings that the store does not have yet; it has them from now on."""
        known = self.postings
        records = {
            name: known[name].to_record() if name in known else None for name in sorted(self._reposted)
        }
        self._reposted.clear()
        return records

    def _withdraw(self, unit: Unit, out: list[fx.Effect]) -> None:
        """It is no longer its node's. One that cannot be told now finds out when it says hello."""
        posting = self.postings.pop(unit.spec.name, None)
        if posting is not None:
            self._reposted.add(unit.spec.name)
            self.roster.push(self.roster.nodes[posting.node], "drop", {"unit": unit.spec.name}, out)
        unit.node = ""

    def _tell(self, unit: Unit, posting: Posting, out: list[fx.Effect]) -> None:
        """One more word about a unit: with a new epoch, which is written before it is sent."""
        self._epoch += 1
        posting.epoch = self._epoch
        self._reposted.add(unit.spec.name)
        self.touch(unit)
        self._push(unit, posting, out)

    def _push(self, unit: Unit, posting: Posting, out: list[fx.Effect]) -> None:
        self.roster.push(self.roster.nodes[posting.node], "assign", assignment_body(unit, posting), out)

    # ---- what the nodes say ----

    def on_hello(self, now: Now, node: Node, reports: list[dict[str, Any]], out: list[fx.Effect]) -> None:
        """A node says everything it runs."""
        said = {report["unit"] for report in reports}
        for report in reports:
            self._epoch = max(self._epoch, report["epoch"])
            self.on_report(now, node, report, out)
        for unit in self.on_node(node.name):
            posting = self.postings[unit.spec.name]
            self._unfence(unit)
            if unit.spec.name not in said and not posting.wanted:
                posting.there = False

    def tell_all(self, node: Node, reports: list[dict[str, Any]], out: list[fx.Effect]) -> None:
        """A node is told what of all that it runs is not so, any more or yet."""
        said = {report["unit"]: report for report in reports}
        units = self.on_node(node.name)
        self.roster.push(node, "keep", {"units": [unit.spec.name for unit in units]}, out)
        for unit in units:
            posting = self.postings[unit.spec.name]
            known = said[unit.spec.name]["epoch"] if unit.spec.name in said else -1
            if known > posting.epoch:
                self._tell(
                    unit, posting, out
                )  # our store is older than what it was told: another word outranks
            elif known < posting.epoch:
                self._push(unit, posting, out)

    def on_report(self, now: Now, node: Node, report: dict[str, Any], out: list[fx.Effect]) -> None:
        """Move the mirror to where its unit is. A report from before the last word about it is passed over."""
        name: str = report["unit"]
        unit, posting = self.units.get(name), self.postings.get(name)
        if unit is None or posting is None or posting.node != node.name:
            self.strays += 1
            return
        posting.there = report["has_process"]
        if report["epoch"] != posting.epoch:
            self.strays += 1
            return
        posting.cpus = tuple(report["cpus"])
        was, was_ready = unit.state, unit.ready
        unit.sought = False
        if self._follow(now, unit, node, report, out):
            self._copy(now, unit, report)
            probe = unit.probes.get("ready")
            if probe is not None and unit.state is State.RUNNING:
                probe.passing = report["ready"]
            if was is unit.state is State.RUNNING and unit.ready is not was_ready:
                self.readiness_changed(unit, report["reason"])
            if unit.state in AT_REST:
                self.release(unit)
        elif unit.state in AT_REST:
            unit.incarnation = max(unit.incarnation, report["incarnation"])  # no number is used twice
        self.touch(unit)

    def on_usage(self, usage: dict[str, Any], node: Node) -> None:
        for name, (cpu_percent, memory_bytes) in usage.items():
            unit = self.units.get(name)
            if unit is not None and unit.node == node.name and unit.has_process:
                unit.cpu_percent, unit.memory_bytes = cpu_percent, memory_bytes
        self.version += 1

    def on_lost(self, now: Now, node: Node, out: list[fx.Effect]) -> dict[str, list[Unit]]:
        """A node is lost: nothing on it is ready. Returns the units to `stop`, and those to `replace`."""
        todo: dict[str, list[Unit]] = {"stop": [], "replace": []}
        reason = f"node {node.name} is lost: {node.reason}"
        for unit in self.on_node(node.name):
            policy = unit.spec.backend.on_node_lost
            if unit.state is State.STOPPING:
                self._empty(now, unit, out)
                unit.reason = f"{reason}; what is left of it there is ended when the node returns"
            elif unit.state in AT_REST:
                continue
            elif policy == "stop":
                todo["stop"].append(unit)
            elif is_exclusive(unit.spec):
                self._fence(unit, now.mono_ns, out)
                todo["replace"].append(unit)
            else:
                was_ready, unit.sought = unit.ready, True
                unit.reason = reason
                if was_ready:
                    self.readiness_changed(unit, reason)
                self.touch(unit)
        return todo

    def on_nodes_changed(self) -> None:
        """A node may take units, or no more: whoever waits for one is looked at again."""
        for unit in self.units.values():
            if unit.waiting_for and unit.spec.node is not None:
                self.touch(unit)

    # ---- following a report ----

    def _follow(self, now: Now, unit: Unit, node: Node, report: dict[str, Any], out: list[fx.Effect]) -> bool:
        """Walk to the reported state; False when the report is not the mirror's state (yet)."""
        target = State(report["state"])
        advanced = report["incarnation"] > unit.incarnation
        if report["exit"] is not None:
            unit.last_exit = Exit(**report["exit"])
        if unit.state is State.STOPPING:
            if advanced and unit.start_when_empty and target not in AT_REST:
                self._empty(
                    now, unit, out
                )  # its agent stopped and started it, and nothing else was asked for
                unit.start_when_empty = False
            else:
                if target in AT_REST and not report["has_process"]:
                    self._empty(now, unit, out)
                return False
        if not self.postings[unit.spec.name].wanted or (not unit.wanted and target not in AT_REST):
            return False  # it was given up here, and is about to end there
        begins = target in (State.STARTING, State.FATAL)
        if unit.state is State.STARTING and report["incarnation"] < unit.incarnation and not begins:
            return False  # of the life before the one that was asked for
        if advanced and unit.state in UP:
            self._move(unit, "ended", State.BACKOFF, "it ended and was started again on its node")
        while unit.state is not target:
            trigger, to = _towards(unit.state, target)
            if to is State.STARTING:
                self._clean(unit)
                unit.waiting_for, unit.start_when_empty = "", False
                unit.place = self.ledger.acquire(unit.spec.name)
                unit.incarnation = report["incarnation"] - 1
            if trigger == "stop":
                self._left_unasked(unit, node, out)
            self._move(unit, trigger, to, report["reason"])
        return True

    def _left_unasked(self, unit: Unit, node: Node, out: list[fx.Effect]) -> None:
        """Its agent stops it of its own accord. It comes back with the agent, unless that was its policy."""
        posting = self.postings[unit.spec.name]
        again = node.leaving or is_exclusive(unit.spec)  # it must, when it is cut off
        unit.wanted = unit.start_when_empty = again and posting.wanted
        if not unit.wanted and posting.wanted:
            posting.wanted, posting.reason = False, "its node stopped it"
            self._tell(unit, posting, out)

    def _copy(self, now: Now, unit: Unit, report: dict[str, Any]) -> None:
        state = unit.state
        unit.reason = report["reason"]
        unit.incarnation, unit.restarts = report["incarnation"], report["restarts"]
        unit.has_process = report["has_process"] or state in (*UP, State.STOPPING)
        unit.leader_gone = report["leader_gone"] and state not in UP
        unit.pid = report["pid"] if unit.has_process and not unit.leader_gone else None
        unit.protocols = tuple(report["protocols"])
        if state is State.RUNNING:
            unit.proven = True
        if not unit.has_process:
            unit.cpu_percent = unit.memory_bytes = None
        if report["age_s"] is not None:
            unit.started_ns = now.mono_ns - int(report["age_s"] * 1e9)
            unit.started_real_s = now.real_s - report["age_s"]
        unit.retry_ns = None
        if state is State.BACKOFF:
            unit.retry_ns = now.mono_ns + int((report["next_start_s"] or 0.0) * 1e9)


def is_exclusive(spec: UnitSpec) -> bool:
    """Whether it is replaced when its node is lost, so that its node must end it by itself then."""
    replaced = spec.backend.on_node_lost == "replace"
    return replaced and spec.node is not None and not isinstance(spec.node, str)


def _towards(state: State, target: State) -> tuple[str, State]:
    """The next step of the table on the way from one state to another."""
    if state in UP:
        if target is State.RUNNING:
            return "ready", State.RUNNING
        if target in (State.STOPPING, State.STOPPED):
            return "stop", State.STOPPING
        return "ended", target if target is not State.STARTING else State.BACKOFF
    if state is State.STOPPING:
        return "empty", State.STOPPED
    if target in (State.STOPPED, State.STOPPING):
        return "stop", target
    return ("retry" if state is State.BACKOFF else "start"), State.STARTING
