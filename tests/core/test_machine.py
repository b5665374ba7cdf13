"""Anything in any order: random verbs, crashes, timers, silence and stops against every promise of the core.

The world checks after each event: the invariants, one answer for each request, no spawn beside a living tree,
Quit exactly once and only when nothing is left. The end of each run lets time pass until nobody waits.
"""

from __future__ import annotations

import os
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from mgmt.core import effect as fx
from mgmt.core import event as ev
from mgmt.protocol import messages
from mgmt.protocol.errors import MgmtError
from tests.core.builders import S, a_model, a_restart
from tests.core.recorder import Client, Process, World, a_daemon

# The suite runs the same few examples each time; MGMT_TEST_EXAMPLES=5000 goes hunting for new ones.
HUNT = int(os.environ.get("MGMT_TEST_EXAMPLES", "0"))
SETTINGS = settings(
    max_examples=HUNT or 100,
    stateful_step_count=80 if HUNT else 40,
    derandomize=not HUNT,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)

MODELS = ("one", "many", "old", "bare")
UNITS = ("one", "many.0", "many.1", "old")
names = st.sampled_from((*MODELS, *UNITS, "nobody"))
indexes = st.integers(0, 7)
spans_s = st.sampled_from((0.0, 0.2, 0.5, 1.0, 1.0, 2.0, 4.0, 9.0, 16.0, 200.0))
rarely = st.sampled_from((False,) * 15 + (True,))

# verb -> what its body may be
BODIES: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "hello": st.fixed_dictionaries(
        {"versions": st.sampled_from(([1], [1], [2]))},
        optional={"model": names, "mode": st.sampled_from(("direct", "relay"))},
    ),
    "status": st.fixed_dictionaries({"units": st.lists(names, max_size=2)}),
    "models": st.just({}),
    "load-model": st.fixed_dictionaries(
        {"model": names, "wait": st.booleans()},
        optional={"starting_after_ms": st.sampled_from((0, 100, 5_000)), "config_path": st.just("/c")},
    ),
    "unload-model": st.fixed_dictionaries({"model": names, "wait": st.booleans()}),
    "wait": st.fixed_dictionaries(
        {"target": names, "condition": st.sampled_from(("ready", "active", "stopped", "failed"))}
    ),
    "lease": st.fixed_dictionaries(
        {"model": names, "mode": st.sampled_from(("direct", "relay")), "load": st.booleans()}
    ),
    "release": st.fixed_dictionaries({"lease": indexes}),  # an index into the open leases
    "subscribe": st.fixed_dictionaries({"follow": st.booleans()}, optional={"since": st.integers(0, 20)}),
    "logs": st.fixed_dictionaries({"unit": names}),
}
LEGACY = ("status", "models", "load-model", "unload-model", "stop-service")


class Anything(RuleBasedStateMachine):
    @initialize(
        policy=st.sampled_from(("no", "on-failure", "always")),
        requests=st.sampled_from((3, 1000)),
        units=st.sampled_from((3, 1000)),
        default=st.sampled_from(("old", "many", "bare", None)),
    )
    def begin(self, policy: str, requests: int, units: int, default: str | None) -> None:
        restart = a_restart(policy, limit=2, window_s=100.0)
        self.world: World = a_daemon(
            [
                a_model("one", restart=restart, grace_s=5.0, ready_timeout_s=8.0, cpus="0"),
                a_model("many", replicas=2, restart=restart),
                a_model("old", kind="symphony", restart=restart),
                a_model("bare", no_backend=True),
            ],
            default=default,
            limits={
                "max_session_requests": requests, "max_units": units, "max_sessions": 5,
                "max_requests": 2 * requests, "max_event_history": 8,
            },
            timing={"idempotency_keep_s": 30.0},
        )  # fmt: skip
        self.clients = [Client(self.world, name) for name in (b"a", b"b", b"old")]
        self.reads: list[fx.ReadLog] = []
        for client in self.clients:
            client.hello()

    # ---- peers -------------------------------------------------------------------------------------------

    @rule(i=indexes, verb=st.sampled_from(sorted(BODIES)), stale=rarely, data=st.data())
    def ask(self, i: int, verb: str, stale: bool, data: st.DataObject) -> None:
        client = self.clients[i % len(self.clients)]
        if client.session not in self.world.state.sessions.by_id and not stale:
            client.hello()
        body = dict(data.draw(BODIES[verb]))
        if verb == "release":
            leases = list(self.world.state.leases.by_id)
            body["lease"] = leases[body["lease"] % len(leases)] if leases else 1
        key = data.draw(st.sampled_from(("", "", "", "k1", "k2")))
        within_s = data.draw(st.sampled_from((0.001, 2.0, 30.0, 300.0)))
        speaker = Client(self.world, client.peer, 0) if data.draw(st.booleans()) else client
        ticket = speaker.ask(verb, key=key, within_s=within_s, **body)
        if verb == "hello" and ticket.answers[0][0] == "ok":
            client.session = ticket.ok["session"]

    @rule(verb=st.sampled_from(LEGACY[:-1]), data=st.data())
    def ask_the_old_way(self, verb: str, data: st.DataObject) -> None:
        self.world.legacy(verb, **data.draw(BODIES[verb]))

    @rule()
    def handshake(self) -> None:
        self.world.handshake()

    @rule(i=indexes, name=st.sampled_from(sorted(set(messages.NOTICES) | {"no-such-notice"})))
    def notice(self, i: int, name: str) -> None:
        self.clients[i % len(self.clients)].notice(name)

    @rule(i=indexes, lost=rarely)
    def lose_a_peer(self, i: int, lost: bool) -> None:
        if lost:
            self.world.feed(ev.PeerLost(self.clients[i % len(self.clients)].peer, "does not read"))

    # ---- processes ---------------------------------------------------------------------------------------

    def pick(self, i: int, *, started: bool | None = None, leader: bool | None = None) -> Process | None:
        found = [
            process
            for process in self.world.processes.values()
            if started in (None, process.started) and leader in (None, process.leader)
        ]
        return found[i % len(found)] if found else None

    @rule(i=indexes, fails=st.sampled_from((False, False, False, True)))
    def execute(self, i: int, fails: bool) -> None:
        process = self.pick(i, started=False)
        if process is None:
            return
        if fails:
            self.world.is_not_executed(process, "cannot start")
        else:
            self.world.execute(process)

    @rule(i=indexes, protocols=st.sampled_from(((), ("ping",), ("l4m", "new"))))
    def become_ready(self, i: int, protocols: tuple[str, ...]) -> None:
        process = self.pick(i, started=True, leader=True)
        if process is None:
            return
        if process.spawn.backend.kind == "symphony":
            self.world.feed(ev.HandshakeAnswered(*process.key, protocols))
            return
        backend = Client(self.world, process.spawn.unit.encode())
        backend.ask("backend-hello", versions=[1], pid=process.pid, **self.world.proof(process))
        backend.ask("backend-ready", protocols=list(protocols), **self.world.proof(process))

    @rule()
    def come_up(self) -> None:
        """Everything that was spawned becomes ready."""
        for _ in range(len(self.world.processes)):
            self.execute(0, False)
        for i in range(len(self.world.processes)):
            self.become_ready(i, ("ping",))

    @rule(
        i=indexes,
        how=st.sampled_from(((0, None), (1, None), (None, 9), (None, 15))),
        left=st.sampled_from((0, 0, 2)),
    )
    def crash(self, i: int, how: tuple[int | None, int | None], left: int) -> None:
        process = self.pick(i, started=True, leader=True)
        if process is not None:
            self.world.leader_ends(process, *how, left=left, tail="last words")

    @rule(i=indexes)
    def empty(self, i: int) -> None:
        process = self.pick(i, leader=False)
        if process is not None:
            self.world.tree_ends(process)

    @rule(i=indexes)
    def obey(self, i: int) -> None:
        """A process does what it was told, in one go."""
        process = self.pick(i, started=True)
        if process is None or not (process.signals or process.killed):
            return
        if process.leader:
            self.world.leader_ends(process, None, 9 if process.killed else 15)
        self.world.tree_ends(process)

    @rule(unit=st.sampled_from((*UNITS, "nobody")), behind=st.integers(1, 3), kind=st.integers(0, 4))
    def late_news(self, unit: str, behind: int, kind: int) -> None:
        present = self.world.state.supervisor.units.get(unit)
        about = (unit, present.incarnation - behind if present is not None else 1)
        news: tuple[ev.Event, ...] = (
            ev.Started(*about, 1, 1),
            ev.Exited(*about, 0, None, 0, ""),
            ev.Emptied(*about),
            ev.SpawnFailed(*about, "late"),
            ev.HandshakeAnswered(*about, ("ping",)),
        )
        assert self.world.feed(news[kind]) == []

    @rule(unit=st.sampled_from(UNITS), wrong=st.sampled_from(("", "thread 1 on 0-3")))
    def look(self, unit: str, wrong: str) -> None:
        self.world.feed(ev.MaskChecked(unit, 1, wrong))
        self.world.feed(ev.Sampled({unit: (1.5, 4096)}))

    @rule(i=indexes, good=st.booleans())
    def read_a_log(self, i: int, good: bool) -> None:
        reads = [deed for deed in self.world.drain() if isinstance(deed, fx.ReadLog)] + self.reads
        if not reads:
            return
        read = reads.pop(i % len(reads))
        self.reads = reads
        chunk = {"unit": read.unit, "path": "/l", "data": b"", "offset": 0, "inode": 1}
        self.world.feed(ev.LogRead(read.route, chunk if good else MgmtError("internal", "cannot read")))

    # ---- time and the end --------------------------------------------------------------------------------

    @rule(seconds=spans_s)
    def pass_time(self, seconds: float) -> None:
        self.world.advance(seconds)

    @rule(i=indexes)
    def fire_out_of_order(self, i: int) -> None:
        """A loop that is late fires timers in any order."""
        timers = self.world.timers
        first_ns = min(timers.values(), default=0)
        keys = [key for key, at_ns in timers.items() if at_ns <= first_ns + 2 * S]
        if keys:
            self.world.fire(keys[i % len(keys)])

    @precondition(lambda self: not self.world.state.stopping or self.world.processes)
    @rule(fast=st.booleans(), meant=rarely)
    def stop(self, fast: bool, meant: bool) -> None:
        if meant:
            self.world.feed(ev.StopRequested("SIGTERM", fast))

    def teardown(self) -> None:
        """Whatever happened, everything ends: processes obey, time passes, everyone is answered."""
        if not hasattr(self, "world"):
            return
        world = self.world
        world.feed(ev.StopRequested("SIGTERM", fast=False))
        for _ in range(20):
            for process in list(world.processes.values()):
                if process.killed and process.leader:
                    process.started = True
                    world.leader_ends(process, None, 9)
                if not process.leader and (process.killed or not process.left):
                    world.tree_ends(process)
            world.now_ns += 20 * S
            for key in sorted(world.timers, key=str):
                if world.timers.get(key, world.now_ns + 1) <= world.now_ns:
                    world.fire(key)
        world.drain()
        assert world.quits() == 1, f"never quit: {world.processes}"
        assert not [ticket for ticket in world.tickets.values() if ticket.waits]
        assert not world.state.sessions.calls and not world.state.leases.by_id
        assert {key[0] for key in world.timers} <= {"key"}


TestAnything = Anything.TestCase
TestAnything.settings = SETTINGS
