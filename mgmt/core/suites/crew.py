"""The crew: what this machine does for the one suite it was given.

It provisions, keeps a background process up, runs the workers and hands them tasks, reports what became of them,
cleans up. Hooks and workers are units like any other: the supervisor starts, binds, adopts, restarts and ends them.
The daemon's own machine has a crew, and so has each agent; `Upward` is the one thing in which they differ.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from mgmt import template
from mgmt.core import effect as fx
from mgmt.core.event import Now
from mgmt.core.suites.binding import Binding, cpus_of
from mgmt.core.supervision import AT_REST, Ordering, State, Supervisor, Unit, UnitSpec
from mgmt.protocol import defaults
from mgmt.protocol.errors import MgmtError
from mgmt.settings import ModelSettings, UnitSettings
from mgmt.worker import wire
from mgmt.worker.wire import Kind

ALARM = -14  # what ends a resident worker that cannot even end itself when a function takes too long
_UP = frozenset({State.STARTING, State.RUNNING})

# A task as it came: its number, attempt, packed specification (empty: of a former life), UUID, UUID of the upstream
# task (or empty).
Claimed = tuple[int, int, bytes, str, str]
# What became of a task, first what: ["done", task, attempt, status, message, start_ns, end_ns, tail, extra, unit],
# ["died", task, attempt, cause, reason, unit], ["cancelled", task, attempt], ["returned", task, attempt].
Outcome = list[Any]


class Phase(StrEnum):
    IDLE = "idle"
    PREPARING = "preparing"
    EXECUTING = "executing"
    CLEANUP = "cleanup"


# THE table of an agent at work; the daemon adds offline, which this end cannot know.
PHASES: dict[tuple[Phase, str], Phase] = {
    (Phase.IDLE, "assigned"): Phase.PREPARING,
    (Phase.PREPARING, "prepared"): Phase.EXECUTING,
    (Phase.PREPARING, "failed"): Phase.IDLE,
    (Phase.EXECUTING, "drained"): Phase.CLEANUP,
    (Phase.EXECUTING, "aborted"): Phase.IDLE,
    (Phase.CLEANUP, "cleaned"): Phase.IDLE,
}


class Ending(StrEnum):
    """How a suite is left. FINISH: what runs may end; CANCEL: it is ended; both clean up. ABORT: at once."""

    FINISH = "finish"
    CANCEL = "cancel"
    ABORT = "abort"


class Upward(Protocol):
    """Where results go and tasks come from."""

    def exchange(
        self,
        now: Now,
        holder: int,
        number: int,
        want: int,
        outcomes: list[Outcome],
        states: list[list[int]],
        out: list[fx.Effect],
    ) -> None:
        """Tell outcomes, ask for tasks; one `Crew.on_work` follows, at once when there are outcomes.

        Repeated with the same number it has the same answer.
        """

    def phase(
        self,
        now: Now,
        holder: int,
        phase: Phase,
        reason: str,
        *,
        failed: bool,
        completed: int,
        held: list[list[int]] | None,
        out: list[fx.Effect],
    ) -> None:
        """Tell how far it is. `held`, after a restart: these tasks are here, and no others of this holder."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """A suite given to this machine; `holder` is the number of the giving, which fences what is reported."""

    holder: int
    suite: int
    uuid: str
    name: str
    group: str
    node: str
    worker: Mapping[str, Any]  # a WorkerSchedule
    hooks: Mapping[str, Any]  # a SuiteHooks

    def to_record(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}

    @property
    def count(self) -> int:
        return int(self.worker["worker_count"])

    @property
    def prefetch(self) -> int:
        return int(self.worker["task_prefetch_count"])

    def hook(self, which: str) -> Mapping[str, Any] | None:
        found: Mapping[str, Any] | None = self.hooks.get(which)
        return found


@dataclass(slots=True, eq=False)
class Slot:
    """A place for a worker. `tasks`: handed to it and not done, by number, the running one first."""

    unit: str
    connection: int = 0  # 0: there is none
    taken: int = 0  # words about ended tasks, of this connection, that are safe above
    tasks: dict[int, Claimed] = field(default_factory=dict)
    done: int = 0
    mean_s: float = 1.0  # of its tasks; the first is waited for

    def window(self, prefetch: int) -> int:
        """How many tasks it may have: more than the one it runs when they are so short that waiting would show."""
        if self.mean_s > SLOW_S:
            return 1
        return max(2, min(prefetch, int(WINDOW_S / max(self.mean_s, 1e-6))))


SLOW_S = 0.1  # tasks that take longer are handed over one by one
WINDOW_S = 0.02  # of work that a worker has before it


class Crew:
    """`declare` makes these specifications units, and only these of it; `root` has the folders of suites."""

    def __init__(
        self,
        supervisor: Supervisor,
        ordering: Ordering,
        declare: Callable[[dict[str, UnitSpec], list[fx.Effect]], None],
        upward: Upward,
        *,
        root: str,
        socket: str,
        worker: str,
        environ: Mapping[str, str],
    ) -> None:
        """`socket`: where workers connect; `worker`: path of the program that runs processes; `environ`: of tasks."""
        self.phase = Phase.IDLE
        self.assignment: Assignment | None = None
        self.slots: dict[str, Slot] = {}
        self.dirty = False  # the record is to be written
        self.paused = False
        self.completed = 0  # tasks since the suite was given
        self.stale = 0  # results that came too late to count
        self._supervisor, self._ordering, self._declare = supervisor, ordering, declare
        self._upward = upward
        self._root, self._socket, self._worker, self._environ = root, socket, worker, dict(environ)
        self._connections: dict[int, Slot] = {}
        self._buffer: deque[Claimed] = deque()
        self._cancelled: set[int] = set()  # running tasks that are being ended
        self._outcomes: list[tuple[int, Outcome]] = []  # not told yet, with the connection they came from
        self._states: list[list[int]] = []
        self._sent: list[tuple[int, Outcome]] = []  # told and not acknowledged
        self._asked = 0  # number of the exchange whose answer is waited for; 0: none
        self._wanted = 0
        self._number = 0
        self._unanswered: set[int] = set()  # exchanges, among them those that made way for one with outcomes
        self._lost = False  # an answer was: tasks may be ours that never came
        self._ending: Ending | None = None
        self._reason = ""
        self._finding = False  # after a restart: workers are coming back

    # ---- what is said from above ----

    def assign(self, now: Now, assignment: Assignment, out: list[fx.Effect]) -> None:
        """Work on this suite; MgmtError `conflict` unless it is idle. Again with the same holder: nothing."""
        if self.assignment is not None:
            if self.assignment.holder == assignment.holder:
                self._tell_phase(now, out)
                return
            text = f"this node is at work on suite {self.assignment.suite}; it takes one at a time"
            raise MgmtError("conflict", text, suite=self.assignment.suite)
        self.assignment = assignment
        self._number = int(now.real_s * 1e6)  # above those of any former life
        self.completed, self._ending, self._reason = 0, None, ""
        self._move("assigned")
        self._make_folder(out)
        self._tell_phase(now, out)

    def end(self, now: Now, holder: int, how: Ending, reason: str, out: list[fx.Effect]) -> None:
        """Leave the suite. A harder word overtakes a softer one."""
        if self.assignment is None or self.assignment.holder != holder:
            return
        if self._ending is how or self._ending is Ending.ABORT or self.phase is Phase.CLEANUP:
            return
        self._ending, self._reason = how, reason
        if self.phase is Phase.PREPARING:
            self._stop_units(now, reason, out)
        else:
            self._give_back()
            if how is not Ending.FINISH:
                for slot in self.slots.values():
                    self._cancel(slot, list(slot.tasks), out)
            out.append(fx.SetTimer(("crew", "stop"), now.mono_ns + int(defaults.CREW_STOP_S * 1e9)))
            if how is Ending.ABORT:
                self._stop_units(now, reason, out)
        self._turn(now, out)

    def cancel(self, now: Now, holder: int, tasks: Iterable[int], out: list[fx.Effect]) -> None:
        """End these tasks, running or not."""
        if self.assignment is None or self.assignment.holder != holder:
            return
        wanted = set(tasks)
        kept: deque[Claimed] = deque()
        for task in self._buffer:
            if task[0] in wanted:
                self._outcomes.append((0, ["cancelled", task[0], task[1]]))
            else:
                kept.append(task)
        self._buffer = kept
        for slot in self.slots.values():
            self._cancel(slot, [task for task in slot.tasks if task in wanted], out)
        self._turn(now, out)

    def pause(self, now: Now, paused: bool, out: list[fx.Effect]) -> None:
        self.paused = paused
        for slot in self.slots.values():
            if slot.connection:
                out.append(fx.ToWorker(slot.connection, ([Kind.PAUSE if paused else Kind.RESUME],)))
        self._turn(now, out)

    # ---- hooks and units ----

    def on_folder(self, now: Now, holder: int, error: str, out: list[fx.Effect]) -> None:
        """The folder of the suite is there, with the resources of its hooks, or cannot be."""
        if self.assignment is None or self.assignment.holder != holder or self.phase is not Phase.PREPARING:
            return
        if self._ending is not None or error:
            self._ending, self._reason = self._ending or Ending.ABORT, self._reason or error
            self._fail(now, out)
            return
        self._redeclare(out)
        if "provision" in self._hooks():
            self._begin_hook(now, "provision", defaults.PROVISION_S, defaults.MAX_PROVISION_S, out)
        else:
            self._execute(now, out)

    def on_unit_change(self, now: Now, unit: Unit, was: State, out: list[fx.Effect]) -> None:
        """A unit changed its state: a worker may be dead, the background process down."""
        name = unit.spec.name
        if (
            self.assignment is None
            or not name.startswith(self._prefix())
            or self.phase is not Phase.EXECUTING
        ):
            return
        if name in self.slots and unit.state not in _UP:
            self._on_down(now, self.slots[name], unit)
        elif name == self._prefix() + "background" and self._ending is None:
            policy = (self.assignment.hook("background") or {})["policy"]
            if unit.state is State.FATAL or (policy == "fail" and was in _UP and unit.state not in _UP):
                self.end(now, self.assignment.holder, Ending.CANCEL, f"background: {unit.reason}", out)
        self._turn(now, out)

    def look(self, now: Now, out: list[fx.Effect]) -> None:
        """Some unit changed in any way: what waits for an end, or for nothing to be left, goes on."""
        if self.assignment is None:
            return
        if self.phase is Phase.EXECUTING:
            self._turn(now, out)
            return
        unit = self._supervisor.units.get(self._prefix() + HOOK_OF[self.phase])
        ended = unit is not None and _has_ended(unit) and not unit.has_process
        if self.phase is Phase.PREPARING and self._ending is not None:
            if unit is None or ended:
                self._fail(now, out)
        elif unit is None or not ended or not unit.incarnation:
            return
        elif self.phase is Phase.CLEANUP:
            if not unit.is_completed:
                self._reason = self._reason or f"cleanup: {unit.reason}"
                out.append(fx.Note("WARNING", f"suite {self.assignment.suite}: {self._reason}", {}))
            self._finish(now, out)
        elif unit.is_completed:
            out.append(fx.CancelTimer(("crew", "hook")))
            self._execute(now, out)
        else:
            self._reason = self._reason or f"provision: {unit.reason}"
            self._fail(now, out)

    def on_timer(self, now: Now, what: str, out: list[fx.Effect]) -> None:
        if what == "answer" and self._asked:
            self._tell(now, out)
        elif what == "hook" and self.phase in (Phase.PREPARING, Phase.CLEANUP):
            which = HOOK_OF[self.phase]
            unit = self._supervisor.units.get(self._prefix() + which)
            if unit is not None and unit.state not in AT_REST:
                self._reason = f"{which}: not finished in time"
                self._ordering.stop(now, [unit], out, self._reason)
        elif what == "find" and self._finding:
            self._found(now, out)
        elif what == "stop" and self._ending is not None and self.phase is Phase.EXECUTING:
            self._stop_units(now, self._reason, out)
        self._turn(now, out)

    def _execute(self, now: Now, out: list[fx.Effect]) -> None:
        assert self.assignment is not None
        self._move("prepared")
        self.slots = {name: Slot(name) for name in self._worker_names()}
        units = self._supervisor.units
        names = [*self.slots]
        if "background" in self._hooks():
            names.append(self._prefix() + "background")
        try:
            self._ordering.start(now, [units[name] for name in names], out)
        except MgmtError as error:  # no place for its workers
            self._ending, self._reason = Ending.ABORT, error.text
            self._stop_units(now, error.text, out)
        self._tell_phase(now, out, held=[])  # a former life of this machine may have claimed some
        self._turn(now, out)

    def _begin_hook(self, now: Now, which: str, usual_s: float, most_s: float, out: list[fx.Effect]) -> None:
        hook = self._hooks()[which]
        timeout_s = min(hook["timeout_s"] or usual_s, most_s)
        out.append(fx.SetTimer(("crew", "hook"), now.mono_ns + int(timeout_s * 1e9)))
        self._ordering.start(now, [self._supervisor.units[self._prefix() + which]], out)

    def _stop_units(self, now: Now, reason: str, out: list[fx.Effect]) -> None:
        prefix = self._prefix()
        units = [unit for name, unit in self._supervisor.units.items() if name.startswith(prefix)]
        self._ordering.stop(now, [unit for unit in units if unit.wanted], out, reason or "the suite is left")

    def _is_empty(self) -> bool:
        prefix = self._prefix()
        return all(
            unit.state in AT_REST and not unit.has_process
            for name, unit in self._supervisor.units.items()
            if name.startswith(prefix)
        )

    # ---- workers ----

    def on_worker(
        self, now: Now, connection: int, unit: str, held: list[list[int]], out: list[fx.Effect]
    ) -> bool:
        """A worker of this crew said hello, proven by its token; False when nobody expects it."""
        slot = self.slots.get(unit)
        if slot is None or self.assignment is None:
            return False
        if slot.connection:
            self._connections.pop(slot.connection, None)
            out.append(fx.CloseWorker(slot.connection))
        slot.connection, slot.taken = connection, 0
        self._connections[connection] = slot
        known, slot.tasks = slot.tasks, {}
        for task, attempt in held:
            former = known.pop(task, None)
            slot.tasks[task] = (
                former if former is not None and former[1] == attempt else (task, attempt, b"", "", "")
            )
        self._buffer.extendleft(
            reversed(known.values())
        )  # sent on a connection that broke before they arrived
        settings = {
            "folder": f"{self._folder()}/{unit.removeprefix(self._prefix())}",
            "grace_s": defaults.TASK_CANCEL_GRACE_S,
            "output_limit_bytes": defaults.TASK_OUTPUT_BYTES,
            "env": self._environ,
        }
        welcome: list[Any] = [[Kind.WELCOME, settings]]
        if self.paused:
            welcome.append([Kind.PAUSE])
        out.append(fx.ToWorker(connection, tuple(welcome)))
        if self._ending in (Ending.CANCEL, Ending.ABORT):
            self._cancel(slot, list(slot.tasks), out)
        if self._finding and all(
            slot.connection or not self._is_coming(slot) for slot in self.slots.values()
        ):
            self._found(now, out)
        self._turn(now, out)
        return True

    def on_said(self, now: Now, connection: int, messages: list[list[Any]], out: list[fx.Effect]) -> None:
        """Words of a worker, in order."""
        slot = self._connections.get(connection)
        if slot is None:
            return
        for message in messages:
            if message[0] == Kind.DONE:
                # In the order of the worker, and all of them: it is told how many are safe.
                message[0] = "done"
                message.append(slot.unit)
                self._outcomes.append((connection, message))
                task = slot.tasks.get(message[1])
                if task is None or task[1] != message[2]:
                    continue  # told again
                del slot.tasks[message[1]]
                slot.done += 1
                self.completed += 1
                self._cancelled.discard(message[1])
                spent_s = max(0, message[6] - message[5]) / 1e9
                slot.mean_s = spent_s if slot.done == 1 else slot.mean_s + (spent_s - slot.mean_s) / 4
            elif message[0] == Kind.STATE:
                self._states.append([message[1], message[2], message[3]])
        self._turn(now, out)

    def on_worker_gone(self, now: Now, connection: int, out: list[fx.Effect]) -> None:
        """A worker's connection is closed: it died, or connects anew."""
        slot = self._connections.pop(connection, None)
        if slot is None:
            return
        slot.connection = 0
        unit = self._supervisor.units.get(slot.unit)
        if unit is None or unit.state not in _UP:
            self._on_down(now, slot, unit)
        self._turn(now, out)

    def _on_down(self, now: Now, slot: Slot, unit: Unit | None) -> None:
        """A worker is dead and all its words are heard: the task it ran was its end, the others go to others."""
        if slot.connection or not slot.tasks:
            return
        tasks, slot.tasks, slot.mean_s = list(slot.tasks.values()), {}, 1.0
        exit = unit.last_exit if unit is not None else None
        code, signal = (exit.code, exit.signal) if exit is not None else (None, None)
        running = tasks[0]
        cause = -signal if signal is not None else code
        if cause == wire.EXIT_TIMED_OUT:
            pass  # it has told of the task that took too long; this one had not begun
        elif running[0] in self._cancelled or self._ending in (Ending.CANCEL, Ending.ABORT):
            self._outcomes.append((0, ["cancelled", *running[:2]]))
            del tasks[0]
        elif cause == ALARM:
            done = [
                "done",
                *running[:2],
                ALARM,
                wire.EXEC_TIMEOUT,
                0,
                int(now.real_s * 1e9),
                b"",
                {},
                slot.unit,
            ]
            self._outcomes.append((0, done))
            del tasks[0]
        else:
            reason = exit.reason if exit is not None else "its worker vanished"
            self._outcomes.append((0, ["died", *running[:2], cause, reason, slot.unit]))
            del tasks[0]
        self._cancelled.discard(running[0])
        for task in reversed(tasks):
            if task[0] in self._cancelled:
                self._cancelled.discard(task[0])
                self._outcomes.append((0, ["cancelled", *task[:2]]))
            elif task[2]:
                self._buffer.appendleft(task)
            else:
                self._outcomes.append((0, ["returned", *task[:2]]))
        if self._ending is not None:
            self._give_back()

    def _cancel(self, slot: Slot, tasks: list[int], out: list[fx.Effect]) -> None:
        words = [
            [Kind.CANCEL, task, slot.tasks[task][1], defaults.TASK_CANCEL_GRACE_S]
            for task in tasks
            if task not in self._cancelled
        ]
        self._cancelled.update(tasks)
        if words and slot.connection:
            out.append(fx.ToWorker(slot.connection, tuple(words)))

    def _feed(self, out: list[fx.Effect]) -> None:
        """Hand tasks to the workers that have room, the emptiest first."""
        if self.paused or self._ending is not None or not self._buffer:
            return
        assert self.assignment is not None
        prefetch = self.assignment.prefetch
        room = [slot for slot in self.slots.values() if slot.connection]
        words: dict[int, list[list[Any]]] = {}
        while self._buffer and room:
            slot = min(room, key=lambda one: len(one.tasks))
            if len(slot.tasks) >= slot.window(prefetch):
                room.remove(slot)
                continue
            task = self._buffer.popleft()
            slot.tasks[task[0]] = task
            words.setdefault(slot.connection, []).append([Kind.RUN, *task])
        out.extend(fx.ToWorker(connection, tuple(said)) for connection, said in words.items())

    # ---- tasks and results ----

    def on_work(
        self,
        now: Now,
        holder: int,
        number: int,
        tasks: list[Claimed],
        cancelling: list[list[int]],
        stale: int,
        out: list[fx.Effect],
    ) -> None:
        """An exchange was answered: its outcomes are committed. Its tasks are taken however late it comes."""
        if self.assignment is None or self.assignment.holder != holder or number not in self._unanswered:
            return
        self._unanswered.discard(number)
        # Answers come in the order of the questions, so one that is missing now will not come.
        missed = {other for other in self._unanswered if other < number}
        self._unanswered -= missed
        self._lost = self._lost or bool(missed)
        if number == self._asked:
            self._asked = 0
            self.stale += stale
            out.append(fx.CancelTimer(("crew", "answer")))
            self._take(out)
        self._buffer.extend(tasks)
        if self._ending is not None:
            self._give_back()
        if cancelling:
            self.cancel(now, holder, [task for task, _ in cancelling], out)
        else:
            self._turn(now, out)

    def _take(self, out: list[fx.Effect]) -> None:
        """What was sent is safe above: the workers may forget it."""
        taken: set[Slot] = set()
        for connection, _ in self._sent:
            slot = self._connections.get(connection)
            if slot is not None:
                slot.taken += 1
                taken.add(slot)
        self._sent = []
        out.extend(fx.ToWorker(slot.connection, ([Kind.TAKEN, slot.taken],)) for slot in taken)

    def on_link(self, now: Now, out: list[fx.Effect]) -> None:
        """Whoever is above can be talked to again: what was not answered is said again."""
        if self.assignment is None:
            self._upward.phase(now, 0, Phase.IDLE, "", failed=False, completed=0, held=None, out=out)
        else:
            self._tell_phase(now, out)
            if self._asked:
                self._tell(now, out)
            self._turn(now, out)

    def _turn(self, now: Now, out: list[fx.Effect]) -> None:
        """Whatever there is to do after anything happened."""
        if self.assignment is None or self.phase is not Phase.EXECUTING or self._finding:
            return
        self._feed(out)
        has = len(self._buffer) + sum(len(slot.tasks) for slot in self.slots.values())
        limit = self.assignment.count * self.assignment.prefetch
        want = 0 if self._ending is not None or self.paused else max(0, limit - has)
        talks = bool(self._outcomes or self._states)
        if self._lost and not self._asked:  # nothing is on its way that this would not count
            self._lost = False
            self._tell_phase(now, out, held=self._held())
        # One exchange with outcomes at a time, so that batches grow with the load; one that only asks makes way.
        if (talks and not self._sent) or (not self._asked and want * 2 >= limit > 0 and want):
            self._sent, self._outcomes = self._outcomes, []
            self._number += 1
            self._asked, self._wanted = self._number, want
            self._unanswered.add(self._number)
            self._tell(now, out)
        if self._ending is not None and not self._outcomes and not self._sent and not has:
            self._leave(now, out)

    def _tell(self, now: Now, out: list[fx.Effect]) -> None:
        assert self.assignment is not None
        states, self._states = self._states, []
        out.append(fx.SetTimer(("crew", "answer"), now.mono_ns + int(defaults.CREW_ANSWER_S * 1e9)))
        outcomes = [outcome for _, outcome in self._sent]
        self._upward.exchange(now, self.assignment.holder, self._asked, self._wanted, outcomes, states, out)

    def _held(self) -> list[list[int]]:
        """All tasks of this holder that are here, or whose end was not acknowledged."""
        held = {task[0]: task[1] for task in self._buffer}
        for slot in self.slots.values():
            held.update((number, task[1]) for number, task in slot.tasks.items())
        held.update((outcome[1], outcome[2]) for _, outcome in (*self._sent, *self._outcomes))
        return [[task, attempt] for task, attempt in held.items()]

    def _give_back(self) -> None:
        self._outcomes += [(0, ["returned", *task[:2]]) for task in self._buffer]
        self._buffer.clear()

    # ---- the end ----

    def _leave(self, now: Now, out: list[fx.Effect]) -> None:
        """Nothing of the suite's tasks is here any more: the workers go, then it is cleaned up."""
        if not self._is_empty():
            self._stop_units(now, self._reason, out)
            return
        out.append(fx.CancelTimer(("crew", "stop")))
        self.slots.clear()
        if self._ending is Ending.ABORT:
            self._move("aborted")
            self._forget(now, out, failed=True)
            return
        self._move("drained")
        self._tell_phase(now, out)
        if "cleanup" in self._hooks():
            self._begin_hook(now, "cleanup", defaults.CLEANUP_S, defaults.MAX_CLEANUP_S, out)
        else:
            self._finish(now, out)

    def _finish(self, now: Now, out: list[fx.Effect]) -> None:
        if not self._is_empty():
            return  # the cleanup is at rest, what it started is not gone
        self._move("cleaned")
        self._forget(now, out, failed=False)

    def _fail(self, now: Now, out: list[fx.Effect]) -> None:
        """It could not be prepared, or was not wanted any more before it was."""
        if not self._is_empty():
            self._stop_units(now, self._reason, out)
            return
        self._move("failed")
        self._forget(now, out, failed=True)

    def _forget(self, now: Now, out: list[fx.Effect], *, failed: bool) -> None:
        assert self.assignment is not None
        out.append(fx.CancelTimer(("crew", "hook")))
        if self._asked:
            out.append(fx.CancelTimer(("crew", "answer")))
        out.append(fx.RemoveSuiteFolder(self._folder()))
        holder, completed, reason = self.assignment.holder, self.completed, self._reason
        self.assignment, self._asked, self._sent, self._outcomes = None, 0, [], []
        self._unanswered.clear()
        self._lost = False
        self._states.clear()
        self._buffer.clear()
        self._cancelled.clear()
        self.slots.clear()
        for connection in self._connections:
            out.append(fx.CloseWorker(connection))
        self._connections.clear()
        self._declare({}, out)
        self._upward.phase(
            now, holder, Phase.IDLE, reason, failed=failed, completed=completed, held=None, out=out
        )

    # ---- a former life ----

    def record(self) -> dict[str, Any] | None:
        """What the next daemon must know."""
        if self.assignment is None:
            return None
        return {"assignment": self.assignment.to_record(), "phase": str(self.phase)}

    def restore(self, now: Now, record: Mapping[str, Any], out: list[fx.Effect]) -> None:
        """Before the supervisor looks for what it had: the units are declared, the workers will come back."""
        self.assignment = Assignment(**record["assignment"])
        self.phase = Phase(record["phase"])
        self._number = int(now.real_s * 1e6)
        self._redeclare(out)
        if self.phase is Phase.EXECUTING:
            self.slots = {name: Slot(name) for name in self._worker_names()}
            self._finding = True
            out.append(fx.SetTimer(("crew", "find"), now.mono_ns + int(defaults.CREW_FIND_S * 1e9)))

    def resume(self, now: Now, out: list[fx.Effect]) -> None:
        """After the supervisor has looked: what no process is left of goes on from where it was."""
        if self.assignment is None:
            return
        if self.phase is Phase.PREPARING:
            unit = self._supervisor.units.get(self._prefix() + "provision")
            if unit is None or not unit.incarnation:
                self._make_folder(out)
        elif self.phase is Phase.EXECUTING and not any(self._is_coming(slot) for slot in self.slots.values()):
            self._found(now, out)
        self.look(now, out)

    def _make_folder(self, out: list[fx.Effect]) -> None:
        assert self.assignment is not None
        hooks = self._hooks()
        resources = [
            one for which in ("provision", "background") for one in hooks.get(which, {}).get("resources", ())
        ]
        pairs = tuple(_pair(one) for one in resources)
        out.append(fx.MakeSuiteFolder(self.assignment.holder, self._folder(), pairs))

    def _is_coming(self, slot: Slot) -> bool:
        unit = self._supervisor.units.get(slot.unit)
        return unit is not None and unit.state in _UP

    def _found(self, now: Now, out: list[fx.Effect]) -> None:
        """All workers that live have said what they have; the rest of what this holder claimed is lost here."""
        self._finding = False
        out.append(fx.CancelTimer(("crew", "find")))
        self._tell_phase(now, out, held=self._held())
        idle = [self._supervisor.units[name] for name in self.slots]
        down = [unit for unit in idle if unit.state in AT_REST and not unit.wanted]
        if down and self._ending is None:
            self._ordering.start(now, down, out)
        self._turn(now, out)

    # ---- names and units ----

    def _move(self, trigger: str) -> None:
        self.phase = PHASES[self.phase, trigger]
        self.dirty = True

    def _tell_phase(self, now: Now, out: list[fx.Effect], held: list[list[int]] | None = None) -> None:
        assert self.assignment is not None
        self._upward.phase(
            now,
            self.assignment.holder,
            self.phase,
            self._reason,
            failed=False,
            completed=self.completed,
            held=held,
            out=out,
        )

    def _prefix(self) -> str:
        return f"suite-{self.assignment.suite}." if self.assignment is not None else "\0"

    def _folder(self) -> str:
        assert self.assignment is not None
        return f"{self._root}/{self.assignment.uuid}"

    def _worker_names(self) -> list[str]:
        assert self.assignment is not None
        return [f"{self._prefix()}w{index}" for index in range(self.assignment.count)]

    def _hooks(self) -> dict[str, Mapping[str, Any]]:
        assert self.assignment is not None
        return {which: hook for which, hook in self.assignment.hooks.items() if hook is not None}

    def _redeclare(self, out: list[fx.Effect]) -> None:
        """The units of the suite: its hooks, and one for each worker."""
        assert self.assignment is not None
        specs: dict[str, UnitSpec] = {}
        context = {
            "MITOSIS_TASK_SUITE_UUID": self.assignment.uuid,
            "MITOSIS_TASK_SUITE_NAME": self.assignment.name,
            "MITOSIS_GROUP_NAME": self.assignment.group,
            "MITOSIS_WORKER_COUNT": str(self.assignment.count),
            "MITOSIS_NODE_MANAGER_ID": self.assignment.node,
        }
        for which, hook in self._hooks().items():
            settings: dict[str, Any] = {
                "command": tuple(template.escape(one) for one in hook["args"]),
                "env": {name: template.escape(value) for name, value in (context | hook["envs"]).items()},
                "cwd": self._folder(),
                "restart": {"policy": "no"},
            }
            if which == "background":
                if hook["policy"] == "restart":
                    settings["restart"] = {"policy": "always"}
            else:
                settings["oneshot"] = True
            self._add(specs, which, settings)
        binding = self.assignment.worker["cpu_binding"]
        for index in range(self.assignment.count):
            resident = self.assignment.worker["kind"] == "resident"
            settings = {
                "command": ("{python}", "-m", "mgmt.worker.resident")
                if resident
                else (template.escape(self._worker),),
                "env": {"MGMT_WORKER_SOCKET": template.escape(self._socket)},
                "restart": {
                    "policy": "always",
                    "delay_s": RESPAWN_S,
                    "delay_max_s": RESPAWN_MAX_S,
                    "limit": 1 << 20,  # a pool never shrinks
                },
                "grace_s": defaults.TASK_CANCEL_GRACE_S,
            }
            if binding is not None:
                cpus = cpus_of(
                    Binding(tuple(binding["cores"]), binding["strategy"]), index, self.assignment.count
                )
                settings["cpus"] = ",".join(map(str, cpus))
            self._add(specs, f"w{index}", settings)
        self._declare(specs, out)

    def _add(self, specs: dict[str, UnitSpec], which: str, settings: dict[str, Any]) -> None:
        name = self._prefix() + which
        specs[name] = UnitSpec(
            name, ModelSettings(name=name, type="unit"), UnitSettings.model_validate(settings)
        )


RESPAWN_S, RESPAWN_MAX_S = 0.01, 5.0


HOOK_OF = {Phase.PREPARING: "provision", Phase.CLEANUP: "cleanup"}


def _has_ended(unit: Unit) -> bool:
    """Whether a hook is done, well or not, and will not be started again."""
    stopped = unit.state is State.STOPPED and not unit.wanted
    return unit.is_completed or stopped or unit.state in (State.EXITED, State.FATAL)


def _pair(resource: Mapping[str, Any]) -> tuple[str, str]:
    return str(resource["blob"]), str(resource["path"])
