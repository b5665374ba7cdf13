"""Messages about files: attachments, which users put, and artifacts, which tasks leave."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from mgmt.protocol import defaults
from mgmt.protocol.messages_suites import READ_IN_GROUP, WRITE_IN_GROUP, SuiteKey, TaskKey
from mgmt.protocol.table import Audience, Message, Name
from mgmt.protocol.table import enter_request as request

ArtifactKind = Literal["result", "exec-log", "std-log"]
Digest = Annotated[
    str, Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the content, in hexadecimal")
]
Key = Annotated[
    str,
    Field(
        min_length=1,
        max_length=defaults.MAX_BLOB_KEY_CHARS,
        pattern=r"^[^\x00-\x1f/][^\x00-\x1f]*$",
        description="its name in the group, like a path",
    ),
]
Size = Annotated[int, Field(ge=0, le=defaults.MAX_BLOB_BYTES)]
Reference = Annotated[
    str,
    Field(
        min_length=1,
        max_length=1400,
        description="`GROUP/KEY` of an attachment, `task:NUMBER/KIND` of an artifact, or `sha256:HEX`",
    ),
]


class BlobStatus(Message):
    """A file that is stored."""

    blob: str = Field(description="what names it wherever a file is named")
    kind: Literal["attachment", "result", "exec-log", "std-log"]
    group: str
    key: str = Field(description="of an attachment, else empty")
    task: int | None = Field(description="of an artifact")
    bytes: int
    digest: str = Field(description="SHA-256 of its content, in hexadecimal")
    creator: str
    created_at: float


class Upload(Message):
    """Where an upload stands. `upload` 0: the name has this content already, and there is nothing to do."""

    upload: int
    offset: int = Field(description="bytes that are here: go on from there")
    chunk_bytes: int = Field(description="at most so many in one chunk")
    window: int = Field(description="at most so many chunks that are not answered")


@request("blob-begin", Upload, Audience.COURIER, WRITE_IN_GROUP)
class BlobBegin(Message):
    """Upload a file: an attachment of a user, or an artifact of a task by the node that runs it.

    It counts against the quota of its group from now on. The same again goes on where it was broken off.
    """

    bytes: Size
    digest: Digest
    group: Name | None = Field(default=None, description="of an attachment; your own when absent")
    key: Key | None = Field(default=None, description="of an attachment")
    task: TaskKey | None = Field(default=None, description="of an artifact")
    kind: ArtifactKind | None = Field(default=None, description="of an artifact")
    attempt: int = Field(default=0, ge=0, description="of the task")
    holder: int = Field(default=0, ge=0, description="who runs it")

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.key is None) == (self.task is None) or (self.task is None) != (self.kind is None):
            raise ValueError("give either the `key` of an attachment, or `task` and `kind` of an artifact")
        return self


class Received(Message):
    offset: int = Field(description="bytes that are here")


@request("blob-chunk", Received, Audience.COURIER, WRITE_IN_GROUP)
class BlobChunk(Message):
    """The next part of an upload, which begins where the former one ended."""

    upload: int = Field(ge=1)
    offset: Size
    data: bytes = Field(min_length=1, max_length=defaults.BLOB_CHUNK_BYTES)


@request("blob-commit", BlobStatus, Audience.COURIER, WRITE_IN_GROUP)
class BlobCommit(Message):
    """All of an upload is there: it gets its name when its content is of the digest that was told."""

    upload: int = Field(ge=1)


class BlobPart(Message):
    """Part of a file, with what is known of the whole."""

    blob: BlobStatus
    data: bytes


@request("blob-read", BlobPart, Audience.COURIER, READ_IN_GROUP)
class BlobRead(Message):
    """Read a part of a file. Agents read what the suite they have may read."""

    blob: Reference
    offset: Size = 0
    limit: int = Field(default=defaults.BLOB_CHUNK_BYTES, ge=0, le=defaults.BLOB_CHUNK_BYTES)
    digest: Digest | None = Field(default=None, description="refuse when it has other content by now")
    verify: bool = Field(
        default=False, description="read through all of it first, and refuse damaged content"
    )
    holder: int = Field(default=0, ge=0, description="of an agent: for whom it reads")
    task: int = Field(default=0, ge=0, description="of an agent: for which task; 0: for a hook")


# ---- names -----------------------------------------------------------------------------------------------


class BlobsReply(Message):
    blobs: list[BlobStatus]
    total: int = Field(description="how many match, with those before `offset` and after the last")
    bytes: int = Field(description="of all that match")


class BlobsDeleted(Message):
    deleted: int
    bytes: int


@request("attachments", BlobsReply, Audience.USER, READ_IN_GROUP)
class Attachments(Message):
    """List attachments, in the order of their names."""

    group: Name | None = Field(default=None, description="only of this group; none: of all that you may read")
    keys: list[Key] = Field(default=[], max_length=1024, description="only these")
    prefix: str = Field(
        default="", max_length=defaults.MAX_BLOB_KEY_CHARS, description="that begin like this"
    )
    limit: int = Field(default=100, ge=0, le=1000)
    offset: int = Field(default=0, ge=0)


@request("attachment-delete", BlobsDeleted, Audience.USER, WRITE_IN_GROUP)
class AttachmentDelete(Message):
    """Delete attachments of a group."""

    group: Name | None = Field(default=None, description="your own when absent")
    keys: list[Key] = Field(default=[], max_length=1024, description="these")
    prefix: str = Field(
        default="", max_length=defaults.MAX_BLOB_KEY_CHARS, description="those that begin like this"
    )


class ArtifactFilter(Message):
    """Which artifacts; all conditions hold."""

    tasks: list[TaskKey] = Field(default=[], max_length=10_000, description="only of these")
    suite: SuiteKey | None = Field(default=None, description="only of tasks of this suite")
    group: Name | None = Field(default=None, description="only of this group")
    kinds: list[ArtifactKind] = Field(default=[], description="only these")


@request("artifacts", BlobsReply, Audience.USER, READ_IN_GROUP)
class Artifacts(ArtifactFilter):
    """List what tasks have left: their results and logs."""

    limit: int = Field(default=100, ge=0, le=1000)
    offset: int = Field(default=0, ge=0)


@request("artifact-delete", BlobsDeleted, Audience.USER, WRITE_IN_GROUP)
class ArtifactDelete(ArtifactFilter):
    """Delete what tasks have left."""
