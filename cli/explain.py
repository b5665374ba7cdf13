"""`mgmt explain`: why a unit is where it is, or why it is not running."""

from __future__ import annotations

from typing import Any

import click

from mgmt.protocol.errors import Exit

from . import render
from .completion import complete_units
from .invocation import Invocation, verb


@verb("explain")
@click.argument("name", shell_complete=complete_units)
def explain(invocation: Invocation, name: str) -> int:
    """NAME is a unit or a model; a model stands for all its replicas."""
    with invocation.client() as client:
        units = client.request("status", {"units": [name]})["units"]
        names = [unit["unit"] for unit in units] or [name]
        explained = [client.request("explain", {"target": unit}) for unit in names]
    if invocation.json:
        invocation.emit("mgmt.explain/1", {"units": explained})
    else:
        click.echo("\n".join(line for one in explained for line in described(one)))
    return Exit.OK


def described(explanation: dict[str, Any]) -> list[str]:
    """The state, then one indented fact a line, then what it has and what it is meant to have."""
    holds, planned = place(explanation["holds"]), place(explanation["place"])
    lines = [f"{explanation['unit']}: {explanation['state']}: {explanation['reason']}", *facts(explanation)]
    lines.append(f"  it holds {holds}")
    if planned != holds:
        lines.append(f"  its place in the plan: {planned}")
    return lines


def facts(explanation: dict[str, Any]) -> list[str]:
    """The lines behind the first, which repeats the state."""
    return [f"  {line}" for line in explanation["lines"][1:]]


def place(held: dict[str, Any]) -> str:
    """CPUs 0-3 (exclusive), GPU GPU-1, 2.0G of memory; `nothing of its own`."""
    parts = []
    if held.get("cpus"):
        only = " (exclusive)" if held.get("exclusive") else ""
        parts.append(f"CPUs {render.cpu_list(held['cpus'])}{only}")
    if held.get("gpus"):
        parts.append(f"GPU {', '.join(held['gpus'])}")
    if held.get("memory_bytes"):
        parts.append(f"{render.size(held['memory_bytes'])} of memory")
    return ", ".join(parts) or "nothing of its own"
