"""Sessions and calls: who is connected, and which requests still wait for their one answer.

The ancestor had neither: an identity was a client, and a request without a reply was simply lost.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mgmt.core import effect as fx
from mgmt.core.event import Asked, Now, Route
from mgmt.protocol import frames
from mgmt.protocol.errors import MgmtError


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
    subscribed: bool = False
    leases: set[int] = field(default_factory=set)
    calls: int = 0


@dataclass(slots=True)
class Call:
    """A parked request. `followers` asked the same thing with the same idempotency key."""

    asked: Asked
    session: int
    followers: list[Route] = field(default_factory=list)


@dataclass(slots=True)
class _Remembered:
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
        self.ended: list[Session] = []  # handed up by the step function, like unit changes
        self._keys: dict[str, _Remembered] = {}
        self._numbered = 0

    # ---- sessions ----

    def open(self, now: Now, peer: bytes, name: str, out: list[fx.Effect]) -> Session:
        """A new session for this connection; an earlier one of the same identity ends."""
        former = self.by_peer.get(peer)
        if former is not None:
            self.end(former, out)
        elif len(self.by_id) >= self.limits.sessions:
            raise MgmtError(
                "busy", f"{len(self.by_id)} sessions are open, which is the limit; try again later"
            )
        self._numbered += 1
        # Numbers of one epoch never meet those of another: a frame of a former life finds no session.
        session = Session(((self.epoch & 0xFFFFFFFF) << 24) + self._numbered, peer, name, now.mono_ns)
        self.by_id[session.id] = self.by_peer[peer] = session
        out.append(fx.SetTimer(("session", session.id), now.mono_ns + self.limits.timeout_ns))
        return session

    def find(self, now: Now, peer: bytes, id: int) -> Session:
        """The session of a frame (0: the connection's own); MgmtError `session-gone` when there is none."""
        session = self.by_id.get(id) if id else self.by_peer.get(peer)
        if session is None or session.peer != peer:
            raise MgmtError(
                "session-gone", "the daemon does not know this session; say hello first", epoch=self.epoch
            )
        session.seen_ns = now.mono_ns
        return session

    def end(self, session: Session, out: list[fx.Effect]) -> None:
        """Forget a session; its parked calls are answered `gone` and its leases close above."""
        if self.by_id.pop(session.id, None) is None:
            return
        if self.by_peer.get(session.peer) is session:
            del self.by_peer[session.peer]
        out.append(fx.CancelTimer(("session", session.id)))
        gone = MgmtError("session-gone", "the session ended before the answer").as_body()
        for route in [route for route, call in self.calls.items() if call.session == session.id]:
            self.answer(route, frames.Outcome.GONE, gone, out)
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
        session = self.by_id.get(route.session)
        if len(self.calls) >= self.limits.requests:
            raise MgmtError(
                "busy", f"{len(self.calls)} requests are waiting, which is the limit; try again later"
            )
        if session is not None:
            if session.calls >= self.limits.session_requests:
                raise MgmtError(
                    "busy", f"{session.calls} requests of this session are waiting, which is the limit"
                )
            session.calls += 1
        self.calls[route] = Call(asked, route.session)
        if asked.deadline_ns:
            out.append(fx.SetTimer(("call", route), asked.deadline_ns))
        if asked.key:
            self._keys[asked.key] = _Remembered(asked.verb, asked.body, route)
            out.append(fx.SetTimer(("key", asked.key), now.mono_ns + self.limits.key_ns))

    def answer(self, route: Route, outcome: str, body: dict[str, Any] | bytes, out: list[fx.Effect]) -> None:
        """Give the one answer of a request, parked or not, and of those that follow its key."""
        out.append(fx.Answer(route, outcome, body))
        call = self.calls.pop(route, None)
        if call is None:
            return
        session = self.by_id.get(call.session)
        if session is not None:
            session.calls -= 1
        if call.asked.deadline_ns:
            out.append(fx.CancelTimer(("call", route)))
        for follower in call.followers:
            out.append(fx.Answer(follower, outcome, body))
        self._remember(call.asked, outcome, body)

    def refuse(self, route: Route, error: MgmtError, out: list[fx.Effect]) -> None:
        """Answer with an error of the table."""
        outcome = frames.OUTCOME_OF_CODE.get(error.code, frames.Outcome.ERROR)
        self.answer(route, outcome, error.as_body(), out)

    def expire(self, route: Route, out: list[fx.Effect]) -> None:
        """The deadline of a parked request passed; what it started goes on."""
        call = self.calls.get(route)
        if call is not None:
            text = f"{call.asked.verb}: the deadline passed before the answer; what was started goes on"
            self.refuse(route, MgmtError("expired", text), out)

    # ---- idempotency keys ----

    def repeats(self, asked: Asked, out: list[fx.Effect]) -> bool:
        """True when the key was seen before: the answer is given again, or will be when it is known."""
        known = self._keys.get(asked.key)
        if known is None:
            return False
        if known.verb != asked.verb or known.body != asked.body:
            raise MgmtError(
                "conflict", f"idempotency key {asked.key!r} was used for another {known.verb} request"
            )
        if known.answer is not None:
            out.append(fx.Answer(asked.route, *known.answer))
        else:
            self.calls[known.call].followers.append(asked.route)
        return True

    def forget_key(self, key: str) -> None:
        """The time to remember is over; a key whose request still waits is kept until it is answered."""
        known = self._keys.get(key)
        if known is not None and known.answer is not None:
            del self._keys[key]

    def _remember(self, asked: Asked, outcome: str, body: dict[str, Any] | bytes) -> None:
        known = self._keys.get(asked.key) if asked.key else None
        if known is None:
            return
        if outcome == frames.Outcome.OK:
            known.answer = (outcome, body)
        else:
            # A refusal had no effect to protect: the same key may try again.
            del self._keys[asked.key]
