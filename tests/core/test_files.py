"""Files of tasks, event by event: what waits for what, and what passes by."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from mgmt.core import effect as fx
from mgmt.core import event as ev
from mgmt.core.suites.files import Files, Outcome
from mgmt.core.suites.states import Task
from mgmt.core.supervision import LOCAL
from mgmt.protocol import frames
from mgmt.store.queue.connection import Connection
from tests.core.suited import Suited


def done(task: int, **extra: Any) -> Outcome:
    return ["done", task, 1, 0, "", 1, 2, b"", extra, "w0"]


def claimed(task: int, **spec: Any) -> tuple[int, int, bytes, str, str]:
    return task, 1, frames.pack(spec), "", ""


def kept(task: int, message: str = "") -> ev.OutputsKept:
    return ev.OutputsKept(7, task, 1, message)


def test_what_ended_later_on_a_connection_is_told_later() -> None:
    files, out = Files(7, "/f"), []  # type: tuple[Files, list[fx.Effect]]
    assert not files.holds_back(1, done(1), out)
    assert files.holds_back(1, done(2, results="/r2"), out)
    assert files.holds_back(1, done(3), out)
    assert files.holds_back(1, done(4, log="/l4", log_bytes=9), out)
    assert not files.holds_back(2, done(5), out), "another worker's"
    assert out == [fx.KeepOutputs(7, 2, 1, "/r2", None), fx.KeepOutputs(7, 4, 1, None, "/l4")]
    assert not files.is_empty and set(files.held()) == {(2, 1), (3, 1), (4, 1)}
    assert files.kept(kept(4, "it was not kept")) == []
    told = files.kept(kept(2))
    assert [(connection, one[1], one[4]) for connection, one in told] == [
        (1, 2, ""),
        (1, 3, ""),
        (1, 4, "it was not kept"),
    ]
    assert [one[8] for _, one in told] == [{}, {}, {"log_bytes": 9}]
    assert files.is_empty


def test_what_is_told_again_is_kept_once() -> None:
    files, out = Files(7, "/f"), []  # type: tuple[Files, list[fx.Effect]]
    files.holds_back(1, done(1, results="/r"), out)
    files.holds_back(2, done(1, results="/r"), out)  # its worker is connected again
    assert len(out) == 1
    assert [connection for connection, _ in files.kept(kept(1))] == [1, 2]
    files.holds_back(3, done(2, results="/r"), out)
    files.holds_back(3, done(3), out)
    assert [one[1] for _, one in files.let_go()] == [2, 3] and files.is_empty


def test_only_tasks_that_name_files_wait_for_them() -> None:
    files, out = Files(7, "/f"), []  # type: tuple[Files, list[fx.Effect]]
    assert not files.fetch(claimed(1, args=["resources"]), out)
    assert not files.fetch(claimed(2, args=["true"], resources=[]), out)
    task = claimed(3, args=["true"], resources=[{"blob": "g/k", "path": "p"}])
    assert files.fetch(task, out)
    assert out == [fx.FetchInputs(7, 3, 1, "/f/3.1", (("g/k", "p"),))]
    assert files.fetched(ev.InputsFetched(7, 3, 2)) is None, "of another attempt"
    assert files.fetched(ev.InputsFetched(7, 3, 1)) == task
    out.clear()
    files.hand_over(task, "/w0", out)
    files.hand_over(task, "/w1", out)  # the first worker died before it began
    assert out == [fx.MoveFolder("/f/3.1", "/w0/in/3.1"), fx.MoveFolder("/w0/in/3.1", "/w1/in/3.1")]
    files.forget(task)
    out.clear()
    files.clean_up(out)
    assert out == [fx.RemoveTree("/w1/in/3.1")]


# ---- in a crew -------------------------------------------------------------------------------------------


class Filed(Suited):
    """`fetches` and `keeps` wait for the test."""

    def __init__(self, db: Connection) -> None:
        self.fetches: list[fx.FetchInputs] = []
        self.keeps: list[fx.KeepOutputs] = []
        self.dropped: list[fx.DropJobs] = []
        super().__init__(db)

    def _do(self, world: Any, effect: fx.Effect) -> None:
        match effect:
            case fx.FetchInputs():
                self.fetches.append(effect)
            case fx.KeepOutputs():
                self.keeps.append(effect)
            case fx.DropJobs():
                self.dropped.append(effect)
        super()._do(world, effect)

    def fetched(self, message: str = "") -> None:
        one = self.fetches.pop(0)
        self.daemon.feed(ev.InputsFetched(one.holder, one.task, one.attempt, message))
        self.pump()


@pytest.fixture
def there(queue: Connection) -> Iterator[Filed]:
    yield Filed(queue)


FILES: dict[str, Any] = {"resources": [{"blob": "g/k", "path": "p"}]}


def test_a_task_is_run_when_its_files_are_there(there: Filed) -> None:
    suite = there.suite()
    (first,) = there.submit(suite, **FILES)
    (hand,) = there.hands_at(LOCAL)
    assert [one.task for one in there.fetches] == [first] and not hand.tasks
    (plain,) = there.submit(suite)
    assert [task for task, _ in hand.tasks] == [plain], "others go on"
    there.fetched()
    there.finish()
    assert set(there.states().values()) == {Task.FINISHED}


def test_a_task_without_its_files_ends_with_the_reason(there: Filed) -> None:
    suite = there.suite()
    (task,) = there.submit(suite, **FILES)
    there.fetched("ResourceForbidden")
    shown = there.ask("task-show", task=task)
    assert there.state(task) is Task.FINISHED
    assert not there.hands_at(LOCAL)[0].tasks
    assert shown is not None
    there.finish()


def test_a_task_that_is_cancelled_while_its_files_come_is_over(there: Filed) -> None:
    suite = there.suite()
    (task,) = there.submit(suite, **FILES)
    there.ask("task-cancel", tasks=[task])
    there.pump()
    assert there.state(task) is Task.CANCELLED
    assert any(one.tasks == (task,) for one in there.dropped)
    there.fetched()
    assert not there.hands_at(LOCAL)[0].tasks, "what comes late is nobody's"
    there.finish()


def test_files_that_were_coming_when_the_daemon_died_come_again(there: Filed) -> None:
    suite = there.suite()
    (task,) = there.submit(suite, **FILES)
    there.fetches.clear()
    there.kill_daemon()
    for _ in range(40):
        there.pump()
        there.advance(0.5)
        if there.fetches:
            break
    assert [one.task for one in there.fetches] == [task]
    there.fetched()
    there.finish()
    assert there.state(task) is Task.FINISHED


def test_a_result_is_committed_when_what_was_left_is_kept(there: Filed) -> None:
    suite = there.suite()
    (task,) = there.submit(suite)
    (hand,) = there.hands_at(LOCAL)
    running = hand.tasks.pop(0)
    word = [2, *running, 0, "", 1, 2, b"", {"results": "/r"}]
    hand.untaken.append(word)
    there._say(hand, [list(word)])
    there.pump()
    assert there.state(task) is Task.RUNNING and [one.task for one in there.keeps] == [task]
    one = there.keeps[0]
    there.daemon.feed(ev.OutputsKept(one.holder, one.task, one.attempt))
    there.pump()
    assert there.state(task) is Task.FINISHED and not hand.untaken
    there.finish()
