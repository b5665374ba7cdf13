"""Where the content of files lies, each known by its SHA-256: a folder, or a bucket of S3.

Every method may block and is called in worker threads, several at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from mgmt.protocol.errors import MgmtError

READ_BYTES = 1 << 20


class Contents(Protocol):
    """Content by digest (SHA-256, lower-case hexadecimal). OSError or MgmtError when the place cannot be used."""

    def take(self, path: Path, digest: str) -> None:
        """Keep what is in this file, which is of this digest and gone afterwards. It survives the machine."""

    def read(self, digest: str, offset: int, most_bytes: int) -> bytes:
        """A part of it, empty at its end; MgmtError `unknown-blob`."""

    def verify(self, digest: str) -> None:
        """Read all of it; MgmtError `corrupt` when it is not what it was, `unknown-blob`."""

    def list_before(self, real_s: float) -> Iterator[str]:
        """Digests of what was not taken (again) since this time, epoch seconds."""

    def remove(self, digest: str, real_s: float) -> int:
        """Forget it, unless it was taken since this time; the bytes that are free now."""


def missing(digest: str) -> MgmtError:
    return MgmtError(
        "unknown-blob",
        f"content sha256:{digest} is not in the store of files; upload it again",
        digest=digest,
    )


def corrupt(digest: str, found: str) -> MgmtError:
    return MgmtError(
        "corrupt",
        f"content sha256:{digest} is damaged in the store of files: what lies there is sha256:{found}; remove it "
        "and upload it again",
        digest=digest,
    )
