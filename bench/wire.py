"""The client of all figures: one blocking DEALER, its frames made in advance, pyzmq's Python layer left out."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import zmq
from zmq.backend import Socket

from mgmt.protocol import frames

CONTEXT: zmq.Context[Any] = zmq.Context()
RECEIVE_TIMEOUT_MS = 60_000

_recv: Callable[..., Any] = Socket.recv
_send: Callable[..., Any] = Socket.send
_get: Callable[..., Any] = Socket.get
_MORE = int(zmq.SNDMORE)
_RCVMORE = int(zmq.RCVMORE)

Message = Sequence[bytes]


def dealer(endpoint: str) -> zmq.Socket[bytes]:
    socket: zmq.Socket[bytes] = CONTEXT.socket(zmq.DEALER)
    for option, value in (
        (zmq.LINGER, 0),
        (zmq.RCVTIMEO, RECEIVE_TIMEOUT_MS),
        (zmq.SNDHWM, 0),
        (zmq.RCVHWM, 0),
        (zmq.RECONNECT_IVL, 5),
    ):
        socket.setsockopt(option, value)
    socket.connect(endpoint)
    return socket


def send(socket: zmq.Socket[bytes], message: Message, copy: bool = True) -> None:
    for frame in message[:-1]:
        _send(socket, frame, _MORE)
    _send(socket, message[-1], 0, copy)


def receive(socket: zmq.Socket[bytes], copy: bool = True) -> list[Any]:
    received = [_recv(socket, 0, copy)]
    while _get(socket, _RCVMORE):
        received.append(_recv(socket, 0, copy))
    return received


def round_trips(socket: zmq.Socket[bytes], messages: Sequence[Message], copy: bool = True) -> list[float]:
    """Seconds of each request and its answer, one at a time."""
    durations = []
    clock = time.perf_counter
    for message in messages:
        start = clock()
        send(socket, message, copy)
        receive(socket, copy)
        durations.append(clock() - start)
    return durations


def pipelined(
    socket: zmq.Socket[bytes], messages: Sequence[Message], window: int, copy: bool = True
) -> float:
    """Answers a second with `window` requests under way all the time."""
    start = time.perf_counter()
    for message in messages[:window]:
        send(socket, message, copy)
    for message in messages[window:]:
        receive(socket, copy)
        send(socket, message, copy)
    for _ in messages[:window]:
        receive(socket, copy)
    return len(messages) / (time.perf_counter() - start)


class Refused(Exception):
    """The daemon did not answer ok."""


class Control:
    """A native session with the daemon; frames for the measured requests and calls for everything else."""

    def __init__(self, endpoint: str, **hello: Any) -> None:
        self.socket = dealer(endpoint)
        self._id = 0
        self.welcome = self.call("hello", {"versions": [1], "name": "bench", **hello})
        self.session: int = self.welcome["session"]

    def frame(self, verb: str, body: dict[str, Any] | None = None, session: int | None = None) -> bytes:
        """A request under a fresh number; session 0 stands for the connection's last one."""
        self._id += 1
        known = getattr(self, "session", 0) if session is None else session
        return frames.encode_request(self._id, known, verb, body or {}, deadline_ms=120_000)

    def ask(self, verb: str, body: dict[str, Any] | None = None) -> int:
        """Send a request and return its number."""
        _send(self.socket, self.frame(verb, body))
        return self._id

    def answer(self) -> frames.Reply:
        """The next answer; raises Refused unless it is ok. Events and notices are passed over."""
        while True:
            message = frames.decode([_recv(self.socket)])
            if isinstance(message, frames.Reply):
                if message.outcome != "ok":
                    raise Refused(message.body)
                return message

    def call(self, verb: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        self.ask(verb, body)
        return self.answer().body

    def until_event(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The first event whose body is wanted."""
        while True:
            message = frames.decode([_recv(self.socket)])
            if isinstance(message, frames.Event) and wanted(message.body):
                return message.body

    def close(self) -> None:
        """Say bye and leave; without it the session would stay until its timeout."""
        _send(self.socket, frames.encode_notice(self.session, "bye", {}))
        self.socket.close(1000)


class Legacy:
    """The ancestor's JSON commands."""

    def __init__(self, endpoint: str) -> None:
        self.socket = dealer(endpoint)

    @staticmethod
    def frame(name: str, **params: Any) -> bytes:
        return json.dumps({"command": name, "params": params, "correlation_id": "b"}).encode()

    def call(self, name: str, **params: Any) -> dict[str, Any]:
        _send(self.socket, self.frame(name, **params))
        reply: dict[str, Any] = json.loads(_recv(self.socket))
        if not reply["success"]:
            raise Refused(reply)
        return reply

    def close(self) -> None:
        self.socket.close(0)
