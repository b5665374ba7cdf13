"""The ancestor's wire against a running daemon: frames, handshake, JSON commands and their texts.

The comment above each test names the rows of the parity table (docs/parity.md) that it shows.
"""

from __future__ import annotations

import json
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import zmq

from mgmt.protocol.symphony import decode_handshake_response
from tests.system.daemon import Daemon, Start, config, model, symphony

MODELS = [
    model("Llama-Test", "stub", fullname="meta/Llama-Test", aliases=["lt"]),
    model("Twin", "stub"),
    model("TWIN", "stub"),
    model("orphan", "nothing-runs-this"),
]
UUID_CHARS = 36


@pytest.fixture(scope="module")
def service(start_shared: Start) -> Daemon:
    return start_shared(config({"stub": symphony()}, MODELS))


def exchange(service: Daemon, payload: bytes, kind: int = zmq.DEALER) -> dict[str, Any]:
    """One raw payload as one frame; the decoded reply, which must be one frame too."""
    peer = service.peer("cli_management", kind)
    peer.send(payload)
    (answer,) = peer.receive()
    peer.close()
    reply: dict[str, Any] = json.loads(answer)
    return reply


# ---- status ----


# S2 S16 S18 S22 S24
def test_status_without_models_has_the_keys_of_both_ancestors(service: Daemon) -> None:
    reply = service.legacy("status")
    assert list(reply) == ["correlation_id", "success", "data"]
    assert reply["success"] is True
    data = reply["data"]
    assert data == {
        "service_status": "running",
        "is_running": True,
        "client_endpoint": service.endpoint("client_handshake"),
        "cli_endpoint": service.endpoint("cli_management"),
        "model_count": 0,
        "models": [],
    }


# S5: the file that was chosen is shown
def test_the_native_status_names_the_configuration(service: Daemon) -> None:
    assert service.status()["service"]["config"] == str(service.config_path)


# S16 S22
def test_ten_statuses_in_quick_succession(service: Daemon) -> None:
    for _ in range(10):
        assert service.legacy("status")["success"]


# S22 S24
def test_three_command_lines_at_once(service: Daemon) -> None:
    with ThreadPoolExecutor(3) as pool:
        replies = list(pool.map(lambda _: service.legacy("status"), range(3)))
    assert all(reply["success"] for reply in replies)


# S16: batch drain, order of one client
def test_a_thousand_pipelined_requests_are_answered_in_order(service: Daemon) -> None:
    peer = service.legacy_peer()
    for number in range(1000):
        peer.send(json.dumps({"command": "status", "params": {}, "correlation_id": number + 1}).encode())
    assert [peer.answer()["correlation_id"] for _ in range(1000)] == list(range(1, 1001))
    assert peer.silent_for(0.05)


# ---- correlation ids and replies ----


# S2
@pytest.mark.parametrize("given", ["abc", "ümlaut", 7, -1.5, True, ["a", 1], {"k": None}])
def test_a_given_correlation_id_is_echoed_unchanged(service: Daemon, given: Any) -> None:
    for command in ("status", "unload-model", "load-model", "nonsense"):
        document = {"command": command, "params": {}, "correlation_id": given}
        assert exchange(service, json.dumps(document).encode())["correlation_id"] == given


# S2
@pytest.mark.parametrize(
    "false", [{}, {"correlation_id": None}, {"correlation_id": ""}, {"correlation_id": 0}]
)
def test_an_absent_or_false_correlation_id_becomes_a_fresh_one(
    service: Daemon, false: dict[str, Any]
) -> None:
    payload = json.dumps({"command": "status", "params": {}, **false}).encode()
    ids = {exchange(service, payload)["correlation_id"] for _ in range(5)}
    assert len(ids) == 5
    assert all(uuid.UUID(id).version == 4 and len(id) == UUID_CHARS for id in ids)


# S2
def test_ten_requests_in_flight_keep_their_own_ids(service: Daemon) -> None:
    peers = [service.legacy_peer() for _ in range(10)]
    for number, peer in enumerate(peers):
        peer.send(json.dumps({"command": "status", "params": {}, "correlation_id": f"id-{number}"}).encode())
    answers = [peer.answer()["correlation_id"] for peer in peers]
    assert answers == [f"id-{number}" for number in range(10)]
    for peer in peers:
        peer.close()


# S2 S24
def test_keys_that_nobody_knows_are_ignored(service: Daemon) -> None:
    document = {"command": "status", "params": {"x": 1}, "correlation_id": "a", "version": 9, "token": None}
    assert exchange(service, json.dumps(document).encode())["success"]


# S24: success has data and no error, an error has error and no data
def test_a_reply_has_either_data_or_an_error(service: Daemon) -> None:
    assert set(service.legacy("status")) == {"correlation_id", "success", "data"}
    assert set(service.legacy("unload-model", model_name="Twin")) == {"correlation_id", "success", "error"}


# ---- messages that are no commands ----

NO_COMMANDS: dict[str, bytes] = {
    "empty": b"",
    "bad JSON": b'{"command": ',
    "not UTF-8": b"\xff\xfe\x00",
    "array": b"[]",
    "null": b"null",
    "number": b"17",
    "string": b'"status"',
    "missing command": b'{"params": {}}',
    "missing params": b'{"command": "status"}',
    "command no string": b'{"command": 5, "params": {}}',
    "params no object": b'{"command": "status", "params": []}',
    "deeply nested": b"[" * 100_000,
    "deeply nested params": b'{"command":"status","params":{"a":' + b"[" * 200 + b"]" * 200 + b"}}",
    "not a number": b'{"command":"status","params":{"a":NaN}}',
    "huge integer": b'{"command":"status","params":{"a":' + b"9" * 10_000 + b"}}",
}


# S6 S16 S21 S22, fault 11
@pytest.mark.parametrize("kind", [zmq.DEALER, zmq.REQ], ids=["DEALER", "REQ"])
@pytest.mark.parametrize("payload", NO_COMMANDS.values(), ids=NO_COMMANDS.keys())
def test_what_is_no_command_is_told_so_and_changes_nothing(
    service: Daemon, payload: bytes, kind: int
) -> None:
    reply = exchange(service, payload, kind)
    assert reply["correlation_id"] == "unknown"
    assert reply["success"] is False
    assert reply["error"].startswith("Invalid command format: ")
    assert len(reply["error"]) < 500
    assert service.legacy("status")["success"]


# S6 S24
@pytest.mark.parametrize("name", ["load_model", "Status", "", "shutdown", "status "])
def test_an_unknown_command_carries_empty_data(service: Daemon, name: str) -> None:
    reply = service.legacy(name)
    assert reply["error"] == f"Unknown command: {name}"
    assert (reply["success"], reply["data"]) == (False, {})


# S21, fault 10
def test_a_req_client_gets_its_reply_with_the_delimiter(service: Daemon) -> None:
    document = {"command": "status", "params": {}, "correlation_id": "req"}
    assert exchange(service, json.dumps(document).encode(), zmq.REQ)["correlation_id"] == "req"


# S21, fault 10
@pytest.mark.parametrize("count", [2, 3, 9])
def test_an_odd_number_of_frames_is_answered(service: Daemon, count: int) -> None:
    peer = service.peer("cli_management")
    peer.send(*[b'{"command": "status", "params": {}}'] * count)
    (answer,) = peer.receive()
    assert json.loads(answer)["error"].startswith("Invalid command format: a command is one frame")
    assert peer.silent_for(0.05)


# S21: the envelope is mirrored even when a DEALER writes it by hand
def test_a_delimiter_written_by_hand_comes_back(service: Daemon) -> None:
    peer = service.peer("cli_management")
    peer.send(b"", b'{"command": "status", "params": {}, "correlation_id": 1}')
    delimiter, answer = peer.receive()
    assert delimiter == b""
    assert json.loads(answer)["success"]


# ---- the texts of refusals ----

LOAD, UNLOAD = "load-model", "unload-model"
NAME_REQUIRED = "model_name parameter required"
NOT_FOUND = "Unknown model '{}' - not found in configuration"
REFUSALS: list[tuple[str, dict[str, Any], str]] = [
    (LOAD, {}, NAME_REQUIRED),
    (LOAD, {"model_name": ""}, NAME_REQUIRED),
    (LOAD, {"model_name": None}, NAME_REQUIRED),
    (LOAD, {"model_name": 5}, NAME_REQUIRED),
    (LOAD, {"model_name": ["Twin"]}, NAME_REQUIRED),
    (LOAD, {"model_name": "\ud800"}, NAME_REQUIRED),
    (LOAD, {"model_name": "nope"}, NOT_FOUND.format("nope")),
    (LOAD, {"model_name": "x" * 5000}, NOT_FOUND.format("x" * 5000)),
    (
        LOAD,
        {"model_name": "llama-test"},
        NOT_FOUND.format("llama-test") + ". Similar model name found. Do you mean: Llama-Test?",
    ),
    (
        LOAD,
        {"model_name": "twin"},
        NOT_FOUND.format("twin") + ". Similar model names found. Do you mean: TWIN, Twin?",
    ),
    (LOAD, {"model_name": "orphan"}, "Backend for model type 'nothing-runs-this' not configured"),
    (LOAD, {"model_name": "Twin", "config_path": 5}, "config_path parameter must be a string"),
    (UNLOAD, {}, NAME_REQUIRED),
    (UNLOAD, {"model_name": ""}, NAME_REQUIRED),
    (UNLOAD, {"model_name": {}}, NAME_REQUIRED),
    (UNLOAD, {"model_name": "Twin"}, "Model Twin not found"),
    (UNLOAD, {"model_name": "nope"}, "Model nope not found"),
]


# S6 S7 S19, fault 11
@pytest.mark.parametrize(("command", "params", "text"), REFUSALS)
def test_refusals_have_the_ancestors_texts(
    service: Daemon, command: str, params: dict[str, Any], text: str
) -> None:
    reply = service.legacy(command, **params)
    assert reply == {"correlation_id": command, "success": False, "error": text}


# S6: the same fault has one code on every transport
@pytest.mark.parametrize(
    ("verb", "body", "code"),
    [
        ("load-model", {"model": "nope"}, "unknown-model"),
        ("load-model", {"model": "orphan"}, "no-backend"),
        ("unload-model", {"model": "Twin"}, "not-loaded"),
        ("load-model", {}, "bad-body"),
        ("no-such-verb", {}, "unknown-verb"),
    ],
)
def test_the_native_protocol_refuses_with_codes(
    service: Daemon, verb: str, body: dict[str, Any], code: str
) -> None:
    assert service.control.refused(verb, **body)["code"] == code


# S32
def test_the_configured_models_are_listed(service: Daemon) -> None:
    models = service.legacy("list-models")["data"]["models"]
    assert [row["model_name"] for row in models] == [row["name"] for row in MODELS]
    assert models[0] == {
        "name": "Llama-Test",
        "model_name": "Llama-Test",
        "fullname": "meta/Llama-Test",
        "type": "stub",
        "model_type": "stub",
    }


# S32: planned; the refusal says what to do meanwhile
@pytest.mark.parametrize("command", ["install-model", "uninstall-model"])
def test_installing_is_refused_in_words(service: Daemon, command: str) -> None:
    reply = service.legacy(command, model_name="x")
    assert (reply["success"], reply["data"]) == (False, {})
    assert reply["error"].startswith(f"{command} is not available in this version")


# ---- handshake without a default model ----


# S16 S22, fault 9: no name is hard-wired and nothing is started
def test_a_handshake_with_nothing_running_gets_an_empty_list(service: Daemon) -> None:
    assert service.handshake() == []
    assert service.status()["units"] == []


# S16 S21, fault 10
@pytest.mark.parametrize(
    "payload", [b"\x00", b"\xff" * 40, b"\x0a\xff", b"\x80" * 11, b'{"command":"status"}', b"\x0b" * 5000]
)
@pytest.mark.parametrize("kind", [zmq.DEALER, zmq.REQ], ids=["DEALER", "REQ"])
def test_an_undecodable_handshake_gets_an_empty_response(service: Daemon, payload: bytes, kind: int) -> None:
    peer = service.peer("client_handshake", kind)
    peer.send(payload)
    assert peer.receive() == [b""]
    peer.close()


# S15 S21, fault 10
def test_handshakes_of_every_frame_form_are_each_answered(service: Daemon) -> None:
    unknown_field = b"\x7a\x03abc"  # field 15, three bytes
    forms: list[tuple[int, list[bytes]]] = [
        (zmq.DEALER, [b""]),
        (zmq.DEALER, [unknown_field]),
        (zmq.DEALER, [b"", b""]),
        (zmq.DEALER, [b"", b"", b"more"]),
        (zmq.DEALER, [unknown_field, b"more"]),
        (zmq.REQ, [b""]),
        (zmq.REQ, [b"", b""]),
    ]
    for kind, sent in forms:
        peer = service.peer("client_handshake", kind)
        for _ in range(3):  # repeated on one identity, each is answered
            peer.send(*sent)
            delimiter = [b""] if kind == zmq.DEALER and len(sent) > 1 and not sent[0] else []
            assert peer.receive() == [*delimiter, b""], (kind, sent)
        peer.close()


# S15 S22: protobuf out of the box
def test_a_handshake_names_what_running_models_speak(service: Daemon) -> None:
    service.loaded("Llama-Test")
    try:
        peer = service.peer("client_handshake")
        peer.send(b"")
        (payload,) = peer.receive()
        assert payload == b"\x0a\x03l4m\x0a\x0al4m-vision\x0a\x04ping"
        assert decode_handshake_response(payload) == ["l4m", "l4m-vision", "ping"]
    finally:
        assert service.legacy("unload-model", model_name="Llama-Test")["success"]
    assert service.handshake() == []
