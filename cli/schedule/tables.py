"""A schedule for people: a bar of load for every CPU, a line for every task, with times in columns of ms.

Takes the rows of the daemon's replies, which a plan without one has as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .. import render

Row = Mapping[str, Any]

BAR = 20
EIGHTHS = " ▏▎▍▌▋▊▉"
TESTS = {
    "fp": "exact response times, fixed priorities",
    "edf": "processor demand, earliest deadline first",
    "utilisation": "exact utilisation",
}
TIGHT = 0.1  # of its deadline left: a task to look at
RED, YELLOW, GREEN, DIM = "31", "33", "32", "2"


def bar(share: float, width: int = BAR) -> str:
    """`width` cells, filled in eighths; what is above 1 is cut."""
    eighths = round(max(0.0, min(share, 1.0)) * width * 8)
    full, rest = divmod(eighths, 8)
    return ("█" * full + (EIGHTHS[rest] if rest else "")).ljust(width, "·")


def cpus(rows: Sequence[Row], colored: bool = False) -> list[str]:
    """One line a CPU; those without tasks on a node of many are counted instead."""
    shown = [row for row in rows if row["tasks"] or row["closed"]]
    idle = len(rows) - len(shown)
    if idle <= 8:
        shown, idle = list(rows), 0
    header = ["NODE", "CPU", "LOAD", "", "TASKS", "TEST"]
    cells = [
        [
            row["node"], str(row["cpu"]), bar(row["utilisation"]), f"{100 * row['utilisation']:.1f} %",
            str(row["tasks"]), f"kept by {row['closed']}" if row["closed"] else render.dashed(row["test"]),
        ]
        for row in shown
    ]  # fmt: skip
    lines = _table(header, cells, (1, 3, 4))
    if colored:
        for i, row in enumerate(shown, 1):
            lines[i] = _paint(lines[i], bar(row["utilisation"]), GREEN if row["tasks"] else DIM)
    return [*lines, f"and {idle} CPUs without tasks"] if idle else lines


def tasks(rows: Sequence[Row], colored: bool = False) -> list[str]:
    """One line a task, by CPU, the most urgent first."""
    ordered = sorted(rows, key=_order)
    several = len({row["workload"] for row in ordered}) > 1
    columns = {
        field: decimals([row[f"{field}_us"] for row in ordered])
        for field in ("period", "wcet", "deadline", "response", "slack")
    }
    with_jitter = any(row["jitter_us"] for row in ordered)
    if with_jitter:
        columns["jitter"] = decimals([row["jitter_us"] for row in ordered])
    header = [
        "NODE",
        "CPU",
        "TASK",
        *(["WORKLOAD"] if several else []),
        "POLICY",
        *(c.upper() for c in columns),
    ]
    numbers = range(len(header) - len(columns), len(header))
    cells = []
    for i, row in enumerate(ordered):
        where = [row["node"], str(row["cpu"]) if row["cpu"] >= 0 else "none"]
        if i and (ordered[i - 1]["node"], ordered[i - 1]["cpu"]) == (row["node"], row["cpu"]):
            where = ["", ""]
        name = [row["task"], *([row["workload"]] if several else [])]
        left = [*where, *name, policy(row), *(column[i] for column in columns.values())]
        cells.append([*left, bar(_used(row), 10) if row["response_us"] is not None else ""])
    lines = _table([*header, "OF DEADLINE"], cells, (1, *numbers))
    if colored:
        for i, row in enumerate(ordered, 1):
            lines[i] = _paint(lines[i], bar(_used(row), 10), _mood(row))
    return lines


def chains(rows: Iterable[Row]) -> list[str]:
    """End-to-end bounds; none when there are no chains."""
    listed = list(rows)
    if not listed:
        return []
    bounds = decimals([row["bound_us"] for row in listed])
    dues = decimals([row["deadline_us"] for row in listed])
    cells = [
        [row["chain"], bound, due, " > ".join(row["tasks"])]
        for row, bound, due in zip(listed, bounds, dues, strict=True)
    ]
    return _table(["CHAIN", "AT WORST", "DEADLINE", "TASKS"], cells, (1, 2))


def policy(row: Row) -> str:
    """FIFO 50, DEADLINE, NORMAL."""
    name = str(row["policy"]).upper()
    return f"{name} {row['priority']}" if name in ("FIFO", "RR") else name


def milliseconds(us: int) -> str:
    """Exact, without zeros at its end: 10, 2.5, 0.001."""
    whole, rest = divmod(abs(us), 1000)
    text = f"{whole}.{rest:03}".rstrip("0").rstrip(".")
    return f"-{text}" if us < 0 else text


def decimals(times_us: Sequence[int | None]) -> list[str]:
    """A column in ms, exact, with the decimals that its finest entry needs; `-` for None."""
    places = max((len(milliseconds(us).partition(".")[2]) for us in times_us if us is not None), default=0)
    column = []
    for us in times_us:
        if us is None:
            column.append("-")
            continue
        whole, _, fraction = milliseconds(us).partition(".")
        column.append(f"{whole}.{fraction.ljust(places, '0')}" if places else whole)
    return column


def time(us: int) -> str:
    """With its unit: 250 us, 10 ms, 2.5 s."""
    if us < 1000:
        return f"{us} us"
    if us < 1_000_000 or us % 1000:
        return f"{milliseconds(us)} ms"
    return f"{milliseconds(us // 1000)} s"


def _order(row: Row) -> tuple[str, int, int, int, str, str]:
    fixed = row["policy"] in ("fifo", "rr") and row["bound"] != "edf"
    level = -row["priority"] if fixed else 0
    return row["node"], row["cpu"], level, row["deadline_us"], row["workload"], row["task"]


def _used(row: Row) -> float:
    response_us = row["response_us"]
    return 0.0 if response_us is None else float(response_us / row["deadline_us"])


def _mood(row: Row) -> str:
    left = 1 - _used(row)
    return RED if left < 0 else YELLOW if left < TIGHT else GREEN


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int]) -> list[str]:
    """As `render.table`, columns on the right by number: a header may be empty here."""
    lines = [header, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    return [
        "  ".join(
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]


def _paint(line: str, part: str, color: str) -> str:
    return line.replace(part, f"\033[{color}m{part}\033[0m", 1) if part.strip() else line
