"""States of suites, tasks and executions as data; UUIDs that are derived; limits of strikes."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mgmt.core.suites.identity import Kind, number_of, uuid_of
from mgmt.core.suites.states import (
    ENDED,
    REACHED,
    SUITE_EDGES,
    TASK_EDGES,
    Exec,
    Suite,
    SuiteEvent,
    Task,
    has_reached,
)
from mgmt.core.suites.strikes import limit_of

NUMBERS = st.integers(1, 2**63 - 1)
QUEUE_IDS = st.integers(0, 2**64 - 1)


def test_a_cancelled_suite_stays_so() -> None:
    assert {after for (state, _), after in SUITE_EDGES.items() if state == Suite.CANCELLED} == {
        Suite.CANCELLED
    }
    assert (Suite.CANCELLED, SuiteEvent.SUBMITTED) not in SUITE_EDGES


def test_a_new_task_opens_every_other_suite() -> None:
    for state in set(Suite) - {Suite.CANCELLED}:
        assert SUITE_EDGES[state, SuiteEvent.SUBMITTED] == Suite.OPEN


def test_tasks_end_while_they_run_or_are_cancelled_before() -> None:
    for old, new in TASK_EDGES:
        if new in ENDED:
            assert old == Task.RUNNING or new == Task.CANCELLED
        if old in ENDED:
            assert new == Task.READY
    assert not any(Task.UNKNOWN in edge for edge in TASK_EDGES)


def test_every_state_has_reached_itself() -> None:
    assert all(has_reached(state, state) for state in Exec)
    assert set(REACHED) == set(Exec)


def test_reaching_is_transitive_on_the_way() -> None:
    for given_, reached in REACHED.items():
        for between in reached - {given_}:
            assert REACHED[between] <= reached


@pytest.mark.parametrize(
    ("wanted", "given_", "expected"),
    [
        (Exec.EXEC_SPAWNED, Exec.EXEC_PENDING, False),
        (Exec.EXEC_SPAWNED, Exec.TASK_COMMITTED, True),
        (Exec.WATCH_FINISHED, Exec.EXEC_PENDING, True),
        (Exec.WATCH_FINISHED, Exec.WATCH_TIMEOUT, False),
        (Exec.EXEC_FINISHED, Exec.EXEC_TIMEOUT, False),
        (Exec.EXEC_SPAWNED, Exec.EXEC_TIMEOUT, True),
        (Exec.EXEC_TIMEOUT, Exec.TASK_COMMITTED, False),
        (Exec.FETCH_RESOURCE, Exec.FETCH_RESOURCE_ERROR, True),
        (Exec.FETCH_RESOURCE_FINISHED, Exec.FETCH_RESOURCE_ERROR, False),
        (Exec.FETCH_RESOURCE, Exec.UNKNOWN, False),
        (Exec.FETCH_RESOURCE, Exec.WORKER_EXITED, False),
        (77, Exec.TASK_COMMITTED, False),
        (Exec.WATCH, 77, False),
    ],
)
def test_what_has_been_reached(wanted: int, given_: int, expected: bool) -> None:
    assert has_reached(wanted, given_) is expected


@given(QUEUE_IDS, st.sampled_from(Kind), NUMBERS)
def test_a_uuid_tells_its_number(queue_id: int, kind: Kind, number: int) -> None:
    text = uuid_of(queue_id, kind, number)
    parsed = uuid.UUID(text)
    assert parsed.version == 8 and parsed.variant == uuid.RFC_4122 and str(parsed) == text
    assert number_of(queue_id, kind, text) == number
    assert number_of(queue_id, kind, text.upper().replace("-", "")) == number
    for other in set(Kind) - {kind}:
        assert number_of(queue_id, other, text) is None


@given(QUEUE_IDS, QUEUE_IDS, NUMBERS)
def test_queues_do_not_know_each_others_uuids(one: int, other: int, number: int) -> None:
    found = number_of(other, Kind.TASK, uuid_of(one, Kind.TASK, number))
    assert found == number if one == other else found != number


@pytest.mark.parametrize("text", ["", "1", "x" * 32, str(uuid.UUID(int=5)), f"{uuid.UUID(int=2**128 - 1)}"])
def test_other_text_is_no_number(text: str) -> None:
    assert number_of(7, Kind.TASK, text) is None


@pytest.mark.parametrize("number", [0, -1, 2**63])
def test_nothing_has_such_a_number(number: int) -> None:
    with pytest.raises(ValueError, match="number of nothing"):
        uuid_of(7, Kind.TASK, number)


@pytest.mark.parametrize(
    ("status", "limit"),
    [
        (-11, 2),
        (-4, 2),
        (-7, 2),
        (-8, 2),
        (-9, 3),
        (-6, 3),
        (1, 3),
        (139, 3),
        (None, 3),
        (0, None),
        (-15, None),
        (-2, None),
    ],
)
def test_limits_by_cause(status: int | None, limit: int | None) -> None:
    assert limit_of(status) == limit
