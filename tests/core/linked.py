"""A daemon's core and the cores of its agents in one memory, with links between them that can be cut.

Every word goes through msgpack and its row of the message table. Time passes for all of them together.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from typing import Any

from mgmt.core import effect as fx
from mgmt.core import event as ev
from mgmt.core.event import NODES_PLANE, UPLINK_PLANE, Asked, Route
from mgmt.core.nodes.fleet import is_exclusive
from mgmt.core.supervision import AT_REST, State, Unit
from mgmt.protocol import frames, messages
from mgmt.protocol.errors import MgmtError
from mgmt.protocol.frames import Request
from tests.core.builders import a_config, a_topology, an_agent
from tests.core.recorder import Client, Ticket, Word, World

STEP_S = 0.25
_serials = itertools.count(1_000_000)


@dataclass
class Link:
    """The connection of one agent. Cut: what is sent is swallowed. Down: both ends know that there is none."""

    name: str
    world: World
    peer: bytes = b""
    up: bool = True
    cut: bool = False
    torn: bool = False  # something was swallowed
    asks: dict[int, Ticket] = field(default_factory=dict)  # questions that its agent has not answered
    held: list[ev.Event] | None = None  # it is stopped (SIGSTOP), and hears this when it goes on
    lose: int = 0  # so many of the next words to the agent are lost
    relinks: list[float] = field(default_factory=list)  # how long each new connection is waited for


class Cluster:
    """`units` are those of the daemon's configuration; agents by name have the tags given."""

    def __init__(
        self,
        units: dict[str, dict[str, Any]] | None = None,
        agents: dict[str, tuple[str, ...]] | None = None,
        **keys: Any,
    ) -> None:
        self.daemon = World(a_config(keys.pop("models", []), units or {}, **keys), a_topology())
        self.daemon.feed(ev.Restored({}, [], same_boot=True))
        self.links: dict[str, Link] = {}
        for name, tags in (agents or {}).items():
            self.join(name, tags)
        self.client: Client = self.daemon.client("operator")

    # ---- agents and links ----

    def join(self, name: str, tags: tuple[str, ...] = (), **keys: Any) -> World:
        world = World(a_config([], {}), a_topology(), agent=an_agent(name, tags=tags, **keys))
        world.now_ns = self.daemon.now_ns
        world.feed(ev.Restored({}, [], same_boot=True))
        link = self.links[f"{name}#{len(self.links)}" if name in self.links else name] = Link(name, world)
        self.connect(link)
        return world

    def agent(self, name: str) -> World:
        return self.links[name].world

    def connect(self, link: Link) -> None:
        """A new connection stands."""
        if link.held is not None:
            link.up = False
            return
        link.peer = f"{link.name}-{next(_serials)}".encode()
        link.up, link.cut, link.torn = True, False, False
        link.world.feed(ev.LinkUp())
        self.pump()

    def cut(self, name: str) -> None:
        """Both ends believe in it, and nothing arrives any more."""
        self.links[name].cut = True

    def heal(self, name: str) -> None:
        """A stream in which something is missing is no stream: such a link is another one from now on."""
        link = self.links[name]
        if link.torn:
            self.break_off(name)
        if not link.up:
            self.connect(link)
        link.cut = False

    def break_off(self, name: str) -> None:
        """The agent sees that its connection is gone."""
        link = self.links[name]
        if link.up:
            link.up = False
            if link.held is not None:
                link.held.append(ev.LinkDown("reset"))
            else:
                link.world.feed(ev.LinkDown("reset"))

    def stop_agent(self, name: str) -> None:
        """SIGSTOP. Its shims and processes go on."""
        link = self.links[name]
        link.held = link.held or []

    def go_on(self, name: str) -> None:
        """SIGCONT: what was said meanwhile is heard first."""
        link = self.links[name]
        held, link.held = link.held or [], None
        for event in held:
            link.world.feed(event)
        self.pump()

    def kill_agent(self, name: str) -> None:
        """kill -9, and a next agent in the same folder; its processes live."""
        link = self.links[name]
        link.held = None
        agent = link.world.agent
        assert agent is not None
        link.world.agent = replace(agent, incarnation=agent.incarnation + 1)
        link.world.die()
        link.up = False

    def kill_daemon(self) -> None:
        """kill -9, and a next daemon; every connection breaks."""
        self.daemon.die()
        for name in self.links:
            self.break_off(name)
        self.client = self.daemon.client("operator")

    # ---- words ----

    def pump(self) -> None:
        """Carry words and let processes act until nobody has anything to say."""
        while self._carry():
            pass

    def _carry(self) -> bool:
        moved = False
        for link in self.links.values():
            if link.held is not None:
                continue
            link.world.settle()
            words, link.world.wire = link.world.wire, []
            for word in words:
                moved = True
                self._from_agent(link, word)
        self.daemon.settle()
        words, self.daemon.wire = self.daemon.wire, []
        for word in words:
            moved = True
            self._from_daemon(word)
        for link in self.links.values():
            for number, ticket in list(link.asks.items()):
                if not ticket.waits:
                    moved = True
                    del link.asks[number]
                    self._answer(link, number, ticket)
        return moved

    def _from_agent(self, link: Link, word: Word) -> None:
        if isinstance(word, fx.Relink):
            link.relinks.append(word.connect_s)
            link.peer = b""
            if link.up and not link.cut:
                self.connect(link)
            else:
                link.up = False  # it comes up when it is healed
        elif not link.up or link.cut:
            link.torn = True
            return
        elif isinstance(word, fx.SayHello):
            serial = next(_serials)
            body = frames.unpack(frames.pack(word.body))
            request = messages.validate(Request(serial, 0, "agent-hello", body, 0, ""))
            ticket = self.daemon.ask(
                Asked(Route(serial, NODES_PLANE, link.peer, serial), "agent-hello", request)
            )
            outcome, answer = ticket.answers[0]
            if outcome == "ok":
                link.world.feed(ev.Welcomed(answer))
            else:
                link.world.feed(ev.Refused(MgmtError.from_body(answer)))
        elif isinstance(word, fx.ToDaemon | fx.Beat):
            name = word.name if isinstance(word, fx.ToDaemon) else "agent-heartbeat"
            self.daemon.feed(ev.NodeNoticed(link.peer, word.session, name, _carried(name, word.body)))

    def _from_daemon(self, word: Word) -> None:
        if not isinstance(word, fx.ToNode | fx.Beat):
            return
        name = word.name if isinstance(word, fx.ToNode) else "node-heartbeat"
        for link in self.links.values():
            if link.peer == word.peer and link.cut:
                link.torn = True
            elif link.peer == word.peer and link.up:
                if link.lose and name == "node-push":
                    link.lose -= 1
                elif link.held is not None:
                    if name != "node-ask":
                        link.held.append(ev.DaemonNoticed(word.session, name, _carried(name, word.body)))
                elif name == "node-ask":
                    self._ask(link, word.body)
                else:
                    link.world.feed(ev.DaemonNoticed(word.session, name, _carried(name, word.body)))

    def _ask(self, link: Link, body: dict[str, Any]) -> None:
        _carried("node-ask", body)
        question = messages.validate(Request(body["ask"], 0, body["verb"], body["body"], 0, ""))
        deadline_ns = link.world.now_ns + body["timeout_ms"] * 1_000_000 if body["timeout_ms"] else 0
        route = Route(next(_serials), UPLINK_PLANE, b"", body["ask"])
        ticket = link.world.ask(Asked(route, body["verb"], question, deadline_ns))
        link.asks[body["ask"]] = ticket

    def _answer(self, link: Link, number: int, ticket: Ticket) -> None:
        node = self.daemon.state.roster.by_peer.get(link.peer)
        if node is not None and link.up and not link.cut:
            outcome, answer = ticket.answers[0]
            said = _carried("agent-answer", {"ask": number, "outcome": outcome, "body": answer})
            self.daemon.feed(ev.NodeNoticed(link.peer, node.session, "agent-answer", said))

    def advance(self, seconds: float) -> None:
        for _ in range(max(1, round(seconds / STEP_S))):
            self.daemon.advance(STEP_S)
            for link in self.links.values():
                if link.held is None:
                    link.world.advance(STEP_S)
                else:
                    link.world.now_ns += int(STEP_S * 1e9)
                link.world.end_leases()
            self.pump()
            for name, unit in self.daemon.state.supervisor.units.items():
                if is_exclusive(unit.spec):
                    assert len(self.running(name)) <= 1, f"{name} runs on {self.running(name)}"

    # ---- looking ----

    def ask(self, verb: str, **body: Any) -> Ticket:
        ticket = self.client.ask(verb, within_s=None, **body)
        self.pump()
        return ticket

    def unit(self, name: str) -> Unit:
        """The daemon's."""
        return self.daemon.unit(name)

    def there(self, node: str, unit: str) -> Unit:
        """The agent's."""
        return self.agent(node).unit(unit)

    def node(self, name: str) -> dict[str, Any]:
        (node,) = self.client.ask("nodes", nodes=[name]).ok["nodes"]
        return dict(node)

    def running(self, unit: str) -> list[str]:
        """The nodes that have a living process of the unit."""
        return [
            name
            for name, link in self.links.items()
            if any(
                process.spawn.unit == unit and not process.gone and not process.dead
                for process in link.world.processes.values()
            )
        ]

    def check_tasks(self) -> None:
        """On each node are the segments of what is in force, started on one grid, and no others."""
        groups = self.daemon.state.execution.groups
        worlds = {"local": self.daemon, **{name: link.world for name, link in self.links.items()}}
        for name, world in worlds.items():
            wanted = {(g.workload, g.generation) for g in groups.values() if name in g.plans}
            assert world.segments.keys() == wanted, f"{name} has {world.segments}, and should have {wanted}"
            for (workload, _), t0_ns in world.segments.items():
                group = groups[workload]
                cycle_ns = 1000 * group.plans[name][0].hyperperiod_us
                assert group.started and t0_ns, f"{workload} is not started on {name}"
                assert (t0_ns - group.t0_ns) % cycle_ns == 0, f"{workload} has another grid on {name}"

    def check(self) -> None:
        """Everything is heard: the daemon's view of each unit is the unit."""
        supervisor = self.daemon.state.supervisor
        for name, posting in supervisor.postings.items():
            mirror, unit = supervisor.units[name], self.there(posting.node, name)
            said = (mirror.state, mirror.pid, mirror.has_process, mirror.ready, mirror.node)
            is_so = (unit.state, unit.pid, unit.has_process, unit.ready, posting.node)
            refused = mirror.state is State.FATAL and not posting.wanted and unit.state in AT_REST
            assert said == is_so or refused, f"{name}: {said} is said, {is_so} is so"
            if unit.has_process:
                assert mirror.incarnation == unit.incarnation, name
            else:  # a start that never got there is counted
                assert mirror.incarnation >= unit.incarnation, name
            assert unit.wanted == posting.wanted or unit.state in AT_REST, name
        for name in supervisor.units:
            there = self.running(name)
            assert len(there) <= 1, f"{name} runs on {there}"
            assert not there or supervisor.postings[name].node == there[0], f"{name} runs on {there}"


def _carried(name: str, body: dict[str, Any]) -> dict[str, Any]:
    whole: dict[str, Any] = frames.unpack(frames.pack(body))
    messages.NOTICES[name].body.model_validate(whole)
    return whole
