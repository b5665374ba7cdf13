"""Content in a folder: `sha256/ab/cdef...`, whole or not there."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from mgmt.store.blobs import READ_BYTES, corrupt, missing


class LocalContents:
    """See `Contents`. Files that are taken lie in the same file system."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "sha256"
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Between one that is taken again and its removal as old.
        self._lock = threading.Lock()

    def path_of(self, digest: str) -> Path:
        return self._folder / digest[:2] / digest[2:]

    def take(self, path: Path, digest: str) -> None:
        target = self.path_of(digest)
        target.parent.mkdir(exist_ok=True, mode=0o700)
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fchmod(descriptor, 0o400)
            os.utime(descriptor)  # taken now, however old the file is
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        # Also over the same content: this one was just looked through, what lies there may be damaged.
        with self._lock:
            os.rename(path, target)
        for folder in (target.parent, self._folder):
            sync_folder(folder)

    def read(self, digest: str, offset: int, most_bytes: int) -> bytes:
        try:
            descriptor = os.open(self.path_of(digest), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise missing(digest) from None
        try:
            return os.pread(descriptor, most_bytes, offset)
        finally:
            os.close(descriptor)

    def verify(self, digest: str) -> None:
        try:
            found = digest_of(self.path_of(digest))
        except FileNotFoundError:
            raise missing(digest) from None
        if found != digest:
            raise corrupt(digest, found)

    def list_before(self, real_s: float) -> Iterator[str]:
        for folder in self._folder.iterdir():
            for file in folder.iterdir():
                if file.stat().st_mtime < real_s:
                    yield folder.name + file.name

    def remove(self, digest: str, real_s: float) -> int:
        path = self.path_of(digest)
        with self._lock:
            try:
                known = path.stat()
            except FileNotFoundError:
                return 0
            if known.st_mtime >= real_s:
                return 0
            path.unlink()
        return known.st_size


def digest_of(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    sha = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while block := file.read(READ_BYTES):
            sha.update(block)
    return sha.hexdigest()


def sync_folder(folder: Path) -> None:
    """Names in it survive the machine."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
