"""The schedule in force: workloads that were admitted, and requests that wait for a computation.

Whatever takes long is computed from a snapshot by a thread, one request after the other in the order in which
they came. A result that changes the schedule is good as long as the snapshot still holds; when units took or gave
back CPUs meanwhile, it is computed again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

from mgmt.core import effect as fx
from mgmt.core.event import Asked, Computed, Now, Route
from mgmt.core.journal import Journal
from mgmt.core.placement import Ledger
from mgmt.core.sessions import Sessions
from mgmt.protocol import frames
from mgmt.protocol import messages as msg
from mgmt.protocol.errors import MgmtError

from . import report
from .admission import Placed
from .force import Admitted, Entry, Snapshot, admit
from .rebalance import Rebalancing, rebalance
from .records import from_record, to_record
from .workload import LOCAL, Node

REASON_CHARS = 400  # of an event
UNCHANGED = ("refused", "started")  # events that are no new version
Record = dict[str, Any]
Body = dict[str, Any]


class Staging(Protocol):
    """What has nodes prepare for a workload before it is in force."""

    def needed(self, entry: Entry) -> bool:
        """Whether it has processes on other nodes."""

    def stage(self, now: Now, entries: list[Entry], done: Staged, out: list[fx.Effect]) -> None:
        """Ask them all; `done` is called when all agreed, or with an error. MgmtError when one cannot be asked."""

    def discard(self, out: list[fx.Effect]) -> None:
        """What was staged last is not wanted."""


Staged = Callable[[Now, MgmtError | None, list[fx.Effect]], None]


@dataclass(frozen=True, slots=True)
class Job:
    """A request that waits: what is computed for it, then what is done with the result, or with the error.

    `exact`: the result is good only as long as the snapshot holds. `done` gives no answer when nodes are
    asked first.
    """

    asked: Asked
    work: Callable[[Snapshot], Any]
    done: Callable[[Now, Any, list[fx.Effect]], dict[str, Any] | None]
    refused: Callable[[Now, MgmtError, list[fx.Effect]], None]
    exact: bool = True


class Schedules:
    """Entries by name of the workload; the version is the number of the event that told the last change.

    `dirty` has the records that the store does not have yet. `replan` is called when other CPUs of this machine
    have tasks than before; `configured` has the names that the configuration has taken.
    """

    def __init__(
        self,
        sessions: Sessions,
        journal: Journal,
        ledger: Ledger,
        host: str,
        replan: Callable[[], None],
        configured: Callable[[], frozenset[str]],
        staging: Staging,
    ) -> None:
        self.entries: dict[str, Entry] = {}
        self.version = 0
        self.dirty: dict[str, Record | None] = {}
        self._sessions = sessions
        self._journal = journal
        self._ledger = ledger
        self._host = host
        self._replan = replan
        self._configured = configured
        self.staging: Staging = staging
        self._generation = 0
        self.changed = False  # until what is run follows
        self._jobs: deque[Job] = deque()
        self._running: tuple[int, Snapshot] | None = None
        self._held = False  # the first of them waits for nodes
        self._number = 0
        self._analysed: tuple[int, tuple[Placed, ...]] | None = None  # all responses, of which version

    # ---- requests ----

    def submit(self, now: Now, asked: Asked, body: msg.ScheduleSubmit, out: list[fx.Effect]) -> None:
        """Admit a workload; a ScheduleSubmitted follows."""

        def work(snapshot: Snapshot) -> tuple[Admitted, Body, Record]:
            admitted = admit(snapshot, body.documents, body.nodes, body.algorithm, body.replace)
            return admitted, report.submitted(snapshot, admitted), to_record(admitted.entry)

        def done(now: Now, result: tuple[Admitted, Body, Record], out: list[fx.Effect]) -> Body | None:
            admitted, reply, record = result
            if admitted.already or body.dry_run:
                return {**reply, "version": self.version}
            admitted = replace(admitted, entry=replace(admitted.entry, generation=self._next_generation(now)))

            def put(now: Now, out: list[fx.Effect]) -> Body:
                return in_force(now, admitted, reply, record, out)

            return self._when_staged(now, [admitted.entry], put, out)

        def in_force(now: Now, admitted: Admitted, reply: Body, record: Record, out: list[fx.Effect]) -> Body:
            (row,) = reply["workloads"]
            row["at"] = now.real_s
            row["version"] = self._put_in_force(now, admitted, record, out)
            return {**reply, "version": self.version}

        def refused(now: Now, error: MgmtError, out: list[fx.Effect]) -> None:
            if not body.dry_run:
                name = str(error.detail.get("workload", ""))
                self._tell(now, "refused", name, error.text, out)

        self._ask(now, Job(asked, work, done, refused), out)

    def show(self, now: Now, asked: Asked, body: msg.ScheduleShow, out: list[fx.Effect]) -> None:
        """A ScheduleReply follows."""
        version, known = self._analysed or (-1, None)
        known = known if version == self.version else None

        def work(snapshot: Snapshot) -> tuple[int, tuple[Placed, ...], Body]:
            _known(snapshot, body.workload)
            mine = known if version == snapshot.version else None
            return snapshot.version, *report.shown(snapshot, mine, body.workload, body.offset)

        def done(now: Now, result: tuple[int, tuple[Placed, ...], Body], out: list[fx.Effect]) -> Body:
            version, placed, reply = result
            if version == self.version:
                self._analysed = version, placed
            return {**reply, "version": version}

        self._ask(now, Job(asked, work, done, _unsaid, exact=False), out)

    def explain(self, now: Now, asked: Asked, task: str, out: list[fx.Effect]) -> None:
        """A TaskExplanation follows."""
        work = partial(report.explained, name=task)
        self._ask(now, Job(asked, work, lambda now, reply, out: reply, _unsaid, exact=False), out)

    def rebalance(self, now: Now, asked: Asked, apply: bool, out: list[fx.Effect]) -> None:
        """A ScheduleRebalanced follows."""

        def work(snapshot: Snapshot) -> tuple[Rebalancing, dict[str, tuple[Entry, Record]]]:
            found = rebalance(snapshot)
            moved = found.moved(snapshot.entries)
            return found, {name: (entry, to_record(entry)) for name, entry in moved.items()}

        def done(
            now: Now, result: tuple[Rebalancing, dict[str, tuple[Entry, Record]]], out: list[fx.Effect]
        ) -> Body | None:
            found, moved = result
            if not apply or not moved:
                return report.rebalanced(found, False, self.version)
            # Not started, but with the grid of their former places: they enter it together.
            entries = {
                name: replace(entry, generation=self._next_generation(now), started=False)
                for name, (entry, _) in moved.items()
            }

            def put(now: Now, out: list[fx.Effect]) -> Body:
                load = f"{float(found.before) * 100:.1f} % to {float(found.after) * 100:.1f} %"
                text = f"{len(found.moves)} moves take the fullest CPU from {load}"
                self._tell(now, "rebalanced", "", text, out)
                for name, entry in entries.items():
                    self.entries[name] = replace(entry, version=self.version)
                    fresh = {"version": self.version, "generation": entry.generation, "started": False}
                    self.dirty[name] = {**moved[name][1], **fresh}
                self._changed()
                return report.rebalanced(found, True, self.version)

            return self._when_staged(now, list(entries.values()), put, out)

        self._ask(now, Job(asked, work, done, _unsaid), out)

    def remove(self, now: Now, asked: Asked, name: str, out: list[fx.Effect]) -> None:
        """A ScheduleRemoved follows. Nothing has to be proven, but what was asked before comes first."""

        def done(now: Now, result: None, out: list[fx.Effect]) -> Body:
            count = len(self.entries.pop(name).workload.tasks)
            self._tell(now, "removed", name, f"{count} tasks are gone", out)
            self.dirty[name] = None
            self._changed()
            return {"workload": name, "tasks": count, "version": self.version}

        work = partial(_known, name=name)
        self._ask(now, Job(asked, work, done, _unsaid), out)

    # ---- computations ----

    def _ask(self, now: Now, job: Job, out: list[fx.Effect]) -> None:
        self._sessions.park(now, job.asked, out)
        self._jobs.append(job)
        if self._running is None:
            self._begin(out)

    def _begin(self, out: list[fx.Effect]) -> None:
        self._running = None
        if self._jobs:
            self._number += 1
            self._running = self._number, self.snapshot()
            out.append(fx.Compute(self._number, partial(self._jobs[0].work, self._running[1])))

    def on_computed(self, now: Now, event: Computed, out: list[fx.Effect]) -> None:
        if self._running is None or self._running[0] != event.number:
            return
        job, snapshot, result = self._jobs[0], self._running[1], event.result
        try:
            if job.asked.route not in self._sessions.calls:
                self._jobs.popleft()  # expired, or its session ended: nothing is changed for nobody
            elif not job.exact or snapshot == self.snapshot():
                self._held = not self._finish(now, job, result, out)
                if not self._held:
                    self._jobs.popleft()
        finally:
            if not self._held:
                self._begin(out)  # whatever comes of one request, the others have their turn

    def _finish(self, now: Now, job: Job, result: Any, out: list[fx.Effect]) -> bool:
        """False: it is held until nodes have answered."""
        try:
            if isinstance(result, MgmtError):
                raise result
            body = job.done(now, result, out)
        except MgmtError as error:
            job.refused(now, error, out)
            self._sessions.refuse(job.asked.route, error, out)
            return True
        if body is not None:
            self._sessions.answer(job.asked.route, frames.Outcome.OK, body, out)
        return body is not None

    def _next_generation(self, now: Now) -> int:
        """Of the moment, and above all of former ones, whatever became of those."""
        self._generation = max(self._generation + 1, int(now.real_s * 1e6))
        return self._generation

    def _when_staged(
        self,
        now: Now,
        entries: list[Entry],
        put: Callable[[Now, list[fx.Effect]], Body],
        out: list[fx.Effect],
    ) -> Body | None:
        """Put these in force, all at once: now, or (None) when the nodes of their processes are ready."""
        needed = [entry for entry in entries if self.staging.needed(entry)]
        if not needed:
            return put(now, out)

        def staged(now: Now, error: MgmtError | None, out: list[fx.Effect]) -> None:
            self._resume(now, error, lambda: put(now, out), out)

        self.staging.stage(now, needed, staged, out)
        return None

    def _resume(
        self, now: Now, error: MgmtError | None, put_in_force: Callable[[], Body], out: list[fx.Effect]
    ) -> None:
        """The nodes have answered the request that was held for them."""
        job, snapshot = self._jobs.popleft(), self._running[1] if self._running is not None else None
        self._held = False
        try:
            if error is None and snapshot != self.snapshot():
                error = MgmtError("conflict", "units took or gave back CPUs meanwhile; submit it again")
            if error is None and job.asked.route in self._sessions.calls:
                self._sessions.answer(job.asked.route, frames.Outcome.OK, put_in_force(), out)
                return
            self.staging.discard(out)
            if error is not None and job.asked.route in self._sessions.calls:
                job.refused(now, error, out)
                self._sessions.refuse(job.asked.route, error, out)
        finally:
            self._begin(out)

    def on_started(self, now: Now, name: str, t0_ns: int, reason: str, out: list[fx.Effect]) -> None:
        """The processes of a workload have their common start, on the monotonic clock."""
        t0_real_ns = int(now.real_s * 1e9) + t0_ns - now.mono_ns
        entry = replace(self.entries[name], t0_ns=t0_ns, t0_real_ns=t0_real_ns, started=True)
        self.entries[name] = entry
        self.dirty[name] = to_record(entry)
        self._tell(now, "started", name, reason, out)

    def forget(self, route: Route) -> None:
        """Nobody waits for it any more. One that is computed now is dropped when that is done."""
        running = self._jobs[0] if self._running is not None and self._jobs else None
        self._jobs = deque(job for job in self._jobs if job is running or job.asked.route != route)

    def waiting(self) -> list[Route]:
        return [job.asked.route for job in self._jobs if job.asked.route in self._sessions.calls]

    def snapshot(self) -> Snapshot:
        ledger = self._ledger
        total_bytes = ledger.topology.memory_bytes
        units_bytes = sum(place.memory_bytes for place in ledger.held.values())
        local = Node(LOCAL, tuple(sorted(ledger.topology.ids)), total_bytes >> 20)
        free_mb = max(0, total_bytes - units_bytes) >> 20
        closed, configured = ledger.closed(), self._configured()
        return Snapshot(dict(self.entries), self.version, local, self._host, free_mb, closed, configured)

    # ---- changes ----

    def restore(self, now: Now, records: Mapping[str, Record], same_boot: bool, out: list[fx.Effect]) -> None:
        """What a former daemon left, exactly; before its units, and after its events."""
        self.entries = {name: from_record(name, record) for name, record in records.items()}
        self._generation = max((entry.generation for entry in self.entries.values()), default=0)
        for name, entry in self.entries.items():
            if entry.t0_real_ns and not (same_boot and entry.t0_ns):
                # Of another monotonic clock: where the grid is now, the wall clock tells.
                t0_ns = now.mono_ns + entry.t0_real_ns - int(now.real_s * 1e9)
                self.entries[name] = replace(entry, t0_ns=t0_ns)
                self.dirty[name] = to_record(self.entries[name])
        events = self._journal.since(0)[0]
        told = (e["seq"] for e in events if e["kind"] == "schedule" and e["what"] not in UNCHANGED)
        self.version = max([0, *told, *(entry.version for entry in self.entries.values())])
        self._changed()
        missing = sorted(self._ledger.tasks.keys() - self._ledger.topology.ids)
        for cpu in missing:
            name = self._ledger.tasks[cpu]
            text = (
                f"workload {name!r} has tasks on CPU {cpu}, which this machine no longer has, or not for this "
                f"daemon: submit it again with --replace, or `mgmt schedule remove {name}`"
            )
            out.append(fx.Note("WARNING", text, {"workload": name}))

    def records(self) -> dict[str, Record | None]:
        """What the store does not have yet; it has it from now on."""
        records, self.dirty = self.dirty, {}
        return records

    def _put_in_force(self, now: Now, admitted: Admitted, record: Record, out: list[fx.Effect]) -> int:
        entry = admitted.entry
        name, nodes = entry.workload.name, sorted({node for node, _ in entry.cpus})
        text = f"{len(entry.workload.tasks)} tasks on {', '.join(nodes)}"
        self._tell(now, "replaced" if admitted.replaced else "submitted", name, text, out)
        self.entries[name] = replace(entry, version=self.version, at=now.real_s)
        fresh = {"version": self.version, "at": now.real_s, "generation": entry.generation}
        self.dirty[name] = {**record, **fresh}
        self._changed()
        return self.version

    def _tell(self, now: Now, what: str, workload: str, reason: str, out: list[fx.Effect]) -> None:
        if len(reason) > REASON_CHARS:
            reason = reason[: REASON_CHARS - 4] + " ..."
        self._journal.record(now, "schedule", {"what": what, "workload": workload, "reason": reason}, out)
        if what not in UNCHANGED:
            self.version = self._journal.seq

    def _changed(self) -> None:
        """The ledger must know which CPUs of this machine have tasks."""
        self.changed = True
        tasks: dict[int, str] = {}
        memory_mb = 0
        for name in sorted(self.entries, reverse=True):
            entry = self.entries[name]
            for task, (node, cpu) in zip(entry.workload.tasks, entry.cpus, strict=True):
                if node == LOCAL:
                    tasks[cpu] = name
                    memory_mb += task.memory_mb
        differ = tasks.keys() != self._ledger.tasks.keys()
        self._ledger.tasks, self._ledger.task_memory_bytes = tasks, memory_mb << 20
        if differ:
            self._replan()


def _unsaid(now: Now, error: MgmtError, out: list[fx.Effect]) -> None:
    """A question that has no answer is no event."""


def _known(snapshot: Snapshot, name: str | None) -> None:
    if name is not None:
        known_workload(snapshot.entries, name)


def known_workload(entries: Mapping[str, Entry], name: str) -> None:
    """MgmtError `unknown-workload` when it is not in force."""
    if name not in entries:
        told = ", ".join(sorted(entries)[:8]) or "none"
        text = f"no workload {name!r} is in force: known are {told}"
        raise MgmtError("unknown-workload", text, workload=name)
