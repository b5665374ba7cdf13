"""Fixtures of the command line's tests."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator

import pytest


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A private world for the command: short enough for a socket, and nobody listens in it."""
    with tempfile.TemporaryDirectory(prefix="mgmt-cli-") as folder:
        for name in ("MGMT_RUNTIME_DIR", "MGMT_STATE_DIR", "HOME", "XDG_CONFIG_HOME"):
            monkeypatch.setenv(name, folder)
        for name in ("MGMT_ENDPOINT", "MGMT_OUTPUT", "MGMT_CONFIG", "NO_COLOR"):
            monkeypatch.delenv(name, raising=False)
        yield folder
