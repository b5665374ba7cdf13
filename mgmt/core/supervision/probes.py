"""Probes: what a unit's health is made of, and what a run of good or bad answers means.

A probe is `startup` (is it up at all), `ready` (may it get requests) or `live` (is it worth keeping). Asking is
the shell's work; counting is done here.
"""

from __future__ import annotations

from dataclasses import dataclass

from mgmt.settings import ProbeSettings

WHICH = ("startup", "ready", "live")


@dataclass(slots=True)
class ProbeState:
    """Answers so far of one probe of one incarnation; `passing` is None until a threshold was reached."""

    settings: ProbeSettings
    passing: bool | None = None
    good: int = 0
    bad: int = 0
    detail: str = "not asked yet"

    def count(self, ok: bool, detail: str) -> bool:
        """Take an answer; True when `passing` changed."""
        self.detail = detail
        if ok:
            self.good, self.bad = self.good + 1, 0
            now = True if self.good >= self.settings.success_threshold else self.passing
        else:
            self.good, self.bad = 0, self.bad + 1
            now = False if self.bad >= self.settings.failure_threshold else self.passing
        changed, self.passing = now is not self.passing, now
        return changed
