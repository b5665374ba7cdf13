"""The Symphony stub backend: a real process behind real sockets."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from mgmt.protocol.symphony import PROTOCOLS, decode_handshake_response
from mgmt.protocol.symphony_messages import message_class, parse, serialize

ROOT = Path(__file__).resolve().parents[2]
STUB = ROOT / "backends" / "symphony_stub.py"
PATIENCE_S = 20.0
L4M, PING = (bytes([PROTOCOLS.index(name)]) for name in ("l4m", "ping"))

Start = Callable[..., "subprocess.Popen[str]"]
Connect = Callable[..., "zmq.Socket[bytes]"]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short name: an ipc path has 107 characters at most."""
    path = Path(tempfile.mkdtemp(prefix="stub-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def endpoint(folder: Path) -> str:
    return f"ipc://{folder}/model"


@pytest.fixture
def start(endpoint: str, folder: Path) -> Iterator[Start]:
    """Start the script as the daemon does: a plain file, from another working directory."""
    started: list[subprocess.Popen[str]] = []

    def popen(*more: str, ipc: str = endpoint, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, str(STUB), "--ipc-endpoint", ipc, *more],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(process)
        return process

    yield popen
    for process in started:
        process.kill()
        process.communicate(timeout=PATIENCE_S)


@pytest.fixture
def connect(endpoint: str) -> Iterator[Connect]:
    """New client sockets; a message may be sent before the backend is there."""
    with zmq.Context() as context:
        sockets: list[zmq.Socket[bytes]] = []

        def new(kind: int = zmq.DEALER) -> zmq.Socket[bytes]:
            client = context.socket(kind)
            client.linger = 0
            client.rcvtimeo = int(PATIENCE_S * 1000)
            client.connect(endpoint)
            sockets.append(client)
            return client

        yield new
        for client in sockets:
            client.close()


def ask(client: zmq.Socket[bytes], *frames: bytes) -> list[bytes]:
    client.send_multipart(frames)
    return client.recv_multipart()


def shake_hands(client: zmq.Socket[bytes]) -> None:
    (response,) = ask(client, b"")
    assert decode_handshake_response(response) == list(PROTOCOLS)


def ping(client: zmq.Socket[bytes], text: str, correlation_id: int = 7) -> None:
    request = message_class("ping.Ping")(correlation_id=correlation_id, message=text)
    index, body = ask(client, PING, serialize(request))
    pong = parse("ping.Pong", body)
    assert (index, pong.correlation_id, pong.message) == (PING, correlation_id, "Pong:" + text)


def l4m(client: zmq.Socket[bytes], **command: Any) -> Any:
    request = message_class("l4m.Request")(correlation_id=9, **command)
    index, body = ask(client, L4M, serialize(request))
    response = parse("l4m.Response", body)
    assert (index, response.correlation_id) == (L4M, 9)
    return response


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not path.exists():
        assert process.poll() is None, f"the stub ended with {process.returncode}"
        assert time.monotonic() < deadline, f"{path.name} never appeared"
        time.sleep(0.005)


def test_the_handshake_lists_the_protocols_as_often_as_it_is_asked(start: Start, connect: Connect) -> None:
    start()
    client = connect()
    shake_hands(client)
    shake_hands(client)
    (response,) = ask(client, bytes.fromhex("0801"))
    assert decode_handshake_response(response) == list(PROTOCOLS), "an unknown field is no fault"


def test_the_list_is_the_bytes_an_old_client_expects(start: Start, connect: Connect) -> None:
    start()
    assert ask(connect(), b"") == [bytes.fromhex("0a036c346d0a0a6c346d2d766973696f6e0a0470696e67")]


def test_an_undecodable_handshake_is_one_zero_byte_and_registers_nobody(
    start: Start, connect: Connect
) -> None:
    start()
    client = connect()
    assert ask(client, b"\xff") == [b"\x00"]
    assert ask(client, PING, b"") == [b"\x00"], "data before a handshake is no handshake"
    shake_hands(client)
    ping(client, "now it does")


def test_a_ping_is_answered_with_its_text(start: Start, connect: Connect) -> None:
    start()
    first, second = connect(), connect()
    shake_hands(first)
    shake_hands(second)
    ping(first, "hello", 1)
    ping(second, "", 2**32 - 1)
    ping(first, "\0 ü", 0)


def test_info_names_the_model(start: Start, connect: Connect) -> None:
    start("--model-name", "org/The-Model")
    client = connect()
    shake_hands(client)
    info = l4m(client, get_info={}).get_info
    assert info.model_name == "org/The-Model"
    assert min(info.block_size, info.num_available_blocks, info.num_available_embeddings) > 0
    assert info.num_available_distributions > 0
    assert info.version


def test_samples_are_k_tokens_with_probabilities(start: Start, connect: Connect) -> None:
    start()
    client = connect()
    shake_hands(client)
    items = [{"distribution_id": number, "k": k} for number, k in enumerate([4, 0, 2**32 - 1])]
    batch = l4m(client, sample_top_k_request={"items": items}).sample_top_k
    assert [len(item.token_ids) for item in batch.items] == [4, 0, 1024]
    assert list(batch.items[0].probabilities) == [0.25] * 4
    assert l4m(client, sample_top_k_request={}).WhichOneof("command") == "sample_top_k"


def test_requests_without_a_result_and_nonsense_get_no_reply(start: Start, connect: Connect) -> None:
    process = start()
    client = connect()
    shake_hands(client)
    allocate = message_class("l4m.Request")(allocate={"items": [{"kind": 1, "count": 3}]})
    client.send_multipart([L4M, serialize(allocate)])
    client.send_multipart([L4M, b""])
    client.send_multipart([bytes([PROTOCOLS.index("l4m-vision")]), b""])
    client.send_multipart([b"\x09", b"no such protocol"])
    client.send_multipart([b"\x02\x02", b"two index bytes"])
    client.send_multipart([PING, b"\xff no ping"])
    ping(client, "the only reply")  # the answers of one connection are in order
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=PATIENCE_S)
    assert [line.split(":")[0] for line in output.splitlines()].count("ignored") == 3, output


def test_a_req_client_gets_its_delimiter_back(start: Start, connect: Connect) -> None:
    start()
    client = connect(zmq.REQ)
    shake_hands(client)
    ping(client, "through REQ")
    shake_hands(client)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_at_once(start: Start, connect: Connect, number: signal.Signals) -> None:
    process = start()
    shake_hands(connect())
    process.send_signal(number)
    assert process.wait(timeout=5) == 0


def test_it_binds_late_when_told_to(start: Start, connect: Connect) -> None:
    began = time.monotonic()
    start("--delay-s", "0.5")
    shake_hands(connect())
    assert time.monotonic() - began >= 0.5


def test_a_signal_ends_the_delay_too(start: Start, folder: Path) -> None:
    process = start("--delay-s", "600", "--dump", "facts.json")
    wait_for(folder / "facts.json", process)
    assert not (folder / "model").exists()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=5) == 0


def test_it_tells_what_it_was_started_with(start: Start, folder: Path, endpoint: str) -> None:
    ours = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(ours)})  # of this thread only, inherited by the child
    try:
        more = ["--model-name", "m", "--delay-s", "600", "--dump", str(folder / "facts.json")]
        process = start(*more, env={"PIE_ENDPOINT": endpoint, "BYTES": "\udcff"})
    finally:
        os.sched_setaffinity(0, ours)
    wait_for(folder / "facts.json", process)
    facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
    assert facts["argv"] == [str(STUB), "--ipc-endpoint", endpoint, *more]
    assert facts["env"]["PIE_ENDPOINT"] == endpoint
    assert facts["env"]["BYTES"] == "\udcff"
    assert facts["cwd"] == str(folder.resolve())
    assert facts["affinity"] == [min(ours)]
    assert facts["pid"] == process.pid


def test_an_endpoint_that_cannot_be_bound_is_named(start: Start, folder: Path) -> None:
    process = start(ipc=f"ipc://{folder}/absent/model")
    output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert f"cannot serve on ipc://{folder}/absent/model: No such file or directory" in output


def test_a_missing_endpoint_is_a_usage_error() -> None:
    done = subprocess.run(
        [sys.executable, str(STUB)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 2
    assert "--ipc-endpoint" in done.stderr
