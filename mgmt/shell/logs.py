"""Reading units' logs in pieces, across rotation. Blocking: run it in a worker thread."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from mgmt.protocol.errors import MgmtError

MAX_CHUNK_BYTES = 256 << 10  # fits into a control frame with room to spare


def read_log(unit: str, path: Path, lines: int, offset: int | None, inode: int | None) -> dict[str, Any]:
    """A LogChunk: the last `lines`, or what follows `offset` of the file `inode`.

    When the file was rotated since, the rest of the old one is given first, then the new one from its start.
    """
    try:
        return _read(unit, path, lines, offset, inode)
    except FileNotFoundError:
        return {"unit": unit, "path": str(path), "data": b"", "offset": 0, "inode": 0}
    except (OSError, OverflowError) as error:  # the latter: an offset that no file can have
        why = error.strerror if isinstance(error, OSError) else f"there is no offset {offset}"
        raise MgmtError("not-available", f"the log of {unit} cannot be read: {path}: {why}") from None


def _read(unit: str, path: Path, lines: int, offset: int | None, inode: int | None) -> dict[str, Any]:
    with path.open("rb") as file:
        here = os.fstat(file.fileno()).st_ino
        if offset is None:
            data, offset = _last_lines(file.fileno(), lines)
        elif inode not in (None, 0, here):
            rest = _rest_of_rotated(path, inode or 0, offset)
            if rest:
                return {
                    "unit": unit,
                    "path": str(path),
                    "data": rest,
                    "offset": offset + len(rest),
                    "inode": inode,
                }
            data = os.pread(file.fileno(), MAX_CHUNK_BYTES, 0)
            offset = len(data)
        else:
            data = os.pread(file.fileno(), MAX_CHUNK_BYTES, offset)
            offset += len(data)
    return {"unit": unit, "path": str(path), "data": data, "offset": offset, "inode": here}


def _last_lines(fd: int, lines: int) -> tuple[bytes, int]:
    """The last lines, as far as they fit into one chunk, and the offset of the end."""
    end = os.fstat(fd).st_size
    start = max(0, end - MAX_CHUNK_BYTES)
    data = os.pread(fd, end - start, start)
    pieces = data.splitlines(keepends=True)
    return b"".join(pieces[-lines:]) if lines else b"", end


def _rest_of_rotated(path: Path, inode: int, offset: int) -> bytes:
    for old in path.parent.glob(f"{path.name}.*"):
        try:
            if old.stat().st_ino == inode:
                with old.open("rb") as file:
                    return os.pread(file.fileno(), MAX_CHUNK_BYTES, offset)
        except OSError:
            continue
    return b""
