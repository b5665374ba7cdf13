"""Figures of task suites: tasks a second, one task, memory, restarts, and what others see of a busy daemon."""

from __future__ import annotations

import math
import os
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import zmq

from bench import daemon, queues, wire
from bench.figure import Figure, interleave, percentile
from bench.suite_work import BATCH, Work, client_of, fetch_counts, peer, quantile_ms
from mgmt.protocol import frames
from tests.system.many_agents import Simulated

LOOP = Path(__file__).with_name("spawn_loop.c")
ROOT = str(Path(__file__).parents[1])
TICK = {"function": "bench.suite_tasks:tick", "cwd": ROOT}
GAP = {"function": "bench.suite_tasks:gap_p95_ms", "cwd": ROOT}
JOINS, BEATS = 10, 10  # of each, in turn, while the daemon is busy
BEAT_S = 0.005
FEW, TRIES = 10_000, 3
RUNNING = 3000  # tasks; no fewer than are done meanwhile


def suites(quick: bool) -> list[Figure]:
    """Tasks through the client library, each durable; peers that cannot be installed are left out, and say why."""
    return [
        *_calls(quick),
        *_one(quick),
        *_processes(quick),
        *_agents(quick),
        *_sizes(quick),
        *_restart(quick),
        *queues.engines(quick),
    ]


# ---- calls of functions -----------------------------------------------------------------------------------


def _calls(quick: bool) -> list[Figure]:
    """No-op functions on two resident workers."""
    count, rounds = 100_000, 2 if quick else 5
    with daemon.running(units={}) as ours, client_of(ours) as client:
        work = Work(client, "resident")
        rates, cpu_us, fetches = [], [], []
        for _ in range(rounds):
            before, before_s = fetch_counts(client), ours.cpu_s()
            rates.append(work.rate(count))
            cpu_us.append((ours.cpu_s() - before_s) / count * 1e6)
            fetches.append(quantile_ms(before, fetch_counts(client), 0.95))
        size_mb = ours.resident_mb()
        work.cancel()
        one = Work(client, "resident", 1)
        one.submit(count // 4, TICK)
        one.finish()
        gap_ms = one.value(GAP)
    name = f"{count:,} no-op calls, 2 workers"
    figures = [
        Figure(name, "1/s", rates, [10_000] * rounds, "goal", "ratio>=", 1,
               note=f"submitted {BATCH} at a time, every result committed with a full sync"),
        Figure("CPU time of the daemon for a call", "µs", cpu_us),
        Figure("daemon's memory after them", "MB", [size_mb], sense="value<", goal=300),
        Figure("fetch from the daemon meanwhile, p95", "ms", fetches,
               note="from the request for tasks to their durable claim, of the daemon's own histogram"),
        Figure("fetch from the local buffer, p95", "ms", [gap_ms], sense="value<=", goal=1,
               note="from the end of a call to the begin of the next one in a worker"),
    ]  # fmt: skip
    dask = peer("dask", 300 if quick else 3000, 2 if quick else 3)
    huey = peer("huey", 300 if quick else 2000, 2 if quick else 3)
    figures.append(_beside(name, "1/s", rates, dask, "dask.distributed", 15, "which keeps nothing on a disk"))
    figures.append(
        _beside(name, "1/s", rates, huey, "huey", 3, "SqliteHuey with fsync, which batches nothing")
    )
    return figures


def _beside(
    name: str,
    unit: str,
    ours: Sequence[float],
    theirs: Sequence[float] | str,
    peer: str,
    goal: float,
    note: str,
) -> Figure:
    if isinstance(theirs, str):
        return Figure(f"{name}, beside {peer}", unit, ours, note=theirs)
    return Figure(f"{name}, beside {peer}", unit, ours, theirs, peer, "ratio>=", goal, note)


def _one(quick: bool) -> list[Figure]:
    """One task on an idle system."""
    times = 100 if quick else 400
    figures = []
    for kind, name, goal in (("resident", "a function", 1), ("process", "a process", 2)):
        with daemon.running(units={}) as ours, client_of(ours) as client, _two_syncs_ms() as syncs_ms:
            work = Work(client, kind, 1)
            before_s = ours.cpu_s()
            taken, floor = interleave(times, work.once_ms, syncs_ms)
            cpu_us = (ours.cpu_s() - before_s) / times * 1e6
        figures.append(
            Figure(f"{name}, submitted to finished", "ms", taken, floor, "2 syncs", "value<=", goal,
                   note="task-submit that waits, one after the other; a sync is fdatasync of 4 KiB; the daemon's "
                        f"CPU time for one: {cpu_us:.0f} µs")
        )  # fmt: skip
    return figures


@contextmanager
def _two_syncs_ms() -> Iterator[Callable[[], float]]:
    """What the commits of nobody take, over room that is there."""
    with tempfile.TemporaryFile() as file:
        file.write(bytes(1 << 20))
        os.fsync(file.fileno())

        def once() -> float:
            began_s = time.perf_counter()
            for at in (0, 4096):
                os.pwrite(file.fileno(), bytes(4096), at)
                os.fdatasync(file.fileno())
            return (time.perf_counter() - began_s) * 1e3

        yield once


# ---- processes --------------------------------------------------------------------------------------------


def _processes(quick: bool) -> list[Figure]:
    """/bin/true as a process per task, on two workers."""
    (count, rounds), many = ((600, 2) if quick else (2000, 5)), 100_000
    with (
        tempfile.TemporaryDirectory(prefix="mgmt-bench-loop-") as folder,
        daemon.running(units={}) as ours,
        client_of(ours) as client,
    ):
        loop = f"{folder}/spawn_loop"
        subprocess.run(["cc", "-O2", "-o", loop, str(LOOP)], check=True)

        def floor() -> float:
            command = [loop, str(count), "2", "/bin/true"]
            return float(subprocess.run(command, check=True, capture_output=True).stdout)

        work = Work(client, "process")
        before = fetch_counts(client)
        rates, bare = interleave(rounds, lambda: work.rate(count), floor)
        fetch_ms = quantile_ms(before, fetch_counts(client), 0.95)
        work.cancel()
        few, deep = interleave(
            rounds,
            lambda: Work(client, "process").rate_of(count, max(count, 1000)),
            lambda: Work(client, "process").rate_of(count, many),
        )
    hyperqueue = peer("hyperqueue", 300 if quick else 1000, 2 if quick else 3)
    name = "/bin/true as a task, 2 workers"
    return [
        Figure(name, "1/s", rates, bare, "posix_spawn loop, 2 in flight", "ratio>=", 0.6),
        Figure(f"{name}, {many:,} queued", "1/s", deep, few, f"{max(count, 1000):,} queued", "ratio>=", 0.85),
        Figure("fetch from the daemon meanwhile, p95", "ms", [fetch_ms], sense="value<=", goal=5),
        _beside(name, "1/s", rates, hyperqueue, "hyperqueue", 4, "LocalCluster, a worker with 2 cores"),
    ]


# ---- agents, while the daemon is busy ---------------------------------------------------------------------


def _agents(quick: bool) -> list[Figure]:
    """Agents join and beat while two workers run /bin/true."""
    rounds = 3 if quick else 10
    joins: list[float] = []
    beats: list[float] = []
    with (
        daemon.running(units={}, nodes=True) as ours,
        client_of(ours) as client,
        zmq.Context() as context,
    ):
        work = Work(client, "process")
        for number in range(rounds):
            work.submit(RUNNING)
            for agent in range(JOINS):
                socket: zmq.Socket[bytes] = context.socket(zmq.DEALER)
                socket.setsockopt(zmq.LINGER, 0)
                simulated = Simulated(f"n{number}-{agent}", socket)
                began_s = time.perf_counter()
                socket.connect(ours.nodes)
                simulated.hello()
                _until(simulated, lambda: bool(simulated.session))  # noqa: B023 - called at once
                joins.append((time.perf_counter() - began_s) * 1e3)
                for _ in range(BEATS):
                    seen = simulated.beats
                    began_s = time.perf_counter()
                    simulated.tell("agent-heartbeat", clock_ns=time.monotonic_ns())
                    _until(simulated, lambda: simulated.beats > seen)  # noqa: B023
                    beats.append((time.perf_counter() - began_s) * 1e3)
                    time.sleep(BEAT_S)
                socket.send(frames.encode_notice(simulated.session, "bye", {}))
                socket.close()
            work.finish()
    return [
        Figure("an agent's hello meanwhile until its welcome, p95", "ms", [percentile(joins, 0.95)],
               sense="value<=", goal=20),
        Figure("an agent's heartbeat meanwhile until its answer, p95", "ms", [percentile(beats, 0.95)],
               sense="value<=", goal=5),
    ]  # fmt: skip


def _until(agent: Simulated, condition: Callable[[], bool]) -> None:
    while not condition():
        if not agent.socket.poll(10_000):
            raise TimeoutError("the daemon does not answer an agent")
        agent.receive()


# ---- many tasks -------------------------------------------------------------------------------------------


def _sizes(quick: bool) -> list[Figure]:
    """From a thousand to a million tasks that are all queued before the first of them runs."""
    sizes = (1000, 10_000, 100_000) if quick else (1000, 10_000, 100_000, 1_000_000)
    taken_s, cpu_s = [], []
    first_mb = last_mb = 0.0
    with daemon.running(units={}) as ours, client_of(ours) as client:
        work = Work(client, "resident")
        for size in sizes:
            times_s, times_cpu_s = [], []
            for _ in range(TRIES if size <= FEW else 1):  # a moment is soon disturbed
                work.pause(True)
                began_s, began_cpu_s = time.perf_counter(), ours.cpu_s()
                work.submit(size // 10)
                first_mb = ours.resident_mb()
                work.submit(size - size // 10)
                last_mb = ours.resident_mb()
                work.pause(False)
                work.finish()
                times_s.append(time.perf_counter() - began_s)
                times_cpu_s.append(ours.cpu_s() - began_cpu_s)
            taken_s.append(statistics.median(times_s))
            cpu_s.append(statistics.median(times_cpu_s))
    queued = sizes[-1] - sizes[-1] // 10
    each = "; ".join(
        f"{size:,}: {took_s / size * 1e6:.0f} µs" for size, took_s in zip(sizes, taken_s, strict=True)
    )
    return [
        Figure(f"time of {sizes[0]:,} to {sizes[-1]:,} tasks as a power of their number", "",
               [_power(sizes, taken_s)], sense="value<=", goal=1.05,
               note=f"queued and then run, for each task {each}"),
        Figure("the daemon's CPU time likewise", "", [_power(sizes, cpu_s)], sense="value<=", goal=1.05),
        Figure("daemon's memory for a queued task", "B", [(last_mb - first_mb) * 1e6 / queued], sense="value<=",
               goal=450, note=f"from {sizes[-1] // 10:,} to {sizes[-1]:,} in the queue"),
    ]  # fmt: skip


def _power(sizes: Sequence[int], values: Sequence[float]) -> float:
    """The slope of the line through their logarithms."""
    slope, _ = np.polyfit([math.log(size) for size in sizes], [math.log(value) for value in values], 1)
    return float(slope)


def _restart(quick: bool) -> list[Figure]:
    """kill -9 with tasks queued, and a start until the next of them has ended."""
    queued, rounds = 100_000, 2 if quick else 5
    taken_s, answered_s = [], []
    with daemon.place(units={}) as (folder, environ, command):
        process = _started(command, environ)
        try:
            ours = daemon.Daemon(folder, process, environ)
            wire.Control(ours.control).close()  # waits for it
            with client_of(ours) as client:
                work = Work(client, "resident")
                work.pause(True)
                work.submit(queued)
            for _ in range(rounds):
                process.send_signal(signal.SIGKILL)
                process.wait()
                began_s = time.perf_counter()
                process = _started(command, environ)
                wire.Control(ours.control).close()
                with client_of(ours) as client:
                    (told,) = client.request("suites", {"suites": [work.suite]})["suites"]
                    answered_s.append(time.perf_counter() - began_s)
                    seen = {"suite": work.suite, "condition": "progress", "seen": told["tasks"]}
                    while (
                        client.request("suite-wait", seen)["tasks"]["finished"] <= told["tasks"]["finished"]
                    ):
                        pass
                    taken_s.append(time.perf_counter() - began_s)
                    client.request("worker-pause", {"node": "local", "paused": True})
        finally:
            process.terminate()
            try:
                process.wait(daemon.STARTS_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    assert statistics.median(answered_s) <= statistics.median(taken_s)
    name = f"start after kill -9 with {queued:,} queued"
    return [
        Figure(f"{name}, until it answers", "s", answered_s),
        Figure(f"{name}, until one of them has ended", "s", taken_s, sense="value<=", goal=2),
    ]


def _started(command: list[str], environ: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
