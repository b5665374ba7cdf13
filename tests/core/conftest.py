"""Every world of a test ends without a deed that nobody asked for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.core.recorder import worlds


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    worlds.clear()
    yield
    for world in worlds:
        world.done()
    worlds.clear()
