"""`mgmt plan` and `apply`: what a configuration would change, and changing it."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import click

from mgmt.protocol import defaults
from mgmt.protocol.errors import Exit, MgmtError

from . import render
from .invocation import Invocation, verb
from .progress import Spinner

if TYPE_CHECKING:
    from mgmt.client import Client

PLAN_TIMEOUT_S = 30.0
APPLY_TIMEOUT_S = 600.0
PLAN_FAILED = 255  # apart from 1, which says that there are changes
COLORS = {"start": "32", "restart": "33", "stop": "31"}


@verb("plan")
@click.argument("file", required=False)
def plan(invocation: Invocation, file: str | None) -> int:
    """Without FILE the daemon reads its own again. Exits 0 when nothing would change, 1 when something
    would, 255 when it cannot be said."""
    try:
        body = _body(file)
        with invocation.client(PLAN_TIMEOUT_S) as client:
            reply = client.request("plan", body)
    except MgmtError as error:
        invocation.complain(error.as_body())
        return PLAN_FAILED
    if invocation.json:
        invocation.emit("mgmt.plan/1", reply)
    else:
        _show(invocation, reply)
    changes = any(row["action"] != "keep" for row in reply["actions"])
    return Exit.FAILED if changes or reply["daemon"] else Exit.OK


@verb("apply")
@click.argument("file", required=False)
@click.option("--wait/--no-wait", default=True, help="Return when what is started is ready (the default).")
def apply(invocation: Invocation, file: str | None, wait: bool) -> int:
    """Without FILE the daemon reads its own again. It asks nothing: `mgmt plan` shows before what will be
    done. What does not differ is not touched. Exits 9 when some units do not become ready."""
    body = _body(file)
    with invocation.client(APPLY_TIMEOUT_S) as client:
        reply = client.request("apply", body)
        if not invocation.json:
            _show(invocation, reply)
        started = [row["unit"] for row in reply["actions"] if row["action"] in ("start", "restart")]
        try:
            failed = _await(invocation, client, started) if wait else []
        except KeyboardInterrupt:
            click.echo("it is applied, and the units go on starting: mgmt status", err=True)
            raise
    if invocation.json:
        rows = [{"unit": unit, "error": {"detail": {}, **error.as_body()}} for unit, error in failed]
        invocation.emit("mgmt.apply/1", {**reply, "failed": rows})
    for _, error in failed:
        if not invocation.json:
            invocation.complain(error.as_body())
    if not failed:
        return Exit.OK
    return Exit.FAILED if len(failed) == len(started) else Exit.PARTIAL


def _body(file: str | None) -> dict[str, Any]:
    """The request's body; MgmtError `bad-config` when FILE is no JSON object. The daemon checks the rest."""
    if file is None:
        return {}
    path = os.path.abspath(file)
    try:
        with open(path, "rb") as opened:
            data = opened.read(defaults.MAX_CONFIG_BYTES + 1)
    except OSError as error:
        raise MgmtError("bad-config", f"{file}: {error.strerror}") from None
    if len(data) > defaults.MAX_CONFIG_BYTES:
        text = f"{file}: is larger than {defaults.MAX_CONFIG_BYTES} bytes; the right file?"
        raise MgmtError("bad-config", text)
    try:
        value = json.loads(data, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        text = f"{file}: not JSON: {error}: see `mgmt config check {file}`"
        raise MgmtError("bad-config", text) from None
    if not isinstance(value, dict):
        raise MgmtError("bad-config", f"{file}: must be an object: see `mgmt config check {file}`")
    return {"config": value, "path": path}


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; a key that is given twice would silently lose one of its values."""
    value: dict[str, Any] = {}
    for key, item in pairs:
        if key in value:
            raise ValueError(f"the key {key!r} is given twice")
        value[key] = item
    return value


def _show(invocation: Invocation, reply: dict[str, Any]) -> None:
    """The table of a PlanReply, what only a restart of the daemon changes, and warnings on stderr."""
    rows = reply["actions"]
    if rows:
        cells = [[row["unit"], row["action"], row["reason"]] for row in rows]
        lines = render.table(["UNIT", "ACTION", "REASON"], cells)
        if invocation.colored:
            lines[1:] = [_painted(line, row["action"]) for line, row in zip(lines[1:], rows, strict=True)]
        click.echo("\n".join(lines))
    if not any(row["action"] != "keep" for row in rows):
        click.echo("no unit changes")
    for name in reply["daemon"]:
        click.echo(f"{name} differs: it takes a restart of the daemon")
    for warning in reply["warnings"]:
        click.echo(f"warning: {warning}", err=True)


def _painted(line: str, action: str) -> str:
    color = COLORS.get(action)
    return line.replace(f" {action} ", f" \033[{color}m{action}\033[0m ", 1) if color else line


def _await(invocation: Invocation, client: Client, units: list[str]) -> list[tuple[str, MgmtError]]:
    """Wait for each unit to be ready; those that will not be, with the reason."""
    failed: list[tuple[str, MgmtError]] = []
    # All asked at once: the answers of the fast ones do not wait for the slow ones' deadline.
    timeout_s = invocation.timeout(APPLY_TIMEOUT_S)
    asked = [
        (unit, client.submit("wait", {"target": unit, "condition": "ready"}, timeout_s=timeout_s))
        for unit in units
    ]
    if not asked:
        return failed
    with Spinner(invocation, *units):
        for unit, id in asked:
            try:
                client.collect(id)
            except MgmtError as error:
                failed.append((unit, error))
    return failed
