"""What can be set: each key and each part changes what it says, and nothing else."""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from mgmt.core.candidates import compat
from mgmt.core.candidates.policies import ByDefault
from mgmt.core.candidates.records import Codebase
from mgmt.core.candidates.scoring import Scorer
from mgmt.core.candidates.settings import Parts, SettingError, Settings, settings_of
from mgmt.settings.candidates import CandidateSettings
from mgmt.store.queue.connection import Connection
from mgmt_cli.candidates.files import moment
from tests.core.candidates_world import NOW_US, a_candidate, a_run, a_world
from tests.core.test_candidates_desk import Daemon

# The plan as it would be written down, durations with their unit.
PLAN = """
[scheduling]
first_run_bonus = 100.0
default_estimated_duration = "15s"
default_schedule_offset = -1.0
[publish_mode_values]
skip = 0
build-only = 0
push = 500
propose = 400
attempt-push = 450
bts = 100
push-derived = 200
[success_estimation]
ignore_worker_failures_older_than_days = 1
historical_data_window_days = 30
minimum_data_points = 5
"""
LACKS = {"relations": [[{"name": "b", "version": [">=", "2"]}]]}


def a_history() -> list[Any]:
    """Something of everything, so that no part of the score is neutral."""
    runs = [a_run("success", age, took_s=100 + age, context="0") for age in range(1, 9)]
    runs += [a_run("build-failed", age + 0.5, took_s=10, context="1") for age in range(3)]
    runs += [a_run("nothing-to-do", 3.0, took_s=7), a_run("worker-failure", 0.4)]
    return [*runs, a_run("success", 2.0, codebase="beta", took_s=5000), a_run(campaign="other", took_s=900)]


def a_scorer(parts: Parts | None = None, **settings: Any) -> Scorer:
    candidates = [
        a_candidate(context="1", publish_policy="p", requires=("first",), success_chance=0.7),
        a_candidate("beta", publish_policy="p"),
        a_candidate("gamma", "other"),
    ]
    world = a_world(candidates, a_history(), policies={"p": ["propose", "bts"]})
    world.codebases["alpha"] = Codebase("alpha", 50)
    return Scorer(world, Settings(parts=parts or Parts(), weights={"fix": 2.0}, **settings), NOW_US)


def factors(scorer: Scorer, i: int = 0) -> dict[str, float]:
    return {one.name: one.value for one in scorer.explain(i, NOW_US).factors}


CHANCES = {
    "success",
    "prior",
    "success, low",
    "success, high",
    "same context",
    "something to do",
    "exploration",
}


@pytest.mark.parametrize(
    ("part", "changes"),
    [
        ("probability", CHANCES), ("duration", {"duration", "duration, 90 %"}), ("publish", {"value"}),
        ("dependency", set()), ("fairness", {"weight"}),
    ],
)  # fmt: skip
def test_a_part_that_is_off_changes_its_own_factors_alone(part: str, changes: set[str]) -> None:
    on, off = a_scorer(), a_scorer(Parts(**{part: False}))
    before, after = factors(on), factors(off)
    differ = {name for name in before | after if before.get(name) != after.get(name)}
    assert differ == changes, differ ^ changes
    assert (on.waits_for(0) != off.waits_for(0)) == (part == "dependency")
    # The score of one, and of all at once, is what its factors say.
    found = off.explain(0, NOW_US)
    expected = cost = 1.0
    for one in found.factors:
        expected *= one.value if one.kind == "expected" else 1.0
        cost += one.value if one.kind == "cost" else 0.0
    assert found.score == pytest.approx((cost - 1) / expected)
    assert found.score == pytest.approx(off.scores(NOW_US)[0])
    off.finished(a_run("success", 0.0, took_s=33))
    assert off.score(0, NOW_US).score == pytest.approx(off.scores(NOW_US)[0])


def test_what_is_off_is_as_janitor_has_it() -> None:
    scorer = a_scorer(Parts(probability=False, duration=False, publish=False))
    for i, candidate in enumerate(scorer.candidates):
        theirs = compat.estimate(
            compat.History(a_history(), {}), candidate.codebase, candidate.campaign, candidate.context, NOW_US
        )
        found = scorer.score(i, NOW_US)
        assert (found.probability, found.duration_us) == (theirs.probability, theirs.duration_us)
        assert factors(scorer, i)["value"] == candidate.value
    assert scorer.predict("beta", "fix", None, NOW_US)[0] == 1.0


def test_where_janitor_would_end_our_own_part_stays() -> None:
    world = a_world(runs=[replace(a_run(), finish_us=None)])
    off, on = (Scorer(world, Settings(parts=Parts(probability=flag)), NOW_US) for flag in (False, True))
    assert off.score(0, NOW_US).probability == on.score(0, NOW_US).probability
    assert ["no duration" in warning for warning in off.warnings] == [True]


def test_without_fairness_the_score_alone_decides() -> None:
    candidates = [a_candidate(f"c{i}", f"k{i % 2}", 100 + i) for i in range(6)]
    world = a_world(candidates)
    fair, plain = (
        ByDefault(Scorer(world, Settings(parts=Parts(fairness=on)), NOW_US)) for on in (True, False)
    )
    order = [one.candidate.codebase for one in plain.decisions(NOW_US)]
    assert order == ["c5", "c4", "c3", "c2", "c1", "c0"]
    assert [one.turn for one in plain.decisions(NOW_US)] == [one.score for one in plain.decisions(NOW_US)]
    weighted = Settings(weights={"k0": 9.0})
    fair = ByDefault(Scorer(world, weighted, NOW_US))
    assert [one.candidate.codebase for one in fair.decisions(NOW_US)][:3] == ["c4", "c2", "c0"]
    assert Settings(parts=Parts(fairness=False)).ageing_s > 1000 * Settings().ageing_s


# ---- the window ------------------------------------------------------------------------------------------


def test_a_window_forgets_what_is_older() -> None:
    runs = [a_run("build-failed", age, took_s=500, context="1") for age in (40, 35, 32)]
    young = [a_run("success", age, took_s=50) for age in (20, 10, 5)]
    chosen = Settings(history_window_s=30 * 86400.0)
    candidates = [a_candidate(context="1")]
    windowed = Scorer(a_world(candidates, [*runs, *young]), chosen, NOW_US)
    fresh = Scorer(a_world(candidates, young), Settings(), NOW_US)
    assert factors(windowed) == factors(fresh)
    later_us = NOW_US + 12 * 86_400_000_000  # the run of 20 days ago is too old then
    windowed.finished(a_run("build-failed", 0.0))
    assert len(windowed.history) == 4
    other = Scorer(a_world(candidates, [*young[1:], a_run("build-failed", 0.0)]), Settings(), NOW_US)
    assert windowed.pass_over(later_us)[0].score == pytest.approx(other.pass_over(later_us)[0].score)
    assert len(windowed.history) == 3
    assert windowed.pass_over(later_us + 10**14)[0].probability == 0.5, "nothing is left"


def test_a_window_forgets_what_packages_were_lacking_but_not_that_a_campaign_succeeded() -> None:
    chosen = Settings(history_window_s=30 * 86400.0)
    lacking = a_run("install-deps-unsatisfied-dependencies", 40, failure_details=LACKS)
    there = Scorer(a_world(runs=[lacking], versions={"b": ["1"]}), chosen, NOW_US)
    assert there.waits_for(0) == ()
    forgiven = Scorer(a_world(runs=[lacking], versions={"b": ["3"]}), Settings(), NOW_US)
    forgiven.history.expire(NOW_US)
    assert (forgiven.history.lacking, len(forgiven.history)) == ({}, 0)
    done = Scorer(
        a_world([a_candidate(requires=("first",))], [a_run(campaign="first", age_days=400)]), chosen, NOW_US
    )
    assert done.waits_for(0) == ()


def test_janitors_rules_take_the_window_too() -> None:
    world = a_world(runs=[a_run("build-failed", 40, took_s=500), a_run("success", 5, took_s=50)])
    chosen = compat.constants_of(Settings(history_window_s=30 * 86400.0))
    engine = compat.Engine(world, NOW_US, chosen)
    assert engine.regular("alpha", "fix", dry_run=True).duration_us == 50_000_000
    assert engine.manual("alpha", "fix").duration_us == 50_000_000
    assert compat.Engine(world, NOW_US).manual("alpha", "fix").duration_us == 275_000_000


# ---- keys ------------------------------------------------------------------------------------------------


def test_the_plan_as_it_is_written_is_taken() -> None:
    told = tomllib.loads(PLAN)
    found = settings_of(told)
    assert (found.first_run_bonus, found.default_schedule_offset, found.default_duration_s) == (100, -1, 15)
    assert (found.history_window_s, found.ignore_worker_failures_s) == (30 * 86400, 86400)
    assert found.minimum_data_points == 5
    # Its constants are Janitor's own.
    assert replace(compat.constants_of(found), window_us=None) == compat.JANITOR
    in_config = CandidateSettings.model_validate(told).model_dump()
    sections = {key: in_config[key] for key in (*told, "parts", "accuracy", "decay", "fairness", "backoff")}
    assert settings_of(sections) == found
    assert settings_of(json.loads(CandidateSettings().model_dump_json(include=set(sections)))) == Settings()


def pulled(scorer: Scorer) -> Any:
    """What a pass says, and how long it would be held."""
    return [(one.codebase, one.score, one.not_before_us) for one in scorer.pass_over(NOW_US)]


@pytest.mark.parametrize(
    ("section", "key", "value", "field"),
    [
        ("scheduling", "first_run_bonus", 100, "score"),
        ("scheduling", "default_estimated_duration", "15m", "score"),
        ("scheduling", "campaign_durations", {"other": "1h"}, "score"),
        ("success_estimation", "historical_data_window_days", 3, "score"),
        ("success_estimation", "historical_data_window", "3d", "score"),
        ("success_estimation", "historical_data_window_days", "72h", "score"),
        ("success_estimation", "ignore_worker_failures_older_than_days", 0, "score"),
        ("success_estimation", "ignore_worker_failures_older_than", "1m", "score"),
        ("success_estimation", "minimum_data_points", 1, "score"),
        ("success_estimation", "prior_strength", 9, "score"),
        ("success_estimation", "exploration", 2, "score"),
        ("success_estimation", "same_context_penalty", 0.1, "score"),
        ("decay", "half_life", "1d", "score"),
        ("backoff", "base", "9h", "score"),
        ("backoff", "cap", "11h", "score"),
        ("backoff", "jitter", 0.9, "score"),
        ("publish_mode_values", "propose", 9999, "score"),
        ("fairness", "weights", {"other": 7}, "turn"),
        ("fairness", "max_wait", "1h", "ageing"),
    ],
)  # fmt: skip
def test_each_key_changes_what_it_says(section: str, key: str, value: Any, field: str) -> None:
    backoff = {"backoff": {"cap": "20h", "base": "6h"}}

    def with_settings(settings: Settings) -> Scorer:
        candidates = [
            a_candidate(context="1", publish_policy="p"), a_candidate("gamma", "other"), a_candidate("beta")
        ]  # fmt: skip
        runs = [*a_history(), a_run("worker-failure", 0.4, codebase="beta", took_s=60)]
        return Scorer(a_world(candidates, runs, policies={"p": ["propose"]}), settings, NOW_US)

    given = {**backoff, section: {**backoff.get(section, {}), key: value}}
    before, after = (with_settings(settings_of(one)) for one in (backoff, given))
    turns = [[one.turn for one in ByDefault(scorer).decisions(NOW_US)] for scorer in (before, after)]
    assert (pulled(before) != pulled(after)) == (field == "score")
    assert field == "score" or (turns[0] != turns[1]) == (field == "turn")
    assert (before.settings.ageing_s != after.settings.ageing_s) == (field == "ageing")


@pytest.mark.parametrize(
    ("given", "offset", "duration_us"),
    [
        ({}, (20000 + 15000) / 150, 15_000_000),
        ({"scheduling": {"first_run_bonus": 50}}, (20000 + 15000) / 100, 15_000_000),
        ({"scheduling": {"default_estimated_duration": "25s"}}, (20000 + 25000) / 150, 25_000_000),
        ({"publish_mode_values": {"bts": 250}}, (20000 + 15000) / 300, 15_000_000),
    ],
)
def test_the_plans_keys_are_for_janitors_rules_too(given: Any, offset: float, duration_us: int) -> None:
    world = a_world([a_candidate(value=-50, publish_policy="p")], policies={"p": ["bts"]})
    engine = compat.Engine(world, NOW_US, compat.constants_of(settings_of(given)))
    (found,) = engine.bulk(dry_run=True)
    assert found.estimate is not None
    assert found.offset == pytest.approx(offset)
    assert found.estimate.duration_us == duration_us


def test_what_a_person_asks_for_has_the_offset_that_was_set() -> None:
    chosen = compat.constants_of(settings_of({"scheduling": {"default_schedule_offset": -7.5}}))
    assert compat.Engine(a_world(), NOW_US, chosen).manual("alpha", "fix").offset == -7.5
    assert compat.Engine(a_world(), NOW_US).manual("alpha", "fix").offset == -1.0


def test_worker_failures_are_ignored_when_they_are_older_than_was_set() -> None:
    chosen = compat.constants_of(
        settings_of({"success_estimation": {"ignore_worker_failures_older_than": "3d"}})
    )
    for constants, totals in ((chosen, [1, 0]), (None, [0, 0])):
        history = compat.History([a_run("worker-failure", 2)], {}, constants)
        at = [compat.estimate(history, "alpha", "fix", "", NOW_US + us).total for us in (0, 86_400_000_000)]
        assert at == totals


def test_a_mode_that_only_the_default_policy_knows_stays_unknown_to_janitors_rules() -> None:
    known = compat.constants_of(settings_of({"publish_mode_values": {"fly": 3}})).publish_mode_value
    assert ("push-derived" in known, known["fly"]) == (False, 3)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"parts": {"luck": False}}, "parts.luck: there is no such part; known are probability"),
        ({"parts": {"fairness": 0}}, "parts.fairness is 0: must be true or false"),
        ({"scheduling": {"default_estimated_duration": 15}}, "must be a duration with its unit, like 15s"),
        ({"success_estimation": {"historical_data_window": 30}}, "data_window is 30: must be a duration"),
        ({"success_estimation": {"historical_data_window_days": True}}, "is True: must be a duration"),
        ({"success_estimation": {"historical_data_window_days": 0}}, "history_window_s is 0.0: must be positive"),
        ({"success_estimation": {"historical_data_window": "1d", "historical_data_window_days": 1}},
         "says the same as success_estimation.historical_data_window"),
        ({"scheduling": {"campaign_durations": {"fix": 5}}}, "campaign_durations is 5: must be a duration"),
        ({"scheduling": {"first_run_bonus": -1}}, "first_run_bonus is -1: must be at least 0"),
        ({"scheduling": {"default_schedule_offset": "soon"}}, "offset is 'soon': must be a number"),
    ],
)  # fmt: skip
def test_what_cannot_be_set_is_named(value: Any, says: str) -> None:
    with pytest.raises(SettingError) as caught:
        settings_of(value)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "told",
    [
        {"every": "9" * 400 + "d"}, {"rest": "9" * 400 + "d"}, {"fairness": {"max_wait": "9" * 30 + "d"}},
        {"fairness": {"weights": {"a": 1e-320}}}, {"publish_mode_values": {"push": 1e-300}},
        {"success_estimation": {"prior_strength": 1e300}},
        {"success_estimation": {"historical_data_window": "5d", "historical_data_window_days": 5}},
        {"success_estimation": {"ignore_worker_failures_older_than": "1d",
                                "ignore_worker_failures_older_than_days": 1}},
    ],
)  # fmt: skip
def test_what_the_daemon_could_not_live_with_is_no_configuration(told: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        CandidateSettings.model_validate(told)


def test_the_longest_times_there_can_be_are_lived_with(queue: Connection) -> None:
    longest = "999999999d"
    there = Daemon(
        queue, every=longest, rest=longest, fairness={"max_wait": longest, "weights": {"fix": 1e-15}},
        backoff={"base": longest, "cap": longest}, scheduling={"default_estimated_duration": longest},
    )  # fmt: skip
    there.candidates("a")
    there.live(10.0)
    assert there.runs("a") == 1
    explained = there.ask("candidates-explain", codebase="a", campaign="fix").ok
    assert explained["not_before"] > there.daemon.now.real_s
    assert moment(round(explained["not_before"] * 1e6)) == "never"
