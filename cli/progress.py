"""A line on the terminal that shows a load is alive: its state and the time it has taken."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from types import TracebackType
from typing import Self

from mgmt.protocol.errors import MgmtError

from .invocation import Invocation
from .render import duration

FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
DRAW_EVERY_S = 0.1
ASK_EVERY = 4  # draws between two looks at the state
FEW = 3  # units whose states are told one by one


class Spinner:
    """Draws on stderr from a thread with a session of its own while the caller waits for an answer.

    Draws nothing when the invocation is not `live`. It asks for the status of the names rather than
    subscribing: a thread that waits for the next event could not be ended when the answer has come.
    """

    def __init__(self, invocation: Invocation, *names: str) -> None:
        """`names` are units or models; none: all of them."""
        self._invocation = invocation
        self._names = names
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True) if invocation.live else None

    def __enter__(self) -> Self:
        if self._thread is not None:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread is not None:
            self._over.set()
            self._thread.join()

    def _run(self) -> None:
        started = time.monotonic()
        try:
            with self._invocation.client(1.0) as client:
                draws, state, label = 0, "asking", ", ".join(self._names)
                while not self._over.wait(DRAW_EVERY_S):
                    if draws % ASK_EVERY == 0:
                        body = {"units": list(self._names)}
                        state = _states(client.request("status", body, timeout_s=1.0)["units"]) or state
                    elapsed = duration(time.monotonic() - started)
                    line = f"{FRAMES[draws % len(FRAMES)]} {label}  {state}  {elapsed}"
                    sys.stderr.write(f"\r\033[K{line[:100]}")
                    sys.stderr.flush()
                    draws += 1
        except MgmtError:
            pass  # the caller's own request says what is wrong
        finally:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()


def _states(units: list[dict[str, object]]) -> str:
    """Each unit's state; of many units, how many are in which."""
    if len(units) <= FEW:
        return ", ".join(_short(unit) for unit in units)
    counts = Counter(str(unit["state"]) for unit in units)
    return ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))


def _short(unit: dict[str, object]) -> str:
    reason = f" ({unit['reason']})" if unit["state"] == "BACKOFF" else ""
    return f"{unit['state']}{reason}".partition("\n")[0]
