"""Hooks of a daemon that was killed: nobody waits for them any more, and nobody would end them in time.

A hook has no shim that would outlive its daemon and tell of it, so it ends with its daemon: at once when that one
leaves, at the start of the next one when it was killed. One that its unit waits for is run again then. What it is,
its environment tells: the unit, the incarnation, and the token that only daemons of this state folder can make.
"""

from __future__ import annotations

import os
import select
import signal as signals
import time
from collections.abc import Callable

from mgmt.shell.commands import kill_sessions

HOOK_VARIABLE = "MGMT_HOOK"
MAX_ENVIRON_BYTES = 1 << 20
PASSES = 20  # over a hook that keeps forking
WAIT_S = 2.0  # a process that SIGKILL does not end by then hangs in the kernel


def end_hooks(token_of: Callable[[str, int], str | None]) -> list[str]:
    """Ends the hooks whose environment has `token_of(unit, incarnation)`; their names, `UNIT.HOOK`.

    Blocks until they are gone. A process is pinned before it is looked at, so that nobody else is ever hit; of
    its session only what lives beside a proven leader is ended with it.
    """
    ended: set[str] = set()
    deadline_s = time.monotonic() + WAIT_S
    for _ in range(PASSES):
        found = _find(token_of)
        if not found:
            break
        ended.update(name for name, _ in found.values())
        kill_sessions({pid for pid in found if _leads(pid)})
        for _, pidfd in found.values():
            try:
                signals.pidfd_send_signal(pidfd, signals.SIGKILL)
            except ProcessLookupError:
                pass
        for _, pidfd in found.values():
            select.select([pidfd], [], [], max(0.0, deadline_s - time.monotonic()))
            os.close(pidfd)
    return sorted(ended)


def _find(token_of: Callable[[str, int], str | None]) -> dict[int, tuple[str, int]]:
    """By pid of a process that is proven: the name of its hook, and a pidfd."""
    found = {}
    for name in os.listdir("/proc"):
        if not name.isdigit() or _hook(name, token_of) is None:
            continue
        try:
            pidfd = os.pidfd_open(int(name))
        except OSError:
            continue
        hook = _hook(name, token_of)
        if hook is None:
            os.close(pidfd)
        else:
            found[int(name)] = hook, pidfd
    return found


def _hook(pid: str, token_of: Callable[[str, int], str | None]) -> str | None:
    try:
        with open(f"/proc/{pid}/environ", "rb", buffering=0) as file:
            data = file.read(MAX_ENVIRON_BYTES)
    except OSError:
        return None  # it ended, or belongs to somebody else
    if HOOK_VARIABLE.encode() not in data:
        return None
    env = dict(part.partition("=")[::2] for part in data.decode("utf-8", "replace").split("\0"))
    which, unit, incarnation = (
        env.get(HOOK_VARIABLE),
        env.get("MGMT_UNIT", ""),
        env.get("MGMT_INCARNATION", ""),
    )
    if which is None or not incarnation.isdecimal():
        return None
    token = token_of(unit, int(incarnation))
    return f"{unit}.{which}" if token is not None and token == env.get("MGMT_TOKEN") else None


def _leads(pid: int) -> bool:
    try:
        return os.getsid(pid) == pid
    except OSError:
        return False
