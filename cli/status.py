"""`mgmt status`: the table of units, or everything about one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import click

from mgmt.protocol.errors import Exit, MgmtError

from . import render
from ._table import VERBS
from .completion import complete_units
from .explain import facts, place
from .invocation import Invocation, verb

if TYPE_CHECKING:
    from mgmt.client import Client

Unit = dict[str, Any]

COLUMNS: dict[str, Callable[[Unit], str]] = {
    "SERVICE": lambda unit: unit["unit"],
    "STATE": lambda unit: unit["state"],
    "READY": lambda unit: "yes" if unit["ready"] else "no",
    "PID": lambda unit: render.dashed(unit["pid"]),
    "UPTIME": lambda unit: render.duration(unit["uptime_s"]),
    "RESTARTS": lambda unit: str(unit["restarts"]),
    "CPU%": lambda unit: "-" if unit["cpu_percent"] is None else f"{unit['cpu_percent']:.1f}",
    "MEM": lambda unit: render.size(unit["memory_bytes"]),
    "CPUS": lambda unit: render.cpu_list(unit["cpus"]),
    "ENDPOINT": lambda unit: unit["endpoint"],
}
WIDE: dict[str, Callable[[Unit], str]] = {
    **COLUMNS,
    "MODEL": lambda unit: unit["model"],
    "TYPE": lambda unit: unit["type"],
    "LAST EXIT": lambda unit: exit_text(unit["last_exit"]),
    "REASON": lambda unit: unit["reason"].partition("\n")[0],
}
RIGHT = "PID UPTIME RESTARTS CPU% MEM"

# sort key -> field of a unit; numbers sort downwards, because the largest are looked for
SORT = {
    "service": "unit",
    "state": "state",
    "pid": "pid",
    "uptime": "uptime_s",
    "restarts": "restarts",
    "cpu": "cpu_percent",
    "mem": "memory_bytes",
}


@verb("status")
@click.argument("names", nargs=-1, shell_complete=complete_units)
@click.option("-o", "output", type=click.Choice(["wide", "json", "name", "symphony"]), help="Form of output.")
@click.option("-a", "--all", "every", is_flag=True, help=VERBS["status"][1]["all"])
@click.option("--no-headers", is_flag=True, help="Only the rows.")
@click.option("--sort", type=click.Choice(list(SORT)), default="service", help="Order of the rows.")
def status(
    invocation: Invocation,
    names: tuple[str, ...],
    output: str | None,
    every: bool,
    no_headers: bool,
    sort: str,
) -> int:
    """NAMES are units or models; quoted globs such as 'llama*' work. One exact name shows all there is to
    know about it, with the end of its log. The exit status says whether the question was answered;
    `mgmt is-ready` and its sisters say what the answer is."""
    invocation.json |= output == "json"
    globs = [name for name in names if any(char in name for char in "*?[")]
    everything = {"all": True} if every else {}
    with invocation.client() as client:
        try:
            reply = client.request("status", everything if globs or not names else {"units": list(names)})
            missing: list[str] = []
        except MgmtError as error:
            if error.row.exit != Exit.UNKNOWN or len(names) == 1:
                raise
            # One wrong name of several hides nothing about the others.
            reply = client.request("status", everything)
            missing = unmatched(names, reply["units"], client.request("models", {})["models"])
        units = chosen(reply["units"], names) if globs or missing else reply["units"]
        arrange(units, sort)
        if invocation.json:
            more = {"missing": missing} if missing else {}
            invocation.emit("mgmt.status/1", {"service": reply["service"], "units": units, **more})
        elif output == "name":
            click.echo("".join(f"{unit['unit']}\n" for unit in units), nl=False)
        elif output == "symphony":
            click.echo(symphony(reply["service"], units))
        elif len(names) == 1 and not globs and output is None:
            for unit in units:
                log = tail_of(client, unit["unit"])
                explained = client.request("explain", {"target": unit["unit"]})
                click.echo("\n".join(detail(unit, explained, log, invocation.colored)))
            if not units:
                click.echo(f"{names[0]} is not loaded: mgmt load-model {names[0]}")
        else:
            click.echo(
                "\n".join(overview(reply["service"], units, output == "wide", no_headers, invocation.colored))
            )
    for name in missing:
        click.echo(
            f"error: there is no unit or model {name!r}: `mgmt status` and `mgmt models` list them", err=True
        )
    return Exit.PARTIAL if missing else Exit.OK


def chosen(units: Sequence[Unit], names: Sequence[str]) -> list[Unit]:
    """Those whose unit or model name one of `names` matches."""
    return [
        unit
        for unit in units
        if any(fnmatchcase(unit["unit"], name) or fnmatchcase(unit["model"], name) for name in names)
    ]


def unmatched(names: Sequence[str], units: Sequence[Unit], models: Sequence[dict[str, Any]]) -> list[str]:
    """The exact names that are neither a unit nor a model nor an alias."""
    known = {unit["unit"] for unit in units}
    for model in models:
        known.update((model["model"], model["fullname"], *model["aliases"]))
    return [name for name in names if name not in known and not any(char in name for char in "*?[")]


def arrange(units: list[Unit], sort: str) -> None:
    """Sort in place; units without a number come last."""
    field = SORT[sort]
    if field in ("unit", "state"):
        units.sort(key=lambda unit: (unit[field], unit["unit"]))
    else:
        units.sort(key=lambda unit: (unit[field] is None, -(unit[field] or 0), unit["unit"]))


def overview(
    service: dict[str, Any], units: Sequence[Unit], wide: bool, no_headers: bool, colored: bool
) -> list[str]:
    """The line about the daemon and the table of units; without headers the rows alone."""
    columns = WIDE if wide else COLUMNS
    if any(unit.get("node") for unit in units):
        first, *others = columns.items()
        columns = dict([first, ("NODE", _node), *others])
    rows = [[cell(unit) for cell in columns.values()] for unit in units]
    lines = render.table(list(columns), rows, RIGHT)
    if colored:
        lines[1:] = [render.painted(line, unit["state"]) for line, unit in zip(lines[1:], units, strict=True)]
    if no_headers:
        return lines[1:]
    return [headline(service), *scheduled(service), *(lines if units else ["No models currently loaded"])]


def _node(unit: Unit) -> str:
    return unit.get("node") or "local"


def tail_of(client: Client, unit: str) -> bytes:
    """The end of its log, or why its node does not tell."""
    try:
        data = client.request("logs", {"unit": unit, "lines": 10})["data"]
    except MgmtError as error:
        if error.code != "node-lost":
            raise
        return f"({error.text})".encode()
    assert isinstance(data, bytes)
    return data


def headline(service: dict[str, Any]) -> str:
    return (
        f"mgmt {service['version']} {service['state']}, pid {service['pid']}, "
        f"up {render.duration(service['uptime_s'])}, epoch {service['epoch']}, {service['control_endpoint']}"
    )


def scheduled(service: dict[str, Any]) -> list[str]:
    """Lines about periodic tasks, when there are any, and a queue that cannot be written.

    A daemon of an older version says nothing of them.
    """
    count = service.get("workloads", 0)
    what = f"{count} workload{'' if count == 1 else 's'} of periodic tasks in force"
    degraded = service.get("degraded", "")
    return [
        *([f"degraded: {degraded}"] if degraded else []),
        *(f"alert: {alert}" for alert in service.get("alerts", [])),
        *([f"{what}: mgmt schedule show"] if count else []),
    ]


def exit_text(record: dict[str, Any] | None) -> str:
    if record is None:
        return "-"
    how = f"signal {record['signal']}" if record["signal"] is not None else f"status {record['code']}"
    return f"{how}, {record['reason']}" if record["reason"] else how


def detail(unit: Unit, explained: dict[str, Any], log: bytes, colored: bool) -> list[str]:
    """Everything about one unit, the facts that explain it, then the end of its log."""
    since = f" since {render.moment(unit['started_at'])}" if unit["started_at"] else ""
    state = f"{unit['state']}{' (ready)' if unit['ready'] else ''}{since}"
    last, next_start = unit["last_exit"], unit["next_start_s"]
    rows = [
        ("State", render.painted(state, unit["state"]) if colored else state),
        ("Reason", unit["reason"] or "-"),
        ("Model", f"{unit['model']} ({unit['type']})"),
        ("Process", f"pid {render.dashed(unit['pid'])}, up {render.duration(unit['uptime_s'])}"),
        ("Starts", f"{unit['incarnation']}, of these {unit['restarts']} restarts since the load"),
        ("Last exit", exit_text(last) + (f" at {render.moment(last['at'])}" if last else "")),
        ("Next start", f"in {render.duration(next_start)}" if next_start is not None else "-"),
        ("CPU", f"{COLUMNS['CPU%'](unit)} %, pinned to {render.cpu_list(unit['cpus'])}"),
        ("Memory", render.size(unit["memory_bytes"])),
        ("Place", place(explained["holds"])),
        *([("Node", unit["node"])] if unit.get("node") else []),
        ("Endpoint", unit["endpoint"] or "-"),
        ("Protocols", ", ".join(unit["protocols"]) or "-"),
        ("Log", unit["log"]),
    ]
    lines = [unit["unit"], *(f"  {name + ':':<12}{value}" for name, value in rows)]
    why = facts(explained)
    text = log.decode("utf-8", "replace").splitlines()
    return [*lines, *(["", *why] if why else []), "", *(text or ["(its log is empty)"])]


def symphony(service: dict[str, Any], units: Sequence[Unit]) -> str:
    """The words of Symphony's own command, for scripts that read them."""
    lines = [
        f"Service Status: {service['state']}",
        f"Client Endpoint: {service['client_endpoint']}",
        f"CLI Endpoint: {service['cli_endpoint']}",
        "",
    ]
    if not units:
        return "\n".join([*lines, "No models currently loaded"])
    lines += ["Loaded Models:", "-" * 60]
    for unit in units:
        lines += [
            f"  Name: {unit['model']}",
            f"  Type: {unit['type']}",
            f"  Endpoint: {unit['endpoint']}",
            f"  Uptime: {int((unit['uptime_s'] or 0) // 60)} minutes",
            "",
        ]
    return "\n".join(lines[:-1])
