"""A ROUTER socket in the event loop: an edge-triggered pump for input, bounded queues for output.

libzmq signals its descriptor once per batch of commands, and a send may swallow that signal. Hence the rule
that keeps a message from waiting for the next one: the last thing done with a socket in a turn of the loop is
always a look that found nothing to receive.
"""

from __future__ import annotations

import logging
import os
import stat
from asyncio import AbstractEventLoop, TimerHandle
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import zmq
from zmq.backend import Socket as RawSocket

from mgmt.protocol.errors import MgmtError

log = logging.getLogger("mgmt.shell.router")

# The undecorated methods: pyzmq's Python layer over them costs more than the system does.
recv: Callable[..., Any] = RawSocket.recv
send: Callable[..., Any] = RawSocket.send
get: Callable[..., Any] = RawSocket.get
_NOBLOCK = int(zmq.NOBLOCK)
_MORE = int(zmq.NOBLOCK | zmq.SNDMORE)
_EVENTS = int(zmq.EVENTS)
_POLLIN = int(zmq.POLLIN)

DRAIN_CAP = 256  # messages taken in one turn before the rest of the loop gets its chance
FLUSH_S = 0.005  # how often queued answers are offered again to a peer whose pipe was full
MAX_OUTBOX = 4096  # answers queued for one peer that does not read; then it is given up
HWM = 4096  # messages per peer inside libzmq, each way

Frames = list[bytes]


def receive(socket: zmq.Socket[bytes]) -> Frames:
    """One message of a DEALER; zmq.Again when there is none."""
    # A Frame knows whether more follow; asking the socket costs more than making one.
    frame = recv(socket, _NOBLOCK, False)
    message = [frame.bytes]
    while frame.more:
        frame = recv(socket, _NOBLOCK, False)
        message.append(frame.bytes)
    return message


def receive_routed(socket: zmq.Socket[bytes]) -> Frames:
    """One message of a ROUTER, which puts the identity before at least one frame; zmq.Again when there is none."""
    message = [recv(socket, _NOBLOCK)]
    more = True
    while more:
        frame = recv(socket, _NOBLOCK, False)
        message.append(frame.bytes)
        more = frame.more
    return message


class _Turn:
    """The pumps that were poked while one of them drains; one loop, hence one turn at a time."""

    def __init__(self) -> None:
        self.taken = False
        self.touched: list[Pump] = []


_turn = _Turn()


class Pump:
    """Calls `on_message(message)` for each message of a socket, at most DRAIN_CAP of them per turn."""

    def __init__(
        self,
        loop: AbstractEventLoop,
        socket: zmq.Socket[bytes],
        on_message: Callable[[list[Any]], None],
        receive: Callable[[zmq.Socket[bytes]], list[Any]] = receive,
    ) -> None:
        self._loop = loop
        self._socket = socket
        self._on_message = on_message
        self._receive = receive
        self._poked = False
        self._draining = False
        self._closed = False
        self._fd = int(socket.getsockopt(zmq.FD))
        loop.add_reader(self._fd, self._drain)
        self.poke()

    def poke(self) -> None:
        """Look again after a send, which may have swallowed a signal: at the end of this turn, or soon."""
        if self._poked or self._draining:
            return
        self._poked = True
        if _turn.taken:
            _turn.touched.append(self)
        else:
            self._loop.call_soon(self._drain)

    def close(self) -> None:
        """No further turns; a message's own handler may call this."""
        self._closed = True
        self._loop.remove_reader(self._fd)

    def _drain(self) -> None:
        self._poked = False
        if self._closed:
            return
        dry = False
        self._draining = _turn.taken = True
        try:
            dry = self._take()
        finally:
            self._draining = _turn.taken = False
            if not dry:
                self.poke()
            touched, _turn.touched = _turn.touched, []
            for pump in touched:
                pump._look()

    def _take(self) -> bool:
        """True when nothing is left to receive, or nobody to receive it."""
        socket, receive, on_message = self._socket, self._receive, self._on_message
        try:
            for count in range(DRAIN_CAP):
                on_message(receive(socket))
                if self._closed:
                    return True
                # Most turns have one message: asking is cheaper than the exception. In a burst it is not.
                if not count and not get(socket, _EVENTS) & _POLLIN:
                    return True
        except zmq.Again:
            return True
        return False

    def _look(self) -> None:
        """Drain soon if there is something; this look consumed its signal."""
        self._poked = False
        if not self._closed and get(self._socket, _EVENTS) & _POLLIN:
            self.poke()


class Router:
    """A bound ROUTER: messages in by callback, messages out by `send`, which never blocks and never drops.

    A peer whose pipe is full gets a queue of at most MAX_OUTBOX messages; one that overflows it, or is gone,
    is reported once by `on_lost(identity, reason)` and its queue is thrown away with it.
    """

    def __init__(
        self,
        loop: AbstractEventLoop,
        context: zmq.Context[Any],
        endpoint: str,
        max_message_bytes: int,
        on_message: Callable[[list[Any]], None],
        on_lost: Callable[[bytes, str], None],
        receive: Callable[[zmq.Socket[bytes]], list[Any]] = receive_routed,
    ) -> None:
        self.endpoint = endpoint
        self._loop = loop
        self._on_lost = on_lost
        self._outbox: dict[bytes, deque[Sequence[Any]]] = {}
        self._flush_timer: TimerHandle | None = None
        self.socket: zmq.Socket[bytes] = context.socket(zmq.ROUTER)
        for option, value in (
            (zmq.ROUTER_HANDOVER, 1),
            (zmq.ROUTER_MANDATORY, 1),
            (zmq.SNDTIMEO, 0),
            (zmq.SNDHWM, HWM),
            (zmq.RCVHWM, HWM),
            (zmq.MAXMSGSIZE, max_message_bytes),
            (zmq.HANDSHAKE_IVL, 5000),
            (zmq.LINGER, 0),
        ):
            self.socket.setsockopt(option, value)
        self._bind(endpoint)
        self._pump = Pump(loop, self.socket, on_message, receive)

    def _bind(self, endpoint: str) -> None:
        path = ipc_path(endpoint)
        # Born 0660: the daemon's user and group may command it. Who gets as far as the file is the folder's word.
        former = os.umask(0o117)
        try:
            self.socket.bind(endpoint)
        except zmq.ZMQError as error:
            self.socket.close(0)
            text = f"endpoint {endpoint} cannot be served: {zmq.strerror(error.errno or 0)}; "
            if error.errno == zmq.EADDRINUSE:
                raise MgmtError(
                    "already-running",
                    text + "stop the process that serves it (`mgmt stop-service`), or configure another",
                ) from None
            raise MgmtError("bad-config", text + "configure another one") from None
        finally:
            os.umask(former)
        self._inode = os.stat(path).st_ino if path else 0

    def queued(self, peer: bytes) -> int:
        """How many messages wait for this peer to read, beside those inside libzmq."""
        queue = self._outbox.get(peer)
        return len(queue) if queue is not None else 0

    def send(self, peer: bytes, frames: Sequence[Any]) -> None:
        """Send `frames`, bytes or zmq.Frame, to the peer of that identity, now or as soon as it reads."""
        queue = self._outbox.get(peer)
        if queue is not None:
            self._enqueue(peer, queue, frames)
            return
        if not self._offer(peer, frames):
            self._enqueue(peer, self._outbox.setdefault(peer, deque()), frames)

    def flush(self) -> bool:
        """Offer queued messages again; True when nothing is queued any more."""
        self._flush_timer = None
        for peer in list(self._outbox):
            queue = self._outbox.get(peer)
            while queue:
                if not self._offer(peer, queue[0]):
                    break
                if queue:
                    queue.popleft()
            if not queue:
                self._outbox.pop(peer, None)
        self._arm()
        return not self._outbox

    def close(self, linger_ms: int = 0) -> None:
        """Close, and remove the ipc file if it is still ours."""
        self._pump.close()
        if self._flush_timer is not None:
            self._flush_timer.cancel()
        path = ipc_path(self.endpoint)
        ours = path is not None and _inode(path) == self._inode
        self.socket.close(linger_ms)
        if path is not None and ours:
            remove_socket(path)

    def poke(self) -> None:
        self._pump.poke()

    def _offer(self, peer: bytes, frames: Sequence[Any]) -> bool:
        """True when the message is out of our hands: sent, or its peer is gone."""
        # Whatever comes of it: a send that is refused has swallowed a signal just as well.
        self._pump.poke()
        socket = self.socket
        try:
            send(socket, peer, _MORE)
        except zmq.Again:
            return False
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            self._give_up(peer, "the peer is gone")
            return True
        last = len(frames) - 1
        for i, frame in enumerate(frames):
            send(socket, frame, _NOBLOCK if i == last else _MORE)
        return True

    def _enqueue(self, peer: bytes, queue: deque[Sequence[Any]], frames: Sequence[Any]) -> None:
        if len(queue) >= MAX_OUTBOX:
            self._give_up(peer, f"{len(queue)} answers were queued for it and it reads none")
            return
        queue.append(frames)
        self._arm()

    def _give_up(self, peer: bytes, reason: str) -> None:
        # Emptied, too: a flush that is going through it must not give the peer up once for each answer.
        self._outbox.pop(peer, deque()).clear()
        # Not from inside a send: whoever is sending must see a consistent state first.
        self._loop.call_soon(self._on_lost, peer, reason)

    def _arm(self) -> None:
        if self._outbox and self._flush_timer is None:
            self._flush_timer = self._loop.call_later(FLUSH_S, self.flush)


def ipc_path(endpoint: str) -> str | None:
    """The file of an ipc endpoint; None for other transports and abstract names."""
    path = endpoint.removeprefix("ipc://")
    return path if path != endpoint and not path.startswith("@") else None


def remove_socket(path: str) -> None:
    """Delete a socket file; anything else of that name is left alone."""
    try:
        if stat.S_ISSOCK(os.lstat(path).st_mode):
            os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        log.warning("cannot remove %s: %s", path, error.strerror)


def _inode(path: str) -> int:
    try:
        return os.stat(path).st_ino
    except OSError:
        return -1
