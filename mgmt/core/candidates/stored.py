"""What is stored of candidates, as a judge: rows of tables, batches of runs, and runs that are kept one by one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from mgmt.core.suites.candidate_rows import Row
from mgmt.protocol import frames

from . import batches, compat, hosts
from .batches import Batch
from .columns import OLD, YOUNG, Runs, columns_of
from .compat import WORKER_FAILURE
from .modes import are_columns_enough, is_default_alone, judge_of
from .outcomes import LACKING
from .policies import Judge, Policy
from .records import RowError, Run, World, run_of, world_of
from .rules import Rules
from .settings import Settings
from .tallies import Lacked, Tallies


@dataclass(slots=True)
class Stored:
    """What the store should have instead of `gone`: small rows put together, in records."""

    gone: list[tuple[str, str]] = field(default_factory=list)
    records: list[bytes] = field(default_factory=list)


def build(
    policy: Policy, rows: list[Row], rules: Rules, now_us: int, stored: Stored
) -> tuple[Judge, frozenset[str]]:
    """A judge of what is stored, and the names of the runs that are kept one by one."""
    tables: dict[str, list[Any]] = {}
    single, found, names = list[Row](), list[Batch](), list[tuple[str, str]]()
    for row in rows:
        if row.kind == batches.KIND:
            found.append(batches.unpacked(row.record))
            names.append((row.kind, row.name))
        elif row.kind == "runs":
            single.append(row)
        else:
            tables.setdefault(row.kind, []).append(frames.unpack(row.record))
    tables.pop(hosts.KIND, None)
    rows.clear()
    world, faults = world_of(tables)
    named = list(_named(single, faults))
    batch = batches.batch_of(named) if named else None
    seen, alone = frozenset(row.name for row in single), list[Run]()
    if batch is not None:
        found.insert(0, batch)
        names.insert(0, ("", ""))
    else:
        alone = [run for _, run in named]
    runs = Runs.of_candidates(world.candidates)
    gone = batches.into(runs, found)
    _put_together(found, names, gone, [(row.kind, row.name) for row in single] if batch else [], stored)
    settings, mode = rules.settings, rules.mode
    if alone or not are_columns_enough(policy, settings, mode):
        first = 0
        for one in found:
            world.runs += (run for i, run in enumerate(batches.runs_of(one)) if first + i not in gone)
            first += one.part.n
        world.runs += alone
        return judge_of(policy, world, settings, now_us, faults, mode), seen
    tallies = (
        None if is_default_alone(policy, settings, mode) else _tallies(runs, found, world, settings, now_us)
    )
    columns, _ = columns_of(runs, partial(batches.lacked_by, found, gone))
    return judge_of(policy, world, settings, now_us, faults, mode, columns, tallies), seen


def _tallies(runs: Runs, found: list[Batch], world: World, settings: Settings, now_us: int) -> Tallies:
    constants = compat.constants_of(settings)
    old, young, kept = runs.kind_of(WORKER_FAILURE, OLD), runs.kind_of(WORKER_FAILURE, YOUNG), list[int]()
    for i in runs.of_code(WORKER_FAILURE):
        began_us = runs.end[i] - runs.duration[i]  # NaN where one of both times is missing
        if now_us - began_us >= constants.ignore_worker_failures_us:
            runs.kind[i] = old
        else:
            runs.kind[i] = young
            kept.append(i)
    lacked = (
        Lacked(run.codebase, run.campaign, run.relations, (run.context, run.instigated_context))
        for run in batches.some_of(found, runs.of_code(LACKING))
        if run.relations
    )
    return Tallies(runs, world.versions, constants, lacked, batches.some_of(found, kept))


def _named(rows: Iterable[Row], faults: list[RowError]) -> Iterator[tuple[str, Run]]:
    """Runs that are kept one by one."""
    for row in rows:
        try:
            yield row.name, run_of(row.name, frames.unpack(row.record))
        except RowError as fault:
            faults.append(fault)


def _put_together(
    found: list[Batch],
    names: list[tuple[str, str]],
    gone: set[int],
    single: list[tuple[str, str]],
    stored: Stored,
) -> None:
    """When there are many small ones."""
    small, left, first = list[Batch](), set[int](), 0
    places = list[tuple[str, str]]()
    n = 0
    for batch, name in zip(found, names, strict=True):
        if batch.part.n < batches.SMALL or not name[0]:
            left |= {n + i for i in range(batch.part.n) if first + i in gone}
            small.append(batch)
            places += single if not name[0] else [name]
            n += batch.part.n
        first += batch.part.n
    if len(places) >= batches.MANY:
        stored.gone = places
        stored.records = [batches.packed(one) for one in batches.together(small, left)]
