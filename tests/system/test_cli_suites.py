"""`mgmt suite`, `task` and `worker` with a real daemon, real workers and real tasks."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import Any

import pytest

from mgmt.protocol.errors import Exit
from tests.system.place import Place, until

MANY = 20_000


def told(place: Place, *args: str, status: int = 0) -> dict[str, Any]:
    """The one JSON value of a command."""
    done = place.mgmt(*args, "--json")
    assert done.returncode == status, done.stdout + done.stderr
    value: dict[str, Any] = json.loads(done.stdout)
    return value


def fed(place: Place, text: str, *args: str) -> subprocess.CompletedProcess[str]:
    process = place.popen(*args, stdin=subprocess.PIPE)
    out, err = process.communicate(text, timeout=60)
    return subprocess.CompletedProcess(args, process.returncode, out, err)


@pytest.fixture
def suite(place: Place) -> Place:
    """A place with a running daemon and a suite `etl` of two workers."""
    place.started()
    told(place, "suite", "create", "etl", "--workers", "2")
    return place


def submitted(place: Place, *args: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    done = place.mgmt("task", "submit", "--suite", "etl", *args)
    assert done.returncode == status, done.stdout + done.stderr
    return done


def test_a_task_from_its_submission_to_its_output(suite: Place) -> None:
    done = submitted(suite, "--wait", "--", "sh", "-c", "echo out; echo err >&2; exit 3", status=3)
    assert done.stdout == "1 task submitted to suite etl: 1; 1 finished, the highest exit status is 3\n"
    assert suite.mgmt("task", "logs", "1").stdout == "out\nerr\n"
    assert "exit status 3" in suite.mgmt("task", "show", "1").stdout
    assert told(suite, "task", "list", "--suite", "etl", "--exit-status", ">0")["total"] == 1
    assert suite.mgmt("task", "watch", "1").returncode == Exit.FAILED
    (row,) = told(suite, "suite", "list")["suites"]
    assert (row["state"], row["tasks"]["finished"]) == ("COMPLETE", 1)
    assert told(suite, "worker", "list", "--suite", "etl")["workers"][0]["node"] == "local"
    again = told(suite, "task", "retry", "1")
    assert again["tasks"] == [1]
    assert told(suite, "task", "wait", "1")["attempt"] == 2
    nearest = suite.mgmt("suite", "status", "elt")
    assert nearest.returncode == Exit.UNKNOWN
    assert "Did you mean etl?" in nearest.stderr


def test_twenty_thousand_lines_on_standard_input(suite: Place) -> None:
    told(suite, "worker", "pause", "local")
    lines = "".join(f'["/bin/true", "{index}"]\n' for index in range(MANY))
    done = fed(suite, lines, "task", "submit", "--suite", "etl", "-", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["spans"] == [[1, MANY]]
    last = told(suite, "task", "show", str(MANY))
    assert last["spec"]["args"] == ["/bin/true", str(MANY - 1)]
    cancelled = told(suite, "suite", "cancel", "etl")
    assert cancelled["suite"]["tasks"]["total"] == MANY


def test_a_bad_line_stops_at_its_batch(suite: Place) -> None:
    lines = ['["/bin/true"]'] * 2500
    lines[1200] = '{"args": ["x"], "colour": "red"}'
    done = fed(suite, "\n".join(lines), "task", "submit", "--suite", "etl", "--once", "night", "-")
    assert done.returncode == Exit.USAGE
    assert "error: standard input:1201: field `colour`" in done.stderr
    assert "1000 tasks were submitted before: 1-1000; with --once night the rest can follow" in done.stderr
    assert told(suite, "task", "list", "--count")["total"] == 1000
    lines[1200] = '["/bin/true"]'
    done = fed(suite, "\n".join(lines), "task", "submit", "--suite", "etl", "--once", "night", "-", "--json")
    assert (json.loads(done.stdout)["count"], json.loads(done.stdout)["already"]) == (2500, 1000)
    assert told(suite, "task", "list", "--count")["total"] == 2500
    done = fed(suite, '["/bin/false"]', "task", "submit", "--suite", "etl", "--once", "night", "-")
    assert done.returncode == Exit.BUSY, "the same key is for the same tasks"
    done = fed(suite, '{"function": "os:getpid"}', "task", "submit", "--suite", "etl", "-")
    assert done.returncode == Exit.USAGE
    assert "error: standard input:1: the workers of suite 1 are of kind process" in done.stderr


@pytest.mark.parametrize(("args", "status"), [
    (("suite", "create", "7"), Exit.USAGE),
    (("suite", "create", "etl"), Exit.BUSY),
    (("suite", "create", "--workers", "3", "--cpus", "0", "--binding", "exclusive"), Exit.USAGE),
    (("task", "submit", "--suite", "nope", "--", "x"), Exit.UNKNOWN),
    (("task", "submit", "--suite", "etl", "--after", "99", "--", "x"), Exit.UNKNOWN),
    (("task", "show", "99"), Exit.UNKNOWN),
    (("task", "cancel"), Exit.USAGE),
    (("task", "wait", "1", "--for", "Tea"), Exit.USAGE),
    (("suite", "agents", "etl", "--add", "nobody"), Exit.PARTIAL),
])  # fmt: skip
def test_wrong_arguments(suite: Place, args: tuple[str, ...], status: int) -> None:
    done = suite.mgmt(*args)
    assert done.returncode == status, done.stdout + done.stderr
    assert done.stderr


def test_a_daemon_that_is_killed_during_a_submission_doubles_nothing(suite: Place) -> None:
    told(suite, "worker", "pause", "local")
    process = suite.popen("task", "submit", "--suite", "etl", "-", "--json", stdin=subprocess.PIPE)
    assert process.stdin is not None
    lines = [f'["/bin/true", "{index}"]\n' for index in range(12_000)]
    process.stdin.writelines(lines[:6_000])
    process.stdin.flush()
    until(lambda: told(suite, "task", "list", "--count")["total"] > 0)
    suite.kill_daemon()
    process.stdin.writelines(lines[6_000:])  # more than the pipe holds: it is read while there is no daemon
    suite.started()
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert json.loads(out)["count"] == 12_000
    assert told(suite, "task", "list", "--count")["total"] == 12_000


def test_following_ends_with_the_suite_and_tells_of_failures(suite: Place) -> None:
    submitted(suite, "--repeat", "20", "--", "sh", "-c", "sleep 0.05")
    submitted(suite, "--", "false")
    done = suite.mgmt("suite", "status", "etl", "--follow")
    assert done.returncode == Exit.FAILED
    assert "suite 1 (etl) is COMPLETE; tasks 21: 21 finished" in done.stdout
    assert "1 of them did not end with 0" in done.stderr
    submitted(suite, "--", "true")
    assert suite.mgmt("suite", "status", "etl", "--follow").returncode == Exit.FAILED


def test_an_interrupt_leaves_the_suite_running(suite: Place) -> None:
    submitted(suite, "--", "sleep", "50")
    process = suite.popen("suite", "status", "etl", "--follow")
    assert process.stdout is not None
    assert "0/1" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGINT
    assert err == "error: suite 1 (etl) goes on; `mgmt suite status 1 --follow` shows it again\n"
    until(lambda: told(suite, "task", "show", "1")["status"]["state"] == "RUNNING")
    done = suite.mgmt("task", "cancel", "1")
    assert "running ones are being ended" in done.stdout
    assert told(suite, "task", "wait", "1")["state"] == "CANCELLED"


def test_watching_a_task_of_some_length(suite: Place) -> None:
    submitted(suite, "--", "sh", "-c", "sleep 1; echo done")
    done = suite.mgmt("task", "watch", "1")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1] == "task 1 is FINISHED with exit status 0 on local"
    assert any("RUNNING" in line for line in lines)
    assert suite.mgmt("task", "logs", "-f", "1").stdout == "done\n"


def test_metrics_are_those_of_what_happened(suite: Place) -> None:
    submitted(suite, "--wait", "--repeat", "30", "--", "true")
    done = suite.mgmt("metrics")
    values = {
        name: float(value)
        for name, _, value in (line.rpartition(" ") for line in done.stdout.splitlines() if line[0] != "#")
    }
    assert values['mgmt_suites{state="complete"}'] == 1
    assert values['mgmt_queue_tasks{state="finished"}'] == 30
    assert values["mgmt_tasks_submitted_total"] == 30
    assert values['mgmt_tasks_committed_total{result="ok"}'] == 30
    hits, misses = (values[f'mgmt_task_prefetch_total{{result="{name}"}}'] for name in ("hit", "miss"))
    assert hits + misses == 30
    assert misses > 0
    assert values["mgmt_task_fetch_latency_seconds_count"] > 0
    assert values['mgmt_queue_depth{of="suites"}'] == 0
    assert values["mgmt_dead_letters_total"] == 0


def test_names_of_suites_are_completed(suite: Place) -> None:
    environ = {**suite.environ, "_MGMT_COMPLETE": "bash_complete", "COMP_CWORD": "3"}
    environ["COMP_WORDS"] = "mgmt suite status e"
    done = subprocess.run(
        [sys.executable, "-c", "from mgmt_cli.main import main; main()"],
        env=environ,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.stdout == "plain,etl\n"
