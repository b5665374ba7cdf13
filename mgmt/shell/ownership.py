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

from mgmt.protocol.errors import MgmtError
from mgmt.shell.router import ipc_path, remove_socket


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
