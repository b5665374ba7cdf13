"""A world around `step`: a clock, timers, processes and peers that exist only in memory.

Whatever the core asks of the world is either carried out by it (timers, answers, events, groups of the relay)
or is a deed that the test must `expect`; a deed nobody asked for fails the test. After every event the
invariants are checked, every message is validated against its row of the table, and no request may have more
or less than one answer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeVar

from mgmt.core import effect as fx
from mgmt.core import event as ev
from mgmt.core.event import Asked, Now, Route
from mgmt.core.invariants import check
from mgmt.core.state import State
from mgmt.core.step import step
from mgmt.core.supervision import Unit
from mgmt.protocol import frames, messages
from mgmt.protocol.errors import TABLE
from tests.core.builders import START_NS, START_S, S, a_legacy_route, a_request, a_state

# The test must expect these; the world carries out the others.
Deed = fx.Spawn | fx.SignalUnit | fx.KillUnit | fx.ProbeHandshake | fx.ReadLog | fx.Tell
D = TypeVar("D", bound=Deed)

worlds: list[World] = []  # of the present test; conftest.py closes them


@dataclass
class Ticket:
    """A request and what became of it."""

    route: Route
    verb: str
    answers: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    @property
    def waits(self) -> bool:
        return not self.answers

    @property
    def ok(self) -> dict[str, Any]:
        """The body of its answer, which must be good."""
        assert self.answers, f"{self.verb} was not answered"
        outcome, body = self.answers[0]
        assert outcome == "ok", f"{self.verb}: {outcome} {body}"
        return body

    @property
    def refusal(self) -> tuple[str, str]:
        """The code and text of its answer, which must be bad."""
        assert self.answers, f"{self.verb} was not answered"
        outcome, body = self.answers[0]
        assert outcome != "ok", f"{self.verb} was not refused but answered {body}"
        return body["code"], body["text"]

    @property
    def code(self) -> str:
        return self.refusal[0]

    @property
    def detail(self) -> dict[str, Any]:
        assert self.refusal
        detail: dict[str, Any] = self.answers[0][1].get("detail", {})
        return detail


@dataclass
class Process:
    """A process tree the daemon spawned; `left` counts the descendants of a leader that has ended."""

    spawn: fx.Spawn
    pid: int
    started: bool = False
    leader: bool = True
    left: int = 0
    signals: list[str] = field(default_factory=list)
    killed: bool = False

    @property
    def key(self) -> tuple[str, int]:
        return self.spawn.unit, self.spawn.incarnation


@dataclass
class Client:
    """A peer of the control plane; `session` 0 speaks of the last hello of the connection."""

    world: World
    peer: bytes
    session: int = 0

    def ask(self, verb: str, *, key: str = "", within_s: float | None = 30.0, **body: Any) -> Ticket:
        deadline_ns = 0 if within_s is None else self.world.now_ns + int(within_s * S)
        return self.world.ask(
            a_request(verb, peer=self.peer, session=self.session, key=key, deadline_ns=deadline_ns, **body)
        )

    def hello(self, **body: Any) -> Ticket:
        ticket = self.ask("hello", **{"versions": [1], **body})
        if ticket.answers[0][0] == "ok":
            self.session = ticket.ok["session"]
        return ticket

    def notice(self, name: str, **body: Any) -> None:
        self.world.feed(ev.Noticed(self.peer, self.session, name, body))

    def heard(self) -> list[dict[str, Any]]:
        """The events that came since the last call."""
        return self.world.published.pop((self.peer, self.session), [])


class World:
    """One daemon's core and everything outside it."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.now_ns = START_NS
        self.timers: dict[tuple[Any, ...], int] = {}
        self.tickets: dict[Route, Ticket] = {}
        self.processes: dict[tuple[str, int], Process] = {}
        self.deeds: list[Deed] = []
        self.inspected: list[fx.Inspect] = []
        self.drained: list[fx.Tell] = []
        self.published: dict[tuple[bytes, int], list[dict[str, Any]]] = {}
        self.events: list[dict[str, Any]] = []
        self.relay_groups: dict[str, tuple[tuple[str, str], ...]] = {}
        self.relay_leases: dict[int, str] = {}
        self.removed: list[str] = []
        self.notes: list[fx.Note] = []
        self._quits: int = 0
        self._pids = 100
        self._clients = 0
        worlds.append(self)

    # ---- events in -------------------------------------------------------------------------------------

    @property
    def now(self) -> Now:
        return Now(self.now_ns, START_S + (self.now_ns - START_NS) / S)

    def feed(self, event: ev.Event) -> list[fx.Effect]:
        """One event; its effects, which were carried out and put where `expect` finds them."""
        effects = step(self.state, self.now, event)
        for effect in effects:
            self._carry_out(effect)
        check(self.state)
        self._check_promises()
        return effects

    def ask(self, asked: Asked) -> Ticket:
        ticket = self.tickets[asked.route] = Ticket(asked.route, asked.verb)
        self.feed(asked)
        return ticket

    def client(self, name: str | None = None, **hello: Any) -> Client:
        """A client that said hello."""
        self._clients += 1
        name = name or f"client-{self._clients}"
        client = Client(self, name.encode())
        assert client.hello(name=name, **hello).ok
        return client

    def legacy(self, verb: str, **body: Any) -> Ticket:
        return self.ask(a_request(verb, peer=b"old", legacy=True, **body))

    def handshake(self) -> Ticket:
        route = a_legacy_route()
        ticket = self.tickets[route] = Ticket(route, "handshake")
        self.feed(ev.HandshakeAsked(route))
        return ticket

    def advance(self, seconds: float) -> None:
        """Let time pass and fire what falls due, in order."""
        end_ns = self.now_ns + int(seconds * S)
        while (due := self._next_timer()) is not None and self.timers[due] <= end_ns:
            self.fire(due)
        self.now_ns = max(self.now_ns, end_ns)

    def fire(self, key: tuple[Any, ...]) -> None:
        """Let time pass until this timer is due."""
        self.now_ns = max(self.now_ns, self.timers.pop(key))
        self.feed(ev.TimerFired(key))

    def _next_timer(self) -> tuple[Any, ...] | None:
        return min(self.timers, key=lambda key: self.timers[key], default=None)

    # ---- processes ---------------------------------------------------------------------------------------

    def unit(self, name: str) -> Unit:
        return self.state.supervisor.units[name]

    def process(self, unit: str) -> Process:
        """The present process of a unit."""
        return self.processes[unit, self.unit(unit).incarnation]

    def start(self, unit: str) -> Process:
        """The expected spawn happens; the program runs and is not ready."""
        spawn = self.expect(fx.Spawn, unit=unit)
        process = self.processes[unit, spawn.incarnation]
        process.started = True
        self.feed(ev.Started(unit, spawn.incarnation, process.pid, 7))
        return process

    def ready(self, unit: str, *protocols: str) -> None:
        """The running program says it is ready, in the way of its kind."""
        process = self.process(unit)
        assert process.started and process.leader
        if process.spawn.backend.kind == "symphony":
            self.expect(fx.ProbeHandshake, unit=unit)
            self.feed(ev.HandshakeAnswered(unit, process.spawn.incarnation, protocols))
            return
        backend = self.backend(process)
        proof = self.proof(process)
        ready = backend.ask("backend-ready", protocols=list(protocols), **proof)
        assert ready.ok == {}

    def backend(self, process: Process) -> Client:
        """The session that a native backend opens before it loads its model."""
        client = Client(self, f"{process.spawn.unit}.{process.spawn.incarnation}".encode())
        hello = client.ask("backend-hello", versions=[1], pid=process.pid, **self.proof(process))
        client.session = hello.ok["session"]
        return client

    def proof(self, process: Process) -> dict[str, Any]:
        """What the environment of the process tells it to say of itself."""
        env = process.spawn.env
        return {
            "unit": env["MGMT_UNIT"],
            "incarnation": int(env["MGMT_INCARNATION"]),
            "token": env["MGMT_TOKEN"],
        }

    def up(self, unit: str, *protocols: str) -> Process:
        """Spawned, running and ready."""
        process = self.start(unit)
        self.ready(unit, *protocols)
        return process

    def exit(
        self, unit: str, code: int | None = 0, signal: int | None = None, left: int = 0, tail: str = ""
    ) -> None:
        """The leader ends; without descendants (`left`) its tree is empty at once."""
        process = self.process(unit)
        self.leader_ends(process, code, signal, left, tail)
        if not left:
            self.tree_ends(process)

    def leader_ends(
        self, process: Process, code: int | None, signal: int | None = None, left: int = 0, tail: str = ""
    ) -> None:
        assert process.started and process.leader, f"{process.key} has no leader that could end"
        process.leader, process.left = False, left
        if signal is not None:
            code = None
        self.feed(ev.Exited(*process.key, code, signal, left, tail))

    def tree_ends(self, process: Process) -> None:
        assert not process.leader, f"the leader of {process.key} still lives"
        del self.processes[process.key]
        self.feed(ev.Emptied(*process.key))

    def spawn_fails(self, unit: str, reason: str) -> None:
        spawn = self.expect(fx.Spawn, unit=unit)
        process = self.processes.pop((unit, spawn.incarnation))
        process.leader = False
        self.feed(ev.SpawnFailed(unit, spawn.incarnation, reason))

    def settle(self) -> None:
        """Every process does what is asked of it until nothing more is asked; the deeds are taken."""
        while self.deeds:
            deed = self.deeds[0]
            if isinstance(deed, fx.Spawn):
                self.up(deed.unit)
                continue
            self.deeds.pop(0)
            if isinstance(deed, fx.SignalUnit | fx.KillUnit):
                self.obey(deed)

    def obey(self, deed: fx.SignalUnit | fx.KillUnit) -> None:
        """The process ends as it is told to, if it still lives."""
        process = self.processes.get((deed.unit, deed.incarnation))
        if process is None:
            return
        if process.leader:
            kill = isinstance(deed, fx.KillUnit)
            process.started = True
            self.leader_ends(process, None if kill else 0, 9 if kill else None)
        self.tree_ends(process)

    # ---- effects out -------------------------------------------------------------------------------------

    def expect(self, kind: type[D], **fields: Any) -> D:
        """Take the first deed of this kind, which must have these fields."""
        for deed in self.deeds:
            if isinstance(deed, kind) and all(getattr(deed, name) == is_ for name, is_ in fields.items()):
                self.deeds.remove(deed)
                return deed
        raise AssertionError(f"no {kind.__name__} with {fields} among {self.deeds}")

    def drain(self) -> list[Deed]:
        """Take every deed."""
        deeds, self.deeds = self.deeds, []
        return deeds

    def quits(self) -> int:
        """How often Quit was said: a method, because it changes between two looks."""
        return self._quits

    def done(self) -> None:
        """Nothing happened that the test did not ask for."""
        assert not self.deeds, f"nobody asked for {self.deeds}"

    def _carry_out(self, effect: fx.Effect) -> None:
        assert not self._quits or not isinstance(effect, fx.Spawn), "a spawn after Quit"
        match effect:
            case fx.Answer():
                self._answer(effect)
            case fx.SetTimer(key, at_ns):
                self.timers[key] = at_ns
            case fx.CancelTimer(key):
                self.timers.pop(key, None)
            case fx.Publish():
                self._publish(effect)
            case fx.RelayGroup(model, replicas):
                self.relay_groups[model] = replicas
            case fx.RelayLease(lease, leased):
                if leased is None:
                    del self.relay_leases[lease]
                else:
                    self.relay_leases[lease] = leased
            case fx.RemoveEndpoint(endpoint):
                self.removed.append(endpoint)
            case fx.Note():
                self.notes.append(effect)
            case fx.Tell(name="drain"):
                self.drained.append(effect)
            case fx.Inspect():
                self.inspected.append(effect)
            case fx.Quit():
                self._quits += 1
                assert not self.processes, f"Quit while {set(self.processes)} live"
            case _:
                self._do(effect)

    def _do(self, deed: Deed) -> None:
        self.deeds.append(deed)
        match deed:
            case fx.Spawn(unit=unit, incarnation=incarnation):
                alive = [key for key in self.processes if key[0] == unit]
                assert not alive, f"{unit}.{incarnation} is spawned while {alive} is not empty"
                self._pids += 1
                self.processes[unit, incarnation] = Process(deed, self._pids)
            case fx.SignalUnit(unit, incarnation, signal):
                self.processes[unit, incarnation].signals.append(signal)
            case fx.KillUnit(unit, incarnation):
                self.processes[unit, incarnation].killed = True
            case fx.Tell():
                frames.pack(deed.body)
                messages.NOTICES[deed.name].body.model_validate(deed.body)

    def _answer(self, effect: fx.Answer) -> None:
        ticket = self.tickets[effect.route]
        assert not ticket.answers, f"{ticket.verb} is answered twice: {ticket.answers} and {effect}"
        packed = effect.body if isinstance(effect.body, bytes) else frames.pack(effect.body)
        body: dict[str, Any] = frames.unpack(packed)
        ticket.answers.append((effect.outcome, body))
        if effect.outcome == "ok":
            if ticket.verb == "handshake":
                assert set(body) == {"protocols"}
                return
            reply = messages.REQUESTS[ticket.verb].reply
            assert reply is not None
            reply.model_validate(body)
            return
        assert effect.outcome == frames.OUTCOME_OF_CODE.get(body["code"], "error")
        assert body["retryable"] == TABLE[body["code"]].retryable
        assert set(body) <= {"code", "text", "retryable", "detail"} and body["text"]

    def _publish(self, effect: fx.Publish) -> None:
        assert effect.seq == (self.events[-1]["seq"] if self.events else 0) + 1
        body = frames.unpack(frames.pack(effect.body))
        messages.EVENTS[effect.kind].model_validate(body)
        self.events.append({"kind": effect.kind, **body})
        subscribed = {(s.peer, s.id) for s in self.state.sessions.by_id.values() if s.subscribed}
        assert set(effect.to) == subscribed
        for to in effect.to:
            self.published.setdefault(to, []).append({"kind": effect.kind, **body})

    def _check_promises(self) -> None:
        """What ties the core to this world: answers, timers, relay, processes."""
        waiting = {route for route, ticket in self.tickets.items() if ticket.waits}
        parked = set(self.state.sessions.listeners)
        assert waiting == parked, f"unanswered {waiting - parked}, parked but answered {parked - waiting}"
        for route, listener in self.state.sessions.listeners.items():
            assert not listener.asked.deadline_ns or ("call", route) in self.timers
        for session in self.state.sessions.by_id:
            assert ("session", session) in self.timers
        for unit in self.state.supervisor.units.values():
            name = unit.spec.name
            assert (("ready", name) in self.timers) <= (unit.state == "STARTING")
            assert (("grace", name) in self.timers) <= (unit.state == "STOPPING")
            assert (("retry", name) in self.timers) == (unit.retry_ns is not None)
            lives = (name, unit.incarnation) in self.processes
            assert unit.has_process == lives, f"{name}: has_process {unit.has_process}, a process: {lives}"
        for model in self.state.registry.models:
            ready = tuple((u.spec.name, u.endpoint) for u in self.state.loading.ready_units(model))
            assert self.relay_groups.get(model, ()) == ready
        leases = {lease.id: lease.model for lease in self.state.leases.by_id.values() if lease.unit is None}
        assert self.relay_leases == leases
        assert self._quits <= 1
        if self.state.stopping:
            assert bool(self._quits) == (not self.processes)


def a_daemon(*arguments: Any, **keys: Any) -> World:
    """A world around `a_state` with the same arguments."""
    return World(a_state(*arguments, **keys))
