"""Figures of what the daemon takes: CPU at rest, memory, descriptors, and whether any of them grows."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from bench import daemon, wire
from bench.figure import Figure
from mgmt.protocol.frames import DataKind, encode_tag

REPLICAS = 20
FLAT_MB = 1.0  # the noise of the allocator


def resources(quick: bool) -> list[Figure]:
    """The daemon at rest, alone and with 20 backends, before and after it was worked."""
    window_s, windows = (2.0, 2) if quick else (5.0, 4)
    with daemon.running() as ours:
        session = wire.Control(ours.control)
        idle = _cpu_percent(ours, window_s, windows)
        alone_mb, alone_fds, alone_threads = ours.resident_mb(), ours.descriptors(), ours.threads()
        for n in range(REPLICAS):
            session.call("load-model", {"model": f"bench-{n}"})
        busy = _cpu_percent(ours, window_s, windows)
        with_mb, with_fds, with_threads = ours.resident_mb(), ours.descriptors(), ours.threads()
    figures = [
        Figure("CPU at rest, no backend", "%", idle, sense="value<", goal=0.5),
        Figure(f"CPU at rest, {REPLICAS} backends", "%", busy, sense="value<", goal=0.5),
        Figure("resident memory, no backend", "MB", [alone_mb]),
        Figure(f"resident memory, {REPLICAS} backends", "MB", [with_mb], sense="value<", goal=60),
        Figure("resident memory per backend", "KB", [(with_mb - alone_mb) / REPLICAS * 1e3]),
        Figure("threads, no backend", "", [alone_threads]),
        Figure(f"threads, {REPLICAS} backends", "", [with_threads], sense="value<=", goal=alone_threads + 2),
        Figure("descriptors, no backend", "", [alone_fds]),
        Figure("descriptors per backend", "", [(with_fds - alone_fds) / REPLICAS]),
    ]
    return figures + _soak(quick)


def _cpu_percent(ours: daemon.Daemon, window_s: float, windows: int) -> list[float]:
    samples = []
    for _ in range(windows):
        before, start = ours.cpu_s(), time.monotonic()
        time.sleep(window_s)
        samples.append((ours.cpu_s() - before) / (time.monotonic() - start) * 100)
    return samples


def _soak(quick: bool) -> list[Figure]:
    """What so much work leaves behind, of two passes the lesser."""
    requests, loads = (20_000, 40) if quick else (100_000, 1000)
    figures = []
    with daemon.running() as ours:
        session, driver = wire.Control(ours.control), wire.Control(ours.control)
        statuses = [[session.frame("status")] for _ in range(1000)]
        driver.call("load-model", {"model": "bench"})
        lease = driver.call("lease", {"model": "bench", "mode": "relay"})
        relay = wire.dealer(lease["endpoint"])
        payload = os.urandom(100)
        data = [[encode_tag(DataKind.REQUEST, lease["lease"], n), payload] for n in range(1000)]

        def ask() -> None:
            wire.pipelined(session.socket, statuses, 64)

        def relayed() -> None:
            wire.pipelined(relay, data, 64)

        def four_loads() -> None:
            for verb in ("load-model", "unload-model"):
                for n in range(4):
                    driver.ask(verb, {"model": f"bench-{n}"})
                for _ in range(4):
                    driver.answer()

        def connection() -> None:
            for _ in range(100):
                wire.Control(ours.control).close()

        for what, work, times in (
            (f"{requests:,} status requests", ask, requests // 1000),
            (f"{requests:,} relayed requests", relayed, requests // 1000),
            (f"{loads:,} loads and unloads", four_loads, loads // 4),
            (f"{requests // 10:,} connections", connection, requests // 1000),
        ):
            # What leaks grows in both passes; what the allocator settles, in one.
            passes = [_growth(ours, work, times) for _ in range(2)]
            grown_mb, grown_fds = (min(values) for values in zip(*passes, strict=True))
            figures += [
                Figure(f"memory grown by {what}", "MB", [grown_mb], sense="value<=", goal=FLAT_MB),
                Figure(f"descriptors grown by {what}", "", [grown_fds], sense="value<=", goal=0),
            ]
    return figures


def _growth(ours: daemon.Daemon, work: Callable[[], None], times: int) -> tuple[float, int]:
    """MB and descriptors that `times` times of work left behind."""
    before_mb, before_fds = ours.resident_mb(), ours.descriptors()
    for _ in range(times):
        work()
    grown_mb = ours.resident_mb() - before_mb
    # The last connections and pidfds are closed by the loop's next turns, not by the last answer.
    daemon.wait_until(lambda: ours.descriptors() <= before_fds, 2.0, fails=False)
    return grown_mb, ours.descriptors() - before_fds
