"""What the queue keeps of candidates, on each engine."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from mgmt.core.suites import operations as op
from mgmt.core.suites.candidate_rows import (
    Changed,
    ChangePriorities,
    GetLabelled,
    GetRows,
    PutRows,
    RecordRun,
    Row,
    SubmitNew,
)
from mgmt.core.suites.states import Task
from mgmt.protocol.errors import MgmtError
from mgmt.store.queue.postgres import PostgresEngine
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


def named(*names: str) -> list[tuple[str, int, bytes]]:
    return [(f"candidate:{name}", 5, SPEC) for name in names]


def test_a_name_is_in_the_queue_once(ask: Asked) -> None:
    suite, other = (ask(op.CreateSuite("alice", "alice", 1)).suite for _ in range(2))
    done = ask(SubmitNew(suite, named("a", "b"), "candidates", "alice", 1))
    assert done.counts.total == 2 and 0 not in done.tasks
    again = ask(SubmitNew(other, named("b", "c", "a"), "candidates", "alice", 2))
    assert [bool(task) for task in again.tasks] == [False, True, False] and again.counts.total == 1
    assert ask(SubmitNew(suite, named("a"), "candidates", "alice", 2)).tasks == (0,)
    ask(op.CancelTasks(op.TaskFilter(tasks=(done.tasks[0],)), 3))
    assert ask(SubmitNew(suite, named("a"), "candidates", "alice", 4)).tasks != (0,)
    with pytest.raises(MgmtError):
        ask(SubmitNew(999, named("a"), "candidates", "alice", 5))
    assert ask.recount() == []


def test_two_passes_at_the_same_moment_put_a_name_in_once(ask: Asked) -> None:
    """Two daemons of one queue; an engine for one daemon has one connection that writes."""
    suite = ask(op.CreateSuite("alice", "alice", 1)).suite
    others = [ask, *([Asked(ask.engine)] if isinstance(ask.engine, PostgresEngine) else [])]
    outcomes: list[list[Any]] = [[] for _ in others]
    names = [str(i) for i in range(300)]

    def passes(which: int) -> None:
        for start in range(0, 300, 30):
            some = named(*names[start : start + 60])
            outcomes[which] += others[which].outcomes(
                [SubmitNew(suite, some, "candidates", "alice", 1) for _ in range(2)]
            )

    threads = [threading.Thread(target=passes, args=(i,)) for i in range(len(others))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60.0)
    for other in others[1:]:
        other.close()
    tasks = [task for some in outcomes for done in some for task in done.tasks if task]
    assert len(tasks) == len(set(tasks)) == 300
    listed = ask(GetLabelled("candidates", limit=1000))
    assert sorted(label for one in listed for label in one.labels if label != "candidates") == sorted(
        name for name, _, _ in named(*names)
    )


def test_tasks_with_a_label_are_told_page_by_page(ask: Asked) -> None:
    submitted = a_suite(ask, 5)
    holder = ask(op.OpenHolder("n", "o", 10**14, 1, suite=submitted.counts.lane)).holder
    ask(op.Exchange(holder, 1, 1, want=2))
    found, after = [], 0
    while page := ask(GetLabelled("candidates", after, limit=2)):
        found += page
        after = page[-1].task
    assert [one.task for one in found] == [submitted.first + i for i in range(5)]
    assert {(one.lane, one.priority, one.submitted_ms) for one in found} == {(submitted.counts.lane, 10, 1)}
    begun = ask(GetLabelled("candidates", begun=True))
    assert [(one.task, one.state) for one in begun] == [(submitted.first + i, Task.RUNNING) for i in range(2)]


def test_a_task_that_is_tried_again_gets_labels(ask: Asked) -> None:
    first = a_suite(ask, 1).first
    ask(op.CancelTasks(op.TaskFilter(tasks=(first,)), 1))
    ask(RecordRun(first, "candidates", None))
    assert not ask(GetLabelled("candidates"))
    ask(op.RetryTask(first, 2, ("candidates", "candidates")))
    assert [one.task for one in ask(GetLabelled("candidates"))] == [first]


def test_two_workers_race_and_one_has_it(ask: Asked) -> None:
    """A claim is a lease: one at a time has a task, until it ends, gives it back, or is not heard of for long."""
    submitted = a_suite(ask, 1)
    lane, task = submitted.counts.lane, submitted.first
    rivals = [ask, Asked(ask.engine)] if isinstance(ask.engine, PostgresEngine) else [ask, ask]
    holders = [
        one(op.OpenHolder(f"n{i}", f"o{i}", 1000, 1, suite=lane)).holder for i, one in enumerate(rivals)
    ]
    claims: list[Any] = []

    def race(which: int) -> None:
        claims.append((holders[which], rivals[which](op.Exchange(holders[which], 1, 2, want=1)).claims))

    threads = [threading.Thread(target=race, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60.0)
    ((winner, _),) = [one for one in claims if one[1]]
    (loser,) = [holder for holder in holders if holder != winner]
    stale = ask(op.Exchange(loser, 2, 3, [op.Result(task, 1, 0)]))
    assert stale.acks == (op.Ack.STALE,) and not stale.claims
    ask(op.RenewHolders((loser,), 9000, 1001))
    assert ask(op.Sweep(1001, 10**9)).expired == (winner,)
    assert [claim.task for claim in ask(op.Exchange(loser, 3, 1002, want=1)).claims] == [task]
    if rivals[1] is not ask:
        rivals[1].close()
