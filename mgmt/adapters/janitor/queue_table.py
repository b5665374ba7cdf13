"""A Janitor's `queue` table: read as it is, written by upsert on its own unique key.

A pass is decided and written while nobody else writes the queue: what is least in it, and which row of a key is
more urgent, stay true until it is committed. Reading it is open to all meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from mgmt.adapters.janitor.database import Database, failures
from mgmt.core.candidates.compat_queue import QueueItem

# In the order of a QueueItem's fields.
_SELECT = """
SELECT codebase, suite::text, command, bucket::text, context, change_set,
    (extract(epoch FROM estimated_duration) * 1000000)::bigint, coalesce(refresh, false), requester, priority, id
FROM queue
"""
# The rows come as columns. Ids are given in the order of the pass. A row of a more urgent bucket stays as it is.
_UPSERT = """
INSERT INTO queue AS there
    (codebase, suite, command, bucket, context, change_set, estimated_duration, refresh, requester, priority)
SELECT codebase, suite, command, bucket::{bucket}, context, change_set, us * interval '1 microsecond', refresh,
    requester, priority
FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::bigint[], %s::boolean[],
    %s::text[], %s::bigint[]) WITH ORDINALITY AS row (codebase, suite, command, bucket, context, change_set, us,
    refresh, requester, priority, place)
ORDER BY place
ON CONFLICT (codebase, suite, (coalesce(change_set, ''))) DO UPDATE SET
    command = EXCLUDED.command, bucket = EXCLUDED.bucket, context = EXCLUDED.context,
    estimated_duration = EXCLUDED.estimated_duration, refresh = {refresh}, requester = EXCLUDED.requester,
    priority = EXCLUDED.priority
WHERE there.bucket >= EXCLUDED.bucket
"""


class QueueTable:
    """Within `writing` of its database."""

    def __init__(self, database: Database) -> None:
        self._db = database.connection

    @contextmanager
    def writing(self) -> Iterator[None]:
        """A transaction in which nobody else writes the queue; committed at its end."""
        with failures("the queue cannot be written"), self._db.transaction():
            self._db.execute("SET LOCAL lock_timeout = '30s'")
            self._db.execute("LOCK TABLE queue IN SHARE ROW EXCLUSIVE MODE")
            yield

    def items(self) -> Iterator[QueueItem]:
        """All rows, in no order."""
        for row in self._db.execute(_SELECT):
            yield QueueItem(*row)

    def put(self, items: Sequence[QueueItem], keep_refresh: bool) -> int:
        """How many rows were made or replaced. `keep_refresh`: a wanted one stays wanted."""
        kind = self._db.execute(
            "SELECT format_type(atttypid, atttypmod) FROM pg_attribute "
            "WHERE attrelid = 'queue'::regclass AND attname = 'bucket'"
        ).fetchone()
        assert kind is not None  # items() or the lock has failed before
        refresh = "there.refresh OR EXCLUDED.refresh" if keep_refresh else "EXCLUDED.refresh"
        statement = _UPSERT.format(bucket=kind[0], refresh=refresh)
        columns = zip(*(
            (item.codebase, item.campaign, item.command, item.bucket, item.context, item.change_set,
             item.estimated_duration_us, item.refresh, item.requester, item.priority)
            for item in items
        ), strict=True)  # fmt: skip
        return self._db.execute(statement.encode(), [*map(_array, columns)]).rowcount if items else 0


def _array(column: Iterable[str | int | bool | None]) -> str:
    """A column as PostgreSQL writes an array: what takes a fraction of the time of a list."""
    return "{" + ",".join(_element(one) for one in column) + "}"


def _element(value: str | int | bool | None) -> str:
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    return "NULL" if value is None else str(value)


def in_order(items: Iterable[QueueItem]) -> Mapping[str, list[QueueItem]]:
    """By bucket, each in the order in which they are taken."""
    found: dict[str, list[QueueItem]] = {}
    for item in sorted(items, key=lambda one: one.order):
        found.setdefault(item.bucket, []).append(item)
    return found
