"""Sessions and calls: who is connected, and which requests still wait for their one answer.

The ancestor had neither: an identity was a client, and a request without a reply was simply lost.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mgmt.core import effect as fx
from mgmt.core.event import SESSIONLESS, Asked, Now, Route
from mgmt.protocol import frames
from mgmt.protocol.errors import MgmtError

# What these answer means something to the session that asked only: their idempotency keys are its own.
SESSION_BOUND = frozenset({"lease", "release", "subscribe"})

Key = tuple[int, str, str]  # session (0: any), user, idempotency key


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """How much one daemon keeps for its peers; times in ns."""

    sessions: int
    session_requests: int
    requests: int
    timeout_ns: int
    key_ns: int


@dataclass(slots=True)
class Session:
    """One peer that said hello; ended by bye, by silence, or by a new hello on the same connection."""

    id: int
    peer: bytes
    name: str
    seen_ns: int
    unit: str | None = None  # the unit this session is the backend of
    key: str = ""  # the public key it was opened with; empty: without one
    user: str = ""  # whom it speaks for; empty: nobody by name
    token: str = ""  # the token that says so; empty: the key or the socket does
    subscribed: bool = False
    leases: set[int] = field(default_factory=set)
    waiting: dict[Route, None] = field(default_factory=dict)  # an ordered set


@dataclass(slots=True)
class Call:
    """Parked work and who gets its answer: whoever asked, and those that asked again with the same key."""

    asked: Asked
    key: Key | None
    listeners: list[Route] = field(default_factory=list)


@dataclass(slots=True)
class Listener:
    """One request that waits for the answer of `call`, no longer than its own deadline and session."""

    asked: Asked
    call: Route
    session: Session | None  # None: legacy


@dataclass(slots=True)
class Remembered:
    """An idempotency key: in flight while `answer` is None."""

    verb: str
    body: Any
    call: Route
    answer: tuple[str, dict[str, Any] | bytes] | None = None


class Sessions:
    """Sessions by number and by peer, parked calls, and the answers remembered for idempotency keys."""

    def __init__(self, epoch: int, limits: SessionLimits) -> None:
        self.epoch = epoch
        self.limits = limits
        self.by_id: dict[int, Session] = {}
        self.by_peer: dict[bytes, Session] = {}
        self.calls: dict[Route, Call] = {}
        self.listeners: dict[Route, Listener] = {}
        # Handed up by the step function, like unit changes: ended sessions, and calls nobody waits for.
        self.ended: list[Session] = []
        self.abandoned: list[Route] = []
        self.remembered: dict[Key, Remembered] = {}
        self._answered: dict[Key, None] = {}  # the keys that have their answer, the oldest first
        self._numbered = 0

    # ---- sessions ----

    def open(
        self,
        now: Now,
        peer: bytes,
        name: str,
        out: list[fx.Effect],
        unit: str | None = None,
        key: str = "",
    ) -> Session:
        """A new session for this connection; an earlier one of the same identity ends.

        `unit` is set for a backend: strangers must not be able to keep it out, so it does not count.
        """
        former = self.by_peer.get(peer)
        limit = self.limits.sessions
        # Counted one by one only where it may matter.
        if unit is None and len(self.by_id) >= limit and self.clients(but=former) >= limit:
            raise MgmtError("busy", f"{limit} sessions are open, which is the limit; try again later")
        if former is not None:
            self.end(former, out)
        self._numbered += 1
        # Numbers of one epoch never meet those of another: a frame of a former life finds no session.
        session = Session(
            ((self.epoch & 0xFFFFFFFF) << 24) + self._numbered, peer, name, now.mono_ns, unit, key
        )
        self.by_id[session.id] = self.by_peer[peer] = session
        out.append(fx.SetTimer(("session", session.id), now.mono_ns + self.limits.timeout_ns))
        return session

    def clients(self, but: Session | None = None) -> int:
        """How many sessions are no backend's, without this one."""
        return sum(session.unit is None and session is not but for session in self.by_id.values())

    def find(self, now: Now, peer: bytes, id: int) -> Session:
        """The session of a frame (0: the connection's own); MgmtError `session-gone` when there is none."""
        session = self._at(peer, id)
        if session is None:
            raise MgmtError(
                "session-gone", "the daemon does not know this session; say hello first", epoch=self.epoch
            )
        session.seen_ns = now.mono_ns
        return session

    def of(self, route: Route) -> Session | None:
        """The session a request belongs to; a legacy one belongs to none, whatever its peer is called."""
        return None if route.plane in SESSIONLESS else self._at(route.peer, route.session)

    def _at(self, peer: bytes, id: int) -> Session | None:
        session = self.by_id.get(id) if id else self.by_peer.get(peer)
        return session if session is not None and session.peer == peer else None

    def end(self, session: Session, out: list[fx.Effect]) -> None:
        """Forget a session; its parked calls are answered `gone` and its leases close above."""
        if self.by_id.pop(session.id, None) is None:
            return
        if self.by_peer.get(session.peer) is session:
            del self.by_peer[session.peer]
        out.append(fx.CancelTimer(("session", session.id)))
        gone = MgmtError("session-gone", "the session ended before the answer").as_body()
        for route in list(session.waiting):
            self._dismiss(route, frames.Outcome.GONE, gone, out)
        self.ended.append(session)

    def on_session_timer(self, now: Now, id: int, out: list[fx.Effect]) -> None:
        """End a silent session; one that spoke since gets the rest of its time."""
        session = self.by_id.get(id)
        if session is None:
            return
        end_ns = session.seen_ns + self.limits.timeout_ns
        if end_ns > now.mono_ns:
            out.append(fx.SetTimer(("session", id), end_ns))
        else:
            self.end(session, out)

    # ---- calls ----

    def park(self, now: Now, asked: Asked, out: list[fx.Effect]) -> None:
        """Keep a request open until `answer`; `busy` when the session or the daemon has too many open."""
        route = asked.route
        if route in self.calls:
            return
        key = self._key_of(asked)
        self._listen(asked, route, out)
        self.calls[route] = Call(asked, key, [route])
        if key is not None:
            if len(self.remembered) >= self.limits.requests:
                self._forget_oldest(out)
            self.remembered[key] = Remembered(asked.verb, asked.body, route)
            out.append(fx.SetTimer(("key", key), now.mono_ns + self.limits.key_ns))

    def answer(self, route: Route, outcome: str, body: dict[str, Any] | bytes, out: list[fx.Effect]) -> None:
        """Give the one answer of a request, parked or not, and of those that listen to the same call."""
        call = self.calls.pop(route, None)
        if call is None:
            out.append(fx.Answer(route, outcome, body))
            return
        for listener in call.listeners:
            self._leave(listener, out)
            out.append(fx.Answer(listener, outcome, body))
        if call.key is None:
            return
        if outcome == frames.Outcome.OK:
            self.remembered[call.key].answer = (outcome, body)
            self._answered[call.key] = None
        else:
            # A refusal had no effect to protect: the same key may try again.
            del self.remembered[call.key]

    def refuse(self, route: Route, error: MgmtError, out: list[fx.Effect]) -> None:
        """Answer with an error of the table."""
        outcome = frames.OUTCOME_OF_CODE.get(error.code, frames.Outcome.ERROR)
        self.answer(route, outcome, error.as_body(), out)

    def expire(self, route: Route, out: list[fx.Effect]) -> None:
        """The deadline of a parked request passed; what it started goes on."""
        listener = self.listeners.get(route)
        if listener is not None:
            text = f"{listener.asked.verb}: the deadline passed before the answer; what was started goes on"
            self._dismiss(route, frames.Outcome.EXPIRED, MgmtError("expired", text).as_body(), out)

    def fail(self, route: Route, error: MgmtError, out: list[fx.Effect]) -> None:
        """Answer a request of which nobody knows how far it came: parked, listening, or neither."""
        if route in self.listeners:
            self._dismiss(route, frames.Outcome.ERROR, error.as_body(), out)
        else:
            out.append(fx.Answer(route, frames.Outcome.ERROR, error.as_body()))

    def close(self, error: MgmtError, out: list[fx.Effect]) -> None:
        """Refuse whatever still waits."""
        for route in list(self.calls):
            self.refuse(route, error, out)
            self.abandoned.append(route)

    def _listen(self, asked: Asked, call: Route, out: list[fx.Effect]) -> None:
        route, session = asked.route, self.of(asked.route)
        if len(self.listeners) >= self.limits.requests:
            raise MgmtError(
                "busy", f"{len(self.listeners)} requests are waiting, which is the limit; try again later"
            )
        if session is not None:
            if len(session.waiting) >= self.limits.session_requests:
                text = f"{len(session.waiting)} requests of this session are waiting, which is the limit"
                raise MgmtError("busy", text)
            session.waiting[route] = None
        self.listeners[route] = Listener(asked, call, session)
        if asked.deadline_ns:
            out.append(fx.SetTimer(("call", route), asked.deadline_ns))

    def _leave(self, route: Route, out: list[fx.Effect]) -> Listener:
        listener = self.listeners.pop(route)
        if listener.session is not None:
            del listener.session.waiting[route]
        if listener.asked.deadline_ns:
            out.append(fx.CancelTimer(("call", route)))
        return listener

    def _dismiss(self, route: Route, outcome: str, body: dict[str, Any], out: list[fx.Effect]) -> None:
        """Answer one listener before its call is; the call goes on while another one listens."""
        listener = self._leave(route, out)
        out.append(fx.Answer(route, outcome, body))
        call = self.calls[listener.call]
        call.listeners.remove(route)
        if not call.listeners:
            del self.calls[listener.call]
            if call.key is not None:
                del self.remembered[call.key]
            self.abandoned.append(listener.call)

    # ---- idempotency keys ----

    def repeats(self, asked: Asked, out: list[fx.Effect]) -> bool:
        """True when the key was seen before: the answer is given again, or will be when it is known."""
        key = self._key_of(asked)
        known = self.remembered.get(key) if key is not None else None
        if known is None:
            return False
        if known.verb != asked.verb or known.body != asked.body:
            raise MgmtError(
                "conflict", f"idempotency key {asked.key!r} was used for another {known.verb} request"
            )
        if known.answer is not None:
            out.append(fx.Answer(asked.route, *known.answer))
        else:
            self._listen(asked, known.call, out)
            self.calls[known.call].listeners.append(asked.route)
        return True

    def on_key_timer(self, now: Now, key: Key, out: list[fx.Effect]) -> None:
        """The time to remember is over; a key whose request still waits gets another turn."""
        known = self.remembered.get(key)
        if known is None:
            return
        if known.answer is not None:
            del self.remembered[key], self._answered[key]
        else:
            out.append(fx.SetTimer(("key", key), now.mono_ns + self.limits.key_ns))

    def _forget_oldest(self, out: list[fx.Effect]) -> None:
        """Make room for a key: no more requests than keys can be waiting, so there is one with an answer."""
        key = next(iter(self._answered))
        del self.remembered[key], self._answered[key]
        out.append(fx.CancelTimer(("key", key)))

    def _key_of(self, asked: Asked) -> Key | None:
        if not asked.key:
            return None
        session = self.of(asked.route) if asked.verb in SESSION_BOUND else None
        return (session.id if session is not None else 0, asked.by.user, asked.key)
