"""A worker that stays and calls Python functions: `python -m mgmt.worker.resident --socket PATH --unit NAME ...`.

It speaks `mgmt.worker.wire`. A task's spec is {function: "module:function", params: [..], kw: {..}} and, each
optional, envs, cwd (also put on sys.path; of two with modules of the same name the first stays imported),
timeout_s, terminal_output, resources. A module is imported once. What a function raises is a result with status 1
(SystemExit: its own code), the exception as message and the traceback in the tail.

One thread calls, reads and writes, many messages at a time. A second one, the watchdog, reads and writes while a
call lasts, and ends the process for a timeout, a cancel or a stop: a function cannot be ended otherwise.
Processes and threads that a function leaves behind go on until the worker ends.
"""

from __future__ import annotations

import argparse
import fcntl
import importlib
import io
import os
import random
import reprlib
import select
import signal
import socket
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any, NoReturn

import msgpack

from mgmt.worker import wire
from mgmt.worker.folders import Folders, remove
from mgmt.worker.wire import Kind

TICK_S = 0.05  # of the watchdog: how late a timeout may be
SERVICE_NS = 1_000_000  # between quick calls the socket is looked after so often
BACKSTOP_S = 3.0  # after a timeout, when a function keeps even the watchdog from running: SIGALRM
QUIET_TICKS = 20  # then the watchdog sleeps until there is something to do
LAST_WORDS_S = 2.0  # for the connection to be there when the process must end
LEAVE_S = 2.0  # for the crew to take the last DONEs
RECEIVE_BYTES = 1 << 18
KEEP_OUTPUT_BYTES = 1 << 20  # in memory, before the watchdog cuts it to its tail
MESSAGE_CHARACTERS = 500
WATCHDOG = "mgmt-watchdog"

_RUN = int(Kind.RUN)
_DONE = int(Kind.DONE)


class Function:
    """One imported function, and whether its last call was over within SERVICE_NS."""

    __slots__ = ("call", "quick")

    def __init__(self, name: str) -> None:
        module, colon, path = name.partition(":")
        if not colon or not module or not path:
            raise ValueError(f"function {name!r} is not module:function")
        found: Any = importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
        if not callable(found):
            raise TypeError(f"{name} is of type {type(found).__name__}, not a function")
        self.call: Callable[..., Any] = found
        self.quick = False


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


class Capture:
    """Descriptors 1 and 2 of this process: in memory, or in a task's log file."""

    def __init__(self) -> None:
        self._complaints = os.dup(2)
        self._memory = os.memfd_create("output")
        self._descriptor = self._memory
        self._limit = 0
        self._lock = threading.Lock()  # which file it is: the watchdog must not cut a closed one
        fcntl.fcntl(
            self._memory, fcntl.F_SETFL, os.O_APPEND
        )  # the watchdog may cut it while a function prints
        self._attach(self._memory)
        sys.stdout, sys.stderr = (
            io.TextIOWrapper(io.FileIO(fd, "wb", closefd=False), errors="replace", write_through=True)
            for fd in (1, 2)
        )

    def _attach(self, descriptor: int) -> None:
        self._descriptor = descriptor
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)

    def to_file(self, path: str, limit_bytes: int) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(path, flags, 0o600)
        with self._lock:
            self._limit = limit_bytes
            self._attach(descriptor)

    def cut(self) -> None:
        """Called by the watchdog: neither memory nor disk fills up."""
        with self._lock:
            size = os.fstat(self._descriptor).st_size
            if self._descriptor != self._memory:
                if size > self._limit + KEEP_OUTPUT_BYTES:
                    os.ftruncate(self._descriptor, self._limit + 1)  # that one byte says: there was more
            elif size > KEEP_OUTPUT_BYTES:
                tail = self.tail()
                self.forget()
                os.write(self._memory, tail)

    def tail(self) -> bytes:
        size = os.fstat(self._descriptor).st_size
        return os.pread(self._descriptor, wire.TAIL_BYTES, max(0, size - wire.TAIL_BYTES))

    def forget(self) -> None:
        os.ftruncate(self._memory, 0)
        os.lseek(self._memory, 0, os.SEEK_SET)

    def end_file(self) -> dict[str, Any]:
        """Back to memory; what a DONE says of the log."""
        descriptor = self._descriptor
        size = os.fstat(descriptor).st_size
        said: dict[str, Any] = {"log_bytes": min(size, self._limit)}
        if size > self._limit:
            os.ftruncate(descriptor, self._limit)
            said["truncated"] = True
        with self._lock:
            self._attach(self._memory)
            os.close(descriptor)
        return said

    def complain(self, text: str) -> None:
        """To the stderr that this process was started with."""
        os.write(self._complaints, f"mgmt resident worker: {text}\n".encode(errors="replace"))

    @property
    def memory(self) -> int:
        return self._memory


class Resident:
    """The worker. `run` returns when it was stopped."""

    def __init__(self, path: str, unit: str, token: str, incarnation: int) -> None:
        self._path, self._unit, self._token, self._incarnation = path, unit, token, incarnation
        self._lock = threading.Lock()  # the connection: everything from here to _retry_s
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
        self._current: Call | None = None
        self._idle = True
        self._asleep = False  # the watchdog is, until the bell rings
        self._bell = threading.Event()
        self._functions: dict[str, Function] = {}
        self._cwd = ""
        self._upstream: str | None = None
        self._armed = False
        self._wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._capture = Capture()

    def run(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM, signal.SIGTERM, signal.SIGINT})
        signal.set_wakeup_fd(self._wake[1], warn_on_full_buffer=False)
        sys.excepthook = self._on_bug
        threading.excepthook = self._on_bug_of_a_thread
        threading.Thread(target=self._watch, name=WATCHDOG, daemon=True).start()
        queue, unsent = self._queue, self._unsent
        last_ns = 0
        while True:
            if queue and not self._paused and not self._stopping and self._has_room():
                last_ns = self._work(last_ns)
                continue
            self._idle = True
            self._disarm()
            with self._lock:
                self._service()
            if self._stopping:
                break
            if not queue or self._paused or not self._has_room():
                self._wait(None)
            self._idle = False
            if self._asleep:
                self._bell.set()
        deadline = time.monotonic() + LEAVE_S
        while (unsent or self._sent) and (left := deadline - time.monotonic()) > 0:
            self._wait(left)

    def _on_signal(self, number: int, frame: object) -> None:
        self._stopping = True

    def _on_bug(self, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        self._capture.complain("".join(traceback.format_exception(kind, error, trace)).rstrip())

    def _on_bug_of_a_thread(self, failure: threading.ExceptHookArgs) -> None:
        if failure.exc_value is None:
            return
        if failure.thread is not None and failure.thread.name == WATCHDOG:  # without it no timeout is kept
            self._on_bug(failure.exc_type, failure.exc_value, failure.exc_traceback)
            os._exit(1)
        traceback.print_exception(failure.exc_value)  # a function's own thread: its output

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
        if not self._stopping or timeout_s is not None:
            poll.poll(None if timeout_s is None else timeout_s * 1000 + 1)
        try:
            os.read(self._wake[0], 512)
        except BlockingIOError:
            pass
        with self._lock:
            self._service()

    # calls

    def _work(self, last_ns: int) -> int:
        """One task. Returns when the socket was last looked after."""
        task, attempt, packed, uuid, upstream = self._queue.popleft()
        self._queued_bytes -= len(packed)
        folders = self._folders
        assert folders is not None  # nothing runs before WELCOME
        extra: dict[str, Any] = {}
        status, message, tail = 0, "", b""
        value: object = None
        log: str | None = None
        resources: str | None = None
        environ: dict[str, str | None] = {}
        function: Function | None = None
        call: Call | None = None
        start_ns = time.time_ns()
        try:
            spec = msgpack.unpackb(packed)
            name: str = spec["function"]
            timeout_s: float = spec.get("timeout_s") or 0.0
            if timeout_s:
                signal.setitimer(signal.ITIMER_REAL, timeout_s + BACKSTOP_S)
                self._armed = True
            elif self._armed:
                self._disarm()
            if spec.get("resources"):
                resources = f"{folders.inside}/{task}.{attempt}"
            environ = self._change_environ(spec.get("envs"), uuid, upstream, resources)
        except (ValueError, TypeError, KeyError, AttributeError, OSError) as error:
            status, message = (
                126,
                f"its spec cannot be run: {type(error).__name__}: {error}"[:MESSAGE_CHARACTERS],
            )
        else:
            self._current = call = Call(task, attempt, timeout_s, start_ns)
            try:
                cwd = spec.get("cwd") or folders.exec
                if cwd != self._cwd:
                    self._enter(cwd, cwd != folders.exec)
                if spec.get("terminal_output"):
                    path = f"{folders.out}/{task}.{attempt}.log"
                    self._capture.to_file(path, self._output_limit)
                    log = path
                if resources and not os.path.isdir(resources):
                    status, message = 126, wire.RESOURCE_NOT_FOUND
                else:
                    function = self._functions.get(name)
                    if function is None:
                        function = self._functions[name] = Function(name)
                    if not function.quick and self._unsent:
                        with self._lock:
                            self._service()
                    value = function.call(*(spec.get("params") or ()), **(spec.get("kw") or {}))
            except BaseException as error:  # noqa: BLE001 - whatever a function raises is its result, not our end
                status, message, tail = self._failure(error)
        end_ns = time.time_ns()
        if call is not None and not call.claim():
            time.sleep(2 * LAST_WORDS_S)  # the watchdog has answered for it, and ends this process
        self._current = None
        if os.lseek(self._capture.memory, 0, os.SEEK_CUR):
            tail = (self._capture.tail() + tail)[-wire.TAIL_BYTES :]
            self._capture.forget()
        if log is not None:
            tail = (self._capture.tail() + tail)[-wire.TAIL_BYTES :]
            extra = {"log": log, **self._capture.end_file()}
        if environ:
            self._restore_environ(environ)
        if resources:
            remove(resources)
        if value is not None:
            self._keep_value(value, extra)
        if folders.touched():
            message = self._collect(f"{task}.{attempt}", message, extra)
        frame = wire.encode(_DONE, task, attempt, status, message, start_ns, end_ns, tail, extra)
        self._unsent.append(frame)
        self._box_bytes += len(frame)
        if function is not None:
            function.quick = end_ns - start_ns < SERVICE_NS
        if end_ns - last_ns > SERVICE_NS or not self._queue:
            with self._lock:
                self._service()
            return end_ns
        return last_ns

    def _failure(self, error: BaseException) -> tuple[int, str, bytes]:
        """(status, message, tail) of what a call has raised."""
        if isinstance(error, SystemExit):
            code = error.code
            if code is None or type(code) is int:
                return (code or 0) & 255, "", b""
        message = traceback.format_exception_only(error)[-1].strip()[:MESSAGE_CHARACTERS]
        trace = error.__traceback__
        inner = trace.tb_next if trace is not None else None  # without our own frame
        text = "".join(traceback.format_exception(type(error), error, inner))
        return 1, message.encode(errors="replace").decode(), text.encode(errors="replace")[-wire.TAIL_BYTES :]

    def _keep_value(self, value: object, extra: dict[str, Any]) -> None:
        try:
            packed = msgpack.packb(value)
        except (TypeError, ValueError, OverflowError):
            packed = None
        if packed is not None and len(packed) <= wire.VALUE_BYTES:
            extra["value"] = packed
            return
        try:
            text = reprlib.repr(value)
        except BaseException as error:  # noqa: BLE001 - the value's own code, like the call
            text = f"<{type(value).__name__}, whose repr() raised {type(error).__name__}>"
        extra["repr"] = text.encode(errors="replace").decode()[: wire.TAIL_BYTES]

    def _collect(self, name: str, message: str, extra: dict[str, Any]) -> str:
        assert self._folders is not None
        results, new_task, bad = self._folders.collect(name)
        self._cwd = ""  # it is another folder now
        if results is not None:
            extra["results"] = results
        if new_task is not None:
            extra["new_task"] = new_task
        return message or (wire.SUBMIT_NEW_TASK_FAILED if bad else "")

    def _enter(self, cwd: str, importable: bool) -> None:
        os.chdir(cwd)
        if importable and cwd not in sys.path:
            sys.path.insert(0, cwd)
            importlib.invalidate_caches()
        self._cwd = cwd

    def _change_environ(
        self, envs: dict[str, str] | None, uuid: str, upstream: str | None, resources: str | None
    ) -> dict[str, str | None]:
        """Returns what has to be put back."""
        os.environ["MITO_TASK_UUID"] = uuid
        if upstream != self._upstream:
            os.environ["MITO_UPSTREAM_TASK_UUID"] = upstream or ""
            self._upstream = upstream
        if resources:
            envs = {"MITO_RESOURCE_DIR": resources, **(envs or {})}
        if not envs:
            return {}
        before = {key: os.environ.get(key) for key in envs}
        before.pop("MITO_TASK_UUID", None)
        os.environ.update(envs)
        return before

    def _restore_environ(self, before: dict[str, str | None]) -> None:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

    def _disarm(self) -> None:
        if self._armed:
            signal.setitimer(signal.ITIMER_REAL, 0)
            self._armed = False

    # the watchdog

    def _watch(self) -> None:
        seen: Call | None = None
        since, told, quiet = 0.0, False, 0
        while True:
            quiet = quiet + 1 if self._idle else 0
            if quiet > QUIET_TICKS:
                self._asleep = True
                if self._idle:
                    self._bell.wait()
                self._asleep, quiet = False, 0
                self._bell.clear()
            time.sleep(TICK_S)
            current, now = self._current, time.monotonic()
            if current is None or current is not seen:
                seen, since, told = current, now, False
                continue
            with self._lock:
                self._service()
                if not told and now - since > wire.STATE_AFTER_S and self._welcomed:
                    told = True
                    self._write(wire.encode(Kind.STATE, current.task, current.attempt, wire.EXEC_SPAWNED))
                if current.timeout_s and now - since + TICK_S >= current.timeout_s:
                    self._end_current(current, wire.EXEC_TIMEOUT)
            self._capture.cut()

    def _end_current(self, call: Call, message: str) -> None:
        """DONE for a call that does not end, and the end of this process. With the lock."""
        if not call.claim():
            return  # it has ended by itself just now
        now_ns = time.time_ns()
        tail = self._capture.tail()
        status = -int(signal.SIGKILL)
        frame = wire.encode(_DONE, call.task, call.attempt, status, message, call.start_ns, now_ns, tail, {})
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

    # the connection: call these with the lock

    def _service(self) -> None:
        """Connects, reads and writes, as far as that goes without waiting."""
        if self._socket is None:
            self._connect()
        if self._socket is not None:
            self._receive()
        if self._welcomed:
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
                frame = wire.encode(_DONE, task, attempt, status, wire.USER_CANCELLATION, 0, 0, b"", {})
                self._unsent.append(frame)
                self._box_bytes += len(frame)
                return

    def _leave(self, status: int, text: str) -> NoReturn:
        self._capture.complain(text)
        os._exit(status)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m mgmt.worker.resident", allow_abbrev=False)
    parser.add_argument("--socket", required=True, metavar="PATH")
    parser.add_argument("--unit", required=True, metavar="NAME")
    parser.add_argument("--incarnation", required=True, type=int, metavar="N")
    parser.add_argument("--token", default=os.environ.get("MGMT_WORKER_TOKEN", ""))
    parser.add_argument("--managed", action="store_true", help="accepted for the sake of old scripts, as are")
    parser.add_argument("--manager-uuid", metavar="UUID")
    parser.add_argument("--worker-id", type=int, choices=range(256), metavar="0..255")
    given = parser.parse_args()
    Resident(given.socket, given.unit, given.token, given.incarnation).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
