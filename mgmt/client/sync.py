"""The blocking client: one thread, no tasks; heartbeats go out while a call waits.

A program that computes for longer than the session timeout between two calls loses its session; the next call
opens another in the same round trip. Model calls that were left unanswered meanwhile end as `backend-lost`.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Generator, Sequence
from types import TracebackType
from typing import Any

import zmq

from mgmt.client.conversation import Conversation, Target
from mgmt.client.session import NEVER, Answer
from mgmt.client.wires import Wires
from mgmt.protocol import defaults, frames, places, tokens
from mgmt.protocol.errors import MgmtError
from mgmt.protocol.keys import Credentials, for_endpoint

STALE_S = 0.05  # after a pause this long, arrivals are read before anything new is asked


class Client:
    """A connection to the daemon, made by the first request; not for use by two threads at once.

    `endpoint` defaults to `places.default_control_endpoint()`, `name` tells people who is speaking, `timeout_s`
    is for requests that name none (`inf`: wait for ever), `connect_timeout_s` for the daemon's welcome, and for
    a daemon that restarts. Over tcp a daemon wants a key: `server_key` is its public key or a file with it,
    `key_file` the file of your own (default: $MGMT_SERVER_KEY, $MGMT_KEY_FILE); `credentials` are both.
    `token` speaks as its user (default: $MGMT_TOKEN, $MGMT_TOKEN_FILE).

    Every failure is an MgmtError: `unreachable` (nobody answers), `not-authorised` (a key or token is missing,
    wrong or not allowed), `expired` (no answer in time), or what the daemon said.
    """

    def __init__(
        self,
        endpoint: str | None = None,
        *,
        name: str = "",
        timeout_s: float = defaults.REQUEST_TIMEOUT_S,
        connect_timeout_s: float = defaults.CONNECT_TIMEOUT_S,
        server_key: str | None = None,
        key_file: str | None = None,
        credentials: Credentials | None = None,
        token: str | None = None,
    ) -> None:
        self.endpoint = endpoint or places.default_control_endpoint()
        token = tokens.find() if token is None else token
        self._conversation = Conversation(self.endpoint, name, timeout_s, connect_timeout_s, token)
        self._poller = zmq.Poller()
        self._wires = Wires(
            self._conversation,
            lambda opened: self._poller.register(opened, zmq.POLLIN),
            self._poller.unregister,
            credentials or for_endpoint(self.endpoint, server_key, key_file),
        )
        self._answers: dict[int, Answer] = {}
        self._items: deque[dict[str, Any]] = deque()
        self._read_at_s = 0.0

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Say bye and close; bounded by CLIENT_LINGER_MS. A closed client stays closed."""
        linger_ms = defaults.CLIENT_LINGER_MS if self._conversation.welcome else 0
        self._conversation.bye()
        self._carry_out(time.monotonic())
        self._wires.close(linger_ms)

    # ---- the daemon ----

    def hello(self) -> dict[str, Any]:
        """The body of the daemon's welcome; opens a session when there is none."""
        return self.collect(self._conversation.say_hello(self._ready()))

    def request(
        self, verb: str, body: dict[str, Any] | None = None, *, timeout_s: float | None = None, key: str = ""
    ) -> dict[str, Any]:
        """Ask the daemon and return the body of its answer.

        `key` is an idempotency key: a repetition under the same key gets the first one's answer.
        """
        return self.collect(self.submit(verb, body, timeout_s=timeout_s, key=key))

    def submit(
        self, verb: str, body: dict[str, Any] | None = None, *, timeout_s: float | None = None, key: str = ""
    ) -> int:
        """Send a request without waiting; `collect` gives its answer. At most MAX_SESSION_REQUESTS are open."""
        id = self._conversation.request(self._ready(), verb, body, timeout_s, key)
        self._carry_out(time.monotonic())
        return id

    def collect(self, id: int) -> dict[str, Any]:
        """The answer to a submitted request; each is given once."""
        answer: dict[str, Any] = self._wait(id)
        return answer

    def events(
        self,
        since: int | None = None,
        epoch: int | None = None,
        follow: bool = True,
        *,
        timeout_s: float | None = None,
    ) -> Generator[dict[str, Any], None, None]:
        """What happens in the daemon: `{"kind": "snapshot", "seq", "epoch", "units", "gap"}`, then events.

        With `since` (and the `epoch` it belongs to) the events after that number follow the snapshot, as far as
        they are remembered; `gap` is true when some are not. A lost event, a lost session and a restarted daemon
        each show as another snapshot. Ends after `timeout_s`, if given; else when the daemon is gone for longer
        than the connect timeout, with MgmtError `unreachable`. One at a time per client.
        """
        end_s = NEVER if timeout_s is None else time.monotonic() + timeout_s
        self._items.clear()
        id = self._conversation.subscribe(self._ready(), since, epoch, follow)
        self._carry_out(time.monotonic())
        try:
            while True:
                while self._items:
                    yield self._items.popleft()
                if id in self._answers:
                    self._result(id)
                    return
                if time.monotonic() >= end_s:
                    return
                self._pump(end_s)
        finally:
            self._answers.pop(id, None)
            self._conversation.unsubscribe(id)

    # ---- models ----

    def model(self, name: str, mode: str = "direct", load: bool = False, retries: int = 0) -> ModelClient:
        """A client of the model `name`; nothing is sent before its first call.

        `mode`: "direct" sends to one replica, "relay" through the daemon, which picks one per request. `load`:
        load the model when it is not loaded. `retries`: how often a call may be repeated on another lease after
        `backend-lost`, `busy`, `lease-gone` or `not-ready`; it may then be executed twice.
        """
        return ModelClient(self, self._conversation, self._conversation.target(name, mode, load, retries))

    # ---- waiting ----

    def _ready(self) -> float:
        """Connected, and up to date: what arrived during a pause is read before it is judged by the clock."""
        now_s = time.monotonic()
        if now_s - self._read_at_s > STALE_S:
            self._wires.read(now_s)
            self._read_at_s = now_s
        self._wires.connect()
        return now_s

    def _carry_out(self, now_s: float) -> None:
        self._wires.carry_out(now_s, self._answered, self._items.append)

    def _answered(self, answer: Answer) -> None:
        self._answers[answer.id] = answer

    def _pump(self, until_s: float = NEVER) -> None:
        """Wait for one arrival, one timer or `until_s`, and do what it asks for."""
        conversation = self._conversation
        wake_s = min(conversation.due_s(), until_s)
        timeout_ms = None
        if wake_s < NEVER:
            timeout_ms = max(0, math.ceil(1000 * (wake_s - time.monotonic())))
        arrived = self._poller.poll(timeout_ms)
        self._read_at_s = now_s = time.monotonic()
        if arrived:
            self._wires.read(now_s, [socket for socket, _ in arrived])
        conversation.tick(now_s)
        self._carry_out(now_s)

    def _wait(self, id: int) -> Any:
        try:
            self._carry_out(time.monotonic())
            while id not in self._answers:
                self._pump()
        except BaseException:
            # Interrupted from the keyboard, most likely: the answer, if it comes, is nobody's.
            self._conversation.forget(id)
            raise
        return self._result(id)

    def _result(self, id: int) -> Any:
        answer = self._answers.pop(id)
        if answer.error is not None:
            raise answer.error
        return answer.result


class ModelClient:
    """One model through one lease; made by `Client.model`. A lost lease is replaced by the next call."""

    def __init__(self, client: Client, conversation: Conversation, target: Target) -> None:
        self._client = client
        self._conversation = conversation
        self._target = target
        self._submitted: dict[int, None] = {}

    def __enter__(self) -> ModelClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    @property
    def unit(self) -> str | None:
        """The replica behind the present lease; None without a lease and in relay mode."""
        return self._target.lease.unit if self._target.lease is not None else None

    def call(self, *payload: bytes, timeout_s: float | None = None) -> list[bytes]:
        """Send opaque frames to the model and return the frames of its answer."""
        id = self.submit(*payload, timeout_s=timeout_s)
        return self.collect(id)

    def ask(self, value: Any, timeout_s: float | None = None) -> Any:
        """One msgpack value each way, the convention of the shipped backends."""
        return frames.unpack(single(self.call(packed(value), timeout_s=timeout_s)))

    def submit(self, *payload: bytes, timeout_s: float | None = None) -> int:
        """Send without waiting; at most MAX_RELAY_QUEUE calls are open. `collect` gives the answer."""
        client = self._client
        id = self._conversation.call(client._ready(), self._target, payload, timeout_s)
        self._submitted[id] = None
        client._carry_out(time.monotonic())
        return id

    def collect(self, id: int) -> list[bytes]:
        """The answer to a submitted call; each is given once."""
        self._submitted.pop(id, None)
        answer: list[bytes] = self._client._wait(id)
        return answer

    def collect_next(self) -> tuple[int, list[bytes] | MgmtError]:
        """The next submitted call that is answered, in the order of the answers; LookupError when none is open."""
        if not self._submitted:
            raise LookupError("every submitted call was collected")
        client = self._client
        client._carry_out(time.monotonic())
        while True:
            for id, answer in client._answers.items():
                if id in self._submitted:
                    del self._submitted[id], client._answers[id]
                    return id, answer.error or answer.result
            client._pump()

    def release(self) -> None:
        """Give the lease back; a later call asks for another."""
        self._conversation.release(time.monotonic(), self._target)
        self._client._carry_out(time.monotonic())


def packed(value: Any) -> bytes:
    """The one frame of a request; MgmtError `bad-body` for what msgpack cannot carry."""
    try:
        return frames.pack(value)
    except (OverflowError, TypeError, ValueError) as error:
        raise MgmtError("bad-body", f"the request cannot be sent as msgpack: {error}") from None


def single(payload: Sequence[bytes]) -> bytes:
    """The one frame of an answer that must have one."""
    if len(payload) != 1:
        raise MgmtError("bad-body", f"the model answered with {len(payload)} frames, not one msgpack value")
    return payload[0]
