"""Hello, sessions, their timeouts and ends; who may speak in which."""

from __future__ import annotations

import pytest

from mgmt.core import effect as fx
from mgmt.core import event as ev
from mgmt.protocol import defaults
from mgmt.protocol.revisions import SPOKEN
from tests.core.builders import EPOCH, S, a_model, a_request
from tests.core.recorder import Client, a_daemon

TIMEOUT_S = defaults.SESSION_TIMEOUT_S


def test_hello_is_welcomed_with_all_a_peer_has_to_know() -> None:
    world = a_daemon()
    welcome = Client(world, b"a").hello(name="a").ok
    assert welcome["version"] == 1 and welcome["epoch"] == EPOCH and welcome["lease"] is None
    assert welcome["heartbeat_s"] == defaults.HEARTBEAT_S and welcome["session_timeout_s"] == TIMEOUT_S
    assert welcome["max_frame_bytes"] == defaults.MAX_CONTROL_FRAME_BYTES
    assert welcome["session"] in world.state.sessions.by_id


@pytest.mark.parametrize("versions", [[9], [0, 98, 99]])
def test_an_unknown_version_is_refused_and_opens_nothing(versions: list[int]) -> None:
    world = a_daemon()
    hello = Client(world, b"a").hello(versions=versions)
    assert hello.code == "bad-version" and hello.detail == {"versions": list(SPOKEN)}
    assert not world.state.sessions.by_id


def test_the_version_both_speak_is_found_among_others() -> None:
    assert Client(a_daemon(), b"a").hello(versions=[97, 1]).ok["version"] == 1
    assert Client(a_daemon(), b"a").hello(versions=[97, *SPOKEN]).ok["version"] == SPOKEN[-1]


def test_a_hello_can_bring_a_lease() -> None:
    world = a_daemon()
    ops = world.client()
    ops.ask("load-model", model="echo")
    world.settle()
    lease = Client(world, b"a").hello(model="echo").ok["lease"]
    assert lease["unit"] == "echo" and lease["endpoint"] == world.unit("echo").endpoint


@pytest.mark.parametrize(("model", "code"), [("echo", "not-loaded"), ("nobody", "unknown-model")])
def test_a_refused_hello_opens_no_session_and_keeps_the_former_one(model: str, code: str) -> None:
    world = a_daemon()
    client = world.client()
    former = client.session
    assert client.hello(model=model).code == code
    assert client.session == former and client.ask("status").ok


def test_requests_without_a_session_are_gone() -> None:
    world = a_daemon()
    ticket = Client(world, b"stranger").ask("status")
    assert ticket.answers[0][0] == "gone" and ticket.code == "session-gone"
    assert ticket.detail == {"epoch": EPOCH}


def test_a_request_may_name_the_connections_session_or_leave_it_to_the_daemon() -> None:
    world = a_daemon()
    client = world.client()
    assert Client(world, client.peer, 0).ask("models").ok
    assert Client(world, client.peer, client.session).ask("models").ok
    assert Client(world, client.peer, client.session + 1).ask("models").code == "session-gone"


def test_nobody_speaks_in_the_session_of_another_connection() -> None:
    world = a_daemon()
    client = world.client()
    assert Client(world, b"thief", client.session).ask("models").code == "session-gone"


def test_a_silent_session_ends_and_its_requests_are_answered() -> None:
    world = a_daemon()
    client = world.client()
    wait = client.ask("wait", target="echo", within_s=1000)
    world.advance(TIMEOUT_S - 0.001)
    assert wait.waits
    world.advance(0.001)
    assert wait.answers[0][0] == "gone"
    assert client.ask("status").code == "session-gone"


@pytest.mark.parametrize("notice", ["heartbeat", "backend-heartbeat"])
def test_a_heartbeat_keeps_a_session_and_is_answered(notice: str) -> None:
    world = a_daemon()
    client = world.client()
    for _ in range(5):
        world.advance(defaults.HEARTBEAT_S)
        client.notice(notice, **({"unit": "echo", "incarnation": 1} if notice != "heartbeat" else {}))
        world.expect(fx.Tell, peer=client.peer, session=client.session, name="heartbeat")
    world.advance(TIMEOUT_S - 0.1)
    assert client.ask("models").ok
    world.advance(TIMEOUT_S - 0.1)
    assert client.ask("models").ok


def test_a_heartbeat_in_an_unknown_session_is_told_so() -> None:
    world = a_daemon()
    Client(world, b"stranger", 7).notice("heartbeat")
    world.expect(fx.Tell, peer=b"stranger", session=7, name="session-gone")


def test_bye_ends_the_session_at_once() -> None:
    world = a_daemon()
    client = world.client()
    wait = client.ask("wait", target="echo")
    client.notice("bye")
    assert wait.code == "session-gone" and not world.state.sessions.by_id
    assert not {"session", "call"} & {key[0] for key in world.timers}


def test_a_second_hello_of_an_identity_replaces_the_first_session() -> None:
    world = a_daemon()
    client = world.client()
    former = client.session
    named, unnamed = client.ask("wait", target="echo"), Client(world, client.peer).ask("wait", target="echo")
    client.hello()
    assert client.session != former and len(world.state.sessions.by_id) == 1
    assert named.code == unnamed.code == "session-gone"
    assert Client(world, client.peer, former).ask("status").code == "session-gone"


def test_a_hello_with_an_idempotency_key_is_answered_once_and_opens_a_new_session_each_time() -> None:
    world = a_daemon()
    client = Client(world, b"a")
    assert client.ask("hello", key="k", versions=[1]).ok
    client.session = next(iter(world.state.sessions.by_id))
    again = client.ask("hello", key="k", versions=[1]).ok
    assert again["session"] != client.session


def test_a_peer_that_does_not_read_loses_its_session_and_the_others_hear_of_it() -> None:
    world = a_daemon()
    deaf, other = world.client("deaf"), world.client("other")
    deaf.ask("subscribe")
    other.ask("subscribe")
    wait = deaf.ask("wait", target="echo")
    world.feed(ev.PeerLost(deaf.peer, "its queue is full"))
    assert wait.code == "session-gone"
    (event,) = other.heard()
    assert event["what"] == "peer-lost" and event["reason"] == "deaf: its queue is full"
    assert not deaf.heard()
    world.feed(ev.PeerLost(b"nobody", "never said hello"))


def test_the_limit_of_sessions_is_busy_and_a_returning_peer_still_fits() -> None:
    world = a_daemon(limits={"max_sessions": 2})
    client = world.client()
    world.client()
    third = Client(world, b"third").hello()
    assert third.answers[0][0] == "busy" and third.code == "busy"
    assert client.hello().ok
    client.notice("bye")
    assert Client(world, b"third").hello().ok


def test_strangers_do_not_keep_a_backend_out() -> None:
    world = a_daemon(limits={"max_sessions": 1})
    load = world.client().ask("load-model", model="echo")
    world.up("echo")
    assert load.ok
    assert Client(world, b"third").hello().code == "busy"


def test_a_backend_proves_itself_with_its_token() -> None:
    world = a_daemon()
    world.client().ask("load-model", model="echo", wait=False)
    process = world.start("echo")
    proof = world.proof(process)
    stranger = world.client("stranger")
    for wrong in ({"token": "x"}, {"token": "ü"}, {"incarnation": 2}, {"unit": "other"}):
        asked = {**proof, **wrong}
        assert stranger.ask("backend-hello", versions=[1], pid=1, **asked).code == "denied"
        assert stranger.ask("backend-ready", **asked).code == "denied"
    assert Client(world, b"b").ask("backend-hello", versions=[9], pid=1, **proof).code == "bad-version"
    assert world.unit("echo").state == "STARTING"
    world.ready("echo")
    assert world.unit("echo").ready


def test_a_backend_may_not_say_ready_before_hello() -> None:
    world = a_daemon()
    world.client().ask("load-model", model="echo", wait=False)
    proof = world.proof(world.start("echo"))
    assert Client(world, b"b").ask("backend-ready", **proof).code == "session-gone"


def test_a_legacy_peer_named_like_a_native_one_shares_nothing_with_it() -> None:
    world = a_daemon([a_model(grace_s=5.0)])
    client = world.client("old")
    client.ask("load-model", model="echo")
    world.settle()
    unload = world.legacy("unload-model", model="echo")
    client.notice("bye")
    assert unload.waits
    world.settle()
    assert unload.ok["units"] == ["echo"]


def test_a_session_timer_measures_from_the_last_word() -> None:
    world = a_daemon()
    client = world.client()
    world.advance(10)
    client.ask("models")
    world.advance(10)
    assert world.timers["session", client.session] == world.now_ns + 5 * S


def test_a_request_can_travel_with_its_hello() -> None:
    world = a_daemon()
    hello = world.ask(a_request("hello", peer=b"a", versions=[1]))
    models = world.ask(a_request("models", peer=b"a"))
    assert hello.ok and models.ok
