"""The whole state of a daemon: the slices, and the facts they share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mgmt.core.candidates.automatic import Automatic
from mgmt.core.candidates.desk import Desk
from mgmt.core.candidates.rules import Rules, rules_of
from mgmt.core.effect import Effect
from mgmt.core.event import Now, Route
from mgmt.core.journal import Journal
from mgmt.core.models import Conditions, Handshakes, Leases, Loading, Operations, Registry
from mgmt.core.nodes import Agent, AgentFacts, Fleet, Roster
from mgmt.core.placement import Ledger, Topology, plan
from mgmt.core.schedule.execution import Execution
from mgmt.core.schedule.hosting import Hosting
from mgmt.core.schedule.schedules import Schedules
from mgmt.core.sessions import Session, SessionLimits, Sessions
from mgmt.core.suites.board import Board
from mgmt.core.suites.crew import Crew
from mgmt.core.suites.entry import Entry
from mgmt.core.suites.filing import Filing
from mgmt.core.suites.outbox import Outbox
from mgmt.core.suites.upward import ToDaemon
from mgmt.core.supervision import Ordering, UnitSpec
from mgmt.core.users import Users
from mgmt.protocol import defaults
from mgmt.protocol.errors import MgmtError
from mgmt.settings import Settings

Body = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Identity:
    """Facts of this run that the shell finds out at start.

    `epoch` differs from every earlier run's; `secret` is 32 random bytes; `log_dir` is where units' logs lie.
    """

    version: str
    pid: int
    epoch: int
    secret: bytes
    config: str
    log_dir: str
    started: Now
    topology: Topology = field(default_factory=lambda: Topology(()))
    host: str = ""  # what the machine calls itself
    suites_dir: str = ""  # where suites have their folders
    workers: str = ""  # the socket to which workers connect
    worker: str = ""  # the program of workers that run processes
    queue: int = 0  # id of the queue of tasks
    owner: str = ""  # id of this daemon among those of one queue: that of its state folder
    environ: Mapping[str, str] = field(default_factory=dict)  # of tasks, before their own
    debug: bool = False  # the daemon's log has lines of that level


@dataclass(slots=True)
class Ask:
    """What an agent is asked on behalf of a request; `take` gets its answer, or why there is none."""

    route: Route
    node: str
    take: Callable[[Body | MgmtError, list[Effect]], None]


@dataclass(slots=True)
class Gathering:
    """A schedule-stat whose parts come from several nodes: what is known by unit, and who has not answered."""

    rows: dict[str, Body]
    waits: set[str]
    next: int | None
    unreachable: list[dict[str, str]] = field(default_factory=list)


@dataclass(slots=True)
class StatusCache:
    """The last status of everything and what it was true for; see `core.status`."""

    key: tuple[int, int, bool] | None = None
    until_ns: int = 0
    body: dict[str, Any] | None = None  # for readers of the legacy plane
    packed: bytes | None = None  # for all others


class State:
    """Built once; changed by `step` alone. `agent` is who it is when it serves another daemon."""

    def __init__(self, settings: Settings, identity: Identity, agent: AgentFacts | None = None) -> None:
        self.settings = settings
        self.identity = identity
        limits = settings.limits
        self.sessions = Sessions(
            identity.epoch,
            SessionLimits(
                sessions=limits.max_sessions,
                session_requests=limits.max_session_requests,
                requests=limits.max_requests,
                timeout_ns=int(settings.timing.session_timeout_s * 1e9),
                key_ns=int(settings.timing.idempotency_keep_s * 1e9),
            ),
        )
        self.users = Users()
        self.journal = Journal(self.sessions, limits.max_event_history)
        self.registry = Registry(settings)
        prefix = f"{settings.endpoints.model_socket_dir}/{defaults.MODEL_SOCKET_PREFIX}"
        specs = self.registry.all_specs()
        self.ledger = Ledger(identity.topology, plan(identity.topology, (spec.demand for spec in specs)))
        timing = settings.timing
        self.roster = Roster(identity.epoch, identity.secret, timing.node_heartbeat_s, timing.node_lost_s)
        self.supervisor = Fleet(
            identity.secret, identity.epoch, settings.endpoints.control, prefix, self.ledger, self.roster
        )
        self.ordering = Ordering(self.supervisor)
        self.loading = Loading(
            self.registry,
            self.supervisor,
            self.ordering,
            self.sessions,
            limits.max_units,
            together=agent is None,
        )
        self.loading.declare(specs, [])
        self.operations = Operations(
            self.registry, self.supervisor, self.ordering, self.loading, self.sessions
        )
        self.leases = Leases(identity.secret, self.sessions, settings.endpoints.relay)
        self.handshakes = Handshakes(self.registry, self.supervisor, self.loading, self.sessions)
        self.conditions = Conditions(self.registry, self.supervisor, self.loading, self.sessions)
        self.execution = Execution(
            self.supervisor,
            self.ordering,
            self.journal,
            self.roster,
            self._declare_tasks,
            self._on_started,
            timing.stage_s,
        )
        self.hosting = Hosting(self.supervisor)
        self.schedules = Schedules(
            self.sessions,
            self.journal,
            self.ledger,
            identity.host,
            self.replan,
            self.registry.configured,
            self.execution,
        )
        # Lease requests that wait for a load: session, model, mode.
        self.lease_waiters: dict[Route, tuple[Session, str, str]] = {}
        # Units that the configuration no longer has; they go when nothing of them is left.
        self.undeclared: set[str] = set()
        self.node_waiters: dict[Route, tuple[str, str]] = {}  # node and condition
        self.node_asks: dict[int, Ask] = {}  # by number: questions that agents have not answered yet
        self.asks = 0  # number of the last one
        self.gatherings: dict[Route, Gathering] = {}
        self.agent: Agent | None = None
        if agent is not None:
            self.agent = Agent(
                agent,
                self.supervisor,
                self.ordering,
                self.ledger,
                self._declare,
                self.undeclared,
                self.hosting,
            )
        shared = settings.queue.database is not None
        self.board = Board(
            self.roster,
            identity.queue,
            identity.owner,
            self.users.may_send,
            shared,
            timing.suite_auto_close_s,
        )
        self.crew = Crew(
            self.supervisor,
            self.ordering,
            self._declare_crew,
            ToDaemon(self.agent) if self.agent is not None else self.board,
            root=identity.suites_dir,
            socket=identity.workers,
            worker=identity.worker,
            environ=identity.environ,
            outbox=Outbox() if self.agent is not None else None,
        )
        self.filing = Filing()
        self.board.attach(self.crew)
        self._rules = rules_of(settings.candidates.model_dump()), settings.candidates
        self.desk = Desk(self.board, self._rules_of_candidates, identity.debug)
        self.board.watcher = self.desk.lines
        self.automatic = Automatic(self.desk, self.board, self.candidates_suite)
        self.stopping = False
        self.quit_said = False
        self.handed_over = False  # left with units that run on
        self.counters: dict[str, int] = {}
        self.status_cache = StatusCache()

    def candidates_suite(self, told: str | None = None) -> Entry:
        """The suite that candidates run in; MgmtError when there is none."""
        key = told or self.settings.candidates.suite
        if key is None:
            raise MgmtError(
                "bad-body", "no suite: name one with --suite, or as `candidates.suite` in config.json"
            )
        entry = self.board.find(key)
        if entry is None:
            raise MgmtError(
                "unknown-suite", f"no suite {key!r} is known; `mgmt suite create` makes one", suite=key
            )
        return entry

    def _rules_of_candidates(self) -> Rules:
        if self._rules[1] is not self.settings.candidates:
            self._rules = rules_of(self.settings.candidates.model_dump()), self.settings.candidates
        return self._rules[0]

    def _declare(self, specs: list[UnitSpec]) -> None:
        self.loading.declare(specs, [])  # nobody waits for a load at an agent

    def _declare_crew(self, specs: dict[str, UnitSpec], out: list[Effect]) -> None:
        """These are the hooks and workers of this machine's suite."""
        if self.agent is None:
            self._declare_tasks(specs, out, "crew")
            return
        units = self.supervisor.units
        self.undeclared.update(name for name in self.agent.also if name not in specs and name in units)
        self.agent.also = specs
        for name, spec in specs.items():
            if name in units:
                units[name].spec = spec
                self.undeclared.discard(name)
        self.agent.redeclare()

    def _declare_tasks(self, specs: dict[str, UnitSpec], out: list[Effect], source: str = "tasks") -> None:
        """Other tasks of this machine are in force; those that are gone go as soon as nothing of them is left."""
        units = self.supervisor.units
        gone = self.registry.set_tasks(specs, source)
        self.undeclared.update(name for name in gone if name in units)
        declared = self.registry.all_specs()
        for spec in declared:
            if spec.name in specs and spec.name in units:
                units[spec.name].spec = spec
                self.undeclared.discard(spec.name)
        self.replan()
        self.loading.declare(declared, out)

    def _on_started(self, now: Now, name: str, t0_ns: int, reason: str, out: list[Effect]) -> None:
        self.schedules.on_started(now, name, t0_ns, reason, out)

    def replan(self) -> None:
        """Plan the places of the units anew: other ones are declared, or other CPUs have periodic tasks."""
        demands = (spec.demand for spec in self.registry.all_specs())
        self.ledger.replan(plan(self.ledger.topology, demands, self.ledger.tasks.keys()))

    def count(self, what: str) -> None:
        """One more of something an operator may want to know about."""
        self.counters[what] = self.counters.get(what, 0) + 1
