"""One daemon per endpoint: a second one is refused, and told who is there.

An ipc file is stale when nobody accepts on it: only then may it be removed (libzmq would remove a live one
silently).
"""

from __future__ import annotations

import errno
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
