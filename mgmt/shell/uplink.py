"""An agent's connections to its daemon, for control and for requests to models; they come back by themselves."""

from __future__ import annotations

import time
from asyncio import AbstractEventLoop
from collections.abc import Callable, Sequence
from typing import Any

import zmq

from mgmt.core import effect as fx
from mgmt.core import event as ev
from mgmt.core.event import UPLINK_PLANE, Route
from mgmt.protocol import curve, defaults, frames, messages, revisions
from mgmt.protocol.errors import MgmtError
from mgmt.protocol.frames import FrameError
from mgmt.protocol.keys import Credentials
from mgmt.shell.router import Pump, recv, send

_NOBLOCK = int(zmq.NOBLOCK)
_MORE = int(zmq.NOBLOCK | zmq.SNDMORE)
UP = zmq.EVENT_HANDSHAKE_SUCCEEDED
DOWN = zmq.EVENT_DISCONNECTED
FROM_DAEMON = frozenset({"crew-work", "node-heartbeat", "node-push", "node-gone"})
ASKED = frozenset({"logs", "explain", "schedule-stat", "workers"})  # by the daemon, on somebody's behalf
ASK_TIMEOUT_S = 60.0  # of a request of this agent


def _no_link() -> MgmtError:
    return MgmtError("unreachable", "the link to the daemon broke before the answer")


def receive_carried(socket: zmq.Socket[bytes]) -> list[Any]:
    """The first two frames as bytes, the rest as zmq.Frames; zmq.Again when there is no message."""
    message: list[Any] = []
    more = True
    while more:
        frame = recv(socket, _NOBLOCK, False)
        message.append(frame.bytes if len(message) < 2 else frame)
        more = frame.more
    return message


class Link:
    """A DEALER whose connection is watched. Nothing is queued for a peer that is not there: `send` says so."""

    def __init__(
        self,
        loop: AbstractEventLoop,
        context: zmq.Context[Any],
        endpoint: str,
        max_message_bytes: int,
        credentials: Credentials | None,
        connect_s: float,
        on_message: Callable[[list[Any]], None],
        on_event: Callable[[int, int], None],
    ) -> None:
        self._on_event = on_event
        self.socket: zmq.Socket[bytes] = context.socket(zmq.DEALER)
        for option, value in (
            (zmq.LINGER, 0),
            (zmq.IMMEDIATE, 1),
            (zmq.SNDHWM, 0),
            (zmq.RCVHWM, 0),
            (zmq.MAXMSGSIZE, max_message_bytes),
            (zmq.HANDSHAKE_IVL, int(defaults.NODE_HELLO_S * 1000)),
            (zmq.CONNECT_TIMEOUT, int(connect_s * 1000)),
            (zmq.RECONNECT_IVL, int(defaults.NODE_RECONNECT_MIN_S * 1000)),
            (zmq.RECONNECT_IVL_MAX, int(defaults.NODE_RECONNECT_MAX_S * 1000)),
        ):
            self.socket.setsockopt(option, value)
        curve.dress(self.socket, credentials, endpoint)
        self._monitor: zmq.Socket[bytes] = self.socket.get_monitor_socket(UP | DOWN | curve.FAILURES)
        self._watch = Pump(loop, self._monitor, self._on_monitor)
        self._pump = Pump(loop, self.socket, on_message, receive_carried)
        self.socket.connect(endpoint)

    def send(self, message: Sequence[Any]) -> bool:
        """False when there is no connection; the message is gone then."""
        self._pump.poke()  # a send that is refused swallows signals, too
        last = len(message) - 1
        try:
            for i, frame in enumerate(message):
                send(self.socket, frame, _NOBLOCK if i == last else _MORE)
        except zmq.Again:
            return False
        return True

    def close(self, linger_ms: int = 0) -> None:
        self._watch.close()
        self._pump.close()
        self.socket.disable_monitor()
        self._monitor.close(0)
        self.socket.close(linger_ms)

    def _on_monitor(self, message: list[bytes]) -> None:
        self._on_event(*curve.event_of(message))


class Uplink:
    """Events of the link, of what the daemon says and asks; effects of what it is told."""

    def __init__(
        self,
        loop: AbstractEventLoop,
        context: zmq.Context[Any],
        endpoint: str,
        max_frame_bytes: int,
        serial: Callable[[], int],
        emit: Callable[[ev.Event], None],
        on_carried: Callable[[list[Any]], None],
        credentials: Credentials | None = None,
    ) -> None:
        self._loop, self._context, self._endpoint = loop, context, endpoint
        self._max_message_bytes = 2 * max_frame_bytes
        self._serial, self._emit, self._on_carried, self._credentials = serial, emit, on_carried, credentials
        self._numbered = 0  # requests
        self._connect_s = defaults.NODE_CONNECT_TIMEOUT_S
        self._hello = 0  # number of the last hello
        self._asks: dict[int, Callable[[dict[str, Any] | MgmtError], None]] = {}
        self._session = 0
        self._revision = revisions.SPOKEN[0]
        self._token = b""
        self._data: Link | None = None
        self._handshakes = curve.Handshakes(endpoint, credentials)
        self._control = self._link(self._on_message, self._on_control_event)

    # ---- effects ----

    def say_hello(self, effect: fx.SayHello) -> None:
        self._numbered += 1
        self._hello = self._numbered
        deadline_ms = int(defaults.NODE_HELLO_S * 1000)
        self._control.send((frames.encode_request(self._hello, 0, "agent-hello", effect.body, deadline_ms),))

    def ask(
        self, verb: str, body: dict[str, Any], done: Callable[[dict[str, Any] | MgmtError], None]
    ) -> None:
        """A request of this agent's own; `done` once, with `unreachable` when the link breaks before."""
        self._numbered += 1
        number = self._numbered
        frame = frames.encode_request(number, self._session, verb, body, int(ASK_TIMEOUT_S * 1000))
        if self._session and self._control.send((frame,)):
            self._asks[number] = done
        else:
            self._loop.call_soon(done, _no_link())

    def tell(self, effect: fx.ToDaemon) -> None:
        body = revisions.as_of(effect.name, effect.body, self._revision)
        self._control.send((frames.encode_notice(effect.session, effect.name, body),))

    def beat(self, effect: fx.Beat) -> None:
        self._control.send((frames.encode_notice(effect.session, "agent-heartbeat", effect.body),))

    def answer(self, effect: fx.Answer) -> None:
        """What the daemon asked on somebody's behalf."""
        body = frames.unpack(effect.body) if isinstance(effect.body, bytes) else effect.body
        answer = {"ask": effect.route.id, "outcome": str(effect.outcome), "body": body}
        self._control.send((frames.encode_notice(self._session, "agent-answer", answer),))

    def open_relay(self, effect: fx.OpenRelay) -> None:
        self._close_relay()
        self._token = effect.token.encode()
        self._data = self._link(self._on_carried, self._on_data_event)

    def carry(self, message: Sequence[Any]) -> None:
        """An answer of a unit: [unit, tag, payload...]."""
        if self._data is not None:
            self._data.send(message)

    def relink(self, effect: fx.Relink) -> None:
        self._connect_s = effect.connect_s
        # Not now: this may be the turn of the very socket.
        self._loop.call_soon(self._open_anew)

    def close(self, linger_ms: int = 0) -> None:
        self._close_relay()
        self._control.close(linger_ms)

    # ---- messages ----

    def _lose_asks(self) -> None:
        asks, self._asks = self._asks, {}
        for done in asks.values():
            done(_no_link())

    def _open_anew(self) -> None:
        self._close_relay()
        self._lose_asks()
        self._control.close()
        self._handshakes = curve.Handshakes(self._endpoint, self._credentials)
        self._control = self._link(self._on_message, self._on_control_event)

    def _link(self, on_message: Callable[[list[Any]], None], on_event: Callable[[int, int], None]) -> Link:
        return Link(
            self._loop,
            self._context,
            self._endpoint,
            self._max_message_bytes,
            self._credentials,
            self._connect_s,
            on_message,
            on_event,
        )

    def _close_relay(self) -> None:
        if self._data is not None:
            self._data.close()
            self._data = None

    def _on_control_event(self, event: int, value: int) -> None:
        error = self._handshakes.judge(time.monotonic(), event, value)
        if error is not None and event == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:
            # Not certain: whoever passes connections on to a daemon that is away does the same.
            error = MgmtError("unreachable", error.text) if self._credentials is not None else None
        if error is not None:
            self._emit(ev.LinkDown(error.text, error))
        elif event == UP:
            self._emit(ev.LinkUp())
        elif event == DOWN:
            self._close_relay()
            self._lose_asks()
            self._emit(ev.LinkDown("the other end closed it"))

    def _on_data_event(self, event: int, value: int) -> None:
        if event == UP and self._data is not None:
            self._data.send((b"", self._token))

    def _on_message(self, message: list[Any]) -> None:
        try:
            decoded = frames.decode(message)
        except FrameError as error:
            self._emit(ev.LinkDown(f"its daemon sends what is no frame: {error.text}"))
            return
        if type(decoded) is frames.Reply:
            asked = self._asks.pop(decoded.id, None)
            if asked is not None:
                good = decoded.outcome == frames.Outcome.OK
                asked(decoded.body if good else MgmtError.from_body(decoded.body))
                return
            if decoded.id != self._hello:
                return  # of a hello that was given up
            if decoded.outcome == frames.Outcome.OK:
                self._session, self._revision = decoded.body["session"], decoded.body["version"]
                self._emit(ev.Welcomed(decoded.body))
            else:
                self._emit(ev.Refused(MgmtError.from_body(decoded.body)))
        elif type(decoded) is frames.Notice:
            if decoded.name in FROM_DAEMON:
                self._emit(ev.DaemonNoticed(decoded.session, decoded.name, decoded.body))
            elif decoded.name == "node-ask":
                self._on_ask(decoded.body)

    def _on_ask(self, body: dict[str, Any]) -> None:
        """Somebody's question about a unit here, as if they had asked it at this endpoint."""
        ask, verb, timeout_ms = body["ask"], body["verb"], body["timeout_ms"]
        route = Route(self._serial(), UPLINK_PLANE, b"", ask)
        try:
            if verb not in ASKED:
                raise MgmtError("denied", f"a daemon does not ask its agents for {verb!r}")
            question = messages.validate(frames.Request(ask, 0, verb, body["body"], timeout_ms, ""))
        except MgmtError as error:
            self.answer(fx.Answer(route, frames.Outcome.ERROR, error.as_body()))
            return
        deadline_ns = time.monotonic_ns() + timeout_ms * 1_000_000 if timeout_ms else 0
        self._emit(ev.Asked(route, verb, question, deadline_ns))
