"""A Janitor's tables in PostgreSQL, read in one snapshot; nothing of their schema is changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from mgmt.core.candidates.records import (
    Candidate,
    Codebase,
    RowError,
    Run,
    World,
    candidate_of,
    codebase_of,
    run_of,
    world_of,
)
from mgmt.protocol.errors import MgmtError

T = TypeVar("T")
CONNECT_S = 10
WITH_JIT, WITH_RANGES = 110_000, 140_000  # versions of the server that have these
BATCH_ROWS = 5000  # of a table on its way; a history is larger than memory should be
# Ours -> (theirs, the statement). Whoever reads runs meets them in the order in which they ended.
STATEMENTS: dict[str, tuple[str, str]] = {
    "codebases": (
        "codebase",
        "SELECT name, value, branch_url, subpath, vcs_type::text AS vcs_type FROM codebase ORDER BY name",
    ),
    "policies": (
        "named_publish_policy",
        """SELECT name, CASE WHEN per_branch_policy IS NOT NULL THEN
        ARRAY(SELECT entry.mode::text FROM unnest(per_branch_policy) AS entry) END AS per_branch_policy
        FROM named_publish_policy ORDER BY name""",
    ),
    "change_sets": ("change_set", "SELECT id FROM change_set ORDER BY id"),
    "versions": ("all_debian_versions", "SELECT source, version::text AS version FROM all_debian_versions"),
    "candidates": (
        "candidate",
        """SELECT codebase, suite::text AS suite, command, value, success_chance, context, publish_policy,
        change_set FROM candidate ORDER BY codebase, suite, coalesce(change_set, '')""",
    ),
    "runs": (
        "run",
        """SELECT id, codebase, suite::text AS suite, result_code, start_time, finish_time, context,
        instigated_context, failure_transient, failure_details FROM run
        ORDER BY coalesce(finish_time, start_time), id""",
    ),
}
_WHOLE = (int, type(None))
OPTIONAL = frozenset(["all_debian_versions", "change_set"])  # a deployment need not have them


@contextmanager
def failures(what: str) -> Iterator[None]:
    """MgmtError `bad-database` for what the server refuses; a password is in none of its texts."""
    try:
        yield
    except psycopg.Error as error:
        text = " ".join(str(error).split())
        raise MgmtError(
            "bad-database",
            f"{what}: {text}; see that the server runs and that --database names a Janitor's database",
        ) from None


class Database:
    """One connection. `close` it, or use it in a `with`."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._others: list[Database] = []  # idle, for who reads beside this one
        with failures("the database cannot be reached"):
            self.connection = psycopg.connect(
                url, connect_timeout=CONNECT_S, application_name="mgmt", client_encoding="utf8"
            )

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        while self._others:
            self._others.pop().close()
        self.connection.close()

    def another(self, snapshot: str) -> Database | None:
        """Another connection, in a transaction of the moment that this one has exported; for any thread. None: the
        server has none for us."""
        try:
            other = self._others.pop()
        except IndexError:
            try:
                other = Database(self._url)
            except MgmtError:
                return None
        with failures("the tables cannot be read"):
            other._begin()
            other.connection.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(snapshot))
        return other

    def take_back(self, other: Database) -> None:
        """What `another` gave, when it has read."""
        with failures("the tables cannot be read"):
            other.connection.rollback()
        self._others.append(other)

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """All that is read within is of one moment, and nobody waits for it."""
        with failures("the tables cannot be read"), self.connection.transaction():
            self._begin()
            yield

    def _begin(self) -> None:
        self.connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        if self.connection.info.server_version >= WITH_JIT:
            self.connection.execute("SET LOCAL jit = off")  # it takes longer than what it would make faster

    @contextmanager
    def without_scans(self) -> Iterator[None]:
        """Tables are read by an index, where there is one that will do; within a snapshot."""
        self.connection.execute("SET LOCAL enable_seqscan = off")
        yield
        self.connection.execute("SET LOCAL enable_seqscan = on")

    def export(self) -> str:
        """The name of this snapshot, while it lasts."""
        (name,) = self.binary_row("SELECT pg_export_snapshot()")
        return str(name)

    def pages(self, table: str) -> int:
        """How many pages a table has that may be read in ranges; 0: it may not."""
        if self.connection.info.server_version < WITH_RANGES:
            return 0
        (pages,) = self.binary_row(
            "SELECT pg_relation_size(%s::regclass) / current_setting('block_size')::int", [table]
        )
        return int(pages)

    def binary_row(self, statement: str, parameters: Sequence[Any] = ()) -> tuple[Any, ...]:
        """The one row of a statement, with bytes as they are."""
        with self.connection.cursor(binary=True) as cursor:
            row: tuple[Any, ...] | None = cursor.execute(statement.encode(), parameters).fetchone()
        assert row is not None  # by its statement
        return row

    def rows_of(self, statement: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return self.connection.execute(statement.encode(), parameters).fetchall()

    def dicts(self, statement: str) -> list[dict[str, Any]]:
        """Few rows by the names of their columns."""
        with self.connection.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(statement.encode()).fetchall()

    def rows(self, table: str) -> Iterator[dict[str, Any]]:
        """The rows of one of ours, within a snapshot; in batches, however many there are."""
        theirs, statement = STATEMENTS[table]
        found = self.connection.execute("SELECT to_regclass(%s)", (theirs,)).fetchone()
        if theirs in OPTIONAL and (found is None or found[0] is None):
            return
        with self.connection.cursor(name=f"mgmt_{table}", row_factory=dict_row) as cursor:
            cursor.execute(statement)
            while batch := cursor.fetchmany(BATCH_ROWS):
                yield from batch

    def tables(self) -> Tables:
        """Everything but the runs, within a snapshot."""
        small = {table: list(self.rows(table)) for table in ("policies", "change_sets", "versions")}
        if not small["change_sets"]:
            del small["change_sets"]
        return Tables(small, self._plain("codebases"), self._plain("candidates"))

    def _plain(self, table: str) -> tuple[list[str], list[tuple[Any, ...]]]:
        with self.connection.cursor(binary=True) as cursor:
            cursor.execute(STATEMENTS[table][1].encode())
            return [column.name for column in cursor.description or ()], cursor.fetchall()

    def world(self) -> tuple[World, list[RowError]]:
        """What the tables say, within a snapshot; rows that cannot be used are left out, with the reason."""
        return world_in(self.tables())

    def runs(self, faults: list[RowError]) -> Iterator[Run]:
        """All runs within a snapshot, in the order of their ends; what cannot be used is added to `faults`."""
        for row in self.rows("runs"):
            try:
                yield run_of(row["id"], row)
            except RowError as fault:
                faults.append(fault)


class Tables(NamedTuple):
    """Rows as they came: of `codebases` and `candidates` the names of columns, and tuples."""

    small: dict[str, list[Any]]
    codebases: tuple[list[str], list[tuple[Any, ...]]]
    candidates: tuple[list[str], list[tuple[Any, ...]]]


def world_in(tables: Tables) -> tuple[World, list[RowError]]:
    world, faults = world_of(tables.small)
    faults = [_named(fault, tables.small) for fault in faults]
    for codebase in _each("codebases", tables.codebases, Codebase, codebase_of, faults):
        world.codebases[codebase.name] = codebase
    world.candidates = _each("candidates", tables.candidates, Candidate, candidate_of, faults)
    return world, faults


def _each(
    table: str,
    told: tuple[list[str], list[tuple[Any, ...]]],
    plain: Callable[..., T],
    checked: Callable[[str, Any], T],
    faults: list[RowError],
) -> list[T]:
    """Rows whose columns are the fields of `plain`, in its order. Only what looks odd is `checked`."""
    found = []
    names, rows = told
    for row in rows:
        if _is_plain(table, row):
            found.append(plain(*row))
            continue
        cells = dict(zip(names, row, strict=True))
        try:
            found.append(checked(_key(cells), cells))
        except RowError as fault:
            faults.append(fault)
    return found


def _is_plain(table: str, row: tuple[Any, ...]) -> bool:
    """Whether nothing can be wrong with it: names, then texts and a number that may be missing."""
    if table == "codebases":
        name, value, *texts = row
        return type(name) is str and name != "" and type(value) in _WHOLE and _are_texts(texts)
    codebase, campaign, command, value, chance, *texts = row
    return (
        type(codebase) is type(campaign) is type(command) is str
        and codebase != "" != campaign
        and type(value) in _WHOLE
        and (chance is None or (type(chance) is float and 0.0 <= chance <= 1.0))
        and _are_texts(texts)
    )


def _are_texts(cells: list[Any]) -> bool:
    return all(cell is None or type(cell) is str for cell in cells)


def _named(fault: RowError, tables: dict[str, list[Any]]) -> RowError:
    """By the key of the row, which can be looked for, where it has one."""
    if not isinstance(fault.row, int):
        return fault
    key = _key(tables[fault.table][fault.row])
    return RowError(fault.table, key or fault.row, fault.column, fault.problem)


def _key(row: dict[str, Any]) -> str:
    return " ".join(
        str(row[name]) for name in ("name", "source", "codebase", "suite", "change_set") if row.get(name)
    )
