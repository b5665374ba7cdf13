"""Users, groups, roles, quotas and tokens: who gets in, who may, and that everybody else is refused."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from mgmt.core import access
from mgmt.core import effect as fx
from mgmt.core import event as ev
from mgmt.core.event import ADMINISTRATOR, MACHINE, NOBODY, NODES_PLANE, Asked, Caller, Now, Route
from mgmt.core.users import Users
from mgmt.protocol import defaults, frames, keys, messages, tokens
from mgmt.protocol.errors import MgmtError
from mgmt.protocol.keys import Grant
from mgmt.protocol.messages import REQUESTS, Audience, Need, Role
from mgmt.protocol.table import Verb
from tests import drift_frames
from tests.core import builders
from tests.core.builders import a_hello, a_state
from tests.core.recorder import Client, Ticket, World, a_daemon


class Place:
    """A daemon with `alice` and `bob`, each with a token, and an administrator's client."""

    def __init__(self, *users: str) -> None:
        self.world = a_daemon()
        self.admin = self.world.client("admin")
        for user in users or ("alice", "bob"):
            self.ok("user-create", user=user)
            self.ok("token-new", user=user, name="t", digest=tokens.digest(self.secret(user)))

    @staticmethod
    def secret(user: str, name: str = "t") -> str:
        return f"mgmt_{user}-{name}"

    def ok(self, verb: str, **body: Any) -> dict[str, Any]:
        return self.admin.ask(verb, **body).ok

    def speak(self, user: str, name: str = "t") -> Client:
        """A session of this user."""
        return self.world.client(f"{user}-{len(self.world.tickets)}", token=self.secret(user, name))

    def hello(self, token: str) -> Ticket:
        return Client(self.world, b"somebody").hello(token=token)

    @property
    def users(self) -> Users:
        return self.world.state.users


# ---- who asks --------------------------------------------------------------------------------------------


def test_without_a_token_the_socket_is_the_administrators() -> None:
    place = Place()
    own = {"user": ADMINISTRATOR, "admin": True, "via": "the socket's file"}
    groups = [{"group": ADMINISTRATOR, "role": "admin"}]
    assert place.ok("whoami") == {**own, "groups": groups}


def test_a_token_speaks_for_its_user_and_for_nobody_else() -> None:
    place = Place()
    told = place.speak("alice").ask("whoami").ok
    assert (told["user"], told["admin"], told["via"]) == ("alice", False, "token 't'")
    assert told["groups"] == [{"group": "alice", "role": "admin"}]
    assert place.ok("whoami")["user"] == ADMINISTRATOR, "the other session is what it was"


def test_a_new_hello_without_a_token_is_no_longer_the_users() -> None:
    place = Place()
    client = place.speak("alice")
    assert client.hello().ok and client.ask("whoami").ok["user"] == ADMINISTRATOR


@pytest.mark.parametrize("token", ["mgmt_wrong", "x", "mgmt_alice-t "])
def test_a_wrong_token_opens_nothing_and_is_not_repeated(token: str) -> None:
    place = Place()
    sessions = set(place.world.state.sessions.by_id)
    code, text = place.hello(token).refusal
    assert code == "not-authorised" and token not in text and "mgmt user token new" in text
    assert set(place.world.state.sessions.by_id) == sessions


def test_a_token_expires_in_the_middle_of_a_session() -> None:
    place = Place()
    place.ok("token-new", user="alice", name="short", digest=tokens.digest("mgmt_short"), lifetime_s=20.0)
    client = place.world.client("c", token="mgmt_short")
    for _ in range(3):
        place.world.advance(6)
        client.notice("heartbeat")
        assert client.ask("status").ok
    place.world.expect(fx.Tell, name="heartbeat", peer=b"c")
    place.world.deeds.clear()
    place.world.advance(2)
    code, text = client.ask("status").refusal
    assert code == "not-authorised" and "expired 0 s ago" in text
    client.notice("heartbeat")  # a subscriber, who asks nothing, is shut out by its own heartbeat
    place.world.expect(fx.Tell, name="session-gone", peer=b"c")
    assert client.session not in place.world.state.sessions.by_id
    assert place.hello("mgmt_short").code == "not-authorised"


def test_a_token_lives_thirty_days_unless_said_otherwise() -> None:
    place = Place()
    (token,) = place.ok("tokens", user="alice")["tokens"]
    assert token["expires_at"] - token["created_at"] == defaults.TOKEN_LIFETIME_S == 30 * 86_400


def test_the_last_use_is_known_and_written_once_a_minute() -> None:
    place = Place()
    written = []
    for seconds in (0, 1, 30, 40):
        place.world.advance(seconds)
        place.speak("alice")
        written.append(place.world.accounts["tokens"]["alice/t"]["used_at"] - builders.START_S)
    assert written == pytest.approx([0, 0, 0, 71])


def test_a_revoked_token_ends_its_sessions_and_only_these() -> None:
    place = Place()
    place.ok("token-new", user="alice", name="other", digest=tokens.digest(place.secret("alice", "other")))
    first, second = place.speak("alice"), place.speak("alice", "other")
    waits = first.ask("wait", target="echo")
    assert second.ask("token-revoke", name="t").ok["name"] == "t"
    place.world.expect(fx.Tell, name="session-gone", peer=first.peer)
    assert waits.code == "session-gone"
    assert first.ask("status").code == "session-gone"
    assert second.ask("status").ok
    assert place.hello(place.secret("alice")).code == "not-authorised"
    last = place.world.state.journal.since(0)[0][-1]
    assert (last["what"], "'alice/t' was revoked by alice" in last["reason"]) == ("token-revoked", True)


def test_whoever_revokes_the_own_token_hears_the_answer_first() -> None:
    place = Place()
    client = place.speak("alice")
    assert client.ask("token-revoke", name="t").ok["user"] == "alice"
    place.world.expect(fx.Tell, name="session-gone", peer=client.peer)


@pytest.mark.parametrize("verb", ["user-lock", "user-delete"])
def test_who_is_locked_or_deleted_is_out_at_once(verb: str) -> None:
    place = Place()
    alice, bob = place.speak("alice"), place.speak("bob")
    place.ok(verb, user="alice")
    place.world.expect(fx.Tell, name="session-gone", peer=alice.peer)
    assert alice.ask("whoami").code == "session-gone"
    assert place.hello(place.secret("alice")).code == "not-authorised"
    assert bob.ask("whoami").ok
    refusal = by_key(place.world, "alice", "whoami")
    assert refusal.code == "not-authorised"
    assert ("is locked" if verb == "user-lock" else "was deleted") in refusal.text
    if verb == "user-lock":
        place.ok("user-lock", user="alice", locked=False)
        assert place.speak("alice").ask("whoami").ok
    else:
        assert place.admin.ask("user-create", user="alice").code == "conflict", "the name stays taken"
        assert place.admin.ask("group-create", group="alice").code == "conflict"
        assert not place.users.tokens.of("alice")


def test_nobody_locks_or_deletes_himself() -> None:
    place = Place()
    place.ok("user-create", user="root", admin=True)
    place.ok("token-new", user="root", name="t", digest=tokens.digest(place.secret("root")))
    root = place.speak("root")
    assert {root.ask(verb, user="root").code for verb in ("user-lock", "user-delete")} == {"conflict"}


def by_key(world: World, user: str, verb: str, **body: Any) -> MgmtError:
    """The refusal of a request that came with a key of this user."""
    grant = Grant("k" * 40, f"user:{user}", "laptop")
    route = Route(next(builders._serials), "native", b"keyed", 1, 0, None, grant)
    with pytest.raises(MgmtError) as refused:
        caller(world, Asked(route, verb, REQUESTS[verb].body.model_validate(body)))
    return refused.value


def caller(world: World, asked: Asked) -> Caller:
    """Who asks, when it may be asked."""
    asked.by = access.authenticate(world.state, world.now, asked, None)
    access.authorise(world.state, asked)
    return asked.by


def test_a_key_speaks_for_the_user_it_was_granted_to() -> None:
    place = Place()
    grant = Grant("k" * 40, "user:alice", "laptop")
    route = Route(1, "native", b"keyed", 1, 0, None, grant)
    assert caller(place.world, Asked(route, "whoami", REQUESTS["whoami"].body())).user == "alice"
    refusal = by_key(place.world, "nobody", "whoami")
    assert refusal.code == "not-authorised" and "mgmt user create" in refusal.text
    assert by_key(place.world, "alice", "stop-service").code == "denied"
    mixed = by_key(place.world, "alice", "hello", versions=[1], token=place.secret("bob"))
    assert mixed.code == "not-authorised" and "key 'laptop' speaks for user 'alice'" in mixed.text


def test_a_client_key_and_a_token_are_the_tokens_user() -> None:
    place = Place()
    for role, user in ((keys.CLIENT, "alice"), (keys.OPERATOR, "alice")):
        route = Route(1, "native", b"keyed", 1, 0, None, Grant("k" * 40, role, "shared"))
        body = messages.Hello(versions=[1], token=place.secret("alice"))
        assert caller(place.world, Asked(route, "hello", body)).user == user
    for role in (keys.BACKEND, "agent:n1"):
        route = Route(1, "native", b"keyed", 1, 0, None, Grant("k" * 40, role, "fixed"))
        body = messages.Hello(versions=[1], token=place.secret("alice"))
        with pytest.raises(MgmtError, match="role"):
            caller(place.world, Asked(route, "hello", body))


def test_an_idempotency_key_is_each_users_own() -> None:
    place = Place("alice", "bob")
    first = place.speak("alice").ask("group-create", key="k", group="one")
    assert first.ok["creator"] == "alice"
    assert place.speak("bob").ask("group-create", key="k", group="one").code == "conflict"
    assert place.speak("alice").ask("group-create", key="k", group="one").ok == first.ok


# ---- scopes ----------------------------------------------------------------------------------------------


def scoped(place: Place, **body: Any) -> str:
    user = body.setdefault("user", "alice")
    secret = f"mgmt_{user}_{body['name']}"
    place.ok("token-new", digest=tokens.digest(secret), **body)
    return secret


def test_a_workers_token_says_a_workers_verbs_only() -> None:
    place = Place()
    client = place.world.client("w", token=scoped(place, name="w", scope="worker"))
    assert client.ask("whoami").ok["user"] == "alice"
    for verb, row in REQUESTS.items():
        if row.audience not in (Audience.WORKER, Audience.ANYBODY, Audience.BACKEND, Audience.AGENT):
            asked = builders.a_request("whoami", peer=client.peer, session=client.session)
            asked.verb = verb
            asked.body = row.body.model_validate(drift_frames.example(row.body, full=False))
            assert place.world.ask(asked).code == "not-authorised", verb


def test_a_nodes_token_is_for_the_agent_of_that_node_alone() -> None:
    place = Place()
    token = scoped(place, name="n", scope="node", node="n1")
    code, text = place.hello(token).refusal
    assert code == "not-authorised" and "for the agent of node 'n1'" in text
    assert place.world.ask(a_hello("n2", token=token)).code == "not-authorised"
    user = place.world.ask(a_hello("n1", token=place.secret("alice")))
    assert user.code == "not-authorised" and "is no agent's" in user.refusal[1]
    assert not place.world.state.roster.nodes
    assert place.world.ask(a_hello("n1", token=token)).ok


def test_the_key_and_the_token_of_an_agent_name_the_same_node() -> None:
    place = Place()
    token = scoped(place, name="n", scope="node", node="n1")
    for role, node, good in (("agent:n1", "n1", True), ("agent:n2", "n1", False), ("agent:n2", "n2", False)):
        asked = a_hello(node, token=token)
        asked.route.grant = Grant("k" * 40, role, "agent")
        if good:
            assert caller(place.world, asked).user == "alice"
        else:
            with pytest.raises(MgmtError, match="is for node"):
                caller(place.world, asked)


# ---- groups ----------------------------------------------------------------------------------------------


def test_a_user_may_create_so_many_groups() -> None:
    place = Place()
    alice = place.speak("alice")
    place.ok("quota-set", name="alice", groups=2)
    for group in ("one", "two"):
        assert alice.ask("group-create", group=group).ok["members"] == [{"user": "alice", "role": "admin"}]
    code, text = alice.ask("group-create", group="three").refusal
    assert code == "over-quota" and "mgmt quota set alice --groups 3" in text
    assert alice.ask("group-delete", group="one").ok["state"] == "deleted"
    assert alice.ask("group-create", group="three").ok
    assert alice.ask("group-create", group="one").code == "conflict", "a deleted one's name stays taken"
    (row,) = alice.ask("quotas").ok["users"]
    assert row == {"user": "alice", "group_quota": 2, "groups": 2}


def test_an_unknown_name_is_told_the_nearest() -> None:
    place = Place()
    assert "did you mean alice?" in place.admin.ask("users", users=["alce"]).refusal[1]
    assert "did you mean alice?" in place.admin.ask("groups", groups=["alicee"]).refusal[1]
    assert "`mgmt user list`" in place.admin.ask("users", users=["zzz"]).refusal[1]


def test_one_sees_oneself_and_the_own_groups() -> None:
    place = Place()
    place.ok("group-create", group="secret")
    alice = place.speak("alice")
    assert [user["user"] for user in alice.ask("users").ok["users"]] == ["alice"]
    assert [group["group"] for group in alice.ask("groups").ok["groups"]] == ["alice"]
    assert [row["group"] for row in alice.ask("quotas").ok["groups"]] == ["alice"]
    for verb, body in (
        ("users", {"users": ["alice", "bob"]}),
        ("groups", {"groups": ["alice", "secret"]}),
        ("quotas", {"name": "secret"}),
        ("tokens", {"user": "bob"}),
        ("token-revoke", {"user": "bob", "name": "t"}),
        ("token-new", {"user": "bob", "name": "mine", "digest": "0" * 64}),
    ):
        assert alice.ask(verb, **body).code == "denied", verb


def test_a_refusal_says_what_is_needed_and_who_can_give_it() -> None:
    place = Place()
    alice, bob = place.speak("alice"), place.speak("bob")
    alice.ask("group-create", group="vision")
    code, text = bob.ask("groups", groups=["vision"]).refusal
    assert code == "denied" and "takes the role read" in text and "alice can give it" in text
    assert "`mgmt group add vision bob --role read`" in text
    alice.ask("group-add", group="vision", user="bob")
    assert bob.ask("groups", groups=["vision"]).ok
    text = bob.ask("group-add", group="vision", user="bob", role="admin").refusal[1]
    assert "has the role read there" in text and "`mgmt group role vision bob admin`" in text


def test_what_a_deleted_user_was_in_goes_on_without() -> None:
    place = Place()
    place.speak("alice").ask("group-create", group="vision")
    place.ok("group-add", group="vision", user="bob", role="admin")
    place.ok("user-delete", user="alice")
    place.world.expect(fx.Tell, name="session-gone")
    (group,) = place.ok("groups", groups=["vision"])["groups"]
    assert group["members"] == [{"user": "bob", "role": "admin"}]
    assert place.admin.ask("groups", groups=["alice"]).code == "unknown-group"


# ---- nodes and workers -----------------------------------------------------------------------------------


def test_who_brings_a_node_manages_it() -> None:
    """The ancestor's agents never got the role that their shutdown needed."""
    place = Place()
    token = scoped(place, name="n", scope="node", node="n1")
    place.speak("alice").ask("group-create", group="vision")
    assert place.world.ask(a_hello("n1", token=token, groups=["vision"])).ok
    alice, bob = place.speak("alice"), place.speak("bob")
    assert alice.ask("node-cordon", node="n1").ok["cordoned"]
    assert alice.ask("node-drain", node="n1", wait=False).ok
    code, text = bob.ask("node-cordon", node="n1", cordoned=False).refusal
    assert code == "denied" and "the admins of group alice can give it" in text
    assert place.users.may_send("vision", "node", "n1") and not place.users.may_send("bob", "node", "n1")
    assert place.users.may_send(ADMINISTRATOR, "node", "n1")


@pytest.mark.parametrize(
    ("groups", "code"),
    [
        (["bob"], "denied"),
        (["nothing"], "unknown-group"),
        (["alice:owner"], "bad-body"),
        (["shared"], "denied"),
    ],
)
def test_a_node_gives_itself_only_to_groups_of_its_user(groups: list[str], code: str) -> None:
    """The ancestor took any group at a registration. Reading in one is not enough."""
    place = Place()
    place.ok("group-create", group="shared")
    place.ok("group-add", group="shared", user="alice")
    token = scoped(place, name="n", scope="node", node="n1")
    assert place.world.ask(a_hello("n1", token=token, groups=groups)).code == code
    assert not place.world.state.roster.nodes and not place.users.managers("node", "n1")


def test_groups_of_nobody_are_refused() -> None:
    """A key says which node it is, and not whose; who comes through a file of this machine is administrator."""
    place = Place()
    asked = a_hello("n1", groups=["alice"])
    asked.route.grant = Grant("k" * 40, "agent:n1", "n1-key")
    assert place.world.ask(asked).code == "denied"
    assert not place.world.state.roster.nodes
    assert place.world.ask(a_hello("n1", groups=["alice"])).ok
    assert place.users.may_send("alice", "node", "n1")


WORKS = {"worker_count": 1}


def test_a_worker_takes_a_token_of_its_scope_and_is_its_users() -> None:
    place = Place()
    of_node = scoped(place, name="n", scope="node", node="w1")
    assert place.world.ask(a_hello("w1", token=of_node, worker=WORKS)).code == "not-authorised"
    token = scoped(place, name="w", scope="worker")
    assert place.world.ask(a_hello("w1", token=token)).code == "not-authorised", "it is no node's"
    assert place.world.ask(a_hello("w1", token=token, worker=WORKS, groups=["bob"])).code == "denied"
    assert place.world.ask(a_hello("w1", token=token, worker=WORKS)).ok
    assert place.users.may_send("alice", "worker", "w1") and not place.users.may_send("bob", "worker", "w1")
    assert not place.users.may_send("alice", "node", "w1")
    alice, bob = place.speak("alice"), place.speak("bob")
    assert alice.ask("worker-tags", worker="w1", add=["gpu"]).ok["workers"][0]["tags"] == ["gpu"]
    assert bob.ask("worker-tags", worker="w1", add=["gpu"]).code == "denied"
    assert bob.ask("worker-shutdown", workers=["w1"]).code == "denied"
    assert bob.ask("worker-shutdown", tags=["gpu"]).ok["workers"] == [], "a filter finds what one may manage"
    assert bob.ask("workers").ok["workers"] == [] != alice.ask("workers").ok["workers"]
    bobs = scoped(place, user="bob", name="w", scope="worker")
    assert place.world.ask(a_hello("w1", token=bobs, worker=WORKS, peer=b"b")).code == "denied"
    assert alice.ask("worker-shutdown", tags=["gpu"]).ok["workers"][0]["state"] == "stopping"


@pytest.mark.parametrize(
    ("lifetime_s", "after_s", "renewed"),
    [
        (30 * 86_400.0, 28.9 * 86_400.0, False),
        (30 * 86_400.0, 29.1 * 86_400.0, True),
        (3600.0, 1700.0, False),
        (3600.0, 1900.0, True),
        (3600.0, 3700.0, False),
    ],
)
def test_the_token_of_an_agent_that_is_there_is_renewed_before_it_expires(
    lifetime_s: float, after_s: float, renewed: bool
) -> None:
    """What is over is over, and a token that was revoked meanwhile is not missed."""
    place = Place()
    token = scoped(place, name="w", scope="worker", lifetime_s=lifetime_s)
    session = place.world.ask(a_hello("w1", token=token, worker=WORKS)).ok["session"]
    start_s = place.world.now.real_s
    place.world.now_ns += int(after_s * 1e9)
    beat = {"clock_ns": 1, "acked": 0}
    place.world.feed(ev.NodeNoticed(b"w1", session, "agent-heartbeat", beat))
    found = place.users.tokens.by_id["alice/w"]
    assert found.expires_at == pytest.approx(start_s + lifetime_s + (after_s if renewed else 0.0), abs=1.0)
    place.users.tokens.remove(found)
    place.world.feed(ev.NodeNoticed(b"w1", session, "agent-heartbeat", beat))


def test_a_name_is_a_nodes_or_a_workers() -> None:
    place = Place()
    assert place.world.ask(a_hello("n1")).ok and place.world.ask(a_hello("w1", worker=WORKS)).ok
    assert place.world.ask(a_hello("w1")).code == "conflict"
    assert place.world.ask(a_hello("n1", worker=WORKS)).code == "conflict"
    assert [one["node"] for one in place.ok("nodes")["nodes"]] == ["local", "n1"]
    assert place.admin.ask("node-cordon", node="w1").code == "not-available"
    assert place.admin.ask("worker-shutdown", workers=["n1"]).code == "unknown-node"
    assert place.admin.ask("worker-shutdown").code == "bad-body", "not all of them by mistake"


def test_what_was_given_or_taken_later_outlives_the_next_hello() -> None:
    place = Place()
    token = scoped(place, name="n", scope="node", node="n1")
    place.world.ask(a_hello("n1", token=token))
    alice = place.speak("alice")
    alice.ask("group-create", group="vision")
    assert alice.ask("group-grant", group="vision", node="n1").ok["nodes"] == [
        {"name": "n1", "role": "write"}
    ]
    assert alice.ask("group-grant", group="vision", node="n1", role=None).ok["nodes"] == []
    assert place.world.ask(a_hello("n1", token=token, groups=["vision"], peer=b"again")).ok
    assert not place.users.may_send("vision", "node", "n1")


def test_a_node_that_somebody_manages_is_nobody_elses() -> None:
    place = Place()
    place.world.ask(a_hello("n1", token=scoped(place, name="n", scope="node", node="n1")))
    bob = place.speak("bob")
    new: dict[str, Any] = {"name": "n", "digest": tokens.digest("mgmt_bobs"), "scope": "node"}
    assert bob.ask("token-new", **new, node="n1").code == "denied"
    assert bob.ask("token-new", **new, node="n2").ok, "of a node that nobody has brought yet"
    assert bob.ask("group-grant", group="bob", node="n1").code == "denied"
    # An administrator may make one, and it is of no more use than its user:
    place.ok("token-new", user="bob", name="m", digest=tokens.digest("mgmt_m"), scope="node", node="n1")
    assert place.world.ask(a_hello("n1", token="mgmt_m", peer=b"bobs")).code == "denied"


@pytest.mark.parametrize(("mine", "groups", "role"), [*product([None, *Role], [None, *Role], Role)])
def test_a_node_takes_one_group_that_gives_both(mine: Role | None, groups: Role | None, role: Role) -> None:
    users = a_state(builders.a_config(), builders.a_topology()).users
    now = Now(builders.START_NS, builders.START_S)
    users.create(now, "alice", False)
    other = users.create(now, "bob", False)
    group = users.create_group(now, an_asked(Caller(MACHINE, ADMINISTRATOR)), "g")
    if mine is not None:
        group.members["alice"] = mine
    for kind in ("node", "worker"):
        users.grant("g", kind, "n", groups)
        users.grant(other.name, kind, "n", Role.ADMIN)  # in which alice is not
        users.grant("alice", kind, "another", Role.ADMIN)
        allowed = mine is not None and groups is not None and min(mine, groups) >= role
        assert users.may("alice", kind, "n", role) is allowed
        asked = an_asked(Caller(access.USER, "alice"))
        if allowed:
            users.require(asked, **{kind: "n"}, role=role)
        else:
            with pytest.raises(MgmtError, match="can give it"):
                users.require(asked, **{kind: "n"}, role=role)
    users.retire("node", "n")
    assert not users.may("alice", "node", "n", Role.READ)


def an_asked(by: Caller, verb: str = "whoami", body: messages.Message | None = None) -> Asked:
    return Asked(Route(1, "native", b"p"), verb, body or REQUESTS["whoami"].body(), by=by)


# ---- the table of permissions ----------------------------------------------------------------------------

# verb -> (object, role) that a user needs, written out: the table of verbs and this one must be changed together.
READS = ("service", Role.READ)
RUNS = ("service", Role.ADMIN)
NEEDS: dict[str, tuple[str, Role]] = {
    **dict.fromkeys(("hello", "whoami"), ("session", Role.READ)),
    **dict.fromkeys(("status", "models", "wait", "explain", "lease", "release", "subscribe", "logs"), READS),
    "metrics": READS,
    **dict.fromkeys(("nodes", "node-wait", "schedule-show", "schedule-explain", "schedule-stat"), READS),
    **dict.fromkeys(("load-model", "unload-model", "stop-service", "start", "stop", "restart"), RUNS),
    **dict.fromkeys(("reset-failed", "plan", "apply", "dump"), RUNS),
    **dict.fromkeys(("schedule-submit", "schedule-remove", "schedule-rebalance"), RUNS),
    **dict.fromkeys(("user-create", "user-lock", "user-delete", "quota-set"), RUNS),
    **dict.fromkeys(("backend-hello", "backend-ready"), ("unit", Role.ADMIN)),
    **dict.fromkeys(
        ("agent-hello", "node-cordon", "node-drain", "node-shutdown", "node-tags"), ("node", Role.ADMIN)
    ),
    "users": ("user", Role.READ),
    **dict.fromkeys(("token-new", "tokens", "token-revoke"), ("user", Role.ADMIN)),
    "group-create": READS,
    "groups": ("group", Role.READ),
    **dict.fromkeys(("group-delete", "group-add", "group-remove", "group-role"), ("group", Role.ADMIN)),
    "group-grant": ("node", Role.ADMIN),
    "quotas": ("group", Role.READ),
    **dict.fromkeys(
        ("suites", "suite-wait", "tasks", "task-show", "task-wait", "workers"), ("group", Role.READ)
    ),
    **dict.fromkeys(("suite-create", "suite-cancel", "suite-close"), ("group", Role.WRITE)),
    **dict.fromkeys(("suite-refresh", "suite-agents", "task-submit"), ("group", Role.WRITE)),
    **dict.fromkeys(("task-cancel", "task-retry", "task-change"), ("group", Role.WRITE)),
    **dict.fromkeys(("blob-read", "attachments", "artifacts"), ("group", Role.READ)),
    **dict.fromkeys(("blob-begin", "blob-chunk", "blob-commit"), ("group", Role.WRITE)),
    **dict.fromkeys(("attachment-delete", "artifact-delete"), ("group", Role.WRITE)),
    "worker-pause": ("node", Role.ADMIN),
    **dict.fromkeys(("worker-shutdown", "worker-tags"), ("worker", Role.ADMIN)),
    "fault-report": RUNS,
    **dict.fromkeys(("candidates-load", "candidates-list", "candidates-queue"), RUNS),
    **dict.fromkeys(("candidates-position", "candidates-explain", "candidates-hosts"), RUNS),
    **dict.fromkeys(("candidates-next", "candidates-schedule", "candidates-reset"), RUNS),
    "candidates-export": RUNS,
}


def test_every_verb_has_a_row_and_it_is_the_one_written_here() -> None:
    assert {verb: (row.need.object, row.need.role) for verb, row in REQUESTS.items() if row.need} == NEEDS
    assert set(NEEDS) == set(REQUESTS)


def test_a_verb_without_a_row_is_the_administrators(monkeypatch: pytest.MonkeyPatch) -> None:
    row = REQUESTS["whoami"]
    monkeypatch.setitem(REQUESTS, "whoami", Verb(row.name, row.body, row.reply, Audience.USER, None))
    place = Place()
    code, text = place.speak("alice").ask("whoami").refusal
    assert code == "denied" and "nothing lets anybody but administrators" in text
    assert place.ok("whoami")["admin"]


def test_nobody_may_anything() -> None:
    state = a_state(builders.a_config(), builders.a_topology())
    for verb, row in REQUESTS.items():
        body = row.body.model_validate(drift_frames.example(row.body, full=False))
        with pytest.raises(MgmtError) as refused:
            access.authorise(state, an_asked(NOBODY, verb, body))
        assert refused.value.code == "not-authorised"


def allowed(state: Any, by: Caller, verb: str, name: str) -> bool:
    """Whether the row of the verb lets `by` say it of the object `name`."""
    row = REQUESTS[verb]
    body = drift_frames.example(row.body, full=True)
    need = row.need
    if need is not None and need.field:
        body[need.field] = [name] if isinstance(body[need.field], list) else name
    if verb == "lease":
        body["load"] = False
    asked = an_asked(by, verb, row.body.model_validate(body))
    try:
        access.authorise(state, asked)
        if need is not None and need.object == "group" and not need.field:
            state.users.require(asked, group=name, role=need.role)
        if need is not None and need.object == "node" and not need.field and row.audience is Audience.USER:
            state.users.require(asked, node=name, role=need.role)
    except MgmtError as error:
        assert error.code in ("denied", "not-authorised"), error.text
        return False
    return True


@pytest.mark.parametrize("verb", REQUESTS)
def test_the_matrix_of_roles_verbs_and_objects(verb: str) -> None:
    """Each role in a group, and each role of the group on a node, against what the row says."""
    state = a_state(builders.a_config(), builders.a_topology())
    now = Now(builders.START_NS, builders.START_S)
    users = state.users
    machine = an_asked(Caller(MACHINE, ADMINISTRATOR))
    for user in ("alice", "bob"):
        users.create(now, user, False)
    object, role = NEEDS[verb]
    kinds = [None, *Role] if object in ("group", "node", "worker") else [None]
    for has in kinds:
        group = users.create_group(now, machine, f"g{has}-{verb}")
        for kind in ("node", "worker"):
            users.grant(group.name, kind, f"n{has}", Role.ADMIN)
        if has is not None:
            group.members["alice"] = has
        place = f"n{has}"
        name = {"group": group.name, "node": place, "worker": place, "user": "alice"}.get(object, "")
        expected = {
            "session": True,
            "service": role is Role.READ,
            "user": True,
            "unit": False,
            "node": has is not None and has >= role and verb != "agent-hello",
            "worker": has is not None and has >= role,
            "group": has is not None and has >= role,
        }[object]
        assert allowed(state, Caller(access.USER, "alice"), verb, name) is expected, f"{has} on {name}"
        # Another one, whatever alice may; of the own things of alice, nobody else.
        bobs = object in ("session", "service") and expected
        assert allowed(state, Caller(access.USER, "bob"), verb, name) is bobs
        worker = object == "session"
        assert allowed(state, Caller(access.WORKER, "alice"), verb, name) is worker
        runs = object != "unit" and verb != "agent-hello"
        assert allowed(state, Caller(keys.OPERATOR, ADMINISTRATOR), verb, name) is runs
        assert allowed(state, Caller(MACHINE, ADMINISTRATOR), verb, name)


def test_a_lease_that_loads_is_an_administrators() -> None:
    place = Place()
    alice = place.speak("alice")
    assert alice.ask("lease", model="echo").code == "not-loaded"
    assert alice.ask("lease", model="echo", load=True).code == "denied"


@pytest.mark.parametrize("role", [None, *Role])
def test_require_of_a_group_is_what_other_slices_ask(role: Role | None) -> None:
    place = Place()
    place.ok("group-create", group="g")
    if role is not None:
        place.ok("group-add", group="g", user="alice", role=str(role))
    asked = an_asked(Caller(access.USER, "alice"))
    for needed in Role:
        if role is not None and role >= needed:
            place.users.require(asked, group="g", role=needed)
        else:
            with pytest.raises(MgmtError) as refused:
                place.users.require(asked, group="g", role=needed)
            assert refused.value.code == "denied"
    with pytest.raises(MgmtError) as refused:
        place.users.require(an_asked(Caller(keys.CLIENT, "", "key 'web'")), group="g", role=Role.READ)
    assert "key 'web' is not in it" in refused.value.text


# ---- quotas ----------------------------------------------------------------------------------------------


def test_what_is_stored_is_as_the_queue_has_counted_it() -> None:
    place = Place()
    place.ok("quota-set", name="alice", storage_bytes=100)
    place.users.count_stored("alice", 60)
    place.users.count_stored("nobody", 1)
    (row,) = place.ok("quotas", name="alice")["groups"]
    assert row == {"group": "alice", "storage_quota_bytes": 100, "storage_used_bytes": 60}


def test_a_user_has_so_many_tokens_and_expired_ones_make_room() -> None:
    place = Place()
    for number in range(1, defaults.MAX_USER_TOKENS):
        life = {"lifetime_s": 5.0} if number == 1 else {}
        place.ok("token-new", user="alice", name=f"n{number}", digest=f"{number:064x}", **life)
    more: dict[str, Any] = {"user": "alice", "name": "more", "digest": "f" * 64}
    assert place.admin.ask("token-new", **more).code == "over-quota"
    place.world.advance(6)
    assert place.admin.ask("token-new", **more).ok


# ---- the next daemon -------------------------------------------------------------------------------------


def test_the_next_daemon_knows_them_all() -> None:
    place = Place()
    place.speak("alice").ask("group-create", group="vision")
    place.ok("group-add", group="vision", user="bob", role="write")
    place.ok("group-grant", group="vision", node="local", role="admin")
    place.ok("user-create", user="gone")
    place.ok("user-delete", user="gone")
    place.ok("user-lock", user="bob")
    place.ok("quota-set", name="alice", groups=3)
    place.ok("token-revoke", user="bob", name="t")
    before = {verb: place.ok(verb) for verb in ("users", "groups", "quotas")}
    tokens_before = place.ok("tokens", user="alice")
    place.world.drain()
    place.world.deeds.clear()
    place.world.die()
    place.admin = place.world.client("next")
    assert {verb: place.ok(verb) for verb in before} == before
    assert place.ok("tokens", user="alice") == tokens_before
    assert place.speak("alice").ask("whoami").ok["user"] == "alice"
    assert place.hello(place.secret("bob")).code == "not-authorised"
    assert place.admin.ask("user-create", user="gone").code == "conflict"


def test_no_secret_is_in_what_is_stored_told_noted_or_dumped() -> None:
    place = Place()
    alice = place.speak("alice")
    alice.ask("whoami")
    place.hello("mgmt_not-one-of-ours")
    world = place.world
    told = [effect.text for effect in world.notes]
    told += [str(event) for event in world.history]
    told += [str(frames.unpack(frames.pack(world.accounts))), str(place.ok("dump")), str(place.ok("users"))]
    told += [
        repr(messages.Hello(versions=[1], token=place.secret("alice"))),
        repr(world.state.sessions.by_id),
    ]
    told += [str(ticket.answers) for ticket in world.tickets.values()]
    digest = tokens.digest(place.secret("alice"))
    for text in told:
        assert "mgmt_alice" not in text and "mgmt_not-one" not in text
    assert sum(digest in text for text in told) == 1, "the store has the digest, and nothing else has"


def test_planes_without_sessions_are_what_they_were() -> None:
    place = Place()
    assert place.world.legacy("status").ok
    assert place.world.ask(a_hello("n1")).ok
    route = Route(next(builders._serials), NODES_PLANE, b"n", 1)
    assert caller(place.world, Asked(route, "status", REQUESTS["status"].body())).role == MACHINE


def test_needs_are_named_by_fields_that_exist() -> None:
    for verb, row in REQUESTS.items():
        need = row.need
        assert need is not None
        assert isinstance(need, Need)
        assert not need.field or need.field in row.body.model_fields, verb
