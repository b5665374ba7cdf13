"""Fixtures of the tests with real processes."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.installed import build_wheel
from tests.system.node import why_impossible
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


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this tree, for nodes with a systemd of their own; skips where there can be none."""
    reason = why_impossible()
    if reason:
        pytest.skip(f"no systemd node: {reason}")
    return build_wheel(tmp_path_factory.mktemp("wheel"))
