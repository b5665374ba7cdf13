"""A unit of which there must be one only: its agent, or else its shim, ends it before another node starts it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tests.system.agents import Join, a_daemon, agents, becomes, sleeper
from tests.system.clients import eventually
from tests.system.daemon import Start, alive

TAGGED = {"tags": ["gpu"]}


@pytest.fixture
def join() -> Iterator[Join]:
    with agents() as make:
        yield make


def one_only(**keys: Any) -> dict[str, Any]:
    return sleeper(TAGGED, on_node_lost="replace", **{"grace_s": 0.5, **keys})


@pytest.mark.parametrize("how", [signal.SIGSTOP, signal.SIGKILL])
def test_the_shim_ends_it_when_its_agent_does_not(start: Start, join: Join, how: signal.Signals) -> None:
    daemon = a_daemon(start, {"u": one_only()})
    first = join(daemon, "n1", "--tag", "gpu")
    daemon.control.ok("start", targets=["u"])
    pid = daemon.unit("u")["pid"]
    join(daemon, "n2", "--tag", "gpu")
    if how is signal.SIGKILL:
        first.crash()
    else:
        first.send_signal(how)
    eventually(lambda: daemon.unit("u")["node"] == "n2" and daemon.unit("u")["ready"], what="u is on n2")
    assert not alive(pid), "and it was dead before"
    if how is signal.SIGKILL:
        first.start()
    else:
        first.send_signal(signal.SIGCONT)
    becomes(daemon, "n1", "ALIVE")
    assert daemon.unit("u")["node"] == "n2" and daemon.unit("u")["ready"]


def test_an_agent_that_is_cut_off_ends_it_in_order(start: Start, join: Join) -> None:
    daemon = a_daemon(start, {"u": one_only(grace_s=20.0), "v": sleeper(TAGGED)})
    agent = join(daemon, "n1", "--tag", "gpu")
    daemon.control.ok("start", targets=["u", "v"])
    pid, other = daemon.unit("u")["pid"], daemon.unit("v")["pid"]
    daemon.crash()
    agent.reaches("u", "STOPPED")
    assert not alive(pid) and alive(other)
    events = agent.control.ok("subscribe", since=0, follow=False)["events"]
    assert any("on another node" in event["reason"] for event in events if event.get("unit") == "u")
    daemon.start()
    becomes(daemon, "n1", "ALIVE")
    eventually(lambda: daemon.unit("u")["ready"], what="it is started again")
    assert daemon.unit("u")["incarnation"] == 2 and daemon.unit("v")["pid"] == other


def test_an_agent_that_is_killed_and_started_again_in_time_keeps_it(start: Start, join: Join) -> None:
    daemon = a_daemon(start, {"u": one_only()}, timing={"node_heartbeat_s": 0.3, "node_lost_s": 15.0})
    agent = join(daemon, "n1", "--tag", "gpu")
    daemon.control.ok("start", targets=["u"])
    pid = daemon.unit("u")["pid"]
    agent.crash()
    agent.start()
    eventually(lambda: daemon.unit("u")["ready"] and daemon.unit("u")["pid"] == pid)
    becomes(daemon, "n1", "ALIVE")
    assert alive(pid) and agent.unit("u")["state"] == "RUNNING"
