"""New tasks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from mgmt.core.suites import operations as ops
from mgmt.core.suites.states import SUITE_EDGES, Suite, SuiteEvent, Task
from mgmt.protocol import frames
from mgmt.protocol.errors import MgmtError
from mgmt.store.queue import dependents, refusals
from mgmt.store.queue.connection import Connection
from mgmt.store.queue.counting import Moves, counts_of
from mgmt.store.queue.tables import Flag

_COLUMNS = "id, lane, state, priority, attempt, flags, submission, blocked, message, finished_ms, spec"


def submit(db: Connection, op: ops.Submit) -> ops.Submitted:
    digest = hashlib.sha256(frames.pack([op.lane, op.tasks])).digest() if op.key else None
    if op.key:
        known = db.rows(
            "SELECT first, count, sequence, digest, lane FROM submissions "
            "WHERE creator = ? AND request = ? AND request <> ''",
            (op.creator, op.key),
        )
        if known:
            first, count, sequence, stored, lane = known[0]
            counts = counts_of(db, lane)
            if bytes(stored) != digest or counts is None:
                raise MgmtError(
                    "conflict",
                    f"key {op.key!r} was used for other tasks, {count} from number {first}; "
                    "repeat exactly what was submitted then, or choose a new key",
                )
            return ops.Submitted(first, count, sequence, True, counts)
    if not op.tasks:
        raise MgmtError("bad-body", "there is no task in the submission: give at least one")
    upstream = _upstream(db, op.tasks) if any(extra for _, _, extra in op.tasks) else {}
    waiting = _waiting(db, op)
    sql = "SELECT is_suite, state, group_name, ready FROM lanes WHERE id = ?" + db.LOCK
    found = db.rows(sql, (op.lane,))
    if not found:
        raise refusals.unknown_lane(op.lane)
    is_suite, state, group, ready = found[0]
    if ready:
        waiting = None
    if is_suite and (Suite(state), SuiteEvent.SUBMITTED) not in SUITE_EDGES:
        raise MgmtError(
            "conflict",
            f"suite {op.lane} is cancelled and takes no more tasks; `mgmt suite create` makes another one",
        )
    moves = Moves()
    first, sequence = insert(
        db, op.lane, group, op.tasks, upstream, op.creator, op.now_ms, moves, op.key, digest, waiting
    )
    counts = next(each for each in moves.flush(db, op.now_ms) if each.lane == op.lane)
    claims: tuple[ops.Claim, ...] = ()
    if waiting is not None:
        numbered = enumerate(op.tasks, first)
        claims = tuple(ops.Claim(task, 1, priority, spec) for task, (spec, priority, _) in numbered)
    return ops.Submitted(first, len(op.tasks), sequence, False, counts, claims)


def _waiting(db: Connection, op: ops.Submit) -> ops.Waiting | None:
    """Who may have the tasks, if there is nobody before them."""
    waiting = op.waiting
    if waiting is None or len(op.tasks) > waiting.want or any(extra for _, _, extra in op.tasks):
        return None
    sql = "SELECT number, cancelling FROM holders WHERE id = ? AND suite = ? AND ended_ms = 0" + db.LOCK
    found = db.rows(sql, (waiting.holder, op.lane))
    return waiting if found and found[0][0] < waiting.number and not found[0][1] else None


def insert(
    db: Connection,
    lane: int,
    group: str,
    tasks: Sequence[ops.NewTask],
    upstream: dict[int, tuple[Task, int | None, int | None]],
    creator: str,
    now_ms: int,
    moves: Moves,
    key: str = "",
    digest: bytes | None = None,
    waiting: ops.Waiting | None = None,
) -> tuple[int, int]:
    """Write tasks into a lane that takes them and is open then; the first one's number, and that in the group.

    With `waiting` they are that holder's.
    """
    count = len(tasks)
    first = db.take("task", count)
    last = db.changed(
        "INSERT INTO groups (name, tasks) VALUES (?, ?) "
        "ON CONFLICT (name) DO UPDATE SET tasks = groups.tasks + excluded.tasks RETURNING tasks",
        (group, count),
    )[0][0]
    db.change(
        "INSERT INTO submissions (first, count, lane, creator, request, digest, sequence, at_ms) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (first, count, lane, creator, key, digest, last - count + 1, now_ms),
    )
    moves.reopen(lane)
    if waiting is not None:
        running = int(Task.RUNNING)
        db.insert(
            "tasks",
            f"{_COLUMNS}, holder, claim",
            [
                (
                    task,
                    lane,
                    running,
                    priority,
                    1,
                    0,
                    first,
                    0,
                    None,
                    None,
                    spec,
                    waiting.holder,
                    waiting.number,
                )
                for task, (spec, priority, _) in enumerate(tasks, first)
            ],
        )
        sql = "UPDATE holders SET number = ?, acks = NULL WHERE id = ?"
        db.change(sql, (waiting.number, waiting.holder))
        moves.move(lane, None, Task.RUNNING, count)
    elif any(extra for _, _, extra in tasks):
        _insert_special(db, lane, first, tasks, upstream, now_ms, moves)
    else:
        ready = int(Task.READY)
        numbered = enumerate(tasks, first)
        rows = [
            (task, lane, ready, priority, 0, 0, first, 0, None, None, spec)
            for task, (spec, priority, _) in numbered
        ]
        db.insert("tasks", _COLUMNS, rows)
        moves.move(lane, None, Task.READY, count)
    return first, last - count + 1


def _upstream(db: Connection, tasks: Sequence[ops.NewTask]) -> dict[int, tuple[Task, int | None, int | None]]:
    """State, exit status and exec state of the tasks of before that these wait for; refuses what cannot be."""
    wanted: set[int] = set()
    for index, (_, _, extra) in enumerate(tasks):
        for after in extra.after if extra else ():
            if after.task > 0:
                wanted.add(after.task)
            elif -after.task >= index:
                raise MgmtError(
                    "bad-body",
                    f"task {index} of the submission waits for task {-after.task} of it, which is not before it",
                )
    if not wanted:
        return {}
    rows = db.rows(
        f"SELECT id, state, exit_status, exec_state FROM tasks WHERE id {db.AMONG} ORDER BY id" + db.LOCK,
        (db.ids(sorted(wanted)),),
    )
    known = {task: (Task(state), status, exec_state) for task, state, status, exec_state in rows}
    for task in sorted(wanted):
        if task not in known:
            raise refusals.unknown_task(task)
    return known


def _insert_special(
    db: Connection,
    lane: int,
    first: int,
    tasks: Sequence[ops.NewTask],
    upstream: dict[int, tuple[Task, int | None, int | None]],
    now_ms: int,
    moves: Moves,
) -> None:
    """Those with labels, retries or dependencies, of which some may be settled already."""
    rows: list[list[Any]] = []
    deps: list[tuple[int, int, int, int]] = []
    retries: list[tuple[int, int, int, str, int]] = []
    labels: list[tuple[str, int]] = []
    awaited: set[int] = set()
    for index, (spec, priority, extra) in enumerate(tasks):
        task = first + index
        flags = blocked = 0
        message: str | None = None
        if extra:
            for after in dict.fromkeys(extra.after):
                on_task = after.task if after.task > 0 else first - after.task
                kind, value = dependents.kind_of(after)
                if after.task > 0:
                    met = dependents.verdict(kind, value, *upstream[on_task])
                else:
                    before = rows[-after.task]
                    met = dependents.verdict(kind, value, Task(before[2]), None, None)
                if met is None:
                    deps.append((on_task, task, kind, value))
                    awaited.add(on_task)
                    blocked += 1
                elif not met:
                    message = (
                        "WatchTimeout" if kind == dependents.REACHED else f"task {on_task} did not succeed"
                    )
            if extra.retry:
                flags |= Flag.RETRY
                retries.append(
                    (task, extra.retry.most, 0, json.dumps(extra.retry.codes), extra.retry.delay_ms)
                )
            if extra.labels:
                flags |= Flag.LABELS
                labels += [(label, task) for label in dict.fromkeys(extra.labels)]
        state = Task.CANCELLED if message else Task.PENDING if blocked else Task.READY
        if message:
            del deps[len(deps) - blocked :]
            blocked = 0
        ended = now_ms if message else None
        rows.append([task, lane, int(state), priority, 0, int(flags), first, blocked, message, ended, spec])
        moves.move(lane, None, state)
    for on_task in awaited:
        if on_task >= first:
            rows[on_task - first][5] |= int(Flag.DEPENDENTS)
    db.insert("tasks", _COLUMNS, rows)
    earlier = sorted(task for task in awaited if task < first)
    if earlier:
        flag = f"flags = flags | {Flag.DEPENDENTS:d}"
        db.change(f"UPDATE tasks SET {flag} WHERE id {db.AMONG}", (db.ids(earlier),))
    for table, columns, some in (
        ("deps", "on_task, task, kind, value", deps),
        ("retries", "task, most, used, codes, delay_ms", retries),
        ("labels", "label, task", labels),
    ):
        if some:
            db.insert(table, columns, some)
