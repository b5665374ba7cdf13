"""A daemon and agents at work on task suites in one memory: a real queue, played workers, links that break.

The queue is SQLite, asked in the order of the effects; what was asked when a daemon dies may be done or not. A
`Hand` is a worker: it outlives whom it works for, keeps what was not taken, does a task when it is told to.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

from mgmt.core import effect as fx
from mgmt.core import event as ev
from mgmt.core.suites import operations as op
from mgmt.core.suites.states import ENDED, Task
from mgmt.core.supervision import LOCAL
from mgmt.protocol.errors import MgmtError
from mgmt.store.queue.connection import Connection
from mgmt.store.queue.counting import recount
from mgmt.worker.wire import Kind
from tests.core.linked import Cluster, Link
from tests.core.recorder import Process, Ticket, Word, World
from tests.unit.queues import do

WORKER = re.compile(r"(suite-\d+|independent)\.w\d+")
QUIET_STEPS = 3000  # after so many, everybody must have said everything
_connections = itertools.count(1)


@dataclass(eq=False)
class Hand:
    """A worker as its wire describes it. `tasks`: handed to it and not done; `untaken`: DONEs."""

    world: World
    process: Process
    connection: int = 0
    welcomed: bool = False
    tasks: list[list[Any]] = field(default_factory=list)
    untaken: list[list[Any]] = field(default_factory=list)
    paused: bool = False
    told: int = 0  # DONEs on this connection
    taken: int = 0  # ... that are safe above

    @property
    def unit(self) -> str:
        return self.process.spawn.unit

    def held(self) -> list[list[int]]:
        return [[one[1], one[2]] for one in self.untaken] + [one[:2] for one in self.tasks]


class Suited(Cluster):
    """`db` is an open queue. `budget`: so many more things happen in `pump`, then it stops in the middle."""

    def __init__(self, db: Connection, agents: dict[str, tuple[str, ...]] | None = None, **keys: Any) -> None:
        self.db = db
        self.hands: list[Hand] = []
        self.asked: deque[fx.Queue] = deque()
        self.budget: int | None = None
        self.disk_full = False
        self.lost_words: Counter[str] = Counter()  # so many of the next words of this name are lost
        self.copies: list[tuple[Link, fx.ToNode]] = []  # of answers, which may come again
        self.ends: dict[int, tuple[Any, ...]] = {}  # how tasks ended, which never changes
        self.ran: Counter[tuple[int, int]] = Counter()  # (task, attempt) done by hands
        super().__init__(agents=agents, **keys)
        self.daemon.queue = self.do

    # ---- the queue ----

    def do(self, operation: Any) -> Any:
        """One operation; a refusal is raised."""
        if isinstance(operation, op.RetryTask):
            self.ends.pop(operation.task, None)
        return do(self.db, operation)

    def _answer_queue(self) -> None:
        asked = self.asked.popleft()
        result: Any
        reads = type(asked.operation).__name__ in ("GetTask", "GetSuite", "ListTasks")
        if self.disk_full and not reads:
            result = MgmtError("not-durable", "the disk is full")
        else:
            try:
                result = self.do(asked.operation)
            except MgmtError as error:
                result = error
        self.daemon.feed(ev.Queued(asked.tag, result))

    def state(self, task: int) -> Task:
        ((state,),) = self.db.rows("SELECT state FROM tasks WHERE id = ?", (task,))
        return Task(state)

    def states(self) -> dict[int, Task]:
        return {task: Task(state) for task, state in self.db.rows("SELECT id, state FROM tasks")}

    # ---- what happens ----

    def pump(self) -> None:
        for _ in range(QUIET_STEPS):
            if not self._carry():
                return
        raise AssertionError(f"words go round and round: {self.asked}")

    def worlds(self) -> dict[str, World]:
        return {LOCAL: self.daemon} | {name: link.world for name, link in self.links.items()}

    def _carry(self) -> bool:
        if self.budget is not None:
            if self.budget <= 0:
                return False
            self.budget -= 1
        moved = super()._carry()
        for world in self.worlds().values():
            effects, world.suite_effects = world.suite_effects, []
            for effect in effects:
                moved = True
                self._do(world, effect)
        if self.asked:
            moved = True
            self._answer_queue()
        return self._connect() or moved

    def _do(self, world: World, effect: fx.Effect) -> None:
        match effect:
            case fx.Queue():
                self.asked.append(effect)
            case fx.MakeSuiteFolder(holder):
                world.feed(ev.SuiteFolderMade(holder))
            case fx.ToWorker(connection, messages):
                for hand in self.hands:
                    if hand.connection == connection and hand.world is world:
                        for message in messages:
                            self._tell(hand, message)
            case fx.CloseWorker(connection):
                for hand in self.hands:
                    if hand.connection == connection and hand.world is world:
                        hand.connection, hand.welcomed = 0, False

    def _connect(self) -> bool:
        """Workers that live and have no connection say hello; those that died are gone."""
        moved = False
        for hand in list(self.hands):
            if hand.process.gone or not hand.process.leader:
                self.hands.remove(hand)
                moved = True
                self.part(hand)
        for world in self.worlds().values():
            for process in list(world.processes.values()):
                if not WORKER.fullmatch(process.spawn.unit) or not process.started or not process.leader:
                    continue
                known = next((one for one in self.hands if one.process is process), None)
                hand = known or Hand(world, process)
                if known is None:
                    self.hands.append(hand)
                if not hand.connection and process.key not in world.adoptions:
                    moved = True
                    hand.connection = next(_connections)
                    env = process.spawn.env
                    world.feed(
                        ev.WorkerHello(
                            hand.connection,
                            hand.unit,
                            process.spawn.incarnation,
                            env["MGMT_TOKEN"],
                            hand.held(),
                        )
                    )
        return moved

    def part(self, hand: Hand) -> None:
        """Its connection breaks."""
        connection, hand.connection, hand.welcomed = hand.connection, 0, False
        if connection:
            hand.world.feed(ev.WorkerGone(connection))

    def _tell(self, hand: Hand, message: list[Any]) -> None:
        match message[0]:
            case Kind.WELCOME:
                assert not hand.welcomed
                hand.welcomed, hand.paused = True, False
                hand.told = hand.taken = 0
                if hand.untaken:
                    self._say(hand, [list(one) for one in hand.untaken])
            case Kind.RUN:
                assert hand.welcomed, "RUN before WELCOME"
                assert all(one[0] != message[1] for one in hand.tasks), "a task twice in one hand"
                assert message[3], "a task without a specification"
                hand.tasks.append([message[1], message[2]])
            case Kind.CANCEL:
                task = message[1:3]
                if task in hand.tasks:
                    hand.tasks.remove(task)
                    self._done(hand, task, -15, "UserCancellation")
            case Kind.TAKEN:
                more = message[1] - hand.taken
                assert 0 < more <= hand.told - hand.taken, "more is taken than was told"
                del hand.untaken[:more]
                hand.taken = message[1]
            case Kind.PAUSE | Kind.RESUME:
                hand.paused = message[0] == Kind.PAUSE
            case Kind.REFUSED:
                self.die(hand, code=2)

    def _say(self, hand: Hand, messages: list[list[Any]]) -> None:
        if hand.connection and hand.welcomed:
            hand.told += len(messages)
            hand.world.feed(ev.WorkerSaid(hand.connection, messages))

    def _done(self, hand: Hand, task: list[int], status: int, message: str = "") -> None:
        done = [int(Kind.DONE), *task, status, message, 1, 2, b"", {}]
        hand.untaken.append(done)
        self.ran[task[0], task[1]] += 1
        self._say(hand, [list(done)])

    def work(self, hand: Hand, status: int = 0) -> None:
        """It ends the task it runs."""
        if hand.tasks and not hand.paused:
            self._done(hand, hand.tasks.pop(0), status)

    def die(
        self, hand: Hand, code: int | None = None, signal: int | None = None, heard_first: bool = False
    ) -> None:
        """The worker dies. `heard_first`: the end of its connection is noticed before that of its process."""
        if not hand.process.leader or hand.process.gone:
            return
        if heard_first:
            self.part(hand)
        hand.world.leader_ends(hand.process, code, signal)
        hand.world.tree_ends(hand.process)

    def kill_agent(self, name: str) -> None:
        self._forget_connections(self.links[name].world)
        super().kill_agent(name)

    def kill_daemon(self, done: int = 0) -> None:
        """`done`: so many of the operations that were asked are carried out before, and nobody hears of it."""
        for asked in itertools.islice(self.asked, done):
            try:
                self.do(asked.operation)
            except MgmtError:
                continue
        self.asked.clear()
        self._forget_connections(self.daemon)
        super().kill_daemon()

    def _forget_connections(self, world: World) -> None:
        for hand in self.hands:
            if hand.world is world:
                hand.connection, hand.welcomed = 0, False

    # ---- words that are lost, or come twice ----

    def _from_daemon(self, word: Word) -> None:
        if isinstance(word, fx.ToNode) and word.name == "crew-work":
            if self.lost_words[word.name]:
                self.lost_words[word.name] -= 1
                return
            link = next((link for link in self.links.values() if link.peer == word.peer), None)
            if link is not None:
                self.copies = [*self.copies[-3:], (link, word)]
        super()._from_daemon(word)

    def _from_agent(self, link: Link, word: Word) -> None:
        if isinstance(word, fx.ToDaemon) and self.lost_words[word.name]:
            self.lost_words[word.name] -= 1
            return
        super()._from_agent(link, word)

    def again(self, which: int) -> None:
        """An answer comes again, later than it was."""
        if self.copies:
            link, word = self.copies[which % len(self.copies)]
            if link.up and not link.cut and link.peer == word.peer:
                super()._from_daemon(word)

    # ---- looking ----

    def ask(self, verb: str, **body: Any) -> Ticket:
        """Ask as somebody new, and let everything happen that follows."""
        ticket = self.say(verb, **body)
        self.pump()
        return ticket

    def say(self, verb: str, **body: Any) -> Ticket:
        """Ask as somebody new, and do not wait."""
        return self.daemon.client().ask(verb, within_s=None, **body)

    def suite(self, **body: Any) -> int:
        return int(self.ask("suite-create", **body).ok["suite"])

    def board_number(self, name: str) -> int:
        found = self.daemon.state.board.find(name)
        assert found is not None
        return found.number

    def submit(self, suite: int, count: int = 1, **task: Any) -> list[int]:
        tasks = [{"args": ["true"], **task}] * count
        return list(self.ask("task-submit", suite=str(suite), tasks=tasks).ok["tasks"])

    def status(self, suite: int) -> dict[str, Any]:
        (status,) = self.ask("suites", suites=[str(suite)]).ok["suites"]
        return dict(status)

    def hands_at(self, node: str) -> list[Hand]:
        return [hand for hand in self.hands if hand.world is self.worlds()[node]]

    def check_queue(self) -> None:
        """The counters are a recount, and no task's result was accepted twice."""
        assert recount(self.db) == []
        rows = self.db.rows(
            "SELECT id, state, attempt, exit_status, message FROM tasks WHERE state IN (3, 4, 6)"
        )
        ends = {row[0]: row for row in rows}
        assert {task: ends.get(task) for task in self.ends} == self.ends, "an end was not the end"
        self.ends = ends

    def finish(self, within_s: float = 90.0) -> None:
        """No fault any more: everything that can end does, within so much time of the world's clock."""
        self.budget, self.disk_full = None, False
        self.lost_words.clear()
        for name in self.links:
            self.heal(name)
        self.pump()
        for _ in range(int(within_s / 0.5)):
            for hand in list(self.hands):
                while hand.tasks and not hand.paused:
                    self.work(hand)
            self.pump()
            if (
                all(state in ENDED for state in self.states().values())
                and not self.daemon.state.board.holdings
            ):
                break
            self.advance(0.5)
        self.check_queue()
        left = {task: state.name for task, state in self.states().items() if state not in ENDED}
        board = self.daemon.state.board
        assert not left, f"stuck: {left}, {board.holdings}, {self.crews()}"
        assert not board.holdings, f"never left: {board.holdings}, {self.crews()}"
        assert not board._then, "answers that nobody will give"
        counts = {entry.number: entry.counts for entry in board.entries.values()}
        truth = {record.suite: record.counts for record in self.do(op.ListSuites(limit=1 << 31)).suites}
        assert counts == truth, "the mirror is not the queue"

    def crews(self) -> list[str]:
        worlds = self.worlds().items()
        return [f"{name}: {world.state.crew.phase}, {world.state.crew.pool.slots}" for name, world in worlds]
