"""What functions print, from whatever depth: descriptors 1 and 2 of a resident worker."""

from __future__ import annotations

import fcntl
import io
import os
import sys
import threading
from typing import Any

from mgmt.worker import wire

KEEP_OUTPUT_BYTES = 1 << 20  # in memory, before the watchdog cuts it to its tail


class Capture:
    """Descriptors 1 and 2 of this process: in memory, or in a task's log file."""

    def __init__(self) -> None:
        self._complaints = os.dup(2)
        self._memory = os.memfd_create("output")
        self._descriptor = self._memory
        self._limit = 0
        self._lock = threading.Lock()  # which file it is: the watchdog must not cut a closed one
        fcntl.fcntl(
            self._memory, fcntl.F_SETFL, os.O_APPEND
        )  # the watchdog may cut it while a function prints
        self._attach(self._memory)
        sys.stdout, sys.stderr = (
            io.TextIOWrapper(io.FileIO(fd, "wb", closefd=False), errors="replace", write_through=True)
            for fd in (1, 2)
        )

    def _attach(self, descriptor: int) -> None:
        self._descriptor = descriptor
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)

    def to_file(self, path: str, limit_bytes: int) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(path, flags, 0o600)
        with self._lock:
            self._limit = limit_bytes
            self._attach(descriptor)

    def cut(self) -> None:
        """Called by the watchdog: neither memory nor disk fills up."""
        with self._lock:
            size = os.fstat(self._descriptor).st_size
            if self._descriptor != self._memory:
                if size > self._limit + KEEP_OUTPUT_BYTES:
                    os.ftruncate(self._descriptor, self._limit + 1)  # that one byte says: there was more
            elif size > KEEP_OUTPUT_BYTES:
                tail = self.tail()
                self.forget()
                os.write(self._memory, tail)

    def tail(self) -> bytes:
        size = os.fstat(self._descriptor).st_size
        return os.pread(self._descriptor, wire.TAIL_BYTES, max(0, size - wire.TAIL_BYTES))

    def forget(self) -> None:
        os.ftruncate(self._memory, 0)
        os.lseek(self._memory, 0, os.SEEK_SET)

    def end_file(self) -> dict[str, Any]:
        """Back to memory; what a DONE says of the log."""
        descriptor = self._descriptor
        size = os.fstat(descriptor).st_size
        said: dict[str, Any] = {"log_bytes": min(size, self._limit)}
        if size > self._limit:
            os.ftruncate(descriptor, self._limit)
            said["truncated"] = True
        with self._lock:
            self._attach(self._memory)
            os.close(descriptor)
        return said

    def complain(self, text: str) -> None:
        """To the stderr that this process was started with."""
        os.write(self._complaints, f"mgmt resident worker: {text}\n".encode(errors="replace"))

    @property
    def memory(self) -> int:
        return self._memory
