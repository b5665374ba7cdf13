"""Suites while workers, agents and daemons are killed, links cut and disks full: no task is lost or done twice.

"Done twice" is about results: what is tried again may run again, and exactly one of its results counts.
"""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mgmt.client import Client
from mgmt.protocol.errors import MgmtError
from mgmt.store.queue.counting import recount
from mgmt.store.queue.sqlite import SqliteEngine
from tests.system.agents import Join, Proxy, agents, becomes, free_port
from tests.system.clients import eventually
from tests.system.daemon import Daemon, Start, alive, daemons
from tests.system.suites import (
    adds_up,
    create,
    ended,
    serving,
    sh,
    show,
    status,
    submit,
    task_is,
    tasks,
)

FULL_BYTES = 32 << 10  # what the queue has written before is more
LOST = (
    "session-gone",
    "unreachable",
    "stopping",
    "expired",
    "not-durable",
)  # codes of an answer that is lost
SLOW_S = 90.0  # for what everybody was killed in the middle of
SEED = int(os.environ.get("SEED", "0"))  # another one: other moments


@pytest.fixture
def start() -> Iterator[Start]:
    with daemons() as make:
        yield make


@pytest.fixture
def join() -> Iterator[Join]:
    with agents() as make:
        yield make


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    proxy = Proxy(free_port())
    try:
        yield proxy
    finally:
        proxy.close()


def counts_are_exact(daemon: Daemon) -> None:
    """The daemon is stopped, and its queue is what it counted."""
    daemon.stop()
    db = SqliteEngine(daemon.state_dir / "queue.db").open_reader()
    try:
        assert recount(db) == []
    finally:
        db.close()


def finishes(daemon: Daemon, suite: int, count: int) -> None:
    """It goes on until so many tasks are done."""
    eventually(lambda: status(daemon, suite)["tasks"]["finished"] >= count, 25.0, f"{count} are done")


def again(peer: Daemon) -> None:
    """kill -9, and the next one."""
    peer.crash()
    peer.start()


def pids_of_workers(daemon: Daemon) -> list[int]:
    return [pid for pid in daemon.children() if _is_worker(pid)]


def _is_worker(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip() == "mgmt-worker"
    except OSError:
        return False


def test_three_deaths_of_the_daemon_during_600_tasks(start: Start) -> None:
    daemon = serving(start)
    suite = create(daemon, 2)
    numbers = submit(daemon, suite, *[["true"]] * 600)
    for share in (50, 200, 400):
        finishes(daemon, suite, share)
        again(daemon)
    ended(daemon, suite, SLOW_S)
    found = tasks(daemon, suite)
    assert set(found) == set(numbers) and {task["state"] for task in found.values()} == {"FINISHED"}
    adds_up(daemon, suite)
    counts_are_exact(daemon)


def test_kill_9_of_anybody_at_any_time(start: Start, join: Join, tmp_path: Path) -> None:
    draw = random.Random(SEED)
    daemon = serving(start)
    there = [join(daemon, "n1"), join(daemon, "n2")]
    log = tmp_path / "log"
    suites = [create(daemon, 2), create(daemon, 1)]
    task = sh(f"sleep 0.03; echo $MITO_TASK_UUID >> {log}")
    for suite in suites:
        submit(daemon, suite, *[task] * 60)
    for _ in range(8):
        time.sleep(draw.uniform(0.05, 0.5))  # a random moment is what is tested
        victim = draw.choice(["daemon", "agent", "agent", "worker"])
        if victim == "daemon":
            again(daemon)
        elif victim == "agent":
            again(draw.choice(there))
        else:
            pids = [pid for one in (daemon, *there) for pid in pids_of_workers(one)]
            if pids:
                os.kill(draw.choice(pids), signal.SIGKILL)
    ran = Counter[str]()
    for suite in suites:
        ended(daemon, suite, SLOW_S)
        adds_up(daemon, suite)
        for number, one in tasks(daemon, suite).items():
            assert one["state"] == "FINISHED" or (
                one["state"] == "FAILED" and show(daemon, number)["failures"]
            )
            ran[one["uuid"]] += 0
    ran.update(log.read_text().split())
    assert len(ran) == 120 and all(ran.values()), "each ran at least once"
    counts_are_exact(daemon)


def test_agent_and_daemon_die_one_after_the_other(start: Start, join: Join) -> None:
    draw = random.Random(SEED)
    daemon = serving(start)
    agent = join(daemon, "n1", "--tag", "x")
    suite = create(daemon, 2, tags=["x"])
    submit(daemon, suite, *[sh("sleep 0.05")] * 60)
    eventually(lambda: status(daemon, suite)["tasks"]["finished"], what="it has begun")
    for pause_s in (0.1, draw.uniform(0.2, 1.5)):
        again(agent)
        time.sleep(pause_s)  # somewhere in its start
        again(daemon)
        finishes(daemon, suite, status(daemon, suite)["tasks"]["finished"] + 1)
    ended(daemon, suite, SLOW_S)
    assert status(daemon, suite)["tasks"]["finished"] == 60
    counts_are_exact(daemon)


def test_whoever_waits_for_each_task_while_the_daemon_is_killed(start: Start, tmp_path: Path) -> None:
    """Each is handed out in the commit that takes it: every one that was answered is there, with one result."""
    draw = random.Random(SEED)
    daemon = serving(start)
    suite = create(daemon, 2)
    log = tmp_path / "log"
    answers: dict[str, dict[str, Any]] = {}
    over = threading.Event()

    def one_after_the_other(who: str) -> None:
        with Client(daemon.endpoint("control"), timeout_s=2.0) as client:
            for number in range(5000):
                if over.is_set():
                    return
                key = f"{who}{number}"
                task = sh(f"echo {key} >> {log}; exit {number % 3}")
                body = {"suite": str(suite), "tasks": [task], "key": key, "wait": True}
                give_up_s = time.monotonic() + SLOW_S
                while key not in answers:
                    try:
                        answers[key] = client.request("task-submit", body)
                    except MgmtError as error:
                        if time.monotonic() > give_up_s or error.code not in LOST:
                            raise
                        time.sleep(0.02)

    with ThreadPoolExecutor(2) as threads:
        asking = [threads.submit(one_after_the_other, who) for who in "ab"]
        try:
            for _ in range(4):
                enough = len(answers) + 5
                while len(answers) < enough and not any(one.done() for one in asking):
                    time.sleep(0.001)
                time.sleep(draw.uniform(0.0, 0.01))  # a random moment is what is tested
                again(daemon)
        finally:
            over.set()
        for one in asking:
            one.result()
    ended(daemon, suite, SLOW_S)
    found = tasks(daemon, suite)
    assert sorted(answer["tasks"][0] for answer in answers.values()) == sorted(found), "none was doubled"
    for key, answer in answers.items():
        told, kept = answer["ended"], found[answer["tasks"][0]]
        assert told["state"] == kept["state"] == "FINISHED", key
        assert told["exit_status"] == kept["exit_status"] == int(key[1:]) % 3
    assert set(_lines(log)) == set(answers)
    adds_up(daemon, suite)
    counts_are_exact(daemon)


def test_an_agent_that_dies_while_the_daemon_is_down(start: Start, join: Join) -> None:
    daemon = serving(start)
    agent = join(daemon, "n1", "--tag", "x")
    suite = create(daemon, 1, tags=["x"])
    (task, _) = submit(daemon, suite, sh("sleep 55"), ["true"])
    task_is(daemon, task, "RUNNING")
    daemon.crash()
    agent.kill()
    daemon.start()
    becomes(daemon, "n1", "LOST")
    assert task_is(daemon, task, "READY")["attempt"] == 1, "its tasks are everybody's"
    join(daemon, "n2", "--tag", "x")
    assert task_is(daemon, task, "RUNNING")["node"] == "n2"
    daemon.control.ok("suite-cancel", suite=str(suite), cancel_running=True)
    ended(daemon, suite)
    agent.start()
    becomes(daemon, "n1", "ALIVE")
    eventually(lambda: not pids_of_workers(agent), what="what it ran is ended")
    agent.clean = True
    counts_are_exact(daemon)


@pytest.mark.parametrize("way", ["stopped", "cut"])
def test_a_node_that_is_lost_for_a_while(
    start: Start, join: Join, proxy: Proxy, tmp_path: Path, way: str
) -> None:
    endpoints = {"nodes": f"tcp://127.0.0.1:{proxy.target}", "insecure": True}
    daemon = serving(start, endpoints=endpoints)
    agent = join(proxy.endpoint, "n1", "--insecure", "--tag", "x")
    becomes(daemon, "n1", "ALIVE")
    join(f"tcp://127.0.0.1:{proxy.target}", "n2", "--insecure")
    becomes(daemon, "n2", "ALIVE")
    suite = create(daemon, 1, tags=["x"])
    log = tmp_path / "log"
    wait = f"echo $$ >> {log}; while [ ! -e {tmp_path}/gate ]; do sleep 0.02; done; exit $(wc -l < {log})"
    (task,) = submit(daemon, suite, sh(wait))
    eventually(lambda: log.exists() and log.read_text().strip(), what="it runs on n1")
    if way == "stopped":
        agent.send_signal(signal.SIGSTOP)
    else:
        proxy.cut()
    becomes(daemon, "n1", "LOST")
    daemon.control.ok("node-tags", node="n2", add=["x"])
    eventually(lambda: len(log.read_text().split()) == 2, what="it runs on n2, too")
    first, second = map(int, log.read_text().split())
    (tmp_path / "gate").touch()
    ended(daemon, suite)
    found = task_is(daemon, task, "FINISHED")
    assert (found["node"], found["attempt"]) == ("n2", 2)
    eventually(lambda: not alive(first), what="the first one ended too, and nobody hears of it")
    if way == "stopped":
        agent.send_signal(signal.SIGCONT)
    else:
        proxy.reset()
        proxy.heal()
    becomes(daemon, "n1", "ALIVE")
    eventually(lambda: not pids_of_workers(agent), what="its workers are ended")
    after = task_is(daemon, task, "FINISHED")
    assert after == found and not alive(second), "the late result changed nothing"
    submit(daemon, suite, *[["true"]] * 20)
    ended(daemon, suite)
    adds_up(daemon, suite)
    counts_are_exact(daemon)


def test_answers_that_are_lost_on_the_way(start: Start, join: Join, proxy: Proxy) -> None:
    draw = random.Random(SEED)
    endpoints = {"nodes": f"tcp://127.0.0.1:{proxy.target}", "insecure": True}
    daemon = serving(start, endpoints=endpoints)
    join(proxy.endpoint, "n1", "--insecure", "--tag", "x")
    becomes(daemon, "n1", "ALIVE")
    suite = create(daemon, 2, tags=["x"])
    numbers = submit(daemon, suite, *[sh("sleep 0.01")] * 150)
    for _ in range(5):
        time.sleep(draw.uniform(0.05, 0.3))
        setattr(proxy, draw.choice(["to", "back"]), False)
        time.sleep(draw.uniform(0.02, 0.2))
        proxy.reset()
        proxy.heal()
    ended(daemon, suite, SLOW_S)
    found = tasks(daemon, suite)
    assert set(found) == set(numbers) and {task["state"] for task in found.values()} == {"FINISHED"}
    adds_up(daemon, suite)
    counts_are_exact(daemon)


def test_a_full_disk_is_told_and_recovers(start: Start) -> None:
    daemon = serving(start)
    suite = create(daemon, 1)
    submit(daemon, suite, ["true"])
    ended(daemon, suite)
    (running,) = submit(daemon, suite, ["sleep", "0.5"])
    task_is(daemon, running, "RUNNING")
    # Nothing is written beyond this place of any file, as if there were no room for it.
    resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, (FULL_BYTES, resource.RLIM_INFINITY))
    try:
        big = {"args": ["true"], "envs": {"X": "x" * 20_000}}
        refused = daemon.control.refused("task-submit", suite=str(suite), tasks=[big] * 20)
        assert refused["code"] == "not-durable", refused
        degraded = daemon.status()["service"]["degraded"]
        assert "disk" in degraded or "full" in degraded or "I/O" in degraded
        told = subprocess.run(
            [sys.executable, "-m", "mgmt_cli", "status"],
            env={**daemon.environ, "MGMT_ENDPOINT": daemon.endpoint("control")},
            capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
        assert "degraded:" in told.stdout, told
        assert task_is(daemon, running, "RUNNING", "FINISHED"), "questions are answered"
        assert status(daemon, suite)["tasks"]["total"] == 2
    finally:
        resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    submit(daemon, suite, ["true"])
    ended(daemon, suite, 30.0)
    assert status(daemon, suite)["tasks"] == {
        "total": 3, "pending": 0, "ready": 0, "running": 0, "finished": 3, "failed": 0, "cancelled": 0,
    }  # fmt: skip
    assert not daemon.status()["service"]["degraded"]
    counts_are_exact(daemon)


def test_a_daemon_that_hands_over_loses_no_worker(start: Start, tmp_path: Path) -> None:
    daemon = serving(start)
    suite = create(daemon, 2)
    wait = f"echo $$ >> {tmp_path}/ran; while [ ! -e {tmp_path}/gate ]; do sleep 0.02; done"
    submit(daemon, suite, *[sh(wait)] * 2)
    eventually(lambda: len(_lines(tmp_path / "ran")) == 2, what="both run")
    workers = set(pids_of_workers(daemon))
    assert daemon.stop(signal.SIGUSR1) == 0
    (tmp_path / "gate").touch()  # while no daemon is there
    daemon.start()
    ended(daemon, suite)
    assert set(pids_of_workers(daemon)) == workers and len(_lines(tmp_path / "ran")) == 2
    assert {task["attempt"] for task in tasks(daemon, suite).values()} == {1}
    counts_are_exact(daemon)


def _lines(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []
