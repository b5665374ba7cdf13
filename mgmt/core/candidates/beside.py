"""What takes long is computed beside the loop, one after the other, so that no two use a judge at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from mgmt.core import effect as fx
from mgmt.core.event import Computed, Now

Then = Callable[[Now, Any, list[fx.Effect]], None]


class Beside:
    """Jobs in the order of asking."""

    def __init__(self) -> None:
        self._jobs: deque[tuple[Callable[[], Any], Then]] = deque()
        self._number = 0

    @property
    def is_at_work(self) -> bool:
        return bool(self._jobs)

    def compute(self, work: Callable[[], Any], then: Then, out: list[fx.Effect]) -> None:
        """`then(now, result, out)`; `result` may be a MgmtError."""
        self._jobs.append((work, then))
        if len(self._jobs) == 1:
            self._begin(out)

    def _begin(self, out: list[fx.Effect]) -> None:
        self._number -= 1
        out.append(fx.Compute(self._number, self._jobs[0][0]))

    def on_computed(self, now: Now, event: Computed, out: list[fx.Effect]) -> None:
        try:
            self._jobs[0][1](now, event.result, out)  # what it asks for comes after all that waits
        finally:
            self._jobs.popleft()
            if self._jobs:
                self._begin(out)
