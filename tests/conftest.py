"""Fixtures shared by the tests that need a running daemon."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.system.daemon import Start, daemons


@pytest.fixture
def start() -> Iterator[Start]:
    """`start(config, *arguments)` -> Daemon; ended and checked for leftovers after the test."""
    with daemons() as make:
        yield make


@pytest.fixture(scope="module")
def start_shared() -> Iterator[Start]:
    """Like `start`, for a daemon that the tests of a module share."""
    with daemons() as make:
        yield make
