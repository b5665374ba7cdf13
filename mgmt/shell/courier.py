"""Brings files to tasks and takes away what they leave, on the machine that runs them.

It asks by the same requests as users; `ask` carries them to the daemon, over an agent's link or in one process.
What comes often is kept here, by its content. All that may block is done in threads.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import shutil
import tarfile
from asyncio import AbstractEventLoop
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from mgmt.core import effect as fx
from mgmt.core import event as ev
from mgmt.protocol import defaults
from mgmt.protocol.errors import MgmtError
from mgmt.store.blobs.local import digest_of
from mgmt.worker import wire

log = logging.getLogger("mgmt.shell.courier")

Ask = Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]
Key = tuple[int, int, int]  # holder, task, attempt

TOGETHER = 4  # tasks whose files are under way at a time
THREADS = 2
PAUSE_S, PAUSE_MAX_S = 0.1, 2.0  # before something is asked again that may succeed later
COPY_BYTES = 1 << 20
LEVEL = 3  # of compression: most of what it gains, at a fraction of the time
_AGAIN = frozenset({"conflict", "unknown-blob"})  # of an upload: begin anew, and hear where it stands


class Courier:
    """`cache` has content by digest, at most `cache_bytes` of it."""

    def __init__(
        self,
        loop: AbstractEventLoop,
        ask: Ask,
        emit: Callable[[ev.Event], None],
        cache: Path,
        cache_bytes: int,
    ) -> None:
        self._loop, self._ask, self._emit = loop, ask, emit
        self._cache, self._cache_bytes = cache, cache_bytes
        self._pool = ThreadPoolExecutor(THREADS, "courier")
        self._room = asyncio.Semaphore(TOGETHER)
        self._jobs: dict[tuple[Key, str], asyncio.Task[None]] = {}
        # By digest: content that several want comes once. A lock is there as long as somebody has it or waits.
        self._fetching: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    # ---- effects ----

    def fetch(self, effect: fx.FetchInputs) -> None:
        self._start((effect.holder, effect.task, effect.attempt), "fetch", self._fetch_all(effect))

    def keep(self, effect: fx.KeepOutputs) -> None:
        self._start((effect.holder, effect.task, effect.attempt), "keep", self._keep_all(effect))

    def drop(self, effect: fx.DropJobs) -> None:
        for (key, what), job in list(self._jobs.items()):
            if key[0] == effect.holder and (not effect.tasks or key[1] in effect.tasks):
                job.cancel()
                del self._jobs[key, what]

    def close(self) -> None:
        """The loop must not be running."""
        jobs = list(self._jobs.values())
        for job in jobs:
            job.cancel()
        if jobs:
            self._loop.run_until_complete(asyncio.wait(jobs))
        self._pool.shutdown(cancel_futures=True)

    def _start(self, key: Key, what: str, work: Any) -> None:
        job = self._loop.create_task(work)
        self._jobs[key, what] = job

        def done(job: asyncio.Task[None]) -> None:
            if self._jobs.get((key, what)) is job:
                del self._jobs[key, what]
            if not job.cancelled() and job.exception() is not None:
                context = {"message": f"{what} of task {key[1]} failed", "exception": job.exception()}
                self._loop.call_exception_handler(context)

        job.add_done_callback(done)

    async def _thread(self, work: Callable[..., Any], *arguments: Any) -> Any:
        return await self._loop.run_in_executor(self._pool, work, *arguments)

    # ---- towards a task ----

    async def _fetch_all(self, effect: fx.FetchInputs) -> None:
        message = detail = ""
        about = {"holder": effect.holder, "task": effect.task}
        try:
            async with asyncio.timeout(defaults.FETCH_S):
                async with self._room:
                    folder = Path(effect.folder)
                    await self._thread(lambda: folder.mkdir(parents=True, exist_ok=True, mode=0o700))
                    for blob, path in effect.resources:
                        detail = f"{blob}: "
                        async with asyncio.timeout(defaults.FETCH_FILE_S):
                            await self._fetch(about, blob, folder, path)
            detail = ""
        except TimeoutError:
            message = wire.FETCH_RESOURCE_TIMEOUT
            detail += f"not here within {defaults.FETCH_FILE_S:g} s, or all not within {defaults.FETCH_S:g} s"
        except MgmtError as error:
            forbidden = error.code in ("denied", "not-authorised")
            message = wire.RESOURCE_FORBIDDEN if forbidden else wire.RESOURCE_NOT_FOUND
            detail += error.text
        except OSError as error:
            message = wire.RESOURCE_NOT_FOUND
            detail += f"cannot be put into {effect.folder}: {error.strerror}"
        self._emit(ev.InputsFetched(effect.holder, effect.task, effect.attempt, message, detail))

    async def _fetch(self, about: dict[str, Any], blob: str, folder: Path, path: str) -> None:
        pause_s = PAUSE_S
        while True:
            try:
                known = (await self._ask("blob-read", {**about, "blob": blob, "limit": 0}))["blob"]
                digest = known["digest"]
                lock = self._fetching.setdefault(digest, asyncio.Lock())
                async with lock:
                    if not await self._thread(self._copy, digest, folder, path):
                        await self._download(about, blob, known)
                        if not await self._thread(self._copy, digest, folder, path):
                            raise MgmtError("corrupt", "what came is not what its digest says")
                del lock
                await self._thread(self._trim, set(self._fetching))
                return
            except MgmtError as error:
                if not error.row.retryable and error.code != "conflict":
                    raise
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, PAUSE_MAX_S)

    async def _download(self, about: dict[str, Any], blob: str, known: dict[str, Any]) -> None:
        """Into the cache, whole or not; the daemon looks through all of it first."""
        digest, size = known["digest"], known["bytes"]
        partial = self._cache / f"{digest}.part"
        body = {**about, "blob": blob, "digest": digest}
        await self._thread(lambda: self._cache.mkdir(parents=True, exist_ok=True, mode=0o700))
        try:
            await self._thread(partial.write_bytes, b"")
            await self._ask("blob-read", {**body, "limit": 0, "verify": True})
            with partial.open("ab", buffering=0) as file:
                under_way: deque[asyncio.Future[dict[str, Any]]] = deque()
                asked = written = 0
                try:
                    while written < size:
                        while asked < size and len(under_way) < defaults.BLOB_WINDOW:
                            part = self._ask("blob-read", {**body, "offset": asked})
                            under_way.append(asyncio.ensure_future(part))
                            asked += defaults.BLOB_CHUNK_BYTES
                        data = (await under_way[0])["data"]
                        under_way.popleft()
                        if not data:
                            raise MgmtError("corrupt", f"{blob} ends after {written} of {size} bytes")
                        await self._thread(file.write, data)
                        written += len(data)
                finally:
                    for one in under_way:
                        one.cancel()
            await self._thread(os.rename, partial, self._cache / digest)
        finally:
            await self._thread(lambda: partial.unlink(missing_ok=True))

    def _copy(self, digest: str, folder: Path, path: str) -> bool:
        """From the cache to where it belongs; False when it is not in the cache, or not what it was."""
        source, target = self._cache / digest, folder / path
        if not target.parent.resolve().is_relative_to(folder.resolve()):
            raise MgmtError("denied", f"path {path!r} leaves the folder {folder}")
        sha = hashlib.sha256()
        try:
            with source.open("rb", buffering=0) as from_:
                target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                with target.open("wb", buffering=0) as to:
                    while block := from_.read(COPY_BYTES):
                        sha.update(block)
                        view = memoryview(block)
                        while view:
                            view = view[to.write(view) :]
        except FileNotFoundError:
            return False
        if sha.hexdigest() != digest:
            source.unlink(missing_ok=True)
            target.unlink(missing_ok=True)
            return False
        os.utime(source)
        return True

    def _trim(self, in_use: set[str]) -> None:
        """The longest unused goes first."""
        held = []
        for file in self._cache.iterdir():
            if file.stem not in in_use:
                known = file.stat()
                held.append((known.st_mtime_ns, known.st_size, file))
        total = sum(size for _, size, _ in held)
        for _, size, file in sorted(held, key=lambda one: one[0]):
            if total <= self._cache_bytes:
                return
            file.unlink(missing_ok=True)
            total -= size

    # ---- from a task ----

    async def _keep_all(self, effect: fx.KeepOutputs) -> None:
        message = ""
        about = {"holder": effect.holder, "task": effect.task, "attempt": effect.attempt}
        try:
            async with asyncio.timeout(defaults.UPLOAD_S), self._room:
                # What is gone was kept in a former life of this process.
                if effect.results is not None and await self._thread(os.path.lexists, effect.results):
                    packed = Path(f"{effect.results}.tar.gz")
                    await self._thread(pack, effect.results, packed)
                    await self._upload({**about, "kind": "result"}, packed)
                if effect.exec_log is not None and await self._thread(os.path.lexists, effect.exec_log):
                    packed = Path(f"{effect.exec_log}.tar.gz")
                    await self._thread(pack, effect.exec_log, packed)
                    await self._upload({**about, "kind": "exec-log"}, packed)
                if effect.log is not None and await self._thread(os.path.exists, effect.log):
                    await self._upload({**about, "kind": "std-log"}, Path(effect.log))
        except TimeoutError:
            message = wire.UPLOAD_RESULT_TIMEOUT
        except (MgmtError, OSError, tarfile.TarError) as error:
            message = f"what it left was not kept: {error}"
        await self._thread(remove, (effect.results, effect.exec_log), effect.log)
        self._emit(ev.OutputsKept(effect.holder, effect.task, effect.attempt, message))

    async def _upload(self, about: dict[str, Any], path: Path) -> None:
        digest, size = await self._thread(lambda: (digest_of(path), path.stat().st_size))
        pause_s = PAUSE_S
        while True:
            try:
                begun = await self._ask("blob-begin", {**about, "digest": digest, "bytes": size})
                if begun["upload"]:
                    await self._send(begun, path, size)
                    await self._ask("blob-commit", {"upload": begun["upload"]})
                return
            except MgmtError as error:
                if not error.row.retryable and error.code not in _AGAIN:
                    raise
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, PAUSE_MAX_S)

    async def _send(self, begun: dict[str, Any], path: Path, size: int) -> None:
        under_way: deque[asyncio.Future[dict[str, Any]]] = deque()
        offset = begun["offset"]
        with path.open("rb", buffering=0) as file:
            file.seek(offset)
            try:
                while offset < size or under_way:
                    if offset < size and len(under_way) < begun["window"]:
                        data = await self._thread(file.read, begun["chunk_bytes"])
                        if not data:
                            raise MgmtError("corrupt", f"{path} became shorter while it was read")
                        body = {"upload": begun["upload"], "offset": offset, "data": data}
                        under_way.append(asyncio.ensure_future(self._ask("blob-chunk", body)))
                        offset += len(data)
                    else:
                        await under_way[0]
                        under_way.popleft()
            finally:
                for one in under_way:
                    one.cancel()


def pack(folder: str, packed: Path) -> None:
    """What is in a folder (or the file) as a tar.gz, the same bytes each time."""

    def clean(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        if not (member.isreg() or member.isdir() or member.issym() or member.islnk()):
            return None  # sockets, devices, pipes
        member.uid = member.gid = 0
        member.uname = member.gname = ""
        return member

    with _gzip(packed) as file, tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        if os.path.isdir(folder) and not os.path.islink(folder):
            for name in sorted(os.listdir(folder)):
                archive.add(os.path.join(folder, name), name, filter=clean)  # sorts below itself
        else:
            archive.add(folder, "result", filter=clean)


@contextmanager
def _gzip(path: Path) -> Iterator[Any]:
    import gzip

    with path.open("wb") as raw, gzip.GzipFile("", "wb", LEVEL, raw, mtime=0) as file:
        yield file


def remove(folders: Iterable[str | None], log_path: str | None) -> None:
    """What a task left, after it was kept. At once: half a folder would be kept anew by the next life of this."""
    for folder in folders:
        if folder is not None:
            kept = f"{folder}.kept"
            try:
                os.rename(folder, kept)
            except FileNotFoundError:
                pass
            remove_tree(kept)
            remove_tree(f"{folder}.tar.gz")
    if log_path is not None:
        remove_tree(log_path)


def remove_tree(path: str) -> None:
    """Whatever is there; what cannot be removed stays."""
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        try:
            os.unlink(path)
        except OSError:
            pass
