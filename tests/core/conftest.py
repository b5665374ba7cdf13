"""Every world of a test ends without a deed that nobody asked for."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mgmt.store.queue.connection import Connection
from mgmt.store.queue.sqlite import SqliteEngine
from tests.core.recorder import worlds


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    worlds.clear()
    yield
    for world in worlds:
        world.done()
    worlds.clear()


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[Connection]:
    """An empty queue of tasks, in memory where there is a place for it."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else tmp_path) as folder:
        db = SqliteEngine(Path(folder) / "queue.db").open()
        yield db
        db.close()
