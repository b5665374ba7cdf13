"""A uvloop loop that turns until something is so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvloop

DEADLINE_S = 15.0


class Loop:
    """`loop` is the real one; it turns only within `until` and `turn`."""

    def __init__(self) -> None:
        self.loop = uvloop.new_event_loop()
        self.faults: list[str] = []
        self.loop.set_exception_handler(lambda _, context: self.faults.append(str(context)))

    def until(self, condition: Callable[[], object], what: str, deadline_s: float = DEADLINE_S) -> None:
        """Turns until `condition` is true; AssertionError naming `what` after `deadline_s`."""

        async def wait() -> bool:
            end = self.loop.time() + deadline_s
            while not condition():
                if self.loop.time() > end:
                    return False
                await asyncio.sleep(0.002)
            return True

        assert self.loop.run_until_complete(wait()), f"not within {deadline_s} s: {what}"

    def turn(self, for_s: float = 0.0) -> None:
        self.loop.run_until_complete(asyncio.sleep(for_s))


@contextmanager
def looping() -> Iterator[Loop]:
    """Closed at the end; fails when a callback or task of the loop failed."""
    made = Loop()
    try:
        yield made
        made.turn()
        assert made.faults == []
    finally:
        made.loop.close()
