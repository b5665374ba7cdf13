"""Pure functions of the core that take long: worked by a thread, answered in the loop."""

from __future__ import annotations

import logging
from asyncio import AbstractEventLoop
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

from mgmt.core import effect as fx
from mgmt.core import event as ev
from mgmt.protocol.errors import MgmtError

log = logging.getLogger("symphony-mgmt")


def compute(
    effect: fx.Compute, workers: Executor, loop: AbstractEventLoop, emit: Callable[[ev.Event], None]
) -> None:
    """Start the work; a Computed is emitted in the loop, whatever comes of it."""

    def done(future: Future[Any]) -> None:
        error = future.exception()
        result = future.result() if error is None else error
        if error is not None and not isinstance(error, MgmtError):
            log.error("a computation failed: a fault of mgmt itself", exc_info=error)
            text = f"{type(error).__name__}: {error}: a fault of mgmt itself; its traceback is in the daemon's log"
            result = MgmtError("internal", text)
        loop.call_soon_threadsafe(emit, ev.Computed(effect.number, result))

    workers.submit(effect.work).add_done_callback(done)
