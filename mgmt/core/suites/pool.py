"""The pool: the workers of a crew, the tasks in their hands, and what became of those that ended.

Tasks come and outcomes go in exchanges with whoever is above, one with outcomes at a time, so that batches grow
with the load. Outcomes are kept here, and by the workers that told them, until they are committed above; or, with
an outbox, in the store of this machine, and the workers may forget them as soon as they are written there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple, Protocol

from mgmt.core import effect as fx
from mgmt.core.event import InputsFetched, Now, OutputsKept
from mgmt.core.suites.files import RESOURCES, Claimed, Files, Outcome
from mgmt.core.suites.metrics import Metrics
from mgmt.core.suites.outbox import Outbox
from mgmt.core.supervision import Exit
from mgmt.protocol import defaults
from mgmt.worker import wire
from mgmt.worker.wire import Kind

ALARM = -14  # what ends a resident worker that cannot even end itself when a function takes too long


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


class Progress(NamedTuple):
    """How far a crew is with what it was given; the fields of a CrewPhase.

    `failed`: it gave it up; `crowded`: because others have its CPUs, and it will say when they are free.
    `held`, after a restart: these [task, attempt] are here, and no others of this holder.
    """

    holder: int
    phase: Phase
    reason: str = ""
    failed: bool = False
    completed: int = 0
    held: list[list[int]] | None = None
    crowded: bool = False


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

    def progress(self, now: Now, progress: Progress, out: list[fx.Effect]) -> None:
        """Tell how far the crew is."""


@dataclass(slots=True, eq=False)
class Slot:
    """A place for a worker. `tasks`: handed to it and not done, by number, the running one first."""

    unit: str
    folder: str  # its worker's own
    connection: int = 0  # 0: there is none
    incarnation: int = 0  # of the worker that has the tasks
    taken: int = 0  # words about ended tasks, of this connection, that are safe above
    tasks: dict[int, Claimed] = field(default_factory=dict)
    done: int = 0
    mean_s: float = 0.0  # of its tasks
    window: int = 1  # tasks it may have: more than it runs when they are so short that waiting would show
    credits: int = 2  # ... with those that wait here for it

    def learn(self, spent_s: float, prefetch: int) -> int:
        """It took so long for a task; how many credits more it has now."""
        self.mean_s = spent_s if self.done == 1 else self.mean_s + (spent_s - self.mean_s) / 4
        self.window = (
            max(2, min(prefetch, int(WINDOW_S / max(self.mean_s, 1e-6)))) if self.mean_s < SLOW_S else 1
        )
        former, self.credits = self.credits, max(min(2 * self.window, 2 * prefetch), 2)
        return self.credits - former


SLOW_S = 0.1  # tasks that take longer are handed over one by one
WINDOW_S = 0.02  # of work that a worker has before it


class Pool:
    """The slots of one holder. `leaving`: no new tasks; `hard`: those that are here are being ended, too."""

    def __init__(self, upward: Upward, outbox: Outbox | None = None) -> None:
        self.slots: dict[str, Slot] = {}
        self.holder = 0
        self.paused = False
        self.leaving = self.hard = False
        self.lost = False  # an answer was: tasks may be ours that never came
        self.completed = 0  # tasks since it was opened
        self.stale = 0  # outcomes that came too late to count
        self.metrics = Metrics()
        self._upward, self._outbox = upward, outbox
        self._limit = self._prefetch = 0
        self._connections: dict[int, Slot] = {}
        self._buffer: deque[Claimed] = deque()
        self._cancelled: set[int] = set()  # running tasks that are being ended
        self._recalled: set[int] = set()  # ... because this node leaves: others get them
        self._outcomes: list[tuple[int, Outcome]] = []  # not told yet, with the connection they came from
        self._states: list[list[int]] = []
        self._sent: list[tuple[int, Outcome]] = []  # told and not acknowledged
        self._asked = 0  # number of the exchange whose answer is waited for; 0: none
        self._wanted = 0
        self._number = 0
        self.files = Files(0, "")
        self._unanswered: set[int] = set()  # exchanges, among them those that made way for one with outcomes

    def open(self, holder: int, units: Iterable[str], prefetch: int, life: int, folder: str) -> None:
        """Places for these workers, which are to come; each has a folder in `folder`.

        `life` is more than in any former life of the holder.
        """
        self.slots = {unit: Slot(unit, f"{folder}/{unit.rpartition('.')[2]}") for unit in units}
        self.files = Files(holder, f"{folder}/inputs")
        self.holder, self._prefetch = holder, prefetch
        self._limit = sum(slot.credits for slot in self.slots.values())
        self._number = life << 40
        self.leaving = self.hard = self.lost = False
        self.completed = 0

    def restore(self, records: dict[str, Any]) -> None:
        """What a former life had to tell and did not, or nobody acknowledged."""
        if self._outbox is not None:
            self._outcomes += [(0, outcome) for outcome in self._outbox.restore(self.holder, records)]

    def close(self, out: list[fx.Effect]) -> None:
        """Forget everything; there is no process any more."""
        if self._asked:
            out.append(fx.CancelTimer(("crew", "answer")))
        out.extend(fx.CloseWorker(connection) for connection in self._connections)
        for kept in (
            self.slots,
            self._connections,
            self._buffer,
            self._cancelled,
            self._recalled,
            self._unanswered,
            self._states,
        ):
            kept.clear()
        self._sent, self._outcomes = [], []
        self.files = Files(0, "")
        self.holder = self._asked = 0
        if self._outbox is not None:
            self._outbox.clear()

    @property
    def is_empty(self) -> bool:
        """No task is here, and no outcome that is not committed."""
        return self.files.is_empty and not (
            self._buffer or self._outcomes or self._sent or any(slot.tasks for slot in self.slots.values())
        )

    # ---- workers ----

    def join(
        self,
        slot: Slot,
        connection: int,
        incarnation: int,
        held: list[list[int]],
        welcome: dict[str, Any],
        out: list[fx.Effect],
    ) -> None:
        """A worker connected; `held` is what it has."""
        if slot.connection:
            self._connections.pop(slot.connection, None)
            out.append(fx.CloseWorker(slot.connection))
        slot.connection, slot.incarnation, slot.taken = connection, incarnation, 0
        self._connections[connection] = slot
        known, slot.tasks = slot.tasks, {}
        for task, attempt in held:
            former = known.pop(task, None)
            same = former is not None and former[1] == attempt
            slot.tasks[task] = former if same and former is not None else (task, attempt, b"", "", "")
        # Sent on a connection that broke before they arrived.
        self._buffer.extendleft(reversed(known.values()))
        said: list[list[Any]] = [[Kind.WELCOME, welcome]]
        if self.paused:
            said.append([Kind.PAUSE])
        out.append(fx.ToWorker(connection, tuple(said)))
        if self.hard:
            self._recall(slot, out)

    def hear(self, connection: int, messages: list[list[Any]], out: list[fx.Effect]) -> None:
        """Words of a worker, in order."""
        slot = self._connections.get(connection)
        if slot is None:
            return
        told: list[tuple[int, Outcome]] = []
        for message in messages:
            if message[0] == Kind.DONE:
                # In the order of the worker, and all of them: it is told how many are safe.
                if message[4] == wire.USER_CANCELLATION and message[1] in self._recalled:
                    word = ["returned", message[1], message[2]]
                else:
                    message[0] = "done"
                    message.append(slot.unit)
                    word = message
                if not self.files.holds_back(connection, word, out):
                    told.append((connection, word))
                task = slot.tasks.get(message[1])
                if task is None or task[1] != message[2]:
                    continue  # told again
                del slot.tasks[message[1]]
                slot.done += 1
                self.completed += 1
                self._cancelled.discard(message[1])
                self._recalled.discard(message[1])
                self._limit += slot.learn(max(0, message[6] - message[5]) / 1e9, self._prefetch)
            elif message[0] == Kind.STATE:
                self._states.append([message[1], message[2], message[3]])
        self._may_tell(told, out)

    def _may_tell(self, told: list[tuple[int, Outcome]], out: list[fx.Effect]) -> None:
        """Outcomes, with their connections. With an outbox they are safe when the write of this step is done."""
        if self._outbox is None or not told:
            self._outcomes += told
            return
        self._outbox.put(self.holder, [outcome for _, outcome in told])
        self._outcomes += [(0, outcome) for _, outcome in told]
        self._count_taken(told, out)

    def part(self, connection: int) -> Slot | None:
        """A worker's connection is closed: it died, or connects anew."""
        slot = self._connections.pop(connection, None)
        if slot is not None:
            slot.connection = 0
        return slot

    def bury(self, now: Now, slot: Slot, exit: Exit | None, told: bool = False) -> None:
        """A worker is dead and all its words are heard: the task it ran was its end, the others go to others.

        `told`: it was ended on purpose, which is no fault of the task.
        """
        if slot.connection or not slot.tasks:
            return
        tasks, slot.tasks = list(slot.tasks.values()), {}
        code, signal = (exit.code, exit.signal) if exit is not None else (None, None)
        running = tasks[0]
        cause = -signal if signal is not None else code
        if cause == wire.EXIT_TIMED_OUT:
            pass  # it has told of the task that took too long; this one had not begun
        elif running[0] in self._cancelled:
            self._outcomes.append((0, ["cancelled", *running[:2]]))
            del tasks[0]
        elif told or self.hard:
            self._outcomes.append((0, ["returned", *running[:2]]))
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
        if not tasks or tasks[0] is not running:
            self.files.forget(running)
        self._cancelled.discard(running[0])
        self._recalled.difference_update(task[0] for task in (running, *tasks))
        for task in reversed(tasks):
            if task[0] in self._cancelled:
                self._cancelled.discard(task[0])
                self.files.forget(task)
                self._outcomes.append((0, ["cancelled", *task[:2]]))
            elif task[2]:
                self._buffer.appendleft(task)
            else:
                self._outcomes.append((0, ["returned", *task[:2]]))
        if self.leaving:
            self._give_back()

    def cancel(self, tasks: Iterable[int], out: list[fx.Effect]) -> None:
        """End these tasks, running or not."""
        wanted = set(tasks)
        kept: deque[Claimed] = deque()
        for task in self.files.coming(wanted):
            self.files.forget(task)
            self._outcomes.append((0, ["cancelled", *task[:2]]))
        for task in self._buffer:
            if task[0] in wanted:
                self.files.forget(task)
                self._outcomes.append((0, ["cancelled", *task[:2]]))
            else:
                kept.append(task)
        self._buffer = kept
        for slot in self.slots.values():
            self._cancel(slot, [task for task in slot.tasks if task in wanted], out)

    def leave(self, hard: bool, out: list[fx.Effect]) -> None:
        """Take nothing new; what no worker has goes back, and what runs is ended if `hard`."""
        self.leaving = True
        self._give_back()
        if hard and not self.hard:
            self.hard = True
            for slot in self.slots.values():
                self._recall(slot, out)

    def pause(self, paused: bool, out: list[fx.Effect]) -> None:
        """What no worker has yet is for others meanwhile."""
        self.paused = paused
        if paused:
            self._give_back()
        out.extend(
            fx.ToWorker(number, ([Kind.PAUSE if paused else Kind.RESUME],)) for number in self._connections
        )

    def _recall(self, slot: Slot, out: list[fx.Effect]) -> None:
        """What it has is ended here, to be done elsewhere."""
        tasks = [task for task in slot.tasks if task not in self._cancelled]
        self._recalled.update(tasks)
        self._end(slot, tasks, out)

    def _cancel(self, slot: Slot, tasks: list[int], out: list[fx.Effect]) -> None:
        fresh = [task for task in tasks if task not in self._cancelled]
        self._cancelled.update(fresh)
        self._end(slot, [task for task in fresh if task not in self._recalled], out)
        self._recalled.difference_update(fresh)

    def _end(self, slot: Slot, tasks: list[int], out: list[fx.Effect]) -> None:
        words = [[Kind.CANCEL, task, slot.tasks[task][1], defaults.TASK_CANCEL_GRACE_S] for task in tasks]
        if words and slot.connection:
            out.append(fx.ToWorker(slot.connection, tuple(words)))

    def _feed(self, out: list[fx.Effect]) -> None:
        """Hand tasks to the workers that have room, the emptiest first."""
        if self.paused or self.leaving or not self._buffer:
            return
        room = [slot for slot in self.slots.values() if slot.connection]
        words: dict[int, list[list[Any]]] = {}
        while self._buffer and room:
            slot = min(room, key=lambda one: len(one.tasks))
            if len(slot.tasks) >= slot.window:
                room.remove(slot)
                continue
            task = self._buffer.popleft()
            self.metrics.fed(idle=not slot.tasks)
            slot.tasks[task[0]] = task
            self.files.hand_over(task, slot.folder, out)
            words.setdefault(slot.connection, []).append([Kind.RUN, *task])
        out.extend(fx.ToWorker(connection, tuple(said)) for connection, said in words.items())

    # ---- tasks and outcomes ----

    def on_work(
        self,
        holder: int,
        number: int,
        tasks: list[Claimed],
        cancelling: list[list[int]],
        stale: int,
        out: list[fx.Effect],
    ) -> None:
        """An exchange was answered: its outcomes are committed. Its tasks are taken however late it comes."""
        if holder != self.holder or number not in self._unanswered:
            return
        self._unanswered.discard(number)
        # Answers come in the order of the questions, so one that is missing now will not come.
        missed = {other for other in self._unanswered if other < number}
        self._unanswered -= missed
        self.lost = self.lost or bool(missed)
        if number == self._asked:
            self._asked = 0
            self.stale += stale
            out.append(fx.CancelTimer(("crew", "answer")))
            self._take(out)
        plain = [task for task in tasks if RESOURCES not in task[2]]
        self._buffer.extend(plain)
        if len(plain) != len(tasks):
            self._fetch([task for task in tasks if RESOURCES in task[2]], out)
        if self.leaving or self.paused:
            self._give_back()
        if cancelling:
            self.cancel([task for task, _ in cancelling], out)

    def _take(self, out: list[fx.Effect]) -> None:
        """What was sent is safe above: the workers may forget it."""
        sent, self._sent = self._sent, []
        if self._outbox is not None:
            self._outbox.acknowledged()
        self._count_taken(sent, out)

    def _count_taken(self, told: list[tuple[int, Outcome]], out: list[fx.Effect]) -> None:
        taken: set[Slot] = set()
        for connection, _ in told:
            slot = self._connections.get(connection)
            if slot is not None:
                slot.taken += 1
                taken.add(slot)
        out.extend(fx.ToWorker(slot.connection, ([Kind.TAKEN, slot.taken],)) for slot in taken)

    # ---- files ----

    def _fetch(self, tasks: list[Claimed], out: list[fx.Effect]) -> None:
        """These may need files before they are handed to a worker."""
        for task in tasks:
            if not self.files.fetch(task, out):
                self._buffer.append(task)

    def on_inputs(self, now: Now, event: InputsFetched, out: list[fx.Effect]) -> None:
        """The files of a task are there, or it ends without having begun."""
        task = self.files.fetched(event)
        if task is None:
            return
        if event.message:
            end_ns, tail = int(now.real_s * 1e9), event.detail.encode()[-wire.TAIL_BYTES :]
            self.files.forget(task)
            self._outcomes.append((0, ["done", *task[:2], None, event.message, 0, end_ns, tail, {}, ""]))
            self.completed += 1
        else:
            self._buffer.append(task)
            if self.leaving or self.paused:
                self._give_back()

    def on_outputs(self, event: OutputsKept, out: list[fx.Effect]) -> None:
        """What a task left is safe, or is not: its outcome may be told."""
        self._may_tell(self.files.kept(event), out)

    def abandon_files(self, out: list[fx.Effect]) -> None:
        """Nobody wants what tasks leave any more."""
        out.append(fx.DropJobs(self.holder))
        self._may_tell(self.files.let_go(), out)

    def turn(self, now: Now, out: list[fx.Effect]) -> None:
        """Whatever there is to do after anything happened."""
        self._states += self.files.take_states()
        self._feed(out)
        self.files.clean_up(out)
        has = (
            len(self._buffer) + self.files.coming_count + sum(len(slot.tasks) for slot in self.slots.values())
        )
        want = 0 if self.leaving or self.paused else max(0, self._limit - has)
        talks = bool(self._outcomes or self._states)
        # One exchange with outcomes at a time; one that only asks makes way for it.
        if (talks and not self._sent) or (not self._asked and want and want * 2 >= self._limit):
            self._sent, self._outcomes = self._outcomes, []
            if self._outbox is not None:
                self._outbox.sent()
            self._number += 1
            self._asked, self._wanted = self._number, want
            self._unanswered.add(self._number)
            self.tell(now, out)

    @property
    def has_asked(self) -> bool:
        """An exchange is on its way."""
        return bool(self._asked)

    def insist(self, now: Now, out: list[fx.Effect]) -> None:
        """There was no answer: say the exchange again."""
        if self.lost and not self._sent:
            # It waits for work, perhaps for the very tasks that were lost: one that asks for nothing overtakes it.
            self._number += 1
            self._asked, self._wanted = self._number, 0
            self._unanswered.add(self._number)
        self.tell(now, out)

    def tell(self, now: Now, out: list[fx.Effect]) -> None:
        """Say the exchange that is not answered."""
        states, self._states = self._states, []
        out.append(fx.SetTimer(("crew", "answer"), now.mono_ns + int(defaults.CREW_ANSWER_S * 1e9)))
        outcomes = [outcome for _, outcome in self._sent]
        self._upward.exchange(now, self.holder, self._asked, self._wanted, outcomes, states, out)

    def held(self) -> list[list[int]]:
        """All tasks of this holder that are here, or whose end was not acknowledged."""
        held = {task[0]: task[1] for task in (*self._buffer, *self.files.coming())}
        held.update(self.files.held())
        for slot in self.slots.values():
            held.update((number, task[1]) for number, task in slot.tasks.items())
        held.update((outcome[1], outcome[2]) for _, outcome in (*self._sent, *self._outcomes))
        return [[task, attempt] for task, attempt in held.items()]

    def _give_back(self) -> None:
        back = [*self._buffer, *self.files.coming()]
        self._outcomes += [(0, ["returned", *task[:2]]) for task in back]
        for task in back:
            self.files.forget(task)
        self._buffer.clear()
