"""Short commands beside the units: hooks and exec probes. Each ends, or is ended, with what it started.

A command runs in a session of its own. Its end is read from a pidfd and its output from a pipe, both in the
loop; no SIGCHLD. When it ends, times out or is cancelled, what is left of its process group is killed, and at a
time-out or cancel every process that stayed in its session. The leader is reaped only after that: until then
its number cannot be given to somebody else's group or session.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal as signals
import subprocess
from asyncio import AbstractEventLoop, TimerHandle
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field

log = logging.getLogger("mgmt.shell.commands")

CHUNK_BYTES = 65_536  # read of the output in one turn of the loop; a pipe holds as much
TAIL_BYTES = 4096  # kept of the output
MAX_DETAIL_CHARS = 500
KILL_WAIT_S = (
    2.0  # a process that SIGKILL does not end by then hangs in the kernel; its caller is not kept waiting
)
SWEEPS = 50  # passes over a session that keeps forking
SWEEP_AGAIN_S = 0.01  # for those killed by one pass to be gone in the next

Done = Callable[[bool, str], None]


@dataclass(slots=True, eq=False)
class _Run:
    process: subprocess.Popen[bytes]
    pidfd: int
    pipe: int  # -1 when closed
    done: Done | None
    tail: bytearray = field(default_factory=bytearray)
    timer: TimerHandle | None = None
    verdict: str = ""  # why it was killed
    sweeps: int = 0


class Commands:
    """The running commands by key. Every call of `run` is followed by exactly one call of its `done`."""

    def __init__(self, loop: AbstractEventLoop) -> None:
        self._loop = loop
        self._by_key: dict[Hashable, _Run] = {}
        self._runs: set[_Run] = set()  # all that are not reaped
        self._to_sweep: set[_Run] = set()

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
            run = self._start(argv, env, cwd, done)
        except OSError as error:
            what = error.filename or argv[0]
            self._loop.call_soon(done, False, f"cannot start {what}: {error.strerror}")
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
            with contextlib.suppress(ProcessLookupError):
                os.killpg(run.process.pid, signals.SIGKILL)
        kill_sessions({run.process.pid for run in self._runs})
        for run in list(self._runs):
            self._loop.remove_reader(run.pidfd)
            if select.select([run.pidfd], [], [], KILL_WAIT_S)[0]:
                self._finish(run)
        self._by_key.clear()

    # ---- the start ----

    def _start(self, argv: Sequence[str], env: Mapping[str, str], cwd: str | None, done: Done) -> _Run:
        with contextlib.ExitStack() as on_error:
            ours, theirs = os.pipe()
            on_error.callback(os.close, ours)
            try:
                os.set_blocking(ours, False)
                # Popen forks with vfork: like posix_spawn it does not grow with our memory, and it tells the
                # errno of a failed exec and changes the folder, too.
                process = subprocess.Popen(
                    argv,
                    env=env,
                    cwd=cwd,
                    stdin=subprocess.DEVNULL,
                    stdout=theirs,
                    stderr=theirs,
                    start_new_session=True,
                )
            finally:
                os.close(theirs)
            try:
                pidfd = os.pidfd_open(process.pid)
            except OSError:
                os.killpg(process.pid, signals.SIGKILL)
                process.wait()
                raise
            on_error.pop_all()
        return _Run(process, pidfd, ours, done)

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
        with contextlib.suppress(ProcessLookupError):
            os.killpg(run.process.pid, signals.SIGKILL)
        run.timer = self._loop.call_later(KILL_WAIT_S, self._give_up, run)

    def _give_up(self, run: _Run) -> None:
        log.error("command %s (pid %d) does not die of SIGKILL", run.process.args, run.process.pid)
        self._tell(run, False, f"{run.verdict}, and it cannot be killed")

    # ---- its end ----

    def _on_end(self, key: Hashable, run: _Run) -> None:
        self._loop.remove_reader(run.pidfd)
        if self._by_key.get(key) is run:
            del self._by_key[key]
        # Not reaped yet: the group is still its own.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(run.process.pid, signals.SIGKILL)
        if not run.verdict:
            self._finish(run)
            return
        if not self._to_sweep:  # one look at /proc serves all that end in this turn
            self._loop.call_soon(self._sweep)
        self._to_sweep.add(run)

    def _sweep(self) -> None:
        runs, self._to_sweep = self._to_sweep & self._runs, set()
        found = kill_sessions({run.process.pid for run in runs})
        for run in runs:
            run.sweeps += 1
            if run.process.pid in found and run.sweeps < SWEEPS:
                if not self._to_sweep:
                    self._loop.call_later(SWEEP_AGAIN_S, self._sweep)
                self._to_sweep.add(run)
            else:
                self._finish(run)

    def _finish(self, run: _Run) -> None:
        if run.timer is not None:
            run.timer.cancel()
        if run.pipe >= 0:
            self._on_output(run)  # its last words; whoever else has the pipe is not waited for
        self._close_pipe(run)
        self._runs.discard(run)
        status = run.process.wait()  # it has ended: this does not block
        os.close(run.pidfd)
        if run.verdict:
            end = run.verdict
        elif status < 0:
            end = f"killed by signal {-status} ({signals.strsignal(-status)})"
        else:
            end = f"exit status {status}" if status else ""
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


def kill_sessions(sessions: set[int]) -> set[int]:
    """Kills the living processes of these sessions; the sessions in which there was one.

    The leaders must not be reaped yet. A member is pinned before it is looked at again, so that a number used
    anew is never hit.
    """
    found = set()
    for name in os.listdir("/proc") if sessions else ():
        if not name.isdigit():
            continue
        session = _session(name)
        if session not in sessions:
            continue
        try:
            pidfd = os.pidfd_open(int(name))
        except OSError:
            continue
        try:
            if _session(name) == session:
                signals.pidfd_send_signal(pidfd, signals.SIGKILL)
                found.add(session)
        except OSError:
            pass  # it ended, or has another user now: then it is not ours to kill
        finally:
            os.close(pidfd)
    return found


def _session(pid: str) -> int:
    """Field 6 of /proc/PID/stat; 0 when there is none, or it is dead."""
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            fields = file.read(1024).rpartition(b")")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] in (b"Z", b"X") else int(fields[3])
