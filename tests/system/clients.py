"""Raw clients of a daemon's endpoints: what they send and receive is the wire itself, never `mgmt.client`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import zmq

from mgmt.protocol import frames

PATIENCE_S = 20.0  # how long a condition that must come true may take on a busy machine
POLL_S = 0.005

T = TypeVar("T")


def eventually(predicate: Callable[[], T], timeout_s: float = PATIENCE_S, what: str = "") -> T:
    """The first true value of `predicate`; AssertionError after `timeout_s`."""
    end = time.monotonic() + timeout_s
    while True:
        value = predicate()
        if value:
            return value
        assert time.monotonic() < end, f"not within {timeout_s:g} s: {what or predicate}"
        time.sleep(POLL_S)


class Peer:
    """One socket that talks to a ROUTER; every receive has a deadline."""

    def __init__(
        self,
        context: zmq.Context[Any],
        endpoint: str,
        kind: int = zmq.DEALER,
        identity: bytes | None = None,
        **options: int,
    ) -> None:
        self.socket: zmq.Socket[bytes] = context.socket(kind)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.RECONNECT_IVL, 5)
        self.socket.setsockopt(zmq.SNDTIMEO, int(PATIENCE_S * 1000))
        if identity is not None:
            self.socket.setsockopt(zmq.IDENTITY, identity)
        for name, value in options.items():
            self.socket.setsockopt(getattr(zmq, name), value)
        self.socket.connect(endpoint)

    def send(self, *parts: bytes) -> None:
        self.socket.send_multipart(parts)

    def receive(self, timeout_s: float = PATIENCE_S) -> list[bytes]:
        """The frames of the next message; TimeoutError when none comes."""
        if not self.socket.poll(max(1, int(timeout_s * 1000))):
            raise TimeoutError(f"no answer within {timeout_s:g} s")
        return self.socket.recv_multipart()

    def silent_for(self, timeout_s: float) -> bool:
        return not self.socket.poll(int(timeout_s * 1000))

    def close(self) -> None:
        self.socket.close(0)


class Data(Peer):
    """A client of the data plane: requests under a lease, answers by their numbers."""

    def __init__(self, context: zmq.Context[Any], lease: Mapping[str, Any], **options: int) -> None:
        super().__init__(context, lease["endpoint"], zmq.DEALER, None, **options)
        self.lease: int = lease["lease"]

    def ask(self, id: int, *payload: bytes) -> None:
        self.send(frames.encode_tag(frames.DataKind.REQUEST, self.lease, id), *payload)

    def answer(self, timeout_s: float = PATIENCE_S) -> tuple[frames.Tag, list[bytes]]:
        tag, *payload = self.receive(timeout_s)
        return frames.decode_tag(tag), payload

    def error(self, id: int, timeout_s: float = PATIENCE_S) -> dict[str, Any]:
        """The error body of the next answer, which must be the one to `id`."""
        tag, payload = self.answer(timeout_s)
        assert (tag.id, tag.lease) == (id, self.lease)
        assert tag.kind > frames.DataKind.RESULT, payload
        body: dict[str, Any] = frames.unpack(payload[0])
        return body


class Legacy(Peer):
    """A client of the JSON endpoint."""

    def ask(self, command: str, **params: Any) -> None:
        document = {"command": command, "params": params, "correlation_id": command}
        self.send(json.dumps(document).encode())

    def answer(self, timeout_s: float = PATIENCE_S) -> dict[str, Any]:
        (payload,) = self.receive(timeout_s)
        reply: dict[str, Any] = json.loads(payload)
        return reply


class Native(Peer):
    """A client of the control endpoint. Events and notices that arrive meanwhile are kept, in order."""

    def __init__(
        self, context: zmq.Context[Any], endpoint: str, identity: bytes | None = None, **options: int
    ) -> None:
        super().__init__(context, endpoint, zmq.DEALER, identity, **options)
        self.events: list[frames.Event] = []
        self.notices: list[frames.Notice] = []
        self.session = 0
        self._replies: dict[int, frames.Reply] = {}
        self._id = 0

    def hello(self, timeout_s: float = PATIENCE_S, **body: Any) -> dict[str, Any]:
        """Open a session, which every further request names; its Welcome."""
        welcome = self.ok("hello", timeout_s, versions=[frames.VERSION], name="test", **body)
        self.session = welcome["session"]
        return welcome

    def ask(self, verb: str, deadline_ms: int = 0, key: str = "", **body: Any) -> int:
        self._id += 1
        self.send(frames.encode_request(self._id, self.session, verb, body, deadline_ms, key))
        return self._id

    def tell(self, name: str, **body: Any) -> None:
        self.send(frames.encode_notice(self.session, name, body))

    def take(self, timeout_s: float = PATIENCE_S) -> object:
        """The next message, sorted into its place."""
        message = frames.decode(self.receive(timeout_s))
        if isinstance(message, frames.Reply):
            assert message.id not in self._replies, f"a second answer to request {message.id}"
            self._replies[message.id] = message
        elif isinstance(message, frames.Event):
            self.events.append(message)
        elif isinstance(message, frames.Notice):
            self.notices.append(message)
        return message

    def reply(self, id: int, timeout_s: float = PATIENCE_S) -> frames.Reply:
        end = time.monotonic() + timeout_s
        while id not in self._replies:
            self.take(end - time.monotonic())
        return self._replies.pop(id)

    def ok(self, verb: str, timeout_s: float = PATIENCE_S, **body: Any) -> dict[str, Any]:
        """The body of the answer, which must be a success."""
        reply = self.reply(self.ask(verb, **body), timeout_s)
        assert reply.outcome == frames.Outcome.OK, reply.body
        return reply.body

    def refused(self, verb: str, timeout_s: float = PATIENCE_S, **body: Any) -> dict[str, Any]:
        """The error body of the answer, which must be a refusal."""
        reply = self.reply(self.ask(verb, **body), timeout_s)
        assert reply.outcome != frames.Outcome.OK, reply.body
        return reply.body

    def event(self, timeout_s: float = PATIENCE_S, **wanted: Any) -> dict[str, Any]:
        """The next event whose body has these values; the ones before it are passed over."""
        end = time.monotonic() + timeout_s
        while True:
            while self.events:
                body = self.events.pop(0).body
                if all(body.get(name) == value for name, value in wanted.items()):
                    return body
            self.take(end - time.monotonic())
