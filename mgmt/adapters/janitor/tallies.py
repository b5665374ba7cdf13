"""Sums of a Janitor's runs for its own rules: what lacked packages is asked for apart."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

from mgmt.adapters.janitor.columns import BAD_ROW, ODD_ROW
from mgmt.adapters.janitor.database import Database
from mgmt.core.candidates.columns import FINE, Runs
from mgmt.core.candidates.compat import Constants, Versions
from mgmt.core.candidates.outcomes import LACKING
from mgmt.core.candidates.records import EPOCH
from mgmt.core.candidates.tallies import Lacked, Tallies

# Those that lacked packages, as often as they lacked the same ones in the same contexts.
_LACKED = f"""
SELECT codebase, suite::text, (failure_details::json -> 'relations')::text, context, instigated_context, count(*)
FROM run WHERE result_code = '{LACKING}' AND failure_transient IS NOT TRUE
    AND failure_details::json ->> 'relations' IS NOT NULL AND NOT {BAD_ROW} AND NOT {ODD_ROW}
    AND coalesce(finish_time, start_time) >= %s::timestamptz AT TIME ZONE 'UTC'
GROUP BY 1, 2, 3, 4, 5
"""


def tallies(database: Database, runs: Runs, versions: Versions, constants: Constants, now_us: int) -> Tallies:
    """Of `runs` of a snapshot, within it. What is old, or before the window, is so at `now_us`, for which they
    were read."""
    since = datetime.min.replace(tzinfo=UTC)
    if constants.window_us is not None:
        from_us = now_us - constants.window_us
        since = EPOCH + timedelta(microseconds=from_us)
        runs.leave_out(i for i, end_us in enumerate(runs.end) if not end_us >= from_us)
    rows = database.rows_of(_LACKED, [since]) if (LACKING, FINE) in runs.kinds else ()
    lacked = (
        Lacked(codebase, campaign, json.loads(text), (own, other), count)
        for codebase, campaign, text, own, other, count in rows
    )
    return Tallies(runs, versions, constants, lacked)
