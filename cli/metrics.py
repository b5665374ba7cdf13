"""`mgmt metrics`: figures of suites, nodes and the queue in the text format of Prometheus."""

from __future__ import annotations

from typing import Any

import click

from mgmt.protocol.errors import Exit

from .invocation import Invocation, verb


@verb("metrics")
def metrics(invocation: Invocation) -> int:
    """For the textfile collector of a node exporter, for example:
    mgmt metrics > /var/lib/node_exporter/mgmt.prom.new && mv ... mgmt.prom"""
    with invocation.client() as client:
        reply = client.request("metrics", {})
    if invocation.json:
        invocation.emit("mgmt.metrics/1", reply)
    else:
        click.echo(exposition(reply["metrics"]), nl=False)
    return Exit.OK


def exposition(families: list[dict[str, Any]]) -> str:
    """The text format, version 0.0.4."""
    lines = []
    for family in families:
        told = family["help"].replace("\\", "\\\\").replace("\n", "\\n")
        lines += [f"# HELP {family['name']} {told}", f"# TYPE {family['name']} {family['kind']}"]
        lines += [_sample(sample) for sample in family["samples"]]
    return "".join(f"{line}\n" for line in lines)


def _sample(sample: dict[str, Any]) -> str:
    labels = ",".join(f'{name}="{_escaped(value)}"' for name, value in sample["labels"].items())
    value = sample["value"]
    number = str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(value)
    return f"{sample['name']}{{{labels}}} {number}" if labels else f"{sample['name']} {number}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
