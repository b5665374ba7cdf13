"""`mgmt start`, `stop`, `restart`, `reset-failed`: units and models to where they should be."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from mgmt.protocol.errors import Exit, MgmtError

from ._table import VERBS
from .completion import complete_units
from .invocation import Invocation, verb
from .progress import Spinner
from .status import chosen

if TYPE_CHECKING:
    from mgmt.client import Client

OPERATION_TIMEOUT_S = 600.0
# verb -> what is said of a unit: done, of which nothing had to be changed, still under way
WORDS = {
    "start": ("started", "already running", "is being started"),
    "stop": ("stopped", "already stopped", "is being stopped"),
    "restart": ("restarted", "", "is being restarted"),
    "reset-failed": ("failures forgotten", "had not failed", ""),
}

_targets: Callable[[Any], Any] = click.argument(
    "targets", nargs=-1, required=True, shell_complete=complete_units
)


@verb("start")
@_targets
@click.option("--wait/--no-wait", default=True, help=VERBS["start"][1]["wait"])
def start(invocation: Invocation, targets: tuple[str, ...], wait: bool) -> int:
    """TARGETS are units or models; quoted globs such as 'llama*' work. Starting what runs changes nothing
    and is no error."""
    return operate(invocation, "start", targets, wait)


@verb("stop")
@_targets
@click.option("--wait/--no-wait", default=True, help=VERBS["stop"][1]["wait"])
def stop(invocation: Invocation, targets: tuple[str, ...], wait: bool) -> int:
    """TARGETS are units or models; quoted globs such as 'llama*' work. Stopping what does not run changes
    nothing and is no error."""
    return operate(invocation, "stop", targets, wait)


@verb("restart")
@_targets
@click.option("--wait/--no-wait", default=True, help=VERBS["restart"][1]["wait"])
def restart(invocation: Invocation, targets: tuple[str, ...], wait: bool) -> int:
    """TARGETS are units or models; quoted globs such as 'llama*' work. What does not run is started."""
    return operate(invocation, "restart", targets, wait)


@verb("reset-failed")
@click.argument("targets", nargs=-1, shell_complete=complete_units)
def reset_failed(invocation: Invocation, targets: tuple[str, ...]) -> int:
    """TARGETS are units or models; quoted globs such as 'llama*' work. Without them: every unit."""
    return operate(invocation, "reset-failed", targets, None)


def operate(invocation: Invocation, name: str, targets: tuple[str, ...], wait: bool | None) -> int:
    """Ask, wait with a sign of life, and say for each unit what became of it."""
    with invocation.client(OPERATION_TIMEOUT_S) as client:
        units = expanded(client, targets)
        body: dict[str, Any] = {"targets": units} if wait is None else {"targets": units, "wait": wait}
        try:
            with Spinner(invocation, *units):
                done = client.request(name, body, timeout_s=invocation.timeout(OPERATION_TIMEOUT_S))
        except KeyboardInterrupt:
            if wait:
                click.echo(f"the {name} goes on: mgmt status shows how far it is", err=True)
            raise
    if invocation.json:
        invocation.emit(f"mgmt.{name}/1", done)
        return Exit.OK
    finished, unchanged, under_way = WORDS[name]
    shown = [unit for unit in done["units"] if targets or unit not in done["already"]]
    for unit in shown:
        word = unchanged if unit in done["already"] else under_way if wait is False else finished
        click.echo(f"{unit}: {word} ({done['states'][unit]})")
    for unit in done.get("along", ()):  # an older daemon does not say
        word = "is being stopped" if wait is False else "stopped"
        click.echo(f"{unit}: {word} along with what it requires")
    if not shown:
        click.echo("nothing had failed" if name == "reset-failed" else "nothing to do")
    return Exit.OK


def expanded(client: Client, targets: tuple[str, ...]) -> list[str]:
    """Exact names as they are, globs as the units that match by their own or their model's name.

    MgmtError `unknown-unit` for a glob that matches nothing.
    """
    if not any(is_glob(target) for target in targets):
        return list(targets)
    units = client.request("status", {"all": True})["units"]
    found: dict[str, None] = {}
    for target in targets:
        names = [unit["unit"] for unit in chosen(units, [target])] if is_glob(target) else [target]
        if not names:
            text = f"no unit or model matches {target!r}: `mgmt status --all` lists them"
            raise MgmtError("unknown-unit", text, unit=target)
        found.update(dict.fromkeys(names))
    return list(found)


def is_glob(name: str) -> bool:
    return any(char in name for char in "*?[")
