"""`mgmt config`: the configuration without a daemon."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from mgmt.protocol.errors import Exit, MgmtError

from .invocation import Invocation, shared_options, verb


@click.group(params=shared_options())
def config() -> None:
    """Check, describe or show the configuration."""


def _path(invocation: Invocation, file: str | None) -> Path | None:
    named = file or invocation.config
    return Path(named) if named else None


@config.add_command
@verb("check", "Report every fault of a configuration, each with its path in the file.")
@click.argument("file", required=False)
@click.option("--config", "named", metavar="PATH", help="The same as FILE.")
def check(invocation: Invocation, file: str | None, named: str | None) -> int:
    """Without FILE: the one that a daemon started here would read. Exits 2 when it is wrong."""
    from mgmt.config import load

    path = _path(invocation, file or named)
    try:
        loaded = load(path)
    except MgmtError as error:
        if not invocation.json or "problems" not in error.detail:
            raise
        body: dict[str, Any] = {"file": str(path) if path else None, "valid": False, "warnings": []}
        invocation.emit("mgmt.config-check/1", {**body, "problems": error.detail["problems"]})
        return error.row.exit
    warnings = loaded.settings.warnings()
    where = str(loaded.path) if loaded.path else "built-in defaults (no file found)"
    for warning in warnings:
        if not invocation.json:
            click.echo(f"warning: {where}: {warning}", err=True)
    counts = {"model": len(loaded.settings.supported_models), "unit": len(loaded.settings.units)}
    has = ", ".join(f"{count} {noun}{'s' * (count != 1)}" for noun, count in counts.items() if count)
    invocation.say(f"{where}: valid, {has or 'no models and no units'}")
    if invocation.json:
        body = {"file": str(loaded.path) if loaded.path else None, "valid": True, "warnings": warnings}
        invocation.emit("mgmt.config-check/1", {**body, "problems": []})
    return Exit.OK


@config.add_command
@verb("schema", "Print the JSON Schema of the configuration, or of one kind of output.")
@click.argument("name", required=False)
def schema(invocation: Invocation, name: str | None) -> int:
    """NAME is `policy` (of an agent) or the `schema` of a --json output, such as mgmt.status/1; without it, the
    configuration's."""
    if name is None:
        from mgmt.config import json_schema

        body = json_schema()
    elif name == "policy":
        from mgmt.config import policy_schema

        body = policy_schema()
    else:
        from .schemas import NAMES, schema_of

        if name not in NAMES:
            raise MgmtError("bad-body", f"there is no output {name!r}; known: {', '.join(NAMES)}")
        body = schema_of(name)
    if invocation.json:
        invocation.emit("mgmt.schema/1", {}, {"json_schema": body})
    else:
        click.echo(json.dumps(body, indent=2, ensure_ascii=False))
    return Exit.OK


@config.add_command
@verb("show", "Print the configuration as it is understood, with every default filled in.")
@click.argument("file", required=False)
def show(invocation: Invocation, file: str | None) -> int:
    """Without FILE: the one that a daemon started here would read."""
    from mgmt.config import load

    loaded = load(_path(invocation, file))
    settings: dict[str, Any] = loaded.settings.model_dump(mode="json")
    if invocation.json:
        head = {"file": str(loaded.path) if loaded.path else None, "source": loaded.source}
        invocation.emit("mgmt.config/1", head, {"config": settings})
    else:
        click.echo(json.dumps(settings, indent=2, ensure_ascii=False))
    return Exit.OK
