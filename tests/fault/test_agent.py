"""Agents, daemons and the links between them fail: units live on, and end up where they were told to be."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.system.agents import (
    BEAT_S,
    LOST_S,
    Join,
    Proxy,
    a_daemon,
    agents,
    becomes,
    free_port,
    measured,
    node,
    sleeper,
)
from tests.system.clients import eventually
from tests.system.daemon import Daemon, Start, alive


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


def behind(proxy: Proxy, start: Start, units: dict[str, Any]) -> Daemon:
    """A daemon whose nodes come through the proxy."""
    return a_daemon(start, units, endpoints={"nodes": f"tcp://127.0.0.1:{proxy.target}", "insecure": True})


def is_back(daemon: Daemon, name: str, pid: int) -> None:
    """The unit is RUNNING and ready with the process it had, in its first life."""
    eventually(lambda: daemon.unit(name)["ready"], what=f"{name} is ready again")
    unit = daemon.unit(name)
    assert (unit["state"], unit["pid"], unit["incarnation"]) == ("RUNNING", pid, 1)
    assert alive(pid)


# ---- crashes ---------------------------------------------------------------------------------------------


def test_units_outlive_their_agent_which_adopts_them(start: Start, join: Join) -> None:
    daemon = a_daemon(start, {"u": sleeper()})
    agent = join(daemon, "n1")
    daemon.control.ok("start", targets=["u"])
    pid = daemon.unit("u")["pid"]
    agent.crash()
    assert alive(pid)
    agent.start()
    eventually(lambda: node(daemon, "n1")["pid"] == agent.pid, what="the next agent joins")
    is_back(daemon, "u", pid)
    daemon.control.ok("stop", targets=["u"])
    assert not alive(pid)


def test_units_outlive_their_daemon_which_finds_them(start: Start, join: Join) -> None:
    daemon = a_daemon(start, {"u": sleeper(), "here": sleeper(None)})
    join(daemon, "n1")
    daemon.control.ok("start", targets=["u", "here"])
    pid, here = daemon.unit("u")["pid"], daemon.unit("here")["pid"]
    daemon.crash()
    daemon.start()
    becomes(daemon, "n1", "ALIVE")
    is_back(daemon, "u", pid)
    is_back(daemon, "here", here)


def test_both_are_killed_and_both_come_back(start: Start, join: Join) -> None:
    daemon = a_daemon(start, {"u": sleeper()})
    agent = join(daemon, "n1")
    daemon.control.ok("start", targets=["u"])
    pid = daemon.unit("u")["pid"]
    daemon.crash()
    agent.crash()
    agent.start()
    daemon.start()
    becomes(daemon, "n1", "ALIVE")
    is_back(daemon, "u", pid)


def test_an_agent_that_is_restarted_alone_serves_on(start: Start, join: Join) -> None:
    daemon = a_daemon(start, {"u": sleeper(), "v": sleeper()})
    agent = join(daemon, "n1")
    daemon.control.ok("start", targets=["u", "v"])
    u, v = daemon.unit("u")["pid"], daemon.unit("v")["pid"]
    daemon.crash()
    agent.crash()
    os.kill(v, signal.SIGKILL)
    agent.start()
    # By its policy: nobody told it to. Until its end is found, its last life is what is known of it.
    eventually(lambda: agent.unit("v")["ready"] and agent.unit("v")["incarnation"] == 2, what="v runs again")
    assert agent.unit("u")["pid"] == u and alive(u)
    daemon.start()
    becomes(daemon, "n1", "ALIVE")
    eventually(lambda: daemon.unit("v")["ready"], what="v is ready")
    assert (daemon.unit("v")["incarnation"], daemon.unit("u")["pid"]) == (2, u)


def test_what_is_stopped_while_its_agent_is_dead_does_not_come_back(start: Start, join: Join) -> None:
    daemon = a_daemon(start, {"u": sleeper()})
    agent = join(daemon, "n1")
    daemon.control.ok("start", targets=["u"])
    pid = daemon.unit("u")["pid"]
    agent.crash()
    becomes(daemon, "n1", "LOST")
    assert daemon.control.ok("stop", targets=["u"])["states"] == {"u": "STOPPED"}
    assert alive(pid)
    agent.start()
    becomes(daemon, "n1", "ALIVE")
    eventually(lambda: not alive(pid), what="the unit is ended")
    assert daemon.unit("u")["state"] == "STOPPED"


# ---- lost nodes ------------------------------------------------------------------------------------------


def test_a_unit_that_must_not_outlive_its_link_ends_with_it(start: Start, join: Join) -> None:
    daemon = a_daemon(start, {"u": sleeper(on_node_lost="stop")})
    join(daemon, "n1")
    daemon.control.ok("start", targets=["u"])
    pid = daemon.unit("u")["pid"]
    daemon.crash()
    eventually(lambda: not alive(pid), what="its agent ends it")
    daemon.start()
    becomes(daemon, "n1", "ALIVE")
    assert daemon.reaches("u", "STOPPED")["reason"]


# ---- links -----------------------------------------------------------------------------------------------


def test_a_half_open_link_is_noticed_in_time_and_used_again_at_once(
    start: Start, join: Join, proxy: Proxy
) -> None:
    daemon = behind(proxy, start, {"u": sleeper()})
    agent = join(proxy.endpoint, "n1", "--insecure")
    becomes(daemon, "n1", "ALIVE")
    daemon.control.ok("start", targets=["u"])
    pid = daemon.unit("u")["pid"]
    watcher = daemon.native()
    watcher.ok("subscribe")
    proxy.cut()
    began_s = time.monotonic()
    watcher.event(node="n1", state="LOST")
    assert time.monotonic() - began_s < LOST_S + BEAT_S + 0.5
    assert alive(pid) and agent.unit("u")["state"] == "RUNNING"
    proxy.reset()
    proxy.heal()
    watcher.event(node="n1", state="ALIVE")
    is_back(daemon, "u", pid)


@pytest.mark.parametrize("way", ["to", "back"])
def test_a_link_that_carries_one_way_is_a_lost_one(start: Start, join: Join, proxy: Proxy, way: str) -> None:
    daemon = behind(proxy, start, {"u": sleeper()})
    join(proxy.endpoint, "n1", "--insecure")
    becomes(daemon, "n1", "ALIVE")
    daemon.control.ok("start", targets=["u"])
    pid = daemon.unit("u")["pid"]
    watcher = daemon.native()
    watcher.ok("subscribe")
    setattr(proxy, way, False)
    watcher.event(node="n1", state="LOST")
    proxy.reset()
    proxy.heal()
    watcher.event(node="n1", state="ALIVE")
    is_back(daemon, "u", pid)


def test_a_link_that_is_reset_loses_nothing(start: Start, join: Join, proxy: Proxy) -> None:
    daemon = behind(proxy, start, {"u": sleeper(), "v": sleeper()})
    join(proxy.endpoint, "n1", "--insecure")
    becomes(daemon, "n1", "ALIVE")
    daemon.control.ok("start", targets=["u"])
    pid = daemon.unit("u")["pid"]
    for _ in range(3):
        proxy.reset()
        daemon.control.ok("start", targets=["v"])
        proxy.reset()
        daemon.control.ok("stop", targets=["v"])
    is_back(daemon, "u", pid)
    changes = [
        e for e in daemon.control.ok("subscribe", since=0, follow=False)["events"] if e["kind"] == "node"
    ]
    assert all(change["state"] != "LOST" for change in changes)


def test_a_slow_link_is_a_link(start: Start, join: Join, proxy: Proxy) -> None:
    proxy.delay_s = 0.15
    daemon = behind(proxy, start, {"u": sleeper()})
    join(proxy.endpoint, "n1", "--insecure")
    becomes(daemon, "n1", "ALIVE")
    daemon.control.ok("start", targets=["u"])
    told = measured(daemon, "n1")
    assert told["round_trip_ms"] >= 290.0
    assert abs(told["clock_offset_ms"]) <= told["clock_error_ms"]


def test_an_agent_waits_for_a_daemon_that_is_not_there_yet(start: Start, join: Join, proxy: Proxy) -> None:
    agent = join(proxy.endpoint, "n1", "--insecure")
    daemon = behind(proxy, start, {"u": sleeper(autostart=True)})
    began_s = time.monotonic()
    becomes(daemon, "n1", "ALIVE")
    assert time.monotonic() - began_s < 2.0, "it tries at least once a second"
    daemon.reaches("u", "RUNNING")
    assert not agent.log().count("Traceback")
