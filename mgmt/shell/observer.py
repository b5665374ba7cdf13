"""The node's observer: what the kernel says of the tasks' processes, by the best mechanism that works here.

Mechanisms wait for the kernel, so all of them work in a thread of their own, which the loop only gives work. When
mgmt-observer ends by itself, that is told, a new one is started, and it counts anew; when none can be started, the
next mechanism takes its place.
"""

from __future__ import annotations

import logging
import os
import time
from asyncio import AbstractEventLoop
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import Any, ClassVar

from mgmt.rt.counters import Accounts, PerfCounters
from mgmt.rt.observation import Mechanism, Observation, ObserverError, Slice
from mgmt.rt.segment import Histogram
from mgmt.rt.tracing import Tracer

log = logging.getLogger("symphony-mgmt")

VARIABLE = "MGMT_OBSERVER"  # the best mechanism that is tried, or off
RETRY_S, RETRY_MAX_S = 0.1, 5.0
READ_S = 5.0  # a reader of figures waits so long for the thread
MECHANISMS: Mapping[str, Callable[[], Mechanism]] = {
    "ebpf": Tracer,
    "perf": PerfCounters,
    "schedstat": Accounts,
}


class Observer:
    """Processes are named by keys of the caller's. `say` is told in the loop what an operator should know."""

    mechanisms: ClassVar[Mapping[str, Callable[[], Mechanism]]] = MECHANISMS

    def __init__(self, loop: AbstractEventLoop, say: Callable[[str], None], wanted: str = "") -> None:
        self._loop, self._say = loop, say
        self._thread = ThreadPoolExecutor(1, "observer")
        self._retry_s = RETRY_S
        self._pidfd = -1  # of mgmt-observer, watched by the loop
        self._closing = False
        names = list(self.mechanisms)
        if wanted not in ("", "off", *names):
            log.warning(
                "%s is %r: must be one of off, %s; the best is taken", VARIABLE, wanted, ", ".join(names)
            )
            wanted = ""
        self._names: Sequence[str] = [] if wanted == "off" else names[names.index(wanted or names[0]) :]
        self._first_reason = f"{VARIABLE}={wanted}" if wanted else ""
        # Of the thread alone:
        self._mechanism: Mechanism | None = None
        self._reason = ""  # why it is not a better one
        self._watched: dict[Hashable, tuple[int, int]] = {}  # key -> pid and start

    def watch(self, key: Hashable, pid: int, start_ticks: int) -> None:
        """From now on; another process that the key had is forgotten."""
        self._submit(lambda: self._watch(key, pid, start_ticks))

    def unwatch(self, key: Hashable) -> None:
        self._submit(lambda: self._unwatch(key))

    def read(self, keys: Iterable[Hashable], slices: bool) -> dict[Hashable, dict[str, Any]]:
        """The bodies of Observed of those that are observed. Waits: not for the loop."""
        if not self._names:
            return {}
        try:
            return self._thread.submit(self._read, list(keys), slices).result(READ_S)
        except (TimeoutError, CancelledError, RuntimeError):  # the thread is busy, or closed
            return {}

    def close(self) -> None:
        """Leave nothing in the kernel. Waits a moment for what is being done."""
        self._closing = True
        self._let_go()
        self._thread.shutdown()  # after what was given to it
        self._end()

    # ---- in the thread ----

    def _submit(self, work: Callable[[], None]) -> None:
        if not self._names or self._closing:
            return
        try:
            self._thread.submit(work).add_done_callback(_complain)
        except RuntimeError as error:
            log.warning("tasks are not observed: %s", error)  # the system has no more threads

    def _watch(self, key: Hashable, pid: int, start_ticks: int) -> None:
        if self._watched.get(key) == (pid, start_ticks):
            return
        self._unwatch(key)
        self._watched[key] = pid, start_ticks
        if self._mechanism is None:
            self._choose()
        else:
            self._begin(pid, start_ticks)

    def _unwatch(self, key: Hashable) -> None:
        pid, _ = self._watched.pop(key, (0, 0))
        if self._mechanism is not None and pid:
            try:
                self._mechanism.unwatch(pid)
            except ObserverError as error:
                log.debug("%s", error)  # its end is seen by the loop

    def _begin(self, pid: int, start_ticks: int) -> None:
        assert self._mechanism is not None
        try:
            self._mechanism.watch(pid, start_ticks)
        except ProcessLookupError:
            pass  # its supervisor knows
        except (ObserverError, OSError) as error:
            log.warning("%s: process %d is not observed: %s", self._mechanism.name, pid, error)

    def _choose(self) -> None:
        """The best that works, for all that are watched."""
        reasons = [self._first_reason] if self._first_reason else []
        for name in self._names:
            try:
                self._mechanism = self.mechanisms[name]()
                break
            except ObserverError as error:
                reasons.append(f"{name}: {error}")
        assert self._mechanism is not None, "the last mechanism works everywhere"
        if self._mechanism.grain:
            reasons.append(self._mechanism.grain)
        self._reason = "; ".join(reasons)
        log.info("tasks are observed by %s%s", self._mechanism.name, f" ({self._reason})" if reasons else "")
        if isinstance(self._mechanism, Tracer):
            pidfd = os.pidfd_open(self._mechanism.process.pid)
            self._loop.call_soon_threadsafe(self._hold, pidfd, time.monotonic())
        for pid, start_ticks in self._watched.values():
            self._begin(pid, start_ticks)

    def _end(self) -> None:
        if self._mechanism is not None:
            self._mechanism.close()
            self._mechanism = None

    def _again(self) -> None:
        self._end()
        self._choose()

    def _read(self, keys: Iterable[Hashable], slices: bool) -> dict[Hashable, dict[str, Any]]:
        found: dict[Hashable, dict[str, Any]] = {}
        if self._mechanism is None:
            return found
        for key in keys:
            seen = self._mechanism.read(self._watched[key][0]) if key in self._watched else None
            if seen is not None:
                found[key] = told(seen, self._mechanism.name, self._reason, slices)
        return found

    # ---- in the loop ----

    def _hold(self, pidfd: int, since_s: float) -> None:
        if self._closing:
            os.close(pidfd)
            return
        self._let_go()
        self._pidfd = pidfd
        self._loop.add_reader(pidfd, self._on_ended, since_s)

    def _let_go(self) -> None:
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1

    def _on_ended(self, since_s: float) -> None:
        """One that lived for long is replaced at once; else the next one waits, longer each time."""
        self._let_go()
        if time.monotonic() - since_s > 2 * RETRY_MAX_S:
            self._retry_s = RETRY_S
        self._say("mgmt-observer has ended: the tasks go on, a new one is started and counts anew")
        self._loop.call_later(self._retry_s, lambda: self._submit(self._again))
        self._retry_s = min(RETRY_MAX_S, 2 * self._retry_s)


def _complain(done: Future[None]) -> None:
    error = None if done.cancelled() else done.exception()
    if error is not None:
        log.error("the observer failed", exc_info=error)


def told(seen: Observation, mechanism: str, reason: str, slices: bool) -> dict[str, Any]:
    """The body of an Observed."""
    return {
        "mechanism": mechanism,
        "reason": reason,
        "threads": seen.threads,
        "switches": seen.switches,
        "involuntary": seen.involuntary,
        "migrations": seen.migrations,
        "cpu_us": seen.cpu_ns / 1000,
        "waited_us": None if seen.waited_ns is None else seen.waited_ns / 1000,
        "activations": seen.activations,
        "lost": seen.lost,
        "wakeup": percentiles(seen.wakeup),
        "on_cpu": percentiles(seen.on_cpu),
        "response": percentiles(seen.response),
        "slices": [_slice(one) for one in (seen.slices if slices else ())],
    }


def _slice(one: Slice) -> dict[str, Any]:
    return {"start_ns": one.start_ns, "end_ns": one.end_ns, "thread": one.thread, "cpu": one.cpu}


def percentiles(histogram: Histogram | None) -> dict[str, float] | None:
    """The body of a Percentiles; None without values."""
    if histogram is None or not histogram.count:
        return None
    shares = {"p50_us": 0.5, "p90_us": 0.9, "p99_us": 0.99}
    found = {name: histogram.percentile_ns(share) / 1000 for name, share in shares.items()}
    return {"mean_us": histogram.mean_ns / 1000, **found, "max_us": histogram.max_ns / 1000}
