"""`mgmt import`: the configuration of another supervisor as one of ours, and what does not go over."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path

import click

from mgmt.protocol import defaults
from mgmt.protocol.errors import Exit, MgmtError

from .importing import FORMATS, Origin, format_of, translate
from .invocation import Invocation, verb


@verb("import")
@click.argument("file")
@click.option(
    "--format", "kind", type=click.Choice([*FORMATS]), help="What FILE is; by default what it looks like."
)
@click.option("--output", metavar="PATH", help="Write the configuration to a new file instead of stdout.")
def import_(invocation: Invocation, file: str, kind: str | None, output: str | None) -> int:
    """FILE is a supervisord.conf, a circus.ini or a process-compose.yaml. Nothing is started or changed.

    Each setting without an equivalent, and each that means something a little different here, is a line on
    stderr, or an item of `notes` with --json: where it stands, its value, why, and what to do instead.
    """
    from mgmt.config import parse

    path = Path(os.path.abspath(file))
    try:
        text = _read(path)
        kind = kind or format_of(path, text)
        report = translate(kind, text, Origin(path.parent, os.environ, os.uname().nodename))
    except MgmtError as error:
        raise MgmtError(error.code, f"{file}: {error.text}", **error.detail) from None
    config = report.config()
    warnings = parse(config).warnings()
    printed = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    if output is not None:
        _write(Path(output), printed)
    if invocation.json:
        head = {"file": file, "format": kind, "output": output, "warnings": warnings}
        notes = [asdict(note) for note in report.notes]
        invocation.emit("mgmt.import/1", {**head, "notes": notes}, {"config": config})
        return Exit.OK
    if output is None:
        click.echo(printed, nl=False)
    for line in (*(note.line() for note in report.notes), *warnings):
        click.echo(f"note: {line}", err=True)
    where = f" in {output}, try `mgmt config check {output}`" if output else ""
    click.echo(f"{file}: {len(report.units)} units, {len(report.notes)} notes{where}", err=True)
    return Exit.OK


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(defaults.MAX_CONFIG_BYTES + 1)
        if len(data) > defaults.MAX_CONFIG_BYTES:
            raise MgmtError(
                "bad-config", f"is larger than {defaults.MAX_CONFIG_BYTES} bytes; the right file?"
            )
        return data.decode("utf-8-sig")
    except OSError as error:
        raise MgmtError("bad-config", f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise MgmtError(
            "bad-config", f"is not UTF-8 text: byte {error.start} is no part of a character"
        ) from None


def _write(path: Path, text: str) -> None:
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise MgmtError(
            "conflict", f"{path} exists and is left as it is: remove it, or name another"
        ) from None
