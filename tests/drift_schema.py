"""`proto/mgmt.schema.json`: the message table, the error table and the limits for readers in any language.

The document is a JSON Schema of one decoded control frame (an array), with the tables beside it.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic.json_schema import models_json_schema

from mgmt.protocol import defaults, frames
from mgmt.protocol.errors import TABLE, Exit
from mgmt.protocol.frames import DataKind, Kind, Outcome
from mgmt.protocol.messages import EVENTS, NOTICES, REQUESTS, Message, Verb

PATH = "proto/mgmt.schema.json"
UINT = {"type": "integer", "minimum": 0, "maximum": (1 << 64) - 1}
KEY = {"type": "string", "maxLength": defaults.MAX_KEY_CHARS}
FIXED_LIMITS = ("MAX_CONTROL_FRAME_BYTES", "MAX_DEPTH", "MAX_NAME_CHARS", "MAX_KEY_CHARS")
ERROR_BODY = {
    "type": "object",
    "description": "Body of every reply that is not ok, and payload of every data answer that is no result.",
    "properties": {
        "code": {"enum": list(TABLE)},
        "text": {"type": "string"},
        "retryable": {"type": "boolean"},
        "detail": {"type": "object"},
    },
    "required": ["code", "text", "retryable"],
    "additionalProperties": False,
}


def render() -> str:
    """The text of PATH."""
    models: list[type[Message]] = [row.body for row in (*REQUESTS.values(), *NOTICES.values())]
    models += [row.reply for row in REQUESTS.values() if row.reply is not None]
    models += EVENTS.values()
    # A class may serve several rows; its schema is there once.
    unique = dict.fromkeys(models)
    _, definitions = models_json_schema([(model, "validation") for model in unique])
    document = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"mgmt native protocol, version {frames.VERSION}",
        "description": "One decoded control frame. On the wire it is msgpack; `format: binary` is a msgpack bin. "
        "Generated from mgmt/protocol: do not edit.",
        "anyOf": [
            *(_request(row) for row in REQUESTS.values()),
            *(_reply(row) for row in REQUESTS.values()),
            _frame(Kind.REPLY, {"enum": [str(o) for o in Outcome if o is not Outcome.OK]}, _ref("Error")),
            *(_frame(Kind.NOTICE, {"const": row.name}, _ref(row.body.__name__)) for row in NOTICES.values()),
            *(_frame(Kind.EVENT, {"const": name}, _ref(model.__name__)) for name, model in EVENTS.items()),
        ],
        "version": frames.VERSION,
        "requests": {row.name: _row(row) for row in REQUESTS.values()},
        "notices": {row.name: _row(row) for row in NOTICES.values()},
        "events": {
            name: {"help": _help(model), "body": _ref(model.__name__)} for name, model in EVENTS.items()
        },
        "errors": {
            code: {
                "fault": str(row.fault),
                "retryable": row.retryable,
                "exit": int(row.exit),
                "outcome": str(frames.OUTCOME_OF_CODE.get(code, Outcome.ERROR)),
                "meaning": row.meaning,
            }
            for code, row in TABLE.items()
        },
        "exit_statuses": {status.name: int(status) for status in Exit},
        "outcomes": [str(outcome) for outcome in Outcome],
        "data_kinds": {kind.name: int(kind) for kind in DataKind},
        "limits": {
            **{name.lower(): getattr(defaults, name) for name in FIXED_LIMITS},
            "data_tag_bytes": frames.TAG_BYTES,
        },
        "$defs": {**definitions["$defs"], "Error": ERROR_BODY},
    }
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def _request(row: Verb) -> dict[str, Any]:
    return _frame(Kind.REQUEST, {"const": row.name}, _ref(row.body.__name__), UINT, KEY)


def _reply(row: Verb) -> dict[str, Any]:
    assert row.reply is not None
    return _frame(Kind.REPLY, {"const": "ok"}, _ref(row.reply.__name__))


def _frame(kind: Kind, name: dict[str, Any], body: dict[str, Any], *rest: dict[str, Any]) -> dict[str, Any]:
    items = [{"const": frames.VERSION}, {"const": int(kind)}, UINT, UINT, name, body, *rest]
    return {"type": "array", "prefixItems": items, "items": False, "minItems": len(items)}


def _row(row: Verb) -> dict[str, Any]:
    reply = {"reply": _ref(row.reply.__name__)} if row.reply is not None else {}
    audience: dict[str, Any] = {"audience": str(row.audience)}
    if row.need is not None and row.reply is not None:
        audience["needs"] = {"object": row.need.object, "role": str(row.need.role)}
    return {"help": _help(row.body), **audience, "body": _ref(row.body.__name__), **reply}


def _help(model: type[Message]) -> str:
    return " ".join((model.__doc__ or "").split())


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/$defs/{name}"}
