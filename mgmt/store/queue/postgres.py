"""The queue in a PostgreSQL schema, for several daemons at once: rows are locked, and claims skip locked ones."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import psycopg
from psycopg import errors, sql

from mgmt.protocol.errors import MgmtError
from mgmt.store.queue import tables
from mgmt.store.queue.connection import Rows

_TYPES = {"int": "BIGINT", "key": "BIGINT", "blob": "BYTEA"}
_CONNECT_S = 5
_LOCK_MS = 2000  # two daemons that wait for each other; whoever gives up tries again
_CREATION_LOCK = 0x6D676D74  # among the advisory locks of the database
# Sequences give single numbers. Numbers in a row take a lock, for the length of this call and no longer.
_TAKE = """
CREATE FUNCTION take(wanted TEXT, count BIGINT) RETURNS BIGINT LANGUAGE plpgsql AS $$
DECLARE
    last BIGINT;
BEGIN
    PERFORM pg_advisory_lock(wanted::regclass::oid::bigint);
    last := setval(wanted::regclass, nextval(wanted::regclass) + count - 1);
    PERFORM pg_advisory_unlock(wanted::regclass::oid::bigint);
    RETURN last - count + 1;
END $$
"""


class PostgresConnection:
    """See `Connection`."""

    AMONG = "= ANY(?::bigint[])"
    LOCK = " FOR UPDATE"
    SKIP = " FOR UPDATE SKIP LOCKED"
    failures: tuple[type[Exception], ...] = (psycopg.Error,)

    def __init__(self, conninfo: str, schema: str, reads_only: bool = False) -> None:
        self._conninfo = conninfo
        self._reads_only = reads_only
        self.schema = schema
        self._db = self._connect()
        self.writes = 0

    def _connect(self) -> psycopg.Connection[tuple[Any, ...]]:
        db = psycopg.connect(self._conninfo, autocommit=True, connect_timeout=_CONNECT_S)
        db.execute(sql.SQL("SET search_path = {}").format(sql.Identifier(self.schema)))
        db.execute(f"SET lock_timeout = {_LOCK_MS}")
        db.execute("SET synchronous_commit = on")
        db.execute("SET jit = off")  # to compile a statement takes longer than it does
        if not self._reads_only:
            # A plan is made while the tables are small, and kept when they are not: every statement has its index.
            db.execute("SET enable_seqscan = off")
            db.execute("SET enable_bitmapscan = off")
        return db

    def make_room(self) -> None:
        """Its server keeps the files of its log for the next use."""

    def begin(self) -> None:
        self.writes = 0
        if self._db.closed:
            self._db = self._connect()
        self._db.execute("BEGIN")

    def commit(self) -> None:
        self._db.execute("COMMIT")

    def rollback(self) -> None:
        try:
            if not self._db.closed:
                self._db.execute("ROLLBACK")
        except psycopg.Error:
            self._db.close()

    def close(self) -> None:
        self._db.close()

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> Rows:
        return self._db.execute(_translated(sql), parameters).fetchall()

    def change(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        self.writes += 1
        return self._db.execute(_translated(sql), parameters).rowcount

    def changed(self, sql: str, parameters: Sequence[Any] = ()) -> Rows:
        self.writes += 1
        return self._db.execute(_translated(sql), parameters).fetchall()

    def many(self, sql: str, rows: Sequence[Sequence[Any]]) -> int:
        self.writes += 1
        with self._db.cursor() as cursor:
            cursor.executemany(_translated(sql), rows)
            return cursor.rowcount

    def insert(self, table: str, columns: str, rows: Sequence[Sequence[Any]]) -> None:
        self.writes += 1
        statement = f"COPY {table} ({columns}) FROM STDIN".encode()
        with self._db.cursor() as cursor, cursor.copy(statement) as copy:
            for row in rows:
                copy.write_row(row)

    def ids(self, numbers: Iterable[int]) -> list[int]:
        return list(numbers)

    def take(self, name: str, count: int) -> int:
        self.writes += 1
        return int(self.rows("SELECT take(?, ?)", (f"{name}_numbers", count))[0][0])

    def is_passing(self, error: Exception) -> bool:
        passing = (
            errors.DeadlockDetected,
            errors.SerializationFailure,
            errors.LockNotAvailable,
            errors.UniqueViolation,  # somebody else made it in between: it is found now
        )
        return isinstance(error, passing) or self._db.closed


@lru_cache(maxsize=512)
def _translated(statement: str) -> bytes:
    """In the words of psycopg."""
    return statement.replace("%", "%%").replace("?", "%s").encode()


class PostgresEngine:
    """The queue in a schema of the database that `conninfo` names (libpq's words or a URL)."""

    def __init__(self, conninfo: str, schema: str = "mgmt") -> None:
        self._conninfo = conninfo
        self.schema = schema
        self.queue_id = 0  # known once it is open

    def open(self) -> PostgresConnection:
        """The connection that writes; creates the tables or brings them up to date.

        MgmtError `not-durable` when no server answers, `bad-store` when the tables are of another version.
        """
        connection = None
        try:
            connection = PostgresConnection(self._conninfo, self.schema)
            self._create(connection)
            self.queue_id, version = tables.identity(connection)
            tables.check_version(version, f"in the database schema {self.schema}")
            tables.migrate(connection, _TYPES, version, tables.SCHEMA_VERSION)
        except (psycopg.Error, MgmtError) as error:
            if connection is not None:
                connection.close()
            raise (error if isinstance(error, MgmtError) else _unusable(error)) from None
        return connection

    def downgrade(self, version: int) -> None:
        """Make it one of an older version, once nobody has it open; see `tables.MIGRATIONS`."""
        connection = self.open()
        try:
            tables.migrate(connection, _TYPES, tables.SCHEMA_VERSION, version)
        finally:
            connection.close()

    def open_reader(self) -> PostgresConnection:
        """A connection that only reads, beside the one that writes."""
        try:
            return PostgresConnection(self._conninfo, self.schema, reads_only=True)
        except psycopg.Error as error:
            raise _unusable(error) from None

    def _create(self, connection: PostgresConnection) -> None:
        """Once, whoever of several daemons comes first."""
        connection.begin()
        try:
            connection.rows("SELECT pg_advisory_xact_lock(?)", (_CREATION_LOCK,))
            if connection.rows("SELECT to_regclass(?)", (f'"{self.schema}".meta',))[0][0] is None:
                connection.change(f'CREATE SCHEMA IF NOT EXISTS "{self.schema}"')
                for statement in (*tables.creation(_TYPES, secrets.randbits(64)), _TAKE):
                    connection.change(statement)
                for name in tables.SEQUENCES:
                    connection.change(f"CREATE SEQUENCE {name}_numbers")
            connection.commit()
        except psycopg.Error:
            connection.rollback()
            raise


def _unusable(error: Exception) -> MgmtError:
    return MgmtError(
        "not-durable",
        f"the queue's PostgreSQL server cannot be used: {str(error).strip()}; see that it runs and that "
        "its address, user and password are right",
    )
