"""Operations on tasks that were submitted before."""

from __future__ import annotations

from typing import Any

from mgmt.core.suites import operations as ops
from mgmt.core.suites.states import ENDED, SUITE_EDGES, Suite, SuiteEvent, Task
from mgmt.protocol.errors import MgmtError
from mgmt.store.queue import blobs, dependents, queries, refusals, suites
from mgmt.store.queue.connection import Connection
from mgmt.store.queue.counting import Moves
from mgmt.store.queue.tables import Flag

_PARTS = 10_000  # tasks of one statement


def cancel_tasks(db: Connection, op: ops.CancelTasks) -> ops.Cancelled:
    source, parameters = queries.conditions(db, op.filter)
    joined = " AND " if " WHERE " in source else " WHERE "
    moves = Moves()
    waiting = [
        task for (task,) in db.rows(f"SELECT t.id{source}{joined}t.state IN (0, 1) ORDER BY t.id", parameters)
    ]
    for start in range(0, len(waiting), _PARTS):
        some = dict.fromkeys(waiting[start : start + _PARTS], op.reason)
        awaited = dependents.cancel_waiting(db, some, op.now_ms, moves)
        dependents.settle(db, awaited, op.now_ms, moves)
    count = moves.cancelled()
    running: tuple[ops.Held, ...] = ()
    if op.running:
        ids = [task for (task,) in db.rows(f"SELECT t.id{source}{joined}t.state = 2", parameters)]
        held = db.rows(
            f"SELECT holder, id, attempt FROM tasks WHERE state = 2 AND id {db.AMONG} ORDER BY id" + db.LOCK,
            (db.ids(ids),),
        )
        running = suites.mark_running(db, held)
    return ops.Cancelled(count, running, moves.flush(db, op.now_ms))


def change_task(db: Connection, op: ops.ChangeTask) -> ops.Counts:
    lane, state, flags = _locked(db, op.task)
    if state not in (Task.PENDING, Task.READY):
        raise MgmtError(
            "conflict",
            f"task {op.task} is {state.name.capitalize()}: only one that nobody has begun can be changed",
        )
    if op.priority is not None:
        db.change("UPDATE tasks SET priority = ? WHERE id = ?", (op.priority, op.task))
    if op.labels is not None:
        db.change("DELETE FROM labels WHERE task = ?", (op.task,))
        labels = sorted(set(op.labels))
        if labels:
            db.insert("labels", "label, task", [(label, op.task) for label in labels])
        flags = flags & ~Flag.LABELS | (Flag.LABELS if labels else 0)
        db.change("UPDATE tasks SET flags = ? WHERE id = ?", (int(flags), op.task))
    return _counts(db, lane, op.now_ms)


def retry_task(db: Connection, op: ops.RetryTask) -> ops.Counts:
    lane, state, flags = _locked(db, op.task)
    if state not in ENDED:
        raise MgmtError(
            "conflict",
            f"task {op.task} is {state.name.capitalize()}: only one that has ended can be tried again",
        )
    ((is_suite, lane_state),) = db.rows("SELECT is_suite, state FROM lanes WHERE id = ?" + db.LOCK, (lane,))
    if is_suite and (Suite(lane_state), SuiteEvent.SUBMITTED) not in SUITE_EDGES:
        raise MgmtError(
            "conflict", f"suite {lane} of task {op.task} is cancelled, which is final; submit it anew"
        )
    if flags & Flag.STRUCK:
        db.change("DELETE FROM failures WHERE task = ?", (op.task,))
    if flags & Flag.RETRY:
        db.change("UPDATE retries SET used = 0 WHERE task = ?", (op.task,))
    kept = flags & (Flag.LABELS | Flag.RETRY)
    if op.labels:
        kept |= Flag.LABELS
        rows = [(label, op.task) for label in op.labels]
        db.many("INSERT INTO labels (label, task) VALUES (?, ?) ON CONFLICT DO NOTHING", rows)
    db.change(
        "UPDATE tasks SET state = 1, flags = ?, blocked = 0, holder = NULL, exit_status = NULL, message = NULL, "
        "detail = NULL, started_ms = NULL, finished_ms = NULL WHERE id = ?",
        (int(kept), op.task),
    )
    moves = Moves()
    moves.reopen(lane)
    moves.move(lane, state, Task.READY)
    return moves.flush(db, op.now_ms)[0]


def _locked(db: Connection, task: int) -> tuple[int, Task, int]:
    """Lane, state and flags."""
    rows = db.rows("SELECT lane, state, flags FROM tasks WHERE id = ?" + db.LOCK, (task,))
    if not rows:
        raise refusals.unknown_task(task)
    lane, state, flags = rows[0]
    return lane, Task(state), flags


def _counts(db: Connection, lane: int, now_ms: int) -> ops.Counts:
    moves = Moves()
    moves.touch(lane)
    return moves.flush(db, now_ms)[0]


# ---- forgetting -------------------------------------------------------------------------------------------

_OLD_SUITE = (
    "SELECT l.id FROM lanes l JOIN suites s ON s.id = l.id WHERE l.pending = 0 AND l.state IN (2, 3) "
    "AND s.completed_ms > 0 AND s.completed_ms < ? ORDER BY l.id LIMIT 1"
)
_OLD_TASKS = (
    "SELECT t.id, t.state FROM submissions s JOIN tasks t ON t.id BETWEEN s.first AND s.first + s.count - 1 "
    "WHERE s.lane = ?"
)


def prune(db: Connection, op: ops.Prune) -> ops.Pruned:
    """Suites that are over first, then independent tasks that have ended."""
    left = op.most
    gone: list[int] = []
    moves = Moves()
    while left > 0:
        found = db.rows(_OLD_SUITE + db.LOCK, (op.before_ms,))
        if not found:
            break
        lane = found[0][0]
        count = _forget(db, lane, db.rows(f"{_OLD_TASKS} LIMIT ?", (lane, left)), None)
        left -= count
        if left > 0:
            for sql in ("DELETE FROM submissions WHERE lane = ?", "DELETE FROM suites WHERE id = ?",
                        "DELETE FROM lanes WHERE id = ?"):  # fmt: skip
                db.change(sql, (lane,))
            gone.append(lane)
    for (lane,) in db.rows("SELECT id FROM lanes WHERE is_suite = 0 AND total > pending ORDER BY id"):
        if left <= 0:
            break
        old = f"{_OLD_TASKS} AND t.state IN (3, 4, 6) AND t.finished_ms < ? ORDER BY s.first, t.id LIMIT ?"
        left -= _forget(db, lane, db.rows(old, (lane, op.before_ms, left)), moves)
        db.change(
            "DELETE FROM submissions WHERE lane = ? AND at_ms < ? AND NOT EXISTS (SELECT 1 FROM tasks t "
            "WHERE t.id BETWEEN submissions.first AND submissions.first + submissions.count - 1)",
            (lane, op.before_ms),
        )
    moves.flush(db, op.now_ms)
    db.change(
        "DELETE FROM holders WHERE ended_ms > 0 AND ended_ms < ? AND NOT EXISTS "
        "(SELECT 1 FROM lanes l WHERE l.id = holders.suite)",
        (op.before_ms,),
    )
    return ops.Pruned(op.most - left, tuple(gone), left <= 0)


def _forget(db: Connection, lane: int, rows: list[tuple[Any, ...]], moves: Moves | None) -> int:
    """Delete these tasks and all that is said of them."""
    if rows:
        ids = db.ids([task for task, _ in rows])
        for table, column in (("retries", "task"), ("failures", "task"), ("labels", "task"), ("tasks", "id")):
            db.change(f"DELETE FROM {table} WHERE {column} {db.AMONG}", (ids,))
        blobs.forget_tasks(db, ids)
    if moves is not None:
        for _, state in rows:
            moves.move(lane, Task(state), None)
    return len(rows)
