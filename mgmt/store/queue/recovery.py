"""What can still be read of a damaged queue, in a new one whose counters and references hold again.

Rows are read by their numbers, so that a page that cannot be read costs what was on it and nothing else. What
refers to something that is lost is put right by the rules of `mending`; how often each was needed is told.
"""

from __future__ import annotations

import secrets
import shutil
import sqlite3
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mgmt.protocol.errors import MgmtError
from mgmt.store.files import beside, write_durably
from mgmt.store.queue import sqlite, tables
from mgmt.store.queue.mending import mend

_DAMAGE = (sqlite3.DatabaseError, UnicodeDecodeError)
_PAGE_BYTES = 4096
_ROWS_PER_PAGE = 200  # more than any table has
_MAX_PROBES = 200_000  # of single numbers in a table; then the rest of it counts as lost
_NUMBERED = {  # tables whose rows have the numbers of a sequence
    "lanes": "lane",
    "suites": "lane",
    "submissions": "task",
    "tasks": "task",
    "retries": "task",
    "holders": "holder",
    "uploads": "upload",
}


@dataclass(slots=True)
class Salvage:
    """`rows`: saved, by table. `gaps`: numbers that cannot be read any more, first and last, by table: there may
    have been rows. `mended`: sentences about what was put right."""

    rows: dict[str, int] = field(default_factory=dict)
    gaps: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    mended: list[str] = field(default_factory=list)


def recover(path: Path, stamp: str) -> Salvage:
    """Save what is readable into a new queue; the old files become `PATH.damaged-STAMP`, with their suffixes.

    MgmtError `bad-store` when the new one cannot be written, for want of space above all: nothing is changed then.
    """
    found = Salvage()
    new, patched = beside(path, ".new"), beside(path, ".patched")
    try:
        rows, numbers, queue_id = _read(path, patched, found)
        _write(new, rows, numbers, queue_id, found)
        marker = beside(path, ".id")
        if not marker.exists():
            write_durably(marker, b"mgmt queue\n")
    except (sqlite3.Error, OSError) as error:
        for part in (new, beside(new, "-journal")):
            part.unlink(missing_ok=True)
        text = (
            f"{new} cannot be written: {error}; nothing was changed. It takes about as much space as {path}: make "
            "some, and repeat the command"
        )
        raise MgmtError("bad-store", text, path=str(path)) from None
    finally:
        patched.unlink(missing_ok=True)
    aside = beside(path, f".damaged-{stamp}")
    if path.exists():
        aside.hardlink_to(path)
    for suffix in ("-wal", "-shm"):  # away before the new one has the name: they are not its own
        part = beside(path, suffix)
        if part.exists():
            part.rename(beside(aside, suffix))
    new.rename(path)
    sqlite.SqliteEngine(path).open().close()
    return found


# ---- reading ---------------------------------------------------------------------------------------------


def _read(
    path: Path, patched: Path, found: Salvage
) -> tuple[dict[str, list[tuple[Any, ...]]], dict[str, int], int]:
    """Rows by table, the last number of each sequence (none where that is lost), and the queue's id."""
    db, known = _open(path, patched, found)
    rows: dict[str, list[tuple[Any, ...]]] = {name: [] for name in tables.NAMES}
    if db is None:
        return rows, {}, 0
    with closing(db):
        most = (path.stat().st_size // _PAGE_BYTES + 1) * _ROWS_PER_PAGE
        kept, _ = _rows_of(db, "numbers", most)
        numbers = {row[0]: row[1] for row in kept if isinstance(row[1], int)}
        for name in known:
            last = numbers.get(_NUMBERED.get(name, ""))
            rows[name], found.gaps[name] = _rows_of(db, name, most, last)
    found.gaps = {name: gaps for name, gaps in found.gaps.items() if gaps}
    meta = dict(rows.pop("meta"))
    if "version" in meta and int(meta["version"]) > tables.SCHEMA_VERSION:
        tables.check_version(int(meta["version"]), str(path))  # which says what to do
    return rows, numbers, int(meta.get("queue_id", 0))


def _open(path: Path, patched: Path, found: Salvage) -> tuple[sqlite3.Connection | None, list[str]]:
    """To read it; with the first page of an empty queue when its own tells nothing: all are laid out alike."""
    if not path.exists() or path.stat().st_size < 2 * _PAGE_BYTES:
        return None, []
    for file in (path, patched):
        if file is patched:
            shutil.copyfile(path, patched)
            _patch(patched)
            found.mended.append("the first page is that of an empty queue")
        db = sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)
        try:
            db.execute("PRAGMA writable_schema=ON")  # else a file that is too short is not read at all
            known = {name for (name,) in db.execute("SELECT name FROM sqlite_master")}
            if known >= {"meta", "lanes", "suites", "tasks"}:  # an older one has not all of them
                return db, [name for name in tables.NAMES if name in known]
        except _DAMAGE:
            pass
        db.close()
    return None, []


def _patch(path: Path) -> None:
    empty = beside(path, ".empty")
    sqlite.create(empty, 0)
    first = bytearray(empty.read_bytes()[:_PAGE_BYTES])
    empty.unlink()
    first[28:32] = (path.stat().st_size // _PAGE_BYTES).to_bytes(4, "big")
    first[32:40] = bytes(8)  # no free pages are known
    with path.open("r+b") as file:
        file.write(first)


def _rows_of(
    db: sqlite3.Connection, table: str, most: int, last: int | None = None
) -> tuple[list[tuple[Any, ...]], list[tuple[int, int]]]:
    """Its rows, and the spans of numbers that cannot be read."""
    rows: list[tuple[Any, ...]] = []
    gaps: list[tuple[int, int]] = []
    probes = 0
    if last is None:
        last = most
        try:
            last = db.execute(f"SELECT max(rowid) FROM {table}").fetchone()[0] or 0
        except _DAMAGE:
            pass
    spans = [(1, last)]
    while spans:
        low, high = spans.pop()
        try:
            for row in db.execute(
                f"SELECT rowid, * FROM {table} WHERE rowid BETWEEN ? AND ? ORDER BY rowid", (low, high)
            ):
                low = row[0] + 1
                rows.append(row[1:])
            continue
        except _DAMAGE:
            pass
        if low > high:
            continue
        probes += 1
        if low == high or probes > _MAX_PROBES:
            if gaps and gaps[-1][1] + 1 == low:
                gaps[-1] = gaps[-1][0], high
            else:
                gaps.append((low, high))
            continue
        middle = (low + high) // 2
        spans += [(middle + 1, high), (low, middle)]
    return rows, gaps


# ---- writing ---------------------------------------------------------------------------------------------


def _write(
    new: Path,
    rows: Mapping[str, list[tuple[Any, ...]]],
    numbers: Mapping[str, int],
    queue_id: int,
    found: Salvage,
) -> None:
    """A whole queue at `new`, on the disk."""
    if not queue_id:
        found.mended.append(
            "the queue has a new id: suites and tasks keep their numbers and have other UUIDs"
        )
    sqlite.create(new, queue_id or secrets.randbits(64))
    with closing(sqlite3.connect(new, isolation_level=None)) as db:
        db.execute("PRAGMA synchronous=FULL")
        db.execute("BEGIN")
        for table, values in rows.items():
            if values:
                db.executemany(
                    f"INSERT OR IGNORE INTO {table} VALUES ({', '.join('?' * len(values[0]))})", values
                )
        found.mended += mend(db)
        for name in tables.SEQUENCES:
            # A number that was used once must not be used again: holders elsewhere may have it.
            if name not in numbers:
                found.mended.append(f"the count of the {name}s is lost: numbers go on far above those used")
            last = numbers.get(name, int(time.time()))
            db.execute("UPDATE numbers SET last = max(?, last) WHERE name = ?", (last, name))
        found.rows = {
            table: db.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
            for table in ("suites", "tasks", "submissions", "holders", "blobs", "candidate_rows")
        }
        db.execute("COMMIT")
