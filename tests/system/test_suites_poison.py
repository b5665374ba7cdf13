"""Tasks that take their workers with them: the pool stays, the task is given up, all others are done."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mgmt.core.suites.strikes import LIMIT
from tests.system.clients import eventually
from tests.system.daemon import Daemon, alive, daemons
from tests.system.suites import (
    RESIDENT,
    adds_up,
    call,
    create,
    ended,
    serving,
    sh,
    show,
    status,
    submit,
    task_is,
    tasks,
    workers,
)

LONG_S = 40.0  # a worker that is started again and again waits longer each time


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with daemons() as start:
        yield serving(start)


KILLS_PARENT = "kill -9 $PPID; sleep 30"  # of a process worker: the worker itself


@pytest.mark.parametrize(
    ("worker", "poison", "strikes"),
    [
        (RESIDENT, call("crash"), 2),
        (RESIDENT, call("crash_with_child"), 2),
        (RESIDENT, call("killed", int(signal.SIGILL)), 2),
        (RESIDENT, call("killed", int(signal.SIGBUS)), 2),
        (RESIDENT, call("killed", int(signal.SIGFPE)), 2),
        (RESIDENT, call("killed", int(signal.SIGABRT)), 3),
        (RESIDENT, call("killed"), 3),
        (RESIDENT, call("leave", 3), 3),
        ({}, sh(KILLS_PARENT), 3),
    ],
    ids=["segv", "segv-with-child", "ill", "bus", "fpe", "abrt", "kill", "exit", "kill-process-worker"],
)
def test_poison(daemon: Daemon, worker: dict[str, Any], poison: dict[str, Any], strikes: int) -> None:
    suite = create(daemon, 2, worker)
    good = sh("true") if not worker else call("echo", 1)
    before = submit(daemon, suite, *[good] * 5)
    (bad,) = submit(daemon, suite, poison)
    after = submit(daemon, suite, *[good] * 5)
    ended(daemon, suite, LONG_S)
    assert status(daemon, suite)["state"] == "COMPLETE"
    found = tasks(daemon, suite)
    assert {found[task]["state"] for task in before + after} == {"FINISHED"}
    shown = show(daemon, bad)
    assert shown["status"]["state"] == "FAILED" and len(shown["failures"]) == strikes
    assert shown["lines"][0].startswith("given up") and len(shown["lines"]) == strikes + 1
    pool = workers(daemon, suite)
    assert len(pool) == 2, "the pool never shrinks"
    eventually(lambda: all(one["pid"] for one in workers(daemon, suite)), what="both workers are up")
    adds_up(daemon, suite)
    assert daemon.control.ok("task-retry", tasks=[bad])["tasks"] == [bad]
    assert show(daemon, bad)["status"]["state"] in ("READY", "RUNNING")
    daemon.control.ok("suite-cancel", suite=str(suite), cancel_running=True)
    ended(daemon, suite, LONG_S)


@pytest.mark.parametrize(
    "end",
    [call("leave", 0), call("killed", int(signal.SIGTERM)), call("killed", int(signal.SIGINT))],
    ids=["exit 0", "term", "int"],
)
def test_an_end_in_peace_is_no_strike(daemon: Daemon, end: dict[str, Any]) -> None:
    suite = create(daemon, 1, RESIDENT)
    (task,) = submit(daemon, suite, end)

    def look() -> dict[str, Any] | None:
        shown = show(daemon, task)
        return shown if shown["status"]["attempt"] > LIMIT + 1 else None

    found = eventually(look, LONG_S, "it is tried more often than strikes allow")
    assert found is not None and not found["failures"]
    daemon.control.ok("suite-cancel", suite=str(suite), cancel_running=True)
    ended(daemon, suite, LONG_S)


def test_an_endless_loop_is_cancelled(daemon: Daemon) -> None:
    suite = create(daemon, 1, RESIDENT)
    loop, good = submit(daemon, suite, call("loop"), call("echo", 1))
    task_is(daemon, loop, "RUNNING")
    daemon.control.ok("task-cancel", tasks=[loop])
    ended(daemon, suite, LONG_S)
    assert task_is(daemon, loop, "CANCELLED") and task_is(daemon, good, "FINISHED")
    assert not show(daemon, loop)["failures"]


def test_a_bounded_fork_bomb_is_gone_with_its_task(daemon: Daemon, tmp_path: Path) -> None:
    suite = create(daemon)
    # Two generations that leave the session, each bounded.
    bomb = "for i in 1 2 3 4 5; do setsid sh -c 'sleep 55 & sleep 55 & echo $! >> P; wait' & done; sleep 0.3"
    (task,) = submit(daemon, suite, sh(bomb.replace("P", str(tmp_path / "p"))))
    ended(daemon, suite)
    assert task_is(daemon, task, "FINISHED")
    pids = [int(line) for line in (tmp_path / "p").read_text().split()]
    assert pids and not any(alive(pid) for pid in pids), "nothing of it is left when it has ended"


@pytest.mark.parametrize("keep", [False, True])
def test_five_megabytes_of_output(daemon: Daemon, keep: bool) -> None:
    for worker, loud in (({}, sh("yes | head -c 5000000; echo end")), (RESIDENT, call("shout", 5_000_000))):
        suite = create(daemon, 1, worker)
        submit(daemon, suite, loud, terminal_output=keep)
        ended(daemon, suite)  # what is loaded and kept once is there now
        before = daemon.memory_bytes()
        (task,) = submit(daemon, suite, loud, terminal_output=keep)
        ended(daemon, suite)
        result = show(daemon, task)["result"]
        assert result["exit_status"] == 0 and 0 < len(result["tail"]) <= 4096
        assert daemon.memory_bytes() < before + (4 << 20), "the daemon does not hold it"
