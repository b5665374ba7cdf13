"""Units' logs as files, and reading them in pieces across rotation. Blocking: run it in a worker thread.

A log is FILE, which is written, FILE.1 and so on, which the shim has turned over, FILE.taken, which is being
compressed, and FILE.STAMP-INODE.gz: STAMP is the time of its last line, INODE the number it had before. Files
only move in this direction, so whoever looks in this order misses none.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from mgmt.protocol.errors import MgmtError

MAX_CHUNK_BYTES = 256 << 10  # fits into a control frame with room to spare
TRIES = 3  # a file that moves while it is looked for is looked for again
TAKEN = "taken"
_STAMP = "%Y%m%dT%H%M%S"
_ARCHIVE = re.compile(r"(\d{8}T\d{6})\.(\d{3})Z-(\d+)\.gz")


class Mark(NamedTuple):
    """At `at` (epoch seconds) the file `inode` was the one written, and had `size` bytes."""

    at: float
    inode: int
    size: int


class Moved(Exception):
    """The file is no longer where it was found."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One file of a log; `inode` and `written_s`, the time of its last line, survive its compression."""

    path: Path
    inode: int
    size: int
    written_s: float
    compressed: bool = False

    def read(self, offset: int, limit: int = MAX_CHUNK_BYTES) -> bytes:
        """What stands at `offset`; empty behind the end. Raises Moved, or OSError."""
        try:
            with self.path.open("rb") as file:
                if self.compressed:
                    with gzip.open(file) as unpacked:
                        unpacked.seek(offset)
                        return unpacked.read(limit)
                if os.fstat(file.fileno()).st_ino != self.inode:
                    raise Moved
                return os.pread(file.fileno(), limit, offset)
        except FileNotFoundError:
            raise Moved from None


def pieces(path: Path) -> list[Piece]:
    """The files of a log, the newest first; the first one is `path` itself when that exists."""
    prefix = f"{path.name}."
    numbers = [int(suffix) for suffix in _suffixes(path) if suffix.isdecimal()]
    # Two more than were seen: they may have moved on while we look.
    turned = [str(number) for number in range(1, max(numbers, default=0) + 3)]
    found: dict[int, Piece] = {}
    for name in (path.name, *(prefix + suffix for suffix in (*turned, TAKEN))):
        file = path.with_name(name)
        with contextlib.suppress(OSError):
            stat = file.stat()
            found.setdefault(stat.st_ino, Piece(file, stat.st_ino, stat.st_size, stat.st_mtime))
    # Listed again: what was not found under its number is an archive by now.
    for suffix in sorted(filter(_ARCHIVE.fullmatch, _suffixes(path)), reverse=True):
        written_s, inode = _of_archive(suffix)
        file = path.with_name(prefix + suffix)
        with contextlib.suppress(OSError):
            piece = Piece(file, inode, file.stat().st_size, written_s, compressed=True)
            # A number may be given again long after: then the older file of that number is not followed.
            found.setdefault(inode if inode not in found else -len(found), piece)
    return list(found.values())


def _suffixes(path: Path) -> list[str]:
    prefix = f"{path.name}."
    try:
        return [name[len(prefix) :] for name in os.listdir(path.parent) if name.startswith(prefix)]
    except FileNotFoundError:
        return []


def is_old(suffix: str) -> bool:
    """Whether `FILE.suffix` is an older file of a log FILE."""
    return suffix.isdecimal() or suffix == TAKEN or _ARCHIVE.fullmatch(suffix) is not None


def archive_name(path: Path, written_s: float, inode: int) -> str:
    """The name a compressed file of the log gets; names sort by time."""
    moment = datetime.fromtimestamp(written_s, UTC)
    return f"{path.name}.{moment.strftime(_STAMP)}.{moment.microsecond // 1000:03}Z-{inode}.gz"


def _of_archive(suffix: str) -> tuple[float, int]:
    match = _ARCHIVE.fullmatch(suffix)
    assert match is not None
    moment = datetime.strptime(match[1], _STAMP).replace(tzinfo=UTC)
    return moment.timestamp() + int(match[2]) / 1000, int(match[3])


def read_log(
    unit: str,
    path: Path,
    lines: int,
    offset: int | None,
    inode: int | None,
    since: float | None = None,
    marks: Sequence[Mark] = (),
) -> dict[str, Any]:
    """A LogChunk: the last `lines`, what was written from `since` on (epoch seconds; `marks` say where that
    is), or what follows `offset` of the file `inode`.

    When the file was turned over meanwhile, the rest of the old one is given first, then the next one.
    """
    for _ in range(TRIES):
        try:
            if offset is not None:
                data, at, file = _after(path, inode or 0, offset)
            elif since is not None:
                start = _position(path, since, marks)
                data, at, file = _after(path, *start) if start else (b"", 0, 0)
            else:
                data, at, file = _last_lines(path, lines)
            break
        except Moved:
            continue
        except (OSError, EOFError, OverflowError) as error:  # the last one: an offset that no file can have
            why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise MgmtError("not-available", f"the log of {unit} cannot be read: {path}: {why}") from None
    else:
        data, at, file = b"", offset or 0, inode or 0  # asked again soon
    return {"unit": unit, "path": str(path), "data": data, "offset": at, "inode": file}


def _after(path: Path, inode: int, offset: int) -> tuple[bytes, int, int]:
    """(data, where it ends, in which file) behind a place; from the start of FILE when its file is gone."""
    with contextlib.suppress(OSError):
        stat = path.stat()
        if stat.st_ino == inode:  # by far the most frequent case: nothing moved
            if stat.st_size < offset:
                offset = 0  # somebody emptied it
            data = Piece(path, inode, stat.st_size, stat.st_mtime).read(offset)
            return data, offset + len(data), inode
    found = pieces(path)
    if not found:
        return b"", offset, inode
    index = next((i for i, piece in enumerate(found) if piece.inode == inode), None)
    if index is None:
        index, offset = 0, 0
    while True:
        piece = found[index]
        data = piece.read(offset)
        if data or index == 0:
            return data, offset + len(data), piece.inode
        index, offset = index - 1, 0


def _last_lines(path: Path, lines: int) -> tuple[bytes, int, int]:
    """The last lines, as far as they fit into one chunk and are not compressed yet, and the place behind."""
    found = pieces(path)
    if not found:
        return b"", 0, 0
    data, end = b"", 0
    for index, piece in enumerate(found):
        room = MAX_CHUNK_BYTES - len(data)
        if piece.compressed or (index and (not room or data.count(b"\n") >= lines)):
            break
        start = max(0, piece.size - room)
        part = piece.read(start, piece.size - start)
        data, end = part + data, end or start + len(part)
    return b"".join(data.splitlines(keepends=True)[-lines:]) if lines else b"", end, found[0].inode


def _position(path: Path, since: float, marks: Sequence[Mark]) -> tuple[int, int] | None:
    """(inode, offset) of what was written from `since` on; rather too early than too late. None: no log."""
    found = pieces(path)
    if not found:
        return None
    before = next((mark for mark in reversed(marks) if mark.at <= since), None)
    if before is not None and any(piece.inode == before.inode for piece in found):
        return before.inode, before.size
    for piece in reversed(found):
        if piece.written_s >= since:
            return piece.inode, 0
    return found[0].inode, found[0].size
