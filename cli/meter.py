"""A bar on the terminal: how much of many things is done, how fast, and how long it will take."""

from __future__ import annotations

import sys
import time
from collections import deque
from types import TracebackType
from typing import Self

from .invocation import Invocation
from .render import duration

WIDTH = 24  # of the bar
WINDOW_S = 10.0  # over which the rate is taken
DRAW_EVERY_S = 0.1
TELL_EVERY_S = 2.0  # without a terminal, a line each


class Rate:
    """Things done per second over the last moments."""

    def __init__(self, window_s: float = WINDOW_S) -> None:
        self._window_s = window_s
        self._samples: deque[tuple[float, int]] = deque()

    def add(self, now_s: float, done: int) -> None:
        samples = self._samples
        if samples and done < samples[-1][1]:
            samples.clear()  # some are done again
        samples.append((now_s, done))
        while len(samples) > 2 and samples[1][0] <= now_s - self._window_s:
            samples.popleft()

    def per_s(self) -> float:
        """0 until there are two samples."""
        samples = self._samples
        if len(samples) < 2:
            return 0.0
        elapsed_s = samples[-1][0] - samples[0][0]
        return (samples[-1][1] - samples[0][1]) / elapsed_s if elapsed_s > 0 else 0.0


def bar(done: int, total: int, width: int = WIDTH) -> str:
    full = width * done // total if total else 0
    return "█" * full + "░" * (width - full)


def line(done: int, total: int | None, per_s: float, more: str = "") -> str:
    """One line; without a total there is no end to estimate."""
    rate = f"{per_s:,.0f}/s" if per_s >= 10 else f"{per_s:.1f}/s"
    if total is None:
        return f"{done:,}  {rate}{more and '  '}{more}"
    share = f"{100 * done // total}%" if total else "-"  # 100 when all are
    eta = f"ETA {duration((total - done) / per_s)}" if per_s > 0 and done < total else ""
    parts = [f"{bar(done, total)} {done:,}/{total:,} {share}", more, rate, eta]
    return "  ".join(part for part in parts if part)


class Meter:
    """Draws on stderr when that is a terminal, at most every DRAW_EVERY_S.

    With `tells`, and neither a terminal nor JSON, it prints a line on stdout every TELL_EVERY_S.
    """

    def __init__(self, invocation: Invocation, label: str, tells: bool = False) -> None:
        self.label = label
        self._live = invocation.live
        self._tells = tells and not invocation.live and not invocation.json
        self._rate = Rate()
        self._next_s = 0.0
        self._drawn = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._drawn:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()

    def show(self, done: int, total: int | None, more: str = "") -> None:
        now_s = time.monotonic()
        self._rate.add(now_s, done)
        if now_s < self._next_s or not (self._live or self._tells):
            return
        text = f"{self.label}  {line(done, total, self._rate.per_s(), more)}"
        if self._live:
            self._next_s, self._drawn = now_s + DRAW_EVERY_S, True
            sys.stderr.write(f"\r\033[K{text[:160]}")
            sys.stderr.flush()
        else:
            self._next_s = now_s + TELL_EVERY_S
            sys.stdout.write(f"{text}\n")
            sys.stdout.flush()
