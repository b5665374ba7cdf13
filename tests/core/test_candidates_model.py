"""Mode janitor_compat against the same rules read once more, over thousands of made-up cases, and nonsense."""

from __future__ import annotations

import json
from copy import deepcopy
from random import Random
from typing import Any

import pytest

from mgmt.core.candidates import compat
from mgmt.core.candidates.replay import KINDS, first_difference, replay
from tests.core import janitor_cases, janitor_model
from tests.core.test_candidates_compat import CASES
from tests.unit.cli_runner import run

PER_KIND = 500
NONSENSE: list[Any] = [
    None, True, False, "", [], {}, "x", -1, 0, 1e308, -1e308, float("nan"), float("inf"), 10**400, -(10**30),
    2**63, "2024-13-45", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59.999999", "\ud800", [[]], [None],
    {"a": 1}, {"op": "add"}, "\0", [[{"name": "a", "version": [">=", "1"]}]], 10**9,
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_the_model_agrees_with_what_was_recorded(case: dict[str, Any]) -> None:
    got = janitor_model.answer(case["kind"], case["input"])
    if "error" in case["expect"]:
        assert set(got) == {"error"}
    else:
        assert first_difference(case["expect"], got, "") == ""


def made_up(kind: str, number: int) -> dict[str, Any]:
    given = janitor_cases.KINDS[kind](Random(f"{kind} {number}"))
    expect = janitor_model.answer(kind, given)
    return {"id": f"{kind} {number}", "kind": kind, "input": json.loads(json.dumps(given)), "expect": expect}


@pytest.mark.parametrize("kind", KINDS)
def test_made_up_cases_match(kind: str) -> None:
    """Some of each kind are refused by both, and most are not."""
    cases = [made_up(kind, number) for number in range(PER_KIND)]
    assert [verdict for verdict in replay(cases) if verdict.difference] == []
    refused = sum("error" in case["expect"] for case in cases)
    assert refused < 0.8 * PER_KIND


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [({"first_run_bonus": 101.0}, "offset"), ({"default_duration_us": 15_000_002}, "duration"),
     ({"default_schedule_offset": -4.0}, "schedule"), ({"ignore_worker_failures_us": 86_400_000_001}, "estimate"),
     ({"publish_mode_value": {**compat.PUBLISH_MODE_VALUE, "bts": 101}}, "policy"),
     ({"window_us": 86_400_000_000}, "duration"), ({"window_us": 86_400_000_000}, "estimate")],
)  # fmt: skip
def test_a_constant_that_is_wrong_is_noticed(
    monkeypatch: pytest.MonkeyPatch, wrong: dict[str, Any], kind: str
) -> None:
    monkeypatch.setattr(compat, "JANITOR", compat.Constants(**wrong))
    assert any(verdict.difference for verdict in replay([made_up(kind, number) for number in range(200)]))


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    rows = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in rows for place in places(item, (*path, key)))]


def spoiled(dice: Random) -> Any:
    """A recorded case with something taken out, put in or put in the place of something else."""
    case = deepcopy(dice.choice(CASES))
    for _ in range(dice.randrange(1, 4)):
        *path, last = dice.choice(places(case)[1:])
        at = case
        for step in path:
            at = at[step]
        match dice.randrange(4):
            case 0:
                del at[last]
            case 1 if isinstance(at, dict):
                at[dice.choice(["colour", "op", "error", "passes"])] = deepcopy(dice.choice(NONSENSE))
            case _:
                at[last] = deepcopy(dice.choice(NONSENSE))
    return case


def test_nonsense_is_counted_and_told_and_nothing_else(tmp_path: Any) -> None:
    dice = Random(7)
    cases = [*(spoiled(dice) for _ in range(3000)), *NONSENSE]
    verdicts = replay(cases)
    assert len(verdicts) == len(cases)
    failed = sum(bool(verdict.difference) for verdict in verdicts)
    assert failed > 1000
    file = tmp_path / "cases.json"
    file.write_text(json.dumps({"cases": cases}))
    told = run("candidates", "replay", str(file))
    assert told.exit_code == 1
    assert told.stdout.endswith(f"{len(cases) - failed} passed, {failed} failed\n")


def test_what_the_ancestor_ends_in_may_be_refused_for_any_reason() -> None:
    given: dict[str, Any] = {
        "estimated_duration_us": 5, "normalized_codebase_value": "much", "probability": 0.5, "candidate_value": 1,
        "total_previous_runs": 1,
    }  # fmt: skip
    assert replay([{"kind": "offset", "input": given, "expect": {"error": "TypeError"}}])[0].difference == ""
    assert "malformed" in replay([{"kind": "offset", "input": given, "expect": {"offset": 1}}])[0].difference
    many = {
        "kind": "bulk",
        "input": {"now": "2024-01-01", "world": {}, "passes": 10**9},
        "expect": {"passes": []},
    }
    assert "at most" in replay([many])[0].difference
    deep: Any = "x"
    for _ in range(3000):
        deep = [deep]
    assert "RecursionError" in replay([{"kind": "deps", "input": {"dependencies": [], "versions": []},
                                        "expect": {"error": deep, "x": deep}}])[0].difference  # fmt: skip
