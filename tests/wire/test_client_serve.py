"""Client and backend library over real sockets and processes, against a daemon that follows a script."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import uvloop
import zmq

from mgmt.client import AsyncClient, Client, ModelClient
from mgmt.protocol import defaults, frames
from mgmt.protocol.errors import MgmtError
from mgmt.protocol.frames import DataKind
from mgmt.protocol.revisions import SPOKEN
from tests.wire.scripted_daemon import PATIENCE_S, ScriptedDaemon, Stage, Unit, eventually, stage

FAULTY = "mgmt_backends.faulty"
CALLABLE = "mgmt_backends.callable"


@pytest.fixture(name="on_stage")
def _on_stage() -> Iterator[Stage]:
    with stage() as set_up:
        yield set_up


def grant(daemon: ScriptedDaemon, *units: Unit) -> None:
    """Leases 1, 2, 3, ... on these units in turn."""
    numbers = iter(range(1, 1000))

    def answer(request: frames.Request) -> dict[str, Any]:
        number = next(numbers)
        return units[(number - 1) % len(units)].lease(number)

    daemon.answers["lease"] = answer


def refused(call: Any, *args: Any, **options: Any) -> MgmtError:
    with pytest.raises(MgmtError) as caught:
        call(*args, **options)
    return caught.value


# ---- the daemon, or none ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "what", ["nothing", "a dead socket", "a file", "a long path", "an unknown abstract name"]
)
def test_no_daemon_is_said_at_once(on_stage: Stage, what: str) -> None:
    path = on_stage.folder / "control"
    endpoint = on_stage.endpoint
    if what == "a dead socket":
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(path))
    elif what == "a file":
        path.touch()
    elif what == "a long path":
        endpoint = f"ipc:///tmp/{'x' * 200}"
    elif what == "an unknown abstract name":
        endpoint = f"ipc://@mgmt-nobody-{os.getpid()}"
    with Client(endpoint) as client:
        started_s = time.monotonic()
        error = refused(client.request, "status")
        assert time.monotonic() - started_s < 0.2
    assert error.code == "unreachable"
    assert endpoint in error.text and "mgmt start-service" in error.text
    if what == "a dead socket":
        assert error.text == f"no daemon at {endpoint} (socket exists, nobody listens): mgmt start-service"


@pytest.fixture
def tcp_port() -> Iterator[socket.socket]:
    """Bound, so that nobody else gets the port, and not listening."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with socket.socket() as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(("127.0.0.1", port))
        yield bound


@pytest.mark.parametrize("host", ["127.0.0.1", "no-such-host.invalid"])
def test_no_daemon_over_a_network_is_said_at_once(tcp_port: socket.socket, host: str, run: Any) -> None:
    endpoint = f"tcp://{host}:{tcp_port.getsockname()[1]}"

    async def ask() -> None:
        async with AsyncClient(endpoint) as client:
            await client.request("status")

    started_s = time.monotonic()
    with Client(endpoint) as client:
        for _ in range(2):
            error = refused(client.request, "status")
            assert error.code == "unreachable"
            assert endpoint in error.text and "mgmt start-service" in error.text
    assert refused(run, ask()).code == "unreachable"
    assert time.monotonic() - started_s < defaults.CONNECT_TIMEOUT_S / 2


def test_a_daemon_that_restarts_over_a_network_is_waited_for(
    on_stage: Stage, tcp_port: socket.socket
) -> None:
    on_stage.endpoint = f"tcp://127.0.0.1:{tcp_port.getsockname()[1]}"
    tcp_port.close()
    first = on_stage.daemon(epoch=1)
    with Client(on_stage.endpoint) as client:
        client.hello()
        first.answers["status"] = lambda request: None
        id = client.submit("status")
        first.wait_for("status")
        first.stop()
        starting = threading.Timer(0.3, on_stage.daemon, kwargs={"epoch": 2})
        starting.start()
        assert client.collect(id) == {"epoch": 2}
        starting.join()


@pytest.mark.parametrize("endpoint", ["nonsense", "udp//x", "tcp://", "ftp://host:1"])
def test_a_wrong_endpoint_is_said_at_once(endpoint: str) -> None:
    with Client(endpoint) as client:
        error = refused(client.request, "status")
    assert error.code == "unreachable" and endpoint in error.text


def test_a_socket_that_never_answers_is_unreachable(on_stage: Stage) -> None:
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(on_stage.folder / "control"))
        mute.listen()
        with Client(on_stage.endpoint, connect_timeout_s=0.2) as client:
            error = refused(client.request, "status")
    assert error.code == "unreachable" and "did not answer the hello within 0.2 s" in error.text


def test_a_client_that_is_not_used_costs_nothing(on_stage: Stage) -> None:
    with Client(on_stage.endpoint):
        pass


def test_a_closed_client_stays_closed(on_stage: Stage) -> None:
    on_stage.daemon()
    client = Client(on_stage.endpoint)
    client.request("status")
    client.close()
    client.close()
    with pytest.raises(RuntimeError):
        client.request("status")


def test_hello_travels_with_the_first_request_and_bye_ends_it(on_stage: Stage) -> None:
    daemon = on_stage.daemon(epoch=9)
    with Client(on_stage.endpoint, name="tester") as client:
        assert client.request("status") == {"epoch": 9}
        assert client.hello()["epoch"] == 9
    hello, status = daemon.asked
    assert (hello.verb, hello.body["name"], status.verb) == ("hello", "tester", "status")
    eventually(lambda: daemon.notices("bye"), "bye")
    assert not daemon.sessions


@pytest.mark.parametrize("code", ["busy", "expired", "unknown-model", "stopping"])
def test_what_the_daemon_refuses_is_raised(on_stage: Stage, code: str) -> None:
    daemon = on_stage.daemon()
    daemon.answers["load-model"] = lambda request: MgmtError(code, "not today", model="m")
    with Client(on_stage.endpoint) as client:
        error = refused(client.request, "load-model", {"model": "m"})
        assert (error.code, error.text, error.detail) == (code, "not today", {"model": "m"})
        assert client.request("status") == {"epoch": 1}


def test_what_msgpack_cannot_carry_is_refused_before_it_is_sent(on_stage: Stage) -> None:
    daemon = on_stage.daemon()
    with Client(on_stage.endpoint) as client:
        assert refused(client.request, "load-model", {"model": 1 << 64}).code == "bad-body"
        assert client.request("status") == {"epoch": 1}
        for value in (1 << 64, "\ud800", object()):
            assert refused(client.model("m").ask, value).code == "bad-body"
    assert [request.verb for request in daemon.asked] == ["hello", "status"]


def test_a_request_without_an_answer_expires(on_stage: Stage) -> None:
    daemon = on_stage.daemon()
    with Client(on_stage.endpoint) as client:
        assert refused(client.request, "wait", timeout_s=0.05).code == "expired"
        assert client.request("status") == {"epoch": 1}
    assert daemon.requests("wait")[0].deadline_ms == 50


def test_pipelined_answers_are_collected_in_any_order(on_stage: Stage) -> None:
    daemon = on_stage.daemon()
    daemon.answers["models"] = lambda request: {"id": request.id}
    with Client(on_stage.endpoint) as client:
        ids = [client.submit("models") for _ in range(200)]
        assert all(client.collect(id) == {"id": id} for id in reversed(ids))


def test_session_gone_is_healed_unseen(on_stage: Stage) -> None:
    daemon = on_stage.daemon()
    with Client(on_stage.endpoint) as client:
        client.request("status")
        daemon.forget_sessions()
        eventually(lambda: not daemon.sessions, "sessions forgotten")
        assert client.request("status", key="k") == {"epoch": 1}
    assert [request.key for request in daemon.requests("status")] == ["", "k", "k"]
    assert len(daemon.requests("hello")) == 2


def test_heartbeats_keep_a_waiting_client_alive(on_stage: Stage) -> None:
    daemon = on_stage.daemon(heartbeat_s=0.02)
    with Client(on_stage.endpoint) as client:
        id = client.submit("wait", timeout_s=PATIENCE_S)
        request = daemon.wait_for("wait")

        def release() -> None:
            eventually(lambda: len(daemon.notices("heartbeat")) >= 5, "five heartbeats")
            daemon.answer_late(request, {"done": True})

        threading.Thread(target=release, daemon=True).start()
        assert client.collect(id) == {"done": True}
    assert len(daemon.requests("hello")) == 1


def test_a_restarted_daemon_gets_the_open_request_again(on_stage: Stage) -> None:
    first = on_stage.daemon(epoch=1)
    with Client(on_stage.endpoint) as client:
        client.request("status")
        id = client.submit("wait", key="k")
        first.wait_for("wait")
        first.stop()
        second = on_stage.daemon(epoch=2)
        second.answers["wait"] = lambda request: {"epoch": 2}
        assert client.collect(id) == {"epoch": 2}
    assert second.requests("wait")[0].key == "k"


def test_a_daemon_that_stays_away_is_unreachable(on_stage: Stage) -> None:
    daemon = on_stage.daemon()
    with Client(on_stage.endpoint, connect_timeout_s=0.2) as client:
        id = client.submit("wait", timeout_s=60)
        daemon.wait_for("wait")
        daemon.stop()
        assert refused(client.collect, id).code == "unreachable"
        started_s = time.monotonic()
        assert refused(client.request, "status").code == "unreachable"
        assert time.monotonic() - started_s < 0.2


# ---- events ----------------------------------------------------------------------------------------------


def script_events(daemon: ScriptedDaemon, seq: int) -> None:
    """Past events are remembered without limit; `seq` is the last one at first."""
    daemon.answers["subscribe"] = lambda request: {
        "seq": max(seq, request.body.get("since", 0)),
        "epoch": daemon.epoch,
        "units": [],
        "events": [],
        "gap": False,
    }


def test_events_survive_a_gap_and_a_restart(on_stage: Stage) -> None:
    first = on_stage.daemon(epoch=1)
    script_events(first, 10)
    with Client(on_stage.endpoint) as client:
        events = client.events()
        assert next(events) == {"kind": "snapshot", "seq": 10, "epoch": 1, "units": [], "gap": False}
        first.publish(11, unit="a")
        assert next(events) == {"kind": "unit", "seq": 11, "unit": "a"}
        script_events(first, 13)
        first.publish(13, unit="a")
        assert next(events)["seq"] == 13
        assert first.requests("subscribe")[1].body == {"follow": True, "since": 11, "epoch": 1}
        first.stop()
        second = on_stage.daemon(epoch=2)
        script_events(second, 0)
        again = next(events)
        assert (again["kind"], again["epoch"]) == ("snapshot", 2)
        second.publish(again["seq"] + 1)
        assert next(events)["kind"] == "unit"
        events.close()
        assert client.request("status") == {"epoch": 2}


def test_events_end_when_told(on_stage: Stage) -> None:
    script_events(on_stage.daemon(), 10)
    with Client(on_stage.endpoint) as client:
        assert [item["kind"] for item in client.events(follow=False)] == ["snapshot"]
        assert [item["kind"] for item in client.events(timeout_s=0.05)] == ["snapshot"]


def test_events_of_a_lost_daemon_end_in_an_error(on_stage: Stage) -> None:
    daemon = on_stage.daemon()
    script_events(daemon, 10)
    with Client(on_stage.endpoint, connect_timeout_s=0.1) as client:
        events = client.events()
        next(events)
        daemon.stop()
        assert refused(next, events).code == "unreachable"


# ---- models ----------------------------------------------------------------------------------------------


def test_a_direct_call_reaches_the_backend(on_stage: Stage) -> None:
    daemon = on_stage.daemon()
    grant(daemon, on_stage.echo(daemon))
    with Client(on_stage.endpoint) as client:
        model = client.model("m")
        assert model.call(b"one", b"", b"three") == [b"one", b"", b"three"]
        assert model.call() == []
        assert model.ask({"deep": [1, None, b"\0", "é"]}) == {"deep": [1, None, b"\0", "é"]}
        assert model.unit == "echo"
        assert len(daemon.requests("lease")) == 1
        model.release()
        eventually(lambda: daemon.requests("release"), "release")


def test_large_frames_come_back_unchanged(on_stage: Stage) -> None:
    daemon = on_stage.daemon()
    grant(daemon, on_stage.echo(daemon))
    large = os.urandom(8 << 20)
    with Client(on_stage.endpoint) as client:
        assert client.model("m").call(large, b"small", large[: 1 << 16]) == [
            large,
            b"small",
            large[: 1 << 16],
        ]
        too_large = bytes(defaults.MAX_RELAY_FRAME_BYTES + 1)
        assert refused(client.model("m").call, too_large).code == "too-large"


def test_many_calls_in_flight_each_get_their_own_answer(on_stage: Stage) -> None:
    daemon = on_stage.daemon()
    grant(daemon, on_stage.echo(daemon))
    with Client(on_stage.endpoint) as client:
        model = client.model("m")
        sent = {model.submit(str(n).encode()): str(n).encode() for n in range(500)}
        for _ in range(len(sent)):
            id, answer = model.collect_next()
            assert answer == [sent.pop(id)]
        with pytest.raises(LookupError):
            model.collect_next()


def two_replicas(on_stage: Stage, daemon: ScriptedDaemon) -> tuple[Unit, Unit]:
    doomed = on_stage.unit(daemon, "doomed", FAULTY, "--mode", "hangs").ready(daemon)
    return doomed, on_stage.echo(daemon, "healthy")


def kill(daemon: ScriptedDaemon, unit: Unit, lease: int) -> None:
    """kill -9, and what the daemon says then."""
    unit.process.kill()
    unit.ended()
    daemon.tell("lease-closed", {"lease": lease, "unit": unit.name, "reason": "ended by signal 9"})


def test_of_two_replicas_one_killed_every_call_is_answered_once(on_stage: Stage) -> None:
    daemon = on_stage.daemon()
    doomed, healthy = two_replicas(on_stage, daemon)
    grant(daemon, doomed, healthy)
    with Client(on_stage.endpoint) as client:
        one, two = client.model("m"), client.model("m")
        lost = [one.submit(b"x") for _ in range(20)]
        daemon.wait_for("lease", 1)
        assert refused(client.request, "wait", timeout_s=0.01).code == "expired"  # pumps: the lease arrives
        fine = [two.submit(str(n).encode()) for n in range(20)]
        assert two.collect(fine[0]) == [b"0"]
        assert (one.unit, two.unit) == ("doomed", "healthy")
        kill(daemon, doomed, lease=1)
        errors = [refused(one.collect, id) for id in lost]
        assert {error.code for error in errors} == {"backend-lost"}
        assert all(error.row.retryable and "signal 9" in error.text for error in errors)
        assert [two.collect(id) for id in fine[1:]] == [[str(n).encode()] for n in range(1, 20)]
        grant(daemon, healthy)
        assert one.call(b"again") == [b"again"], "the next call goes to the replica that lives"


def test_with_retries_nobody_notices_the_kill(on_stage: Stage) -> None:
    daemon = on_stage.daemon()
    doomed, healthy = two_replicas(on_stage, daemon)
    grant(daemon, doomed, healthy)
    with Client(on_stage.endpoint) as client:
        model = client.model("m", retries=1)
        ids = [model.submit(str(n).encode()) for n in range(20)]
        daemon.order(lambda: None)
        assert refused(client.request, "wait", timeout_s=0.01).code == "expired"
        kill(daemon, doomed, lease=1)
        assert [model.collect(id) for id in ids] == [[str(n).encode()] for n in range(20)]
        assert model.unit == "healthy"


def test_a_backend_that_dies_in_the_middle_of_a_reply(on_stage: Stage) -> None:
    daemon = on_stage.daemon()
    unit = on_stage.unit(daemon, "u", FAULTY, "--mode", "dies-mid-reply", "--code", "7").ready(daemon)
    grant(daemon, unit)
    with Client(on_stage.endpoint) as client:
        model = client.model("m")
        id = model.submit(b"x")
        assert refused(client.request, "wait", timeout_s=0.01).code == "expired"
        assert unit.ended() == 7
        daemon.tell("lease-closed", {"lease": 1, "unit": "u", "reason": "exit status 7"})
        assert refused(model.collect, id).code == "backend-lost"


def test_a_hanging_backend_is_answered_by_the_deadline(on_stage: Stage) -> None:
    daemon = on_stage.daemon()
    grant(daemon, on_stage.unit(daemon, "u", FAULTY, "--mode", "hangs").ready(daemon))
    with Client(on_stage.endpoint) as client:
        assert refused(client.model("m").call, b"x", timeout_s=0.1).code == "expired"


def test_a_backend_with_bad_frames_harms_nobody(on_stage: Stage) -> None:
    daemon = on_stage.daemon()
    unit = on_stage.unit(daemon, "u", FAULTY, "--mode", "bad-frames").ready(daemon)
    grant(daemon, unit)
    with Client(on_stage.endpoint) as client:
        assert refused(client.model("m").call, b"x", timeout_s=0.2).code == "expired"
    eventually(lambda: len(daemon.garbage) >= 7, "garbage at the daemon")
    unit.process.terminate()
    assert unit.ended() == 0


# ---- asyncio ---------------------------------------------------------------------------------------------

LOOPS = {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}


@pytest.fixture(params=LOOPS, name="run")
def _run(request: pytest.FixtureRequest) -> Any:
    def run(main: Any) -> Any:
        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            return runner.run(asyncio.wait_for(main, PATIENCE_S))

    return run


def test_async_requests_and_calls(on_stage: Stage, run: Any) -> None:
    daemon = on_stage.daemon(epoch=3)
    daemon.answers["models"] = lambda request: {"id": request.id}
    grant(daemon, on_stage.echo(daemon))

    async def main() -> None:
        async with AsyncClient(on_stage.endpoint) as client:
            assert (await client.hello())["epoch"] == 3
            bodies = await asyncio.gather(*(client.request("models") for _ in range(300)))
            assert len({body["id"] for body in bodies}) == 300
            model = client.model("m")
            answers = await asyncio.gather(*(model.ask(n) for n in range(300)))
            assert answers == list(range(300)) and model.unit == "echo"
            with pytest.raises(MgmtError) as expired:
                await client.request("wait", timeout_s=0.05)
            assert expired.value.code == "expired"
            model.release()

    run(main())


def test_async_one_at_a_time_never_waits_for_the_next(on_stage: Stage, run: Any) -> None:
    """The descriptor is edge-triggered: an edge lost once would stop this until the deadline."""
    daemon = on_stage.daemon()
    grant(daemon, on_stage.echo(daemon))

    async def main() -> None:
        async with AsyncClient(on_stage.endpoint, timeout_s=5.0) as client:
            model = client.model("m")
            for n in range(500):
                assert await model.call(b"%d" % n) == [b"%d" % n]
                if n % 5 == 0:
                    await client.request("status")

    run(main())


def test_async_cancelled_requests_leave_nothing(on_stage: Stage, run: Any) -> None:
    daemon = on_stage.daemon()

    async def main() -> None:
        async with AsyncClient(on_stage.endpoint) as client:
            task = asyncio.create_task(client.request("wait"))
            await asyncio.to_thread(daemon.wait_for, "wait")
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await client.request("status") == {"epoch": 1}
            assert not client._futures and not client._conversation._requests

    run(main())


def test_async_heartbeats_need_no_request(on_stage: Stage, run: Any) -> None:
    daemon = on_stage.daemon(heartbeat_s=0.02)

    async def main() -> None:
        async with AsyncClient(on_stage.endpoint) as client:
            await client.request("status")
            await asyncio.to_thread(eventually, lambda: len(daemon.notices("heartbeat")) >= 5, "heartbeats")
            await client.request("status")

    run(main())
    assert len(daemon.requests("hello")) == 1


def test_async_events_survive_a_restart(on_stage: Stage, run: Any) -> None:
    first = on_stage.daemon(epoch=1)
    script_events(first, 10)

    async def main() -> None:
        async with AsyncClient(on_stage.endpoint, connect_timeout_s=1.0) as client:
            events = client.events()
            assert (await anext(events))["seq"] == 10
            first.publish(11, unit="a")
            assert await anext(events) == {"kind": "unit", "seq": 11, "unit": "a"}
            first.stop()
            second = on_stage.daemon(epoch=2)
            script_events(second, 0)
            again = await anext(events)
            assert (again["kind"], again["epoch"]) == ("snapshot", 2)
            second.stop()
            with pytest.raises(MgmtError) as lost:
                await anext(events)
            assert lost.value.code == "unreachable"
            once = [item async for item in client_of_nobody(client)]
            assert once == ["unreachable"]

    async def client_of_nobody(client: AsyncClient) -> Any:
        try:
            async for item in client.events():
                yield item
        except MgmtError as error:
            yield error.code

    run(main())


def test_async_replica_killed(on_stage: Stage, run: Any) -> None:
    daemon = on_stage.daemon()
    doomed, healthy = two_replicas(on_stage, daemon)
    grant(daemon, doomed, doomed, healthy)

    async def main() -> None:
        async with AsyncClient(on_stage.endpoint) as client:
            plain, stubborn = client.model("m"), client.model("m", retries=1)
            lost = [asyncio.create_task(plain.call(b"x")) for _ in range(10)]
            saved = [asyncio.create_task(stubborn.call(b"%d" % n)) for n in range(10)]
            while None in (plain.unit, stubborn.unit):
                await client.request("status")
            doomed.process.kill()
            await asyncio.to_thread(doomed.ended)
            for lease in (1, 2):
                daemon.tell("lease-closed", {"lease": lease, "unit": "doomed", "reason": "ended by signal 9"})
            results = await asyncio.gather(*lost, return_exceptions=True)
            assert all(isinstance(r, MgmtError) and r.code == "backend-lost" for r in results)
            assert await asyncio.gather(*saved) == [[b"%d" % n] for n in range(10)]

    run(main())


def test_only_the_async_client_needs_asyncio() -> None:
    code = (
        "import sys, mgmt.client, mgmt.serve; mgmt.client.Client('ipc:///x');"
        "print([m for m in ('asyncio', 'pydantic', 'uvloop', 'zmq.asyncio', 'rich') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# ---- the backend's side ----------------------------------------------------------------------------------


class Peer:
    """A client of a backend without any library: a DEALER and tags."""

    def __init__(self, context: zmq.Context[Any], unit: Unit) -> None:
        self.socket: zmq.Socket[bytes] = context.socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.rcvtimeo = int(PATIENCE_S * 1000)
        self.socket.connect(unit.endpoint)

    def send(self, id: int, *payload: bytes, deadline_ms: int = 0) -> None:
        self.socket.send_multipart([frames.encode_tag(DataKind.REQUEST, 1, id, deadline_ms), *payload])

    def answer(self) -> tuple[int, DataKind, Any]:
        """(id, kind, payload), or the error's code in place of the payload."""
        head, *payload = self.socket.recv_multipart()
        tag = frames.decode_tag(head)
        kind = DataKind(tag.kind)
        return tag.id, kind, payload if kind == DataKind.RESULT else frames.unpack(payload[0])["code"]


Meet = Callable[[Unit], Peer]


@pytest.fixture(name="meet")
def _meet() -> Iterator[Meet]:
    context: zmq.Context[Any] = zmq.Context()
    peers: list[Peer] = []

    def meet(unit: Unit) -> Peer:
        peers.append(Peer(context, unit))
        return peers[-1]

    yield meet
    for peer in peers:
        peer.socket.close()
    context.term()


MODEL = '''
import threading, time
from mgmt.protocol.errors import MgmtError

class Model:
    """Waits on {"wait": path} until that file exists; raises what it is told to."""
    def setup(self):
        self.loaded = True
    def __call__(self, value):
        match value:
            case {"wait": path}:
                import os
                while not os.path.exists(path):
                    time.sleep(0.002)
                return "waited"
            case {"raise odd": _}:
                raise ValueError(chr(0xd800))
            case {"raise": text}:
                raise ValueError(text)
            case {"refuse": code}:
                raise MgmtError(code, "as asked")
            case {"exit": status}:
                raise SystemExit(status)
            case {"return": "object"}:
                return object()
        return {"got": value, "loaded": self.loaded}

def broken_setup():
    raise RuntimeError("no weights here")

def slow_setup():
    threading.Event().wait()

def double(value):
    return value * 2
'''


@pytest.fixture(name="model_path")
def _model_path(on_stage: Stage) -> str:
    (on_stage.folder / "toy_model.py").write_text(MODEL)
    return str(on_stage.folder)


def all_queued(daemon: ScriptedDaemon, count: int) -> None:
    """Wait until the backend says that so many requests are in its queue."""
    eventually(
        lambda: [n for n in daemon.notices("backend-heartbeat") if n.body["queued"] == count],
        f"{count} requests in the heartbeat",
    )


def toy(on_stage: Stage, daemon: ScriptedDaemon, path: str, *argv: str) -> Unit:
    return on_stage.unit(daemon, "toy", CALLABLE, *(argv or ("toy_model:Model",)), PYTHONPATH=path)


def test_hello_before_the_load_ready_after_it(on_stage: Stage, model_path: str) -> None:
    daemon = on_stage.daemon(heartbeat_s=0.02)
    unit = toy(on_stage, daemon, model_path, "toy_model:double", "--setup", "toy_model:slow_setup")
    hello = daemon.wait_for("backend-hello")
    assert hello.body == {
        "versions": list(SPOKEN),
        "unit": "toy",
        "incarnation": 1,
        "token": "secret",
        "pid": unit.process.pid,
    }
    eventually(lambda: len(daemon.notices("backend-heartbeat")) >= 3, "heartbeats during the load")
    assert not daemon.requests("backend-ready")
    unit.process.terminate()
    assert unit.ended() == 0, "SIGTERM ends a load"


def test_ready_names_the_protocols(on_stage: Stage) -> None:
    daemon = on_stage.daemon()
    on_stage.echo(daemon)
    (ready,) = daemon.requests("backend-ready")
    assert ready.body == {"unit": "echo", "incarnation": 1, "token": "secret", "protocols": ["msgpack"]}


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("toy_model:double", "--setup", "toy_model:broken_setup"), "RuntimeError: no weights here"),
        (("toy_model:nothing",), "'toy_model' has no 'nothing'"),
        (("no_such_module:f",), "No module named 'no_such_module'"),
        (("toy_model",), "not of the form module:function"),
        (("toy_model:MODEL",), "has no 'MODEL'"),
    ],
)
def test_a_load_that_fails_says_why_and_ends(
    on_stage: Stage, model_path: str, argv: tuple[str, ...], said: str
) -> None:
    daemon = on_stage.daemon()
    unit = toy(on_stage, daemon, model_path, *argv)
    assert unit.ended() == 1
    assert said in unit.said() and not daemon.requests("backend-ready")


def test_every_request_gets_its_kind_of_answer(on_stage: Stage, model_path: str, meet: Meet) -> None:
    daemon = on_stage.daemon()
    unit = toy(on_stage, daemon, model_path).ready(daemon)
    peer = meet(unit)
    rows = [
        ([frames.pack(7)], DataKind.RESULT, [frames.pack({"got": 7, "loaded": True})]),
        ([frames.pack({"raise": "oh"})], DataKind.ERROR, "backend-error"),
        ([frames.pack({"raise odd": True})], DataKind.ERROR, "backend-error"),
        ([frames.pack({"refuse": "busy"})], DataKind.BUSY, "busy"),
        ([frames.pack({"refuse": "not-ready"})], DataKind.ERROR, "not-ready"),
        ([frames.pack({"exit": 3})], DataKind.ERROR, "backend-error"),
        ([frames.pack({"return": "object"})], DataKind.ERROR, "backend-error"),
        ([b"\xc1"], DataKind.ERROR, "bad-frame"),
        ([b"\x91" * 5000 + b"\0"], DataKind.ERROR, "bad-frame"),
        ([], DataKind.ERROR, "bad-body"),
        ([b"\0", b"\0"], DataKind.ERROR, "bad-body"),
        (
            [frames.pack("still alive")],
            DataKind.RESULT,
            [frames.pack({"got": "still alive", "loaded": True})],
        ),
    ]
    for id, (payload, _, _) in enumerate(rows):
        peer.send(id, *payload)
    assert [peer.answer() for _ in rows] == [(id, kind, what) for id, (_, kind, what) in enumerate(rows)]
    assert "ValueError: oh" in unit.said(), "the log has the traceback"


def test_messages_that_are_no_requests_are_refused(on_stage: Stage, meet: Meet) -> None:
    daemon = on_stage.daemon()
    peer = meet(on_stage.echo(daemon))
    for head in (
        b"",
        b"\xff" * 30,
        b"\x09" + frames.encode_tag(DataKind.REQUEST, 1, 5)[1:],
        frames.encode_tag(DataKind.RESULT, 1, 6),
    ):
        peer.socket.send_multipart([head, b"x"])
    answers = [peer.answer() for _ in range(4)]
    assert answers == [
        (0, DataKind.ERROR, "bad-frame"),
        (0, DataKind.ERROR, "bad-frame"),
        (5, DataKind.ERROR, "bad-version"),
        (6, DataKind.ERROR, "bad-frame"),
    ]


def test_a_full_queue_is_busy_and_a_late_request_expires(
    on_stage: Stage, model_path: str, meet: Meet
) -> None:
    (on_stage.folder / "small_queue.py").write_text(
        "from toy_model import Model\n"
        "from mgmt.serve import serve, value_handler\n"
        "model = Model()\n"
        "raise SystemExit(serve(value_handler(model), setup=model.setup, max_queue=3))\n"
    )
    daemon = on_stage.daemon(heartbeat_s=0.02)
    unit = on_stage.unit(daemon, "small", "small_queue", PYTHONPATH=model_path).ready(daemon)
    peer, gate = meet(unit), on_stage.folder / "gate"
    peer.send(1, frames.pack({"wait": str(gate)}))
    peer.send(2, frames.pack("in time"), deadline_ms=60_000)
    peer.send(3, frames.pack("too late"), deadline_ms=1)
    peer.send(4, frames.pack("too many"))
    assert peer.answer() == (4, DataKind.BUSY, "busy")
    all_queued(daemon, 3)
    gate.touch()
    assert [peer.answer()[:2] for _ in range(3)] == [
        (1, DataKind.RESULT),
        (2, DataKind.RESULT),
        (3, DataKind.EXPIRED),
    ]


@pytest.mark.parametrize("how", ["drain", "SIGTERM"])
def test_drain_finishes_what_it_has(on_stage: Stage, model_path: str, meet: Meet, how: str) -> None:
    daemon = on_stage.daemon(heartbeat_s=0.02)
    unit = toy(on_stage, daemon, model_path).ready(daemon)
    peer, gate = meet(unit), on_stage.folder / "gate"
    peer.send(1, frames.pack({"wait": str(gate)}))
    peer.send(2, frames.pack("queued"))
    peer.send(3, b"\xc1")
    all_queued(daemon, 3)
    other = meet(unit)
    if how == "drain":
        daemon.tell("drain", {})
    else:
        unit.process.send_signal(signal.SIGTERM)

    def turned_away() -> bool:
        other.send(9, frames.pack("new"))
        other.socket.rcvtimeo = 50
        try:
            id, kind, code = other.answer()
        except zmq.Again:
            return False
        return (id, kind, code) == (9, DataKind.GONE, "lease-gone")

    eventually(turned_away, "new requests are turned away")
    assert unit.process.poll() is None
    gate.touch()
    answers = {id: kind for id, kind, _ in (peer.answer() for _ in range(3))}
    assert answers == {1: DataKind.RESULT, 2: DataKind.RESULT, 3: DataKind.ERROR}
    if how == "drain":
        unit.process.terminate()
    assert unit.ended() == 0
    assert not Path(unit.endpoint.removeprefix("ipc://")).exists()


def test_concurrency_overlaps_calls(on_stage: Stage, model_path: str, meet: Meet) -> None:
    daemon = on_stage.daemon()
    unit = toy(on_stage, daemon, model_path, "toy_model:Model", "--concurrency", "2").ready(daemon)
    peer, gate = meet(unit), on_stage.folder / "gate"
    peer.send(1, frames.pack({"wait": str(gate)}))
    peer.send(2, frames.pack("quick"))
    assert peer.answer()[0] == 2
    gate.touch()
    assert peer.answer()[0] == 1


@pytest.mark.parametrize("how", ["forgotten", "restarted"])
def test_a_backend_introduces_itself_again_and_serves_meanwhile(
    on_stage: Stage, meet: Meet, how: str
) -> None:
    daemon = on_stage.daemon(epoch=1, heartbeat_s=0.02)
    peer = meet(on_stage.echo(daemon))
    if how == "forgotten":
        daemon.forget_sessions()
    else:
        daemon.stop()
        peer.send(1, b"nobody watches")
        assert peer.answer() == (1, DataKind.RESULT, [b"nobody watches"])
        daemon = on_stage.daemon(epoch=2, heartbeat_s=0.02)
        assert not daemon.asked or daemon.asked[0].verb == "backend-hello"
    hellos = 2 if how == "forgotten" else 1
    assert daemon.wait_for("backend-hello", hellos).body["unit"] == "echo"
    ready = daemon.wait_for("backend-ready", hellos)
    assert ready.session == daemon.units["echo"]
    beats = len(daemon.notices("backend-heartbeat"))
    eventually(lambda: len(daemon.notices("backend-heartbeat")) > beats, "heartbeats go on")
    assert len(daemon.requests("backend-ready")) == hellos


@pytest.mark.parametrize("code", ["denied", "bad-version"])
def test_a_refused_backend_ends(on_stage: Stage, code: str) -> None:
    daemon = on_stage.daemon()
    daemon.answers["backend-hello"] = lambda request: MgmtError(code, "go away")
    unit = on_stage.unit(daemon, "u", "mgmt_backends.echo")
    assert unit.ended() == 1
    assert f"the daemon refuses this backend: {code}: go away" in unit.said()


def test_a_refusal_interrupts_a_load(on_stage: Stage) -> None:
    daemon = on_stage.daemon()
    daemon.answers["backend-hello"] = lambda request: MgmtError("denied", "go away")
    unit = on_stage.unit(daemon, "u", FAULTY, "--mode", "hangs-before-ready")
    assert unit.ended() == 1 and "go away" in unit.said()


@pytest.mark.parametrize(
    "missing", ["MGMT_ENDPOINT", "MGMT_SERVE", "MGMT_UNIT", "MGMT_INCARNATION", "MGMT_TOKEN"]
)
def test_a_backend_started_by_hand_says_what_it_misses(on_stage: Stage, missing: str) -> None:
    daemon = on_stage.daemon()
    unit = on_stage.unit(daemon, "u", "mgmt_backends.echo", **{missing: ""})
    assert unit.ended() == 2 and f"{missing} is not set" in unit.said()


# ---- faults on purpose -----------------------------------------------------------------------------------


def faulty(on_stage: Stage, daemon: ScriptedDaemon, mode: str, *flags: str) -> Unit:
    return on_stage.unit(daemon, "u", FAULTY, "--mode", mode, *flags)


def test_dies_before_ready(on_stage: Stage) -> None:
    daemon = on_stage.daemon()
    unit = faulty(on_stage, daemon, "dies-before-ready", "--delay-s", "0.01", "--code", "5")
    assert unit.ended() == 5
    assert "dying with status 5" in unit.said() and not daemon.requests("backend-ready")


def test_dies_after_ready(on_stage: Stage) -> None:
    daemon = on_stage.daemon()
    unit = faulty(on_stage, daemon, "dies-after-ready", "--delay-s", "0.5")
    daemon.wait_for("backend-ready")
    assert unit.ended() == 3


def test_slow_ready(on_stage: Stage) -> None:
    daemon = on_stage.daemon()
    faulty(on_stage, daemon, "slow-ready", "--delay-s", "0.05").ready(daemon)


def test_floods_stdout_and_serves(on_stage: Stage) -> None:
    daemon = on_stage.daemon()
    unit = faulty(on_stage, daemon, "floods-stdout").ready(daemon)
    eventually(lambda: unit.log.stat().st_size > 1 << 20, "a megabyte of output")
    grant(daemon, unit)
    with Client(on_stage.endpoint) as client:
        assert client.model("m").call(b"x") == [b"x"]


def test_ignores_sigterm(on_stage: Stage) -> None:
    daemon = on_stage.daemon()
    unit = faulty(on_stage, daemon, "ignores-sigterm").ready(daemon)
    unit.process.terminate()
    grant(daemon, unit)
    with Client(on_stage.endpoint) as client:
        assert client.model("m").call(b"x") == [b"x"]
    assert unit.process.poll() is None
    unit.process.kill()
    assert unit.ended() == -signal.SIGKILL


def test_wrong_version(on_stage: Stage) -> None:
    daemon = on_stage.daemon()
    unit = faulty(on_stage, daemon, "wrong-version")
    assert unit.ended() == 1
    assert daemon.requests("backend-hello")[0].body["versions"] == [99]
    assert "bad-version" in unit.said()


def test_segfault(on_stage: Stage) -> None:
    daemon = on_stage.daemon()
    unit = faulty(on_stage, daemon, "segfault").ready(daemon)
    grant(daemon, unit)
    with Client(on_stage.endpoint) as client:
        model = client.model("m")
        model.submit(b"x")
        assert refused(client.request, "wait", timeout_s=0.01).code == "expired"
        assert unit.ended() == -signal.SIGSEGV


def test_forks(on_stage: Stage) -> None:
    daemon = on_stage.daemon()
    unit = faulty(on_stage, daemon, "forks", "--count", "3").ready(daemon)
    children = [
        psutil.Process(int(line.split()[1]))
        for line in unit.said().splitlines()
        if line.startswith("grandchild")
    ]
    try:
        assert len(children) == 3
        assert all(os.getsid(child.pid) == child.pid for child in children)
        unit.process.terminate()
        assert unit.ended() == 0
        assert all(child.is_running() for child in children)
    finally:
        for child in children:
            child.kill()


# ---- a real model ----------------------------------------------------------------------------------------


def ask(client: Client) -> ModelClient:
    return client.model("m")


HTML = b"<!DOCTYPE html>\n<html><head><title>A page</title></head><body><p>Some text</p></body></html>\n"


def test_magika_knows_real_files(on_stage: Stage) -> None:
    pytest.importorskip("magika", reason="the extra mgmt[magika] is not installed")
    daemon = on_stage.daemon()
    unit = on_stage.unit(daemon, "magika", CALLABLE, "mgmt_backends.magika:Classifier").ready(daemon)
    grant(daemon, unit)
    root = Path(__file__).parents[2]
    with Client(on_stage.endpoint) as client:
        model = ask(client)
        one = model.ask({"path": __file__})
        assert (one["label"], one["mime"], one["group"]) == ("python", "text/x-python", "code")
        assert 0.9 < one["score"] <= 1.0 and one["latency_ms"] > 0
        many = model.ask([{"path": str(root / "pyproject.toml")}, {"data": HTML}])
        assert [item["label"] for item in many] == ["toml", "html"]
        assert refused(model.ask, {"path": "/no/such/file"}).code == "bad-body"
        assert refused(model.ask, {"path": 7}).code == "bad-body"
        assert refused(model.ask, {"data": b"", "more": 1}).code == "bad-body"


def field(number: int, value: bytes | int) -> bytes:
    """One protobuf field: a varint below 128, or bytes shorter than that."""
    if isinstance(value, int):
        return bytes((number << 3, value))
    assert len(value) < 128
    return bytes((number << 3 | 2, len(value))) + value


def tiny_model() -> bytes:
    """An ONNX file, written by hand: float32 c[n, 2] = a[n, 2] + b[n, 2]."""

    def value(name: bytes) -> bytes:
        shape = field(1, field(2, b"n")) + field(1, field(1, 2))
        return field(1, name) + field(2, field(1, field(1, 1) + field(2, shape)))

    node = field(1, b"a") + field(1, b"b") + field(2, b"c") + field(4, b"Add")
    graph = field(1, node) + field(2, b"g") + field(11, value(b"a")) + field(11, value(b"b"))
    body = graph + field(12, value(b"c"))
    long = bytes((7 << 3 | 2, len(body) & 127 | 128, len(body) >> 7)) + body
    return field(1, 8) + long + field(8, field(1, b"") + field(2, 13))


@pytest.fixture(name="onnx")
def _onnx(on_stage: Stage) -> Iterator[ModelClient]:
    pytest.importorskip("onnxruntime", reason="the extra mgmt[magika] is not installed")
    path = on_stage.folder / "tiny.onnx"
    path.write_bytes(tiny_model())
    daemon = on_stage.daemon()
    argv = ("mgmt_backends.onnx", "--model", str(path), "--threads", "1")
    grant(daemon, on_stage.unit(daemon, "onnx", *argv).ready(daemon))
    with Client(on_stage.endpoint) as client:
        yield ask(client)


def test_onnx_describes_and_runs(onnx: ModelClient) -> None:
    import struct

    shape = {"dtype": "float32", "shape": ["n", 2]}
    assert onnx.ask({"describe": True}) == {"inputs": {"a": shape, "b": shape}, "outputs": {"c": shape}}
    packed = {"dtype": "float32", "shape": [1, 2], "data": struct.pack("<2f", 1, 2)}
    answer = onnx.ask({"inputs": {"a": packed, "b": [[10, 20]]}, "outputs": ["c"]})
    assert answer["outputs"] == {
        "c": {"dtype": "float32", "shape": [1, 2], "data": struct.pack("<2f", 11, 22)}
    }
    assert answer["latency_ms"] >= 0


@pytest.mark.parametrize(
    ("request_value", "said"),
    [
        ({"inputs": {"a": [[1, 2]]}}, "refuses these inputs"),
        ({"inputs": {"a": [[1, 2]], "b": [[1, 2, 3]]}}, "refuses these inputs"),
        ({"inputs": {"a": [[1], [2, 3]], "b": [[1, 2]]}}, "a: not a tensor"),
        (
            {"inputs": {"a": {"dtype": "float32", "shape": [9], "data": b"1234"}, "b": [[1, 2]]}},
            "a: not a tensor",
        ),
        ({"inputs": {"a": {"dtype": "object", "shape": [1], "data": b"12345678"}}}, "has no bytes form"),
        ({"inputs": {"a": {"data": b""}}}, "a tensor is"),
        ({"inputs": {"z": [1]}}, "no input 'z'; it has: a, b"),
        ({"inputs": {}, "outputs": ["z"]}, "outputs is a list of: c"),
        ({"describe": False}, "a request is"),
        ([], "a request is"),
    ],
)
def test_onnx_refuses_what_it_cannot_run(onnx: ModelClient, request_value: Any, said: str) -> None:
    error = refused(onnx.ask, request_value)
    assert error.code == "bad-body" and said in error.text


def test_onnx_runs_the_network_of_magika(on_stage: Stage) -> None:
    magika = pytest.importorskip("magika", reason="the extra mgmt[magika] is not installed")
    (path,) = Path(magika.__file__).parent.glob("models/*/model.onnx")
    daemon = on_stage.daemon()
    grant(daemon, on_stage.unit(daemon, "onnx", "mgmt_backends.onnx", "--model", str(path)).ready(daemon))
    with Client(on_stage.endpoint) as client:
        model = ask(client)
        described = model.ask({"describe": True})
        (name,), (target,) = described["inputs"], described["outputs"]
        width, labels = described["inputs"][name]["shape"][1], described["outputs"][target]["shape"][1]
        answer = model.ask({"inputs": {name: [[256] * width, list(range(width))]}})
        assert answer["outputs"][target]["shape"] == [2, labels]


def test_onnx_says_what_is_wrong_with_the_file(on_stage: Stage) -> None:
    pytest.importorskip("onnxruntime", reason="the extra mgmt[magika] is not installed")
    path = on_stage.folder / "bad.onnx"
    path.write_bytes(b"not a model")
    unit = on_stage.unit(on_stage.daemon(), "onnx", "mgmt_backends.onnx", "--model", str(path))
    assert unit.ended() == 1 and f"cannot load {path}" in unit.said()
