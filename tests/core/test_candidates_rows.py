"""Rows by their keys, histories out of columns, and what is renewed."""

from __future__ import annotations

from array import array
from datetime import UTC, datetime
from random import Random
from typing import Any

import pytest

from mgmt.core.candidates.comparison import Default, compared
from mgmt.core.candidates.history import Columns
from mgmt.core.candidates.outcomes import outcome_of
from mgmt.core.candidates.records import RowError, Run, modes_of, row_name, table_of, time_us, world_of
from mgmt.core.candidates.relations import RelationError, version
from mgmt.core.candidates.scoring import Scorer
from mgmt.core.candidates.settings import Settings
from mgmt.kernel.reference_history import FAILURE, TRANSIENT
from tests.core.candidates_world import NOW_US, a_candidate, a_run, a_world

LACKS = {"relations": [[{"name": "b"}]]}


# ---- a failure that was expected -------------------------------------------------------------------------


def test_a_failure_that_repeats_one_in_its_context_weighs_less() -> None:
    def chance(*contexts: str | None, at: float = 0.0) -> float:
        runs = [
            a_run("build-failed", at, context=context, took_s=9 - i) for i, context in enumerate(contexts)
        ]
        scorer = Scorer(a_world(runs=runs), Settings(), NOW_US)
        return scorer.score(0, NOW_US).probability or 0.0

    k, rest = Settings().prior_strength, 1 - Settings().same_context_penalty
    once, again, other = chance("1"), chance("1", "1"), chance("1", "2")
    assert other < again < once
    assert chance(None, None) == pytest.approx(other), "without a context nothing is known of it"
    of_all = Scorer(a_world(runs=[a_run("build-failed", 0.0, context="1")] * 2), Settings(), NOW_US)
    assert of_all.history.series.at(FAILURE, 0) == pytest.approx(1 + rest)
    assert of_all.history.campaigns.at(FAILURE, 0) == pytest.approx(1 + rest)
    assert again == pytest.approx(k * of_all.campaigns(NOW_US)[0][0] / (k + 1 + rest))


def test_successes_and_what_is_transient_weigh_in_full() -> None:
    runs = [a_run("success", 0.0, context="1")] * 3 + [a_run("worker-failure", 0.0, context="1")]
    history = Scorer(a_world(runs=runs), Settings(), NOW_US).history
    assert (history.series.at(0, 0), history.series.at(FAILURE, 0)) == (3, 0)


def test_one_more_run_is_what_it_would_be_from_the_beginning_with_contexts() -> None:
    dice = Random(5)
    runs = [
        a_run(dice.choice(["success", "build-failed", "build-failed"]), (200 - i) / 4,
              codebase=f"c{dice.randrange(3)}", context=dice.choice([None, "1", "2"]))
        for i in range(200)
    ]  # fmt: skip
    candidates = [a_candidate(f"c{i}", context="1") for i in range(3)]
    grown = Scorer(a_world(candidates, runs[:50]), Settings(), NOW_US)
    for run in runs[50:]:
        grown.finished(run)
    whole = Scorer(a_world(candidates, runs), Settings(), NOW_US)
    for i in range(3):
        assert grown.score(i, NOW_US).score == pytest.approx(whole.score(i, NOW_US).score, rel=1e-9)


def test_columns_say_what_rows_say() -> None:
    """As they come out of a database, with the contexts as numbers."""
    dice, names = Random(6), [("c0", "fix"), ("c1", "fix"), ("c0", "tidy")]
    contexts = ["1", "2", "3"]
    codes = ["success", "build-failed", "build-failed", "nothing-to-do", "worker-failure",
             "install-deps-unsatisfied-dependencies"]  # fmt: skip
    runs: list[Run] = []
    for i in range(300):
        codebase, campaign = dice.choice(names)
        code = dice.choice(codes)
        runs.append(
            a_run(
                code, (300 - i) / 5, codebase=codebase, campaign=campaign, took_s=dice.uniform(1, 99),
                context=dice.choice([None, *contexts]), instigated_context=dice.choice([None, *contexts]),
                failure_details=LACKS if code[:7] == "install" else None,
            )
        )  # fmt: skip
    tried, lacking = dict[Any, int](), dict[Any, Any]()
    for run in runs:
        if outcome_of(run) != TRANSIENT:
            for context in filter(None, (run.context, run.instigated_context)):
                tried[run.codebase, run.campaign, context] = run.finish_us or 0
            lacking[run.codebase, run.campaign] = (run.relations, run.finish_us)

    def number(run: Run, context: str | None) -> int:
        name = names.index((run.codebase, run.campaign))
        return 1 + name * len(contexts) + contexts.index(context) if context else 0

    columns = Columns(
        names,
        array("q", [4 * names.index((run.codebase, run.campaign)) + outcome_of(run) for run in runs]),
        array("d", [float(run.finish_us or 0) for run in runs]),
        array("d", [float(run.duration_us or 0) for run in runs]),
        [(*key, at) for key, at in tried.items()],
        [(*key, *found) for key, found in lacking.items() if found[0]],
        sorted({names.index((run.codebase, run.campaign)) for run in runs if run.result_code == "success"}),
        (
            array("q", [number(run, run.context) for run in runs]),
            array("q", [number(run, run.instigated_context) for run in runs]),
        ),
    )
    candidates = [a_candidate(*name, context="2") for name in names]
    told = Scorer(a_world(candidates), Settings(), NOW_US)
    told.begin(columns, NOW_US)
    of_rows = Scorer(a_world(candidates, runs), Settings(), NOW_US)
    for i in range(3):
        ours, theirs = told.explain(i, NOW_US), of_rows.explain(i, NOW_US)
        assert [one.value for one in ours.factors] == pytest.approx(
            [one.value for one in theirs.factors], rel=1e-9
        )
        assert ours.waits_for == theirs.waits_for
    assert len(told.history) == 300
    window = Settings(history_window_s=20 * 86400.0)
    told, of_rows = (
        Scorer(a_world(candidates), window, NOW_US),
        Scorer(a_world(candidates, runs), window, NOW_US),
    )
    told.begin(columns, NOW_US)
    assert [one.score for one in told.pass_over(NOW_US)] == pytest.approx(
        [one.score for one in of_rows.pass_over(NOW_US)], rel=1e-6
    )


# ---- packages that come and go ---------------------------------------------------------------------------


def test_packages_that_are_gone_again_count_again() -> None:
    lacking = a_run("install-deps-unsatisfied-dependencies", 0.0, failure_details=LACKS)
    scorer = Scorer(a_world(runs=[lacking], versions={"b": ["1"]}), Settings(), NOW_US)
    assert (scorer.history.series.at(FAILURE, 0), scorer.waits_for(0)) == (0, ())
    scorer.world.versions.clear()
    scorer.refresh()
    assert (scorer.history.series.at(FAILURE, 0), scorer.waits_for(0)) == (1, ("packages: b",))
    scorer.world.versions["b"] = ["2"]
    scorer.finished(lacking)
    assert scorer.waits_for(0) == ()


def test_relations_that_mean_nothing_hold_nobody_back() -> None:
    odd = a_run("install-deps-unsatisfied-dependencies", 0.0, failure_details={"relations": [["b"]]})
    scorer = Scorer(a_world(runs=[odd]), Settings(), NOW_US)
    assert scorer.waits_for(0) == ()
    assert ["is no object" in warning for warning in scorer.warnings] == [True]


def test_without_the_library_of_versions_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "debian.debian_support", None)
    version.cache_clear()
    with pytest.raises(RelationError, match=r"pip install 'mgmt\[debian\]'"):
        version("1.0")


# ---- rows ------------------------------------------------------------------------------------------------


def test_a_row_takes_the_place_of_one_of_the_same_key() -> None:
    run = {
        "codebase": "a",
        "suite": "b",
        "result_code": "success",
        "start_time": "2024-01-01",
        "finish_time": None,
    }
    assert row_name("codebases", 0, {"name": "a"}) == "a"
    assert row_name("candidates", 0, {"codebase": "a", "campaign": "b", "command": ""}) == '["a", "b", ""]'
    assert row_name("runs", 0, {**run, "id": "x"}) == "x"
    assert row_name("runs", 0, run) == row_name("runs", 5, run) != row_name("runs", 0, {**run, "suite": "c"})
    assert row_name("versions", 0, {"source": "a", "version": "1"}) == "a 1"
    assert row_name("policies", 0, {"name": "p", "per_branch_policy": None}) == "p"
    assert (row_name("change_sets", 0, {"id": "x"}), row_name("change_sets", 0, "y")) == ("x", "y")
    with pytest.raises(RowError, match=r"policies\[0\].name: is missing"):
        row_name("policies", 0, {})
    assert [table_of(name) for name in ("run", "codebases", "change_set", "songs")] == [
        "runs", "codebases", "change_sets", None
    ]  # fmt: skip


def test_policies_are_checked_entry_by_entry() -> None:
    assert modes_of("p", {"per_branch_policy": [{"role": "r", "mode": "push"}, "bts"]}) == ["push", "bts"]
    assert modes_of("p", None) is None
    for entries in (5, [{"role": "r"}]):
        with pytest.raises(RowError):
            modes_of("p", entries)
    world, faults = world_of(
        {"policies": [{"name": "p"}, {"role": 1}, {"name": "q", "per_branch_policy": 5}]}
    )
    assert (world.policies, len(faults)) == ({"p": None}, 2)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("failure_transient", 1),
        ("failure_details", "x"),
        ("context", 5),
        ("result_code", None),
        ("codebase", ""),
    ],
)
def test_each_column_of_a_run_is_checked(column: str, value: Any) -> None:
    row = {"codebase": "a", "campaign": "b", "result_code": "success", column: value}
    (fault,) = world_of({"runs": [row]})[1]
    assert fault.column == column


@pytest.mark.parametrize(
    ("column", "value"),
    [("value", 10**400), ("value", float("nan")), ("value", 1e308), ("requires", "first"), ("requires", [""]),
     ("success_chance", -0.1), ("command", None)],
)  # fmt: skip
def test_each_column_of_a_candidate_is_checked(column: str, value: Any) -> None:
    row = {"codebase": "a", "campaign": "b", "command": "c", column: value}
    (fault,) = world_of({"candidates": [row]})[1]
    assert fault.column == column


def test_times_are_those_of_a_database_or_of_a_file() -> None:
    assert time_us("1970-01-01T00:00:01") == time_us(datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)) == 1_000_000
    assert time_us("1970-01-01T01:00:01+01:00") == 1_000_000


# ---- what is left of policies ----------------------------------------------------------------------------


def test_a_candidate_is_renewed() -> None:
    world = a_world([a_candidate(context="1", publish_policy="p")], [a_run("build-failed", 0.0, context="1")],
                    policies={"p": ["push"]})  # fmt: skip
    scorer = Scorer(world, Settings(first_run_bonus=50.0), NOW_US)
    before = scorer.score(0, NOW_US)
    scorer.renew(0, a_candidate(context="2", publish_policy="p", value=200, success_chance=0.9))
    after = scorer.score(0, NOW_US)
    assert (after.probability or 0) > (before.probability or 0)
    assert {one.name: one.value for one in scorer.explain(0, NOW_US).factors}["value"] == 700
    with pytest.raises(RowError, match="no policy"):
        scorer.renew(0, a_candidate(publish_policy="gone"))


def test_a_bonus_is_for_the_first_run_alone() -> None:
    scorer = Scorer(
        a_world([a_candidate(), a_candidate("beta", value=None)]), Settings(first_run_bonus=50.0), NOW_US
    )

    def values() -> list[float]:
        return [{one.name: one.value for one in scorer.explain(i, NOW_US).factors}["value"] for i in (0, 1)]

    assert values() == [150, 1]
    scorer.finished(a_run("worker-failure", 0.0))
    assert values() == [150, 1], "nothing was learned from it"
    scorer.finished(a_run("build-failed", 0.0))
    assert values() == [100, 1]


def test_a_shadow_run_refuses_nothing_that_cannot_be_predicted() -> None:
    runs = [a_run("success", 3), Run("alpha", "fix", "worker-failure"), a_run("nothing-to-do", 1)]
    runs.append(Run("alpha", "fix", "success", NOW_US - 10**9, None))  # of which Janitor makes nothing
    told = compared(a_world(runs=[*runs, a_run("success", 0.001)]), Settings(), NOW_US)
    theirs, ours = told["policies"]
    assert (theirs["predicted"], theirs["refused"], ours["refused"]) == (2, 1, 0)
    empty = compared(
        a_world(runs=[]), Settings(), NOW_US, policies=[Default(a_world(), Settings(), NOW_US)] * 2
    )
    assert (empty["runs"], empty["policies"][0]["brier"]) == (0, None)
