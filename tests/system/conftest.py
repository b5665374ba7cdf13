"""Fixtures of the tests with real processes."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator

import pytest

from tests.system.place import Place


@pytest.fixture
def place() -> Iterator[Place]:
    """A world for the command; its daemon and everything that started ends with it."""
    with tempfile.TemporaryDirectory(prefix="mgmt-cli-") as folder:
        place = Place(folder)
        try:
            yield place
        finally:
            place.clean_up()
