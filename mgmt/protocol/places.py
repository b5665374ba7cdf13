"""Where things live: the runtime folder (sockets), the state folder (what survives) and the control endpoint.

Standard library only, because the command line asks on every call. Nothing here creates or checks a folder.
`environ` and `uid` default to the process's own; tests pass theirs.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def runtime_dir(environ: Mapping[str, str] | None = None, uid: int | None = None) -> Path:
    """The folder of sockets and pid files, absolute; its content may vanish at a reboot.

    `$MGMT_RUNTIME_DIR`, `$RUNTIME_DIRECTORY` (systemd), `/run/mgmt` for root, `$XDG_RUNTIME_DIR/mgmt`,
    else `/tmp/mgmt-UID`.
    """
    environ, uid = _defaults(environ, uid)
    told = _told(environ, "MGMT_RUNTIME_DIR", "RUNTIME_DIRECTORY")
    if told is not None:
        return told
    if uid == 0:
        return Path("/run/mgmt")
    base = xdg_dir(environ, "XDG_RUNTIME_DIR")
    return base / "mgmt" if base is not None else Path(f"/tmp/mgmt-{uid}")


def state_dir(environ: Mapping[str, str] | None = None, uid: int | None = None) -> Path:
    """The folder of what must survive a reboot (store, logs), absolute.

    `$MGMT_STATE_DIR`, `$STATE_DIRECTORY` (systemd), `/var/lib/mgmt` for root, `$XDG_STATE_HOME/mgmt`,
    else `~/.local/state/mgmt`.
    """
    environ, uid = _defaults(environ, uid)
    told = _told(environ, "MGMT_STATE_DIR", "STATE_DIRECTORY")
    if told is not None:
        return told
    if uid == 0:
        return Path("/var/lib/mgmt")
    base = xdg_dir(environ, "XDG_STATE_HOME")
    return (base if base is not None else home_dir(environ) / ".local" / "state") / "mgmt"


def default_control_endpoint(environ: Mapping[str, str] | None = None, uid: int | None = None) -> str:
    """The endpoint a command talks to when none is named: `$MGMT_ENDPOINT`, else the runtime folder's."""
    environ, uid = _defaults(environ, uid)
    return environ.get("MGMT_ENDPOINT") or f"ipc://{runtime_dir(environ, uid)}/control"


def dialled(endpoint: str, heard_from: str = "") -> str:
    """The endpoint to connect to: one that is bound to every address of its machine names none of them.

    `heard_from` is an endpoint of the same machine; without it, this machine is meant.
    """
    for every in ("tcp://*:", "tcp://0.0.0.0:", "tcp://[::]:"):
        if endpoint.startswith(every):
            host = heard_from.rpartition(":")[0] if heard_from.startswith("tcp://") else "tcp://127.0.0.1"
            return f"{dialled(host + ':').removesuffix(':')}:{endpoint.removeprefix(every)}"
    return endpoint


def xdg_dir(environ: Mapping[str, str], name: str) -> Path | None:
    """The folder of an XDG variable; unset, empty and relative ones do not count (XDG base directories)."""
    value = environ.get(name, "")
    return Path(value) if value.startswith("/") else None


def home_dir(environ: Mapping[str, str]) -> Path:
    """`$HOME`, else the account's home folder."""
    return Path(environ.get("HOME") or os.path.expanduser("~"))


def _told(environ: Mapping[str, str], ours: str, systemd: str) -> Path | None:
    """Our variable, made absolute, or the first folder of systemd's colon-separated list."""
    if environ.get(ours):
        return Path(os.path.abspath(environ[ours]))
    first = environ.get(systemd, "").split(":")[0]
    return Path(first) if first else None


def _defaults(environ: Mapping[str, str] | None, uid: int | None) -> tuple[Mapping[str, str], int]:
    return (os.environ if environ is None else environ), (os.getuid() if uid is None else uid)
