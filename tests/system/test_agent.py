"""Agents on this machine: they join, run what they are sent, and tell about it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from mgmt.protocol.frames import DataKind
from mgmt_cli.schemas import schema_of
from tests.system.agents import LOST_S, Join, a_daemon, agents, becomes, measured, node, sleeper
from tests.system.clients import Data, eventually
from tests.system.daemon import Daemon, Start, alive, faulty, shipped


@pytest.fixture
def join() -> Iterator[Join]:
    with agents() as make:
        yield make


def mgmt(daemon: Daemon, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """The command against this daemon."""
    return subprocess.run(
        [sys.executable, "-m", "mgmt_cli", *arguments],
        env={**daemon.environ, "MGMT_ENDPOINT": daemon.endpoint("control"), **environ},
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )


# ---- joining ---------------------------------------------------------------------------------------------


def test_an_agent_joins_and_is_seen(start: Start, join: Join) -> None:
    daemon = a_daemon(start)
    agent = join(daemon, "n1", "--tag", "gpu", "--label", "rack=7")
    told = measured(daemon, "n1")
    assert (told["state"], told["tags"], told["labels"]) == ("ALIVE", ["gpu"], {"rack": "7"})
    assert told["pid"] == agent.pid and told["seen_s"] < LOST_S
    assert told["facts"]["cpus"] == len(os.sched_getaffinity(0)) and told["facts"]["memory_bytes"] > 0
    assert abs(told["clock_offset_ms"]) <= told["clock_error_ms"], "it is the same clock"
    listed = mgmt(daemon, "node", "list")
    assert listed.returncode == 0 and [line.split()[0] for line in listed.stdout.splitlines()] == [
        "NODE",
        "local",
        "n1",
    ]
    shown = json.loads(mgmt(daemon, "node", "show", "n1", "--json").stdout)
    jsonschema.validate(shown, schema_of("mgmt.nodes/1"))
    assert "rack=7" in mgmt(daemon, "node", "show", "n1").stdout


def test_a_stopped_agent_is_suspect_then_lost_and_comes_back(start: Start, join: Join) -> None:
    daemon = a_daemon(start, {"u": sleeper()})
    agent = join(daemon, "n1")
    daemon.control.ok("start", targets=["u"])
    watcher = daemon.native()
    watcher.ok("subscribe")
    agent.send_signal(signal.SIGSTOP)
    began_s = time.monotonic()
    watcher.event(node="n1", state="SUSPECT")
    watcher.event(node="n1", state="LOST")
    assert time.monotonic() - began_s < LOST_S + 1.0
    assert daemon.unit("u")["ready"] is False
    agent.send_signal(signal.SIGCONT)
    watcher.event(node="n1", state="ALIVE")
    eventually(lambda: daemon.unit("u")["ready"], what="u is ready again")
    assert daemon.unit("u")["incarnation"] == 1


def test_a_second_agent_of_a_name_is_told_why_not(start: Start, join: Join) -> None:
    daemon = a_daemon(start)
    first = join(daemon, "n1")
    twin = join(
        daemon.config["endpoints"]["nodes"].replace("{runtime}", str(daemon.runtime)), "n1", run=False
    )
    refused = twin.run_to_end()
    assert refused.returncode != 0
    assert "another --name" in refused.stderr and f"pid {first.pid}" in refused.stderr
    assert node(daemon, "n1")["pid"] == first.pid


def test_what_is_wrong_with_the_command_line_is_said(tmp_path: Path) -> None:
    for arguments, word in (
        (["--join", "nowhere"], "tcp://HOST:PORT"),
        (["--join", "ipc:///x", "--name", "a b"], "--name"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "mgmt", *arguments, "--state-dir", str(tmp_path)],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 2 and word in done.stderr


# ---- units -----------------------------------------------------------------------------------------------


def test_a_unit_elsewhere_is_used_as_if_it_were_here(start: Start, join: Join) -> None:
    daemon = a_daemon(start, {"u": sleeper()})
    agent = join(daemon, "n1")
    watcher = daemon.native()
    watcher.ok("subscribe")
    daemon.control.ok("start", targets=["u"])
    unit = daemon.unit("u")
    assert (unit["state"], unit["node"], unit["ready"]) == ("RUNNING", "n1", True)
    assert alive(unit["pid"]) and unit["pid"] in agent.children() and not daemon.children()
    assert watcher.event(unit="u", state="RUNNING")["node"] == "n1"
    assert b"started" in eventually(lambda: daemon.control.ok("logs", unit="u")["data"], what="a line")
    table = mgmt(daemon, "status").stdout.splitlines()
    rows = [line.split()[:3] for line in table[1:]]
    assert rows == [["SERVICE", "NODE", "STATE"], ["u", "n1", "RUNNING"]]
    assert "u (n1)  STARTING -> RUNNING" in mgmt(daemon, "events").stdout
    assert "started" in mgmt(daemon, "status", "u").stdout
    assert "it is on node n1, which is ALIVE" in mgmt(daemon, "explain", "u").stdout
    daemon.control.ok("stop", targets=["u"])
    assert not alive(unit["pid"]) and daemon.unit("u")["state"] == "STOPPED"


def test_usage_of_a_unit_elsewhere_is_told(start: Start, join: Join) -> None:
    daemon = a_daemon(start, {"u": sleeper()})
    join(daemon, "n1")
    daemon.control.ok("start", targets=["u"])
    eventually(lambda: (daemon.unit("u")["memory_bytes"] or 0) > 0, what="its memory is told")


def test_a_crash_elsewhere_is_restarted_there_and_told_here(start: Start, join: Join) -> None:
    daemon = a_daemon(start, {"u": sleeper()})
    join(daemon, "n1")
    daemon.control.ok("start", targets=["u"])
    watcher = daemon.native()
    watcher.ok("subscribe")
    os.kill(daemon.unit("u")["pid"], signal.SIGKILL)
    assert watcher.event(unit="u", state="BACKOFF")["exit"]["signal"] == signal.SIGKILL
    watcher.event(unit="u", state="RUNNING")
    assert (daemon.unit("u")["incarnation"], daemon.unit("u")["restarts"]) == (2, 1)


def test_a_start_that_fails_elsewhere_says_what_it_wrote(start: Start, join: Join) -> None:
    startup = {"kind": "exec", "command": ["false"], "period_s": 60.0}
    unit = {
        "command": ["sh", "-c", "echo no such disk; exit 3"],
        "node": "n1",
        "probes": {"startup": startup},
    }
    daemon = a_daemon(start, {"u": unit})
    join(daemon, "n1")
    refused = daemon.control.refused("start", targets=["u"])
    assert refused["code"] == "start-failed" and "no such disk" in refused["text"]
    assert daemon.unit("u")["last_exit"]["code"] == 3


def test_units_wait_for_their_node_and_for_each_other(start: Start, join: Join) -> None:
    units = {
        "db": sleeper("n1"),
        "app": sleeper(None, requires=["db"]),
        "web": sleeper("n2", requires=["app"]),
    }
    daemon = a_daemon(start, units)
    refused = daemon.control.refused("start", targets=["web"])
    assert refused["code"] == "unknown-node" and refused["detail"]["unit"] == "web"
    daemon.control.ok("start", targets=["web"], wait=False)
    assert "n1" in daemon.unit("db")["reason"]
    join(daemon, "n1")
    join(daemon, "n2")
    eventually(lambda: daemon.unit("web")["ready"])
    events = daemon.control.ok("subscribe", since=0, follow=False)["events"]
    up = [(event["unit"], event["node"]) for event in events if event.get("state") == "RUNNING"]
    assert up == [("db", "n1"), ("app", None), ("web", "n2")]
    daemon.control.ok("stop", targets=["db"])
    assert {unit["state"] for unit in daemon.status()["units"]} == {"STOPPED"}


def test_tags_cordon_and_drain(start: Start, join: Join) -> None:
    units = {"u": sleeper({"tags": ["gpu"]}), "v": sleeper({"tags": ["gpu"]})}
    daemon = a_daemon(start, units)
    join(daemon, "n1", "--tag", "gpu")
    join(daemon, "n2")
    daemon.control.ok("start", targets=["u", "v"])
    assert {daemon.unit(name)["node"] for name in units} == {"n1"}
    assert "gpu" in mgmt(daemon, "node", "tags", "n2", "gpu").stdout
    drained = mgmt(daemon, "node", "drain", "n1")
    assert drained.returncode == 0 and "drained" in drained.stdout, drained.stderr
    for name in units:
        daemon.reaches(name, "RUNNING")
        assert daemon.unit(name)["node"] == "n2"
    waited = json.loads(mgmt(daemon, "node", "wait", "n1", "--for", "drained", "--json").stdout)
    jsonschema.validate(waited, schema_of("mgmt.node/1"))
    assert waited["drained"]
    assert mgmt(daemon, "node", "uncordon", "n1").returncode == 0
    assert mgmt(daemon, "node", "show", "nowhere").returncode == 4


@pytest.mark.parametrize("force", [False, True])
def test_an_agent_is_told_to_end(start: Start, join: Join, force: bool) -> None:
    stubborn = ["sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"]
    far = sleeper(autostart=True, command=stubborn, grace_s=1.5)
    daemon = a_daemon(start, {"far": far})
    agent = join(daemon, "n1")
    pid = daemon.reaches("far", "RUNNING")["pid"]
    asked_s = time.monotonic()
    assert daemon.control.ok("node-shutdown", node="n1", force=force)["node"] == "n1"
    assert agent.wait() == 0 and not alive(pid)
    assert force or time.monotonic() - asked_s >= 1.5, "it has its grace"
    becomes(daemon, "n1", "LOST")
    assert daemon.control.refused("node-shutdown", node="n1")["code"] == "node-lost"
    agent.start()
    assert daemon.reaches("far", "RUNNING")["pid"] != pid, "what was wanted is started again"


def test_an_agent_refuses_what_is_its_daemons_and_answers_the_rest(start: Start, join: Join) -> None:
    daemon = a_daemon(start, {"u": sleeper()})
    agent = join(daemon, "n1")
    daemon.control.ok("start", targets=["u"])
    assert agent.unit("u")["state"] == "RUNNING"
    refused = agent.control.refused("stop", targets=["u"])
    assert refused["code"] == "not-available" and "nodes" in refused["text"]
    assert agent.control.ok("explain", target="u")["state"] == "RUNNING"


def test_the_command_becomes_the_agent(start: Start, tmp_path: Path) -> None:
    daemon = a_daemon(start)
    state = daemon.folder / "agent"
    endpoint = f"ipc://{daemon.runtime}/nodes"
    environ = {name: value for name, value in daemon.environ.items() if name != "MGMT_RUNTIME_DIR"}
    command = [
        sys.executable,
        "-m",
        "mgmt_cli",
        "agent",
        "--join",
        endpoint,
        "--name",
        "n1",
        "--state-dir",
        str(state),
    ]
    with subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, text=True) as agent:
        try:
            assert becomes(daemon, "n1", "ALIVE")["pid"] == agent.pid
            local = mgmt(daemon, "--endpoint", f"ipc://{state}/run/control", "status")
            assert local.returncode == 0 and str(agent.pid) in local.stdout
        finally:
            agent.terminate()
            _, log = agent.communicate(timeout=20)
    assert agent.returncode == 0, log


# ---- requests to models ----------------------------------------------------------------------------------


def models(name: str, backend: dict[str, Any], **keys: Any) -> dict[str, Any]:
    return {
        "model_backends": {name: {**backend, "node": "n1", **keys}},
        "supported_models": [{"name": name, "type": name}],
    }


def test_requests_reach_a_model_elsewhere_through_the_relay(start: Start, join: Join) -> None:
    daemon = a_daemon(start, **models("echo", shipped("echo")))
    join(daemon, "n1")
    loaded = daemon.control.ok("load-model", model="echo")
    assert loaded["state"] == "RUNNING" and loaded["endpoint"] == "node://n1/echo"
    data = daemon.data("echo")
    big = os.urandom(3_000_000)
    eventually(lambda: _answered(data), what="the agent's connection for requests stands")
    for number, payload in enumerate((b"one", big, b"three"), start=100):
        data.ask(number, payload)
    answers = {}
    for _ in range(3):
        tag, (payload,) = data.answer()
        answers[tag.id] = payload
    assert answers == {100: b"one", 101: big, 102: b"three"}
    refused = daemon.control.refused("lease", model="echo", mode="direct")
    assert refused["code"] == "not-available" and "--relay" in refused["text"]
    assert mgmt(daemon, "request", "echo", "--relay", "--data", '"hello"').stdout == "hello\n"


def _answered(data: Data) -> bool:
    """Ask something; True when the answer is a result."""
    data.ask(1, b"ready?")
    tag, _ = data.answer()
    return tag.kind == DataKind.RESULT


def _taken(data: Data, id: int) -> bool:
    """Ask something that is not answered; True when it was not refused as busy, either."""
    data.ask(id, b"never")
    if data.silent_for(0.2):
        return True
    assert data.error(id)["code"] == "busy"
    return False


def test_a_request_at_a_backend_that_dies_elsewhere_is_answered_once(start: Start, join: Join) -> None:
    daemon = a_daemon(start, **models("faulty", faulty("hangs")))
    join(daemon, "n1")
    daemon.control.ok("load-model", model="faulty")
    data = daemon.data("faulty")
    eventually(lambda: _taken(data, 1), what="the agent's connection for requests stands")
    os.kill(daemon.unit("faulty")["pid"], signal.SIGKILL)
    assert data.error(1)["code"] == "backend-lost"
    assert data.silent_for(0.3)


def test_a_request_at_a_node_that_is_lost_is_answered_once(start: Start, join: Join) -> None:
    daemon = a_daemon(start, **models("faulty", faulty("hangs")))
    agent = join(daemon, "n1")
    daemon.control.ok("load-model", model="faulty")
    data = daemon.data("faulty")
    eventually(lambda: _taken(data, 1), what="the agent's connection for requests stands")
    agent.send_signal(signal.SIGSTOP)
    assert data.error(1)["code"] == "backend-lost"
    data.ask(2, b"to nobody")
    assert data.error(2)["code"] == "not-ready"
    agent.send_signal(signal.SIGCONT)
    becomes(daemon, "n1", "ALIVE")
    assert data.silent_for(0.3)
