"""Tasks that are processes, in a real daemon: started, released together, watched, there for the next daemon."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from mgmt.rt import segment
from tests.rt.rig import SOURCES, build, fifo_refusal
from tests.system.agents import a_daemon, agents, becomes
from tests.system.clients import eventually
from tests.system.daemon import Daemon, Start, alive, config

CPU = min(os.sched_getaffinity(0))
PERIOD_US = 20_000


@pytest.fixture(scope="session")
def client(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(build(SOURCES / "client.c", tmp_path_factory.mktemp("rt") / "client"))


def task(name: str, *command: str, **keys: Any) -> dict[str, Any]:
    """A task of policy normal, which everybody may use."""
    times = {"period_us": PERIOD_US, "wcet_us": 1000, "policy": "normal"}
    return {"name": name, **times, "command": list(command), **keys}


def urgent() -> dict[str, Any]:
    """So slow, and FIFO where it is permitted, that other load on the machine makes it miss nothing."""
    return {"period_us": 200_000, **({} if fifo_refusal() else {"policy": "fifo", "priority": 50})}


def workload(*tasks: dict[str, Any], name: str = "w") -> dict[str, Any]:
    return {"workload": name, "nodes": {"local": {"available_cpus": [CPU]}}, "tasks": list(tasks)}


def submit(daemon: Daemon, document: dict[str, Any], **keys: Any) -> dict[str, Any]:
    """The answer; the units of its tasks are there. They follow the answer, which says that it is written."""
    told = daemon.control.ok("schedule-submit", documents=[document], **keys)
    named = {f"{document['workload']}.{task['name']}" for task in document.get("tasks", ())}
    eventually(lambda: named <= {unit["unit"] for unit in daemon.status()["units"]}, what="its units")
    return told


def read(daemon: Daemon, unit: str) -> segment.Statistics:
    """Of the latest version. It is laid down when the submission is written, which is after the answer."""

    def latest() -> Path | None:
        return max(
            (daemon.runtime / "rt").glob(f"{unit}.*"), key=lambda path: int(path.suffix[1:]), default=None
        )

    path = eventually(latest)
    assert path is not None
    return segment.read(path)


def jobs(daemon: Daemon, unit: str, more_than: int) -> segment.Statistics:
    """Statistics once so many jobs are completed."""

    return seen(daemon, unit, lambda statistics: statistics.completed > more_than)


def seen(daemon: Daemon, unit: str, condition: Callable[[segment.Statistics], bool]) -> segment.Statistics:
    """Statistics once they are so."""
    found: list[segment.Statistics] = []

    def look() -> bool:
        found[:] = [read(daemon, unit)]
        return condition(found[0])

    eventually(look)
    return found[0]


def faults(daemon: Daemon, what: str) -> list[dict[str, Any]]:
    events = daemon.control.ok("subscribe", since=0, follow=False)["events"]
    return [event for event in events if event["kind"] == "fault" and event["what"] == what]


def executives(daemon: Daemon) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and Path(os.readlink(entry / "exe")).name == "mgmt-executive":
                ppid = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                found += [int(entry.name)] if ppid == daemon.pid else []
        except OSError:
            continue
    return found


def test_tasks_are_started_on_their_cpu_and_released_together(start: Start, client: str) -> None:
    daemon = start()
    submit(
        daemon, workload(task("a", client), task("b", client, release_us=5000), task("c", "/bin/sleep", "99"))
    )
    first, second = jobs(daemon, "w.a", 3), jobs(daemon, "w.b", 3)
    assert first.t0_ns == second.t0_ns and second.plan.releases_ns == (5_000_000,)
    assert first.plan.cycle_ns == first.plan.deadline_ns == PERIOD_US * 1000
    assert first.pid == daemon.unit("w.a")["pid"] and daemon.unit("w.c")["state"] == "RUNNING"
    assert os.sched_getaffinity(first.pid) == {CPU}
    daemon.control.ok("schedule-remove", workload="w")
    eventually(lambda: not alive(first.pid) and not alive(second.pid))
    eventually(lambda: not list((daemon.runtime / "rt").iterdir()))
    eventually(lambda: not daemon.control.ok("status", units=[], all=True)["units"])


def test_a_task_has_its_policy_before_it_is_executed(start: Start, client: str) -> None:
    if fifo_refusal():
        pytest.skip(f"FIFO is not permitted here: {fifo_refusal()}")
    daemon = start()
    submit(daemon, workload(task("a", client, policy="fifo", priority=7)))
    pid = jobs(daemon, "w.a", 3).pid
    policy = os.sched_getscheduler(pid) & ~os.SCHED_RESET_ON_FORK
    assert policy == os.SCHED_FIFO and os.sched_getparam(pid).sched_priority == 7


def test_missed_deadlines_make_a_fault_exactly_at_max_dmiss(start: Start, client: str) -> None:
    daemon = start()
    late = task("late", client, "--stop-at", "4", max_dmiss=3, overrun="restart", **urgent())
    submit(daemon, workload(late))
    fault = eventually(lambda: faults(daemon, "fault"))[0]
    assert (fault["workload"], fault["task"], fault["action"]) == ("w", "late", "restart")
    assert (fault["job"], fault["misses"], fault["count"]) == (6, 3, 1)
    assert faults(daemon, "miss")[0]["job"] == 4
    # Its next life enters the grid of the first.
    again = seen(daemon, "w.late", lambda s: s.joins == 2 and s.released > s.first_job)
    assert again.first_job > 6 and daemon.unit("w.late")["incarnation"] == 2


def test_a_task_killed_for_its_lateness_stays_dead(start: Start, client: str) -> None:
    daemon = start()
    submit(
        daemon,
        workload(task("late", client, "--stop-at", "2", max_dmiss=2, overrun="kill", **urgent())),
    )
    eventually(lambda: daemon.unit("w.late")["state"] == "EXITED")
    assert [event["action"] for event in faults(daemon, "fault")] == ["kill"]


def test_the_tasks_of_a_killed_daemon_go_on_for_the_next(start: Start, client: str) -> None:
    daemon = start()
    submit(daemon, workload(task("a", client), task("b", client)))
    before = jobs(daemon, "w.a", 3)
    daemon.crash()
    daemon.start()
    after = jobs(daemon, "w.a", before.completed + 3)
    assert (after.pid, after.t0_ns, after.joins) == (before.pid, before.t0_ns, 1)
    # Whoever looks at the deadlines has looked at those of now.
    eventually(lambda: read(daemon, "w.a").next_job > after.released)
    assert read(daemon, "w.a").misses == 0 or not faults(daemon, "fault")
    assert len(executives(daemon)) == 1


def test_an_executive_that_is_killed_is_replaced_and_the_tasks_do_not_notice(
    start: Start, client: str
) -> None:
    daemon = start()
    submit(daemon, workload(task("a", client)))
    before = jobs(daemon, "w.a", 3)
    (pid,) = eventually(lambda: executives(daemon))
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: executives(daemon) not in ([], [pid]))
    assert "ended" in faults(daemon, "executive")[0]["reason"]
    after = jobs(daemon, "w.a", before.completed + 5)
    assert (after.pid, after.joins) == (before.pid, 1)
    eventually(lambda: read(daemon, "w.a").next_job > after.released)


def test_what_replaces_a_workload_has_a_start_of_its_own(start: Start, client: str) -> None:
    daemon = start()
    submit(daemon, workload(task("a", client), task("b", client)))
    before = jobs(daemon, "w.a", 2)
    submit(daemon, workload(task("a", client, period_us=30_000)), replace=True)
    eventually(lambda: not alive(before.pid))
    after = jobs(daemon, "w.a", 2)
    assert after.t0_ns > before.t0_ns and after.plan.cycle_ns == 30_000_000
    eventually(lambda: [u["unit"] for u in daemon.control.ok("status", all=True)["units"]] == ["w.a"])


def test_a_workload_is_there_again_after_a_stop(start: Start, client: str) -> None:
    daemon = start()
    submit(daemon, workload(task("a", client)))
    before = jobs(daemon, "w.a", 2)
    assert daemon.stop() == 0 and not alive(before.pid)
    daemon.start()
    after = seen(daemon, "w.a", lambda s: s.joins == 2 and s.done > s.first_job)
    assert after.t0_ns == before.t0_ns and after.first_job > before.done


def test_releases_by_signal(start: Start, client: str) -> None:
    daemon = start()
    submit(daemon, workload(task("s", client, "--signals", "3", release="signal")))
    eventually(lambda: read(daemon, "w.s").signals >= 3)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"command": []}, "command"),
        ({"command": "sleep 1"}, "must be a list of texts"),
        ({"command": ["{nothing}"]}, "unknown placeholder"),
        ({"release": "never"}, "must be one of self, signal"),
        ({"overrun": "restart"}, "set max_dmiss"),
        ({"release": "signal", "max_dmiss": 1}, "released by signal"),
        ({"release_us": PERIOD_US}, "below the period"),
        ({"policy": "deadline"}, "use fifo or rr"),
        ({"name": "a b"}, "unit 'w.a b'"),
        ({"memory_locked": 1}, "true or false"),
    ],
)
def test_what_cannot_be_run_is_refused(start: Start, keys: dict[str, Any], said: str) -> None:
    daemon = start()
    document = workload({**task("a", "/bin/sleep", "1"), **keys})
    refusal = daemon.control.refused("schedule-submit", documents=[document])
    assert refusal["code"] == "bad-workload" and said in refusal["text"]


def test_a_unit_of_the_configuration_keeps_its_name(start: Start) -> None:
    daemon = start(config(units={"w.a": {"command": ["/bin/sleep", "9"]}}))
    refusal = daemon.control.refused("schedule-submit", documents=[workload(task("a", "/bin/sleep", "1"))])
    assert refusal["code"] == "conflict" and "w.a" in refusal["text"]


def test_what_was_measured_is_shown_and_drawn(start: Start, client: str, tmp_path: Path) -> None:
    daemon = start()
    submit(
        daemon,
        workload(task("a", client, "--burn-us", "500"), task("b", client), task("c", "/bin/sleep", "99")),
    )
    submit(daemon, workload(task("z", "/bin/sleep", "99"), name="v"))
    jobs(daemon, "w.a", 5)
    jobs(daemon, "w.b", 5)
    reply = daemon.control.ok("schedule-stat", workload="w", records=True)
    assert reply["next"] is None and [row["unit"] for row in reply["tasks"]] == ["w.a", "w.b", "w.c"]
    first, second, third = reply["tasks"]
    assert first["state"] == "released" and first["t0_ns"] == second["t0_ns"] > 0
    assert first["jobs"] > 5 and first["execution"]["p50_us"] >= 500 <= first["response"]["max_us"]
    for name in ("jitter", "execution", "response"):
        found = first[name]
        assert 0 <= found["p50_us"] <= found["p90_us"] <= found["p99_us"] <= found["max_us"]
    for one in first["records"]:
        assert one["release_ns"] == first["t0_ns"] + one["job"] * PERIOD_US * 1000
        assert one["release_ns"] <= one["start_ns"] <= one["end_ns"]
    assert third["jobs"] == 0 and third["jitter"] is None and third["records"] == []
    assert len(daemon.control.ok("schedule-stat")["tasks"]) == 4
    assert daemon.control.refused("schedule-stat", workload="x")["code"] == "unknown-workload"

    said = command(daemon, "schedule", "stat", "w").splitlines()
    assert said[0].startswith("TASK") and said[1].startswith("w.a") and "released" in said[1]
    picture = tmp_path / "actual.svg"
    command(daemon, "schedule", "gantt", "--actual", str(picture), "w")
    drawn = ElementTree.parse(picture)
    told = [node.text or "" for node in drawn.iter("{http://www.w3.org/2000/svg}title")]
    assert any(text.startswith("a job ") for text in told) and any(text.startswith("b job ") for text in told)


def command(daemon: Daemon, *words: str) -> str:
    words = ("--endpoint", daemon.endpoint("control"), *words)
    done = subprocess.run(
        [sys.executable, "-m", "mgmt_cli", *words],
        capture_output=True,
        text=True,
        env=daemon.environ,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# ---- nodes ------------------------------------------------------------------------------------------------


def nodes_of(*names: str) -> dict[str, Any]:
    return {name: {"available_cpus": [CPU]} for name in names}


def start_of(daemon: Daemon) -> str:
    """What was said about the common start, once there is one."""

    def look() -> list[str]:
        events = daemon.control.ok("subscribe", since=0, follow=False)["events"]
        return [event["reason"] for event in events if event.get("what") == "started"]

    return eventually(look)[-1]


def test_tasks_of_several_nodes_start_together_within_what_is_said(start: Start, client: str) -> None:
    with agents() as join:
        daemon = a_daemon(start)
        first, second = join(daemon, "n1"), join(daemon, "n2")
        document = {
            **workload(
                task("a", client, node="n1"), task("b", client, node="n2"), task("c", client, node="local")
            ),
            "nodes": nodes_of("local", "n1", "n2"),
        }
        submit(daemon, document)
        said = re.search(r"on local, n1, n2: within ([0-9.]+) ms", start_of(daemon))
        assert said is not None
        found = [jobs(first, "w.a", 3), jobs(second, "w.b", 3), jobs(daemon, "w.c", 3)]
        t0 = [statistics.t0_ns for statistics in found]
        assert 0 < max(t0) - min(t0) <= 2e6 * float(said[1]) + 1 or max(t0) == min(t0)
        assert daemon.unit("w.a")["node"] == "n1"

        first.crash()
        first.start()
        becomes(daemon, "n1", "ALIVE")
        after = jobs(first, "w.a", found[0].completed + 5)
        assert (after.pid, after.t0_ns) == (found[0].pid, found[0].t0_ns)
        eventually(lambda: read(first, "w.a").next_job > after.released)  # it is watched again

        daemon.control.ok("schedule-remove", workload="w")
        eventually(lambda: not any(alive(statistics.pid) for statistics in found))
        eventually(lambda: not any(list((one.runtime / "rt").iterdir()) for one in (daemon, first, second)))


def test_a_node_that_is_not_there_leaves_everything_as_it_was(start: Start, client: str) -> None:
    with agents() as join:
        daemon = a_daemon(start)
        node = join(daemon, "n1")
        both = nodes_of("local", "n1", "n2")
        old = {**workload(task("a", client, node="n1")), "nodes": both}
        submit(daemon, old)
        before = jobs(node, "w.a", 2)
        new = {**workload(task("a", client, node="n1"), task("b", client, node="n2")), "nodes": both}
        refusal = daemon.control.refused("schedule-submit", documents=[new], replace=True)
        assert refusal["code"] == "unreachable" and refusal["detail"]["nodes"] == ["n2"]
        after = jobs(node, "w.a", before.completed + 3)
        assert (after.pid, after.t0_ns) == (before.pid, before.t0_ns)
        assert submit(daemon, old)["already"]
        assert len(list((node.runtime / "rt").iterdir())) == 1


def test_a_node_that_refuses_is_named_and_the_others_let_go(
    start: Start, client: str, tmp_path: Path
) -> None:
    policy = tmp_path / "policy.json"
    policy.write_text(json.dumps({"executables": ["/nowhere"], "env": ["MGMT_RT"]}))
    with agents() as join:
        daemon = a_daemon(start)
        willing = join(daemon, "n1")
        join(daemon, "n2", "--policy", str(policy))
        document = {
            **workload(task("a", client, node="n1"), task("b", client, node="n2")),
            "nodes": nodes_of("n1", "n2"),
        }
        refusal = daemon.control.refused("schedule-submit", documents=[document])
        assert refusal["code"] == "not-schedulable" and refusal["detail"]["node"] == "n2"
        assert "executables" in refusal["text"]
        assert daemon.control.ok("schedule-show")["workloads"] == []
        folder = willing.runtime / "rt"
        eventually(lambda: not folder.exists() or not list(folder.iterdir()))


def test_a_fault_on_a_node_is_an_event_of_the_daemon(start: Start, client: str) -> None:
    with agents() as join:
        daemon = a_daemon(start)
        join(daemon, "n1")
        late = task("late", client, "--stop-at", "3", max_dmiss=2, node="n1", **urgent())
        submit(daemon, {**workload(late), "nodes": nodes_of("n1")})
        fault = eventually(lambda: faults(daemon, "fault"))[0]
        assert (fault["node"], fault["task"], fault["job"], fault["misses"]) == ("n1", "late", 4, 2)
