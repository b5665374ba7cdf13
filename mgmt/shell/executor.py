"""The node's executive in the daemon: segments laid down, watched, released, and what is reported of them.

Requests are worked one after the other, because each needs the one before. An executive that ends is started again
and reads the segments on; the tasks do not notice.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import logging
import os
import shutil
from asyncio import AbstractEventLoop
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mgmt.core import effect as fx
from mgmt.core import event as ev
from mgmt.core.schedule.processes import segment_name
from mgmt.rt import segment
from mgmt.rt.executive import Dropped, Executive, ExecutiveError, Fault, Gone, Lost, Miss, Report
from mgmt.rt.segment import Overrun, Plan, SegmentError
from mgmt.shell.observer import Observer, percentiles

log = logging.getLogger("symphony-mgmt")

RETRY_S, RETRY_MAX_S = 0.1, 5.0
PAUSE_S, PAUSE_MAX_S = 0.1, 10.0  # between events of one kind about one task, while they go on
CLOSE_S = 2.0
_TRIES_WHILE_BUSY = 20  # the former daemon's executive ends a moment after it


@dataclass(slots=True)
class _Pause:
    """Words of one kind about one task: what came since the last event, and how long the next one waits."""

    pause_s: float = PAUSE_S
    waiting: ev.TaskReported | None = None


class Executor:
    """`folder` has the segments; `emit` gets TasksStaged and TaskReported, each in a turn of its own. `observe` is
    the best mechanism that is tried."""

    def __init__(
        self, loop: AbstractEventLoop, folder: Path, emit: Callable[[ev.Event], None], observe: str = ""
    ) -> None:
        self._loop, self._folder, self._emit = loop, folder, emit
        self._groups: dict[tuple[str, int], fx.StageTasks] = {}  # by workload and version
        self._t0s: dict[tuple[str, int], int] = {}  # of those that were released
        self._pids: dict[tuple[str, int], tuple[int, int]] = {}  # unit and version -> pid and start
        self._units: dict[int, str] = {}  # number -> unit
        self._executive: Executive | None = None
        self._queue: asyncio.Queue[Callable[[], Coroutine[Any, Any, None]]] = asyncio.Queue()
        self._worker: asyncio.Task[None] | None = None
        self._retry_s = RETRY_S
        self._pauses: dict[tuple[str, str], _Pause] = {}
        self._closing = False
        self._observer = Observer(
            loop, lambda text: self._say(ev.TaskReported("", "observer", text)), observe
        )

    def clean(self) -> None:
        """Remove all segments."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def path_of(self, group: fx.StageTasks, unit: str) -> Path:
        return self._folder / segment_name(unit, group.version)

    # ---- effects ----

    def stage(self, effect: fx.StageTasks) -> None:
        """The segments are there when this returns, so before their processes are started."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._groups[effect.workload, effect.version] = effect
        for task in effect.tasks:
            self._units[number_of(task.unit, effect.version)] = task.unit
            try:
                segment.create(self.path_of(effect, task.unit), plan(effect, task))
            except FileExistsError:
                pass  # a former daemon's: it goes on
            except (OSError, SegmentError) as error:
                wrong = f"the segment of {task.unit} cannot be laid down: {error}"
                self._say(ev.TaskReported(task.unit, "lost", wrong))
                self._emit(ev.TasksStaged(effect.workload, effect.version, False, wrong))
                return
        self._later(lambda: self._stage(effect))

    def bind(self, effect: fx.BindTask) -> None:
        key = effect.unit, effect.version
        self._pids[key] = effect.pid, effect.start_ticks
        self._later(lambda: self._bind(key))
        self._observer.watch(key, effect.pid, effect.start_ticks)

    def release(self, effect: fx.ReleaseTasks) -> None:
        group = self._groups.get((effect.workload, effect.version))
        if group is not None:
            self._t0s[effect.workload, effect.version] = effect.t0_ns
            self._later(lambda: self._release(group, effect.t0_ns))

    def drop(self, effect: fx.DropTasks) -> None:
        group = self._groups.pop((effect.workload, effect.version), None)
        if group is None:
            return
        self._t0s.pop((effect.workload, effect.version), None)
        for task in group.tasks:
            self._units.pop(number_of(task.unit, group.version), None)
            self._pids.pop((task.unit, group.version), None)
            self._observer.unwatch((task.unit, group.version))
            self.path_of(group, task.unit).unlink(missing_ok=True)
        self._later(lambda: self._drop(group))

    def read(self, effect: fx.ReadTasks, submit: Callable[[Callable[[], None]], None]) -> None:
        """In a worker: a LogRead has the answer."""

        def look() -> None:
            keys = [(unit, version) for unit, version, _ in effect.rows]
            observed = self._observer.read(keys, effect.records)
            rows = [
                {
                    **row,
                    **measured(self._folder / segment_name(unit, version), effect.records),
                    "observed": observed.get((unit, version)),
                }
                for unit, version, row in effect.rows
            ]
            event = ev.LogRead(effect.route, {"tasks": rows, "next": effect.next, "unreachable": []})
            self._loop.call_soon_threadsafe(self._emit, event)

        submit(look)

    def close(self) -> None:
        """End the executive; the tasks go on. The loop must not be running."""
        self._closing = True
        self._observer.close()
        self._loop.run_until_complete(self._close())

    async def _close(self) -> None:
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.wait([self._worker])
        if self._executive is not None:
            try:
                await asyncio.wait_for(self._executive.close(), CLOSE_S)
            except TimeoutError:
                log.warning("mgmt-executive does not end; it is killed")
                self._executive.process.kill()

    # ---- the executive ----

    def _later(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        if self._worker is None:
            self._worker = self._loop.create_task(self._work())
        self._queue.put_nowait(work)

    async def _work(self) -> None:
        while True:
            work = await self._queue.get()
            try:
                await work()
            except (ExecutiveError, OSError) as error:
                self._say(ev.TaskReported("", "executive", str(error)))

    async def _started(self) -> Executive:
        """The executive. One that cannot be started is tried again and again, said once."""
        while self._executive is None:
            try:
                self._executive = await Executive.start(self._on_report, self._on_ended)
                log.info("%s", self._executive.hello.text)
            except ExecutiveError as error:
                self._say(ev.TaskReported("", "executive", str(error)))
                await self._wait()
        return self._executive

    async def _wait(self) -> None:
        await asyncio.sleep(self._retry_s)
        self._retry_s = min(RETRY_MAX_S, 2 * self._retry_s)

    def _on_ended(self, text: str) -> None:
        if self._closing:
            return
        self._executive = None
        text = "mgmt-executive has ended: the tasks go on, a new one is started"
        self._say(ev.TaskReported("", "executive", text))
        self._later(self._revive)

    async def _revive(self) -> None:
        await self._wait()
        for group in list(self._groups.values()):
            await self._stage(group)
            for task in group.tasks:
                if (task.unit, group.version) in self._pids:
                    await self._bind((task.unit, group.version))
            if (group.workload, group.version) in self._t0s:  # the former one may have ended before it did
                await self._release(group, self._t0s[group.workload, group.version])

    async def _stage(self, group: fx.StageTasks) -> None:
        executive = await self._started()
        for task in group.tasks:
            if self._groups.get((group.workload, group.version)) is not group:
                return
            await self._add(executive, self.path_of(group, task.unit))
        t0_ns = await asyncio.to_thread(self._t0_ns, group)
        self._emit(ev.TasksStaged(group.workload, group.version, all(t0_ns.values())))

    async def _add(self, executive: Executive, path: Path) -> None:
        for _ in range(_TRIES_WHILE_BUSY):
            try:
                await executive.add(path)
            except ExecutiveError as error:
                if error.errno == errno.EEXIST:
                    return
                if error.errno != errno.EBUSY:
                    raise
                await asyncio.sleep(RETRY_S)
            else:
                return
        await executive.add(path)

    async def _bind(self, key: tuple[str, int]) -> None:
        if key not in self._pids:
            return
        pid, start_ticks = self._pids[key]
        executive = await self._started()
        try:
            await executive.bind(number_of(*key), pid, start_ticks)
        except ExecutiveError as error:
            if error.errno not in (errno.ESRCH, errno.ENOENT):  # it has ended again, or is no longer in force
                raise

    async def _release(self, group: fx.StageTasks, t0_ns: int) -> None:
        executive = await self._started()
        known = await asyncio.to_thread(self._t0_ns, group)
        # Some were released before the daemon was killed: the others follow on the same grid.
        t0_ns = next((t0 for t0 in known.values() if t0), t0_ns)
        await executive.release([n for n in known if not known[n]], t0_ns)

    async def _drop(self, group: fx.StageTasks) -> None:
        if self._executive is None:
            return
        for task in group.tasks:
            try:
                await self._executive.remove(number_of(task.unit, group.version))
            except ExecutiveError as error:
                if error.errno != errno.ENOENT:
                    raise

    def _t0_ns(self, group: fx.StageTasks) -> dict[int, int]:
        """The common start by number, 0 where there is none yet."""
        found: dict[int, int] = {}
        for task in group.tasks:
            number = number_of(task.unit, group.version)
            try:
                seen = segment.read(self.path_of(group, task.unit))
            except (OSError, SegmentError):
                continue
            found[number] = seen.t0_ns if seen.started else 0
        return found

    # ---- reports ----

    def _on_report(self, report: Report) -> None:
        self._retry_s = RETRY_S
        match report:
            case Miss():
                unit = self._units.get(report.task, "")
                late_ms = (report.seen_ns - report.deadline_ns) / 1e6
                what = "was not complete" if report.running else "was not even released"
                text = f"job {report.job} {what} at its deadline (seen {late_ms:.3f} ms after it)"
                self._gather(ev.TaskReported(unit, "miss", text, 1, report.job, report.misses))
            case Fault():
                unit = self._units.get(report.task, "")
                text = f"{report.misses} deadlines missed, job {report.job} the last: {report.action}"
                if report.errno:
                    text += f" failed: {os.strerror(report.errno)}"
                fault = ev.TaskReported(unit, "fault", text, 1, report.job, report.misses, report.action)
                self._gather(fault)
            case Lost():
                unit = self._units.get(report.task, "")
                self._gather(
                    ev.TaskReported(unit, "lost", "its segment was damaged: it is no longer watched")
                )
            case Dropped():
                text = f"{report.count} misses came too fast to be reported; the segments have counted them"
                self._say(ev.TaskReported("", "executive", text, report.count))
            case Gone():
                pass  # its supervisor knows

    def _gather(self, event: ev.TaskReported) -> None:
        """The first at once; while they go on, those of a growing pause together."""
        if not event.unit:
            return  # of a task that was dropped meanwhile
        key = event.unit, event.what
        pause = self._pauses.get(key)
        if pause is None:
            self._pauses[key] = _Pause()
            self._say(event)
            self._loop.call_later(PAUSE_S, self._flush, key)
            return
        count = event.count + (pause.waiting.count if pause.waiting is not None else 0)
        pause.waiting = ev.TaskReported(
            event.unit, event.what, event.reason, count, event.job, event.misses, event.action
        )

    def _flush(self, key: tuple[str, str]) -> None:
        pause = self._pauses[key]
        if pause.waiting is None:
            del self._pauses[key]
            return
        event, pause.waiting = pause.waiting, None
        self._say(event)
        pause.pause_s = min(PAUSE_MAX_S, 2 * pause.pause_s)
        self._loop.call_later(pause.pause_s, self._flush, key)

    def _say(self, event: ev.TaskReported) -> None:
        if not self._closing:
            self._emit(event)


def measured(path: Path, records: bool) -> dict[str, Any]:
    """The rest of a TaskStatistics."""
    try:
        seen = segment.read(path)
    except (OSError, SegmentError):
        none = dict.fromkeys(("t0_ns", *_COUNTERS, "jobs"), 0)
        return {"state": "unreadable", **none, **dict.fromkeys(_HISTOGRAMS), "records": []}
    return {
        "state": "released" if seen.started else "staged",
        "t0_ns": seen.t0_ns,
        "jobs": seen.completed,
        **{name: getattr(seen, name) for name in _COUNTERS},
        **{name: percentiles(getattr(seen, name)) for name in _HISTOGRAMS},
        "records": [
            {
                "job": one.job,
                "release_ns": seen.plan.release_ns(seen.t0_ns, one.job),
                "start_ns": one.start_ns,
                "end_ns": one.end_ns,
                "execution_ns": one.execution_ns,
            }
            for one in (seen.records if records else ())
        ],
    }


_COUNTERS = ("late", "misses", "skipped", "unchecked", "faults", "signals")
_HISTOGRAMS = ("jitter", "execution", "response")


def number_of(unit: str, version: int) -> int:
    """The number of a task in its segment and for the executive: the same for every daemon."""
    text = segment_name(unit, version).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


def plan(group: fx.StageTasks, task: fx.TaskPlan) -> Plan:
    return Plan(
        task=number_of(task.unit, group.version),
        name=task.unit.removeprefix(f"{group.workload}."),
        cycle_ns=task.period_us * 1000,
        deadline_ns=task.deadline_us * 1000,
        releases_ns=(task.release_us * 1000,),
        hyperperiod_ns=task.hyperperiod_us * 1000,
        overrun=Overrun[task.overrun.upper()],
        max_dmiss=task.max_dmiss,
        memory_locked=task.memory_locked,
        by_signal=task.by_signal,
    )
