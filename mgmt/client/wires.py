"""The sockets of one client: what carries a Conversation's effects out and brings arrivals in.

One DEALER to the daemon and one per data endpoint. Nothing here blocks; waiting is the shells' business.
"""

from __future__ import annotations

import errno
import socket as posix
from collections.abc import Callable, Collection
from typing import Any

import zmq

from mgmt.client.conversation import Conversation
from mgmt.client.session import START_HINT, Answer, CloseData, Effect, Happened, Send, SendData
from mgmt.protocol import curve, defaults, places
from mgmt.protocol.errors import MgmtError
from mgmt.protocol.keys import Credentials


def probe(endpoint: str) -> None:
    """Raise MgmtError `unreachable` or `denied` when nobody can answer at an ipc endpoint; microseconds.

    libzmq would retry for ever without a word. Over a network nothing is known in microseconds: there the monitor
    of the socket tells.
    """
    path = endpoint.removeprefix("ipc://")
    if path == endpoint:
        return
    address = "\0" + path[1:] if path.startswith("@") else path
    with posix.socket(posix.AF_UNIX, posix.SOCK_STREAM | posix.SOCK_NONBLOCK) as probing:
        try:
            probing.connect(address)
        except BlockingIOError:
            pass  # a full backlog: somebody listens
        except FileNotFoundError:
            raise MgmtError(
                "unreachable", f"no daemon at {endpoint} (no such socket): {START_HINT}"
            ) from None
        except ConnectionRefusedError:
            text = f"no daemon at {endpoint} (socket exists, nobody listens): {START_HINT}"
            raise MgmtError("unreachable", text) from None
        except PermissionError:
            text = f"no permission to open {endpoint}: run as the daemon's user or join its group"
            raise MgmtError("denied", text) from None
        except OSError as error:
            # Too long for a socket address, not a socket, or a part of the path that is no folder.
            reason = error.strerror or str(error)
            if error.errno == errno.EPROTOTYPE:
                reason = "not a stream socket"
            raise MgmtError("unreachable", f"no daemon at {endpoint} ({reason}): {START_HINT}") from None


class Wires:
    """The sockets of `conversation`; `opened` and `closed` are called with each socket to be watched.

    `credentials` are shown to every tcp endpoint: the daemon's relay has the key of its control endpoint.
    """

    def __init__(
        self,
        conversation: Conversation,
        opened: Callable[[zmq.Socket[bytes]], None],
        closed: Callable[[zmq.Socket[bytes]], None],
        credentials: Credentials | None = None,
    ) -> None:
        self._credentials = credentials
        self._handshakes = curve.Handshakes(conversation.endpoint, credentials)
        self._conversation = conversation
        self._opened = opened
        self._closed = closed
        self._context: zmq.Context[Any] | None = None
        self._control: zmq.Socket[bytes] | None = None
        self._monitor: zmq.Socket[bytes] | None = None
        self._data: dict[str, zmq.Socket[bytes]] = {}
        self._finished = False
        self._made = 0

    def connect(self) -> None:
        """Make sure that requests have somewhere to go; MgmtError `unreachable` at once when nobody listens."""
        conversation = self._conversation
        if self._finished:
            raise RuntimeError("this client was closed; make another")
        if not conversation.greeted:
            probe(conversation.endpoint)
        if self._context is None:
            self._context = zmq.Context()
        if self._control is None:
            control = self._dealer(conversation.endpoint)
            self._handshakes = curve.Handshakes(conversation.endpoint, self._credentials)
            monitor: zmq.Socket[bytes] = self._context.socket(zmq.PAIR)
            self._made += 1  # the former one's address is given back some time later
            address = f"inproc://control-{id(self)}-{self._made}"
            control.monitor(address, zmq.EVENT_DISCONNECTED | zmq.EVENT_CONNECT_RETRIED | curve.WATCHED)
            monitor.connect(address)
            try:
                control.connect(places.dialled(conversation.endpoint))
            except zmq.ZMQError as error:
                monitor.close(0)
                control.close(0)
                text = f"{conversation.endpoint!r} is not an endpoint ({error.strerror})"
                raise MgmtError("unreachable", f"{text}: ipc:///path or tcp://host:port") from None
            self._control, self._monitor = control, monitor
            # In this order they are looked at: when an answer has come, what broke before it is known.
            self._opened(control)
            self._opened(monitor)

    def read(self, now_s: float, ready: Collection[zmq.Socket[bytes]] | None = None) -> None:
        """Give everything that has arrived to the conversation; `ready`: at these sockets, by default at all.

        Order matters: answers that a backend gave count before the news of its death, and a broken connection
        before what its successor says.
        """
        conversation = self._conversation
        for socket in tuple(self._data.values()):
            if ready is not None and socket not in ready:
                continue
            for message in _arrived(socket):
                conversation.received_data(now_s, message)
        if self._monitor is not None and (ready is None or self._monitor in ready):
            self._read_monitor(now_s, self._monitor)
        if self._control is not None and (ready is None or self._control in ready):
            for message in _arrived(self._control):
                conversation.received(now_s, message[0])

    def carry_out(
        self,
        now_s: float,
        answered: Callable[[Answer], None],
        happened: Callable[[dict[str, Any]], None],
    ) -> bool:
        """Carry out the conversation's effects until there are none; False when there were none."""
        some = False
        while effects := self._conversation.effects():
            some = True
            for effect in effects:
                self._do(now_s, effect, answered, happened)
        return some

    def close(self, linger_ms: int) -> None:
        """Close everything for good; what was sent last gets `linger_ms` to leave."""
        self._finished = True
        sockets = [*self._data.values(), self._monitor, self._control]
        self._data, self._monitor = {}, None
        control, self._control = self._control, None
        if control is not None:
            control.disable_monitor()
        for socket in sockets:
            if socket is not None:
                self._closed(socket)
                socket.close(linger_ms if socket is control else 0)
        context, self._context = self._context, None
        if context is not None:
            context.term()

    def _read_monitor(self, now_s: float, monitor: zmq.Socket[bytes]) -> None:
        error = None
        events = list(map(curve.event_of, _arrived(monitor)))
        broke = any(event == zmq.EVENT_DISCONNECTED for event, _ in events)
        for event, value in events:
            if event == zmq.EVENT_DISCONNECTED:
                self._conversation.disconnected(now_s)
            elif event == zmq.EVENT_CONNECT_RETRIED:
                if not broke:  # who was there a moment ago may come back
                    self._conversation.unreached(now_s)
            else:
                error = self._handshakes.judge(now_s, event, value) or error
        if error is not None:
            # libzmq may have given this connection up for good; the next request makes another.
            self._close_control()
            self._conversation.refused(now_s, error)

    def _close_control(self) -> None:
        monitor, control = self._monitor, self._control
        self._monitor = self._control = None
        if control is not None:
            control.disable_monitor()
        for socket in (monitor, control):
            if socket is not None:
                self._closed(socket)
                socket.close(0)

    def _do(
        self,
        now_s: float,
        effect: Effect,
        answered: Callable[[Answer], None],
        happened: Callable[[dict[str, Any]], None],
    ) -> None:
        match effect:
            case Answer():
                answered(effect)
            case Send(id, frame):
                if self._control is None:
                    return  # refused meanwhile: who asked has been answered
                try:
                    self._control.send(frame, zmq.NOBLOCK)
                except zmq.Again:
                    self._conversation.unsent(now_s, id)
            case SendData(id, endpoint, message):
                socket = self._data.get(endpoint) or self._open(endpoint)
                try:
                    # Frames over the threshold are sent from where they lie, the others are copied.
                    small = all(len(part) < defaults.ZERO_COPY_BYTES for part in message)
                    socket.send_multipart(message, zmq.NOBLOCK, copy=small)
                except zmq.Again:
                    self._conversation.unsent(now_s, id)
            case CloseData(endpoint):
                data = self._data.pop(endpoint, None)
                if data is not None:
                    self._closed(data)
                    data.close(0)
            case Happened(item):
                happened(item)

    def _open(self, endpoint: str) -> zmq.Socket[bytes]:
        socket = self._data[endpoint] = self._dealer(endpoint)
        socket.copy_threshold = defaults.ZERO_COPY_BYTES
        socket.connect(places.dialled(endpoint, self._conversation.endpoint))
        self._opened(socket)
        return socket

    def _dealer(self, endpoint: str) -> zmq.Socket[bytes]:
        assert self._context is not None
        socket: zmq.Socket[bytes] = self._context.socket(zmq.DEALER)
        for option, value in (
            (zmq.SNDHWM, defaults.CLIENT_QUEUE_MESSAGES),
            (zmq.RCVHWM, defaults.CLIENT_QUEUE_MESSAGES),
            (zmq.SNDTIMEO, 0),
            (zmq.LINGER, 0),
            (zmq.RECONNECT_IVL, defaults.RECONNECT_MIN_MS),
            (zmq.RECONNECT_IVL_MAX, defaults.RECONNECT_MAX_MS),
            (zmq.MAXMSGSIZE, defaults.MAX_RELAY_FRAME_BYTES),
            (zmq.HANDSHAKE_IVL, defaults.ZMQ_HANDSHAKE_TIMEOUT_MS),
        ):
            socket.setsockopt(option, value)
        curve.dress(socket, self._credentials, endpoint)
        return socket


def _arrived(socket: zmq.Socket[bytes]) -> list[list[bytes]]:
    """Every message that has arrived."""
    messages: list[list[bytes]] = []
    try:
        while True:
            messages.append(socket.recv_multipart(zmq.NOBLOCK))
    except zmq.Again:
        return messages
