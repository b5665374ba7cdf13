"""Candidates in a daemon, with a real queue of tasks and played workers: what is scheduled by itself, and when."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mgmt.core import event as ev
from mgmt.core.candidates import batches
from mgmt.core.candidates import lines as lines_module
from mgmt.core.candidates.history import RUNS
from mgmt.core.candidates.line import AGED
from mgmt.core.candidates.lines import Lines
from mgmt.core.candidates.policies import ByDefault
from mgmt.core.candidates.tasks import LABEL, key_of
from mgmt.core.suites import operations as op
from mgmt.core.suites.candidate_rows import GetLabelled, GetRows
from mgmt.core.suites.states import ENDED, Task
from mgmt.core.supervision import LOCAL
from mgmt.store.queue.candidates import get_rows
from mgmt.store.queue.connection import Connection
from mgmt.worker.wire import Kind
from tests.core.suited import Hand, Suited

HOUR_S = 3600.0
TRANSIENT = 75
AUTOMATIC = {"suite": "work", "every": "7d", "result_codes": {str(TRANSIENT): "worker-failure"}}


class Daemon(Suited):
    """One with a suite `work`, whose workers end what they are given when told to, at the time of its clock."""

    def __init__(self, db: Connection, workers: int = 1, **candidates: Any) -> None:
        super().__init__(db, candidates={**AUTOMATIC, **candidates})
        self.number = self.suite(name="work", worker={"worker_count": workers})
        self.skew_s = 0.0  # of the clock of nodes
        self.by_hand = False  # old tasks are tried again by hand: a candidate may be two then
        self.statuses: dict[str, int] = {}  # by codebase; 0 for others
        self.began: list[tuple[float, str, str]] = []  # s, codebase, campaign

    def _done(self, hand: Hand, task: list[int], status: int, message: str = "") -> None:
        now_ns = int((self.daemon.now.real_s + self.skew_s) * 1e9)
        done = [int(Kind.DONE), *task, status, message, now_ns - 10**9, now_ns, b"", {}]
        hand.untaken.append(done)
        self._say(hand, [list(done)])

    def load(self, table: str, *rows: dict[str, Any]) -> None:
        assert self.ask("candidates-load", table=table, rows=list(rows)).ok["stored"] == len(rows)

    def candidates(self, *names: str, **fields: Any) -> None:
        """`codebase` or `codebase/campaign`."""
        pairs = [(name + "/fix").split("/")[:2] for name in names]
        self.load("codebases", *({"name": codebase, "value": 10} for codebase, _ in pairs))
        rows = [{"codebase": a, "campaign": b, "command": "run", "value": 10, **fields} for a, b in pairs]
        self.load("candidates", *rows)

    def schedule(self, **body: Any) -> dict[str, Any]:
        return self.ask("candidates-schedule", **body).ok

    def queued(self) -> list[str]:
        """In the order in which they are run; those that run first."""
        rows = self.ask("candidates-queue", limit=1000).ok["queue"]
        return [
            row["codebase"] if row["campaign"] == "fix" else row["codebase"] + "/" + row["campaign"]
            for row in rows
        ]

    def run_one(self) -> str | None:
        """A worker that has a task ends it; whose it was."""
        for hand in self.hands:
            if hand.tasks:
                key = key_of(self.do(op.GetTask(hand.tasks[0][0])).labels)
                assert key is not None
                self.began.append((self.daemon.now.real_s, key[0], key[1]))
                self.work(hand, self.statuses.get(key[0], 0))
                self.pump()
                return key[0]
        return None

    def live(self, seconds: float, step_s: float = 2.0, *, works: bool = True) -> None:
        """Time passes; who has work does it."""
        for _ in range(round(seconds / step_s)):
            self.daemon.advance(step_s)
            self.pump()
            while works and self.run_one() is not None:
                self.check()
        self.check()

    def check(self) -> None:
        """The lines are what the queue says, and nobody is there twice, unless by hand."""
        if self.asked or self.daemon.computations:
            return
        rows = [row for row in self.do(GetLabelled(LABEL)) if row.state not in ENDED]
        lines = self.daemon.state.desk.lines
        names = [key_of(row.labels) for row in rows]
        assert self.by_hand or len(names) == len({*names}), "a candidate is in the queue twice"
        assert {*names} == {*lines.by_key}
        mirror = {
            one.task: (one.lane, Task.RUNNING if one.claimed_ns else Task.READY, one.priority)
            for one in lines.by_key.values()
        }
        if self.by_hand:  # one of both is in the line
            rows = [row for row in rows if row.task in mirror or names.count(key_of(row.labels)) == 1]
        truth = {row.task: (row.lane, row.state, row.priority) for row in rows}
        begun = {task for task, (_, state, _) in truth.items() if state == Task.RUNNING}
        assert {t: v[:2] for t, v in mirror.items()} == {t: v[:2] for t, v in truth.items()}
        assert {t: v for t, v in mirror.items() if t not in begun} == {
            t: v for t, v in truth.items() if t not in begun
        }
        assert {one.key for line in lines.by_suite.values() for one in line.all.values()} == set(lines.by_key)

    def runs(self, codebase: str) -> int:
        return sum(one == codebase for _, one, _ in self.began)


Make = Callable[..., Daemon]


@pytest.fixture
def make(queue: Connection) -> Make:
    def made(*args: Any, **keys: Any) -> Daemon:
        return Daemon(queue, *args, **keys)

    return made


def test_what_is_loaded_is_scheduled_by_itself(make: Make) -> None:
    there = make()
    there.candidates("a", "b")
    assert there.queued() == []
    there.live(2.0, 0.5, works=False)
    assert there.queued() == ["a", "b"]
    there.candidates("c")
    there.live(2.0, 0.5, works=False)
    assert {*there.queued()} == {"a", "b", "c"}


def test_rows_that_are_loaded_during_a_pass_have_another(make: Make) -> None:
    there = make()
    there.candidates("a")
    there.daemon.advance(1.0)
    assert there.daemon.state.automatic._passing
    there.daemon.feed(ev.TimerFired(("candidates", "pass")))
    there.pump()
    passes = there.daemon.state.board.metrics.counts["candidates_passes_total", ""]
    there.live(2.0, 0.5, works=False)
    assert there.daemon.state.board.metrics.counts["candidates_passes_total", ""] == passes + 1
    there.live(60.0, works=False)
    assert there.daemon.state.board.metrics.counts["candidates_passes_total", ""] == passes + 1


def test_one_that_is_far_behind_is_told_when_it_starts(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    there = make(every=None)
    there.candidates(*(f"c{i:02}" for i in range(60)))
    there.ask("worker-pause", node=LOCAL, paused=True)
    there.schedule()
    last = there.queued()[-1]

    def start() -> tuple[float, int]:
        (row,) = there.ask("candidates-queue", codebase=last, campaign="fix", limit=1).ok["queue"]
        return row["eta_s"], row["position"]

    exact_s, place = start()
    monkeypatch.setattr("mgmt.core.selecting.DEPTH", 20)
    about_s, same = start()
    assert place == same == 60 and about_s == pytest.approx(exact_s, rel=0.1)


def test_a_pass_every_so_often(make: Make) -> None:
    there = make(every="10m", after_run=False, rest="5m")
    there.candidates("a")
    there.live(540.0)
    assert there.runs("a") == 1, "after_run is off"
    there.live(120.0)
    assert there.runs("a") == 2
    there.live(30 * 60.0)
    assert there.runs("a") == 5


def test_nothing_is_scheduled_by_itself_unless_that_is_wanted(make: Make) -> None:
    there = make(every=None)
    there.candidates("a")
    there.live(60.0)
    assert there.queued() == [] and not there.began
    there.schedule()
    there.live(2 * HOUR_S, 10.0)
    assert there.runs("a") == 1 and there.queued() == []


def test_what_has_run_rests_and_is_a_task_again_without_a_pass(make: Make) -> None:
    there = make(rest="1h")
    there.candidates("a")
    there.live(10.0)
    passes = there.daemon.state.board.metrics.counts["candidates_passes_total", ""]
    assert there.runs("a") == 1 and there.queued() == []
    there.live(HOUR_S - 20.0, 10.0)
    assert there.runs("a") == 1
    there.live(40.0)
    assert there.runs("a") == 2
    assert there.daemon.state.board.metrics.counts["candidates_passes_total", ""] == passes


def test_without_a_rest_it_is_a_task_again_at_once_as_the_ancestor_has_it(make: Make) -> None:
    there = make(rest="0s")
    there.candidates("a")
    there.live(2.0, 0.5, works=False)
    for times in range(1, 6):
        assert there.run_one() == "a"
        assert there.runs("a") == times and there.queued() == ["a"]
        there.check()


@pytest.mark.parametrize("policy", ["default", "janitor_compat"])
def test_transient_failures_never_make_a_hot_loop(make: Make, policy: str) -> None:
    """Nothing is known of one that only ever failed by chance, so it looks like the best there is."""
    there = make(rest="0s", policy=policy, every="1m")
    there.load("policies", {"name": "p", "per_branch_policy": [{"role": "main", "mode": "propose"}]})
    there.candidates("bad", publish_policy="p")
    there.statuses["bad"] = TRANSIENT
    there.live(6 * HOUR_S, 5.0)
    assert 2 <= there.runs("bad") <= 4, "30 min x 2, x 4, x 8, a quarter less at most"
    gaps_s = [after[0] - before[0] for before, after in zip(there.began, there.began[1:], strict=False)]
    assert gaps_s[0] >= 0.74 * HOUR_S and gaps_s == sorted(gaps_s)


@pytest.mark.parametrize("skew_s", [-1e8, -HOUR_S, 30 * 24 * HOUR_S])
def test_a_node_with_a_wrong_clock_makes_no_hot_loop(make: Make, skew_s: float) -> None:
    there = make(rest="1h")
    there.skew_s = skew_s
    there.candidates("a")
    there.live(HOUR_S - 10.0, 10.0)
    assert there.runs("a") == 1
    there.live(HOUR_S, 10.0)
    assert there.runs("a") == 2


def test_who_waits_for_a_success_is_released_by_it(make: Make) -> None:
    there = make()
    there.candidates("a/first")
    there.candidates("a/second", requires=["first"])
    there.candidates("a/third", requires=["second", "first"])
    there.live(2.0, 0.5, works=False)
    assert there.queued() == ["a/first"]
    there.run_one()
    assert there.queued() == ["a/second"]
    there.run_one()
    assert there.queued() == ["a/third"]
    there.run_one()
    assert [campaign for _, _, campaign in there.began] == ["first", "second", "third"]
    there.check()


def test_a_failure_releases_nobody(make: Make) -> None:
    there = make()
    there.candidates("a/first")
    there.candidates("a/second", requires=["first"])
    there.statuses["a"] = 3
    there.live(20.0, 0.5)
    assert [campaign for _, _, campaign in there.began] == ["first"] and there.queued() == []


def test_who_has_waited_too_long_goes_first_without_a_pass(make: Make) -> None:
    there = make(fairness={"max_wait": "2h"}, every=None)
    there.candidates("slow")
    there.ask("worker-pause", node=LOCAL, paused=True)
    there.schedule()
    there.live(1.0, 0.5, works=False)
    for i in range(20):
        there.candidates(f"m{i}")
        there.schedule(codebases=[f"m{i}"], bucket="manual")
    assert there.queued()[-1] == "slow"
    there.live(2 * HOUR_S - 10.0, 10.0, works=False)
    assert there.queued()[-1] == "slow"
    there.candidates("late")
    there.schedule(codebases=["late"], bucket="control")
    there.live(40.0, 5.0, works=False)
    assert there.queued()[0] == "slow" and there.queued()[21] == "late"
    (task,) = [one for one in there.daemon.state.desk.lines.by_key.values() if one.key[0] == "slow"]
    assert task.priority == AGED
    there.check()


def test_campaigns_share_between_passes(make: Make) -> None:
    there = make(fairness={"weights": {"big": 3.0}}, rest="0s")
    there.candidates(*(f"c{i}/big" for i in range(6)), *(f"c{i}/small" for i in range(6)))
    there.live(2.0, 0.5, works=False)
    for _ in range(200):
        assert there.run_one() is not None
        there.daemon.advance(1.0)
        there.pump()
    big = sum(campaign == "big" for _, _, campaign in there.began)
    assert 140 <= big <= 160, "three to one, though every one that ran came back at once"


def test_a_pass_leaves_shares_as_they_are(make: Make) -> None:
    """A campaign does not begin anew with each pass, so that the cheaper one would always be first."""
    there = make(every=None, rest="0s")
    there.candidates(*(f"c{i}/cheap" for i in range(30)), value=100)
    there.candidates(*(f"c{i}/dear" for i in range(30)), value=10)
    there.ask("worker-pause", node=LOCAL, paused=True)
    there.schedule()
    there.ask("worker-pause", node=LOCAL, paused=False)
    for _ in range(30):
        there.run_one()
        there.schedule()
    dear = sum(campaign == "dear" for _, _, campaign in there.began)
    assert 1 <= dear <= 6, "ten times the score, a tenth of the turns or more"


def test_a_daemon_that_was_killed_goes_on(make: Make) -> None:
    there = make(rest="1h")
    there.candidates("a", "b", "c")
    there.live(2.0, 0.5, works=False)
    order = there.queued()
    there.run_one()
    there.kill_daemon()
    there.live(4.0, 0.5)
    assert there.runs(order[0]) == 1 and {name for _, name, _ in there.began} == {*order}
    there.live(HOUR_S, 10.0)
    assert {there.runs(name) for name in order} == {2}


def test_the_run_of_a_task_that_is_tried_again_is_recorded(make: Make) -> None:
    there = make(every=None)
    there.candidates("a")
    there.statuses["a"] = 3
    there.schedule()
    there.live(4.0)
    (task,) = there.states()
    before = there.ask("candidates-explain", codebase="a", campaign="fix").ok["probability"]
    there.statuses["a"] = 0
    assert there.ask("task-retry", tasks=[task]).ok == {"tasks": [task]}
    assert there.queued() == ["a"]
    there.check()
    there.live(4.0)
    after = there.ask("candidates-explain", codebase="a", campaign="fix").ok["probability"]
    assert there.runs("a") == 2 and after > before
    assert there.queued() == []


def test_a_task_that_was_cancelled_is_out_of_the_line(make: Make) -> None:
    there = make(every=None)
    there.candidates("a", "b", "c")
    there.ask("worker-pause", node=LOCAL, paused=True)
    there.schedule()
    (task,) = [one.task for one in there.daemon.state.desk.lines.by_key.values() if one.key[0] == "b"]
    there.ask("task-cancel", tasks=[task])
    there.check()
    assert {*there.queued()} == {"a", "c"}
    assert there.ask("candidates-reset", codebase="a").ok["cancelled"] == 1
    there.check()
    assert there.queued() == ["c"]
    assert there.schedule()["queued"] == 2


def test_what_a_worker_gives_up_waits_again(make: Make) -> None:
    there = make(every=None)
    there.candidates("a", "b")
    there.schedule()
    hand = next(hand for hand in there.hands if hand.tasks)
    there.die(hand, signal=9)
    there.live(2.0, 0.5)
    there.live(60.0, 1.0)
    assert {name for _, name, _ in there.began} == {"a", "b"} and there.queued() == []


def test_a_priority_that_was_given_by_hand_is_followed(make: Make) -> None:
    there = make(every=None)
    there.candidates("a", "b", "c")
    there.ask("worker-pause", node=LOCAL, paused=True)
    there.schedule()
    last = there.queued()[-1]
    one = there.daemon.state.desk.lines.by_key[last, "fix", ""]
    there.ask("task-change", task=one.task, priority=1)
    assert there.queued()[0] == last
    there.check()


def forget(lines: Lines) -> None:
    """As if it had never heard of what is in the queue."""
    for known in (lines.by_key, lines.by_suite, lines._by_task):
        known.clear()


def test_another_daemons_candidates_are_seen(make: Make, queue: Connection) -> None:
    """It has the same queue: what it put in is not put in again, and what it recorded is known."""
    there = make(every=None)
    there.candidates("a", "b")
    there.daemon.state.board.is_shared = True
    there.ask("worker-pause", node=LOCAL, paused=True)
    other = there.daemon.state.desk.lines
    there.schedule(codebases=["a"])
    forget(other)
    assert there.schedule()["queued"] == 1
    there.check()
    assert {*there.queued()} == {"a", "b"}
    forget(other)
    there.daemon.state.board.is_shared = (
        False  # a pass at the same moment: not seen, and refused by the queue
    )
    assert there.schedule()["queued"] == 0
    there.live(2.0, 0.5, works=False)
    assert sum(state is Task.READY for state in there.states().values()) == 2


def test_many_are_put_in_part_by_part(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("lines", "desk", "automatic"):
        monkeypatch.setattr(f"mgmt.core.candidates.{module}.PART", 7)
    there = make(every=None)
    there.candidates(*(f"c{i:02}" for i in range(50)))
    there.ask("worker-pause", node=LOCAL, paused=True)
    done = there.schedule()
    assert (done["considered"], done["queued"]) == (50, 50)
    assert len(there.queued()) == 50
    there.check()
    there.kill_daemon()
    there.live(2.0, 0.5, works=False)
    assert len(there.queued()) == 50
    assert there.ask("candidates-reset").ok["cancelled"] >= 40
    there.live(4.0, 0.5)
    assert lines_module.PART == 7 and there.queued() == []


def test_a_pass_is_logged_with_each_decision(make: Make) -> None:
    there = make(every=None)
    there.daemon.state.desk._debug = True
    there.candidates("a", "b")
    there.candidates("a/late", requires=["fix"])
    there.daemon.notes.clear()
    there.schedule()
    notes = [note for note in there.daemon.notes if "pass over" in note.text]
    assert [note.level for note in notes] == ["INFO", "INFO"]
    assert notes[0].fields == {"policy": "default", "suite": there.number}
    counts = {"considered": 3, "queued": 2, "changed": 0, "held": 1, "left_out": 0}
    assert counts.items() <= notes[1].fields.items() and notes[1].fields["seconds"] >= 0
    told = [note.fields for note in there.daemon.notes if note.level == "DEBUG"]
    assert [(one["codebase"], one["campaign"]) for one in told] == [("a", "fix"), ("b", "fix"), ("a", "late")]
    assert told[0]["score"] > 0 and told[2]["held"] == "waits for fix"
    quiet = [note for note in there.daemon.notes if note.level == "DEBUG"]
    assert len(quiet) == 3


def test_without_debug_no_decision_is_logged(make: Make) -> None:
    there = make(every=None)
    there.candidates("a")
    there.schedule()
    assert not [note for note in there.daemon.notes if note.level == "DEBUG"]


def test_a_suite_that_is_not_there_is_told_and_looked_for_again(make: Make) -> None:
    there = make(suite="other", every="1m")
    there.candidates("a")
    there.live(10.0)
    (note,) = [note for note in there.daemon.notes if note.level == "WARNING" and "candidates" in note.text]
    assert note.fields == {"code": "unknown-suite"}
    there.suite(name="other")
    there.live(120.0)
    assert there.runs("a") == 1


def test_everything_about_one_is_told(make: Make) -> None:
    there = make(rest="1h")
    there.candidates("a", "b")
    there.candidates("a/late", requires=["other"])
    there.live(2.0, 0.5, works=False)
    first, second = there.queued()
    told = there.ask("candidates-explain", codebase=second, campaign="fix").ok
    assert told["place"]["position"] == 2 and told["place"]["bucket"] == "default"
    assert {"value", "success", "duration"} <= {one["name"] for one in told["factors"]}
    late = there.ask("candidates-explain", codebase="a", campaign="late").ok
    assert (late["held"], late["waits_for"], late["place"]) == ("waits for other", ["other"], None)
    there.run_one()
    rests = there.ask("candidates-explain", codebase=first, campaign="fix").ok
    assert rests["held"].startswith("rests for") and rests["not_before"] == pytest.approx(
        there.daemon.now.real_s + HOUR_S, abs=30
    )
    compat = there.ask("candidates-explain", codebase="a", campaign="fix", policy="janitor_compat")
    assert compat.code == "unknown-candidate", "it has no publish policy, and theirs wants one"
    assert there.ask("candidates-position", codebase="no", campaign="fix").code == "unknown-candidate"


def test_positions_and_the_next_of_each_suite(make: Make) -> None:
    there = make(every=None)
    there.candidates("a", "b", "c", "d")
    there.suite(name="more")
    there.ask("worker-pause", node=LOCAL, paused=True)
    there.schedule(codebases=["a", "b", "c"])
    there.schedule(codebases=["d"], suite="more")
    rows = there.ask("candidates-next").ok["queue"]
    assert [(row["codebase"], row["position"]) for row in rows] == [("a", 1), ("d", 1)]
    places = [there.ask("candidates-position", codebase=name, campaign="fix").ok for name in "abcd"]
    assert [(one["position"], one["total"]) for one in places] == [(1, 3), (2, 3), (3, 3), (1, 1)]


def test_a_host_is_left_alone_for_a_while(make: Make) -> None:
    there = make(rest="1h")
    there.candidates("a", "b", "c")
    urls = {"a": "https://user@git.example:8443/a", "b": "https://other.example/b"}
    there.load("codebases", *({"name": name, "value": 10, "branch_url": url} for name, url in urls.items()))
    there.ask("worker-pause", node=LOCAL, paused=True)
    there.live(2.0, 0.5, works=False)
    assert {*there.queued()} == {"a", "b", "c"}
    assert there.ask("candidates-hosts").ok == {"hosts": [], "cancelled": 0}
    done = there.ask("candidates-hosts", host="git.example:8443", for_s=600.0).ok
    assert [row["host"] for row in done["hosts"]] == ["git.example:8443"]
    assert done["hosts"][0]["until"] == pytest.approx(there.daemon.now.real_s + 600, abs=1)
    left = there.queued()
    assert done["cancelled"] == 3 - len(left) and "b" in left and ("a" not in left or done["cancelled"] == 0)
    assert (
        there.ask("candidates-explain", codebase="a", campaign="fix").ok["held"] == "its host is left alone"
    )
    there.live(4.0, 0.5, works=False)
    assert there.schedule()["queued"] == 0 and "a" not in there.queued()
    there.kill_daemon()
    there.ask("worker-pause", node=LOCAL, paused=True)
    there.live(500.0, 5.0, works=False)
    assert "a" not in there.queued()
    there.live(120.0, 5.0, works=False)
    assert "a" in there.queued() and there.ask("candidates-hosts").ok["hosts"] == []
    there.ask("candidates-hosts", host="other.example", for_s=600.0)
    assert there.ask("candidates-hosts", host="other.example", for_s=0.0).ok["hosts"] == []
    there.live(4.0, 0.5, works=False)
    assert "b" in there.queued()
    assert there.ask("candidates-hosts", host="x").code == "bad-body"


def test_depth_and_age_are_metrics(make: Make) -> None:
    there = make(every=None)
    there.candidates("a", "b", "c")
    there.ask("worker-pause", node=LOCAL, paused=True)
    there.schedule(codebases=["a"])
    there.live(100.0, 5.0, works=False)
    there.schedule()
    there.schedule(codebases=["b"], bucket="manual")
    told = {
        (sample["name"], sample["labels"].get("bucket", "")): sample["value"]
        for family in there.ask("metrics").ok["metrics"]
        for sample in family["samples"]
    }
    assert told["mgmt_candidates_queue_depth", "default"] == 2
    assert told["mgmt_candidates_queue_depth", "manual"] == 1
    assert 100 <= told["mgmt_candidates_queue_age_seconds", ""] <= 101
    there.ask("candidates-reset")
    left = {
        sample["name"]: sample["value"]
        for family in there.ask("metrics").ok["metrics"]
        for sample in family["samples"]
    }
    assert left["mgmt_candidates_queue_depth"] == left["mgmt_candidates_queue_age_seconds"] == 0


def test_other_settings_hold_for_what_is_queued(make: Make) -> None:
    there = make(every=None)
    there.candidates(*(f"c{i}/x" for i in range(9)), *(f"c{i}/y" for i in range(9)))
    there.ask("worker-pause", node=LOCAL, paused=True)
    there.schedule()
    assert sum(name.endswith("/x") for name in there.queued()[:8]) == 4
    settings = there.daemon.state.settings
    fairness = settings.candidates.fairness.model_copy(update={"weights": {"x": 3.0}})
    other = settings.candidates.model_copy(update={"fairness": fairness})
    there.daemon.feed(ev.ConfigRead(None, True, settings.model_copy(update={"candidates": other})))
    there.pump()
    assert sum(name.endswith("/x") for name in there.queued()[:8]) == 6
    there.check()


def test_runs_that_end_while_history_is_read_are_learned_once(make: Make) -> None:
    there = make(every=None)
    there.candidates("a", "b")
    there.schedule()
    desk = there.daemon.state.desk
    desk.forget()
    there.say("candidates-list")
    there.run_one()
    there.pump()
    judge = desk._judges["default"]
    assert isinstance(judge, ByDefault)
    ended_us = [judge.last((name, "fix", ""))[1] for name in "ab"]
    assert sum(one > 0 for one in ended_us) == 1
    assert sum(judge.scorer.history.series.at(RUNS, row) for row in range(2)) == 1


def test_small_rows_are_put_together_while_nobody_reads_them(
    make: Make, queue: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "MANY", 3)
    there = make()
    there.candidates("a", "b")
    for day in (1, 2, 3):
        at = f"2024-05-0{day}T10:0"
        run = {"codebase": "a", "campaign": "fix", "result_code": "success"}
        there.load("runs", {**run, "start_time": f"{at}0:00", "finish_time": f"{at}5:00"})
    there.pump()

    def stored() -> list[str]:
        rows = get_rows(queue, GetRows()).rows
        return [row.kind for row in rows if row.kind in (batches.KIND, "runs")]

    def seen() -> float:
        judge = there.daemon.state.desk._judges["default"]
        assert isinstance(judge, ByDefault)
        level = judge.scorer.history.series
        return level.at(RUNS, level.rows["a", "fix"])

    there.ask("candidates-schedule")
    there.pump()
    assert stored() == [batches.KIND] and seen() == 3
    there.load("runs", {"codebase": "a", "campaign": "fix", "result_code": "success",
                        "start_time": "2024-05-04T10:00:00", "finish_time": "2024-05-04T10:05:00"})  # fmt: skip
    there.ask("candidates-schedule")
    there.pump()
    assert stored() == [batches.KIND] * 2 and seen() == 4
