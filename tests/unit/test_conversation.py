"""The client's rules without sockets or clocks: frames in, effects out, time as a number."""

from __future__ import annotations

import random
from typing import Any

import pytest

from mgmt.client.conversation import Conversation, Target
from mgmt.client.session import NEVER, Answer, CloseData, Happened, Send, SendData
from mgmt.protocol import defaults, frames, revisions
from mgmt.protocol.errors import MgmtError
from mgmt.protocol.frames import DataKind

SESSION, EPOCH = 7, 100
HEARTBEAT_S, SESSION_TIMEOUT_S = 5.0, 15.0


class Table:
    """A conversation at a table: the test is daemon, backend and clock."""

    def __init__(self, **settings: Any) -> None:
        self.talk = Conversation("ipc:///nowhere", **settings)
        self.now_s = 1000.0
        self.sent: list[frames.Request | frames.Notice] = []
        self.data: list[tuple[str, frames.Tag, list[bytes]]] = []
        self.answers: dict[int, Answer] = {}
        self.items: list[dict[str, Any]] = []
        self.closed: list[str] = []

    def look(self) -> Table:
        """Take the effects; a second answer to one id fails here."""
        for effect in self.talk.effects():
            match effect:
                case Send(id, frame):
                    message = frames.decode([frame])
                    assert isinstance(message, frames.Request | frames.Notice)
                    assert id == (message.id if isinstance(message, frames.Request) else 0)
                    self.sent.append(message)
                case SendData(id, endpoint, message_frames):
                    tag = frames.decode_tag(message_frames[0])
                    assert tag.id == id and tag.kind == DataKind.REQUEST
                    self.data.append((endpoint, tag, message_frames[1:]))
                case Answer(id):
                    assert id not in self.answers, f"{id} was answered twice"
                    self.answers[id] = effect
                case CloseData(endpoint):
                    self.closed.append(endpoint)
                case Happened(item):
                    self.items.append(item)
        return self

    def asked(self, verb: str) -> list[frames.Request]:
        self.look()
        return [m for m in self.sent if isinstance(m, frames.Request) and m.verb == verb]

    def noticed(self, name: str) -> list[frames.Notice]:
        self.look()
        return [m for m in self.sent if isinstance(m, frames.Notice) and m.name == name]

    def reply(
        self, request: frames.Request, body: dict[str, Any] | None = None, outcome: str = "ok"
    ) -> Table:
        self.talk.received(self.now_s, frames.encode_reply(request.id, request.session, outcome, body or {}))
        return self.look()

    def refuse(self, request: frames.Request, code: str) -> Table:
        outcome = frames.OUTCOME_OF_CODE.get(code, "error")
        return self.reply(request, MgmtError(code, f"because {code}").as_body(), outcome)

    def welcome(self, session: int = SESSION, epoch: int = EPOCH) -> Table:
        body = {
            "version": 1,
            "session": session,
            "epoch": epoch,
            "heartbeat_s": HEARTBEAT_S,
            "session_timeout_s": SESSION_TIMEOUT_S,
            "max_frame_bytes": defaults.MAX_CONTROL_FRAME_BYTES,
            "lease": None,
        }
        return self.reply(self.asked("hello")[-1], body)

    def notice(self, name: str, body: dict[str, Any], session: int = SESSION) -> Table:
        self.talk.received(self.now_s, frames.encode_notice(session, name, body))
        return self.look()

    def event(self, seq: int) -> Table:
        self.talk.received(self.now_s, frames.encode_event(seq, SESSION, "unit", {"seq": seq, "unit": "a"}))
        return self.look()

    def grant(self, lease: int, endpoint: str = "ipc:///b", unit: str = "m#0") -> Table:
        return self.reply(
            self.asked("lease")[-1],
            {
                "lease": lease,
                "model": "m",
                "mode": "direct",
                "endpoint": endpoint,
                "unit": unit,
                "protocols": [],
            },
        )

    def result(self, tag: frames.Tag, *payload: bytes, kind: DataKind = DataKind.RESULT) -> Table:
        self.talk.received_data(self.now_s, [frames.encode_tag(kind, tag.lease, tag.id), *payload])
        return self.look()

    def error(self, tag: frames.Tag, kind: DataKind, code: str) -> Table:
        return self.result(tag, frames.pack(MgmtError(code, "no").as_body()), kind=kind)

    def pass_s(self, seconds: float) -> Table:
        self.now_s += seconds
        self.talk.tick(self.now_s)
        return self.look()

    def request(self, verb: str = "status", **options: Any) -> int:
        return self.talk.request(self.now_s, verb, {}, **options)

    def call(self, target: Target, *payload: bytes, timeout_s: float | None = None) -> int:
        id = self.talk.call(self.now_s, target, payload, timeout_s)
        self.look()
        return id

    def code(self, id: int) -> str:
        error = self.answers[id].error
        assert error is not None, f"{id} was answered {self.answers[id].result!r}"
        return error.code


def in_session() -> Table:
    table = Table()
    table.talk.say_hello(table.now_s)
    return table.welcome()


def subscribed(seq: int = 10) -> Table:
    table = in_session()
    table.talk.subscribe(table.now_s)
    return snapshot(table, seq)


def snapshot(table: Table, seq: int, events: list[dict[str, Any]] | None = None) -> Table:
    body = {"seq": seq, "epoch": EPOCH, "units": [], "events": events or [], "gap": False}
    return table.reply(table.asked("subscribe")[-1], body)


def leased(retries: int = 0, lease: int = 5) -> tuple[Table, Target]:
    table = in_session()
    target = table.talk.target("m", retries=retries)
    first = table.call(target, b"first")
    table.grant(lease)
    table.result(table.data[-1][1], b"ok")
    assert table.answers[first].result == [b"ok"]
    table.data.clear()
    return table, target


# ---- sessions --------------------------------------------------------------------------------------------


def test_hello_and_first_request_leave_together() -> None:
    table = Table(name="me")
    id = table.request()
    table.look()
    hello, status = table.sent
    assert isinstance(hello, frames.Request) and isinstance(status, frames.Request)
    assert (hello.verb, hello.body) == ("hello", {"versions": list(revisions.SPOKEN), "name": "me"})
    assert (status.verb, status.session, status.id) == ("status", 0, id)
    table.welcome().reply(status, {"n": 1})
    assert table.answers[id].result == {"n": 1}
    table.request()
    assert table.asked("status")[-1].session == SESSION


def test_an_answer_is_given_once_and_unknown_ones_are_dropped() -> None:
    table = in_session()
    id = table.request()
    request = table.asked("status")[0]
    table.reply(request, {"n": 1}).reply(request, {"n": 2})
    assert table.answers[id].result == {"n": 1}


def test_a_hundred_requests_in_flight_are_answered_in_any_order() -> None:
    table = in_session()
    ids = [table.request() for _ in range(100)]
    asked = table.asked("status")
    assert [request.id for request in asked] == ids
    order = list(range(100))
    random.Random(7).shuffle(order)
    for at in order:
        table.reply(asked[at], {"n": at})
    assert [table.answers[id].result for id in ids] == [{"n": at} for at in range(100)]


def test_garbage_changes_nothing() -> None:
    table = in_session()
    id = table.request()
    for frame in (b"", b"\xc1", b"\x91" * 500, frames.pack([1, 2]), frames.pack([9, 2, 0, 0, "ok", {}])):
        table.talk.received(table.now_s, frame)
    table.reply(table.asked("status")[0], {"n": 1})
    assert table.answers[id].result == {"n": 1}


def test_an_unreadable_reply_that_names_its_request_answers_it() -> None:
    table = in_session()
    id = table.request()
    table.talk.received(table.now_s, frames.pack([2, 2, id, SESSION, "ok", {}]))
    assert table.look().code(id) == "bad-version"


def test_a_refused_hello_answers_every_request() -> None:
    table = Table()
    ids = [table.request(), table.request("models")]
    table.refuse(table.asked("hello")[0], "bad-version")
    assert [table.code(id) for id in ids] == ["bad-version", "bad-version"]


@pytest.mark.parametrize("body", [{}, {"session": "x", "epoch": 1, "heartbeat_s": 1}, {"session": 1}])
def test_an_unusable_welcome_is_an_error(body: dict[str, Any]) -> None:
    table = Table()
    id = table.request()
    table.reply(table.asked("hello")[0], body)
    assert table.code(id) == "internal"


def test_an_unanswered_hello_is_unreachable() -> None:
    table = Table(connect_timeout_s=2.0)
    id = table.request(timeout_s=60)
    table.pass_s(1.9)
    assert not table.answers
    table.pass_s(0.1)
    assert table.code(id) == "unreachable"
    table.request()
    assert len(table.asked("hello")) == 2, "the next request tries anew"


def test_the_deadline_travels_and_ours_comes_later() -> None:
    table = in_session()
    id = table.request(timeout_s=2.0)
    assert table.asked("status")[0].deadline_ms == 2000
    assert table.talk.due_s() == table.now_s + 2.0 + defaults.ANSWER_MARGIN_S
    table.pass_s(2.0)
    assert not table.answers.get(id)
    table.pass_s(defaults.ANSWER_MARGIN_S)
    assert table.code(id) == "expired"


def test_no_deadline_is_zero_on_the_wire() -> None:
    table = in_session()
    table.request("wait", timeout_s=NEVER)
    assert table.asked("wait")[0].deadline_ms == 0


def test_heartbeats_go_out_on_time_and_only_in_a_session() -> None:
    table = Table()
    assert table.talk.due_s() == NEVER
    table = in_session()
    assert table.talk.due_s() == table.now_s + HEARTBEAT_S
    table.pass_s(HEARTBEAT_S).notice("heartbeat", {}).pass_s(HEARTBEAT_S)
    assert [n.session for n in table.noticed("heartbeat")] == [SESSION, SESSION]


def test_a_silent_daemon_ends_the_session() -> None:
    table = in_session()
    id = table.request("wait", timeout_s=NEVER)
    for _ in range(3):
        table.pass_s(HEARTBEAT_S)
    assert len(table.asked("hello")) == 1
    table.pass_s(HEARTBEAT_S)
    assert len(table.asked("hello")) == 2
    table.pass_s(defaults.CONNECT_TIMEOUT_S)
    assert table.code(id) == "unreachable"


def test_a_caller_that_computed_for_long_says_hello_first() -> None:
    table = in_session()
    table.now_s += SESSION_TIMEOUT_S + 1
    table.request("stop-service")
    assert [m.verb for m in table.look().sent[-2:] if isinstance(m, frames.Request)] == [
        "hello",
        "stop-service",
    ]
    assert table.asked("stop-service")[0].session == 0


def test_session_gone_is_repeated_in_a_new_session() -> None:
    table = in_session()
    id = table.request(key="k1", timeout_s=10.0)
    table.now_s += 1
    table.refuse(table.asked("status")[0], "session-gone")
    assert not table.answers.get(id)
    table.welcome(session=8, epoch=EPOCH + 1)
    again = table.asked("status")[1]
    assert (again.id, again.session, again.key, again.deadline_ms) == (id, 8, "k1", 9000)
    table.reply(again, {"n": 2})
    assert table.answers[id].result == {"n": 2}


def test_a_daemon_that_forgets_at_once_is_not_asked_for_ever() -> None:
    table = in_session()
    id = table.request()
    for number in range(1, 4):
        table.refuse(table.asked("status")[-1], "session-gone")
        if id in table.answers:
            break
        table.welcome(session=SESSION + number)
    assert table.code(id) == "session-gone"
    assert len(table.asked("status")) == 2, "repeated once per epoch"


@pytest.mark.parametrize("how", ["notice", "disconnect"])
def test_what_was_unanswered_when_the_session_ended(how: str) -> None:
    table = in_session()
    safe, keyed, unsafe = (
        table.request("status"),
        table.request("stop-service", key="k"),
        table.request("bye!"),
    )
    if how == "notice":
        table.notice("session-gone", {})
    else:
        table.talk.disconnected(table.now_s)
    table.welcome(session=8, epoch=EPOCH + 1)
    assert table.code(unsafe) == "session-gone"
    table.reply(table.asked("status")[1]).reply(table.asked("stop-service")[1])
    assert table.answers[safe].error is None and table.answers[keyed].error is None


def test_an_answer_that_arrived_before_the_break_counts() -> None:
    table = in_session()
    id = table.request("stop-service")
    table.talk.disconnected(table.now_s)
    table.reply(table.asked("stop-service")[0], {"message": "so be it"})
    assert table.answers[id].result == {"message": "so be it"}


def test_an_echo_of_a_former_session_means_nothing() -> None:
    table = in_session()
    table.notice("session-gone", {}, session=SESSION - 1)
    assert len(table.asked("hello")) == 1


def test_an_idle_client_waits_with_its_hello() -> None:
    table = in_session()
    table.notice("session-gone", {})
    assert len(table.asked("hello")) == 1 and not table.talk.greeted
    assert table.talk.due_s() == NEVER


def test_the_table_of_requests_is_bounded() -> None:
    table = in_session()
    for _ in range(defaults.MAX_SESSION_REQUESTS):
        table.request()
    with pytest.raises(MgmtError) as refused:
        table.request()
    assert refused.value.code == "busy"


def test_a_request_over_the_limit_never_leaves() -> None:
    table = in_session()
    with pytest.raises(MgmtError) as refused:
        table.talk.request(table.now_s, "status", {"units": ["x" * defaults.MAX_CONTROL_FRAME_BYTES]})
    assert refused.value.code == "too-large"
    assert not table.asked("status") and table.talk.due_s() == table.now_s + HEARTBEAT_S


def test_a_full_socket_is_busy() -> None:
    table = in_session()
    id = table.request()
    table.talk.unsent(table.now_s, id)
    assert table.look().code(id) == "busy"


def test_bye_ends_the_session() -> None:
    table = in_session()
    table.talk.bye()
    assert len(table.noticed("bye")) == 1 and table.talk.due_s() == NEVER


# ---- events ----------------------------------------------------------------------------------------------


def kinds(table: Table) -> list[tuple[str, int]]:
    return [(item["kind"], item["seq"]) for item in table.items]


def test_snapshot_first_then_events_in_order() -> None:
    table = subscribed(10).event(11).event(12)
    assert kinds(table) == [("snapshot", 10), ("unit", 11), ("unit", 12)]
    assert table.items[0]["units"] == [] and "events" not in table.items[0]


def test_past_events_follow_the_snapshot() -> None:
    table = in_session()
    table.talk.subscribe(table.now_s, since=8, epoch=EPOCH)
    assert table.asked("subscribe")[0].body == {"follow": True, "since": 8, "epoch": EPOCH}
    snapshot(table, 10, [{"kind": "unit", "seq": 9}, {"kind": "daemon", "seq": 10}])
    assert kinds(table) == [("snapshot", 10), ("unit", 9), ("daemon", 10)]


def test_repeated_events_are_dropped() -> None:
    assert kinds(subscribed(10).event(9).event(10).event(11).event(11)) == [("snapshot", 10), ("unit", 11)]


def test_a_gap_asks_for_a_snapshot_and_loses_nothing() -> None:
    table = subscribed(10).event(11).event(14)
    assert table.asked("subscribe")[-1].body == {"follow": True, "since": 11, "epoch": EPOCH}
    table.event(15)  # inside the gap: the snapshot covers it
    snapshot(table, 15, [{"kind": "unit", "seq": n} for n in range(12, 16)]).event(16)
    assert [seq for kind, seq in kinds(table) if kind == "unit"] == [11, 12, 13, 14, 15, 16]


def test_another_daemon_means_another_snapshot() -> None:
    table = subscribed(10)
    table.talk.disconnected(table.now_s)
    table.welcome(session=8, epoch=EPOCH + 1)
    again = table.asked("subscribe")
    assert len(again) == 2 and again[1].body["since"] == 10 and again[1].body["epoch"] == EPOCH
    table.event(11)  # of the former daemon
    snapshot(table, 3).event(4)
    assert kinds(table) == [("snapshot", 10), ("snapshot", 3), ("unit", 4)]


def test_without_following_the_answer_ends_it() -> None:
    table = in_session()
    id = table.talk.subscribe(table.now_s, follow=False)
    snapshot(table, 10).event(11)
    assert kinds(table) == [("snapshot", 10)] and table.answers[id].error is None


def test_a_lost_daemon_ends_the_subscription() -> None:
    table = in_session()
    id = table.talk.subscribe(table.now_s)
    snapshot(table, 10)
    table.talk.disconnected(table.now_s)
    table.pass_s(defaults.CONNECT_TIMEOUT_S)
    assert table.code(id) == "unreachable"


def test_unsubscribed_events_are_dropped() -> None:
    table = in_session()
    id = table.talk.subscribe(table.now_s)
    snapshot(table, 10)
    table.talk.unsubscribe(id)
    assert kinds(table.event(11)) == [("snapshot", 10)]


# ---- model requests --------------------------------------------------------------------------------------


def test_the_first_calls_wait_for_one_lease() -> None:
    table = in_session()
    target = table.talk.target("m", "direct", load=True)
    one, two = table.call(target, b"1", timeout_s=1.0), table.call(target, b"2", b"22", timeout_s=3.0)
    (lease,) = table.asked("lease")
    assert lease.body == {"model": "m", "mode": "direct", "load": True}
    assert not table.data
    table.grant(5)
    assert [(e, t.lease, t.id, t.deadline_ms, p) for e, t, p in table.data] == [
        ("ipc:///b", 5, one, 1000, [b"1"]),
        ("ipc:///b", 5, two, 3000, [b"2", b"22"]),
    ]
    table.result(table.data[1][1], b"two").result(table.data[0][1])
    assert table.answers[two].result == [b"two"] and table.answers[one].result == []


def test_a_refused_lease_answers_its_calls() -> None:
    table = in_session()
    target = table.talk.target("m")
    ids = [table.call(target, b"1"), table.call(target, b"2")]
    table.refuse(table.asked("lease")[0], "not-loaded")
    assert [table.code(id) for id in ids] == ["not-loaded", "not-loaded"]
    table.call(target)
    assert len(table.asked("lease")) == 2, "the next call asks again"


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (DataKind.ERROR, "backend-error"),
        (DataKind.BUSY, "busy"),
        (DataKind.EXPIRED, "expired"),
        (DataKind.GONE, "lease-gone"),
    ],
)
def test_a_refusal_of_the_backend_is_the_answer(kind: DataKind, code: str) -> None:
    table, target = leased()
    id = table.call(target, b"x")
    table.error(table.data[-1][1], kind, code)
    assert table.code(id) == code
    table.error(table.data[-1][1], kind, code)


@pytest.mark.parametrize("payload", [(), (b"\xc1",), (b"\x01",)])
def test_an_unreadable_refusal_is_still_an_answer(payload: tuple[bytes, ...]) -> None:
    table, target = leased()
    id = table.call(target)
    table.result(table.data[-1][1], *payload, kind=DataKind.ERROR)
    assert table.code(id) == "internal"


def test_answers_to_nobody_are_dropped() -> None:
    table, target = leased()
    id = table.call(target)
    tag = table.data[-1][1]
    for message in (
        [b""],
        [b"\xff" * frames.TAG_BYTES],
        [frames.encode_tag(DataKind.RESULT, tag.lease, tag.id + 1)],
        [frames.encode_tag(DataKind.RESULT, tag.lease + 1, tag.id)],
    ):
        table.talk.received_data(table.now_s, message)
    assert id not in table.look().answers
    table.result(tag, b"mine")
    assert table.answers[id].result == [b"mine"]


def test_a_closed_lease_answers_its_calls_and_only_those() -> None:
    table, doomed = leased(lease=5)
    other = table.talk.target("m")
    fine = table.call(other, b"fine")
    table.grant(6, endpoint="ipc:///c", unit="m#1")
    lost = [table.call(doomed, b"1"), table.call(doomed, b"2")]
    table.notice("lease-closed", {"lease": 5, "unit": "m#0", "reason": "signal 9"})
    assert [table.code(id) for id in lost] == ["backend-lost", "backend-lost"]
    assert table.closed == ["ipc:///b"] and fine not in table.answers
    table.result(table.data[0][1], b"still here")
    assert table.answers[fine].result == [b"still here"]
    table.call(doomed, b"3")
    assert len(table.asked("lease")) == 3, "the next call goes to a new lease"


def test_with_retries_a_lost_call_goes_to_another_replica() -> None:
    table, target = leased(retries=1)
    id = table.call(target, b"again")
    table.notice("lease-closed", {"lease": 5, "unit": "m#0", "reason": "signal 9"}).pass_s(0)
    table.grant(6, endpoint="ipc:///c", unit="m#1")
    endpoint, tag, payload = table.data[-1]
    assert (endpoint, tag.lease, tag.id, payload) == ("ipc:///c", 6, id, [b"again"])
    table.notice("lease-closed", {"lease": 6, "unit": "m#1", "reason": "signal 9"}).pass_s(0)
    assert table.code(id) == "backend-lost", "one retry, not two"


def test_busy_waits_longer_each_time() -> None:
    table, target = leased(retries=3)
    id = table.call(target, b"x")
    waits = []
    for _ in range(3):
        table.error(table.data[-1][1], DataKind.BUSY, "busy")
        sent = len(table.data)
        waits.append(table.talk.due_s() - table.now_s)
        table.pass_s(waits[-1])
        assert len(table.data) == sent + 1
    assert waits == pytest.approx([0.05, 0.1, 0.2])
    table.error(table.data[-1][1], DataKind.BUSY, "busy")
    assert table.code(id) == "busy"


def test_a_draining_backend_finishes_what_it_has() -> None:
    table, target = leased()
    old = table.call(target, b"old")
    refused = table.call(target, b"new")
    table.error(table.data[1][1], DataKind.GONE, "lease-gone")
    assert table.code(refused) == "lease-gone" and not table.closed
    table.result(table.data[0][1], b"done")
    assert table.answers[old].result == [b"done"] and table.closed == ["ipc:///b"]


def test_calls_expire_with_and_without_a_lease() -> None:
    table, target = leased()
    sent = table.call(target, timeout_s=1.0)
    unleased = table.call(table.talk.target("n"), timeout_s=1.0)
    table.pass_s(1.0 + defaults.ANSWER_MARGIN_S)
    assert (table.code(sent), table.code(unleased)) == ("expired", "expired")
    table.result(table.data[0][1], b"late")


def test_a_lease_that_expired_for_one_is_asked_for_again_by_the_other() -> None:
    table = in_session()
    target = table.talk.target("m")
    short = table.call(target, timeout_s=1.0)
    long = table.call(target, timeout_s=9.0)
    table.now_s += 2
    table.refuse(table.asked("lease")[0], "expired")
    assert table.code(short) == "expired" and long not in table.answers
    table.grant(5)
    assert table.data[-1][1].id == long


@pytest.mark.parametrize("retries", [0, 1])
def test_the_end_of_the_session_is_the_end_of_its_leases(retries: int) -> None:
    table, target = leased(retries)
    id = table.call(target, b"x")
    table.notice("session-gone", {})
    if not retries:
        assert table.code(id) == "backend-lost"
        return
    table.pass_s(0)
    assert id not in table.answers and table.asked("lease")[-1].session == 0
    table.welcome(session=8).grant(6)
    table.result(table.data[-1][1], b"ok")
    assert table.answers[id].result == [b"ok"]


def test_a_call_after_a_long_pause_gets_a_new_lease_and_no_error() -> None:
    table, target = leased()
    table.now_s += SESSION_TIMEOUT_S + 1
    id = table.call(target, b"x")
    table.welcome(session=8).grant(6)
    table.result(table.data[-1][1], b"ok")
    assert table.answers[id].result == [b"ok"]


def test_release_gives_the_lease_back_and_the_socket_up() -> None:
    table, target = leased()
    table.talk.release(table.now_s, target)
    assert table.asked("release")[0].body == {"lease": 5} and table.closed == ["ipc:///b"]
    table.refuse(table.asked("release")[0], "lease-gone")
    assert set(table.answers) == {a for a in table.answers if table.answers[a].error is None}


def test_two_leases_share_an_endpoint() -> None:
    table, one = leased()
    two = table.talk.target("n", "relay")
    table.call(two)
    table.grant(6)
    table.result(table.data[-1][1])
    table.talk.release(table.now_s, one)
    assert not table.look().closed
    table.talk.release(table.now_s, two)
    assert table.look().closed == ["ipc:///b"]


def test_frames_over_the_limit_and_calls_over_the_bound_are_refused_here(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    table, target = leased()
    monkeypatch.setattr(defaults, "MAX_RELAY_FRAME_BYTES", 10)
    monkeypatch.setattr(defaults, "MAX_RELAY_QUEUE", 2)
    with pytest.raises(MgmtError) as large:
        table.call(target, b"x" * 11)
    table.call(target), table.call(target)
    with pytest.raises(MgmtError) as many:
        table.call(target)
    assert (large.value.code, many.value.code) == ("too-large", "busy")


def test_forgotten_ids_are_not_answered() -> None:
    table, target = leased()
    request, call = table.request(), table.call(target)
    table.talk.forget(request)
    table.talk.forget(call)
    table.reply(table.asked("status")[0]).result(table.data[-1][1], b"x")
    assert request not in table.answers and call not in table.answers


def test_answered_ids_leave_no_timer_behind() -> None:
    table, target = leased()
    for _ in range(100):
        table.call(target)
        table.result(table.data[-1][1])
        table.request()
        table.reply(table.asked("status")[-1])
    assert table.talk.due_s() == table.talk._heartbeat_at_s
    table.pass_s(defaults.REQUEST_TIMEOUT_S + 1)
    assert not table.talk._timers
