"""`mgmt top`: the units as they are now, those that use most CPU first."""

from __future__ import annotations

import contextlib
import select
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

import click

from mgmt.protocol.errors import Exit, MgmtError

from . import render
from .invocation import Duration, Invocation, verb
from .status import COLUMNS, RIGHT, Unit, arrange, headline

INTERVAL_S = 2.0
HIDE, SHOW = "\033[?25l", "\033[?25h"
HOME, TO_END_OF_LINE, TO_END = "\033[H", "\033[K", "\033[J"
SHOWN = ("SERVICE", "STATE", "READY", "PID", "UPTIME", "RESTARTS", "CPU%", "MEM", "CPUS")
PANEL_LINES = 3  # above the table


@verb("top")
@click.option("--interval", "interval_s", type=Duration(), default=INTERVAL_S, help="Time between two looks.")
@click.option("--once", is_flag=True, help="Show one look and end; needs no terminal.")
def top(invocation: Invocation, interval_s: float, once: bool) -> int:
    """Ends on q or Ctrl-C. The daemon samples CPU and memory every 5 s; everything else is as of each look.
    With --json: one mgmt.status/1 a line."""
    if not once and not invocation.json and not sys.stdout.isatty():
        raise click.UsageError("There is no terminal to draw on; --once shows one look, --json a stream.")
    if invocation.json or once:
        return _print(invocation, interval_s, once)
    with contextlib.suppress(KeyboardInterrupt), _terminal():
        while True:
            size = shutil.get_terminal_size()
            try:
                lines = screen(*look(invocation), size.columns, size.lines, invocation.colored)
            except MgmtError as error:
                lines = [line[: size.columns] for line in f"error: {error.text}".splitlines()]
            text = "".join(f"{line}{TO_END_OF_LINE}\r\n" for line in lines)
            sys.stdout.write(HOME + text.removesuffix("\r\n") + TO_END)
            sys.stdout.flush()
            if _quits_within(interval_s):
                break
    return Exit.OK


def look(invocation: Invocation) -> tuple[dict[str, Any], list[Unit]]:
    """The service and its units, the busiest first."""
    # A connection for each look: a daemon that restarted meanwhile is simply the next one that answers.
    with invocation.client() as client:
        reply = client.request("status", {})
    arrange(reply["units"], "cpu")
    return reply["service"], reply["units"]


def screen(
    service: dict[str, Any], units: list[Unit], width: int, height: int, colored: bool = False
) -> list[str]:
    """The lines of one look, none wider than `width`, and not more than `height` of them."""
    states = Counter(unit["state"] for unit in units)
    counts = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    cpu = sum(unit["cpu_percent"] or 0.0 for unit in units)
    memory = render.size(sum(unit["memory_bytes"] or 0 for unit in units))
    total = f"{len(units)} units{f' ({counts})' if counts else ''}, CPU {cpu:.1f} %, memory {memory}"
    rows = [[COLUMNS[name](unit) for name in SHOWN] for unit in units]
    header, *lines = render.table(SHOWN, rows, RIGHT)
    room = max(0, height - PANEL_LINES - 1)
    if len(lines) > room:
        hidden = len(lines) - max(0, room - 1)
        lines = [*lines[: max(0, room - 1)], f"... and {hidden} more"]
    lines = [line[:width] for line in lines]
    if colored:
        lines = [
            render.painted(line, unit["state"]) for line, unit in zip(lines, units[: len(lines)], strict=True)
        ]
    return [headline(service)[:width], total[:width], "", header[:width], *lines][:height]


def _print(invocation: Invocation, interval_s: float, once: bool) -> int:
    while True:
        service, units = look(invocation)
        if invocation.json:
            invocation.emit("mgmt.status/1", {"service": service, "units": units})
        else:
            size = shutil.get_terminal_size() if sys.stdout.isatty() else None
            width, height = (size.columns, len(units) + PANEL_LINES + 1) if size else (1000, 1 << 20)
            click.echo("\n".join(screen(service, units, width, height, invocation.colored)))
        if once or _quits_within(interval_s):
            return Exit.OK


@contextlib.contextmanager
def _terminal() -> Iterator[None]:
    """Keys come one by one and unseen, the cursor is hidden; all of it is undone at the end."""
    import termios
    import tty

    keys = sys.stdin.fileno() if sys.stdin.isatty() else None
    before = termios.tcgetattr(keys) if keys is not None else None
    if keys is not None:
        tty.setcbreak(keys)
    sys.stdout.write(HIDE + HOME + TO_END)
    try:
        yield
    finally:
        if keys is not None and before is not None:
            termios.tcsetattr(keys, termios.TCSADRAIN, before)
        sys.stdout.write(f"{SHOW}\n")
        sys.stdout.flush()


def _quits_within(interval_s: float) -> bool:
    """Wait; whether q was pressed meanwhile."""
    import os
    import time

    if not sys.stdin.isatty():
        time.sleep(interval_s)
        return False
    ready, _, _ = select.select([sys.stdin], [], [], interval_s)
    return bool(ready) and os.read(sys.stdin.fileno(), 64).lower().startswith(b"q")
