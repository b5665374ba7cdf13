"""The default queue: shares, ageing, and that putting in again changes nothing."""

from __future__ import annotations

from math import exp, log
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mgmt.core.candidates.compat_queue import BUCKETS
from mgmt.core.candidates.eta import starts
from mgmt.core.candidates.queue import Queue, QueueError, QueueItem
from mgmt.core.candidates.settings import Settings
from mgmt.core.candidates.sums import Sums

DAY_US = 86_400_000_000
ITEM = st.tuples(
    st.integers(0, 9),
    st.integers(0, 2),
    st.sampled_from(BUCKETS),
    st.sampled_from([1.0, 2.0, 5.0, 100.0, 1e6]),
)


def an_item(
    codebase: str = "a", campaign: str = "fix", score: float = 10.0, arrived_us: int = 0, **fields: Any
) -> QueueItem:
    return QueueItem(codebase, campaign, fields.pop("change_set", ""), "run", score, arrived_us, **fields)


def drained(queue: Queue, now_us: int = 0) -> list[QueueItem]:
    found = []
    while (item := queue.take(now_us)) is not None:
        found.append(item)
    return found


@settings(deadline=None)
@given(st.lists(ITEM, max_size=40, unique_by=lambda row: row[:2]), st.randoms(use_true_random=False))
def test_the_order_of_coming_means_nothing(rows: list[Any], random: Random) -> None:
    items = [an_item(f"c{c}", f"k{k}", score, bucket=bucket) for c, k, bucket, score in rows]
    orders = []
    for _ in range(2):
        queue = Queue(Settings())
        for item in items:
            queue.add(item)
        orders.append(drained(queue))
        random.shuffle(items)
    assert orders[0] == orders[1]


@settings(deadline=None)
@given(st.lists(ITEM, max_size=30), st.integers(1, 3))
def test_putting_in_again_is_nothing(rows: list[Any], times: int) -> None:
    once, often = Queue(Settings()), Queue(Settings())
    for c, k, bucket, score in rows:
        item = an_item(f"c{c}", f"k{k}", score, bucket=bucket)
        once.add(item)
        for _ in range(times):
            often.add(item)
    assert list(once.items(0)) == list(often.items(0)) == drained(often)
    assert len(once) == len({row[:2] for row in rows})


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.tuples(ITEM, st.integers(0, 4 * 3600), st.booleans()), min_size=1, max_size=120),
    st.integers(1, 48),
)
def test_nobody_waits_longer_than_the_bound_behind_later_ones(rows: list[Any], hours: int) -> None:
    """Whatever comes, in whatever bucket: past `max_wait` nothing is taken that came later."""
    limit_us = hours * 3_600_000_000
    queue = Queue(Settings(max_wait_s=hours * 3600.0))
    waiting: dict[Any, int] = {}
    now_us = 0

    def take() -> None:
        item = queue.take(now_us)
        assert (item is None) == (not waiting)
        if item is not None:
            arrived_us = waiting.pop(item.key)
            assert arrived_us == item.arrived_us
            overdue = [
                at_us for at_us in waiting.values() if now_us - at_us >= limit_us and at_us < arrived_us
            ]
            assert not overdue

    for (c, k, bucket, score), pause_s, taking in rows:
        now_us += pause_s * 1_000_000
        item = queue.add(an_item(f"c{c}", f"k{k}", score, now_us, bucket=bucket))
        waiting.setdefault(item.key, now_us)
        if taking:
            take()
    while waiting:
        now_us += 1_000_000
        take()


@pytest.mark.parametrize(("weights", "share"), [({}, 0.5), ({"fix": 3.0}, 0.75), ({"fix": 0.25}, 0.2)])
def test_campaigns_share_by_weight_however_much_they_ask_for(weights: dict[str, float], share: float) -> None:
    queue = Queue(Settings(weights=weights))
    for i in range(400):
        queue.add(an_item(f"c{i}", "fix"))
    for i in range(4000):
        queue.add(an_item(f"c{i}", "other"))
    turns = [queue.take(0) for _ in range(200)]
    got = sum(item is not None and item.campaign == "fix" for item in turns)
    assert abs(got - 200 * share) <= 1


def test_a_campaign_that_comes_back_has_saved_nothing_up() -> None:
    queue = Queue(Settings())
    for i in range(100):
        queue.add(an_item(f"c{i}", "busy"))
    for _ in range(50):
        queue.take(0)
    for i in range(50):
        queue.add(an_item(f"c{i}", "idle"))
    turns = [item.campaign for item in (queue.take(0) for _ in range(40)) if item]
    assert abs(turns.count("idle") - 20) <= 1


def test_the_better_of_both_wins_and_a_refresh_stays() -> None:
    queue = Queue(Settings())
    queue.add(an_item(score=10, bucket="hook", refresh=True, arrived_us=5))
    kept = queue.add(an_item(score=1, bucket="default", arrived_us=9))
    assert (kept.bucket, kept.score, kept.refresh, kept.arrived_us) == ("hook", 10, True, 5)
    better = queue.add(an_item(score=7, bucket="hook", arrived_us=9))
    assert (better.score, better.refresh, better.arrived_us) == (7, True, 5)
    assert queue.add(an_item(score=3, change_set="cs")).key in queue and len(queue) == 2
    queue.rescore(("a", "fix", "cs"), 99.0, 5.0)
    assert [item.score for item in queue.items(9)] == [7, 99]


def test_default_work_does_not_starve_behind_manual_requests() -> None:
    """What waited too long goes first, whatever came since."""
    queue = Queue(Settings(max_wait_s=3600))
    queue.add(an_item("default", score=1000, arrived_us=0))
    for i in range(200):
        now_us = i * 60_000_000
        queue.add(an_item(f"m{i}", score=1, bucket="manual", arrived_us=now_us))
        item = queue.take(now_us)
        assert item is not None
        if item.codebase == "default":
            assert now_us == 3_600_000_000
            return
    pytest.fail("it starved")


def test_what_is_paused_waits_for_its_time() -> None:
    queue = Queue(Settings())
    queue.add(an_item("late", score=1, not_before_us=100))
    queue.add(an_item("soon", score=9))
    assert [item.codebase for item in queue.items(0)] == ["soon", "late"]
    assert queue.position(("late", "fix", ""), 0) == 2
    assert drained(queue, 99)[0].codebase == "soon" and queue.next(99) is None
    assert [item.codebase for item in drained(queue, 100)] == ["late"]


def test_hosts_and_codebases_can_be_left_out() -> None:
    queue = Queue(Settings(max_wait_s=1))
    for name in "abc":
        queue.add(an_item(name, score=ord(name)))
    for now_us in (0, DAY_US):
        found = queue.next(now_us, lambda item: item.codebase == "c")
        assert found is not None and found.codebase == "c"
        assert queue.next(now_us, lambda item: False) is None
    assert [item.codebase for item in drained(queue)] == ["a", "b", "c"]


def test_a_wait_is_simulated_and_defined_without_workers() -> None:
    waits = list(starts([(100.0, 100.0)] * 4, [(0.0, 0.0), (30.0, 30.0)]))
    assert [wait.median_s for wait in waits] == [0, 30, 100, 130]
    assert all(wait.late_s == wait.median_s for wait in waits), "what never varies is never late"
    queue = Queue(Settings())
    assert queue.position(("x", "fix", ""), 0) is None


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("place", [1, 7, 60])
def test_a_start_is_when_a_simulation_says(workers: int, place: int) -> None:
    """Durations as they are: log-normal, some twice and some twenty times as long as the median."""
    dice = Random(workers * 100 + place)
    durations = []
    for _ in range(place + workers):
        median_s = dice.uniform(10, 300)
        durations.append((median_s, median_s * dice.uniform(1.5, 4)))
    told = list(starts([*durations[workers:], (1.0, 1.0)], durations[:workers]))[-1]
    seen = []
    for _ in range(3000):
        drawn = [
            median_s * exp(dice.gauss(0, log(late_s / median_s) / 1.2815515655))
            for median_s, late_s in durations
        ]
        free = drawn[:workers]
        for one in drawn[workers:]:
            free[free.index(min(free))] += one
        seen.append(min(free))
    seen.sort()
    assert told.median_s == pytest.approx(seen[1500], rel=0.15)
    assert told.late_s == pytest.approx(seen[2700], rel=0.15)


@settings(deadline=None)
@given(st.lists(st.tuples(ITEM, st.integers(0, 3)), max_size=60), st.integers(0, 2 * 86_400))
def test_a_position_is_the_place_in_the_order(rows: list[Any], at_s: int) -> None:
    queue = Queue(Settings(max_wait_s=86_400, weights={"k1": 3.0}))
    for (c, k, bucket, score), what in rows:
        item = queue.add(an_item(f"c{c}", f"k{k}", score, bucket=bucket, arrived_us=c * 10_000_000_000))
        if what == 0:
            queue.take(0)
        elif what == 1:
            queue.rescore(item.key, score * 2, 1.0)
    now_us = at_s * 1_000_000
    for place, item in enumerate(list(queue.items(now_us)), 1):
        assert queue.position(item.key, now_us) == place


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 50), st.integers(0, 400), st.booleans()), max_size=1500))
def test_sums_are_those_of_a_sorted_list(rows: list[tuple[int, int, bool]]) -> None:
    sums, plain = Sums(), list[tuple[int, tuple[str, str, str]]]()
    for number, name, adding in rows:
        pair = (number, (f"{name:03}", "", ""))
        if pair in plain:
            sums.remove(*pair)
            plain.remove(pair)
        elif adding or not plain:
            sums.add(*pair)
            plain.append(pair)
    plain.sort()
    assert list(sums) == plain and len(sums) == len(plain)
    total = 0
    for place, pair in enumerate(plain):
        total += pair[0]
        assert sums.up_to(*pair) == total
        assert sums.below(*(total, pair[1])) == place
        assert sums.below(total + 1, ("", "", "")) == place + 1


@pytest.mark.parametrize("wrong", [an_item(bucket="soon"), an_item(score=0.0), an_item(score=float("nan")),
                                   QueueItem("a", "fix", "", "", 1.0, 0)])  # fmt: skip
def test_what_cannot_be_queued(wrong: QueueItem) -> None:
    queue = Queue(Settings())
    with pytest.raises(QueueError):
        queue.add(wrong)
    assert len(queue) == 0
