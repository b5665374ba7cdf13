"""Readiness of backends that speak the legacy data plane: they are ready when they answer a handshake."""

from __future__ import annotations

from asyncio import AbstractEventLoop, TimerHandle
from collections.abc import Callable
from typing import Any

import zmq

from mgmt.core import event as ev
from mgmt.protocol import symphony
from mgmt.protocol.symphony_messages import BadMessage
from mgmt.shell.router import Frames, Pump

AGAIN_S = 1.0  # a handshake may be lost in a backend that binds before it reads; ask again this often


class _Probe:
    def __init__(self, socket: zmq.Socket[bytes], pump: Pump) -> None:
        self.socket = socket
        self.pump = pump
        self.timer: TimerHandle | None = None


class Prober:
    """Sends empty handshakes to an endpoint until something answers."""

    def __init__(
        self, loop: AbstractEventLoop, context: zmq.Context[Any], emit: Callable[[ev.Event], None]
    ) -> None:
        self._loop = loop
        self._context = context
        self._emit = emit
        self._probes: dict[str, _Probe] = {}  # by endpoint

    def start(self, unit: str, incarnation: int, endpoint: str) -> None:
        self.stop(endpoint)
        socket: zmq.Socket[bytes] = self._context.socket(zmq.DEALER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.RECONNECT_IVL, 10)
        # Nothing queues towards a peer that is not there yet: each try is one handshake, not a burst later.
        socket.setsockopt(zmq.SNDHWM, 1)
        socket.connect(endpoint)

        def on_message(message: Frames) -> None:
            try:
                protocols = symphony.decode_handshake_response(message[0])
            except BadMessage:
                return
            self.stop(endpoint)
            self._emit(ev.HandshakeAnswered(unit, incarnation, tuple(protocols)))

        probe = self._probes[endpoint] = _Probe(socket, Pump(self._loop, socket, on_message))
        self._ask(probe)

    def stop(self, endpoint: str) -> None:
        """Forget the probe of an endpoint, if there is one: it would try to connect for ever."""
        probe = self._probes.pop(endpoint, None)
        if probe is not None:
            if probe.timer is not None:
                probe.timer.cancel()
            probe.pump.close()
            probe.socket.close(0)

    def close(self) -> None:
        for endpoint in list(self._probes):
            self.stop(endpoint)

    def _ask(self, probe: _Probe) -> None:
        try:
            probe.socket.send(b"", zmq.NOBLOCK)
        except zmq.Again:
            pass  # the last one still waits for a listener
        probe.pump.poke()
        probe.timer = self._loop.call_later(AGAIN_S, self._ask, probe)
