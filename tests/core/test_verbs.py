"""The table of verbs and the handlers are the same set, and every verb has a good and a bad answer."""

from __future__ import annotations

from typing import Any

import pytest

from mgmt.core import effect as fx
from mgmt.core import event as ev
from mgmt.core.step import HANDLERS
from mgmt.core.supervision import TRANSITIONS
from mgmt.core.supervision.unit import IllegalTransition, State, Unit, UnitSpec
from mgmt.protocol import frames, messages, tokens
from mgmt.protocol.errors import MgmtError
from tests.core.builders import a_hello, a_model, a_restart
from tests.core.recorder import Client, World, a_daemon

CONTROL = {
    "workload": "control",
    "tasks": [{"name": "loop", "period_us": 10000, "wcet_us": 1000, "priority": 50}],
}
CI = tokens.digest("mgmt_ci")
LOG = {"unit": "up", "path": "/s/logs/up.log", "data": b"line\n", "offset": 5, "inode": 9}


def a_busy_daemon() -> tuple[World, Client]:
    """`up` is RUNNING, `idle` never was, `bare` has no backend; `control` has a task `loop`; `n1` is a node.

    `bob` may read in group `vision`; `alice` has a token `ci`.
    """
    world = a_daemon([a_model("up"), a_model("idle"), a_model("bare", no_backend=True)])
    client = world.client()
    client.ask("load-model", model="up")
    client.ask("schedule-submit", documents=[CONTROL])
    assert world.ask(a_hello("n1")).ok
    for user in ("alice", "bob"):
        assert client.ask("user-create", user=user).ok
    assert client.ask("group-create", group="vision").ok
    assert client.ask("group-add", group="vision", user="bob").ok
    assert client.ask("token-new", user="alice", name="ci", digest=CI).ok
    world.settle()
    return world, client


def test_every_verb_of_the_table_has_one_handler_and_every_handler_a_verb() -> None:
    assert set(messages.REQUESTS) == set(HANDLERS)


# verb -> a body that succeeds in a busy daemon; the answer is checked against its model by the world
GOOD: dict[str, dict[str, Any]] = {
    "hello": {"versions": [1]},
    "status": {},
    "models": {},
    "load-model": {"model": "idle"},
    "unload-model": {"model": "up"},
    "stop-service": {},
    "wait": {"target": "up"},
    "lease": {"model": "up"},
    "release": {"lease": 0},
    "subscribe": {"since": 0},
    "logs": {"unit": "up"},
    "backend-hello": {"versions": [1], "pid": 1},
    "backend-ready": {"protocols": ["lm"]},
    "start": {"targets": ["idle"]},
    "stop": {"targets": ["up"]},
    "restart": {"targets": ["up"]},
    "reset-failed": {},
    "plan": {},
    "apply": {},
    "explain": {"target": "up"},
    "dump": {},
    "nodes": {},
    "node-cordon": {"node": "n1"},
    "node-drain": {"node": "n1"},
    "node-shutdown": {"node": "n1"},
    "node-wait": {"node": "n1"},
    "node-tags": {"node": "n1", "add": ["gpu"]},
    "agent-hello": {},
    "schedule-submit": {"documents": [{**CONTROL, "workload": "another"}]},
    "schedule-show": {},
    "schedule-stat": {"workload": "control", "records": True},
    "schedule-remove": {"workload": "control"},
    "schedule-explain": {"task": "loop"},
    "schedule-rebalance": {"apply": True},
    "whoami": {},
    "user-create": {"user": "carol"},
    "users": {"users": ["alice"]},
    "user-lock": {"user": "alice"},
    "user-delete": {"user": "alice"},
    "token-new": {"user": "alice", "name": "new", "digest": "0" * 64},
    "tokens": {"user": "alice"},
    "token-revoke": {"user": "alice", "name": "ci"},
    "group-create": {"group": "another"},
    "groups": {"groups": ["vision"]},
    "group-delete": {"group": "vision"},
    "group-add": {"group": "vision", "user": "alice"},
    "group-remove": {"group": "vision", "user": "bob"},
    "group-role": {"group": "vision", "user": "bob", "role": "write"},
    "group-grant": {"group": "vision", "node": "n1"},
    "quotas": {"name": "vision"},
    "quota-set": {"name": "alice", "groups": 3, "storage_bytes": 1},
    "fault-report": {"source": "s", "faults": [{"workload": "w", "task": "t", "node": "n", "misses": 1}]},
}

# (verb, body, code)
BAD: list[tuple[str, dict[str, Any], str]] = [
    ("hello", {"versions": [9]}, "bad-version"),
    ("status", {"units": ["up", "nobody"]}, "unknown-model"),
    ("load-model", {"model": "nobody"}, "unknown-model"),
    ("load-model", {"model": "bare"}, "no-backend"),
    ("unload-model", {"model": "nobody"}, "unknown-model"),
    ("unload-model", {"model": "idle"}, "not-loaded"),
    ("wait", {"target": "nobody"}, "unknown-model"),
    ("lease", {"model": "nobody"}, "unknown-model"),
    ("lease", {"model": "idle"}, "not-loaded"),
    ("lease", {"model": "bare", "load": True}, "no-backend"),
    ("release", {"lease": 12345}, "lease-gone"),
    ("logs", {"unit": "nobody"}, "unknown-model"),
    ("logs", {"unit": "idle"}, "not-loaded"),
    (
        "backend-hello",
        {"versions": [1], "unit": "up", "incarnation": 1, "token": "no", "pid": 1},
        "denied",
    ),
    ("backend-ready", {"unit": "up", "incarnation": 1, "token": "no"}, "denied"),
    ("start", {"targets": ["nobody"]}, "unknown-model"),
    ("start", {"targets": ["bare"]}, "no-backend"),
    ("stop", {"targets": ["up", "nobody"]}, "unknown-model"),
    ("restart", {"targets": ["nobody"]}, "unknown-model"),
    ("reset-failed", {"targets": ["nobody"]}, "unknown-model"),
    ("explain", {"target": "nobody"}, "unknown-model"),
    ("nodes", {"nodes": ["nowhere"]}, "unknown-node"),
    ("node-cordon", {"node": "nowhere"}, "unknown-node"),
    ("node-cordon", {"node": "local"}, "not-available"),
    ("node-drain", {"node": "nowhere"}, "unknown-node"),
    ("node-shutdown", {"node": "nowhere"}, "unknown-node"),
    ("node-shutdown", {"node": "local"}, "not-available"),
    ("node-wait", {"node": "nowhere", "condition": "lost"}, "unknown-node"),
    ("node-tags", {"node": "nowhere"}, "unknown-node"),
    ("node-tags", {"node": "n1", "add": ["a"], "remove": ["a"]}, "bad-body"),
    ("agent-hello", a_hello("n2").body.model_dump(), "denied"),
    ("agent-hello", {**a_hello("n2").body.model_dump(), "token": "mgmt_wrong"}, "not-authorised"),
    ("hello", {"versions": [1], "token": "mgmt_wrong"}, "not-authorised"),
    ("user-create", {"user": "alice"}, "conflict"),
    ("user-create", {"user": "vision"}, "conflict"),
    ("user-create", {"user": "administrator"}, "conflict"),
    ("users", {"users": ["nobody"]}, "unknown-user"),
    ("user-lock", {"user": "nobody"}, "unknown-user"),
    ("user-lock", {"user": "administrator"}, "conflict"),
    ("user-delete", {"user": "nobody"}, "unknown-user"),
    ("user-delete", {"user": "administrator"}, "conflict"),
    ("token-new", {"user": "nobody", "name": "x", "digest": "0" * 64}, "unknown-user"),
    ("token-new", {"user": "alice", "name": "ci", "digest": "0" * 64}, "conflict"),
    ("token-new", {"user": "alice", "name": "x", "digest": CI}, "conflict"),
    ("token-new", {"user": "alice", "name": "x", "digest": "0" * 64, "scope": "node"}, "bad-body"),
    ("token-new", {"user": "alice", "name": "x", "digest": "0" * 64, "node": "n1"}, "bad-body"),
    ("tokens", {"user": "nobody"}, "unknown-user"),
    ("token-revoke", {"user": "alice", "name": "nothing"}, "unknown-token"),
    ("group-create", {"group": "vision"}, "conflict"),
    ("group-create", {"group": "alice"}, "conflict"),
    ("groups", {"groups": ["nothing"]}, "unknown-group"),
    ("group-delete", {"group": "nothing"}, "unknown-group"),
    ("group-delete", {"group": "alice"}, "conflict"),
    ("group-add", {"group": "nothing", "user": "alice"}, "unknown-group"),
    ("group-add", {"group": "vision", "user": "nobody"}, "unknown-user"),
    ("group-add", {"group": "vision", "user": "bob", "role": "admin"}, "conflict"),
    ("group-remove", {"group": "vision", "user": "alice"}, "conflict"),
    ("group-remove", {"group": "vision", "user": "administrator"}, "conflict"),
    ("group-remove", {"group": "alice", "user": "alice"}, "conflict"),
    ("group-role", {"group": "vision", "user": "alice", "role": "read"}, "conflict"),
    ("group-role", {"group": "vision", "user": "administrator", "role": "read"}, "conflict"),
    ("group-grant", {"group": "nothing", "node": "n1"}, "unknown-group"),
    ("group-grant", {"group": "vision", "node": "nowhere"}, "unknown-node"),
    ("group-grant", {"group": "vision"}, "bad-body"),
    ("group-grant", {"group": "vision", "node": "n1", "worker": "w"}, "bad-body"),
    ("quotas", {"name": "nothing"}, "unknown-group"),
    ("quota-set", {"name": "nothing", "storage_bytes": 1}, "unknown-group"),
    ("quota-set", {"name": "vision", "groups": 1, "storage_bytes": 1}, "unknown-user"),
    ("quota-set", {"name": "alice"}, "bad-body"),
]


# They need a queue: test_suites.py, test_files.py and tests/system/test_candidates.py have one.
OF_SUITES = {
    name
    for name, row in messages.REQUESTS.items()
    if row.body.__module__.rpartition(".")[2] in ("messages_suites", "messages_blobs", "messages_candidates")
}


def test_every_verb_is_tried() -> None:
    assert set(GOOD) == set(messages.REQUESTS) - OF_SUITES
    # They name nothing that could be wrong; a configuration is refused after it was read, and what concerns a
    # schedule in its turn.
    never_refused = {"models", "subscribe", "stop-service", "dump", "plan", "apply", "whoami", "fault-report"}
    never_refused |= {verb for verb in messages.REQUESTS if verb.startswith("schedule-")}
    assert {verb for verb, _, _ in BAD} == set(messages.REQUESTS) - never_refused - OF_SUITES


@pytest.mark.parametrize("verb", GOOD)
def test_a_good_request_gets_its_reply(verb: str) -> None:
    world, client = a_busy_daemon()
    body = dict(GOOD[verb])
    if verb == "release":
        body["lease"] = client.ask("lease", model="up").ok["lease"]
    if verb.startswith("backend-"):
        body |= world.proof(world.process("up"))
    ticket = client.ask(verb, **body) if verb != "agent-hello" else world.ask(a_hello("n2"))
    if verb in ("plan", "apply"):
        world.reads(world.state.settings)
    world.settle()
    if verb == "logs":
        world.feed(ev.LogRead(ticket.route, LOG))
    if verb == "schedule-stat":
        world.feed(ev.LogRead(ticket.route, {"tasks": [], "next": None}))
    assert ticket.ok is not None


@pytest.mark.parametrize("key", ["", "key"])
@pytest.mark.parametrize(("verb", "body", "code"), BAD)
def test_a_refused_request_changes_nothing(verb: str, body: dict[str, Any], code: str, key: str) -> None:
    world, client = a_busy_daemon()

    def everything() -> tuple[Any, ...]:
        state = world.state
        status = client.ask("status").ok
        del status["service"]["counters"]
        return (
            status, client.ask("models").ok, set(state.sessions.by_id), set(state.leases.by_id),
            set(state.sessions.calls), dict(state.sessions.remembered), state.lease_waiters, state.journal.seq,
            frames.pack(world.accounts),
        )  # fmt: skip

    before = everything()
    assert client.ask(verb, key=key, **body).code == code
    assert everything() == before
    assert world.state.counters == {f"refused.{code}": 1}


def test_an_unknown_name_that_differs_in_case_only_is_suggested() -> None:
    _, client = a_busy_daemon()
    ticket = client.ask("load-model", model="IDLE")
    assert "did you mean idle?" in ticket.refusal[1] and ticket.detail["similar"] == ["idle"]


@pytest.mark.parametrize("name", ["short", "org/Full-Name", "other"])
def test_a_model_answers_to_its_name_its_full_name_and_its_aliases(name: str) -> None:
    world = a_daemon([a_model("short", fullname="org/Full-Name", aliases=("other",))])
    client = world.client()
    load = client.ask("load-model", model=name)
    world.settle()
    assert load.ok["model"] == "short"
    assert [unit["unit"] for unit in client.ask("status", units=[name]).ok["units"]] == ["short"]


def test_models_lists_the_configuration_and_what_is_loaded_of_it() -> None:
    world = a_daemon([a_model("a", replicas=2, aliases=("x",)), a_model("b")], default="x")
    client = world.client()
    client.ask("load-model", model="a", wait=False)
    world.up("a.0")
    first, second = client.ask("models").ok["models"]
    assert (first["model"], first["aliases"], first["default"]) == ("a", ["x"], True)
    assert (first["replicas"], first["ready"], first["state"]) == (2, 1, "STARTING")
    assert (second["replicas"], second["ready"], second["state"], second["default"]) == (
        1,
        0,
        "STOPPED",
        False,
    )
    world.settle()


def test_logs_are_read_by_the_shell_and_answered_when_read() -> None:
    world, client = a_busy_daemon()
    ticket = client.ask("logs", unit="up", lines=3)
    read = world.expect(fx.ReadLog, unit="up", lines=3, offset=None, inode=None)
    assert ticket.waits
    world.feed(ev.LogRead(read.route, LOG))
    assert ticket.ok == LOG


def test_a_log_that_cannot_be_read_says_so() -> None:
    world, client = a_busy_daemon()
    ticket = client.ask("logs", unit="up", offset=10, inode=9)
    read = world.expect(fx.ReadLog, unit="up", offset=10, inode=9)
    world.feed(ev.LogRead(read.route, MgmtError("unknown-unit", "up has no log yet")))
    assert ticket.refusal == ("unknown-unit", "up has no log yet")


def test_a_models_log_is_its_first_replicas() -> None:
    world = a_daemon([a_model("m", replicas=2)])
    client = world.client()
    client.ask("load-model", model="m")
    world.settle()
    client.ask("logs", unit="m")
    world.expect(fx.ReadLog, unit="m.0")
    client.ask("logs", unit="m.1")
    world.expect(fx.ReadLog, unit="m.1")


@pytest.mark.parametrize("condition", ["ready", "active", "stopped", "failed"])
def test_wait_is_answered_at_once_or_when_it_comes_true(condition: str) -> None:
    world = a_daemon()
    client = world.client()
    ends = condition in ("stopped", "failed")
    if ends:
        client.ask("load-model", model="echo", wait=False)
        world.start("echo")
    ticket = client.ask("wait", target="echo", condition=condition)
    assert ticket.waits
    if ends:
        world.exit("echo", code=1)
    else:
        client.ask("load-model", model="echo", wait=False)
        world.start("echo")
        assert ticket.waits == (condition == "ready")
        world.ready("echo")
    assert ticket.ok["condition"] == condition
    again = client.ask("wait", target="echo", condition=condition)
    assert again.ok["target"] == "echo"


@pytest.mark.parametrize("condition", ["ready", "active"])
def test_who_waits_for_a_failed_unit_is_told_that_it_is_in_vain(condition: str) -> None:
    world = a_daemon()
    client = world.client()
    early = client.ask("wait", target="echo", condition="ready")
    client.ask("load-model", model="echo", wait=False)
    world.start("echo")
    world.exit("echo", code=1)
    assert early.code == "start-failed"
    assert client.ask("wait", target="echo", condition=condition).code == "start-failed"


def test_a_model_with_a_failed_replica_is_not_stopped_while_another_serves() -> None:
    world = a_daemon([a_model("m", replicas=2, restart=a_restart(limit=0))])
    client = world.client()
    client.ask("load-model", model="m")
    world.settle()
    world.exit("m.0", code=1)
    assert world.unit("m.0").state == "FATAL" and world.unit("m.1").ready
    waits = client.ask("wait", target="m", condition="stopped")
    assert client.ask("wait", target="m.0", condition="stopped").ok["state"] == "FATAL"
    world.exit("m.1", code=1)
    assert waits.ok["state"] == "FATAL"


def test_wait_knows_units_and_models() -> None:
    world = a_daemon([a_model("m", replicas=2)])
    client = world.client()
    client.ask("load-model", model="m", wait=False)
    unit, model = client.ask("wait", target="m.0"), client.ask("wait", target="m")
    world.up("m.0")
    assert unit.ok["target"] == "m.0" and model.waits
    world.up("m.1")
    assert model.ok["target"] == "m"


# ---- the table of states ---------------------------------------------------------------------------------


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("trigger", sorted({trigger for _, trigger in TRANSITIONS}))
@pytest.mark.parametrize("to", State)
def test_an_illegal_transition_raises_and_changes_nothing(state: State, trigger: str, to: State) -> None:
    row = a_model()
    daemon = a_daemon([row]).state
    model = daemon.registry.models["echo"]
    unit = Unit(UnitSpec("echo", model, daemon.settings.model_backends[model.type]), state=state, reason="r")
    if to in TRANSITIONS.get((state, trigger), ()):
        assert unit.move(trigger, to, "new") is state and unit.state is to and unit.reason == "new"
        assert unit.incarnation == (to is State.STARTING)
    else:
        with pytest.raises(IllegalTransition, match=f"{state} --{trigger}--> {to}"):
            unit.move(trigger, to, "new")
        assert (unit.state, unit.reason, unit.incarnation) == (state, "r", 0)
