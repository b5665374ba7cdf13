"""The roster: every node that ever joined, who speaks for it now, and whether it is alive.

Pushes are numbered per node and life of this daemon. What a node did not acknowledge is kept while its session
lives, and sent again when the node comes back within it; any other hello gets everything anew.
"""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

from mgmt.core import effect as fx
from mgmt.core.event import Now
from mgmt.core.nodes.node import TRANSITIONS, Node, NodeState, from_record
from mgmt.core.supervision import LOCAL
from mgmt.protocol import defaults
from mgmt.protocol import messages as msg
from mgmt.protocol.errors import MgmtError


class NodeChange(NamedTuple):
    """A node went from `was` to its present state; it may be the same when another agent took over."""

    node: Node
    was: NodeState


class Roster:
    """Nodes by name and by the connection of their agents; `epoch` is the number of this daemon's life."""

    def __init__(self, epoch: int, secret: bytes, heartbeat_s: float, lost_s: float) -> None:
        self.nodes: dict[str, Node] = {}
        self.by_peer: dict[bytes, Node] = {}
        self.dirty: set[str] = set()
        self.changes: list[NodeChange] = []  # handed up by the step function
        self.stale = 0  # words of sessions that have ended
        self.heartbeat_s, self.lost_s = heartbeat_s, lost_s
        self._epoch = epoch
        self._secret = secret
        self._beat_ns = int(heartbeat_s * 1e9)
        self._slot_ns = max(1, self._beat_ns // defaults.BEAT_SLOTS)
        self._suspect_ns = int(heartbeat_s * defaults.MISSED_BEATS * 1e9)
        self.lost_ns = int(lost_s * 1e9)
        self._sessions = 0

    def get(self, name: str) -> Node:
        """MgmtError `unknown-node` when no agent of that name ever joined."""
        node = self.nodes.get(name)
        if node is None:
            text = f"no node {name!r} has ever joined; `mgmt node list` shows those that did"
            raise MgmtError("unknown-node", text, node=name)
        return node

    def restore(self, now: Now, records: dict[str, dict[str, Any]], out: list[fx.Effect]) -> None:
        """The nodes of a former daemon: suspect until they say hello, lost when they do not in time."""
        for name, record in records.items():
            node = self.nodes[name] = from_record(name, record)
            node.seen_ns = now.mono_ns
            self._watch(node, now.mono_ns + self.lost_ns, out)

    # ---- sessions ----

    def hello(self, now: Now, peer: bytes, hello: msg.AgentHello, out: list[fx.Effect]) -> tuple[Node, bool]:
        """The node of an agent that joins, and whether pushes it may have missed can be replayed.

        MgmtError `conflict` while another agent speaks for the name, or a later run of the same agent does.
        """
        node = self.nodes.get(hello.node)
        if hello.node == LOCAL:
            raise MgmtError("conflict", f"the name {LOCAL!r} means the daemon's own machine; use --name NAME")
        if node is not None and node.peer and node.state is not NodeState.LOST:
            self._refuse_twin(now, node, hello)
        if node is not None and (node.worker is None) is not (hello.worker is None):
            what = "a node" if node.worker is None else "an independent worker"
            text = f"{hello.node!r} is the name of {what}; give this one another --name"
            raise MgmtError("conflict", text, node=hello.node)
        if node is None:
            node = self.nodes[hello.node] = Node(hello.node, NodeState.LOST, "it has not joined yet")
        again = node.incarnation == hello.incarnation and node.agent == hello.agent
        replay = again and bool(node.peer) and hello.epoch == self._epoch and self._covers(node, hello.acked)
        was = node.state
        if node.peer:
            del self.by_peer[node.peer]
        other = self.by_peer.get(peer)
        if other is not None:
            self._end_session(other, out)  # one connection speaks for one node
        self._sessions += 1
        node.session = ((self._epoch & 0xFFFFFFFF) << 24) + self._sessions
        node.peer = peer
        self.by_peer[peer] = node
        node.state = TRANSITIONS[was, "hello"]
        node.reason = "joined" if not again else "came back"
        if node.agent != hello.agent:
            node.fault_seq = None  # another one, with another count
        node.agent, node.machine_id = hello.agent, hello.machine_id
        node.incarnation, node.started_at = hello.incarnation, hello.started_at
        node.version, node.pid, node.log_dir = hello.version, hello.pid, hello.log_dir
        node.own_tags, node.labels, node.facts = frozenset(hello.tags), dict(hello.labels), dict(hello.facts)
        node.worker = hello.worker.model_dump() if hello.worker is not None else None
        node.retiring = node.retiring and again
        node.leaving, node.round_trip_ns, node.offset_ns = False, None, None
        node.seen_ns = now.mono_ns
        self.dirty.add(node.name)
        if was is not NodeState.ALIVE or not again:
            self.changes.append(NodeChange(node, was))
        self._watch(node, now.mono_ns + self._suspect_ns, out)
        out.append(fx.AdmitNode(node.name, peer, self.token(node)))
        return node, replay

    def welcome(self, node: Node, resumed: bool, revision: int) -> dict[str, Any]:
        """A NodeWelcome."""
        return {
            "version": revision,
            "session": node.session,
            "epoch": self._epoch,
            "heartbeat_s": self.heartbeat_s,
            "lost_s": self.lost_s,
            "token": self.token(node),
            "resumed": resumed,
            "faults": node.fault_seq,
        }

    def token(self, node: Node) -> str:
        """The secret of this session."""
        text = f"node:{node.name}:{node.session}".encode()
        return hashlib.blake2b(text, key=self._secret, digest_size=16).hexdigest()

    def find(self, peer: bytes, session: int) -> Node | None:
        """The node whose present session this is; others are counted."""
        node = self.by_peer.get(peer)
        if node is not None and node.session == session:
            return node
        self.stale += 1
        return None

    def _refuse_twin(self, now: Now, node: Node, hello: msg.AgentHello) -> None:
        heard_s = (now.mono_ns - node.seen_ns) / 1e9
        if (node.agent, node.machine_id) != (hello.agent, hello.machine_id):
            text = (
                f"node {node.name!r} has an agent already (pid {node.pid} on machine {node.machine_id}, heard "
                f"{heard_s:.1f} s ago); give this one another --name, or stop that one"
            )
            raise MgmtError("conflict", text, node=node.name)
        if hello.incarnation != node.incarnation and hello.started_at < node.started_at:
            text = f"node {node.name!r} has a later run of this agent (pid {node.pid}); this one must end"
            raise MgmtError("conflict", text, node=node.name)

    # ---- liveness ----

    def beat(self, now: Now, node: Node, body: dict[str, Any], out: list[fx.Effect]) -> None:
        """A heartbeat: answered with both clocks, and the last push that is carried out is noted."""
        self.heard(now, node)
        # What a stranger to the protocol sends in these is caught before: see the shell's validation.
        self.acknowledge(node, body["acked"])
        first = node.unacked[0][0] if node.unacked else 0
        if first != node.overdue:
            node.overdue, node.overdue_ns = first, now.mono_ns
        elif first and now.mono_ns - node.overdue_ns >= self._beat_ns // 2:
            node.overdue_ns = now.mono_ns
            self.replay(node, first - 1, out)  # not carried out for so long: it may be lost
        if body.get("round_trip_ns") is not None:
            node.round_trip_ns, node.offset_ns = body["round_trip_ns"], body.get("offset_ns")
        # Many agents beat together, a few times a period: to wake up for each of them costs more than to hear it.
        next_ns = (now.mono_ns + self._beat_ns) // self._slot_ns * self._slot_ns - now.mono_ns
        reply = {"clock_ns": body["clock_ns"], "daemon_ns": now.mono_ns, "next_ns": next_ns}
        out.append(fx.Beat(node.peer, node.session, reply))

    def heard(self, now: Now, node: Node) -> None:
        node.seen_ns = now.mono_ns
        if node.state is NodeState.SUSPECT:
            self._move(node, "heard", "heard again")

    def on_timer(self, now: Now, name: str, out: list[fx.Effect]) -> None:
        """Look at a node's silence. A timer that is late itself says that this daemon was not there to listen."""
        node = self.nodes.get(name)
        if node is None or node.state is NodeState.LOST:
            return
        if now.mono_ns - node.due_ns > self._beat_ns:
            node.seen_ns = now.mono_ns
        silent_ns = now.mono_ns - node.seen_ns
        silence = f"not heard for {silent_ns / 1e9:.1f} s"
        if node.state is NodeState.ALIVE and silent_ns >= self._suspect_ns:
            self._move(node, "silent", silence)
        if node.state is NodeState.SUSPECT and silent_ns >= self.lost_ns:
            self._move(node, "silent", "its agent was stopped" if node.leaving else silence)
            self._end_session(node, out)
            return
        limit_ns = self._suspect_ns if node.state is NodeState.ALIVE else self.lost_ns
        self._watch(node, node.seen_ns + limit_ns, out)

    def retag(self, node: Node, add: frozenset[str], remove: frozenset[str]) -> None:
        """An operator says what it is, too, and what it is not; MgmtError `bad-body` for both at once."""
        if add & remove:
            text = f"{', '.join(sorted(add & remove))}: added and removed at the same time"
            raise MgmtError("bad-body", text)
        node.added = (node.added | (add - node.own_tags)) - remove
        node.removed = (node.removed | (remove & node.own_tags)) - add
        self.dirty.add(node.name)

    def forget(self, node: Node, out: list[fx.Effect]) -> None:
        """It was told to end, and has."""
        self._end_session(node, out)
        del self.nodes[node.name]
        self.dirty.add(node.name)
        out.append(fx.CancelTimer(("node", node.name)))

    def shut_out(self, node: Node, reason: str, out: list[fx.Effect]) -> None:
        """Its agent may not speak for it any more: it is lost at once, whoever can still hear it."""
        if node.peer:
            out.append(fx.ToNode(node.peer, node.session, "node-gone", {}))
        self._end_session(node, out)
        if node.state is not NodeState.LOST:
            self._move(node, "shut out", reason)
            out.append(fx.CancelTimer(("node", node.name)))

    def on_peer_lost(self, now: Now, peer: bytes, out: list[fx.Effect]) -> None:
        """Its connection is of no use any more: it must say hello, and has the time of a silent node for it."""
        node = self.by_peer.pop(peer, None)
        if node is not None:
            node.peer = b""
            node.unacked.clear()

    def _move(self, node: Node, trigger: str, reason: str) -> None:
        was, node.state, node.reason = node.state, TRANSITIONS[node.state, trigger], reason
        self.changes.append(NodeChange(node, was))

    def _end_session(self, node: Node, out: list[fx.Effect]) -> None:
        self.by_peer.pop(node.peer, None)
        node.peer, node.session = b"", 0
        node.unacked.clear()
        out.append(fx.AdmitNode(node.name, None, ""))

    def _watch(self, node: Node, at_ns: int, out: list[fx.Effect]) -> None:
        node.due_ns = at_ns
        out.append(fx.SetTimer(("node", node.name), at_ns))

    # ---- pushes ----

    def push(self, node: Node, what: str, body: dict[str, Any], out: list[fx.Effect]) -> None:
        """Tell a node what it shall run. One without a session is told everything at its next hello."""
        if not node.peer:
            return
        node.pushed += 1
        node.unacked.append((node.pushed, what, body))
        self._send(node, node.unacked[-1], out)

    def replay(self, node: Node, acked: int, out: list[fx.Effect]) -> None:
        self.acknowledge(node, acked)
        for push in node.unacked:
            self._send(node, push, out)

    def start_anew(self, node: Node) -> None:
        """What was pushed before is void: everything follows, numbered from 1."""
        node.unacked.clear()
        node.pushed = 0

    def acknowledge(self, node: Node, number: int) -> None:
        while node.unacked and node.unacked[0][0] <= number:
            node.unacked.popleft()

    def _covers(self, node: Node, acked: int) -> bool:
        """Whether all pushes after this one are still there."""
        first = node.unacked[0][0] if node.unacked else node.pushed + 1
        return first - 1 <= acked <= node.pushed

    def _send(self, node: Node, push: tuple[int, str, dict[str, Any]], out: list[fx.Effect]) -> None:
        seq, what, body = push
        out.append(fx.ToNode(node.peer, node.session, "node-push", {"seq": seq, "what": what, "body": body}))
