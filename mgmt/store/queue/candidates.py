"""Operations on what is kept of candidates, and on the tasks that they became."""

from __future__ import annotations

from itertools import count

from mgmt.core.suites import candidate_rows as kept
from mgmt.core.suites import operations as ops
from mgmt.core.suites.states import Task
from mgmt.store.queue import refusals, submitting
from mgmt.store.queue.connection import Connection
from mgmt.store.queue.counting import counts_of

_NAMES = 1000  # of one statement
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


def submit_new(db: Connection, op: kept.SubmitNew) -> kept.SubmittedNew:
    # Whoever submits to another suite waits here, too; what it committed is seen by the statements after this one.
    db.rows("SELECT value FROM meta WHERE name = 'queue_id'" + db.LOCK)
    names = [name for name, _, _ in op.tasks]
    there: set[str] = set()
    for start in range(0, len(names), _NAMES):
        some = names[start : start + _NAMES]
        sql = (
            "SELECT b.label FROM labels b JOIN tasks t ON t.id = b.task "
            f"WHERE b.label IN ({', '.join('?' * len(some))}) AND t.state IN (0, 1, 2)"
        )
        there.update(name for (name,) in db.rows(sql, some))
    new = [
        ops.NewTask(spec, priority, ops.Extra((op.label, name)))
        for name, priority, spec in op.tasks
        if name not in there
    ]
    if not new:
        counts = counts_of(db, op.lane)
        if counts is None:
            raise refusals.unknown_lane(op.lane)
        return kept.SubmittedNew((0,) * len(names), counts)
    done = submitting.submit(db, ops.Submit(op.lane, new, op.creator, op.now_ms))
    numbers = count(done.first)
    return kept.SubmittedNew(tuple(0 if name in there else next(numbers) for name in names), done.counts)


def get_labelled(db: Connection, op: kept.GetLabelled) -> tuple[kept.Labelled, ...]:
    begun = " AND t.state NOT IN (0, 1)" if op.begun else ""
    rows = db.rows(
        "SELECT t.id, t.lane, t.state, t.priority, s.at_ms FROM labels b JOIN tasks t ON t.id = b.task "
        f"JOIN submissions s ON s.first = t.submission WHERE b.label = ? AND b.task > ?{begun} "
        "ORDER BY b.task LIMIT ?",
        (op.label, op.after, op.limit),
    )
    labels: dict[int, list[str]] = {}
    ids = db.ids([row[0] for row in rows])
    for task, label in db.rows(f"SELECT task, label FROM labels WHERE task {db.AMONG}", (ids,)):
        labels.setdefault(task, []).append(label)
    return tuple(
        kept.Labelled(task, lane, state, priority, at_ms, tuple(sorted(labels[task])))
        for task, lane, state, priority, at_ms in rows
    )


def change_priorities(db: Connection, op: kept.ChangePriorities) -> kept.Changed:
    rows = [(priority, task, int(Task.READY)) for task, priority in op.changes]
    return kept.Changed(
        db.many("UPDATE tasks SET priority = ? WHERE id = ? AND state = ?", rows) if rows else 0
    )
