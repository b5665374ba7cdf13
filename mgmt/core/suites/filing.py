"""What is under way with files: uploads of this daemon's life, and what worker threads were asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mgmt.core import effect as fx
from mgmt.core.event import Filed, Now

Then = Callable[[Now, Any, list[fx.Effect]], None]


@dataclass(slots=True)
class Upload:
    """`whose`: who may go on with it. `moved`: something of it came since it was last looked at."""

    whose: str
    digest: str
    size_bytes: int
    moved: bool = True


class Filing:
    """`unwritten_bytes`: of chunks that wait for a thread."""

    def __init__(self) -> None:
        self.uploads: dict[int, Upload] = {}
        self.unwritten_bytes = 0
        self._then: dict[int, Then] = {}
        self._asks = 0

    def ask(self, work: fx.FileWork, then: Then, out: list[fx.Effect]) -> None:
        """Have a thread do it; `then(now, result, out)` when it is done. `result` may be a MgmtError."""
        self._asks += 1
        self._then[self._asks] = then
        out.append(fx.File(self._asks, work))

    def on_filed(self, now: Now, event: Filed, out: list[fx.Effect]) -> None:
        self._then.pop(event.tag)(now, event.result, out)
