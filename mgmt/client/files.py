"""Files up to the daemon and down again: in parts, several under way, gone on with after a break."""

from __future__ import annotations

import hashlib
import os
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from mgmt.protocol import defaults
from mgmt.protocol.errors import MgmtError

if TYPE_CHECKING:
    from mgmt.client.sync import Client

Progress = Callable[[int, int], None]  # bytes done, bytes in all
READ_BYTES = 1 << 20
PAUSE_S, PATIENCE_S = 0.2, 60.0  # before a broken transfer goes on; how long nothing may move
_AGAIN = frozenset({"conflict", "unknown-blob"})  # of an upload: begin anew, and hear where it stands


def _nothing(done: int, total: int) -> None:
    pass


def upload(
    client: Client, path: str | os.PathLike[str], group: str | None, key: str, progress: Progress = _nothing
) -> dict[str, Any]:
    """Store a file as the attachment `key` of a group (None: your own); its status.

    A daemon that restarts meanwhile is waited for. MgmtError `corrupt` when the file changes meanwhile; OSError.
    """
    with Path(path).open("rb", buffering=0) as file:
        digest, size = _digest(file)
        body = {"group": group, "key": key, "digest": digest, "bytes": size}

        def once(moved: Progress) -> dict[str, Any]:
            begun = client.request("blob-begin", body)
            if not begun["upload"]:
                listed = client.request("attachments", {"group": group, "keys": [key]})["blobs"]
                return next(one for one in listed if one["digest"] == digest)
            _send(client, file, begun, size, moved)
            return client.request("blob-commit", {"upload": begun["upload"]}, timeout_s=_time_for(size))

        return _patiently(once, size, progress, _AGAIN)


def download(
    client: Client, blob: str, path: str | os.PathLike[str], progress: Progress = _nothing
) -> dict[str, Any]:
    """Read a file (`GROUP/KEY`, `task:NUMBER/KIND`, `sha256:HEX`) into `path`, which is whole or as it was.

    Its status. MgmtError `corrupt` when what came is not what was stored; OSError.
    """
    target = Path(path)
    partial = target.with_name(f".{target.name}.part")
    try:
        with partial.open("wb") as file:
            known = read(client, blob, file.write, progress)
        partial.rename(target)
    finally:
        partial.unlink(missing_ok=True)
    return known


def read(
    client: Client, blob: str, sink: Callable[[bytes], object], progress: Progress = _nothing
) -> dict[str, Any]:
    """Give all of a file to `sink`, part by part; its status. MgmtError as `download`, when all was given."""
    known: dict[str, Any] = client.request("blob-read", {"blob": blob, "limit": 0})["blob"]
    digest, size = known["digest"], known["bytes"]
    body = {"blob": blob, "digest": digest}
    client.request("blob-read", {**body, "limit": 0, "verify": True}, timeout_s=_time_for(size))
    sha, done = hashlib.sha256(), 0

    def once(moved: Progress) -> dict[str, Any]:
        nonlocal done
        asked = done
        under_way: deque[int] = deque()
        while done < size:
            while asked < size and len(under_way) < defaults.BLOB_WINDOW:
                under_way.append(client.submit("blob-read", {**body, "offset": asked}))
                asked += defaults.BLOB_CHUNK_BYTES
            data = client.collect(under_way.popleft())["data"]
            if not data:
                raise MgmtError("corrupt", f"{blob} ends after {done} of {size} bytes")
            sink(data)
            sha.update(data)
            done += len(data)
            moved(done, size)
        return known

    _patiently(once, size, progress, frozenset())
    if sha.hexdigest() != digest:
        raise MgmtError(
            "corrupt", f"what came of {blob} is sha256:{sha.hexdigest()}, and not sha256:{digest}"
        )
    return known


def _send(client: Client, file: BinaryIO, begun: dict[str, Any], size: int, moved: Progress) -> None:
    offset = done = begun["offset"]
    file.seek(offset)
    under_way: deque[int] = deque()
    moved(done, size)
    while done < size:
        while offset < size and len(under_way) < begun["window"]:
            data = file.read(min(begun["chunk_bytes"], size - offset))
            if not data:
                raise MgmtError("corrupt", "the file became shorter while it was read")
            body = {"upload": begun["upload"], "offset": offset, "data": data}
            under_way.append(client.submit("blob-chunk", body))
            offset += len(data)
        done = client.collect(under_way.popleft())["offset"]
        moved(done, size)


def _patiently(
    once: Callable[[Progress], dict[str, Any]], size: int, progress: Progress, again: frozenset[str]
) -> dict[str, Any]:
    """Once more when it was broken off, as long as something moves."""
    patience_until_s = time.monotonic() + PATIENCE_S

    def moved(done: int, total: int) -> None:
        nonlocal patience_until_s
        patience_until_s = time.monotonic() + PATIENCE_S
        progress(done, total)

    while True:
        try:
            return once(moved)
        except MgmtError as error:
            if not (error.row.retryable or error.code in again) or time.monotonic() > patience_until_s:
                raise
            time.sleep(PAUSE_S)


def _digest(file: BinaryIO) -> tuple[str, int]:
    sha, size = hashlib.sha256(), 0
    while block := file.read(READ_BYTES):
        sha.update(block)
        size += len(block)
    return sha.hexdigest(), size


def _time_for(size: int) -> float:
    """To look through so many bytes on a slow disk."""
    return defaults.REQUEST_TIMEOUT_S + size / 20e6
