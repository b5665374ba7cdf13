"""What the queue is asked about files: attachments, which users put, and artifacts, which tasks leave.

A blob is a name for content; content is known by its SHA-256 and lies elsewhere. What a group stores is counted in
the transaction that changes it: the bytes of its blobs, and for each upload what it adds to the blob it replaces.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from mgmt.protocol import references
from mgmt.protocol.errors import MgmtError


class BlobKind(IntEnum):
    """The numbers are stored. Of an artifact, its name is a part of a reference: `task:7/std-log`."""

    RESULT = 0
    EXEC_LOG = 1
    STD_LOG = 2
    ATTACHMENT = 3

    @property
    def word(self) -> str:
        return self.name.lower().replace("_", "-")


ARTIFACTS = {kind: BlobKind(number) for number, kind in enumerate(references.KINDS)}


class Name(NamedTuple):
    """Of a blob: an attachment has a group and a key, an artifact a task and its group."""

    group: str
    kind: int = BlobKind.ATTACHMENT
    task: int = 0
    key: str = ""


@dataclass(frozen=True, slots=True)
class BlobRecord:
    """`digest`: SHA-256 of the content in hexadecimal."""

    name: Name
    digest: str
    size_bytes: int
    creator: str
    created_ms: int

    @property
    def reference(self) -> str:
        name = self.name
        if name.kind == BlobKind.ATTACHMENT:
            return f"{name.group}/{name.key}"
        return f"task:{name.task}/{BlobKind(name.kind).word}"


@dataclass(frozen=True, slots=True)
class BeginUpload:
    """Content of this digest is to come for a name. Answer: `Begun`; `over-quota`.

    The same by the same creator again: the same upload. `holder`, `attempt`: of an artifact; `stale` unless it
    runs the task. What is granted is counted until it is stored or given up.
    """

    name: Name
    digest: str
    size_bytes: int
    quota_bytes: int
    creator: str
    now_ms: int
    holder: int = 0
    attempt: int = 0


@dataclass(frozen=True, slots=True)
class Begun:
    """`stored`: the name has this content already and there is nothing to upload."""

    upload: int
    stored: BlobRecord | None
    used_bytes: int


@dataclass(frozen=True, slots=True)
class EndUpload:
    """Its content lies where it belongs (`stored`), or never will. Answer: `Ended`; `unknown-blob`, `stale`."""

    upload: int
    now_ms: int
    stored: bool = True


@dataclass(frozen=True, slots=True)
class Ended:
    record: BlobRecord | None
    group: str
    used_bytes: int


@dataclass(frozen=True, slots=True)
class SweepUploads:
    """Give up uploads of which nothing came since `before_ms`, but `active` ones. Answer: `UploadsSwept`."""

    active: tuple[int, ...]
    before_ms: int
    now_ms: int


@dataclass(frozen=True, slots=True)
class UploadsSwept:
    uploads: tuple[int, ...]
    used: tuple[tuple[str, int], ...]  # by group


@dataclass(frozen=True, slots=True)
class BlobFilter:
    """Blobs that have all of this; empty: any. `prefix`: of the key. `digest`: of the content."""

    groups: tuple[str, ...] = ()
    kinds: tuple[int, ...] = ()
    tasks: tuple[int, ...] = ()
    lane: int = 0
    keys: tuple[str, ...] = ()
    prefix: str = ""
    digest: str = ""


@dataclass(frozen=True, slots=True)
class ListBlobs:
    """Blobs in the order of their names. Answer: `Blobs`."""

    filter: BlobFilter
    limit: int = 100
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Blobs:
    """`count` and `size_bytes`: of all that match."""

    blobs: tuple[BlobRecord, ...]
    count: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class DeleteBlobs:
    """Forget names; content that has none left is collected later. Answer: `Deleted`."""

    filter: BlobFilter
    now_ms: int


@dataclass(frozen=True, slots=True)
class Deleted:
    count: int
    size_bytes: int
    used: tuple[tuple[str, int], ...]  # by group


@dataclass(frozen=True, slots=True)
class ListUnused:
    """Which of these digests neither a blob nor an upload has. Answer: tuple of them."""

    digests: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ListStorage:
    """Answer: tuple of (group, bytes) of all groups that store something."""


BlobOp = BeginUpload | EndUpload | SweepUploads | DeleteBlobs
BlobQuery = ListBlobs | ListUnused | ListStorage
BlobAnswer = (
    Begun | Ended | UploadsSwept | Blobs | Deleted | tuple[str, ...] | tuple[tuple[str, int], ...]
)  # fmt: skip


def find(reference: str) -> BlobFilter:
    """What a reference means; MgmtError `bad-body` when it names nothing."""
    try:
        group, key, task, kind, digest = references.parse(reference)
    except ValueError as error:
        raise MgmtError("bad-body", str(error)) from None
    if digest:
        return BlobFilter(digest=digest)
    if task:
        return BlobFilter(tasks=(task,), kinds=(ARTIFACTS[kind],))
    return BlobFilter(groups=(group,), kinds=(BlobKind.ATTACHMENT,), keys=(key,))
