"""Hosts of repositories that are left alone until a time: candidates of codebases there wait."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mgmt.core import effect as fx
from mgmt.core.event import Now
from mgmt.core.suites.board import Board
from mgmt.core.suites.candidate_rows import GetRows, PutRows, Row
from mgmt.protocol import frames
from mgmt.protocol.errors import MgmtError

KIND = "hosts"  # of their rows
MOST = 1000
Then = Callable[[Now, Any, list[fx.Effect]], None]


class Hosts:
    """`until_us`: by host, as of the last look into the queue, which keeps them for all its daemons."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self.until_us: dict[str, int] = {}

    def read(self, now: Now, then: Then, out: list[fx.Effect]) -> None:
        """Look into the queue; `then` gets None, or a MgmtError."""

        def told(now: Now, result: Any, out: list[fx.Effect]) -> None:
            if not isinstance(result, MgmtError):
                rows = [row for row in result.rows if row.kind == KIND]
                found = {row.name: int(frames.unpack(row.record)["until_us"]) for row in rows}
                self.until_us = {host: us for host, us in found.items() if us > now.real_s * 1e6}
            then(now, result if isinstance(result, MgmtError) else None, out)

        self._board.ask(GetRows((KIND, ""), MOST), told, out)

    def put(self, now: Now, host: str, until_us: int, then: Then, out: list[fx.Effect]) -> None:
        """Leave it alone until then; a time that is over: no longer. `then` gets None, or a MgmtError."""

        def done(now: Now, result: Any, out: list[fx.Effect]) -> None:
            if isinstance(result, MgmtError):
                then(now, result, out)
            else:
                self.read(now, then, out)

        row = Row(KIND, host, frames.pack_body({"until_us": until_us}))
        self._board.ask(PutRows([row]), done, out)
