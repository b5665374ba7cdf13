"""The hot path: results in, tasks out, in one transaction."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

from mgmt.core.suites import operations as ops
from mgmt.core.suites.states import SUITE_EDGES, Suite, SuiteEvent, Task
from mgmt.protocol import defaults
from mgmt.store.queue import dependents, giving_back, queries, refusals, submitting
from mgmt.store.queue.connection import Connection, one_of
from mgmt.store.queue.counting import Moves, cancelled_among
from mgmt.store.queue.tables import Flag

USER_CANCELLATION = "UserCancellation"
NEW_TASK_FAILED = "SubmitNewTaskFailed"

_END = (
    "UPDATE tasks SET state = ?, exit_status = ?, message = ?, started_ms = ?, finished_ms = ?, detail = ?, "
    "exec_state = NULL WHERE id = ?"
)
_TRY_AGAIN = (
    "UPDATE tasks SET state = ?, exit_status = ?, message = ?, started_ms = ?, finished_ms = ?, detail = ?, "
    "exec_state = NULL, due_ms = ? WHERE id = ?"
)
# What this node is excluded from: only tasks with the flag are looked up.
_NOT_EXCLUDED = (
    f" AND (flags & {Flag.EXCLUDED:d} = 0 OR NOT EXISTS "
    "(SELECT 1 FROM failures f WHERE f.task = tasks.id AND f.node = ? AND f.excluded = 1))"
)


def exchange(db: Connection, op: ops.Exchange) -> ops.Exchanged:
    found = db.rows(
        "SELECT suite, number, acks, cancelling, node FROM holders WHERE id = ? AND ended_ms = 0" + db.LOCK,
        (op.holder,),
    )
    if not found:
        raise refusals.stale(op.holder)
    suite, number, stored, cancelling, node = found[0]
    repeated = op.number <= number
    moves = Moves()
    if suite:
        moves.touch(suite)
    acks: list[ops.Ack] = []
    retried = 0
    if op.results:
        acks, retried = _commit(db, op, repeated, moves)
        if op.number == number and stored is not None and len(stored) == len(acks):
            # A task that was tried again may be another attempt by now, which does not tell what was said of it.
            acks = [ops.Ack(then) for then in stored]
    if op.returned:
        giving_back.returned(db, op.holder, op.returned, op.now_ms, moves)
    claims: list[tuple[int, int, int, bytes]] = []
    if repeated:
        rows = db.rows(
            "SELECT id, attempt, priority, spec FROM tasks WHERE state = 2 AND holder = ? AND claim = ?",
            (op.holder, op.number),
        )
        claims = sorted(rows, key=_order)
    else:
        if op.want > 0:
            lanes = {suite: ("", 0)} if suite else _independent(db, op.lanes)
            claims = _claim(db, op, lanes, node, moves)
        said = bytes(acks) if acks else None
        db.change("UPDATE holders SET number = ?, acks = ? WHERE id = ?", (op.number, said, op.holder))
    counts = moves.flush(db, op.now_ms)
    ending = tuple(cancelled(db, [op.holder])) if cancelling else ()
    return ops.Exchanged(
        tuple(ops.Claim(*row) for row in claims),
        tuple(acks),
        tuple((task, attempt) for _, task, attempt in ending),
        retried,
        counts,
        repeated,
        tuple(_told(db, op, acks)) if op.told else (),
    )


def _told(db: Connection, op: ops.Exchange, acks: Sequence[ops.Ack]) -> Iterator[ops.TaskRecord]:
    awaited = set(op.told)
    for result, ack in zip(op.results, acks, strict=True):
        if result.task in awaited and ack is not ops.Ack.STALE:
            yield queries.get_task(db, ops.GetTask(result.task))


def cancelled(db: Connection, holders: Sequence[int]) -> list[ops.Held]:
    """What these holders run although somebody wants it cancelled."""
    sql = (
        f"SELECT holder, id, attempt FROM tasks WHERE state = 2 AND holder {db.AMONG} "
        f"AND flags & {Flag.CANCELLING:d} <> 0 ORDER BY id"
    )
    return [ops.Held(*row) for row in db.rows(sql, (db.ids(holders),))]


# ---- claims -----------------------------------------------------------------------------------------------


def _order(row: Sequence[int | bytes]) -> tuple[int, int]:
    assert isinstance(row[2], int) and isinstance(row[0], int)
    return -row[2], row[0]


def _independent(db: Connection, lanes: Sequence[int]) -> dict[int, tuple[str, int]]:
    """Group and running tasks of those with ready ones.

    An independent worker never sees the tasks of a suite, whatever it asks for.
    """
    rows = db.rows(
        f"SELECT id, group_name, running FROM lanes WHERE id {db.AMONG} AND is_suite = 0 AND ready > 0",
        (db.ids(lanes),),
    )
    return {lane: (group, running) for lane, group, running in rows}


def _in_turns(
    found: list[tuple[int, int, int, bytes, int]], lanes: Mapping[int, tuple[str, int]]
) -> list[tuple[int, int, int, bytes, int]]:
    """By priority; of the same priority, the group goes first that has the fewest tasks running; then by age."""
    running: dict[str, int] = {}
    for group, count in lanes.values():
        running[group] = running.get(group, 0) + count
    places: dict[int, tuple[int, int, int]] = {}
    for row in sorted(found, key=_order):
        group = lanes[row[4]][0]
        places[row[0]] = -row[2], running[group], row[0]
        running[group] += 1
    return sorted(found, key=lambda row: places[row[0]])


def _claim(
    db: Connection, op: ops.Exchange, lanes: Mapping[int, tuple[str, int]], node: str, moves: Moves
) -> list[tuple[int, int, int, bytes]]:
    """The first `want` ready tasks of the lanes: by priority, groups in turns, then by age."""
    excluded, node_of = ("", ()) if op.fallback else (_NOT_EXCLUDED, (node,))
    sql = (
        f"SELECT id, attempt + 1, priority, spec, lane FROM tasks WHERE state = 1 AND lane = ?{excluded} "
        f"ORDER BY priority DESC, id LIMIT ?" + db.SKIP
    )
    found = [row for lane in lanes for row in db.rows(sql, (lane, *node_of, op.want))]
    if len(lanes) > 1:
        found = _in_turns(found, lanes)[: op.want]
    if not found:
        return []
    db.change(
        f"UPDATE tasks SET state = 2, holder = ?, claim = ?, attempt = attempt + 1 WHERE id {db.AMONG}",
        (op.holder, op.number, db.ids([row[0] for row in found])),
    )
    by_lane: dict[int, int] = {}
    for row in found:
        by_lane[row[4]] = by_lane.get(row[4], 0) + 1
    for lane, count in by_lane.items():
        moves.move(lane, Task.READY, Task.RUNNING, count)
    return [row[:4] for row in found]


# ---- results ----------------------------------------------------------------------------------------------


def _commit(db: Connection, op: ops.Exchange, repeated: bool, moves: Moves) -> tuple[list[ops.Ack], int]:
    """Each result that is the holder's to give, once; what became of each, and how many are tried again."""
    among, tasks = one_of(db, [result.task for result in op.results])
    rows = db.rows(
        f"SELECT id, lane, attempt, flags FROM tasks WHERE id {among} AND state = 2 AND holder = ? ORDER BY id"
        + db.LOCK,
        (tasks, op.holder),
    )
    mine = {task: (lane, attempt, flags) for task, lane, attempt, flags in rows}
    acks: list[ops.Ack] = []
    ends = []
    finished: dict[int, int] = {}
    special: list[tuple[ops.Result, int, int]] = []
    foreign: list[int] = []
    for result in op.results:
        task, attempt, status, message, started_ms, finished_ms, detail, new_task = result
        held = mine.get(task)
        if held is None or held[1] != attempt:
            foreign.append(len(acks))
            acks.append(ops.Ack.STALE)
            continue
        lane, _, flags = mine.pop(task)
        acks.append(ops.Ack.OK)
        if flags or new_task is not None or message == USER_CANCELLATION:
            special.append((result, lane, flags))
            continue
        ends.append((3, status, message or None, started_ms, finished_ms or op.now_ms, detail, task))
        finished[lane] = finished.get(lane, 0) + 1
    if ends:
        db.many(_END, ends)
        for lane, count in finished.items():
            moves.move(lane, Task.RUNNING, Task.FINISHED, count)
    retried = sum([_commit_special(db, op, *each, moves) for each in special])
    if foreign:
        _recognise(db, op, foreign, acks, ops.Ack.OK if repeated else ops.Ack.DUPLICATE)
    return acks, retried


def _recognise(
    db: Connection, op: ops.Exchange, places: list[int], acks: list[ops.Ack], ack: ops.Ack
) -> None:
    """Tell what this holder has committed before from what it may not commit."""
    rows = db.rows(
        f"SELECT id, attempt, state FROM tasks WHERE id {db.AMONG} AND holder = ?",
        (db.ids([op.results[place].task for place in places]), op.holder),
    )
    known = {(task, attempt) for task, attempt, state in rows if state != Task.RUNNING}
    for place in places:
        if op.results[place][:2] in known:
            acks[place] = ack


def _commit_special(
    db: Connection, op: ops.Exchange, result: ops.Result, lane: int, flags: int, moves: Moves
) -> int:
    """A result with consequences; 1 when it is tried again, else 0."""
    finished_ms = result.finished_ms or op.now_ms
    state = Task.CANCELLED if result.message == USER_CANCELLATION else Task.FINISHED
    message = result.message
    delay_ms = None
    if flags & Flag.RETRY and not flags & Flag.CANCELLING and state == Task.FINISHED and result.status:
        delay_ms = _delay_of_retry(db, result.task, result.status, lane)
    if delay_ms is not None:
        again = Task.PENDING if delay_ms else Task.READY
        due_ms = op.now_ms + delay_ms if delay_ms else None
        db.change(
            _TRY_AGAIN,
            (int(again), result.status, message or None, result.started_ms, finished_ms, result.detail, due_ms,
             result.task),
        )  # fmt: skip
        moves.move(lane, Task.RUNNING, again)
        return 1
    if result.new_task is not None and not _submit_next(
        db, op.now_ms, result.task, result.new_task, lane, moves
    ):
        message = message or NEW_TASK_FAILED
    db.change(
        _END,
        (
            int(state),
            result.status,
            message or None,
            result.started_ms,
            finished_ms,
            result.detail,
            result.task,
        ),
    )
    moves.move(lane, Task.RUNNING, state)
    if flags & Flag.STRUCK and state == Task.FINISHED:
        db.change("DELETE FROM failures WHERE task = ?", (result.task,))
    if flags & Flag.DEPENDENTS:
        dependents.settle(db, [(result.task, state, result.status)], op.now_ms, moves)
    return 0


def _delay_of_retry(db: Connection, task: int, status: int, lane: int) -> int | None:
    """How long until the next try, which is counted; None when there is none."""
    ((most, used, codes, delay_ms),) = db.rows(
        "SELECT most, used, codes, delay_ms FROM retries WHERE task = ?", (task,)
    )
    wanted = json.loads(codes)
    if used >= most or (wanted and status not in wanted):
        return None
    if cancelled_among(db, (lane,)):
        return None
    db.change("UPDATE retries SET used = used + 1 WHERE task = ?", (task,))
    return min(int(delay_ms) << min(int(used), 40), int(defaults.MAX_TASK_S * 1000))


def _submit_next(
    db: Connection, now_ms: int, upstream: int, task: ops.NewTask, lane: int, moves: Moves
) -> bool:
    """Its downstream task, ready at once; False when the suite takes no more."""
    sql = "SELECT state, group_name, is_suite FROM lanes WHERE id = ?" + db.LOCK
    ((state, group, is_suite),) = db.rows(sql, (lane,))
    if is_suite and (Suite(state), SuiteEvent.SUBMITTED) not in SUITE_EDGES:
        return False
    extra = task.extra._replace(after=()) if task.extra else None
    creator = db.rows(
        "SELECT s.creator FROM submissions s JOIN tasks t ON t.submission = s.first WHERE t.id = ?",
        (upstream,),
    )[0][0]
    submitting.insert(db, lane, group, [task._replace(extra=extra)], {}, creator, now_ms, moves)
    return True
