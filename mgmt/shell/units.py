"""Units as processes: starting them through the shim, hearing how they end, and looking at them from outside.

The shim (shim.c) is the parent of each unit's process. It sets the process up before exec, owns its output
and its descendants, and talks to us over a SOCK_SEQPACKET socket in packets of `word key=value ...`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal as signals
import socket
from asyncio import AbstractEventLoop
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from mgmt.core import effect as fx
from mgmt.core import event as ev
from mgmt.launch import find_backend_script, launch
from mgmt.protocol.errors import MgmtError
from mgmt.settings import Settings

log = logging.getLogger("mgmt.shell.units")

SHIM = Path(__file__).with_name("mgmt-shim")
SHIM_FD = 3
MAX_PACKET_BYTES = 4096
TAIL_BYTES = 4096
TAIL_LINES = 10

Key = tuple[str, int]  # unit, incarnation


@dataclass(slots=True)
class _Process:
    """A shim of ours: its pid and pidfd, and our end of its control socket."""

    shim_pid: int
    pidfd: int
    control: socket.socket
    folder: Path
    log: Path
    told_end: bool = False
    told_empty: bool = False


class Units:
    """The processes behind the units; `emit` takes the events they cause."""

    def __init__(
        self,
        loop: AbstractEventLoop,
        settings: Settings,
        backend_path: Path | None,
        runtime: Path,
        log_dir: Path,
        environ: Mapping[str, str],
        emit: Callable[[ev.Event], None],
    ) -> None:
        self._loop = loop
        self._settings = settings
        self._backend_path = backend_path
        self._folder = runtime / "units"
        self._log_dir = log_dir
        self._environ = dict(environ)  # the same at the first and the hundredth start
        self._emit = emit
        self._processes: dict[Key, _Process] = {}
        self._null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)

    def log_path(self, unit: str) -> Path:
        return self._log_dir / f"{unit}.log"

    # ---- effects ----

    def spawn(self, effect: fx.Spawn) -> None:
        """Start the unit's program under a shim."""
        key = (effect.unit, effect.incarnation)
        try:
            process = self._spawn(effect)
        except MgmtError as error:
            self._failed(key, error.text)
            return
        except OSError as error:
            what = f" {error.filename}" if error.filename else ""
            self._failed(key, f"cannot start{what}: {error.strerror}")
            return
        self._processes[key] = process
        self._loop.add_reader(process.control.fileno(), self._on_packets, key, process)
        self._loop.add_reader(process.pidfd, self._on_shim_end, key, process)

    def signal(self, effect: fx.SignalUnit) -> None:
        number = signals.Signals[f"SIG{effect.signal}"]
        self._send((effect.unit, effect.incarnation), f"signal {int(number)}")

    def kill(self, effect: fx.KillUnit) -> None:
        self._send((effect.unit, effect.incarnation), "kill")

    # ---- the start ----

    def _spawn(self, effect: fx.Spawn) -> _Process:
        backend = effect.backend
        script = None
        if backend.script is not None and "script" in backend.holes():
            script = find_backend_script(self._settings, backend.script, self._backend_path).require()
        backend_path = self._backend_path or self._settings.backend_path
        filled = launch(
            backend,
            effect.model,
            unit=effect.unit,
            endpoint=effect.endpoint,
            script=script,
            config_path=effect.config_path,
            backend_path=None if backend_path is None else str(backend_path),
        )
        folder = self._folder / f"{effect.unit}.{effect.incarnation}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, mode=0o700)
        path = self.log_path(effect.unit)
        argv = [str(SHIM), "--dir", str(folder), "--fd", str(SHIM_FD), "--log", str(path)]
        argv += ["--log-max-bytes", str(backend.log_max_bytes), "--log-keep", str(backend.log_keep)]
        if filled.cwd is not None:
            argv += ["--cwd", filled.cwd]
        if effect.cpus:
            argv += ["--cpus", ",".join(map(str, effect.cpus))]
        if backend.nice:
            argv += ["--nice", str(backend.nice)]
        argv += ["--", *filled.argv]
        # What the configuration adds may not replace what makes the backend find us.
        env = {**self._environ, **filled.env, **effect.env}
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, contextlib.ExitStack() as on_error:
            on_error.callback(ours.close)
            ours.setblocking(False)
            # Not fork: its cost grows with our memory. The daemon's signal dispositions must not leak either.
            pid = os.posix_spawn(
                SHIM,
                argv,
                env,
                file_actions=[
                    *((os.POSIX_SPAWN_DUP2, self._null, fd) for fd in range(3)),
                    (os.POSIX_SPAWN_DUP2, theirs.fileno(), SHIM_FD),
                ],
                setsigmask=[],
                setsigdef=[signals.SIGPIPE, signals.SIGINT, signals.SIGTERM, signals.SIGHUP],
            )
            theirs.close()  # whatever the limit on descriptors: there is room for the next one
            pidfd = os.pidfd_open(pid)
            on_error.pop_all()
        return _Process(pid, pidfd, ours, folder, path)

    def _failed(self, key: Key, reason: str) -> None:
        # Not at once: the step that asked for the spawn has not returned its other effects yet.
        self._loop.call_soon(self._emit, ev.SpawnFailed(*key, reason))

    # ---- what the shim says ----

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
            self._on_word(key, process, word, fields)

    def _on_word(self, key: Key, process: _Process, word: str, fields: dict[str, str]) -> None:
        if word == "started":
            self._emit(ev.Started(*key, int(fields["pid"]), int(fields["start"])))
        elif word == "failed":
            process.told_end = process.told_empty = True
            what = " ".join(filter(None, (fields["stage"], unquote(fields.get("at", "")))))
            self._emit(ev.SpawnFailed(*key, f"cannot start: {what}: {os.strerror(int(fields['errno']))}"))
        elif word == "exited":
            process.told_end = True
            code = int(fields["code"]) if "code" in fields else None
            number_ = int(fields["signal"]) if "signal" in fields else None
            left = int(fields.get("left", "0"))
            self._emit(ev.Exited(*key, code, number_, left, read_tail(process.log)))
        elif word == "empty":
            process.told_empty = True
            self._emit(ev.Emptied(*key))

    def _on_shim_end(self, key: Key, process: _Process) -> None:
        self._loop.remove_reader(process.pidfd)
        if process.control.fileno() >= 0:
            self._on_packets(key, process)
            self._loop.remove_reader(process.control.fileno())
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PIDFD, process.pidfd, os.WEXITED | os.WNOHANG)
        os.close(process.pidfd)
        process.control.close()
        del self._processes[key]
        if not process.told_end:
            # Somebody killed the shim: what it watched is unknown, and must not be reported as ended well.
            log.error("%s.%d: its shim (pid %d) died", *key, process.shim_pid)
            self._emit(ev.Exited(*key, None, int(signals.SIGKILL), 0, read_tail(process.log)))
        if not process.told_empty:
            self._emit(ev.Emptied(*key))
        shutil.rmtree(process.folder, ignore_errors=True)

    def _send(self, key: Key, command: str) -> None:
        process = self._processes.get(key)
        if process is None:
            return
        try:
            process.control.send(command.encode())
        except (BlockingIOError, BrokenPipeError, ConnectionResetError) as error:
            log.warning("%s.%d: shim does not take `%s`: %s", *key, command, error.strerror)

    def close(self) -> None:
        for process in self._processes.values():
            self._loop.remove_reader(process.pidfd)
            self._loop.remove_reader(process.control.fileno())
            process.control.close()
            os.close(process.pidfd)
        os.close(self._null)


def parse_packet(packet: bytes) -> tuple[str, dict[str, str]]:
    """`word key=value ...` -> (word, fields)."""
    word, *pairs = packet.decode("utf-8", "replace").split()
    return word, dict(pair.partition("=")[::2] for pair in pairs)


def read_tail(path: Path) -> str:
    """The last lines of a log, at most TAIL_LINES of them from its last TAIL_BYTES."""
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - TAIL_BYTES))
            data = file.read(TAIL_BYTES)
    except OSError:
        return ""
    return "\n".join(data.decode("utf-8", "replace").splitlines()[-TAIL_LINES:])
