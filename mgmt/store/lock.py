"""One user per state folder: the lock that a daemon holds for as long as it lives.

It is an flock, which the kernel drops with its holder; the pid inside is for people only.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from mgmt.protocol.errors import MgmtError


class Lock:
    """Held until `release` or the end of the process."""

    def __init__(self, folder: Path) -> None:
        """Take the lock of a state folder; MgmtError `already-running` names the holder's pid."""
        self.path = folder / "lock"
        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(self._fd, 32).decode("ascii", "replace").strip()
            os.close(self._fd)
            raise MgmtError(
                "already-running",
                f"another daemon (pid {holder or 'unknown'}) uses the state folder {folder}; "
                "stop it with `mgmt stop-service`, or set MGMT_STATE_DIR to another folder",
                pid=int(holder) if holder.isdigit() else None,
            ) from None
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        # The file stays: removing it would let two daemons lock two different files of one name.
        os.close(self._fd)
