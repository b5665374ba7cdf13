"""What is true of a state between two events. Tests check it after every event; the daemon does not."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from typing import NoReturn

from mgmt.core.event import Route
from mgmt.core.nodes import NodeState
from mgmt.core.placement import conflict_between
from mgmt.core.schedule.workload import LOCAL
from mgmt.core.sessions import Sessions
from mgmt.core.state import State
from mgmt.core.supervision import AT_REST, Unit
from mgmt.core.supervision import State as UnitState
from mgmt.core.users import Users, UserState

# The states in which a process or a part of one must exist.
PRESENT = frozenset({UnitState.STARTING, UnitState.RUNNING, UnitState.STOPPING})


class InvariantBroken(AssertionError):
    """A bug: `rule` is the broken invariant, `about` the object it was found broken on."""

    def __init__(self, rule: str, about: str) -> None:
        super().__init__(f"{rule}: {about}")
        self.rule = rule
        self.about = about


def check(state: State) -> None:
    """Raise InvariantBroken for the first thing that is not as it must be."""
    _sessions(state.sessions)
    _calls(state.sessions)
    _keys(state.sessions)
    _leases(state)
    _units(state)
    _places(state)
    _schedules(state)
    _waiters(state)
    _journal(state)
    _nodes(state)
    _users(state.users)
    _stop(state)


def _broken(rule: str, about: object) -> NoReturn:
    raise InvariantBroken(rule, str(about))


def _users(users: Users) -> None:
    there = {name for name, user in users.users.items() if user.state is not UserState.DELETED}
    for name in users.users:
        group = users.groups.get(name)
        if group is None or group.deleted is (name in there):
            _broken("a user has a group of the same name for as long", name)
        elif name in there and name not in group.admins:
            _broken("a user is admin of the own group", name)
    for name, group in users.groups.items():
        if not group.deleted and not there >= group.members.keys():
            _broken("members of a group are users", name)
        if group.storage_used_bytes < 0:
            _broken("a group stores no less than nothing", name)
    for id, token in users.tokens.by_id.items():
        if token.id != id or token.user not in there:
            _broken("a token is a user's", id)


def _sessions(sessions: Sessions) -> None:
    for id, session in sessions.by_id.items():
        if session.id != id or sessions.by_peer.get(session.peer) is not session:
            _broken("a session is found by its number and by its peer", id)
    if len(sessions.by_peer) != len(sessions.by_id):
        _broken("a peer has one session", set(sessions.by_peer) - {s.peer for s in sessions.by_id.values()})
    if sessions.clients() > sessions.limits.sessions:
        _broken("open sessions of clients stay within their limit", sessions.clients())
    if sessions.ended:
        _broken("ended sessions were handed up", sessions.ended[0].id)
    if sessions.abandoned:
        _broken("abandoned calls were handed up", sessions.abandoned[0])


def _calls(sessions: Sessions) -> None:
    for route, call in sessions.calls.items():
        if not call.listeners:
            _broken("somebody listens to every call", route)
        for listener in call.listeners:
            if listener not in sessions.listeners or sessions.listeners[listener].call != route:
                _broken("a listener knows its call", listener)
    if sum(len(call.listeners) for call in sessions.calls.values()) != len(sessions.listeners):
        _broken("every listener is on the list of its call", len(sessions.listeners))
    if len(sessions.listeners) > sessions.limits.requests:
        _broken("waiting requests stay within their limit", len(sessions.listeners))
    for route, waiting in sessions.listeners.items():
        session = waiting.session
        if session is None:
            # The legacy plane has no sessions; a hello may come before there is one.
            continue
        if sessions.by_id.get(session.id) is not session:
            _broken("the session of a waiting request is open", route)
        if route not in session.waiting:
            _broken("a session counts its waiting requests", route)
    for session in sessions.by_id.values():
        if len(session.waiting) > sessions.limits.session_requests:
            _broken("waiting requests of a session stay within their limit", session.id)
        for route in session.waiting:
            if route not in sessions.listeners or sessions.listeners[route].session is not session:
                _broken("what a session waits for is parked", route)


def _keys(sessions: Sessions) -> None:
    if len(sessions.remembered) > sessions.limits.requests:
        _broken("remembered idempotency keys stay within their limit", len(sessions.remembered))
    for key, known in sessions.remembered.items():
        if known.answer is None and (
            known.call not in sessions.calls or sessions.calls[known.call].key != key
        ):
            _broken("an idempotency key without an answer has a parked call", key)
    for route, call in sessions.calls.items():
        if call.key is not None and sessions.remembered[call.key].call != route:
            _broken("a parked call's idempotency key is remembered", route)


def _leases(state: State) -> None:
    units, sessions = state.supervisor.units, state.sessions.by_id
    for id, lease in state.leases.by_id.items():
        if lease.id != id or lease.session not in sessions or id not in sessions[lease.session].leases:
            _broken("a lease belongs to an open session", id)
        if lease.unit is not None:
            if lease.unit not in units or units[lease.unit].state is not UnitState.RUNNING:
                _broken("a direct lease names a running unit", f"{id} on {lease.unit}")
            if units[lease.unit].spec.model.name != lease.model:
                _broken("a direct lease names a unit of its model", id)
        elif all(
            unit.state is UnitState.STOPPED and not unit.waiting_for
            for unit in state.loading.units(lease.model)
        ):
            _broken("a relay lease ends with the unload", id)
    for session in sessions.values():
        for id in session.leases:
            if id not in state.leases.by_id or state.leases.by_id[id].session != session.id:
                _broken("a session's leases are open and its own", id)


def _units(state: State) -> None:
    endpoints: dict[str, str] = {}
    for name, unit in state.supervisor.units.items():
        if unit.spec.name != name:
            _broken("a unit is found by its name", name)
        for rule, holds in _unit_rules(unit):
            if not holds:
                _broken(rule, f"{name} in {unit.state}")
        if unit.endpoint and endpoints.setdefault(unit.endpoint, name) != name:
            _broken("no two units share an endpoint", f"{name} and {endpoints[unit.endpoint]}")
        if state.loading.is_declared(unit) == (name in state.undeclared):
            _broken("a unit belongs to its model, unless it is to be forgotten", name)
        if unit.wanted and unit.state is UnitState.STOPPED and not unit.waiting_for and not state.stopping:
            _broken("a wanted unit that is stopped waits for something", name)
    if state.supervisor.changes:
        _broken("changes of units were handed up", state.supervisor.changes[0].unit.spec.name)


def _unit_rules(unit: Unit) -> Iterable[tuple[str, bool]]:
    """(what must hold, whether it does) for one unit."""
    state = unit.state
    restarts = unit.retry_ns is not None or unit.start_when_empty
    before = unit.hook == "pre_start"  # its hook runs, its process comes later
    yield (
        "a unit that is up or on its way has a process, or a hook before it",
        state not in PRESENT or unit.has_process or (before and state is not UnitState.RUNNING),
    )
    yield (
        "a hook gates what comes after it",
        (not before or (state in (UnitState.STARTING, UnitState.STOPPING) and not unit.has_process))
        and (unit.hook != "pre_stop" or (state is UnitState.STOPPING and unit.has_process)),
    )
    yield (
        "only a unit at rest that is wanted waits for others",
        not unit.waiting_for or (state in AT_REST and unit.wanted),
    )
    yield (
        "only a unit that is up outlives its stop",
        not unit.stop_reason
        or state
        in (
            UnitState.STARTING,
            UnitState.RUNNING,
        ),
    )
    yield (
        "a unit that is up or will be is wanted",
        unit.wanted
        or bool(unit.stop_reason)
        or state
        in (
            *AT_REST,
            UnitState.STOPPING,
        ),
    )
    yield "a stopped unit has no process", state is not UnitState.STOPPED or not unit.has_process
    yield "a running unit was ready", state is not UnitState.RUNNING or unit.proven
    yield (
        "a unit that is starting or running has its leader",
        state not in (UnitState.STARTING, UnitState.RUNNING) or not unit.leader_gone,
    )
    yield "a unit at rest will not start by itself", state not in AT_REST or not restarts
    yield "a unit in BACKOFF will start again", state is not UnitState.BACKOFF or restarts
    yield "only BACKOFF has a retry", unit.retry_ns is None or state is UnitState.BACKOFF
    yield (
        "only a unit that is not empty yet waits for it",
        not unit.start_when_empty
        or bool(unit.stop_reason)
        or state is UnitState.STOPPING
        or (state is UnitState.BACKOFF and unit.has_process),
    )
    yield (
        "a unit between two processes has lost its leader",
        state in PRESENT or not unit.has_process or unit.leader_gone,
    )
    yield (
        "a pid is that of a live leader",
        unit.pid is None or (unit.has_process and not unit.leader_gone),
    )
    yield (
        "usage is that of a process",
        unit.has_process or (unit.cpu_percent is None and unit.memory_bytes is None),
    )
    yield (
        "a process has an incarnation and an endpoint",
        not unit.has_process or (unit.incarnation > 0 and unit.endpoint != ""),
    )


def _places(state: State) -> None:
    held, units = state.ledger.held, state.supervisor.units
    for name, place in held.items():
        if name not in units or units[name].place != place:
            _broken("the ledger and the unit agree on its place", name)
        for other, theirs in held.items():
            if name < other and conflict_between(place, theirs):
                _broken("nothing is held twice", f"{name} and {other}: {conflict_between(place, theirs)}")
    for name, unit in units.items():
        if (name in held) != (unit.has_process or unit.state not in AT_REST):
            _broken("who is not at rest holds a place, and nobody else does", f"{name} in {unit.state}")
    promised = sum(place.memory_bytes for place in held.values()) + state.ledger.task_memory_bytes
    if promised > state.ledger.topology.memory_bytes:
        _broken("no more memory is promised than there is", promised)


def _schedules(state: State) -> None:
    """Every task is on a CPU that it may have, and none is promised more than it can do, to tasks and units."""
    schedules, ledger = state.schedules, state.ledger
    if schedules.version > state.journal.seq:
        _broken("a version is the number of an event", schedules.version)
    loads: dict[tuple[str, int], Fraction] = {}
    tests: dict[tuple[str, int], str] = {}
    tasks: dict[int, str] = {}
    memory_mb = 0
    for name, entry in sorted(schedules.entries.items()):
        nodes = {node.name: node for node in entry.workload.nodes}
        if entry.workload.name != name or not 0 < entry.version <= schedules.version:
            _broken("a workload is found by its name, of a version that was told", name)
        if len(entry.cpus) != len(entry.workload.tasks):
            _broken("every task has one CPU", name)
        for task, (node, cpu) in zip(entry.workload.tasks, entry.cpus, strict=True):
            allowed = task.node in ("", node) and (task.cpus is None or cpu in task.cpus)
            if node not in nodes or cpu not in nodes[node].cpus or not allowed:
                _broken("a task is on a CPU that it was bound to", f"{name}/{task.name} on {node}/{cpu}")
            if tests.setdefault((node, cpu), entry.test) != entry.test:
                _broken("one test holds on a CPU", f"{node}/{cpu}")
            loads[node, cpu] = loads.get((node, cpu), Fraction()) + Fraction(task.wcet_us, task.period_us)
            if node == LOCAL:
                tasks.setdefault(cpu, name)
                memory_mb += task.memory_mb
    for place, load in loads.items():
        if load > 1:
            _broken("no CPU is promised twice", f"{place}: {load}")
    if ledger.tasks != tasks or ledger.task_memory_bytes != memory_mb << 20:
        _broken("the ledger knows the tasks of this machine", tasks)
    for cpu, unit in ledger.closed().items():
        if cpu in tasks:
            _broken("no CPU is promised twice", f"CPU {cpu} to unit {unit} and to tasks of {tasks[cpu]}")


def _waiters(state: State) -> None:
    calls = state.sessions.calls
    kept: dict[str, Iterable[Route]] = {
        "a load": state.loading.waiting(),
        "a wait": state.conditions.waiting(),
        "a legacy handshake": state.handshakes.waiting(),
        "an operation": state.operations.waiting(),
        "a lease": state.lease_waiters,
        "a node": state.node_waiters,
        "an answer of a node": dict.fromkeys(ask.route for ask in state.node_asks.values()),
        "a schedule": state.schedules.waiting(),
    }
    seen: set[Route] = set()
    for what, routes in kept.items():
        for route in routes:
            if route not in calls:
                _broken(f"{what} that is waited for has a parked call", route)
            if route in seen:
                _broken("a call waits for one thing", route)
            seen.add(route)
    for route, call in calls.items():
        # What reads a file waits in the shell, what is about suites, tasks and candidates for their queue.
        verb = call.asked.verb
        outside = verb in ("logs", "plan", "apply", "schedule-stat", "tasks") or verb.startswith(
            ("suite-", "task-", "blob-", "attachment", "artifact", "candidates-")
        )
        if route not in seen and not outside:
            _broken("somebody will answer every parked call", route)
    for route, (session, model, _) in state.lease_waiters.items():
        if state.sessions.by_id.get(session.id) is not session:
            _broken("who waits for a lease has an open session", route)
        if state.loading.state(model) in AT_REST:
            _broken("who waits for a lease waits for a load", route)


def _journal(state: State) -> None:
    numbers = state.journal.kept()
    if numbers and (numbers[-1] != state.journal.seq or numbers != list(range(numbers[0], numbers[-1] + 1))):
        _broken("the history ends with the last event and has no gaps", state.journal.seq)
    if not numbers and state.journal.seq:
        _broken("the last event is kept", state.journal.seq)


def _nodes(state: State) -> None:
    roster, postings = state.roster, state.supervisor.postings
    for peer, node in roster.by_peer.items():
        if node.peer != peer or roster.nodes.get(node.name) is not node:
            _broken("a connection speaks for the node that it is known as", node.name)
    for name, node in roster.nodes.items():
        if node.name != name:
            _broken("a node is found by its name", name)
        if node.state is NodeState.LOST and (node.peer or node.unacked):
            _broken("a lost node has no session", name)
        if [seq for seq, _, _ in node.unacked] != list(
            range(node.pushed - len(node.unacked) + 1, node.pushed + 1)
        ):
            _broken("pushes that are not acknowledged are the last ones, without a gap", name)
    for name, posting in postings.items():
        if posting.node not in roster.nodes:
            _broken("an assignment names a node that joined once", name)
    for name, unit in state.supervisor.units.items():
        if unit.node and (name not in postings or postings[name].node != unit.node):
            _broken("a unit that is elsewhere has its assignment there", name)
    if roster.changes:
        _broken("changes of nodes were handed up", roster.changes[0].node.name)


def _stop(state: State) -> None:
    if not state.stopping or state.handed_over:
        return
    for name, unit in state.supervisor.units.items():
        if unit.node:
            continue  # it runs on without this daemon
        if unit.state not in (UnitState.STOPPED, UnitState.STOPPING) and not unit.stop_reason:
            _broken("a daemon that stops starts nothing", name)
        if unit.has_process and state.quit_said:
            _broken("Quit is said when no process is left", name)
        if unit.start_when_empty:
            _broken("a daemon that stops starts nothing again", name)
    if state.quit_said and state.sessions.calls:
        _broken("nobody waits for a daemon that has stopped", next(iter(state.sessions.calls)))
