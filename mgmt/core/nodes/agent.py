"""The agent: a supervisor in the service of a daemon elsewhere.

It says hello when its link stands, with everything it runs, and is told what it shall run. That is written down
before it is done, so an agent that comes back alone goes on with it. Silence for as long as makes a node lost
closes the link and opens a new one; the units run on, but for those whose policy is to stop.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from mgmt.core import effect as fx
from mgmt.core.event import Now
from mgmt.core.nodes.assignment import Assignment, from_body
from mgmt.core.nodes.fleet import Fleet
from mgmt.core.nodes.policy import allows
from mgmt.core.placement import Ledger, plan
from mgmt.core.supervision import AT_REST, Ordering, State, Unit, UnitSpec, ghost
from mgmt.protocol import defaults, revisions
from mgmt.protocol.errors import MgmtError
from mgmt.settings.policy import PolicySettings


@dataclass(frozen=True, slots=True)
class AgentFacts:
    """Who this agent is and what its machine has; `daemon` is the endpoint it joins."""

    name: str
    daemon: str
    agent: str
    machine_id: str
    incarnation: int
    tags: tuple[str, ...]
    labels: dict[str, str]
    facts: dict[str, Any]
    policy: PolicySettings | None = None  # None: whatever the daemon says
    token: str | None = field(default=None, repr=False)  # of the user who brings this node
    groups: tuple[str, ...] = ()  # that may use it: NAME or NAME:ROLE
    worker: dict[str, Any] | None = None  # it is an independent worker, and this is what it runs
    join_s: float | None = None  # it ends when it has not joined within this time; None: it waits


FAULTS = 500  # in one report
NO_UNITS = "this is an independent worker: it runs tasks and no units"


class Tasks(Protocol):
    """Tasks that are processes: what the daemon said about them, and what it is told."""

    @property
    def dirty(self) -> bool:
        """Whether there are records that the store does not have."""

    def restore(self, records: dict[str, dict[str, Any]], out: list[fx.Effect]) -> None:
        """What it was told in an earlier life."""

    def on_push(
        self,
        what: str,
        body: dict[str, Any],
        why_not: Callable[[list[UnitSpec]], str],
        out: list[fx.Effect],
    ) -> None:
        """A `stage`, `start` or `hold`."""

    def records(self) -> dict[str, dict[str, Any] | None]:
        """What the store does not have yet; it has it from now on."""

    def fresh_reports(self) -> list[dict[str, Any]]:
        """StageReports that were not told yet; they are from now on."""

    def reports(self) -> list[dict[str, Any]]:
        """All of them."""


class Agent:
    """`declare` makes specifications the units there are; `undeclared` names those that go at rest."""

    def __init__(
        self,
        facts: AgentFacts,
        supervisor: Fleet,
        ordering: Ordering,
        ledger: Ledger,
        declare: Callable[[list[UnitSpec]], None],
        undeclared: set[str],
        tasks: Tasks,
    ) -> None:
        self.facts = facts
        self.assignments: dict[str, Assignment] = {}
        self._dirty: set[str] = set()  # assignments to be written
        self.joined = False
        self.ever_joined = False
        self.refused = 0  # assignments that were older than what is known
        self.refusal = ""  # the daemon's last word, when it was no
        self.also: dict[str, UnitSpec] = {}  # units of this node's own crew
        self.on_work: Callable[[Now, str, dict[str, Any], list[fx.Effect]], None] | None = None
        self.counted: Callable[[], dict[str, dict[str, float]]] = (
            dict  # by the crew, since this agent started
        )
        self._told_counts: dict[str, dict[str, float]] = {}
        self._supervisor, self._ordering, self._ledger = supervisor, ordering, ledger
        supervisor.lease = self._lease
        self._declare, self._undeclared, self._tasks = declare, undeclared, tasks
        self._specs: dict[str, UnitSpec] = {}
        # Units whose former life is being ended for the next one, and the epoch that reports of it still have.
        self._ending: dict[str, int] = {}
        self._unsaid: set[str] = set()  # units that changed and were not reported
        self._refusals = 0
        self._waits_for = "silence"  # or beat, hello, retry: what the timer is for
        self._session = 0
        self._epoch = 0  # the daemon's life whose pushes are counted
        self._seen = 0  # the last push that was carried out
        self._told = 0  # ... that was acknowledged
        self._told_leaving = False
        self._heard_ns = 0
        self._beat_ns = int(defaults.NODE_HEARTBEAT_S * 1e9)
        self._lost_ns = int(defaults.NODE_LOST_S * 1e9)
        self._unanswered = False  # the last heartbeat
        self._relinks = 0  # since it was joined
        self._renew_ns = 0  # when a link that does not come up is made anew
        # When the heartbeat was sent that was answered last: the daemon has heard this agent later than that.
        self._leased_ns = 0
        self._fence_ns = 0  # when units of which there must be one only are ended
        self._now_ns = 0
        self._samples: deque[tuple[int, int]] = deque(maxlen=defaults.CLOCK_SAMPLES)  # round trip, offset

    # ---- what it was told in an earlier life ----

    def restore(self, now: Now, records: dict[str, dict[str, Any]], out: list[fx.Effect]) -> None:
        """Its assignments are its configuration: they are declared before anything is looked for."""
        self._heard_ns = self._now_ns = now.mono_ns
        self._fence_ns = now.mono_ns + self._lost_ns  # or earlier: their shims know when the lease ends
        self._wait("silence", now.mono_ns + self._lost_ns, out)
        out.append(fx.SetTimer(("joining", "say"), now.mono_ns + int(defaults.JOIN_SAY_S * 1e9)))
        if self.facts.join_s is not None:
            out.append(fx.SetTimer(("joining", "end"), now.mono_ns + int(self.facts.join_s * 1e9)))
        self._tasks.restore({key: record for key, record in records.items() if "tasks" in record}, out)
        for name, record in records.items():
            if "tasks" in record:
                continue
            try:
                assignment = from_body(record)
                self._specs[name] = assignment.spec()
            except MgmtError:
                self._dirty.add(name)  # of another version: the daemon will tell it again
            else:
                self.assignments[name] = assignment
        self._redeclare()

    @property
    def has_unsaved(self) -> bool:
        return bool(self._dirty) or self._tasks.dirty

    def unsaved(self) -> dict[str, dict[str, Any] | None]:
        """Records that the store does not have yet; it has them from now on."""
        known = self.assignments
        records = {name: known[name].to_record() if name in known else None for name in sorted(self._dirty)}
        self._dirty.clear()
        return {**records, **self._tasks.records()}

    # ---- the link ----

    def on_link_up(
        self, now: Now, started_at: float, version: str, pid: int, log_dir: str, out: list[fx.Effect]
    ) -> None:
        """Say hello, with everything that is here."""
        body = {
            "versions": list(revisions.SPOKEN),
            "node": self.facts.name,
            "agent": self.facts.agent,
            "machine_id": self.facts.machine_id,
            "incarnation": self.facts.incarnation,
            "started_at": started_at,
            "version": version,
            "pid": pid,
            "tags": list(self.facts.tags),
            "labels": self.facts.labels,
            "facts": self.facts.facts,
            "epoch": self._epoch,
            "acked": self._seen,
            "log_dir": log_dir,
            "units": [self._report(now, name) for name in sorted(self.assignments)],
            "staged": self._tasks.reports(),
        }
        if self.facts.token is not None:
            body["token"] = self.facts.token
        if self.facts.groups:
            body["groups"] = list(self.facts.groups)
        if self.facts.worker is not None:
            body["worker"] = self.facts.worker
        out.append(fx.SayHello(body))
        self._unsaid.clear()
        self._wait("hello", now.mono_ns + int(defaults.NODE_HELLO_S * 1e9), out)

    def on_link_down(self, now: Now, out: list[fx.Effect]) -> None:
        """The link broke. It comes up again by itself, and then this agent says hello."""
        self.joined = False
        # One that was refused in its handshake does not come up again by itself.
        if self._waits_for != "retry":
            self._wait("silence", self._heard_ns + self._lost_ns, out)

    def on_welcome(self, now: Now, body: dict[str, Any], out: list[fx.Effect]) -> None:
        self.joined = self.ever_joined = True
        self.refusal, self._refusals = "", 0
        self._session, self._epoch, self._heard_ns = body["session"], body["epoch"], now.mono_ns
        if not body["resumed"]:
            self._seen = 0
        self._told, self._relinks = self._seen, 0
        self._beat_ns, self._lost_ns = int(body["heartbeat_s"] * 1e9), int(body["lost_s"] * 1e9)
        self._unanswered = False
        self._samples.clear()
        self._told_counts = {}
        out.append(fx.OpenRelay(body["token"]))
        self._beat(now, out)

    def on_refused(self, now: Now, error: MgmtError, out: list[fx.Effect]) -> bool:
        """The daemon does not want this agent; False when it is of no use to try again."""
        first, self.refusal = not self.refusal, error.text
        if first:
            text = f"{self.facts.daemon} refuses node {self.facts.name}: {error.text}"
            out.append(fx.Note("ERROR", text, {"code": error.code}))
        self.joined = False
        if not self.ever_joined and not self.assignments and not error.row.retryable:
            return False
        self._refusals += 1
        # A hash, not a draw: agents differ, and a replay of the same events gives the same pauses.
        salt = f"{self.facts.agent}:{self._refusals}".encode()
        share = int.from_bytes(hashlib.blake2b(salt, digest_size=4).digest(), "big") / 2**32
        pause_s = min(
            defaults.NODE_REFUSED_MAX_S, defaults.NODE_RECONNECT_MIN_S * 2 ** min(self._refusals, 16)
        )
        self._wait("retry", now.mono_ns + int(pause_s * (1 + share / 4) * 1e9), out)
        return True

    def on_joining(self, now: Now, what: str, out: list[fx.Effect]) -> MgmtError | None:
        """It was started some time ago and may not have joined yet; MgmtError when it shall wait no longer."""
        if self.ever_joined:
            return None
        where = self.facts.daemon
        if what == "end":
            why = self.refusal or f"no daemon answers at {where}"
            return MgmtError("unreachable", f"not joined within {self.facts.join_s:g} s: {why}")
        if not self.refusal:
            text = f"waiting for a daemon at {where}, where none answers (`mgmt start-service` starts one)"
            out.append(fx.Note("WARNING", text, {}))
        return None

    # ---- units of which there must be one only ----

    def fence(self, now: Now, out: list[fx.Effect]) -> None:
        """Before anything else at every event: a unit that may run elsewhere by now is ended.

        This agent may have been stopped for long. Its daemon waits for the unit's grace, and a little, more; when
        this agent does not run, the unit's shim kills it by then.
        """
        self._now_ns = now.mono_ns
        if not self._fence_ns or now.mono_ns < self._fence_ns:
            return
        self._fence_ns = 0
        why = f"{self.facts.daemon} may have started it on another node"
        for unit in self._exclusive():
            if unit.state not in AT_REST:
                self._ordering.stop(now, [unit], out, why)

    def _exclusive(self) -> list[Unit]:
        units = (self._supervisor.units[name] for name, known in self.assignments.items() if known.wanted)
        return [unit for unit in units if unit.spec.backend.on_node_lost == "replace"]

    def _lease(self, unit: Unit) -> int | None:
        """Until when its shim lets it run; 0: it may not be started, None: there may be more of it."""
        if unit.spec.backend.on_node_lost != "replace":
            return None
        until_ns = self._leased_ns + self._lost_ns
        if not self._leased_ns or self._now_ns >= until_ns:
            return 0
        return until_ns + int(unit.spec.backend.grace_s * 1e9)

    def _renew(self, sent_ns: int, out: list[fx.Effect]) -> None:
        had_ns, self._leased_ns = self._leased_ns, max(self._leased_ns, sent_ns)
        self._fence_ns = self._leased_ns + self._lost_ns
        units = self._exclusive()
        for unit in units:
            until_ns = self._lease(unit)
            if unit.has_process and until_ns:
                out.append(fx.LeaseUnit(unit.spec.name, unit.incarnation, until_ns))
            if unit.waiting_for and self._now_ns >= had_ns + self._lost_ns:
                self._supervisor.touch(unit)
        if units:
            out.append(fx.SetTimer(("fence", ""), self._fence_ns))

    def on_timer(self, now: Now, out: list[fx.Effect]) -> None:
        """The next heartbeat, or the end of patience."""
        silent_ns = now.mono_ns - self._heard_ns
        if silent_ns >= self._lost_ns:
            self._on_daemon_lost(now, out)
        if self.joined and silent_ns < self._patience_ns:
            self._beat(now, out)
        elif self._waits_for == "silence" and now.mono_ns < self._renew_ns:
            self._wait("silence", self._renew_ns, out)
        else:
            if self.joined or self._waits_for == "hello":
                text = f"{self.facts.daemon} has not been heard for {silent_ns / 1e9:.1f} s: connecting anew"
                out.append(fx.Note("WARNING", text, {}))
            self._relink(now, out)

    @property
    def _patience_ns(self) -> int:
        """How long a silent link is kept. The daemon doubts this node by then: with a new one there is time left
        to be heard before it is lost, where the kernel would send again only after as long as the old one was cut.
        """
        return min(self._lost_ns, int(self._beat_ns * defaults.MISSED_BEATS))

    def _on_daemon_lost(self, now: Now, out: list[fx.Effect]) -> None:
        """The daemon takes this node for lost by now: what must not outlive that is stopped."""
        for name, assignment in self.assignments.items():
            unit = self._supervisor.units[name]
            if assignment.wanted and unit.wanted and unit.spec.backend.on_node_lost == "stop":
                why = f"{self.facts.daemon} is lost, and its policy is to stop then"
                self._ordering.stop(now, [unit], out, why)

    def _beat(self, now: Now, out: list[fx.Effect]) -> None:
        """Not while one is unanswered on a short way: a daemon that cannot be heard shall miss this node, too."""
        wait_ns = min(now.mono_ns + self._beat_ns, self._heard_ns + self._patience_ns)
        if self._unanswered and self._samples and min(self._samples)[0] * 2 < self._beat_ns:
            self._wait("beat", wait_ns, out)
            return
        self._unanswered = True
        body: dict[str, Any] = {"clock_ns": now.mono_ns, "acked": self._told}
        if self._samples:
            body["round_trip_ns"], body["offset_ns"] = min(self._samples)
        out.append(fx.Beat(None, self._session, body))
        counts = self.counted()
        if counts != self._told_counts:
            self._told_counts = counts
            out.append(fx.ToDaemon(self._session, "agent-report", {"acked": self._told, "counts": counts}))
        self._wait("beat", wait_ns, out)

    def _relink(self, now: Now, out: list[fx.Effect]) -> None:
        self.joined = False
        self._relinks += 1
        # What a short way does not answer at once was lost: it is asked again, for a link that comes back is to be
        # used soon. Every second time more is waited for, since the way may have become a longer one.
        trip_ns = min(self._samples)[0] if self._samples else defaults.NODE_CONNECT_TIMEOUT_S * 1e9
        short = self._relinks % 2 and trip_ns * 4 <= defaults.NODE_CONNECT_SHORT_S * 1e9
        out.append(fx.Relink(defaults.NODE_CONNECT_SHORT_S if short else defaults.NODE_CONNECT_TIMEOUT_S))
        self._renew_ns = now.mono_ns + int(2 * defaults.NODE_HELLO_S * 1e9)
        lost_ns = self._heard_ns + self._lost_ns
        self._wait("silence", lost_ns if lost_ns > now.mono_ns else self._renew_ns, out)

    def _wait(self, what: str, at_ns: int, out: list[fx.Effect]) -> None:
        self._waits_for = what
        out.append(fx.SetTimer(("uplink", ""), at_ns))

    # ---- what the daemon says ----

    def is_of_session(self, session: int) -> bool:
        return self.joined and session == self._session

    def on_beat(self, now: Now, body: dict[str, Any], out: list[fx.Effect]) -> None:
        """Our heartbeat came back with the daemon's clock: the way there and back, and how the clocks differ."""
        self._unanswered = False
        self._heard_ns = now.mono_ns
        self._renew(body["clock_ns"], out)
        round_trip_ns = now.mono_ns - body["clock_ns"]
        if round_trip_ns >= 0:
            offset_ns = body["daemon_ns"] - (body["clock_ns"] + now.mono_ns) // 2
            self._samples.append((round_trip_ns, offset_ns))
        # Of the first few one is likely to have had a short way; with only one, a common start would be a bad one.
        learns = len(self._samples) < defaults.CLOCK_SAMPLES
        pause_ns = int(defaults.CLOCK_SAMPLE_S * 1e9) if learns else self._beat_ns
        self._wait("beat", now.mono_ns + min(pause_ns, body["next_ns"]), out)

    def on_gone(self, now: Now, out: list[fx.Effect]) -> None:
        """The daemon does not know this session: say hello at once, on a new connection."""
        self._relink(now, out)

    def on_push(self, now: Now, seq: int, what: str, body: dict[str, Any], out: list[fx.Effect]) -> None:
        """Carry out one push; after a gap none, but everything anew."""
        self._heard_ns = now.mono_ns
        if seq <= self._seen:
            return  # replayed
        if seq != self._seen + 1:
            self._epoch = self._seen = 0
            self._relink(now, out)
            return
        self._seen = seq
        if what == "assign":
            self._assign(now, from_body(body), out)
        elif what == "keep":
            for name in sorted(self.assignments.keys() - set(body["units"])):
                self._drop(now, name, out)
        elif what == "drop" and body["unit"] in self.assignments:
            self._drop(now, body["unit"], out)
        elif (what.startswith("suite") or what == "shutdown") and self.on_work is not None:
            self.on_work(now, what, body, out)
        elif what == "reset" and body["unit"] in self.assignments:
            self._supervisor.reset_failed(self._supervisor.units[body["unit"]], out)
        elif what in ("stage", "start", "hold"):
            self._tasks.on_push(what, body, self._why_not_all, out)

    def _assign(self, now: Now, assignment: Assignment, out: list[fx.Effect]) -> None:
        name = assignment.unit
        former = self.assignments.get(name)
        if former is not None and assignment.epoch <= former.epoch:
            self.refused += 1
            self._supervisor.touch(self._supervisor.units[name])  # the daemon is told what is so
            return
        unit = self._supervisor.units.get(name)
        self.assignments[name] = assignment
        self._dirty.add(name)
        why_not = ""
        try:
            self._specs[name] = assignment.spec()
        except MgmtError as error:
            why_not = error.text
            self._specs.setdefault(name, unit.spec if unit is not None else _unknown(assignment))
        self._redeclare()
        unit = self._supervisor.units[name]
        if unit.state in AT_REST and not unit.has_process:
            unit.incarnation = max(unit.incarnation, assignment.incarnation)
        elif former is not None and unit.has_process and unit.spec.backend.on_node_lost != "replace":
            out.append(fx.LeaseUnit(name, unit.incarnation, 0))  # it may have had one
        why_not = why_not or self._why_not(unit.spec)
        if not assignment.wanted:
            self._ordering.stop(now, [unit], out, assignment.reason or "stopped by the daemon")
        elif why_not:
            self._refuse(now, unit, why_not, out)
        elif former is None or not former.wanted or assignment.life > former.life:
            self._start(now, unit, assignment, former.epoch if former is not None else 0, out)
        else:
            self._supervisor.refresh(now, unit, out)
        self._supervisor.touch(unit)

    def _start(
        self, now: Now, unit: Unit, assignment: Assignment, former_epoch: int, out: list[fx.Effect]
    ) -> None:
        try:
            if unit.state in (State.STARTING, State.RUNNING, State.STOPPING):
                unit.config_path = assignment.config_path
                self._ending[unit.spec.name] = former_epoch
                self._ordering.restart(now, [unit], out, {unit.spec.name: "started anew by the daemon"})
            else:
                self._ordering.start(now, [unit], out, assignment.config_path)
        except MgmtError as error:
            self._refuse(now, unit, error.text, out)

    def enforce(self, now: Now, out: list[fx.Effect]) -> None:
        """What was accepted in a former life may not be allowed any more: the policy may have changed since."""
        for name, assignment in self.assignments.items():
            unit = self._supervisor.units[name]
            why_not = self._why_not(unit.spec) if assignment.wanted else ""
            if why_not:
                self._refuse(now, unit, why_not, out)

    def _why_not(self, spec: UnitSpec) -> str:
        """Why the policy does not allow a unit beside the others that shall be up; empty when it does."""
        if self.facts.worker is not None:
            return NO_UNITS
        if self.facts.policy is None:
            return ""
        beside = [self._specs[name] for name, known in self.assignments.items() if known.wanted]
        error = allows(self.facts.policy, spec, beside)
        return error.text if error is not None else ""

    def _refuse(self, now: Now, unit: Unit, why: str, out: list[fx.Effect]) -> None:
        """It may not run here: it is ended, and FATAL as soon as nothing of it is left."""
        if unit.state not in AT_REST or unit.has_process:
            self._ordering.stop(now, [unit], out, why)
        else:
            unit.incarnation += 1  # a start that failed
            self._supervisor.refuse(unit, why)

    def _drop(self, now: Now, name: str, out: list[fx.Effect]) -> None:
        """It is another node's, or nobody's."""
        del self.assignments[name], self._specs[name]
        self._dirty.add(name)
        unit = self._supervisor.units[name]
        self._redeclare()
        self._undeclared.add(name)
        self._ordering.stop(now, [unit], out, "the daemon no longer wants it here")

    def send(self, name: str, body: dict[str, Any], out: list[fx.Effect]) -> None:
        """A notice to the daemon, if it can be reached now."""
        if self.joined:
            out.append(fx.ToDaemon(self._session, name, body))

    def redeclare(self) -> None:
        """Other units of the crew are declared."""
        self._redeclare()

    def _redeclare(self) -> None:
        specs = [*self._specs.values(), *self.also.values()]
        self._ledger.replan(plan(self._ledger.topology, (spec.demand for spec in specs)))
        for name, spec in self._specs.items():
            unit = self._supervisor.units.get(name)
            if unit is not None:
                unit.spec = spec
                self._undeclared.discard(name)
        self._declare(specs)

    # ---- what the daemon is told ----

    def tell(self, now: Now, stopping: bool, out: list[fx.Effect]) -> None:
        """What this step changed, and which pushes are carried out; sent when it is written down."""
        self._unsaid |= self._supervisor.dirty
        if not self.joined:
            return
        changed = sorted(name for name in self._unsaid if name in self.assignments)
        self._unsaid.clear()
        staged = self._tasks.fresh_reports()
        leaving = stopping and not self._told_leaving
        if not changed and not staged and self._seen == self._told and not leaving:
            return
        self._told, self._told_leaving = self._seen, self._told_leaving or stopping
        body: dict[str, Any] = {"acked": self._seen}
        if changed:
            body["units"] = [self._report(now, name) for name in changed]
        if staged:
            body["staged"] = staged
        if stopping:
            body["leaving"] = True
        out.append(fx.ToDaemon(self._session, "agent-report", body))

    def _why_not_all(self, specs: list[UnitSpec]) -> str:
        """Why the policy does not allow these beside what shall be up and is not one of them."""
        if self.facts.worker is not None:
            return NO_UNITS
        if self.facts.policy is None:
            return ""
        mine = {spec.name for spec in specs}
        beside = [self._specs[name] for name, a in self.assignments.items() if a.wanted and name not in mine]
        for spec in specs:
            error = allows(self.facts.policy, spec, beside)
            if error is not None:
                return error.text
            beside.append(spec)
        return ""

    def tell_faults(self, now: Now, events: list[dict[str, Any]], gap: bool, out: list[fx.Effect]) -> None:
        """Faults among these events of this agent's journal, each once: the daemon knows the last that it heard.

        `gap`: there were others before them, which the journal no longer has.
        """
        faults = []
        if gap and events:
            reason = "more happened than its journal keeps: faults before this may not have been told"
            none: dict[str, Any] = dict.fromkeys(("workload", "task", "node", "action", "source"), "")
            none |= dict.fromkeys(("count", "job", "misses"), 0)
            faults.append({"seq": events[0]["seq"] - 1, "what": "executive", **none, "reason": reason})
        for event in events:
            if event["kind"] == "fault":
                fault = {key: item for key, item in event.items() if key not in ("at", "kind")}
                late_s = now.real_s - event["at"]
                if late_s >= 1.0:
                    fault["reason"] += f" (told {late_s:.1f} s later)"
                faults.append(fault)
        for first in range(0, len(faults), FAULTS):
            body = {"acked": self._told, "faults": faults[first : first + FAULTS]}
            out.append(fx.ToDaemon(self._session, "agent-report", body))

    def tell_usage(self, usage: dict[str, tuple[float | None, int]], out: list[fx.Effect]) -> None:
        known = {name: list(of) for name, of in usage.items() if name in self.assignments}
        if self.joined and known:
            out.append(fx.ToDaemon(self._session, "agent-report", {"acked": self._told, "usage": known}))

    def _report(self, now: Now, name: str) -> dict[str, Any]:
        """A UnitReport."""
        unit, exit = self._supervisor.units[name], None
        if unit.state is not State.STOPPING and not unit.start_when_empty:
            self._ending.pop(name, None)
        if unit.last_exit is not None:
            last = unit.last_exit
            exit = asdict(last)
        return {
            "unit": name,
            "epoch": self._ending.get(name, self.assignments[name].epoch),
            "state": str(unit.state),
            "reason": unit.reason,
            "incarnation": unit.incarnation,
            "has_process": unit.has_process,
            "leader_gone": unit.leader_gone,
            "pid": unit.pid,
            "age_s": (now.mono_ns - unit.started_ns) / 1e9 if unit.pid is not None else None,
            "restarts": unit.restarts,
            "ready": unit.ready,
            "protocols": list(unit.protocols),
            "exit": exit,
            "next_start_s": max(0.0, (unit.retry_ns - now.mono_ns) / 1e9)
            if unit.retry_ns is not None
            else None,
            "cpus": list(unit.place.cpus),
        }


def _unknown(assignment: Assignment) -> UnitSpec:
    """A specification for a unit whose own is not understood: enough to say so."""
    return ghost(assignment.unit, {"model": assignment.unit})
