"""Daemons that share a queue in PostgreSQL, killed at random moments: each task has one result, all is counted."""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from mgmt.store.queue.counting import recount
from mgmt.store.queue.postgres import PostgresEngine
from tests.system.daemon import Start, daemons
from tests.system.suites import adds_up, create, ended, serving, sh, show, submit, tasks
from tests.unit import queues

pytestmark = pytest.mark.xdist_group("postgres")
SEED = int(os.environ.get("SEED", "0"))  # another one: other moments
SLOW_S = 90.0


@pytest.fixture
def start() -> Iterator[Start]:
    with daemons() as make:
        yield make


@pytest.fixture
def server() -> Iterator[str]:
    """What connects to a server of our own."""
    if queues.postgres_programs() is None:
        pytest.skip("PostgreSQL's server is not installed here (Debian's package: postgresql)")
    yield from queues.serve_postgres()


def test_kill_9_of_daemons_that_share_a_queue(start: Start, server: str, tmp_path: Path) -> None:
    draw = random.Random(SEED)
    folder = next(part.removeprefix("host=") for part in server.split() if part.startswith("host="))
    queue = {"database": f"postgresql://mgmt@/postgres?host={folder}", "database_schema": "killed"}
    both = [serving(start, queue=queue), serving(start, queue=queue)]
    log = tmp_path / "log"
    suite = create(both[0], 2)
    numbers = submit(both[0], suite, *[sh(f"sleep 0.03; echo $MITO_TASK_UUID >> {log}")] * 120)
    for _ in range(6):
        time.sleep(draw.uniform(0.05, 0.5))  # a random moment is what is tested
        victim = draw.choice(both)
        victim.crash()
        victim.start()
    for daemon in both:
        ended(daemon, suite, SLOW_S)
        adds_up(daemon, suite)
    found = tasks(both[1], suite)
    assert set(found) == set(numbers)
    for number, one in found.items():
        assert one["state"] == "FINISHED" or (one["state"] == "FAILED" and show(both[1], number)["failures"])
    ran = Counter(log.read_text().split())
    assert {one["uuid"] for one in found.values()} == set(ran), "each ran at least once"
    for daemon in both:
        daemon.stop()
    db = PostgresEngine(server, "killed").open_reader()
    try:
        assert recount(db) == []
    finally:
        db.close()
