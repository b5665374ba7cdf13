"""Content in a bucket of S3 or what speaks like it. Needs the extra `s3`; credentials are found as boto3 does."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from mgmt.protocol.errors import MgmtError
from mgmt.store.blobs import READ_BYTES, corrupt, missing

_GONE = {"NoSuchKey", "404", "NotFound"}
_PAST_END = {"InvalidRange", "416"}
RETRIES = 5


class S3Contents:
    """See `Contents`. Several daemons may share a bucket: what one takes is the same for all."""

    def __init__(
        self, bucket: str, prefix: str = "", endpoint: str | None = None, region: str | None = None
    ) -> None:
        """MgmtError `bad-config` when the bucket cannot be used."""
        self._bucket, self._prefix = bucket, f"{prefix}sha256/"
        how = Config(retries={"max_attempts": RETRIES, "mode": "standard"})
        try:
            self._s3: Any = boto3.client("s3", endpoint_url=endpoint, region_name=region, config=how)
            self._s3.head_bucket(Bucket=bucket)
        except (BotoCoreError, ClientError) as error:
            text = f"files: bucket {bucket!r} cannot be used: {error}; see that it is there and yours to use"
            raise MgmtError("bad-config", text) from None

    def take(self, path: Path, digest: str) -> None:
        try:
            self._s3.upload_file(str(path), self._bucket, self._key(digest))
        except (BotoCoreError, ClientError, boto3.exceptions.S3UploadFailedError) as error:
            raise _failed(error) from None
        path.unlink()

    def read(self, digest: str, offset: int, most_bytes: int) -> bytes:
        if not most_bytes:
            return b""
        part = f"bytes={offset}-{offset + most_bytes - 1}"
        try:
            answer = self._s3.get_object(Bucket=self._bucket, Key=self._key(digest), Range=part)
            data: bytes = answer["Body"].read()
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if code in _PAST_END:
                return b""
            raise (missing(digest) if code in _GONE else _failed(error)) from None
        except BotoCoreError as error:
            raise _failed(error) from None
        return data

    def verify(self, digest: str) -> None:
        sha = hashlib.sha256()
        try:
            answer = self._s3.get_object(Bucket=self._bucket, Key=self._key(digest))
            for block in answer["Body"].iter_chunks(READ_BYTES):
                sha.update(block)
        except ClientError as error:
            gone = error.response["Error"]["Code"] in _GONE
            raise (missing(digest) if gone else _failed(error)) from None
        except BotoCoreError as error:
            raise _failed(error) from None
        if sha.hexdigest() != digest:
            raise corrupt(digest, sha.hexdigest())

    def list_before(self, real_s: float) -> Iterator[str]:
        try:
            pages = self._s3.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._prefix
            )
            for page in pages:
                for one in page.get("Contents", ()):
                    if one["LastModified"].timestamp() < real_s:
                        yield one["Key"].removeprefix(self._prefix)
        except (BotoCoreError, ClientError) as error:
            raise _failed(error) from None

    def remove(self, digest: str, real_s: float) -> int:
        try:
            known = self._s3.head_object(Bucket=self._bucket, Key=self._key(digest))
            if known["LastModified"].timestamp() >= real_s:
                return 0
            self._s3.delete_object(Bucket=self._bucket, Key=self._key(digest))
        except ClientError as error:
            if error.response["Error"]["Code"] in _GONE:
                return 0
            raise _failed(error) from None
        except BotoCoreError as error:
            raise _failed(error) from None
        return int(known["ContentLength"])

    def _key(self, digest: str) -> str:
        return self._prefix + digest


def _failed(error: Exception) -> MgmtError:
    return MgmtError(
        "not-durable", f"the bucket of files does not answer as it should: {error}; try again later"
    )
