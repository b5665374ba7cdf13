"""Write-ahead: what a step does waits until what it changed is written, one write per turn of the loop."""

from __future__ import annotations

from asyncio import AbstractEventLoop
from collections import deque
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

from mgmt.core import effect as fx
from mgmt.protocol import frames
from mgmt.protocol.errors import MgmtError
from mgmt.store import Batch, SqliteStore

# Nothing of these has to outlive the daemon: they never wait. A group must not: who reads that a replica is gone
# (a reading answer overtakes) must not find the relay still sending requests there.
_AT_ONCE = (fx.SetTimer, fx.CancelTimer, fx.RelayGroup, fx.Beat)
_TO_CALLERS = (fx.Answer, fx.Tell)


class Commits:
    """Carries out the effects of steps in order, those of a step with a Commit once it is in the store.

    What a caller or a subscriber is told must survive the machine and is synced to the disk first. What only
    units see must survive the daemon, and no more: no process outlives the machine, so that is just written.

    `prepare` is called at once for what a Spawn can do before it is in the store.
    """

    def __init__(
        self,
        loop: AbstractEventLoop,
        store: SqliteStore,
        prepare: Callable[[fx.Spawn], None],
        perform: Callable[[fx.Effect], None],
    ) -> None:
        self._loop = loop
        self._store = store
        self._prepare = prepare
        self._perform = perform
        self._gathered: list[fx.Commit] = []  # of this turn, not given to the store yet
        self._held: deque[list[fx.Effect]] = deque()  # by write; the last one's grows while it is gathered

    def carry_out(self, effects: list[fx.Effect]) -> None:
        """The effects of one step; a Commit is the first of them.

        Answers and messages of steps without a commit overtake: they report, and promise nothing.
        """
        if effects and isinstance(effects[0], fx.Commit):
            if not self._gathered:
                self._held.append([])
                # After whatever this turn has put off: a restart without a delay is the same write as its cause.
                self._loop.call_soon(self._loop.call_soon, self._write)
            self._gathered.append(effects[0])
            effects = effects[1:]
        elif not self._held or all(isinstance(effect, _TO_CALLERS) for effect in effects):
            for effect in effects:
                if isinstance(effect, fx.Spawn):
                    self._prepare(effect)
            self._perform_all(iter(effects))
            return
        self._held[-1] += [effect for effect in effects if not isinstance(effect, _AT_ONCE)]
        for effect in effects:
            if isinstance(effect, fx.Spawn):
                self._prepare(effect)
            elif isinstance(effect, _AT_ONCE):
                self._perform(effect)

    def _write(self) -> None:
        units: dict[str, Any] = {}
        workloads: dict[str, Any] = {}
        assignments: dict[str, Any] = {}
        nodes: dict[str, Any] = {}
        events: list[Any] = []
        for commit in self._gathered:
            units |= commit.units
            workloads |= commit.workloads
            assignments |= commit.assignments
            nodes |= commit.nodes
            events += commit.events
        keep_events_from = self._gathered[-1].keep_events_from
        self._gathered.clear()
        synced = any(_is_told(effect) for effect in self._held[-1])
        batch = Batch(
            units=units,
            events=tuple(events),
            keep_events_from=keep_events_from,
            synced=synced,
            workloads=workloads,
            assignments=assignments,
            nodes=nodes,
        )
        self._store.commit(batch, self._on_written)

    def _on_written(self, failure: str) -> None:
        # In the store's thread.
        self._loop.call_soon_threadsafe(self._on_commit, failure)

    def _on_commit(self, failure: str) -> None:
        effects = self._held.popleft()
        notes = [effect for effect in effects if isinstance(effect, fx.Note)]
        if failure:
            effects = [_not_durable(e, failure) if isinstance(e, fx.Answer) else e for e in effects]
        # Notes last: what people read can wait for what units wait for.
        self._perform_all(chain((e for e in effects if not isinstance(e, fx.Note)), notes))

    def _perform_all(self, effects: Iterator[fx.Effect]) -> None:
        """One that raises, which only a bug makes it do, takes none of the others with it."""
        try:
            for effect in effects:
                self._perform(effect)
        finally:
            rest = list(effects)
            if rest:
                self._loop.call_soon(self._perform_all, iter(rest))


def _is_told(effect: fx.Effect) -> bool:
    return isinstance(effect, _TO_CALLERS) or (isinstance(effect, fx.Publish) and bool(effect.to))


def _not_durable(answer: fx.Answer, failure: str) -> fx.Answer:
    """What a caller is told instead of ok when the store cannot be written; refusals stay what they are."""
    if answer.outcome != frames.Outcome.OK:
        return answer
    error = MgmtError(
        "not-durable",
        f"it was done, but could not be written to the store ({failure}), so the next daemon would not know; "
        "free some space in the state folder and repeat the command",
    )
    return fx.Answer(answer.route, frames.Outcome.ERROR, error.as_body())
