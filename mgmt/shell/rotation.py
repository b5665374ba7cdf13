"""Looking after units' logs: turning old ones over, compressing what was turned over, keeping few enough.

The shim writes a log and turns it over, when it is full or when it is told to (`rotate`), so that no two turn
it over at once. What it left behind is ours: `look` runs every few seconds in a worker thread.
"""

from __future__ import annotations

import contextlib
import ctypes
import gzip
import logging
import os
import shutil
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mgmt.shell.logs import TAKEN, Mark, archive_name, is_old, pieces

log = logging.getLogger("mgmt.shell.rotation")

MAX_MARKS = 128  # of one log; when there are more, every second of the older half goes
LEVEL = 6  # of gzip: 9 takes three times as long for a hundredth less


@dataclass(frozen=True, slots=True)
class Watched:
    """A unit's log and what its settings say of it."""

    unit: str
    max_age_s: float | None
    compress: bool
    keep: int


class Rotation:
    """The marks of all logs, and what is done about their age; `log_path` maps a unit to its file."""

    def __init__(self, log_path: Callable[[str], Path]) -> None:
        self._log_path = log_path
        self._marks: dict[str, list[Mark]] = {}
        self._failed: set[str] = set()  # units whose last compression failed: said once
        self._counted: tuple[Sequence[Watched], dict[Path, int]] = (
            (),
            {},
        )  # for whom nothing was left to remove

    def marks(self, unit: str) -> tuple[Mark, ...]:
        """When the log had which size, oldest first; may be asked from any thread."""
        return tuple(self._marks.get(unit, ()))

    def look(self, watched: Sequence[Watched], now_s: float) -> list[str]:
        """Note sizes, compress and remove; the units whose log is older than they want. Blocks."""
        known = {one.unit for one in watched}
        for unit in self._marks.keys() - known:
            del self._marks[unit]
        old = [one.unit for one in watched if self._look_at(one, now_s)]
        self._remove_surplus(watched)
        return old

    def _look_at(self, one: Watched, now_s: float) -> bool:
        path = self._log_path(one.unit)
        if one.compress and (_beside(path, "1").exists() or _beside(path, TAKEN).exists()):
            self._compress_turned(one.unit, path)
        try:
            stat = path.stat()
        except OSError:
            return False
        marks = self._marks.setdefault(one.unit, [])
        if not marks or marks[-1][1:] != (stat.st_ino, stat.st_size):
            marks.append(Mark(now_s, stat.st_ino, stat.st_size))
            if len(marks) > MAX_MARKS:
                self._marks[one.unit] = thinned(marks)
        if one.max_age_s is None or not stat.st_size:
            return False
        born_s = birth_s(path)
        if born_s is None:
            born_s = next(mark.at for mark in marks if mark.inode == stat.st_ino)
        return now_s - born_s >= one.max_age_s

    def _remove_surplus(self, watched: Sequence[Watched]) -> None:
        """The shim removes what it turned over once too often; archives, and files of a time when more were
        kept, are ours. Folders are read when something in them changed.
        """
        logs = {self._log_path(one.unit): one.keep for one in watched}
        changed_ns = {folder: _changed_ns(folder) for folder in {path.parent for path in logs}}
        if (watched, changed_ns) == self._counted:
            return
        counts = Counter(path for folder in changed_ns for path in _old_files(folder))
        for path, keep in logs.items():
            if counts[path] > keep:
                remove_surplus(path, keep)
        self._counted = watched, changed_ns

    def _compress_turned(self, unit: str, path: Path) -> None:
        try:
            compress_turned(path)
        except OSError as error:
            if unit not in self._failed:
                self._failed.add(unit)
                log.warning("%s: its old logs stay uncompressed for now: %s", unit, error.strerror)
        else:
            self._failed.discard(unit)


def thinned(marks: list[Mark]) -> list[Mark]:
    """Without every second one of the older half: the further back, the coarser."""
    half = len(marks) // 2
    return marks[:half:2] + marks[half:]


def _changed_ns(folder: Path) -> int:
    try:
        return folder.stat().st_mtime_ns
    except OSError:
        return 0


def _old_files(folder: Path) -> Iterator[Path]:
    """For every older file in the folder, the log it is of."""
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            log_name, dot, suffix = name.rpartition(".log.")
            if dot and is_old(suffix):
                yield folder / f"{log_name}.log"


def remove_surplus(path: Path, keep: int) -> None:
    """Of the older files of a log, compressed or not, keep the newest `keep`."""
    old = [piece for piece in pieces(path) if piece.path != path]
    for piece in old[keep:]:
        # If the shim turns over meanwhile, the name has a newer file, but one that is as far back by then.
        with contextlib.suppress(OSError):
            piece.path.unlink()


def compress_turned(path: Path) -> None:
    """Compress every file of a log that was turned over, the oldest first. OSError."""
    waiting = [piece for piece in pieces(path) if piece.path != path and not piece.compressed]
    taken = _beside(path, TAKEN)
    for piece in reversed(waiting):
        if piece.path != taken:
            # At one stroke, whatever has the name now: the shim may turn over at any moment.
            with contextlib.suppress(FileNotFoundError):
                piece.path.rename(taken)
        if taken.exists():
            _compress(path, taken)


def _compress(path: Path, taken: Path) -> None:
    """Replace a taken file by its archive, which is complete and on the disk before the file goes."""
    stat = taken.stat()
    archive = path.with_name(archive_name(path, stat.st_mtime, stat.st_ino))
    part = archive.with_name(f"{archive.name}.part")
    try:
        with taken.open("rb") as source, part.open("wb") as target:
            os.fchmod(target.fileno(), stat.st_mode & 0o777)
            with gzip.GzipFile(filename="", mode="wb", compresslevel=LEVEL, fileobj=target) as packed:
                shutil.copyfileobj(source, packed, 1 << 18)
            target.flush()
            os.fsync(target.fileno())
        part.rename(archive)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    taken.unlink()


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(f"{path.name}.{suffix}")


_AT_FDCWD = -100
_STATX_BTIME = 0x800
_STATX_BYTES, _BTIME_OFFSET = 256, 80  # of the kernel's struct; the mask of what is known stands first


def birth_s(path: Path) -> float | None:
    """When the file was made, in epoch seconds; None where the file system does not say."""
    try:
        statx = ctypes.CDLL(None, use_errno=True).statx
    except AttributeError:
        return None
    raw = ctypes.create_string_buffer(_STATX_BYTES)
    if statx(_AT_FDCWD, os.fsencode(path), 0, _STATX_BTIME, raw) != 0:
        return None
    (mask,) = struct.unpack_from("=I", raw)
    seconds, nanoseconds = struct.unpack_from("=qI", raw, _BTIME_OFFSET)
    return float(seconds + nanoseconds / 1e9) if mask & _STATX_BTIME else None
