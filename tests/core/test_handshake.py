"""The legacy plane: an empty handshake may start the default model, rarely, and nothing else, ever."""

from __future__ import annotations

from typing import Any

from mgmt.core import effect as fx
from mgmt.core.models.handshake import RETRY_NS
from tests.core.builders import S, a_model
from tests.core.recorder import World, a_daemon


def a_legacy_daemon(**keys: Any) -> World:
    rows = [a_model("main", kind="symphony"), a_model("other", kind="symphony")]
    return a_daemon(rows, default="main", **keys)


def test_without_a_default_model_it_answers_what_runs_and_starts_nothing() -> None:
    world = a_daemon([a_model("a", kind="symphony"), a_model("b", kind="symphony")])
    assert world.handshake().ok == {"protocols": []}
    assert not world.deeds
    for name, protocols in (("a", ("ping",)), ("b", ("zzz", "l4m"))):
        world.legacy("load-model", model=name)
        world.up(name, *protocols)
    assert world.handshake().ok == {"protocols": ["l4m", "ping", "zzz"]}


def test_the_default_model_is_started_once_for_any_number_of_strangers() -> None:
    world = a_legacy_daemon()
    tickets = [world.handshake() for _ in range(10)]
    world.start("main")
    assert all(ticket.waits for ticket in tickets)
    world.ready("main", "l4m", "ping")
    assert [ticket.ok for ticket in tickets] == [{"protocols": ["l4m", "ping"]}] * 10
    assert world.handshake().ok == {"protocols": ["l4m", "ping"]}


def test_a_default_model_that_fails_is_not_started_again_before_its_time() -> None:
    world = a_legacy_daemon()
    ticket = world.handshake()
    world.start("main")
    world.expect(fx.ProbeHandshake, unit="main")
    world.exit("main", code=1)
    assert ticket.ok == {"protocols": []}
    for _ in range(59):
        world.advance(1)
        assert world.handshake().ok == {"protocols": []}
    assert not world.deeds
    world.advance(1)
    assert world.now_ns >= RETRY_NS
    again = world.handshake()
    world.up("main", "l4m")
    assert again.ok == {"protocols": ["l4m"]}


def test_a_slow_default_model_is_answered_once() -> None:
    world = a_legacy_daemon(timing={"legacy_load_answer_s": 3.0})
    ticket = world.handshake()
    world.start("main")
    world.advance(3)
    assert ticket.code == "expired"
    world.ready("main", "l4m")
    assert world.handshake().ok == {"protocols": ["l4m"]}


def test_a_handshake_waits_for_a_load_that_somebody_else_began() -> None:
    world = a_legacy_daemon()
    world.legacy("load-model", model="main")
    ticket = world.handshake()
    world.up("main", "l4m")
    assert ticket.ok == {"protocols": ["l4m"]}


def test_other_models_do_not_answer_for_the_default_one() -> None:
    world = a_legacy_daemon()
    world.legacy("load-model", model="other")
    world.up("other", "l4m")
    ticket = world.handshake()
    world.start("main")
    world.expect(fx.ProbeHandshake, unit="main")
    assert ticket.waits
    world.exit("main", code=1)
    assert ticket.ok == {"protocols": []}


def test_a_default_model_without_a_backend_is_nothing() -> None:
    world = a_daemon([a_model("main", no_backend=True)], default="main")
    assert world.handshake().ok == {"protocols": []}


def test_a_busy_daemon_says_nothing_is_here() -> None:
    world = a_daemon([a_model("main"), a_model("slow")], default="main", limits={"max_requests": 1})
    world.client().ask("wait", target="slow")
    assert world.handshake().ok == {"protocols": []} and not world.deeds


def test_an_unload_answers_who_waited_for_the_default_model() -> None:
    world = a_legacy_daemon()
    ticket = world.handshake()
    world.start("main")
    world.expect(fx.ProbeHandshake, unit="main")
    world.legacy("unload-model", model="main")
    world.settle()
    assert ticket.ok == {"protocols": []}


def test_legacy_requests_need_no_session_and_no_deadline() -> None:
    world = a_legacy_daemon(timing={"legacy_load_answer_s": 8.0})
    load = world.legacy("load-model", model="main", starting_after_ms=8_000)
    world.start("main")
    world.advance(8)
    assert load.ok["state"] == "STARTING"
    world.ready("main", "l4m")
    status = world.legacy("status").ok
    assert status["units"][0]["state"] == "RUNNING" and status["service"]["sessions"] == 0
    assert world.legacy("unload-model", model="nobody").code == "unknown-model"
    assert world.legacy("stop-service").ok["units"] == ["main"]
    world.settle()
    assert world.quits() == 1


def test_the_legacy_default_of_the_timer_is_short_of_its_callers_patience() -> None:
    world = a_legacy_daemon()
    ticket = world.handshake()
    assert world.timers["call", ticket.route] - world.now_ns < 10 * S
    world.drain()
