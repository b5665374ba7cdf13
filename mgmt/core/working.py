"""What users ask about workers: who they are, what they do, and that they pause or end."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from mgmt.core import effect as fx
from mgmt.core.cluster import ask_node
from mgmt.core.event import Asked, Now
from mgmt.core.nodes import Node, NodeState
from mgmt.core.state import Ask, State
from mgmt.core.suites.holding import Holding
from mgmt.core.suites.pool import Phase
from mgmt.core.suiting import entry_of, may_read
from mgmt.core.supervision import LOCAL
from mgmt.core.verbs import Body, handles
from mgmt.protocol import frames
from mgmt.protocol import messages_suites as msg
from mgmt.protocol.errors import MgmtError
from mgmt.protocol.table import Role


@handles("workers")
def _workers(state: State, now: Now, asked: Asked, body: msg.Workers, out: list[fx.Effect]) -> Body:
    if state.agent is not None:
        return {"workers": _of_crew(state, now), "unreachable": []}
    suite = entry_of(state, body.suite).number if body.suite is not None else None
    rows: list[dict[str, Any]] = []
    if suite is None and body.independent is not False:
        nodes = _chosen(state, asked, body, Role.READ)
        rows = [
            _worker_body(state, node)
            for node in nodes
            if body.node in (None, node.name, node.facts.get("host", ""))
        ]
    holdings = []
    if body.independent is not True and not body.tags and body.group is None:
        if body.node is not None and body.node != LOCAL and not rows:
            state.roster.get(body.node)  # says that there is none
        holdings = [
            holding
            for holding in state.board.holdings.values()
            if suite in (None, holding.suite)
            and body.node in (None, holding.node)
            and (entry := state.board.entries.get(holding.suite)) is not None
            and may_read(state, asked, entry.record.group)
        ]
    return _gather(state, now, asked, body, rows, holdings, out)


def _gather(
    state: State,
    now: Now,
    asked: Asked,
    body: msg.Workers,
    rows: list[dict[str, Any]],
    holdings: list[Holding],
    out: list[fx.Effect],
) -> Body:
    """The workers of these nodes besides `rows`; the answer comes when the last node has told, or cannot."""
    waits = {holding.node: holding.suite for holding in holdings}
    unreachable: list[dict[str, str]] = []

    def take(node: str, answer: dict[str, Any] | MgmtError) -> None:
        suite = waits.pop(node)
        try:
            told = msg.WorkersReply.model_validate(answer) if not isinstance(answer, MgmtError) else answer
        except ValidationError:
            told = MgmtError("bad-body", "it tells of its workers in another way: is it of the same version?")
        if isinstance(told, MgmtError):
            unreachable.append({"node": node, "reason": told.text})
            return
        for row in told.model_dump()["workers"]:
            if row["suite"] == suite and (not body.workers or row["worker"] in body.workers):
                rows.append(row | {"node": node})

    def reply() -> dict[str, Any]:
        order = sorted(rows, key=lambda row: (row["independent"], row["node"] != LOCAL, row["node"]))
        return {"workers": order, "unreachable": unreachable}

    def of(node: str) -> Ask:
        def then(answer: dict[str, Any] | MgmtError, out: list[fx.Effect]) -> None:
            take(node, answer)
            if not waits:
                state.sessions.answer(asked.route, frames.Outcome.OK, reply(), out)

        return Ask(asked.route, node, then)

    if LOCAL in waits:
        take(LOCAL, {"workers": _of_crew(state, now)})
    there: list[Node] = []
    for name in list(waits):
        node = state.roster.nodes.get(name)
        if node is not None and node.peer and node.state is NodeState.ALIVE:
            there.append(node)
        else:
            why = f"it is {node.state}: {node.reason}" if node is not None else "it is gone"
            take(name, MgmtError("node-lost", why, node=name))
    if not there:
        return reply()
    state.sessions.park(now, asked, out)
    for node in there:
        ask_node(state, node, of(node.name), "workers", {}, 0, out)
    return None


def _chosen(state: State, asked: Asked, body: msg.WorkerFilter, role: Role) -> list[Node]:
    """Independent workers that a filter means, among those on which whoever asks has the role."""
    known = state.roster.nodes
    names = body.workers or [name for name in sorted(known) if known[name].worker is not None]
    nodes = [known[name] for name in names if name in known and known[name].worker is not None]
    return [
        node
        for node in nodes
        if node.tags.issuperset(body.tags)
        and (body.group is None or state.users.may_send(body.group, "worker", node.name))
        and (asked.by.is_administrator or state.users.may(asked.by.user, "worker", node.name, role))
    ]


def _worker(state: State, name: str) -> Node:
    node = state.roster.nodes.get(name)
    if node is None or node.worker is None:
        text = f"no independent worker {name!r} has joined; `mgmt worker list` shows those that did"
        raise MgmtError("unknown-node", text, worker=name)
    return node


def _worker_body(state: State, node: Node) -> dict[str, Any]:
    """A WorkerStatus of an independent worker."""
    assert node.worker is not None
    holding, count = state.board.holdings.get(node.name), node.worker["worker_count"]
    gone = node.state is not NodeState.ALIVE
    given_up = state.board.given_up.get(node.name, "")
    if gone or given_up:
        where = "down"
    elif node.retiring or node.leaving or (holding is not None and holding.ending is not None):
        where = "stopping"
    elif holding is None or holding.phase is not Phase.EXECUTING:
        where = "starting"
    else:
        where = "idle" if holding.is_idle and not holding.busy else "busy"
    return {
        "worker": node.name,
        "node": node.facts.get("host", ""),
        "suite": None,
        "state": where,
        "task": None,
        "done": holding.done if holding is not None else 0,
        "pid": node.pid,
        "started_at": node.started_at or None,
        "cpus": [],
        "tags": sorted(node.tags),
        "independent": True,
        "kind": node.worker["kind"],
        "workers": count,
        "roles": {
            group.name: str(group.grants["worker"][node.name])
            for group in state.users.groups.values()
            if node.name in group.grants["worker"] and not group.deleted
        },
        "reason": node.reason if gone else given_up,
    }


@handles("worker-shutdown")
def _worker_shutdown(
    state: State, now: Now, asked: Asked, body: msg.WorkerShutdown, out: list[fx.Effect]
) -> Body:
    if not (body.workers or body.tags or body.group):
        raise MgmtError("bad-body", "say which workers: give names, tags or a group")
    for name in body.workers:
        _worker(state, name)
    rows = []
    for node in _chosen(state, asked, body, Role.ADMIN):
        state.board.retire(now, node, body.force, out)
        rows.append(_worker_body(state, node))
        if node.state is NodeState.LOST:
            state.roster.forget(node, out)
            state.board.metrics.forget(node.name)
            state.users.retire("worker", node.name)
    return {"workers": rows}


@handles("worker-tags")
def _worker_tags(state: State, now: Now, asked: Asked, body: msg.WorkerTags, out: list[fx.Effect]) -> Body:
    node = _worker(state, body.worker)
    state.roster.retag(node, frozenset(body.add), frozenset(body.remove))
    state.board.look_again(now, out)
    return {"workers": [_worker_body(state, node)]}


def _of_crew(state: State, now: Now) -> list[dict[str, Any]]:
    """WorkerStatus of the workers on this machine that serve a suite, or this independent worker."""
    crew = state.crew
    if crew.assignment is None:
        return []
    rows = []
    for slot in crew.pool.slots.values():
        unit = state.supervisor.units.get(slot.unit)
        busy = next(iter(slot.tasks), None)
        up = unit is not None and unit.pid is not None
        rows.append(
            {
                "worker": slot.unit,
                "node": crew.assignment.node,
                "suite": crew.assignment.suite or None,
                "state": "down"
                if not up
                else "starting"
                if not slot.connection
                else "busy"
                if busy is not None
                else "paused"
                if crew.pool.paused
                else "idle",
                "task": busy,
                "done": slot.done,
                "pid": unit.pid if unit is not None else None,
                "started_at": _epoch_s(now, unit.started_ns) if unit is not None and up else None,
                "cpus": list(unit.place.cpus) if unit is not None else [],
                "tags": [],
                "kind": crew.assignment.worker["kind"],
                "reason": unit.reason if unit is not None and not up else "",
            }
        )
    return rows


def _epoch_s(now: Now, mono_ns: int) -> float:
    return now.real_s - (now.mono_ns - mono_ns) / 1e9


@handles("worker-pause")
def _worker_pause(state: State, now: Now, asked: Asked, body: msg.WorkerPause, out: list[fx.Effect]) -> Body:
    if body.node == LOCAL:
        state.crew.pause(now, body.paused, out)
    else:
        state.roster.push(state.roster.get(body.node), "suite-pause", {"paused": body.paused}, out)
    (state.board.paused.add if body.paused else state.board.paused.discard)(body.node)
    return {"workers": []}
