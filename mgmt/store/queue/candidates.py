"""Operations on what is kept of candidates, and on the tasks that they became."""

from __future__ import annotations

from mgmt.core.suites import candidate_rows as kept
from mgmt.core.suites.states import Task
from mgmt.store.queue.connection import Connection

_PUT = (
    "INSERT INTO candidate_rows (kind, name, record) VALUES (?, ?, ?) "
    "ON CONFLICT (kind, name) DO UPDATE SET record = excluded.record"
)


def put_rows(db: Connection, op: kept.PutRows) -> kept.Changed:
    if op.forget:
        db.change("DELETE FROM candidate_rows")
    if op.gone:
        db.many("DELETE FROM candidate_rows WHERE kind = ? AND name = ?", op.gone)
    if op.rows:
        db.many(_PUT, op.rows)
    return kept.Changed(len(op.rows))


def get_rows(db: Connection, op: kept.GetRows) -> kept.Rows:
    rows = db.rows(
        "SELECT kind, name, record FROM candidate_rows WHERE (kind, name) > (?, ?) ORDER BY kind, name LIMIT ?",
        (*op.after, op.limit),
    )
    return kept.Rows(tuple(kept.Row(kind, name, bytes(record)) for kind, name, record in rows))


def record_run(db: Connection, op: kept.RecordRun) -> kept.Changed:
    if op.row is not None:
        db.many(_PUT, [op.row])
    return kept.Changed(db.change("DELETE FROM labels WHERE label = ? AND task = ?", (op.label, op.task)))


def change_priorities(db: Connection, op: kept.ChangePriorities) -> kept.Changed:
    rows = [(priority, task, int(Task.READY)) for task, priority in op.changes]
    return kept.Changed(
        db.many("UPDATE tasks SET priority = ? WHERE id = ? AND state = ?", rows) if rows else 0
    )
