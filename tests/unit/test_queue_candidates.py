"""What the queue keeps of candidates, on each engine."""

from __future__ import annotations

import pytest

from mgmt.core.suites import operations as op
from mgmt.core.suites.candidate_rows import Changed, ChangePriorities, GetRows, PutRows, RecordRun, Row
from mgmt.protocol.errors import MgmtError
from tests.unit.queues import SPEC, Asked

ROWS = [Row("runs", f"r{i}", bytes([i])) for i in range(5)]


def kept(ask: Asked, limit: int = 100) -> list[Row]:
    """All of them, page by page."""
    found: list[Row] = []
    while rows := ask(GetRows((found[-1].kind, found[-1].name) if found else ("", ""), limit)).rows:
        found += rows
    return found


def test_a_row_takes_the_place_of_another_of_its_key(ask: Asked) -> None:
    assert ask(PutRows(ROWS)) == Changed(5)
    ask(PutRows([Row("runs", "r1", b"new"), Row("candidates", "r1", b"other")]))
    assert kept(ask, 2) == [Row("candidates", "r1", b"other"), ROWS[0], Row("runs", "r1", b"new"), *ROWS[2:]]
    ask(PutRows([ROWS[0]], gone=[("runs", "r1"), ("runs", "nobody"), ("candidates", "r2")]))
    assert kept(ask) == [Row("candidates", "r1", b"other"), ROWS[0], *ROWS[2:]]
    ask(PutRows([ROWS[4]], forget=True))
    assert kept(ask) == [ROWS[4]]
    ask(PutRows([], forget=True))
    assert kept(ask) == []


def a_suite(ask: Asked, count: int) -> op.Submitted:
    suite = ask(op.CreateSuite("alice", "alice", 1)).suite
    tasks = [op.NewTask(SPEC, 10, op.Extra(("candidates",))) for _ in range(count)]
    submitted = ask(op.Submit(suite, tasks, "alice", 1))
    assert isinstance(submitted, op.Submitted)
    return submitted


def test_a_recorded_run_is_found_no_more_as_one_to_record(ask: Asked) -> None:
    first = a_suite(ask, 2).first
    ask(RecordRun(first, "candidates", ROWS[0]))
    ask(RecordRun(first, "candidates", ROWS[0]))
    ask(RecordRun(first + 1, "another", None))
    assert [task.task for task in ask(op.ListTasks(op.TaskFilter(labels=("candidates",)))).tasks] == [
        first + 1
    ]
    assert kept(ask) == [ROWS[0]]


def test_priorities_change_of_what_is_ready(ask: Asked) -> None:
    submitted = a_suite(ask, 3)
    lane, first = submitted.counts.lane, submitted.first
    holder = ask(op.OpenHolder("n", "o", 10**14, 1, suite=lane)).holder
    (claim,) = ask(op.Exchange(holder, 1, 1, want=1)).claims
    assert claim.task == first
    changes = [(first, 99), (first + 2, 20), (first + 100, 1)]
    assert ask(ChangePriorities(changes)) == Changed(1)
    assert [one.task for one in ask(op.Exchange(holder, 2, 1, want=2)).claims] == [first + 2, first + 1]
    assert ask(ChangePriorities([])) == Changed(0)
    with pytest.raises(MgmtError):
        ask(op.GetTask(first + 100))
