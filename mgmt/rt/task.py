"""Periodic real-time tasks in Python: the client's side of a segment.

In C and not by ctypes: the wait itself, with both time stamps, runs without the interpreter, so the release
jitter that is recorded is that of the thread. What Python adds afterwards (its lock, when other threads
run) belongs to the job, and shows in its response time.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from . import _task

__all__ = ["Task"]


class Task(_task.Task):
    """The calling thread's hold on its segment; `path` None: the one that $MGMT_RT names.

    OSError when it cannot be attached: ENOTCONN (MGMT_RT is not set), EPROTO (not a segment of this
    version), EBUSY (another process has it), EOPNOTSUPP (released by signal). One object a thread.

        for job in Task():
            work(job)
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        super().__init__(None if path is None else os.fspath(path))

    def wait_next_period(self) -> int:
        """End the running job and sleep until the release of the next one, whose number is returned.

        The first call waits for the common start T0. Signal handlers of Python run meanwhile, and what
        they raise comes out of here. OSError when memory is to be locked and may not be.
        """
        return super().wait_next_period()

    def close(self) -> None:
        """Let the segment go; the running job stays unfinished."""
        super().close()

    def __iter__(self) -> Iterator[int]:
        while True:
            yield self.wait_next_period()
