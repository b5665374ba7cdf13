"""The crew: what this machine does for the one suite it was given.

It provisions, keeps a background process up, runs the workers and hands them tasks, reports what became of them,
cleans up. Hooks and workers are units: the supervisor starts, binds, adopts, restarts and ends them.
The daemon's own machine has a crew, and so has each agent; `Upward` is the one thing in which they differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mgmt import template
from mgmt.core import effect as fx
from mgmt.core.event import InputsFetched, Now, OutputsKept
from mgmt.core.suites.binding import Binding, cpus_of
from mgmt.core.suites.files import Claimed
from mgmt.core.suites.outbox import Outbox
from mgmt.core.suites.pool import PHASES, Ending, Phase, Pool, Progress, Slot, Upward
from mgmt.core.supervision import AT_REST, Ordering, State, Supervisor, Unit, UnitSpec
from mgmt.protocol import defaults
from mgmt.protocol.errors import MgmtError
from mgmt.settings import ModelSettings, UnitSettings

_UP = frozenset({State.STARTING, State.RUNNING})
RESPAWN_S, RESPAWN_MAX_S = 0.01, 5.0
HOOK_OF = {Phase.PREPARING: "provision", Phase.CLEANUP: "cleanup"}


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

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Assignment:
        """What a newer daemon, or a newer version here, knows besides is left unread."""
        return cls(**{name: record[name] for name in cls.__slots__})

    @property
    def count(self) -> int:
        return int(self.worker["worker_count"])

    @property
    def prefetch(self) -> int:
        return int(self.worker["task_prefetch_count"])

    def hook(self, which: str) -> Mapping[str, Any] | None:
        found: Mapping[str, Any] | None = self.hooks.get(which)
        return found


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
        outbox: Outbox | None = None,
    ) -> None:
        """`socket`: where workers connect; `worker`: the program that runs processes; `environ`: of tasks.

        `outbox`: where outcomes are safe until they are committed above; None where the queue is near.
        """
        self.phase = Phase.IDLE
        self.assignment: Assignment | None = None
        self.outbox = outbox
        self.pool = Pool(upward, outbox)
        self.dirty = False  # the record is to be written
        self._supervisor, self._ordering, self._declare = supervisor, ordering, declare
        self._upward = upward
        self._root, self._socket, self._worker, self._environ = root, socket, worker, dict(environ)
        self._ending: Ending | None = None
        self._reason = ""
        self._failed = False  # it ends because of this machine
        self._finding = False  # after a restart: workers are coming back
        self._life = 1  # counts the restarts of this machine's daemon or agent while it has the assignment
        self._next: Assignment | None = None  # of a daemon that does not know the present one
        # What was last said of an assignment that is over: its holder, why, whether it failed, tasks done.
        self._last: tuple[int, str, bool, int] = (0, "", False, 0)
        self._in_the_way = ""  # who holds CPUs that the last one needed, which was given up because of that

    # ---- what is said from above ----

    def assign(self, now: Now, assignment: Assignment, out: list[fx.Effect]) -> None:
        """Work on this suite, after an end of any other: who assigns knows what this machine shall do.

        Again with the same holder: above, something was lost, and is told again.
        """
        if assignment.holder == self._last[0]:
            self._tell_last(now, out)
            return
        if self.assignment is not None:
            if self.assignment.holder == assignment.holder:
                self._tell_phase(now, out)
                self.pool.lost = True
                self._turn(now, out)
            else:
                self._next = assignment
                self.end(now, self.assignment.holder, Ending.ABORT, "another suite was assigned", out)
            return
        self.assignment = assignment
        self._ending, self._reason, self._failed, self._life = None, "", False, 1
        self._in_the_way = ""
        self._move("assigned")
        self._make_folder(out)
        self._tell_phase(now, out)

    def end(self, now: Now, holder: int, how: Ending, reason: str, out: list[fx.Effect]) -> None:
        """Leave the suite. A harder word overtakes a softer one."""
        if self._next is not None and self._next.holder == holder:
            self._upward.progress(now, Progress(holder, Phase.IDLE, reason), out)
            self._next = None
        if self.assignment is None or self.assignment.holder != holder:
            return
        if self._ending is how or self._ending is Ending.ABORT or self.phase is Phase.CLEANUP:
            return
        self._ending, self._reason = how, reason
        if self.phase is Phase.PREPARING:
            self._stop_units(now, reason, out)
        else:
            self.pool.leave(how is not Ending.FINISH, out)
            out.append(fx.SetTimer(("crew", "stop"), now.mono_ns + int(defaults.CREW_STOP_S * 1e9)))
            if how is Ending.ABORT:
                self.pool.abandon_files(out)
                self._stop_units(now, reason, out)
        self._turn(now, out)

    def cancel(self, now: Now, holder: int, tasks: Iterable[int], out: list[fx.Effect]) -> None:
        """End these tasks, running or not."""
        if self.assignment is None or self.assignment.holder != holder:
            return
        self.pool.cancel(tasks, out)
        self._turn(now, out)

    def pause(self, now: Now, paused: bool, out: list[fx.Effect]) -> None:
        """Start no task any more, or go on."""
        self.pool.pause(paused, out)
        self._turn(now, out)

    # ---- hooks and units ----

    def on_folder(self, now: Now, holder: int, error: str, out: list[fx.Effect]) -> None:
        """The folder of the suite is there, or cannot be."""
        if self.assignment is None or self.assignment.holder != holder or self.phase is not Phase.PREPARING:
            return
        if self._ending is not None or error:
            self._ending, self._reason = self._ending or Ending.ABORT, self._reason or error
            self._fail(now, out)
            return
        pairs = tuple(_pair(one) for hook in self._hooks().values() for one in hook["resources"])
        if pairs:
            out.append(fx.FetchInputs(holder, 0, 0, f"{self._folder()}/resources", pairs))
        else:
            self._begin(now, out)

    def on_inputs(self, now: Now, event: InputsFetched, out: list[fx.Effect]) -> None:
        """Files of a task or, with number 0, of the hooks are there, or cannot be."""
        if self.assignment is None or self.assignment.holder != event.holder:
            return
        if event.task:
            self.pool.on_inputs(now, event, out)
            self._turn(now, out)
        elif self.phase is Phase.PREPARING:
            if self._ending is not None or event.message:
                self._ending = self._ending or Ending.ABORT
                self._reason = self._reason or f"resources of its hooks: {event.message}: {event.detail}"
                self._fail(now, out)
            else:
                self._begin(now, out)

    def on_outputs(self, now: Now, event: OutputsKept, out: list[fx.Effect]) -> None:
        """What a task left is kept, or cannot be."""
        if self.assignment is not None and self.assignment.holder == event.holder:
            self.pool.on_outputs(event, out)
            self._turn(now, out)

    def _begin(self, now: Now, out: list[fx.Effect]) -> None:
        """All that the hooks need is there."""
        assert self.assignment is not None
        self._redeclare(out)
        workers = [f"{self._prefix()}w{index}" for index in range(self.assignment.count)]
        try:
            self._ordering.check([self._supervisor.units[name] for name in workers])
        except MgmtError as error:
            self._give_way(error)
            self._fail(now, out)
            return
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
        if name in self.pool.slots and _is_dead(unit):
            self.pool.bury(now, self.pool.slots[name], unit.last_exit, _was_told(unit))
        elif name == self._prefix() + "background" and self._ending is None:
            policy = (self.assignment.hook("background") or {})["policy"]
            if was in _UP and unit.state not in _UP:
                self.pool.metrics.add("env_hook_failures_total", of="background")
            if unit.state is State.FATAL or (policy == "fail" and was in _UP and unit.state not in _UP):
                self._failed = True
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
        if unit is not None and ended and unit.incarnation:
            self.pool.metrics.hook_ended(now, HOOK_OF[self.phase], unit.is_completed)
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
        if what == "answer" and self.pool.has_asked:
            self.pool.insist(now, out)
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
        self._open_pool()
        units = self._supervisor.units
        names = [*self.pool.slots]
        if "background" in self._hooks():
            names.append(self._prefix() + "background")
        try:
            self._start(now, [units[name] for name in names], out)
        except MgmtError as error:
            self._give_way(error)
            self._stop_units(now, error.text, out)
        self._tell_phase(now, out, held=[])  # a former life of this machine may have claimed some
        self._turn(now, out)

    def _give_way(self, error: MgmtError) -> None:
        """There is no place for its workers."""
        self._ending, self._reason = Ending.ABORT, error.text
        self._in_the_way = str(error.detail.get("holder", ""))

    def look_for_room(self, now: Now, out: list[fx.Effect]) -> None:
        """Places may have been given back: whoever assigns is told when those are that were missing."""
        waits = self._in_the_way and self.assignment is None
        if waits and not self._supervisor.ledger.is_holder(self._in_the_way):
            self._in_the_way = ""
            self._tell_last(now, out)

    def _begin_hook(self, now: Now, which: str, usual_s: float, most_s: float, out: list[fx.Effect]) -> None:
        hook = self._hooks()[which]
        timeout_s = min(hook["timeout_s"] or usual_s, most_s)
        out.append(fx.SetTimer(("crew", "hook"), now.mono_ns + int(timeout_s * 1e9)))
        self.pool.metrics.hook_began(now)
        self._start(now, [self._supervisor.units[self._prefix() + which]], out)

    def _start(self, now: Now, units: list[Unit], out: list[fx.Effect]) -> None:
        """No incarnation of one assignment is another's: what a former unit of the name left may be there."""
        assert self.assignment is not None
        for unit in units:
            unit.incarnation = max(unit.incarnation, self.assignment.holder << 10)
        self._ordering.start(now, units, out)

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
        slot = self.pool.slots.get(unit)
        if slot is None:
            return False
        welcome = {
            "folder": slot.folder,
            "grace_s": defaults.TASK_CANCEL_GRACE_S,
            "output_limit_bytes": defaults.TASK_OUTPUT_BYTES,
            "env": self._environ,
        }
        process = self._supervisor.units[unit]
        if slot.incarnation != process.incarnation and slot.tasks:
            # The end of the former one's connection is still to be noticed.
            if slot.connection:
                out.append(fx.CloseWorker(slot.connection))
                self.pool.part(slot.connection)
            self.pool.bury(now, slot, process.last_exit)
        self.pool.join(slot, connection, process.incarnation, held, welcome, out)
        if self._finding and all(
            one.connection or not self._is_coming(one) for one in self.pool.slots.values()
        ):
            self._found(now, out)
        self._turn(now, out)
        return True

    def on_said(self, now: Now, connection: int, messages: list[list[Any]], out: list[fx.Effect]) -> None:
        """Words of a worker, in order."""
        self.pool.hear(connection, messages, out)
        self._turn(now, out)

    def on_worker_gone(self, now: Now, connection: int, out: list[fx.Effect]) -> None:
        """A worker's connection is closed: it died, or connects anew."""
        slot = self.pool.part(connection)
        if slot is None:
            return
        unit = self._supervisor.units.get(slot.unit)
        if unit is None:
            self.pool.bury(now, slot, None)
        elif _is_dead(unit):
            self.pool.bury(now, slot, unit.last_exit, _was_told(unit))
        self._turn(now, out)

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
        """An exchange was answered."""
        self.pool.on_work(holder, number, tasks, cancelling, stale, out)
        self._turn(now, out)

    def on_link(self, now: Now, out: list[fx.Effect]) -> None:
        """Whoever is above can be talked to again: what was not answered is said again."""
        if self.assignment is None:
            self._tell_last(now, out)
        else:
            self._tell_phase(now, out)
            self.pool.lost = True  # what was on its way when the link broke may be
            if self.pool.has_asked:
                self.pool.tell(now, out)
            self._turn(now, out)

    def _turn(self, now: Now, out: list[fx.Effect]) -> None:
        """Whatever there is to do after anything happened. A word upward may be answered at once, with an end."""
        if self._is_at_work() and self.pool.lost and not self.pool.has_asked:
            # Nothing is on its way that this would not count.
            self.pool.lost = False
            self._tell_phase(now, out, held=self.pool.held())
        if self._is_at_work():
            self.pool.turn(now, out)
        # What an aborted one has to say is of no use any more, and nobody may answer.
        if (
            self._is_at_work()
            and self._ending is not None
            and (self.pool.is_empty or self._ending is Ending.ABORT)
        ):
            self._leave(now, out)

    def _is_at_work(self) -> bool:
        return self.assignment is not None and self.phase is Phase.EXECUTING and not self._finding

    # ---- the end ----

    def _leave(self, now: Now, out: list[fx.Effect]) -> None:
        """Nothing of the suite's tasks is here any more: the workers go, then it is cleaned up."""
        if not self._is_empty():
            self._stop_units(now, self._reason, out)
            return
        out.append(fx.CancelTimer(("crew", "stop")))
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
        self._forget(now, out, failed=self._failed)

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
        out.append(fx.DropJobs(self.assignment.holder))
        out.append(fx.RemoveTree(self._folder()))
        self._last = (self.assignment.holder, self._reason, failed, self.pool.completed)
        self.assignment = None
        self.pool.close(out)
        self._declare({}, out)
        self._tell_last(now, out)
        following, self._next = self._next, None
        if following is not None:
            self.assign(now, following, out)

    # ---- a former life ----

    def record(self) -> dict[str, Any]:
        """What the next daemon must know."""
        return {
            "assignment": self.assignment.to_record() if self.assignment is not None else None,
            "phase": str(self.phase),
            "life": self._life,
            "last": list(self._last),
        }

    def restore(self, now: Now, record: Mapping[str, Any], out: list[fx.Effect]) -> None:
        """Before the supervisor looks for what it had: the units are declared, the workers will come back."""
        holder, reason, failed, completed = record["last"]
        self._last = (holder, reason, failed, completed)
        if record["assignment"] is None:
            return
        self.assignment = Assignment.from_record(record["assignment"])
        self._life, self.dirty = record["life"] + 1, True
        self.phase = Phase(record["phase"])
        self._redeclare(out)
        if self.phase is Phase.EXECUTING:
            self._open_pool()
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
        elif self.phase is Phase.EXECUTING and not any(
            self._is_coming(slot) for slot in self.pool.slots.values()
        ):
            self._found(now, out)
        self.look(now, out)

    def _make_folder(self, out: list[fx.Effect]) -> None:
        assert self.assignment is not None
        out.append(fx.MakeSuiteFolder(self.assignment.holder, self._folder()))

    def _is_coming(self, slot: Slot) -> bool:
        unit = self._supervisor.units.get(slot.unit)
        return unit is not None and unit.state in _UP

    def _found(self, now: Now, out: list[fx.Effect]) -> None:
        """All workers that live have said what they have; the rest of what this holder claimed is lost here."""
        self._finding = False
        out.append(fx.CancelTimer(("crew", "find")))
        self.pool.lost = True
        idle = [self._supervisor.units[name] for name in self.pool.slots]
        down = [unit for unit in idle if unit.state in AT_REST and not unit.wanted]
        if down and self._ending is None:
            self._start(now, down, out)
        self._turn(now, out)

    # ---- names and units ----

    def _move(self, trigger: str) -> None:
        self.phase = PHASES[self.phase, trigger]
        self.dirty = True

    def _tell_phase(self, now: Now, out: list[fx.Effect], held: list[list[int]] | None = None) -> None:
        assert self.assignment is not None
        holder, completed = self.assignment.holder, self.pool.completed
        progress = Progress(holder, self.phase, self._reason, completed=completed, held=held)
        self._upward.progress(now, progress, out)

    def _tell_last(self, now: Now, out: list[fx.Effect]) -> None:
        holder, reason, failed, completed = self._last
        crowded = bool(self._in_the_way)
        self._upward.progress(
            now, Progress(holder, Phase.IDLE, reason, failed, completed, None, crowded), out
        )

    def _prefix(self) -> str:
        if self.assignment is None:
            return "\0"
        return f"suite-{self.assignment.suite}." if self.assignment.suite else "independent."

    def _folder(self) -> str:
        assert self.assignment is not None
        return f"{self._root}/{self.assignment.uuid}"

    def _open_pool(self) -> None:
        assert self.assignment is not None
        units = [f"{self._prefix()}w{index}" for index in range(self.assignment.count)]
        self.pool.open(self.assignment.holder, units, self.assignment.prefetch, self._life, self._folder())

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
                # Nobody else is let on the cores of each, so others who have them are in the way.
                settings["placement"] = {"exclusive": binding["strategy"] == "exclusive"}
            self._add(specs, f"w{index}", settings)
        self._declare(specs, out)

    def _add(self, specs: dict[str, UnitSpec], which: str, settings: dict[str, Any]) -> None:
        name = self._prefix() + which
        specs[name] = UnitSpec(
            name, ModelSettings(name=name, type="unit"), UnitSettings.model_validate(settings)
        )


def _is_dead(unit: Unit) -> bool:
    """Whether a worker has no process that could still say a word."""
    return unit.leader_gone or not unit.has_process


def _was_told(unit: Unit) -> bool:
    """Whether its present end is on purpose."""
    return unit.state in (State.STOPPING, State.STOPPED)


def _has_ended(unit: Unit) -> bool:
    """Whether a hook is done, well or not, and will not be started again."""
    stopped = unit.state is State.STOPPED and not unit.wanted
    return unit.is_completed or stopped or unit.state in (State.EXITED, State.FATAL)


def _pair(resource: Mapping[str, Any]) -> tuple[str, str]:
    return str(resource["blob"]), str(resource["path"])
