"""Followers outlive the daemon: while it restarts they wait, and go on where they were."""

from __future__ import annotations

import time

import click

from mgmt.protocol.errors import MgmtError

AWAY_S = 60.0  # without a daemon for this long, a follower gives up
LOOK_EVERY_S = 0.1
AWAY = frozenset({"unreachable", "expired", "session-gone", "stopping"})


class Patience:
    """How long the daemon has been away; nothing is forgiven before it answered once."""

    def __init__(self, away_s: float = AWAY_S) -> None:
        self._away_s = away_s
        self._heard_s: float | None = None
        self._told = False

    def heard(self) -> None:
        """The daemon answered."""
        self._heard_s, self._told = time.monotonic(), False

    def wait(self, error: MgmtError) -> None:
        """Let a moment pass, or raise `error` when it is none that a restart explains or it lasts too long."""
        if error.code not in AWAY or self._heard_s is None:
            raise error
        if time.monotonic() - self._heard_s > self._away_s:
            raise error
        if not self._told:
            click.echo(f"the daemon does not answer; waiting up to {self._away_s:g} s for the next", err=True)
            self._told = True
        time.sleep(LOOK_EVERY_S)
