"""`mgmt store`: the daemon's memory on disk, looked at and repaired without a daemon."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mgmt.protocol import places
from mgmt.protocol.errors import Exit, MgmtError

from . import queue_file
from .invocation import Invocation, shared_options, verb

if TYPE_CHECKING:
    from mgmt.store.queue.postgres import PostgresEngine
    from mgmt.store.queue.sqlite import SqliteEngine


@click.group(params=shared_options())
def store() -> None:
    """Check, recover or take back what the daemon keeps on disk.

    It is the store in the state folder ($MGMT_STATE_DIR); needs no daemon, and is refused while one uses it."""


@store.add_command
@verb("check", "Read the whole store and say whether it is sound.")
def check(invocation: Invocation) -> int:
    """Exits 1 when it, or the queue of tasks beside it, is damaged, with the reason; nothing is changed."""
    from mgmt.store import QUEUE_NAME

    with held() as path:
        rows = count(path)
        tasks = queue_file.count(path.with_name(QUEUE_NAME))
    told(invocation, "mgmt.store-check/1", path, rows, "is sound" if rows else "is not there yet", tasks)
    return Exit.OK


@store.add_command
@verb("recover", "Save what can be read of a damaged store into a new one; the old one is kept beside it.")
def recover(invocation: Invocation) -> int:
    """A sound store is left as it is, and so is a sound queue of tasks beside it. Units that run and are not in
    the new store are ended by the next daemon: nobody could tell any more what they are."""
    from mgmt.store import QUEUE_NAME

    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    with held() as path:
        rows, text = _recovered(path, stamp)
        tasks = queue_file.recovered(path.with_name(QUEUE_NAME), stamp)
    told(invocation, "mgmt.store-recover/1", path, rows, text, tasks)
    return Exit.OK


def _recovered(path: Path, stamp: str) -> tuple[dict[str, int], str]:
    from mgmt.store.sqlite import recover as save

    try:
        return count(path), "is sound; nothing was changed"
    except MgmtError as error:
        if error.code != "bad-store" or "version" in error.detail:
            raise  # one of a newer program is not damaged
        reason = error.detail.get("reason", error.text)
    rows = save(path, stamp)
    return rows, f"was damaged ({reason}) and is new{queue_file.kept(path, stamp)}"


@store.add_command
@verb("downgrade", "Make the store one that an older version of mgmt reads; nothing in it is lost.")
@click.option("--state", type=click.IntRange(min=1), metavar="VERSION", help="Schema version of the store.")
@click.option("--queue", type=click.IntRange(min=1), metavar="VERSION", help="Schema version of the queue.")
def downgrade(invocation: Invocation, state: int | None, queue: int | None) -> int:
    """The last thing a version does before an older one takes its place; the older one says which schema versions
    it reads when it refuses a newer store. The queue is `queue.db` of the state folder, or the database that the
    configuration of --config names; no daemon may use it meanwhile."""
    from mgmt.store import sqlite
    from mgmt.store.queue import tables

    if state is None and queue is None:
        raise click.UsageError("Say what: --state VERSION, --queue VERSION or both.")
    for option, wanted, here in (
        ("--state", state, sqlite.SCHEMA_VERSION),
        ("--queue", queue, tables.SCHEMA_VERSION),
    ):
        if wanted is not None and wanted > here:
            raise click.UsageError(
                f"{option} {wanted}: this mgmt writes version {here}, and knows no later one."
            )
    with held() as path:
        told: dict[str, int] = {}
        if state is not None:
            there(path, f"store {path}")
            sqlite.downgrade(path, state)
            told[str(path)] = state
        if queue is not None:
            engine, name = queue_of(invocation, path.parent)
            engine.downgrade(queue)
            told[name] = queue
    for name, version in told.items():
        invocation.say(f"{name} has schema version {version} now")
    if invocation.json:
        invocation.emit("mgmt.store-downgrade/1", {"versions": told})
    return Exit.OK


def queue_of(invocation: Invocation, folder: Path) -> tuple[SqliteEngine | PostgresEngine, str]:
    """Where the queue lies, and its name for people."""
    from mgmt.config import load
    from mgmt.store import QUEUE_NAME

    settings = load(Path(invocation.config)).settings.queue if invocation.config else None
    if settings is not None and settings.database is not None:
        from mgmt.store.queue.postgres import PostgresEngine

        name = f"the queue in the database schema {settings.database_schema}"
        return PostgresEngine(settings.database, settings.database_schema), name
    from mgmt.store.queue.sqlite import SqliteEngine

    path = folder / QUEUE_NAME
    there(path, f"queue {path}")
    return SqliteEngine(path), str(path)


def there(path: Path, what: str) -> None:
    """MgmtError `bad-store` when it was never made: opening it would."""
    if not path.exists() and not path.with_name(f"{path.name}.id").exists():
        raise MgmtError("bad-store", f"there is no {what}: nothing has to be made older")


def file_name() -> str:
    from mgmt.store import FILE_NAME

    return FILE_NAME


@contextmanager
def held() -> Iterator[Path]:
    """The store's path while the state folder is ours; MgmtError `already-running` when a daemon has it."""
    from mgmt.store import FILE_NAME, Lock

    folder = places.state_dir()
    if not folder.is_dir():
        raise MgmtError("bad-store", f"there is no state folder {folder}; MGMT_STATE_DIR names another")
    lock = Lock(folder)
    try:
        yield folder / FILE_NAME
    finally:
        lock.release()


def count(path: Path) -> dict[str, int]:
    """Rows by table, none when there was never a store; MgmtError `bad-store` names the damage."""
    from mgmt.store.sqlite import ACCOUNTS, TABLES, SqliteStore

    if not path.exists() and not path.with_name(f"{path.name}.id").exists():
        return {}  # opening it would make one
    opened = SqliteStore(path)
    try:
        restored = opened.load()
    finally:
        opened.close()
    return {
        table: len(restored.accounts.get(table, ()) if table in ACCOUNTS else getattr(restored, table))
        for table in TABLES
    }


def told(
    invocation: Invocation,
    schema: str,
    path: Path,
    rows: dict[str, int],
    text: str,
    tasks: queue_file.Told | None,
) -> None:
    counts = ", ".join(f"{count} {table}" for table, count in rows.items())
    invocation.say(f"{path} {text}{f': {counts}' if counts else ''}")
    if tasks is not None:
        for line in tasks.lines():
            invocation.say(line)
    if invocation.json:
        value = {"path": str(path), "rows": rows, "text": text}
        invocation.emit(schema, {**value, "queue": tasks.value() if tasks is not None else None})
