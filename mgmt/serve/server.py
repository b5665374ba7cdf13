"""A backend's requests: the ROUTER that clients and relay connect to, the bounded queue, the workers, the end."""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import zmq

from mgmt.protocol import defaults, frames
from mgmt.protocol.errors import MgmtError
from mgmt.protocol.frames import DataKind
from mgmt.serve.link import Link, Place, Wake

Handler: TypeAlias = Callable[[list[bytes]], Sequence[bytes]]

OUTCOMES = {
    "busy": DataKind.BUSY,
    "expired": DataKind.EXPIRED,
    "lease-gone": DataKind.GONE,
    "session-gone": DataKind.GONE,
}


class _Work(NamedTuple):
    route: bytes  # ROUTER identity of who asked
    tag: bytes
    payload: list[bytes]
    deadline_s: float  # monotonic


class Server:
    """The ROUTER, the queue, and the end."""

    def __init__(
        self, place: Place, handler: Handler, protocols: Sequence[str], concurrency: int, max_queue: int
    ) -> None:
        self._handler = handler
        self._max_queue = max_queue
        self._concurrency = concurrency
        self._wake = Wake()
        self._context: zmq.Context[Any] = zmq.Context()
        self._router: zmq.Socket[bytes] = self._context.socket(zmq.ROUTER)
        self._link = Link(self._context, place, protocols)
        self._work: queue.SimpleQueue[_Work] = queue.SimpleQueue()
        self._finished: deque[tuple[bytes, list[bytes]]] = deque()  # filled by the workers
        self._stopping = False
        self._poller = zmq.Poller()
        self._bind(place.serve)

    def run(self, setup: Callable[[], None] | None) -> int:
        former = self._take_signals(self._end_setup)
        try:
            self._link.start(ready=setup is None)
            if setup is not None:
                setup()
            self._take_signals(self._end)
            for number in range(self._concurrency):
                threading.Thread(target=self._labour, name=f"worker-{number}", daemon=True).start()
            self._link.ready()
            self._serve()
        finally:
            for number, action in former.items():
                signal.signal(number, action)
            signal.set_wakeup_fd(-1)
            self._link.stop()
            self._router.close(defaults.BACKEND_LINGER_MS)
            if _inode(self._path) == self._path_inode:
                os.unlink(self._path)  # libzmq leaves it, and a dead socket file looks like a live one
            self._context.term()
        return self._status()

    def _status(self) -> int:
        if self._link.refusal:
            print(f"the daemon refuses this backend: {self._link.refusal}", file=sys.stderr, flush=True)
        return 1 if self._link.refusal else 0

    def _bind(self, endpoint: str) -> None:
        router = self._router
        for option, value in (
            (zmq.ROUTER_HANDOVER, 1),
            (zmq.ROUTER_MANDATORY, 1),  # an answer to nobody is an error, not a silence
            (zmq.SNDTIMEO, 0),
            (zmq.SNDHWM, defaults.BACKEND_QUEUE_MESSAGES),
            (zmq.RCVHWM, defaults.BACKEND_QUEUE_MESSAGES),
            (zmq.MAXMSGSIZE, defaults.MAX_RELAY_FRAME_BYTES),
            (zmq.HANDSHAKE_IVL, defaults.ZMQ_HANDSHAKE_TIMEOUT_MS),
        ):
            router.setsockopt(option, value)
        router.copy_threshold = defaults.ZERO_COPY_BYTES
        router.bind(endpoint)
        self._path = endpoint.removeprefix("ipc://")
        self._path_inode = _inode(self._path) or -1
        self._poller.register(router, zmq.POLLIN)
        self._poller.register(self._wake.fileno(), zmq.POLLIN)

    # ---- signals ----

    def _take_signals(self, action: Callable[[int, Any], None]) -> dict[int, Any]:
        signal.set_wakeup_fd(self._wake.writer, warn_on_full_buffer=False)
        return {number: signal.signal(number, action) for number in (signal.SIGTERM, signal.SIGINT)}

    def _end_setup(self, number: int, frame: Any) -> None:
        raise SystemExit(self._status())  # nothing was accepted yet, so there is nothing to drain

    def _end(self, number: int, frame: Any) -> None:
        self._stopping = True

    # ---- requests ----

    def _serve(self) -> None:
        while True:
            self._poller.poll()
            self._wake.clear()
            self._send_finished()
            more = self._receive()
            if self._link.refusal or (self._stopping and not more and not self._link.queued):
                break
        self._send_finished()

    def _receive(self) -> bool:
        """Take what has arrived, up to a cap; True when there may be more."""
        for _ in range(defaults.BACKEND_DRAIN_CAP):
            try:
                route, *message = self._router.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return False
            self._accept(route, message)
        return True

    def _accept(self, route: bytes, message: list[bytes]) -> None:
        try:
            tag = frames.decode_tag(message[0] if message else b"")
            if tag.kind != DataKind.REQUEST:
                raise MgmtError("bad-frame", f"a backend takes requests, not data kind {tag.kind}")
        except MgmtError as error:
            # The one answer must find its request, if that can be read at all.
            whole = bool(message) and len(message[0]) == frames.TAG_BYTES
            lease, id = frames.TAG.unpack(message[0])[3:] if whole else (0, 0)
            self._send(
                route, [frames.encode_tag(DataKind.ERROR, lease, id), frames.pack_body(error.as_body())]
            )
            return
        if self._stopping or self._link.draining:
            self._send(route, _refusal(message[0], MgmtError("lease-gone", "the backend is being stopped")))
        elif self._link.queued >= self._max_queue:
            text = f"{self._link.queued} requests wait in the backend, which is the limit; try again later"
            self._send(route, _refusal(message[0], MgmtError("busy", text)))
        else:
            deadline_s = time.monotonic() + tag.deadline_ms / 1000 if tag.deadline_ms else float("inf")
            work = _Work(route, message[0], message[1:], deadline_s)
            if self._concurrency:
                self._link.queued += 1
                self._work.put(work)
            else:
                self._send(route, self._answer(work))

    def _labour(self) -> None:
        """A worker's life; it ends with the process."""
        while True:
            work = self._work.get()
            self._finished.append((work.route, self._answer(work)))
            self._wake.set()

    def _answer(self, work: _Work) -> list[bytes]:
        if time.monotonic() > work.deadline_s:
            return _refusal(work.tag, MgmtError("expired", "the deadline passed while the request waited"))
        try:
            result = [frames.answer_tag(work.tag, DataKind.RESULT), *self._handler(work.payload)]
            largest = max(map(len, result))
            if largest > defaults.MAX_RELAY_FRAME_BYTES:
                text = f"the answer has a frame of {largest} bytes, the limit is {defaults.MAX_RELAY_FRAME_BYTES}"
                raise MgmtError("too-large", text)
            for frame in result:
                memoryview(frame)  # TypeError for what cannot be sent
        except MgmtError as error:
            return _refusal(work.tag, error)
        except BaseException as error:  # noqa: BLE001 - whatever the model raises is an answer, not our end
            import traceback

            traceback.print_exception(error)
            sys.stderr.flush()
            name = type(error).__name__
            return _refusal(work.tag, MgmtError("backend-error", f"{name}: {error}", type=name))
        return result

    def _send_finished(self) -> None:
        while self._finished:
            route, message = self._finished.popleft()
            self._link.queued -= 1
            self._send(route, message)

    def _send(self, route: bytes, message: list[bytes]) -> None:
        small = all(len(frame) < defaults.ZERO_COPY_BYTES for frame in message)
        try:
            self._router.send_multipart([route, *message], zmq.NOBLOCK, copy=small)
        except zmq.Again:
            # Thousands of answers lie unread there; the asker's own deadline answers it.
            print("an answer was dropped: its client does not read", file=sys.stderr, flush=True)
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise


def _inode(path: str) -> int:
    """0 when there is no such file, as for endpoints that are not ipc."""
    try:
        return os.stat(path).st_ino
    except OSError:
        return 0


def _refusal(tag: bytes, error: MgmtError) -> list[bytes]:
    kind = OUTCOMES.get(error.code, DataKind.ERROR)
    return [frames.answer_tag(tag, kind), frames.pack_body(error.as_body())]
