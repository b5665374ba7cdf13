"""Write-ahead: what a step does waits until what it changed is written, one write per turn of the loop."""

from __future__ import annotations

from asyncio import AbstractEventLoop
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from mgmt.core import effect as fx
from mgmt.protocol import frames
from mgmt.protocol.errors import MgmtError
from mgmt.store import Batch, SqliteStore

# Nothing of these tells a change or has to be undone: they never wait.
_AT_ONCE = (fx.SetTimer, fx.CancelTimer, fx.Beat)
_TO_CALLERS = (fx.Answer, fx.Tell)


class _Report(NamedTuple):
    """The answer of a step that changed nothing, held behind what it reports."""

    answer: fx.Answer


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
        # By write; the last one's grows while it is gathered.
        self._held: deque[list[fx.Effect | _Report]] = deque()

    def carry_out(self, effects: list[fx.Effect]) -> None:
        """The effects of one step; a Commit is the first of them.

        Those of a step without a commit wait as well: an answer may report what is being written, event numbers
        among it, and whoever asks the next daemon to go on from there must find them known. Messages overtake.
        """
        reads = not (effects and isinstance(effects[0], fx.Commit))
        if not reads:
            if not self._gathered:
                self._held.append([])
                # After whatever this turn has put off: a restart without a delay is the same write as its cause.
                self._loop.call_soon(self._loop.call_soon, self._write)
            commit, *effects = effects
            assert isinstance(commit, fx.Commit)
            self._gathered.append(commit)
        elif not self._held or all(isinstance(effect, fx.Tell) for effect in effects):
            for effect in effects:
                if isinstance(effect, fx.Spawn):
                    self._prepare(effect)
            self._perform_all(iter(effects))
            return
        self._held[-1] += [
            _Report(effect) if reads and isinstance(effect, fx.Answer) else effect
            for effect in effects
            if not isinstance(effect, _AT_ONCE)
        ]
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
        meta: dict[str, Any] = {}
        accounts: dict[str, dict[str, Any]] = {}
        events: list[Any] = []
        for commit in self._gathered:
            units |= commit.units
            workloads |= commit.workloads
            assignments |= commit.assignments
            nodes |= commit.nodes
            meta |= commit.meta
            for table, records in commit.accounts.items():
                accounts.setdefault(table, {}).update(records)
            events += commit.events
        keep_events_from = self._gathered[-1].keep_events_from
        self._gathered.clear()
        synced = any(_is_told(effect) for effect in self._held[-1])
        batch = Batch(
            meta=meta,
            units=units,
            events=tuple(events),
            keep_events_from=keep_events_from,
            synced=synced,
            workloads=workloads,
            assignments=assignments,
            nodes=nodes,
            accounts=accounts,
        )
        self._store.commit(batch, self._on_written)

    def _on_written(self, failure: str) -> None:
        # In the store's thread.
        self._loop.call_soon_threadsafe(self._on_commit, failure)

    def _on_commit(self, failure: str) -> None:
        effects: list[fx.Effect] = []
        notes: list[fx.Effect] = []  # last: what people read can wait for what units wait for
        for effect in self._held.popleft():
            if isinstance(effect, _Report):
                effects.append(effect.answer)
            elif isinstance(effect, fx.Note):
                notes.append(effect)
            elif isinstance(effect, fx.Answer) and failure:
                effects.append(_not_durable(effect, failure))
            else:
                effects.append(effect)
        self._perform_all(iter(effects + notes))

    def _perform_all(self, effects: Iterator[fx.Effect]) -> None:
        """One that raises, which only a bug makes it do, takes none of the others with it."""
        try:
            for effect in effects:
                self._perform(effect)
        finally:
            rest = list(effects)
            if rest:
                self._loop.call_soon(self._perform_all, iter(rest))


def _is_told(effect: fx.Effect | _Report) -> bool:
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
