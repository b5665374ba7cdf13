"""Short commands beside the units: hooks and exec probes. Each ends, or is ended, with what it started.

A command is the child of a shim of its own (shim/command.c), which is told to end it by the end of a socket:
when that is shut down here, and just as well when this daemon is killed. The shim goes when the kernel says that
nothing is left of the command, wherever that went; its last word is how the command ended.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import select
import signal as signals
import socket
import time
from asyncio import AbstractEventLoop, TimerHandle
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mgmt.shell.identity import parse_fields
from mgmt.shell.spawning import SHIM

log = logging.getLogger("mgmt.shell.commands")

LOCK_NAME = "commands"  # in the state folder
CHUNK_BYTES = 65_536  # read of the output in one turn of the loop; a pipe holds as much
TAIL_BYTES = 4096  # kept of the output
LAST_WORD_BYTES = 256
MAX_DETAIL_CHARS = 500
KILL_WAIT_S = 5.0  # what SIGKILL has not ended by then hangs in the kernel; its caller is not kept waiting
LOCK_LOOK_S = 0.005
FREE_FD = 10  # and above: not one of those that a shim gets

Done = Callable[[bool, str], None]


@dataclass(slots=True, eq=False)
class _Run:
    program: str
    cwd: str
    pid: int  # of its shim
    pidfd: int
    lifeline: socket.socket
    pipe: int  # -1 when closed
    done: Done | None
    tail: bytearray = field(default_factory=bytearray)
    timer: TimerHandle | None = None
    verdict: str = ""  # why it was killed


class Commands:
    """The running commands by key. Every call of `run` is followed by exactly one call of its `done`."""

    def __init__(self, loop: AbstractEventLoop, folder: Path) -> None:
        """`folder`: where the lock is that the shims of all commands hold, of former daemons too."""
        self._loop = loop
        self._by_key: dict[Hashable, _Run] = {}
        self._runs: set[_Run] = set()  # all that are not reaped
        fd = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._lock = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, FREE_FD)
        os.close(fd)
        self._null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)

    def await_former(self) -> None:
        """Blocks until nothing is left of the commands of former daemons, whose end has ended them."""
        deadline_s = time.monotonic() + KILL_WAIT_S
        while True:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > deadline_s:
                    log.error("a hook or probe of the former daemon does not die of SIGKILL")
                    return
            time.sleep(LOCK_LOOK_S)

    def run(
        self,
        key: Hashable,
        argv: Sequence[str],
        env: Mapping[str, str],
        cwd: str | None,
        timeout_s: float,
        done: Done,
    ) -> None:
        """Starts `argv` with exactly `env`; `done(ok, detail)` follows from the loop, never before this returns.

        `ok`: it exited with 0. `detail`: how it ended, if badly, and its last line of output. A command cannot
        leave processes behind. ValueError when one of this key is running.
        """
        if key in self._by_key:
            raise ValueError(f"a command for {key!r} is running")
        try:
            run = self._start(argv, env, cwd or "", done)
        except OSError as error:
            self._loop.call_soon(done, False, f"cannot start {argv[0]}: {error.strerror}")
            return
        except ValueError as error:  # a NUL byte
            self._loop.call_soon(done, False, f"cannot start {argv[0]}: {error}")
            return
        self._by_key[key] = run
        self._runs.add(run)
        self._loop.add_reader(run.pipe, self._on_output, run)
        self._loop.add_reader(run.pidfd, self._on_end, key, run)
        run.timer = self._loop.call_later(
            timeout_s, self._kill, key, run, f"not finished after {timeout_s:g} s"
        )

    def cancel(self, key: Hashable) -> None:
        """Ends a command, if it runs; its `done` comes when it is dead, and the key is free at once."""
        run = self._by_key.get(key)
        if run is not None:
            self._kill(key, run, "cancelled")

    def close(self) -> None:
        """Kills what runs and reaps it; no `done` is called any more."""
        for run in self._runs:
            run.done = None
            if run.timer is not None:
                run.timer.cancel()
            _end(run)
        deadline_s = time.monotonic() + KILL_WAIT_S
        for run in list(self._runs):
            self._loop.remove_reader(run.pidfd)
            ended = select.poll()  # not select(2), which knows the first 1024 descriptors only
            ended.register(run.pidfd, select.POLLIN)
            if ended.poll(max(0.0, deadline_s - time.monotonic()) * 1000):
                self._finish(run)
        self._by_key.clear()
        os.close(self._lock)
        os.close(self._null)

    # ---- the start ----

    def _start(self, argv: Sequence[str], env: Mapping[str, str], cwd: str, done: Done) -> _Run:
        with contextlib.ExitStack() as on_error:
            output, their_output = os.pipe()
            on_error.callback(os.close, output)
            with open(their_output, "wb", buffering=0):
                os.set_blocking(output, False)
                lifeline, theirs = socket.socketpair()
                on_error.callback(lifeline.close)
                with theirs:
                    lifeline.setblocking(False)
                    # Not fork: its cost grows with our memory.
                    pid = os.posix_spawn(
                        SHIM,
                        [str(SHIM), "--command", cwd, *argv],
                        env,
                        file_actions=[
                            (os.POSIX_SPAWN_DUP2, self._null, 0),
                            (os.POSIX_SPAWN_DUP2, their_output, 1),
                            (os.POSIX_SPAWN_DUP2, their_output, 2),
                            (os.POSIX_SPAWN_DUP2, theirs.fileno(), 3),
                            (os.POSIX_SPAWN_DUP2, self._lock, 4),
                        ],
                    )
            pidfd = os.pidfd_open(pid)
            on_error.pop_all()
        return _Run(argv[0], cwd, pid, pidfd, lifeline, output, done)

    # ---- while it runs ----

    def _on_output(self, run: _Run) -> None:
        try:
            data = os.read(run.pipe, CHUNK_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            run.tail += data
            del run.tail[:-TAIL_BYTES]
        else:
            self._close_pipe(run)

    def _kill(self, key: Hashable, run: _Run, verdict: str) -> None:
        run.verdict = verdict
        if self._by_key.get(key) is run:
            del self._by_key[key]
        if run.timer is not None:
            run.timer.cancel()
        _end(run)
        run.timer = self._loop.call_later(KILL_WAIT_S, self._give_up, run)

    def _give_up(self, run: _Run) -> None:
        log.error("command %s (its shim is %d) does not die of SIGKILL", run.program, run.pid)
        self._tell(run, False, f"{run.verdict}, and it cannot be killed")

    # ---- its end ----

    def _on_end(self, key: Hashable, run: _Run) -> None:
        self._loop.remove_reader(run.pidfd)
        if self._by_key.get(key) is run:
            del self._by_key[key]
        self._finish(run)

    def _finish(self, run: _Run) -> None:
        if run.timer is not None:
            run.timer.cancel()
        if run.pipe >= 0:
            self._on_output(run)  # its last words; whoever else has the pipe is not waited for
        self._close_pipe(run)
        self._runs.discard(run)
        os.waitid(os.P_PIDFD, run.pidfd, os.WEXITED)  # it has ended: this does not block
        os.close(run.pidfd)
        try:
            said = run.lifeline.recv(LAST_WORD_BYTES).decode()
        except OSError:
            said = ""
        run.lifeline.close()
        end = run.verdict or _how(run, parse_fields(said))
        lines = run.tail.decode("utf-8", "replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        detail = ": ".join(part for part in (end, last) if part)
        self._tell(run, not end, detail[:MAX_DETAIL_CHARS])

    def _tell(self, run: _Run, ok: bool, detail: str) -> None:
        done, run.done = run.done, None
        if done is not None:
            done(ok, detail)

    def _close_pipe(self, run: _Run) -> None:
        if run.pipe >= 0:
            self._loop.remove_reader(run.pipe)
            os.close(run.pipe)
            run.pipe = -1


def _end(run: _Run) -> None:
    with contextlib.suppress(OSError):  # its shim is gone: it has ended
        run.lifeline.shutdown(socket.SHUT_WR)


def _how(run: _Run, said: Mapping[str, str]) -> str:
    """How a command ended; empty when it ended well."""
    if "errno" in said:
        what = run.cwd if said["stage"] == "cwd" else run.program
        return f"cannot start {what}: {os.strerror(int(said['errno']))}"
    if "signal" in said:
        number = int(said["signal"])
        return f"killed by signal {number} ({signals.strsignal(number)})"
    if "code" not in said:
        return "ended in an unknown way: its shim was killed"
    return "" if said["code"] == "0" else f"exit status {said['code']}"
