"""The published schemas of `proto/`, read as the tables that they must equal."""

from __future__ import annotations

import re
from pathlib import Path

from mgmt.protocol.protobuf import Field, File

PROTO = Path(__file__).parents[1] / "proto"

_BLOCK = re.compile(r"^(message|enum|service) (\w+) \{\n(.*?)^\}", re.MULTILINE | re.DOTALL)
_FIELD = re.compile(r"(repeated )?(\w+) (\w+) = (\d+);")
_ONEOF = re.compile(r"oneof (\w+) \{(.*?)\}", re.DOTALL)
_METHOD = re.compile(r"rpc (\w+) \((\w+)\) returns \((\w+)\) \{\}")


def published(text: str) -> File:
    """Read the small part of the proto language that our schemas use."""
    text = re.sub(r"//[^\n]*", "", text)
    package = re.search(r"^package ([\w.]+);", text, re.MULTILINE)
    assert package is not None
    messages: dict[str, tuple[Field, ...]] = {}
    enums: dict[str, tuple[str, ...]] = {}
    services: dict[str, dict[str, tuple[str, str]]] = {}
    for kind, name, body in _BLOCK.findall(text):
        if kind == "enum":
            values = {int(number): value for value, number in re.findall(r"(\w+) = (\d+);", body)}
            assert sorted(values) == list(range(len(values)))
            enums[name] = tuple(values[number] for number in sorted(values))
        elif kind == "service":
            services[name] = {method: (asked, told) for method, asked, told in _METHOD.findall(body)}
        else:
            spans = [(m[1], m.start(), m.end()) for m in _ONEOF.finditer(body)]
            messages[name] = tuple(
                Field(
                    m[2], m[3], int(m[4]), bool(m[1]), next((o for o, a, b in spans if a < m.start() < b), "")
                )
                for m in _FIELD.finditer(body)
            )
    return File(package[1], messages, enums, services)
