"""Every state of a suite and of a task, and all that can be asked of it: legal edges are gone, others refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mgmt.core.suites import operations as ops
from mgmt.core.suites.operations import Ack, Exchange, NewTask, Result, Submit
from mgmt.core.suites.states import ENDED, SUITE_EDGES, TASK_EDGES, Suite, SuiteEvent, Task
from mgmt.protocol.errors import MgmtError
from tests.unit.queues import FOREVER_MS, SPEC, Asked

SUITE_OPERATIONS: dict[SuiteEvent, Callable[[int], object]] = {
    SuiteEvent.SUBMITTED: lambda suite: Submit(suite, [NewTask(SPEC)], "u", 5000),
    SuiteEvent.CLOSED: lambda suite: ops.CloseSuite(suite, 5000),
    SuiteEvent.CANCELLED: lambda suite: ops.CancelSuite(suite, 5000),
}


def a_suite(ask: Asked, state: Suite) -> int:
    suite: int = ask(ops.CreateSuite("g", "u", 1000)).suite
    if state is Suite.CLOSED:
        ask(Submit(suite, [NewTask(SPEC)], "u", 1000))
        ask(ops.CloseSuite(suite, 2000))
    elif state is Suite.COMPLETE:
        a_task(ask, Task.FINISHED, suite)
    elif state is Suite.CANCELLED:
        ask(ops.CancelSuite(suite, 2000))
    assert ask(ops.GetSuite(suite)).counts.state == state
    return suite


@pytest.mark.parametrize("event", SUITE_OPERATIONS, ids=lambda event: event.name)
@pytest.mark.parametrize("state", Suite, ids=lambda state: state.name)
def test_a_suite_in_any_state(ask: Asked, state: Suite, event: SuiteEvent) -> None:
    suite = a_suite(ask, state)
    operation = SUITE_OPERATIONS[event](suite)
    if (state, event) in SUITE_EDGES:
        ask(operation)
        assert ask(ops.GetSuite(suite)).counts.state == SUITE_EDGES[state, event]
        return
    if (state, event) == (Suite.CLOSED, SuiteEvent.CLOSED):
        ask(operation)  # which changes nothing
    else:
        with pytest.raises(MgmtError) as refused:
            ask(operation)
        assert refused.value.code == "conflict"
    assert ask(ops.GetSuite(suite)).counts.state == state


def a_task(ask: Asked, state: Task, suite: int = 0) -> tuple[int, int]:
    """A task, and the holder that had it last."""
    suite = suite or ask(ops.CreateSuite("g", "u", 1000)).suite
    holder = ask(ops.OpenHolder("n1", "d", FOREVER_MS, 1000, suite=suite)).holder
    task: int = ask(Submit(suite, [NewTask(SPEC)], "u", 1000)).first
    if state is Task.CANCELLED:
        ask(ops.CancelTasks(ops.TaskFilter(tasks=(task,)), 2000))
    elif state is Task.PENDING:
        after = ask(Submit(suite, [NewTask(SPEC, 0, ops.Extra((), (ops.After(task),)))], "u", 1000))
        task = after.first
    elif state is not Task.READY:
        (claim,) = ask(Exchange(holder, 1, 2000, (), 1)).claims
        assert claim.task == task
        if state is Task.FINISHED:
            ask(Exchange(holder, 2, 3000, [Result(task, 1, 0)], 0))
        elif state is Task.FAILED:
            for attempt in range(1, 100):
                ask(ops.ReportDeath(holder, task, attempt, 11, "w0: it died", 3000, ("n1",)))
                if state_of(ask, task) is Task.FAILED:
                    break
                ask(Exchange(holder, attempt + 1, 3000, (), 1, fallback=True))
    assert state_of(ask, task) is state
    return task, holder


def state_of(ask: Asked, task: int) -> Task:
    return Task(ask(ops.GetTask(task)).state)


def exchanged(ask: Asked, task: int, holder: int) -> object:
    number = next(one.number for one in ask(ops.ListHolders()) if one.holder == holder) + 1
    attempt = ask(ops.GetTask(task)).attempt
    return ask(Exchange(holder, number, 6000, [Result(task, attempt, 0)], 0)).acks[0]


TASK_OPERATIONS: dict[str, Callable[[Asked, int, int], object]] = {
    "cancel": lambda ask, task, holder: ask(ops.CancelTasks(ops.TaskFilter(tasks=(task,)), 5000)),
    "change": lambda ask, task, holder: ask(ops.ChangeTask(task, 5000, priority=7)),
    "retry": lambda ask, task, holder: ask(ops.RetryTask(task, 5000)),
    "result": exchanged,
    "death": lambda ask, task, holder: ask(
        ops.ReportDeath(holder, task, ask(ops.GetTask(task)).attempt, 9, "w0: it died", 5000, ("n1", "n2"))
    ),
    "claim": lambda ask, task, holder: ask(Exchange(holder, 1 << 40, 5000, (), 1)),
}
# What each may lead to, by the state before; whatever is not here leaves the task as it is.
LEADS: dict[tuple[str, Task], Task] = {
    ("cancel", Task.PENDING): Task.CANCELLED,
    ("cancel", Task.READY): Task.CANCELLED,
    ("retry", Task.FINISHED): Task.READY,
    ("retry", Task.CANCELLED): Task.READY,
    ("retry", Task.FAILED): Task.READY,
    ("result", Task.RUNNING): Task.FINISHED,
    ("death", Task.RUNNING): Task.READY,
    ("claim", Task.READY): Task.RUNNING,
}


@pytest.mark.parametrize("name", TASK_OPERATIONS)
@pytest.mark.parametrize("state", set(Task) - {Task.UNKNOWN}, ids=lambda state: state.name)
def test_a_task_in_any_state(ask: Asked, state: Task, name: str) -> None:
    task, holder = a_task(ask, state)
    answer: object = None
    try:
        answer = TASK_OPERATIONS[name](ask, task, holder)
    except MgmtError as error:
        assert (name, state) not in LEADS, error.text
    expected = LEADS.get((name, state), state)
    assert state_of(ask, task) is expected
    assert expected is state or (state, expected) in TASK_EDGES
    if name == "result":
        assert (answer is Ack.OK) == (state is Task.RUNNING), "a result counts once, for who runs it"
    if state in ENDED and name != "retry":
        assert expected is state, "an end is the end"
