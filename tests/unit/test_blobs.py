"""Where content lies: whole or not there, in a folder and in a bucket; and the names of files on each engine."""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mgmt.core.suites import blobs as op
from mgmt.core.suites import operations
from mgmt.core.suites.blobs import BlobFilter, BlobKind, Name
from mgmt.protocol.errors import MgmtError
from mgmt.store.blobs import Contents
from mgmt.store.blobs.local import LocalContents
from tests.unit.queues import SPEC, Asked
from tests.unit.test_queue import Holder, make_suite, refused, submit

A, B = "a" * 64, "b" * 64


# ---- content ---------------------------------------------------------------------------------------------


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Contents]:
    reason = "boto3 and moto are not installed: pip install -e '.[s3-test]'"
    boto3: Any = pytest.importorskip("boto3", reason=reason)
    moto: Any = pytest.importorskip("moto", reason=reason)
    from mgmt.store.blobs.s3 import S3Contents

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with moto.mock_aws():
        with pytest.raises(MgmtError, match="bucket 'files' cannot be used"):
            S3Contents("files")
        boto3.client("s3").create_bucket(Bucket="files")
        yield S3Contents("files", "here/")


@pytest.fixture(params=["folder", "bucket"])
def contents(request: pytest.FixtureRequest, tmp_path: Path) -> Contents:
    if request.param == "folder":
        return LocalContents(tmp_path / "contents")
    contents: Contents = request.getfixturevalue("bucket")
    return contents


def take(contents: Contents, folder: Path, data: bytes) -> str:
    path, digest = folder / "new", hashlib.sha256(data).hexdigest()
    path.write_bytes(data)
    contents.take(path, digest)
    assert not path.exists()
    return digest


def test_content_is_read_in_parts(contents: Contents, tmp_path: Path) -> None:
    data = os.urandom(5000)
    digest = take(contents, tmp_path, data)
    assert contents.read(digest, 0, 10_000) == data
    assert contents.read(digest, 4990, 100) == data[4990:]
    assert contents.read(digest, 5000, 10) == contents.read(digest, 9000, 10) == b""
    assert contents.read(take(contents, tmp_path, b""), 0, 10) == b""
    contents.verify(digest)
    assert take(contents, tmp_path, data) == digest, "again"
    for call in (lambda: contents.read(A, 0, 1), lambda: contents.verify(A)):
        with pytest.raises(MgmtError) as missing:
            call()
        assert missing.value.code == "unknown-blob" and A in missing.value.text


def test_only_what_is_old_is_listed_and_removed(contents: Contents, tmp_path: Path) -> None:
    digest = take(contents, tmp_path, b"content")
    past, future = time.time() - 60, time.time() + 60
    assert list(contents.list_before(past)) == []
    assert contents.remove(digest, past) == 0
    assert list(contents.list_before(future)) == [digest]
    assert contents.remove(digest, future) == 7
    assert contents.remove(digest, future) == 0
    assert list(contents.list_before(future)) == []


def test_one_flipped_bit_is_found(tmp_path: Path) -> None:
    contents = LocalContents(tmp_path / "contents")
    digest = take(contents, tmp_path, b"content")
    path = contents.path_of(digest)
    path.chmod(0o600)
    path.write_bytes(b"contenT")
    with pytest.raises(MgmtError, match=f"sha256:{digest} is damaged") as damaged:
        contents.verify(digest)
    assert damaged.value.code == "corrupt"
    take(contents, tmp_path, b"content")
    contents.verify(digest)


def test_a_damaged_object_is_found(bucket: Contents, tmp_path: Path) -> None:
    boto3: Any = sys.modules["boto3"]
    digest = take(bucket, tmp_path, b"content")
    boto3.client("s3").put_object(Bucket="files", Key=f"here/sha256/{digest}", Body=b"contenT")
    with pytest.raises(MgmtError, match=f"sha256:{digest} is damaged"):
        bucket.verify(digest)


# ---- names, on each engine -------------------------------------------------------------------------------


def begin(ask: Asked, key: str, digest: str, size: int, *, quota: int = 1000, **more: Any) -> op.Begun:
    begun: op.Begun = ask(
        op.BeginUpload(Name(more.pop("group", "g"), key=key), digest, size, quota, "u", 1000, **more)
    )
    return begun


def store(ask: Asked, key: str, digest: str, size: int, **more: Any) -> op.Ended:
    ended: op.Ended = ask(op.EndUpload(begin(ask, key, digest, size, **more).upload, 2000))
    return ended


def keys(ask: Asked, **filter: Any) -> list[str]:
    return [one.name.key for one in ask(op.ListBlobs(BlobFilter(**filter))).blobs]


def test_an_upload_counts_from_its_grant_on(ask: Asked) -> None:
    first = begin(ask, "k", A, 100)
    assert (first.stored, first.used_bytes) == (None, 100)
    assert begin(ask, "k", A, 100) == first, "the same goes on"
    assert keys(ask) == [], "nothing is visible before it is whole"
    ended = ask(op.EndUpload(first.upload, 2000))
    assert (ended.used_bytes, ended.record.size_bytes, ended.record.reference) == (100, 100, "g/k")
    again = begin(ask, "k", A, 100)
    assert (again.upload, again.stored) == (0, ended.record)
    refused(ask, "unknown-blob", op.EndUpload(first.upload, 2000))
    larger, smaller = begin(ask, "k", B, 130), begin(ask, "k", "c" * 64, 30)
    assert (larger.used_bytes, smaller.used_bytes) == (130, 130), "the larger of old and new"
    assert ask(op.EndUpload(smaller.upload, 2000)).used_bytes == 60
    assert ask(op.EndUpload(larger.upload, 2000)).used_bytes == 130
    assert ask(op.ListStorage()) == (("g", 130),)


def test_the_quota_is_checked_with_the_grant(ask: Asked) -> None:
    store(ask, "k", A, 60, quota=100)
    text = refused(ask, "over-quota", op.BeginUpload(Name("g", key="x"), B, 41, 100, "u", 1000)).text
    assert "stores 60 of 100 bytes" in text and "mgmt quota set g --storage 101" in text
    assert begin(ask, "k", B, 100, quota=100).used_bytes == 100
    refused(ask, "over-quota", op.BeginUpload(Name("g", key="x"), B, 1, 100, "u", 1000))
    assert begin(ask, "x", B, 1, quota=100, group="other").used_bytes == 1


def test_names_are_found_by_all_that_is_said_of_them(ask: Asked) -> None:
    for key, digest in (("a/1", A), ("a/2", B), ("a_", A), ("ab%", B)):
        store(ask, key, digest, 10)
    store(ask, "a/1", A, 10, group="other")
    assert keys(ask, groups=("g",), prefix="a/") == ["a/1", "a/2"]
    assert keys(ask, prefix="a_") == ["a_"] and keys(ask, prefix="ab%") == ["ab%"]
    assert keys(ask, groups=("g",), digest=A) == ["a/1", "a_"]
    assert keys(ask, keys=("a/2", "nothing")) == ["a/2"]
    listed = ask(op.ListBlobs(BlobFilter(groups=("g",)), limit=2, offset=1))
    assert (len(listed.blobs), listed.count, listed.size_bytes) == (2, 4, 40)
    gone = ask(op.DeleteBlobs(BlobFilter(groups=("g",), prefix="a/"), 3000))
    assert (gone.count, gone.size_bytes, gone.used) == (2, 20, (("g", 20),))
    assert ask(op.DeleteBlobs(BlobFilter(prefix="a/"), 3000)).used == (("other", 0),)


def test_what_neither_a_name_nor_an_upload_has_is_unused(ask: Asked) -> None:
    store(ask, "k", A, 10)
    upload = begin(ask, "x", B, 10)
    many = tuple(f"{number:064x}" for number in range(1200))
    assert ask(op.ListUnused((A, *many, B))) == many
    ask(op.EndUpload(upload.upload, 2000, stored=False))
    ask(op.DeleteBlobs(BlobFilter(keys=("k",)), 2000))
    assert ask(op.ListUnused((A, B))) == (A, B)
    assert ask(op.ListStorage()) == ()


def test_uploads_that_stand_still_are_given_up(ask: Asked) -> None:
    still, moving = begin(ask, "still", A, 10), begin(ask, "moving", B, 20)
    swept = ask(op.SweepUploads((moving.upload,), 1001, 5000))
    assert swept == op.UploadsSwept((still.upload,), (("g", 20),))
    assert ask(op.SweepUploads((), 5000, 9000)).uploads == ()
    assert ask(op.SweepUploads((), 5001, 9000)).uploads == (moving.upload,)


def test_an_artifact_is_brought_by_who_runs_the_task_and_goes_with_it(ask: Asked) -> None:
    suite = make_suite(ask)
    task = submit(ask, suite, operations.NewTask(SPEC))
    holder = Holder(ask, suite)
    (claim,) = holder.claim()
    name = Name("g", BlobKind.RESULT, task)

    def wanted(holder: int, attempt: int) -> op.BeginUpload:
        return op.BeginUpload(name, A, 10, 100, "u", 1000, holder, attempt)

    for wrong in (wanted(holder.id + 1, claim.attempt), wanted(holder.id, claim.attempt + 1)):
        refused(ask, "stale", wrong)
    begun, late = (
        ask(wanted(holder.id, claim.attempt)),
        ask(
            op.BeginUpload(Name("g", BlobKind.STD_LOG, task), B, 10, 100, "u", 1000, holder.id, claim.attempt)
        ),
    )
    assert ask(op.EndUpload(begun.upload, 2000)).record.reference == f"task:{task}/result"
    holder.finish(claim)
    refused(ask, "stale", op.EndUpload(late.upload, 2000))
    assert ask(op.EndUpload(late.upload, 2000, stored=False)).used_bytes == 10
    assert ask(op.ListBlobs(BlobFilter(lane=suite))).count == 1
    assert ask(op.ListBlobs(BlobFilter(lane=suite, kinds=(BlobKind.STD_LOG,)))).count == 0
    ask(operations.Prune(1 << 60, 9000))
    assert ask(op.ListBlobs(BlobFilter())).count == 0 and ask(op.ListStorage()) == ()
