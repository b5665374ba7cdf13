"""Tables of candidates and runs out of a file, and the time and the settings they are looked at with."""

from __future__ import annotations

import json
import os
import time
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mgmt.protocol import defaults
from mgmt.protocol.errors import MgmtError

from ..invocation import Invocation
from ..schedule.files import read_text

if TYPE_CHECKING:
    from mgmt.core.candidates.records import RowError, World
    from mgmt.core.candidates.settings import Settings

CODE = "bad-candidates"
FETCH_S = 60.0  # of one page


@dataclass(frozen=True)
class Loaded:
    """`faults`: rows of the file that were left out."""

    world: World
    faults: list[RowError]
    now_us: int
    settings: Settings

    @property
    def now(self) -> str:
        return moment(self.now_us)


def shared(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options of every command that looks at a history."""
    for option in (
        click.option(
            "--settings", type=click.Path(), help="JSON or TOML with sections like decay, fairness."
        ),
        click.option("--now", help="The time to look from, like 2024-06-01T12:00; default: now."),
    ):
        function = option(function)
    return function


def moment(at_us: int) -> str:
    from datetime import timedelta

    from mgmt.core.candidates.records import EPOCH

    try:
        at = EPOCH + timedelta(microseconds=at_us)
    except OverflowError:
        return "never"  # after the year 9999
    return at.isoformat(timespec="seconds").replace("+00:00", "Z")


def load(file: str, now: str | None, settings: str | None, runs_do: bool = False) -> Loaded:
    """MgmtError `bad-candidates` when a file is no such thing; a row that is wrong is left out and told.

    `runs_do`: without candidates it is one as well."""
    from mgmt.core.candidates.records import RowError, world_of

    value = tables(file)
    own = value.pop("now", None) if isinstance(value, dict) else None
    try:
        world, faults = world_of(value)
    except RowError as error:
        raise MgmtError(CODE, f"{file}: {error}") from None
    if not world.candidates and not faults and not (runs_do and world.runs):
        raise MgmtError(CODE, f"{file}: has no candidates; they belong into a list `candidates`")
    return Loaded(world, faults, clock_us(now or own), chosen(settings))


def loaded(invocation: Invocation, file: str | None, now: str | None, settings: str | None) -> Loaded:
    """Of the file, else what the daemon has, with its settings where none are named."""
    return load(file, now, settings, runs_do=True) if file is not None else fetched(invocation, now, settings)


def fetched(invocation: Invocation, now: str | None, settings: str | None) -> Loaded:
    """All rows of the daemon, page by page."""
    from mgmt.core.candidates.records import world_of
    from mgmt.core.candidates.settings import settings_of

    found: dict[str, list[Any]] = {}
    own: dict[str, Any] = {}
    for told in pages(invocation):
        own = told["settings"]
        for row in told["rows"]:
            found.setdefault(row["table"], []).append(row["record"])
    if not found:
        raise MgmtError(
            CODE, "the daemon has no candidates and no runs: `mgmt candidates load FILE` stores them"
        )
    world, faults = world_of(found)
    told_settings = chosen(settings) if settings is not None else settings_of(own)
    return Loaded(world, faults, clock_us(now), told_settings)


def pages(invocation: Invocation) -> Iterator[dict[str, Any]]:
    """What the daemon answers to candidates-export, until it has no more; batches of runs as runs, last of all."""
    from mgmt.core.candidates import batches
    from mgmt.core.candidates.tasks import record_of

    found, told = list[batches.Batch](), dict[str, Any]()
    for told in _stored(invocation):
        found += (batches.batch_in(row["record"]) for row in told["rows"] if row["table"] == batches.KIND)
        yield {**told, "rows": [row for row in told["rows"] if row["table"] != batches.KIND]}
    for runs in batches.latest(found):
        yield {**told, "rows": [{"table": "runs", "record": record_of(run)} for run in runs]}


def _stored(invocation: Invocation) -> Iterator[dict[str, Any]]:
    after: dict[str, Any] = {}
    with invocation.client(FETCH_S) as client:
        while True:
            told = client.request("candidates-export", after)
            yield told
            if told["next_table"] is None:
                return
            after = {"after_table": told["next_table"], "after_name": told["next_name"]}


def written(path: Path, lines: Iterator[str]) -> None:
    """A whole file, or none."""
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("w", encoding="utf-8") as file:
            file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise MgmtError(CODE, f"{path}: {error.strerror}: name another file with -o") from None
    finally:
        part.unlink(missing_ok=True)


def clock_us(now: str | None) -> int:
    """What --now says, else now."""
    from mgmt.core.candidates.records import time_us

    try:
        return time_us(now) if now else round(time.time() * 1e6)
    except ValueError as error:
        raise MgmtError(CODE, f"--now is {now!r}: {error}") from None


def chosen(settings: str | None) -> Settings:
    """What the file of --settings says, else the defaults."""
    from mgmt.core.candidates.settings import SettingError, Settings, settings_of

    try:
        return Settings() if settings is None else settings_of(_settings(settings))
    except SettingError as error:
        raise MgmtError(CODE, f"{settings}: {error}") from None


def _text(file: str) -> str:
    return read_text(file, CODE, defaults.MAX_CANDIDATES_BYTES)


def _settings(file: str) -> Any:
    text = _text(file)
    try:
        return tomllib.loads(text) if file.endswith(".toml") else json.loads(text)
    except (ValueError, RecursionError) as error:
        kind = "TOML" if file.endswith(".toml") else "JSON"
        raise MgmtError(CODE, f"{file}: not {kind}: {error}") from None


def tables(file: str) -> Any:
    """An object of tables; of JSON lines each row goes to the table that it names."""
    text = _text(file)
    lines = text.rstrip("\n").split("\n")  # and not at whatever else a text in a row may have that ends lines
    try:
        if len(lines) > 1 and lines[0].startswith("{") and lines[0].rstrip().endswith("}"):
            return _of_lines(file, lines)
        value = json.loads(text)
        if isinstance(value, dict) and isinstance(value.get("table"), str):
            return _of_lines(file, [text])  # a single row
    except (ValueError, RecursionError) as error:
        raise MgmtError(CODE, f"{file}: not JSON: {error}") from None
    return value["world"] if isinstance(value, dict) and isinstance(value.get("world"), dict) else value


def _of_lines(file: str, lines: list[str]) -> dict[str, Any]:
    found: dict[str, list[Any]] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise MgmtError(CODE, f"{file}:{number}: not JSON: {error}") from None
        table = row.pop("table", None) if isinstance(row, dict) else None
        if not isinstance(table, str):
            raise MgmtError(CODE, f'{file}:{number}: the row names no table: {{"table": "runs", ...}}')
        found.setdefault(table, []).append(row)
    return found
