"""The line before a suite: what is dispatched by priority is what the queue would take, at every decision."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mgmt.core.candidates import line as lines
from mgmt.core.candidates.compat_queue import BUCKETS
from mgmt.core.candidates.line import Line, Queued, bucket_of, level_of, rest_priority, score_of
from mgmt.core.candidates.queue import Queue, QueueItem
from mgmt.core.candidates.settings import Settings

DAY_S = 86_400
EVENT = st.tuples(
    st.sampled_from(["add", "add", "add", "take", "take", "take", "rescore", "remove", "wait", "crowd"]),
    st.integers(0, 40),
    st.integers(0, 3),
    st.sampled_from(BUCKETS),
    st.sampled_from([0.5, 1.0, 2.0, 30.0, 1e4, 1e9]),
)
RULES = Settings(weights={"k1": 3.0, "k2": 0.5}, max_wait_s=DAY_S)


class Board:
    """Tasks as the store dispatches them: by priority, then by number."""

    def __init__(self, line: Line) -> None:
        self.line, self.tasks = line, dict[int, Queued]()

    def submit(self, item: QueueItem) -> None:
        number = len(self.tasks) + 1 + max(self.tasks, default=0)
        one = Queued(1, number, rest_priority(item.bucket, item.score), item)
        self.line.enter(one)
        self.tasks[number] = one

    def claim(self) -> Queued | None:
        if not self.tasks:
            return None
        number = min(self.tasks, key=lambda number: (-self.tasks[number].priority, number))
        return self.tasks.pop(number)


@settings(deadline=None, max_examples=200)
@given(st.lists(EVENT, max_size=120), st.integers(1, 5), st.integers(2, 8))
def test_what_is_dispatched_is_what_the_queue_takes(rows: list[Any], batch: int, head: int) -> None:
    """Shares and ageing hold at each claim, not only at passes: whatever was scored anew, came or went between,
    and however many are claimed before the line is told."""
    queue, line, now_us = Queue(RULES), Line(RULES, fair=True), DAY_S * 1_000_000
    board = Board(line)
    keys: set[Any] = set()
    for what, c, k, bucket, score in rows:
        crowd = range(10) if what == "crowd" else range(1)
        for i in crowd:
            now_us += 1
            item = QueueItem(f"c{c + i}", f"k{k}", "", "run", score + i, now_us, bucket=bucket)
            if what in ("add", "crowd") and item.key not in keys:
                keys.add(item.key)
                queue.add(item)
                board.submit(item)
        there = line.all.get((f"c{c}", f"k{k}", ""))
        if what == "rescore" and there is not None:
            queue.rescore(there.key, score, 1.0, bucket)
            line.rescore(there, score, 1.0, bucket)
        elif what == "remove" and there is not None:
            keys.discard(there.key)
            queue.remove(there.key)
            line.leave(there)
            del board.tasks[there.task]
        elif what == "wait":
            now_us += c * 3_600_000_000
        line.told(now_us, head)
        if what == "take":
            for _ in range(min(batch, head)):  # before anybody tells the line of the first
                expected, claimed = queue.take(now_us), board.claim()
                assert (expected and expected.key) == (claimed and claimed.key)
                if claimed is not None:
                    keys.discard(claimed.key)
                    line.start(claimed, 1)
                    line.leave(claimed)
            line.told(now_us, head)
        waiting = line.waiting(now_us, 1000)
        assert [one.item.key for one in waiting] == [item.key for item in queue.items(now_us)]
        assert sum(line.counts.values()) == len(waiting)


def test_the_places_begin_anew_when_they_are_used_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "PLACES", 40)
    line = Line(RULES, fair=True)
    board = Board(line)
    for i in range(200):
        board.submit(QueueItem(f"c{i:03}", "k", "", "run", 1.0 + i, 0))
    taken = []
    while board.tasks:
        line.told(0, 8)
        for _ in range(3):
            one = board.claim()
            if one is not None:
                taken.append(one.key[0])
                line.start(one, 1)
                line.leave(one)
    assert taken == [f"c{i:03}" for i in range(200)]


def test_a_change_of_the_order_costs_few_priorities() -> None:
    line = Line(RULES, fair=True)
    board = Board(line)
    for i in range(5000):
        board.submit(QueueItem(f"c{i}", f"k{i % 4}", "", "run", 1.0 + i, 0))
    assert len(line.told(0)) == lines.HEAD
    costs = []
    for _ in range(300):
        one = board.claim()
        assert one is not None
        line.start(one, 1)
        costs.append(len(line.told(0)))
    assert sum(costs) <= 2 * len(costs)


@pytest.mark.parametrize("bucket", BUCKETS)
def test_a_priority_says_its_bucket_and_score(bucket: str) -> None:
    for score in (1e-3, 0.5, 20.0, 124.4, 1e6, 1e12):
        priority = rest_priority(bucket, score)
        assert bucket_of(priority) == bucket and level_of(bucket) - lines.LEVELS < priority <= level_of(
            bucket
        )
        assert score_of(priority) == pytest.approx(score, rel=1e-3, abs=2e-3)
    priorities = [rest_priority(bucket, score) for score in (0.5, 0.501, 20.0, 20.01, 1e9, 1.001e9)]
    assert priorities == sorted(priorities, reverse=True) and len({*priorities}) == 6
    assert bucket_of(level_of(bucket) - 5) == bucket and score_of(level_of(bucket) - 5) < 1e-3


def test_what_a_former_daemon_put_in_keeps_its_order() -> None:
    """Its scores are not known until a pass has found them."""
    line = Line(RULES, fair=True)
    board = Board(line)
    for i in range(100):
        board.submit(QueueItem(f"c{i:02}", f"k{i % 3}", "", "run", 5.0 + i, 0))
    line.told(0)
    order = sorted(board.tasks.values(), key=lambda one: (-one.priority, one.task))
    after = Line(RULES, fair=True)
    for one in order:
        item = QueueItem(*one.key, "run", score_of(one.priority), 0, bucket=bucket_of(one.priority))
        after.enter(Queued(1, one.task, one.priority, item))
    after.told(0)
    firsts = [one.key for one in after.waiting(0, lines.HEAD)]
    assert {*firsts} == {one.key for one in order[: lines.HEAD]}
    for k in range(3):
        mine = [key for key in firsts if key[1] == f"k{k}"]
        assert mine == [one.key for one in order[: lines.HEAD] if one.key[1] == f"k{k}"]
