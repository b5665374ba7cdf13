"""A resident worker's end of the wire: what waits, what has ended, and the connection to the crew."""

from __future__ import annotations

import os
import random
import select
import signal
import socket
import sys
import threading
import time
from collections import deque
from typing import Any, NoReturn

import msgpack

from mgmt.worker import wire
from mgmt.worker.capture import Capture
from mgmt.worker.folders import Folders, remove
from mgmt.worker.wire import Kind

LAST_WORDS_S = 2.0  # for the connection to be there when the process must end
RECEIVE_BYTES = 1 << 18

_RUN = int(Kind.RUN)


class Call:
    """One call: who has taken its claim may answer for it, the calling thread or the watchdog."""

    __slots__ = ("_claim", "attempt", "start_ns", "task", "timeout_s")

    def __init__(self, task: int, attempt: int, timeout_s: float, start_ns: int) -> None:
        self.task, self.attempt, self.timeout_s, self.start_ns = task, attempt, timeout_s, start_ns
        self._claim = [True]

    def claim(self) -> bool:
        try:
            return self._claim.pop()  # atomic
        except IndexError:
            return False


class Line:
    """The calling thread and the watchdog share it, each step under its lock."""

    def __init__(self, path: str, unit: str, token: str, incarnation: int) -> None:
        self._path, self._unit, self._token, self._incarnation = path, unit, token, incarnation
        self._lock = threading.Lock()  # everything from here to _retry_s
        self._socket: socket.socket | None = None
        self._welcomed = False
        self._rest = b""
        self._unsent: deque[bytes] = deque()  # DONEs, whole messages
        self._sent: deque[bytes] = deque()  # not taken yet
        self._part = b""  # what the socket has not taken of what is in _sent
        self._box_bytes = 0
        self._taken = 0
        self._retry_at = 0.0
        self._retry_s = wire.RECONNECT_FIRST_S
        self._queue: deque[tuple[int, int, bytes, str, str | None]] = deque()
        self._queued_bytes = 0
        self._paused = False
        self._stopping = False
        self._folders: Folders | None = None
        self._output_limit = 0
        self._upstream: str | None = None
        self._current: Call | None = None
        self._wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._capture = Capture()

    def _has_room(self) -> bool:
        return (
            len(self._sent) + len(self._unsent) < wire.MAX_UNTAKEN
            and self._box_bytes < wire.MAX_UNTAKEN_BYTES
        )

    def _wait(self, timeout_s: float | None) -> None:
        """Until the crew says something, a signal arrives, or it is time to connect again."""
        poll = select.poll()
        poll.register(self._wake[0], select.POLLIN)
        if self._socket is not None:
            poll.register(self._socket, select.POLLIN | (select.POLLOUT if self._part else 0))
        else:
            left = max(0.0, self._retry_at - time.monotonic())
            timeout_s = left if timeout_s is None else min(left, timeout_s)
        ready: list[tuple[int, int]] = []
        if not self._stopping or timeout_s is not None:
            ready = poll.poll(None if timeout_s is None else timeout_s * 1000 + 1)
        if any(descriptor == self._wake[0] for descriptor, _ in ready):
            os.read(self._wake[0], 512)
        with self._lock:
            self._service()

    def _end_current(self, call: Call, message: str) -> None:
        """DONE for a call that does not end, and the end of this process. With the lock."""
        if not call.claim():
            return  # it has ended by itself just now
        now_ns = time.time_ns()
        tail = self._capture.tail()
        status = -int(signal.SIGKILL)
        frame = wire.encode(
            Kind.DONE, call.task, call.attempt, status, message, call.start_ns, now_ns, tail, {}
        )
        self._unsent.append(frame)
        deadline = time.monotonic() + LAST_WORDS_S
        while (self._unsent or self._part) and time.monotonic() < deadline:
            if self._socket is None:
                self._connect()
            elif not self._welcomed:
                self._receive()
            else:
                self._flush()
            if self._unsent or self._part:
                time.sleep(wire.RECONNECT_FIRST_S)
        os._exit(wire.EXIT_TIMED_OUT)

    # call these with the lock

    def _service(self) -> None:
        """Connects, reads and writes, as far as that goes without waiting."""
        if self._socket is None:
            self._connect()
        if self._welcomed:
            self._flush()
        if self._socket is not None:
            self._receive()
        if self._welcomed and self._unsent:
            self._flush()

    def _connect(self) -> None:
        now = time.monotonic()
        if now < self._retry_at:
            return
        self._retry_at = now + self._retry_s * random.uniform(0.75, 1.0)
        self._retry_s = min(2 * self._retry_s, wire.RECONNECT_MAX_S)
        peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        folder, name = os.path.split(self._path)
        try:  # by way of the folder: a path may be longer than a socket address
            at = os.open(folder or ".", os.O_PATH | os.O_DIRECTORY)
        except OSError:
            peer.close()
            return
        try:
            peer.setblocking(False)
            peer.connect(f"/proc/self/fd/{at}/{name}")
        except OSError:
            peer.close()
            return
        finally:
            os.close(at)
        held = [msgpack.unpackb(frame[4:])[1:3] for frame in (*self._sent, *self._unsent)]
        if (current := self._current) is not None:
            held.append([current.task, current.attempt])
        held += [list(waiting[:2]) for waiting in self._queue]
        self._socket, self._welcomed, self._rest = peer, False, b""
        self._part = wire.encode(Kind.HELLO, self._unit, self._token, self._incarnation, held)
        self._write(b"")

    def _disconnect(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket, self._welcomed, self._part = None, False, b""
        self._unsent.extendleft(reversed(self._sent))  # all of them again
        self._sent.clear()

    def _write(self, data: bytes) -> None:
        data = self._part + data
        self._part = b""
        while data and self._socket is not None:
            try:
                data = data[self._socket.send(data) :]
            except BlockingIOError:
                self._part = data
                return
            except OSError:
                self._disconnect()

    def _flush(self) -> None:
        frames: list[bytes] = []
        while self._unsent:  # the calling thread may append meanwhile
            frames.append(self._unsent.popleft())
        self._sent.extend(frames)
        if frames or self._part:
            self._write(b"".join(frames))

    def _receive(self) -> None:
        assert self._socket is not None
        while True:
            try:
                data = self._socket.recv(RECEIVE_BYTES)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._disconnect()
                return
            try:
                self._take(self._rest + data if self._rest else data)
            except wire.WireError as error:
                self._leave(wire.EXIT_MALFORMED, f"the crew breaks the rules: {error}")
            if len(data) < RECEIVE_BYTES or self._socket is None:
                return

    def _take(self, data: bytes) -> None:
        """Messages from the beginning of `data`; the rest is kept."""
        at, size = 0, len(data)
        queue, unpack, length = self._queue, wire.unpack, int.from_bytes
        while size - at >= 4:
            n = length(data[at : at + 4], "little")
            if n > wire.MAX_MESSAGE_BYTES:
                raise wire.WireError(f"a message of {n} bytes, the limit is {wire.MAX_MESSAGE_BYTES}")
            end = at + 4 + n
            if end > size:
                break
            message = unpack(data[at + 4 : end])
            at = end
            if message[0] == _RUN and self._welcomed:
                wire.check_from_crew(message)
                queue.append((message[1], message[2], message[3], message[4], message[5]))
                self._queued_bytes += len(message[3])
                if len(queue) > wire.MAX_QUEUED or self._queued_bytes > wire.MAX_QUEUED_BYTES:
                    raise wire.WireError("more tasks wait here than a worker takes")
            else:
                self._on_message(wire.check_from_crew(message))
        self._rest = data[at:]

    def _on_message(self, message: list[Any]) -> None:
        kind = message[0]
        if kind == Kind.REFUSED:
            text = f"the crew at {self._path} refuses this worker (unit {self._unit}): {message[1]}"
            self._leave(wire.EXIT_MALFORMED, text)
        if (kind == Kind.WELCOME) == self._welcomed:
            raise wire.WireError("WELCOME comes first, and once")
        if kind == Kind.WELCOME:
            self._on_welcome(message[1])
        elif kind == Kind.CANCEL:
            self._on_cancel(message[1], message[2])
        elif kind in (Kind.PAUSE, Kind.RESUME):
            self._paused = kind == Kind.PAUSE
        elif kind == Kind.STOP:
            self._stopping = True
            if not message[1] and self._current is not None:  # the watchdog reads this
                self._flush()
                os._exit(0)
        elif kind == Kind.TAKEN:
            count = message[1] - self._taken
            if not 0 <= count <= len(self._sent):
                raise wire.WireError("TAKEN counts more DONEs than were sent, or fewer than before")
            self._taken = message[1]
            for _ in range(count):
                self._box_bytes -= len(self._sent.popleft())

    def _on_welcome(self, rules: dict[str, Any]) -> None:
        if self._folders is None:
            try:
                self._folders = Folders(rules["folder"])
            except OSError as error:
                self._leave(1, f"cannot use the folder {rules['folder']}: {error}; is its parent there?")
        folders = self._folders
        if folders.top != rules["folder"]:
            raise wire.WireError("WELCOME names another folder than before")
        os.environ.clear()
        os.environ.update(rules["env"])
        os.environ["MITO_RESULT_DIR"] = folders.result
        os.environ["MITO_EXEC_DIR"] = folders.exec
        os.environ["MITO_RESOURCE_DIR"] = folders.resource
        os.environ["MITO_NEW_TASK"] = folders.new_task
        os.environ["MITO_UPSTREAM_TASK_UUID"] = ""
        self._upstream = None
        for entry in reversed(rules["env"].get("PYTHONPATH", "").split(os.pathsep)):
            if entry and entry not in sys.path:
                sys.path.insert(0, entry)
        self._output_limit = rules["output_limit_bytes"]
        self._paused = False
        self._welcomed = True
        self._retry_s = wire.RECONNECT_FIRST_S
        self._taken = 0

    def _on_cancel(self, task: int, attempt: int) -> None:
        current = self._current
        if current is not None and (current.task, current.attempt) == (task, attempt):
            self._end_current(current, wire.USER_CANCELLATION)
            return
        for waiting in self._queue:
            if waiting[:2] == (task, attempt):
                self._queue.remove(waiting)
                self._queued_bytes -= len(waiting[2])
                if self._folders is not None:
                    remove(f"{self._folders.inside}/{task}.{attempt}")
                status = -int(signal.SIGTERM)
                frame = wire.encode(Kind.DONE, task, attempt, status, wire.USER_CANCELLATION, 0, 0, b"", {})
                self._unsent.append(frame)
                self._box_bytes += len(frame)
                return

    def _leave(self, status: int, text: str) -> NoReturn:
        self._capture.complain(text)
        os._exit(status)
