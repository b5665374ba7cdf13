"""`mgmt logs`: what units wrote, their last lines first, then as it comes."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import click

from mgmt.protocol.errors import Exit, MgmtError

from ._table import VERBS
from .completion import complete_units
from .following import Patience
from .invocation import Duration, Invocation, verb

if TYPE_CHECKING:
    from mgmt.client import Client

LOOK_EVERY_S = 0.25  # while following; a log is a file and announces nothing
LINES = 20


class Tail:
    """One unit's log, read chunk by chunk; an unfinished last line waits for its end."""

    def __init__(self, unit: str) -> None:
        self.unit = unit
        self._place: dict[str, Any] = {}
        self._rest = b""

    def read(self, client: Client, first: dict[str, Any]) -> Iterator[str]:
        """The complete lines since the last read; `first` says where the first one begins."""
        while True:
            chunk = client.request("logs", {"unit": self.unit, **(self._place or first)})
            self._place = {"offset": chunk["offset"], "inode": chunk["inode"]}
            *complete, self._rest = (self._rest + chunk["data"]).split(b"\n")
            for line in complete:
                yield line.decode("utf-8", "replace")
            if not chunk["data"]:
                return

    def end(self) -> Iterator[str]:
        """What stands after the last newline."""
        if self._rest:
            yield self._rest.decode("utf-8", "replace")
            self._rest = b""


@verb("logs")
@click.argument("names", nargs=-1, required=True, shell_complete=complete_units)
@click.option("-f", "--follow", is_flag=True, help="Go on with what is written from now on.")
@click.option(
    "-n", "lines", type=click.IntRange(0, 100_000), metavar="COUNT", help="Only the last lines (20)."
)
@click.option("--since", "since_s", type=Duration(), help=VERBS["logs"][1]["since_s"])
def logs(
    invocation: Invocation, names: tuple[str, ...], follow: bool, lines: int | None, since_s: float | None
) -> int:
    """NAMES are units or models; a model stands for all its replicas. With several units, each line says
    whose it is. With -f nothing is lost when a log is turned over or the daemon restarts."""
    with invocation.client() as client:
        units, refused = _units(client, names)
        if not units and refused:
            raise refused[0]
        tails = [Tail(unit) for unit in units]

        def show(tail: Tail, written: Iterable[str]) -> None:
            for line in written:
                if invocation.json:
                    invocation.emit("mgmt.log/1", {"unit": tail.unit, "line": line})
                else:
                    click.echo(f"[{tail.unit}] {line}" if len(tails) > 1 else line)
            sys.stdout.flush()

        first: dict[str, Any] = {"lines": LINES if lines is None else lines}
        if since_s is not None:
            first = {"since_s": since_s}
        for tail in tails:
            written = tail.read(client, first)
            show(tail, written if since_s is None or lines is None else deque(written, lines))
        patience = Patience()
        while follow:
            patience.heard()
            time.sleep(LOOK_EVERY_S)
            for tail in tails:
                _go_on(client, tail, patience, show)
        for tail in tails:
            show(tail, tail.end())
    for error in refused:
        invocation.complain(error.as_body())
    return Exit.PARTIAL if refused else Exit.OK


def _go_on(client: Client, tail: Tail, patience: Patience, show: Any) -> None:
    """Show what follows; a daemon that restarts is waited for, and its next one knows the same files."""
    while True:
        try:
            show(tail, tail.read(client, {"lines": 0}))
            return
        except MgmtError as error:
            patience.wait(error)


def _units(client: Client, names: tuple[str, ...]) -> tuple[list[str], list[MgmtError]]:
    """The units that `names` stand for, and the refusals of those that stand for none."""
    units: dict[str, None] = {}
    refused: list[MgmtError] = []
    for name in names:
        try:
            found = client.request("status", {"units": [name]})["units"]
        except MgmtError as error:
            if error.row.exit != Exit.UNKNOWN:
                raise
            refused.append(error)
            continue
        if not found:
            text = f"model {name!r} was never loaded, so it has no log: mgmt load-model {name}"
            refused.append(MgmtError("not-loaded", text, model=name))
        units.update(dict.fromkeys(unit["unit"] for unit in found))
    return list(units), refused
