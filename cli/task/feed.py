"""Sending batches of tasks, several at once, so that none is lost or doubled whatever happens to the daemon."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from mgmt.protocol.errors import MgmtError

from ..following import Patience
from .source import Batch, where

if TYPE_CHECKING:
    from mgmt.client import Client

IN_FLIGHT = 8  # requests
SUBMIT_TIMEOUT_S = 60.0
_INDEX = re.compile(r"\btasks\.(\d+)")


class Feed:
    """`target`: the fields of a TaskSubmit but its tasks.

    Each batch has a key made of `key` and its number; without one, of something that no other run has, so that an
    answer that is lost can be asked for again.
    """

    def __init__(self, client: Client, target: dict[str, Any], key: str | None, path: str) -> None:
        self._client, self._target, self._path = client, target, path
        self._run = uuid4().hex
        self._key = key or self._run
        self.spans: list[tuple[int, int]] = []  # first and last number, in order
        self.submitted = 0
        self.already = 0  # of these, known before under the same key
        self._patience = Patience()

    def send(self, batches: Iterable[Batch]) -> Iterator[int]:
        """How many are durable so far, after each batch.

        After a refusal nothing more is sent; what was on its way before it has arrived when it is raised.
        """
        waiting: deque[tuple[Batch, int]] = deque()
        try:
            for batch in batches:
                if len(waiting) == IN_FLIGHT:
                    yield self._settle(*waiting.popleft())
                waiting.append((batch, self._submit(batch)))
        except MgmtError:
            while waiting:
                self._settle(*waiting.popleft())
            raise
        while waiting:
            yield self._settle(*waiting.popleft())

    def _submit(self, batch: Batch) -> int:
        body = {**self._target, "tasks": batch.tasks, "key": f"{self._key}/{batch.number}"}
        # The session's key is of this run alone: the daemon gives the same answer for it, whatever the tasks are.
        key = f"{self._run}/{batch.number}"
        return self._client.submit("task-submit", body, timeout_s=SUBMIT_TIMEOUT_S, key=key)

    def _settle(self, batch: Batch, id: int) -> int:
        """Wait until a batch is durable; one whose answer was lost is sent again, which its key makes harmless."""
        while True:
            try:
                reply = self._client.collect(id)
                break
            except MgmtError as error:
                if error.code == "expired":
                    raise
                self._wait(batch, error)
            id = self._submit(batch)
        self._patience.heard()
        numbers = reply["tasks"]
        self.submitted += len(numbers)
        self.already += len(numbers) if reply["already"] else 0
        if self.spans and self.spans[-1][1] + 1 == numbers[0]:
            self.spans[-1] = (self.spans[-1][0], numbers[-1])
        else:
            self.spans.append((numbers[0], numbers[-1]))
        return self.submitted

    def _wait(self, batch: Batch, error: MgmtError) -> None:
        """Let a daemon come back; MgmtError, with the place in the input, when it is no matter of that."""
        try:
            self._patience.wait(error)
        except MgmtError:
            found = _INDEX.search(str(error.detail.get("field", "")) or error.text)
            if found is None or int(found[1]) >= len(batch.lines):
                raise
            line = batch.lines[int(found[1])]
            said = error.text.replace(f"{found[0]}: ", "", 1)
            place = f"{where(self._path, line)}: " if self._path else ""
            raise MgmtError(error.code, place + said, line=line) from None
