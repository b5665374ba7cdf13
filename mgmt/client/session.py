"""The client's session with the daemon, without input or output: what to send, and what an arrival means.

The shells (sync.py, aio.py) hand in frames and the time and carry out the effects; every rule about hellos,
deadlines, heartbeats and repetition is here, once. Times are monotonic seconds handed in as `now_s`.

A session is opened by the first request, in the same breath: the request travels behind the hello with
session 0. It ends when the daemon says so, falls silent, or the connection breaks; the next request opens
another. What was unanswered then is repeated in the new session if asking twice equals asking once
(REPEATABLE, or the caller gave an idempotency key), and otherwise answered `session-gone`.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

from mgmt.protocol import defaults, frames, revisions
from mgmt.protocol.errors import MgmtError

REPEATABLE = frozenset(
    {
        *("status", "models", "load-model", "unload-model", "wait", "lease", "subscribe", "logs"),
        *("start", "stop", "reset-failed", "plan", "apply", "explain", "dump"),
    }
)
NEVER = float("inf")
START_HINT = "mgmt start-service"

# Called with the time, and either the body of an ok answer or an error.
Then: TypeAlias = Callable[[float, dict[str, Any] | None, MgmtError | None], None]


class Send(NamedTuple):
    """Put one frame on the control socket; `id` is the request's, 0 for a notice."""

    id: int
    frame: bytes


class SendData(NamedTuple):
    """Put one message on the data socket of `endpoint`, opening it when there is none."""

    id: int
    endpoint: str
    frames: list[bytes]


class CloseData(NamedTuple):
    """Nothing is expected at `endpoint` any more."""

    endpoint: str


class Answer(NamedTuple):
    """The one answer to `id`: a body (control), a list of frames (data), or an error."""

    id: int
    result: Any
    error: MgmtError | None


class Happened(NamedTuple):
    """A snapshot or an event of the subscription."""

    item: dict[str, Any]


Effect: TypeAlias = Send | SendData | CloseData | Answer | Happened


class _Request:
    """A request without an answer. `greeting` counts the hellos before its last sending."""

    __slots__ = ("body", "deadline_s", "gone", "greeting", "id", "key", "repeated_in", "then", "verb")

    def __init__(
        self, id: int, verb: str, body: dict[str, Any], deadline_s: float, key: str, then: Then | None
    ) -> None:
        self.id = id
        self.verb = verb
        self.body = body
        self.deadline_s = deadline_s
        self.key = key
        self.then = then
        self.greeting = 0
        self.gone = False  # answered `session-gone`
        self.repeated_in = 0  # epoch of the last repetition


class Session:
    """Requests and their answers; subclassed by Conversation, which adds leases and events."""

    def __init__(
        self, endpoint: str, name: str, timeout_s: float, connect_timeout_s: float, token: str | None = None
    ) -> None:
        self.endpoint = endpoint
        self._token = token
        self.welcome: dict[str, Any] = {}
        self._name = name
        self._timeout_s = timeout_s
        self._connect_timeout_s = connect_timeout_s
        self._session = 0  # 0: none
        self._epoch = 0
        self._hello = 0  # id of the hello that waits for its welcome
        self._hello_waiters: list[int] = []
        self._patient = False  # that hello outlasts a restart of the daemon
        self._greetings = 0
        self._heartbeat_at_s = NEVER
        self._silent_since_s = NEVER
        self._last_sent_s = 0.0
        self._last_id = 0
        self._requests: dict[int, _Request] = {}
        self._timers: list[tuple[float, int]] = []  # (when, id); entries of answered ids are skipped
        self._effects: list[Effect] = []

    # ---- for the shell ----

    @property
    def greeted(self) -> bool:
        """A session is open or a hello is on its way."""
        return bool(self._session or self._hello)

    def request(
        self,
        now_s: float,
        verb: str,
        body: dict[str, Any] | None = None,
        timeout_s: float | None = None,
        key: str = "",
    ) -> int:
        """Start a request; its Answer carries the id returned. MgmtError `busy` or `too-large` at once."""
        return self._start(now_s, verb, body or {}, timeout_s, key, None)

    def say_hello(self, now_s: float) -> int:
        """Open a session without a request; answered with the welcome, at once when there is one already."""
        self._refresh(now_s)
        if self._session:
            self._effects.append(Answer(self._new_id(), self.welcome, None))
            return self._last_id
        if not self._hello:
            self._greet(now_s)
        id = self._new_id()
        self._hello_waiters.append(id)
        return id

    def received(self, now_s: float, frame: bytes) -> None:
        """Take one message of the control socket."""
        try:
            message = frames.decode([frame])
        except frames.FrameError as error:
            # Unreadable, but perhaps it names whom it was for.
            if error.id in self._requests:
                self._finish(now_s, self._requests.pop(error.id), None, error)
            return
        self._silent_since_s = NEVER
        match message:
            case frames.Reply():
                self._replied(now_s, message)
            case frames.Event():
                self._event(now_s, message)
            case frames.Notice(session, "session-gone"):
                # Echoes of a former session arrive late and mean nothing.
                if self._session and session in (0, self._session):
                    self._end_session(now_s, "the daemon no longer knew it")
            case frames.Notice():
                self._notice(now_s, message)

    def disconnected(self, now_s: float) -> None:
        """The connection broke: whoever answers next on this endpoint may be another daemon."""
        self._end_session(now_s, "the connection broke")

    def refused(self, now_s: float, error: MgmtError) -> None:
        """There will be no connection: nobody is asked, and whoever waits is told why."""
        self._end_session(now_s, error.text)  # what that asks for again is refused with the rest
        self._requests.pop(self._hello, None)
        self._session = self._hello = 0
        self._heartbeat_at_s = self._silent_since_s = NEVER
        waiters, self._hello_waiters = self._hello_waiters, []
        self._effects += [Answer(id, None, error) for id in waiters]
        requests, self._requests = self._requests, {}
        for request in requests.values():
            self._finish(now_s, request, None, error)

    def unreached(self, now_s: float) -> None:
        """A connection could not be made. A daemon that was just lost may come back; no other is waited for."""
        hello = self._requests.get(self._hello)
        if hello is not None and not self._patient:
            del self._requests[self._hello]
            text = f"no daemon at {self.endpoint} (nobody listens there): {START_HINT}, or check the address"
            self._finish(now_s, hello, None, MgmtError("unreachable", text))

    def tick(self, now_s: float) -> None:
        """Do what is due; to be called after reading, so that nothing that has arrived expires."""
        timers = self._timers
        while timers and timers[0][0] <= now_s:
            self._timer(now_s, heapq.heappop(timers)[1])
        if now_s >= self._silent_since_s + self._session_timeout_s:
            self._end_session(now_s, "the daemon fell silent")
        elif now_s >= self._heartbeat_at_s:
            self._effects.append(Send(0, frames.encode_notice(self._session, "heartbeat", {})))
            self._last_sent_s = now_s
            self._heartbeat_at_s = now_s + float(self.welcome["heartbeat_s"])
            self._silent_since_s = min(self._silent_since_s, now_s)

    def due_s(self) -> float:
        """When `tick` has something to do, if nothing arrives before."""
        timers = self._timers
        while timers and not self._open(timers[0][1]):
            heapq.heappop(timers)
        first = timers[0][0] if timers else NEVER
        return min(first, self._heartbeat_at_s, self._silent_since_s + self._session_timeout_s)

    def effects(self) -> list[Effect]:
        """What is to be done now, in order; each effect is handed out once."""
        effects, self._effects = self._effects, []
        return effects

    def unsent(self, now_s: float, id: int) -> None:
        """The socket's queue was full: the request is answered `busy`."""
        request = self._requests.pop(id, None)
        if request is not None:
            text = f"{request.verb}: {self.endpoint} does not take more messages; try again later"
            self._finish(now_s, request, None, MgmtError("busy", text))

    def forget(self, id: int) -> None:
        """Nobody waits for `id` any more; a late answer is dropped."""
        self._requests.pop(id, None)

    def bye(self) -> None:
        """End the session; the daemon closes its leases at once instead of after the timeout."""
        if self._session:
            self._effects.append(Send(0, frames.encode_notice(self._session, "bye", {})))
            self._session = 0
            self._heartbeat_at_s = self._silent_since_s = NEVER

    # ---- for Conversation ----

    def _event(self, now_s: float, event: frames.Event) -> None:
        raise NotImplementedError

    def _notice(self, now_s: float, notice: frames.Notice) -> None:
        raise NotImplementedError

    def _session_ended(self, now_s: float, reason: str) -> None:
        raise NotImplementedError

    def _open(self, id: int) -> bool:
        return id in self._requests

    def _timer(self, now_s: float, id: int) -> None:
        request = self._requests.get(id)
        if request is not None and now_s >= request.deadline_s:
            del self._requests[id]
            self._finish(now_s, request, None, self._expired(request))

    def _start(
        self,
        now_s: float,
        verb: str,
        body: dict[str, Any],
        timeout_s: float | None,
        key: str,
        then: Then | None,
    ) -> int:
        if then is None and len(self._requests) >= defaults.MAX_SESSION_REQUESTS:
            raise MgmtError("busy", f"{verb}: {len(self._requests)} requests of this client are unanswered")
        self._refresh(now_s)
        if not self.greeted:
            self._greet(now_s)
        if timeout_s is None:
            timeout_s = self._timeout_s
        # Ours is the last resort: the daemon keeps the deadline and its answer says more.
        deadline_s = now_s + timeout_s + defaults.ANSWER_MARGIN_S
        request = _Request(self._new_id(), verb, body, deadline_s, key, then)
        self._send(now_s, request)
        self._requests[request.id] = request
        if deadline_s < NEVER:
            heapq.heappush(self._timers, (deadline_s, request.id))
        return request.id

    def _new_id(self) -> int:
        self._last_id += 1
        return self._last_id

    def _refresh(self, now_s: float) -> None:
        """End a session that the daemon must have ended: a caller that computes sends no heartbeats."""
        if self._session and now_s - self._last_sent_s > self._session_timeout_s:
            self._end_session(now_s, "this client was silent for too long")

    # ---- inside ----

    @property
    def _session_timeout_s(self) -> float:
        return float(self.welcome.get("session_timeout_s", defaults.SESSION_TIMEOUT_S))

    def _send(self, now_s: float, request: _Request) -> None:
        left_s = request.deadline_s - defaults.ANSWER_MARGIN_S - now_s
        deadline_ms = max(1, round(left_s * 1000)) if left_s < NEVER else 0
        try:
            frame = frames.encode_request(
                request.id, self._session, request.verb, request.body, deadline_ms, request.key
            )
        except (OverflowError, TypeError, ValueError) as error:
            raise MgmtError(
                "bad-body", f"{request.verb}: msgpack cannot carry the request: {error}"
            ) from None
        limit = int(self.welcome.get("max_frame_bytes", defaults.MAX_CONTROL_FRAME_BYTES))
        if len(frame) > limit:
            raise MgmtError("too-large", f"{request.verb}: {len(frame)} bytes, the daemon takes {limit}")
        request.greeting = self._greetings
        self._last_sent_s = now_s
        self._effects.append(Send(request.id, frame))

    def _greet(self, now_s: float, patient: bool = False) -> None:
        self._greetings += 1
        self._patient = patient
        self._hello = self._new_id()
        body: dict[str, Any] = {"versions": list(revisions.SPOKEN), "name": self._name}
        if self._token is not None:
            body["token"] = self._token
        request = _Request(self._hello, "hello", body, now_s + self._connect_timeout_s, "", self._welcomed)
        self._requests[self._hello] = request
        heapq.heappush(self._timers, (request.deadline_s, self._hello))
        self._send(now_s, request)

    def _welcomed(self, now_s: float, body: dict[str, Any] | None, error: MgmtError | None) -> None:
        self._hello = 0
        if body is not None:
            try:
                self._session, self._epoch = int(body["session"]), int(body["epoch"])
                self._heartbeat_at_s = now_s + float(body["heartbeat_s"])
                self.welcome = body
            except (KeyError, TypeError, ValueError) as fault:
                self._session = 0
                error = MgmtError("internal", f"the welcome of {self.endpoint} is not usable: {fault!r}")
        waiters, self._hello_waiters = self._hello_waiters, []
        self._effects += [Answer(id, None if error else self.welcome, error) for id in waiters]
        for request in list(self._requests.values()):
            if error is not None:
                self._requests.pop(request.id, None)
                self._finish(now_s, request, None, error)
            elif request.gone or request.greeting < self._greetings:
                self._repeat(now_s, request)

    def _repeat(self, now_s: float, request: _Request) -> None:
        """Send again what a former session left unanswered, unless it is unsafe or was in vain before."""
        if request.key or request.verb in REPEATABLE:
            if not (request.gone and request.repeated_in == self._epoch):
                request.gone = False
                request.repeated_in = self._epoch
                self._send(now_s, request)
                return
            text = f"{request.verb}: the daemon forgets this session as soon as it is opened"
        else:
            text = (
                f"{request.verb}: the session ended before the answer; whether it was done is not known "
                "(see `mgmt status`)"
            )
        del self._requests[request.id]
        self._finish(now_s, request, None, MgmtError("session-gone", text))

    def _replied(self, now_s: float, reply: frames.Reply) -> None:
        request = self._requests.pop(reply.id, None)
        if request is None:
            return
        if reply.outcome == frames.Outcome.OK:
            self._finish(now_s, request, reply.body, None)
            return
        error = MgmtError.from_body(reply.body)
        if error.code != "session-gone" or request.verb == "hello":
            self._finish(now_s, request, None, error)
            return
        request.gone = True
        self._requests[request.id] = request
        if self._session and request.greeting == self._greetings:
            self._end_session(now_s, error.text)

    def _end_session(self, now_s: float, reason: str) -> None:
        if not self.greeted:
            return
        # A hello in flight may be lost with the connection, so it is said anew; its timer is skipped.
        self._requests.pop(self._hello, None)
        self._session = self._hello = 0
        self._heartbeat_at_s = self._silent_since_s = NEVER
        self._session_ended(now_s, reason)
        if (self._requests or self._hello_waiters) and not self._hello:
            self._greet(now_s, patient=True)

    def _finish(
        self, now_s: float, request: _Request, body: dict[str, Any] | None, error: MgmtError | None
    ) -> None:
        if request.then is not None:
            request.then(now_s, body, error)
        else:
            self._effects.append(Answer(request.id, body, error))

    def _expired(self, request: _Request) -> MgmtError:
        if request.verb == "hello":
            text = f"{self.endpoint} did not answer the hello within {self._connect_timeout_s:g} s"
            return MgmtError("unreachable", f"{text}; if no daemon runs: {START_HINT}")
        return MgmtError(
            "expired",
            f"{request.verb}: no answer from {self.endpoint} before the deadline (see `mgmt status`)",
        )
