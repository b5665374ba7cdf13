"""Figures of passes over a Janitor's database, beside its own way of asking and what the server alone takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from functools import partial
from math import trunc
from typing import Any

import psycopg

from bench.figure import Figure
from mgmt.adapters.janitor import passes
from mgmt.adapters.janitor.database import Database
from mgmt.adapters.janitor.following import Follower
from mgmt.core.candidates import compat
from mgmt.core.candidates.outcomes import LACKING
from mgmt.core.candidates.records import DAY_US, time_us
from mgmt.core.candidates.settings import Settings
from tests.unit import janitors
from tests.unit.queues import postgres_programs, serve_postgres

NOW_US = time_us(janitors.NOW)
ASKED = 200  # candidates that are scheduled one by one; a pass of all of them would take long
# Four campaigns, a third of the candidates with a context, a sixth of the runs transient; its indices.
FILL = """
INSERT INTO codebase (name, value, branch_url, vcs_type)
    SELECT 'c' || i, 1 + i % 999, 'https://host/c' || i, 'git' FROM generate_series(0, {n} / 4) AS i;
INSERT INTO named_publish_policy (name, per_branch_policy)
    VALUES ('propose', ARRAY[('main', 'propose', 7)]::branch_publish_policy[]);
INSERT INTO candidate (suite, codebase, command, value, context, publish_policy)
    SELECT 'k' || i % 4, 'c' || i / 4, 'run --all', 1 + i % 900, CASE WHEN i % 3 = 0 THEN 'v' || i % 7 END,
    'propose'
    FROM generate_series(0, {n} - 1) AS i;
INSERT INTO run (id, command, description, start_time, finish_time, result_code, context, failure_transient, suite,
    codebase, worker, failure_details)
    SELECT gen_random_uuid()::text, 'run --all', 'What there is to say of it', s, s - 300 * ln(random() + 1e-9)
        * interval '1 second', c, CASE WHEN random() < 0.3 THEN 'v' || i % 7 END, c = 'worker-failure',
        'k' || i % 4, 'c' || i / 4,
        'worker-' || i % 20, CASE WHEN c = 'build-failed' THEN '{{"stage": "build"}}'::json END
    FROM (SELECT trunc(random() * {n})::int AS i, timestamp '2024-06-01' - random() * interval '60 days' AS s,
        (array['success', 'success', 'build-failed', 'build-failed', 'nothing-to-do', 'worker-failure'])
        [1 + trunc(random() * 6)::int] AS c FROM generate_series(1, {n} * {each})) AS one;
CREATE INDEX ON run (codebase, suite, start_time DESC);
CREATE INDEX ON run (start_time);
CREATE INDEX ON run (suite, start_time);
CREATE INDEX ON run (codebase, suite);
CREATE INDEX ON run (suite);
CREATE INDEX ON run (result_code);
CREATE INDEX ON queue (change_set);
CREATE INDEX ON queue (priority ASC, id ASC);
CREATE INDEX ON queue (bucket ASC, priority ASC, id ASC);
"""
MORE = """
INSERT INTO run (id, command, start_time, finish_time, result_code, suite, codebase)
    SELECT gen_random_uuid()::text, 'run', timestamp '2024-06-01 11:00', timestamp '2024-06-01 11:05', 'success',
    'k' || i % 4, 'c' || i FROM generate_series(1, 100) AS i
"""
HISTORY = """
SELECT result_code, start_time, finish_time, context, instigated_context, failure_details FROM run
WHERE codebase = %s AND suite = %s AND failure_transient IS NOT TRUE
"""
COLUMNS = (
    "COPY (SELECT codebase, suite::text, result_code, failure_transient, context, instigated_context, start_time, "
    "finish_time FROM run) TO '/dev/null' (FORMAT BINARY)"
)


def janitor(quick: bool) -> tuple[list[Figure], list[float]]:
    """And how long Janitor's own way takes, in ms; nothing where there is no PostgreSQL."""
    if postgres_programs() is None:
        return [], []
    n, each, rounds = (2_000, 100, 5) if quick else (10_000, 100, 7)
    with _filled(n, each) as url:
        theirs = [_one_by_one(url) * n / ASKED for _ in range(3)]
        _ms(partial(_cold, url))  # what is read for the first time
        cold = [_ms(partial(_cold, url)) for _ in range(rounds)]
        compared = [_ms(partial(_compat, url)) for _ in range(rounds)]
        with psycopg.connect(url) as db:
            alone = [_ms(partial(db.execute, COLUMNS)) for _ in range(rounds)]
        with Database(url) as source:
            follower, warm = Follower(source, Settings()), list[float]()
            passes.default_pass(follower, passes.Choice(), NOW_US)
            for i in range(rounds):
                with psycopg.connect(url) as db:
                    db.execute(MORE)
                now_us = NOW_US + (i + 1) * DAY_US // 24
                warm.append(_ms(partial(passes.default_pass, follower, passes.Choice(), now_us)))
    what, name = f"{n:,} candidates of a Janitor's database, {each} runs each", "one by one"
    note = "the table queue is committed"
    figures = [
        Figure(f"{what}: pass again, 100 runs more", "ms", warm, theirs, name, "ratio<=", 0.1, note),
        Figure(f"{what}: first pass", "ms", cold, theirs, name, "ratio<=", 0.1, note),
        Figure("the same, beside the server alone", "ms", cold, alone, "COPY of its columns to /dev/null"),
        Figure(f"{what}: pass by janitor_compat", "ms", compared, theirs, name, note=note),
    ]  # fmt: skip
    return figures, theirs


@contextmanager
def _filled(n: int, each: int) -> Iterator[str]:
    with closing(serve_postgres(shared_buffers="512MB")) as server:
        url = next(server)
        janitors.create(url)
        with psycopg.connect(url, autocommit=True) as db:
            for statement in FILL.format(n=n, each=each).split(";\n"):
                if statement.strip():
                    db.execute(statement.encode())
            db.execute("VACUUM ANALYZE")
        yield url


def _ms(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1e3


def _cold(url: str) -> None:
    with Database(url) as source:
        passes.default_pass(Follower(source, Settings()), passes.Choice(), NOW_US)


def _compat(url: str) -> None:
    with Database(url) as source:
        passes.compat_pass(source, passes.Choice(), Settings(), NOW_US)


def _one_by_one(url: str) -> float:
    """Of some candidates, as Janitor does: the history of each is asked for, and what is decided put in. In ms."""
    with psycopg.connect(url, autocommit=True) as db:
        rows = db.execute(
            "SELECT codebase, suite::text, command, context, value FROM candidate ORDER BY id LIMIT %s",
            [ASKED],
        ).fetchall()

        def schedule_all() -> None:
            for row in rows:
                _schedule(db, *row)

        return _ms(schedule_all)


def _schedule(
    db: psycopg.Connection[Any], codebase: str, campaign: str, command: str, context: str | None, value: int
) -> None:
    total = success = 0
    took, factor = timedelta(), 0.5 if context is None else 1.0
    rows = db.execute(HISTORY, (codebase, campaign), binary=True)
    for code, start, finish, own, instigated, details in rows:
        if code == "worker-failure" and (janitors.NOW - start).days > 0:
            continue
        total += 1
        took += finish - start
        success += code == "success" or (code == LACKING and bool(details and details.get("relations")))
        if context and context in (own, instigated):
            factor = 0.1
    duration = took / total if total else timedelta(seconds=15)
    chance = (success * 10 + 1) / (total * 10 + 1) * factor
    us = duration // timedelta(microseconds=1)
    offset = compat.offset(us, 0.5, chance, value + 400.0, total)
    db.execute(
        janitors.ADD,
        {"codebase": codebase, "campaign": campaign, "command": command, "context": context, "bucket": "default",
         "duration": duration, "offset": trunc(offset)},
    )  # fmt: skip
