"""Candidates in a daemon against rows that nobody can run, labels by hand, disks and clocks that fail."""

from __future__ import annotations

import json
import shlex
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from mgmt.core.candidates.lines import us
from mgmt.core.candidates.passes import Decided, Wanted, decided
from mgmt.core.candidates.records import RowError, candidate_of
from mgmt.core.candidates.tasks import LABEL, NAMED, key_of
from mgmt.core.suites.candidate_rows import GetLabelled, RecordRun
from mgmt.core.suites.states import ENDED, Task
from mgmt.core.supervision import LOCAL
from mgmt.protocol import messages_suites as msg
from mgmt.protocol.errors import MgmtError
from tests.core.test_candidates_desk import HOUR_S, Make, forget, make

__all__ = ["make"]


@pytest.mark.parametrize("policy", ["default", "janitor_compat"])
@pytest.mark.parametrize(
    "fields",
    [
        {"command": "sh -c 'never closed"}, {"command": "   "}, {"command": "run \0"},
        {"context": "a\0b"}, {"codebase": "bad\0name"}, {"campaign": "c\0"}, {"change_set": "x" * 600},
        {"value": 1e-320}, {"value": 1e-300},
    ],
)  # fmt: skip
def test_a_candidate_that_nobody_can_run_stops_no_other(
    make: Make, policy: str, fields: dict[str, Any]
) -> None:
    there = make(every=None, policy=policy)
    there.load("policies", {"name": "p", "per_branch_policy": [{"role": "main", "mode": "push"}]})
    there.candidates("good", publish_policy="p")
    row = {
        "codebase": "bad",
        "campaign": "fix",
        "command": "run",
        "value": 1,
        "publish_policy": None,
        **fields,
    }
    if policy == "janitor_compat" and "value" not in fields:
        row["publish_policy"] = "p"
    loaded = there.ask("candidates-load", table="candidates", rows=[row]).ok
    if loaded["stored"]:
        there.load("codebases", {"name": row["codebase"], "value": 10})
    there.ask("worker-pause", node=LOCAL, paused=True)
    done = there.schedule()
    assert "good" in there.queued()
    if "value" not in fields:
        assert there.queued() == ["good"], done
        assert loaded["faults"] or done["faults"], "it is told"
    there.check()


@pytest.mark.parametrize("command", ["a\ud800", 'sh -c "a', "a \\", "sh -c 'a\\", "\t\n"])
def test_a_command_that_no_shell_could_read_is_refused_with_its_row(command: str) -> None:
    with pytest.raises(RowError, match=r"candidates\[7\]\.command"):
        candidate_of(7, {"codebase": "a", "campaign": "b", "command": command})


@settings(deadline=None)
@given(st.text(alphabet="ab '\"\\\n#$", max_size=12))
def test_what_is_no_command_is_what_cannot_be_split(command: str) -> None:
    try:
        words = shlex.split(command)
    except ValueError:
        words = []
    row = {"codebase": "a", "campaign": "b", "command": command}
    if words or not command:
        assert candidate_of(0, row).command == command
    else:
        with pytest.raises(RowError):
            candidate_of(0, row)


@pytest.mark.parametrize(
    "label", ["oops", "[]", "[1,2,3]", '[["a"],{},"c"]', '["a","b"]', '{"a":1,"b":2,"c":3}']
)
def test_a_label_that_somebody_gave_by_hand_is_no_candidate(make: Make, label: str) -> None:
    assert key_of([NAMED + label]) is None
    assert key_of([NAMED + json.dumps(["a", "b", ""])]) == ("a", "b", "")


def test_a_run_is_recorded_when_the_disk_has_room_again(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was the only task there was, so that nothing else makes the daemon look."""
    there = make(every=None)
    there.candidates("a")
    there.schedule()
    hand = next(hand for hand in there.hands if hand.tasks)
    refused = list[bool]()
    do = there.do

    def full(operation: Any) -> Any:
        if isinstance(operation, RecordRun) and not refused:
            refused.append(True)
            raise MgmtError("not-durable", "the disk is full")
        return do(operation)

    monkeypatch.setattr(there, "do", full)
    there.work(hand)
    there.pump()
    assert refused
    there.live(10.0, 0.5)
    rows = there.db.rows("SELECT name FROM candidate_rows WHERE kind = 'runs'", ())
    assert len(rows) == 1


def test_what_ended_a_moment_ago_rests_though_its_run_is_not_recorded_yet(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pass that is under way would take it for one that was never run."""
    there = make(every="7d", rest="1h")
    there.candidates("a")
    there.live(2.0, 0.5, works=False)
    found = list[Decided]()
    do, desk = there.do, there.daemon.state.desk

    def look(operation: Any) -> Any:
        if isinstance(operation, RecordRun):
            now_us = us(there.daemon.now)
            found.append(decided(desk._judges["default"], desk.scene(), now_us, Wanted(automatic=True)))
        return do(operation)

    monkeypatch.setattr(there, "do", look)
    assert there.run_one() == "a"
    assert [(one.held, one.new) for one in found] == [(1, [])]


def test_a_pass_that_fails_is_made_again_soon(make: Make) -> None:
    there = make(every="7d")
    there.candidates("a")
    there.disk_full = True
    there.live(5.0, 0.5, works=False)
    assert there.queued() == []
    there.disk_full = False
    there.live(120.0, 1.0, works=False)
    assert there.queued() == ["a"]


def test_what_has_run_is_tried_again_though_it_could_not_be_put_in_at_first(make: Make) -> None:
    there = make(every="7d", rest="10s")
    there.candidates("a")
    there.live(4.0, 0.5)
    assert there.runs("a") == 1
    there.live(4.0, 0.5)
    there.disk_full = True
    there.live(10.0, 0.5)
    there.disk_full = False
    there.live(120.0, 1.0)
    assert there.runs("a") >= 2


@pytest.mark.parametrize("how", ["close", "cancel"])
def test_a_suite_that_was_ended_is_asked_only_so_often(make: Make, how: str) -> None:
    there = make(every="10s", rest="0s")
    there.candidates("a")
    there.live(2.0, 0.5, works=False)
    there.ask(f"suite-{how}", suite="work")
    there.pump()
    passes = there.daemon.state.board.metrics.counts["candidates_passes_total", ""]
    there.live(60.0, 1.0, works=False)
    assert there.daemon.state.board.metrics.counts["candidates_passes_total", ""] <= passes + 8
    assert sum(state not in ENDED for state in there.states().values()) <= 1


def test_a_clock_that_was_ahead_stops_nothing(make: Make) -> None:
    """It was years ahead for a while: what ran then ended in the future."""
    there = make(every="1h", rest="1m")
    there.candidates("a")
    there.load(
        "runs",
        {"codebase": "a", "campaign": "fix", "result_code": "success", "start_time": "2090-01-01T00:00:00",
         "finish_time": "2090-01-01T00:01:00"},
    )  # fmt: skip
    there.live(HOUR_S, 10.0)
    assert 20 <= there.runs("a") <= 70


def test_another_daemon_that_was_first_is_in_the_line(make: Make) -> None:
    there = make(every=None)
    there.candidates("a", "b")
    there.ask("worker-pause", node=LOCAL, paused=True)
    there.schedule()
    lines = there.daemon.state.desk.lines
    forget(lines)
    assert there.schedule()["queued"] == 0
    there.live(3.0, 0.5, works=False)
    assert {*there.queued()} == {"a", "b"}
    there.check()


def test_passes_leave_time_between_them_however_often_they_are_wanted(make: Make) -> None:
    there = make(every="1ms")
    there.candidates("a")
    there.live(2.0, 0.25, works=False)
    metrics = there.daemon.state.board.metrics
    passes = metrics.counts["candidates_passes_total", ""]
    there.live(10.0, 0.01, works=False)
    assert 5 <= metrics.counts["candidates_passes_total", ""] - passes <= 11


def test_nobody_but_the_daemon_says_that_a_task_is_one_of_a_candidate() -> None:
    """Who may submit tasks of one suite could feed runs to all candidates, or keep them out of the queue."""
    labels = ["candidates", NAMED + json.dumps(["a", "fix", ""])]
    with pytest.raises(ValidationError, match="choose a label"):
        msg.TaskSubmit.model_validate({"suite": "work", "tasks": [{"args": ["true"], "labels": labels}]})
    for change in ("add_labels", "remove_labels"):
        with pytest.raises(ValidationError, match="choose a label"):
            msg.TaskChange.model_validate({"task": 1, change: labels})
    assert msg.TaskFilter.model_validate({"labels": labels}).labels == labels, "they can be asked for"


def test_a_candidate_that_only_another_policy_has_is_told_as_such(make: Make) -> None:
    there = make(every=None)
    there.candidates("a")
    refused = there.ask("candidates-explain", codebase="a", campaign="fix", policy="janitor_compat")
    code, text = refused.refusal
    assert code == "unknown-candidate" and "--policy janitor_compat" in text


def test_a_daemon_that_cannot_ask_the_queue_at_its_start_asks_again(make: Make) -> None:
    there = make(every=None)
    there.candidates("a", "b")
    there.schedule()
    there.disk_full = True  # reads of candidates are refused, too
    there.kill_daemon()
    for _ in range(10):
        there.daemon.advance(0.5)
        there.pump()
    assert there.queued() == []
    there.disk_full = False
    there.live(5.0, 0.5, works=False)
    assert {*there.queued()} == {"a", "b"}
    there.check()


@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize("end", ["cancel", "run"])
def test_a_candidate_that_is_two_tasks_is_in_the_line_by_the_one_that_is_left(
    make: Make, end: str, killed: bool
) -> None:
    """An old task of it is tried again by hand while it has another."""
    there = make(every=None)
    there.by_hand = True
    there.candidates("a")
    there.schedule()
    (old,) = there.states()
    there.live(4.0, 0.5)
    there.ask("worker-pause", node=LOCAL, paused=True)
    there.schedule()
    assert there.ask("task-retry", tasks=[old]).ok == {"tasks": [old]}
    there.check()
    if killed:
        there.kill_daemon()
        there.live(2.0, 0.5, works=False)
    assert there.queued() == ["a"]
    lines = there.daemon.state.desk.lines
    if end == "cancel":
        (first,) = (one.task for one in lines.by_key.values())
        there.ask("task-cancel", tasks=[first])
        there.ask("worker-pause", node=LOCAL, paused=False)
    else:
        there.ask("worker-pause", node=LOCAL, paused=False)
        there.pump()
        there.run_one()
    there.check()
    (left,) = (task for task, state in there.states().items() if state not in ENDED)
    assert there.queued() == ["a"] and [one.task for one in lines.by_key.values()] == [left]
    there.live(4.0, 0.5)
    assert there.queued() == [] and {*there.states().values()} <= ENDED
    assert not lines.by_key and there.do(GetLabelled(LABEL)) == (), "each end is recorded"


def test_what_is_given_back_in_the_instant_in_which_it_was_claimed_waits_again(make: Make) -> None:
    """A daemon that begins sees what its workers had, and takes it back: no time is between the two."""
    there = make(every=None)
    there.candidates("a", "b", "c")
    there.schedule()
    there.candidates("x", "y", "z")
    there.schedule(codebases=["x", "y", "z"], bucket="manual")
    there.kill_daemon()
    there.pump()
    assert Task.READY in {*there.states().values()}
    there.check()
