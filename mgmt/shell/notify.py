"""Tells the service manager how the daemon is: the datagrams of sd_notify(3), written by hand.

Sixty lines replace a binding to libsystemd, which not every host has. Without `NOTIFY_SOCKET` every call
does nothing; with a dead one it is logged once and the daemon goes on: whether somebody listens decides
nothing here.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Mapping, MutableMapping

log = logging.getLogger(__name__)


class Notifier:
    """Sends state to the socket named by `address`; a leading `@` means Linux's abstract namespace."""

    def __init__(self, address: str | None) -> None:
        self._address = address
        self._socket: socket.socket | None = None
        self._reported = False

    @classmethod
    def from_environ(cls, environ: MutableMapping[str, str] = os.environ) -> Notifier:
        """Takes `NOTIFY_SOCKET` out of `environ`, so that no child speaks in the daemon's name."""
        return cls(environ.pop("NOTIFY_SOCKET", None))

    def ready(self, status: str = "") -> None:
        """Start-up, or a reload, is complete."""
        self._send("READY=1", *_status(status))

    def reloading(self) -> None:
        """A reload begins; `ready` ends it. The time stamp is what Type=notify-reload waits for."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self, status: str = "") -> None:
        """The orderly stop has begun."""
        self._send("STOPPING=1", *_status(status))

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self._send(*_status(text))

    def watchdog(self) -> None:
        """Alive; due every `watchdog_interval_s`."""
        self._send("WATCHDOG=1")

    def main_pid(self, pid: int) -> None:
        """The process to watch from now on, when it is not the one that was started."""
        self._send(f"MAINPID={pid}")

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket = self._address = None

    def _send(self, *lines: str) -> None:
        if not self._address or not lines:
            return
        try:
            if self._socket is None:
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            name = "\0" + self._address[1:] if self._address.startswith("@") else self._address
            self._socket.sendto("\n".join(lines).encode(), name)
        except (OSError, ValueError) as error:  # ValueError: a NUL inside the name
            if not self._reported:
                self._reported = True
                log.warning(
                    "the service manager does not hear this daemon: NOTIFY_SOCKET %r: %s; "
                    "said once, the daemon goes on",
                    self._address,
                    error,
                )


def watchdog_interval_s(environ: Mapping[str, str] = os.environ, pid: int | None = None) -> float | None:
    """Seconds between two `Notifier.watchdog` calls: half of `WATCHDOG_USEC`, as sd_watchdog_enabled(3) asks.

    None when nobody watches, or when `WATCHDOG_PID` names a process other than `pid` (default: this one).
    """
    usec, watched = environ.get("WATCHDOG_USEC"), environ.get("WATCHDOG_PID")
    if usec is None:
        return None
    try:
        period_us, watched_pid = int(usec), int(watched) if watched else None
    except ValueError:
        log.warning("no watchdog: WATCHDOG_USEC %r or WATCHDOG_PID %r is not a number", usec, watched)
        return None
    if period_us <= 0 or watched_pid not in (None, pid or os.getpid()):
        return None
    return period_us / 2_000_000


def _status(text: str) -> tuple[str, ...]:
    # One line: a newline would start another field, and a status may quote a backend's own words.
    return (f"STATUS={' '.join(text.split())}",) if text else ()
