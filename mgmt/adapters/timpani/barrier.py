"""The barrier at which nodes start together.

A node is ready while it waits, and only then: what times out, hangs up or is aborted leaves nothing behind that
the next try could trip over.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

START_LEAD_S = 1.0  # from the last node's arrival to the common start: the answers must be there by then
JOIN_LEAD_S = 0.25  # the same for a node that comes later, and is alone with its answer


class NotAwaited(Exception):
    """The node has no tasks in this generation."""


class Replaced(Exception):
    """Another generation came while the node waited."""


class Missing(Exception):
    """Nodes that did not come in time; their names are the arguments."""


class Barrier:
    """One generation of a plan after the other. Instants are ns on CLOCK_REALTIME.

    Nodes of this family count on that clock, so a late one is put on its grid: T0 + k * hyperperiod, even when
    the clock was set meanwhile. On several machines the start is as common as their clocks are (PTP).
    """

    def __init__(self, timeout_s: float, realtime_ns: Callable[[], int] = time.time_ns) -> None:
        self._timeout_s = timeout_s
        self._realtime_ns = realtime_ns
        self._hyperperiod_us: Mapping[str, int] = {}
        self._waiting: dict[str, set[asyncio.Future[int]]] = {}
        self.start_ns: int | None = None
        """The common start of this generation, once all its nodes had come."""

    def renew(self, hyperperiod_us: Mapping[str, int], start_ns: int | None = None) -> None:
        """Begin a generation that waits for these nodes, or of which they are known to have started already."""
        former, self._waiting = self._waiting, {}
        self._hyperperiod_us, self.start_ns = hyperperiod_us, start_ns
        for futures in former.values():
            for future in futures:
                if not future.done():
                    future.set_exception(Replaced())

    def missing(self) -> list[str]:
        """Nodes that do not wait yet."""
        return [] if self.start_ns is not None else sorted(self._hyperperiod_us.keys() - self._waiting.keys())

    async def join(self, node: str) -> int:
        """The instant at which the node starts.

        Raises NotAwaited, Replaced or Missing.
        """
        if node not in self._hyperperiod_us:
            raise NotAwaited
        if self.start_ns is not None:
            return self._late_ns(self.start_ns, self._hyperperiod_us[node] * 1000)
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        waiting = self._waiting
        waiting.setdefault(node, set()).add(future)
        try:
            if not self.missing():
                self._release()
            async with asyncio.timeout(self._timeout_s):
                return await future
        except TimeoutError:
            raise Missing(*self.missing()) from None
        finally:
            waiting[node].discard(future)
            if not waiting[node]:
                del waiting[node]

    def _release(self) -> None:
        self.start_ns = self._realtime_ns() + round(START_LEAD_S * 1e9)
        for futures in self._waiting.values():
            for future in futures:
                if not future.done():
                    future.set_result(self.start_ns)

    def _late_ns(self, start_ns: int, hyperperiod_ns: int) -> int:
        now_ns = self._realtime_ns()
        earliest_ns = now_ns + round(JOIN_LEAD_S * 1e9)
        if earliest_ns <= start_ns <= now_ns + round(START_LEAD_S * 1e9):
            return start_ns
        if not hyperperiod_ns:
            return earliest_ns
        return start_ns - (start_ns - earliest_ns) // hyperperiod_ns * hyperperiod_ns
