"""Tokens: secrets by which a session speaks as a user. Their text, and where a client finds its own.

Whoever will hold one draws it and tells the daemon its SHA-256 alone. A slow hash would guard against guessing
what people choose; 256 bits of chance cannot be guessed, and each hello would pay for it. Standard library only.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from mgmt.protocol import defaults, keys
from mgmt.protocol.errors import MgmtError

PREFIX = "mgmt_"  # so that a token in a wrong place is seen to be one


def new() -> str:
    """The text of a fresh token."""
    import secrets  # not at the top, like the other: each call of `mgmt` would pay for it

    return PREFIX + secrets.token_urlsafe(defaults.TOKEN_BYTES)


def digest(token: str) -> str:
    """What the daemon keeps of it; 64 hexadecimal digits."""
    import hashlib

    return hashlib.sha256(token.encode()).hexdigest()


def read(path: Path) -> str:
    """The token in a file of its own; MgmtError `bad-config` when it has none, or when others may read it."""
    text = keys.read_private(path).strip()
    if not text.startswith(PREFIX) or len(text) > defaults.MAX_NAME_CHARS or len(text.split()) != 1:
        raise MgmtError("bad-config", f"{path}: it is no token of `mgmt user token new`")
    return text


def find(file: str | None = None, environ: Mapping[str, str] | None = None) -> str | None:
    """From the file that was told, else $MGMT_TOKEN, else the file $MGMT_TOKEN_FILE; None without any."""
    environ = os.environ if environ is None else environ
    if not file and environ.get("MGMT_TOKEN"):
        return environ["MGMT_TOKEN"]
    file = file or environ.get("MGMT_TOKEN_FILE")
    return read(Path(file)) if file else None
