"""The history that a daemon has, looked at in whole by commands without a file."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.core.janitor_cases import NOW
from tests.system.place import Place
from tests.system.test_candidates import ended, here, load, told  # noqa: F401  a fixture


def history(n: int) -> list[dict[str, Any]]:
    """More than one page of runs, each with its own end."""
    return [
        {
            "id": f"r{i}", "codebase": f"c{i % 7}", "campaign": "fix" if i % 3 else "tidy",
            "result_code": "success" if i % 2 else "build-failed", "context": f"v{i}",
            "start_time": NOW.replace(second=i % 60, microsecond=i).isoformat(),
            "finish_time": NOW.replace(minute=30, second=i % 60, microsecond=i).isoformat(),
        }
        for i in range(n)
    ]  # fmt: skip


def test_what_the_daemon_has_comes_out_and_says_the_same(here: Place) -> None:  # noqa: F811
    world = {
        "runs": history(9000),
        "candidates": [
            {"codebase": f"c{i}", "campaign": "fix", "command": "run", "value": 10 + i} for i in range(7)
        ],
        "codebases": [{"name": f"c{i}", "value": 5} for i in range(7)],
    }
    load(here, world)
    exported = told(here, "export", "-o", "all.jsonl")
    assert exported["rows"] == {"candidates": 10, "codebases": 10, "policies": 1, "runs": 9003}
    lines = here.mgmt("candidates", "export").stdout.splitlines()
    assert sorted(lines) == sorted((here.folder / "all.jsonl").read_text().splitlines())
    assert json.loads(lines[0])["table"] == "candidates"
    for command in ("analytics", "compare"):
        own = told(here, command, "--now", "2024-06-02")
        of_file = told(here, command, "all.jsonl", "--now", "2024-06-02")
        assert own == of_file
    figures = told(here, "analytics")
    assert (figures["runs"], [row["name"] for row in figures["campaigns"]]) == (9003, ["fix", "tidy"])


def test_runs_that_were_recorded_are_in_it(here: Place) -> None:  # noqa: F811
    told(here, "schedule")
    ended(here)
    figures = told(here, "analytics")
    assert [figures["all"][name] for name in ("runs", "success", "failure", "transient")] == [6, 4, 1, 1]
    both = told(here, "compare")
    assert [one["predicted"] for one in both["policies"]] == [5, 5]
    assert [one["policy"] for one in both["policies"]] == ["janitor_compat", "default"]


def test_hosts_that_are_left_alone_are_no_rows_of_it(here: Place) -> None:  # noqa: F811
    told(here, "hosts", "git.example", "--for", "1h")
    told(here, "analytics")
    told(here, "compare")
    told(here, "export", "-o", "all.jsonl")
    told(here, "load", "all.jsonl")


def test_a_daemon_without_rows_says_how_to_load_some(place: Place) -> None:
    place.started()
    done = place.mgmt("candidates", "analytics")
    assert done.returncode == 2 and "`mgmt candidates load FILE` stores them" in done.stderr
    assert place.mgmt("candidates", "export").stdout == ""


@pytest.mark.parametrize("unit", ["30", "0d"])
def test_a_window_without_a_unit_is_refused(place: Place, unit: str) -> None:
    place.configure(candidates={"success_estimation": {"historical_data_window": unit}})
    done = place.mgmt("config", "check", str(place.config))
    assert done.returncode != 0 and "historical_data_window" in done.stdout + done.stderr
