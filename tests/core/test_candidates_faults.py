"""The faults of the ancestor and of its migration plan, each where it was, in mode compat, which keeps it, and in
the default policy, which has it not."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

import pytest

from mgmt.core import selecting
from mgmt.core.candidates import compat, compat_queue, queue
from mgmt.core.candidates.compat_queue import CompatError
from mgmt.core.candidates.line import Queued
from mgmt.core.candidates.policies import ByDefault
from mgmt.core.candidates.records import Codebase, Run, World
from mgmt.core.candidates.scoring import Scorer
from mgmt.core.candidates.settings import Settings
from tests.core.candidates_world import NOW_US, a_candidate, a_run, a_world

PLAIN = {"p": ["build-only"]}


def chance_and_score(world: World) -> tuple[float, float]:
    found = Scorer(world, Settings(), NOW_US).score(0, NOW_US)
    assert found.probability is not None and found.score is not None
    return found.probability, found.score


def an_item(
    name: str, score: float, bucket: str = "default", at_us: int = 0, campaign: str = "fix"
) -> queue.QueueItem:
    return queue.QueueItem(name, campaign, "", "run", score, at_us, bucket)


def order(items: list[queue.QueueItem], settings: Settings | None = None) -> list[str]:
    filled = queue.Queue(settings or Settings())
    for item in items:
        filled.add(item)
    return [item.codebase for item in filled.items(0)]


def test_fault_1_the_base_of_priorities_moves() -> None:
    theirs = compat_queue.Queue()
    for name in "ab":
        theirs.add(compat_queue.QueueItem(name, "fix", "run"), 5.0)
    assert [item.priority for item in theirs.items()] == [5, 10], "the same offset, and one came later"
    theirs.add(compat_queue.QueueItem("a", "fix", "run"), 5.0)
    assert [item.codebase for item in theirs.items()] == ["a", "b"] and next(theirs.items()).priority == 10
    items = [an_item(name, score) for name, score in (("a", 5), ("b", 5), ("c", 2))]
    assert order(items) == order(items[::-1]) == order([*items, *items]) == ["c", "a", "b"]


def test_fault_2_last_come_first_served_and_starvation() -> None:
    theirs = compat_queue.Queue()
    for name in "xyz":
        theirs.add(compat_queue.QueueItem(name, "fix", "run", "manual"), -1.0)
    assert [item.codebase for item in theirs.items()] == ["z", "y", "x"]
    ours = queue.Queue(Settings(max_wait_s=3600))
    ours.add(an_item("old", 1e9))
    for i in range(100):
        ours.add(an_item(f"m{i:02}", 1.0, "manual", i * 60_000_000))
        taken = ours.take(i * 60_000_000)
        assert taken is not None
        if taken.codebase == "old":
            break
    assert i == 60, "at the bound, and not a minute later"
    shares = order([an_item(f"a{i}", 1.0) for i in range(9)] + [an_item("b", 1.0, campaign="tidy")])
    assert shares.index("b") <= 1, "a campaign of nine does not hold up one of one"


def test_fault_3_transient_failures_look_like_never_run() -> None:
    streak = [a_run("worker-failure", 0.001 * i, failure_transient=True) for i in range(5)]
    world = a_world([a_candidate(publish_policy="p")], streak, policies=PLAIN)
    theirs = compat.Engine(world, NOW_US).regular("alpha", "fix", dry_run=True)
    assert theirs.estimate is not None and (theirs.estimate.probability, theirs.estimate.total) == (1.0, 0)
    (one,) = ByDefault(Scorer(world, Settings(), NOW_US)).decisions(NOW_US)
    assert "pauses for" in one.held and one.probability == 0.5


def test_fault_4_old_failures_are_for_ever_and_the_context_is_sticky() -> None:
    for age in (1.0, 700.0):
        failed = a_world([a_candidate(context="1")], [a_run("build-failed", age, context="0")] * 5)
        assert compat.Engine(failed, NOW_US).regular(
            "alpha", "fix", dry_run=True
        ).estimate == compat.Estimate(1 / 51, 60_000_000, 5)
    recent, old = (
        chance_and_score(a_world(runs=[a_run("build-failed", age)] * 5))[0] for age in (1.0, 700.0)
    )
    assert recent < 0.35 < 0.49 < old
    tried = a_world([a_candidate(context="1")], [a_run("success", 700.0, context="1")])
    theirs = compat.Engine(tried, NOW_US).regular("alpha", "fix", dry_run=True).estimate
    assert theirs is not None and theirs.probability == pytest.approx(0.1), "even a success, however long ago"
    fresh = a_world([a_candidate(context="2")], [a_run("success", 700.0, context="1")])
    assert chance_and_score(tried)[1] == pytest.approx(chance_and_score(fresh)[1], rel=1e-6)


def test_fault_5_no_ops_chances_values_and_parts_of_a_second() -> None:
    nothing = a_world(runs=[a_run("nothing-to-do", 1.0)] * 3)
    theirs = compat.Engine(nothing, NOW_US).regular("alpha", "fix", dry_run=True).estimate
    assert theirs is not None and theirs.probability < 0.02
    assert chance_and_score(nothing)[0] == 0.5
    given = [a_world([a_candidate(success_chance=chance)]) for chance in (0.1, 0.9)]
    assert (
        len({compat.Engine(world, NOW_US).regular("alpha", "fix", dry_run=True).offset for world in given})
        == 1
    )
    assert [chance_and_score(world)[0] for world in given] == [0.1, 0.9]
    world = a_world([a_candidate("none", publish_policy="p"), a_candidate("some", publish_policy="p")],
                    policies={"p": ["push"]})  # fmt: skip
    world.codebases.update(none=Codebase("none"), some=Codebase("some", 9))
    assert (compat.bulk_normalized(world, "none"), compat.single_normalized(world, "none")) == (0, 1)
    scorer = Scorer(world, Settings(), NOW_US)
    assert scorer.normalized("none") == 0.5
    assert [one.score for one in scorer.pass_over(NOW_US)] == sorted(
        scorer.score(i, NOW_US).score or 0 for i in range(2)
    )
    # A value with what publishing brings, for one and for all; there it is only for all.
    engine = compat.Engine(world, NOW_US)
    assert engine.bulk(dry_run=True)[1].offset != engine.regular("some", "fix", dry_run=True).offset
    long, short = (compat.offset(us, 1.0, 1.0, 1.0, 1) for us in (1_999_999, 2_000_000))
    assert long > short, "what is below a second counts twice"
    ours = [chance_and_score(a_world(runs=[a_run(took_s=took)] * 9))[1] for took in (1.999999, 2.0)]
    assert ours[0] < ours[1]


def test_fault_6_one_bad_row_ends_the_pass() -> None:
    operator = {"relations": [[{"name": "b", "version": ["=!", "1"]}]]}
    bad: dict[str, Any] = {
        "mode": a_candidate("mode", publish_policy="odd"),
        "value": a_candidate("value", value=-500, publish_policy="p"),
        "operator": a_candidate("operator", publish_policy="p"),
        "duration": a_candidate("duration", publish_policy="p"),
    }
    runs = [
        a_run("install-deps-unsatisfied-dependencies", codebase="operator", failure_details=operator),
        replace(a_run(codebase="duration"), finish_us=None),
    ]
    world = a_world([*bad.values(), a_candidate("good", publish_policy="p")], runs,
                    policies={**PLAIN, "odd": ["fly"]})  # fmt: skip
    errors = {one.candidate.codebase: one.error for one in compat.Engine(world, NOW_US).bulk(dry_run=True)}
    assert {name for name, error in errors.items() if error} == set(bad)
    scorer = Scorer(world, Settings(), NOW_US)
    ready = {one.codebase for one in scorer.pass_over(NOW_US) if one.score is not None}
    assert ready == {"good", "mode", "operator", "duration"}
    assert [fault.column for fault in scorer.faults] == ["value"]
    assert len(scorer.warnings) == 2
    for codebase in world.codebases:
        world.codebases[codebase] = Codebase(codebase, 0)
    assert all(one.error for one in compat.Engine(world, NOW_US).bulk(dry_run=True))
    assert len(Scorer(world, Settings(), NOW_US).pass_over(NOW_US)) == 4


def test_fault_7_means_of_durations() -> None:
    usual = [a_run("success", i, took_s=100) for i in range(8)]
    huge = [*usual, a_run("success", 9, took_s=1e6)]
    quick = [*usual, *(a_run("build-failed", i, took_s=1) for i in range(8))]
    theirs = [compat.estimate(compat.History(runs, {}), "alpha", "fix", "", NOW_US).duration_us for runs in
              (usual, huge, quick)]  # fmt: skip
    assert theirs[1] > 1000 * theirs[0] and theirs[2] < 0.6 * theirs[0]
    candidate = [a_candidate(success_chance=1.0)]
    strong = Settings(prior_strength=1e9)  # it succeeds, whatever has been
    ours = [Scorer(a_world(candidate, runs), strong, NOW_US).score(0, NOW_US).duration_us for runs in
            (usual, huge, quick)]  # fmt: skip
    assert ours == [pytest.approx(ours[0], rel=0.01)] * 3
    dice = Random(3)
    spread = [a_run("success", i / 9, took_s=dice.lognormvariate(4, 1)) for i in range(60)]
    late = {
        one.name: one.value
        for one in Scorer(a_world(candidate, spread), strong, NOW_US).explain(0, NOW_US).factors
    }
    assert late["duration, 90 %"] > 2 * late["duration"], "and how uncertain it is, is told"


def test_fault_10_an_eta_without_workers() -> None:
    waiting = [Queued(1, 1, 0, an_item(name, 1.0), duration_us=60e6) for name in "ab"]
    assert [start for _, start in selecting._starts([], waiting, 0, 0, 15.0)] == [None, None]
    told = [start for _, start in selecting._starts([], waiting, 1, 0, 15.0)]
    assert [start.median_s for start in told if start is not None] == [0, 60]


def test_fault_11_the_campaign_filter_of_the_next_one() -> None:
    filled = queue.Queue(Settings())
    for name, campaign in (("a", "fix"), ("b", "tidy")):
        filled.add(an_item(name, 1.0, campaign=campaign))
    found = filled.next(0, lambda item: item.campaign == "tidy")
    assert found is not None and found.codebase == "b"
    theirs = compat_queue.Queue()
    for name, campaign in (("a", "fix"), ("b", "tidy")):
        theirs.add(compat_queue.QueueItem(name, campaign, "run"), 0.0)
    assert [item.codebase for item in theirs.items("tidy")] == ["b"]


@pytest.mark.parametrize("operator", ["= '1') OR ('' =", "; DROP TABLE run --", "", "==", None, 5])
def test_fault_12_an_operator_is_no_sql(operator: Any) -> None:
    lacked = {"relations": [[{"name": "b", "version": [operator, "1"]}]]}
    run = a_run("install-deps-unsatisfied-dependencies", failure_details=lacked)
    with pytest.raises(CompatError, match="operator"):
        compat.estimate(compat.History([run], {"b": ["1"]}), "alpha", "fix", "", NOW_US)
    scorer = Scorer(a_world(runs=[run], versions={"b": ["1"]}), Settings(), NOW_US)
    assert ["operator" in warning for warning in scorer.warnings] == [True]


def test_fault_13_change_sets_collide() -> None:
    both = [
        a_candidate(value=10, publish_policy="p"),
        a_candidate(value=900, change_set="cs", publish_policy="p"),
    ]
    world = a_world(both, policies=PLAIN)
    engine = compat.Engine(world, NOW_US)
    engine.bulk()
    assert len(engine.queue) == 1, "the second took the place of the first"
    scorer = Scorer(world, Settings(), NOW_US)
    assert [one.key for one in scorer.pass_over(NOW_US)] == [("alpha", "fix", "cs"), ("alpha", "fix", "")]
    assert scorer.number_of("alpha", "fix", "cs") == 1


def test_fault_14_of_the_plan_positions_doubles_and_what_is_missing() -> None:
    filled = queue.Queue(Settings())
    for _ in range(3):
        filled.add(an_item("a", 2.0))
        filled.add(an_item("b", 1.0))
    assert len(filled) == 2, "no item is there twice"
    assert [filled.position((name, "fix", ""), 0) for name in "abc"] == [2, 1, None]
    # Nothing is known of it at all: no duration, no chance, no value, no run.
    world = a_world([a_candidate(value=None)])
    world.codebases.clear()
    found = Scorer(world, Settings(), NOW_US).explain(0, NOW_US)
    factors = {one.name: one.value for one in found.factors}
    assert (found.probability, found.duration_us, factors["value"]) == (0.5, 15e6, 1)
    assert found.score == pytest.approx((20000 + 15000) / (0.5 * 0.5 * 1.5))
    never = Run("alpha", "fix", "success")  # without any time
    assert Scorer(a_world(runs=[never]), Settings(), NOW_US).faults[0].column == "finish_time"
