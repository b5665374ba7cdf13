"""The runs of a Janitor as columns of numbers: a million of them in the time in which some ten thousand rows come.

The server says of each run only which series it is of, what came of it, when it ended and how long it took; and of
each series once what the default policy wants to know besides.
"""

from __future__ import annotations

import math
import struct
from array import array
from collections.abc import Iterator
from itertools import pairwise

from psycopg import sql

from mgmt.adapters.janitor.database import STATEMENTS, Database
from mgmt.core.candidates.history import Columns
from mgmt.core.candidates.outcomes import CODES, LACKING
from mgmt.core.candidates.records import RowError, run_of, time_us
from mgmt.kernel.reference_history import FAILURE, TRANSIENT

_END = "coalesce(finish_time, start_time)"
_BAD = (
    f"({_END} IS NULL OR coalesce(finish_time < start_time, false) OR run.codebase = '' OR run.suite = '' "
    "OR coalesce(json_typeof(failure_details::json) <> 'object', false))"
)
_WHENS = " ".join(
    "WHEN result_code IN ({}) THEN {}".format(
        ", ".join(f"'{c}'" for c, o in CODES.items() if o == outcome), outcome
    )
    for outcome in sorted(set(CODES.values()))
)
_OUTCOME = f"CASE {_WHENS} WHEN failure_transient IS TRUE THEN {TRANSIENT} ELSE {FAILURE} END"
_SERIES = f"""
SELECT codebase, suite::text, count(*) FILTER (WHERE {_BAD}),
    max({_END}) FILTER (WHERE NOT {_BAD} AND {_OUTCOME} <> {TRANSIENT}) FROM run GROUP BY 1, 2 ORDER BY 1, 2
"""
_COLUMNS = f"""
COPY (SELECT series.place * 4 - 4 + {_OUTCOME}, {_END},
    CASE WHEN finish_time IS NULL THEN '-infinity' ELSE coalesce(start_time, '-infinity') END
    FROM run JOIN unnest({{codebases}}::text[], {{campaigns}}::text[]) WITH ORDINALITY
        AS series (of, campaign, place) ON series.of = run.codebase AND series.campaign = run.suite::text
    WHERE NOT {_BAD}) TO STDOUT (FORMAT binary)
"""
_CONTEXTS = f"""
SELECT codebase, suite::text, named.context, max({_END})
FROM run, LATERAL (VALUES (run.context), (run.instigated_context)) AS named (context)
WHERE (run.context <> '' OR run.instigated_context <> '') AND named.context <> '' AND NOT {_BAD}
    AND {_OUTCOME} <> {TRANSIENT} GROUP BY 1, 2, 3
"""
_LACKING = f"""
SELECT codebase, suite::text, failure_details, {_END} FROM run
WHERE result_code = '{LACKING}' AND failure_transient IS NOT TRUE AND NOT {_BAD} ORDER BY {_END}
"""
_ROW = struct.Struct(">hiqiqiq")  # how many fields, then of each its size and itself
_HEADER_BYTES, _TRAILER_BYTES = 19, 2
_NEVER = -(1 << 63)  # -infinity
_EPOCH_US = 946_684_800_000_000  # times count from 2000
_AT_ONCE = 1 << 16  # rows


def read(database: Database, faults: list[RowError]) -> Columns:
    """All runs, within a snapshot; what cannot be used is added to `faults`."""
    db = database.connection
    series = db.execute(_SERIES).fetchall()
    if any(bad for _, _, bad, _ in series):
        faults += _faults(database)
    names = [(codebase, campaign) for codebase, campaign, _, _ in series]
    latest = {(codebase, campaign): at for codebase, campaign, _, at in series}
    tried = [
        (codebase, campaign, context, time_us(at))
        for codebase, campaign, context, at in db.execute(_CONTEXTS)
    ]
    lacking = [
        (codebase, campaign, details["relations"], time_us(at))
        for codebase, campaign, details, at in db.execute(_LACKING)
        if at == latest[codebase, campaign] and details and details.get("relations")
    ]
    key, ended, duration = array("q"), array("d"), array("d")
    statement = sql.SQL(_COLUMNS).format(
        codebases=sql.Literal([name for name, _ in names]), campaigns=sql.Literal([name for _, name in names])
    )
    with db.cursor() as cursor, cursor.copy(statement) as copy:
        for keys, ends, starts in _unpacked(iter(copy)):
            key.extend(keys)
            ended.extend([float(end + _EPOCH_US) for end in ends])
            duration.extend(
                [
                    math.nan if start == _NEVER else float(end - start)
                    for end, start in zip(ends, starts, strict=True)
                ]
            )
    if any(a > b for a, b in pairwise(ended)):
        order = sorted(
            range(len(ended)), key=ended.__getitem__
        )  # a history is nearly in order, which is fast
        key, ended, duration = (
            array("q", [key[i] for i in order]),
            array("d", [ended[i] for i in order]),
            array("d", [duration[i] for i in order]),
        )
    return Columns(names, key, ended, duration, tried, lacking)


def _unpacked(blocks: Iterator[bytes | bytearray | memoryview]) -> Iterator[tuple[tuple[int, ...], ...]]:
    """Columns of many rows at once."""
    left, skip = bytearray(), _HEADER_BYTES
    for block in blocks:
        left += block
        if skip:
            del left[:skip]
            skip = 0
        size = len(left) // _ROW.size * _ROW.size
        if size >= _AT_ONCE * _ROW.size:
            yield _columns(left[:size])
            del left[:size]
    if len(left) > _TRAILER_BYTES:
        yield _columns(left[:-_TRAILER_BYTES])


def _columns(rows: bytearray) -> tuple[tuple[int, ...], ...]:
    _, _, keys, _, ends, _, starts = zip(*_ROW.iter_unpack(rows), strict=True)
    return keys, ends, starts


def _faults(database: Database) -> Iterator[RowError]:
    """The reasons of rows that are left out."""
    _, statement = STATEMENTS["runs"]
    with database.connection.cursor(row_factory=database.by_name) as cursor:
        for row in cursor.execute(f"SELECT * FROM ({statement}) AS run WHERE {_BAD}".encode()):
            try:
                run_of(row["id"], row)
            except RowError as fault:
                yield fault
            else:
                yield RowError("runs", row["id"], "finish_time", "is missing, and start_time too")
