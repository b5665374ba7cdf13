"""The queue of tasks alone, on each of its engines: put in, claimed and reported by two holders."""

from __future__ import annotations

import tempfile
import threading
import time
from contextlib import closing
from pathlib import Path

from bench.figure import Figure
from mgmt.core.suites import operations as op
from mgmt.store.queue.postgres import PostgresEngine
from mgmt.store.queue.sqlite import SqliteEngine
from mgmt.store.queue.thread import Engine
from tests.unit.queues import FOREVER_MS, SPEC, Asked, postgres_programs, serve_postgres

AT_ONCE = 500  # tasks of a submission, and of an exchange


def engines(quick: bool) -> list[Figure]:
    if postgres_programs() is None:
        return []
    n, rounds = (5_000, 3) if quick else (20_000, 5)
    with tempfile.TemporaryDirectory() as folder, closing(serve_postgres(fsync="on")) as server:
        url = next(server)
        ours = [_rate(PostgresEngine(url, f"round_{i}"), n) for i in range(rounds)]
        theirs = [_rate(SqliteEngine(Path(folder) / f"{i}.db"), n) for i in range(rounds)]
    return [
        Figure(
            f"{n:,} tasks through the queue alone, in PostgreSQL", "tasks/s", ours, theirs, "SQLite",
            note=f"put in, claimed and reported {AT_ONCE} at once by two holders; each commit is on the disk",
        )
    ]  # fmt: skip


def _rate(engine: Engine, n: int) -> float:
    asked = Asked(engine)
    try:
        suite = asked(op.CreateSuite("bench", "bench", 1)).suite
        holders = [
            asked(op.OpenHolder(f"n{i}", f"o{i}", FOREVER_MS, 1, suite=suite)).holder for i in range(2)
        ]
        start = time.perf_counter()
        for _ in range(0, n, AT_ONCE):
            asked(op.Submit(suite, [op.NewTask(SPEC)] * AT_ONCE, "bench", 1))
        threads = [threading.Thread(target=_work, args=(asked, holder)) for holder in holders]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds = time.perf_counter() - start
        finished = asked(op.GetSuite(suite)).counts.finished
        if finished != n:
            raise SystemExit(f"{finished} of {n} tasks are finished")
        return n / seconds
    finally:
        asked.close()


def _work(asked: Asked, holder: int) -> None:
    number, results = 0, list[op.Result]()
    while number == 0 or results:
        number += 1
        said = asked(op.Exchange(holder, number, 1, results, AT_ONCE))
        results = [op.Result(claim.task, claim.attempt, 0) for claim in said.claims]
