"""The control group hierarchies that this process can see, and its own group in each."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import signal as signals
from dataclasses import dataclass, field
from pathlib import Path

log = logging.getLogger("mgmt.shell.hierarchies")

KILL_PASSES = 50  # over a group of version 1 whose members fork
DAEMON_LEAF = "daemon"  # where the daemon sits below a group that passes controllers on
SHIM_LEAF = "shims"  # where shims sit below the group of a service that holds the units


@dataclass(slots=True)
class Hierarchy:
    version: int
    controllers: frozenset[str]
    base: Path  # the daemon's own group, or that of the service that holds the units
    holds_units: bool = False  # `base` is the latter: made for us beside our own, and shims go there, too
    prepared: bool = False
    has_kill: bool = False  # since Linux 5.14, version 2 only
    refusal: OSError | None = None  # why no group can be made here
    withheld: dict[str, OSError] = field(default_factory=dict)  # controllers that cannot be passed on


def discover(root: Path, units_service: str = "") -> list[Hierarchy]:
    """The mounted hierarchies in which this process has a group that can be seen, version 1 before 2.

    A controller is in one hierarchy at a time; on hybrid systems that is mostly a version 1 one.
    `units_service`: where our group has a neighbour of this name that we may move processes to, that is the base.
    """
    own: dict[str, str] = {}
    hierarchies: list[Hierarchy] = []
    try:
        for line in (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines():
            _, controllers, group = line.split(":", 2)
            for controller in controllers.split(","):
                own[controller] = group
        mounts = (root / "proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return []
    for line in mounts:
        left, _, right = line.partition(" - ")
        kind, *rest = right.split()
        if kind not in ("cgroup", "cgroup2"):
            continue
        top, mount_point = (_unescape(text) for text in left.split()[3:5])
        controllers_here = frozenset(rest[-1].split(",")) & own.keys() if kind == "cgroup" else frozenset()
        key = "" if kind == "cgroup2" else next(iter(controllers_here), None)
        path = own.get(key) if key is not None else None
        if path is None or not (path == top or path.startswith(top.rstrip("/") + "/")):
            continue  # not ours, or our group lies outside of what is mounted here
        base = root / mount_point.lstrip("/") / path.removeprefix(top).lstrip("/")
        version = 1 if kind == "cgroup" else 2
        if (
            version == 2
            and path.endswith(f"/{DAEMON_LEAF}")
            and os.access(base.parent / "cgroup.procs", os.W_OK)
        ):
            base = base.parent  # we moved here before an upgrade, or systemd put us here
        holds_units = bool(units_service) and why_not_movable(version, base, units_service) is None
        if holds_units:
            base = base.with_name(units_service)
        if version == 2:
            with contextlib.suppress(OSError):
                text = (base / "cgroup.controllers").read_text(encoding="ascii")
                controllers_here = frozenset(text.split())
        if base.is_dir() and all(base != known.base for known in hierarchies):
            hierarchies.append(Hierarchy(version, controllers_here, base, holds_units))
    return sorted(hierarchies, key=lambda hierarchy: hierarchy.version)


def why_not_movable(version: int, own: Path, neighbour: str) -> OSError | None:
    """What is in the way of moving our children from `own` to the group beside it; None when nothing is.

    Version 2 asks for the right to write to the group that both are in, as well.
    """
    group = own.with_name(neighbour)
    needed = [group, group / "cgroup.procs", *([group.parent / "cgroup.procs"] if version == 2 else [])]
    for path in needed:
        if not os.access(path, os.W_OK):
            number = errno.EACCES if path.exists() else errno.ENOENT
            return OSError(number, os.strerror(number), str(path))
    return None


def _unescape(text: str) -> str:
    """mountinfo writes blanks and backslashes as octal numbers."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def kill_group(group: Path) -> bool:
    """SIGKILL for every process of a group that was made for one unit; True when there is none (any more)."""
    try:
        for _ in range(KILL_PASSES):
            if _is_empty(group):
                return True
            try:
                fd = os.open(group / "cgroup.kill", os.O_WRONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                for pid in _members(group):
                    _kill_member(group, pid)
            else:
                with open(fd, "wb", buffering=0) as file:
                    file.write(b"1")
                return _is_empty(group)  # whoever forks meanwhile is killed, too
    except FileNotFoundError:
        return True
    except OSError as error:
        log.warning("%s: cannot be emptied: %s", group, error.strerror)
    return False


def _is_empty(group: Path) -> bool:
    try:
        return "populated 0" in (group / "cgroup.events").read_text(encoding="ascii")
    except FileNotFoundError:
        return not _members(group)


def _members(group: Path) -> list[int]:
    return [int(pid) for pid in (group / "cgroup.procs").read_text(encoding="ascii").split()]


def _kill_member(group: Path, pid: int) -> None:
    # Pinned before it is looked at again: a number that is used anew is never hit.
    with contextlib.suppress(ProcessLookupError):
        pidfd = os.pidfd_open(pid)
        try:
            if pid in _members(group):
                signals.pidfd_send_signal(pidfd, signals.SIGKILL)
        finally:
            os.close(pidfd)
