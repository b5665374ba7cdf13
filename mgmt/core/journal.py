"""The numbered events of this daemon: a bounded history, and who hears of each new one."""

from __future__ import annotations

from collections import deque
from typing import Any

from mgmt.core import effect as fx
from mgmt.core.event import Now
from mgmt.core.sessions import Sessions


class Journal:
    """Events `seq` 1, 2, 3, ... without gaps; the last `keep` of them can be read again."""

    def __init__(self, sessions: Sessions, keep: int) -> None:
        self.seq = 0
        self._sessions = sessions
        self._history: deque[dict[str, Any]] = deque(maxlen=keep)
        self.fresh: list[dict[str, Any]] = []  # not committed yet

    def record(self, now: Now, kind: str, body: dict[str, Any], out: list[fx.Effect]) -> None:
        """Number an event, keep it and send it to the subscribers."""
        self.seq += 1
        numbered = {"seq": self.seq, "at": now.real_s, **body}
        event = {"kind": kind, **numbered}
        self._history.append(event)
        self.fresh.append(event)
        to = tuple((s.peer, s.id) for s in self._sessions.by_id.values() if s.subscribed)
        out.append(fx.Publish(self.seq, kind, numbered, to))

    def restore(self, events: list[dict[str, Any]]) -> None:
        """Go on where a former daemon ended: the numbers have no gap."""
        self._history.extend(events)
        self.seq = events[-1]["seq"] if events else 0

    def first(self) -> int:
        """The number of the oldest event that can still be read."""
        return self._history[0]["seq"] if self._history else self.seq + 1

    def kept(self) -> list[int]:
        """The numbers of the events that can still be read."""
        return [event["seq"] for event in self._history]

    def since(self, seq: int | None) -> tuple[list[dict[str, Any]], bool]:
        """The events after `seq` that are still kept, and whether some are missing in between."""
        if seq is None:
            return [], False
        first = self._history[0]["seq"] if self._history else self.seq + 1
        return [event for event in self._history if event["seq"] > seq], seq + 1 < first or seq > self.seq
