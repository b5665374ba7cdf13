"""Loading, unloading, handshaking and dying: what an ancestor's client sees of real backends.

The comment above each test names the rows of the parity table (docs/parity.md) that it shows.
"""

from __future__ import annotations

import json
import os
import signal
import stat
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import zmq

from mgmt.protocol.symphony import decode_handshake_response
from mgmt.protocol.symphony_messages import message_class, parse, serialize
from tests.system.clients import Peer, eventually
from tests.system.daemon import Daemon, Start, alive, config, model, script, symphony

IGNORES_TERM = """
import signal, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
import zmq
router = zmq.Context().socket(zmq.ROUTER)
router.bind(sys.argv[1])
while True:
    identity, *frames = router.recv_multipart()
    router.send_multipart([identity, b"\\x0a\\x04ping"])
"""

ENDPOINT_HEX_DIGITS = 8
NOTICED_WITHIN_S = 0.05
STATUS_WITHIN_S = 0.05


def written(folder: Path, name: str, source: str) -> Path:
    path = folder / name
    path.write_text(source)
    return path


def file_of(endpoint: str) -> Path:
    return Path(endpoint.removeprefix("ipc://"))


class Times(NamedTuple):
    """In seconds: how long each status took, and how late this process woke from a short sleep before it."""

    status: list[float]
    lateness: list[float]


def status_times_s(daemon: Daemon, until: Any) -> Times:
    """How long a status took, again and again until the condition holds."""
    times = Times([], [])
    peer = daemon.legacy_peer()
    while not until():
        begin = time.monotonic()
        time.sleep(0.001)
        times.lateness.append(time.monotonic() - begin - 0.001)
        begin = time.monotonic()
        peer.ask("status")
        assert peer.answer()["success"]
        times.status.append(time.monotonic() - begin)
    return times


def assert_prompt(times: Times) -> None:
    """All but the odd one that the machine itself delayed; and none as late as the ancestor's seconds.

    A status takes four wakings of two processes: on a machine that has no time for anybody it may be that late.
    """
    assert len(times.status) >= 20
    machine_s = 4 * statistics.quantiles(times.lateness, n=20)[-1]
    assert statistics.quantiles(times.status, n=20)[-1] < STATUS_WITHIN_S + machine_s, sorted(times.status)[
        -5:
    ]
    assert max(times.status) < 10 * STATUS_WITHIN_S + 4 * max(times.lateness), max(times.status)


# ---- load and unload ----


# S1 S8 S19 S24
def test_a_load_answers_with_both_key_sets_and_again_with_the_same_endpoint(start: Start) -> None:
    daemon = start(config({"stub": symphony()}, [model("m", "stub", fullname="org/m", aliases=["alias"])]))
    before = time.time()
    reply = daemon.legacy("load-model", model_name="m")
    assert list(reply) == ["correlation_id", "success", "data"]
    first = reply["data"]
    assert set(first) == {"endpoint", "model_name", "model_type", "pid"}
    path = file_of(first["endpoint"])
    assert path.parent == daemon.sockets
    assert path.name.startswith("symphony-model-")
    suffix = path.name.removeprefix("symphony-model-")
    assert len(suffix) == ENDPOINT_HEX_DIGITS
    int(suffix, 16)
    assert stat.S_ISSOCK(path.stat().st_mode)
    assert alive(first["pid"])

    for name in ("m", "org/m", "alias"):  # idempotent, by any of its names
        assert daemon.loaded(name) == first

    status = daemon.legacy("status")["data"]
    assert status["model_count"] == 1
    (row,) = status["models"]
    names = "name model_name type model_type endpoint started_at uptime pid is_alive"
    assert set(row) == set(names.split())
    assert (row["name"], row["model_name"], row["type"], row["model_type"]) == ("m", "m", "stub", "stub")
    assert (row["endpoint"], row["pid"], row["is_alive"]) == (first["endpoint"], first["pid"], True)
    assert before - 1 <= row["started_at"] <= time.time() + 1
    assert 0 <= row["uptime"] <= time.time() - before + 1

    reply = daemon.legacy("unload-model", model_name="m")
    assert reply["data"] == {"message": "Model m unloaded"}
    assert not alive(first["pid"])
    assert not path.exists()
    assert daemon.legacy("status")["data"]["models"] == []
    assert daemon.legacy("unload-model", model_name="m")["error"] == "Model m not found"


# S14, fault 17: the age of a process is measured by the monotonic clock
def test_uptime_grows_with_the_monotonic_clock(start: Start) -> None:
    daemon = start(config({"stub": symphony()}))
    daemon.loaded("stub")

    def uptime_s() -> float:
        (row,) = daemon.legacy("status")["data"]["models"]
        assert isinstance(row["uptime"], float)
        return float(row["uptime"])

    begin, first = time.monotonic(), uptime_s()
    later = eventually(lambda: (now := uptime_s()) > first + 0.2 and now)
    assert later - first == pytest.approx(time.monotonic() - begin, abs=0.15)
    assert daemon.unit("stub")["uptime_s"] >= later


# S1: several at once, no process left behind
def test_several_models_have_processes_and_endpoints_of_their_own(start: Start) -> None:
    daemon = start(config({"stub": symphony()}, [model(f"m{i}", "stub") for i in range(3)]))
    loaded = [daemon.loaded(f"m{i}") for i in range(3)]
    assert len({data["pid"] for data in loaded}) == 3
    assert len({data["endpoint"] for data in loaded}) == 3
    assert daemon.legacy("status")["data"]["model_count"] == 3
    daemon.legacy("unload-model", model_name="m1")
    assert [row["name"] for row in daemon.legacy("status")["data"]["models"]] == ["m0", "m2"]


# S8 S13 S22, fault 5
def test_three_rounds_of_load_and_unload_leave_nothing(start: Start) -> None:
    daemon = start(config({"stub": symphony()}))
    fresh = [path.name for path in daemon.socket_files()]
    endpoints, pids = set(), set()
    for _ in range(3):
        data = daemon.loaded("stub")
        endpoints.add(data["endpoint"])
        pids.add(data["pid"])
        assert daemon.legacy("unload-model", model_name="stub")["success"]
        assert [path.name for path in daemon.socket_files()] == fresh
        eventually(lambda: not daemon.children(), what="no process is left")
    assert len(endpoints) == len(pids) == 3
    assert not any(alive(pid) for pid in pids)


# S19 S22: coalesced
def test_ten_parallel_loads_make_one_process_and_ten_equal_answers(start: Start) -> None:
    daemon = start(config({"stub": symphony("--delay-s", "0.3")}))
    peers = [daemon.legacy_peer() for _ in range(10)]
    for peer in peers:
        peer.ask("load-model", model_name="stub")
    answers = [peer.answer() for peer in peers]
    assert all(answer == answers[0] for answer in answers)
    assert answers[0]["success"]
    assert daemon.unit("stub")["incarnation"] == 1
    assert len(daemon.children()) == 2  # the backend and its shim


# S12 S24, §2.7: an honest "starting" before the old caller's timeout
def test_a_slow_load_is_answered_with_its_endpoint_and_the_state_starting(start: Start) -> None:
    settings = config({"stub": symphony("--delay-s", "1.0")}, timing={"legacy_load_answer_s": 0.2})
    daemon = start(settings)
    data = daemon.loaded("stub")
    assert data["state"] == "starting"
    assert alive(data["pid"])
    assert not file_of(data["endpoint"]).exists()
    eventually(file_of(data["endpoint"]).exists, what="the file that old clients wait for")
    daemon.reaches("stub", "RUNNING")
    assert daemon.loaded("stub") == {key: value for key, value in data.items() if key != "state"}


# S12, fault 2
def test_a_backend_that_binds_late_is_not_loaded_before(start: Start) -> None:
    daemon = start(config({"stub": symphony("--delay-s", "0.5")}))
    peer = daemon.legacy_peer()
    peer.ask("load-model", model_name="stub")
    unit = daemon.reaches("stub", "STARTING")
    assert not unit["ready"]
    data = peer.answer()["data"]
    assert file_of(data["endpoint"]).exists()
    assert daemon.unit("stub")["ready"]


# S12, fault 2: bound is not ready, the answer to a handshake is
def test_a_backend_that_binds_and_never_answers_is_not_ready(start: Start) -> None:
    daemon = start(run=False)
    silent = "import sys, time, zmq\nr = zmq.Context().socket(zmq.ROUTER)\nr.bind(sys.argv[1])\nr.poll()\n"
    silent += "print('got a handshake', flush=True)\ntime.sleep(600)\n"
    path = written(daemon.folder, "silent.py", silent)
    daemon.configure(config({"silent": script(path, ready_timeout_s=1.0)}))
    daemon.start()
    reply = daemon.legacy("load-model", model_name="silent")
    assert reply["success"] is False
    assert "not ready within 1 s" in reply["error"]
    assert "got a handshake" in reply["error"]
    assert daemon.unit("silent")["state"] == "FATAL"


FAILING = {
    "dies": ("import sys\nprint('cannot open the weights', flush=True)\nsys.exit(3)\n", ["exit status 3"]),
    "raises": ("raise SystemError('no such device')\n", ["exit status 1", "SystemError: no such device"]),
}


# S6 S12 S24, faults 3 and 14
@pytest.mark.parametrize("name", FAILING)
def test_a_failed_start_is_never_a_success(start: Start, name: str) -> None:
    daemon = start(run=False)
    source, wanted = FAILING[name]
    daemon.configure(config({name: script(written(daemon.folder, f"{name}.py", source))}))
    daemon.start()
    reply = daemon.legacy("load-model", model_name=name)
    assert reply["success"] is False
    assert "data" not in reply
    for text in wanted:
        assert text in reply["error"]
    assert "Traceback" not in reply["error"] or name == "raises"  # only the backend's own output
    assert daemon.unit(name)["state"] == "FATAL"
    assert daemon.legacy("status")["data"]["models"] == []


# S6 S10, faults 3 and 11
def test_what_cannot_be_executed_is_named(start: Start) -> None:
    backends: dict[str, Any] = {
        "gone": "no_such_backend.py",
        "absent": {"kind": "symphony", "command": ["/no/such/program", "{endpoint}"]},
        "denied": {"kind": "symphony", "command": ["/etc/passwd", "{endpoint}"]},
        "nowhere": symphony(cwd="/no/such/folder"),
    }
    daemon = start(config(backends))
    wanted = {
        "gone": ["'no_such_backend.py' is in none of these places", "--backend-path"],
        "absent": ["No such file or directory"],
        "denied": ["Permission denied"],
        "nowhere": ["No such file or directory"],
    }
    for name, texts in wanted.items():
        reply = daemon.legacy("load-model", model_name=name)
        assert reply["success"] is False
        for text in texts:
            assert text in reply["error"], reply
    eventually(lambda: daemon.children() == set(), what="no process is left")


# ---- the engine's sequence ----


# S22 S24 S27 S31
def test_the_engines_sequence_from_status_to_pong(start: Start) -> None:
    daemon = start(config({"llama3": symphony()}, [model("Llama-3.1-8B-Instruct", "llama3")]))
    wanted = "Llama-3.1-8B-Instruct"
    cli = daemon.legacy_peer()
    cli.ask("status")
    running = [row for row in cli.answer(10)["data"]["models"] if row["model_name"] == wanted]
    assert running == []
    cli.ask("load-model", model_name=wanted)
    reply = cli.answer(10)
    assert reply["success"]
    endpoint = reply["data"]["endpoint"]
    eventually(file_of(endpoint).exists, 30)
    backend = daemon.keep(Peer(daemon.context, endpoint))
    backend.send(b"")
    (response,) = backend.receive(2)
    protocols = decode_handshake_response(response)
    assert protocols == ["l4m", "l4m-vision", "ping"]
    index = bytes([protocols.index("ping")])
    assert index == b"\x02"
    for number, text in enumerate(("hello", "", "ü" * 1000), start=1):
        backend.send(index, serialize(message_class("ping.Ping")(correlation_id=number, message=text)))
        answered, payload = backend.receive()
        pong = parse("ping.Pong", payload)
        assert (answered, pong.correlation_id, pong.message) == (index, number, "Pong:" + text)
    cli.ask("status")
    (row,) = cli.answer(10)["data"]["models"]
    assert (row["model_name"], row["endpoint"]) == (wanted, endpoint)


# ---- the handshake and the default model ----


# S12 S15, fault 9
def test_a_handshake_starts_the_default_model_and_only_that_once(start: Start) -> None:
    models = [model("other", "stub"), model("chosen", "stub")]
    daemon = start(config({"stub": symphony("--delay-s", "0.2")}, models, default_model="chosen"))
    with ThreadPoolExecutor(5) as pool:
        answers = list(pool.map(lambda _: daemon.handshake(), range(5)))
    assert answers == [["l4m", "l4m-vision", "ping"]] * 5
    units = daemon.status()["units"]
    assert [(unit["unit"], unit["incarnation"]) for unit in units] == [("chosen", 1)]
    assert daemon.handshake() == ["l4m", "l4m-vision", "ping"]


# fault 9: a failing default model is not started at the will of strangers
def test_a_default_model_that_fails_is_not_started_by_every_handshake(start: Start) -> None:
    daemon = start(run=False)
    source = f"open({str(daemon.folder / 'starts')!r}, 'a').write('x')\nraise SystemExit(1)\n"
    path = written(daemon.folder, "dies.py", source)
    daemon.configure(config({"dies": script(path)}, default_model="dies"))
    daemon.start()
    assert [daemon.handshake() for _ in range(5)] == [[]] * 5
    assert (daemon.folder / "starts").read_text() == "x"


# fault 9: never while it is slow, either
def test_a_handshake_waits_no_longer_than_the_setting(start: Start) -> None:
    settings = config({"stub": symphony("--delay-s", "30")}, default_model="stub")
    daemon = start({**settings, "timing": {"legacy_load_answer_s": 0.2}})
    assert daemon.handshake(5) == []
    assert daemon.unit("stub")["state"] == "STARTING"


# ---- nothing else ever waits ----


# S18 S19 S24, fault 1
def test_status_is_prompt_while_models_load(start: Start) -> None:
    models = [model(f"m{i}", "stub") for i in range(2)]
    daemon = start(config({"stub": symphony("--delay-s", "0.5")}, models))
    loads = [daemon.legacy_peer() for _ in models]
    for peer, row in zip(loads, models, strict=True):
        peer.ask("load-model", model_name=row["name"])
    assert_prompt(status_times_s(daemon, lambda: all(peer.socket.poll(0) for peer in loads)))
    assert all(peer.answer()["success"] for peer in loads)


# S13, fault 7
def test_status_is_prompt_while_a_backend_ignores_its_stop(start: Start) -> None:
    daemon = start(run=False)
    path = written(daemon.folder, "deaf.py", IGNORES_TERM)
    daemon.configure(config({"deaf": {**script(path), "grace_s": 0.5}}))
    daemon.start()
    pid = daemon.loaded("deaf")["pid"]
    begin = time.monotonic()
    peer = daemon.legacy_peer()
    peer.ask("unload-model", model_name="deaf")
    times = status_times_s(daemon, lambda: peer.socket.poll(0))
    assert peer.answer()["success"]
    assert time.monotonic() - begin >= 0.5  # it was given its grace
    assert_prompt(times)
    assert not alive(pid)
    assert daemon.unit("deaf")["last_exit"]["signal"] == signal.SIGKILL


# S13 S17, fault 7
def test_a_stop_takes_one_grace_however_many_ignore_it(start: Start) -> None:
    daemon = start(run=False)
    path = written(daemon.folder, "deaf.py", IGNORES_TERM)
    models = [model(f"m{i}", "deaf") for i in range(4)]
    daemon.configure(config({"deaf": {**script(path), "grace_s": 0.7}}, models))
    daemon.start()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(daemon.loaded, [row["name"] for row in models]))
    begin = time.monotonic()
    reply = daemon.legacy("stop-service")
    assert reply["data"] == {"message": "Service shutdown requested"}
    assert daemon.wait() == 0
    assert 0.7 <= time.monotonic() - begin < 2 * 0.7


# ---- death ----


# S11 S22, faults 7, 8 and 18
def test_a_crash_leaves_status_working_and_a_reload_possible(start: Start) -> None:
    daemon = start(config({"stub": symphony(restart={"policy": "no"})}))
    first = daemon.loaded("stub")
    os.kill(first["pid"], signal.SIGKILL)
    unit = daemon.reaches("stub", "EXITED")
    assert unit["last_exit"]["signal"] == signal.SIGKILL
    assert daemon.legacy("status")["data"]["models"] == []
    eventually(lambda: not file_of(first["endpoint"]).exists(), what="nobody finds its socket")
    eventually(lambda: not Path(f"/proc/{first['pid']}").exists(), what="it is reaped")
    second = daemon.loaded("stub")
    assert alive(second["pid"])
    assert second["pid"] != first["pid"]


# S11, fault 8
def test_a_backend_that_dies_is_started_again_on_the_same_endpoint(start: Start) -> None:
    daemon = start(config({"stub": symphony(restart={"delay_s": 0.05})}))
    first = daemon.loaded("stub")
    os.kill(first["pid"], signal.SIGKILL)
    unit = eventually(lambda: (u := daemon.unit("stub"))["incarnation"] == 2 and u["ready"] and u)
    assert unit["endpoint"] == first["endpoint"]
    assert (unit["restarts"], unit["last_exit"]["signal"]) == (1, signal.SIGKILL)


# S11: the event, the log and the status
def test_a_death_is_noticed_within_50_ms(start: Start) -> None:
    daemon = start(config({"stub": symphony(restart={"policy": "no"})}))
    watcher = daemon.native()
    watcher.ok("subscribe")
    delays = []
    for _ in range(7):
        pid = daemon.loaded("stub")["pid"]
        watcher.event(state="RUNNING")
        begin = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        event = watcher.event(state="EXITED")
        delays.append(time.monotonic() - begin)
        assert event["exit"]["signal"] == signal.SIGKILL
        assert event["exit"]["code"] is None
        assert "killed by signal 9" in event["reason"]
        unit = daemon.unit("stub")  # no later than the event
        assert (unit["state"], unit["pid"]) == ("EXITED", None)
    # The middle one: a single look may be late on a busy machine, a poll interval would show in all.
    assert statistics.median(delays) < NOTICED_WITHIN_S, delays
    text = "stub: RUNNING -> EXITED: killed by signal 9"
    eventually(lambda: daemon.log().count(text) == 7, what="and written down")


# S31: odd clients cannot disturb a loaded model
def test_many_kinds_of_sockets_are_served_at_once(start: Start) -> None:
    daemon = start(config({"stub": symphony()}))
    daemon.loaded("stub")
    peers = [daemon.peer("client_handshake", kind) for kind in (zmq.DEALER, zmq.REQ) for _ in range(4)]
    for peer in peers:
        peer.send(b"")
    for peer in peers:
        assert decode_handshake_response(peer.receive()[0]) == ["l4m", "l4m-vision", "ping"]
    json.dumps(daemon.legacy("status"))
