"""The outbox: how tasks ended, in the store of this machine until whoever is above has committed it.

One record for what is heard in one step, so that the load makes them larger instead of more.
"""

from __future__ import annotations

from collections import deque
from typing import Any


class Outbox:
    """`changes`: records that the store does not have yet, None to forget one; by number, as text."""

    def __init__(self) -> None:
        self.changes: dict[str, dict[str, Any] | None] = {}
        self._kept: deque[int] = deque()  # records that are there
        self._number = 0
        self._sent = 0  # the last one in the exchange that is not acknowledged

    def take(self) -> dict[str, dict[str, Any] | None]:
        """The changes; they are the store's from now on."""
        changes, self.changes = self.changes, {}
        return changes

    def put(self, holder: int, outcomes: list[list[Any]]) -> None:
        self._number += 1
        self._kept.append(self._number)
        self.changes[str(self._number)] = {"holder": holder, "outcomes": outcomes}

    def sent(self) -> None:
        """All of it is on its way."""
        self._sent = self._number

    def acknowledged(self) -> None:
        """What was on its way is committed."""
        while self._kept and self._kept[0] <= self._sent:
            self.changes[str(self._kept.popleft())] = None

    def clear(self) -> None:
        """Nobody wants it any more."""
        self._sent = self._number
        self.acknowledged()

    def restore(self, holder: int, records: dict[str, Any]) -> list[list[Any]]:
        """The outcomes of this holder, oldest first. Those of others come too late: their holders have ended."""
        found: list[list[Any]] = []
        for name in sorted(records, key=int):
            self._number = max(self._number, int(name))
            if records[name]["holder"] == holder:
                self._kept.append(int(name))
                found += records[name]["outcomes"]
            else:
                self.changes[name] = None
        return found
