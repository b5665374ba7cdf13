"""The native control plane on the wire: frames in to events, effects out to frames."""

from __future__ import annotations

import time
from asyncio import AbstractEventLoop
from collections.abc import Callable
from typing import Any

import zmq

from mgmt.core import effect as fx
from mgmt.core import event as ev
from mgmt.core.event import Route
from mgmt.protocol import defaults, frames, messages
from mgmt.protocol.frames import FrameError
from mgmt.protocol.keys import Grant
from mgmt.shell.door import Door, receive_keyed
from mgmt.shell.router import Frames, Router

PLANE = "native"

# Beyond the limit we answer; beyond this, which no honest peer sends, libzmq cuts the connection.
HARD_MESSAGE_BYTES = 16 * defaults.MAX_CONTROL_FRAME_BYTES


class NativePlane:
    """One ROUTER for clients and backends alike."""

    def __init__(
        self,
        loop: AbstractEventLoop,
        context: zmq.Context[Any],
        endpoint: str,
        request_timeout_s: float,
        max_subscriber_queue: int,
        serial: Callable[[], int],
        emit: Callable[[ev.Event], None],
        door: Door | None = None,
    ) -> None:
        """With a `door`, who connects needs a key."""
        self._serial = serial
        self._emit = emit
        self._timeout_ns = int(request_timeout_s * 1e9)
        # Bodies of requests without fields, by verb: they are immutable, so one does for all.
        self._bare: dict[str, messages.Message] = {}
        self._max_subscriber_queue = max_subscriber_queue
        self.skipped_events = 0
        self.bad_frames = 0
        if door is None:
            self.router = Router(loop, context, endpoint, HARD_MESSAGE_BYTES, self._on_message, self._on_lost)
            return
        grant_of = door.grant

        def on_keyed(message: list[Any]) -> None:
            self._on_message(message, grant_of(message.pop(0)))

        self.router = Router(
            loop,
            context,
            endpoint,
            HARD_MESSAGE_BYTES,
            on_keyed,
            self._on_lost,
            receive_keyed,
            prepare=door.prepare("control"),
        )

    def answer(self, effect: fx.Answer) -> None:
        route = effect.route
        body = effect.body
        if type(body) is bytes:
            frame = frames.encode_reply_packed(route.id, route.session, effect.outcome, body)
        else:
            frame = frames.encode_reply(route.id, route.session, effect.outcome, body)
        self.router.send(route.peer, (frame,))

    def tell(self, effect: fx.Tell) -> None:
        self.router.send(effect.peer, (frames.encode_notice(effect.session, effect.name, effect.body),))

    def publish(self, effect: fx.Publish) -> None:
        for peer, session in effect.to:
            if self.router.queued(peer) >= self._max_subscriber_queue:
                # It will find the gap in the numbers and ask for a new snapshot; others are not held up.
                self.skipped_events += 1
                continue
            self.router.send(peer, (frames.encode_event(effect.seq, session, effect.kind, effect.body),))

    def _on_message(self, message: Frames, grant: Grant | None = None) -> None:
        peer = message[0]
        event: ev.Event
        try:
            decoded = frames.decode(message[1:])
            if type(decoded) is frames.Request:
                body = self._body(decoded)
                timeout_ns = decoded.deadline_ms * 1_000_000 or self._timeout_ns
                event = ev.Asked(
                    Route(self._serial(), PLANE, peer, decoded.id, decoded.session, None, grant),
                    decoded.verb,
                    body,
                    time.monotonic_ns() + timeout_ns,
                    decoded.key,
                )
            elif type(decoded) is frames.Notice:
                event = ev.Noticed(peer, decoded.session, decoded.name, decoded.body, grant)
            else:
                raise FrameError("bad-frame", "only requests and notices are sent to a daemon", decoded[0])
        except FrameError as error:
            self._refuse(peer, error)
        else:
            self._emit(event)

    def _body(self, request: frames.Request) -> messages.Message:
        """The validated body."""
        if request.body:
            return messages.validate(request)
        body = self._bare.get(request.verb)
        if body is None:
            body = self._bare[request.verb] = messages.validate(request)
        return body

    def _refuse(self, peer: bytes, error: FrameError) -> None:
        self.bad_frames += 1
        outcome = frames.OUTCOME_OF_CODE.get(error.code, frames.Outcome.ERROR)
        frame = frames.encode_reply(error.id, error.session, outcome, error.as_body())
        self.router.send(peer, (frame,))

    def _on_lost(self, peer: bytes, reason: str) -> None:
        self._emit(ev.PeerLost(peer, reason))
