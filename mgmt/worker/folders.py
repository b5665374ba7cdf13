"""The folders of a resident worker, as `worker/folders.c` lays them out for the other kind.

A folder that is known to be empty has the time of modification 0; whatever is put into it changes that. So a call
that has left nothing behind, which is nearly every one, costs a few fstats.
"""

from __future__ import annotations

import os
import shutil
import stat
import time
from pathlib import Path

from mgmt.worker.wire import NEW_TASK_BYTES


class Folders:
    """One worker's own folder and what is in it. OSError when it cannot be made."""

    def __init__(self, top: str) -> None:
        self.top = top
        self.exec, self.result, self.resource, self.new_task, self.inside, self.out = (
            f"{top}/{name}" for name in ("exec", "result", "resource", "new-task.json", "in", "out")
        )
        for path in (top, self.inside, self.out):
            Path(path).mkdir(mode=0o700, exist_ok=True)
        remove(self.new_task)
        for path in (self.exec, self.result, self.resource):
            self._make_empty(path)
        self._watched = self._open()

    def touched(self) -> bool:
        """Whether anything was put into one of the folders, or they were moved: that changes `top`."""
        top, exec_, result, resource = self._watched  # a loop would take longer than the asking
        fstat = os.fstat
        return bool(
            fstat(top).st_mtime or fstat(exec_).st_mtime or fstat(result).st_mtime or fstat(resource).st_mtime
        )

    def _open(self) -> tuple[int, int, int, int]:
        """To ask an open folder is much faster than to ask by path."""
        os.utime(self.top, (0, 0))
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        top, exec_, result, resource = (
            os.open(path, flags) for path in (self.top, self.exec, self.result, self.resource)
        )
        return top, exec_, result, resource

    def collect(self, name: str, exec_log: bool) -> tuple[str | None, str | None, bytes | None, bool]:
        """After a call: (folder of its results or None, of what it left in exec or None, its new task or None,
        whether that is unusable).

        `name` is TASK.ATTEMPT. The folders are empty afterwards.
        """
        results = self._keep(self.result, f"{self.out}/{name}")
        left = self._keep(self.exec, f"{self.out}/{name}.exec") if exec_log else None
        new_task, bad = self._read_new_task()
        for path in (self.exec, self.result, self.resource):
            self._make_empty(path)
        for folder in self._watched:
            os.close(folder)
        self._watched = self._open()
        return results, left, new_task, bad

    def _keep(self, folder: str, path: str) -> str | None:
        try:
            if os.listdir(folder):
                remove(path)
                os.rename(folder, path)
                return path
        except OSError:
            pass
        return None

    def _read_new_task(self) -> tuple[bytes | None, bool]:
        try:
            descriptor = os.open(self.new_task, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return None, False
        except OSError:
            remove(self.new_task)
            return None, True
        with os.fdopen(descriptor, "rb") as file:
            regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
            text = file.read(NEW_TASK_BYTES + 1) if regular else b""
        remove(self.new_task)
        if not regular or len(text) > NEW_TASK_BYTES:
            return None, True
        return text or None, False

    def _make_empty(self, path: str) -> None:
        remove(path)
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:  # something in it cannot be removed
            os.rename(path, f"{self.out}/left-{time.time_ns()}")
            os.mkdir(path, 0o700)
        os.utime(path, (0, 0))


def remove(path: str) -> None:
    """Removes whatever is there, following no link; what cannot be removed stays."""
    try:
        os.unlink(path)
    except (IsADirectoryError, PermissionError):
        shutil.rmtree(path, ignore_errors=True)
    except OSError:
        pass
