"""CURVE on a socket that connects, and what a failed handshake means.

libzmq reconnects for ever without a word to whoever waits: a key that is wrong looks like a server that is slow.
What its monitor says is told apart here:

- refused (the server does not know the key) and a mechanism that differs: certain at once, and libzmq has given
  the connection up, so its socket is of no use any more;
- cut off without a word: what a server does to a client that has another server's key or none, but what a server
  that restarts does as well. It counts when it has been so for GRACE_S without a success in between.
"""

from __future__ import annotations

import struct
from typing import Any

import zmq

from mgmt.protocol.errors import MgmtError
from mgmt.protocol.keys import Credentials

GRACE_S = 0.5
MECHANISM_DIFFERS = 0x11000002
FAILURES = (
    zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
)
WATCHED = FAILURES | zmq.EVENT_HANDSHAKE_SUCCEEDED

_EVENT = struct.Struct("=HI")  # of a monitor: which, and its value


def is_available() -> bool:
    """Whether this libzmq was built with CURVE."""
    return bool(zmq.has("curve"))


def event_of(message: list[bytes]) -> tuple[int, int]:
    """Which event a monitor's message tells, and its value."""
    event, value = _EVENT.unpack(message[0])
    return event, value


def dress(socket: zmq.Socket[Any], credentials: Credentials | None, endpoint: str) -> None:
    """Set the keys of a socket before it connects; endpoints of files need none."""
    if credentials is None or not endpoint.startswith("tcp://"):
        return
    need_curve()
    socket.curve_serverkey = credentials.server.encode()
    socket.curve_publickey = credentials.public.encode()
    socket.curve_secretkey = credentials.secret.encode()


def need_curve() -> None:
    """MgmtError `not-available` without CURVE in libzmq."""
    if not is_available():
        text = f"this libzmq ({zmq.zmq_version()}) was built without CURVE, so nothing can be proven over tcp"
        raise MgmtError("not-available", f"{text}: install pyzmq from its wheels, or use ipc")


class Handshakes:
    """The handshakes of one connecting socket: `judge` tells of each event whether it was the end."""

    def __init__(self, endpoint: str, credentials: Credentials | None) -> None:
        self._endpoint = endpoint
        self._keyed = credentials is not None and endpoint.startswith("tcp://")
        self._public = credentials.public if credentials is not None else ""
        self._cut_since_s: float | None = None

    def judge(self, now_s: float, event: int, value: int) -> MgmtError | None:
        """The error to tell when this connection cannot come about; its socket has to be made anew then."""
        if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._cut_since_s = None
        elif event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            text = (
                f"{self._endpoint} does not know the key {self._public}: have it allowed there "
                "(`mgmt keys allow`), or name another with --key"
            )
            return MgmtError("not-authorised", text, key=self._public)
        elif event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL and value == MECHANISM_DIFFERS:
            return MgmtError("not-authorised", self._mechanism())
        elif event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
            return MgmtError("unreachable", f"what answers at {self._endpoint} does not speak this protocol")
        elif event == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL and self._endpoint.startswith("tcp://"):
            if self._cut_since_s is None:
                self._cut_since_s = now_s
            elif now_s - self._cut_since_s >= GRACE_S:
                return MgmtError("not-authorised", self._cut())
        return None

    def _cut(self) -> str:
        if not self._keyed:
            return f"{self._mechanism()}. Or it passes connections on, and there is nobody behind it"
        return (
            f"{self._endpoint} ends each handshake without a word: it has another server key than the one given "
            "(--server-key, MGMT_SERVER_KEY), or uses none; `mgmt keys show` there prints its key"
        )

    def _mechanism(self) -> str:
        if self._keyed:
            return (
                f"{self._endpoint} uses no keys (`insecure` of its configuration), and keys were given: nobody "
                "could tell it from another one. Leave out --server-key and --key if that is meant"
            )
        return (
            f"{self._endpoint} wants a key: give its public key (--server-key or MGMT_SERVER_KEY; "
            "`mgmt keys show` there prints it) and your own (--key or MGMT_KEY_FILE; `mgmt keys new` makes one)"
        )
