"""Builds `mgmt-shim` and drives one over its control socket, in the place of the daemon.

`MGMT_SHIM_CFLAGS` in the environment replaces `-static`: with `-fsanitize=address,undefined` every test runs
under the sanitizers, whose findings fail the test at `Shim.end`.
"""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TypeVar

SOURCE = Path(__file__).resolve().parents[2] / "mgmt" / "shell" / "shim.c"
FLAGS = ("-std=c11", "-O2", "-Wall", "-Wextra", "-Wconversion", "-Werror")
DEADLINE_S = 15.0

T = TypeVar("T")


def build(target: Path) -> Path:
    """Compiles the shim into `target`; raises CalledProcessError with the compiler's words."""
    extra = os.environ.get("MGMT_SHIM_CFLAGS")
    links = [shlex.split(extra)] if extra else [["-static"], []]
    for link in links:
        done = subprocess.run(
            ["cc", *FLAGS, "-o", str(target), str(SOURCE), *link], capture_output=True, text=True, check=False
        )
        if done.returncode == 0:
            return target
    raise subprocess.CalledProcessError(done.returncode, done.args, done.stdout, done.stderr)


def until(condition: Callable[[], T | None], what: str, deadline_s: float = DEADLINE_S) -> T:
    """The first true value of `condition`; AssertionError naming `what` after `deadline_s`."""
    end = time.monotonic() + deadline_s
    while not (value := condition()):
        assert time.monotonic() < end, f"not within {deadline_s} s: {what}"
        time.sleep(0.005)
    return value


def fields(text: str) -> dict[str, str]:
    """`key=value ...` as a dictionary; words without `=` are left out."""
    return dict(word.split("=", 1) for word in text.split() if "=" in word)


def alive(pid: int) -> bool:
    """Whether `pid` exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def start_ticks(pid: int) -> str:
    """Field 22 of /proc/PID/stat."""
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]


@dataclass(frozen=True)
class Packet:
    word: str
    fields: dict[str, str]

    def __getitem__(self, key: str) -> str:
        return self.fields[key]


class Connection:
    """One SOCK_SEQPACKET connection with a shim."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    @classmethod
    def to(cls, folder: Path) -> Connection:
        """Connects to `folder`/ctl, however long that path is. OSError when nobody listens."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        at = os.open(folder, os.O_PATH | os.O_DIRECTORY)
        try:
            sock.connect(f"/proc/self/fd/{at}/ctl")
        except OSError:
            sock.close()
            raise
        finally:
            os.close(at)
        return cls(sock)

    def send(self, packet: str) -> None:
        self.sock.send(packet.encode())

    def receive(self, timeout_s: float = DEADLINE_S) -> Packet | None:
        """The next packet, None at the end of the connection. TimeoutError after `timeout_s`."""
        self.sock.settimeout(timeout_s)
        text = self.sock.recv(4096).decode("ascii")
        return Packet(text.split(" ", 1)[0], fields(text)) if text else None

    def expect(self, *words: str) -> Packet:
        """The next packet, which must be one of `words`."""
        packet = self.receive()
        assert packet is not None, f"the connection ended, expected {words}"
        assert packet.word in words, f"{packet} is not one of {words}"
        return packet

    def silent_for(self, timeout_s: float) -> bool:
        """True when nothing arrives within `timeout_s`."""
        try:
            self.receive(timeout_s)
        except TimeoutError:
            return True
        return False

    def close(self) -> None:
        self.sock.close()


class Shim(Connection):
    """A running shim, started as the daemon does: its own session, one end of a socket pair.

    Leaving the `with` block ends everything it started, by pid, and fails when the shim itself ended badly.
    """

    def __init__(
        self,
        binary: Path,
        folder: Path,
        options: Sequence[str],
        program: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        user: int | None = None,
        pass_fds: Sequence[int] = (),
    ) -> None:
        self.folder = folder
        self.status = 0
        self.connections: list[Connection] = []
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        super().__init__(ours)
        self.process = subprocess.Popen(
            [binary, "--dir", folder, "--fd", str(theirs.fileno()), *options, "--", *program],
            pass_fds=[theirs.fileno(), *pass_fds],
            start_new_session=True,
            stderr=subprocess.DEVNULL,
            env=env,
            user=user,
            group=user,
            extra_groups=None if user is None else [],
        )
        theirs.close()
        self.pid = self.process.pid

    def started(self) -> int:
        """Waits for the exec; returns the leader's pid."""
        assert self.expect("state")["phase"] == "starting"
        return int(self.expect("started")["pid"])

    def connect(self) -> Connection:
        self.connections.append(Connection.to(self.folder))
        return self.connections[-1]

    def record(self) -> dict[str, str]:
        return fields((self.folder / "exit").read_text())

    def identity(self) -> dict[str, str]:
        return fields((self.folder / "shim").read_text())

    def end(self) -> None:
        """Waits for the shim to leave; it must have removed its socket."""
        assert self.process.wait(DEADLINE_S) == self.status
        assert not (self.folder / "ctl").exists()

    def __enter__(self) -> Shim:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        for connection in self.connections:
            connection.close()
        try:
            if self.process.poll() is None:
                try:
                    sweeper = Connection.to(self.folder)
                except (ConnectionError, FileNotFoundError):
                    pass  # it is leaving
                else:
                    sweeper.send("kill")
                    self.process.wait(DEADLINE_S)
                    sweeper.close()
                self.process.wait(DEADLINE_S)
            if kind is None:
                assert self.process.returncode in (self.status, -signal.SIGKILL)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
