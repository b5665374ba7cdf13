"""What a thread works for the core is told in the loop, whatever comes of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from mgmt.core import effect as fx
from mgmt.core import event as ev
from mgmt.protocol.errors import MgmtError
from mgmt.shell.computing import compute


def computed(work: Callable[[], Any]) -> Any:
    """The result of the one Computed that follows."""

    async def wait() -> ev.Event:
        loop = asyncio.get_running_loop()
        told: asyncio.Future[ev.Event] = loop.create_future()
        compute(fx.Compute(7, work), workers, loop, told.set_result)
        return await asyncio.wait_for(told, 10)

    with ThreadPoolExecutor(1) as workers:
        event = asyncio.run(wait())
    assert isinstance(event, ev.Computed) and event.number == 7
    return event.result


def test_a_result_and_a_refusal_are_told() -> None:
    assert computed(lambda: {"a": 1}) == {"a": 1}

    def refuse() -> None:
        raise MgmtError("not-schedulable", "no")

    refusal = computed(refuse)
    assert isinstance(refusal, MgmtError) and refusal.code == "not-schedulable"


def test_a_fault_is_told_as_one_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, "symphony-mgmt"):
        fault = computed(lambda: 1 // 0)
    assert isinstance(fault, MgmtError) and fault.code == "internal" and "ZeroDivisionError" in fault.text
    assert caplog.records[0].exc_info is not None
