"""The desk: candidates of this daemon, and the tasks of a suite that they become.

The queue of tasks keeps their rows and runs, and is the truth. Here is a policy that has seen them (`Judge`),
built when it is asked for and told of each run that ends, and the lines of candidates in the queue. What takes
time, reading rows into a judge and a pass over all of them, is computed beside the loop.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from mgmt.core import effect as fx
from mgmt.core.event import Computed, Now
from mgmt.core.suites import operations as op
from mgmt.core.suites.board import Board
from mgmt.core.suites.candidate_rows import GetRows, PutRows, RecordRun, Row, SubmitNew
from mgmt.core.suites.entry import Entry
from mgmt.protocol.errors import MgmtError

from . import batches
from .beside import Beside, Then
from .hosts import Hosts
from .line import Queued, rest_priority
from .lines import PART, Lines, us
from .passes import Decided, New, Scene, Wanted, decided, score_in
from .policies import Decision, Judge, Policy
from .records import Run
from .rules import Rules
from .stored import Stored, build
from .sums import Key
from .tasks import LABEL, name_of, packed, run_of_task
from .watch import Watch

PREFIX = "candidates_"


@dataclass(frozen=True, slots=True)
class Passed:
    """A pass is in the queue, durable. `queued` are new, `changed` have another place."""

    found: Decided
    queued: int
    changed: int


class Desk:
    """`rules` says what is set now, `debug` whether each decision is logged. `on_run(now, key, run, out)` is told
    of each run that is recorded."""

    def __init__(self, board: Board, rules: Callable[[], Rules], debug: bool) -> None:
        self.beside = Beside()
        self.lines = Lines(board, rules, self._ended)
        self.hosts = Hosts(board)
        self.on_run: Callable[[Now, Key, Run, list[fx.Effect]], None] = lambda now, key, run, out: None
        self.rules, self._debug = rules, debug
        self._board = board
        self.watch = Watch(board.metrics, lambda: rules().settings)
        self._judges: dict[str, Judge] = {}  # by policy
        self._version = 0  # of what is stored; a judge of older rows is not kept
        self._building: dict[tuple[str, int], list[Then]] = {}  # (policy, version) -> who waits for it
        self._heard: dict[tuple[str, str], int] = {}  # when the latest run of a series was recorded, us
        self._late: list[Run] = []  # ended while a judge was at work
        self._tidying: list[tuple[Policy, Then]] | None = None  # who waits for a judge while rows are moved
        self._batches = 0
        self._recent: list[tuple[str, Run]] = []  # recorded while a judge is being built, by row

    def on_computed(self, now: Now, event: Computed, out: list[fx.Effect]) -> None:
        late, self._late = self._late, []
        for run in late:
            self._learn(run)
        self.beside.on_computed(now, event, out)

    # ---- what is stored ----

    def with_judge(self, now: Now, policy: Policy, then: Then, out: list[fx.Effect]) -> None:
        """`then` with the judge, or with the MgmtError why there is none."""
        known = self._judges.get(policy)
        if known is not None:
            then(now, known, out)
            return
        if self._tidying is not None:  # rows move meanwhile, and could be missed
            self._tidying.append((policy, then))
            return
        build_of = policy, self._version
        waiting = self._building.setdefault(build_of, [])
        waiting.append(then)
        if len(waiting) > 1:
            return  # it is being built
        rows, stored = list[Row](), Stored()

        def page(now: Now, result: Any, out: list[fx.Effect]) -> None:
            if isinstance(result, MgmtError):
                built(now, result, out)
                return
            rows.extend(result.rows)
            if result.rows:
                last = rows[-1]
                few = {"limit": batches.PAGE} if last.kind == batches.KIND else {}
                self._board.ask(GetRows((last.kind, last.name), **few), page, out)
            else:
                work = partial(build, policy, rows, self.rules(), us(now), stored)
                self.beside.compute(work, built, out)

        def built(now: Now, result: Any, out: list[fx.Effect]) -> None:
            waiters = self._building.pop(build_of)
            if not isinstance(result, MgmtError):
                judge, names = result
                for name, run in self._recent:
                    if name not in names:  # it was recorded after its page was read
                        judge.finished(run)
                if build_of[1] == self._version:
                    self._judges[policy] = judge
                result = judge
            if not self._building:
                self._recent.clear()
                self._tidy(now, stored, out)
            for waiter in waiters:
                waiter(now, result, out)

        self._board.ask(GetRows(limit=batches.PAGE), page, out)

    def _tidy(self, now: Now, stored: Stored, out: list[fx.Effect]) -> None:
        """Put small rows together, while nobody reads them: other daemons of the queue might."""
        if not stored.gone or self._board.is_shared:
            return
        rows = [self._batch(now, record) for record in stored.records]
        self._tidying = []

        def done(now: Now, result: Any, out: list[fx.Effect]) -> None:
            waiting, self._tidying = self._tidying or [], None
            for policy, then in waiting:
                self.with_judge(now, policy, then, out)

        self._board.ask(PutRows(rows, gone=stored.gone), done, out)

    def _batch(self, now: Now, record: bytes) -> Row:
        """Later ones sort behind."""
        self._batches += 1
        return Row(batches.KIND, f"{now.real_ms:015d} {self._batches:09d}", record)

    def batched(self, now: Now, runs: list[tuple[str, Run]], rows: list[Row]) -> list[Row]:
        """Runs in one row instead of these, where that can be."""
        batch = batches.batch_of(runs)
        return rows if batch is None else [self._batch(now, batches.packed(batch))]

    def forget(self) -> None:
        """What is stored has changed, or what is set: judges are built anew."""
        self._judges.clear()
        self._version += 1

    # ---- passes ----

    def scene(self) -> Scene:
        return Scene(self.rules(), self.lines.by_key, self._heard, self.hosts.until_us, self._debug)

    def decide(self, now: Now, policy: Policy, wanted: Wanted, then: Then, out: list[fx.Effect]) -> None:
        """`then` with what a pass of now would do (`Decided`), or a MgmtError."""

        def looked(now: Now, result: Any, out: list[fx.Effect]) -> None:
            if isinstance(result, MgmtError):
                then(now, result, out)
                return
            if self.lines.missed:
                self.lines.missed = False
                self.forget()
            self.hosts.read(now, read, out)

        def read(now: Now, result: Any, out: list[fx.Effect]) -> None:
            if isinstance(result, MgmtError):
                then(now, result, out)
            else:
                self.with_judge(now, policy, judged, out)

        def judged(now: Now, judge: Any, out: list[fx.Effect]) -> None:
            if isinstance(judge, MgmtError):
                then(now, judge, out)
            else:
                self.beside.compute(partial(decided, judge, self.scene(), us(now), wanted), then, out)

        if self._board.is_shared:
            self.lines.look(now, looked, out)
        else:
            looked(now, None, out)

    def pass_over(
        self,
        now: Now,
        entry: Entry,
        creator: str,
        policy: Policy,
        wanted: Wanted,
        then: Then,
        out: list[fx.Effect],
    ) -> None:
        """Decide, and put that into the queue of a suite; `then` with a `Passed`, or a MgmtError."""
        metrics, began_ns = self._board.metrics, now.mono_ns
        why = "by itself" if wanted.automatic else f"for {creator}"
        about = {"policy": policy, "suite": entry.number}
        out.append(fx.Note("INFO", f"a pass over candidates begins, {why}", about))

        def found(now: Now, result: Any, out: list[fx.Effect]) -> None:
            if isinstance(result, MgmtError):
                done(now, result, out)
                return
            metrics.add(f"{PREFIX}processed_total", result.considered)
            self.watch.passed(result.judge)
            self.push(now, entry, creator, result, done, out)

        def done(now: Now, result: Any, out: list[fx.Effect]) -> None:
            took_s = (now.mono_ns - began_ns) / 1e9
            if isinstance(result, MgmtError):
                fields = {**about, "code": result.code}
                out.append(fx.Note("WARNING", f"the pass over candidates failed: {result.text}", fields))
            else:
                metrics.add(f"{PREFIX}passes_total")
                metrics.add(f"{PREFIX}pass_seconds_total", took_s)
                counts = {
                    "considered": result.found.considered, "queued": result.queued,
                    "changed": result.changed, "held": result.found.held,
                    "left_out": len(result.found.judge.faults),
                }  # fmt: skip
                text = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items())
                took = {**about, **counts, "seconds": round(took_s, 6)}
                out.append(fx.Note("INFO", f"a pass over candidates ended: {text}", took))
            then(now, result, out)

        self.decide(now, policy, wanted, found, out)

    def push(
        self, now: Now, entry: Entry, creator: str, found: Decided, then: Then, out: list[fx.Effect]
    ) -> None:
        """Put what was decided into the queue, part by part, so that the loop goes on between them."""
        for one in found.told:
            out.append(fx.Note("DEBUG", told_of(one), fields_of(one)))
        queued = changed = 0
        steps = max(1, -(-max(len(found.new), len(found.changes)) // PART))

        def part(step: int, now: Now, result: Any, out: list[fx.Effect]) -> None:
            nonlocal queued, changed
            if isinstance(result, MgmtError):
                then(now, result, out)
                return
            if result is not None:
                queued += result
            if step == steps:
                then(now, Passed(found, queued, changed), out)
                return
            if step:  # others have their turn first
                self.beside.compute(_nothing, partial(work, step), out)
            else:
                work(step, now, None, out)

        def work(step: int, now: Now, result: Any, out: list[fx.Effect]) -> None:
            nonlocal changed
            chosen = slice(step * PART, (step + 1) * PART)
            changed += self._change(found.changes[chosen])
            self._submit(now, entry, creator, found.new[chosen], partial(part, step + 1), out)

        part(0, now, None, out)

    def _change(self, changes: list[tuple[Decision, str]]) -> int:
        """Other scores or buckets of those that still wait; how many."""
        count = 0
        for decision, bucket in changes:
            one = self.lines.by_key.get(decision.candidate.key)
            if one is not None and not one.claimed_ns:
                one.probability, one.duration_us = decision.probability, decision.duration_us
                one.late_us, one.beside = decision.late_us, decision.beside
                score = score_in(decision)
                self.lines.line(one.lane).rescore(one, score, decision.duration_us or 0.0, bucket)
                count += 1
        return count

    def _submit(
        self, now: Now, entry: Entry, creator: str, new: list[New], then: Then, out: list[fx.Effect]
    ) -> None:
        """`then` with how many are in the queue that were not, or a MgmtError."""
        lines = self.lines
        fresh: list[tuple[New, Queued]] = []
        for one in new:
            if one.decision.candidate.key not in lines.by_key:  # another pass may have put it in meanwhile
                made = Queued(
                    entry.number, 0, rest_priority(one.item.bucket, one.item.score), one.item,
                    one.decision.probability, one.decision.duration_us, one.decision.late_us,
                    beside=one.decision.beside,
                )  # fmt: skip
                fresh.append((one, made))
                lines.enter(made)
        if not fresh:
            # Other suites' lines, too: changes are of candidates wherever they are.
            self._order_all(now, lambda now, result, out: then(now, result or 0, out), out)
            return
        lines.order(now, entry.number, out)
        tasks = [(name_of(queued.key), queued.priority, one.spec) for one, queued in fresh]
        asked = [priority for _, priority, _ in tasks]

        def submitted(now: Now, result: Any, out: list[fx.Effect]) -> None:
            if isinstance(result, MgmtError):
                for _, queued in fresh:
                    lines.leave(now, queued, out)
                lines.order(now, entry.number, out)
                then(now, result, out)
                return
            count, late = 0, []
            for (_, queued), task, priority in zip(fresh, result.tasks, asked, strict=True):
                if not task:  # another daemon was first
                    lines.leave(now, queued, out)
                    continue
                count += 1
                lines.number(queued, task)
                if queued.priority != priority:
                    late.append(queued)
            self._board.metrics.add(f"{PREFIX}queued_total", count)
            lines.correct(late, out)
            if count < len(fresh):
                lines.look(now, lambda now, result, out: None, out)
            self._order_all(now, lambda now, result, out: then(now, result or count, out), out)

        self._board.ask(SubmitNew(entry.number, tasks, LABEL, creator, now.real_ms), submitted, out)

    def _order_all(self, now: Now, then: Then, out: list[fx.Effect]) -> None:
        left = len(self.lines.by_suite)
        if not left:
            then(now, None, out)

        def ordered(now: Now, result: Any, out: list[fx.Effect]) -> None:
            nonlocal left
            left -= 1
            if not left:
                then(now, result if isinstance(result, MgmtError) else None, out)

        for suite in list(self.lines.by_suite):
            self.lines.order(now, suite, out, ordered)

    # ---- what becomes of tasks ----

    def _ended(
        self, now: Now, key: Key, known: Queued | None, task: op.TaskRecord, out: list[fx.Effect]
    ) -> None:
        """Record the run that it was, and tell the judges once that is durable."""
        run = run_of_task(key, task, self.rules().result_codes, now.real_ms)
        name = f"task {task.task}.{task.attempt}"
        row = None if run is None else Row("runs", name, packed(run))
        if run is not None:
            self._heard[key[:2]] = us(now)  # a pass that is under way has it rest already

        def then(now: Now, result: Any, out: list[fx.Effect]) -> None:
            if isinstance(result, MgmtError):
                self.lines.unrecorded(now, out)
            elif run is not None:
                if known is not None:
                    self.watch.ended(now, known, run, out)
                if self._building:
                    self._recent.append((name, run))
                self._late.append(run) if self.beside.is_at_work else self._learn(run)
                self.on_run(now, key, run, out)

        self._board.ask(RecordRun(task.task, LABEL, row), then, out)

    def _learn(self, run: Run) -> None:
        for judge in self._judges.values():
            judge.finished(run)


def told_of(one: Decision) -> str:
    what = (
        "held: " + one.held if one.held else f"score {one.score:.6g}" if one.score is not None else "no score"
    )
    return f"{one.candidate.codebase} in {one.candidate.campaign}: {what}"


def fields_of(one: Decision) -> dict[str, Any]:
    return {
        "codebase": one.candidate.codebase, "campaign": one.candidate.campaign, "score": one.score,
        "probability": one.probability, "held": one.held,
    }  # fmt: skip


def _nothing() -> None:
    pass
