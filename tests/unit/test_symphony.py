"""The legacy wire formats: envelope, handshake, JSON commands and their replies, row by row."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mgmt.protocol.defaults import MAX_DEPTH, MAX_NAME_CHARS
from mgmt.protocol.messages import REQUESTS, Loaded, Model, ServiceStatus, UnitStatus
from mgmt.protocol.symphony import (
    PROTOCOLS,
    UNKNOWN_ID,
    BadCommand,
    Command,
    Refused,
    decode_command,
    decode_handshake,
    decode_handshake_response,
    encode_handshake_response,
    legacy_error_text,
    reply_error,
    reply_native_error,
    reply_ok,
    single_frame,
    split_envelope,
    to_request,
)
from mgmt.protocol.symphony_messages import BadMessage

ROOT = Path(__file__).resolve().parents[2]
PROTOCOLS_HEX = "0a036c346d0a0a6c346d2d766973696f6e0a0470696e67"
FRESH = "a-fresh-id"


def a_command(name: str = "status", correlation_id: Any = "id-1", **params: Any) -> Command:
    return Command(name, params, correlation_id)


def decoded(document: Any) -> Command:
    return decode_command(json.dumps(document).encode(), lambda: FRESH)


def no_fresh_id() -> str:
    raise AssertionError("an id was generated although the client sent one")


# --- envelope -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frames", "prefix", "payload"),
    [
        pytest.param([b"{}"], [], [b"{}"], id="DEALER command"),
        pytest.param([b"", b"{}"], [b""], [b"{}"], id="REQ command"),
        pytest.param([b""], [], [b""], id="DEALER handshake"),
        pytest.param([b"", b""], [b""], [b""], id="REQ handshake"),
        pytest.param([], [], [], id="nothing"),
        pytest.param([b"a", b"b"], [], [b"a", b"b"], id="DEALER, two frames"),
        pytest.param([b"a", b"", b"c"], [], [b"a", b"", b"c"], id="DEALER, empty frame inside"),
        pytest.param([b"", b"a", b"b"], [b""], [b"a", b"b"], id="REQ, two frames"),
        pytest.param([b"", b"", b""], [b""], [b"", b""], id="REQ, two empty frames"),
    ],
)
def test_the_envelope_is_told_from_the_payload(
    frames: list[bytes], prefix: list[bytes], payload: list[bytes]
) -> None:
    assert split_envelope(frames) == (prefix, payload)


@given(st.lists(st.binary(max_size=4), max_size=6))
def test_no_frame_is_lost_and_the_prefix_is_a_delimiter_or_nothing(frames: list[bytes]) -> None:
    prefix, payload = split_envelope(frames)
    assert prefix + payload == frames
    assert prefix in ([], [b""])
    assert bool(payload) == bool(frames)


@pytest.mark.parametrize("payload", [[], [b"{}", b"{}"]])
def test_a_command_of_no_or_several_frames_is_a_bad_command(payload: list[bytes]) -> None:
    with pytest.raises(BadCommand, match=f"^Invalid command format: .* {len(payload)}$"):
        single_frame(payload)


def test_a_command_of_one_frame_is_that_frame() -> None:
    assert single_frame([b"{}"]) == b"{}"


# --- handshake ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("payload_hex", "valid"),
    [
        pytest.param("", True, id="the usual one"),
        pytest.param("0801", True, id="unknown varint field"),
        pytest.param("12026869", True, id="unknown string field"),
        pytest.param("00", False, id="field number 0"),
        pytest.param("08", False, id="tag without value"),
        pytest.param("12ff01aa", False, id="length beyond the end"),
        pytest.param("ff" * 12, False, id="endless varint"),
    ],
)
def test_a_handshake_is_any_serialized_message(payload_hex: str, valid: bool) -> None:
    assert decode_handshake(bytes.fromhex(payload_hex)) is valid


def test_the_response_lists_the_protocols_in_wire_order() -> None:
    assert PROTOCOLS == ("l4m", "l4m-vision", "ping")
    encoded = encode_handshake_response(PROTOCOLS)
    assert encoded.hex() == PROTOCOLS_HEX
    assert decode_handshake_response(encoded) == list(PROTOCOLS)
    assert encode_handshake_response(list(PROTOCOLS)) is encoded, "the usual answer is encoded once"


def test_an_empty_response_is_an_empty_frame() -> None:
    assert encode_handshake_response(()) == b""
    assert decode_handshake_response(b"") == []


def test_the_byte_zero_of_a_backend_is_no_response() -> None:
    with pytest.raises(BadMessage, match=r"handshake\.Response"):
        decode_handshake_response(b"\x00")


@given(st.binary(max_size=64))
def test_no_bytes_make_the_handshake_raise(payload: bytes) -> None:
    assert decode_handshake(payload) in (True, False)
    try:
        assert all(isinstance(name, str) for name in decode_handshake_response(payload))
    except BadMessage:
        pass


@given(st.lists(st.text(max_size=20), max_size=8))
def test_any_list_of_names_survives_the_handshake(names: list[str]) -> None:
    assert decode_handshake_response(encode_handshake_response(names)) == names


def test_protobuf_is_imported_only_when_it_is_needed() -> None:
    program = (
        "import sys; from mgmt.protocol import symphony as s; import json\n"
        "assert s.decode_handshake(b'') and s.encode_handshake_response(()) == b''\n"
        's.decode_command(b\'{"command": "status", "params": {}}\', str)\n'
        "assert 'google.protobuf' not in sys.modules, 'too early'\n"
        "s.encode_handshake_response(s.PROTOCOLS)\n"
        "assert 'google.protobuf' in sys.modules, 'the test looks for the wrong name'\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr


# --- JSON commands: in --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        pytest.param(b"", "Expecting value", id="empty"),
        pytest.param(b"{", "Expecting property name", id="cut"),
        pytest.param(b"status", "Expecting value", id="not JSON"),
        pytest.param(b"\xff\xfe", "not UTF-8", id="not UTF-8"),
        pytest.param('{"command": "status", "params": {}}'.encode("utf-16"), "not UTF-8", id="UTF-16"),
        pytest.param(b"[]", "this is an array", id="array"),
        pytest.param(b'"status"', "this is a string", id="string"),
        pytest.param(b"7", "this is a number", id="number"),
        pytest.param(b"true", "this is a boolean", id="boolean"),
        pytest.param(b"null", "this is null", id="null"),
        pytest.param(b"{}", "missing key 'command'", id="no key"),
        pytest.param(b'{"params": {}}', "missing key 'command'", id="no command"),
        pytest.param(b'{"command": "status"}', "missing key 'params'", id="no params"),
        pytest.param(b'{"command": 1, "params": {}}', "'command' must be a string", id="command type"),
        pytest.param(b'{"command": "status", "params": []}', "'params' must be an object", id="params type"),
        pytest.param(
            b'{"command": "status", "params": null}', "'params' must be an object", id="params null"
        ),
        pytest.param(b'{"command": "status", "params": {"a": NaN}}', "NaN is not JSON", id="NaN"),
        pytest.param(b'{"command": "status", "params": {"a": -Infinity}}', "-Infinity is not", id="infinity"),
        pytest.param(b'{"command": "status", "params": {"a": 1e999}}', "number is too large", id="overflow"),
        pytest.param(
            b'{"command": "status", "params": {"a": ' + b"9" * 5000 + b"}}", "too large", id="digits"
        ),
        pytest.param(b"[" * 100_000, "deeper than", id="deep and cut"),
        pytest.param(b"[" * 50_000 + b"]" * 50_000, "deeper than", id="deep"),
        pytest.param(b'{"a":' * 50_000 + b"1" + b"}" * 50_000, "deeper than", id="deep objects"),
    ],
)
def test_what_is_no_command_is_answered_with_the_reason(payload: bytes, reason: str) -> None:
    with pytest.raises(BadCommand) as caught:
        decode_command(payload, no_fresh_id)
    assert caught.value.text.startswith("Invalid command format: ")
    assert reason in caught.value.text
    reply = json.loads(reply_error(UNKNOWN_ID, caught.value.text))
    assert reply == {"correlation_id": "unknown", "success": False, "error": caught.value.text}


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_nesting_is_limited_by_a_number_and_not_by_the_stack(opening: str) -> None:
    closing = "]" if opening == "[" else "}"

    def nested(levels: int) -> bytes:  # two levels are the command's own: the document and params
        value = opening * (levels - 2) + "1" + closing * (levels - 2)
        return f'{{"command": "status", "params": {{"x": {value}}}}}'.encode()

    assert decode_command(nested(MAX_DEPTH), lambda: FRESH).command == "status"
    with pytest.raises(BadCommand, match=f"deeper than {MAX_DEPTH} levels"):
        decode_command(nested(MAX_DEPTH + 1), lambda: FRESH)


def test_a_flat_command_with_many_lists_is_not_deep() -> None:
    wide = {"command": "status", "params": {"x": [[[]]] * 500}}
    assert decoded(wide).params == wide["params"]


@pytest.mark.parametrize("value", ["x", 7, -1.5, True, ["a", 1], {"k": None}, 10**400, "\ud800", "ü\n\0"])
def test_any_true_json_value_is_echoed(value: Any) -> None:
    payload = json.dumps({"command": "status", "params": {}, "correlation_id": value}).encode()
    command = decode_command(payload, no_fresh_id)
    assert json.loads(reply_error(command.correlation_id, "no"))["correlation_id"] == value


@pytest.mark.parametrize("value", [None, "", 0, 0.0, -0.0, False, [], {}])
def test_a_false_correlation_id_is_replaced(value: Any) -> None:
    assert decoded({"command": "status", "params": {}, "correlation_id": value}).correlation_id == FRESH


def test_an_absent_correlation_id_is_generated_for_each_command() -> None:
    ids = iter(["first", "second"])
    commands = [decode_command(b'{"command": "status", "params": {}}', lambda: next(ids)) for _ in range(2)]
    assert [command.correlation_id for command in commands] == ["first", "second"]


def test_extra_keys_are_ignored() -> None:
    command = decoded({"command": "status", "params": {}, "correlation_id": "c", "version": 2, "x": [1]})
    assert command == Command("status", {}, "c")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
commands_like = st.fixed_dictionaries(
    {},
    optional={
        "command": st.sampled_from(
            ["status", "load-model", "unload-model", "stop-service", "list-models", "install-model", ""]
        )
        | json_values,
        "params": st.dictionaries(st.sampled_from(["model_name", "config_path"]) | st.text(), json_values)
        | json_values,
        "correlation_id": json_values,
    },
)


def exercise(payload: bytes) -> None:
    """Whatever arrives leads to one strict JSON reply, and to no exception but the two that are refusals."""
    try:
        command = decode_command(payload, lambda: FRESH)
    except BadCommand as bad:
        reply = reply_error(UNKNOWN_ID, bad.text)
    else:
        try:
            verb, body = to_request(command)
            assert verb in {"status", "load-model", "unload-model", "stop-service", "models"}
            assert all(isinstance(value, str) for value in body.values())
            reply = reply_native_error(command, "internal", "x", {})
        except Refused as refused:
            reply = reply_error(command.correlation_id, refused.text, refused.data)
    parsed = json.loads(reply, parse_constant=lambda name: pytest.fail(f"{name} was emitted"))
    assert parsed["success"] is False
    assert parsed["error"]
    assert parsed["correlation_id"]


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_but_a_refusal(payload: bytes) -> None:
    exercise(payload)


@given(commands_like | json_values)
def test_no_json_raises_anything_but_a_refusal(document: Any) -> None:
    exercise(json.dumps(document).encode())


@given(
    st.binary(max_size=40).map(lambda tail: b'{"command": "load-model", "params": {"model_name": "' + tail)
)
def test_no_damaged_command_raises_anything_but_a_refusal(payload: bytes) -> None:
    exercise(payload)
    exercise(payload + b'"}}')


# --- the native request -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "request_"),
    [
        (a_command("status"), ("status", {})),
        (a_command("status", model_name=7), ("status", {})),
        (a_command("stop-service"), ("stop-service", {})),
        (a_command("list-models"), ("models", {})),
        (a_command("unload-model", model_name="m"), ("unload-model", {"model": "m"})),
        (a_command("load-model", model_name="m"), ("load-model", {"model": "m"})),
        (a_command("load-model", model_name="m", other=1), ("load-model", {"model": "m"})),
        (a_command("load-model", model_name="m", config_path=None), ("load-model", {"model": "m"})),
        (a_command("load-model", model_name="m", config_path=""), ("load-model", {"model": "m"})),
        (
            a_command("load-model", model_name="m", config_path="/etc/m.json"),
            ("load-model", {"model": "m", "config_path": "/etc/m.json"}),
        ),
    ],
)
def test_a_command_is_a_native_request(command: Command, request_: tuple[str, dict[str, Any]]) -> None:
    assert to_request(command) == request_
    verb, body = request_
    REQUESTS[verb].body.model_validate(body)


BAD_NAMES: list[Any] = [None, "", 0, 7, True, ["m"], {}, "\ud800"]


@pytest.mark.parametrize("verb", ["load-model", "unload-model"])
@pytest.mark.parametrize("params", [{}, *({"model_name": name} for name in BAD_NAMES)])
def test_a_model_name_is_required(verb: str, params: dict[str, Any]) -> None:
    with pytest.raises(Refused) as caught:
        to_request(a_command(verb, **params))
    assert (caught.value.text, caught.value.data) == ("model_name parameter required", None)


@pytest.mark.parametrize("path", [7, ["p"], {"p": 1}, True, "\udc00"])
def test_a_config_path_of_another_type_is_refused(path: Any) -> None:
    with pytest.raises(Refused) as caught:
        to_request(a_command("load-model", model_name="m", config_path=path))
    assert (caught.value.text, caught.value.data) == ("config_path parameter must be a string", None)


@pytest.mark.parametrize("name", ["load_model", "STATUS", "", "status ", "models", "\ud800"])
def test_an_unknown_command_carries_its_name_and_empty_data(name: str) -> None:
    with pytest.raises(Refused) as caught:
        to_request(a_command(name))
    assert (caught.value.text, caught.value.data) == (f"Unknown command: {name}", {})
    expected = {"correlation_id": "id-1", "success": False, "data": {}, "error": f"Unknown command: {name}"}
    assert json.loads(reply_error("id-1", caught.value.text, caught.value.data)) == expected


@pytest.mark.parametrize("verb", ["install-model", "uninstall-model"])
def test_installing_is_refused_with_a_way_out(verb: str) -> None:
    with pytest.raises(Refused, match=f"^{verb} is not available in this version: .*config.json"):
        to_request(a_command(verb, model_name="m"))


# --- replies ------------------------------------------------------------------------------------------------

SERVICE = {"state": "running", "client_endpoint": "ipc:///a", "cli_endpoint": "ipc:///b", "pid": 1}


def a_unit(**changes: Any) -> dict[str, Any]:
    unit = {
        "unit": "llama-1",
        "model": "llama",
        "type": "llama3",
        "endpoint": "ipc:///tmp/symphony-model-0123abcd",
        "state": "RUNNING",
        "ready": True,
        "pid": 42,
        "started_at": 1_700_000_000.5,
        "uptime_s": 12.25,
        "restarts": 0,
    }
    return {**unit, **changes}


def status_data(*units: dict[str, Any], service: dict[str, Any] = SERVICE) -> dict[str, Any]:
    data = json.loads(reply_ok(a_command(), {"service": service, "units": list(units)}))["data"]
    assert isinstance(data, dict)
    return data


def test_a_status_reply_has_the_keys_of_both_ancestors_in_their_order() -> None:
    reply = reply_ok(a_command(), {"service": SERVICE, "units": [a_unit()]})
    assert reply == (
        b'{"correlation_id": "id-1", "success": true, "data": {"service_status": "running", '
        b'"is_running": true, "client_endpoint": "ipc:///a", "cli_endpoint": "ipc:///b", '
        b'"model_count": 1, "models": '
        b'[{"name": "llama", "model_name": "llama", "type": "llama3", "model_type": "llama3", '
        b'"endpoint": "ipc:///tmp/symphony-model-0123abcd", "started_at": 1700000000.5, "uptime": 12.25, '
        b'"pid": 42, "is_alive": true}]}}'
    )


def test_what_the_replies_read_is_what_the_native_results_have() -> None:
    unit = {"unit", "model", "type", "endpoint", "state", "pid", "started_at", "uptime_s"}
    assert unit <= set(UnitStatus.model_fields)
    assert {"state", "client_endpoint", "cli_endpoint"} <= set(ServiceStatus.model_fields)
    assert {"model", "type", "endpoint", "pid", "state"} <= set(Loaded.model_fields)
    assert {"model", "fullname", "type"} <= set(Model.model_fields)


def test_a_status_without_models() -> None:
    data = status_data()
    assert (data["model_count"], data["models"]) == (0, [])


@pytest.mark.parametrize(
    ("state", "pid", "listed"),
    [
        ("STARTING", 42, True),
        ("RUNNING", 42, True),
        ("STOPPING", 42, True),
        ("STARTING", None, False),
        ("STOPPED", None, False),
        ("BACKOFF", None, False),
        ("BACKOFF", 42, False),
        ("EXITED", 42, False),
        ("FATAL", None, False),
    ],
)
def test_only_units_with_a_process_are_models(state: str, pid: int | None, listed: bool) -> None:
    data = status_data(a_unit(state=state, pid=pid))
    assert data["model_count"] == len(data["models"]) == listed


@pytest.mark.parametrize("moment", [None, float("nan"), float("inf")])
def test_a_moment_nobody_recorded_is_zero_and_never_nan(moment: float | None) -> None:
    (model,) = status_data(a_unit(started_at=moment, uptime_s=moment))["models"]
    assert (model["started_at"], model["uptime"]) == (0.0, 0.0)


def test_times_are_floats_even_when_they_are_whole() -> None:
    (model,) = status_data(a_unit(started_at=1_700_000_000, uptime_s=3))["models"]
    assert [type(model[key]) for key in ("started_at", "uptime")] == [float, float]


def test_a_stopping_service_is_not_running() -> None:
    data = status_data(service={**SERVICE, "state": "stopping"})
    assert (data["service_status"], data["is_running"]) == ("stopping", False)


@pytest.mark.parametrize(
    ("command", "body", "data"),
    [
        pytest.param(
            a_command("load-model", model_name="llama"),
            a_unit(),
            '{"endpoint": "ipc:///tmp/symphony-model-0123abcd", "model_name": "llama", "model_type": '
            '"llama3", "pid": 42}',
            id="loaded",
        ),
        pytest.param(
            a_command("load-model", model_name="llama"),
            a_unit(state="STARTING"),
            '{"endpoint": "ipc:///tmp/symphony-model-0123abcd", "model_name": "llama", "model_type": '
            '"llama3", "pid": 42, "state": "starting"}',
            id="still starting",
        ),
        pytest.param(
            a_command("unload-model", model_name="llama"),
            {},
            '{"message": "Model llama unloaded"}',
            id="unload",
        ),
        pytest.param(a_command("stop-service"), {}, '{"message": "Service shutdown requested"}', id="stop"),
        pytest.param(
            a_command("list-models"),
            {"models": [{"model": "m", "fullname": "org/m", "type": "llama3", "state": "STOPPED"}]},
            '{"models": [{"name": "m", "model_name": "m", "fullname": "org/m", "type": "llama3", '
            '"model_type": "llama3"}]}',
            id="list",
        ),
    ],
)
def test_a_result_in_the_old_words(command: Command, body: dict[str, Any], data: str) -> None:
    expected = f'{{"correlation_id": "id-1", "success": true, "data": {data}}}'
    assert reply_ok(command, body).decode() == expected


def test_the_python_shape_omits_what_is_not_used() -> None:
    assert reply_error(5, "no") == b'{"correlation_id": 5, "success": false, "error": "no"}'
    assert reply_error(5, "no", {}) == b'{"correlation_id": 5, "success": false, "data": {}, "error": "no"}'


@pytest.mark.parametrize(
    ("code", "detail", "command", "text"),
    [
        (
            "unknown-model",
            {"model": "x", "similar": []},
            "load-model",
            "Unknown model 'x' - not found in configuration",
        ),
        ("unknown-model", {"model": "x"}, "load-model", "Unknown model 'x' - not found in configuration"),
        (
            "unknown-model",
            {"model": "x", "similar": ["X"]},
            "load-model",
            "Unknown model 'x' - not found in configuration. Similar model name found. Do you mean: X?",
        ),
        (
            "unknown-model",
            {"model": "ab", "similar": ["AB", "aB"]},
            "load-model",
            (
                "Unknown model 'ab' - not found in configuration. "
                "Similar model names found. Do you mean: AB, aB?"
            ),
        ),
        ("unknown-model", {}, "load-model", "native text"),
        ("no-backend", {"type": "t"}, "load-model", "Backend for model type 't' not configured"),
        ("no-backend", {}, "load-model", "native text"),
        ("not-loaded", {"model": "x"}, "unload-model", "Model x not found"),
        ("unknown-model", {"model": "x", "similar": ["X"]}, "unload-model", "Model x not found"),
        ("unknown-unit", {"model": "x"}, "unload-model", "Model x not found"),
        ("start-failed", {"model": "x"}, "load-model", "native text"),
        ("stopping", {}, "load-model", "native text"),
        ("a-code-of-tomorrow", {}, "load-model", "native text"),
    ],
)
def test_a_native_error_in_the_old_words(code: str, detail: dict[str, Any], command: str, text: str) -> None:
    assert legacy_error_text(code, "native text", detail, command) == text


def test_a_model_is_called_what_the_client_called_it() -> None:
    reply = reply_native_error(
        a_command("unload-model", model_name="alias"), "not-loaded", "n", {"model": "m"}
    )
    assert json.loads(reply)["error"] == "Model alias not found"


@pytest.mark.parametrize(
    ("verb", "text"),
    [
        ("load-model", "Unknown model '{}' - not found in configuration"),
        ("unload-model", "Model {} not found"),
    ],
)
def test_a_name_too_long_for_a_native_request_is_an_unknown_model(verb: str, text: str) -> None:
    longest = "x" * MAX_NAME_CHARS
    assert to_request(a_command(verb, model_name=longest))[1]["model"] == longest
    with pytest.raises(Refused) as caught:
        to_request(a_command(verb, model_name=longest + "x"))
    assert (caught.value.text, caught.value.data) == (text.format(longest + "x"), None)


def test_the_command_names_the_model_when_the_error_does_not() -> None:
    reply = json.loads(
        reply_native_error(a_command("unload-model", model_name="x"), "not-loaded", "native", {})
    )
    assert reply == {"correlation_id": "id-1", "success": False, "error": "Model x not found"}


def test_an_internal_error_carries_empty_data() -> None:
    reply = json.loads(reply_native_error(a_command("status"), "internal", "a fault", {}))
    assert reply == {"correlation_id": "id-1", "success": False, "data": {}, "error": "a fault"}
