"""Probes: what a unit's health is made of, and what a run of good or bad results means.

A probe is startup (is it up at all), ready (may it get requests) or live (is it worth keeping). Asking is the
shell's work; counting is done here.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Which(StrEnum):
    STARTUP = "startup"
    READY = "ready"
    LIVE = "live"


@dataclass(frozen=True, slots=True)
class ProbeSpec:
    """How one probe asks and how its results are counted; times in ns.

    `kind`: told (the unit says so itself), exec (exit status 0), http (a 2xx or 3xx answer), tcp (a connection),
    log (a line matches).
    """

    which: Which
    kind: str
    target: str
    command: tuple[str, ...]
    period_ns: int
    timeout_ns: int
    success_threshold: int
    failure_threshold: int


@dataclass(slots=True)
class ProbeState:
    """Results so far of one probe of one incarnation; `passing` is None until a threshold was reached."""

    spec: ProbeSpec
    passing: bool | None = None
    good: int = 0
    bad: int = 0
    detail: str = "not asked yet"
    asked: int = 0

    def count(self, ok: bool, detail: str) -> bool:
        """Take a result; True when `passing` changed."""
        self.detail = detail
        self.asked += 1
        if ok:
            self.good, self.bad = self.good + 1, 0
            now = True if self.good >= self.spec.success_threshold else self.passing
        else:
            self.good, self.bad = 0, self.bad + 1
            now = False if self.bad >= self.spec.failure_threshold else self.passing
        changed, self.passing = now is not self.passing, now
        return changed
