"""Holders: who has claimed what, for how long, and what happens to it afterwards."""

from __future__ import annotations

from mgmt.core.suites import operations as ops
from mgmt.core.suites.states import Suite, Task
from mgmt.protocol.errors import MgmtError
from mgmt.store.queue import dependents, exchange, giving_back, refusals
from mgmt.store.queue.connection import Connection
from mgmt.store.queue.counting import Moves, cancelled_among
from mgmt.store.queue.tables import Flag


def open_holder(db: Connection, op: ops.OpenHolder) -> ops.HolderRecord:
    if op.suite:
        found = db.rows("SELECT state FROM lanes WHERE id = ? AND is_suite = 1", (op.suite,))
        if not found:
            raise refusals.unknown_suite(op.suite)
        state = Suite(found[0][0])
        if state not in (Suite.OPEN, Suite.CLOSED):
            raise MgmtError(
                "conflict",
                f"suite {op.suite} is {state.name.capitalize()}: nothing of it is left to run on {op.node}",
            )
    holder = db.take("holder", 1)
    db.change(
        "INSERT INTO holders (id, node, owner, worker, suite, lease_until_ms, opened_ms, number, cancelling, "
        "ended_ms) VALUES (?, ?, ?, ?, ?, ?, ?, 0, 0, 0)",
        (holder, op.node, op.owner, op.worker, op.suite, op.lease_until_ms, op.now_ms),
    )
    return ops.HolderRecord(
        holder, op.node, op.owner, op.worker, op.suite, op.lease_until_ms, op.now_ms, 0, 0
    )


def renew_holders(db: Connection, op: ops.RenewHolders) -> ops.Renewed:
    """A lease that has run out, but was not swept yet, is renewed: nobody else has been given its tasks."""
    rows = db.rows(
        f"SELECT id, cancelling FROM holders WHERE id {db.AMONG} AND ended_ms = 0 ORDER BY id" + db.LOCK,
        (db.ids(op.holders),),
    )
    alive = {holder for holder, _ in rows}
    if alive:
        db.change(
            f"UPDATE holders SET lease_until_ms = ? WHERE id {db.AMONG}",
            (op.lease_until_ms, db.ids(sorted(alive))),
        )
    asked = [holder for holder, cancelling in rows if cancelling]
    return ops.Renewed(
        tuple(holder for holder in op.holders if holder not in alive),
        tuple(exchange.cancelled(db, asked)) if asked else (),
    )


def end_holder(db: Connection, op: ops.EndHolder) -> ops.Returned:
    found = db.rows("SELECT node FROM holders WHERE id = ? AND ended_ms = 0" + db.LOCK, (op.holder,))
    if not found:
        return ops.Returned(0, ())
    moves = Moves()
    tasks = _end(db, op.holder, found[0][0], op.now_ms, moves)
    return ops.Returned(tasks, moves.flush(db, op.now_ms))


def _end(db: Connection, holder: int, node: str, now_ms: int, moves: Moves) -> int:
    db.change("UPDATE holders SET ended_ms = ? WHERE id = ?", (now_ms, holder))
    return giving_back.lose(db, holder, node, now_ms, moves)


def reconcile(db: Connection, op: ops.Reconcile) -> ops.Reconciled:
    if not db.rows("SELECT id FROM holders WHERE id = ? AND ended_ms = 0" + db.LOCK, (op.holder,)):
        raise refusals.stale(op.holder)
    stored = giving_back.of_holder(db, op.holder)
    mine = {(one.task, one.attempt) for one in stored}
    held = set(op.held)
    moves = Moves()
    missing = [one for one in stored if (one.task, one.attempt) not in held]
    giving_back.give_back(db, missing, op.now_ms, moves)
    ending = [(one.task, one.attempt) for one in exchange.cancelled(db, [op.holder])]
    return ops.Reconciled(
        len(missing),
        tuple(one for one in op.held if one not in mine),
        tuple(one for one in ending if one in held),
        moves.flush(db, op.now_ms),
    )


def exec_states(db: Connection, op: ops.ExecStates) -> ops.Returned:
    """Lost ones do no harm: the end of a task overtakes them all."""
    attempts = {task: (attempt, state) for task, attempt, state in op.states}
    rows = db.rows(
        f"SELECT id, attempt, flags FROM tasks WHERE state = 2 AND holder = ? AND id {db.AMONG} ORDER BY id"
        + db.LOCK,
        (op.holder, db.ids(sorted(attempts))),
    )
    mine = [(task, flags) for task, attempt, flags in rows if attempts[task][0] == attempt]
    moves = Moves()
    if mine:
        db.many(
            "UPDATE tasks SET exec_state = ? WHERE id = ?", [(attempts[task][1], task) for task, _ in mine]
        )
        awaited = {task: attempts[task][1] for task, flags in mine if flags & Flag.DEPENDENTS}
        if awaited:
            dependents.progress(db, awaited, moves)
    return ops.Returned(len(mine), moves.flush(db, op.now_ms))


# ---- time -------------------------------------------------------------------------------------------------


def sweep(db: Connection, op: ops.Sweep) -> ops.Swept:
    moves = Moves()
    expired = db.rows(
        "SELECT id, node FROM holders WHERE ended_ms = 0 AND lease_until_ms < ? ORDER BY lease_until_ms, id"
        + db.SKIP,
        (op.now_ms,),
    )
    tasks = sum([_end(db, holder, node, op.now_ms, moves) for holder, node in expired])
    due = db.rows(
        "SELECT id, lane FROM tasks WHERE due_ms IS NOT NULL AND due_ms <= ? ORDER BY due_ms, id" + db.SKIP,
        (op.now_ms,),
    )
    over = cancelled_among(db, (lane for _, lane in due))
    due = [(task, lane) for task, lane in due if lane not in over]
    if due:
        sql = f"UPDATE tasks SET state = 1, due_ms = NULL WHERE id {db.AMONG}"
        db.change(sql, (db.ids([task for task, _ in due]),))
        for _, lane in due:
            moves.move(lane, Task.PENDING, Task.READY)
    before_ms = op.now_ms - op.auto_close_ms
    open_ = "FROM lanes WHERE is_suite = 1 AND state = 0"
    idle = db.rows(
        f"SELECT id {open_} AND submitted_ms <= ? AND pending > 0 ORDER BY submitted_ms, id" + db.SKIP,
        (before_ms,),
    )
    closed = [lane for (lane,) in idle]
    if closed:
        db.change(f"UPDATE lanes SET state = {Suite.CLOSED:d} WHERE id {db.AMONG}", (db.ids(closed),))
        for lane in closed:
            moves.touch(lane)
    counts = moves.flush(db, op.now_ms)
    ((lease_ms,),) = db.rows("SELECT min(lease_until_ms) FROM holders WHERE ended_ms = 0")
    ((due_ms,),) = db.rows("SELECT min(due_ms) FROM tasks WHERE due_ms IS NOT NULL")
    ((submitted_ms,),) = db.rows(f"SELECT min(submitted_ms) {open_} AND pending > 0")
    next_ms = [
        lease_ms + 1 if lease_ms is not None else None,
        due_ms,
        submitted_ms + op.auto_close_ms if submitted_ms is not None else None,
    ]
    return ops.Swept(
        tuple(holder for holder, _ in expired),
        tasks,
        len(due),
        tuple(closed),
        min((at for at in next_ms if at is not None), default=0),
        counts,
    )
