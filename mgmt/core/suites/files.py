"""The files of a crew's tasks: what they need is brought before, what they leave is kept before they are done.

Tasks without any, which are nearly all, pass by.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Iterable
from typing import Any

from mgmt.core import effect as fx
from mgmt.core.event import InputsFetched, OutputsKept
from mgmt.core.suites.states import Exec
from mgmt.protocol import frames

# A task as it came: its number, attempt, packed specification (empty: of a former life), UUID, and the UUID of the
# upstream task (or empty).
Claimed = tuple[int, int, bytes, str, str]
# What became of a task, first what: ["done", task, attempt, status, message, start_ns, end_ns, tail, extra, unit],
# ["died", task, attempt, cause, reason, unit], ["cancelled", task, attempt], ["returned", task, attempt].
Outcome = list[Any]
RESOURCES = (
    b"\xa9resources"  # as the specification has it when there are some; it may also be a word of a command
)
_MESSAGE, _EXTRA = 4, 8  # of a "done"
_LEFT_PATHS = ("results", "log", "exec_log")  # what a task left, in the extra of its "done"
_LEFT = frozenset(_LEFT_PATHS)


class Files:
    """Of one holder; `folder` has the inputs of tasks that no worker has yet."""

    def __init__(self, holder: int, folder: str) -> None:
        self._holder, self._folder = holder, folder
        self._coming: dict[int, Claimed] = {}
        self._inputs: dict[int, str] = {}  # where they are, by task
        self._keeping: set[tuple[int, int]] = set()
        # By connection, in the order of its worker, which is told how many are safe: what is kept, and what ended
        # after it. None: may be told.
        self._behind: dict[int, deque[tuple[tuple[int, int] | None, Outcome]]] = {}
        self._states: list[list[int]] = []
        self._litter: list[str] = []
        self._dropped: list[int] = []

    @property
    def is_empty(self) -> bool:
        return not (self._coming or self._behind)

    @property
    def coming_count(self) -> int:
        return len(self._coming)

    def clean_up(self, out: list[fx.Effect]) -> None:
        if self._dropped:
            out.append(fx.DropJobs(self._holder, tuple(self._dropped)))
            self._dropped = []
        if self._litter:
            out.extend(fx.RemoveTree(path) for path in self._litter)
            self._litter = []

    def take_states(self) -> list[list[int]]:
        """[task, attempt, exec state] reached since the last call."""
        states, self._states = self._states, []
        return states

    # ---- before ----

    def fetch(self, task: Claimed, out: list[fx.Effect]) -> bool:
        """Have what a task needs brought; False when it needs nothing."""
        number, attempt, spec, *_ = task
        wanted = frames.unpack(spec).get("resources")
        if not wanted:
            return False
        pairs = tuple((one["blob"], one["path"]) for one in wanted)
        folder = f"{self._folder}/{number}.{attempt}"
        self._coming[number], self._inputs[number] = task, folder
        self._states.append([number, attempt, Exec.FETCH_RESOURCE])
        out.append(fx.FetchInputs(self._holder, number, attempt, folder, pairs))
        return True

    def fetched(self, event: InputsFetched) -> Claimed | None:
        """The task whose files are there; None when nobody waits for them any more."""
        task = self._coming.get(event.task)
        if task is None or task[1] != event.attempt:
            return None
        self._states += [[*task[:2], Exec.FETCH_RESOURCE_FINISHED]] if not event.message else []
        return self._coming.pop(event.task)

    def coming(self, among: Container[int] | None = None) -> list[Claimed]:
        """Tasks whose files are on their way."""
        return [task for task in self._coming.values() if among is None or task[0] in among]

    def hand_over(self, task: Claimed, folder: str, out: list[fx.Effect]) -> None:
        """A worker with this folder is about to get the task."""
        path = self._inputs.get(task[0])
        if path is not None:
            to = self._inputs[task[0]] = f"{folder}/in/{task[0]}.{task[1]}"
            out.append(fx.MoveFolder(path, to))

    def forget(self, task: Claimed) -> None:
        """No worker will do it here."""
        path = self._inputs.pop(task[0], None)
        if path is not None:
            self._litter.append(path)
        if self._coming.pop(task[0], None) is not None:
            self._dropped.append(task[0])

    # ---- after ----

    def holds_back(self, connection: int, done: Outcome, out: list[fx.Effect]) -> bool:
        """A worker has a task no more: whether that may not be told yet."""
        self._inputs.pop(done[1], None)  # its worker has removed them
        extra = done[_EXTRA] if done[0] == "done" else None
        if extra and not _LEFT.isdisjoint(extra):
            key = done[1], done[2]
            if key not in self._keeping:
                self._keeping.add(key)
                self._states.append([*key, Exec.UPLOAD_RESULT])
                out.append(fx.KeepOutputs(self._holder, *key, *(extra.get(name) for name in _LEFT_PATHS)))
            self._behind.setdefault(connection, deque()).append((key, done))
            return True
        if connection in self._behind:
            self._behind[connection].append((None, done))
            return True
        return False

    def kept(self, event: OutputsKept) -> list[tuple[int, Outcome]]:
        """What may be told now, with its connection."""
        self._keeping.discard((event.task, event.attempt))
        return self._release({(event.task, event.attempt)}, event.message)

    def let_go(self) -> list[tuple[int, Outcome]]:
        """All that waits, kept or not."""
        keys, self._keeping = self._keeping, set()
        return self._release(keys, "its suite was taken away before what it left was kept")

    def held(self) -> Iterable[tuple[int, int]]:
        """(task, attempt) of what is not told yet."""
        return [(done[1], done[2]) for waiting in self._behind.values() for _, done in waiting]

    def _release(self, keys: set[tuple[int, int]], message: str) -> list[tuple[int, Outcome]]:
        told: list[tuple[int, Outcome]] = []
        for connection, waiting in list(self._behind.items()):
            for place, (key, done) in enumerate(waiting):
                if key in keys:
                    for name in _LEFT_PATHS:
                        done[_EXTRA].pop(name, None)
                    done[_MESSAGE] = done[_MESSAGE] or message
                    waiting[place] = None, done
            while waiting and waiting[0][0] is None:
                told.append((connection, waiting.popleft()[1]))
            if not waiting:
                del self._behind[connection]
        return told
