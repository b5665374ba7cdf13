"""What users ask about task suites: create, submit, list, cancel, wait; and who is at work on them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mgmt.core import effect as fx
from mgmt.core.event import ADMINISTRATOR, Asked, Now
from mgmt.core.state import State
from mgmt.core.suites import operations as op
from mgmt.core.suites.entry import Entry
from mgmt.core.suites.identity import Kind
from mgmt.core.suites.pool import Ending
from mgmt.core.suites.states import Suite
from mgmt.core.supervision import LOCAL
from mgmt.core.verbs import Body, handles, later, refuse_while_stopping
from mgmt.protocol import frames
from mgmt.protocol import messages_suites as msg
from mgmt.protocol.errors import MgmtError
from mgmt.protocol.table import Role

# ---- whose it is ----


def owner(state: State, asked: Asked, group: str | None) -> tuple[str, str]:
    """The group that something new belongs to, and who makes it; MgmtError `denied` without the right to."""
    user = asked.by.user or ADMINISTRATOR
    state.users.require(asked, group=group or user, role=Role.WRITE)
    return group or user, user


def require(state: State, asked: Asked, group: str, role: str) -> None:
    """MgmtError `denied` without this role in the group of something; the group may be deleted by now."""
    if not asked.by.is_administrator:
        state.users.require(asked, group=group, role=Role[role.upper()])


def may_read(state: State, asked: Asked, group: str) -> bool:
    groups = groups_of(state, asked, "read")
    return groups is None or group in groups


def groups_of(state: State, asked: Asked, role: str) -> frozenset[str] | None:
    """The groups in which the asker has the role; None: all."""
    if asked.by.is_administrator:
        return None
    wanted = Role[role.upper()]
    user = asked.by.user
    return frozenset(group.name for group in state.users.groups_of(user) if group.members[user] >= wanted)


def entry_of(state: State, key: str) -> Entry:
    entry = state.board.find(key)
    if entry is None:
        text = f"no suite {key!r} is known; `mgmt suite list` shows those there are"
        raise MgmtError("unknown-suite", text, suite=key)
    return entry


# ---- suites ----------------------------------------------------------------------------------------------


def counters(counts: op.Counts) -> dict[str, int]:
    """A SuiteCounters."""
    return {name: getattr(counts, name) for name in msg.SuiteCounters.model_fields}


def suite_body(state: State, entry: Entry) -> dict[str, Any]:
    """A SuiteStatus."""
    record, board = entry.record, state.board
    return {
        "suite": record.suite,
        "uuid": board.uuid(Kind.SUITE, record.suite),
        "name": record.name,
        "description": entry.description,
        "group": record.group,
        "creator": record.creator,
        "state": Suite(entry.counts.state).name,
        "reason": record.reason,
        "priority": record.priority,
        "tags": list(record.tags),
        "labels": list(record.labels),
        "worker": entry.worker,
        "hooks": entry.hooks,
        "tasks": counters(entry.counts),
        "nodes": [_node_body(state, entry, node) for node in _nodes_of(state, entry)],
        "created_at": record.created_ms / 1000,
        "submitted_at": entry.submitted_ms / 1000 if entry.submitted_ms else None,
        "completed_at": entry.completed_ms / 1000 if entry.completed_ms else None,
    }


def _nodes_of(state: State, entry: Entry) -> list[str]:
    at_work = {holding.node for holding in state.board.holdings.values() if holding.suite == entry.number}
    return sorted({*state.board.eligible(entry), *at_work, *entry.refused})


def _node_body(state: State, entry: Entry, node: str) -> dict[str, Any]:
    holding = state.board.holdings.get(node)
    at_work = holding is not None and holding.suite == entry.number
    return {
        "node": node,
        "selection": "specified" if node in entry.added else "matched",
        "phase": str(holding.phase) if at_work and holding is not None else "",
        "workers": entry.worker["worker_count"] if at_work else 0,
        "reason": (holding.reason if at_work and holding is not None else "") or entry.refused.get(node, ""),
    }


@handles("suite-create")
def _create(state: State, now: Now, asked: Asked, body: msg.SuiteCreate, out: list[fx.Effect]) -> Body:
    refuse_while_stopping(state)
    group, creator = owner(state, asked, body.group)
    if body.name is not None:
        if body.name.isdigit():
            raise MgmtError("bad-body", f"name {body.name!r} is a number, which a suite has anyway")
        other = state.board.find(body.name)
        if other is not None and other.is_live:
            text = (
                f"suite {other.number} has the name {body.name!r}; cancel or complete it, or use another name"
            )
            raise MgmtError("conflict", text, suite=other.number)
    extra = {
        "description": body.description,
        "worker": body.worker.model_dump(),
        "hooks": body.hooks.model_dump(),
        "added": [],
        "removed": [],
    }
    create = op.CreateSuite(
        group,
        creator,
        now.real_ms,
        name=body.name or "",
        tags=tuple(sorted(set(body.tags))),
        labels=tuple(sorted(set(body.labels))),
        priority=body.priority,
        record=frames.pack_body(extra),
    )

    def reply(now: Now, record: op.SuiteRecord, out: list[fx.Effect]) -> dict[str, Any]:
        state.board.metrics.add("suites_created_total")
        return suite_body(state, state.board.adopt(record))

    later(state, now, asked, create, reply, out)
    return None


@handles("suites")
def _suites(state: State, now: Now, asked: Asked, body: msg.Suites, out: list[fx.Effect]) -> Body:
    entries = [entry_of(state, key) for key in body.suites] or list(state.board.entries.values())
    wanted = [
        entry for entry in entries if _matches(body, entry) and may_read(state, asked, entry.record.group)
    ]
    wanted.sort(key=lambda entry: -entry.number)
    chosen = wanted[body.offset : body.offset + body.limit]
    return {"suites": [suite_body(state, entry) for entry in chosen], "total": len(wanted)}


def _matches(body: msg.Suites, entry: Entry) -> bool:
    return (
        (body.group is None or body.group == entry.record.group)
        and set(body.tags) <= set(entry.record.tags)
        and set(body.labels) <= set(entry.record.labels)
        and (not body.states or Suite(entry.counts.state).name in body.states)
    )


def _refreshed(state: State, now: Now, asked: Asked, entry: Entry, out: list[fx.Effect]) -> None:
    """Read the suite's record again and answer with its status."""

    def reply(now: Now, record: op.SuiteRecord, out: list[fx.Effect]) -> dict[str, Any]:
        entry.renew(record)
        entry.counts = record.counts
        return suite_body(state, entry)

    later(state, now, asked, op.GetSuite(entry.number), reply, out)


@handles("suite-cancel")
def _cancel(state: State, now: Now, asked: Asked, body: msg.SuiteCancel, out: list[fx.Effect]) -> Body:
    entry = entry_of(state, body.suite)
    require(state, asked, entry.record.group, "write")
    cancel = op.CancelSuite(entry.number, now.real_ms, body.reason, body.cancel_running)

    def cancelled(now: Now, result: op.Cancelled, out: list[fx.Effect]) -> None:
        state.board.cancel_running(now, result.running, out)

        def reply(now: Now, record: op.SuiteRecord, out: list[fx.Effect]) -> dict[str, Any]:
            entry.renew(record)
            entry.counts = record.counts
            return {"suite": suite_body(state, entry), "cancelled": result.count}

        later(state, now, asked, op.GetSuite(entry.number), reply, out)

    later(state, now, asked, cancel, cancelled, out)
    return None


@handles("suite-close")
def _close(state: State, now: Now, asked: Asked, body: msg.SuiteClose, out: list[fx.Effect]) -> Body:
    entry = entry_of(state, body.suite)
    require(state, asked, entry.record.group, "write")

    def reply(now: Now, counts: op.Counts, out: list[fx.Effect]) -> dict[str, Any]:
        return suite_body(state, entry)

    later(state, now, asked, op.CloseSuite(entry.number, now.real_ms), reply, out)
    return None


@handles("suite-wait")
def _wait(state: State, now: Now, asked: Asked, body: msg.SuiteWait, out: list[fx.Effect]) -> Body:
    entry = entry_of(state, body.suite)
    require(state, asked, entry.record.group, "read")

    def is_met(entry: Entry) -> bool:
        where = Suite(entry.counts.state)
        if body.condition == "progress":
            return body.seen is None or counters(entry.counts) != body.seen.model_dump()
        if body.condition == "complete":
            return where is Suite.COMPLETE
        return where is Suite.COMPLETE or (where is Suite.CANCELLED and not entry.counts.pending)

    if is_met(entry):
        return suite_body(state, entry)
    if body.condition == "complete" and entry.counts.state == Suite.CANCELLED:
        raise MgmtError("cancelled", f"suite {entry.number} is cancelled: it will not be complete")
    state.sessions.park(now, asked, out)

    def look(now: Now, entry: Entry, out: list[fx.Effect]) -> bool:
        if asked.route not in state.sessions.calls:
            return True
        if not is_met(entry):
            return False
        state.sessions.answer(asked.route, frames.Outcome.OK, suite_body(state, entry), out)
        return True

    waiters = state.board.suite_waiters.setdefault(entry.number, [])
    waiters[:] = [waiter for waiter in waiters if not waiter(now, entry, out)]  # who gave up is forgotten
    waiters.append(look)
    return None


@handles("suite-refresh")
def _refresh(state: State, now: Now, asked: Asked, body: msg.SuiteRefresh, out: list[fx.Effect]) -> Body:
    entry = entry_of(state, body.suite)
    require(state, asked, entry.record.group, "write")
    before = set(state.board.eligible(entry))
    entry.refused.clear()
    state.board.match(now, out)
    after = set(state.board.eligible(entry))
    return _agents_body(state, entry, after - before, before - after, {})


@handles("suite-agents")
def _agents(state: State, now: Now, asked: Asked, body: msg.SuiteAgents, out: list[fx.Effect]) -> Body:
    entry = entry_of(state, body.suite)
    require(state, asked, entry.record.group, "write")
    before = set(state.board.eligible(entry))
    rejected: dict[str, str] = {}
    for node in body.add:
        if node != LOCAL and node not in state.roster.nodes:
            rejected[node] = "no node of this name has ever joined"
        elif node != LOCAL and state.roster.nodes[node].worker is not None:
            rejected[node] = "it is an independent worker, and those take no suites"
        elif not state.users.may_send(entry.record.group, "node", node):
            rejected[node] = f"group {entry.record.group!r} may not send work to it"
        else:
            entry.added.add(node)
            entry.removed.discard(node)
            entry.refused.pop(node, None)
    for node in body.remove:
        entry.added.discard(node)
        entry.removed.add(node)

    def reply(now: Now, record: op.SuiteRecord, out: list[fx.Effect]) -> dict[str, Any]:
        entry.renew(record)
        for node in body.remove:
            holding = state.board.holdings.get(node)
            if holding is not None and holding.suite == entry.number and holding.ending is None:
                state.board.end(now, holding, Ending.FINISH, "the node was taken off the suite", out)
        state.board.match(now, out)
        after = set(state.board.eligible(entry))
        return _agents_body(state, entry, after - before, set(body.remove), rejected)

    later(state, now, asked, op.ChangeSuite(entry.number, now.real_ms, record=entry.packed()), reply, out)
    return None


def _agents_body(
    state: State, entry: Entry, added: Iterable[str], removed: Iterable[str], rejected: dict[str, str]
) -> dict[str, Any]:
    return {
        "added": sorted(added),
        "removed": sorted(removed),
        "rejected": rejected,
        "nodes": [_node_body(state, entry, node) for node in _nodes_of(state, entry)],
    }
