"""The daemon's shell: one loop that turns the world into events, and effects into deeds."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import secrets
import signal as signals
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import uvloop
import zmq

from mgmt import __version__
from mgmt.config import Loaded
from mgmt.core import effect as fx
from mgmt.core import event as ev
from mgmt.core.event import Now
from mgmt.core.state import Identity, State
from mgmt.core.step import LEGACY_PLANE, step
from mgmt.protocol.errors import MgmtError
from mgmt.shell import sight
from mgmt.shell.legacy import LegacyPlane
from mgmt.shell.logs import read_log
from mgmt.shell.native import NativePlane
from mgmt.shell.notify import Notifier, watchdog_interval_s
from mgmt.shell.ownership import Lock, claim, own
from mgmt.shell.prober import Prober
from mgmt.shell.relay import Relay
from mgmt.shell.router import ipc_path, remove_socket
from mgmt.shell.timers import Timers
from mgmt.shell.units import Units

log = logging.getLogger("symphony-mgmt")  # the ancestor's name: its users filter on it

SAMPLE_S = 5.0  # how often CPU and memory of units are looked at
WORKERS = 2  # threads for what may block: reading logs, walking /proc
FLUSH_S = 0.5  # how long the last answers may take at the end


class Daemon:
    """Everything the shell owns; `run` returns when the core said Quit and the last answers are out."""

    def __init__(self, loaded: Loaded, backend_path: Path | None, runtime: Path, state_dir: Path) -> None:
        """Takes the lock and binds the endpoints; MgmtError when somebody else has them."""
        settings = loaded.settings
        log_dir = state_dir / "logs"
        log_dir.mkdir(parents=True, exist_ok=True, mode=0o750)
        own(runtime)
        self._lock = Lock(state_dir)
        self._notifier = Notifier.from_environ()
        self._environ = dict(os.environ)
        for endpoint in settings.endpoints.served().values():
            claim(endpoint)
        self._loop = uvloop.new_event_loop()
        self._context: zmq.Context[Any] = zmq.Context()
        serials = itertools.count(1)

        def serial() -> int:
            return next(serials)

        self._queue: deque[ev.Event] = deque()
        self._stepping = False
        self.native = NativePlane(
            self._loop,
            self._context,
            settings.endpoints.control,
            settings.timing.request_timeout_s,
            settings.limits.max_subscriber_queue,
            serial,
            self.emit,
        )
        self.legacy = LegacyPlane(self._loop, self._context, settings, serial, self.emit)
        self.relay = Relay(
            self._loop,
            self._context,
            settings.endpoints.relay,
            settings.limits.max_relay_frame_bytes,
            settings.limits.max_relay_queue,
        )
        self._prober = Prober(self._loop, self._context, self.emit)
        self._timers = Timers(self._loop, lambda key: self.emit(ev.TimerFired(key)))
        self._units = Units(self._loop, settings, backend_path, runtime, log_dir, self._environ, self.emit)
        self._sampler = sight.Sampler()
        self._workers = ThreadPoolExecutor(WORKERS, "worker")
        self._stop_signals = 0
        self._state = State(
            settings,
            Identity(
                version=__version__,
                pid=os.getpid(),
                epoch=time.time_ns() // 1_000_000,
                secret=secrets.token_bytes(32),
                config=str(loaded.path) if loaded.path is not None else loaded.source,
                log_dir=str(log_dir),
                started=_now(),
            ),
        )
        self._perform: dict[type[Any], Callable[[Any], None]] = {
            fx.Answer: self._answer,
            fx.Tell: self.native.tell,
            fx.Publish: self.native.publish,
            fx.SetTimer: lambda effect: self._timers.set(effect.key, effect.at_ns),
            fx.CancelTimer: lambda effect: self._timers.cancel(effect.key),
            fx.Spawn: self._units.spawn,
            fx.SignalUnit: self._units.signal,
            fx.KillUnit: self._units.kill,
            fx.ProbeHandshake: lambda effect: self._prober.start(
                effect.unit, effect.incarnation, effect.endpoint
            ),
            fx.Inspect: self._inspect,
            fx.RemoveEndpoint: self._remove_endpoint,
            fx.RelayGroup: self.relay.set_group,
            fx.RelayLease: self.relay.set_lease,
            fx.ReadLog: self._read_log,
            fx.Note: _note,
            fx.Quit: self._quit,
        }

    # ---- the loop ----

    def run(self) -> None:
        """Serve until stopped."""
        loop = self._loop
        for number in (signals.SIGTERM, signals.SIGINT):
            loop.add_signal_handler(number, self._on_stop_signal, number)
        loop.add_signal_handler(signals.SIGHUP, self._on_hangup)
        interval_s = watchdog_interval_s()
        if interval_s is not None:
            self._beat(interval_s)
        self._sample()
        endpoint = self._state.settings.endpoints.control
        log.info("ready: pid %d, control endpoint %s", os.getpid(), endpoint)
        self._notifier.ready(f"serving on {endpoint}")
        try:
            loop.run_forever()
        finally:
            self._close()

    def emit(self, event: ev.Event) -> None:
        """Feed an event to the core and carry out what it wants; nested events wait for their turn."""
        self._queue.append(event)
        if self._stepping:
            return
        self._stepping = True
        try:
            while self._queue:
                for effect in step(self._state, _now(), self._queue.popleft()):
                    self._perform[type(effect)](effect)
        finally:
            self._stepping = False

    def _close(self) -> None:
        self._notifier.stopping()
        deadline = time.monotonic() + FLUSH_S
        routers = (self.native.router, self.legacy.handshake, self.legacy.commands)
        while not all(router.flush() for router in routers) and time.monotonic() < deadline:
            self._loop.run_until_complete(asyncio.sleep(0.01))
        self._timers.close()
        self._prober.close()
        self.relay.close()
        for router in routers:
            router.close(linger_ms=int(FLUSH_S * 1000))
        self._units.close()
        self._context.term()
        self._workers.shutdown()
        self._loop.close()
        self._notifier.close()
        self._lock.release()
        log.info("stopped")

    # ---- effects ----

    def _quit(self, effect: fx.Quit) -> None:
        # Not now: what follows the effect in its step is still to be carried out.
        self._loop.call_soon(self._loop.stop)

    def _answer(self, effect: fx.Answer) -> None:
        (self.legacy if effect.route.plane == LEGACY_PLANE else self.native).answer(effect)

    def _remove_endpoint(self, effect: fx.RemoveEndpoint) -> None:
        self._prober.stop(effect.endpoint)
        path = ipc_path(effect.endpoint)
        if path is not None:
            remove_socket(path)

    def _inspect(self, effect: fx.Inspect) -> None:
        path = ipc_path(effect.endpoint)
        if path is not None:
            try:
                os.chmod(path, 0o600)  # the backend made it, with whatever mask it has
            except FileNotFoundError:
                pass
            except OSError as error:
                log.warning("%s: its socket %s keeps its mode: %s", effect.unit, path, error.strerror)
        # Again after a second: the first sample has memory, a share of CPU needs two.
        self._take_sample(effect.unit)
        self._loop.call_later(1.0, self._take_sample, effect.unit)
        if not effect.cpus:
            return

        def look() -> None:
            wrong = sight.wrong_masks(effect.pid, effect.cpus)
            event = ev.MaskChecked(effect.unit, effect.incarnation, wrong)
            self._loop.call_soon_threadsafe(self.emit, event)

        self._workers.submit(look)

    def _read_log(self, effect: fx.ReadLog) -> None:
        path = self._units.log_path(effect.unit)

        def read() -> None:
            result: dict[str, Any] | MgmtError
            try:
                result = read_log(effect.unit, path, effect.lines, effect.offset, effect.inode)
            except MgmtError as error:
                result = error
            self._loop.call_soon_threadsafe(self.emit, ev.LogRead(effect.route, result))

        self._workers.submit(read)

    # ---- signals and periodic work ----

    def _on_stop_signal(self, number: signals.Signals) -> None:
        self._stop_signals += 1
        self.emit(ev.StopRequested(signals.Signals(number).name, fast=self._stop_signals > 1))

    def _on_hangup(self) -> None:
        log.warning(
            "SIGHUP: reload is not available in this version; restart to apply a changed configuration"
        )

    def _beat(self, interval_s: float) -> None:
        # Runs in the loop, so a loop that is stuck stops beating: that is the point.
        self._notifier.watchdog()
        self._loop.call_later(interval_s, self._beat, interval_s)

    def _sample(self) -> None:
        self._take_sample()
        self._loop.call_later(SAMPLE_S, self._sample)

    def _take_sample(self, only: str = "") -> None:
        units = self._state.supervisor.units
        chosen = {only: units[only]} if only else units
        pids = {name: unit.pid for name, unit in chosen.items() if unit.pid is not None}
        if pids:
            self.emit(ev.Sampled(self._sampler.sample(pids)))


def _now() -> Now:
    return Now(time.monotonic_ns(), time.time())


def _note(effect: fx.Note) -> None:
    log.log(getattr(logging, effect.level), "%s", effect.text, extra={"fields": dict(effect.fields)})
