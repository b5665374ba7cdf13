"""The cost of an operation does not grow with the queue: none reads a table from end to end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mgmt.core.suites import operations as ops
from mgmt.core.suites.operations import After, Exchange, Extra, NewTask, Result, Retry
from mgmt.store.queue.connection import Rows
from mgmt.store.queue.sqlite import SqliteConnection, SqliteEngine
from tests.unit.queues import FOREVER_MS, SPEC, do

# Tables that grow with the tasks, and the names they go by in joins.
LARGE = {"tasks", "t", "submissions", "s", "deps", "d", "labels", "holders", "h", "failures", "retries"}


class Planned(SqliteConnection):
    """Notes each statement with the tables that SQLite means to read from end to end."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.scans: dict[str, list[str]] = {}

    def _note(self, sql: str) -> None:
        if sql in self.scans or sql.startswith(("PRAGMA", "EXPLAIN")):
            return
        plan = super().rows(f"EXPLAIN QUERY PLAN {sql}", [None] * sql.count("?"))
        details = [row[3].split() for row in plan]
        self.scans[sql] = [words[1] for words in details if words[0] == "SCAN" and words[1] in LARGE]

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> Rows:
        self._note(sql)
        return super().rows(sql, parameters)

    def change(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        self._note(sql)
        return super().change(sql, parameters)

    def changed(self, sql: str, parameters: Sequence[Any] = ()) -> Rows:
        self._note(sql)
        return super().changed(sql, parameters)

    def many(self, sql: str, rows: Sequence[Sequence[Any]]) -> int:
        self._note(sql)
        return super().many(sql, rows)


def test_no_operation_reads_a_table_from_end_to_end(tmp_path: Path) -> None:
    engine = SqliteEngine(tmp_path / "queue.db")
    engine.open().close()
    db = Planned(engine.path)
    suite = do(db, ops.CreateSuite("g", "u", 1000, key="k")).suite
    extra = Extra(("l",), (), Retry(1, (), 5))
    waiting = Extra((), (After(0), After(0, reached=11)))
    tasks = [NewTask(SPEC, 0, extra), NewTask(SPEC, 0, waiting), NewTask(SPEC), NewTask(SPEC), NewTask(SPEC)]
    first = do(db, ops.Submit(suite, tasks, "u", 2000, "k")).first
    holder = do(db, ops.OpenHolder("n", "d", FOREVER_MS, 2000, suite)).holder
    claims = do(db, Exchange(holder, 1, 3000, (), 3)).claims
    assert len(claims) == 3
    do(db, ops.ExecStates(holder, ((first, 1, 11),), 3000))
    do(db, ops.ReportDeath(holder, first + 2, claims[1].attempt, -11, "", 3000))
    again = (Result(first, 1, 0), Result(first + 9, 1, 0))
    do(db, Exchange(holder, 2, 3000, (Result(first, 1, 1), *again), 1, ((claims[2].task, 1),)))
    do(db, ops.Sweep(9000, 1000))
    do(db, ops.ChangeTask(first + 4, 3000, priority=-1, labels=("a",)))
    do(db, ops.Reconcile(holder, (), 3000))
    do(db, Exchange(holder, 3, 3000, (), 1))
    do(db, ops.CancelTasks(ops.TaskFilter(lane=suite), 3000, running=True))
    do(db, ops.RenewHolders((holder,), FOREVER_MS, 3000))
    do(db, ops.EndHolder(holder, 3000))
    do(db, ops.RetryTask(first, 3000))
    do(db, ops.CancelSuite(suite, 3000, running=True))
    do(db, ops.ListTasks(ops.TaskFilter(lane=suite)))
    do(db, ops.ListTasks(ops.TaskFilter(labels=("l",))))
    do(db, ops.GetTask(first))
    assert {sql: scanned for sql, scanned in db.scans.items() if scanned} == {}
    assert len(db.scans) > 40
    db.close()
