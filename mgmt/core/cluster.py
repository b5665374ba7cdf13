"""What agents say to this daemon, and what operators ask of nodes."""

from __future__ import annotations

from typing import Any

from mgmt.core import effect as fx
from mgmt.core import event as ev
from mgmt.core.event import ADMINISTRATOR, NODES_PLANE, Asked, Now, Route
from mgmt.core.nodes import Node, NodeState
from mgmt.core.state import Ask, State
from mgmt.core.suites.pool import Phase, Progress
from mgmt.core.supervision import AT_REST, LOCAL, Unit
from mgmt.core.verbs import Body, handles
from mgmt.protocol import frames, revisions
from mgmt.protocol import messages as msg
from mgmt.protocol.errors import MgmtError
from mgmt.protocol.messages import Role

# ---- agents ----------------------------------------------------------------------------------------------


@handles("agent-hello")
def _agent_hello(state: State, now: Now, asked: Asked, body: msg.AgentHello, out: list[fx.Effect]) -> Body:
    kind = "node" if body.worker is None else "worker"
    revision = revisions.agree(body.versions, f"the agent of {kind} {body.node} (mgmt {body.version})")
    if asked.route.plane != NODES_PLANE:
        text = "agents join at `endpoints.nodes` of the configuration, this is another endpoint"
        raise MgmtError("denied", text)
    planned: dict[str, Role] = {}
    if asked.by.user and (body.groups or asked.by.user != ADMINISTRATOR):
        planned = state.users.plan_enrolment(asked.by, kind, body.node, body.groups)
    elif body.groups:
        text = f"groups are given by whoever brings the {kind}: use --token-file with a token of it"
        raise MgmtError("denied", text, node=body.node)
    node, replay = state.roster.hello(now, asked.route.peer, body, out)
    node.user, node.token = asked.by.user, asked.by.token
    state.users.enrol(kind, node.name, planned)
    # The welcome goes first: what is pushed is of the session that it opens.
    state.board.metrics.joined(node.name, body.incarnation, not body.epoch)
    state.sessions.answer(asked.route, frames.Outcome.OK, state.roster.welcome(node, replay, revision), out)
    reports = [unit.model_dump() for unit in body.units]
    state.supervisor.on_hello(now, node, reports, out)
    if replay:
        state.roster.replay(node, body.acked, out)
    else:
        state.roster.start_anew(node)
        state.execution.tell_all(node.name, out)  # first: segments are there before their processes
        state.supervisor.tell_all(node, reports, out)
    for staged in body.staged:
        state.execution.on_node_staged(now, node.name, staged.model_dump(), out)
    _fail_asks(state, node, out)  # their answers would have come on the former connection
    state.board.on_hello(now, node, replay, out)
    return None


def on_node_noticed(state: State, now: Now, event: ev.NodeNoticed, out: list[fx.Effect]) -> None:
    node = state.roster.find(event.peer, event.session)
    if node is None:
        out.append(fx.ToNode(event.peer, event.session, "node-gone", {}))
        return
    body = event.body
    if event.name == "agent-heartbeat":
        state.roster.beat(now, node, body, out)
        if node.token and state.users.tokens.renew(now, node.token):
            out.append(fx.Note("INFO", f"token {node.token!r} of {node.name} is renewed: it is in use", {}))
    elif event.name == "agent-report":
        state.roster.heard(now, node)
        state.roster.acknowledge(node, body["acked"])
        if body.get("leaving") and not node.leaving:
            node.leaving, node.reason = True, "its agent is being stopped"
        for report in body.get("units", ()):
            state.supervisor.on_report(now, node, report, out)
        for report in body.get("staged", ()):
            state.execution.on_node_staged(now, node.name, report, out)
        if body.get("counts"):
            state.board.metrics.follow(node.name, body["counts"])
        if body.get("usage"):
            state.supervisor.on_usage(body["usage"], node)
        for fault in body.get("faults", ()):
            if node.fault_seq is None or fault["seq"] > node.fault_seq:  # else it is told again
                node.fault_seq = fault.pop("seq")
                state.roster.dirty.add(node.name)
                state.execution.on_node_fault(now, node.name, fault, out)
        _answer_waiters(state, now, out)
    elif event.name == "crew-exchange":
        state.roster.heard(now, node)
        state.board.exchange(now, **body, out=out, node=node.name)
    elif event.name == "crew-phase":
        progress = Progress(**{**body, "phase": Phase(body["phase"])})
        state.board.progress(now, progress, out, node.name)
        _answer_waiters(state, now, out)
    elif event.name == "agent-answer":
        _on_answer(state, now, node, body, out)


def on_node_peer_lost(state: State, now: Now, event: ev.NodePeerLost, out: list[fx.Effect]) -> None:
    state.roster.on_peer_lost(now, event.peer, out)


def settle(state: State, now: Now, out: list[fx.Effect]) -> None:
    """Hand what happened to nodes up: to the journal, to the units on them, to whoever waits."""
    while state.roster.changes:
        node, was = state.roster.changes.pop(0)
        body = {"node": node.name, "was": str(was), "state": str(node.state), "reason": node.reason}
        state.journal.record(now, "node", body, out)
        level = "WARNING" if node.state is NodeState.LOST else "INFO"
        out.append(
            fx.Note(level, f"node {node.name}: {was} -> {node.state}: {node.reason}", {"node": node.name})
        )
        if node.state is NodeState.LOST:
            _on_lost(state, now, node, out)
        state.supervisor.on_nodes_changed()
        state.board.on_node(now, node, out)
        if node.state is NodeState.LOST and node.retiring:
            state.roster.forget(node, out)
            state.board.metrics.forget(node.name)
            state.users.retire("worker", node.name)
        _answer_waiters(state, now, out)


def _on_lost(state: State, now: Now, node: Node, out: list[fx.Effect]) -> None:
    todo = state.supervisor.on_lost(now, node, out)
    if todo["stop"]:
        state.ordering.stop(
            now, todo["stop"], out, f"node {node.name} is lost, and its policy is to stop then"
        )
    if todo["replace"]:
        reasons = {unit.spec.name: f"node {node.name} is lost" for unit in todo["replace"]}
        state.ordering.restart(now, todo["replace"], out, reasons)
    _fail_asks(state, node, out)
    state.execution.on_node_lost(now, node.name, out)


# ---- questions about units that are elsewhere ------------------------------------------------------------


def ask_unit(
    state: State,
    now: Now,
    asked: Asked,
    unit: Unit,
    body: dict[str, Any],
    out: list[fx.Effect],
    lines: list[str],
) -> None:
    """Have the unit's agent answer, `lines` in place of the first of its own; MgmtError `node-lost` when it
    cannot be asked."""
    node = state.roster.get(unit.node)
    if not node.peer:
        text = f"unit {unit.spec.name!r} is on node {node.name}, which is {node.state}: {node.reason}"
        raise MgmtError("node-lost", text, node=node.name)

    def take(answer: dict[str, Any] | MgmtError, out: list[fx.Effect]) -> None:
        if isinstance(answer, MgmtError):
            state.sessions.refuse(asked.route, answer, out)
            return
        if lines:
            answer["lines"] = [*lines, *answer["lines"][1:]]  # the first is its state
        state.sessions.answer(asked.route, frames.Outcome.OK, answer, out)

    state.sessions.park(now, asked, out)
    timeout_ms = max(1, (asked.deadline_ns - now.mono_ns) // 1_000_000) if asked.deadline_ns else 0
    ask_node(state, node, Ask(asked.route, node.name, take), asked.verb, body, timeout_ms, out)


def ask_node(
    state: State, node: Node, ask: Ask, verb: str, body: dict[str, Any], timeout_ms: int, out: list[fx.Effect]
) -> None:
    """Put a question to an agent that has a session; `ask.take` is called once, unless nobody waits any more."""
    state.asks += 1
    state.node_asks[state.asks] = ask
    question = {"ask": state.asks, "verb": verb, "body": body, "timeout_ms": timeout_ms}
    out.append(fx.ToNode(node.peer, node.session, "node-ask", question))


def _on_answer(state: State, now: Now, node: Node, body: dict[str, Any], out: list[fx.Effect]) -> None:
    ask = state.node_asks.get(body["ask"])
    if ask is None or ask.node != node.name:
        return  # nobody waits any more
    del state.node_asks[body["ask"]]
    ok = body["outcome"] == frames.Outcome.OK
    ask.take(body["body"] if ok else MgmtError.from_body(body["body"]), out)


def _fail_asks(state: State, node: Node, out: list[fx.Effect]) -> None:
    for number, ask in list(state.node_asks.items()):
        if ask.node == node.name:
            del state.node_asks[number]
            text = f"node {node.name} did not answer: {node.reason}"
            ask.take(MgmtError("node-lost", text, node=node.name), out)


def forget(state: State, route: Route) -> None:
    """Nobody waits for this request any more."""
    state.node_asks = {number: ask for number, ask in state.node_asks.items() if ask.route != route}
    state.gatherings.pop(route, None)
    state.node_waiters.pop(route, None)


# ---- what operators ask ----------------------------------------------------------------------------------


def node_body(state: State, now: Now, node: Node) -> dict[str, Any]:
    """A NodeStatus."""
    trip, offset = node.round_trip_ns, node.offset_ns
    return {
        "node": node.name,
        "state": str(node.state),
        "reason": node.reason,
        "cordoned": node.cordoned,
        "leaving": node.leaving,
        "drained": _is_drained(state, node),
        "tags": sorted(node.tags),
        "labels": node.labels,
        "machine_id": node.machine_id,
        "version": node.version,
        "pid": node.pid,
        "seen_s": (now.mono_ns - node.seen_ns) / 1e9,
        "round_trip_ms": trip / 1e6 if trip is not None else None,
        "clock_offset_ms": offset / 1e6 if offset is not None else None,
        "clock_error_ms": trip / 2e6 if trip is not None else None,
        "units": len(state.supervisor.on_node(node.name)),
        "processes": state.supervisor.processes(node.name),
        "facts": node.facts,
    }


def _local_body(state: State) -> dict[str, Any]:
    """This machine as a node."""
    units = [unit for unit in state.supervisor.units.values() if not unit.node and unit.spec.node is None]
    identity = state.identity
    return {
        "node": LOCAL,
        "state": "ALIVE",
        "reason": "this machine",
        "cordoned": False,
        "leaving": state.stopping,
        "drained": False,
        "tags": [],
        "labels": {},
        "machine_id": "",
        "version": identity.version,
        "pid": identity.pid,
        "seen_s": None,
        "round_trip_ms": None,
        "clock_offset_ms": None,
        "clock_error_ms": None,
        "units": len(units),
        "processes": sum(unit.has_process for unit in units),
        "facts": identity.topology.facts(),
    }


def _is_drained(state: State, node: Node) -> bool:
    return (
        node.cordoned and not state.supervisor.processes(node.name) and node.name not in state.board.holdings
    )


@handles("nodes")
def _nodes(state: State, now: Now, asked: Asked, body: msg.Nodes, out: list[fx.Effect]) -> Body:
    known = state.roster.nodes
    names = body.nodes or [LOCAL, *sorted(name for name in known if known[name].worker is None)]
    return {
        "nodes": [
            _local_body(state) if name == LOCAL else node_body(state, now, state.roster.get(name))
            for name in names
        ]
    }


@handles("node-cordon")
def _node_cordon(state: State, now: Now, asked: Asked, body: msg.NodeCordon, out: list[fx.Effect]) -> Body:
    node = _of_operator(state, body.node)
    _cordon(state, node, body.cordoned)
    state.board.match(now, out)
    _answer_waiters(state, now, out)
    return node_body(state, now, node)


@handles("node-drain")
def _node_drain(state: State, now: Now, asked: Asked, body: msg.NodeDrain, out: list[fx.Effect]) -> Body:
    node = _of_operator(state, body.node)
    if body.wait:
        state.sessions.park(now, asked, out)  # before anything is changed: `busy` changes nothing
    _cordon(state, node, True)
    units = [unit for unit in state.supervisor.on_node(node.name) if unit.state not in AT_REST]
    reasons = {unit.spec.name: f"node {node.name} is drained" for unit in units}
    state.ordering.restart(now, units, out, reasons)
    state.board.drain(now, node.name, out)
    if body.wait and not _is_drained(state, node):
        state.node_waiters[asked.route] = (node.name, "drained")
        return None
    return node_body(state, now, node)


@handles("node-shutdown")
def _node_shutdown(
    state: State, now: Now, asked: Asked, body: msg.NodeShutdown, out: list[fx.Effect]
) -> Body:
    node = _of_operator(state, body.node)
    if not node.peer:
        text = f"node {node.name} is {node.state}: {node.reason}; there is no agent to be ended"
        raise MgmtError("node-lost", text, node=node.name)
    state.roster.push(node, "shutdown", {"fast": body.force}, out)
    return node_body(state, now, node)


@handles("node-wait")
def _node_wait(state: State, now: Now, asked: Asked, body: msg.NodeWait, out: list[fx.Effect]) -> Body:
    node = state.roster.nodes.get(body.node)
    if node is None and body.condition != "alive":
        state.roster.get(body.node)  # says that there is none; one that is to come may be waited for
    if node is not None and _is_met(state, node, body.condition):
        return node_body(state, now, node)
    state.sessions.park(now, asked, out)
    state.node_waiters[asked.route] = (body.node, body.condition)
    return None


@handles("node-tags")
def _node_tags(state: State, now: Now, asked: Asked, body: msg.NodeTags, out: list[fx.Effect]) -> Body:
    node = _of_operator(state, body.node)
    state.roster.retag(node, frozenset(body.add), frozenset(body.remove))
    state.supervisor.on_nodes_changed()
    state.board.match(now, out)
    return node_body(state, now, node)


def _of_operator(state: State, name: str) -> Node:
    if name == LOCAL:
        raise MgmtError("not-available", f"{LOCAL!r} is this daemon's own machine, not the node of an agent")
    node = state.roster.get(name)
    if node.worker is not None:
        text = f"{name!r} is an independent worker, and no node; `mgmt worker --help` shows what can be done"
        raise MgmtError("not-available", text)
    return node


def _cordon(state: State, node: Node, cordoned: bool) -> None:
    node.cordoned = cordoned
    state.roster.dirty.add(node.name)
    state.supervisor.on_nodes_changed()


def _is_met(state: State, node: Node, condition: str) -> bool:
    if condition == "drained":
        return _is_drained(state, node)
    return node.state is {"alive": NodeState.ALIVE, "lost": NodeState.LOST}[condition]


def _answer_waiters(state: State, now: Now, out: list[fx.Effect]) -> None:
    for route, (name, condition) in list(state.node_waiters.items()):
        node = state.roster.nodes.get(name)
        if node is not None and _is_met(state, node, condition):
            del state.node_waiters[route]
            state.sessions.answer(route, frames.Outcome.OK, node_body(state, now, node), out)
