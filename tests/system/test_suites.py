"""Suites and tasks of a real daemon with real workers: states, order, chains, retries, cancels."""

from __future__ import annotations

import itertools
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mgmt.client import Client
from mgmt.protocol.errors import MgmtError
from tests.system.clients import eventually
from tests.system.daemon import Daemon, alive, daemons
from tests.system.suites import (
    CLOSE_S,
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
    tail,
    task_is,
    tasks,
    workers,
)


@pytest.fixture(scope="module")
def shared() -> Iterator[Daemon]:
    """One daemon for tests that leave it as it was."""
    with daemons() as start:
        yield serving(start)


@pytest.fixture
def daemon(shared: Daemon) -> Iterator[Daemon]:
    """What a test leaves unfinished is over."""
    yield shared
    for suite in shared.control.ok("suites", states=["OPEN", "CLOSED"])["suites"]:
        shared.control.ok("suite-cancel", suite=str(suite["suite"]), cancel_running=True)


def test_what_a_process_gives_back(daemon: Daemon) -> None:
    suite = create(daemon, 2, name="words")
    good, bad, lost, dead = submit(
        daemon,
        suite,
        sh("echo out; echo err >&2"),
        sh("exit 3"),
        ["/nonexistent"],
        sh("kill -11 $$"),
    )
    body = ended(daemon, suite)
    assert body["state"] == "COMPLETE" and body["completed_at"]
    found = tasks(daemon, suite)
    assert {task["state"] for task in found.values()} == {"FINISHED"}, "an exit code is a result"
    assert [found[task]["exit_status"] for task in (good, bad, lost, dead)] == [0, 3, 127, -11]
    assert set(tail(daemon, good).split()) == {"out", "err"}
    assert found[good]["attempt"] == 1 and found[good]["node"] == "local"
    assert found[good]["started_at"] <= found[good]["finished_at"]
    adds_up(daemon, suite)


def test_the_environment_of_a_task(daemon: Daemon) -> None:
    suite = create(daemon)
    names = (
        "MITO_RESULT_DIR MITO_EXEC_DIR MITO_RESOURCE_DIR MITO_TASK_UUID MITO_UPSTREAM_TASK_UUID MITO_NEW_TASK"
    )
    (task,) = submit(
        daemon, suite, sh(f'for n in {names} MINE; do eval "echo $n=\\$$n"; done; pwd', envs={"MINE": "1"})
    )
    ended(daemon, suite)
    told = tail(daemon, task).splitlines()
    found = dict(line.partition("=")[::2] for line in told[:-1])
    assert found["MITO_TASK_UUID"] == show(daemon, task)["status"]["uuid"]
    assert found["MITO_UPSTREAM_TASK_UUID"] == "" and found["MINE"] == "1"
    assert found["MITO_EXEC_DIR"] == told[-1] and Path(found["MITO_RESULT_DIR"]).is_absolute()


def test_what_a_function_gives_back(daemon: Daemon) -> None:
    suite = create(daemon, worker=RESIDENT)
    good, bad, none = submit(
        daemon, suite, call("echo", 1, [2], {"x": "y"}), call("fail", "no"), call("nowhere")
    )
    ended(daemon, suite)
    assert show(daemon, good)["result"]["value"] == [1, [2], {"x": "y"}]
    assert show(daemon, bad)["result"]["exit_status"] == 1
    assert "ValueError: no" in tail(daemon, bad) and show(daemon, none)["result"]["exit_status"] != 0


def test_the_kinds_of_workers_do_not_mix(daemon: Daemon) -> None:
    suite = create(daemon)
    refused = daemon.control.refused("task-submit", suite=str(suite), tasks=[call("echo", 1)])
    assert refused["code"] == "bad-body" and "kind process" in refused["text"]


def test_states_of_a_suite(daemon: Daemon) -> None:
    suite = create(daemon, name="life")
    assert status(daemon, suite)["state"] == "OPEN"
    assert daemon.control.refused("suite-create", name="life")["code"] == "conflict"
    daemon.control.ok("suite-close", suite="life")
    assert status(daemon, suite)["state"] == "CLOSED", "an empty one is not complete"
    submit(daemon, suite, ["true"])
    assert ended(daemon, suite)["state"] == "COMPLETE"
    assert daemon.control.refused("suite-close", suite="life")["code"] == "conflict"
    (slow,) = submit(daemon, suite, ["sleep", "30"])
    again = status(daemon, suite)
    assert again["state"] == "OPEN" and again["completed_at"] is None
    task_is(daemon, slow, "RUNNING")
    (waits,) = submit(daemon, suite, ["true"], after=[slow])
    daemon.control.ok("suite-close", suite="life")
    first = daemon.control.ok("suite-cancel", suite="life", reason="enough")
    assert first["cancelled"] == 1 and first["suite"]["state"] == "CANCELLED"
    assert task_is(daemon, waits, "CANCELLED") and status(daemon, suite)["tasks"]["running"] == 1
    second = daemon.control.ok("suite-cancel", suite="life", cancel_running=True)
    assert second["suite"]["reason"] == "enough", "a second one changes nothing of it"
    ended(daemon, suite)
    assert task_is(daemon, slow, "CANCELLED")["message"] == "UserCancellation"
    assert (
        daemon.control.refused("task-submit", suite="life", tasks=[{"args": ["true"]}])["code"] == "conflict"
    )
    adds_up(daemon, suite)
    other = create(daemon, name="life")
    assert other != suite, "the name is free again"
    assert daemon.control.refused("suite-close", suite="nobody")["code"] == "unknown-suite"


def test_the_running_ones_may_finish(daemon: Daemon, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    suite = create(daemon)
    wait = f"while [ ! -e {gate} ]; do sleep 0.02; done"
    running, ready = submit(daemon, suite, sh(f"touch {tmp_path}/runs; {wait}"), ["true"])
    eventually((tmp_path / "runs").exists, what="it runs")
    daemon.control.ok("suite-cancel", suite=str(suite))
    counters = status(daemon, suite)["tasks"]
    assert counters["running"] >= 1 and counters["pending"] == counters["running"]
    gate.touch()
    ended(daemon, suite)
    assert task_is(daemon, running, "FINISHED")["exit_status"] == 0
    # The other one was in the hands of the node already, or was not: either end is one.
    assert task_is(daemon, ready, "CANCELLED", "FINISHED")
    adds_up(daemon, suite)


def test_priority_then_age(daemon: Daemon, tmp_path: Path) -> None:
    gate, log = tmp_path / "gate", tmp_path / "log"
    suite = create(daemon, worker={"task_prefetch_count": 1})
    blockers = submit(daemon, suite, *[sh(f"while [ ! -e {gate} ]; do sleep 0.02; done")] * 2, priority=100)
    task_is(daemon, blockers[1], "RUNNING")
    for priority in (0, 5, 0, 9, 5):
        submit(daemon, suite, sh(f"echo {priority} >> {log}"), priority=priority)
    gate.touch()
    ended(daemon, suite)
    assert log.read_text().split() == ["9", "5", "5", "0", "0"]


def test_a_more_urgent_suite_goes_first(daemon: Daemon, tmp_path: Path) -> None:
    log = tmp_path / "log"
    first = create(daemon)
    (gate,) = submit(daemon, first, sh(f"while [ ! -e {tmp_path}/gate ]; do sleep 0.02; done"))
    task_is(daemon, gate, "RUNNING")
    suites = [create(daemon, priority=priority) for priority in (0, 7, 3)]
    for suite, word in zip(suites, ("low", "high", "middle"), strict=True):
        submit(daemon, suite, sh(f"echo {word} >> {log}"))
    (tmp_path / "gate").touch()
    for suite in suites:
        ended(daemon, suite)
    assert log.read_text().split() == ["high", "middle", "low"]


def test_after_another(daemon: Daemon) -> None:
    suite = create(daemon, 2)
    good, bad = submit(daemon, suite, sh("sleep 0.2"), sh("sleep 0.2; exit 1"))
    after_good, after_bad = submit(
        daemon, suite, sh("echo $MITO_UPSTREAM_TASK_UUID"), ["true"], after=[good, bad]
    )
    (yes,) = submit(daemon, suite, ["true"], after=[good], after_condition="success")
    (no,) = submit(daemon, suite, ["true"], after=[bad], after_condition="success")
    (beyond,) = submit(daemon, suite, ["true"], after=[no])
    waiting = daemon.control.ask("task-wait", 20_000, task=beyond, state="TaskCommitted")
    assert show(daemon, no)["upstream"] == [bad]
    ended(daemon, suite)
    assert daemon.control.reply(waiting, 5.0).body["state"] == "CANCELLED", "whoever waits hears of it"
    found = tasks(daemon, suite)
    assert tail(daemon, after_good).strip() == found[good]["uuid"]
    assert {found[task]["state"] for task in (after_good, after_bad, yes)} == {"FINISHED"}
    assert found[no]["state"] == found[beyond]["state"] == "CANCELLED"
    assert found[after_good]["started_at"] >= max(found[good]["finished_at"], found[bad]["finished_at"])
    refused = daemon.control.refused(
        "task-submit", suite=str(suite), tasks=[{"args": ["true"], "after": [10**9]}]
    )
    assert refused["code"] == "unknown-task"
    adds_up(daemon, suite)


def test_watch_how_far_another_is(daemon: Daemon, tmp_path: Path) -> None:
    suite = create(daemon, 2)
    (server,) = submit(daemon, suite, sh(f"while [ ! -e {tmp_path}/done ]; do sleep 0.02; done"))
    (client,) = submit(
        daemon, suite, sh(f"touch {tmp_path}/done"), watch={"task": server, "state": "ExecSpawned"}
    )
    reply = daemon.control.ok("task-wait", task=client, state="TaskCommitted")
    assert reply["state"] == "FINISHED"
    ended(daemon, suite)
    found = tasks(daemon, suite)
    assert found[client]["started_at"] < found[server]["finished_at"], "it ran beside the one it watched"
    assert daemon.control.refused("task-wait", task=client, state="ExecTimeout")["code"] == "conflict"


def test_retries_by_exit_code(daemon: Daemon, tmp_path: Path) -> None:
    suite = create(daemon)

    def count(name: str, code: int) -> dict[str, object]:
        return sh(f"echo x >> {tmp_path}/{name}; [ $(wc -l < {tmp_path}/{name}) -ge 3 ] || exit {code}")

    third, other, never = submit(
        daemon,
        suite,
        {**count("a", 7), "retries": {"limit": 5, "on_exit": [7]}},
        {**count("b", 8), "retries": {"limit": 5, "on_exit": [7]}},
        {"args": ["false"], "retries": {"limit": 2}},
    )
    ended(daemon, suite)
    found = tasks(daemon, suite)
    assert (found[third]["attempt"], found[third]["exit_status"]) == (3, 0)
    assert (found[other]["attempt"], found[other]["exit_status"]) == (1, 8)
    assert (found[never]["attempt"], found[never]["exit_status"]) == (3, 1)
    adds_up(daemon, suite)


def test_a_retry_waits_its_delay(daemon: Daemon, tmp_path: Path) -> None:
    suite = create(daemon)
    (task,) = submit(
        daemon, suite, sh(f"date +%s.%N >> {tmp_path}/at; exit 1"), retries={"limit": 2, "delay_s": 0.5}
    )
    ended(daemon, suite, 15.0)
    at = [float(line) for line in (tmp_path / "at").read_text().split()]
    gaps = [later - earlier for earlier, later in itertools.pairwise(at)]
    assert len(gaps) == 2 and gaps[0] >= 0.45 and gaps[1] >= 0.9, "it doubles"
    assert max(gaps) < 4.0, "it is not tried when the next sweep comes by"
    assert show(daemon, task)["status"]["state"] == "FINISHED"


def test_a_task_writes_the_next_one(daemon: Daemon) -> None:
    suite = create(daemon)
    follower = json.dumps({"args": ["sh", "-c", "echo $MITO_UPSTREAM_TASK_UUID"]})
    first, broken = submit(
        daemon, suite, sh(f"echo '{follower}' > $MITO_NEW_TASK"), sh("echo nonsense > $MITO_NEW_TASK")
    )
    ended(daemon, suite)
    found = tasks(daemon, suite)
    (new,) = set(found) - {first, broken}
    assert tail(daemon, new).strip() == found[first]["uuid"]
    assert found[broken]["message"] == "SubmitNewTaskFailed" and found[broken]["state"] == "FINISHED"
    adds_up(daemon, suite)


def test_a_task_that_takes_too_long_ends_with_all_it_started(daemon: Daemon, tmp_path: Path) -> None:
    suite = create(daemon)
    (task,) = submit(
        daemon,
        suite,
        sh(
            f"setsid sleep 50 & echo $! >> {tmp_path}/p; sleep 50 & echo $! >> {tmp_path}/p; wait",
            timeout_s=0.5,
        ),
    )
    began_s = time.monotonic()
    ended(daemon, suite)
    assert time.monotonic() - began_s < 9.0, "the children ended by TERM, not by the grace's end"
    assert show(daemon, task)["result"]["message"] == "ExecTimeout"
    pids = [int(pid) for pid in (tmp_path / "p").read_text().split()]
    assert len(pids) == 2
    eventually(lambda: not any(alive(pid) for pid in pids), what="its children are gone")


def test_a_function_that_takes_too_long_costs_its_worker_and_no_strike(daemon: Daemon) -> None:
    suite = create(daemon, worker=RESIDENT)
    slow, good = submit(daemon, suite, call("loop", timeout_s=0.5), call("echo", 1))
    ended(daemon, suite)
    assert show(daemon, slow)["result"]["message"] == "ExecTimeout" and not show(daemon, slow)["failures"]
    assert show(daemon, good)["status"]["state"] == "FINISHED"


def test_cancel_one_of_two(daemon: Daemon, tmp_path: Path) -> None:
    suite = create(daemon, 2)
    wait = f"echo >> {tmp_path}/runs; while [ ! -e {tmp_path}/gate ]; do sleep 0.02; done"
    one, two = submit(daemon, suite, *[sh(wait)] * 2)
    eventually(
        lambda: (tmp_path / "runs").exists() and len((tmp_path / "runs").read_text()) == 2, what="both run"
    )
    left = daemon.control.ok("task-cancel", tasks=[one], running=False)
    assert left == {"cancelled": 0, "ending": 0}
    assert daemon.control.ok("task-cancel", tasks=[one]) == {"cancelled": 0, "ending": 1}
    assert task_is(daemon, one, "CANCELLED")["message"] == "UserCancellation"
    assert task_is(daemon, two, "RUNNING")
    (tmp_path / "gate").touch()
    ended(daemon, suite)
    assert task_is(daemon, two, "FINISHED")
    assert daemon.control.ok("task-retry", tasks=[one])["tasks"] == [one]
    ended(daemon, suite)
    assert task_is(daemon, one, "FINISHED")["attempt"] == 2
    adds_up(daemon, suite)


def test_a_key_makes_submitting_safe_to_repeat(daemon: Daemon) -> None:
    suite = create(daemon)
    body = {"suite": str(suite), "tasks": [{"args": ["true"]}] * 3, "key": "once"}
    with Client(daemon.endpoint("control"), timeout_s=20.0) as client:
        first, again = client.request("task-submit", body), client.request("task-submit", body)
        assert (first["tasks"], first["already"], again["already"]) == (again["tasks"], False, True)
        with pytest.raises(MgmtError) as refused:
            client.request("task-submit", {**body, "tasks": [{"args": ["false"]}]})
    assert refused.value.code == "conflict"
    ended(daemon, suite)
    assert status(daemon, suite)["tasks"]["total"] == 3


def test_a_submission_that_waits(daemon: Daemon, tmp_path: Path) -> None:
    suite, functions = create(daemon, 2), create(daemon, 1, RESIDENT)

    def waited(suite: int, task: dict[str, Any], **more: Any) -> dict[str, Any]:
        with Client(daemon.endpoint("control"), timeout_s=20.0) as client:
            return client.request("task-submit", {"suite": str(suite), "tasks": [task], "wait": True, **more})

    for _ in range(3):  # at first nobody is there to have it at once
        told = waited(suite, sh("echo out; exit 3"), key="waited")
        assert told["ended"] == {
            "state": "FINISHED", "exit_status": 3, "message": "", "tail": "out\n", "value": None,
        }  # fmt: skip
        assert waited(functions, call("echo", 7))["ended"]["value"] == 7
    assert told["already"] and status(daemon, suite)["tasks"]["total"] == 1
    third = sh(f"echo x >> {tmp_path}/n; [ $(wc -l < {tmp_path}/n) -ge 3 ]")
    assert waited(suite, {**third, "retries": {"limit": 5}})["ended"]["exit_status"] == 0
    (bad,) = submit(daemon, suite, ["false"])
    after = waited(suite, {"args": ["true"], "after": [bad], "after_condition": "success"})
    assert after["ended"]["state"] == "CANCELLED"
    waiting = daemon.control.ask(
        "task-submit", 20_000, suite=str(suite), tasks=[sh("sleep 50", labels=["long"])], wait=True
    )
    (long,) = eventually(lambda: tasks(daemon, suite, labels=["long"]), what="it is there")
    daemon.control.ok("task-cancel", tasks=[long])
    assert daemon.control.reply(waiting, 20.0).body["ended"]["message"] == "UserCancellation"
    brief = daemon.control.ask("task-submit", 50, suite=str(suite), tasks=[sh("sleep 0.3")], wait=True)
    assert daemon.control.reply(brief, 20.0).outcome == "expired"
    ended(daemon, suite)
    assert len(tasks(daemon, suite, states=["CANCELLED"])) == 2, "what nobody waits for any more went on"
    two = daemon.control.refused("task-submit", suite=str(suite), tasks=[sh("true")] * 2, wait=True)
    assert two["code"] == "bad-body"
    adds_up(daemon, suite)


def test_labels_priority_and_what_is_listed(daemon: Daemon) -> None:
    suite = create(daemon, labels=["nightly"])
    (gate,) = submit(daemon, suite, ["sleep", "30"])
    task_is(daemon, gate, "RUNNING")
    (task,) = submit(daemon, suite, ["true"], labels=["a", "b"], priority=2, after=[gate])
    changed = daemon.control.ok("task-change", task=task, priority=7, add_labels=["c"], remove_labels=["a"])
    assert (changed["priority"], changed["labels"]) == (7, ["b", "c"])
    assert set(tasks(daemon, suite, labels=["c"])) == set(tasks(daemon, suite, priority=">=7")) == {task}
    assert daemon.control.refused("task-change", task=gate, priority=1)["code"] == "conflict"
    assert any(one["suite"] == suite for one in daemon.control.ok("suites", labels=["nightly"])["suites"])
    assert show(daemon, task)["lines"] == [f"it waits for task {gate}"]


@pytest.mark.parametrize(
    ("strategy", "wanted"),
    [("round-robin", ["0", "1", "0"]), ("exclusive", ["0", "1"]), ("shared", ["0-1", "0-1"])],
)
def test_every_thread_of_a_worker_is_bound(daemon: Daemon, strategy: str, wanted: list[str]) -> None:
    if not {0, 1} <= os.sched_getaffinity(0):
        pytest.skip("needs CPUs 0 and 1")
    binding = {"cores": [0, 1], "strategy": strategy}
    for kind in ("process", "resident"):
        suite = create(daemon, len(wanted), {"kind": kind, "cpu_binding": binding})
        task = (
            sh("sleep 0.3; grep Cpus_allowed_list /proc/self/status")
            if kind == "process"
            else call("echo", 1)
        )
        numbers = submit(daemon, suite, *[task] * len(wanted))

        def up(suite: int = suite) -> list[int]:
            pids = [one["pid"] for one in workers(daemon, suite)]
            return [pid for pid in pids if pid] if len(pids) == len(wanted) and all(pids) else []

        masks: list[str] = []
        for pid in eventually(up, what="the workers are up"):
            found = {
                line.split()[1]
                for status in Path(f"/proc/{pid}/task").glob("*/status")
                for line in status.read_text().splitlines()
                if line.startswith("Cpus_allowed_list")
            }
            assert len(found) == 1, f"threads of one worker differ: {found}"
            masks += found
        assert masks == wanted
        last = max(workers(daemon, suite), key=lambda one: str(one["worker"]))
        os.kill(last["pid"], signal.SIGKILL)

        def again(suite: int = suite, last: dict[str, Any] = last) -> int:
            (one,) = (one for one in workers(daemon, suite) if one["worker"] == last["worker"])
            return int(one["pid"] or 0) if one["pid"] != last["pid"] else 0

        status = Path(f"/proc/{eventually(again, what='another worker is up')}/status").read_text()
        assert f"Cpus_allowed_list:\t{wanted[-1]}\n" in status, "the next one has the same CPUs"
        ended(daemon, suite)
        if kind == "process":
            assert {tail(daemon, number).split()[1] for number in numbers} <= set(wanted)


def test_more_exclusive_workers_than_cores_are_refused(daemon: Daemon) -> None:
    binding = {"cores": [0], "strategy": "exclusive"}
    worker = {"worker_count": 2, "cpu_binding": binding}
    assert daemon.control.refused("suite-create", worker=worker)["code"] == "bad-body"


def test_pause_and_resume(daemon: Daemon) -> None:
    suite = create(daemon, 2)
    daemon.control.ok("worker-pause", node="local", paused=True)
    numbers = submit(daemon, suite, *[["true"]] * 5)
    eventually(lambda: [one for one in workers(daemon, suite) if one["state"] == "paused"], what="they pause")
    assert not any(task["state"] == "FINISHED" for task in tasks(daemon, suite).values())
    daemon.control.ok("worker-pause", node="local", paused=False)
    ended(daemon, suite)
    assert len(tasks(daemon, suite, states=["FINISHED"])) == len(numbers)


def test_an_open_suite_is_closed_when_nothing_comes(start_short: Daemon) -> None:
    daemon = start_short
    empty = create(daemon)
    suite = create(daemon)
    submit(daemon, suite, ["sleep", "30"])
    eventually(lambda: status(daemon, suite)["state"] == "CLOSED", what="it is closed")
    assert status(daemon, empty)["state"] == "OPEN", "nothing of it is pending"
    submit(daemon, suite, ["sleep", "30"])
    again = status(daemon, suite)
    assert again["state"] == "OPEN", "a new task opens it"
    time_open_s = time.monotonic()
    eventually(lambda: status(daemon, suite)["state"] == "CLOSED", what="it is closed again")
    assert time.monotonic() - time_open_s > CLOSE_S * 0.5, "the time runs from the last task"
    daemon.control.ok("suite-cancel", suite=str(suite), cancel_running=True)
    ended(daemon, suite)


@pytest.fixture
def start_short() -> Iterator[Daemon]:
    with daemons() as start:
        yield serving(start, close_s=CLOSE_S)


def test_a_thousand_quick_tasks_leave_nothing(daemon: Daemon) -> None:
    suite = create(daemon, 2)
    before = (0, 0)
    for count in (100, 500, 500):
        submit(daemon, suite, *[["true"]] * count)
        ended(daemon, suite, 60.0)
        before = before if before[0] else (daemon.descriptors(), daemon.threads())
    adds_up(daemon, suite)
    assert status(daemon, suite)["tasks"]["finished"] == 1100
    # What the daemon makes once when it is first needed may have come meanwhile.
    assert daemon.descriptors() < before[0] + 50 and daemon.threads() < before[1] + 5
    (process,) = {Path(f"/proc/{one['pid']}") for one in workers(daemon, suite)[:1]}
    assert not (process / "task" / process.name / "children").read_text().split(), "neither child nor zombie"
    for children in Path(f"/proc/{daemon.pid}/task").glob("*/children"):
        assert all(alive(int(pid)) for pid in children.read_text().split()), "no zombie of the daemon"


@pytest.mark.parametrize("where", ["same suite", "other suite", "independent"])
@pytest.mark.parametrize("how", ["fails", "is cancelled"])
def test_who_waits_for_a_task_whose_upstream_did_not_succeed_hears_it_at_once(
    daemon: Daemon, tmp_path: Path, where: str, how: str
) -> None:
    upper = create(daemon)
    (first,) = submit(
        daemon, upper, sh(f"touch {tmp_path}/runs; until [ -e {tmp_path}/gate ]; do sleep 0.02; done; exit 3")
    )
    below = {"args": ["true"], "after": [first], "after_condition": "success"}
    if where == "independent":
        (second,) = daemon.control.ok("task-submit", tasks=[below])["tasks"]
    else:
        (second,) = submit(daemon, upper if where == "same suite" else create(daemon), below)
    (third,) = submit(daemon, upper, ["true"], after=[second])
    waits = [daemon.control.ask("task-wait", 30_000, task=task) for task in (second, third)]
    far = daemon.control.ask("task-wait", 30_000, task=third, state="ExecSpawned")
    eventually((tmp_path / "runs").exists, what="the first runs")
    began_s = time.monotonic()
    if how == "fails":
        (tmp_path / "gate").touch()
    else:
        daemon.control.ok("task-cancel", tasks=[first])
    for request, because in zip(waits, (first, second), strict=True):
        reply = daemon.control.reply(request)
        assert reply.outcome == "ok", reply.body
        assert reply.body["state"] == "CANCELLED"
        assert reply.body["message"] == f"task {because} did not succeed"
    reply = daemon.control.reply(far)
    why = f"task {third} has ended without having been ExecSpawned (CANCELLED: task {second} did not succeed)"
    assert (reply.body["code"], reply.body["text"]) == ("conflict", why)
    assert time.monotonic() - began_s < 15, "nothing was polled, no sweep was waited for"
    assert daemon.control.ok("task-wait", task=second)["state"] == "CANCELLED", "later, too"
    assert show(daemon, second)["lines"] == [f"task {first} did not succeed"]
