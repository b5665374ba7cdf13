"""One daemon per state folder and per endpoint: a second one is refused, and told who is there.

The lock is an flock, which the kernel drops with its holder; the pid inside is for people only. An ipc file
is stale when nobody accepts on it: only then may it be removed (libzmq would remove a live one silently).
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
import struct
from pathlib import Path

from mgmt.protocol.errors import MgmtError
from mgmt.shell.router import ipc_path, remove_socket


def own(folder: Path) -> None:
    """Make the folder of the daemon's sockets; MgmtError `bad-config` when it is another user's.

    Without a runtime folder of its own an account falls back to a name in /tmp that everybody can guess: whoever
    made it first could put sockets of theirs in the place of ours. Root is told its folders, and may use any.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o750)
    owner, user = folder.stat().st_uid, os.geteuid()
    if user != 0 and owner not in (0, user):
        raise MgmtError(
            "bad-config",
            f"the folder {folder} belongs to user {owner}, who could take the place of this daemon in it; "
            "name one of your own with MGMT_RUNTIME_DIR",
        )


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


def claim(endpoint: str) -> None:
    """Make an endpoint free to bind: its folder exists, and a stale socket file is gone.

    MgmtError `already-running` names the pid that listens there; `bad-config` when the place is unusable.
    """
    path = ipc_path(endpoint)
    if path is None:
        return
    try:
        os.makedirs(os.path.dirname(path), mode=0o750, exist_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(1.0)
            probe.connect(path)
            pid, _, _ = struct.unpack("3i", probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    except FileNotFoundError:
        return
    except OSError as error:
        why = error.strerror or str(error)
        if error.errno == errno.ECONNREFUSED:
            if stat.S_ISSOCK(os.lstat(path).st_mode):
                remove_socket(path)
                return
            why = "the file there is no socket"  # and a bind would remove it
        text = f"endpoint {endpoint} cannot be used: {why}; choose another place"
        raise MgmtError("bad-config", text) from None
    raise MgmtError(
        "already-running",
        f"another process (pid {pid}) serves {endpoint}; stop it with `mgmt stop-service`, "
        "or configure another endpoint",
        pid=pid,
    )
