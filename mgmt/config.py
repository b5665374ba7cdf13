"""`config.json` -> `Settings`: the only reader of that file. Every fault names its path in the file.

The file is a superset of the ancestor's: `model_backends`, `endpoints`, `logging` and `supported_models` of a
Symphony installation load unchanged. The tables themselves are in `mgmt.settings`.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import ValidationError
from pydantic_core import PydanticUndefined

from mgmt import strictjson, template
from mgmt.protocol import defaults, places
from mgmt.protocol.errors import MgmtError
from mgmt.settings import (
    BackendSettings,
    ModelSettings,
    Settings,
    Table,
    did_you_mean,
    relations,
    shown,
    table_in,
)
from mgmt.settings.policy import PolicySettings

# --- reading ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Loaded:
    """`source` is flag, environment, user, system or built-in; `path` is None for the last.

    `insecure`: the command line said so, and it outranks what is read later, too.
    """

    settings: Settings
    path: Path | None
    source: str
    insecure: bool = False


def search_path(environ: Mapping[str, str] | None = None) -> list[tuple[str, Path]]:
    """(source, file) in the order in which they are tried when no file is named by a flag."""
    environ = os.environ if environ is None else environ
    told = environ.get("MGMT_CONFIG")
    user = places.xdg_dir(environ, "XDG_CONFIG_HOME") or places.home_dir(environ) / ".config"
    found = [("environment", Path(os.path.abspath(told)))] if told else []
    return [*found, ("user", user / "mgmt" / "config.json"), ("system", Path("/etc/mgmt/config.json"))]


def load(
    path: Path | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    runtime: Path | None = None,
    state: Path | None = None,
    insecure: bool = False,
) -> Loaded:
    """Read the named file, else the first of `search_path` that exists, else the built-in defaults.

    `MgmtError("bad-config")` lists every fault, in `detail["problems"]` as `{"path", "problem"}` and in its
    text one a line. `runtime` and `state` are the folders that the placeholders of endpoints stand for;
    `insecure` outranks `endpoints.insecure`.
    """
    candidates = search_path(environ) if path is None else [("flag", Path(os.path.abspath(path)))]
    for source, candidate in candidates:
        # One that was asked for by name must exist; the others are tried.
        if source in ("flag", "environment") or _exists(candidate):
            data = _read(candidate)
            try:
                value, problems = strictjson.parse(data, defaults.MAX_DEPTH)
            except strictjson.NotJsonError as error:
                raise _bad_config(candidate, error.problems) from None
            settings = _settings(value, candidate, problems, runtime, state, insecure)
            return Loaded(settings, candidate, source, insecure)
    return Loaded(parse({}, runtime=runtime, state=state, insecure=insecure), None, "built-in", insecure)


def parse(
    value: object,
    path: Path | None = None,
    *,
    runtime: Path | None = None,
    state: Path | None = None,
    insecure: bool = False,
) -> Settings:
    """Settings from a parsed JSON value; `path` names its file in errors and is the base of its folders."""
    return _settings(value, path, [], runtime, state, insecure)


def _settings(
    value: object,
    path: Path | None,
    problems: list[strictjson.Problem],
    runtime: Path | None,
    state: Path | None,
    insecure: bool,
) -> Settings:
    if not isinstance(value, dict):
        raise _bad_config(path, [((), f"must be an object, not {shown(value)}")])
    context = {"folder": path.parent if path else None, "runtime": runtime, "state": state}
    settings: Settings | None = None
    found = list(problems)
    try:
        # The endpoints' defaults have placeholders as well, and only a table that is there is filled in.
        value = {"endpoints": {}, **value}
        if insecure and isinstance(value["endpoints"], dict):
            value["endpoints"] = {**value["endpoints"], "insecure": True}
        settings = Settings.model_validate(value, context=context)
    except ValidationError as error:
        known = {location for location, _ in problems}
        for item in error.errors(include_url=False):
            location = item["loc"]
            if location not in known:
                about_key = location[-1:] == ("[key]",)  # of a table that names things
                found.append((location[:-1] if about_key else location, _say(item)))
    found += _across(value)
    if settings is None or found:
        raise _bad_config(path, found)
    return settings


def load_policy(path: Path) -> PolicySettings:
    """An agent's policy file; MgmtError `bad-config` lists every fault."""
    data = _read(path)
    try:
        value, problems = strictjson.parse(data, defaults.MAX_DEPTH)
    except strictjson.NotJsonError as error:
        raise _bad_config(path, error.problems, POLICY_HINT) from None
    if not isinstance(value, dict):
        raise _bad_config(path, [((), f"must be an object, not {shown(value)}")], POLICY_HINT)
    policy: PolicySettings | None = None
    found = list(problems)
    try:
        policy = PolicySettings.model_validate(value)
    except ValidationError as error:
        found += [(item["loc"], _say(item, PolicySettings)) for item in error.errors(include_url=False)]
    if policy is None or found:
        raise _bad_config(path, found, POLICY_HINT)
    return policy


def _exists(path: Path) -> bool:
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True  # in a folder we may not enter: reading it says so, skipping it would hide it
    return True


def _read(path: Path) -> bytes:
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):  # a pipe would block for ever, a device never end
            kind = "a folder" if stat.S_ISDIR(mode) else "no regular file"
            raise _bad_config(path, [((), f"is {kind}; name the configuration file itself")])
        with path.open("rb") as file:
            data = file.read(defaults.MAX_CONFIG_BYTES + 1)
    except FileNotFoundError:
        raise _bad_config(path, [((), "there is no such file")]) from None
    except OSError as error:
        raise _bad_config(path, [((), f"cannot be read: {error.strerror}")]) from None
    if len(data) > defaults.MAX_CONFIG_BYTES:
        raise _bad_config(path, [((), f"is larger than {defaults.MAX_CONFIG_BYTES} bytes; the right file?")])
    return data


def _across(raw: dict[str, Any]) -> Iterator[strictjson.Problem]:
    """Faults between tables. Works on the raw value, so that they are found beside faults within tables."""
    models, backends = raw.get("supported_models"), raw.get("model_backends")
    taken: dict[str, str] = {}
    for index, model in enumerate(models if isinstance(models, list) else []):
        if not isinstance(model, dict):
            continue
        here: strictjson.Location = ("supported_models", index)
        aliases = model.get("aliases")
        named = [((*here, "name"), model.get("name"))]
        if isinstance(aliases, list):
            named += [((*here, "aliases", i), alias) for i, alias in enumerate(aliases)]
        for location, name in named:
            if not isinstance(name, str):
                continue
            if name in taken:
                yield location, f"{shown(name)} is taken by {taken[name]}; a name means one model"
            else:
                taken[name] = _path_text(location)
        kind = model.get("type")
        backend = backends.get(kind) if isinstance(backends, dict) and isinstance(kind, str) else None
        tables = [model, backend] if isinstance(backend, dict) else [model]
        texts = [text for table in tables for key in ("command", "env") for text in _strings(table.get(key))]
        options = model.get("options", {})
        for hole in sorted(template.holes(texts)):
            option = hole.removeprefix(template.OPTION)
            if option != hole and isinstance(options, dict) and option not in options:
                yield (*here, "options"), f"lacks {option!r}, which the command or environment asks for"
    yield from _replica_names(models, taken)
    yield from relations.faults(raw, taken)
    default = raw.get("default_model")
    if isinstance(default, str) and default and default not in taken:
        hint = did_you_mean(default, taken)
        yield ("default_model",), f"{shown(default)} is no name or alias of a model{hint}"


def _replica_names(models: object, taken: Mapping[str, str]) -> Iterator[strictjson.Problem]:
    """The replicas of a model are units NAME.0, NAME.1, ...; no model may go by such a name."""
    for index, model in enumerate(models if isinstance(models, list) else []):
        replicas = model.get("replicas") if isinstance(model, dict) else None
        if type(replicas) is not int or not 1 < replicas <= defaults.MAX_REPLICAS:
            continue
        for unit in (f"{model.get('name')}.{n}" for n in range(replicas)):
            if unit in taken:
                problem = f"its replica {shown(unit)} has the name of {taken[unit]}; rename one of the two"
                yield ("supported_models", index, "name"), problem


def _strings(value: object) -> list[str]:
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [item for item in items if isinstance(item, str)]


# --- saying what is wrong -----------------------------------------------------------------------------------

_EXPECTED = {
    "string_type": "must be a string",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "tuple_type": "must be an array",
    "dict_type": "must be an object",
    "model_type": "must be an object",
}


def _say(error: Mapping[str, Any], root: type[Table] = Settings) -> str:
    kind, context, value = error["type"], error.get("ctx", {}), error["input"]
    location: strictjson.Location = error["loc"]
    if kind == "missing":
        return "is required"
    if kind == "extra_forbidden":
        table = _table_at(location[:-1], root)
        known = table.model_fields if table else {}
        return f"unknown key{did_you_mean(str(location[-1]), known) or '; known are ' + ', '.join(known)}"
    if kind == "value_error":
        return str(context["error"])
    if kind == "literal_error":
        return f"must be one of {context['expected']}, not {shown(value)}"
    if kind in ("string_too_short", "too_short"):
        return "must not be empty"
    if kind in ("string_too_long", "too_long"):
        return f"must have at most {context['max_length']} characters"
    for bound, words in (("gt", "more than"), ("ge", "at least"), ("lt", "less than"), ("le", "at most")):
        if bound in context:
            return f"must be {words} {context[bound]:g}, not {shown(value)}"
    return f"{_EXPECTED.get(kind, error['msg'])}, not {shown(value)}"


CONFIG_HINT = "`mgmt config schema` prints every key; `mgmt config check --config FILE` tries a file."
POLICY_HINT = "`mgmt config schema policy` prints every key of an agent's policy."


def _bad_config(path: Path | None, problems: list[strictjson.Problem], hint: str = CONFIG_HINT) -> MgmtError:
    shown = problems[: defaults.MAX_CONFIG_PROBLEMS]
    file = "configuration" if path is None else str(path).encode("utf-8", "backslashreplace").decode()
    items = [{"path": _path_text(location), "problem": problem} for location, problem in shown]
    lines = [": ".join(part for part in (file, item["path"], item["problem"]) if part) for item in items]
    if len(problems) > len(shown):
        lines.append(f"{file}: and {len(problems) - len(shown)} more")
    lines.append(hint)
    return MgmtError("bad-config", "\n".join(lines), problems=items)


def _path_text(location: strictjson.Location) -> str:
    """`supported_models[2].type`; a key that is no plain word is quoted in brackets."""
    text = ""
    for step in location:
        if isinstance(step, str) and re.fullmatch(r"[A-Za-z0-9_-]{1,64}", step):
            text += f".{step}" if text else step
        else:
            text += f"[{shown(step)}]"
    return text


def _table_at(location: strictjson.Location, root: type[Table]) -> type[Table] | None:
    """The table that a path of the file leads to."""
    annotation: Any = root
    for step in location:
        table = table_in(annotation)
        if table is None:
            return None
        # A step into an array or an object of tables stays at the same table.
        annotation = table.model_fields[str(step)].annotation if annotation is table else table
    return table_in(annotation)


# --- documentation ------------------------------------------------------------------------------------------

DOCS_BEGIN = "<!-- generated from mgmt/config.py: do not edit -->"
DOCS_END = "<!-- end of the generated part -->"


def json_schema() -> dict[str, Any]:
    """JSON Schema of the file. It knows shapes and bounds; rules between tables are only in `load`."""
    schema = Settings.model_json_schema()
    backends = schema["properties"]["model_backends"]
    script = {"type": "string", "minLength": 1, "description": "script of a symphony backend"}
    backends["additionalProperties"] = {"anyOf": [script, backends["additionalProperties"]]}
    models = schema["$defs"]["ModelSettings"]["properties"]
    models["fullname"].pop("default")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "mgmt configuration",
    }


def policy_schema() -> dict[str, Any]:
    """JSON Schema of an agent's policy file."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **PolicySettings.model_json_schema(),
        "title": "policy of an mgmt agent",
    }


def markdown(root: type[Table] = Settings) -> str:
    """One section a table, one row a key: type, default, meaning."""
    sections: list[str] = []
    todo: list[tuple[str, type[Table]]] = [("", root)]
    while todo:
        path, table = todo.pop(0)
        children: list[tuple[str, type[Table]]] = []
        title = f"`{path}`" if path else "Top level"
        lines = [f"### {title}", "", table.__doc__ or "", "", "| key | type | default | meaning |"]
        lines.append("|---|---|---|---|")
        for key, field in table.model_fields.items():
            nested = table_in(field.annotation)
            if nested:
                origin = get_origin(field.annotation)
                suffix = ".*" if origin is dict else "[]" if origin is tuple else ""
                children.append((f"{path}.{key}{suffix}".lstrip("."), nested))
            default = "required" if field.is_required() else _default_text(field.default)
            if nested is field.annotation:
                default = "see below"
            if (table, key) == (ModelSettings, "fullname"):
                default = "`name`"
            kind = "object" if nested is field.annotation else _type_text(field.annotation)
            lines.append(f"| `{key}` | {kind} | {default} | {field.description} |")
        sections.append("\n".join(lines))
        todo = children + todo
    return "\n\n".join(sections) + "\n"


def render_docs(text: str, root: type[Table] = Settings) -> str:
    """`text` with its generated part renewed; `ValueError` when a marker is missing."""
    before, begin, rest = text.partition(DOCS_BEGIN)
    _, end, after = rest.partition(DOCS_END)
    if not begin or not end:
        raise ValueError(f"the document lacks the line {DOCS_END if begin else DOCS_BEGIN!r}")
    return f"{before}{begin}\n\n{markdown(root)}\n{end}{after}"


def _default_text(value: object) -> str:
    if value is None:
        return "none"
    return "empty" if value is PydanticUndefined or value == () else f"`{json.dumps(value)}`"


def _type_text(annotation: Any) -> str:
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type_text(parts[0])
    if origin is Literal:
        return ", ".join(f"`{part}`" for part in parts)
    if origin is tuple:
        return f"array of {_type_text(parts[0])}"
    if origin is dict:
        return f"object of {_type_text(parts[1])}"
    if parts:  # an optional value: its absence is the default
        return _type_text(parts[0])
    words = {str: "string", int: "integer", float: "number", BackendSettings: "string or object"}
    return words.get(annotation, "object")
