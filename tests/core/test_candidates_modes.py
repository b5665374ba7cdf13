"""How the default policy may fail without harm, who looks on, and when its predictions are worth an alert."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from mgmt.core.candidates import policies, scoring
from mgmt.core.candidates.accuracy import Accuracy
from mgmt.core.candidates.modes import Mode, judge_of, likeness
from mgmt.core.candidates.policies import Judge
from mgmt.core.candidates.records import DAY_US, RowError, Run, World
from mgmt.core.candidates.settings import Settings
from tests.core.candidates_world import NOW_US, a_candidate, a_run, a_world

POLICIES = {"p": ["build-only"]}


def some(n: int = 6, **more: Any) -> World:
    candidates = [a_candidate(f"c{i}", f"k{i % 2}", 50 + 20 * i, publish_policy="p") for i in range(n)]
    runs = [
        a_run("success" if i % 3 else "build-failed", i, codebase=f"c{i}", campaign=f"k{i % 2}")
        for i in range(n)
    ]
    return a_world(candidates, runs, policies=POLICIES, **more)


def keys(judge: Judge) -> list[Any]:
    return [one.candidate.key for one in judge.decisions(NOW_US)]


def judged(mode: Mode, world: World | None = None, policy: policies.Policy = "default") -> Judge:
    return judge_of(policy, world or some(), Settings(), NOW_US, [], mode)


def broken(*_: object, **__: object) -> Any:
    raise ZeroDivisionError("injected")


def test_without_a_fault_fallback_is_native() -> None:
    native, safe = judged("native"), judged("fallback")
    assert native.decisions(NOW_US) == safe.decisions(NOW_US)
    assert (safe.fallbacks, safe.warnings, safe.cycles()) == (0, set(), [])


def test_a_pass_on_which_the_default_policy_fails_is_janitors(monkeypatch: pytest.MonkeyPatch) -> None:
    safe, theirs = judged("fallback"), judged("native", policy="janitor_compat")
    before = keys(safe)
    monkeypatch.setattr(scoring.Scorer, "expected", broken)
    assert safe.decisions(NOW_US) == theirs.decisions(NOW_US)
    assert safe.fallbacks == 1
    assert ["ZeroDivisionError: injected" in warning for warning in safe.warnings] == [True]
    with pytest.raises(ZeroDivisionError):
        judged("native").decisions(NOW_US)
    monkeypatch.undo()
    assert keys(safe) == before and safe.fallbacks == 1, "the next pass is its own again"


def test_a_candidate_on_which_the_default_policy_fails_is_janitors(monkeypatch: pytest.MonkeyPatch) -> None:
    own = scoring.Scorer.value_of

    def value_of(self: Any, i: int, candidate: Any) -> float | None:
        if candidate.codebase == "c3":
            raise RowError("candidates", i, "value", "injected")
        return own(self, i, candidate)

    monkeypatch.setattr(scoring.Scorer, "value_of", value_of)
    native, safe = judged("native"), judged("fallback")
    assert len(keys(native)) == 5
    found = {one.candidate.codebase: one for one in safe.decisions(NOW_US)}
    assert len(found) == 6 and safe.fallbacks == 1
    theirs = {
        one.candidate.codebase: one for one in judged("native", policy="janitor_compat").decisions(NOW_US)
    }
    assert (found["c3"].score, found["c3"].probability) == (theirs["c3"].score, theirs["c3"].probability)
    assert any("c3 in k1: the default policy failed" in warning for warning in safe.warnings)
    # It has its turn in its campaign, by its score.
    turns = sorted(
        (one for one in found.values() if one.candidate.campaign == "k1"), key=lambda one: one.score or 0
    )
    assert [one.turn for one in turns] == sorted(one.turn for one in turns)
    assert any("injected" in str(fault) for fault in safe.faults)


def test_a_policy_that_cannot_even_be_built_is_janitors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring.Scorer, "refresh", broken)
    with pytest.raises(ZeroDivisionError):
        judged("native")
    safe, theirs = judged("fallback"), judged("native", policy="janitor_compat")
    assert (keys(safe), safe.cycles()) == (keys(theirs), [])
    safe.finished(a_run("build-failed", 0, codebase="c5", campaign="k1"))
    theirs.finished(a_run("build-failed", 0, codebase="c5", campaign="k1"))
    assert safe.decisions(NOW_US) == theirs.decisions(NOW_US)
    assert safe.fallbacks == 3


def test_a_policy_that_cannot_learn_is_janitors_from_then_on(monkeypatch: pytest.MonkeyPatch) -> None:
    safe, theirs = judged("fallback"), judged("native", policy="janitor_compat")
    monkeypatch.setattr(scoring.Scorer, "finished", broken)
    run = a_run("build-failed", 0, codebase="c5", campaign="k1")
    safe.finished(run)
    theirs.finished(run)
    assert safe.decisions(NOW_US) == theirs.decisions(NOW_US)
    assert safe.fallbacks == 2


def test_in_the_shadow_janitors_rules_decide_and_the_other_is_compared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shadow, native = judged("shadow"), judged("native")
    theirs = judged("native", policy="janitor_compat").decisions(NOW_US)
    found = shadow.decisions(NOW_US)
    assert [(one.candidate, one.score, one.turn) for one in found] == [
        (one.candidate, one.score, one.turn) for one in theirs
    ]
    ours = {one.candidate.key: one for one in native.decisions(NOW_US)}
    for one in found:
        other = ours[one.candidate.key]
        assert one.beside == (other.probability, other.duration_us)
        assert one.beside[0] != one.probability
    assert -1 <= shadow.compared["rank_correlation"] <= 1
    assert shadow.compared["overlap"] == 1.0, "they are fewer than the first"
    monkeypatch.setattr(scoring.Scorer, "expected", broken)
    assert [one.candidate for one in shadow.decisions(NOW_US)] == [one.candidate for one in theirs]
    assert shadow.fallbacks == 1


def test_the_faults_are_those_of_the_policy_that_decided(monkeypatch: pytest.MonkeyPatch) -> None:
    odd = some()
    odd.policies["p"] = ["fly"]  # 0 for the default policy, an error for the other
    assert [len(keys(judged(mode, odd))) for mode in ("native", "fallback", "shadow")] == [6, 6, 0]
    shadow, safe = judged("shadow", odd), judged("fallback", odd)
    keys(shadow), keys(safe)
    assert (len(shadow.faults), len(safe.faults)) == (6, 0)
    monkeypatch.setattr(scoring.Scorer, "expected", broken)
    assert keys(safe) == [] and len(safe.faults) == 6


def test_one_alone_is_decided_as_in_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    shadow, safe, theirs = judged("shadow"), judged("fallback"), judged("native", policy="janitor_compat")
    key = ("c3", "k1", "")
    one, other = shadow.one(key, NOW_US), theirs.one(key, NOW_US)
    assert one is not None and other is not None and (one.score, other.beside) == (other.score, None)
    assert one.beside is not None
    native = judged("native")
    assert safe.one(key, NOW_US) == native.one(key, NOW_US)
    assert safe.explain(key, NOW_US) == native.explain(key, NOW_US)
    assert shadow.explain(key, NOW_US) == theirs.explain(key, NOW_US)
    assert (shadow.last(key), safe.dependants("c3", "k1")) == (theirs.last(key), [])
    assert shadow.one(("nobody", "k1", ""), NOW_US) is None
    monkeypatch.setattr(scoring.Scorer, "score", broken)
    assert safe.one(key, NOW_US) == other and safe.fallbacks == 1
    assert safe.explain(key, NOW_US) == theirs.explain(key, NOW_US)


def test_how_alike_two_orders_are() -> None:
    decisions = judged("native", some(60)).decisions(NOW_US)
    assert likeness(decisions, decisions) == {"rank_correlation": 1.0, "overlap": 1.0}
    assert likeness(decisions, decisions[::-1]) == {"rank_correlation": -1.0, "overlap": 0.0}
    assert likeness(decisions[:1], decisions[:1]) == {"overlap": 1.0}
    assert likeness([], []) == {}


def test_rows_that_were_left_out_before_are_told_by_every_policy() -> None:
    fault = RowError("candidates", 9, "value", "is odd")
    for policy, mode in (("default", "native"), ("default", "fallback"), ("default", "shadow"),
                         ("janitor_compat", "native")):  # fmt: skip
        world = some()
        world.policies["p"] = ["fly"]
        judge = judge_of(policy, world, Settings(), NOW_US, [fault], mode)  # type: ignore[arg-type]
        judge.decisions(NOW_US)
        judge.decisions(NOW_US)
        assert [str(one) for one in judge.faults].count(str(fault)) == 1


# ---- accuracy --------------------------------------------------------------------------------------------

HOUR_US = DAY_US // 24


def observed(
    accuracy: Accuracy,
    dice: Random,
    from_us: int,
    hours: int,
    chance: float,
    real: float,
    factor: float = 1.0,
) -> int:
    """A run an hour, whose chance is said to be `chance`; when the last one ended."""
    for hour in range(hours):
        at_us = from_us + hour * HOUR_US
        took_us = 60e6 * dice.lognormvariate(0, 0.2)
        accuracy.note(at_us, chance, dice.random() < real, 60e6, took_us * factor)
    return from_us + hours * HOUR_US


def test_a_drift_is_an_alert_and_ends_with_it() -> None:
    accuracy, dice = Accuracy(Settings(accuracy_half_life_s=86400.0)), Random(4)
    at_us = observed(accuracy, dice, NOW_US, 20, 0.9, 0.2)
    assert accuracy.alerts(at_us) == {}, "nothing is said of so few"
    accuracy = Accuracy(Settings(accuracy_half_life_s=86400.0))
    at_us = observed(accuracy, dice, NOW_US, 24 * 10, 0.8, 0.8)
    assert accuracy.alerts(at_us) == {}
    assert accuracy.figures(at_us)["calibration"] < 0.15
    at_us = observed(accuracy, dice, at_us, 24 * 3, 0.8, 0.2)  # the world has changed
    alerts = accuracy.alerts(at_us)
    assert set(alerts) == {"brier", "calibration"}
    assert "predicted and real rates of success are apart by" in alerts["calibration"]
    assert "more than 0.2 (accuracy.calibration)" in alerts["calibration"]
    at_us = observed(accuracy, dice, at_us, 24 * 6, 0.2, 0.2)  # and predictions have followed
    assert accuracy.alerts(at_us) == {}


def test_durations_that_are_wrong_are_an_alert() -> None:
    accuracy, dice = Accuracy(Settings(accuracy_half_life_s=86400.0)), Random(4)
    at_us = observed(accuracy, dice, NOW_US, 24 * 5, 0.5, 0.5)
    assert accuracy.alerts(at_us) == {}
    at_us = observed(accuracy, dice, at_us, 24 * 5, 0.5, 0.5, factor=20)
    assert set(accuracy.alerts(at_us)) == {"duration"}
    assert accuracy.alerts(at_us + 10 * DAY_US) == {}, "what is long ago says nothing"


def test_the_figures_are_the_mean_squares_and_the_distances() -> None:
    accuracy = Accuracy(Settings(accuracy_runs=1))
    for chance, success in ((0.25, False), (0.25, True), (0.95, True), (1.0, True)):
        accuracy.note(NOW_US, chance, success, 2.0, 1.0)
    accuracy.note(NOW_US, None, True, None, 1.0)
    found = accuracy.figures(NOW_US)
    assert found["runs"] == 4
    assert found["brier"] == pytest.approx((0.25**2 + 0.75**2 + 0.05**2) / 4)
    assert found["calibration"] == pytest.approx((abs(0.5 - 1) + abs(1.95 - 2)) / 4)
    assert found["duration"] == pytest.approx(0.6931, abs=1e-4)
    half = Settings().accuracy_half_life_s
    assert accuracy.figures(NOW_US + round(half * 1e6))["runs"] == pytest.approx(2)


def test_the_daemons_own_kind_of_drift_is_noticed() -> None:
    """Runs of candidates whose chances fall from 0.9 to 0.1, each predicted by what is known until then."""
    candidates = [a_candidate(f"c{i}", "fix", 100) for i in range(20)]
    scorer, dice = scoring.Scorer(a_world(candidates), Settings(), NOW_US), Random(1)
    accuracy, told = Accuracy(Settings(accuracy_half_life_s=2 * 86400.0)), []
    for hour in range(24 * 75):
        at_us, chance = NOW_US + hour * HOUR_US, 0.9 if hour < 24 * 20 else 0.1
        name = f"c{dice.randrange(20)}"
        p, us = scorer.predict(name, "fix", None, at_us)
        code = "success" if dice.random() < chance else "build-failed"
        scorer.finished(Run(name, "fix", code, at_us, at_us + 60_000_000))
        accuracy.note(at_us, p, code == "success", us, 60e6)
        told.append(bool(accuracy.alerts(at_us)))
    assert not any(told[24 * 5 : 24 * 20])
    assert any(told[24 * 20 : 24 * 25])
    assert not told[-1]
