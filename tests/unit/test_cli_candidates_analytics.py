"""`mgmt candidates analytics` on files: its tables, its JSON, its picture."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from mgmt.protocol.errors import Exit
from tests.unit.cli_runner import run
from tests.unit.test_cli_candidates import told, world  # noqa: F401  a fixture

NAME = "mgmt.candidates-analytics/1"


def test_the_history_in_whole(world: str, tmp_path: Path) -> None:  # noqa: F811
    found = told(NAME, "candidates", "analytics", world)
    (row,) = found["campaigns"]
    assert (row["name"], row["runs"], row["success"], row["failure"]) == ("fix", 3, 2, 1)
    assert (row["p50_s"], row["p90_s"], round(row["rate"], 3), row["trend"]) == (300, 300, 0.667, None)
    assert {**found["codebases"][0], "name": ""} == found["all"] == {**row, "name": ""}
    near = told(NAME, "candidates", "analytics", world, "--days", "10")
    assert near["campaigns"][0]["trend"] == 1.0, "a success lately, a failure before"
    picture = tmp_path / "runs.svg"
    shown = run("candidates", "analytics", world, "--svg", str(picture), "--top", "1", "--days", "10")
    assert shown.exit_code == 0
    assert [line.split() for line in shown.stdout.splitlines()[:2]] == [
        ["CAMPAIGN", "RUNS", "SUCCESS", "FAILURE", "NOTHING", "TRANSIENT", "RATE", "P50", "P90", "TREND"],
        ["fix", "3", "2", "1", "0", "0", "0.667", "5m00s", "5m00s", "+1.000"],
    ]
    root = ElementTree.fromstring(picture.read_text())
    assert root.tag.endswith("svg")
    assert {"2 success", "1 failure"} <= {
        (title.text or "").partition(": ")[2] for title in root.iter() if title.text
    }


def test_some_of_it(world: str) -> None:  # noqa: F811
    none = told(NAME, "candidates", "analytics", world, "--campaign", "other")
    assert (none["runs"], none["all"], none["campaigns"]) == (0, None, [])
    shown = run("candidates", "analytics", world, "--by", "codebase", "--codebase", "alpha").stdout
    assert shown.startswith("CODEBASE") and "CAMPAIGN" not in shown and "3 runs until 2024-06-01" in shown
    early = told(NAME, "candidates", "analytics", world, "--now", "2024-05-15")
    assert early["runs"] == 1


def test_without_a_file_and_a_daemon_it_says_so(tmp_path: Path) -> None:
    for command in ("analytics", "compare", "export"):
        done = run("--endpoint", f"ipc://{tmp_path}/none", "candidates", command, "--timeout", "0.2")
        assert done.exit_code == Exit.UNREACHABLE, done.output
