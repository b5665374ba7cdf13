"""Deadline misses on their way to the sink: a bounded queue, and senders that repeat until it has answered."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import NamedTuple

log = logging.getLogger(__name__)

CAPACITY = 10_000  # misses that wait; a node that reports one more is told that it was not taken
SENDERS = 16  # calls to the sink at once, over one connection; the family has no message for several misses
DEADLINE_S = 30.0  # of one call; a sink that hangs for less gets each miss once
MIN_PAUSE_S = 0.1  # after a call that failed; doubles while nothing but failures comes
MAX_PAUSE_S = 5.0


class Unsent(Exception):
    """A call to the sink failed; the text says how."""


class Fault(NamedTuple):
    """A missed deadline. `number`: of this gateway, from 1 on; `time_ns`: when it was reported, on CLOCK_REALTIME;
    `cpu` -1 and `misses` 0: not known; `misses`: misses of this task since its schedule came into force.
    """

    number: int
    workload: str
    node: str
    task: str
    time_ns: int
    cpu: int
    misses: int
    together: int = 1  # misses that are told as one


class Queue:
    """Sends each fault by `notify`, which returns when the sink has answered and raises Unsent otherwise.

    Nothing is dropped and nothing is sent again that was answered. A sink that took a call and is silent for
    DEADLINE_S, or dies before it answers, may hear of a miss twice: `number` tells it.
    """

    def __init__(self, notify: Callable[[Fault], Awaitable[None]], capacity: int = CAPACITY) -> None:
        self._notify = notify
        self._queue: asyncio.Queue[Fault] = asyncio.Queue(capacity)
        self._open = 0  # taken from the queue, and not answered
        self._pause_s = 0.0
        self.delivered = 0

    @property
    def waiting(self) -> int:
        """Faults that the sink has not answered."""
        return self._queue.qsize() + self._open

    def put(self, fault: Fault) -> bool:
        """False: the queue is full, and the fault was not taken."""
        try:
            self._queue.put_nowait(fault)
        except asyncio.QueueFull:
            return False
        return True

    async def run(self) -> None:
        """Send until cancelled."""
        async with asyncio.TaskGroup() as senders:
            for _ in range(SENDERS):
                senders.create_task(self._send())

    async def drained(self, timeout_s: float) -> int:
        """How many faults are left after at most `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._queue.join()
        except TimeoutError:
            pass
        return self.waiting

    async def _send(self) -> None:
        while True:
            fault = await self._queue.get()
            self._open += 1
            while True:
                try:
                    await self._notify(fault)
                except Unsent as error:
                    await asyncio.sleep(self._failed(error))
                else:
                    break
            self._succeeded()
            self._open -= 1
            self._queue.task_done()

    def _failed(self, error: Unsent) -> float:
        """The pause before the next try, in seconds; drawn, so that the senders do not come in step."""
        if not self._pause_s:
            log.warning("the fault sink does not answer, %d faults wait: %s", self.waiting, error)
            self._pause_s = MIN_PAUSE_S
        else:
            self._pause_s = min(MAX_PAUSE_S, self._pause_s * 2 ** (1 / SENDERS))
        return self._pause_s * random.uniform(0.5, 1.0)

    def _succeeded(self) -> None:
        self.delivered += 1
        if self._pause_s:
            log.warning("the fault sink answers again, %d faults wait", self.waiting - 1)
            self._pause_s = 0.0
