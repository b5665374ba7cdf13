"""`mgmt metrics`: figures of suites, nodes and the queue as Prometheus reads them, and what to do with them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import click

from mgmt.protocol.errors import Exit, MgmtError

from .invocation import Invocation, verb


@verb("metrics")
@click.option(
    "--write", "path", metavar="FILE", help="Write them there, in one go, for a textfile collector."
)
@click.option("--rules", "what", flag_value="rules", help="Print alert rules for Prometheus; asks no daemon.")
@click.option(
    "--dashboard", "what", flag_value="dashboard", help="Print a dashboard for Grafana; asks no daemon."
)
def metrics(invocation: Invocation, path: str | None, what: str | None) -> int:
    """The textfile collector of a node exporter reads what --write leaves; `mgmt-metrics.timer` has it written
    every 15 seconds. While no daemon answers, the file stays as it was, and an alert says that it is old."""
    if what is not None:
        from . import monitoring

        text = monitoring.rules() if what == "rules" else f"{json.dumps(monitoring.dashboard(), indent=1)}\n"
        click.echo(text, nl=False)
        return Exit.OK
    with invocation.client() as client:
        reply = client.request("metrics", {})
    if path is not None:
        replace(Path(path), exposition(reply["metrics"]))
    elif invocation.json:
        invocation.emit("mgmt.metrics/1", reply)
    else:
        click.echo(exposition(reply["metrics"]), nl=False)
    return Exit.OK


def replace(path: Path, text: str) -> None:
    """Whoever reads finds the former file or this one, never a part; MgmtError `bad-body` when it cannot be."""
    new = path.with_name(f".{path.name}.new")  # a collector reads no hidden files
    try:
        new.write_text(text, encoding="utf-8")
        os.replace(new, path)
    except OSError as error:
        text = f"{path} cannot be written: {error.strerror}; name a file in a folder that you may write to"
        raise MgmtError("bad-body", text) from None


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
