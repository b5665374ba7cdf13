"""Two hundred agents of one daemon."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.clients import eventually
from tests.system.daemon import Daemon, Start
from tests.system.many_agents import Crowd

COUNT = 200
SHARE = 0.02  # of a core, for the heartbeats of all of them
LOOK_S = 4.0


def cpu_s(pid: int) -> float:
    """CPU time that a process has used, in seconds of its schedstat: ticks are too coarse."""
    return (
        sum(int(path.read_text().split()[0]) for path in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9
    )


@pytest.fixture
def daemon(start: Start) -> Daemon:
    units = {f"u{n}": {"command": ["true"], "node": f"s{n:03}"} for n in range(COUNT)}
    return start({"units": units, "endpoints": {"nodes": "ipc://{runtime}/nodes"}})


@pytest.fixture
def crowd(daemon: Daemon) -> Iterator[Crowd]:
    crowd = Crowd(daemon.context, f"ipc://{daemon.runtime}/nodes", COUNT, 1.0)
    try:
        yield crowd
    finally:
        crowd.close()


def alive(daemon: Daemon) -> int:
    nodes = daemon.control.ok("nodes")["nodes"]
    return sum(node["state"] == "ALIVE" for node in nodes if node["node"] != "local")


def test_two_hundred_agents_cost_little_and_are_all_served(daemon: Daemon, crowd: Crowd) -> None:
    crowd.live(1.5)
    assert alive(daemon) == COUNT

    def share() -> float:
        """Of a core, less what the daemon costs with nobody to listen to."""
        before_s, began_s = cpu_s(daemon.pid), time.monotonic()
        crowd.live(LOOK_S)
        return (cpu_s(daemon.pid) - before_s) / (time.monotonic() - began_s)

    # A machine that others use as well makes work dearer, never cheaper: the best of three looks.
    shares = [share()]
    while min(shares) > SHARE and len(shares) < 3:
        shares.append(share())
    assert min(shares) <= SHARE, shares
    assert alive(daemon) == COUNT and min(agent.beats for agent in crowd.agents) >= 3
    ask = daemon.control.ask("start", targets=[f"u{n}" for n in range(COUNT)])

    def answered() -> bool:
        crowd.live(0.1)
        return bool(daemon.control.socket.poll(0))

    eventually(answered, what="every unit is started on its node")
    reply = daemon.control.reply(ask)
    assert reply.outcome == "ok" and set(reply.body["states"].values()) == {"RUNNING"}


def test_a_daemon_that_is_killed_has_all_of_them_back(daemon: Daemon, crowd: Crowd) -> None:
    def joined() -> bool:
        crowd.live(0.2)
        return alive(daemon) == COUNT

    def answered() -> bool:
        crowd.live(0.1)
        return bool(daemon.control.socket.poll(0))

    def runs() -> list[list[int]]:
        return [[unit["incarnation"] for unit in agent.units.values()] for agent in crowd.agents]

    eventually(joined, what="all have joined")
    ask = daemon.control.ask("start", targets=[f"u{n}" for n in range(COUNT)])
    eventually(answered, what="every unit is up")
    assert daemon.control.reply(ask).outcome == "ok"
    before = runs()
    daemon.crash()
    daemon.start()
    eventually(joined, what="all are back")
    crowd.live(0.5)
    units = {unit["unit"]: unit["state"] for unit in daemon.status()["units"]}
    assert {units[f"u{n}"] for n in range(COUNT)} == {"RUNNING"}
    assert runs() == before, "what ran is what runs"
