"""Roles against audiences: what each key may say, and that nothing else gets through."""

from __future__ import annotations

from typing import Any

import pytest

from mgmt.core import effect as fx
from mgmt.core import event as ev
from mgmt.core.access import MAY, USER, WORKER, permits
from mgmt.core.event import MACHINE, NODES_PLANE, Asked, Now, Route
from mgmt.core.state import State
from mgmt.core.step import step
from mgmt.protocol import frames, keys, messages
from mgmt.protocol.keys import Grant
from mgmt.protocol.messages import REQUESTS, Audience
from tests.core import builders

KEY, OTHER = "a" * 40, "b" * 40
OPERATOR = Grant(KEY, keys.OPERATOR, "alice")
CLIENT = Grant(KEY, keys.CLIENT, "web")
AGENT = Grant(KEY, "agent:n1", "n1")
BACKEND = Grant(KEY, keys.BACKEND, keys.BACKENDS)
NOBODY = Grant(KEY, keys.REVOKED, "")
OWN = {"whoami", "users", "token-new", "tokens", "token-revoke"}
GROUPS = {f"group-{what}" for what in ("create", "delete", "add", "remove", "role", "grant")} | {
    "groups",
    "quotas",
}
# role -> the verbs it may say, written out: the table of verbs and this one must be changed together
SUITES = {
    *("suite-create", "suites", "suite-cancel", "suite-close", "suite-wait", "suite-refresh", "suite-agents"),
    *(
        "task-submit",
        "tasks",
        "task-show",
        "task-cancel",
        "task-retry",
        "task-change",
        "task-wait",
        "workers",
    ),
}
COURIER = {"blob-begin", "blob-chunk", "blob-commit", "blob-read"}  # users and agents
FILES = {"attachments", "attachment-delete", "artifacts", "artifact-delete", *COURIER}
MAY_SAY = {
    keys.CLIENT: {
        *("hello", "status", "models", "wait", "explain", "lease", "release", "subscribe", "logs"),
        *("nodes", "node-wait", "schedule-show", "schedule-explain", "schedule-stat", "whoami", "metrics"),
    },
    USER: {
        "node-cordon",
        "node-drain",
        "node-shutdown",
        "node-tags",
        "worker-pause",
        "worker-shutdown",
        "worker-tags",
        *OWN,
        *GROUPS,
        *SUITES,
        *FILES,
    },  # and what a client may
    WORKER: {"hello", "whoami"},
    keys.AGENT: {"agent-hello", *COURIER},
    keys.BACKEND: {"backend-hello", "backend-ready"},
}
NOW = Now(builders.START_NS, builders.START_S)


def a_state() -> State:
    """A daemon with one model, `echo`."""
    return builders.a_state(builders.a_config(), builders.a_topology())


def ask(state: State, verb: str, grant: Grant | None, plane: str = "native", **body: Any) -> dict[str, Any]:
    """The one answer to a request of a key; an error's body has a `code`."""
    request = frames.Request(1, 0, verb, body, 0, "")
    route = Route(next(builders._serials), plane, b"peer", 1, 0, None, grant)
    out = step(state, NOW, Asked(route, verb, messages.validate(request)))
    (answer,) = (effect for effect in out if isinstance(effect, fx.Answer) and effect.route is route)
    assert isinstance(answer.body, dict | bytes)
    found = frames.unpack(answer.body) if isinstance(answer.body, bytes) else answer.body
    assert isinstance(found, dict)
    return found


def hello(state: State, grant: Grant | None) -> dict[str, Any]:
    return ask(state, "hello", grant, versions=[frames.VERSION])


@pytest.mark.parametrize("verb", REQUESTS)
def test_each_role_may_say_its_own_verbs_only(verb: str) -> None:
    audience = REQUESTS[verb].audience
    for role in (keys.CLIENT, keys.AGENT, keys.BACKEND, WORKER):
        assert permits(role, audience) is (verb in MAY_SAY[role]), role
    assert permits(USER, audience) is (verb in MAY_SAY[USER] | MAY_SAY[keys.CLIENT])
    assert permits(keys.OPERATOR, audience) is (
        verb not in (MAY_SAY[keys.AGENT] - COURIER) | MAY_SAY[keys.BACKEND]
    )
    assert permits(MACHINE, audience)
    for role in (keys.REVOKED, "admin", "", "nobody"):
        assert not permits(role, audience)


def test_every_audience_has_somebody() -> None:
    assert set().union(*MAY.values()) == set(Audience)


def test_an_agents_key_commands_nothing() -> None:
    state = a_state()
    for verb, body in (("stop-service", {}), ("load-model", {"model": "echo"}), ("status", {}), ("dump", {})):
        for plane in ("native", NODES_PLANE):
            refusal = ask(state, verb, AGENT, plane, **body)
            assert (refusal["code"], refusal["detail"]["role"]) == ("not-authorised", "agent:n1")
    assert not state.stopping
    assert state.loading.state("echo") == "STOPPED"


def test_an_agents_key_speaks_for_its_node_only() -> None:
    state = a_state()
    other = builders.a_hello("n2").body.model_dump()
    refusal = ask(state, "agent-hello", AGENT, NODES_PLANE, **other)
    assert refusal["code"] == "not-authorised" and "is for node 'n1'" in refusal["text"]
    assert not state.roster.nodes
    own = builders.a_hello("n1").body.model_dump()
    ask(state, "agent-hello", AGENT, NODES_PLANE, **own)
    assert list(state.roster.nodes) == ["n1"]


def test_a_client_gets_a_lease_but_no_load() -> None:
    state = a_state()
    hello(state, CLIENT)
    assert ask(state, "lease", CLIENT, model="echo")["code"] == "not-loaded"
    refusal = ask(state, "lease", CLIENT, model="echo", load=True)
    assert refusal["code"] == "not-authorised" and "a lease that loads the model" in refusal["text"]
    assert state.loading.state("echo") == "STOPPED"


def test_a_session_belongs_to_its_key() -> None:
    state = a_state()
    hello(state, OPERATOR)
    assert "service" in ask(state, "status", OPERATOR)
    # The same identity of a connection, with another key or with none:
    for grant in (Grant(OTHER, keys.OPERATOR, "mallory"), None):
        assert ask(state, "status", grant)["code"] == "session-gone"
        told = step(state, NOW, ev.Noticed(b"peer", 0, "bye", {}, grant))
        assert [effect.name for effect in told if isinstance(effect, fx.Tell)] == ["session-gone"]
    assert "service" in ask(state, "status", OPERATOR)


def test_a_revoked_key_loses_its_sessions_and_only_these() -> None:
    state = a_state()
    hello(state, OPERATOR)
    out = step(state, NOW, ev.KeysRevoked({OTHER: "bob"}))
    assert not [effect for effect in out if isinstance(effect, fx.Tell)]
    out = step(state, NOW, ev.KeysRevoked({KEY: "alice"}))
    assert [effect.name for effect in out if isinstance(effect, fx.Tell)] == ["session-gone"]
    assert not state.sessions.by_id
    last = state.journal.since(0)[0][-1]
    assert (last["what"], "'alice'" in last["reason"]) == ("key-revoked", True)
    assert ask(state, "status", NOBODY)["code"] == "not-authorised"
    assert hello(state, NOBODY)["code"] == "not-authorised"


def test_without_keys_everything_is_as_before() -> None:
    state = a_state()
    hello(state, None)
    assert "service" in ask(state, "status", None)
    out = step(state, NOW, ev.KeysRevoked({KEY: "alice"}))
    assert not [effect for effect in out if isinstance(effect, fx.Tell)]
