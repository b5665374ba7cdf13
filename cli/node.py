"""`mgmt node`: the machines whose agents joined, and what may be put on them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import click

from mgmt.protocol.errors import Exit

from . import render
from .groups import NearGroup, sub
from .invocation import Invocation, shared_options

WAIT_TIMEOUT_S = 60.0
DRAIN_TIMEOUT_S = 120.0

Node = dict[str, Any]


def condition(node: Node) -> str:
    """Its state, with what an operator made of it."""
    parts = [node["state"]]
    if node["drained"]:
        parts.append("drained")
    elif node["cordoned"]:
        parts.append("cordoned")
    if node["leaving"]:
        parts.append("leaving")
    return ",".join(parts)


COLUMNS: dict[str, Callable[[Node], str]] = {
    "NODE": lambda node: node["node"],
    "STATE": condition,
    "SEEN": lambda node: "-" if node["seen_s"] is None else f"{render.duration(node['seen_s'])} ago",
    "RTT": lambda node: _ms(node["round_trip_ms"]),
    "UNITS": lambda node: str(node["units"]),
    "PROCESSES": lambda node: str(node["processes"]),
    "CPUS": lambda node: str(node["facts"].get("cpus", "-")),
    "MEM": lambda node: render.size(node["facts"].get("memory_bytes")),
    "GPUS": lambda node: str(len(node["facts"].get("gpus", ()))),
    "TAGS": lambda node: ",".join(node["tags"]) or "-",
}
RIGHT = "RTT UNITS PROCESSES CPUS MEM GPUS"


@click.group("node", cls=NearGroup, params=shared_options())
def node() -> None:
    """Show and manage the nodes that agents joined with."""


_sub = partial(sub, node)


@_sub("list", "nodes", "List the nodes.")
@click.option("--no-headers", is_flag=True, help="Only the rows.")
def list_(invocation: Invocation, no_headers: bool) -> int:
    """`local` is the daemon's own machine."""
    with invocation.client() as client:
        reply = client.request("nodes", {})
    if invocation.json:
        invocation.emit("mgmt.nodes/1", reply)
    else:
        render.show(COLUMNS, reply["nodes"], no_headers, RIGHT)
    return Exit.OK


@_sub("show", "nodes", "Show one node: state, machine, tags, load, what runs there.")
@click.argument("name")
def show(invocation: Invocation, name: str) -> int:
    """Everything about one node."""
    with invocation.client() as client:
        reply = client.request("nodes", {"nodes": [name]})
    if invocation.json:
        invocation.emit("mgmt.nodes/1", reply)
    else:
        click.echo("\n".join(detail(reply["nodes"][0])))
    return Exit.OK


@_sub("cordon", "node-cordon", "Start nothing more on a node; what runs there goes on.")
@click.argument("name")
def cordon(invocation: Invocation, name: str) -> int:
    return _ask(invocation, "node-cordon", node=name)


@_sub("uncordon", "node-cordon", "Let a node take units again.")
@click.argument("name")
def uncordon(invocation: Invocation, name: str) -> int:
    """This is the second half: it is allowed again, and units that wait for the node are started."""
    return _ask(invocation, "node-cordon", node=name, cordoned=False)


@_sub("drain", "node-drain")
@click.argument("name")
@click.option("--wait/--no-wait", default=True, help="Return when no process is left on it (the default).")
def drain(invocation: Invocation, name: str, wait: bool) -> int:
    """Units that only this node may run wait until it is uncordoned."""
    return _ask(invocation, "node-drain", DRAIN_TIMEOUT_S, node=name, wait=wait)


@_sub("shutdown", "node-shutdown")
@click.argument("name")
@click.option("--force", is_flag=True, help="Kill its units at once.")
def shutdown(invocation: Invocation, name: str, force: bool) -> int:
    """What starts the agent starts it again when it is asked to: its service is not, until then."""
    return _ask(invocation, "node-shutdown", node=name, force=force)


@_sub("wait", "node-wait")
@click.argument("name")
@click.option(
    "--for",
    "what",
    type=click.Choice(["alive", "lost", "drained"]),
    default="alive",
    help="Condition to wait for.",
)
def wait(invocation: Invocation, name: str, what: str) -> int:
    return _ask(invocation, "node-wait", WAIT_TIMEOUT_S, node=name, condition=what)


@_sub("tags", "node-tags")
@click.argument("name")
@click.argument("changes", nargs=-1, metavar="[TAG | TAG-]...")
def tags(invocation: Invocation, name: str, changes: tuple[str, ...]) -> int:
    """TAG is added, TAG- is removed; without any, the tags are shown. They outlive the agent and the daemon."""
    add = [change for change in changes if not change.endswith("-")]
    remove = [change[:-1] for change in changes if change.endswith("-")]
    if changes:
        return _ask(invocation, "node-tags", node=name, add=add, remove=remove)
    with invocation.client() as client:
        told = client.request("nodes", {"nodes": [name]})["nodes"][0]
    if invocation.json:
        invocation.emit("mgmt.node/1", told)
    else:
        click.echo("\n".join(told["tags"]))
    return Exit.OK


def _ask(invocation: Invocation, request: str, timeout_s: float | None = None, /, **body: Any) -> int:
    """One request about one node, whose status is the answer."""
    with invocation.client(timeout_s) if timeout_s is not None else invocation.client() as client:
        told = client.request(request, body)
    if invocation.json:
        invocation.emit("mgmt.node/1", told)
    else:
        tags = f", tags {','.join(told['tags'])}" if told["tags"] else ""
        click.echo(
            f"{told['node']}: {condition(told)}, {told['processes']} of {told['units']} units run{tags}"
        )
    return Exit.OK


def detail(node: Node) -> list[str]:
    """One fact a line."""
    offset, error = node["clock_offset_ms"], node["clock_error_ms"]
    clock = "-" if offset is None else f"{offset:+.3f} ms from this machine's, right within {error:.3f} ms"
    rows = [
        ("State", f"{condition(node)}: {node['reason']}"),
        ("Agent", f"pid {render.dashed(node['pid'])}, version {node['version'] or '-'}"),
        ("Machine", node["machine_id"] or "-"),
        ("Seen", COLUMNS["SEEN"](node)),
        ("Round trip", _ms(node["round_trip_ms"])),
        ("Clock", clock),
        ("Tags", ", ".join(node["tags"]) or "-"),
        ("Labels", ", ".join(f"{key}={value}" for key, value in sorted(node["labels"].items())) or "-"),
        ("Units", f"{node['units']}, of which {node['processes']} have a process"),
        *((str(key), _fact(key, value)) for key, value in sorted(node["facts"].items())),
    ]
    return [node["node"], *(f"  {name + ':':<14}{value}" for name, value in rows)]


def _fact(key: str, value: Any) -> str:
    if key.endswith("_bytes"):
        return render.size(value)
    return ", ".join(map(str, value)) or "-" if isinstance(value, list) else str(value)


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}ms"
