"""Files of a store: written durably, and looked at before SQLite would repair or replace them."""

from __future__ import annotations

import os
from pathlib import Path

from mgmt.protocol.errors import MgmtError

_HEADER = b"SQLite format 3\x00"


def beside(path: Path, suffix: str) -> Path:
    """A file that belongs to `path`."""
    return path.with_name(path.name + suffix)


def defect_of(path: Path) -> str:
    """Why this is not a whole SQLite file, "" when it seems to be one.

    What SQLite would take for a new database, or repair silently, is found here.
    """
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return "the file is gone, although it was created once"
    with path.open("rb") as file:
        header = file.read(100)
    if len(header) < 100 or not header.startswith(_HEADER):
        return f"the file has {size} bytes and no SQLite header"
    wal = beside(path, "-wal")
    if wal.exists() and wal.stat().st_size:
        return ""  # whoever was killed while it was copied into the file left any part of that; SQLite repeats it
    page_bytes = int.from_bytes(header[16:18], "big")
    page_bytes = 65536 if page_bytes == 1 else page_bytes
    pages = int.from_bytes(header[28:32], "big")
    if not page_bytes or size % page_bytes or size < pages * page_bytes:
        return f"the file has {size} bytes, its header says {pages} pages of {page_bytes}"
    return ""


def newer(what: str, version: int, ours: int, option: str) -> MgmtError:
    """The refusal of a store that a newer program wrote; `option`: of `mgmt store downgrade`."""
    return MgmtError(
        "bad-store",
        f"{what} was written by a newer mgmt: it has schema version {version}, this one reads {ours}.\n"
        "Nothing was changed. Start the newer one again; or, to go back for good, have the newer one run "
        f"`mgmt store downgrade {option} {ours}` while no daemon or agent uses it.",
        version=version,
        reads=ours,
    )


def write_durably(path: Path, data: bytes) -> None:
    """Create or replace the file; it and its name are on the disk afterwards."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, data)
        os.fsync(fd)
    finally:
        os.close(fd)
    folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
