"""Counters of lanes, moved by the transaction that moves their tasks; and what follows for their suites."""

from __future__ import annotations

from collections.abc import Iterable

from mgmt.core.suites.operations import Counts
from mgmt.core.suites.states import SUITE_EDGES, Suite, SuiteEvent, Task
from mgmt.store.queue import blobs
from mgmt.store.queue.connection import Connection

COLUMNS = "id, state, total, pending, ready, running, finished, failed, cancelled"

_COUNTED = {Task.READY: 2, Task.RUNNING: 3, Task.FINISHED: 4, Task.FAILED: 5, Task.CANCELLED: 6}
_ENDED = (4, 5, 6)


class Moves:
    """The tasks that one operation moved, by lane; `flush` is its last act."""

    def __init__(self) -> None:
        # total, pending, ready, running, finished, failed, cancelled
        self._deltas: dict[int, list[int]] = {}
        self._opened: set[int] = set()

    def touch(self, lane: int) -> list[int]:
        """Tell the lane's counts, even if nothing moved."""
        return self._deltas.setdefault(lane, [0, 0, 0, 0, 0, 0, 0])

    def move(self, lane: int, old: Task | None, new: Task | None, count: int = 1) -> None:
        """`count` tasks from one state to another; None: from or to nowhere."""
        delta = self.touch(lane)
        for state, sign in ((old, -count), (new, count)):
            if state is None:
                continue
            delta[0] += sign
            place = _COUNTED.get(state)
            if place not in _ENDED:
                delta[1] += sign
            if place is not None:
                delta[place] += sign

    def reopen(self, lane: int) -> None:
        """A lane that takes tasks is open, and its time without a submission starts anew."""
        self.touch(lane)
        self._opened.add(lane)

    def cancelled(self) -> int:
        """How many were cancelled."""
        return sum(delta[6] for delta in self._deltas.values())

    def flush(self, db: Connection, now_ms: int) -> tuple[Counts, ...]:
        """Write them, in the order of lanes, so that no two operations wait for each other; complete suites."""
        return tuple(
            _moved(db, lane, self._deltas[lane], now_ms, lane in self._opened)
            for lane in sorted(self._deltas)
        )


def _moved(db: Connection, lane: int, delta: list[int], now_ms: int, opened: bool) -> Counts:
    if opened or any(delta):
        opening, when = ("state = 0, submitted_ms = ?, ", (now_ms,)) if opened else ("", ())
        found = db.changed(
            f"UPDATE lanes SET {opening}total = total + ?, pending = pending + ?, ready = ready + ?, "
            "running = running + ?, finished = finished + ?, failed = failed + ?, cancelled = cancelled + ? "
            "WHERE id = ? "
            f"RETURNING {COLUMNS}, is_suite",
            (*when, *delta, lane),
        )
    else:
        found = db.rows(f"SELECT {COLUMNS}, is_suite FROM lanes WHERE id = ?", (lane,))
    *values, is_suite = found[0]
    counts = Counts(*values)
    if not is_suite or counts.pending or not counts.total:
        return counts
    after = SUITE_EDGES.get((Suite(counts.state), SuiteEvent.EMPTIED))
    if after is not None:
        db.change("UPDATE lanes SET state = ? WHERE id = ?", (after, lane))
        counts = counts._replace(state=after)
    if after is not None or (counts.state == Suite.CANCELLED and delta[1]):
        db.change("UPDATE suites SET completed_ms = ? WHERE id = ?", (now_ms, lane))
    return counts


def cancelled_among(db: Connection, lanes: Iterable[int]) -> set[int]:
    """Which of these suites are cancelled; none becomes so before this transaction ends.

    Asked by whatever makes tasks ready: a suite that is being cancelled meanwhile would not see them.
    """
    sql = f"SELECT id, state FROM lanes WHERE id {db.AMONG} ORDER BY id" + db.LOCK
    return {lane for lane, state in db.rows(sql, (db.ids(sorted(set(lanes))),)) if state == Suite.CANCELLED}


def counts_of(db: Connection, lane: int) -> Counts | None:
    found = db.rows(f"SELECT {COLUMNS} FROM lanes WHERE id = ?", (lane,))
    return Counts(*found[0]) if found else None


def recount(db: Connection) -> list[str]:
    """What does not add up, in words: the invariants of the tables; reads every task."""
    wrong = []
    found: dict[int, list[int]] = {}
    for lane, state, count in db.rows("SELECT lane, state, count(*) FROM tasks GROUP BY lane, state"):
        counted = found.setdefault(lane, [0, 0, 0, 0, 0, 0, 0])
        counted[0] += count
        place = _COUNTED.get(Task(state))
        if place not in _ENDED:
            counted[1] += count
        if place is not None:
            counted[place] += count
    for lane, state, *stored, is_suite in db.rows(f"SELECT {COLUMNS}, is_suite FROM lanes"):
        real = found.pop(lane, [0, 0, 0, 0, 0, 0, 0])
        if stored != real:
            wrong.append(f"lane {lane} counts {stored}, it has {real}")
        if is_suite and real[0] and not real[1] and state in (Suite.OPEN, Suite.CLOSED):
            wrong.append(f"suite {lane} is {Suite(state).name} with nothing pending")
        if is_suite and real[1] and state == Suite.COMPLETE:
            wrong.append(f"suite {lane} is COMPLETE with {real[1]} pending")
        if is_suite and real[1] != real[3] and state == Suite.CANCELLED:
            wrong.append(f"suite {lane} is CANCELLED with {real[1]} pending, {real[3]} running")
    wrong += [f"lane {lane} is missing" for lane in found]
    for what, sql in _INVARIANTS.items():
        wrong += [f"{what}: task {row[0]}" for row in db.rows(sql)]
    return [*wrong, *blobs.recount(db)]


_INVARIANTS = {
    "held by nobody who lives": "SELECT t.id FROM tasks t LEFT JOIN holders h ON h.id = t.holder "
    "WHERE t.state = 2 AND (h.id IS NULL OR h.ended_ms <> 0)",
    "ready, and blocked or not due": "SELECT id FROM tasks "
    "WHERE state = 1 AND (blocked <> 0 OR due_ms IS NOT NULL)",
    "waits for nothing": "SELECT id FROM tasks WHERE state = 0 AND blocked = 0 AND due_ms IS NULL",
    "blocked by other than its dependencies": "SELECT t.id FROM tasks t WHERE "
    "t.blocked <> (SELECT count(*) FROM deps d WHERE d.task = t.id) AND t.state = 0",
    "waits for one that has ended": "SELECT d.task FROM deps d LEFT JOIN tasks t ON t.id = d.on_task "
    "WHERE t.id IS NULL OR t.state IN (3, 4, 6)",
    "has dependencies, but does not wait": "SELECT d.task FROM deps d LEFT JOIN tasks t ON t.id = d.task "
    "WHERE t.id IS NULL OR t.state <> 0",
    "belongs to no submission": "SELECT t.id FROM tasks t LEFT JOIN submissions s ON s.first = t.submission "
    "WHERE s.first IS NULL OR s.lane <> t.lane OR t.id NOT BETWEEN s.first AND s.first + s.count - 1",
}
