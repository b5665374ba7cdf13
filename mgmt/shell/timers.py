"""Timers by key: setting one again replaces it, a cancelled one never fires."""

from __future__ import annotations

import time
from asyncio import AbstractEventLoop, Handle
from collections.abc import Callable
from typing import Any

Key = tuple[Any, ...]

STEP_NS = 1_000_000


class Timers:
    """`fire(key)` is called in the loop at the monotonic instant, or up to STEP_NS before it or somewhat after.

    The loop's clock has steps of a millisecond; what is due within one is not worth a rest.
    """

    def __init__(self, loop: AbstractEventLoop, fire: Callable[[Key], None]) -> None:
        self._loop = loop
        self._fire = fire
        self._handles: dict[Key, Handle] = {}

    def set(self, key: Key, at_ns: int) -> None:
        self.cancel(key)
        delay_ns = at_ns - time.monotonic_ns()
        if delay_ns <= STEP_NS:
            self._handles[key] = self._loop.call_soon(self._due, key)
        else:
            self._handles[key] = self._loop.call_later(delay_ns / 1e9, self._due, key)

    def cancel(self, key: Key) -> None:
        handle = self._handles.pop(key, None)
        if handle is not None:
            handle.cancel()

    def close(self) -> None:
        for handle in self._handles.values():
            handle.cancel()
        self._handles.clear()

    def _due(self, key: Key) -> None:
        del self._handles[key]
        self._fire(key)
