"""Names of files and what groups store, in the transactions that change them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from mgmt.core.suites import blobs as ops
from mgmt.core.suites.blobs import BlobKind, BlobRecord, Name
from mgmt.protocol.errors import MgmtError
from mgmt.store.queue import refusals
from mgmt.store.queue.connection import Connection

_COLUMNS = "group_name, kind, task, name, digest, size_bytes, creator, created_ms"
_NAMED = "group_name = ? AND kind = ? AND task = ? AND name = ?"
_AT_ONCE = 500  # digests in one question


def begin_upload(db: Connection, op: ops.BeginUpload) -> ops.Begun:
    if op.holder and not _runs(db, op.name.task, op.holder, op.attempt):
        raise refusals.stale(op.holder)
    used = _used(db, op.name.group)
    old = _find(db, op.name)
    if old is not None and old.digest == op.digest:
        return ops.Begun(0, old, used)
    known = db.rows(
        f"SELECT id FROM uploads WHERE {_NAMED} AND digest = ? AND size_bytes = ? AND creator = ? "
        "AND holder = ? AND attempt = ?",
        (*op.name, op.digest, op.size_bytes, op.creator, op.holder, op.attempt),
    )
    if known:
        db.change("UPDATE uploads SET touched_ms = ? WHERE id = ?", (op.now_ms, known[0][0]))
        return ops.Begun(known[0][0], None, used)
    reserved = max(0, op.size_bytes - (old.size_bytes if old is not None else 0))
    if used + reserved > op.quota_bytes:
        raise MgmtError(
            "over-quota",
            f"group {op.name.group!r} stores {used} of {op.quota_bytes} bytes, and {reserved} more do not fit: "
            "delete something (`mgmt attachment rm`, `mgmt artifact rm`), or ask an administrator for more "
            f"(`mgmt quota set {op.name.group} --storage {used + reserved}`)",
            group=op.name.group,
            quota=op.quota_bytes,
        )
    upload = db.take("upload", 1)
    db.change(
        "INSERT INTO uploads (id, group_name, kind, task, name, digest, size_bytes, creator, holder, attempt, "
        "reserved_bytes, touched_ms) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (upload, *op.name, op.digest, op.size_bytes, op.creator, op.holder, op.attempt, reserved, op.now_ms),
    )
    return ops.Begun(upload, None, _count(db, op.name.group, reserved))


def end_upload(db: Connection, op: ops.EndUpload) -> ops.Ended:
    found = db.rows(
        "SELECT group_name, kind, task, name, digest, size_bytes, creator, holder, attempt, reserved_bytes "
        "FROM uploads WHERE id = ?" + db.LOCK,
        (op.upload,),
    )
    if not found:
        raise unknown_upload(op.upload)
    *named, digest, size_bytes, creator, holder, attempt, reserved = found[0]
    name = Name(*named)
    if op.stored and holder and not _runs(db, name.task, holder, attempt):
        raise refusals.stale(holder)
    db.change("DELETE FROM uploads WHERE id = ?", (op.upload,))
    if not op.stored:
        return ops.Ended(None, name.group, _count(db, name.group, -reserved))
    used = _count(db, name.group, -reserved)
    old = _find(db, name)
    if old is not None:
        db.change(f"DELETE FROM blobs WHERE {_NAMED}", name)
        used = _count(db, name.group, -old.size_bytes)
    record = BlobRecord(name, digest, size_bytes, creator, op.now_ms)
    db.change(
        f"INSERT INTO blobs ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (*name, digest, size_bytes, creator, op.now_ms),
    )
    used = _count(db, name.group, size_bytes)
    return ops.Ended(record, name.group, used)


def sweep_uploads(db: Connection, op: ops.SweepUploads) -> ops.UploadsSwept:
    if op.active:
        db.change(f"UPDATE uploads SET touched_ms = ? WHERE id {db.AMONG}", (op.now_ms, db.ids(op.active)))
    gone = db.rows(
        "SELECT id, group_name, reserved_bytes FROM uploads WHERE touched_ms < ? ORDER BY id" + db.LOCK,
        (op.before_ms,),
    )
    used: dict[str, int] = {}
    if gone:
        db.change(f"DELETE FROM uploads WHERE id {db.AMONG}", (db.ids([row[0] for row in gone]),))
        for _, group, reserved in gone:
            used[group] = _count(db, group, -reserved)
    return ops.UploadsSwept(tuple(row[0] for row in gone), tuple(used.items()))


def delete_blobs(db: Connection, op: ops.DeleteBlobs) -> ops.Deleted:
    where, parameters = _where(db, op.filter)
    rows = db.rows(f"SELECT {_COLUMNS} FROM blobs{where}" + db.LOCK, parameters)
    return _delete(db, [_record(row) for row in rows])


def forget_tasks(db: Connection, ids: Any) -> None:
    """The artifacts of tasks (a list of `Connection.ids`) that are forgotten."""
    rows = db.rows(f"SELECT {_COLUMNS} FROM blobs WHERE task {db.AMONG}" + db.LOCK, (ids,))
    if rows:
        _delete(db, [_record(row) for row in rows])


def _delete(db: Connection, records: Sequence[BlobRecord]) -> ops.Deleted:
    db.many(f"DELETE FROM blobs WHERE {_NAMED}", [record.name for record in records])
    freed: dict[str, int] = {}
    for record in records:
        freed[record.name.group] = freed.get(record.name.group, 0) + record.size_bytes
    used = tuple((group, _count(db, group, -size)) for group, size in sorted(freed.items()))
    return ops.Deleted(len(records), sum(freed.values()), used)


# ---- what is only read ------------------------------------------------------------------------------------


def list_blobs(db: Connection, op: ops.ListBlobs) -> ops.Blobs:
    where, parameters = _where(db, op.filter)
    ((count, size),) = db.rows(
        f"SELECT count(*), CAST(COALESCE(sum(size_bytes), 0) AS BIGINT) FROM blobs{where}", parameters
    )
    rows = db.rows(
        f"SELECT {_COLUMNS} FROM blobs{where} ORDER BY group_name, name, task, kind LIMIT ? OFFSET ?",
        (*parameters, op.limit, op.offset),
    )
    return ops.Blobs(tuple(_record(row) for row in rows), count, int(size))


def list_unused(db: Connection, op: ops.ListUnused) -> tuple[str, ...]:
    used: set[str] = set()
    for start in range(0, len(op.digests), _AT_ONCE):
        some = op.digests[start : start + _AT_ONCE]
        marks = ", ".join("?" * len(some))
        for table in ("blobs", "uploads"):
            used.update(
                row[0] for row in db.rows(f"SELECT digest FROM {table} WHERE digest IN ({marks})", some)
            )
    return tuple(digest for digest in op.digests if digest not in used)


def list_storage(db: Connection, op: ops.ListStorage) -> tuple[tuple[str, int], ...]:
    return tuple(
        (group, used)
        for group, used in db.rows("SELECT name, used_bytes FROM storage WHERE used_bytes > 0 ORDER BY name")
    )


def _where(db: Connection, filter: ops.BlobFilter) -> tuple[str, list[Any]]:
    parts: list[str] = []
    parameters: list[Any] = []
    lists: tuple[tuple[str, Sequence[Any]], ...] = (("group_name", filter.groups), ("name", filter.keys))
    for column, words in lists:
        if words:
            parts.append(f"{column} IN ({', '.join('?' * len(words))})")
            parameters += words
    for column, numbers in (("kind", filter.kinds), ("task", filter.tasks)):
        if numbers:
            parts.append(f"{column} {db.AMONG}")
            parameters.append(db.ids([int(number) for number in numbers]))
    if filter.lane:
        parts.append("task IN (SELECT id FROM tasks WHERE lane = ?)")
        parameters.append(filter.lane)
    if filter.prefix:
        parts.append("substr(name, 1, CAST(? AS INTEGER)) = ?")  # LIKE and order differ between engines
        parameters += [len(filter.prefix), filter.prefix]
    if filter.digest:
        parts.append("digest = ?")
        parameters.append(filter.digest)
    return f" WHERE {' AND '.join(parts)}" if parts else "", parameters


# ---- parts ------------------------------------------------------------------------------------------------


def unknown_upload(upload: int) -> MgmtError:
    return MgmtError(
        "unknown-blob",
        f"there is no upload {upload}: it is done, or nothing of it came for too long; begin it again",
        upload=upload,
    )


def _find(db: Connection, name: Name) -> BlobRecord | None:
    rows = db.rows(f"SELECT {_COLUMNS} FROM blobs WHERE {_NAMED}" + db.LOCK, name)
    return _record(rows[0]) if rows else None


def _record(row: Sequence[Any]) -> BlobRecord:
    return BlobRecord(Name(row[0], BlobKind(row[1]), row[2], row[3]), *row[4:])


def _runs(db: Connection, task: int, holder: int, attempt: int) -> bool:
    sql = "SELECT 1 FROM tasks WHERE id = ? AND holder = ? AND attempt = ? AND state = 2"
    return bool(db.rows(sql, (task, holder, attempt)))


def _used(db: Connection, group: str) -> int:
    """What a group stores, which nobody else changes from here on."""
    rows = db.rows("SELECT used_bytes FROM storage WHERE name = ?" + db.LOCK, (group,))
    if not rows:
        return 0
    return int(rows[0][0])


def _count(db: Connection, group: str, more_bytes: int) -> int:
    """What a group stores then."""
    ((used,),) = db.changed(
        "INSERT INTO storage (name, used_bytes) VALUES (?, ?) "
        "ON CONFLICT (name) DO UPDATE SET used_bytes = storage.used_bytes + excluded.used_bytes "
        "RETURNING used_bytes",
        (group, more_bytes),
    )
    return int(used)


def recount(db: Connection) -> Iterable[str]:
    """Groups that store something else than their blobs and uploads say."""
    sums: dict[str, int] = {}
    for sql in (
        "SELECT group_name, size_bytes FROM blobs",
        "SELECT group_name, reserved_bytes FROM uploads",
    ):
        for group, size in db.rows(sql):
            sums[group] = sums.get(group, 0) + size
    for group, used in db.rows("SELECT name, used_bytes FROM storage"):
        if sums.pop(group, 0) != used:
            yield f"group {group} does not store {used} bytes"
    yield from (f"group {group} stores {size} uncounted bytes" for group, size in sums.items() if size)
