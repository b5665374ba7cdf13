"""Anything in any order: random verbs, crashes, timers, silence and stops against every promise of the core.

The world checks after each event: the invariants, one answer for each request, no spawn beside a living tree,
Quit exactly once and only when nothing is left. The end of each run lets time pass until nobody waits.
"""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

from mgmt.core import effect as fx
from mgmt.core import event as ev
from mgmt.protocol import messages
from mgmt.protocol.errors import MgmtError
from tests.core.builders import a_model, a_restart
from tests.core.outside import SETTINGS, Body, Outside, hello_again, indexes, rarely
from tests.core.recorder import Client, a_daemon

MODELS = ("one", "many", "old", "bare")
UNITS = ("one", "many.0", "many.1", "old")
names = st.sampled_from((*MODELS, *UNITS, "nobody"))

# verb -> what its body may be
BODIES: dict[str, Body] = {
    "hello": st.fixed_dictionaries(
        {"versions": st.sampled_from(([1], [1], [99]))},
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
    "start": st.fixed_dictionaries(
        {"targets": st.lists(names, min_size=1, max_size=2), "wait": st.booleans()}
    ),
    "stop": st.fixed_dictionaries(
        {"targets": st.lists(names, min_size=1, max_size=2), "wait": st.booleans()}
    ),
    "restart": st.fixed_dictionaries(
        {"targets": st.lists(names, min_size=1, max_size=2), "wait": st.booleans()}
    ),
    "reset-failed": st.fixed_dictionaries({"targets": st.lists(names, max_size=2)}),
    "explain": st.fixed_dictionaries({"target": names}),
    "dump": st.just({}),
}
LEGACY = ("status", "models", "load-model", "unload-model", "stop-service")


class Anything(Outside):
    @initialize(
        policy=st.sampled_from(("no", "on-failure", "always")),
        requests=st.sampled_from((3, 1000)),
        units=st.sampled_from((3, 1000)),
        default=st.sampled_from(("old", "many", "bare", None)),
    )
    def begin(self, policy: str, requests: int, units: int, default: str | None) -> None:
        restart = a_restart(policy, limit=2, window_s=100.0)
        self.world = a_daemon(
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
        if not stale:
            hello_again(client)
        body = dict(data.draw(BODIES[verb]))
        if verb == "release":
            leases = list(self.world.state.leases.by_id)
            body["lease"] = leases[body["lease"] % len(leases)] if leases else 1
        key = data.draw(st.sampled_from(("", "", "", "k1", "k2")))
        within_s = data.draw(st.sampled_from((0.001, 2.0, 30.0, 300.0)))
        speaker = Client(self.world, client.peer, 0) if data.draw(st.booleans()) else client
        ticket = speaker.ask(verb, key=key, within_s=within_s, **body)
        if verb == "hello" and ticket.answers and ticket.answers[0][0] == "ok":
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
        if read.route not in self.world.tickets:
            return  # asked of a daemon that died
        self.world.feed(ev.LogRead(read.route, chunk if good else MgmtError("internal", "cannot read")))

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.end()


TestAnything = Anything.TestCase
TestAnything.settings = SETTINGS
