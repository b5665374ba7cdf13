"""The queue in one SQLite file: WAL, a full sync with each commit, one writer."""

from __future__ import annotations

import json
import secrets
import sqlite3
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from mgmt.protocol.errors import MgmtError
from mgmt.store.files import beside, defect_of, write_durably
from mgmt.store.queue import tables
from mgmt.store.queue.connection import Rows

_TYPES = {"int": "INTEGER", "key": "INTEGER", "blob": "BLOB"}
_CACHE_KIB = 16 << 10  # pages of tasks that are about to be claimed and committed
_CHECKPOINT_PAGES = 4000  # between copies into the file, each of which costs two more syncs
_PAGE_BYTES = 4096
_VALUES_PER_INSERT = 30_000  # SQLite takes 32766
_BUSY_S = 5.0  # a reader that recovers the log after a crash holds the file for that long at most
_DAMAGE = (sqlite3.DatabaseError, UnicodeDecodeError, KeyError, ValueError)
_PASSING = ("SQLITE_BUSY", "SQLITE_LOCKED")


class SqliteConnection:
    """See `Connection`."""

    AMONG = "IN (SELECT value FROM json_each(?))"
    LOCK = ""
    SKIP = ""
    failures: tuple[type[Exception], ...] = (sqlite3.Error,)

    def __init__(self, path: Path, reads_only: bool = False) -> None:
        uri = f"{path.absolute().as_uri()}?mode={'ro' if reads_only else 'rw'}"
        self._db = sqlite3.connect(
            uri,
            uri=True,
            isolation_level=None,
            check_same_thread=False,
            timeout=_BUSY_S,
            cached_statements=256,
        )
        self.writes = 0
        self._reads_only = reads_only
        self._begin = "BEGIN" if reads_only else "BEGIN IMMEDIATE"
        self._db.execute("PRAGMA temp_store=MEMORY")
        if not reads_only:
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")
            self._db.execute(f"PRAGMA wal_autocheckpoint={_CHECKPOINT_PAGES}")

    def make_room(self) -> None:
        """A transaction that does not fit the cache spills into the log; rolled back, it leaves only room."""
        if self._reads_only:
            return
        self._db.execute("PRAGMA cache_size=10")
        try:
            self.begin()
            room = (_CHECKPOINT_PAGES * _PAGE_BYTES,)
            self._db.execute("INSERT INTO meta (name, value) VALUES ('room', zeroblob(?))", room)
        except sqlite3.Error:
            pass  # without it commits take longer, or the first one says what is wrong
        self.rollback()
        self._db.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")

    def begin(self) -> None:
        self.writes = 0
        self._db.execute(self._begin)

    def commit(self) -> None:
        self._db.execute("COMMIT")

    def rollback(self) -> None:
        try:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
        except sqlite3.Error:
            pass  # SQLite has rolled back by itself

    def close(self) -> None:
        self._db.close()

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> Rows:
        return self._db.execute(sql, parameters).fetchall()

    def change(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        self.writes += 1
        return self._db.execute(sql, parameters).rowcount

    def changed(self, sql: str, parameters: Sequence[Any] = ()) -> Rows:
        self.writes += 1
        return self._db.execute(sql, parameters).fetchall()

    def many(self, sql: str, rows: Sequence[Sequence[Any]]) -> int:
        self.writes += 1
        return self._db.executemany(sql, rows).rowcount

    def insert(self, table: str, columns: str, rows: Sequence[Sequence[Any]]) -> None:
        """In few statements: each takes the interpreter's lock from the loop, and gives it back."""
        self.writes += 1
        at_once = _VALUES_PER_INSERT // len(rows[0]) if rows else 1
        for start in range(0, len(rows), at_once):
            some = rows[start : start + at_once]
            self._db.execute(
                _insertion(table, columns, len(some), len(some[0])), [value for row in some for value in row]
            )

    def ids(self, numbers: Iterable[int]) -> str:
        return json.dumps(list(numbers))

    def take(self, name: str, count: int) -> int:
        self.writes += 1
        sql = "UPDATE numbers SET last = last + ? WHERE name = ? RETURNING last"
        last: int = self._db.execute(sql, (count, name)).fetchall()[0][0]
        return last - count + 1

    def is_passing(self, error: Exception) -> bool:
        return isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorname", "").startswith(
            _PASSING
        )


@lru_cache(maxsize=64)
def _insertion(table: str, columns: str, rows: int, width: int) -> str:
    row = f"({', '.join('?' * width)})"
    return f"INSERT INTO {table} ({columns}) VALUES {', '.join([row] * rows)}"


class SqliteEngine:
    """The queue of one daemon, in the file `path` of its state folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.queue_id = 0  # known once it is open

    def open(self) -> SqliteConnection:
        """The connection that writes; creates the file or brings it up to date.

        MgmtError `bad-store` names the exact reason. A file `PATH.id` says that there was a queue: one that
        vanished or became empty is told from a first start and refused, never replaced by an empty one.
        """
        marker = beside(self.path, ".id")
        if any(part.exists() for part in (marker, self.path, beside(self.path, "-wal"))):
            defect = defect_of(self.path)
            if defect:
                raise self._refusal(defect)
        else:
            new = beside(self.path, ".new")
            create(new, secrets.randbits(64))
            new.rename(self.path)
        if not marker.exists():
            write_durably(marker, b"mgmt queue\n")
        connection = None
        try:
            connection = SqliteConnection(self.path)
            self.queue_id, version = tables.identity(connection)
            tables.check_version(version, str(self.path))
            tables.migrate(connection, _TYPES, version, tables.SCHEMA_VERSION)
            defect = connection.rows("PRAGMA quick_check(1)")[0][0]
            if defect != "ok":
                raise self._refusal(defect)
        except (*_DAMAGE, MgmtError) as error:
            if connection is not None:
                connection.close()
            raise (error if isinstance(error, MgmtError) else self._refusal(str(error))) from None
        return connection

    def downgrade(self, version: int) -> None:
        """Make it one of an older version, once nobody has it open; see `tables.MIGRATIONS`."""
        connection = self.open()
        try:
            tables.migrate(connection, _TYPES, tables.SCHEMA_VERSION, version)
        finally:
            connection.close()

    def open_reader(self) -> SqliteConnection:
        """A connection that only reads, beside the one that writes."""
        return SqliteConnection(self.path, reads_only=True)

    def _refusal(self, reason: str) -> MgmtError:
        return MgmtError(
            "bad-store",
            f"the queue {self.path} is damaged: {reason}\n"
            "Nothing was changed. `mgmt store recover` saves what can still be read into a new queue, says what "
            "is lost, and keeps the damaged file beside it; or put a copy from before in its place.",
            path=str(self.path),
            reason=reason,
        )


def create(path: Path, queue_id: int) -> None:
    """An empty queue. It gets its real name later: whoever is killed in between leaves no half of one."""
    for suffix in ("", "-journal"):
        beside(path, suffix).unlink(missing_ok=True)
    db = sqlite3.connect(path, isolation_level=None)
    try:
        db.execute("PRAGMA synchronous=FULL")
        db.execute("BEGIN")
        for statement in tables.creation(_TYPES, queue_id):
            db.execute(statement)
        db.execute("CREATE TABLE numbers (name TEXT PRIMARY KEY, last INTEGER NOT NULL)")
        for name in tables.SEQUENCES:
            db.execute("INSERT INTO numbers VALUES (?, 0)", (name,))
        db.execute("COMMIT")
    finally:
        db.close()
