"""Suites, crews and the queue, event by event."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mgmt.core.suites.states import Task
from mgmt.core.supervision import LOCAL
from mgmt.store.queue.connection import Connection
from tests.core.suited import Suited


@pytest.fixture
def there(queue: Connection) -> Iterator[Suited]:
    yield Suited(queue)


def test_a_suite_is_worked_off_and_left(there: Suited) -> None:
    suite = there.suite(worker={"worker_count": 2})
    tasks = there.submit(suite, 5)
    assert len(there.hands_at(LOCAL)) == 2
    there.finish()
    assert there.states() == dict.fromkeys(tasks, Task.FINISHED)
    assert there.status(suite)["state"] == "COMPLETE"
    assert not there.hands
