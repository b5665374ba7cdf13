"""The invariants notice what is broken: each is broken once by hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from mgmt.core.invariants import InvariantBroken, check
from mgmt.core.sessions import Session
from mgmt.core.state import State
from mgmt.core.supervision import State as UnitState
from mgmt.core.supervision.supervisor import Change
from mgmt.core.users import Token
from mgmt.protocol.messages import Role
from tests.core.builders import a_legacy_route, a_model, a_restart
from tests.core.recorder import a_daemon


def a_lived_in_state() -> State:
    """`up` RUNNING with leases, `slow` STARTING with waiters, `bad` FATAL, `again` BACKOFF."""
    rows = [a_model("up"), a_model("slow"), a_model("bad"), a_model("again", restart=a_restart("always"))]
    world = a_daemon(rows)
    client = world.client()
    client.ask("load-model", model="up")
    client.ask("load-model", model="again")
    world.settle()
    world.exit("again")
    client.ask("load-model", model="bad")
    world.start("bad")
    world.exit("bad", code=1)
    client.ask("load-model", key="key", model="slow")
    client.ask("lease", model="slow", load=True)
    client.ask("lease", model="up")
    client.ask("lease", model="up", mode="relay")
    client.ask("wait", target="up", condition="failed")
    client.ask("models", key="done")
    world.drain()
    check(world.state)
    return world.state


def _unit(name: str, **fields: Any) -> Callable[[State], None]:
    def breaks(state: State) -> None:
        for field, value in fields.items():
            setattr(state.supervisor.units[name], field, value)

    return breaks


def _first(mapping: dict[Any, Any]) -> Any:
    return next(iter(mapping.values()))


def _listener(state: State) -> Any:
    return _first(state.sessions.listeners)


def _swap_lease_units(state: State) -> None:
    for id, lease in list(state.leases.by_id.items()):
        if lease.unit is not None:
            state.leases.by_id[id] = dataclasses.replace(lease, unit="slow")


NOBODY = (Session(1, b"", "", 0), "slow", "direct")

CASES: list[tuple[str, Callable[[State], object]]] = [
    ("found by its number", lambda s: s.sessions.by_peer.clear()),
    ("a peer has one session", lambda s: s.sessions.by_peer.update({b"x": _first(s.sessions.by_id)})),
    ("ended sessions were handed up", lambda s: s.sessions.ended.append(_first(s.sessions.by_id))),
    ("abandoned calls were handed up", lambda s: s.sessions.abandoned.append(next(iter(s.sessions.calls)))),
    ("somebody listens", lambda s: _first(s.sessions.calls).listeners.clear()),
    ("a listener knows its call", lambda s: s.sessions.listeners.clear()),
    ("every listener is on the list", lambda s: s.sessions.calls.popitem()),
    ("the session of a waiting request is open", lambda s: setattr(_listener(s), "session", NOBODY[0])),
    ("a session counts its waiting requests", lambda s: _listener(s).session.waiting.clear()),
    ("without an answer has a parked call", lambda s: setattr(_first(s.sessions.calls), "key", None)),
    ("a lease belongs to an open session", lambda s: _first(s.sessions.by_id).leases.clear()),
    ("leases are open and its own", lambda s: _first(s.sessions.by_id).leases.add(7)),
    ("a direct lease names a running unit", _swap_lease_units),
    ("is up or on its way has a process", _unit("up", has_process=False, pid=None)),
    ("a stopped unit has no process", _unit("slow", state=UnitState.STOPPED)),
    ("a running unit was ready", _unit("up", proven=False)),
    ("starting or running has its leader", _unit("up", leader_gone=True)),
    ("at rest will not start by itself", _unit("bad", retry_ns=1)),
    ("at rest will not start by itself", _unit("bad", start_when_empty=True)),
    ("in BACKOFF will start again", _unit("again", retry_ns=None)),
    ("only BACKOFF has a retry", _unit("up", retry_ns=1)),
    ("not empty yet waits for it", _unit("up", start_when_empty=True)),
    ("has lost its leader", _unit("bad", has_process=True, leader_gone=False)),
    ("a pid is that of a live leader", _unit("bad", pid=1)),
    ("usage is that of a process", _unit("bad", memory_bytes=1)),
    ("has an incarnation and an endpoint", _unit("up", incarnation=0)),
    ("share an endpoint", lambda s: _unit("up", endpoint=s.supervisor.units["slow"].endpoint)(s)),
    ("a unit is found by its name", lambda s: s.supervisor.units.update(x=s.supervisor.units["bad"])),
    ("a unit belongs to its model", lambda s: s.loading.units("bad").clear()),
    (
        "changes of units were handed up",
        lambda s: s.supervisor.changes.append(
            Change(s.supervisor.units["up"], UnitState.STOPPED, UnitState.STARTING, "r", 1)
        ),
    ),
    ("a call waits for one thing", lambda s: s.lease_waiters.update({s.loading.waiting()[0]: NOBODY})),
    ("that is waited for has a parked call", lambda s: s.lease_waiters.update({a_legacy_route(): NOBODY})),
    ("somebody will answer", lambda s: s.lease_waiters.clear()),
    ("the history ends with the last event", lambda s: setattr(s.journal, "seq", 10_000)),
    ("a group of the same name", lambda s: s.users.groups.clear()),
    ("admin of the own group", lambda s: _first(s.users.groups).members.clear()),
    ("members of a group are users", lambda s: _first(s.users.groups).members.update(nobody=Role.READ)),
    ("no less than nothing", lambda s: setattr(_first(s.users.groups), "storage_used_bytes", -1)),
    (
        "a token is a user's",
        lambda s: s.users.tokens.by_id.update({"x/y": Token("x", "y", "", "user", "", 0.0, 1.0)}),
    ),
    ("a daemon that stops starts nothing", lambda s: setattr(s, "stopping", True)),
]


@pytest.mark.parametrize(("rule", "breaks"), CASES)
def test_a_broken_invariant_is_named(rule: str, breaks: Callable[[State], object]) -> None:
    state = a_lived_in_state()
    breaks(state)
    with pytest.raises(InvariantBroken) as caught:
        check(state)
    assert rule in caught.value.rule and caught.value.about
