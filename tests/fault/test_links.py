"""Agents with keys on machines of their own, and the links to them fail: cables, frames, routes.

A frame that is lost here is lost below TCP, on a wire that the test holds in its hands.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mgmt.protocol import curve
from mgmt.rt import segment
from tests.rt.rig import SOURCES, build
from tests.system import netns
from tests.system.agents import BEAT_S, LOST_S, becomes, measured, node, sleeper
from tests.system.clients import eventually
from tests.system.daemon import Daemon, alive, shipped
from tests.system.netagents import Site, site
from tests.system.test_schedule_tasks import CPU, PERIOD_US

BACK_S = 1.0  # how soon a link that returned is used
SLACK_S = 0.5  # for a machine that others use
TRIES = 3  # looks at a time that others make longer, never shorter
COUNTED = ("u", "v", *(f"k{number}" for number in range(5)))

pytestmark = [
    pytest.mark.xdist_group("links"),
    pytest.mark.skipif(not curve.is_available(), reason="this libzmq has no CURVE"),
]


class Net(Site):
    """`starts` has the processes that were ever started for a unit."""

    folder: Path

    def starts(self, unit: str) -> list[int]:
        path = self.folder / unit
        return [int(line) for line in path.read_text().split()] if path.exists() else []


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    reason = netns.why_impossible()
    if reason:
        pytest.skip(f"no machines of their own: {reason}")
    folder = tmp_path_factory.mktemp("starts")
    units = {
        name: sleeper(command=["sh", "-c", f'echo "$$" >>{folder}/{name}; exec sleep 1000'])
        for name in COUNTED
    }
    settings: dict[str, Any] = {
        "units": {**units, "far": sleeper("n2")},
        "model_backends": {"echo": shipped("echo")},
        "supported_models": [{"name": "echo", "type": "echo", "node": "n1"}],
    }
    with site(Net, **settings) as whole:
        whole.folder = folder
        whole.join("n1")
        whole.join("n2")
        yield whole


@pytest.fixture
def net(shared: Net) -> Iterator[Net]:
    """With good links and units at rest before and after."""
    yield shared
    shared.mend()
    shared.daemon.control.ok("stop", targets=[*COUNTED, "far"])


def seconds_until(net: Net, state: str, begin: Callable[[], None]) -> float:
    """From what is done until everybody can see n1 in the state."""
    watcher = net.daemon.native()
    watcher.ok("subscribe")
    began_s = time.monotonic()
    begin()
    watcher.event(node="n1", state=state)
    return time.monotonic() - began_s


def up(net: Net, unit: str) -> int:
    """The process of a unit that was started by this."""
    net.daemon.control.ok("start", targets=[unit])
    pid: int = net.daemon.unit(unit)["pid"]
    if unit in COUNTED:
        eventually(lambda: pid in net.starts(unit), what=f"{unit} has left its line")
    return pid


def is_back(net: Net, unit: str, pid: int) -> None:
    """The unit is ready, with the process it had."""
    eventually(lambda: net.daemon.unit(unit)["ready"], what=f"{unit} is ready again")
    assert net.daemon.unit(unit)["pid"] == pid and alive(pid)


def cut_and_mended(net: Net, cut: Callable[[], None], mend: Callable[[], None]) -> None:
    """A link that fails is seen in time and used again in time, and a unit at its end has noticed nothing."""
    pid = up(net, "u")
    told = net.starts("u")
    noticed_s: list[float] = []
    back_s: list[float] = []
    while len(back_s) < TRIES and not (
        back_s and min(back_s) <= BACK_S and min(noticed_s) <= LOST_S + BEAT_S
    ):
        noticed_s.append(seconds_until(net, "LOST", cut))
        unit = net.daemon.unit("u")
        assert (unit["state"], unit["ready"]) == ("RUNNING", False) and "n1 is lost" in unit["reason"]
        assert net.agents["n1"].unit("u")["pid"] == pid
        back_s.append(seconds_until(net, "ALIVE", mend))
        is_back(net, "u", pid)
    assert min(noticed_s) <= LOST_S + BEAT_S, noticed_s
    assert max(noticed_s) <= LOST_S + BEAT_S + SLACK_S, noticed_s
    assert min(back_s) <= BACK_S, back_s
    assert net.starts("u") == told
    assert node(net.daemon, "n2")["state"] == "ALIVE"


# ---- links that end ----------------------------------------------------------------------------------------


def test_the_agents_cable_is_pulled(net: Net) -> None:
    host = net.hosts["n1"]
    cut_and_mended(net, lambda: host.link("down"), lambda: host.link("up"))


def test_the_cable_at_the_bridge_is_pulled(net: Net) -> None:
    host = net.hosts["n1"]
    cut_and_mended(net, lambda: net.network.port(host, "down"), lambda: net.network.port(host, "up"))


def test_a_wire_that_carries_nothing_while_both_ends_believe_in_it(net: Net) -> None:
    wire = net.hosts["n1"].bad_wire
    cut_and_mended(net, wire.cut, wire.heal)


@pytest.mark.parametrize("way", ["out", "back"])
def test_a_wire_that_carries_one_way(net: Net, way: str) -> None:
    wire = net.hosts["n1"].bad_wire
    cut_and_mended(net, lambda: setattr(getattr(wire, way), "loss", 1.0), wire.heal)


def test_a_route_that_swallows(net: Net) -> None:
    there = f"blackhole {net.hosts['n1'].address}/32"
    here = net.here
    cut_and_mended(net, lambda: here.ip(f"route add {there}"), lambda: here.ip(f"route del {there}"))


def test_a_short_silence_is_no_loss(net: Net) -> None:
    wire = net.hosts["n1"].bad_wire
    pid = up(net, "u")
    watcher = net.daemon.native()
    watcher.ok("subscribe")
    wire.cut()
    watcher.event(node="n1", state="SUSPECT")
    wire.heal()
    watcher.event(node="n1", state="ALIVE")
    is_back(net, "u", pid)


# ---- links that lose, delay and mix ------------------------------------------------------------------------


@pytest.fixture
def bad(net: Net) -> Net:
    """A tenth of the frames is lost each way, and the rest comes in no order."""
    wire = net.hosts["n1"].bad_wire
    for way in (wire.out, wire.back):
        way.loss, way.delay_s, way.jitter_s = 0.1, 0.002, 0.02
    return net


def test_over_a_bad_link_every_word_counts_once_and_in_order(bad: Net) -> None:
    daemon, agent = bad.daemon, bad.agents["n1"]
    before = {name: len(bad.starts(name)) for name in COUNTED}
    life = agent.control.ok("subscribe", since=0, follow=False)["seq"]
    overtaken = bad.hosts["n1"].bad_wire.back.overtaken
    words = 0
    for _ in range(3):
        # All at once; each answer is taken once, or `take` says so.
        asks = [daemon.control.ask("start", targets=[name]) for name in COUNTED]
        assert all(daemon.control.reply(ask).outcome == "ok" for ask in asks)
        asks = [daemon.control.ask("stop", targets=[name]) for name in reversed(COUNTED)]
        assert all(daemon.control.reply(ask).outcome == "ok" for ask in asks)
        words += 1
    for name in COUNTED:
        pids = bad.starts(name)
        assert len(pids) - before[name] == words and not any(alive(pid) for pid in pids), name
    wire = bad.hosts["n1"].bad_wire
    assert wire.out.lost and wire.back.lost and wire.back.overtaken > overtaken
    # What the agent saw of one unit is what was said, in that order.
    events = agent.control.ok("subscribe", since=life, follow=False)["events"]
    for name in COUNTED:
        states = [e["state"] for e in events if e["kind"] == "unit" and e["unit"] == name]
        assert [s for s in states if s in ("RUNNING", "STOPPED")] == ["RUNNING", "STOPPED"] * words, states


def test_requests_over_a_bad_link_are_answered_once_each(bad: Net) -> None:
    bad.daemon.control.ok("load-model", model="echo")
    data = bad.daemon.data("echo")
    for id in range(1, 101):
        data.ask(id, b"%d" % id)
    answers = [data.answer() for _ in range(100)]
    assert sorted(tag.id for tag, _ in answers) == list(range(1, 101))
    assert all(payload == [b"%d" % tag.id] for tag, payload in answers)
    assert data.silent_for(0.2)


def test_while_the_link_flaps_nothing_is_lost_or_doubled(net: Net) -> None:
    host, control = net.hosts["n1"], net.daemon.control
    pid = up(net, "u")
    before = len(net.starts("v"))
    for turn in range(4):
        ask = control.ask("start" if turn % 2 == 0 else "stop", targets=["v"])
        host.link("down")
        becomes(net.daemon, "n1", "SUSPECT")
        host.link("up")
        becomes(net.daemon, "n1", "ALIVE")
        assert control.reply(ask).outcome == "ok"
    assert len(net.starts("v")) - before == 2
    assert not any(alive(pid) for pid in net.starts("v"))
    is_back(net, "u", pid)


def test_a_slow_and_uneven_link_has_the_error_that_is_said(net: Net) -> None:
    wire = net.hosts["n1"].bad_wire
    wire.out.delay_s, wire.back.delay_s = 0.12, 0.01
    agent = net.agents["n1"]
    agent.crash()
    agent.start()
    eventually(lambda: node(net.daemon, "n1")["pid"] == agent.pid, what="the next agent joins")
    told = measured(net.daemon, "n1")
    assert told["round_trip_ms"] >= 129.0
    # Both clocks are this machine's: what is measured is nothing but the error.
    assert 40.0 <= abs(told["clock_offset_ms"]) <= told["clock_error_ms"]


# ---- who is who --------------------------------------------------------------------------------------------


def test_a_second_machine_of_the_same_name_is_refused_while_the_first_is_heard(net: Net) -> None:
    first = node(net.daemon, "n1")
    thief = net.agent("n1", net.network.attach(), net.key_options("n1"))
    thief.clean = False  # it ends by itself
    thief.launch()
    assert thief.wait() != 0
    assert "has an agent already" in thief.log()
    now = node(net.daemon, "n1")
    assert (now["state"], now["pid"]) == ("ALIVE", first["pid"])


# ---- schedules ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(build(SOURCES / "client.c", tmp_path_factory.mktemp("rt") / "client"))


def schedule(client: str, period_us: int = PERIOD_US) -> dict[str, Any]:
    """A task on each of the two nodes."""
    times = {"period_us": period_us, "wcet_us": 1000, "policy": "normal", "command": [client]}
    return {
        "workload": "w",
        "nodes": {name: {"available_cpus": [CPU]} for name in ("n1", "n2")},
        "tasks": [{"name": f"t{name}", "node": name, **times} for name in ("n1", "n2")],
    }


def segments(net: Net) -> list[Path]:
    return [path for agent in net.agents.values() for path in (agent.runtime / "rt").glob("w.*")]


def running(net: Net, period_us: int) -> list[segment.Statistics]:
    """Of the two tasks, as soon as both have done some jobs with that period."""
    found: list[segment.Statistics] = []

    def look() -> bool:
        found[:] = [
            statistics
            for statistics in map(segment.read, segments(net))
            if statistics.plan.cycle_ns == period_us * 1000 and statistics.completed > 3
        ]
        return len(found) == len(net.agents)

    eventually(look, what=f"both tasks run every {period_us} us")
    return found


def started_within_ms(daemon: Daemon) -> float:
    """The error that was said of the last common start."""
    events = daemon.control.ok("subscribe", since=0, follow=False)["events"]
    said = [event["reason"] for event in events if event.get("what") == "started"]
    found = re.search(r"within ([0-9.]+) ms", said[-1])
    assert found is not None, said
    return float(found[1])


def test_a_schedule_over_a_bad_link_is_in_force_everywhere_or_nowhere(bad: Net, client: str) -> None:
    control = bad.daemon.control
    control.ok("schedule-submit", documents=[schedule(client)])
    old = running(bad, PERIOD_US)
    assert abs(old[0].t0_ns - old[1].t0_ns) <= 2e6 * started_within_ms(bad.daemon) + 1

    # One of the nodes cannot be told: neither has the new one, and both go on with the old one.
    bad.hosts["n2"].bad_wire.cut()
    refusal = control.refused("schedule-submit", documents=[schedule(client, 30_000)], replace=True)
    assert refusal["detail"].get("node", "n2") == "n2", refusal
    bad.hosts["n2"].bad_wire.heal()
    becomes(bad.daemon, "n2", "ALIVE")
    after = running(bad, PERIOD_US)
    assert [(s.pid, s.t0_ns, s.joins) for s in after] == [(s.pid, s.t0_ns, 1) for s in old]
    eventually(lambda: len(segments(bad)) == 2, what="nothing else is staged")

    # Both can: both have it, from one instant on.
    control.ok("schedule-submit", documents=[schedule(client, 30_000)], replace=True)
    new = running(bad, 30_000)
    assert abs(new[0].t0_ns - new[1].t0_ns) <= 2e6 * started_within_ms(bad.daemon) + 1
    eventually(lambda: not any(alive(s.pid) for s in old), what="the old tasks end")
    control.ok("schedule-remove", workload="w")
    eventually(lambda: not any(alive(s.pid) for s in new), what="the tasks end")
