"""What is only read; on a connection of its own these wait for no write, and no write for them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from mgmt.core.suites import operations as ops
from mgmt.core.suites.states import Suite, Task
from mgmt.protocol import frames
from mgmt.protocol.errors import MgmtError
from mgmt.store.queue import dependents, refusals
from mgmt.store.queue.connection import Connection, Rows
from mgmt.store.queue.counting import COLUMNS, counts_of
from mgmt.store.queue.tables import Flag

_COMPARISONS = frozenset({"=", "!=", "<", "<=", ">", ">="})
_COUNTS = ", ".join(f"l.{name}" for name in COLUMNS.split(", "))
_SUITE = (
    "SELECT s.id, s.name, l.group_name, s.creator, l.tags, s.labels, l.priority, s.record, s.reason, "
    # A suite that was opened again keeps the time of its former end.
    f"l.created_ms, l.submitted_ms, CASE WHEN l.state IN ({Suite.COMPLETE:d}, {Suite.CANCELLED:d}) "
    f"THEN s.completed_ms ELSE 0 END, {_COUNTS} FROM suites s JOIN lanes l ON l.id = s.id"
)
_TASK = (
    "SELECT t.id, t.lane, l.group_name, s.creator, s.sequence + t.id - s.first, t.state, t.priority, t.attempt, "
    "t.holder, h.node, t.flags, t.exit_status, t.message, t.exec_state, s.at_ms, t.due_ms, t.started_ms, "
    "t.finished_ms"
)
_TASK_FROM = (
    " FROM tasks t JOIN submissions s ON s.first = t.submission JOIN lanes l ON l.id = t.lane "
    "LEFT JOIN holders h ON h.id = t.holder"
)


class _Where:
    """Conditions that all have to hold, with their parameters."""

    def __init__(self, db: Connection) -> None:
        self.db = db
        self.parts: list[str] = []
        self.parameters: list[Any] = []

    def add(self, condition: str, *parameters: Any) -> None:
        self.parts.append(condition)
        self.parameters += parameters

    def one_of(self, column: str, values: Sequence[str]) -> None:
        if values:
            self.add(f"{column} IN ({', '.join('?' * len(values))})", *values)

    def numbers(self, column: str, values: Sequence[int]) -> None:
        if values:
            self.add(f"{column} {self.db.AMONG}", self.db.ids(values))

    def contains(self, column: str, words: Sequence[str]) -> None:
        """A stored set has these words; each is found with its quotes, which no word's own can imitate."""
        for word in words:
            self.add(f"{column} LIKE ? ESCAPE '!'", f"%{_escaped(json.dumps(word, ensure_ascii=False))}%")

    def compares(self, column: str, comparison: tuple[str, int] | None) -> None:
        if comparison is not None:
            operator, number = comparison
            if operator not in _COMPARISONS:
                raise MgmtError(
                    "bad-body", f"{operator!r} compares nothing: one of {' '.join(sorted(_COMPARISONS))}"
                )
            self.add(f"{column} {operator} ?", number)

    def text(self) -> str:
        return f" WHERE {' AND '.join(self.parts)}" if self.parts else ""


def _escaped(text: str) -> str:
    return text.replace("!", "!!").replace("%", "!%").replace("_", "!_")


# ---- suites -----------------------------------------------------------------------------------------------


def get_suite(db: Connection, op: ops.GetSuite) -> ops.SuiteRecord:
    rows = db.rows(f"{_SUITE} WHERE s.id = ?", (op.suite,))
    if not rows:
        raise refusals.unknown_suite(op.suite)
    return _suite(rows[0])


def list_suites(db: Connection, op: ops.ListSuites) -> ops.Suites:
    wanted = op.filter
    where = _Where(db)
    where.one_of("l.group_name", wanted.groups)
    where.one_of("s.creator", wanted.creators)
    where.one_of("s.name", (wanted.name,) if wanted.name else ())
    where.contains("l.tags", wanted.tags)
    where.contains("s.labels", wanted.labels)
    where.numbers("l.state", wanted.states)
    sql = f"SELECT count(*) FROM suites s JOIN lanes l ON l.id = s.id{where.text()}"
    ((count,),) = db.rows(sql, where.parameters)
    if op.count_only:
        return ops.Suites((), count)
    rows = db.rows(
        f"{_SUITE}{where.text()} ORDER BY s.id DESC LIMIT ? OFFSET ?",
        (*where.parameters, op.limit, op.offset),
    )
    return ops.Suites(tuple(map(_suite, rows)), count)


def list_lanes(db: Connection, op: ops.ListLanes) -> tuple[ops.LaneRecord, ...]:
    return tuple(lanes(db, "pending > 0" if op.pending_only else "id > 0", ()))


def lanes(db: Connection, condition: str, parameters: Sequence[Any]) -> list[ops.LaneRecord]:
    rows = db.rows(
        f"SELECT is_suite, group_name, tags, priority, created_ms, {COLUMNS} FROM lanes "
        f"WHERE {condition} ORDER BY id",
        parameters,
    )
    return [
        ops.LaneRecord(
            counts[0],
            bool(is_suite),
            group,
            tuple(json.loads(tags)),
            priority,
            created_ms,
            ops.Counts(*counts),
        )
        for is_suite, group, tags, priority, created_ms, *counts in rows
    ]


def _suite(row: Sequence[Any]) -> ops.SuiteRecord:
    (
        suite, name, group, creator, tags, labels, priority, record, reason, created_ms, submitted_ms,
        completed_ms, *counts,
    ) = row  # fmt: skip
    return ops.SuiteRecord(
        suite, name, group, creator, tuple(json.loads(tags)), tuple(json.loads(labels)), priority, bytes(record),
        reason, created_ms, submitted_ms, completed_ms, ops.Counts(*counts),
    )  # fmt: skip


# ---- tasks ------------------------------------------------------------------------------------------------


def conditions(db: Connection, wanted: ops.TaskFilter) -> tuple[str, list[Any]]:
    """The tables t (tasks), s (submissions), l (lanes), h (holders) joined and restricted, with parameters."""
    where = _Where(db)
    where.numbers("t.id", wanted.tasks)
    if wanted.lane:
        where.add("s.lane = ?", wanted.lane)
    where.one_of("l.group_name", wanted.groups)
    where.one_of("s.creator", wanted.creators)
    where.contains("l.tags", wanted.tags)
    where.numbers("t.state", wanted.states)
    where.one_of("h.node", wanted.nodes)
    if wanted.independent is not None:
        where.add("l.is_suite = ?", int(not wanted.independent))
    where.compares("t.priority", wanted.priority)
    where.compares("t.exit_status", wanted.exit_status)
    for label in wanted.labels:
        where.add("t.id IN (SELECT b.task FROM labels b WHERE b.label = ?)", label)
    if wanted.lane:
        # A lane's tasks are found by its submissions: an index of tasks by lane would cost with every one of them.
        where.add("t.id BETWEEN s.first AND s.first + s.count - 1")
    return _TASK_FROM + where.text(), where.parameters


def list_tasks(db: Connection, op: ops.ListTasks) -> ops.Tasks:
    source, parameters = conditions(db, op.filter)
    count = _counted(db, op.filter)
    if count is None:
        ((count,),) = db.rows(f"SELECT count(*){source}", parameters)
    if op.count_only:
        return ops.Tasks((), count)
    order = "s.first, t.id" if op.filter.lane else "t.id"  # the same, in the order of the index that is used
    head = f", substr(t.spec, 1, {ops.SPEC_HEAD_BYTES})"
    rows = db.rows(
        f"{_TASK}{head}{source} ORDER BY {order} LIMIT ? OFFSET ?", (*parameters, op.limit, op.offset)
    )
    labelled = [row[0] for row in rows if row[10] & Flag.LABELS]
    labels: dict[int, list[str]] = {}
    if labelled:
        sql = f"SELECT task, label FROM labels WHERE task {db.AMONG} ORDER BY label"
        for task, label in db.rows(sql, (db.ids(labelled),)):
            labels.setdefault(task, []).append(label)
    return ops.Tasks(
        tuple(_task(row, labels=tuple(labels.get(row[0], ())), spec=bytes(spec)) for *row, spec in rows),
        count,
    )


def _counted(db: Connection, wanted: ops.TaskFilter) -> int | None:
    """The tasks of one lane are counted already; None when more than its states is asked for."""
    if not wanted.lane or wanted != ops.TaskFilter(lane=wanted.lane, states=wanted.states):
        return None
    counts = counts_of(db, wanted.lane)
    if counts is None:
        return 0
    states = {
        Task.PENDING: counts.pending - counts.ready - counts.running,
        Task.READY: counts.ready,
        Task.RUNNING: counts.running,
        Task.FINISHED: counts.finished,
        Task.FAILED: counts.failed,
        Task.CANCELLED: counts.cancelled,
    }
    return (
        sum(states[Task(state)] for state in set(wanted.states) & {*states})
        if wanted.states
        else counts.total
    )


def get_task(db: Connection, op: ops.GetTask) -> ops.TaskRecord:
    rows = db.rows(f"{_TASK}, t.spec, t.detail{_TASK_FROM} WHERE t.id = ?", (op.task,))
    if not rows:
        raise refusals.unknown_task(op.task)
    *row, spec, detail = rows[0]
    state, flags = row[5], row[10]
    labels: Rows = []
    after: Rows = []
    failures: Rows = []
    if flags & Flag.LABELS:
        labels = db.rows("SELECT label FROM labels WHERE task = ? ORDER BY label", (op.task,))
    if state == Task.PENDING:
        after = db.rows("SELECT on_task, kind, value FROM deps WHERE task = ? ORDER BY on_task", (op.task,))
    if flags & Flag.STRUCK:
        sql = "SELECT node, excluded, deaths FROM failures WHERE task = ? ORDER BY node"
        failures = db.rows(sql, (op.task,))
    history = [
        ops.Death(attempt, node, at_ms, status, message)
        for node, _, deaths in failures
        for attempt, at_ms, status, message in frames.unpack(deaths)
    ]
    return _task(
        row,
        labels=tuple(label for (label,) in labels),
        excluded=tuple(node for node, excluded, _ in failures if excluded),
        spec=bytes(spec),
        detail=None if detail is None else bytes(detail),
        after=tuple(dependents.after_of(*one) for one in after),
        history=tuple(sorted(history)),
    )


def _task(row: Sequence[Any], **more: Any) -> ops.TaskRecord:
    (
        task, lane, group, creator, sequence, state, priority, attempt, holder, node, flags, status, message,
        exec_state, submitted_ms, due_ms, started_ms, finished_ms,
    ) = row  # fmt: skip
    return ops.TaskRecord(
        task, lane, group, creator, sequence, state, priority, attempt, holder or 0, node or "",
        bool(flags & Flag.CANCELLING), status, message or "", exec_state, submitted_ms, due_ms or 0,
        started_ms or 0, finished_ms or 0, **more,
    )  # fmt: skip


# ---- holders ----------------------------------------------------------------------------------------------


def list_holders(db: Connection, op: ops.ListHolders) -> tuple[ops.HolderRecord, ...]:
    where = _Where(db)
    where.add("h.ended_ms = 0")
    if op.owner:
        where.add("h.owner = ?", op.owner)
    rows = db.rows(
        "SELECT h.id, h.node, h.owner, h.worker, h.suite, h.lease_until_ms, h.opened_ms, h.number, "
        "(SELECT count(*) FROM tasks t WHERE t.state = 2 AND t.holder = h.id) "
        f"FROM holders h{where.text()} ORDER BY h.id",
        where.parameters,
    )
    return tuple(ops.HolderRecord(*row) for row in rows)
