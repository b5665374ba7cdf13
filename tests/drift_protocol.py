"""The generated blocks of docs/protocol.md; the text between them is written by hand."""

from __future__ import annotations

import json
import re
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from mgmt.core.supervision import TRANSITIONS, State
from mgmt.protocol import defaults, frames
from mgmt.protocol.errors import TABLE
from mgmt.protocol.frames import DataKind
from mgmt.protocol.messages import EVENTS, NOTICES, REQUESTS, Audience, Message, Verb
from mgmt.protocol.revisions import BROUGHT, since

PATH = "docs/protocol.md"
BEGIN, END = "<!-- generated: {} -->", "<!-- end: {} -->"


def render(text: str) -> str:
    """`text` of PATH with every block renewed; ValueError when a block is missing or unknown."""
    found = re.findall(r"<!-- generated: ([a-z-]+) -->", text)
    if sorted(found) != sorted(BLOCKS):
        raise ValueError(f"{PATH} has the blocks {sorted(found)}, not {sorted(BLOCKS)}")
    for name, block in BLOCKS.items():
        before, _, rest = text.partition(BEGIN.format(name))
        _, end, after = rest.partition(END.format(name))
        if not end:
            raise ValueError(f"{PATH} lacks the line {END.format(name)}")
        text = f"{before}{BEGIN.format(name)}\n\n{block()}\n{END.format(name)}{after}"
    return text


# ---- messages --------------------------------------------------------------------------------------------


def requests() -> str:
    """An overview, then one section a request."""
    lines = ["| request | who | what it does | reply |", "|---|---|---|---|"]
    for name, row in REQUESTS.items():
        assert row.reply is not None
        anchor = f"[`{name}`](#request-{name})"
        lines.append(f"| {anchor} | {_who(row)} | {_help(row.body)} | {_linked(row.reply)} |")
    for name, row in REQUESTS.items():
        assert row.reply is not None
        lines += ["", f"#### request {name}", "", _help(row.body), "", *_fields(row.body), ""]
        lines.append(f"Reply: {_linked(row.reply)}.")
    return "\n".join(lines) + "\n"


def _who(row: Verb) -> str:
    """The audience, and what a user needs besides."""
    need = row.need
    if row.audience is not Audience.USER or need is None or need.object == "service":
        return str(row.audience)
    return f"{row.audience}: {'own' if need.object == 'user' else f'{need.role} on the {need.object}'}"


def revisions() -> str:
    lines = [
        "| revision | brought |",
        "|---|---|",
        *(f"| {number} | {what} |" for number, what in BROUGHT.items()),
    ]
    return "\n".join(lines) + "\n"


def notices() -> str:
    lines: list[str] = []
    for name, row in NOTICES.items():
        lines += [f"#### notice {name}", "", _help(row.body), "", *_fields(row.body), ""]
    return "\n".join(lines)


def events() -> str:
    lines: list[str] = []
    for name, model in EVENTS.items():
        lines += [f"#### event {name}", "", _help(model), "", *_fields(model), ""]
    return "\n".join(lines)


def shapes() -> str:
    """Reply bodies, and what bodies contain, each once."""
    todo: list[type[Message]] = [row.reply for row in REQUESTS.values() if row.reply is not None]
    todo += EVENTS.values()
    asked = [row.body for row in (*REQUESTS.values(), *NOTICES.values())]
    todo += [
        part
        for body in asked
        for field in body.model_fields.values()
        for part in _models_in(field.annotation)
    ]
    seen: dict[type[Message], None] = {}
    while todo:
        model = todo.pop(0)
        if model not in seen and model.model_fields:
            seen[model] = None
            todo += [part for field in model.model_fields.values() for part in _models_in(field.annotation)]
    lines: list[str] = []
    for model in sorted(seen.keys() - set(EVENTS.values()), key=lambda model: model.__name__):
        lines += [f"#### shape {model.__name__}", "", *([_help(model), ""] if model.__doc__ else [])]
        lines += [*_fields(model), ""]
    return "\n".join(lines)


def _fields(model: type[Message]) -> list[str]:
    if not model.model_fields:
        return ["The body is an empty map."]
    lines = ["| field | type | default | meaning |", "|---|---|---|---|"]
    for name, field in model.model_fields.items():
        default = "required" if field.is_required() else f"`{_json(_default(field))}`"
        came = [f"since revision {revision}"] if (revision := since(model, name)) > 1 else []
        told = [field.description] if field.description else []
        meaning = "; ".join([*told, *_bounds(field.metadata), *came])
        lines.append(f"| `{name}` | {_type(field.annotation)} | {default} | {meaning} |")
    return lines


def _bounds(metadata: list[Any]) -> Iterator[str]:
    words = {"ge": "at least {}", "le": "at most {}"}
    words |= {"min_length": "length at least {}", "max_length": "length at most {}"}
    for item in metadata:
        for attribute, text in words.items():
            if getattr(item, attribute, None) is not None:
                yield text.format(getattr(item, attribute))


def _type(kind: Any) -> str:
    origin, parts = get_origin(kind), get_args(kind)
    if origin is typing.Annotated:
        return _type(parts[0])
    if origin in (types.UnionType, typing.Union):
        return " or ".join(_type(part) for part in parts)
    if origin is Literal:
        return ", ".join(f"`{part}`" for part in parts)
    if origin is list:
        return f"array of {_type(parts[0])}"
    if origin is dict:
        return "map" if parts[1] is Any else f"map of {_type(parts[1])}"
    if isinstance(kind, type) and issubclass(kind, Message):
        return _linked(kind)
    simple = {str: "string", int: "integer", float: "float", bool: "boolean", bytes: "bin"}
    return {**simple, type(None): "nil", Any: "any"}[kind]


def _models_in(kind: Any) -> list[type[Message]]:
    if isinstance(kind, type) and issubclass(kind, Message):
        return [kind]
    return [model for part in get_args(kind) for model in _models_in(part)]


def _linked(model: type[Message]) -> str:
    if not model.model_fields:
        return "an empty map"
    return f"[{model.__name__}](#shape-{model.__name__.lower()})"


def _help(model: type[Message]) -> str:
    return " ".join((model.__doc__ or "").split())


def _default(field: FieldInfo) -> Any:
    """As it would be sent; a message whose fields all have defaults is said to be an empty map."""
    value = field.get_default(call_default_factory=True)
    return {} if isinstance(value, Message) else value


def _json(value: Any) -> str:
    """As JSON, but with msgpack's word for nothing."""
    return "nil" if value is None else json.dumps(value)


# ---- tables ----------------------------------------------------------------------------------------------


def errors() -> str:
    lines = ["| code | meaning | whose fault | again? | outcome | exit status |", "|---|---|---|---|---|---|"]
    for code, row in TABLE.items():
        outcome = frames.OUTCOME_OF_CODE.get(code, frames.Outcome.ERROR)
        again = "yes" if row.retryable else "no"
        lines.append(f"| `{code}` | {row.meaning} | {row.fault} | {again} | {outcome} | {int(row.exit)} |")
    return "\n".join(lines) + "\n"


def limits() -> str:
    """From the comments of mgmt/protocol/defaults.py, which stand nowhere else."""
    sections = ("the protocol itself", "frames and queues", "times")
    lines = ["| number | value | meaning |", "|---|---|---|"]
    section = ""
    source = Path(defaults.__file__).read_text(encoding="utf-8")
    for line in source.splitlines():
        title = re.match(r"# --- (.*) ---", line)
        section = title[1] if title else section
        row = re.match(r"([A-Z_]+) = .*?  # (.*)", line)
        if row and section.startswith(sections):
            where = re.search(r"`([a-z]+)`", section)
            name = f"`{where[1]}.{row[1].lower()}`" if where else f"`{row[1]}` (fixed)"
            lines.append(f"| {name} | {getattr(defaults, row[1])} | {row[2]} |")
    lines.append(f"| `TAG_BYTES` (fixed) | {frames.TAG_BYTES} | the head of a data message |")
    return "\n".join(lines) + "\n"


def data_kinds() -> str:
    lines = ["| kind | byte | payload |", "|---|---|---|"]
    for kind in DataKind:
        payload = "what the client sends" if kind is DataKind.REQUEST else "what the backend answers"
        payload = payload if kind <= DataKind.RESULT else "one error body, msgpack"
        lines.append(f"| {kind.name} | {int(kind)} | {payload} |")
    return "\n".join(lines) + "\n"


def states() -> str:
    """The unit state diagram, drawn from the table that the daemon obeys."""
    edges: dict[tuple[State, State], list[str]] = {}
    for (state, trigger), targets in TRANSITIONS.items():
        for target in State:
            if target in targets:
                edges.setdefault((state, target), []).append(trigger)
    lines = ["```mermaid", "stateDiagram-v2", "    [*] --> STOPPED"]
    lines += [f"    {a} --> {b}: {', '.join(triggers)}" for (a, b), triggers in edges.items()]
    lines += ["```", "", "| state | trigger | next |", "|---|---|---|"]
    for (state, trigger), targets in TRANSITIONS.items():
        lines.append(f"| {state} | {trigger} | {', '.join(s for s in State if s in targets)} |")
    return "\n".join(lines) + "\n"


BLOCKS: dict[str, Callable[[], str]] = {
    "revisions": revisions,
    "requests": requests,
    "notices": notices,
    "events": events,
    "shapes": shapes,
    "errors": errors,
    "limits": limits,
    "data-kinds": data_kinds,
    "states": states,
}
