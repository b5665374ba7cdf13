"""A world around `step`: a clock, timers, processes and peers that exist only in memory.

Whatever the core asks of the world is either carried out by it (timers, answers, events, groups of the relay)
or is a deed that the test must `expect`; a deed nobody asked for fails the test. After every event the
invariants are checked, every message is validated against its row of the table, no request may have more or
less than one answer, and the store of the world must hold exactly what the units are.

A world outlives its daemon: `die` kills it between two events or in the middle of one, and the next daemon gets
the store and finds the processes as they are by then.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from mgmt.core import effect as fx
from mgmt.core import event as ev
from mgmt.core.event import ADMINISTRATOR, Asked, Now, Route
from mgmt.core.invariants import check
from mgmt.core.nodes import AgentFacts
from mgmt.core.placement import Topology
from mgmt.core.schedule import records as workload_records
from mgmt.core.step import step
from mgmt.core.suites import operations
from mgmt.core.supervision import Unit, from_record, to_record
from mgmt.protocol import frames, messages
from mgmt.protocol.errors import TABLE, MgmtError
from mgmt.settings import Settings
from mgmt.shell.executor import measured
from tests.core.builders import (
    EPOCH,
    START_NS,
    START_S,
    S,
    a_config,
    a_legacy_route,
    a_request,
    a_state,
    a_topology,
)

# The test must expect these; the world carries out the others.
Deed = (
    fx.Spawn
    | fx.SignalUnit
    | fx.KillUnit
    | fx.AskProbe
    | fx.RunHook
    | fx.ProbeHandshake
    | fx.ReadLog
    | fx.ReadConfig
    | fx.Tell
)
# What goes over the link between a daemon and an agent, or is about it.
Word = fx.ToNode | fx.ToDaemon | fx.Beat | fx.SayHello | fx.AdmitNode | fx.OpenRelay | fx.Relink
D = TypeVar("D", bound=Deed)

UNREAD = measured(Path("/dev/null"), False)  # of a segment that is not there
Key = tuple[str, int]  # unit, incarnation
Asking = tuple[str, int, str]  # ... and which probe or hook

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
    """A process tree the daemon spawned; `left` counts the descendants of a leader that has ended.

    It stays here, `gone`, until the daemon forgets it: so long its end can be told to a next daemon.
    """

    spawn: fx.Spawn
    pid: int
    started: bool = False
    leader: bool = True
    left: int = 0
    gone: bool = False
    failed: str = ""  # why it was never executed
    end: tuple[int | None, int | None] = (None, None)  # code and signal of the leader
    tail: str = ""
    said_ready: bool = False
    signals: list[str] = field(default_factory=list)
    killed: bool = False
    lease_ns: int = 0  # when its shim kills it; 0: never
    dead: bool = False  # killed by its shim; who watches it hears of it when it runs

    @property
    def key(self) -> Key:
        return self.spawn.unit, self.spawn.incarnation


@dataclass
class Hook:
    """A running hook of the present daemon."""

    run: fx.RunHook
    cancelled: bool = False


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
        if ticket.answers and ticket.answers[0][0] == "ok":
            self.session = ticket.ok["session"]
        return ticket

    def notice(self, name: str, **body: Any) -> None:
        self.world.feed(ev.Noticed(self.peer, self.session, name, body))

    def heard(self) -> list[dict[str, Any]]:
        """The events that came since the last call."""
        return self.world.published.pop((self.peer, self.session), [])


class World:
    """One daemon's core and everything outside it."""

    def __init__(self, settings: Settings, topology: Topology, agent: AgentFacts | None = None) -> None:
        self.settings = settings  # what a daemon finds in its file
        self.agent = agent  # who it is when it serves another daemon
        self.assignments: dict[str, dict[str, Any]] = {}  # in the store, like `nodes`
        self.nodes: dict[str, dict[str, Any]] = {}
        self.outbox: dict[str, dict[str, Any]] = {}
        self.accounts: dict[str, dict[str, dict[str, Any]]] = {"users": {}, "groups": {}, "tokens": {}}
        self.meta: dict[str, Any] = {}
        self.queue: Callable[[Any], Any] | None = (
            None  # what answers a query of the queue, where there is one
        )
        self.topology = topology
        self.now_ns = START_NS
        self.deaths = 0
        self.dies_after: int | None = None  # effects of the next event
        self.follows = True  # a new schedule, at once
        self.oneshot_status = 0  # how commands that run once end
        self.store: dict[str, dict[str, Any]] = {}
        self.workloads: dict[str, dict[str, Any]] = {}
        self.history: list[dict[str, Any]] = []
        self.processes: dict[Key, Process] = {}
        self.published: dict[tuple[bytes, int], list[dict[str, Any]]] = {}
        self.inspected: list[fx.Inspect] = []
        self.drained: list[fx.Tell] = []
        self.removed: list[str] = []
        self.notes: list[fx.Note] = []
        self.tickets: dict[Route, Ticket] = {}
        self.state = a_state(settings, topology, agent=agent)
        self.segments: dict[
            tuple[str, int], int
        ] = {}  # workload and version -> T0, 0 for none; they outlive it
        self.stepped_s = 0.0  # how far the wall clock was set ahead
        self.stages = True  # whether the executive answers
        self._begin()
        self._pids = 100
        self._clients = 0
        worlds.append(self)

    def _begin(self) -> None:
        """Nothing of what a daemon has beside its state."""
        self.timers: dict[tuple[Any, ...], int] = {}
        self.deeds: list[Deed] = []
        self.wire: list[Word] = []  # to agents, or to the daemon above
        self.adoptions: dict[Key, None] = {}  # asked for, not told
        self.telling: Key | None = None  # what is being told of it
        self.hooks: dict[Asking, Hook] = {}
        self.questions: dict[Asking, fx.AskProbe] = {}
        self.events: list[dict[str, Any]] = list(self.history)
        self.relay_groups: dict[str, tuple[tuple[str, str], ...]] = {}
        self.relay_leases: dict[int, str] = {}
        self._quits: int = 0
        self.computations: list[fx.Compute] = []
        self.executed: list[fx.Effect] = []  # about tasks that are processes
        self.suite_effects: list[fx.Effect] = []
        self.staging: list[fx.StageTasks] = []  # what is not told of yet
        self.reading: list[fx.ReadTasks] = []

    # ---- events in -------------------------------------------------------------------------------------

    @property
    def now(self) -> Now:
        return Now(self.now_ns, START_S + (self.now_ns - START_NS) / S + self.stepped_s)

    def feed(self, event: ev.Event) -> list[fx.Effect]:
        """One event; its effects, which were carried out and put where `expect` finds them."""
        effects = step(self.state, self.now, event)
        if self.dies_after is not None:
            for effect in effects[: self.dies_after]:
                self._carry_out(effect)
            self.die()
            return effects
        for effect in effects:
            self._carry_out(effect)
        check(self.state)
        self._check_promises()
        self._check_store()
        if self.follows and any(isinstance(effect, fx.FollowSchedule) for effect in effects):
            effects = [*effects, *self.feed(ev.FollowSchedule())]
        return effects

    def die(self, same_boot: bool = True) -> None:
        """The daemon is killed, and a next one takes over; `adopt` tells it what it finds."""
        self.deaths, self.dies_after = self.deaths + 1, None
        if not same_boot:
            self.processes.clear()
            self.segments.clear()
            self.now_ns = START_NS // 2  # another clock
        for key, process in list(self.processes.items()):
            process.said_ready = False  # it will say it again
            record = self.store.get(key[0])
            if record is None or not record["has_process"] or record["incarnation"] != key[1]:
                assert process.gone, f"{key} lives, and no daemon will know of it"
                del self.processes[key]
        self.tickets = {route: ticket for route, ticket in self.tickets.items() if not ticket.waits}
        self._begin()
        # Another number of sockets, as after another epoch.
        epoch = EPOCH + 1000 * self.deaths
        self.state = a_state(self.settings, self.topology, epoch, self.now_ns, agent=self.agent)
        tables = (self.store, self.history, self.workloads, self.assignments, self.nodes, self.accounts)
        units, events, workloads, assignments, nodes, accounts = (
            frames.unpack(frames.pack(table)) for table in tables
        )
        crew = frames.unpack(frames.pack(self.meta)).get("crew")
        outbox = frames.unpack(frames.pack(self.outbox))
        suites = self.queue(operations.ListSuites(limit=1 << 31)).suites if self.queue is not None else ()
        holders = self.queue(operations.ListHolders()) if self.queue is not None else ()
        self.feed(
            ev.Restored(
                units,
                events,
                same_boot,
                workloads,
                assignments,
                nodes,
                accounts=accounts,
                crew=crew,
                outbox=outbox,
                suites=suites,
                holders=holders,
            )
        )
        for name, record in units.items():
            unit = self.state.supervisor.units.get(name)
            if unit is None:
                assert not record["has_process"] or not same_boot, f"{name} is forgotten with a process"
                continue
            assert unit.incarnation >= record["incarnation"], f"{name} would use an incarnation twice"
            others = (other.spec.needs for other in self.state.supervisor.units.values() if other.wanted)
            needed = any(name in needs.requires or name in needs.wants for needs in others)
            needed = needed or name.startswith("suite-")  # its crew decides that anew
            assert unit.wanted >= record["wanted"] or name in self.state.undeclared, f"{name} is given up"
            assert unit.wanted <= record["wanted"] or needed, f"{name} is started again"
            if record["has_process"] and same_boot and not unit.node:
                now = to_record(unit)
                kept = ("incarnation", "pid", "restarts", "failures_ns", "last_exit", "place", "endpoint")
                lost = [key for key in kept if now[key] != record[key]]
                assert unit.has_process and not lost, f"{name}: {lost} are lost"

    def adopt(self, key: Key, shim_lives: bool = True) -> None:
        """What the new daemon finds of a process; without its shim, a living one is ended at once."""
        if not self.processes.get(key, None) and key in self.adoptions:
            del self.adoptions[key]
            self.feed(ev.Vanished(*key))
            return
        process, deaths = self.processes[key], self.deaths
        if not shim_lives and (process.started or process.failed):
            process.killed = True
        del self.adoptions[key]
        if not process.started and not process.failed:
            return  # its shim is not done; it will say Started
        if process.failed:
            self.feed(ev.SpawnFailed(*key, process.failed))
            return
        self.telling = key
        if shim_lives:
            self.feed(ev.Adopted(*key, process.pid, 7))
        elif not process.gone:
            process.end = process.end if not process.leader else (None, None)
            process.leader, process.left, process.gone = False, 0, True
        if not process.leader and self.deaths == deaths:
            unit = self.state.supervisor.units[key[0]]
            heard = unit.leader_gone
            self.telling = None
            self.feed(ev.Exited(*key, *process.end, process.left, process.tail))
            if self.deaths == deaths and not heard:
                last = unit.last_exit
                assert last is not None and (last.code, last.signal) == process.end, f"{key}: {last}"
        self.telling = None
        if process.gone and self.deaths == deaths:
            self.feed(ev.Emptied(*key))

    def adopt_all(self) -> None:
        while self.adoptions:
            self.adopt(next(iter(self.adoptions)))

    def ask(self, asked: Asked) -> Ticket:
        ticket = self.tickets[asked.route] = Ticket(asked.route, asked.verb)
        self.feed(asked)
        return ticket

    def compute(self) -> None:
        """A thread works the oldest computation."""
        computation = self.computations.pop(0)
        result: Any
        try:
            result = computation.work()
        except MgmtError as error:
            result = error
        self.feed(ev.Computed(computation.number, result))

    def compute_all(self) -> None:
        while self.computations:
            self.compute()

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

    def end_leases(self) -> None:
        """What the shims do by themselves, whether the daemon runs or not."""
        for process in self.processes.values():
            if process.lease_ns and process.lease_ns <= self.now_ns and not process.gone:
                process.killed = process.dead = True

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
        self.execute(process)
        return process

    def execute(self, process: Process) -> None:
        """Its program runs."""
        process.started = True
        if process.key not in self.adoptions:
            self.feed(ev.Started(*process.key, process.pid, 7))

    def ready(self, unit: str, *protocols: str) -> None:
        """The running program says it is ready, in the way of its kind."""
        process = self.process(unit)
        assert process.started and process.leader
        if process.spawn.backend.kind == "symphony":
            self.expect(fx.ProbeHandshake, unit=unit)
        self.says_ready(process, *protocols)

    def says_ready(self, process: Process, *protocols: str) -> None:
        """As `ready`, asked or not; a plain unit says nothing."""
        deaths, process.said_ready = self.deaths, True
        if process.spawn.backend.kind == "symphony":
            self.feed(ev.HandshakeAnswered(*process.key, protocols))
        elif process.spawn.backend.kind == "native":
            backend = self.backend(process)
            if self.deaths == deaths:
                backend.ask("backend-ready", protocols=list(protocols), **self.proof(process))

    def backend(self, process: Process) -> Client:
        """The session that a native backend opens before it loads its model."""
        client = Client(self, f"{process.spawn.unit}.{process.spawn.incarnation}".encode())
        hello = client.ask("backend-hello", versions=[1], pid=process.pid, **self.proof(process))
        if hello.answers:
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
        process.leader, process.left, process.tail = False, left, tail
        process.end = (code if signal is None else None, signal)
        if process.key not in self.adoptions:
            self.feed(ev.Exited(*process.key, *process.end, left, tail))

    def tree_ends(self, process: Process) -> None:
        assert not process.leader, f"the leader of {process.key} still lives"
        process.left, process.gone = 0, True
        if process.key not in self.adoptions and process.key in self.processes:
            self.feed(ev.Emptied(*process.key))

    def spawn_fails(self, unit: str, reason: str) -> None:
        self.expect(fx.Spawn, unit=unit)
        self.is_not_executed(self.process(unit), reason)

    def is_not_executed(self, process: Process, reason: str) -> None:
        process.leader, process.gone, process.failed = False, True, reason
        if process.key not in self.adoptions:
            self.feed(ev.SpawnFailed(*process.key, reason))

    def settle(self) -> None:
        """Everything outside does what is asked of it until nothing more is asked; the deeds are taken."""
        while self._one_thing():
            pass
        self.deeds.clear()

    def _one_thing(self) -> bool:
        if self.computations:
            self.compute()
            return True
        if self.adoptions:
            self.adopt(next(iter(self.adoptions)))
            return True
        if self.staging and self.stages:
            stage = self.staging.pop(0)
            t0_ns = self.segments.get((stage.workload, stage.version), 0)
            self.feed(ev.TasksStaged(stage.workload, stage.version, bool(t0_ns)))
            return True
        if self.reading and self.stages:
            read = self.reading.pop(0)
            rows = [{**row, **UNREAD, "jobs": version} for _, version, row in read.rows]
            self.feed(ev.LogRead(read.route, {"tasks": rows, "next": read.next, "unreachable": []}))
            return True
        for process in self.processes.values():
            if process.gone:
                continue
            if process.killed or (process.started and process.leader and process.signals):
                self.obey(
                    fx.KillUnit(*process.key) if process.killed else fx.SignalUnit(*process.key, "TERM")
                )
                return True
            if not process.started:
                self.execute(process)
                return True
            if not process.leader and not process.left:
                self.tree_ends(process)
                return True
            if process.leader and getattr(process.spawn.backend, "oneshot", False):
                self.leader_ends(process, self.oneshot_status)
                return True
            if (
                process.leader
                and not process.said_ready
                and self.unit(process.spawn.unit).state == "STARTING"
            ):
                self.says_ready(process)
                return True
        for key, hook in self.hooks.items():
            self.hook_ends(*key, ok=not hook.cancelled)
            return True
        for asking in self.questions:
            self.probe_says(*asking, ok=True)
            return True
        return False

    def obey(self, deed: fx.SignalUnit | fx.KillUnit) -> None:
        """The process ends as it is told to, if it still lives."""
        process = self.processes.get((deed.unit, deed.incarnation))
        if process is None or process.gone:
            return
        deaths = self.deaths
        if process.leader:
            kill = isinstance(deed, fx.KillUnit)
            process.started = True
            self.leader_ends(process, None if kill else 0, 9 if kill else None)
        if self.deaths == deaths:
            self.tree_ends(process)

    def hook_ends(self, unit: str, incarnation: int, which: str, ok: bool = True) -> None:
        hook = self.hooks.pop((unit, incarnation, which))
        detail = "cancelled" if hook.cancelled else "exit status 1"
        good = ok and not hook.cancelled
        self.feed(ev.HookEnded(unit, incarnation, which, good, "" if good else detail))

    def probe_says(self, unit: str, incarnation: int, which: str, ok: bool = True) -> None:
        del self.questions[unit, incarnation, which]
        self.feed(ev.ProbeAnswered(unit, incarnation, which, ok, "fine" if ok else "refused"))

    def reads(self, settings: Settings | MgmtError) -> None:
        """The expected configuration was read; when it is to be applied, the next daemon finds it too."""
        read = self.expect(fx.ReadConfig)
        if read.apply and isinstance(settings, Settings):
            self.settings = settings
        self.feed(ev.ConfigRead(read.route, read.apply, settings))

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
            case fx.Commit():
                self._commit(effect)
            case fx.Adopt(unit, incarnation):
                self.adoptions[unit, incarnation] = None
            case fx.Forget(unit, incarnation):
                process = self.processes.pop((unit, incarnation), None)
                assert process is None or process.gone, f"{unit}.{incarnation} is forgotten while it lives"
            case fx.CancelHook(unit, incarnation, which):
                if (unit, incarnation, which) in self.hooks:
                    self.hooks[unit, incarnation, which].cancelled = True
            case fx.ForgetProbes(unit):
                self.questions = {key: ask for key, ask in self.questions.items() if key[0] != unit}
                self.deeds = [d for d in self.deeds if not isinstance(d, fx.AskProbe) or d.unit != unit]
            case fx.RemoveEndpoint(endpoint):
                self.removed.append(endpoint)
            case fx.Note():
                self.notes.append(effect)
            case fx.Tell(name="drain"):
                self.drained.append(effect)
            case fx.Inspect():
                self.inspected.append(effect)
            case fx.ToNode() | fx.ToDaemon() | fx.Beat() | fx.SayHello():
                frames.pack(effect.body)
                self.wire.append(effect)
            case fx.AdmitNode() | fx.OpenRelay() | fx.Relink():
                self.wire.append(effect)
            case fx.Compute():
                assert not self.computations, "one computation at a time"
                self.computations.append(effect)
            case fx.LeaseUnit(unit, incarnation, until_ns):
                if (unit, incarnation) in self.processes:
                    self.processes[unit, incarnation].lease_ns = until_ns
            case fx.StageTasks() | fx.BindTask() | fx.ReleaseTasks() | fx.DropTasks() | fx.ReadTasks():
                self._execute(effect)
            case fx.FetchInputs() | fx.KeepOutputs() | fx.DropJobs() | fx.MoveFolder() | fx.RemoveTree():
                self.suite_effects.append(effect)
            case fx.Queue() | fx.File() | fx.MakeSuiteFolder() | fx.ToWorker() | fx.CloseWorker():
                self.suite_effects.append(effect)
            case fx.FollowSchedule():
                pass  # `feed` does
            case fx.Quit():
                self._quits += 1
                if not self.state.handed_over:
                    assert not self.processes and not self.hooks, f"Quit while {self.processes} {self.hooks}"
            case _:
                self._do(effect)

    def _execute(
        self, effect: fx.StageTasks | fx.BindTask | fx.ReleaseTasks | fx.DropTasks | fx.ReadTasks
    ) -> None:
        """What the executive does, but for `settle`, which has it answer."""
        self.executed.append(effect)
        match effect:
            case fx.StageTasks(workload, version):
                self.segments.setdefault((workload, version), 0)
                self.staging.append(effect)
            case fx.ReleaseTasks(workload, version, t0_ns) if (workload, version) in self.segments:
                self.segments[workload, version] = self.segments[workload, version] or t0_ns
            case fx.DropTasks(workload, version):
                self.segments.pop((workload, version), None)
            case fx.ReadTasks():
                self.reading.append(effect)

    def _do(self, deed: Deed) -> None:
        self.deeds.append(deed)
        match deed:
            case fx.Spawn(unit=unit, incarnation=incarnation):
                alive = [
                    key for key, process in self.processes.items() if key[0] == unit and not process.gone
                ]
                assert not alive, f"{unit}.{incarnation} is spawned while {alive} is not empty"
                self._pids += 1
                self.processes[unit, incarnation] = Process(deed, self._pids, lease_ns=deed.lease_ns)
            case fx.SignalUnit(unit, incarnation, signal):
                if self._hears(unit, incarnation):
                    self.processes[unit, incarnation].signals.append(signal)
            case fx.KillUnit(unit, incarnation):
                if self._hears(unit, incarnation):
                    self.processes[unit, incarnation].killed = True
            case fx.RunHook(unit=unit, incarnation=incarnation, which=which):
                assert (unit, incarnation, which) not in self.hooks
                self.hooks[unit, incarnation, which] = Hook(deed)
            case fx.AskProbe(unit, incarnation, which):
                assert (unit, incarnation, which) not in self.questions, "asked twice at once"
                self.questions[unit, incarnation, which] = deed
            case fx.Tell():
                frames.pack(deed.body)
                messages.NOTICES[deed.name].body.model_validate(deed.body)

    def _hears(self, unit: str, incarnation: int) -> bool:
        """Whether there is a shim to hear it: of what is not adopted yet, there need not be."""
        return (unit, incarnation) in self.processes or (unit, incarnation) not in self.adoptions

    def _commit(self, commit: fx.Commit) -> None:
        for name, record in commit.units.items():
            if record is None:
                self.store.pop(name, None)
            else:
                packed = frames.unpack(frames.pack(record))
                assert packed == record, f"{name}: the store changes its record"
                self.store[name] = packed
        for table, changed in (
            (self.workloads, commit.workloads),
            (self.assignments, commit.assignments),
            (self.nodes, commit.nodes),
            (self.outbox, commit.outbox),
            *((self.accounts[table], records) for table, records in commit.accounts.items()),
        ):
            for name, record in changed.items():
                if record is None:
                    table.pop(name, None)
                else:
                    table[name] = frames.unpack(frames.pack(record))
        self.meta |= commit.meta
        self.history += [frames.unpack(frames.pack(event)) for event in commit.events]
        self.history = [event for event in self.history if event["seq"] >= commit.keep_events_from]

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
            self._check_unit(unit)
        for model in self.state.registry.models:
            ready = tuple((u.spec.name, u.endpoint) for u in self.state.loading.ready_units(model))
            assert self.relay_groups.get(model, ()) == ready
        works = bool(self.computations) or ("staging", "") in self.timers
        assert works or not self.state.schedules.waiting(), "nobody computes, and no node is waited for"
        leases = {lease.id: lease.model for lease in self.state.leases.by_id.values() if lease.unit is None}
        assert self.relay_leases == leases
        assert self._quits <= 1
        if self.state.stopping and not self.state.handed_over:
            assert bool(self._quits) == (not self.processes and not self.adoptions and not self.hooks)

    def _check_unit(self, unit: Unit) -> None:
        """Whatever a unit waits for is on its way."""
        if unit.node:
            return  # its agent waits for it
        name, state, timers = unit.spec.name, unit.state, self.timers
        key = (name, unit.incarnation)
        process, sought = self.processes.get(key), key in self.adoptions
        assert unit.has_process == (process is not None or sought), f"{name}: {unit.has_process}, {process}"
        assert (("ready", name) in timers) <= (state == "STARTING")
        assert (("grace", name) in timers) <= (state == "STOPPING")
        assert (("retry", name) in timers) == (unit.retry_ns is not None)
        assert not unit.hook or (*key, unit.hook) in self.hooks, f"{name}: {unit.hook} does not run"
        if process is None or sought or self.telling == key:
            return
        ends = process.killed or unit.hook or not process.leader
        if state == "STARTING":
            assert ends or ("ready", name) in timers, f"{name} may be STARTING for ever"
        elif state == "STOPPING":
            assert ends or ("grace", name) in timers, f"{name} may be STOPPING for ever"
        if not process.leader and not process.gone:
            assert process.killed or not process.left, f"what is left of {name} stays"
        if state == "RUNNING" and process.started and not unit.sought:
            for which in unit.probes:
                asked = (*key, which) in self.questions or ("probe." + which, name) in timers
                assert asked or process.killed or which == "startup", f"{name}: nobody asks {which}"

    def _check_store(self) -> None:
        """The store says exactly what the units are, and a unit made of its record is the same again."""
        entries = self.state.schedules.entries
        assert self.workloads == {name: workload_records.to_record(entry) for name, entry in entries.items()}
        for name, entry in entries.items():
            assert workload_records.from_record(name, self.workloads[name]) == entry
        users = self.state.users
        for table, known in (
            ("users", users.users),
            ("groups", users.groups),
            ("tokens", users.tokens.by_id),
        ):
            there = {name: one.to_record() for name, one in known.items()}
            there = {
                name: one
                for name, one in there.items()
                if name != ADMINISTRATOR or name in self.accounts[table]
            }
            assert there == self.accounts[table], f"{table} would be lost"
        units = self.state.supervisor.units
        assert set(self.store) <= set(units), f"{set(self.store) - set(units)} are kept for ever"
        for name, unit in units.items():
            record = to_record(unit)
            if name in self.store:
                differ = [key for key in record if record[key] != self.store[name][key]]
                assert not differ, f"{name}: {differ} would be lost"
                assert to_record(from_record(unit.spec, record, True)) == record
            else:
                assert record == to_record(Unit(unit.spec)), f"{name} was never written"


def a_daemon(
    models: list[Any] | None = None,
    units: dict[str, dict[str, Any]] | None = None,
    *,
    topology: Topology | None = None,
    restored: bool = True,
    **keys: Any,
) -> World:
    """A world around the daemon of these models and plain units; without any: one model `echo`."""
    world = World(a_config(models, units, **keys), topology or a_topology())
    if restored:
        world.feed(ev.Restored({}, [], same_boot=True))
    return world
