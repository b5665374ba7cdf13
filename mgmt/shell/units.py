"""Units as processes: hearing what their shims say, adopting those of a former daemon, letting go of the ended.

The shim (shim.c) is the parent of each unit's process. It sets the process up before exec, owns its output
and its descendants, and talks to us over a SOCK_SEQPACKET socket in packets of `word key=value ...`.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import select
import shutil
import signal as signals
import socket
import time
from asyncio import AbstractEventLoop, TimerHandle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from mgmt.core import effect as fx
from mgmt.core import event as ev
from mgmt.protocol.errors import MgmtError
from mgmt.shell.hierarchies import kill_group
from mgmt.shell.identity import Folder, read_folder
from mgmt.shell.spawning import Spawner, needs_script, read_groups

log = logging.getLogger("mgmt.shell.units")

MAX_PACKET_BYTES = 4096
TAIL_BYTES = 4096
TAIL_LINES = 10
GROUP_RETRY_S = 0.05  # an emptied control group may be busy for a moment
GROUP_RETRIES = 20
UNKNOWN_END_S = 2.0  # SIGKILL takes some milliseconds
REMOVED_WITHIN_S = 2.0  # what is left of the last units when the daemon leaves; it takes some milliseconds
REMOVE_AFTER_S = 0.05
TAIL_WAIT_S = 1.0  # for the last lines of a log on a disk that hangs; then the end is told without them

Key = tuple[str, int]  # unit, incarnation


@dataclass(slots=True)
class _Process:
    """A shim: a pidfd and our end of its control socket. `adopted`: a former daemon started it."""

    shim_pid: int
    pidfd: int
    control: socket.socket
    adopted: bool = False
    forgotten: bool = False  # what its folder tells is in the store
    told_end: bool = False
    told_empty: bool = False


@dataclass(slots=True)
class _End:
    """The end of a unit that is not told yet; `emptied`: nor that nothing is left of it."""

    code: int | None
    signal: int | None
    left: int
    timer: TimerHandle
    emptied: bool = False


class Units:
    """The processes behind the units; `submit` runs a function in a worker thread, `emit` takes the events."""

    def __init__(
        self,
        loop: AbstractEventLoop,
        spawner: Spawner,
        submit: Callable[[Callable[[], None]], None],
        emit: Callable[[ev.Event], None],
    ) -> None:
        self._loop = loop
        self._spawner = spawner
        self._submit = submit
        self._emit = emit
        self._searching: dict[
            Key, list[str]
        ] = {}  # a script for it is looked for: what to tell its shim then
        self._unread: dict[Key, _End] = {}  # ended, and the last lines of the log are being read
        self._processes: dict[Key, _Process] = {}
        self._leaving: dict[Path, TimerHandle] = {}  # folders of ended processes

    # ---- effects ----

    def prepare(self, effect: fx.Spawn) -> None:
        """Start a shim, which waits: its own start takes longer than writing down that there is one."""
        key = (effect.unit, effect.incarnation)
        folder = self._spawner.folder_of(*key)
        if folder in self._leaving:
            self._remove_now(folder)
        if not needs_script(effect.backend):
            self._start(effect, None)
            return

        def search() -> None:
            found: Path | MgmtError | OSError | None
            try:
                found = self._spawner.find_script(effect.backend)
            except (MgmtError, OSError) as error:
                found = error
            self._loop.call_soon_threadsafe(self._on_found, effect, found)

        self._searching[key] = []
        self._submit(search)

    def _on_found(self, effect: fx.Spawn, found: Path | MgmtError | OSError | None) -> None:
        key = (effect.unit, effect.incarnation)
        commands = self._searching.pop(key)
        self._start(effect, found)
        for command in commands:
            self._send(key, command)

    def _start(self, effect: fx.Spawn, script: Path | MgmtError | OSError | None) -> None:
        key = (effect.unit, effect.incarnation)
        try:
            if isinstance(script, Exception):
                raise script
            spawned = self._spawner.spawn(effect, script)
        except MgmtError as error:
            self._later(ev.SpawnFailed(*key, error.text))
            return
        except OSError as error:
            what = f" {error.filename}" if error.filename else ""
            self._later(ev.SpawnFailed(*key, f"cannot start{what}: {error.strerror}"))
            return
        self._watch(key, _Process(spawned.pid, spawned.pidfd, spawned.control))

    def spawn(self, effect: fx.Spawn) -> None:
        """The start is in the store: the prepared shim may execute the unit's program."""
        self._send((effect.unit, effect.incarnation), "go")

    def adopt(self, effect: fx.Adopt) -> None:
        """Find what a former daemon started: its living shim, its record, or nothing."""
        key = (effect.unit, effect.incarnation)
        path = self._spawner.folder_of(*key)
        folder = read_folder(path) if path.is_dir() else None
        if folder is None or folder.shim is None:
            # A shim that comes up after its daemon died starts nothing: what is not there will not come.
            self._later(ev.Vanished(*key))
            return
        pidfd = folder.shim.pidfd()
        if pidfd is not None:
            try:
                control = _connect(path)
            except OSError as error:
                # It is about to end, or is one that cannot talk: its record tells, once it has ended.
                log.info("%s.%d: its shim does not listen (%s)", *key, error.strerror)
                self._loop.add_reader(pidfd, self._on_silent_end, key, pidfd, path)
                return
            self._watch(key, _Process(folder.shim.pid, pidfd, control, adopted=True))
            return
        self._from_record(key, folder)

    def signal(self, effect: fx.SignalUnit) -> None:
        number = signals.Signals[f"SIG{effect.signal}"]
        self._send((effect.unit, effect.incarnation), f"signal {int(number)}")

    def lease(self, effect: fx.LeaseUnit) -> None:
        self._send((effect.unit, effect.incarnation), f"lease {effect.until_ns}")

    def kill(self, effect: fx.KillUnit) -> None:
        self._send((effect.unit, effect.incarnation), "kill")

    def turn_over(self, key: Key) -> None:
        """Have the unit's log go on in a new file."""
        self._send(key, "rotate")

    def forget(self, effect: fx.Forget) -> None:
        """Remove what is left of an ended process: its end is in the store, its folder tells nothing more."""
        process = self._processes.get((effect.unit, effect.incarnation))
        if process is not None:
            process.forgotten = True  # its shim is about to end
        else:
            self._remove(self._spawner.folder_of(effect.unit, effect.incarnation))

    def clean(self, known: set[Key]) -> None:
        """End the processes that nobody knows any more, and remove what is left of them.

        Waits for their end, up to UNKNOWN_END_S: what is started next may be the same unit, and is given the
        same folder.
        """
        ending: dict[int, Path] = {}  # by pidfd
        with contextlib.ExitStack() as controls, contextlib.suppress(FileNotFoundError):
            for path in self._spawner.folder.iterdir():
                folder = read_folder(path)
                if folder is None or (folder.unit, folder.incarnation) in known:
                    continue
                pidfd = folder.shim.pidfd() if folder.shim is not None else None
                if pidfd is None:
                    self._remove(path)
                    continue
                log.warning("%s: a process nobody knows is ended", path.name)
                ending[pidfd] = path
                with contextlib.suppress(OSError):
                    # Open until the end: a shim that finds the caller gone does not read what he said.
                    controls.enter_context(_connect(path)).send(b"kill")
            self._await_end(ending)

    def _await_end(self, ending: dict[int, Path]) -> None:
        deadline = time.monotonic() + UNKNOWN_END_S
        for pidfd, path in ending.items():
            if _ends_by(pidfd, deadline):
                self._remove(path)
            else:
                log.error("%s: its shim does not end; start this unit again when it has", path.name)
            os.close(pidfd)

    def close(self) -> None:
        """Let go of the shims; they, and what they watch, live on. What is left of the ended is removed."""
        deadline = time.monotonic() + REMOVED_WITHIN_S
        for key, process in self._processes.items():
            if process.forgotten and _ends_by(process.pidfd, deadline):
                self._remove(self._spawner.folder_of(*key))
        for folder in list(self._leaving):
            while self._spawner.cgroups.remove(read_groups(folder)) and time.monotonic() < deadline:
                time.sleep(GROUP_RETRY_S / 10)
            self._remove_now(folder, GROUP_RETRIES)
        for process in self._processes.values():
            self._loop.remove_reader(process.pidfd)
            self._loop.remove_reader(process.control.fileno())
            process.control.close()
            os.close(process.pidfd)
        self._spawner.close()

    # ---- what the shim says ----

    def _watch(self, key: Key, process: _Process) -> None:
        self._processes[key] = process
        self._loop.add_reader(process.control.fileno(), self._on_packets, key, process)
        self._loop.add_reader(process.pidfd, self._on_shim_end, key, process)

    def _on_packets(self, key: Key, process: _Process) -> None:
        while True:
            try:
                packet = process.control.recv(MAX_PACKET_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                log.warning("%s.%d: control socket of the shim: %s", *key, error.strerror)
                packet = b""
            if not packet:
                # The shim closed its end: its pidfd tells the rest.
                self._loop.remove_reader(process.control.fileno())
                return
            word, fields = parse_packet(packet)
            if word == "state":
                self._on_state(key, process, fields)
            else:
                self._on_word(key, process, word, fields)

    def _on_state(self, key: Key, process: _Process, fields: dict[str, str]) -> None:
        """The first packet of a connection: of an adopted unit it says what happened meanwhile."""
        if not process.adopted:
            return
        phase = fields["phase"]
        if phase in ("running", "exited", "empty"):
            self._emit(ev.Adopted(*key, int(fields["pid"]), int(fields["start"])))
        if phase in ("exited", "empty"):
            self._on_word(key, process, "exited", {"left": "1", **fields})
        if phase == "empty":
            self._on_word(key, process, "empty", {})
        if phase == "failed":
            self._on_word(key, process, "failed", fields)

    def _on_word(self, key: Key, process: _Process, word: str, fields: dict[str, str]) -> None:
        if word == "started":
            self._emit(ev.Started(*key, int(fields["pid"]), int(fields["start"])))
        elif word == "failed":
            process.told_end = process.told_empty = True
            self._emit(ev.SpawnFailed(*key, _failure(fields)))
        elif word == "exited" and not process.told_end:
            process.told_end = True
            self._tell_end(key, fields, int(fields.get("left", "0")), self._emit)
            if fields.get("empty") == "1":
                self._on_word(key, process, "empty", {})
        elif word == "empty" and not process.told_empty:
            process.told_empty = True
            self._tell_emptied(key)

    def _on_shim_end(self, key: Key, process: _Process) -> None:
        self._loop.remove_reader(process.pidfd)
        try:
            self._on_packets(key, process)
        finally:  # whatever its last words cause
            self._bury(key, process)

    def _bury(self, key: Key, process: _Process) -> None:
        self._loop.remove_reader(process.control.fileno())
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PIDFD, process.pidfd, os.WEXITED | os.WNOHANG)
        os.close(process.pidfd)
        process.control.close()
        del self._processes[key]
        if process.told_end and process.told_empty:
            if process.forgotten:
                self._remove(self._spawner.folder_of(*key))
            return
        folder = read_folder(self._spawner.folder_of(*key))
        if folder is None:
            self._emit(ev.Vanished(*key))
            return
        log.error("%s.%d: its shim (pid %d) died", *key, process.shim_pid)
        self._from_record(key, folder, process.told_end)

    def _on_silent_end(self, key: Key, pidfd: int, path: Path) -> None:
        self._loop.remove_reader(pidfd)
        os.close(pidfd)
        folder = read_folder(path)
        if folder is None:
            self._emit(ev.Vanished(*key))
        else:
            self._from_record(key, folder)

    def _from_record(self, key: Key, folder: Folder, told_end: bool = False) -> None:
        """The shim is gone: its record says how the unit ended, or the unit is ended now, without a witness."""
        record = folder.exit or {}
        if record.get("why") == "exec-failed" and not told_end:
            self._later(
                ev.Vanished(*key)
                if record.get("stage") == "orphaned"
                else ev.SpawnFailed(*key, _failure(record))
            )
            return
        if not told_end and record:
            self._tell_end(key, record, 0, self._later)
            told_end = True
        if record.get("empty") != "1":
            self._end_witnessless(key, folder, told_end)
            return
        self._loop.call_soon(self._tell_emptied, key)

    def _end_witnessless(self, key: Key, folder: Folder, told_end: bool) -> None:
        """Processes without their shim: only those proven to be the unit's are killed."""
        for group in read_groups(folder.path):
            kill_group(group)
        pidfd = folder.leader.pidfd() if folder.leader is not None else None
        if pidfd is not None and folder.leader is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                # The pidfd proves the leader, and a living leader proves its process group.
                os.killpg(folder.leader.pid, signals.SIGKILL)
            self._loop.add_reader(pidfd, self._on_witnessless_end, key, pidfd, folder, told_end)
            return
        self._witnessless_gone(key, folder, told_end)

    def _on_witnessless_end(self, key: Key, pidfd: int, folder: Folder, told_end: bool) -> None:
        self._loop.remove_reader(pidfd)
        os.close(pidfd)
        self._witnessless_gone(key, folder, told_end)

    def _witnessless_gone(self, key: Key, folder: Folder, told_end: bool) -> None:
        """The leader is gone; the unit is when its groups are empty, too."""
        alive = [group for group in read_groups(folder.path) if not kill_group(group)]
        if alive:
            self._loop.call_later(GROUP_RETRY_S, self._witnessless_gone, key, folder, told_end)
            return
        if not told_end:
            self._tell_end(key, {}, 0, self._later)
        self._loop.call_soon(self._tell_emptied, key)

    # ---- the end, with the last lines of the log ----

    def _tell_end(
        self, key: Key, fields: dict[str, str], left: int, emit: Callable[[ev.Event], None]
    ) -> None:
        """At once if the end of the log is in memory, as it nearly always is. A disk is waited for in a worker."""
        code = int(fields["code"]) if "code" in fields else None
        number = int(fields["signal"]) if "signal" in fields else None
        path = self._spawner.log_path(key[0])
        tail = read_tail(path, wait=False)
        if tail is not None:
            emit(ev.Exited(*key, code, number, left, tail))
            return

        def read() -> None:
            self._loop.call_soon_threadsafe(self._on_tail, key, read_tail(path))

        timer = self._loop.call_later(TAIL_WAIT_S, self._on_tail, key, None)
        self._unread[key] = _End(code, number, left, timer)
        self._submit(read)

    def _tell_emptied(self, key: Key) -> None:
        end = self._unread.get(key)
        if end is not None:
            end.emptied = True
        else:
            self._emit(ev.Emptied(*key))

    def _on_tail(self, key: Key, tail: str | None) -> None:
        end = self._unread.pop(key, None)
        if end is None:
            return  # told without it
        end.timer.cancel()
        if tail is None:
            log.warning("%s.%d: its log cannot be read within %g s", *key, TAIL_WAIT_S)
        if end.emptied:
            self._later(ev.Emptied(*key))
        self._emit(ev.Exited(*key, end.code, end.signal, end.left, tail or ""))

    # ---- small things ----

    def _later(self, event: ev.Event) -> None:
        # Not at once: the step that asked has not returned its other effects yet.
        self._loop.call_soon(self._emit, event)

    def _send(self, key: Key, command: str) -> None:
        searching = self._searching.get(key)
        if searching is not None:
            searching.append(command)
            return
        process = self._processes.get(key)
        if process is None:
            return
        try:
            process.control.send(command.encode())
        except (BlockingIOError, BrokenPipeError, ConnectionResetError) as error:
            log.warning("%s.%d: shim does not take `%s`: %s", *key, command, error.strerror)

    def _remove(self, folder: Path) -> None:
        """Forget an ended process, but not at once: its successor goes first."""
        self._remove_later(folder, REMOVE_AFTER_S, 0)

    def _remove_later(self, folder: Path, delay_s: float, tries: int) -> None:
        former = self._leaving.pop(folder, None)
        if former is not None:
            former.cancel()
        self._leaving[folder] = self._loop.call_later(delay_s, self._remove_now, folder, tries)

    def _remove_now(self, folder: Path, tries: int = 0) -> None:
        """Its control groups, as soon as the kernel lets go of them, and its folder."""
        self._leaving.pop(folder).cancel()
        if self._spawner.cgroups.remove(read_groups(folder)):
            if tries < GROUP_RETRIES:
                self._remove_later(folder, GROUP_RETRY_S, tries + 1)
            return
        # Its name is free at once; its files go in a worker. What is left of that, a next daemon's `clean` takes.
        gone = folder.with_name(f".{time.monotonic_ns()}.{folder.name}")
        with contextlib.suppress(OSError):
            folder.rename(gone)
            self._submit(lambda: _remove_tree(gone))


def _ends_by(pidfd: int, deadline_s: float) -> bool:
    ended = select.poll()  # not select(2), which knows the first 1024 descriptors only
    ended.register(pidfd, select.POLLIN)
    return bool(ended.poll(max(0.0, deadline_s - time.monotonic()) * 1000))


def _remove_tree(folder: Path) -> None:
    for _ in range(GROUP_RETRIES):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(GROUP_RETRY_S)  # a shim that starts nothing is writing into it


def _failure(fields: dict[str, str]) -> str:
    number = int(fields.get("errno", "0"))
    what = " ".join(filter(None, (fields.get("stage"), unquote(fields.get("at", "")))))
    return f"cannot start: {what}: {os.strerror(number)}"


def _connect(folder: Path) -> socket.socket:
    """A connection to the shim of a folder; OSError when it does not listen."""
    control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    fd = -1
    try:
        # Through the folder's descriptor: its path may be longer than a socket's name can be.
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        control.connect(f"/proc/self/fd/{fd}/ctl")
    except OSError:
        control.close()
        raise
    finally:
        if fd >= 0:
            os.close(fd)
    return control


def parse_packet(packet: bytes) -> tuple[str, dict[str, str]]:
    """`word key=value ...` -> (word, fields)."""
    word, *pairs = packet.decode("utf-8", "replace").split()
    return word, dict(pair.partition("=")[::2] for pair in pairs)


def read_tail(path: Path, wait: bool = True) -> str | None:
    """The last lines of a log, at most TAIL_LINES of them from its last TAIL_BYTES; empty when it cannot be read.

    None: not without waiting for the disk, or on a file system that does not tell.
    """
    try:
        # Whatever somebody put there: the open itself must not wait.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            data = bytearray(min(size, TAIL_BYTES))
            flags = 0 if wait else os.RWF_NOWAIT
            got = os.preadv(file.fileno(), [data], size - len(data), flags) if data else 0
    except OSError as error:
        return None if not wait and error.errno in (errno.EAGAIN, errno.EOPNOTSUPP) else ""
    if got < len(data) and not wait:
        return None
    return "\n".join(data[:got].decode("utf-8", "replace").splitlines()[-TAIL_LINES:])
