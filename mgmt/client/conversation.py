"""The whole conversation of one client, without input or output: session, leases, model requests, events.

A model request ("call") needs a lease. The first call asks for one and waits for it; a call on a lost lease
is answered `backend-lost`, or, while it has `retries` left, goes to a new lease. Every call ends in exactly one
Answer, its deadline at the latest.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from functools import partial
from typing import Any

from mgmt.client.session import NEVER, Answer, CloseData, Happened, SendData, Session
from mgmt.protocol import defaults, frames
from mgmt.protocol.errors import MgmtError

RETRIED = frozenset({"backend-lost", "busy", "lease-gone", "not-ready"})
AT_ONCE = frozenset({"backend-lost", "lease-gone"})  # another replica may be free this moment
MAX_DEADLINE_MS = (1 << 32) - 1  # the tag has 32 bits for it; 49 days

_TAG = frames.TAG


class Lease:
    """A lease of the present session, or one whose last calls are still to be answered."""

    __slots__ = ("calls", "endpoint", "number", "protocols", "unit")

    def __init__(self, number: int, endpoint: str, unit: str | None, protocols: list[str]) -> None:
        self.number = number
        self.endpoint = endpoint
        self.unit = unit
        self.protocols = protocols
        self.calls: set[int] = set()


class Target:
    """A model as one user of this client sees it: how to lease it, and the lease when there is one."""

    __slots__ = ("asking", "lease", "load", "mode", "model", "retries", "waiting")

    def __init__(self, model: str, mode: str, load: bool, retries: int) -> None:
        self.model = model
        self.mode = mode
        self.load = load
        self.retries = retries
        self.lease: Lease | None = None
        self.asking = False
        self.waiting: dict[int, None] = {}  # ids of calls that go out with the next lease, in order


class _Call:
    __slots__ = ("deadline_s", "delay_s", "id", "lease", "payload", "retries", "retry_at_s", "target")

    def __init__(self, id: int, target: Target, payload: Sequence[bytes], deadline_s: float) -> None:
        self.id = id
        self.target = target
        self.payload = payload
        self.deadline_s = deadline_s
        self.retries = target.retries
        self.lease: Lease | None = None
        self.delay_s = 0.0
        self.retry_at_s = NEVER


class _Subscription:
    __slots__ = ("asking", "epoch", "follow", "id", "seq")

    def __init__(self, id: int, seq: int | None, epoch: int | None, follow: bool) -> None:
        self.id = id
        self.seq = seq
        self.epoch = epoch
        self.follow = follow
        self.asking = False


class Conversation(Session):
    """One client's side of everything; see Session for the methods a shell calls."""

    def __init__(
        self,
        endpoint: str,
        name: str = "",
        timeout_s: float = defaults.REQUEST_TIMEOUT_S,
        connect_timeout_s: float = defaults.CONNECT_TIMEOUT_S,
        token: str | None = None,
    ) -> None:
        super().__init__(endpoint, name, timeout_s, connect_timeout_s, token)
        self._targets: set[Target] = set()  # those that have a lease or ask for one
        self._leases: dict[int, Lease] = {}
        self._calls: dict[int, _Call] = {}
        self._subscription: _Subscription | None = None

    # ---- model requests ----

    def target(self, model: str, mode: str = "direct", load: bool = False, retries: int = 0) -> Target:
        """A handle for `call`; nothing is sent before the first call. `mode` is "direct" or "relay"."""
        if mode not in ("direct", "relay"):
            raise ValueError(f"mode is direct or relay, not {mode!r}")
        if not 0 < len(model) <= defaults.MAX_NAME_CHARS:
            raise ValueError(
                f"a model's name has 1 to {defaults.MAX_NAME_CHARS} characters, not {len(model)}"
            )
        return Target(model, mode, load, retries)

    def call(
        self, now_s: float, target: Target, payload: Sequence[bytes], timeout_s: float | None = None
    ) -> int:
        """Start a request to the model; its Answer carries the id returned and a list of frames.

        MgmtError `busy` when MAX_RELAY_QUEUE calls are open, `too-large` for a frame over MAX_RELAY_FRAME_BYTES.
        """
        if len(self._calls) >= defaults.MAX_RELAY_QUEUE:
            raise MgmtError("busy", f"{target.model}: {len(self._calls)} calls of this client are unanswered")
        for frame in payload:
            if len(frame) > defaults.MAX_RELAY_FRAME_BYTES:
                limit = defaults.MAX_RELAY_FRAME_BYTES
                raise MgmtError(
                    "too-large", f"{target.model}: a frame of {len(frame)} bytes, the limit is {limit}"
                )
        self._refresh(now_s)
        if timeout_s is None:
            timeout_s = self._timeout_s
        deadline_s = now_s + timeout_s
        call = _Call(self._new_id(), target, payload, deadline_s)
        self._calls[call.id] = call
        if deadline_s < NEVER:
            heapq.heappush(self._timers, (deadline_s + defaults.ANSWER_MARGIN_S, call.id))
        self._go(now_s, call)
        return call.id

    def received_data(self, now_s: float, message: list[bytes]) -> None:
        """Take one message of a data socket; anything but the answer to an open call is dropped."""
        if len(message[0]) != frames.TAG_BYTES:
            return
        version, kind, _, number, id = _TAG.unpack(message[0])
        call = self._calls.get(id)
        if version != frames.VERSION or call is None or call.lease is None or call.lease.number != number:
            return
        if kind == frames.DataKind.RESULT:
            self._effects.append(Answer(id, message[1:], None))
            self._close(call)
        else:
            self._refused(now_s, call, _error(message))

    def release(self, now_s: float, target: Target) -> None:
        """Give the lease back; calls still open on it keep their answers. The target stays usable."""
        lease, target.lease = target.lease, None
        self._targets.discard(target)
        if lease is not None:
            if self._session:
                self._start(now_s, "release", {"lease": lease.number}, None, "", _nobody)
            self._retire(lease)

    # ---- events ----

    def subscribe(
        self, now_s: float, since: int | None = None, epoch: int | None = None, follow: bool = True
    ) -> int:
        """Start the one subscription of this client: Happened effects, a snapshot first.

        An Answer with the id returned ends it: an error, or None when `follow` is false.
        """
        self._subscription = subscription = _Subscription(self._new_id(), since, epoch, follow)
        self._ask_events(now_s, subscription)
        return subscription.id

    def unsubscribe(self, id: int) -> None:
        """Drop what is still coming of the subscription `id`, if it is the present one."""
        if self._subscription is not None and self._subscription.id == id:
            self._subscription = None

    def _ask_events(self, now_s: float, subscription: _Subscription) -> None:
        body: dict[str, Any] = {"follow": subscription.follow}
        if subscription.seq is not None:
            body["since"] = subscription.seq
            if subscription.epoch is not None:
                body["epoch"] = subscription.epoch
        subscription.asking = True
        self._start(now_s, "subscribe", body, None, "", partial(self._subscribed, subscription))

    def _subscribed(
        self,
        subscription: _Subscription,
        now_s: float,
        body: dict[str, Any] | None,
        error: MgmtError | None,
    ) -> None:
        if subscription is not self._subscription:
            return
        subscription.asking = False
        if body is None:
            self._subscription = None
            self._effects.append(Answer(subscription.id, None, error))
            return
        snapshot = {"kind": "snapshot", **body}
        events = snapshot.pop("events", [])
        subscription.seq, subscription.epoch = body.get("seq", 0), body.get("epoch")
        self._effects.append(Happened(snapshot))
        self._effects += [Happened(event) for event in events]
        if not subscription.follow:
            self._subscription = None
            self._effects.append(Answer(subscription.id, None, None))

    def _event(self, now_s: float, event: frames.Event) -> None:
        subscription = self._subscription
        if subscription is None or subscription.asking or subscription.seq is None:
            return
        if event.seq == subscription.seq + 1:
            subscription.seq = event.seq
            self._effects.append(Happened({**event.body, "kind": event.kind, "seq": event.seq}))
        elif event.seq > subscription.seq:
            self._ask_events(now_s, subscription)

    # ---- what the session tells ----

    def _notice(self, now_s: float, notice: frames.Notice) -> None:
        if notice.name == "lease-closed":
            lease = self._leases.get(notice.body.get("lease", 0))
            if lease is not None:
                unit, reason = notice.body.get("unit"), notice.body.get("reason")
                self._lose(now_s, lease, f"backend {unit} is gone: {reason}")

    def _session_ended(self, now_s: float, reason: str) -> None:
        # The daemon closes a session's leases, and from then on nobody would tell us of a backend's death.
        for lease in list(self._leases.values()):
            self._lose(now_s, lease, f"the session with the daemon ended ({reason}) before the answer")
        if self._subscription is not None and not self._subscription.asking:
            self._ask_events(now_s, self._subscription)

    # ---- leases ----

    def _go(self, now_s: float, call: _Call) -> None:
        """Send the call, or let it wait for a lease."""
        target = call.target
        lease = target.lease
        call.retry_at_s = NEVER
        if lease is None:
            target.waiting[call.id] = None
            self._ask_lease(now_s, target)
            return
        left_s = call.deadline_s - now_s
        deadline_ms = min(MAX_DEADLINE_MS, max(1, round(left_s * 1000))) if left_s < NEVER else 0
        tag = _TAG.pack(frames.VERSION, frames.DataKind.REQUEST, deadline_ms, lease.number, call.id)
        call.lease = lease
        lease.calls.add(call.id)
        self._effects.append(SendData(call.id, lease.endpoint, [tag, *call.payload]))

    def _ask_lease(self, now_s: float, target: Target) -> None:
        if target.asking:
            return
        target.asking = True
        self._targets.add(target)
        longest_s = max(self._calls[id].deadline_s for id in target.waiting) - now_s
        body = {"model": target.model, "mode": target.mode, "load": target.load}
        self._start(now_s, "lease", body, longest_s, "", partial(self._leased, target))

    def _leased(
        self, target: Target, now_s: float, body: dict[str, Any] | None, error: MgmtError | None
    ) -> None:
        target.asking = False
        if body is None:
            self._targets.discard(target)
        waiting, target.waiting = list(target.waiting), {}
        if body is not None:
            try:
                number, endpoint = int(body["lease"]), str(body["endpoint"])
                target.lease = Lease(number, endpoint, body.get("unit"), list(body.get("protocols") or ()))
                self._leases[number] = target.lease
                if waiting:
                    self._targets.add(target)
            except (KeyError, TypeError, ValueError) as fault:
                error = MgmtError("internal", f"the lease on {target.model} is not usable: {fault!r}")
        for id in waiting:
            call = self._calls.get(id)
            if call is None:
                continue
            if error is None or (error.code == "expired" and now_s < call.deadline_s):
                self._go(now_s, call)  # expired: a call that came later has time left and asks again
            else:
                self._refused(now_s, call, error)
        if target not in self._targets and not waiting:
            self.release(now_s, target)  # as it was asked to be in the meantime

    def _lose(self, now_s: float, lease: Lease, reason: str) -> None:
        self._detach(lease)
        for id in sorted(lease.calls):
            call = self._calls[id]
            self._refused(
                now_s, call, MgmtError("backend-lost", f"{call.target.model}: {reason}", unit=lease.unit)
            )
        self._retire(lease)

    def _detach(self, lease: Lease) -> None:
        """No new calls on this lease."""
        for target in [target for target in self._targets if target.lease is lease]:
            target.lease = None
            self._targets.discard(target)

    def _retire(self, lease: Lease) -> None:
        """Forget a lease that takes no calls and owes no answers, and its socket when it was the last there."""
        if lease.calls or any(target.lease is lease for target in self._targets):
            return
        if self._leases.pop(lease.number, None) is None:
            return
        if not any(other.endpoint == lease.endpoint for other in self._leases.values()):
            self._effects.append(CloseData(lease.endpoint))

    # ---- ends of a call ----

    def _refused(self, now_s: float, call: _Call, error: MgmtError) -> None:
        """Answer with the error, or go round again."""
        lease = call.lease
        if lease is not None and error.code == "lease-gone":
            self._detach(lease)
        delay_s = (
            0.0 if error.code in AT_ONCE and not call.delay_s else max(call.delay_s, defaults.RETRY_DELAY_S)
        )
        if not (call.retries and error.code in RETRIED and now_s + delay_s < call.deadline_s):
            self._effects.append(Answer(call.id, None, error))
            self._close(call)
            return
        self._leave(call)
        call.retries -= 1
        call.delay_s = min(defaults.MAX_RETRY_DELAY_S, 2 * delay_s or defaults.RETRY_DELAY_S)
        # By timer even without delay: a lost session must be left entirely before anything is asked anew.
        call.retry_at_s = now_s + delay_s
        heapq.heappush(self._timers, (call.retry_at_s, call.id))

    def _close(self, call: _Call) -> None:
        del self._calls[call.id]
        self._leave(call)

    def _leave(self, call: _Call) -> None:
        call.target.waiting.pop(call.id, None)
        lease, call.lease = call.lease, None
        if lease is not None:
            lease.calls.discard(call.id)
            if call.target.lease is not lease:
                self._retire(lease)

    # ---- the session's hooks ----

    def _open(self, id: int) -> bool:
        return id in self._calls or id in self._requests

    def _timer(self, now_s: float, id: int) -> None:
        call = self._calls.get(id)
        if call is None:
            super()._timer(now_s, id)
        elif now_s >= call.deadline_s + defaults.ANSWER_MARGIN_S:
            if call.lease is not None:
                text = f"no answer from {call.lease.unit or 'the relay'} before the deadline"
            else:
                text = "no backend was free before the deadline"
            self._effects.append(Answer(id, None, MgmtError("expired", f"{call.target.model}: {text}")))
            self._close(call)
        elif now_s >= call.retry_at_s:
            self._go(now_s, call)

    def unsent(self, now_s: float, id: int) -> None:
        call = self._calls.get(id)
        if call is None:
            super().unsent(now_s, id)
        else:
            text = f"{call.target.model}: the backend does not take more messages; try again later"
            self._refused(now_s, call, MgmtError("busy", text))

    def forget(self, id: int) -> None:
        call = self._calls.get(id)
        if call is None:
            super().forget(id)
        else:
            self._close(call)


def _nobody(now_s: float, body: dict[str, Any] | None, error: MgmtError | None) -> None:
    """The answer to a release: a lease that is gone already is as good as released."""


def _error(message: list[bytes]) -> MgmtError:
    """The error of an answer that is not a result; `internal` when it is not readable."""
    try:
        body = frames.unpack(message[1])
        if type(body) is dict:
            return MgmtError.from_body(body)
    except (IndexError, frames.FrameError):
        pass
    return MgmtError("internal", "the backend refused, in an error that cannot be read")
