"""Fixtures of the real-time tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.rt.rig import SOURCES, build


@pytest.fixture(scope="session")
def client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task in C, built against the installed header."""
    return build(SOURCES / "client.c", tmp_path_factory.mktemp("rt") / "client")
