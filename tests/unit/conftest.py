"""Fixtures of the command line's tests, and queues of tasks."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mgmt.store.queue.postgres import PostgresEngine
from mgmt.store.queue.sqlite import SqliteEngine
from mgmt.store.queue.thread import Engine
from tests.unit import queues
from tests.unit.queues import Asked


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A private world for the command: short enough for a socket, and nobody listens in it."""
    with tempfile.TemporaryDirectory(prefix="mgmt-cli-") as folder:
        for name in ("MGMT_RUNTIME_DIR", "MGMT_STATE_DIR", "HOME", "XDG_CONFIG_HOME"):
            monkeypatch.setenv(name, folder)
        for name in ("MGMT_ENDPOINT", "MGMT_OUTPUT", "MGMT_CONFIG", "NO_COLOR"):
            monkeypatch.delenv(name, raising=False)
        yield folder


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """What connects to a PostgreSQL server of our own; skipped where Debian's package is not installed."""
    if queues.postgres_programs() is None:
        pytest.skip("PostgreSQL's server is not installed here (Debian's package: postgresql)")
    yield from queues.serve_postgres()


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.xdist_group("postgres"))])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """An empty queue on each engine."""
    if request.param == "postgres":
        schema = f"queue_{secrets.token_hex(6)}"
        yield PostgresEngine(request.getfixturevalue("postgres"), schema)
        return
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else tmp_path) as folder:
        yield SqliteEngine(Path(folder) / "queue.db")


@pytest.fixture
def ask(engine: Engine) -> Iterator[Asked]:
    """An empty queue, opened; what it counts is true after the test."""
    asked = Asked(engine)
    yield asked
    try:
        assert asked.recount() == []
    finally:
        asked.close()
