"""What worker threads do with files: spools of uploads, and content."""

from __future__ import annotations

import os
from asyncio import AbstractEventLoop
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from mgmt.core import effect as fx
from mgmt.core import event as ev
from mgmt.protocol.errors import MgmtError
from mgmt.settings import FileSettings
from mgmt.store.blobs import Contents
from mgmt.store.blobs.local import LocalContents, digest_of

FOLDER = "blobs"  # in the state folder
THREADS = 4  # so many slow disks' worth; not those of the daemon's other work


class Blobs:
    """`emit` is called in the loop's thread with a Filed for each File."""

    def __init__(
        self,
        loop: AbstractEventLoop,
        folder: Path,
        contents: Contents,
        emit: Callable[[ev.Event], None],
    ) -> None:
        self._loop, self._contents, self._emit = loop, contents, emit
        self._spools = folder / "uploads"
        self._spools.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._pool = ThreadPoolExecutor(THREADS, "files")
        self._lines: dict[int, deque[fx.File]] = {}  # what waits, by upload that a thread works on
        self._do: dict[type, Callable[[Any], Any]] = {
            fx.OpenSpool: self._open,
            fx.WriteSpool: self._write,
            fx.PlaceSpool: self._place,
            fx.DropSpools: self._drop,
            fx.ReadContent: self._read,
            fx.ListContents: self._list,
            fx.RemoveContents: self._remove,
        }

    def do(self, effect: fx.File) -> None:
        work = effect.work
        if not isinstance(work, fx.OpenSpool | fx.WriteSpool | fx.PlaceSpool):
            self._pool.submit(self._one, effect)
            return
        line = self._lines.get(work.upload)
        if line is not None:
            line.append(effect)
            return
        self._lines[work.upload] = deque()
        self._pool.submit(self._one, effect, work.upload)

    def close(self) -> None:
        """After what is being done now; the loop does not run any more."""
        self._pool.shutdown(cancel_futures=True)

    def _one(self, effect: fx.File, upload: int = 0) -> None:
        result: Any
        try:
            result = self._do[type(effect.work)](effect.work)
        except MgmtError as error:
            result = error
        except OSError as error:
            where = error.filename or self._spools
            text = f"the store of files cannot be used: {error.strerror or error} ({where}); free some space"
            result = MgmtError("not-durable", text)
        except Exception as error:  # noqa: BLE001 - a bug here is an answer, not a request that nobody answers
            result = MgmtError("internal", f"{type(effect.work).__name__}: {type(error).__name__}: {error}")
        try:
            self._loop.call_soon_threadsafe(self._done, effect.tag, result, upload)
        except RuntimeError:
            pass  # the loop is closed: nobody waits

    def _done(self, tag: int, result: Any, upload: int) -> None:
        if upload:
            line = self._lines[upload]
            if line:
                self._pool.submit(self._one, line.popleft(), upload)
            else:
                del self._lines[upload]
        self._emit(ev.Filed(tag, result))

    # ---- in a thread ----

    def _spool(self, upload: int) -> Path:
        return self._spools / str(upload)

    def _open(self, work: fx.OpenSpool) -> int:
        try:
            return self._spool(work.upload).stat().st_size
        except FileNotFoundError:
            return 0

    def _write(self, work: fx.WriteSpool) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(self._spool(work.upload), flags, 0o600)
        try:
            size = os.fstat(descriptor).st_size
            if size != work.offset:
                text = (
                    f"upload {work.upload} has {size} bytes, this part is for {work.offset}; go on from there"
                )
                raise MgmtError("conflict", text, offset=size)
            view = memoryview(work.data)
            try:
                while view:
                    view = view[os.write(descriptor, view) :]
            except OSError:
                os.ftruncate(descriptor, size)
                raise
            return size + len(work.data)
        finally:
            os.close(descriptor)

    def _place(self, work: fx.PlaceSpool) -> None:
        spool = self._spool(work.upload)
        if not spool.exists():
            spool.touch(0o600)  # a file of no bytes has had no part
        found = digest_of(spool)
        if found != work.digest:
            spool.unlink()
            text = (
                f"what was uploaded is sha256:{found}, and sha256:{work.digest} was announced; nothing is kept: "
                "see that the file does not change meanwhile, and upload it again"
            )
            raise MgmtError("corrupt", text, digest=found)
        self._contents.take(spool, work.digest)

    def _drop(self, work: fx.DropSpools) -> None:
        for upload in work.uploads:
            self._spool(upload).unlink(missing_ok=True)

    def _read(self, work: fx.ReadContent) -> bytes:
        if work.verify:
            self._contents.verify(work.digest)
        return self._contents.read(work.digest, work.offset, work.most_bytes) if work.most_bytes else b""

    def _list(self, work: fx.ListContents) -> tuple[str, ...]:
        for spool in self._spools.iterdir():
            if spool.stat().st_mtime < work.orphans_before_s:
                spool.unlink(missing_ok=True)
        return tuple(self._contents.list_before(work.before_s))

    def _remove(self, work: fx.RemoveContents) -> int:
        return sum(self._contents.remove(digest, work.before_s) for digest in work.digests)


def contents_of(settings: FileSettings, folder: Path) -> Contents:
    """Where the configuration wants content; MgmtError `bad-config` when it cannot be there."""
    if settings.s3 is None:
        return LocalContents(folder)
    try:
        from mgmt.store.blobs.s3 import S3Contents
    except ImportError as error:
        text = f"files.s3: {error.name} is not installed; `pip install 'mgmt[s3]'`"
        raise MgmtError("bad-config", text) from None
    s3 = settings.s3
    return S3Contents(s3.bucket, s3.prefix, s3.endpoint, s3.region)
