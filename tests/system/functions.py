"""What resident workers of tests are told to call."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from typing import Any


def echo(*values: Any) -> Any:
    return values[0] if len(values) == 1 else list(values)


def fail(text: str) -> None:
    raise ValueError(text)


def crash() -> None:
    """As a bug in an extension would."""
    signal.signal(signal.SIGSEGV, signal.SIG_DFL)
    ctypes.string_at(0)


def leave(code: int) -> None:
    os._exit(code)


def loop() -> None:
    """For ever, within a minute."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        pass


def killed(number: int = signal.SIGKILL) -> None:
    """By a signal, as nobody handled it."""
    if number != signal.SIGKILL:
        signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    os.kill(os.getpid(), number)
    time.sleep(60)


def shout(count: int) -> int:
    for _ in range(count >> 16):
        print("x" * ((1 << 16) - 1))
    return count


def child() -> int:
    """Leaves a process behind that would live a minute."""
    pid = os.fork()
    if pid == 0:
        time.sleep(60)
        os._exit(0)
    return pid


def crash_with_child() -> None:
    child()
    crash()


def crash_unless(path: str) -> None:
    if not os.path.exists(path):
        crash()
