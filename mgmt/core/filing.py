"""Files: uploads, downloads, lists; what nothing names any more is collected.

The queue has the names and counts what groups store; content lies elsewhere, and only worker threads touch it. An
upload is granted by the queue, written to a spool, placed as content, and named last: what is named is whole.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mgmt.core import effect as fx
from mgmt.core.event import ADMINISTRATOR, CREW_PLANE, NODES_PLANE, Asked, Filed, Now
from mgmt.core.state import State
from mgmt.core.suites import blobs as op
from mgmt.core.suites import operations
from mgmt.core.suites.blobs import BlobKind, BlobRecord
from mgmt.core.suites.filing import Then, Upload
from mgmt.core.supervision import LOCAL
from mgmt.core.verbs import Body, handles, later, refuse_while_stopping
from mgmt.protocol import defaults, frames
from mgmt.protocol import messages_blobs as msg
from mgmt.protocol.errors import MgmtError
from mgmt.protocol.table import Role


def blob_body(record: BlobRecord) -> dict[str, Any]:
    """A BlobStatus."""
    name = record.name
    return {
        "blob": record.reference,
        "kind": BlobKind(name.kind).word,
        "group": name.group,
        "key": name.key,
        "task": name.task or None,
        "bytes": record.size_bytes,
        "digest": record.digest,
        "creator": record.creator,
        "created_at": record.created_ms / 1000,
    }


# ---- uploads ---------------------------------------------------------------------------------------------


@handles("blob-begin")
def _begin(state: State, now: Now, asked: Asked, body: msg.BlobBegin, out: list[fx.Effect]) -> Body:
    node = _courier(state, asked)
    if body.task is not None and body.kind is not None:
        if node is None:
            raise MgmtError("denied", "artifacts are what tasks leave; attachments are for what users bring")
        suite = state.board.suite_at(body.holder, node).record
        name, creator = op.Name(suite.group, op.ARTIFACTS[body.kind], body.task), suite.creator
    else:
        if node is not None:
            raise MgmtError("denied", "nodes bring the artifacts of their tasks, and no attachments")
        refuse_while_stopping(state)
        creator = asked.by.user or ADMINISTRATOR
        name = op.Name(body.group or creator, key=body.key or "")
        state.users.require(asked, group=name.group, role=Role.WRITE)
    quota_bytes = state.users.group(name.group).storage_quota_bytes
    begin = op.BeginUpload(
        name, body.digest, body.bytes, quota_bytes, creator, now.real_ms, body.holder, body.attempt
    )

    def begun(now: Now, begun: op.Begun, out: list[fx.Effect]) -> dict[str, Any] | None:
        state.users.count_stored(name.group, begun.used_bytes)
        where = {"chunk_bytes": defaults.BLOB_CHUNK_BYTES, "window": defaults.BLOB_WINDOW}
        if begun.stored is not None:
            return {"upload": 0, "offset": begun.stored.size_bytes, **where}

        def opened(now: Now, offset: int, out: list[fx.Effect]) -> dict[str, Any]:
            known = state.filing.uploads.setdefault(
                begun.upload, Upload(_whose(asked, node), body.digest, body.bytes)
            )
            known.moved = True
            return {"upload": begun.upload, "offset": offset, **where}

        _file(state, asked, fx.OpenSpool(begun.upload), opened, out)
        return None

    later(state, now, asked, begin, begun, out)
    return None


@handles("blob-chunk")
def _chunk(state: State, now: Now, asked: Asked, body: msg.BlobChunk, out: list[fx.Effect]) -> Body:
    upload, filing = _upload(state, asked, body.upload), state.filing
    size = len(body.data)
    if body.offset + size > upload.size_bytes:
        raise MgmtError("bad-body", f"upload {body.upload} has {upload.size_bytes} bytes, and this is beyond")
    if filing.unwritten_bytes + size > defaults.BLOB_UNWRITTEN_BYTES:
        raise MgmtError("busy", f"{filing.unwritten_bytes} bytes of uploads wait to be written; try again")
    filing.unwritten_bytes += size
    upload.moved = True
    state.sessions.park(now, asked, out)

    def written(now: Now, result: Any, out: list[fx.Effect]) -> None:
        filing.unwritten_bytes -= size
        if isinstance(result, MgmtError):
            state.sessions.refuse(asked.route, result, out)
        else:
            state.sessions.answer(asked.route, frames.Outcome.OK, {"offset": result}, out)

    filing.ask(fx.WriteSpool(body.upload, body.offset, body.data), written, out)
    return None


@handles("blob-commit")
def _commit(state: State, now: Now, asked: Asked, body: msg.BlobCommit, out: list[fx.Effect]) -> Body:
    upload = _upload(state, asked, body.upload)
    upload.moved = True
    state.sessions.park(now, asked, out)

    def give_up(error: MgmtError) -> Then:
        def then(now: Now, result: Any, out: list[fx.Effect]) -> None:
            if not isinstance(result, MgmtError):
                state.users.count_stored(result.group, result.used_bytes)
            state.sessions.refuse(asked.route, error, out)

        return then

    def placed(now: Now, result: Any, out: list[fx.Effect]) -> None:
        if isinstance(result, MgmtError):
            if result.code == "corrupt":
                state.filing.uploads.pop(body.upload, None)
                state.board.ask(op.EndUpload(body.upload, now.real_ms, False), give_up(result), out)
            else:
                state.sessions.refuse(asked.route, result, out)
            return
        state.board.ask(op.EndUpload(body.upload, now.real_ms), ended, out)

    def ended(now: Now, result: Any, out: list[fx.Effect]) -> None:
        if isinstance(result, MgmtError):
            if result.code == "stale":
                state.filing.uploads.pop(body.upload, None)
                state.board.ask(op.EndUpload(body.upload, now.real_ms, False), give_up(result), out)
            else:
                state.sessions.refuse(asked.route, result, out)
            return
        state.filing.uploads.pop(body.upload, None)
        state.users.count_stored(result.group, result.used_bytes)
        state.sessions.answer(asked.route, frames.Outcome.OK, blob_body(result.record), out)

    state.filing.ask(fx.PlaceSpool(body.upload, upload.digest), placed, out)
    return None


def _upload(state: State, asked: Asked, number: int) -> Upload:
    """MgmtError `unknown-blob`, or `denied` for another's."""
    upload = state.filing.uploads.get(number)
    if upload is None:
        text = (
            f"this daemon knows of no upload {number}: begin it again, and it goes on where it was broken off"
        )
        raise MgmtError("unknown-blob", text, upload=number)
    if upload.whose != _whose(asked, _courier(state, asked)):
        raise MgmtError("denied", f"upload {number} is another's")
    return upload


def _courier(state: State, asked: Asked) -> str | None:
    """The node that asks for what it runs; None for users."""
    if asked.route.plane == CREW_PLANE:
        return LOCAL
    if asked.route.plane != NODES_PLANE:
        return None
    node = state.roster.find(asked.route.peer, asked.route.session)
    if node is None:
        raise MgmtError("session-gone", "this agent has not joined; it says hello first")
    return node.name


def _whose(asked: Asked, node: str | None) -> str:
    return f"node {node}" if node is not None else f"user {asked.by.user or ADMINISTRATOR}"


# ---- downloads -------------------------------------------------------------------------------------------


@handles("blob-read")
def _read(state: State, now: Now, asked: Asked, body: msg.BlobRead, out: list[fx.Effect]) -> Body:
    node = _courier(state, asked)
    suite = state.board.suite_at(body.holder, node).record if node is not None else None
    wanted = op.find(body.blob)
    if wanted.digest:
        # Whoever knows a digest has not thereby the content: it has to be in a group of theirs.
        groups = (suite.group,) if suite is not None else _readable(state, asked)
        wanted = op.BlobFilter(groups=groups or (), digest=wanted.digest)
    elif wanted.groups and suite is None:
        state.users.require(asked, group=wanted.groups[0], role=Role.READ)

    def found(now: Now, blobs: op.Blobs, out: list[fx.Effect]) -> None:
        if not blobs.blobs:
            where = "artifact" if wanted.tasks else "attachment"
            raise MgmtError(
                "unknown-blob", f"there is no file {body.blob!r}; `mgmt {where} list` shows those there are"
            )
        record = blobs.blobs[0]
        if suite is None:
            state.users.require(asked, group=record.name.group, role=Role.READ)
            give(record, now, out)
        elif record.name.group == suite.group:
            give(record, now, out)
        elif not body.task:
            _refuse_other(state, suite.creator, record)
            give(record, now, out)
        else:

            def known(now: Now, task: operations.TaskRecord, out: list[fx.Effect]) -> None:
                _refuse_other(state, task.creator, record)
                give(record, now, out)

            later(state, now, asked, operations.GetTask(body.task), known, out)

    def give(record: BlobRecord, now: Now, out: list[fx.Effect]) -> None:
        if body.digest is not None and body.digest != record.digest:
            text = f"{body.blob} has other content than when this transfer began; begin it again"
            raise MgmtError("conflict", text, digest=record.digest)

        def read(now: Now, data: bytes, out: list[fx.Effect]) -> dict[str, Any]:
            return {"blob": blob_body(record), "data": data}

        if body.limit or body.verify:
            work = fx.ReadContent(record.digest, body.offset, body.limit, body.verify)
            _file(state, asked, work, read, out)
        else:
            state.sessions.answer(asked.route, frames.Outcome.OK, read(now, b"", out), out)

    later(state, now, asked, op.ListBlobs(wanted, 1), found, out)
    return None


def _refuse_other(state: State, creator: str, record: BlobRecord) -> None:
    """What is another group's is for tasks of those who may read it."""
    user, group = state.users.users.get(creator), record.name.group
    role = state.users.role_in(creator, group)
    if (user is None or not user.admin) and (role is None or role < Role.READ):
        text = (
            f"user {creator!r}, whose task or hook this is, may not read group {group!r}, which has "
            f"{record.reference}; somebody who manages it can allow that (`mgmt group add {group} {creator} "
            "--role read`)"
        )
        raise MgmtError("denied", text, group=group)


def _readable(state: State, asked: Asked, role: Role = Role.READ) -> tuple[str, ...] | None:
    """The groups in which the asker has the role; None: all. MgmtError `denied` for nobody's."""
    if asked.by.is_administrator:
        return None
    user = asked.by.user
    groups = [group.name for group in state.users.groups_of(user) if group.members[user] >= role]
    if not groups:
        raise MgmtError("denied", f"you are in no group with the role {role}; ask an administrator for one")
    return tuple(sorted(groups))


# ---- names -----------------------------------------------------------------------------------------------


@handles("attachments")
def _attachments(state: State, now: Now, asked: Asked, body: msg.Attachments, out: list[fx.Effect]) -> Body:
    groups = _chosen(state, asked, body.group, Role.READ)
    chosen = op.BlobFilter(groups, (BlobKind.ATTACHMENT,), keys=tuple(body.keys), prefix=body.prefix)
    return _list(state, now, asked, chosen, body.limit, body.offset, out)


@handles("attachment-delete")
def _attachment_delete(
    state: State, now: Now, asked: Asked, body: msg.AttachmentDelete, out: list[fx.Effect]
) -> Body:
    group = body.group or asked.by.user or ADMINISTRATOR
    state.users.require(asked, group=group, role=Role.WRITE)
    if not (body.keys or body.prefix):
        raise MgmtError("bad-body", "say which attachments: give `keys` or a `prefix`")
    chosen = op.BlobFilter((group,), (BlobKind.ATTACHMENT,), keys=tuple(body.keys), prefix=body.prefix)
    return _delete(state, now, asked, chosen, out)


@handles("artifacts")
def _artifacts(state: State, now: Now, asked: Asked, body: msg.Artifacts, out: list[fx.Effect]) -> Body:
    return _list(
        state, now, asked, _artifact_filter(state, asked, body, Role.READ), body.limit, body.offset, out
    )


@handles("artifact-delete")
def _artifact_delete(
    state: State, now: Now, asked: Asked, body: msg.ArtifactDelete, out: list[fx.Effect]
) -> Body:
    if not (body.tasks or body.suite or body.group):
        raise MgmtError("bad-body", "say which artifacts: give tasks, a suite or a group")
    return _delete(state, now, asked, _artifact_filter(state, asked, body, Role.WRITE), out)


def _artifact_filter(state: State, asked: Asked, body: msg.ArtifactFilter, role: Role) -> op.BlobFilter:
    lane = 0
    if body.suite is not None:
        entry = state.board.find(body.suite)
        if entry is None:
            text = f"no suite {body.suite!r} is known; `mgmt suite list` shows those there are"
            raise MgmtError("unknown-suite", text, suite=body.suite)
        state.users.require(asked, group=entry.record.group, role=role)
        lane = entry.number
    kinds = [op.ARTIFACTS[kind] for kind in body.kinds or op.ARTIFACTS]
    return op.BlobFilter(_chosen(state, asked, body.group, role), tuple(kinds), tuple(body.tasks), lane)


def _chosen(state: State, asked: Asked, group: str | None, role: Role) -> tuple[str, ...]:
    """The groups to look in; empty: all of them."""
    if group is not None:
        state.users.require(asked, group=group, role=role)
        return (group,)
    return _readable(state, asked, role) or ()


def _list(
    state: State, now: Now, asked: Asked, chosen: op.BlobFilter, limit: int, offset: int, out: list[fx.Effect]
) -> Body:
    def reply(now: Now, found: op.Blobs, out: list[fx.Effect]) -> dict[str, Any]:
        return {
            "blobs": [blob_body(record) for record in found.blobs],
            "total": found.count,
            "bytes": found.size_bytes,
        }

    later(state, now, asked, op.ListBlobs(chosen, limit, offset), reply, out)
    return None


def _delete(state: State, now: Now, asked: Asked, chosen: op.BlobFilter, out: list[fx.Effect]) -> Body:
    def reply(now: Now, deleted: op.Deleted, out: list[fx.Effect]) -> dict[str, Any]:
        for group, used_bytes in deleted.used:
            state.users.count_stored(group, used_bytes)
        return {"deleted": deleted.count, "bytes": deleted.size_bytes}

    later(state, now, asked, op.DeleteBlobs(chosen, now.real_ms), reply, out)
    return None


def _file(
    state: State,
    asked: Asked,
    work: fx.FileWork,
    reply: Callable[[Now, Any, list[fx.Effect]], dict[str, Any]],
    out: list[fx.Effect],
) -> None:
    """Answer a parked request with what `reply` makes of the result."""

    def then(now: Now, result: Any, out: list[fx.Effect]) -> None:
        if isinstance(result, MgmtError):
            state.sessions.refuse(asked.route, result, out)
        else:
            state.sessions.answer(asked.route, frames.Outcome.OK, reply(now, result, out), out)

    state.filing.ask(work, then, out)


# ---- what nothing names any more -------------------------------------------------------------------------


def collect(state: State, now: Now, out: list[fx.Effect]) -> None:
    """Give up uploads that stand still, forget what belonged to deleted groups, remove content without a name."""
    files = state.settings.files
    before_s = now.real_s - files.grace_s
    listing = fx.ListContents(before_s, before_s - files.grace_s - 2 * files.collect_s)
    uploads = state.filing.uploads
    active = tuple(number for number, upload in uploads.items() if upload.moved)
    for upload in uploads.values():
        upload.moved = False

    def swept(now: Now, result: Any, out: list[fx.Effect]) -> None:
        if isinstance(result, MgmtError):
            return
        for group, used_bytes in result.used:
            state.users.count_stored(group, used_bytes)
        for number in result.uploads:
            uploads.pop(number, None)
        if result.uploads:
            state.filing.ask(fx.DropSpools(result.uploads), _nothing, out)

    def deleted(now: Now, result: Any, out: list[fx.Effect]) -> None:
        if not isinstance(result, MgmtError):
            for group, used_bytes in result.used:
                state.users.count_stored(group, used_bytes)
            state.filing.ask(listing, listed, out)

    def listed(now: Now, result: Any, out: list[fx.Effect]) -> None:
        if not isinstance(result, MgmtError) and result:
            state.board.ask(op.ListUnused(result), looked, out)

    def looked(now: Now, result: Any, out: list[fx.Effect]) -> None:
        if not isinstance(result, MgmtError) and result:
            state.filing.ask(fx.RemoveContents(result, before_s), removed, out)

    def removed(now: Now, result: Any, out: list[fx.Effect]) -> None:
        if not isinstance(result, MgmtError):
            out.append(
                fx.Note("INFO", f"{result} bytes of files that nothing names any more are removed", {})
            )

    def counted(now: Now, result: Any, out: list[fx.Effect]) -> None:
        if not isinstance(result, MgmtError):
            used = dict(result)  # by all daemons of the queue
            for group in state.users.groups:
                state.users.count_stored(group, used.get(group, 0))

    state.board.ask(op.ListStorage(), counted, out)
    state.board.ask(op.SweepUploads(active, int(before_s * 1000), now.real_ms), swept, out)
    gone = [group.name for group in state.users.groups.values() if group.deleted and group.storage_used_bytes]
    if gone:
        state.board.ask(op.DeleteBlobs(op.BlobFilter(tuple(gone)), now.real_ms), deleted, out)
    else:
        state.filing.ask(listing, listed, out)
    set_timer(state, now, out)


def set_timer(state: State, now: Now, out: list[fx.Effect]) -> None:
    at_ns = now.mono_ns + int(state.settings.files.collect_s * 1e9)
    out.append(fx.SetTimer(("blobs", "collect"), at_ns))


def on_filed(state: State, now: Now, event: Filed, out: list[fx.Effect]) -> None:
    state.filing.on_filed(now, event, out)


def _nothing(now: Now, result: Any, out: list[fx.Effect]) -> None:
    pass
