"""Suites on several nodes: matching, drain, admission, excluded nodes, rights of users on every verb."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mgmt.client import Client
from mgmt.protocol.errors import MgmtError
from tests.system.agents import Join, agents, becomes
from tests.system.clients import eventually
from tests.system.daemon import Daemon, Start, daemons
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
from tests.system.test_schedule_daemon import workload
from tests.system.test_users import a_user, as_user


@pytest.fixture
def start() -> Iterator[Start]:
    with daemons() as make:
        yield make


@pytest.fixture
def join() -> Iterator[Join]:
    with agents() as make:
        yield make


def at_work(daemon: Daemon, suite: int) -> set[str]:
    return {node["node"] for node in status(daemon, suite)["nodes"] if node["phase"]}


def test_suites_go_where_their_tags_are(start: Start, join: Join) -> None:
    daemon = serving(start)
    join(daemon, "n1", "--tag", "gpu")
    wants, free, never = (
        create(daemon, tags=["gpu"]),
        create(daemon),
        create(daemon, tags=["tape"]),
    )
    for suite in (wants, free, never):
        submit(daemon, suite, ["true"])
    ended(daemon, wants), ended(daemon, free)
    assert {task["node"] for task in tasks(daemon, wants).values()} == {"n1"}
    (waits,) = tasks(daemon, never)
    lines = show(daemon, waits)["lines"]
    assert sorted(lines) == ["node local: it has not the tags tape", "node n1: it has not the tags tape"]
    join(daemon, "n2", "--tag", "tape")
    ended(daemon, never)
    assert tasks(daemon, never)[waits]["node"] == "n2", "a new node gets it without a command"


def test_nodes_added_and_removed(start: Start, join: Join) -> None:
    daemon = serving(start)
    join(daemon, "n1")
    suite = create(daemon, tags=["x"])
    submit(daemon, suite, ["sleep", "55"])
    told = daemon.control.ok("suite-agents", suite=str(suite), add=["n1", "nobody"])
    assert told["added"] == ["n1"] and "nobody" in told["rejected"]
    eventually(lambda: at_work(daemon, suite) == {"n1"}, what="n1 works on it")
    told = daemon.control.ok("suite-agents", suite=str(suite), remove=["n1"])
    assert told["removed"] == ["n1"]
    daemon.control.ok("suite-cancel", suite=str(suite), cancel_running=True)
    ended(daemon, suite)
    eventually(lambda: not at_work(daemon, suite), what="n1 leaves it")


def test_tags_given_later_count(start: Start, join: Join) -> None:
    daemon = serving(start)
    join(daemon, "n1")
    suite = create(daemon, tags=["late"])
    submit(daemon, suite, ["true"])
    assert not at_work(daemon, suite)
    daemon.control.ok("node-tags", node="n1", add=["late"])
    ended(daemon, suite)
    (task,) = tasks(daemon, suite).values()
    assert task["node"] == "n1"


def test_several_suites_at_once(start: Start, join: Join) -> None:
    daemon = serving(start)
    for name in ("n1", "n2", "n3"):
        join(daemon, name)
    join(daemon, "n4", "--tag", "tape")
    suites = [create(daemon, 2), create(daemon, 2), create(daemon, 2, tags=["tape"])]
    for suite in suites:
        submit(daemon, suite, *[sh("sleep 0.1")] * 12)
    for suite in suites:
        ended(daemon, suite, 40.0)
        adds_up(daemon, suite)
        assert status(daemon, suite)["tasks"]["finished"] == 12
    nodes = {task["node"] for suite in suites for task in tasks(daemon, suite).values()}
    assert len(nodes) >= 3, nodes
    assert {task["node"] for task in tasks(daemon, suites[2]).values()} == {"n4"}


def test_a_drained_node_leaves_its_suite(start: Start, join: Join, tmp_path: Path) -> None:
    daemon = serving(start)
    join(daemon, "n1", "--tag", "x")
    suite = create(daemon, tags=["x"])
    running, waits = submit(
        daemon,
        suite,
        sh(f"touch {tmp_path}/runs; while [ ! -e {tmp_path}/gate ]; do sleep 0.02; done"),
        ["true"],
    )
    eventually((tmp_path / "runs").exists, what="it runs")
    request = daemon.control.ask("node-drain", 20_000, node="n1", wait=True)
    task_is(daemon, waits, "READY")
    (tmp_path / "gate").touch()
    reply = daemon.control.reply(request)
    assert reply.outcome == "ok", reply.body
    assert task_is(daemon, running, "FINISHED")["exit_status"] == 0, "what ran could end"
    assert not at_work(daemon, suite) and show(daemon, waits)["status"]["state"] == "READY"
    daemon.control.ok("node-cordon", node="n1", cordoned=False)
    ended(daemon, suite)


def test_cores_with_periodic_tasks_are_refused_with_the_reason(start: Start) -> None:
    if not {0, 1} <= os.sched_getaffinity(0):
        pytest.skip("needs CPUs 0 and 1")
    daemon = serving(start)
    periodic = workload("flight", 1, nodes={"local": {"available_cpus": [1]}})
    daemon.control.ok("schedule-submit", documents=[periodic])
    suite = create(daemon, 1, {"cpu_binding": {"cores": [1], "strategy": "exclusive"}})
    submit(daemon, suite, ["true"])

    def why() -> str:
        (node,) = status(daemon, suite)["nodes"]
        return "" if node["phase"] else str(node["reason"])

    assert "flight" in eventually(why, what="it is refused")
    beside = create(daemon, 1, {"cpu_binding": {"cores": [1], "strategy": "shared"}})
    submit(daemon, beside, ["true"])
    ended(daemon, beside)  # what is left of that core is for batch work


@pytest.mark.parametrize("where", ["local", "n1"])
def test_cores_that_another_holds_are_waited_for_with_the_reason(
    start: Start, join: Join, tmp_path: Path, where: str
) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs two CPUs")
    greedy = {
        "command": ["sleep", "60"],
        "cpus": "1",
        "placement": {"exclusive": True},
        "grace_s": 1.0,
        **({"node": where} if where != "local" else {}),
    }
    daemon = serving(start, units={"greedy": greedy})
    if where != "local":
        join(daemon, where, "--tag", "x")
    daemon.control.ok("start", targets=["greedy"])
    binding = {"cpu_binding": {"cores": [1], "strategy": "exclusive"}}
    hooks = {"provision": {"args": ["touch", str(tmp_path / "provisioned")]}}
    tags = [] if where == "local" else ["x"]
    suite = create(daemon, 1, binding, hooks=hooks, tags=tags)
    (task,) = submit(daemon, suite, ["true"])

    def why() -> str:
        (node,) = status(daemon, suite)["nodes"]
        return "" if node["phase"] else node["reason"]

    assert "greedy" in eventually(why, what="it is refused")
    assert any("greedy" in line for line in show(daemon, task)["lines"])
    assert not (tmp_path / "provisioned").exists(), "nothing is prepared where there is no room"
    daemon.control.ok("stop", targets=["greedy"])
    ended(daemon, suite)  # by itself
    assert not why()


def test_a_task_whose_workers_die_on_one_node_is_done_on_another(
    start: Start, join: Join, tmp_path: Path
) -> None:
    daemon = serving(start)
    join(daemon, "n1", "--tag", "x"), join(daemon, "n2", "--tag", "x")
    suite = create(daemon, 1, RESIDENT, tags=["x"])
    (gate,) = submit(daemon, suite, call("echo", 1))
    (task,) = submit(daemon, suite, call("crash_unless", str(tmp_path / "fine")))
    found = eventually(
        lambda: [show(daemon, task)] if show(daemon, task)["failures"] else [], what="a worker dies of it"
    )
    first = found[0]["failures"][0]["node"]
    eventually(
        lambda: show(daemon, task)["status"]["state"] == "FAILED" or len(show(daemon, task)["failures"]) >= 3,
        40.0,
        "it dies of it on both nodes",
    )
    assert task_is(daemon, task, "FAILED", timeout_s=40.0)
    shown = show(daemon, task)
    by_node = [failure["node"] for failure in shown["failures"]]
    assert {node: by_node.count(node) for node in by_node} == {"n1": 2, "n2": 2}, (first, shown)
    ended(daemon, suite)
    assert task_is(daemon, gate, "FINISHED")


def test_the_last_node_tries_again_what_it_was_excluded_from(
    start: Start, join: Join, tmp_path: Path
) -> None:
    daemon = serving(start)
    join(daemon, "n1", "--tag", "x")
    second = join(daemon, "n2", "--tag", "x")
    other = create(daemon, tags=["x"], priority=5)
    blocked = create(daemon, 1, RESIDENT, tags=["x"])
    daemon.control.ok("suite-agents", suite=str(other), remove=["n1"])
    submit(daemon, other, ["sleep", "55"])  # n2 is busy
    eventually(lambda: at_work(daemon, other) == {"n2"}, what="n2 is busy")
    (task,) = submit(daemon, blocked, call("crash_unless", str(tmp_path / "fine")))

    def is_excluded() -> bool:
        shown = show(daemon, task)
        return shown["status"]["state"] == "READY" and len(shown["failures"]) == 2

    eventually(is_excluded, what="n1 is excluded")
    (tmp_path / "fine").touch()
    assert task_is(daemon, task, "READY"), "it waits for n2"
    second.send_signal(signal.SIGSTOP)
    try:
        becomes(daemon, "n2", "LOST")
        ended(daemon, blocked, 30.0)
    finally:
        second.send_signal(signal.SIGCONT)
    assert task_is(daemon, task, "FINISHED")["node"] == "n1", "nobody else was left"
    becomes(daemon, "n2", "ALIVE")
    daemon.control.ok("suite-cancel", suite=str(other), cancel_running=True)
    ended(daemon, other)


# ---- rights ------------------------------------------------------------------------------------------------


def code_of(client: Client, verb: str, body: dict[str, Any]) -> str:
    try:
        client.request(verb, body)
    except MgmtError as error:
        return error.code
    return "ok"


def test_two_users_on_every_verb(start: Start) -> None:
    daemon = serving(start)
    with as_user(daemon, a_user(daemon, "alice")) as alice, as_user(daemon, a_user(daemon, "bob")) as bob:
        daemon.control.ok("group-grant", group="alice", node="local", role="write")
        suite = alice.request("suite-create", {"name": "hers"})["suite"]
        assert status(daemon, suite)["group"] == "alice" and status(daemon, suite)["creator"] == "alice"
        (task,) = alice.request("task-submit", {"suite": "hers", "tasks": [{"args": ["sleep", "55"]}]})[
            "tasks"
        ]
        (ready,) = alice.request(
            "task-submit", {"suite": "hers", "tasks": [{"args": ["true"], "after": [task]}]}
        )["tasks"]
        task_is(daemon, task, "RUNNING")
        reads = [
            ("task-show", {"task": task}),
            ("task-wait", {"task": task, "state": "ExecPending"}),
            ("tasks", {"suite": "hers"}),
            ("tasks", {"group": "alice"}),
            ("suite-wait", {"suite": "hers", "condition": "progress"}),
        ]
        writes = [
            ("task-submit", {"suite": "hers", "tasks": [{"args": ["true"]}]}),
            ("task-submit", {"group": "alice", "tasks": [{"args": ["true"]}]}),
            ("task-change", {"task": ready, "priority": 3}),
            ("suite-refresh", {"suite": "hers"}),
            ("suite-agents", {"suite": "hers", "add": ["local"]}),
            ("suite-create", {"group": "alice"}),
            ("suite-close", {"suite": "hers"}),
            ("task-cancel", {"suite": "hers"}),
            ("task-retry", {"suite": "hers"}),
            ("suite-cancel", {"suite": "hers", "cancel_running": True}),
        ]
        before = status(daemon, suite), tasks(daemon, suite)
        for verb, body in reads + writes:
            assert code_of(bob, verb, body) == "denied", (verb, body)
        assert bob.request("suites", {})["suites"] == [] and bob.request("tasks", {})["tasks"] == []
        assert code_of(bob, "task-cancel", {"tasks": [task]}) in ("ok", "denied")
        assert code_of(bob, "task-retry", {"tasks": [task]}) in ("ok", "denied")
        assert bob.request("workers", {})["workers"] == [], "workers of suites that are not bob's business"
        assert code_of(bob, "worker-pause", {"node": "local", "paused": True}) == "denied"
        assert (status(daemon, suite), tasks(daemon, suite)) == before, "what was refused changed nothing"
        alice.request("group-create", {"group": "team"})
        alice.request("group-add", {"group": "team", "user": "bob", "role": "read"})
        shared = alice.request("suite-create", {"group": "team", "name": "theirs"})["suite"]
        assert [one["suite"] for one in bob.request("suites", {})["suites"]] == [shared], "readers read"
        assert code_of(bob, "task-submit", {"suite": "theirs", "tasks": [{"args": ["true"]}]}) == "denied"
        alice.request("group-role", {"group": "team", "user": "bob", "role": "write"})
        assert code_of(bob, "task-submit", {"suite": "theirs", "tasks": [{"args": ["true"]}]}) == "ok"
        (waits,) = tasks(daemon, shared)
        assert any("may not send work" in line for line in show(daemon, waits)["lines"])
        for verb, body in reads + writes:
            assert code_of(alice, verb, body) == "ok", (verb, body)
        ended(daemon, suite)
        daemon.control.ok("group-grant", group="team", node="local", role="write")
        daemon.control.ok("suite-refresh", suite=str(shared))
        ended(daemon, shared)
    assert not workers(daemon, suite)


def test_workers_of_all_nodes_are_listed(start: Start, join: Join, tmp_path: Path) -> None:
    daemon = serving(start)
    agent = join(daemon, "n1")
    suite = create(daemon, 2, {"cpu_binding": {"cores": [0], "strategy": "shared"}})
    gate = sh(f"touch {tmp_path}/begun.$$; while [ ! -e {tmp_path}/gate ]; do sleep 0.02; done", timeout_s=60)
    submit(daemon, suite, *[gate] * 12)
    began_s = time.time()

    def busy() -> list[dict[str, Any]] | None:
        rows = workers(daemon, suite)
        return rows if len(rows) == 4 and all(row["state"] == "busy" for row in rows) else None

    rows = eventually(busy, what="the workers of both nodes are busy")
    assert rows is not None
    there = [row for row in rows if row["node"] == "n1"]
    assert len(there) == 2 and [row["node"] for row in rows[:2]] == ["local"] * 2, "this machine comes first"
    running = {task["task"] for task in tasks(daemon, suite, states=["RUNNING"]).values()}
    for row in there:
        assert row["suite"] == suite and row["kind"] == "process" and row["cpus"] == [0]
        assert row["task"] in running and os.path.exists(f"/proc/{row['pid']}")
        assert abs(row["started_at"] - began_s) < 30
    told = daemon.control.ok("workers", node="n1")
    assert [row["worker"] for row in told["workers"]] == [row["worker"] for row in there]
    (one,) = daemon.control.ok("workers", node="n1", workers=[there[0]["worker"]])["workers"]
    assert one["pid"] == there[0]["pid"]
    assert daemon.control.refused("workers", node="nobody")["code"] == "unknown-node"
    # A worker that is paused keeps what it was handed and has not begun.
    eventually(lambda: len([*tmp_path.glob("begun.*")]) == 4, what="all four have begun")
    daemon.control.ok("worker-pause", node="n1", paused=True)
    os.kill(agent.pid, signal.SIGSTOP)
    try:
        becomes(daemon, "n1", "SUSPECT")
        told = daemon.control.ok("workers", suite=str(suite))
        assert {row["node"] for row in told["workers"]} == {"local"}
        assert [one["node"] for one in told["unreachable"]] == ["n1"]
        assert "not heard" in told["unreachable"][0]["reason"]
    finally:
        os.kill(agent.pid, signal.SIGCONT)
    (tmp_path / "gate").touch()
    ended(daemon, suite, 40.0)
