"""Tasks that lose their holder: ready again, or ended where somebody wanted that."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from mgmt.core.suites import operations as ops
from mgmt.core.suites.states import Exec, Task
from mgmt.core.suites.strikes import limit_of
from mgmt.protocol import defaults, frames
from mgmt.store.queue import dependents, refusals
from mgmt.store.queue.connection import Connection
from mgmt.store.queue.counting import Moves, cancelled_among
from mgmt.store.queue.tables import Flag

_HELD = "SELECT id, lane, attempt, flags, exec_state FROM tasks WHERE state = 2 AND holder "


class Held(NamedTuple):
    task: int
    lane: int
    attempt: int
    flags: int
    exec_state: int | None


def returned(
    db: Connection, holder: int, wanted: Iterable[tuple[int, int]], now_ms: int, moves: Moves
) -> int:
    """What the holder will not run; what is not its own any more is passed over."""
    attempts = dict(wanted)
    rows = db.rows(f"{_HELD} = ? AND id {db.AMONG} ORDER BY id" + db.LOCK, (holder, db.ids(sorted(attempts))))
    held = [one for one in map(Held._make, rows) if one.attempt == attempts[one.task]]
    give_back(db, held, now_ms, moves)
    return len(held)


def of_holder(db: Connection, holder: int) -> list[Held]:
    """All it holds."""
    return [Held(*row) for row in db.rows(f"{_HELD} = ? ORDER BY id" + db.LOCK, (holder,))]


def lose(db: Connection, holder: int, node: str, now_ms: int, moves: Moves) -> int:
    """A holder has ended: what it held is given back, and what it ran counts as tried.

    Nobody knows whose fault that was, so no node is excluded; but a task that takes one node after the other with
    it ends as Failed.
    """
    held = of_holder(db, holder)
    kept = []
    for one in held:
        if (one.exec_state or 0) >= Exec.EXEC_SPAWNED and not one.flags & Flag.CANCELLING:
            death = ops.Death(one.attempt, node, now_ms, None, "its node or worker was lost")
            if strike(db, one, death, False).total >= defaults.MAX_TASK_ATTEMPTS:
                bury(db, one, "it took its worker with it too often", now_ms, moves)
                continue
        kept.append(one)
    give_back(db, kept, now_ms, moves)
    return len(held)


def give_back(db: Connection, held: Sequence[Held], now_ms: int, moves: Moves) -> list[Task]:
    """Ready again; Cancelled when that was asked for, or their suite is. The state of each."""
    if not held:
        return []
    over = cancelled_among(db, (one.lane for one in held))
    ready: list[int] = []
    cancelled: list[Held] = []
    states = []
    for one in held:
        if one.flags & Flag.CANCELLING or one.lane in over:
            cancelled.append(one)
            states.append(Task.CANCELLED)
        else:
            ready.append(one.task)
            moves.move(one.lane, Task.RUNNING, Task.READY)
            states.append(Task.READY)
    if ready:
        sql = f"UPDATE tasks SET state = 1, exec_state = NULL WHERE id {db.AMONG}"
        db.change(sql, (db.ids(ready),))
    if cancelled:
        end(db, cancelled, Task.CANCELLED, "UserCancellation", now_ms, moves)
    return states


def bury(db: Connection, one: Held, message: str, now_ms: int, moves: Moves) -> None:
    """The dead letter: it is not tried again unless somebody says so; its history stays."""
    end(db, [one], Task.FAILED, message, now_ms, moves)


def end(db: Connection, held: Sequence[Held], state: Task, message: str, now_ms: int, moves: Moves) -> None:
    """Running tasks end without a result."""
    db.change(
        f"UPDATE tasks SET state = ?, message = ?, finished_ms = ?, exec_state = NULL WHERE id {db.AMONG}",
        (int(state), message, now_ms, db.ids([one.task for one in held])),
    )
    for one in held:
        moves.move(one.lane, Task.RUNNING, state)
    awaited = [(one.task, state, None) for one in held if one.flags & Flag.DEPENDENTS]
    if awaited:
        dependents.settle(db, awaited, now_ms, moves)


# ---- strikes ----------------------------------------------------------------------------------------------


class Strikes(NamedTuple):
    here: int  # on this node
    total: int
    excluded: frozenset[str]  # nodes, with this one


def strike(db: Connection, one: Held, death: ops.Death, counts_here: bool) -> Strikes:
    """Write a death into the task's ledger."""
    rows = db.rows(
        "SELECT node, strikes, excluded, deaths FROM failures WHERE task = ? ORDER BY node" + db.LOCK,
        (one.task,),
    )
    ledger = {node: (strikes, excluded, deaths) for node, strikes, excluded, deaths in rows}
    strikes, excluded, packed = ledger.get(death.node, (0, 0, b""))
    deaths = frames.unpack(packed) if packed else []
    limit = limit_of(death.status)
    strikes += 1
    if counts_here and limit is not None and strikes >= limit:
        excluded = 1
    deaths.append([death.attempt, death.at_ms, death.status, death.message])
    packed = frames.pack(deaths[-defaults.MAX_TASK_HISTORY :])
    db.change(
        "INSERT INTO failures (task, node, strikes, excluded, deaths) VALUES (?, ?, ?, ?, ?) "
        "ON CONFLICT (task, node) DO UPDATE "
        "SET strikes = excluded.strikes, excluded = excluded.excluded, deaths = excluded.deaths",
        (one.task, death.node, strikes, excluded, packed),
    )
    flags = Flag.STRUCK | (Flag.EXCLUDED if excluded else 0)
    db.change("UPDATE tasks SET flags = flags | ? WHERE id = ?", (int(flags), one.task))
    ledger[death.node] = (strikes, excluded, packed)
    return Strikes(
        strikes,
        sum(count for count, _, _ in ledger.values()),
        frozenset(node for node, (_, out, _) in ledger.items() if out),
    )


def report_death(db: Connection, op: ops.ReportDeath) -> ops.Struck:
    found = db.rows("SELECT node FROM holders WHERE id = ? AND ended_ms = 0" + db.LOCK, (op.holder,))
    rows = db.rows(f"{_HELD} = ? AND id = ?" + db.LOCK, (op.holder, op.task))
    if not found or not rows or rows[0][2] != op.attempt:
        raise refusals.stale(op.holder)
    node = found[0][0]
    one = Held(*rows[0])
    moves = Moves()
    struck = None
    if limit_of(op.status) is not None:
        struck = strike(db, one, ops.Death(op.attempt, node, op.now_ms, op.status, op.message), True)
    everywhere = struck is not None and bool(op.eligible) and struck.excluded >= set(op.eligible)
    wanted = not one.flags & Flag.CANCELLING
    if struck and wanted and (everywhere or struck.total >= defaults.MAX_TASK_ATTEMPTS):
        bury(db, one, op.message, op.now_ms, moves)
        state = Task.FAILED
    else:
        state = give_back(db, [one], op.now_ms, moves)[0]
    here = struck.here if struck else 0
    excluded = struck is not None and node in struck.excluded
    return ops.Struck(here, excluded, state, moves.flush(db, op.now_ms))
