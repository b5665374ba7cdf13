"""The door of the tcp endpoints: CURVE on each of them, and the answer to libzmq's question who may come in.

libzmq asks by ZAP: a message to `inproc://zeromq.zap.01` of the same context, answered in the daemon's own loop.
Who is let in is known by its public key, which libzmq attaches to every message (`User-Id`). What the key may do
is looked up for each message, so a revocation counts at once; the table is read again when its file changes.
"""

from __future__ import annotations

import logging
import os
import time
from asyncio import AbstractEventLoop, TimerHandle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zmq
from zmq.utils import z85

from mgmt.protocol import curve, keys
from mgmt.protocol.errors import MgmtError
from mgmt.protocol.keys import Grant
from mgmt.shell.router import Frames, Pump, recv

log = logging.getLogger("mgmt.shell.door")

ZAP = "inproc://zeromq.zap.01"
LOOK_S = 1.0  # how often the table's file is looked at, besides at each handshake
REPEAT_S = 60.0  # the same refusal is logged no more often
MAX_REMEMBERED = 1024  # refusals that are remembered for that; strangers may draw keys without end

_NOBLOCK = int(zmq.NOBLOCK)
_WRONG = {
    0x11000001: "it was made for another server key than this daemon's",
    curve.MECHANISM_DIFFERS: "the other side uses no key",
}
# domain of an endpoint -> whether a key may connect there at all; what it may say is the core's decision
ADMITS: dict[str, Callable[[Grant], bool]] = {
    "control": lambda grant: True,
    "relay": lambda grant: grant.role in (keys.OPERATOR, keys.CLIENT) or bool(grant.user),
    "nodes": lambda grant: bool(grant.node),
}

Prepare = Callable[[zmq.Socket[bytes]], None]


def receive_keyed(socket: zmq.Socket[bytes]) -> list[Any]:
    """One message of a ROUTER behind the public key (str) of its sender; zmq.Again when there is none."""
    identity = recv(socket, _NOBLOCK)
    frame = recv(socket, _NOBLOCK, False)
    message = [frame.get("User-Id"), identity, frame.bytes]
    while frame.more:
        frame = recv(socket, _NOBLOCK, False)
        message.append(frame.bytes)
    return message


class Door:
    """To be made before any endpoint that it keeps; `revoked` gets what keys could do that lost it."""

    def __init__(
        self,
        loop: AbstractEventLoop,
        context: zmq.Context[Any],
        folder: Path,
        revoked: Callable[[list[Grant]], None],
    ) -> None:
        """MgmtError `not-available` without CURVE, `bad-config` when a file of keys is not usable."""
        curve.need_curve()
        self._loop, self._folder, self._revoked = loop, folder, revoked
        self._pair = keys.own_pairs(folder, zmq.curve_keypair)
        self._own: dict[str, Grant] = {}
        self._seen = self._stamp()
        self._allowed = keys.read_allowed(folder)
        self._quiet: dict[tuple[str, str], float] = {}
        self.refused = 0
        self._monitors: list[tuple[zmq.Socket[bytes], zmq.Socket[bytes], Pump]] = []
        self._zap: zmq.Socket[bytes] = context.socket(zmq.ROUTER)
        self._zap.setsockopt(zmq.LINGER, 0)
        self._zap.bind(ZAP)
        self._pump = Pump(loop, self._zap, self._on_question)
        self._timer: TimerHandle = loop.call_later(LOOK_S, self._on_timer)

    def announce(self) -> None:
        """Tell the log that it is there."""
        log.info("tcp endpoints want a key; this daemon's own is %s", self._pair.public)
        if not self._allowed:
            log.warning(
                "no key is allowed in %s: nobody can connect over tcp (`mgmt keys allow`)", self._folder
            )

    def grant(self, key: str) -> Grant:
        """What the sender of a message may do; one that was revoked meanwhile may do nothing."""
        return self._allowed.get(key) or self._own.get(key) or Grant(key, keys.REVOKED, "")

    def prepare(self, domain: str) -> Prepare:
        """What makes a socket one that asks who connects; before it is bound."""

        def set_up(socket: zmq.Socket[bytes]) -> None:
            socket.curve_server = True
            socket.curve_secretkey = self._pair.secret.encode()
            socket.zap_domain = domain.encode()
            # Identities are chosen by peers. Nobody takes over the connection of another one by its name.
            socket.setsockopt(zmq.ROUTER_HANDOVER, 0)
            monitor: zmq.Socket[bytes] = socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL)
            pump = Pump(self._loop, monitor, lambda message: self._on_failure(domain, message))
            self._monitors.append((socket, monitor, pump))

        return set_up

    def backend_keys(self) -> str:
        """What a backend of this daemon is told: server key, public key and secret key of its role."""
        pair = keys.backends_pair(self._folder, zmq.curve_keypair)
        self._own[pair.public] = Grant(pair.public, keys.BACKEND, keys.BACKENDS)
        return f"{self._pair.public} {pair.public} {pair.secret}"

    def look(self) -> None:
        """Read the table again if its file changed. A broken one changes nothing, and is logged once."""
        stamp = self._stamp()
        if stamp == self._seen:
            return
        self._seen = stamp
        try:
            allowed = keys.read_allowed(self._folder)
        except MgmtError as error:
            log.error("%s; the former table of keys stays in force", error.text)
            return
        former, self._allowed = self._allowed, allowed
        gone = [
            grant for key, grant in former.items() if key not in allowed or allowed[key].role != grant.role
        ]
        log.info("%d keys are allowed", len(allowed))
        if gone:
            self._revoked(gone)

    def close_monitors(self) -> None:
        """Before the sockets that were prepared are closed."""
        for socket, monitor, pump in self._monitors:
            pump.close()
            socket.disable_monitor()
            monitor.close(0)
        self._monitors.clear()

    def close(self) -> None:
        """When nothing is to be asked any more."""
        self._timer.cancel()
        self._pump.close()
        self._zap.close(0)

    # ---- what libzmq asks and tells ----

    def _on_question(self, message: Frames) -> None:
        """[who asks, empty, version, number, domain, address, identity, mechanism, credentials...]"""
        if len(message) < 8:
            return
        who, _, version, number, domain, address, _, mechanism, *proof = message
        status, text, user = b"400", b"not allowed", b""
        if mechanism == b"CURVE" and len(proof) == 1 and len(proof[0]) == 32:
            user = z85.encode(proof[0])
            key, where, from_ = (part.decode("ascii", "replace") for part in (user, domain, address))
            self.look()
            grant = self._allowed.get(key) or self._own.get(key)
            if grant is None:
                told = f"the key {key} from {from_} is not allowed here; `mgmt keys allow` would allow it"
                self._refuse(key, told)
            elif where not in ADMITS or not ADMITS[where](grant):
                who_is = f"key {grant.name!r} from {from_} has the role {grant.role}"
                self._refuse(key, f"{who_is}, which may not use endpoints.{where}", where)
            else:
                status, text = b"200", b"OK"
        self._zap.send_multipart((who, b"", version, number, status, text, user, b""))
        self._pump.poke()

    def _on_failure(self, domain: str, message: Frames) -> None:
        _, value = curve.event_of(message)
        why = _WRONG.get(value, f"what it sent is no handshake (0x{value:x})")
        self._refuse(why, f"somebody failed the handshake at endpoints.{domain}: {why}", domain)

    def _refuse(self, about: str, text: str, domain: str = "") -> None:
        self.refused += 1
        now_s = time.monotonic()
        if self._quiet.get((about, domain), 0.0) > now_s:
            return
        if len(self._quiet) >= MAX_REMEMBERED:
            self._quiet = {key: until for key, until in self._quiet.items() if until > now_s}
        if len(self._quiet) < MAX_REMEMBERED:
            self._quiet[about, domain] = now_s + REPEAT_S
            log.warning("%s", text)

    # ---- the file ----

    def _on_timer(self) -> None:
        self.look()
        self._timer = self._loop.call_later(LOOK_S, self._on_timer)

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            found = os.stat(self._folder / keys.ALLOWED)
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size
