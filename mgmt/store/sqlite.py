"""SQLite as the store: one writer thread, group commit, and a check that refuses instead of resetting.

Tables: `meta` (name, value), `events` (seq, record), and the others of TABLES (name, record);
values and records are msgpack behind a CRC-32, because SQLite notices damage of its structure, but not of what is
in it. The writer takes every batch that waits, commits them in one transaction, with a full sync when one of them
asks for it, and then tells each caller: what was acknowledged is on the disk.
"""

from __future__ import annotations

import os
import queue
import sqlite3
import threading
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mgmt.protocol import frames
from mgmt.protocol.errors import MgmtError
from mgmt.store.files import beside, defect_of, newer, write_durably

SCHEMA_VERSION = 8
ROWS_PER_INSERT = 100
CACHE_KIB = 256  # pages are written, and read again only by the next daemon
_SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE units (name TEXT PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE events (seq INTEGER PRIMARY KEY, record BLOB NOT NULL);
CREATE TABLE workloads (name TEXT PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE assignments (name TEXT PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE nodes (name TEXT PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE users (name TEXT PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE groups (name TEXT PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE tokens (name TEXT PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE outbox (name TEXT PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID;
"""
ACCOUNTS = ("users", "groups", "tokens")
TABLES = ("meta", "units", "events", "workloads", "assignments", "nodes", *ACCOUNTS, "outbox")
# What makes a file of an older version one of the next; never changed once it was released. The way back leaves
# the table where it is: the older version does not look at it, and the next way up finds it.
_MIGRATIONS = {
    1: "CREATE TABLE IF NOT EXISTS workloads (name TEXT PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID",
    2: "CREATE TABLE IF NOT EXISTS assignments (name TEXT PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID",
    3: "CREATE TABLE IF NOT EXISTS nodes (name TEXT PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID",
    4: "CREATE TABLE IF NOT EXISTS users (name TEXT PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID",
    5: "CREATE TABLE IF NOT EXISTS groups (name TEXT PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID",
    6: "CREATE TABLE IF NOT EXISTS tokens (name TEXT PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID",
    7: "CREATE TABLE IF NOT EXISTS outbox (name TEXT PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID",
}

# What reading a damaged file raises; the second when SQLite names garbage in its own words.
_DAMAGE = (sqlite3.DatabaseError, UnicodeDecodeError)

Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Batch:
    """Changes that become durable together. A record None: forget what has the name; `keep_events_from`: drop
    older ones; `accounts`: by table of ACCOUNTS.

    `synced` survives the machine; without, it survives this process, and the machine with the next that is.
    """

    meta: Record = field(default_factory=dict)
    units: Mapping[str, Record | None] = field(default_factory=dict)
    events: tuple[Record, ...] = ()
    keep_events_from: int = 0
    synced: bool = True
    workloads: Mapping[str, Record | None] = field(default_factory=dict)
    assignments: Mapping[str, Record | None] = field(default_factory=dict)
    nodes: Mapping[str, Record | None] = field(default_factory=dict)
    accounts: Mapping[str, Mapping[str, Record | None]] = field(default_factory=dict)
    outbox: Mapping[str, Record | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Restored:
    """Everything in the store; events in ascending order of `seq`, `accounts` by table, without empty ones."""

    meta: dict[str, Any]
    units: dict[str, dict[str, Any]]
    events: list[dict[str, Any]]
    workloads: dict[str, dict[str, Any]] = field(default_factory=dict)
    assignments: dict[str, dict[str, Any]] = field(default_factory=dict)
    nodes: dict[str, dict[str, Any]] = field(default_factory=dict)
    accounts: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    outbox: dict[str, dict[str, Any]] = field(default_factory=dict)


class SqliteStore:
    """The embedded store in one file of the state folder."""

    def __init__(self, path: Path) -> None:
        """Open or create; MgmtError `bad-store` names the exact reason and the recovery command.

        A file `PATH.id` says that there was a store: one that vanished or became empty is told from a first
        start and refused, never replaced by an empty store.
        """
        self.path = path
        self._queue: queue.SimpleQueue[tuple[Batch, Callable[[str], None]] | None] = queue.SimpleQueue()
        self._unwritten: list[Batch] = []
        self._syncs = True
        marker = beside(path, ".id")
        if any(part.exists() for part in (marker, path, beside(path, "-wal"))):
            defect = defect_of(path)
            if defect:
                raise self._refusal(defect)
        else:
            # In this order: whoever is killed in between leaves no half of a store, and no mark without one.
            _write_new(path, {}).rename(path)
        if not marker.exists():
            write_durably(marker, b"mgmt store\n")  # with the name of the new store, if there is one
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=1.0)
        try:
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute(f"PRAGMA cache_size=-{CACHE_KIB}")
            self._check()
            self._migrate()
        except (*_DAMAGE, MgmtError) as error:
            self._db.close()
            raise (error if isinstance(error, MgmtError) else self._refusal(str(error))) from None
        self._thread = threading.Thread(target=self._write, name="store", daemon=True)
        self._thread.start()

    def load(self) -> Restored:
        """Read everything; only before the first commit."""
        try:
            meta, units, workloads, assignments, nodes = (
                self._read(table) for table in ("meta", "units", "workloads", "assignments", "nodes")
            )
            accounts = {table: records for table in ACCOUNTS if (records := self._read(table))}
            rows = self._db.execute("SELECT seq, record FROM events ORDER BY seq")
            events = [_unpack(seq, row) for seq, row in rows]
            outbox = self._read("outbox")
            return Restored(meta, units, events, workloads, assignments, nodes, accounts, outbox)
        except (*_DAMAGE, MgmtError) as error:
            raise self._refusal(str(error)) from None

    def _read(self, table: str) -> dict[str, Any]:
        return {name: _unpack(name, row) for name, row in self._db.execute(f"SELECT * FROM {table}")}

    def commit(self, batch: Batch, done: Callable[[str], None]) -> None:
        """Queue a batch; `done` is called in the writer's thread, with "" once it is written (and synced).

        With a reason when that failed: the batch is then written before the next one, when that succeeds.
        """
        self._queue.put((batch, done))

    def close(self) -> None:
        """Write what is queued, then close."""
        self._queue.put(None)
        self._thread.join()
        self._db.close()

    # ---- the writer ----

    def _write(self) -> None:
        while self._write_waiting():
            pass

    def _write_waiting(self) -> bool:
        """Wait for a batch, and commit it with all others that wait; False when it was the last.

        A call of its own: the writer keeps no batch while it waits for the next.
        """
        item = self._queue.get()
        batches: list[tuple[Batch, Callable[[str], None]]] = []
        while item is not None:
            batches.append(item)
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                break
        if batches:
            self._commit(batches)
        return item is not None

    def _commit(self, batches: list[tuple[Batch, Callable[[str], None]]]) -> None:
        db, failure = self._db, ""
        wanted = [*self._unwritten, *(batch for batch, _ in batches)]
        synced = any(batch.synced for batch in wanted)
        try:
            if synced is not self._syncs:
                db.execute(f"PRAGMA synchronous={'FULL' if synced else 'NORMAL'}")
                self._syncs = synced
            db.execute("BEGIN IMMEDIATE")
            for batch in wanted:
                _apply(db, batch)
            db.execute("COMMIT")
        except sqlite3.Error as error:
            # A full disk, most likely. Supervision must go on; whoever asked is told that it may be forgotten.
            failure = str(error)
            if db.in_transaction:
                db.execute("ROLLBACK")
        self._unwritten = _merged(wanted) if failure else []
        for _, done in batches:
            done(failure)

    # ---- opening ----

    def _check(self) -> None:
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            raise newer(f"the store {self.path}", version, SCHEMA_VERSION, "--state")
        if version != SCHEMA_VERSION and version not in _MIGRATIONS:
            raise self._refusal(f"it has schema version {version}, this daemon reads {SCHEMA_VERSION}")
        result = self._db.execute("PRAGMA integrity_check(1)").fetchone()[0]
        if result != "ok":
            raise self._refusal(result)

    def _migrate(self) -> None:
        """Bring an older file up to date in one transaction: a daemon that is killed meanwhile changed nothing."""
        db = self._db
        if db.execute("PRAGMA user_version").fetchone()[0] == SCHEMA_VERSION:
            return
        db.execute("BEGIN IMMEDIATE")
        try:
            for version in range(db.execute("PRAGMA user_version").fetchone()[0], SCHEMA_VERSION):
                db.execute(_MIGRATIONS[version])
            db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
            db.execute("COMMIT")
        except sqlite3.Error:
            db.execute("ROLLBACK")
            raise

    def _refusal(self, reason: str) -> MgmtError:
        return MgmtError(
            "bad-store",
            f"the store {self.path} is damaged: {reason}\n"
            f"Nothing was changed. `mgmt store recover` saves what can still be read into a new store and keeps "
            "the damaged file beside it.",
            path=str(self.path),
            reason=reason,
        )


def downgrade(path: Path, version: int) -> None:
    """Make a sound store, which nobody has open, one of an older schema version; nothing in it is lost."""
    SqliteStore(path).close()
    db = sqlite3.connect(path, isolation_level=None)
    try:
        db.execute("PRAGMA synchronous=FULL")
        db.execute(f"PRAGMA user_version={version}")
    finally:
        db.close()


def recover(path: Path, stamp: str) -> dict[str, int]:
    """Move the damaged store to `PATH.damaged-STAMP` and save what is readable into a new one; rows by table."""
    saved: dict[str, list[tuple[Any, ...]]] = {table: [] for table in TABLES}
    if path.exists():
        try:
            old = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
            for table, rows in saved.items():
                _salvage(old, table, rows)
            old.close()
        except _DAMAGE:
            pass  # nothing readable: the new store starts empty, which the counts say
    new = _write_new(path, saved)
    aside = beside(path, f".damaged-{stamp}")
    if path.exists():
        os.link(path, aside)
    for suffix in ("-wal", "-shm"):  # away before the new one has the name: they are not its own
        part = beside(path, suffix)
        if part.exists():
            part.rename(beside(aside, suffix))
    new.rename(path)
    SqliteStore(path).close()
    return {table: len(rows) for table, rows in saved.items()}


def _write_new(path: Path, rows: Mapping[str, list[tuple[Any, ...]]]) -> Path:
    """A store with these rows by table, on the disk beside `path`: it gets its name when it is complete."""
    new = beside(path, ".new")
    for suffix in ("", "-journal"):
        beside(new, suffix).unlink(missing_ok=True)
    db = sqlite3.connect(new, isolation_level=None)
    try:
        db.execute("PRAGMA synchronous=FULL")
        db.execute("BEGIN")
        for statement in _SCHEMA.strip().split(";"):
            db.execute(statement)
        for table, values in rows.items():
            db.executemany(f"INSERT OR REPLACE INTO {table} VALUES (?, ?)", values)
        db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        db.execute("COMMIT")
    finally:
        db.close()
    return new


def _salvage(db: sqlite3.Connection, table: str, rows: list[tuple[Any, ...]]) -> None:
    """Row by row until the first damaged page."""
    try:
        for row in db.execute(f"SELECT * FROM {table}"):
            _unpack(*row)
            rows.append(row)
    except (*_DAMAGE, MgmtError):
        return


def _apply(db: sqlite3.Connection, batch: Batch) -> None:
    if batch.meta:
        rows = [(name, _pack(name, value)) for name, value in batch.meta.items()]
        db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", rows)
    _put(db, "units", batch.units)
    _put(db, "workloads", batch.workloads)
    _put(db, "assignments", batch.assignments)
    _put(db, "nodes", batch.nodes)
    for table, records in batch.accounts.items():
        _put(db, table, records)
    _put(db, "outbox", batch.outbox)
    _insert(db, "events", [(event["seq"], _pack(event["seq"], event)) for event in batch.events])
    if batch.keep_events_from:
        db.execute("DELETE FROM events WHERE seq < ?", (batch.keep_events_from,))


def _put(db: sqlite3.Connection, table: str, records: Mapping[str, Record | None]) -> None:
    gone = [(name,) for name, record in records.items() if record is None]
    if gone:
        db.executemany(f"DELETE FROM {table} WHERE name = ?", gone)
    _insert(
        db, table, [(name, _pack(name, record)) for name, record in records.items() if record is not None]
    )


def _insert(db: sqlite3.Connection, table: str, rows: Sequence[tuple[Any, bytes]]) -> None:
    """In few statements: each row of its own takes the interpreter's lock from the loop, and gives it back."""
    for start in range(0, len(rows), ROWS_PER_INSERT):
        some = rows[start : start + ROWS_PER_INSERT]
        values = ", ".join(["(?, ?)"] * len(some))
        parameters = [value for row in some for value in row]
        db.execute(f"INSERT OR REPLACE INTO {table} VALUES {values}", parameters)


def _pack(key: str | int, value: Any) -> bytes:
    data = frames.pack(value)
    return _sum(key, data) + data


def _unpack(key: str | int, stored: object) -> Any:
    """The value; MgmtError when it is not what was stored under this key."""
    if not isinstance(stored, bytes) or stored[:4] != _sum(key, stored[4:]):
        raise MgmtError("bad-store", f"the checksum of {key!r} is wrong")
    return frames.unpack(stored[4:])


def _sum(key: str | int, data: bytes) -> bytes:
    return zlib.crc32(data, zlib.crc32(str(key).encode())).to_bytes(4, "big")


def _merged(batches: list[Batch]) -> list[Batch]:
    """One batch with the last word of each: what could not be written does not grow with every try."""
    meta: dict[str, Any] = {}
    units: dict[str, Record | None] = {}
    workloads: dict[str, Record | None] = {}
    assignments: dict[str, Record | None] = {}
    nodes: dict[str, Record | None] = {}
    accounts: dict[str, dict[str, Record | None]] = {}
    outbox: dict[str, Record | None] = {}
    events: list[Record] = []
    keep, synced = 0, False
    for batch in batches:
        synced |= batch.synced
        meta |= batch.meta
        units |= batch.units
        workloads |= batch.workloads
        assignments |= batch.assignments
        nodes |= batch.nodes
        for table, records in batch.accounts.items():
            accounts.setdefault(table, {}).update(records)
        outbox |= batch.outbox
        events += batch.events
        keep = max(keep, batch.keep_events_from)
    kept = tuple(event for event in events if event["seq"] >= keep)
    return [Batch(meta, units, kept, keep, synced, workloads, assignments, nodes, accounts, outbox)]
