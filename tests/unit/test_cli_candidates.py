"""`mgmt candidates` on files: what it says, its exit statuses, its JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jsonschema
import pytest

from mgmt.protocol.errors import Exit
from mgmt_cli.schemas import schema_of
from tests.unit.cli_runner import run

VECTORS = Path(__file__).parents[1] / "data" / "vectors" / "janitor_dev.json"
WORLD: dict[str, Any] = {
    "now": "2024-06-01T12:00:00",
    "codebases": [{"name": "alpha", "value": 10}, {"name": "beta", "value": None}],
    "policies": {"main": [{"role": "main", "mode": "propose"}]},
    "candidates": [
        {"codebase": "alpha", "campaign": "fix", "command": "fix it", "value": 50, "publish_policy": "main"},
        {"codebase": "beta", "campaign": "fix", "command": "fix it", "value": 50, "publish_policy": "main",
         "requires": ["first"]},
        {"codebase": "beta", "campaign": "first", "command": "first", "value": 5, "publish_policy": "main"},
    ],
    "runs": [
        {"codebase": "alpha", "campaign": "fix", "result_code": code, "start_time": f"2024-05-{day}T10:00:00",
         "finish_time": f"2024-05-{day}T10:05:00"}
        for day, code in ((10, "success"), (20, "build-failed"), (28, "success"))
    ],
}  # fmt: skip
# The same as a dump of the ancestor's tables, a row a line.
LINES = [
    {"table": "codebase", "name": "alpha", "value": 10, "branch_url": None, "inactive": False},
    {"table": "named_publish_policy", "name": "main", "per_branch_policy": [{"role": "main", "mode": "propose"}]},
    {"table": "candidate", "id": 1, "codebase": "alpha", "suite": "fix", "command": "fix it", "value": 50,
     "publish_policy": "main", "context": None, "success_chance": None, "change_set": None},
    {"table": "run", "id": "x", "codebase": "alpha", "suite": "fix", "result_code": "success",
     "start_time": "2024-05-10T10:00:00", "finish_time": "2024-05-10T10:05:00", "failure_transient": None},
]  # fmt: skip


@pytest.fixture
def world(tmp_path: Path) -> str:
    file = tmp_path / "world.json"
    file.write_text(json.dumps(WORLD))
    return str(file)


def told(schema: str, *args: str, exit: int = 0) -> Any:
    result = run(*args, "--json")
    assert result.exit_code == exit, result.output
    value = json.loads(result.stdout)
    jsonschema.validate(value, schema_of(schema))
    return value


def test_the_recorded_cases_pass() -> None:
    result = run("candidates", "replay", str(VECTORS))
    assert (result.exit_code, result.stdout) == (0, "60 passed, 0 failed\n")
    found = told("mgmt.candidates-replay/1", "candidates", "replay", str(VECTORS))
    assert (found["passed"], found["failed"], found["failures"]) == (60, 0, [])


def test_a_case_that_differs_is_told_and_the_exit_status_is_1(tmp_path: Path) -> None:
    cases = [
        {"id": f"x{i}", "kind": "policy", "input": {"value": 1, "modes": ["push"]}, "expect": {"value": 5}}
        for i in range(30)
    ]
    file = tmp_path / "cases.json"
    file.write_text(json.dumps({"cases": [*cases, 7]}))
    result = run("candidates", "replay", str(file))
    assert result.exit_code == Exit.FAILED
    assert "x0 (policy): value: expected 5, got 501" in result.stdout
    assert "and 11 more" in result.stdout
    assert result.stdout.endswith("0 passed, 31 failed\n")
    found = told("mgmt.candidates-replay/1", "candidates", "replay", str(file), exit=Exit.FAILED)
    assert found["failures"][-1] == {"id": "case 30", "kind": "", "difference": "malformed: is no object"}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"cases": []}', '{"cases": 5}', "7"])
def test_a_file_without_cases_has_not_passed(tmp_path: Path, text: str) -> None:
    file = tmp_path / "cases.json"
    file.write_text(text)
    result = run("candidates", "replay", str(file))
    assert result.exit_code == Exit.USAGE
    assert result.stderr.startswith("error: ")


def test_candidates_in_their_order(world: str) -> None:
    result = run("candidates", "score", world)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["RANK", "CODEBASE", "CAMPAIGN", "SCORE", "SUCCESS", "DURATION", "STATE"]
    assert any(line.endswith("waits for first") for line in lines)
    found = told("mgmt.candidates-score/1", "candidates", "score", world)
    assert [row["rank"] for row in found["candidates"]] == [1, 2, 3]
    assert found["now"] == "2024-06-01T12:00:00Z"
    theirs = told("mgmt.candidates-score/1", "candidates", "score", world, "--policy", "janitor_compat")
    assert {row["codebase"]: row["probability"] for row in theirs["candidates"]}["alpha"] == 21 / 31 * 0.5


def test_a_dump_of_the_ancestors_tables_is_read(tmp_path: Path) -> None:
    file = tmp_path / "dump.jsonl"
    file.write_text("\n".join(map(json.dumps, LINES)))
    found = told("mgmt.candidates-score/1", "candidates", "score", str(file), "--now", "2024-06-01T12:00")
    assert [(row["codebase"], row["campaign"]) for row in found["candidates"]] == [("alpha", "fix")]
    file.write_text('{"table": "run"}\n{"codebase": "a"}')
    assert "dump.jsonl:2: the row names no table" in run("candidates", "score", str(file)).stderr


def test_rows_left_out_are_told_with_exit_status_9(tmp_path: Path, world: str) -> None:
    rows = [*WORLD["candidates"], {"codebase": "alpha", "campaign": "odd", "command": "x", "value": -5},
            {"codebase": "alpha", "campaign": "x", "command": "x", "requires": ["y"]},
            {"codebase": "alpha", "campaign": "y", "command": "x", "requires": ["x"]}, 5]  # fmt: skip
    file = tmp_path / "bad.json"
    file.write_text(json.dumps({**WORLD, "candidates": rows}))
    result = run("candidates", "score", str(file))
    assert result.exit_code == Exit.PARTIAL
    assert "left out: candidates[6]: is 5: must be an object" in result.stdout
    assert "candidates[3].value: is -5" in result.stdout
    assert "cycle: alpha x -> alpha y -> alpha x" in result.stdout
    found = told("mgmt.candidates-score/1", "candidates", "score", str(file), exit=Exit.PARTIAL)
    assert len(found["candidates"]) == 5
    theirs = told(
        "mgmt.candidates-score/1",
        "candidates",
        "score",
        str(file),
        "--policy",
        "janitor_compat",
        exit=Exit.PARTIAL,
    )
    assert theirs["faults"]


def test_every_factor_is_told_with_its_source(world: str) -> None:
    result = run("candidates", "explain", world, "alpha", "fix")
    assert result.exit_code == 0, result.output
    assert "450" in result.stdout and "50 given, with propose of policy main" in result.stdout
    found = told("mgmt.candidates-explain/1", "candidates", "explain", world, "alpha", "fix")
    expected = cost = 1.0
    for factor in found["factors"]:
        expected *= factor["value"] if factor["kind"] == "expected" else 1.0
        cost += factor["value"] if factor["kind"] == "cost" else 0.0
    assert found["score"] == pytest.approx((cost - 1) / expected)
    wrong = run("candidates", "explain", world, "alpa", "fix")
    assert wrong.exit_code == Exit.UNKNOWN
    assert "did you mean alpha fix" in wrong.stderr


def test_two_policies_are_compared_and_drawn(world: str, tmp_path: Path) -> None:
    picture = tmp_path / "shadow.svg"
    result = run("candidates", "compare", world, "--svg", str(picture))
    assert result.exit_code == 0, result.output
    assert "janitor_compat" in result.stdout and "BRIER" in result.stdout
    root = ElementTree.parse(picture).getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    words = " ".join(root.itertext())
    assert "alpha fix" in words and "calibration error" in words and "came true" in words
    found = told("mgmt.candidates-compare/1", "candidates", "compare", world, "--top", "2")
    assert [one["predicted"] for one in found["policies"]] == [3, 3]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ("[decay]\nhalf_life = 14", "decay.half_life is 14: must be a duration with its unit"),
        ("[decoy]", "there is no such section"),
        ("[", "not TOML"),
    ],
)
def test_settings_that_are_wrong_are_named(world: str, tmp_path: Path, settings: str, says: str) -> None:
    file = tmp_path / "plan.toml"
    file.write_text(settings)
    result = run("candidates", "score", world, "--settings", str(file))
    assert result.exit_code == Exit.USAGE
    assert says in result.stderr
    file.write_text('[decay]\nhalf_life = "1d"\n[fairness.weights]\nfix = 2.0\n')
    assert run("candidates", "score", world, "--settings", str(file)).exit_code == 0


@pytest.mark.parametrize(
    ("text", "args", "says"),
    [
        ("[]", (), "must be an object with tables"),
        ("{}", (), "has no candidates"),
        ('{"birds": []}', (), "there is no such table"),
        ("{", (), "not JSON"),
        (json.dumps(WORLD), ("--now", "soon"), "--now is 'soon'"),
        (None, (), "No such file"),
    ],
)
def test_a_file_that_is_no_history_is_refused(
    tmp_path: Path, text: str | None, args: tuple[str, ...], says: str
) -> None:
    file = tmp_path / "file.json"
    if text is not None:
        file.write_text(text)
    result = run("candidates", "score", str(file), *args)
    assert result.exit_code == Exit.USAGE
    assert says in result.stderr
