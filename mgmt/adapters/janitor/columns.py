"""The runs of a Janitor as columns of numbers: a million of them in the time in which some ten thousand rows come.

The server says of each run only which series it is of, what came of it, when it began and ended; and of each
series once what the default policy wants to know besides.
"""

from __future__ import annotations

import math
import sys
from array import array
from collections.abc import Iterator

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
# A number for a context, -1 for none: two of one series are taken for the same once in four thousand million.
_CONTEXT = "string_agg(int4send(CASE WHEN {0} <> '' THEN hashtext({0}) & 2147483647 ELSE -1 END), ''::bytea)"
# Of each series its columns in one value each: a row for every run would cost more than all the rest.
_SERIES = f"""
SELECT codebase, suite::text, max({_END}) FILTER (WHERE {_OUTCOME} <> {TRANSIENT}),
    string_agg(int2send(({_OUTCOME})::int2), ''::bytea),
    string_agg(timestamp_send(({_END})::timestamp), ''::bytea),
    string_agg(timestamp_send(CASE WHEN finish_time IS NULL OR start_time IS NULL THEN '-infinity'
        ELSE start_time::timestamp END), ''::bytea),
    {_CONTEXT.format("context")}, {_CONTEXT.format("instigated_context")}
FROM run WHERE NOT {_BAD} GROUP BY 1, 2
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
_NEVER = -(1 << 63)  # -infinity
_EPOCH_US = 946_684_800_000_000  # times count from 2000


def read(database: Database, faults: list[RowError]) -> Columns:
    """All runs, within a snapshot; what cannot be used is added to `faults`."""
    db = database.connection
    if db.execute(f"SELECT EXISTS (SELECT FROM run WHERE {_BAD})".encode()).fetchone() == (True,):
        faults += _faults(database)
    names: list[tuple[str, str]] = []
    latest = {}
    key, ends, starts = array("q"), array("q"), array("q")
    own, other = array("i"), array("i")
    with db.cursor(binary=True) as cursor:
        for codebase, campaign, at, outcomes, ended, began, *contexts in cursor.execute(_SERIES.encode()):
            first = len(names) * 4
            key.extend([first + outcome for outcome in outcomes[1::2]])  # the lower byte of two
            ends.frombytes(ended)
            starts.frombytes(began)
            own.frombytes(contexts[0])
            other.frombytes(contexts[1])
            latest[codebase, campaign] = at
            names.append((codebase, campaign))
    if sys.byteorder == "little":
        ends.byteswap()
        starts.byteswap()
        own.byteswap()
        other.byteswap()
    tried = [
        (codebase, campaign, context, time_us(at))
        for codebase, campaign, context, at in db.execute(_CONTEXTS)
    ]
    lacking = [
        (codebase, campaign, details["relations"], time_us(at))
        for codebase, campaign, details, at in db.execute(_LACKING)
        if at == latest[codebase, campaign] and details and details.get("relations")
    ]
    order = sorted(range(len(ends)), key=ends.__getitem__)
    return Columns(
        names, array("q", [key[i] for i in order]), array("d", [float(ends[i] + _EPOCH_US) for i in order]),
        array("d", [math.nan if starts[i] == _NEVER else float(ends[i] - starts[i]) for i in order]),
        tried, lacking, (array("i", [own[i] for i in order]), array("i", [other[i] for i in order])),
    )  # fmt: skip


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
