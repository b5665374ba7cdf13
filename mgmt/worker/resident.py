"""A worker that stays and calls Python functions: `python -m mgmt.worker.resident --socket PATH --unit NAME ...`.

It speaks `mgmt.worker.wire`. A task's spec is {function: "module:function", params: [..], kw: {..}} and, each
optional, envs, cwd (also put on sys.path; of two with modules of the same name the first stays imported),
timeout_s, terminal_output, exec_log, resources. A module is imported once. What a function raises is a result with
status 1 (SystemExit: its own code), the exception as message and the traceback in the tail.

One thread calls, reads and writes, many messages at a time. A second one, the watchdog, reads and writes while a
call lasts, and ends the process for a timeout, a cancel or a stop: a function cannot be ended otherwise.
Processes and threads that a function leaves behind go on until the worker ends.
"""

from __future__ import annotations

import argparse
import importlib
import os
import reprlib
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Any

import msgpack

from mgmt.worker import wire
from mgmt.worker.folders import remove
from mgmt.worker.line import LAST_WORDS_S, Call, Line
from mgmt.worker.wire import Kind

TICK_S = 0.05  # of the watchdog: how late a timeout may be
SERVICE_NS = 1_000_000  # between quick calls the socket is looked after so often
BACKSTOP_S = 3.0  # after a timeout, when a function keeps even the watchdog from running: SIGALRM
QUIET_TICKS = 20  # then the watchdog sleeps until there is something to do
LEAVE_S = 2.0  # for the crew to take the last DONEs
MESSAGE_CHARACTERS = 500
WATCHDOG = "mgmt-watchdog"

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


class Resident(Line):
    """The worker. `run` returns when it was stopped."""

    def __init__(self, path: str, unit: str, token: str, incarnation: int) -> None:
        super().__init__(path, unit, token, incarnation)
        self._idle = True
        self._asleep = False  # the watchdog is, until the bell rings
        self._bell = threading.Event()
        self._functions: dict[str, Function] = {}
        self._cwd = ""
        self._armed = False

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
        exec_log = False
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
            exec_log = bool(spec.get("exec_log"))
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
            message = self._collect(f"{task}.{attempt}", exec_log, message, extra)
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

    def _collect(self, name: str, exec_log: bool, message: str, extra: dict[str, Any]) -> str:
        assert self._folders is not None
        results, left, new_task, bad = self._folders.collect(name, exec_log)
        self._cwd = ""  # it is another folder now
        if results is not None:
            extra["results"] = results
        if left is not None:
            extra["exec_log"] = left
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


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m mgmt.worker.resident", allow_abbrev=False)
    # The supervisor of units tells each of them who it is; a token has no place among arguments.
    told = os.environ
    parser.add_argument("--socket", default=told.get("MGMT_WORKER_SOCKET"), metavar="PATH")
    parser.add_argument("--unit", default=told.get("MGMT_UNIT"), metavar="NAME")
    parser.add_argument("--incarnation", default=told.get("MGMT_INCARNATION"), type=int, metavar="N")
    parser.add_argument("--token", default=told.get("MGMT_TOKEN", ""))
    parser.add_argument("--managed", action="store_true", help="accepted for the sake of old scripts, as are")
    parser.add_argument("--manager-uuid", metavar="UUID")
    parser.add_argument("--worker-id", type=int, choices=range(256), metavar="0..255")
    given = parser.parse_args()
    if given.socket is None or given.unit is None or given.incarnation is None:
        parser.error("--socket, --unit and --incarnation are needed: a node starts its workers itself")
    Resident(given.socket, given.unit, given.token, given.incarnation).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
