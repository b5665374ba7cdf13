"""A wire that misbehaves: Ethernet frames carried between two interfaces, dropped, delayed, overtaken on the way.

The kernels of both ends see a link that is up and loses what it is given, which is what netem would do where it is
there. It works below TCP: what is lost is sent again by the kernels, with all that this means for who waits.
"""

from __future__ import annotations

import heapq
import random
import select
import socket
import threading
import time
from dataclasses import dataclass, field
from itertools import count

FRAME_BYTES = 65_600
ETH_P_ALL = 3
OUTGOING = 4  # kind of a packet that this machine sends itself
LONGEST_WAIT_S = 0.01  # also how soon a changed setting of a quiet wire counts


@dataclass
class Way:
    """One direction. Settings may be changed at any time; they count for frames that come after."""

    loss: float = 0.0  # share of the frames that is dropped; 1.0: nothing arrives
    delay_s: float = 0.0
    jitter_s: float = 0.0  # more delay, drawn for each frame: frames overtake one another
    carried: int = 0
    lost: int = 0
    overtaken: int = 0  # frames that left after one that came later
    _latest_s: float = field(default=0.0, repr=False)

    def due_s(self, now_s: float, chance: random.Random) -> float | None:
        """When a frame that came now leaves; None when it never does."""
        if self.loss and chance.random() < self.loss:
            self.lost += 1
            return None
        due_s = now_s + self.delay_s + (chance.random() * self.jitter_s if self.jitter_s else 0.0)
        self.overtaken += due_s < self._latest_s
        self._latest_s = max(self._latest_s, due_s)
        self.carried += 1
        return due_s


class Wire:
    """Carries between two interfaces of the calling thread's network namespace, in a thread, until it is closed.

    `out`: what comes from the first; `back`: what comes from the second. Chance is the same in each run.
    """

    def __init__(self, first: str, second: str) -> None:
        self.out, self.back = Way(), Way()
        self._chance = random.Random(first)
        self._ends = [_open(first), _open(second)]
        self._ended = False
        self._thread = threading.Thread(target=self._carry, name=f"wire {first}", daemon=True)
        self._thread.start()

    def cut(self) -> None:
        """Both ends believe in it, and nothing arrives."""
        self.out.loss = self.back.loss = 1.0

    def heal(self) -> None:
        """A good wire again, both ways."""
        for way in (self.out, self.back):
            way.loss = way.delay_s = way.jitter_s = 0.0

    def close(self) -> None:
        self._ended = True
        self._thread.join()

    def _carry(self) -> None:
        ways = {self._ends[0]: (self.out, self._ends[1]), self._ends[1]: (self.back, self._ends[0])}
        held: list[tuple[float, int, socket.socket, bytes]] = []
        numbers = count()
        while not self._ended:
            wait_s = LONGEST_WAIT_S
            if held:
                wait_s = min(wait_s, max(0.0, held[0][0] - time.monotonic()))
            for end in select.select(self._ends, [], [], wait_s)[0]:
                way, other = ways[end]
                for frame in _received(end):
                    due_s = way.due_s(time.monotonic(), self._chance)
                    if due_s is not None:
                        heapq.heappush(held, (due_s, next(numbers), other, frame))
            while held and held[0][0] <= time.monotonic():
                _, _, other, frame = heapq.heappop(held)
                try:
                    other.send(frame)
                except OSError:
                    continue  # its interface is down
        for end in self._ends:
            end.close()


def _open(interface: str) -> socket.socket:
    end = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    end.bind((interface, ETH_P_ALL))
    end.setblocking(False)
    return end


def _received(end: socket.socket) -> list[bytes]:
    """The frames that came from outside and are there now."""
    frames: list[bytes] = []
    while True:
        try:
            frame, (_, _, kind, *_) = end.recvfrom(FRAME_BYTES)
        except OSError:  # none, or the interface is down
            return frames
        if kind != OUTGOING:
            frames.append(frame)
