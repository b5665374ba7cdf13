"""Tasks that wait for others: what the end or the progress of one means for them."""

from __future__ import annotations

from collections.abc import Iterable

from mgmt.core.suites.operations import After
from mgmt.core.suites.states import ENDED, Exec, Task, has_reached
from mgmt.store.queue.connection import Connection
from mgmt.store.queue.counting import Moves, cancelled_among
from mgmt.store.queue.tables import Flag

FINISHED, SUCCEEDED, REACHED = 0, 1, 2  # `deps.kind`

Ended = tuple[int, Task, int | None]  # task, state, exit status


def kind_of(after: After) -> tuple[int, int]:
    """`deps.kind` and `deps.value`."""
    if after.reached is not None:
        return REACHED, after.reached
    return (SUCCEEDED if after.success else FINISHED), 0


def after_of(on_task: int, kind: int, value: int) -> After:
    return After(on_task, kind == SUCCEEDED, value if kind == REACHED else None)


def verdict(kind: int, value: int, state: Task, status: int | None, exec_state: int | None) -> bool | None:
    """Whether a dependency is met; None while that is open."""
    if state in ENDED:
        if state != Task.FINISHED:
            return False
        if kind == REACHED:
            return has_reached(value, Exec.TASK_COMMITTED)
        return kind == FINISHED or status == 0
    if kind == REACHED and exec_state is not None and has_reached(value, exec_state):
        return True
    return None


def settle(db: Connection, ended: Iterable[Ended], now_ms: int, moves: Moves) -> int:
    """Free or cancel what waits for tasks that ended, and what waits for those; how many were cancelled."""
    now = list(ended)
    cancelled = 0
    while now:
        how = {task: (state, status) for task, state, status in now}
        found = db.rows(
            f"SELECT on_task, task, kind, value FROM deps WHERE on_task {db.AMONG}", (db.ids(how),)
        )
        if not found:
            break
        met: dict[int, int] = {}
        lost: dict[int, str] = {}
        for on_task, task, kind, value in found:
            if verdict(kind, value, *how[on_task], None):
                met[task] = met.get(task, 0) + 1
            else:
                lost[task] = "WatchTimeout" if kind == REACHED else f"task {on_task} did not succeed"
        db.change(f"DELETE FROM deps WHERE on_task {db.AMONG}", (db.ids(how),))
        free(db, {task: count for task, count in met.items() if task not in lost}, moves)
        now = cancel_waiting(db, lost, now_ms, moves)
        cancelled += len(lost)
    return cancelled


def progress(db: Connection, reached: dict[int, int], moves: Moves) -> None:
    """Free what waits for the exec states that these tasks have reached now."""
    found = db.rows(
        f"SELECT on_task, task, value FROM deps WHERE on_task {db.AMONG} AND kind = {REACHED}",
        (db.ids(reached),),
    )
    met: dict[int, int] = {}
    done = []
    for on_task, task, value in found:
        if has_reached(value, reached[on_task]):
            met[task] = met.get(task, 0) + 1
            done.append((on_task, task, REACHED, value))
    if done:
        db.many("DELETE FROM deps WHERE on_task = ? AND task = ? AND kind = ? AND value = ?", done)
    free(db, met, moves)


def free(db: Connection, met: dict[int, int], moves: Moves) -> None:
    """Waiting tasks have so many dependencies less; those with none left are ready."""
    if not met:
        return
    rows = db.rows(
        f"SELECT id, lane, blocked FROM tasks WHERE id {db.AMONG} AND state = 0 ORDER BY id" + db.LOCK,
        (db.ids(met),),
    )
    changes = []
    over = cancelled_among(db, (lane for _, lane, _ in rows))
    for task, lane, blocked in rows:
        if lane in over:
            continue  # it is being cancelled with its suite
        left = blocked - met[task]
        changes.append((left, Task.PENDING if left else Task.READY, task))
        if not left:
            moves.move(lane, Task.PENDING, Task.READY)
    db.many("UPDATE tasks SET blocked = ?, state = ? WHERE id = ?", changes)


def cancel_waiting(db: Connection, tasks: dict[int, str], now_ms: int, moves: Moves) -> list[Ended]:
    """Cancel tasks that nobody holds, each with its message; those that others wait for."""
    if not tasks:
        return []
    rows = db.rows(
        f"SELECT id, lane, state, flags FROM tasks WHERE id {db.AMONG} AND state IN (0, 1) ORDER BY id"
        + db.LOCK,
        (db.ids(tasks),),
    )
    ended: list[Ended] = []
    changes = []
    waiting = []
    for task, lane, state, flags in rows:
        moves.move(lane, Task(state), Task.CANCELLED)
        changes.append((now_ms, tasks[task] or None, task))
        if state == Task.PENDING:
            waiting.append(task)
        if flags & Flag.DEPENDENTS:
            ended.append((task, Task.CANCELLED, None))
    if changes:
        db.many(
            "UPDATE tasks SET state = 4, blocked = 0, due_ms = NULL, finished_ms = ?, message = ? WHERE id = ?",
            changes,
        )
    if waiting:
        db.change(f"DELETE FROM deps WHERE task {db.AMONG}", (db.ids(waiting),))
    return ended
