"""What an operation needs of a database: one set of SQL, the same words on every engine.

SQL is written with `?` for parameters, and nothing else looks like one. Types are integers of 64 bits, text and
bytes; a list of numbers is one parameter, made by `ids` and compared with AMONG.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

Rows = list[tuple[Any, ...]]


class Connection(Protocol):
    """One connection, in a transaction from `begin` to `commit` or `rollback`."""

    AMONG: str  # "id {AMONG}" with a parameter made by `ids`
    LOCK: str  # at the end of a SELECT whose rows are about to change
    SKIP: str  # the same, without those that somebody else has locked
    failures: tuple[type[Exception], ...]  # what a call raises when the store fails

    writes: int  # statements since `begin` that may have changed something

    def make_room(self) -> None:
        """Once, before the first transaction: have the log as large as it usually is.

        To write over what is allocated is synced in half the time that it takes to append.
        """

    def begin(self) -> None: ...
    def commit(self) -> None: ...
    def rollback(self) -> None:
        """Never raises; a connection that is lost is made anew by the next `begin`."""

    def close(self) -> None: ...

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> Rows:
        """What a statement that only reads gives."""

    def change(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        """The number of rows that it changed."""

    def changed(self, sql: str, parameters: Sequence[Any] = ()) -> Rows:
        """What a statement with RETURNING gives."""

    def many(self, sql: str, rows: Sequence[Sequence[Any]]) -> int:
        """The same statement for each row of parameters."""

    def insert(self, table: str, columns: str, rows: Sequence[Sequence[Any]]) -> None:
        """Many rows at once; each has a value for every column."""

    def ids(self, numbers: Iterable[int]) -> Any:
        """A list of numbers as one parameter."""

    def take(self, name: str, count: int) -> int:
        """The first of `count` numbers that nobody had before, in a row. Name: of a sequence in `numbers`."""

    def is_passing(self, error: Exception) -> bool:
        """Whether the same operation may succeed when it is repeated in a transaction of its own."""


def one_of(db: Connection, numbers: Sequence[int]) -> tuple[str, Any]:
    """The condition "is one of these" and its parameter. To make a list of one costs more than to look it up."""
    return ("= ?", numbers[0]) if len(numbers) == 1 else (db.AMONG, db.ids(numbers))
