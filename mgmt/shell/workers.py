"""Where workers of task suites connect: one unix socket, a few bytes of length before each message."""

from __future__ import annotations

import logging
import os
import socket
import struct
from asyncio import AbstractEventLoop
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgpack

from mgmt.core import effect as fx
from mgmt.core import event as ev
from mgmt.worker import wire

log = logging.getLogger("mgmt.shell.workers")

READ_BYTES = 1 << 18
MAX_UNSENT_BYTES = 64 << 20  # a worker that does not read is closed; its tasks are handed to others
BACKLOG = 512
_LENGTH = struct.Struct("<I")


@dataclass(slots=True, eq=False)
class _Peer:
    number: int
    socket: socket.socket
    received: bytearray = field(default_factory=bytearray)
    unsent: bytearray = field(default_factory=bytearray)
    greeted: bool = False


class Workers:
    """Turns what workers say into events and sends them what the core wants."""

    def __init__(self, loop: AbstractEventLoop, path: Path, emit: Callable[[ev.Event], None]) -> None:
        self._loop, self._emit = loop, emit
        self._peers: dict[int, _Peer] = {}
        self._numbered = 0
        self._path = path
        path.unlink(missing_ok=True)  # the lock of the state folder says that nobody else listens there
        self._listener = socket.socket(
            socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        )
        self._listener.bind(str(path))
        os.chmod(path, 0o600)
        self._listener.listen(BACKLOG)
        loop.add_reader(self._listener, self._accept)

    def send(self, effect: fx.ToWorker) -> None:
        peer = self._peers.get(effect.connection)
        if peer is None:
            return
        parts: list[bytes] = []
        for message in effect.messages:
            body = msgpack.packb(message)
            parts.append(_LENGTH.pack(len(body)))
            parts.append(body)
        data = b"".join(parts)
        if not peer.unsent:
            try:
                sent = peer.socket.send(data)
            except BlockingIOError:
                sent = 0
            except OSError:
                return  # its reader says that it is gone
            if sent == len(data):
                return
            data = data[sent:]
            self._loop.add_writer(peer.socket, self._write, peer)
        peer.unsent += data
        if len(peer.unsent) > MAX_UNSENT_BYTES:
            log.warning("worker connection %d does not read what it is sent: closed", peer.number)
            self._drop(peer)

    def close_one(self, effect: fx.CloseWorker) -> None:
        """No event follows: it was the core's word."""
        peer = self._peers.pop(effect.connection, None)
        if peer is not None:
            self._forget(peer)

    def close(self) -> None:
        self._loop.remove_reader(self._listener)
        self._listener.close()
        self._path.unlink(missing_ok=True)
        for peer in self._peers.values():
            self._forget(peer)
        self._peers.clear()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:  # no descriptors left: it tries again
                log.error("cannot accept a worker: %s", error.strerror)
                return
            connection.setblocking(False)
            self._numbered += 1
            peer = self._peers[self._numbered] = _Peer(self._numbered, connection)
            self._loop.add_reader(connection, self._read, peer)

    def _read(self, peer: _Peer) -> None:
        try:
            data = peer.socket.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._drop(peer)
            return
        peer.received += data
        try:
            messages = self._split(peer)
        except (ValueError, msgpack.UnpackException) as error:
            log.warning("worker connection %d sent what is no message: %s", peer.number, error)
            self._drop(peer)
            return
        if messages and not peer.greeted:
            hello = messages.pop(0)
            try:
                if hello[0] != wire.Kind.HELLO:
                    raise ValueError("it did not say hello")
                _, unit, token, incarnation, held = hello
                event = ev.WorkerHello(peer.number, str(unit), int(incarnation), str(token), held)
            except (ValueError, TypeError, IndexError) as error:
                log.warning("worker connection %d: %s", peer.number, error)
                self._drop(peer)
                return
            peer.greeted = True
            if messages:
                self._loop.call_soon(self._emit, ev.WorkerSaid(peer.number, messages))
            self._emit(event)
        elif messages:
            self._emit(ev.WorkerSaid(peer.number, messages))

    def _split(self, peer: _Peer) -> list[list[Any]]:
        received, at, messages = peer.received, 0, []
        end = len(received)
        view = memoryview(received)
        try:
            while end - at >= 4:
                (length,) = _LENGTH.unpack_from(view, at)
                if length > wire.MAX_MESSAGE_BYTES:
                    raise ValueError(f"a message of {length} bytes")
                if end - at - 4 < length:
                    break
                message = msgpack.unpackb(view[at + 4 : at + 4 + length])
                if not isinstance(message, list) or not message:
                    raise ValueError("a message that is no array")
                messages.append(message)
                at += 4 + length
        finally:
            view.release()
        del received[:at]
        return messages

    def _write(self, peer: _Peer) -> None:
        try:
            sent = peer.socket.send(peer.unsent)
        except BlockingIOError:
            return
        except OSError:
            return  # its reader says that it is gone
        del peer.unsent[:sent]
        if not peer.unsent:
            self._loop.remove_writer(peer.socket)

    def _drop(self, peer: _Peer) -> None:
        if self._peers.pop(peer.number, None) is not None:
            self._forget(peer)
            if peer.greeted:
                self._emit(ev.WorkerGone(peer.number))

    def _forget(self, peer: _Peer) -> None:
        self._loop.remove_reader(peer.socket)
        if peer.unsent:
            self._loop.remove_writer(peer.socket)
        peer.socket.close()


def make_folder(path: str) -> str:
    """The folder of a suite, with what its resources go to; why not, or nothing."""
    try:
        os.makedirs(os.path.join(path, "resources"), exist_ok=True)
    except OSError as error:
        return f"cannot make {path}: {error.strerror}"
    return ""
