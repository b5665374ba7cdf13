"""The default policy: the ancestor's faults, each as a test, and what holds for any history."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mgmt.core.candidates.beta import below, interval
from mgmt.core.candidates.comparison import compared, correlation
from mgmt.core.candidates.graph import order_of
from mgmt.core.candidates.outcomes import CODES, outcome_of
from mgmt.core.candidates.records import Candidate, Codebase, Run, World
from mgmt.core.candidates.scoring import Scorer
from mgmt.core.candidates.settings import SettingError, Settings, duration_s, settings_of
from mgmt.kernel.reference_history import FAILURE, NOTHING, SUCCESS, TRANSIENT
from tests.core.candidates_world import NOW_US, a_candidate, a_run, a_world

CODES_SEEN = ("success", "success", "build-failed", "nothing-to-do", "worker-failure")


def scored(
    world: World, now_us: int = NOW_US, chosen: Settings | None = None
) -> dict[tuple[str, str, str], Any]:
    return {one.key: one for one in Scorer(world, chosen or Settings(), now_us).pass_over(now_us)}


def score_of(*runs: Run, chosen: Settings | None = None, **candidate: Any) -> Any:
    return scored(a_world([a_candidate(**candidate)], list(runs)), chosen=chosen)[
        "alpha", "fix", candidate.get("change_set") or ""
    ]


# ---- the ancestor's faults --------------------------------------------------------------------------------


# 1: the order does not depend on that of rows or runs, nor on how often it is asked for
@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32))
def test_the_order_of_rows_means_nothing(seed: int) -> None:
    random = Random(seed)
    candidates = [a_candidate(f"c{i}", f"k{i % 3}", random.randrange(1, 900)) for i in range(8)]
    runs = [
        a_run(random.choice(CODES_SEEN), random.uniform(0, 40), codebase=f"c{random.randrange(8)}",
              campaign=f"k{random.randrange(3)}", took_s=random.uniform(1, 900),
              context=random.choice([None, "1", "2"]))
        for _ in range(200)
    ]  # fmt: skip
    chosen = Settings(duration_window=3, minimum_data_points=2, backoff_base_s=86400.0, backoff_cap_s=1e9)
    first = scored(a_world(candidates, runs), chosen=chosen)
    random.shuffle(candidates)
    random.shuffle(runs)
    again = scored(a_world(candidates, runs), chosen=chosen)
    assert again.keys() == first.keys()
    for key, one in first.items():
        assert again[key].score == pytest.approx(one.score, rel=1e-9)
        assert again[key].not_before_us == one.not_before_us


# 3: transient failures and old worker failures
def test_a_streak_of_transient_failures_is_never_tried_again_at_once() -> None:
    pauses = []
    for count in range(1, 12):
        found = score_of(*(a_run("worker-failure", 0.0, took_s=count - i) for i in range(count)))
        pauses.append((found.not_before_us - NOW_US) / 1e6)
        assert found.probability == 0.5, "nothing was learned of its chance"
    chosen = Settings()
    for count, pause in enumerate(pauses, 1):
        longest = min(chosen.backoff_cap_s, chosen.backoff_base_s * 2**count)
        assert longest * (1 - chosen.backoff_jitter) <= pause <= longest
    assert score_of(a_run("worker-failure", 0.1), a_run("success", 0.0)).not_before_us == 0, (
        "the streak is over"
    )
    assert score_of(a_run("worker-failure", 30.0)).not_before_us == 0, "so is its pause"


# 4: recency, and a context that was tried
def test_old_failures_are_forgotten_and_recent_ones_weigh() -> None:
    chances = [
        score_of(*(a_run("build-failed", age) for _ in range(5))).probability for age in (0, 7, 30, 120, 700)
    ]
    assert chances == sorted(chances)
    assert chances[0] < 0.3 < 0.49 < chances[-1]


def test_a_context_that_was_tried_recovers() -> None:
    def again(age: float) -> float:
        return float(score_of(a_run("build-failed", age, context="1"), a_run(context="0"), context="1").score)

    never = score_of(a_run("build-failed", 0.0, context="2"), a_run(context="0"), context="1")
    scores = [again(age) for age in (0.0, 5.0, 14.0, 60.0)]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] > 9 * never.score
    assert (
        score_of(a_run(context="1"), context="1").probability
        == score_of(a_run(context="2"), context="1").probability
    )


# 5: three outcomes, success_chance, one normalised value, publishing on every path
def test_nothing_to_do_is_no_failure_and_lowers_the_value() -> None:
    nothing = score_of(a_run("nothing-to-do", 0.0))
    assert nothing.probability == score_of().probability
    assert nothing.score > score_of().score


def test_the_given_chance_counts_until_there_is_history() -> None:
    chances = [score_of(success_chance=chance).probability for chance in (0.1, None, 0.9)]
    assert chances == [0.1, 0.5, 0.9]
    runs = [a_run("build-failed", 0.0) for _ in range(60)]
    assert score_of(*runs, success_chance=0.9).probability < 0.1


def test_a_codebase_without_value_has_the_default_on_every_path() -> None:
    world = a_world([a_candidate("a"), a_candidate("b"), a_candidate("c")])
    world.codebases.update(a=Codebase("a", None), b=Codebase("b", 100), c=Codebase("c", 1))
    scorer = Scorer(world, Settings(), NOW_US)
    assert [scorer.normalized(name) for name in "abc"] == [0.5, 1.0, 0.1]
    world.codebases["b"] = world.codebases["c"] = Codebase("b", 0)
    assert Scorer(world, Settings(), NOW_US).normalized("b") == 0.5, "no maximum: nothing is divided by 0"


def test_publishing_is_worth_the_same_for_all_and_for_one() -> None:
    world = a_world([a_candidate(publish_policy="p")], policies={"p": ["propose", "push-derived", "fly"]})
    scorer = Scorer(world, Settings(), NOW_US)
    value = next(one for one in scorer.explain(0, NOW_US).factors if one.name == "value")
    assert value.value == 100 + 400 + 200
    assert scorer.score(0, NOW_US).score == scorer.pass_over(NOW_US)[0].score
    assert ["fly" in warning for warning in scorer.warnings] == [True]


# 6: one bad row never stops a pass
def test_a_bad_row_is_told_and_the_others_are_scored() -> None:
    candidates = [
        a_candidate(), a_candidate("beta", value=-1), a_candidate("gamma", publish_policy="none"),
        a_candidate(), Candidate("delta", "fix", "", 5), Candidate("nowhere", "fix", "run", 5),
        a_candidate("epsilon", value=None),
    ]  # fmt: skip
    world = a_world(candidates, [a_run(), Run("alpha", "fix", "success"), a_run("unheard-of")])
    del world.codebases["nowhere"]
    scorer = Scorer(world, Settings(), NOW_US)
    assert {one.codebase for one in scorer.pass_over(NOW_US)} == {"alpha", "epsilon"}
    told = sorted(str(fault) for fault in scorer.faults)
    words = [
        "is -1",
        "no policy 'none'",
        "is there twice",
        "command: is empty",
        "no codebase 'nowhere'",
        "finish_time",
    ]
    assert len(told) == len(words)
    assert all(any(word in line for line in told) for word in words), told


def test_a_chance_of_nothing_is_no_error() -> None:
    found = score_of(success_chance=0.0)
    assert (found.score, found.reason) == (None, "nothing is expected of it")


# 7: medians, successes and failures apart
def test_one_huge_run_moves_the_expected_duration_little() -> None:
    usual = [a_run(took_s=100) for _ in range(9)]
    found, moved = score_of(*usual), score_of(*usual[1:], a_run(took_s=10**6))
    assert moved.duration_us == pytest.approx(found.duration_us)
    quick = [a_run("build-failed", 0.0, took_s=1) for _ in range(9)]
    assert score_of(*usual, *quick).duration_us < found.duration_us


@pytest.mark.parametrize("points", [4, 5])
def test_each_level_of_durations_in_turn(points: int) -> None:
    def took(**where: Any) -> float:
        return (
            float(
                score_of(
                    *(a_run(took_s=1000, **where) for _ in range(points)), success_chance=1.0
                ).duration_us
            )
            / 1e6
        )

    default = Settings().default_duration_s
    if points < 5:
        assert took() == took(campaign="other") == took(codebase="other") == default
    else:
        drawn = [took(codebase="other"), took(campaign="other"), took()]
        shrink = Settings().duration_prior_points
        assert drawn[0] == drawn[1] == pytest.approx((5 * 1000 + shrink * default) / (5 + shrink))
        assert drawn[2] > drawn[0], "all three levels say so"
    chosen = Settings(campaign_durations_s={"fix": 77.0})
    assert score_of(chosen=chosen).duration_us == 77e6


# 13: change sets
def test_a_change_set_is_a_candidate_of_its_own() -> None:
    found = scored(a_world([a_candidate(), a_candidate(change_set="cs", value=900)]))
    assert found["alpha", "fix", "cs"].score < found["alpha", "fix", ""].score


# ---- what holds of any history ----------------------------------------------------------------------------

HISTORY = st.lists(st.tuples(st.sampled_from(CODES_SEEN), st.floats(0, 90), st.floats(1, 5000)), max_size=20)


@settings(deadline=None, max_examples=80)
@given(HISTORY, st.integers(1, 900), st.integers(1, 900), st.data())
def test_more_value_and_more_success_are_never_later(history: Any, value: int, more: int, data: Any) -> None:
    runs = [a_run(code, age, took_s=took) for code, age, took in history]
    found = score_of(*runs, value=value)
    assert score_of(*runs, value=value + more).score < found.score
    failures = [i for i, run in enumerate(runs) if run.result_code == "build-failed"]
    if failures:
        i = data.draw(st.sampled_from(failures))
        # Its duration is not what is asked for: that is of failures and successes apart.
        flat = [replace(run, start_us=(run.finish_us or 0) - 60_000_000) for run in runs]
        better = [*flat[:i], replace(flat[i], result_code="success"), *flat[i + 1 :]]
        before, after = (score_of(*some, chosen=Settings(default_duration_s=60)) for some in (flat, better))
        assert after.probability > before.probability
        assert after.score < before.score


@settings(deadline=None, max_examples=60)
@given(HISTORY, st.floats(0, 60), st.integers(0, 19))
def test_the_posterior_is_a_chance_within_its_interval(history: Any, age: float, context: int) -> None:
    world = a_world(
        [a_candidate(context=str(context))],
        [a_run(c, a + age, took_s=t, context=str(i)) for i, (c, a, t) in enumerate(history)],
    )
    scorer = Scorer(world, Settings(), NOW_US)
    found = scorer.explain(0, NOW_US)
    factors = {one.name: one for one in found.factors}
    assert 0 <= factors["success, low"].value <= found.probability <= factors["success, high"].value <= 1  # type: ignore[operator]
    expected = math.prod(one.value for one in found.factors if one.kind == "expected")
    cost = math.fsum(one.value for one in found.factors if one.kind == "cost")
    assert found.score == pytest.approx(cost / expected, rel=1e-12)
    assert all(one.source for one in found.factors)
    assert found.score == pytest.approx(scorer.scores(NOW_US)[0], rel=1e-12)


@settings(deadline=None, max_examples=30)
@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 2), st.sampled_from(CODES_SEEN), st.integers(1, 10**9)),
        max_size=80,
    )
)
def test_a_run_more_is_what_it_would_be_from_the_beginning(rows: Any) -> None:
    """With and without increments: to the bit."""
    candidates = [a_candidate(f"c{i}", f"k{k}") for i in range(4) for k in range(3)]
    runs = [
        Run(f"c{i}", f"k{k}", code, NOW_US + n, NOW_US + n + us) for n, (i, k, code, us) in enumerate(rows)
    ]
    runs.sort(key=lambda run: run.finish_us or 0)
    half = len(runs) // 2
    scorer = Scorer(a_world(candidates, runs[:half]), Settings(duration_window=3), NOW_US)
    for run in runs[half:]:
        scorer.finished(run)
    history = scorer.history
    levels = (history.series, history.codebases, history.campaigns)
    before = [bytes(level.matrix) for level in levels]
    history.rebuild()
    assert [bytes(level.matrix) for level in levels] == before


def test_the_interval_holds_the_true_rate() -> None:
    random, held = Random(3), 0
    for _ in range(400):
        true = random.betavariate(4, 4)
        n = random.randrange(1, 40)
        successes = sum(random.random() < true for _ in range(n))
        low, high = interval(4 + successes, 4 + n - successes)
        held += low <= true <= high
    assert 0.86 <= held / 400 <= 0.94
    assert below(1, 1, 0.25) == pytest.approx(0.25)
    assert below(2, 3, 0.5) == pytest.approx(0.6875)
    assert interval(0, 3) == (0, 0) and interval(3, 0) == (1, 1)


# ---- dependencies -----------------------------------------------------------------------------------------


def test_a_campaign_waits_until_the_other_has_succeeded() -> None:
    world = a_world(
        [a_candidate(requires=("first",)), a_candidate(campaign="first")],
        [a_run("build-failed", campaign="first")],
    )
    scorer = Scorer(world, Settings(), NOW_US)
    assert scorer.waits_for(0) == ("first",)
    scorer.finished(a_run(campaign="first", age_days=0))
    assert scorer.waits_for(0) == ()


def test_packages_that_are_not_there_hold_back_and_are_no_failure_once_they_are() -> None:
    lacking = a_run(
        "install-deps-unsatisfied-dependencies", 0.0,
        failure_details={"relations": [[{"name": "b", "version": [">=", "2"]}]]},
    )  # fmt: skip
    waiting = scored(a_world(runs=[lacking], versions={"b": ["1.9"]}))["alpha", "fix", ""]
    assert waiting.waits_for == ("packages: b",)
    there = scored(a_world(runs=[lacking], versions={"b": ["2.0"]}))["alpha", "fix", ""]
    assert there.waits_for == ()
    assert there.probability == 0.5 or there.probability > waiting.probability
    scorer = Scorer(a_world(runs=[lacking], versions={"b": ["2.0"]}), Settings(), NOW_US)
    scorer.finished(a_run("build-failed", 0.0))
    assert scorer.history.series.at(FAILURE, 0) == 2.0, "it counts as what it was, once another run came"


def test_a_cycle_is_named_and_the_rest_is_ordered() -> None:
    order = order_of(
        {"a": ["c"], "b": ["a"], "c": ["b"], "d": [], "e": ["d", "gone"], "f": ["a"], "g": ["g"]}
    )
    assert order.order == ["d", "e"]
    assert order.cycles == [["a", "c", "b"], ["g"]]
    assert order.stuck == ["f"]
    candidates = [
        a_candidate(campaign=one, requires=(other,)) for one, other in (("x", "y"), ("y", "x"), ("z", "w"))
    ]
    found = Scorer(a_world(candidates), Settings(), NOW_US).order()
    assert [[key[1] for key in cycle] for cycle in found.cycles] == [["x", "y"]]


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), max_size=40))
def test_everything_comes_after_what_it_needs(edges: list[tuple[int, int]]) -> None:
    needs: dict[int, list[int]] = {node: [] for node in range(13)}
    for node, other in edges:
        needs[node].append(other)
    order, cycles, stuck = order_of(needs)
    members = [node for cycle in cycles for node in cycle]
    assert sorted([*order, *members, *stuck]) == list(range(13))
    for place, node in enumerate(order):
        assert all(other in order[:place] for other in needs[node])
    for cycle in cycles:
        assert all(any(other in cycle for other in needs[node]) for node in cycle)


# ---- codes, settings, figures -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "transient", "outcome"),
    [(code, None, outcome) for code, outcome in CODES.items()]
    + [("build-failed", None, FAILURE), ("build-failed", True, TRANSIENT), ("success", True, SUCCESS),
       ("nothing-to-do", True, NOTHING), ("never-heard-of", False, FAILURE)],
)  # fmt: skip
def test_each_code_has_its_outcome(code: str, transient: bool | None, outcome: int) -> None:
    assert outcome_of(a_run(code, failure_transient=transient)) == outcome


def test_settings_are_read_in_their_units() -> None:
    found = settings_of(
        {
            "scheduling": {"default_estimated_duration": "15m"},
            "decay": {"half_life": "7d"},
            "fairness": {"max_wait": "36h", "weights": {"fix": 2}},
            "publish_mode_values": {"push": 1000},
        }
    )
    assert (found.default_duration_s, found.half_life_s, found.max_wait_s) == (900, 7 * 86400, 36 * 3600)
    assert (found.weight("fix"), found.weight("other")) == (2, 1)
    assert (found.publish_mode_values["push"], found.publish_mode_values["bts"]) == (1000, 100)
    assert duration_s("15 ms") == 0.015


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"decay": {"half_life": 14}}, "decay.half_life is 14: must be a duration with its unit"),
        ({"decay": {"half_life": "0s"}}, "half_life_s is 0.0: must be positive"),
        ({"decay": {"whole_life": "1d"}}, "decay.whole_life: there is no such key"),
        ({"decoy": {}}, "decoy: there is no such section"),
        ({"fairness": {"weights": {"fix": 0}}}, "weights.fix is 0"),
        ({"backoff": {"jitter": 2}}, "backoff_jitter is 2: must be at most 1"),
        ({"success_estimation": {"minimum_data_points": 0}}, "minimum_data_points is 0"),
        ({"publish_mode_values": {"push": "much"}}, "publish_mode_values.push is 'much'"),
        ({"decay": 5}, "decay: must be an object"),
        ([], "must be an object of sections"),
    ],
)
def test_a_setting_that_cannot_be_is_named(value: Any, says: str) -> None:
    with pytest.raises(SettingError, match=says.replace("'", ".")):
        settings_of(value)


def test_a_shadow_run_tells_who_was_right() -> None:
    random = Random(2)
    candidates = [a_candidate(f"c{i}", "fix", 50 + i, publish_policy="p") for i in range(10)]
    runs = [
        a_run("success" if random.random() < 0.3 else "build-failed", age / 10, codebase=f"c{age % 10}")
        for age in range(400)
    ]
    world = a_world(candidates, runs, policies={"p": ["build-only"]})
    told = compared(world, Settings(), NOW_US, top=5)
    theirs, ours = told["policies"]
    assert (theirs["policy"], ours["policy"]) == ("janitor_compat", "default")
    assert theirs["predicted"] == ours["predicted"] == 400
    assert ours["brier"] < 0.23 and ours["calibration_error"] < theirs["calibration_error"]
    assert 0 <= ours["regret"] < 1e-6 * ours["value_per_hour"], "it is the judge"
    assert theirs["regret"] >= 0
    assert all(set(row) == {"codebase", "campaign", "change_set", "left", "right"} for row in told["rows"])
    keys = [("a", "", ""), ("b", "", ""), ("c", "", "")]
    same = {key: place for place, key in enumerate(keys)}
    assert correlation(same, same) == 1
    assert correlation(same, {key: -place for key, place in same.items()}) == -1
    assert correlation(same, {}) is None


def test_the_example_of_the_page_is_true() -> None:
    page = (Path(__file__).parents[2] / "docs" / "candidates.md").read_text()
    found = re.search(r"\((\d+) \+ (\d+)\) / \(([^)]*)\) = (\d+\.\d)", page)
    assert found is not None
    product = math.prod(float(factor) for factor in found[3].split(" x "))
    assert (float(found[1]) + float(found[2])) / product == pytest.approx(float(found[4]), abs=0.05)
    world = a_world([a_candidate(value=50, publish_policy="p")], policies={"p": ["propose"]})
    assert scored(world)["alpha", "fix", ""].score == pytest.approx(float(found[4]), abs=0.05)
