"""Independent workers as processes: joined at first try, killed at any time, and kept apart from suites."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mgmt.protocol import keys, tokens
from mgmt.protocol.errors import Exit
from tests.system.agents import LOST_S, TIMING, Agent, Join, agents
from tests.system.clients import eventually
from tests.system.daemon import Daemon, Start, alive, pids_with_environ
from tests.system.place import Place, until


@pytest.fixture
def join() -> Iterator[Join]:
    with agents() as make:
        yield make


def endpoint(daemon: Daemon) -> str:
    return f"ipc://{daemon.runtime}/nodes"  # nobody has to configure it


def worker(daemon: Daemon, name: str) -> dict[str, Any] | None:
    found: list[dict[str, Any]] = daemon.control.ok("workers", workers=[name])["workers"]
    return found[0] if found else None


def is_idle(daemon: Daemon, name: str) -> bool:
    status = worker(daemon, name)
    return status is not None and status["state"] == "idle"


def a_worker(daemon: Daemon, join: Join, name: str, *arguments: str, run: bool = True) -> Agent:
    made = join(endpoint(daemon), name, "--worker", *arguments, run=run)
    if run:
        eventually(lambda: is_idle(daemon, name), what=f"{name} serves")
    return made


def left(daemon: Daemon) -> int:
    return sum(
        int(daemon.control.ok("tasks", states=[state], count_only=True)["total"])
        for state in ("READY", "RUNNING", "PENDING")
    )


def test_a_worker_of_this_machine_joins_without_a_word_about_where(place: Place) -> None:
    place.started()
    quiet = subprocess.DEVNULL
    process = place.popen("worker", "run", "--name", "helper", "--workers", "2", stdout=quiet, stderr=quiet)
    done = place.mgmt("task", "submit", "--repeat", "20", "--wait", "--", "sh", "-c", "exit 3")
    assert done.returncode == 3 and "20 finished" in done.stdout, done.stdout + done.stderr
    (row,) = json.loads(place.mgmt("worker", "list", "--independent", "--json").stdout)["workers"]
    assert (row["worker"], row["independent"], row["done"]) == ("helper", True, 20)
    assert "it is independent" in place.mgmt("worker", "show", "helper").stdout
    assert place.mgmt("worker", "show", "other").returncode == 4
    assert "helper" not in place.mgmt("node", "list").stdout
    running = place.mgmt(
        "task", "submit", "--", "sh", "-c", "touch began; while [ ! -e go ]; do sleep 0.05; done"
    )
    assert running.returncode == 0
    until(lambda: (place.folder / "began").exists() or list(Path(place.folder).rglob("began")), "it runs")
    assert "stopping" in place.mgmt("worker", "shutdown", "helper").stdout
    assert process.poll() is None, "it lets what runs end"
    for began in place.folder.rglob("began"):
        (began.parent / "go").touch()
    assert process.wait(30) == 0
    task = json.loads(place.mgmt("task", "show", "21", "--json").stdout)
    assert task["status"]["state"] == "FINISHED" and task["status"]["exit_status"] == 0


def test_an_idle_worker_has_a_task_at_once(start: Start, join: Join) -> None:
    """The ancestor's worker slept for minutes."""
    daemon = start({"timing": TIMING})
    a_worker(daemon, join, "w1")
    spent = []
    for _ in range(20):
        began = time.monotonic()
        told = daemon.control.ok("task-submit", tasks=[{"args": ["true"]}], wait=True)
        assert told["ended"]["exit_status"] == 0
        spent.append(time.monotonic() - began)
    assert sorted(spent)[10] < 1.0, spent


def test_a_mixed_pool_keeps_apart_what_belongs_apart(start: Start, join: Join) -> None:
    daemon = start({"timing": TIMING})
    a_worker(daemon, join, "w1", "--workers", "2", "--tag", "x")
    node = join(endpoint(daemon), "n1", "--tag", "x")
    eventually(
        lambda: any(one["node"] == "n1" for one in daemon.control.ok("nodes")["nodes"]), what="n1 joins"
    )
    daemon.control.ok("suite-create", name="s", tags=["x"], worker={"worker_count": 2})
    task = {"args": ["sh", "-c", "sleep 0.01"]}
    managed = daemon.control.ok("task-submit", suite="s", tasks=[task] * 40)["tasks"]
    free = daemon.control.ok("task-submit", tags=["x"], tasks=[task] * 40)["tasks"]
    eventually(lambda: not left(daemon), what="all have ended")
    nodes = {one["task"]: one["node"] for one in daemon.control.ok("tasks", limit=100)["tasks"]}
    assert {nodes[task] for task in managed} == {"n1"} and {nodes[task] for task in free} == {"w1"}
    assert node.process is not None


def test_two_groups_and_one_that_is_not_let_in(start: Start, join: Join) -> None:
    daemon = start({"timing": TIMING})
    for group in ("a", "b", "c"):
        daemon.control.ok("group-create", group=group)
    a_worker(daemon, join, "w1", "--group", "a", "--group", "b:admin")
    task = {"args": ["sh", "-c", "sleep 0.005"]}
    ours = {
        group: daemon.control.ok("task-submit", group=group, tasks=[task] * 30)["tasks"] for group in "abc"
    }
    eventually(lambda: left(daemon) == 30, what="those of a and b have ended")
    ended = daemon.control.ok("tasks", states=["FINISHED"], limit=100)["tasks"]
    assert {one["group"] for one in ended} == {"a", "b"}
    # The one that was submitted first did not have to end before the other began.
    began = {group: min(one["started_at"] for one in ended if one["group"] == group) for group in "ab"}
    last = {group: max(one["finished_at"] for one in ended if one["group"] == group) for group in "ab"}
    assert began["b"] < last["a"]
    assert all("may not send" in daemon.control.ok("task-show", task=ours["c"][0])["lines"][0] for _ in "c")
    daemon.control.ok("group-grant", group="c", worker="w1")
    eventually(lambda: not left(daemon), what="those of c, too")


def kill_all(agent: Agent) -> None:
    """kill -9 of the agent, its shims, its workers and what they run."""
    own = str(agent.runtime)
    for pid in pids_with_environ("MGMT_RUNTIME_DIR", own) - {agent.pid}:
        if alive(pid):
            os.kill(
                pid, signal.SIGSTOP
            )  # first: what a worker ended after its agent's death nobody would know
    agent.send_signal(signal.SIGSTOP)  # it starts nothing meanwhile
    agent.crash()

    def none_left() -> bool:
        pids = pids_with_environ("MGMT_RUNTIME_DIR", own) - {agent.pid}
        for pid in pids:
            if alive(pid):
                os.kill(pid, signal.SIGKILL)
        return not any(alive(pid) for pid in pids)

    eventually(none_left, what="nothing of the agent is left")


@pytest.mark.parametrize("whom", ["agent", "tree", "daemon", "lost"])
def test_killed_at_random_points_each_task_is_committed_once(
    start: Start, join: Join, tmp_path: Path, whom: str
) -> None:
    lost_s = LOST_S if whom == "lost" else 30.0  # else it is back before
    daemon = start({"timing": {**TIMING, "node_lost_s": lost_s}})
    agent = a_worker(daemon, join, "w1", "--workers", "2")
    count = 240
    draw = random.Random(7)
    task = {"args": ["sh", "-c", f"echo x >> {tmp_path}/$MITO_TASK_UUID; sleep 0.005"]}
    numbers = daemon.control.ok("task-submit", tasks=[task] * count)["tasks"]
    for turn in range(3):
        target = count - (turn + 1) * 50
        eventually(lambda: left(daemon) < target, what="some have ended")  # noqa: B023
        time.sleep(draw.uniform(0.0, 0.05))  # at a random point, not until something holds
        if whom == "daemon":
            daemon.crash()
            daemon.start()
        elif whom == "agent":
            agent.crash()
            agent.start()
        else:
            kill_all(agent)
            if whom == "lost":
                status = eventually(
                    lambda: (found := worker(daemon, "w1")) and found["state"] == "down" and found,
                    LOST_S + 30.0,
                    "it is given up",
                )
                assert status
            agent.start()
    eventually(lambda: not left(daemon), 60.0, "all have ended")
    tasks = daemon.control.ok("tasks", limit=1000)["tasks"]
    assert len(tasks) == len(numbers) and {one["state"] for one in tasks} == {"FINISHED"}
    runs = {path.name: len(path.read_text().split()) for path in tmp_path.iterdir()}
    assert len(runs) == count
    again = sum(times - 1 for times in runs.values())
    # Two run at a time, and a killed one may have begun twice; what had ended is not done again.
    assert again <= (0 if whom in ("agent", "daemon") else 3 * 2 * 2), f"{again} tasks ran again"
    for one in tasks:
        assert one["attempt"] >= runs[one["uuid"]]


def test_a_worker_without_a_daemon_says_so_once_and_joins_when_there_is_one(place: Place) -> None:
    errors = place.folder / "stderr"
    with errors.open("wb") as file:
        process = place.popen("worker", "run", "--name", "early", stdout=subprocess.DEVNULL, stderr=file)
        try:
            eventually(lambda: b"waiting for a daemon at ipc://" in errors.read_bytes(), what="it says so")
            place.started()
            until(lambda: "early" in place.mgmt("worker", "list").stdout)
            assert errors.read_text().count("waiting for a daemon") == 1
        finally:
            process.terminate()
            assert process.wait(20) == 0


def test_a_worker_gives_up_in_time_and_at_once_when_it_is_refused(place: Place) -> None:
    done = place.mgmt("worker", "run", "--name", "w", "--timeout", "500ms")
    assert done.returncode == Exit.UNREACHABLE
    assert "not joined within 0.5 s: no daemon answers at ipc://" in done.stderr
    place.started()
    token = place.folder / "token"
    keys.write(token, tokens.new(), 0o600)
    done = place.mgmt("worker", "run", "--name", "w", "--token-file", str(token))
    assert done.returncode == Exit.DENIED and "Traceback" not in done.stderr
    assert "refuses node w: the token is not let in here" in done.stderr
    assert done.stderr.count("refuses") == 1
