"""Figures of candidates: a full pass, a million scored again, one run more, the next of a million, memory."""

from __future__ import annotations

import json
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from bench.figure import Figure, percentile
from bench.janitor import janitor
from mgmt import kernel
from mgmt.core.candidates import batches, compat
from mgmt.core.candidates.line import Queued, rest_priority
from mgmt.core.candidates.lines import PART
from mgmt.core.candidates.passes import Decided, Scene, Wanted, again, decided
from mgmt.core.candidates.policies import ByDefault
from mgmt.core.candidates.queue import QueueItem
from mgmt.core.candidates.records import DAY_US, Candidate, Codebase, Run, World
from mgmt.core.candidates.rules import rules_of
from mgmt.core.candidates.scoring import Scorer
from mgmt.core.candidates.settings import Settings
from mgmt.core.candidates.stored import Stored, build
from mgmt.core.candidates.tasks import LABEL, name_of
from mgmt.core.event import Asked, Now, Route
from mgmt.core.step import HANDLERS
from mgmt.core.suites import operations as op
from mgmt.core.suites.candidate_rows import GetRows, PutRows, Row, SubmitNew
from mgmt.protocol.defaults import MAX_CANDIDATE_ROWS
from mgmt.protocol.frames import pack_body
from mgmt.protocol.messages_candidates import CandidatesNext, CandidatesPosition
from mgmt.settings.candidates import CandidateSettings
from mgmt.store.queue.candidates import get_rows
from mgmt.store.queue.connection import Connection
from mgmt.store.queue.dispatch import OPERATIONS
from mgmt.store.queue.sqlite import SqliteEngine
from tests.core.builders import a_config, a_state, a_topology

NOW_US = 1_700_000_000_000_000
CODES = ("success", "success", "build-failed", "build-failed", "nothing-to-do", "worker-failure")


def candidates(quick: bool) -> list[Figure]:
    if kernel.IMPLEMENTATION != "c":
        raise SystemExit("the C kernel is not built: make venv")
    of_janitor, theirs = janitor(quick)
    return [
        *_passes(quick), *_committed(quick, theirs), *_started(quick, theirs), *of_janitor, *_million(quick),
        *_queued(quick),
    ]  # fmt: skip


def _by_ten(name: str, ours: list[float], theirs: list[float], n: int, note: str) -> Figure:
    """Ten times as fast as Janitor; as what was measured of it once, where it cannot be measured here."""
    if theirs:
        return Figure(name, "ms", ours, theirs, "one by one in PostgreSQL", "ratio<=", 0.1, note)
    return Figure(name, "ms", ours, sense="value<=", goal=n / 25, note=f"{note}; Janitor: 2,500 a second")


def a_world(random: Random, n: int, runs: int) -> World:
    """`n` candidates of four campaigns with so many runs each, of which the sixth is transient."""
    world = World(policies={"propose": ["propose"]})
    for i in range((n + 3) // 4):
        world.codebases[f"c{i}"] = Codebase(f"c{i}", random.randrange(1, 1000))
    world.candidates = [
        Candidate(f"c{i // 4}", f"k{i % 4}", "run", 1 + i % 900, None, None, "propose") for i in range(n)
    ]
    for _ in range(n * runs):
        i, start_us = random.randrange(n), NOW_US - random.randrange(60 * DAY_US)
        code, us = random.choice(CODES), round(random.expovariate(1 / 300) * 1e6)
        world.runs.append(
            Run(
                f"c{i // 4}", f"k{i % 4}", code, start_us, start_us + us, None, None, code == "worker-failure"
            )
        )
    return world


def _ms(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1e3


def _cpu_ms(call: Callable[[], object]) -> float:
    start = time.process_time()
    call()
    return (time.process_time() - start) * 1e3


def _passes(quick: bool) -> list[Figure]:
    n, each = (2_000, 100) if quick else (10_000, 100)
    random, settings = Random(1), Settings()
    world = a_world(random, n, each)
    runs, world.runs = world.runs, []
    scorer = Scorer(world, settings, NOW_US)
    tracemalloc.start()
    scorer.history.load(runs)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    def full() -> None:
        scorer.history.rebuild()
        scorer.scores(NOW_US)

    passes = [_cpu_ms(full) for _ in range(15)]
    rescored = []
    campaigns = scorer.campaigns(NOW_US)
    for _ in range(500):
        i = random.randrange(n)
        run = Run(f"c{i // 4}", f"k{i % 4}", "success", NOW_US, NOW_US + 10**8)
        start = time.perf_counter()
        for one in scorer.finished(run):
            scorer.score(one, NOW_US, campaigns)
        rescored.append((time.perf_counter() - start) * 1e6)
    few = World(world.codebases, world.policies, world.candidates[: n // 20], runs[: n * each // 20])
    engine = compat.Engine(few, NOW_US)
    theirs = _cpu_ms(partial(engine.bulk, dry_run=True)) * 20
    return [
        Figure(
            f"full pass of {n:,} candidates with {each} runs each", "ms", passes, [theirs], "janitor_compat",
            "value<=", n / 200, "CPU time; all statistics anew from the stored runs; the goal is 200,000 a second",
        ),
        Figure("a run is added and its candidate scored again", "µs", rescored, sense="value<=", goal=1000),
        Figure("memory of a stored run", "bytes", [held / len(runs)], sense="value<=", goal=150),
    ]  # fmt: skip


def _committed(quick: bool, theirs: list[float]) -> list[Figure]:
    """As the daemon does it: scored, made tasks of, and on the disk."""
    n, each = (2_000, 100) if quick else (10_000, 100)
    scorer = Scorer(a_world(Random(4), n, each), Settings(), NOW_US)
    judge, samples = ByDefault(scorer), []
    scene = Scene(rules_of(CandidateSettings().model_dump()), {}, {})
    with tempfile.TemporaryDirectory() as folder:
        engine = SqliteEngine(Path(folder) / "queue.db")
        writes = engine.open()
        try:
            for _ in range(5):
                suite = _done(writes, op.CreateSuite("bench", "bench", 1))
                start = time.perf_counter()
                scorer.history.rebuild()
                found = decided(judge, scene, NOW_US, Wanted())
                _put_in(writes, suite.suite, found)
                samples.append((time.perf_counter() - start) * 1e3)
                _done(writes, op.CancelSuite(suite.suite, 2))  # so that they can be there again
        finally:
            writes.close()
    return [
        _by_ten(
            f"the same, and made tasks of ({n:,})", samples, theirs, n,
            "all statistics anew; tasks are on the disk",
        )
    ]  # fmt: skip


def _started(quick: bool, theirs: list[float]) -> list[Figure]:
    """The first pass of a daemon that has just begun: the store is read, too."""
    n, each = (2_000, 100) if quick else (10_000, 100)
    world, samples, by_janitors = a_world(Random(5), n, each), list[float](), list[float]()
    rules = rules_of(CandidateSettings().model_dump())
    scene = Scene(rules, {}, {})
    named = [(str(i), run) for i, run in enumerate(world.runs)]
    rows = [Row("codebases", one.name, pack_body({"name": one.name, "value": one.value}))
            for one in world.codebases.values()]  # fmt: skip
    rows.append(Row("policies", "propose", pack_body({"name": "propose", "per_branch_policy": ["propose"]})))
    for one in world.candidates:
        cells = {"codebase": one.codebase, "campaign": one.campaign, "command": one.command, "value": one.value,
                 "publish_policy": one.publish_policy}  # fmt: skip
        rows.append(Row("candidates", json.dumps(one.key), pack_body(cells)))
    for first in range(0, len(named), MAX_CANDIDATE_ROWS):
        batch = batches.batch_of(named[first : first + MAX_CANDIDATE_ROWS])
        assert batch is not None
        rows.append(Row(batches.KIND, f"{first:09d}", batches.packed(batch)))
    stored_bytes = sum(len(row.record) for row in rows if row.kind == batches.KIND) / len(named)
    del world, named
    with tempfile.TemporaryDirectory() as folder:
        engine = SqliteEngine(Path(folder) / "queue.db")
        writes = engine.open()
        try:
            _done(writes, PutRows(rows))
            for _ in range(5):
                suite = _done(writes, op.CreateSuite("bench", "bench", 1))
                start = time.perf_counter()
                judge, _ = build("default", _kept(engine), rules, NOW_US, Stored())
                _put_in(writes, suite.suite, decided(judge, scene, NOW_US, Wanted()))
                samples.append((time.perf_counter() - start) * 1e3)
                _done(writes, op.CancelSuite(suite.suite, 2))  # so that they can be there again
                start = time.perf_counter()
                judge, _ = build("janitor_compat", _kept(engine), rules, NOW_US, Stored())
                decided(judge, scene, NOW_US, Wanted())
                by_janitors.append((time.perf_counter() - start) * 1e3)
        finally:
            writes.close()
    return [
        _by_ten(
            f"the first pass of a daemon that starts ({n:,})", samples, theirs, n,
            f"{len(rows):,} rows read from the disk; tasks are on the disk",
        ),
        Figure(f"the same by janitor_compat ({n:,}), decided", "ms", by_janitors, theirs, "one by one"),
        Figure("a stored run on the disk", "bytes", [stored_bytes], sense="value<=", goal=150),
    ]  # fmt: skip


def _put_in(writes: Connection, suite: int, found: Decided) -> None:
    tasks = [(name_of(one.item.key), rest_priority("default", one.item.score), one.spec) for one in found.new]
    for part in range(0, len(tasks), PART):
        _done(writes, SubmitNew(suite, tasks[part : part + PART], LABEL, "bench", 1))


def _kept(engine: SqliteEngine) -> list[Row]:
    reads, found = engine.open_reader(), list[Row]()
    try:
        while page := get_rows(reads, GetRows(found[-1][:2] if found else ("", ""))).rows:
            found += page
    finally:
        reads.close()
    return found


def _done(writes: Connection, operation: op.Op) -> Any:
    writes.begin()
    answer = OPERATIONS[type(operation)](writes, operation)
    writes.commit()
    return answer


def _million(quick: bool) -> list[Figure]:
    n = 100_000 if quick else 1_000_000
    scorer = Scorer(a_world(Random(2), n, 1), Settings(), NOW_US)
    samples = [_ms(partial(scorer.scores, NOW_US)) for _ in range(7)]
    return [Figure(f"{n:,} candidates scored again", "ms", samples, sense="value<=", goal=n / 2000)]


def _queued(quick: bool) -> list[Figure]:
    """What a daemon answers and does at once, with a million in the queue; CPU time."""
    n = 100_000 if quick else 1_000_000
    random, settings = Random(3), Settings()
    state = a_state(a_config([], candidates={"suite": "bench"}), a_topology())
    lines = state.desk.lines
    for i in range(n):
        score = random.uniform(1, 1e6)
        item = QueueItem(f"c{i}", f"k{i % 20}", "", "run", score, NOW_US)
        lines.enter(Queued(1, i + 1, rest_priority("default", score), item))
    now, out = Now(1, NOW_US / 1e6), list[Any]()
    lines.order(now, 1, out)

    def asked(verb: str, body: Any, times: int) -> list[float]:
        samples = []
        for _ in range(times):
            request = Asked(Route(1, "", b""), verb, body())
            start = time.thread_time()
            HANDLERS[verb](state, now, request, out)
            samples.append((time.thread_time() - start) * 1e6)
        return samples

    def anyone() -> CandidatesPosition:
        i = random.randrange(n)
        return CandidatesPosition(codebase=f"c{i}", campaign=f"k{i % 20}")

    nexts = asked("candidates-next", CandidatesNext, 2000)
    positions = asked("candidates-position", anyone, 2000)
    claims = []
    for _ in range(2000):
        one = lines.line(1).waiting(NOW_US, 1)[0]
        out.clear()
        start = time.thread_time()
        lines.claimed(now, [one.task], out)  # the next ones get their priorities
        claims.append((time.thread_time() - start) * 1e6)
        lines.leave(now, one, out)
    scorer = Scorer(a_world(Random(5), 10_000, 20), settings, NOW_US)
    judge, scene, rescored = ByDefault(scorer), state.desk.scene(), []
    for _ in range(1000):
        i = random.randrange(10_000)
        key = (f"c{i // 4}", f"k{i % 4}", "")
        run = Run(*key[:2], "success", NOW_US, NOW_US + 10**8)
        start = time.thread_time()
        judge.finished(run)
        again(judge, scene, NOW_US + 2 * 10**8, [key])
        rescored.append((time.thread_time() - start) * 1e6)
    told = f"of {n:,} queued, as the daemon answers it"
    return [
        Figure(f"next {told}, p50", "µs", [percentile(nexts, 0.5)]),
        Figure(f"next {told}, p99", "µs", [percentile(nexts, 0.99)], sense="value<=", goal=1000),
        Figure(f"position {told}, p50", "µs", [percentile(positions, 0.5)]),
        Figure(f"position {told}, p99", "µs", [percentile(positions, 0.99)], sense="value<=", goal=1000),
        Figure(f"one of {n:,} queued is claimed, and the next ones are told, p99", "µs",
               [percentile(claims, 0.99)], sense="value<=", goal=1000),
        Figure("after a run: learned, and decided whether it is a task again, p99", "µs",
               [percentile(rescored, 0.99)], sense="value<=", goal=1000),
    ]  # fmt: skip


if __name__ == "__main__":
    for figure in candidates("--quick" in sys.argv):
        print(*figure.row(), sep=" | ")
