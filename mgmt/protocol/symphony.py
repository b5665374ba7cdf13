"""The two legacy wire formats: the protobuf handshake and the JSON management commands of the ancestor.

Existing clients must not notice that another program answers, so key names, key order and texts here are the
wire, not a matter of taste. Replies carry the keys of both ancestors (`name`, `type` and `model_name`,
`model_type`), and each message gets exactly one answer in the frame form its sender used. Nothing is decided
here: a command is translated into a native request, and the native result back into the old words.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from mgmt.protocol.defaults import MAX_CONTROL_FRAME_BYTES, MAX_DEPTH, MAX_NAME_CHARS
from mgmt.protocol.symphony_messages import BadMessage, message_class, parse, serialize

PROTOCOLS = ("l4m", "l4m-vision", "ping")
"""Order is the wire: a data frame names its protocol by the position in this list."""

UNKNOWN_ID = "unknown"
"""`correlation_id` of the answer to a command that could not be read."""

NAME_REQUIRED = "model_name parameter required"
INVALID_FORMAT = "Invalid command format: "
HAS_PROCESS = frozenset({"STARTING", "RUNNING", "STOPPING"})


class BadCommand(ValueError):
    """The payload is no command; answer `reply_error(UNKNOWN_ID, fault.text)`."""

    def __init__(self, reason: str) -> None:
        self.text = INVALID_FORMAT + reason
        super().__init__(self.text)


class Refused(Exception):
    """The command was read and is refused; answer `reply_error(command.correlation_id, text, data)`."""

    def __init__(self, text: str, data: dict[str, Any] | None = None) -> None:
        super().__init__(text)
        self.text = text
        self.data = data


@dataclass(frozen=True, slots=True)
class Command:
    """A decoded JSON command; `correlation_id` is any true JSON value and is echoed unchanged."""

    command: str
    params: dict[str, Any]
    correlation_id: Any

    @property
    def model_name(self) -> str:
        """The model the client named, in its own spelling; empty when it named none."""
        name = self.params.get("model_name")
        return name if isinstance(name, str) else ""


# --- envelope -----------------------------------------------------------------------------------------------


def split_envelope(frames: Sequence[bytes]) -> tuple[list[bytes], list[bytes]]:
    """Part the frames that follow the ROUTER's identity into (prefix to repeat in the reply, payload).

    The rule: an empty first frame *with something behind it* is the delimiter of a REQ client and is
    repeated; otherwise there is no prefix. A lone empty frame is therefore a payload, which is what a
    DEALER's handshake looks like: its message has no fields.

        DEALER command    [json]      -> [],    [json]          DEALER handshake  [b""]       -> [],    [b""]
        REQ command       [b"", json] -> [b""], [json]          REQ handshake     [b"", b""]  -> [b""], [b""]

    Any number of frames has an answer: `[*prefix, reply]` to the identity. A DEALER that puts an empty frame
    before others cannot be told from a REQ and is answered like one.
    """
    if len(frames) >= 2 and not frames[0]:
        return [b""], list(frames[1:])
    return [], list(frames)


def single_frame(payload: Sequence[bytes]) -> bytes:
    """The one frame a JSON command consists of; BadCommand when there are more or none."""
    if len(payload) != 1:
        raise BadCommand(f"a command is one frame, this message has {len(payload)}")
    return payload[0]


# --- handshake ----------------------------------------------------------------------------------------------


def decode_handshake(payload: bytes) -> bool:
    """Whether `payload` is a `handshake.Request`. It has no fields, so unknown ones are all it may contain.

    Of a message with several payload frames only the first is the request. When this says False the answer is
    `encode_handshake_response(())`, an empty list, rather than silence.
    """
    if not payload:
        return True
    if len(payload) > MAX_CONTROL_FRAME_BYTES:
        return False
    try:
        parse("handshake.Request", payload)
    except BadMessage:
        return False
    return True


def encode_handshake_response(protocols: Sequence[str]) -> bytes:
    """Serialized `handshake.Response`; the few lists there are in a process are encoded once each."""
    return _handshake_response(tuple(protocols))


@lru_cache(maxsize=64)
def _handshake_response(protocols: tuple[str, ...]) -> bytes:
    return serialize(message_class("handshake.Response")(protocols=protocols)) if protocols else b""


def decode_handshake_response(payload: bytes) -> list[str]:
    """The protocols a backend offers, in wire order; BadMessage when `payload` is no `handshake.Response`.

    A backend that could not read the request answers the single byte 0x00, which is such a case.
    """
    return list(parse("handshake.Response", payload).protocols)


# --- JSON commands: in --------------------------------------------------------------------------------------


def decode_command(payload: bytes, fresh_id: Callable[[], str]) -> Command:
    """Read one JSON command; `fresh_id` gives the id of a client that sent none or a false one.

    Extra keys are ignored. BadCommand for everything else that is not
    `{"command": string, "params": object, "correlation_id": any}`, and for what cannot be printed again: NaN
    and infinities, integers beyond the interpreter's digit limit, nesting deeper than MAX_DEPTH. One longer than
    MAX_CONTROL_FRAME_BYTES is not even parsed: that would hold up everybody else.
    """
    if len(payload) > MAX_CONTROL_FRAME_BYTES:
        raise BadCommand(f"{len(payload)} bytes, the limit is {MAX_CONTROL_FRAME_BYTES}")
    try:
        document = json.loads(payload.decode("utf-8"), parse_constant=_no_constant, parse_float=_finite)
    except RecursionError:
        raise BadCommand(f"nested deeper than {MAX_DEPTH} levels") from None
    except BadCommand:  # of the two hooks
        raise
    except UnicodeDecodeError:
        raise BadCommand("the bytes are not UTF-8") from None
    except json.JSONDecodeError as fault:
        raise BadCommand(str(fault)) from None
    except ValueError:  # the only other one: an integer beyond the interpreter's digit limit
        raise BadCommand("a number is too large") from None
    if not isinstance(document, dict):
        raise BadCommand(f"an object is expected, this is {_json_type(document)}")
    # Each level costs one opening bracket, so the usual command is cleared by counting them.
    if payload.count(b"{") + payload.count(b"[") > MAX_DEPTH and _is_deeper(document, MAX_DEPTH):
        raise BadCommand(f"nested deeper than {MAX_DEPTH} levels")
    for key, wanted in (("command", str), ("params", dict)):
        if key not in document:
            raise BadCommand(f"missing key '{key}'")
        if not isinstance(document[key], wanted):
            kind = "a string" if wanted is str else "an object"
            raise BadCommand(f"'{key}' must be {kind}, this is {_json_type(document[key])}")
    return Command(document["command"], document["params"], document.get("correlation_id") or fresh_id())


def _no_constant(name: str) -> float:
    raise BadCommand(f"{name} is not JSON")


def _finite(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise BadCommand("a number is too large")
    return value


def _json_type(value: object) -> str:
    names = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def _is_deeper(value: object, limit: int) -> bool:
    """Whether containers are nested more than `limit` levels; iterative, so depth costs no stack."""
    level: list[Any] = [value]
    for _ in range(limit + 1):
        level = [node for node in level if isinstance(node, dict | list)]
        if not level:
            return False
        level = [child for node in level for child in (node.values() if isinstance(node, dict) else node)]
    return True


def to_request(command: Command) -> tuple[str, dict[str, Any]]:
    """The native verb and body that a legacy command asks for; Refused with the ancestor's text otherwise."""
    match command.command:
        case "status" | "stop-service" as verb:
            return verb, {}
        case "list-models":
            return "models", {}
        case "unload-model":
            return "unload-model", {"model": _required_name(command)}
        case "load-model":
            body = {"model": _required_name(command)}
            path = command.params.get("config_path")
            if path:
                if not _is_text(path):
                    raise Refused("config_path parameter must be a string")
                body["config_path"] = path
            return "load-model", body
        case "install-model" | "uninstall-model" as verb:
            raise Refused(
                f"{verb} is not available in this version: place the model's files yourself "
                "and name the model in config.json",
                {},
            )
        case other:
            raise Refused(f"Unknown command: {other}", {})


def _required_name(command: Command) -> str:
    name = command.params.get("model_name")
    if not isinstance(name, str) or not _is_text(name):
        raise Refused(NAME_REQUIRED)
    if len(name) > MAX_NAME_CHARS:  # longer than any configured name, and than the native request allows
        raise Refused(legacy_error_text("unknown-model", "", {"model": name}, command.command))
    return name


def _is_text(value: object) -> bool:
    """A string that is not empty and can travel on: JSON may smuggle in half a surrogate pair."""
    if not isinstance(value, str) or not value:
        return False
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


# --- JSON commands: out -------------------------------------------------------------------------------------


def reply_ok(command: Command, body: Mapping[str, Any]) -> bytes:
    """The success reply to `command`; `body` is the result of the native request `to_request` named."""
    return _dumps({"correlation_id": command.correlation_id, "success": True, "data": _data(command, body)})


def reply_error(correlation_id: Any, text: str, data: dict[str, Any] | None = None) -> bytes:
    """The failure reply; `data` is left out when None (unknown commands and internal errors carry `{}`)."""
    reply: dict[str, Any] = {"correlation_id": correlation_id, "success": False}
    if data is not None:
        reply["data"] = data
    reply["error"] = text
    return _dumps(reply)


def reply_native_error(command: Command, code: str, text: str, detail: Mapping[str, Any]) -> bytes:
    """The failure reply for an error of the native table, in the ancestor's words where it had any.

    A model is called what the client called it, even when it typed an alias.
    """
    known = {**detail, "model": command.model_name or detail.get("model")}
    answer = legacy_error_text(code, text, known, command.command)
    return reply_error(command.correlation_id, answer, {} if code == "internal" else None)


def legacy_error_text(code: str, text: str, detail: Mapping[str, Any], command: str = "load-model") -> str:
    """The ancestor's text for a native error; the native text where the ancestor had none.

    `detail` fields used: `model` and `similar` (list of names) of `unknown-model`, `type` of `no-backend`.
    `command` is the legacy command that failed: an unload does not distinguish unknown from not loaded.
    """
    model = detail.get("model")
    absent = {"not-loaded", "unknown-model", "unknown-unit"} if command == "unload-model" else {"not-loaded"}
    if model and code in absent:
        return f"Model {model} not found"
    if code == "unknown-model" and model:
        unknown = f"Unknown model '{model}' - not found in configuration"
        match detail.get("similar"):
            case [only]:
                return f"{unknown}. Similar model name found. Do you mean: {only}?"
            case [_, *_] as several:
                return f"{unknown}. Similar model names found. Do you mean: {', '.join(map(str, several))}?"
        return unknown
    if code == "no-backend" and detail.get("type"):
        return f"Backend for model type '{detail['type']}' not configured"
    return text


def _data(command: Command, body: Mapping[str, Any]) -> dict[str, Any]:
    match command.command:
        case "status":
            return _status(body)
        case "load-model":
            names = {"endpoint": "endpoint", "model_name": "model", "model_type": "type", "pid": "pid"}
            data = {legacy: body.get(native) for legacy, native in names.items()}
            if body.get("state") == "STARTING":
                data["state"] = "starting"  # alive, not ready yet: an old client waits for the socket file
            return data
        case "unload-model":
            return {"message": f"Model {command.model_name} unloaded"}
        case "stop-service":
            return {"message": "Service shutdown requested"}
        case "list-models":
            return {"models": [_configured(row) for row in body.get("models", ())]}
        case other:
            raise ValueError(f"no legacy command {other!r} has a success reply")


def _status(body: Mapping[str, Any]) -> dict[str, Any]:
    service = body["service"]
    models = [_running(unit) for unit in body["units"] if unit.get("pid") and unit["state"] in HAS_PROCESS]
    return {
        "service_status": service["state"],
        "is_running": service["state"] == "running",
        "client_endpoint": service.get("client_endpoint"),
        "cli_endpoint": service.get("cli_endpoint"),
        "model_count": len(models),
        "models": models,
    }


def _running(unit: Mapping[str, Any]) -> dict[str, Any]:
    name = unit.get("model") or unit.get("unit")
    return {
        "name": name,
        "model_name": name,
        "type": unit.get("type"),
        "model_type": unit.get("type"),
        "endpoint": unit.get("endpoint"),
        "started_at": _seconds(unit.get("started_at")),
        "uptime": _seconds(unit.get("uptime_s")),
        "pid": unit["pid"],
        "is_alive": True,
    }


def _configured(row: Mapping[str, Any]) -> dict[str, Any]:
    name, kind = row.get("model") or row.get("name"), row.get("type")
    return {
        "name": name,
        "model_name": name,
        "fullname": row.get("fullname"),
        "type": kind,
        "model_type": kind,
    }


def _seconds(value: Any) -> float:
    """A finite number of seconds; 0.0 where nothing is recorded yet, as old clients do arithmetic on it."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else 0.0


_encoder = json.JSONEncoder(allow_nan=False)


def _dumps(reply: dict[str, Any]) -> bytes:
    return _encoder.encode(reply).encode("ascii")
