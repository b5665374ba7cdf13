"""Who a process is: (pid, start time, boot id). A pid alone is only a number that is given out again."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


def boot_id() -> str:
    """The kernel's id of this boot; start times of different boots do not compare."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def start_ticks(pid: int) -> int | None:
    """Field 22 of /proc/PID/stat: when the process started; None when there is none, or it is a zombie."""
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            fields = file.read(1024).rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


@dataclass(frozen=True, slots=True)
class Identity:
    """One process, for ever."""

    pid: int
    start_ticks: int
    boot: str

    def is_alive(self) -> bool:
        return self.boot == boot_id() and start_ticks(self.pid) == self.start_ticks

    def pidfd(self) -> int | None:
        """A descriptor of exactly this process, or None when it is gone.

        Opened first and checked after: between the two the pid cannot be given to somebody else unnoticed.
        """
        if self.boot != boot_id():
            return None
        try:
            fd = os.pidfd_open(self.pid)
        except OSError:
            return None
        if start_ticks(self.pid) != self.start_ticks:
            os.close(fd)
            return None
        return fd


def parse_fields(text: str) -> dict[str, str]:
    """`key=value key=value ...` -> fields; what has no `=` is left out."""
    return dict(part.split("=", 1) for part in text.split() if "=" in part)


@dataclass(frozen=True, slots=True)
class Folder:
    """A unit's runtime folder as a former daemon left it."""

    path: Path
    unit: str
    incarnation: int
    shim: Identity | None
    leader: Identity | None
    exit: dict[str, str] | None  # the exit record, once the leader is reaped


def read_folder(path: Path) -> Folder | None:
    """None when the name is not UNIT.INCARNATION."""
    unit, _, number = path.name.rpartition(".")
    if not unit or not number.isdigit():
        return None
    identity = _fields(path / "shim")
    record = _fields(path / "exit")
    shim = leader = None
    if "shim" in identity and "start" in identity:
        boot = identity.get("boot", "")
        shim = Identity(int(identity["shim"]), int(identity["start"]), boot)
        if int(identity.get("pid", "0")):
            leader = Identity(int(identity["pid"]), int(identity.get("pid_start", "0")), boot)
    return Folder(path, unit, int(number), shim, leader, record if "why" in record else None)


def _fields(path: Path) -> dict[str, str]:
    try:
        return parse_fields(path.read_text(encoding="utf-8", errors="replace").replace("\0", ""))
    except OSError:
        return {}
