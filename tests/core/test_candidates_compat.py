"""Mode janitor_compat against recorded cases, and the oddities that these may not show."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from mgmt.core.candidates import compat
from mgmt.core.candidates.compat_queue import CompatError, Queue, QueueItem
from mgmt.core.candidates.records import DAY_US, Codebase, RowError, Run, world_of
from mgmt.core.candidates.relations import RelationError, satisfied
from mgmt.core.candidates.replay import KINDS, replay
from tests.core.candidates_world import NOW_US, a_candidate, a_run, a_world

CASES = json.loads((Path(__file__).parents[1] / "data" / "vectors" / "janitor_dev.json").read_text())["cases"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_a_recorded_case_matches(case: dict[str, Any]) -> None:
    (verdict,) = replay([case])
    assert verdict.difference == ""


def test_every_kind_is_recorded() -> None:
    assert {case["kind"] for case in CASES} == set(KINDS)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(value, dict | list):
        rows = value.items() if isinstance(value, dict) else enumerate(value)
        return [place for key, item in rows for place in places(item, (*path, key))]
    return [path]


@pytest.mark.parametrize("kind", KINDS)
def test_any_expectation_that_is_changed_is_noticed(kind: str) -> None:
    case = min(
        (c for c in CASES if c["kind"] == kind and "error" not in c["expect"]), key=lambda c: len(str(c))
    )
    for *path, last in places(case["expect"])[:150]:
        changed = deepcopy(case)
        at = changed["expect"]
        for step in path:
            at = at[step]
        old = at[last]
        at[last] = (
            not old if isinstance(old, bool) else f"{old}x" if isinstance(old, str) else (old or 0) * 1.01 + 9
        )
        assert replay([changed])[0].difference, f"{case['id']}: {[*path, last]} is not looked at"


@pytest.mark.parametrize(
    ("case", "says"),
    [
        (7, "is no object"),
        ({"kind": "offset", "input": {}}, "has no 'expect'"),
        ({"kind": "dance", "input": {}, "expect": {"x": 1}}, "the kind 'dance' is not known"),
        ({"kind": "offset", "input": [], "expect": {"offset": 1}}, "'input' must be an object"),
        ({"kind": "offset", "input": {}, "expect": {"offset": 1}}, "KeyError"),
        ({"kind": "policy", "input": {"value": 1, "modes": []}, "expect": {}}, "says something"),
        ({"kind": "queue", "input": {"codebases": [], "ops": [{"op": "fly"}]}, "expect": {"x": 1}}, "ops[0]"),
        (
            {"kind": "duration", "input": {"now": "2024-01-01", "codebase": "a", "campaign": "b",
             "runs": [{"codebase": "a"}]}, "expect": {"duration_us": 1}},
            "runs[0].campaign: is missing",
        ),
    ],
)  # fmt: skip
def test_a_case_that_cannot_be_run_says_so(case: Any, says: str) -> None:
    (verdict,) = replay([case])
    assert verdict.difference.startswith("malformed: ")
    assert says in verdict.difference


def test_an_error_of_the_ancestor_is_an_error_of_that_item_and_no_failure() -> None:
    bad: dict[str, Any] = {"kind": "policy", "input": {"value": 1, "modes": ["push-derived"]}}
    assert not replay([{**bad, "expect": {"error": "KeyError"}}])[0].difference
    assert "is refused" in replay([{**bad, "expect": {"value": 201}}])[0].difference
    good: dict[str, Any] = {"kind": "policy", "input": {"value": 1, "modes": ["push"]}}
    assert "expected an error" in replay([{**good, "expect": {"error": "KeyError"}}])[0].difference
    # What the ancestor cannot ask its database we understand.
    strict = {
        "dependencies": [[{"name": "a", "version": ["<<", "2"]}]],
        "versions": [{"source": "a", "version": "1"}],
    }
    for expect in ({"error": "PostgresSyntaxError"}, {"satisfied": True}):
        assert not replay([{"kind": "deps", "input": strict, "expect": expect}])[0].difference


def an_estimate(*runs: Any, context: str | None = "1.0", versions: Any = None) -> compat.Estimate:
    return compat.estimate(compat.History(runs, versions or {}), "alpha", "fix", context, NOW_US)


def test_the_chance_of_success() -> None:
    fresh = an_estimate(context=None)
    assert (fresh.probability, fresh.duration_us, fresh.total) == (1.0, 15_000_000, 0)
    assert an_estimate(a_run(), context=None).probability == 0.5
    assert an_estimate(a_run(), context="").probability == 1.0
    assert an_estimate(a_run("nothing-to-do")).probability == 1 / 11
    assert an_estimate(a_run(context="1.0"), a_run()).probability == pytest.approx(0.1)
    assert an_estimate(a_run(instigated_context="1.0")).probability == pytest.approx(0.1)
    assert an_estimate(a_run("x", failure_transient=True)).total == 0
    assert an_estimate(a_run("x", failure_transient=False)).total == 1


def test_a_worker_failure_is_ignored_after_24_hours_to_the_microsecond() -> None:
    for age_us, total in ((DAY_US - 1, 1), (DAY_US, 0)):
        run = Run("alpha", "fix", "worker-failure", NOW_US - age_us, NOW_US - age_us + 60_000_000)
        found = an_estimate(run)
        assert (found.total, found.duration_us) == (total, 60_000_000), (
            "its duration counts on the other path"
        )


def test_a_lack_that_is_met_now_is_a_success_without_its_context() -> None:
    lacking = a_run(
        "install-deps-unsatisfied-dependencies", context="1.0",
        failure_details={"relations": [[{"name": "b", "version": [">=", "2"]}]]},
    )  # fmt: skip
    assert an_estimate(lacking, versions={"b": ["2.0"]}).probability == 1.0
    assert an_estimate(lacking, versions={"b": ["1.0"]}).probability == pytest.approx(0.1 / 11)


def test_the_offset_counts_what_is_below_a_second_twice() -> None:
    assert compat.offset(1_500_000, 1.0, 0.5, 30, 3) == pytest.approx(22000 / 15)
    assert compat.offset(60_000_000, 0.01, 0.8, 0, 0) == pytest.approx(10000.0)
    for wrong in ((0, 1.0, 1.1, 1, 1), (0, 1.0, 0.5, 0, 1), (0, 1.0, 0.5, -200, 0)):
        with pytest.raises(CompatError):
            compat.offset(*wrong)


def test_two_ways_of_normalising() -> None:
    world = a_world()
    world.codebases = {name: Codebase(name, value) for name, value in {"a": None, "b": 50, "c": 200}.items()}
    assert [compat.bulk_normalized(world, name) for name in "abcx"] == [0, 0.25, 1, 0]
    assert [compat.single_normalized(world, name) for name in "abcx"] == [1.0, 0.25, 1.0, None]
    world.codebases = {"a": Codebase("a"), "b": Codebase("b", 0)}
    assert compat.single_normalized(world, "a") == 1.0
    for normalized, name in ((compat.bulk_normalized, "a"), (compat.single_normalized, "b")):
        with pytest.raises(CompatError, match="0"):
            normalized(world, name)
    world.codebases = {}
    assert compat.bulk_normalized(world, "a") == 1.0


def test_what_is_missing_comes_from_the_candidate_and_the_context_with_it() -> None:
    engine = compat.Engine(
        a_world([a_candidate(context="1.0", success_chance=0.5)], [a_run(context="1.0")]), NOW_US
    )
    whole = engine.regular("alpha", "fix", command="x", candidate_value=1, success_chance=0.5, dry_run=True)
    assert whole.queue_id == -1 and whole.estimate is not None and whole.estimate.probability == 0.5
    filled = engine.regular("alpha", "fix", command="x", candidate_value=1, dry_run=True)
    assert filled.estimate is not None and filled.estimate.probability == pytest.approx(0.1)
    assert len(engine.queue) == 0
    with pytest.raises(CompatError, match="no candidate"):
        engine.regular("alpha", "fix", change_set="cs")
    with pytest.raises(CompatError, match="command is empty"):
        engine.regular("alpha", "fix", command="")


def test_one_bad_candidate_does_not_stop_the_pass() -> None:
    candidates = [
        a_candidate(name, publish_policy=policy) for name, policy in (("alpha", "odd"), ("beta", "good"))
    ]
    candidates.append(a_candidate("gamma", publish_policy="null"))
    world = a_world(candidates, policies={"odd": ["fly"], "good": ["push"], "null": None})
    scored = compat.Engine(world, NOW_US).bulk()
    assert ["fly" in scored[0].error, scored[1].error, "NULL" in scored[2].error] == [True, "", True]


def an_item(codebase: str = "a", bucket: str = "default", **fields: Any) -> QueueItem:
    return QueueItem(codebase, "fix", "run", bucket, **fields)


def test_the_base_moves_and_the_last_manual_one_is_first() -> None:
    queue = Queue()
    queue.add(an_item("a"), 500.9)
    for name in "xyz":
        queue.add(an_item(name, "manual"), -1.0)
    assert [(item.codebase, item.priority) for item in queue.items()] == [
        ("z", 497),
        ("y", 498),
        ("x", 499),
        ("a", 500),
    ]
    queue.add(an_item("b"), -0.99)
    assert list(queue.items())[3].codebase == "b", "it overtakes, because the others lowered the base"


def test_a_row_is_replaced_by_a_bucket_that_is_as_urgent() -> None:
    queue = Queue()
    first, _ = queue.add(an_item(bucket="hook", refresh=True), 0.0)
    assert queue.add(an_item(bucket="default"), -100.0) == (first, "hook")
    assert queue.add(an_item(bucket="hook", requester="b"), 100.0) == (first, "hook")
    (row,) = queue.items()
    assert (row.priority, row.refresh, row.requester) == (100, False, "b")
    assert queue.add(an_item("b"), 0.0)[0] == 4, "serial numbers are used up by rows that came to nothing"
    assert queue.add(an_item(change_set="cs"), 0.0)[0] == 5


def test_hosts_that_are_excluded() -> None:
    urls = {
        "a": "https://u:p@salsa.org:22/x", "b": None, "c": "lp:thing", "d": "https://other/x@y", "e": "",
    }  # fmt: skip
    queue = Queue({name: Codebase(name, branch_url=url, subpath="") for name, url in urls.items()})
    for name in urls:
        queue.add(an_item(name), 0.0)

    def left(*hosts: str) -> str:
        seen, assigned = "", set[int]()
        while (found := queue.next(None, hosts, assigned)) is not None:
            seen += found[0].codebase
            assigned.add(found[0].id)
        return seen

    assert left() == "abcde"
    assert left("nowhere") == "abd", "of an address without a host nothing is known, so it is excluded"
    assert left("salsa.org:22") == "bd"
    assert left("salsa.org", "other") == "ab"
    assert queue.next("d") == (list(queue.items())[3], {"branch_url": "https://other/x@y", "subpath": ""})


def test_waits_are_not_known_before_the_first_duration() -> None:
    queue = Queue()
    for name, us in (("a", None), ("b", 5), ("c", None), ("d", 7)):
        queue.add(an_item(name, estimated_duration_us=us), 0.0)
    assert [wait for _, _, wait in queue.positions()] == [None, 0, 5, 5]
    assert queue.position("d", "fix") == (4, 5)
    assert queue.position("d", "other") == (None, None)


def test_what_cannot_be_queued() -> None:
    queue = Queue({"a": Codebase("a")}, {"cs"})
    for item, offset in (
        (an_item(bucket="soon"), 0.0), (an_item("b"), 0.0), (an_item(change_set="x"), 0.0),
        (an_item(), float("nan")), (an_item(), 1e300), (QueueItem("a", "fix", ""), 0.0),
    ):  # fmt: skip
        with pytest.raises(CompatError):
            queue.add(item, offset)
    assert len(queue) == 0


@pytest.mark.parametrize(
    ("operator", "there", "holds"),
    [("<<", "1.0~rc1", True), ("<<", "1.0", False), ("<=", "0:1.0", True), ("=", "1.0-0", True),
     (">=", "1:0", True), (">>", "1.0", False), (">>", "1.10", True)],
)  # fmt: skip
def test_versions_have_debians_order(operator: str, there: str, holds: bool) -> None:
    assert satisfied([[{"name": "a", "version": [operator, "1.0"]}]], {"a": [there]}) is holds


def test_relations_that_mean_nothing() -> None:
    there = {"a": ["1"]}
    assert satisfied([], there) and not satisfied([[]], there)
    assert satisfied([[{"name": "a"}, {"nonsense": 1}]], there), "what is not looked at is not checked"
    for relation in (
        {"nonsense": 1}, {"version": ["=", "1"]}, {"name": "a", "version": ["; drop table run --", "1"]},
        {"name": "a", "version": [">="]}, {"name": "a", "version": ["=", "not a version"]}, 5,
    ):  # fmt: skip
        with pytest.raises(RelationError):
            satisfied([[relation]], there)


@pytest.mark.parametrize(
    ("table", "row", "says"),
    [
        ("candidates", {"codebase": "a", "campaign": "b"}, "candidates[0].command: is missing"),
        ("candidates", {"codebase": None, "campaign": "b", "command": "x"}, "candidates[0].codebase"),
        (
            "candidates",
            {"codebase": "a", "campaign": "b", "command": "x", "value": "7"},
            "candidates[0].value: is '7'",
        ),
        ("candidates", {"codebase": "a", "suite": "b", "command": "x", "success_chance": 2}, "from 0 to 1"),
        ("candidates", {"codebase": "a", "suite": "b", "command": "x", "colour": 2}, "no such column"),
        ("candidate", 5, "candidates[0]: is 5: must be an object"),
        (
            "run",
            {"codebase": "a", "suite": "b", "result_code": "x", "start_time": 5},
            "runs[0].start_time: is 5",
        ),
        (
            "run",
            {
                "codebase": "a",
                "suite": "b",
                "result_code": "x",
                "start_time": "2024-01-02",
                "finish_time": "2024-01-01",
            },
            "runs[0].finish_time: is before",
        ),
        ("codebases", {"name": "a", "value": True}, "codebases[0].value"),
        ("all_debian_versions", {"source": "a"}, "versions[0].version: is missing"),
    ],
)
def test_a_row_that_is_wrong_is_named_and_left_out(table: str, row: Any, says: str) -> None:
    _, faults = world_of({table: [row]})
    assert [says in str(fault) for fault in faults] == [True]
    broken: Any
    for broken in ([], {"tables": []}, {"runs": 5}, {"run": [], "runs": []}):
        with pytest.raises(RowError):
            world_of(broken)
