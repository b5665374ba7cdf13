"""One pass over a Janitor's candidates: read, scored by a policy, and written into its queue."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from contextlib import closing
from dataclasses import dataclass

from mgmt.adapters.janitor.columns import Reading
from mgmt.adapters.janitor.database import Database
from mgmt.adapters.janitor.following import Follower
from mgmt.adapters.janitor.queue_table import QueueTable
from mgmt.adapters.janitor.tallies import tallies
from mgmt.core.candidates import compat, compat_queue
from mgmt.core.candidates.compat_queue import CompatError, QueueItem
from mgmt.core.candidates.policies import ByDefault, Decision
from mgmt.core.candidates.records import RowError, World
from mgmt.core.candidates.settings import Settings

REQUESTER = "scheduler"
# A score is some ms of work by what they bring: thousandths of it keep their order as whole numbers.
PER_SCORE = 1000


@dataclass(frozen=True)
class Choice:
    """What of the candidates a pass is about. `limit`: the best so many; None: all."""

    codebases: Collection[str] = ()
    campaign: str | None = None
    limit: int | None = None
    dry_run: bool = False
    with_queue: bool = False  # the rows of the queue are wanted, too

    def has(self, codebase: str, campaign: str) -> bool:
        return (not self.codebases or codebase in self.codebases) and self.campaign in (None, campaign)


@dataclass(frozen=True)
class Passed:
    """`considered` candidates; `decided` are in the order of the pass, `written` of them are in the queue now.

    `held` wait for something and are left out. `queue`: all its rows afterwards, in no order, where they were
    wanted; none of a dry run.
    """

    considered: int
    decided: tuple[QueueItem, ...]
    written: int
    held: tuple[Decision, ...]
    faults: tuple[RowError, ...]
    warnings: tuple[str, ...]
    queue: tuple[QueueItem, ...]


def compat_pass(database: Database, choice: Choice, settings: Settings, now_us: int) -> Passed:
    """As Janitor's own bulk job: priorities count from the least in the queue, one item after the other."""
    constants = compat.constants_of(settings)
    ignored_us = constants.ignore_worker_failures_us
    with database.snapshot(), closing(Reading(database, now_us, ignored_us)) as reading:
        world, faults = database.world()
        runs = reading.runs(world.candidates, faults)
        history = tallies(database, runs, world.versions, constants, now_us)
    engine = compat.Engine(world, now_us, constants, history)
    scored = engine.bulk(list(choice.codebases) or None, choice.campaign, dry_run=True)
    fine = []
    for one in scored:
        if one.error:
            faults.append(_fault(one.candidate.codebase, one.candidate.campaign, one.error))
        else:
            fine.append(one)
    if choice.limit is not None:
        best = sorted(range(len(fine)), key=lambda i: fine[i].offset)[: choice.limit]
        fine = [fine[i] for i in sorted(best)]
    offers = []
    for one in fine:
        assert one.estimate is not None  # it has no error
        item = QueueItem(
            one.candidate.codebase, one.candidate.campaign, one.candidate.command, context=one.candidate.context,
            estimated_duration_us=one.estimate.duration_us, requester=REQUESTER,
        )  # fmt: skip
        offers.append((item, one.offset))
    if choice.dry_run:
        items, _ = _offered(world, (), offers, faults)
        return Passed(len(scored), tuple(items), 0, (), tuple(faults), (), ())
    table = QueueTable(database)
    with table.writing():
        items, taken = _offered(world, table.items(), offers, faults)
        written = table.put(taken, keep_refresh=False)
        rows = tuple(table.items() if choice.with_queue else ())
    return Passed(len(scored), tuple(items), written, (), tuple(faults), (), rows)


def _offered(
    world: World, rows: Iterable[QueueItem], offers: list[tuple[QueueItem, float]], faults: list[RowError]
) -> tuple[list[QueueItem], list[QueueItem]]:
    """What a queue with these rows makes of the offers: the rows of their keys, and those that are written."""
    queue = compat_queue.Queue(world.codebases, world.change_sets)
    queue.restore(rows)
    found: dict[tuple[str, str, str], QueueItem] = {}
    taken: dict[tuple[str, str, str], QueueItem] = {}
    for item, offset in offers:
        try:
            _, bucket = queue.add(item, offset)
        except CompatError as error:
            faults.append(_fault(item.codebase, item.campaign, str(error)))
            continue
        found[item.key] = queue.row(item.key)
        if bucket == item.bucket:  # else a more urgent row stays
            taken[item.key] = found[item.key]
    return list(found.values()), list(taken.values())


def default_pass(follower: Follower, choice: Choice, now_us: int) -> Passed:
    """By the default policy. A priority is when the item's turn in its campaign is, in thousandths of the scores
    before it by the campaign's weight. It depends on nothing but that campaign, whatever part of it is chosen: a
    pass that is repeated changes nothing."""
    database = follower.database
    with database.snapshot():
        scorer, faults = follower.scorer(now_us)
    told = [one for one in ByDefault(scorer).decisions(now_us) if choice.has(*one.candidate.key[:2])]
    items = [_item(one) for one in told if not one.held]
    held = [one for one in told if one.held]
    items = items[: choice.limit]
    written, rows = 0, tuple[QueueItem, ...]()
    if not choice.dry_run:
        table = QueueTable(database)
        with table.writing():
            written = table.put(items, keep_refresh=True)
            rows = tuple(table.items() if choice.with_queue else ())
    warnings = tuple(sorted(scorer.warnings))
    return Passed(len(told), tuple(items), written, tuple(held), tuple(faults), warnings, rows)


def _item(one: Decision) -> QueueItem:
    candidate = one.candidate
    return QueueItem(
        candidate.codebase, candidate.campaign, candidate.command, context=candidate.context,
        change_set=candidate.change_set, estimated_duration_us=round(one.duration_us or 0),
        requester=REQUESTER, priority=round(one.turn * PER_SCORE),
    )  # fmt: skip


def _fault(codebase: str, campaign: str, problem: str) -> RowError:
    return RowError("candidates", f"{codebase} {campaign}", "", problem)
