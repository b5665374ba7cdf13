"""The board: which node works on which suite, and what goes between a suite's holders and the queue.

The queue is the truth about suites and tasks; here is a mirror of the suites, as of the last answer of the queue.
A *holding* is one suite given to one node, by the number of its holder. A node works on one suite at a time.
An independent worker has a holding without a suite as long as it is there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from mgmt.core import effect as fx
from mgmt.core.event import Now, Queued
from mgmt.core.nodes import Node, NodeState, Roster
from mgmt.core.suites import operations as op
from mgmt.core.suites.crew import Assignment, Crew
from mgmt.core.suites.entry import Entry
from mgmt.core.suites.files import Claimed, Outcome
from mgmt.core.suites.holding import Holding, idleness
from mgmt.core.suites.identity import Kind, number_of, uuid_of
from mgmt.core.suites.lanes import Lanes
from mgmt.core.suites.metrics import Metrics
from mgmt.core.suites.pool import Ending, Phase, Progress
from mgmt.core.suites.specs import CANCELLED, result_of
from mgmt.core.suites.states import Suite
from mgmt.core.supervision import LOCAL
from mgmt.protocol import defaults, frames
from mgmt.protocol.errors import MgmtError

Then = Callable[[Now, Any, list[fx.Effect]], None]


class Permits(Protocol):
    """What the board asks about groups."""

    def __call__(self, group: str, kind: str, name: str) -> bool:
        """Whether work of the group may be sent to the node or worker."""


class Watcher(Protocol):
    """Who follows tasks without waiting for each: what the board hears of them, once it is durable."""

    def claimed(self, now: Now, tasks: list[int], out: list[fx.Effect]) -> None:
        """Somebody has these now."""

    def told(self, now: Now, tasks: list[int], out: list[fx.Effect]) -> None:
        """These have ended, or may have, or may be ready again."""

    def moved(self, now: Now, out: list[fx.Effect]) -> None:
        """Tasks went somewhere, and nobody says which: cancelled, given up or given back."""


class Board:
    """An Upward of this machine's own crew. `owner` names this daemon among those of one queue."""

    def __init__(
        self,
        roster: Roster,
        queue_id: int,
        owner: str,
        permits: Permits,
        shared: bool = False,
        auto_close_s: float = defaults.SUITE_AUTO_CLOSE_S,
    ) -> None:
        """`shared`: other daemons change the same queue, so it is looked at every now and then."""
        self.entries: dict[int, Entry] = {}
        self.by_name: dict[str, int] = {}
        self.holdings: dict[str, Holding] = {}  # by node
        self.closing = False
        self.cordoned = False  # nothing new for this machine itself
        self.paused: set[str] = set()  # nodes that start no task, until they or the daemon start anew
        self.failure = ""  # why the queue could not write last time
        self.metrics = Metrics()
        self.watcher: Watcher | None = None
        self.lanes = Lanes(roster, lambda group, worker: permits(group, "worker", worker))
        self.given_up: dict[str, str] = {}  # why independent workers get no tasks, until they come back
        self._unheld: set[str] = set()  # independent workers that are there and have no holding
        self._by_holder: dict[int, Holding] = {}
        self._crew: Crew  # of this machine: see `attach`
        self._roster = roster
        self._queue_id, self._owner, self._permits = queue_id, owner, permits
        self.is_shared = shared
        self._auto_close_s = auto_close_s
        self._pending: set[int] = set()  # lanes that have tasks which have not ended
        self._sweeps = self._renews = False  # the timers are set
        self._sweeping = False  # a sweep was asked for
        self._then: dict[int, Then] = {}
        self._asks = 0
        # By suite and by task: whoever waits is told of every change, with the suite's entry or what the queue
        # says of the task (which may be a MgmtError), and says whether it was the one.
        self.suite_waiters: dict[int, list[Callable[[Now, Entry, list[fx.Effect]], bool]]] = {}
        self.task_waiters: dict[int, list[Callable[[Now, Any, list[fx.Effect]], bool]]] = {}

    def attach(self, crew: Crew) -> None:
        """This machine's own crew, which talks to this board; once, before anything else."""
        self._crew = crew

    def uuid(self, kind: Kind, number: int) -> str:
        return uuid_of(self._queue_id, kind, number)

    def task_uuid(self, task: int) -> str:
        return self.uuid(Kind.TASK, task)

    # ---- the queue ----

    def ask(self, operation: Any, then: Then, out: list[fx.Effect]) -> None:
        """Have the queue do it; `then(now, result, out)` when it is durable. `result` may be a MgmtError."""
        self._asks += 1
        self._then[self._asks] = then
        out.append(fx.Queue((self._asks,), operation))

    def on_queued(self, now: Now, event: Queued, out: list[fx.Effect]) -> None:
        result = event.result
        if isinstance(result, MgmtError):
            if result.code == "not-durable":
                self.failure = result.text
                self.metrics.add("queue_write_failures_total")
        else:
            self.failure = ""
            self.metrics.queued(result)
            if isinstance(result, op.LaneRecord):
                self.lanes.adopt(result)
            if self.watcher is not None and _gives_back(result):
                self.watcher.moved(now, out)
            counts = result if isinstance(result, op.Counts) else getattr(result, "counts", ())
            if isinstance(result, op.SuiteRecord):
                counts = ()  # as they were when it was read: what was written since may be told already
            self._count(now, (counts,) if isinstance(counts, op.Counts) else counts, out)
        self._then.pop(event.tag[0])(now, result, out)
        self._watch(now, out)

    def _count(self, now: Now, counts: Iterable[op.Counts], out: list[fx.Effect]) -> None:
        for of_lane in counts:
            entry = self.entries.get(of_lane.lane)
            if of_lane.pending:
                self._pending.add(of_lane.lane)
            else:
                self._pending.discard(of_lane.lane)
            known = entry.counts if entry is not None else self.lanes.counts.get(of_lane.lane)
            if known is None or (known.cancelled, known.failed) != (of_lane.cancelled, of_lane.failed):
                for task in list(self.task_waiters):  # tasks may end without a result of their own
                    self.on_task(task, out)
                if self.watcher is not None and entry is not None:
                    self.watcher.moved(now, out)
            if entry is not None and entry.counts != of_lane:
                self.metrics.moved(entry.counts, of_lane)
                entry.follow(of_lane, now.real_ms)
                self._on_counted(now, entry, out)
            elif of_lane.lane in self.lanes.records:
                self.lanes.follow(of_lane)
                self._serve(now, of_lane.ready, out)
            elif entry is None and of_lane.pending:
                self.ask(op.ListLanes(), self._on_lanes, out)

    def _watch(self, now: Now, out: list[fx.Effect]) -> None:
        """Time passes only for what is pending, and for holders."""
        if self._pending and not self._sweeps:
            self._sweeps = True
            wait_s = min(SWEEP_S, self._auto_close_s)
            out.append(fx.SetTimer(("suites", "sweep"), now.mono_ns + int(wait_s * 1e9)))
        if self._by_holder and not self._renews:
            self._renews = True
            out.append(fx.SetTimer(("suites", "renew"), now.mono_ns + int(LEASE_S / 3 * 1e9)))

    def _on_counted(self, now: Now, entry: Entry, out: list[fx.Effect]) -> None:
        waiters = self.suite_waiters.pop(entry.number, [])
        kept = [waiter for waiter in waiters if not waiter(now, entry, out)]
        if kept:
            self.suite_waiters[entry.number] = [*kept, *self.suite_waiters.get(entry.number, ())]
        if entry.counts.ready and entry.is_live:
            for holding in self._holdings_of(entry.number):
                self._wake(now, holding, out)
            self.match(now, out)
        elif not entry.is_live or not entry.counts.pending:
            for holding in self._holdings_of(entry.number):
                self._consider(now, holding, entry, out)

    # ---- suites ----

    def adopt(self, record: op.SuiteRecord) -> Entry:
        """Mirror a suite of the queue."""
        extra = frames.unpack(record.record)
        entry = self.entries[record.suite] = Entry(
            record,
            record.counts,
            extra["description"],
            extra["worker"],
            extra["hooks"],
            set(extra["added"]),
            set(extra["removed"]),
        )
        if record.name and record.counts.state != Suite.CANCELLED:
            self.by_name[record.name] = record.suite
        return entry

    def tasks_of(self, group: str) -> int:
        """How many tasks its suites and lanes have."""
        suites = sum(entry.counts.total for entry in self.entries.values() if entry.record.group == group)
        lanes = self.lanes
        return suites + sum(
            lanes.counts[lane].total for lane, one in lanes.records.items() if one.group == group
        )

    def find(self, key: str) -> Entry | None:
        """By number, UUID or name."""
        number = int(key) if key.isdigit() else self.by_name.get(key)
        if number is None:
            number = number_of(self._queue_id, Kind.SUITE, key)
        return self.entries.get(number) if number is not None else None

    def restore(
        self,
        now: Now,
        suites: Sequence[op.SuiteRecord],
        holders: Sequence[op.HolderRecord],
        out: list[fx.Effect],
    ) -> None:
        """What the queue knew at the start: suites, and who works on them."""
        for record in suites:
            self.adopt(record)
            if record.counts.pending:
                self._pending.add(record.suite)
        self.ask(op.ListLanes(), self._on_lanes, out)
        mine = self._crew.assignment
        for one in holders:
            node = self._roster.nodes.get(one.node)
            known = node is not None if one.node != LOCAL else mine is not None and mine.holder == one.holder
            if node is not None and node.worker is not None:
                is_there = not one.suite
            else:
                is_there = one.suite in self.entries
            if not known or not is_there or one.node in self.holdings:
                self.ask(op.EndHolder(one.holder, now.real_ms), _ignored, out)
                continue
            offer = node.worker if node is not None else None
            holding = Holding(one.node, one.suite, one.holder, Phase.EXECUTING, offer=offer)
            self.holdings[one.node] = self._by_holder[one.holder] = holding
        if mine is not None and mine.holder not in self._by_holder:
            self._crew.end(now, mine.holder, Ending.ABORT, "its time was up", out)
        self._watch(now, out)
        if self.is_shared:
            out.append(fx.SetTimer(("suites", "look"), now.mono_ns + int(LOOK_S * 1e9)))
        self.match(now, out)

    # ---- who works on what ----

    def match(self, now: Now, out: list[fx.Effect]) -> None:
        """Give suites with ready tasks to nodes that have none, and take nodes from suites that have no work."""
        if self.closing:
            return
        self._enlist(now, out)
        wanting: list[Entry] = []
        held = {holding.suite for holding in self.holdings.values()}
        for entry in self.entries.values():
            wants = entry.counts.ready and entry.is_live
            if wants:
                wanting.append(entry)
            if not wants or entry.number in held:
                entry.waiting_ns = 0
            elif not entry.waiting_ns:
                entry.waiting_ns = now.mono_ns
        if not wanting:
            return
        free = [name for name in self.nodes() if name not in self.holdings]
        shares = self._shares() if free else {}
        for node in free:
            takes = [one for one in wanting if self.why_not(one, node) == "" and not self._is_served(one)]
            if takes:
                entry = min(takes, key=lambda one: self._rank(now, one, shares))
                shares[entry.record.group] = shares.get(entry.record.group, 0) + entry.worker["worker_count"]
                self._open(now, entry, node, out)
        for entry in wanting:
            holdings = self._holdings_of(entry.number)
            if not self._is_served(entry):
                self._preempt_idle(now, entry, out)
            if len(holdings) == 1 and holdings[0].vain and self._is_alone(entry, holdings[0].node):
                self._wake(now, holdings[0], out)  # nobody else is left

    def nodes(self) -> list[str]:
        """Nodes that take suites, this machine first."""
        there = sorted(node.name for node in self._roster.nodes.values() if node.takes_units and node.peer)
        return there if self.cordoned else [LOCAL, *there]

    def why_not(self, entry: Entry, node: str) -> str:
        """Why a node may not work on a suite; empty when it may."""
        if node in self._roster.nodes and self._roster.nodes[node].worker is not None:
            return "it is an independent worker, and those take no suites"
        if node in entry.refused:
            return entry.refused[node]
        if node in entry.removed:
            return "it was taken off the suite"
        if not self._permits(entry.record.group, "node", node):
            return f"group {entry.record.group!r} may not send work to it"
        if node in entry.added:
            return ""
        lacking = set(entry.record.tags) - self._tags(node)
        return f"it has not the tags {', '.join(sorted(lacking))}" if lacking else ""

    def eligible(self, entry: Entry) -> tuple[str, ...]:
        return tuple(node for node in self.nodes() if self.why_not(entry, node) == "")

    def _is_alone(self, entry: Entry, node: str) -> bool:
        return self.eligible(entry) == (node,)

    def _tags(self, node: str) -> frozenset[str]:
        return frozenset() if node == LOCAL else self._roster.nodes[node].tags

    def _rank(self, now: Now, entry: Entry, shares: Mapping[str, int]) -> tuple[float, int, int]:
        """The smallest goes first: by priority, which grows as it waits, then its group's share, then age."""
        waited_s = (now.mono_ns - entry.waiting_ns) / 1e9 if entry.waiting_ns else 0.0
        priority = entry.record.priority + int(waited_s / AGEING_S)
        return -priority, shares.get(entry.record.group, 0), entry.number

    def _shares(self) -> dict[str, int]:
        """Workers at work by group."""
        shares: dict[str, int] = {}
        for holding in self.holdings.values():
            entry = self.entries.get(holding.suite)
            if entry is not None:
                group = entry.record.group
                shares[group] = shares.get(group, 0) + int(entry.worker["worker_count"])
        return shares

    def _is_served(self, entry: Entry) -> bool:
        """Whether nodes that are still getting ready, or wait for work, will take all that is ready."""
        room = sum(
            entry.worker["worker_count"]
            for holding in self._holdings_of(entry.number)
            if holding.ending is None
            and (holding.phase is Phase.PREPARING or (holding.is_idle and holding.vain is None))
        )
        return bool(room >= entry.counts.ready)

    def _preempt_idle(self, now: Now, entry: Entry, out: list[fx.Effect]) -> None:
        """A node that waits for work of another suite has some: here."""
        for holding in list(self.holdings.values()):
            other = self.entries.get(holding.suite)
            idle = other is None or not (other.counts.ready or other.counts.running)
            if (
                holding.suite
                and idle
                and holding.ending is None
                and holding.holder
                and self.why_not(entry, holding.node) == ""
            ):
                self.end(now, holding, Ending.FINISH, "another suite has work", out)
                return

    def _open(self, now: Now, entry: Entry, node: str, out: list[fx.Effect]) -> None:
        self._hold(now, Holding(node, entry.number), out)

    def _hold(self, now: Now, holding: Holding, out: list[fx.Effect]) -> None:
        node = holding.node
        self.holdings[node] = holding
        until_ms = now.real_ms + int(LEASE_S * 1000)

        def then(now: Now, result: Any, out: list[fx.Effect]) -> None:
            if self.holdings.get(node) is not holding:
                if not isinstance(result, MgmtError):
                    self.ask(op.EndHolder(result.holder, now.real_ms), _ignored, out)
                return
            if isinstance(result, MgmtError):
                del self.holdings[node]
                if not holding.suite:
                    self._unheld.add(node)
                return
            holding.holder = result.holder
            self._by_holder[result.holder] = holding
            self.metrics.add("agents_assigned_total", int(bool(holding.suite)))
            self._give(now, holding, out)

        worker = "" if holding.suite else node
        opened = op.OpenHolder(node, self._owner, until_ms, now.real_ms, suite=holding.suite, worker=worker)
        self.ask(opened, then, out)

    def _give(self, now: Now, holding: Holding, out: list[fx.Effect]) -> None:
        """Tell the node what it has."""
        if holding.suite:
            entry = self.entries[holding.suite]
            assignment = Assignment(
                holder=holding.holder,
                suite=entry.number,
                uuid=self.uuid(Kind.SUITE, entry.number),
                name=entry.record.name,
                group=entry.record.group,
                node=holding.node,
                worker=entry.worker,
                hooks=entry.hooks,
            )
        else:
            assert holding.offer is not None
            assignment = Assignment(holding.holder, 0, "independent", "", "", holding.node, holding.offer, {})
        if holding.node == LOCAL:
            self._crew.assign(now, assignment, out)
        else:
            self._roster.push(self._roster.nodes[holding.node], "suite", assignment.to_record(), out)

    def end(self, now: Now, holding: Holding, how: Ending, reason: str, out: list[fx.Effect]) -> None:
        """Have a node leave its suite; the holding goes when it says that it is idle."""
        holding.ending = how
        if holding.parked is not None:
            number, holding.parked = holding.parked[0], None
            self._answer_empty(now, holding, number, out)
        self._end_at(now, holding.node, holding.holder, how, reason, out)

    def drain(self, now: Now, node: str, out: list[fx.Effect]) -> None:
        """Have a node leave its suite: what runs there may end."""
        holding = self.holdings.get(node)
        if holding is not None and holding.ending is None:
            self.end(now, holding, Ending.FINISH, "the node is drained", out)

    def abort(self, now: Now, node: str, reason: str, out: list[fx.Effect]) -> None:
        """Have a node leave what it has at once; others do its tasks."""
        holding = self.holdings.get(node)
        if holding is not None and holding.holder:
            self._end_at(now, node, holding.holder, Ending.ABORT, reason, out)

    def _end_at(
        self, now: Now, node: str, holder: int, how: Ending, reason: str, out: list[fx.Effect]
    ) -> None:
        if node == LOCAL:
            self._crew.end(now, holder, how, reason, out)
        elif node in self._roster.nodes:
            body = {"holder": holder, "how": str(how), "reason": reason}
            self._roster.push(self._roster.nodes[node], "suite-end", body, out)

    def _consider(self, now: Now, holding: Holding, entry: Entry, out: list[fx.Effect]) -> None:
        """There is nothing to do for this one, now or ever: it leaves, at once or after a while."""
        if holding.ending is not None or not holding.holder:
            return
        if entry.counts.state == Suite.CANCELLED:
            self.end(now, holding, Ending.FINISH, "the suite is cancelled", out)
        elif entry.hooks.get("cleanup") or self._others_want(holding.node, entry):
            self.end(now, holding, Ending.FINISH, "the suite is complete", out)
        else:
            out.append(
                fx.SetTimer(
                    ("suites", f"idle {holding.node}"), now.mono_ns + int(defaults.SUITE_LINGER_S * 1e9)
                )
            )

    def _others_want(self, node: str, but: Entry) -> bool:
        return any(
            entry is not but and entry.is_live and entry.counts.ready and self.why_not(entry, node) == ""
            for entry in self.entries.values()
        )

    def _holdings_of(self, suite: int) -> list[Holding]:
        return [holding for holding in self.holdings.values() if holding.suite == suite]

    # ---- words of crews ----

    def suite_at(self, holder: int, node: str) -> Entry:
        """What a node works on; MgmtError `stale` when this holder of it has ended."""
        holding = self._by_holder.get(holder)
        entry = self.entries.get(holding.suite) if holding is not None and holding.node == node else None
        if entry is None:
            raise MgmtError("stale", f"node {node} has no suite as holder {holder} any more", holder=holder)
        return entry

    def exchange(
        self,
        now: Now,
        holder: int,
        number: int,
        want: int,
        outcomes: list[Outcome],
        states: list[list[int]],
        out: list[fx.Effect],
        node: str = LOCAL,
    ) -> None:
        holding = self._by_holder.get(holder)
        if holding is None or holding.node != node:
            self._end_at(now, node, holder, Ending.ABORT, "its time was up: others have its tasks", out)
            return
        if number <= holding.emptied:
            self._answer_empty(now, holding, number, out)
            return
        # One that is said again may have claimed tasks that never came; the first may be of before a restart.
        is_known = number > holding.asked > 0
        holding.asked = number
        if holding.parked is not None:
            parked, holding.parked = holding.parked[0], None
            is_known = True
            if parked != number:
                self._answer_empty(now, holding, parked, out)
        if states:
            reached = tuple((task, attempt, state) for task, attempt, state in states)
            self.ask(op.ExecStates(holder, reached, now.real_ms), self._on_states(states), out)
        entry = self.entries.get(holding.suite)
        is_live = entry.is_live if entry is not None else not holding.suite
        credits = want if holding.ending is None and is_live else 0
        results, returned = self._results(now, holding, entry, outcomes, out)
        claims = self._has_ready(holding) or not is_known
        if entry is not None and entry.counts == holding.vain:
            claims = False
        if results or returned or (credits and claims):
            self._claim(now, holding, number, credits, results, returned, out)
        elif outcomes or not want:
            self._answer_empty(now, holding, number, out)
        else:
            holding.parked, holding.idle_ns = (number, want), now.mono_ns
            if entry is not None and not entry.counts.pending:
                self._consider(now, holding, entry, out)
            if holding.suite:
                self.match(now, out)

    def _has_ready(self, holding: Holding) -> bool:
        entry = self.entries.get(holding.suite)
        return bool(entry.counts.ready if entry is not None else self.lanes.ready_for(holding.node))

    def _results(
        self, now: Now, holding: Holding, entry: Entry | None, outcomes: list[Outcome], out: list[fx.Effect]
    ) -> tuple[list[op.Result], tuple[tuple[int, int], ...]]:
        results: list[op.Result] = []
        returned: list[tuple[int, int]] = []
        for outcome in outcomes:
            what, task, attempt = outcome[:3]
            if what == "done":
                results.append(result_of(outcome, self.task_uuid))
            elif what == "returned":
                returned.append((task, attempt))
            elif what == "cancelled":
                results.append(op.Result(task, attempt, None, CANCELLED, 0, now.real_ms))
            else:
                _, _, _, cause, reason, unit = outcome
                eligible = self.eligible(entry) if entry is not None else self.lanes.rivals(holding.node)
                text = f"{unit}: {reason}"
                death = op.ReportDeath(holding.holder, task, attempt, cause, text, now.real_ms, eligible)
                self.ask(death, self._on_struck(holding, task), out)
        return results, tuple(returned)

    def _claim(
        self,
        now: Now,
        holding: Holding,
        number: int,
        want: int,
        results: Sequence[op.Result],
        returned: tuple[tuple[int, int], ...],
        out: list[fx.Effect],
        lane: int = 0,
    ) -> None:
        """`lane`: one that is about to have ready tasks."""
        entry = self.entries.get(holding.suite)
        lanes: tuple[int, ...] = ()
        if entry is not None:
            alone = self._is_alone(entry, holding.node)
        else:
            lanes = tuple({*self.lanes.ready_for(holding.node), *((lane,) if lane else ())})
            alone = all(self.lanes.eligible(one) == (holding.node,) for one in lanes)
        asked_ns = now.mono_ns
        ended = {one.task for one in results}
        told = ended & self.task_waiters.keys()

        def then(now: Now, result: Any, out: list[fx.Effect]) -> None:
            if isinstance(result, MgmtError):
                if result.code == "stale":
                    self._drop(holding)
                    self._end_at(now, holding.node, holding.holder, Ending.ABORT, result.text, out)
                return  # not written: it is said again
            for record in result.told:
                self._look(now, record.task, record, out)
            # Together, as a node has both in hand: what it gives up is not what it gets.
            claims = self._fetched(now, result.claims, asked_ns, out)
            if self.watcher is not None:
                told_of = [one.task for one in results] + [task for task, _ in returned]
                self.watcher.told(now, told_of, out)
            stale = result.acks.count(op.Ack.STALE)
            if not result.repeated:
                holding.done += result.acks.count(op.Ack.OK)
                holding.busy = max(0, holding.busy + len(claims) - len(results) - len(returned))
            if want:
                holding.vain = entry.counts if entry is not None and not claims else None
            cancelling = [list(one) for one in result.cancelling]
            is_vain = lanes and not (claims or results or returned or cancelling)
            if is_vain and holding.ending is None and self._has_ready(holding):
                # It may not have what is there: it asks anew when something has changed.
                holding.parked, holding.idle_ns = (number, 0), now.mono_ns
                return
            self._answer(now, holding, number, claims, cancelling, stale, out)
            if result.retried:
                self._sweep(now, out)  # which finds out when they are due
            for task in ended - told:  # somebody may have begun to wait for them meanwhile
                self.on_task(task, out)

        exchange = op.Exchange(
            holding.holder, number, now.real_ms, results, want, returned, lanes, alone, tuple(told)
        )
        self.ask(exchange, then, out)

    def _fetched(
        self, now: Now, claims: Sequence[op.Claim], asked_ns: int, out: list[fx.Effect]
    ) -> list[Claimed]:
        if claims:
            self.metrics.fetched((now.mono_ns - asked_ns) / 1e9)
        if self.watcher is not None:
            self.watcher.claimed(now, [claim.task for claim in claims], out)
        return [(claim.task, claim.attempt, claim.spec, self.task_uuid(claim.task), "") for claim in claims]

    def _wake(self, now: Now, holding: Holding, out: list[fx.Effect], lane: int = 0) -> int:
        """Have it claim if it waits for work; how much it may."""
        if holding.parked is None:
            return 0
        number, want = holding.parked
        holding.parked = None
        if want:
            self._claim(now, holding, number, want, (), (), out, lane)
        else:
            self._answer_empty(now, holding, number, out)
        return want

    def submit(self, now: Now, submission: op.Submit, then: Then, out: list[fx.Effect]) -> None:
        """Have the queue take tasks; whoever waits for some claims them in the same commit."""
        lane, count = submission.lane, len(submission.tasks)
        suite = lane if lane in self.entries else 0
        waiting = [
            holding
            for holding in sorted(self._holdings_of(suite), key=idleness)
            if holding.parked is not None
            and holding.ending is None
            and (suite or not self.lanes.why_not(lane, holding.node))
        ]
        if suite and waiting and waiting[0].parked is not None and waiting[0].parked[1] >= count:
            self._submit_for(now, waiting[0], submission, then, out)
            return
        self.ask(submission, then, out)
        for holding in waiting:
            if self._wake(now, holding, out, 0 if suite else lane):
                return

    def _submit_for(
        self, now: Now, holding: Holding, submission: op.Submit, then: Then, out: list[fx.Effect]
    ) -> None:
        """Its tasks are this holding's at once, if the queue finds nothing that comes before them."""
        assert holding.parked is not None
        parked, holding.parked = holding.parked, None
        number, _ = parked
        asked_ns = now.mono_ns

        def handed(now: Now, result: Any, out: list[fx.Effect]) -> None:
            if not isinstance(result, MgmtError) and result.claims:
                claims = self._fetched(now, result.claims, asked_ns, out)
                holding.busy += len(claims)
                holding.vain = None
                self._answer(now, holding, number, claims, [], 0, out)
            elif not _is_unwritten(result):  # else it is said again
                if holding.asked == number and holding.ending is None:
                    holding.parked = parked
                    if self._has_ready(holding):
                        self._wake(now, holding, out)
                else:
                    self._answer_empty(now, holding, number, out)
            then(now, result, out)

        self.ask(replace(submission, waiting=op.Waiting(holding.holder, *parked)), handed, out)

    def _answer_empty(self, now: Now, holding: Holding, number: int, out: list[fx.Effect]) -> None:
        """Without the queue, which knows nothing of this number: said again it must not claim, for its crew takes
        one answer only."""
        holding.emptied = max(holding.emptied, number)
        self._answer(now, holding, number, [], [], 0, out)

    def _answer(
        self,
        now: Now,
        holding: Holding,
        number: int,
        claims: list[Claimed],
        cancelling: list[list[int]],
        stale: int,
        out: list[fx.Effect],
    ) -> None:
        if holding.node == LOCAL:
            self._crew.on_work(now, holding.holder, number, claims, cancelling, stale, out)
            return
        node = self._roster.nodes.get(holding.node)
        if node is not None and node.peer:
            body = {
                "holder": holding.holder,
                "number": number,
                "tasks": [list(claim) for claim in claims],
                "cancelling": cancelling,
                "stale": stale,
            }
            out.append(fx.ToNode(node.peer, node.session, "crew-work", body))

    def progress(self, now: Now, progress: Progress, out: list[fx.Effect], node: str = LOCAL) -> None:
        """A crew says how far it is. Idle: it has left, and its node is free again."""
        holder, phase, reason, failed, completed, held, crowded = progress
        if phase is Phase.IDLE and not crowded:  # whoever was in the way of others may have left meanwhile
            for one in self.entries.values():
                one.has_room(node)
        holding = self._by_holder.get(holder)
        if holding is None or holding.node != node:
            if holder and phase is not Phase.IDLE:
                self._end_at(now, node, holder, Ending.ABORT, "its time was up: others have its tasks", out)
            elif not crowded:
                self.match(now, out)
            return
        holding.phase, holding.reason, holding.completed = phase, reason, completed
        if held is not None:
            self.ask(
                op.Reconcile(holder, tuple((task, attempt) for task, attempt in held), now.real_ms),
                self._on_reconciled(holding),
                out,
            )
        if phase is Phase.IDLE:
            self._drop(holding)
            entry = self.entries.get(holding.suite)
            if failed and holding.ending is None:
                if entry is not None:
                    entry.refuse(node, reason, crowded)
                else:
                    self.given_up[node] = reason
            elif not holding.suite:
                self._unheld.add(node)
                if self._roster.nodes[node].retiring:
                    self._dismiss(self._roster.nodes[node], None, out)
            self.ask(op.EndHolder(holder, now.real_ms), self._then_match, out)

    def _on_reconciled(self, holding: Holding) -> Then:
        def then(now: Now, result: Any, out: list[fx.Effect]) -> None:
            if isinstance(result, MgmtError):
                holding.unsure = holding.unsure or _is_unwritten(result)
                return
            gone = [list(one) for one in (*result.foreign, *result.cancelling)]
            if gone:
                self.cancel_at(now, holding, [task for task, _ in gone], out)

        return then

    def _on_states(self, states: list[list[int]]) -> Then:
        def then(now: Now, result: Any, out: list[fx.Effect]) -> None:
            for task, _, _ in states:
                self.on_task(task, out)

        return then

    def _on_struck(self, holding: Holding, task: int) -> Then:
        def then(now: Now, result: Any, out: list[fx.Effect]) -> None:
            holding.unsure = holding.unsure or _is_unwritten(result)
            self.on_task(task, out)
            if self.watcher is not None:
                self.watcher.told(now, [task], out)

        return then

    def _then_match(self, now: Now, result: Any, out: list[fx.Effect]) -> None:
        self.match(now, out)

    def on_task(self, task: int, out: list[fx.Effect]) -> None:
        """Something happened to a task: whoever waits for it looks."""
        if task in self.task_waiters:
            self.ask(op.GetTask(task), lambda now, found, out: self._look(now, task, found, out), out)

    def _look(self, now: Now, task: int, found: Any, out: list[fx.Effect]) -> None:
        if self.is_shared and isinstance(found, MgmtError) and found.code == "not-durable":
            return  # its server is away: whoever waits looks again soon
        waiters = self.task_waiters.pop(task, [])
        kept = [waiter for waiter in waiters if not waiter(now, found, out)]
        if kept:
            self.task_waiters[task] = [*kept, *self.task_waiters.get(task, ())]

    def cancel_running(self, now: Now, running: Iterable[op.Held], out: list[fx.Effect]) -> None:
        """Have the holders end these."""
        by_holder: dict[int, list[int]] = {}
        for one in running:
            by_holder.setdefault(one.holder, []).append(one.task)
        for holder, tasks in by_holder.items():
            holding = self._by_holder.get(holder)
            if holding is not None:
                self.cancel_at(now, holding, tasks, out)

    def cancel_at(self, now: Now, holding: Holding, tasks: list[int], out: list[fx.Effect]) -> None:
        if holding.node == LOCAL:
            self._crew.cancel(now, holding.holder, tasks, out)
        elif holding.node in self._roster.nodes:
            body = {"holder": holding.holder, "tasks": tasks}
            self._roster.push(self._roster.nodes[holding.node], "suite-cancel", body, out)

    def _drop(self, holding: Holding) -> None:
        self._by_holder.pop(holding.holder, None)
        if self.holdings.get(holding.node) is holding:
            del self.holdings[holding.node]

    # ---- independent workers ----

    def _on_worker(self, now: Now, node: Node, holding: Holding | None, out: list[fx.Effect]) -> None:
        """An independent worker said hello."""
        assert node.worker is not None
        self.given_up.pop(node.name, None)
        if node.retiring:
            self._dismiss(node, holding, out)
        elif holding is None:
            self._unheld.add(node.name)
        elif holding.holder and holding.ending is None and holding.offer != node.worker:
            self.end(now, holding, Ending.FINISH, "it was started again with other options", out)
        lifetime_s = node.worker["lifetime_s"]
        if lifetime_s is not None:
            left_s = max(0.0, node.started_at + lifetime_s - now.real_s)
            out.append(fx.SetTimer(("lifetime", node.name), now.mono_ns + int(left_s * 1e9)))

    def _enlist(self, now: Now, out: list[fx.Effect]) -> None:
        for name in sorted(self._unheld):
            node = self._roster.nodes[name]
            if name not in self.holdings and node.peer and not node.leaving and not node.retiring:
                self._unheld.discard(name)
                self._hold(now, Holding(name, 0, offer=node.worker), out)

    def on_lifetime(self, now: Now, name: str, out: list[fx.Effect]) -> None:
        node = self._roster.nodes.get(name)
        if node is not None and node.worker is not None and node.peer:
            self.retire(now, node, False, out)

    def retire(self, now: Now, node: Node, force: bool, out: list[fx.Effect]) -> None:
        """Have an independent worker end: when what it runs has ended, or at once and others do that anew."""
        node.retiring = True
        self._roster.dirty.add(node.name)
        self._unheld.discard(node.name)
        holding = self.holdings.get(node.name)
        if holding is not None and (force or not holding.holder):
            self._drop(holding)
            if holding.holder:
                self.ask(op.EndHolder(holding.holder, now.real_ms), _ignored, out)
            holding = None
        if holding is not None and holding.ending is None:
            self.end(now, holding, Ending.FINISH, "it was told to end", out)
        self._dismiss(node, holding, out)

    def _dismiss(self, node: Node, holding: Holding | None, out: list[fx.Effect]) -> None:
        if holding is None:
            self._roster.push(node, "shutdown", {}, out)

    def look_again(self, now: Now, out: list[fx.Effect]) -> None:
        """Who may work on what has changed."""
        self.match(now, out)
        self._serve(now, sum(counts.ready for counts in self.lanes.counts.values()), out)

    def _serve(self, now: Now, ready: int, out: list[fx.Effect]) -> None:
        """So many independent tasks may be waited for: those who waited longest have them."""
        if not ready:
            return
        for holding in sorted(self._holdings_of(0), key=idleness):
            if holding.parked is None or holding.ending is not None or not self._has_ready(holding):
                continue
            if ready > 0 or not holding.parked[1]:
                ready -= self._wake(now, holding, out)

    def _on_lanes(self, now: Now, result: Any, out: list[fx.Effect]) -> None:
        if isinstance(result, MgmtError):
            return
        for record in result:
            if not record.is_suite:
                self.lanes.adopt(record)
                self._pending.add(record.lane)
                self._serve(now, record.counts.ready, out)

    # ---- nodes and time ----

    def on_hello(self, now: Now, node: Node, replay: bool, out: list[fx.Effect]) -> None:
        """An agent is back: it is told what it has, unless it heard it before."""
        holding = self.holdings.get(node.name)
        if not replay:
            self._roster.push(node, "suite-pause", {"paused": node.name in self.paused}, out)
        if holding is not None and holding.holder and not replay:
            holding.parked = None
            self._give(now, holding, out)
            if holding.ending is not None:
                self._end_at(now, node.name, holding.holder, holding.ending, "", out)
        if node.worker is not None:
            self._on_worker(now, node, holding, out)
        self.match(now, out)

    def on_node(self, now: Now, node: Node, out: list[fx.Effect]) -> None:
        """A node changed its state or its tags."""
        holding = self.holdings.get(node.name)
        if node.state is NodeState.LOST and holding is not None:
            self._drop(holding)
            if holding.holder:
                self.ask(op.EndHolder(holding.holder, now.real_ms), self._then_match, out)
        elif node.state is NodeState.ALIVE:
            self.match(now, out)
        if node.state is NodeState.LOST:
            self._unheld.discard(node.name)

    def on_timer(self, now: Now, about: str, out: list[fx.Effect]) -> None:
        if about == "look":
            self.ask(op.ListSuites(limit=1 << 31), self._on_looked, out)
            self.ask(op.ListLanes(), self._on_lanes, out)
            for task in self.task_waiters:  # nor is it told here how tasks end elsewhere
                self.on_task(task, out)
        elif about == "sweep":
            self._sweeps = False
            self._sweep(now, out)
        elif about == "renew":
            self._renews = False
            holders = tuple(self._by_holder)
            if holders:
                renew = op.RenewHolders(holders, now.real_ms + int(LEASE_S * 1000), now.real_ms)
                self.ask(renew, self._on_renewed, out)
        else:
            holding = self.holdings.get(about.removeprefix("idle "))
            entry = self.entries.get(holding.suite) if holding is not None else None
            if (
                holding is not None
                and entry is not None
                and not entry.counts.pending
                and holding.ending is None
            ):
                self.end(now, holding, Ending.FINISH, "the suite is complete", out)

    def _on_looked(self, now: Now, result: Any, out: list[fx.Effect]) -> None:
        """What others made of the suites."""
        out.append(fx.SetTimer(("suites", "look"), now.mono_ns + int(LOOK_S * 1e9)))
        if isinstance(result, MgmtError):
            return
        for record in result.suites:
            entry = self.entries.get(record.suite)
            if entry is None:
                entry = self.adopt(record)
            self._count(now, (record.counts,), out)
            entry.renew(record)
        self.match(now, out)

    def _sweep(self, now: Now, out: list[fx.Effect]) -> None:
        if not self._sweeping:
            self._sweeping = True
            self.ask(op.Sweep(now.real_ms, int(self._auto_close_s * 1000)), self._on_swept, out)

    def _on_swept(self, now: Now, result: Any, out: list[fx.Effect]) -> None:
        self._sweeping = False
        self.match(now, out)  # whoever could not be given work when the queue could not write
        if isinstance(result, MgmtError) or not result.next_ms:
            return
        wait_s = min(SWEEP_S, self._auto_close_s, max(0.01, (result.next_ms - now.real_ms) / 1000))
        self._sweeps = True
        out.append(fx.SetTimer(("suites", "sweep"), now.mono_ns + int(wait_s * 1e9)))

    def _on_renewed(self, now: Now, result: Any, out: list[fx.Effect]) -> None:
        if isinstance(result, MgmtError):
            return
        for holding in [holding for holding in self._by_holder.values() if holding.unsure]:
            holding.unsure = False
            self._give(now, holding, out)  # its crew says what it has once more
        for holder in result.gone:
            ended = self._by_holder.get(holder)
            if ended is not None:
                self._drop(ended)
                self._end_at(now, ended.node, holder, Ending.ABORT, "its lease ended", out)
        self.cancel_running(now, result.cancelling, out)

    def stop(self, now: Now, out: list[fx.Effect]) -> None:
        """This daemon is being stopped: nothing new is given to anybody."""
        self.closing = True


LEASE_S = 15.0  # a holder whose daemon does not renew it for so long is anybody's
SWEEP_S = 5.0
LOOK_S = 1.0  # how long other daemons' suites may go unnoticed
AGEING_S = 60.0  # a suite that waits so long counts as one step more urgent


def _is_unwritten(result: Any) -> bool:
    return isinstance(result, MgmtError) and result.code in ("not-durable", "internal")


def _gives_back(result: Any) -> bool:
    """Whether tasks are ready again that are not named."""
    if isinstance(result, op.Returned):
        return result.tasks > 0
    return isinstance(result, op.Swept | op.Reconciled) and result.returned > 0


def _ignored(now: Now, result: Any, out: list[fx.Effect]) -> None:
    pass
