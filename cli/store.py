"""`mgmt store`: the daemon's memory on disk, looked at and repaired without a daemon."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from mgmt.protocol import places
from mgmt.protocol.errors import Exit, MgmtError

from . import queue_file as queue
from .invocation import Invocation, shared_options, verb


@click.group(params=shared_options())
def store() -> None:
    """Check or recover what the daemon keeps on disk.

    It is the store in the state folder ($MGMT_STATE_DIR); needs no daemon, and is refused while one uses it."""


@store.add_command
@verb("check", "Read the whole store and say whether it is sound.")
def check(invocation: Invocation) -> int:
    """Exits 1 when it, or the queue of tasks beside it, is damaged, with the reason; nothing is changed."""
    with held() as path:
        rows = count(path)
        tasks = queue.count(path.with_name(queue.NAME))
    told(invocation, "mgmt.store-check/1", path, rows, "is sound" if rows else "is not there yet", tasks)
    return Exit.OK


@store.add_command
@verb("recover", "Save what can be read of a damaged store into a new one; the old one is kept beside it.")
def recover(invocation: Invocation) -> int:
    """A sound store is left as it is, and so is a sound queue of tasks beside it. Units that run and are not in
    the new store are ended by the next daemon: nobody could tell any more what they are."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    with held() as path:
        rows, text = _recovered(path, stamp)
        tasks = queue.recovered(path.with_name(queue.NAME), stamp)
    told(invocation, "mgmt.store-recover/1", path, rows, text, tasks)
    return Exit.OK


def _recovered(path: Path, stamp: str) -> tuple[dict[str, int], str]:
    from mgmt.store.sqlite import recover as save

    try:
        return count(path), "is sound; nothing was changed"
    except MgmtError as error:
        if error.code != "bad-store":
            raise
        reason = error.detail.get("reason", error.text)
    rows = save(path, stamp)
    return rows, f"was damaged ({reason}) and is new{queue.kept(path, stamp)}"


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
    invocation: Invocation, schema: str, path: Path, rows: dict[str, int], text: str, tasks: queue.Told | None
) -> None:
    counts = ", ".join(f"{count} {table}" for table, count in rows.items())
    invocation.say(f"{path} {text}{f': {counts}' if counts else ''}")
    if tasks is not None:
        for line in tasks.lines():
            invocation.say(line)
    if invocation.json:
        value = {"path": str(path), "rows": rows, "text": text}
        invocation.emit(schema, {**value, "queue": tasks.value() if tasks is not None else None})
