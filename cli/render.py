"""What people and programs are shown: tables, times, sizes and JSON. Talks to nobody."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from math import isfinite
from typing import Any

import click

STATE_COLOR = {"RUNNING": "32", "STARTING": "33", "BACKOFF": "33", "STOPPING": "33", "FATAL": "31"}
# Fields that travel as epoch seconds and are shown as ISO 8601.
TIMES = frozenset(
    {"at", "started_at", "created_at", "submitted_at", "completed_at", "finished_at", "expires_at", "used_at"}
)


def table(header: Sequence[str], rows: Sequence[Sequence[str]], right: str = "") -> list[str]:
    """Lines of a table in columns of the widest cell; the columns named in `right` are aligned to the right.

    An empty header is left out.
    """
    lines = [*([header] if header else []), *rows]
    if not lines:
        return []
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    to_right = [name in right.split() for name in header] or [False] * len(widths)
    return [
        "  ".join(
            cell.rjust(width) if at_right else cell.ljust(width)
            for cell, width, at_right in zip(line, widths, to_right, strict=True)
        ).rstrip()
        for line in lines
    ]


def show(
    columns: Mapping[str, Callable[[Any], str]],
    rows: Sequence[Any],
    no_headers: bool = False,
    right: str = "",
) -> None:
    """Print a table with these columns of each row."""
    lines = table(list(columns), [[column(row) for column in columns.values()] for row in rows], right)
    click.echo("\n".join(lines[1:] if no_headers else lines))


def painted(line: str, state: str) -> str:
    """`line` with the first word `state` in its colour."""
    color = STATE_COLOR.get(state)
    return line.replace(state, f"\033[{color}m{state}\033[0m", 1) if color else line


def duration(seconds: float | None) -> str:
    """Two units at most: 4.2s, 42s, 3m12s, 5h03m, 2d04h; `-` for None."""
    if seconds is None:
        return "-"
    if seconds < 10:
        return f"{seconds:.1f}s"
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02}h"


def size(count: int | None) -> str:
    """Bytes with a binary unit: 512B, 12.3M, 1.5G; `-` for None."""
    if count is None:
        return "-"
    value, units = float(count), "BKMGT"
    while value >= 1024 and len(units) > 1:
        value, units = value / 1024, units[1:]
    return f"{value:.0f}{units[0]}" if units[0] == "B" or value >= 100 else f"{value:.1f}{units[0]}"


def cpu_list(cpus: Sequence[int]) -> str:
    """Ranges as the kernel writes them, 0-3,6; `-` for none."""
    spans: list[list[int]] = []
    for cpu in sorted(cpus):
        if spans and cpu == spans[-1][1] + 1:
            spans[-1][1] = cpu
        else:
            spans.append([cpu, cpu])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in spans) or "-"


def moment(epoch_s: float) -> str:
    """ISO 8601 in UTC with milliseconds."""
    return datetime.fromtimestamp(epoch_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def dashed(value: object) -> str:
    return "-" if value is None else str(value)


def plain(value: Any, times: frozenset[str] = TIMES) -> Any:
    """A reply as JSON carries it: `times` as ISO 8601, bytes as {"base64": text}, no NaN, no infinities."""
    if isinstance(value, dict):
        return {
            str(key): moment(item) if key in times and isinstance(item, int | float) else plain(item, times)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [plain(item, times) for item in value]
    if isinstance(value, bytes):
        return {"base64": b64encode(value).decode()}
    return None if isinstance(value, float) and not isfinite(value) else value


def dumps(value: dict[str, Any]) -> str:
    """One line of JSON."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
