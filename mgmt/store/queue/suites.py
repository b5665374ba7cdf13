"""Operations on suites and lanes."""

from __future__ import annotations

import json

from mgmt.core.suites import operations as ops
from mgmt.core.suites.states import SUITE_EDGES, Suite, SuiteEvent, Task
from mgmt.protocol.errors import MgmtError
from mgmt.store.queue import dependents, queries, refusals
from mgmt.store.queue.connection import Connection
from mgmt.store.queue.counting import Moves, counts_of
from mgmt.store.queue.tables import Flag


def create_suite(db: Connection, op: ops.CreateSuite) -> ops.SuiteRecord:
    if op.key:
        known = db.rows(
            "SELECT id FROM suites WHERE creator = ? AND request = ? AND request <> ''", (op.creator, op.key)
        )
        if known:
            return queries.get_suite(db, ops.GetSuite(known[0][0]))
    suite = db.take("lane", 1)
    _insert_lane(db, suite, 1, op.group, op.tags, op.priority, op.now_ms)
    db.change(
        "INSERT INTO suites (id, name, creator, labels, record, request) VALUES (?, ?, ?, ?, ?, ?)",
        (suite, op.name, op.creator, as_set(op.labels), op.record, op.key),
    )
    return queries.get_suite(db, ops.GetSuite(suite))


def open_lane(db: Connection, op: ops.OpenLane) -> ops.LaneRecord:
    wanted = "is_suite = 0 AND group_name = ? AND tags = ?"
    found = queries.lanes(db, wanted, (op.group, as_set(op.tags)))
    if not found:
        lane = db.take("lane", 1)
        _insert_lane(db, lane, 0, op.group, op.tags, 0, op.now_ms)
        found = queries.lanes(db, "id = ?", (lane,))
    return found[0]


def change_suite(db: Connection, op: ops.ChangeSuite) -> ops.SuiteRecord:
    _locked(db, op.suite)
    if op.priority is not None:
        db.change("UPDATE lanes SET priority = ? WHERE id = ?", (op.priority, op.suite))
    if op.labels is not None:
        db.change("UPDATE suites SET labels = ? WHERE id = ?", (as_set(op.labels), op.suite))
    if op.record is not None:
        db.change("UPDATE suites SET record = ? WHERE id = ?", (op.record, op.suite))
    return queries.get_suite(db, ops.GetSuite(op.suite))


def close_suite(db: Connection, op: ops.CloseSuite) -> ops.Counts:
    counts = _locked(db, op.suite)
    if counts.state == Suite.CLOSED:
        return counts
    if (Suite(counts.state), SuiteEvent.CLOSED) not in SUITE_EDGES:
        state = Suite(counts.state).name.capitalize()
        raise MgmtError(
            "conflict",
            f"suite {op.suite} is {state}: only an open one can be closed; "
            f"`mgmt suite status {op.suite}` tells more",
        )
    db.change("UPDATE lanes SET state = ? WHERE id = ?", (Suite.CLOSED, op.suite))
    moves = Moves()
    moves.touch(op.suite)
    return moves.flush(db, op.now_ms)[0]


def cancel_suite(db: Connection, op: ops.CancelSuite) -> ops.Cancelled:
    """Dependents of other suites are cancelled with what they wait for."""
    counts = _locked(db, op.suite)
    moves = Moves()
    moves.touch(op.suite)
    cancelled = 0
    if counts.state != Suite.CANCELLED:
        db.change("UPDATE lanes SET state = ? WHERE id = ?", (Suite.CANCELLED, op.suite))
        ended = op.now_ms if not counts.pending else 0
        db.change("UPDATE suites SET reason = ?, completed_ms = ? WHERE id = ?", (op.reason, ended, op.suite))
        upstream = [
            task
            for state in (Task.READY, Task.PENDING)
            for (task,) in db.rows(
                f"SELECT id FROM tasks WHERE lane = ? AND state = {state:d} AND flags & {Flag.DEPENDENTS:d} <> 0",
                (op.suite,),
            )
        ]
        db.change(
            "DELETE FROM deps WHERE task IN (SELECT id FROM tasks WHERE lane = ? AND state = 0)", (op.suite,)
        )
        for state in (Task.READY, Task.PENDING):
            count = db.change(
                "UPDATE tasks SET state = 4, blocked = 0, due_ms = NULL, finished_ms = ?, message = ? "
                f"WHERE lane = ? AND state = {state:d}",
                (op.now_ms, op.reason or None, op.suite),
            )
            moves.move(op.suite, state, Task.CANCELLED, count)
            cancelled += count
        cancelled += dependents.settle(
            db, [(task, Task.CANCELLED, None) for task in upstream], op.now_ms, moves
        )
    running: tuple[ops.Held, ...] = ()
    if op.running:
        held = db.rows(
            "SELECT holder, id, attempt FROM tasks WHERE state = 2 AND holder IN "
            "(SELECT id FROM holders WHERE suite = ? AND ended_ms = 0) ORDER BY id" + db.LOCK,
            (op.suite,),
        )
        running = mark_running(db, held)
    return ops.Cancelled(cancelled, running, moves.flush(db, op.now_ms))


def mark_running(db: Connection, held: list[tuple[int, int, int]]) -> tuple[ops.Held, ...]:
    """Tell the holders of these running tasks, with their next word, to end them."""
    if held:
        flag = f"flags = flags | {Flag.CANCELLING:d}"
        db.change(f"UPDATE tasks SET {flag} WHERE id {db.AMONG}", (db.ids(task for _, task, _ in held),))
        holders = sorted({holder for holder, _, _ in held})
        db.change(f"UPDATE holders SET cancelling = 1 WHERE id {db.AMONG}", (db.ids(holders),))
    return tuple(ops.Held(*one) for one in held)


def as_set(words: tuple[str, ...]) -> str:
    """How a set of tags or labels is stored."""
    return json.dumps(sorted(set(words)), ensure_ascii=False)


def _locked(db: Connection, suite: int) -> ops.Counts:
    found = db.rows("SELECT id FROM lanes WHERE id = ? AND is_suite = 1" + db.LOCK, (suite,))
    counts = counts_of(db, suite) if found else None
    if counts is None:
        raise refusals.unknown_suite(suite)
    return counts


def _insert_lane(
    db: Connection, lane: int, is_suite: int, group: str, tags: tuple[str, ...], priority: int, now_ms: int
) -> None:
    db.change(
        "INSERT INTO lanes (id, is_suite, state, group_name, tags, priority, created_ms, submitted_ms) "
        "VALUES (?, ?, 0, ?, ?, ?, ?, ?)",
        (lane, is_suite, group, as_set(tags), priority, now_ms, now_ms),
    )
