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
from dataclasses import dataclass, field
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
MAX_HELD_BYTES = 64 << 20  # of large answers queued for one peer, here or inside libzmq; then it is given up
HWM = 4096  # messages per peer inside libzmq, each way
TRACKED_BYTES = (
    16 << 10
)  # larger messages are counted until libzmq lets go of them; HWM bounds the smaller ones
PURGE_AT = 256  # peers with tracked messages, before those are forgotten that have none any more

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


@dataclass(slots=True)
class _Outbox:
    """Messages, each with its size, for a peer whose pipe is full."""

    messages: deque[tuple[Sequence[Any], int]] = field(default_factory=deque)
    bytes: int = 0


class _Inside:
    """The large messages for one peer that libzmq has not written to the connection yet, in order."""

    def __init__(self) -> None:
        self._messages: deque[tuple[zmq.MessageTracker, int]] = deque()
        self._bytes = 0

    def add(self, tracker: zmq.MessageTracker, size: int) -> None:
        self._messages.append((tracker, size))
        self._bytes += size

    def bytes(self) -> int:
        messages = self._messages
        while messages and messages[0][0].done:
            self._bytes -= messages.popleft()[1]
        return self._bytes


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

    A peer whose pipe is full gets a queue of at most MAX_OUTBOX messages, and what is large is held for it up to
    `max_held_bytes`. One that exceeds this, or is gone, is reported by `on_lost(identity, reason)`, and its queue
    is thrown away with it.
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
        max_held_bytes: int = MAX_HELD_BYTES,
        *,
        prepare: Callable[[zmq.Socket[bytes]], None] | None = None,
    ) -> None:
        """`prepare` sets further options of the socket before it is bound."""
        self.endpoint = endpoint
        self._loop = loop
        self._on_lost = on_lost
        self._max_held_bytes = max_held_bytes
        self._outbox: dict[bytes, _Outbox] = {}
        self._inside: dict[bytes, _Inside] = {}
        self._purge_at = PURGE_AT
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
        if prepare is not None:
            prepare(self.socket)
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
        outbox = self._outbox.get(peer)
        return len(outbox.messages) if outbox is not None else 0

    def send(self, peer: bytes, frames: Sequence[Any]) -> None:
        """Send `frames`, bytes or zmq.Frame, to the peer of that identity, now or as soon as it reads."""
        outbox = self._outbox.get(peer)
        size = sum(map(len, frames))
        if size >= TRACKED_BYTES:
            held = (outbox.bytes if outbox is not None else 0) + self._bytes_inside(peer)
            if held and held + size > self._max_held_bytes:
                self._drop(peer, f"{held} bytes of answers wait for it and it reads none")
                return
        if outbox is not None:
            self._enqueue(peer, outbox, frames, size)
        elif not self._offer(peer, frames, size):
            self._enqueue(peer, self._outbox.setdefault(peer, _Outbox()), frames, size)

    def flush(self) -> bool:
        """Offer queued messages again; True when nothing is queued any more."""
        self._flush_timer = None
        for peer in list(self._outbox):
            outbox = self._outbox[peer]
            messages = outbox.messages
            while messages:
                frames, size = messages[0]
                if not self._offer(peer, frames, size):
                    break
                if messages:  # else the peer is gone
                    messages.popleft()
                    outbox.bytes -= size
            if not messages:
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

    def _bytes_inside(self, peer: bytes) -> int:
        inside = self._inside.get(peer)
        return inside.bytes() if inside is not None else 0

    def _track(self, peer: bytes, tracker: zmq.MessageTracker, size: int) -> None:
        # Kept when a peer is given up: it may be connected still, and come back for more.
        if len(self._inside) >= self._purge_at:
            self._inside = {one: inside for one, inside in self._inside.items() if inside.bytes()}
            self._purge_at = max(PURGE_AT, 2 * len(self._inside))
        self._inside.setdefault(peer, _Inside()).add(tracker, size)

    def _offer(self, peer: bytes, frames: Sequence[Any], size: int) -> bool:
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
        if size >= TRACKED_BYTES:
            # libzmq tells when it lets go of memory that is ours; the first frame stands for the message.
            first = zmq.Frame(frames[0], track=True, copy=False)
            if first.tracker is not None:
                self._track(peer, first.tracker, size)
            frames = (first, *frames[1:])
        last = len(frames) - 1
        for i, frame in enumerate(frames):
            send(socket, frame, _NOBLOCK if i == last else _MORE)
        return True

    def _enqueue(self, peer: bytes, outbox: _Outbox, frames: Sequence[Any], size: int) -> None:
        queued = len(outbox.messages)
        if queued >= MAX_OUTBOX:
            self._drop(peer, f"{queued} answers were queued for it and it reads none")
            return
        outbox.messages.append((frames, size))
        outbox.bytes += size
        self._arm()

    def _drop(self, peer: bytes, reason: str) -> None:
        log.warning("%s: a client is given up: %s", self.endpoint, reason)
        self._give_up(peer, reason)

    def _give_up(self, peer: bytes, reason: str) -> None:
        # Emptied, too: a flush that is going through it must not give the peer up once for each answer.
        self._outbox.pop(peer, _Outbox()).messages.clear()
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
