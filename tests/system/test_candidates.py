"""`mgmt candidates` with a daemon: candidates become tasks of a suite, and their ends teach what to expect."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from mgmt.protocol.errors import Exit
from mgmt_cli.schemas import schema_of
from tests.system.place import Place, until

WORLD: dict[str, Any] = {
    "codebases": [{"name": name, "value": value} for name, value in (("alpha", 50), ("beta", 40), ("gamma", 5))],
    "policies": {"main": [{"role": "main", "mode": "propose"}]},
    "candidates": [
        {"codebase": codebase, "campaign": "fix", "command": command, "value": 50, "publish_policy": "main",
         "context": "v1"}
        for codebase, command in (
            ("alpha", "sh -c 'test $CODEBASE-$CAMPAIGN-$CONTEXT = alpha-fix-v1'"), ("beta", "sh -c 'exit 75'"),
            ("gamma", "sh -c 'exit 3'"),
        )
    ],
    "runs": [
        {"codebase": "alpha", "campaign": "fix", "result_code": "success", "start_time": f"2024-05-{day}T10:00:00",
         "finish_time": f"2024-05-{day}T10:05:00"}
        for day in (10, 20, 28)
    ],
}  # fmt: skip
SETTINGS = {"suite": "work", "result_codes": {"75": "worker-failure"}}


@pytest.fixture
def here(place: Place) -> Iterator[Place]:
    """A daemon with a suite of one worker, which takes nothing yet, and three candidates."""
    place.configure(candidates=SETTINGS)
    place.started()
    assert place.mgmt("suite", "create", "work", "--workers", "1").returncode == 0
    assert place.mgmt("worker", "pause", "local").returncode == 0
    load(place, WORLD)
    yield place


def told(place: Place, *args: str, status: int = 0) -> dict[str, Any]:
    done = place.mgmt("candidates", *args, "--json")
    assert done.returncode == status, done.stdout + done.stderr
    value: dict[str, Any] = json.loads(done.stdout)
    jsonschema.validate(value, schema_of(value["schema"]))
    return value


def load(place: Place, world: dict[str, Any], status: int = 0) -> dict[str, Any]:
    (place.folder / "world.json").write_text(json.dumps(world))
    return told(place, "load", "world.json", status=status)


def listed(place: Place) -> dict[str, dict[str, Any]]:
    return {row["codebase"]: row for row in told(place, "list")["candidates"]}


def ended(place: Place) -> None:
    """The workers have done all there is."""
    assert place.mgmt("worker", "resume", "local").returncode == 0
    until(
        lambda: told(place, "queue")["total"] == 0 and not any(row["task"] for row in listed(place).values())
    )


def metrics(place: Place) -> dict[str, float]:
    done = place.mgmt("metrics")
    lines = [line.rpartition(" ") for line in done.stdout.splitlines() if line.startswith("mgmt_candidates")]
    return {name.removeprefix("mgmt_candidates_"): float(value) for name, _, value in lines}


def test_candidates_from_a_file_to_what_their_runs_teach(here: Place) -> None:
    before = listed(here)
    assert [row["codebase"] for row in told(here, "list")["candidates"]] == ["alpha", "beta", "gamma"]
    done = told(here, "schedule")
    assert (done["considered"], done["queued"], done["held"]) == (3, 3, 0)
    assert [row["codebase"] for row in done["first"]] == ["alpha", "beta", "gamma"]
    queue = told(here, "queue")["queue"]
    assert [row["codebase"] for row in queue] == ["alpha", "beta", "gamma"]
    assert told(here, "next")["queue"][0]["codebase"] == "alpha"
    again = told(here, "schedule")
    assert (again["queued"], again["changed"] <= 3) == (0, True), "what is queued is not queued again"
    ended(here)
    after = listed(here)
    assert after["alpha"]["probability"] > before["alpha"]["probability"]
    assert after["gamma"]["probability"] < before["gamma"]["probability"]
    assert "transient" in after["beta"]["held"]
    figures = metrics(here)
    assert figures["queued_total"] == 3 and figures["passes_total"] == 2
    assert [figures[f'runs_total{{outcome="{name}"}}'] for name in ("success", "failure", "transient")] == [
        1,
        1,
        1,
    ]
    assert figures["predicted_total"] == 2 and 0 < figures["brier_sum"] < 2
    assert told(here, "schedule")["queued"] == 2, "who pauses is held"


def test_what_the_daemon_learned_survives_it(here: Place) -> None:
    before = listed(here)
    told(here, "schedule", "gamma")
    here.kill_daemon()
    here.started()  # and nothing is paused any more
    until(lambda: listed(here)["gamma"]["probability"] < before["gamma"]["probability"])
    told(here, "schedule", "alpha")
    ended(here)
    learned = listed(here)
    assert learned["alpha"]["probability"] > before["alpha"]["probability"]
    assert here.mgmt("stop-service").returncode == 0
    here.started()
    for name, row in listed(here).items():
        assert row["probability"] == pytest.approx(learned[name]["probability"], rel=1e-3)
        assert row["task"] is None


def test_position_and_time_in_the_queue(here: Place) -> None:
    told(here, "schedule")
    assert here.mgmt("candidates", "position", "beta", "fix").stdout == "2 of 3\n"
    eta_s = told(here, "eta", "beta", "fix")["queue"][0]["eta_s"]
    assert eta_s == pytest.approx(listed(here)["alpha"]["duration_s"], rel=0.01)
    assert here.mgmt("candidates", "eta", "alpha", "fix").stdout == "in 0.0s\n"
    nobody = here.mgmt("candidates", "position", "nobody", "fix")
    assert nobody.returncode == Exit.UNKNOWN and "is not in the queue" in nobody.stderr
    nobody = here.mgmt("candidates", "eta", "nobody", "fix")
    assert nobody.returncode == Exit.UNKNOWN and "is not in the queue" in nobody.stderr


def test_everything_about_a_candidate_of_the_daemon_is_told(here: Place) -> None:
    explained = told(here, "explain", "beta", "fix")
    assert explained["place"] is None and explained["held"] == "" and explained["factors"]
    assert "the next pass puts it there" in here.mgmt("candidates", "explain", "beta", "fix").stdout
    told(here, "schedule")
    explained = told(here, "explain", "beta", "fix")
    assert (explained["place"]["position"], explained["place"]["total"]) == (2, 3)
    assert "bucket default: is 2 of 3" in here.mgmt("candidates", "explain", "beta", "fix").stdout
    ended(here)
    explained = told(here, "explain", "beta", "fix")
    assert explained["not_before"] > time.time() + 600 and "transient" in explained["held"]
    assert "held: pauses for" in here.mgmt("candidates", "explain", "beta", "fix").stdout
    unknown = here.mgmt("candidates", "explain", "delta", "fix")
    assert unknown.returncode == Exit.UNKNOWN and "no candidate delta in fix" in unknown.stderr
    assert here.mgmt("candidates", "explain", "alpha").returncode == Exit.USAGE
    assert here.mgmt("candidates", "explain", "a", "b", "--now", "2024-01-01").returncode == Exit.USAGE


def test_a_task_that_is_tried_again_teaches_again(here: Place) -> None:
    told(here, "schedule", "gamma")
    ended(here)
    first = listed(here)["gamma"]["probability"]
    (task,) = json.loads(here.mgmt("task", "list", "--json").stdout)["tasks"]
    assert here.mgmt("task", "retry", str(task["task"])).returncode == 0
    until(lambda: listed(here)["gamma"]["probability"] < first)
    assert metrics(here)['runs_total{outcome="failure"}'] == 2


def test_a_daemon_that_schedules_by_itself(place: Place) -> None:
    """What succeeds is run again after its rest, what failed by chance is not, what waited for a success is."""
    automatic = {**SETTINGS, "every": "1d", "rest": "1s"}
    place.configure(candidates=automatic, logging={"level": "DEBUG", "style": "json"})
    place.started()
    assert place.mgmt("suite", "create", "work", "--workers", "2").returncode == 0
    first = {"codebase": "beta", "campaign": "first", "command": "true", "value": 5}
    late = {**first, "campaign": "late", "requires": ["first"]}
    load(place, {**WORLD, "candidates": [*WORLD["candidates"], first, late]})
    until(lambda: runs_of(place, "success") >= 6 and runs_of(place, "failure") >= 2)
    assert runs_of(place, "transient") == 1
    assert metrics(place)["passes_total"] <= 3, "at the start, and after the load"
    log = (place.folder / "state" / "daemon.log").read_text()
    notes = [json.loads(line) for line in log.splitlines() if "candidates" in line or '"score"' in line]
    assert "no suite 'work' is known" in notes[0]["text"] and "begins, by itself" in notes[1]["text"]
    counted = next(one for one in notes if "considered" in one)
    assert (counted["considered"], counted["queued"], counted["held"]) == (5, 4, 1)
    assert (counted["suite"], counted["policy"]) == (1, "default")
    held = [one["held"] for one in notes if one.get("campaign") == "late"]
    assert held[0] == "waits for first" and "" in held, "each decision is a line"


def runs_of(place: Place, outcome: str) -> float:
    return metrics(place).get(f'runs_total{{outcome="{outcome}"}}', 0.0)


def test_a_more_urgent_bucket_goes_first_and_stays(here: Place) -> None:
    told(here, "schedule")
    done = told(here, "schedule", "gamma", "--bucket", "manual")
    assert (done["considered"], done["queued"], done["changed"]) == (1, 0, 1)
    first = told(here, "queue")["queue"][0]
    assert (first["codebase"], first["bucket"]) == ("gamma", "manual")
    told(here, "schedule")
    assert told(here, "next")["queue"][0]["bucket"] == "manual"


def test_reset_takes_out_and_forgets(here: Place) -> None:
    told(here, "schedule")
    assert told(here, "reset", "--codebase", "beta")["cancelled"] == 1
    until(lambda: listed(here)["beta"]["task"] is None)
    assert [row["codebase"] for row in told(here, "queue")["queue"]] == ["alpha", "gamma"]
    assert told(here, "schedule")["queued"] == 1
    forgotten = told(here, "reset", "--forget")
    assert (forgotten["cancelled"], forgotten["forgotten"]) == (3, True)
    assert told(here, "list")["total"] == 0
    assert "nothing waits" in here.mgmt("candidates", "deps").stdout


def test_a_host_is_left_alone(here: Place) -> None:
    load(here, {"codebases": [{"name": "beta", "value": 40, "branch_url": "https://git.example/beta"}]})
    told(here, "schedule")
    assert "no host" in here.mgmt("candidates", "hosts").stdout
    assert told(here, "hosts", "git.example", "--for", "1h")["cancelled"] == 1
    assert "git.example" in here.mgmt("candidates", "hosts").stdout
    until(lambda: [row["codebase"] for row in told(here, "queue")["queue"]] == ["alpha", "gamma"])
    assert told(here, "schedule")["held"] == 1
    assert told(here, "hosts", "git.example", "--again")["hosts"] == []
    assert told(here, "schedule")["queued"] == 1
    assert here.mgmt("candidates", "hosts", "git.example").returncode == Exit.USAGE


def test_a_dry_run_and_a_limit(here: Place) -> None:
    assert told(here, "schedule", "--dry-run")["queued"] == 3
    assert told(here, "queue")["total"] == 0
    assert told(here, "schedule", "--limit", "1")["queued"] == 1
    assert told(here, "schedule", "--policy", "janitor_compat")["queued"] == 2


def test_what_requires_what(here: Place) -> None:
    rows = [
        {"codebase": "alpha", "campaign": campaign, "command": "true", "requires": [other]}
        for campaign, other in (
            ("second", "first"),
            ("third", "second"),
            ("fourth", "third"),
            ("first", "third"),
        )
    ]
    load(
        here,
        {"candidates": [{"codebase": "beta", "campaign": "late", "command": "true", "requires": ["fix"]}]},
    )
    done = here.mgmt("candidates", "deps")
    assert done.returncode == 0 and "waits for fix" in done.stdout
    load(here, {"candidates": rows})
    done = here.mgmt("candidates", "deps")
    assert done.returncode == Exit.FAILED
    assert "cycle: alpha first -> alpha third -> alpha second -> alpha first" in done.stdout


def test_rows_that_are_wrong_are_told(here: Place) -> None:
    rows = {"candidates": [{"codebase": "alpha"}, {"codebase": "new", "campaign": "fix", "command": "true"}],
            "runs": [{"codebase": "alpha", "campaign": "fix", "result_code": 7}]}  # fmt: skip
    done = load(here, rows, status=Exit.PARTIAL)
    assert done["rows"] == {"candidates": 1, "runs": 0}
    assert [(one["table"], one["column"]) for one in done["faults"]] == [
        ("candidates", "campaign"), ("runs", "result_code"),
    ]  # fmt: skip
    (fault,) = told(here, "schedule", status=Exit.PARTIAL)["faults"]
    assert fault["problem"] == "there is no codebase 'new'"


def test_a_row_that_cannot_be_sent_is_told_by_its_number(here: Place) -> None:
    row = {"codebase": "alpha", "campaign": "more", "command": "true", "value": 5}
    rows: list[Any] = [{**row, "campaign": f"c{i}"} for i in range(4001)]
    rows += [{**row, "value": 10**30}, {**row, "command": "x" * (9 << 20)}, 7, {**row, "value": "much"}, row]
    done = load(here, {"candidates": rows}, status=Exit.PARTIAL)
    assert done["rows"] == {"candidates": 4002}
    assert sorted(fault["row"] for fault in done["faults"]) == ["4001", "4002", "4003", "4004"]


def test_a_file_of_lines_is_read_whatever_is_in_its_texts(here: Place) -> None:
    row = {"codebase": "a\u2028b", "campaign": "c\x85d", "command": "true", "value": 5}
    base = {"name": row["codebase"], "value": 1}
    lines = [json.dumps({"table": name, **one}, ensure_ascii=False) + "\n"
             for name, one in (("codebases", base), ("candidates", row))]  # fmt: skip
    (here.folder / "two.jsonl").write_text("".join(lines), encoding="utf-8")
    assert told(here, "load", "two.jsonl")["rows"] == {"codebases": 1, "candidates": 1}
    (here.folder / "one.jsonl").write_text(lines[1], encoding="utf-8")
    assert told(here, "load", "one.jsonl")["rows"] == {"candidates": 1}
    (here.folder / "bad.jsonl").write_text(lines[0] + lines[1] + "{\n", encoding="utf-8")
    bad = here.mgmt("candidates", "load", "bad.jsonl")
    assert bad.returncode == Exit.USAGE and "bad.jsonl:3: not JSON" in bad.stderr


def test_nothing_that_matches_says_where_to_look(here: Place) -> None:
    for command in (("list", "--codebase", "nobody"), ("schedule", "nobody")):
        done = here.mgmt("candidates", *command)
        assert done.returncode == 0 and "`mgmt candidates list` shows those there are" in done.stdout


def test_without_a_suite_it_says_how_to_name_one(here: Place) -> None:
    done = here.mgmt("candidates", "schedule", "--suite", "nothing")
    assert done.returncode == Exit.UNKNOWN and "no suite 'nothing' is known" in done.stderr
    here.configure(candidates={"half_life": 1})
    assert here.mgmt("config", "check", "config.json").returncode == Exit.USAGE
    here.configure(candidates={"decay": {"half_life": "0d"}})
    assert "must be more than 0" in here.mgmt("config", "check", "config.json").stderr
