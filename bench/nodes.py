"""Figures of nodes: units and links of two booted machines, and what many agents cost one daemon.

The machines are those of the tests: systemd-nspawn on a bridge, the agent installed with its service and a key.
Where none can be booted, two agents in network namespaces take their place, and the rows say so.
"""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import zmq

from bench import peers, wire
from bench.daemon import wait_until
from bench.figure import Figure, interleave
from tests.system import netns, node
from tests.system.agents import becomes
from tests.system.daemon import Daemon
from tests.system.installed import build_wheel
from tests.system.machines import Machines
from tests.system.many_agents import Crowd, Simulated
from tests.system.netagents import Site
from tests.system.netns import Host
from tests.system.node import NoNode

BEAT_S, LOST_S = 0.5, 2.0  # what BlueChi was measured with
TIMING = {"node_heartbeat_s": BEAT_S, "node_lost_s": LOST_S}
PORT = 7413
PAYLOAD = b"x" * 100
SLEEPER = {"command": ["/bin/sh", "-c", "exec sleep 1000"], "grace_s": 1.0}
UNITS = {"r1": {**SLEEPER, "node": "n1"}, "r2": {**SLEEPER, "node": "n2"}, "here": SLEEPER}
AGENTS, TASKS, TASK_NODES = 200, 1000, 50


def nodes(quick: bool) -> list[Figure]:
    """Two machines, then agents that are simulated in this process."""
    reason = netns.why_impossible()
    if reason:
        figures = [Figure("start of a unit on another node, p50", "ms", [0], note=f"not measured: {reason}")]
    else:
        with _two_machines() as (site, where):
            figures = [*_units(site, where, quick), *_links(site, quick), *_memory(site)]
    return [*figures, *_crowd(quick), *_schedule(quick)]


@contextmanager
def _two_machines() -> Iterator[tuple[Site, str]]:
    """A daemon with two agents elsewhere, and what these are."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mgmt-bench-")))
        why_not = node.why_impossible()
        if not why_not:
            try:
                machines = Machines(stack, folder, build_wheel(folder), units=UNITS, timing=TIMING)
            except NoNode as error:
                why_not = str(error)
            else:
                yield machines, "two machines booted by systemd-nspawn, on a bridge, with keys"
                return
        site = Site(stack, units=UNITS, timing=TIMING)
        for name in ("n1", "n2"):
            site.join(name, wire=False)
        yield site, f"two agents in network namespaces, with keys; no machines were booted: {why_not}"


# ---- units -------------------------------------------------------------------------------------------------


def _units(site: Site, where: str, quick: bool) -> list[Figure]:
    rounds, turns = (5, 10) if quick else (15, 20)
    client = wire.Control(site.daemon.endpoint("control"))
    stops: list[float] = []

    def start(unit: str) -> Callable[[], float]:
        def once() -> float:
            starts_s, stops_s = [], []
            for _ in range(turns):
                began_s = time.perf_counter()
                client.call("start", {"targets": [unit]})
                starts_s.append(time.perf_counter() - began_s)
                began_s = time.perf_counter()
                client.call("stop", {"targets": [unit]})
                stops_s.append(time.perf_counter() - began_s)
            if unit != "here":
                stops.append(statistics.median(stops_s) * 1e3)
            return statistics.median(starts_s) * 1e3

        return once

    with _echo(site.here, site.hosts["n1"]) as message:
        first, second, here, bare = interleave(rounds, start("r1"), start("r2"), start("here"), message)
    client.close()
    remote = first + second
    name, note = "start of a unit on another node, p50", f"{where}; BlueChi on such a pair: 5.7 ms"
    return [
        Figure(name, "ms", remote, sense="value<=", goal=6, note=note),
        Figure(f"{name}, beside one here", "ms", remote, here, "the same unit, here"),
        Figure(f"{name}, beside a message", "ms", remote, bare, "echo over tcp, without keys"),
        Figure("stop of a unit on another node, p50", "ms", stops, note="BlueChi: 4.8 ms"),
    ]


@contextmanager
def _echo(here: Host, there: Host) -> Iterator[Callable[[], float]]:
    """The median time in ms of a message from one machine to the other and back."""
    endpoint = f"tcp://{there.address}:{PORT}"
    command = [*there.enter, sys.executable, "-m", "bench.peers", "echo", endpoint]
    process = subprocess.Popen(command)

    def trips() -> float:
        # A context's threads make its connections: they are of this namespace, as its first thread is.
        context: zmq.Context[Any] = zmq.Context()
        socket = context.socket(zmq.DEALER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.connect(endpoint)
        took_s = wire.round_trips(socket, [[PAYLOAD]] * 110)[10:]
        context.destroy(linger=0)
        return statistics.median(took_s) * 1e3

    try:
        yield lambda: here.within(trips)
    finally:
        process.kill()
        process.wait()


# ---- links -------------------------------------------------------------------------------------------------


def _links(site: Site, quick: bool) -> list[Figure]:
    rounds = 2 if quick else 5
    watcher = site.daemon.native()
    watcher.ok("subscribe")
    host = site.hosts["n1"]

    def until(state: str, begin: Callable[[], object]) -> float:
        began_s = time.monotonic()
        begin()
        watcher.event(node="n1", state=state)
        return (time.monotonic() - began_s) * 1e3

    cuts, backs = [], []
    for _ in range(rounds):
        cuts.append(until("LOST", lambda: site.network.port(host, "down")))
        backs.append(until("ALIVE", lambda: site.network.port(host, "up")))
    restarts = []
    for _ in range(rounds):
        began_s = time.monotonic()
        site.daemon.crash()
        site.daemon.start()
        for name in site.hosts:
            becomes(site.daemon, name, "ALIVE")
        restarts.append((time.monotonic() - began_s) * 1e3)
    kills = []
    for _ in range(rounds):
        before = _pid(site, "n1")
        began_s = time.monotonic()
        os.kill(before, signal.SIGKILL)
        if not isinstance(site, Machines):
            site.agents["n1"].crash()
            site.agents["n1"].start()
        wait_until(lambda: _pid(site, "n1") not in (0, before))  # noqa: B023 - called at once
        becomes(site.daemon, "n1", "ALIVE")
        kills.append((time.monotonic() - began_s) * 1e3)
    beats = f"a heartbeat each {BEAT_S * 1e3:g} ms, lost after {LOST_S * 1e3:g} ms of silence"
    return [
        Figure("link cut until the node is lost", "ms", cuts, sense="value<=", goal=(LOST_S + BEAT_S) * 1e3,
               note=f"{beats}; BlueChi with the same: 1890 ms"),
        Figure("link back until the node is alive", "ms", backs, sense="value<=", goal=1000),
        Figure("kill -9 of the daemon, its start, until both nodes are alive", "ms", restarts, sense="value<=",
               goal=1000, note="BlueChi: 2210 ms"),
        Figure("kill -9 of an agent until its next one has joined", "ms", kills,
               note="with the pause of its service before it is started again"),
    ]  # fmt: skip


def _pid(site: Site, name: str) -> int:
    """The agent's process as this machine numbers it; 0 while there is none that joined."""
    (told,) = [one for one in site.daemon.control.ok("nodes")["nodes"] if one["node"] == name]
    for pid in site.hosts[name].processes():
        numbers = Path(f"/proc/{pid}/status").read_text().partition("NSpid:")[2].split("\n")[0].split()
        if numbers[-1] == str(told["pid"]):
            return pid
    return 0


def _memory(site: Site) -> list[Figure]:
    sizes = []
    for name in site.hosts:
        text = Path(f"/proc/{_pid(site, name)}/status").read_text()
        sizes.append(int(text.partition("VmRSS:")[2].split()[0]) * 1024 / 1e6)
    return [Figure("resident memory of an agent", "MB", sizes, note="BlueChi, in C: 3.5 MB")]


# ---- many agents -------------------------------------------------------------------------------------------


@contextmanager
def _agents(count: int) -> Iterator[tuple[Daemon, Crowd]]:
    """A daemon and so many agents that are simulated here, joined."""
    with Daemon({"endpoints": {"nodes": "ipc://{runtime}/nodes"}}) as daemon:
        daemon.clean = False
        daemon.start()
        crowd = Crowd(daemon.context, f"ipc://{daemon.runtime}/nodes", count, 1.0)
        try:
            end_s = time.monotonic() + 30.0
            while not all(agent.session for agent in crowd.agents):
                crowd.live(0.05)
                if time.monotonic() > end_s:
                    raise TimeoutError("not every simulated agent was admitted")
            crowd.live(2.5)
            yield daemon, crowd
        finally:
            crowd.close()


def _cpu_s(pid: int) -> float:
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(path.read_text().split()[0]) for path in tasks) / 1e9


def _crowd(quick: bool) -> list[Figure]:
    looks, look_s = (2, 3.0) if quick else (5, 5.0)
    shares = []
    with _agents(AGENTS) as (daemon, crowd):
        for _ in range(looks):
            before_s, began_s = _cpu_s(daemon.pid), time.monotonic()
            crowd.live(look_s)
            shares.append((_cpu_s(daemon.pid) - before_s) / (time.monotonic() - began_s) * 100)
        joins = [_join(daemon) for _ in range(5 if quick else 20)]
    each_us = [share / 100 / AGENTS * 1e6 for share in shares]
    name = f"heartbeats of {AGENTS} agents, one a second each"
    return [
        Figure(name, "% of a core", shares, sense="value<", goal=2),
        Figure(f"{name}: CPU for one", "µs", each_us, note="MITOSIS: up to 50 ms for one"),
        Figure("an agent's hello beside them until its welcome", "ms", joins, sense="value<=", goal=20),
    ]


def _join(daemon: Daemon) -> float:
    """ms of one more agent: its connection, its hello, and the answer."""
    socket: zmq.Socket[bytes] = daemon.context.socket(zmq.DEALER)
    agent = Simulated("one-more", socket)
    began_s = time.perf_counter()
    socket.connect(f"ipc://{daemon.runtime}/nodes")
    agent.hello()
    while not agent.session:
        if not socket.poll(10_000):
            raise TimeoutError("the daemon does not answer a hello")
        agent.receive()
    took_s = time.perf_counter() - began_s
    socket.close(0)
    return took_s * 1e3


def _schedule(quick: bool) -> list[Figure]:
    """From the request until the answer, which comes when each node has said that it is ready."""
    rounds = 3 if quick else 9
    tasks = [
        {"name": f"t{number}", "node": f"s{number % TASK_NODES:03}", "period_us": 100_000 * (1 + number % 4),
         "wcet_us": 1000, "policy": "fifo", "priority": 1 + number % 90, "command": ["/opt/tasks/client"]}
        for number in range(TASKS)
    ]  # fmt: skip
    names = [f"s{number:03}" for number in range(TASK_NODES)]
    document = {
        "workload": "w",
        "nodes": {name: {"available_cpus": [0, 1, 2, 3]} for name in names},
        "tasks": tasks,
    }
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        endpoint = f"ipc://{folder}/echo"
        stack.enter_context(peers.running("echo", endpoint))
        floor = wire.dealer(endpoint)
        wire.round_trips(floor, [[PAYLOAD]] * 100)
        daemon, crowd = stack.enter_context(_agents(TASK_NODES))

        def answered(verb: str, **body: Any) -> float:
            began_s = time.perf_counter()
            ask = daemon.control.ask(verb, **body)
            while not daemon.control.socket.poll(0):
                crowd.turn(1)
            took_s = time.perf_counter() - began_s
            reply = daemon.control.reply(ask)
            if reply.outcome != "ok":
                raise RuntimeError(reply.body)
            return took_s

        def staged() -> float:
            took_s = answered("schedule-submit", documents=[document])
            crowd.live(1.0)  # its processes are started meanwhile
            answered("schedule-remove", workload="w")
            crowd.live(0.5)
            return took_s * 1e3

        ours, bare = interleave(rounds, staged, lambda: sum(wire.round_trips(floor, [[PAYLOAD]] * 50)) * 1e3)
    name = f"schedule of {TASKS:,} tasks on {TASK_NODES} nodes, until all have staged it"
    note = "the nodes are simulated in one process; the answer follows the commit of the daemon's store"
    return [Figure(name, "ms", ours, bare, "50 round trips of echo", "ratio<=", 5, note)]
