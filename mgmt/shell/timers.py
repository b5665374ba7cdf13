"""Timers by key: setting one again replaces it, a cancelled one never fires."""

from __future__ import annotations

import time
from asyncio import AbstractEventLoop, TimerHandle
from collections.abc import Callable
from typing import Any

Key = tuple[Any, ...]


class Timers:
    """`fire(key)` is called in the loop at or after the monotonic instant, in ms steps of the loop."""

    def __init__(self, loop: AbstractEventLoop, fire: Callable[[Key], None]) -> None:
        self._loop = loop
        self._fire = fire
        self._handles: dict[Key, TimerHandle] = {}

    def set(self, key: Key, at_ns: int) -> None:
        self.cancel(key)
        delay_s = max(0.0, (at_ns - time.monotonic_ns()) / 1e9)
        self._handles[key] = self._loop.call_later(delay_s, self._due, key)

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
