"""The values that occur in `config.json`: names, CPU lists, endpoints, templates, and how each is checked."""

from __future__ import annotations

import difflib
import json
import logging
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
)

from mgmt import template
from mgmt.protocol import defaults, places

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+:-]*")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_TCP = re.compile(r"tcp://(?:\[[0-9A-Fa-f:.%a-z]+\]|[A-Za-z0-9._*-]+):([0-9]{1,5})")


T = TypeVar("T", bound="Table")


def parse_cpus(text: str) -> tuple[int, ...]:
    """CPU numbers of a list such as `0-3,6`, ascending and distinct. `ValueError` says what is wrong."""
    cpus: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,6})(?:-([0-9]{1,6}))?\s*", part, re.ASCII)
        if match is None:
            raise ValueError(f"{part.strip()!r} is no CPU number or range; write a list such as 0-3,6")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise ValueError(f"the range {part.strip()} runs backwards")
        if last > defaults.MAX_CPU:
            raise ValueError(f"CPU {last} is beyond the highest possible one, {defaults.MAX_CPU}")
        cpus.update(range(first, last + 1))
    return tuple(sorted(cpus))


def _cpus(text: str) -> str:
    parse_cpus(text)
    return text


def _name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise ValueError("must start with a letter or digit and hold only letters, digits and . _ + : -")
    return text


def _env_names(env: dict[str, str]) -> dict[str, str]:
    bad = [name for name in env if not _ENV_NAME.fullmatch(name)]
    if bad:
        raise ValueError(f"{bad[0]!r} is no name of an environment variable")
    return env


def _env_templates(env: dict[str, str]) -> dict[str, str]:
    _template(tuple(env.values()))
    return env


def option_names(options: dict[str, str]) -> dict[str, str]:
    bad = [name for name in options if not template.OPTION_NAME.fullmatch(name)]
    if bad:
        raise ValueError(f"{bad[0]!r} is no option name; use letters, digits, _ and -")
    return options


def _template(texts: tuple[str, ...]) -> tuple[str, ...]:
    fault = template.fault(texts)
    if fault:
        raise ValueError(fault)
    return texts


def _program(command: tuple[str, ...]) -> tuple[str, ...]:
    if not command[0]:
        raise ValueError("the first element is the program; it must not be empty")
    return command


def signal_name(value: object) -> object:
    return value.upper().removeprefix("SIG") if isinstance(value, str) else value


def level_name(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


def log_format(text: str) -> str:
    """Tried on a record now: a bad format would otherwise fail at each log line, and only there."""
    if re.search(r"[0-9]{4}", text) or len(text) > 1000:
        raise ValueError("is too long, or pads to thousands of characters")
    try:
        formatter = logging.Formatter(text)
        formatter.format(logging.LogRecord("mgmt", logging.INFO, __file__, 1, "text", None, None))
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise ValueError(f"is no format of Python's logging: {error}") from None
    return text


def _place_values(context: Mapping[str, Any] | None) -> dict[str, str]:
    context = context or {}
    return {
        "runtime": str(context.get("runtime") or places.runtime_dir()),
        "state": str(context.get("state") or places.state_dir()),
    }


def _expand(text: str, info: ValidationInfo) -> str:
    values = _place_values(info.context)
    for name in re.findall(r"\{([^{}]*)\}", text):
        if name not in values:
            raise ValueError(f"unknown placeholder {{{name}}}; known are {{runtime}} and {{state}}")
    text = text.replace("{runtime}", values["runtime"]).replace("{state}", values["state"])
    if not text.isprintable():  # the bytes of a folder's name that are not UTF-8 are not, either
        raise ValueError(f"{text!a} has bytes that are no text; choose another folder (MGMT_RUNTIME_DIR)")
    return text


def _endpoint(text: str, info: ValidationInfo) -> str:
    text = _expand(text, info)
    if text.startswith("ipc:///"):
        size = len(os.fsencode(text.removeprefix("ipc://")))
        if size > defaults.MAX_IPC_PATH_BYTES:
            raise ValueError(
                f"the socket path {text.removeprefix('ipc://')} has {size} bytes, the system allows "
                f"{defaults.MAX_IPC_PATH_BYTES}; choose a shorter folder (MGMT_RUNTIME_DIR)"
            )
        return text
    match = _TCP.fullmatch(text)
    if match and 1 <= int(match[1]) <= 65535:
        return text
    raise ValueError(f"{text!r} is no endpoint; write ipc:///absolute/path or tcp://HOST:PORT")


def socket_dir(text: str, info: ValidationInfo) -> str:
    text = _expand(text, info)
    if not text.startswith("/"):
        raise ValueError(f"{text!r} is not an absolute folder")
    longest = f"{text}/{defaults.MODEL_SOCKET_PREFIX}{'0' * defaults.MODEL_SOCKET_HEX_DIGITS}"
    if len(os.fsencode(longest)) > defaults.MAX_IPC_PATH_BYTES:
        raise ValueError(f"sockets such as {longest} would exceed {defaults.MAX_IPC_PATH_BYTES} bytes")
    return text


def in_folder(text: str, info: ValidationInfo) -> str:
    """Relative folders are meant from where the file lies, not from where the daemon happens to start."""
    base = (info.context or {}).get("folder")
    return str(Path(base) / text) if base is not None else text


def _octal(text: str) -> str:
    if not re.fullmatch(r"0?[0-7]{3}", text):
        raise ValueError(f"{text!r} is no file mode mask; write three octal digits such as 027")
    return text


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"is no regular expression: {error}") from None
    return text


RLIMITS = (
    *("as", "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc"),
    *("rss", "rtprio", "rttime", "sigpending", "stack"),
)


def _rlimits(limits: dict[str, int | str]) -> dict[str, int | str]:
    for name, value in limits.items():
        if name not in RLIMITS:
            raise ValueError(f"{name!r} is no resource limit; known are {', '.join(RLIMITS)}")
        if not re.fullmatch(r"([0-9]{1,19}|unlimited)(:([0-9]{1,19}|unlimited))?", str(value)):
            raise ValueError(f"{name}: {value!r} is neither a number, `unlimited` nor `soft:hard`")
    return limits


def _needs(value: object) -> object:
    """A list of names means: until they are ready."""
    if isinstance(value, list | tuple):
        return dict.fromkeys(value, "ready")
    return value


Text = Annotated[str, Field(min_length=1)]
Name = Annotated[str, Field(min_length=1, max_length=defaults.MAX_UNIT_NAME_CHARS), AfterValidator(_name)]
Cpus = Annotated[str, Field(min_length=1), AfterValidator(_cpus)]
Env = Annotated[dict[str, str], AfterValidator(_env_names), AfterValidator(_env_templates)]
Command = Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(_program), AfterValidator(_template)]
Endpoint = Annotated[str, Field(min_length=1), AfterValidator(_endpoint)]
Seconds = Annotated[float, Field(strict=True, gt=0, le=86_400, allow_inf_nan=False)]
Count = Annotated[int, Field(strict=True, ge=1, le=1 << 20)]
ExitCode = Annotated[int, Field(strict=True, ge=0, le=255)]
Umask = Annotated[str, AfterValidator(_octal)]
Pattern = Annotated[str, Field(min_length=1, max_length=1000), AfterValidator(_pattern)]
Rlimits = Annotated[dict[str, int | str], AfterValidator(_rlimits)]
Needs = Annotated[dict[str, Literal["started", "ready", "completed"]], BeforeValidator(_needs)]


def shown(value: object) -> str:
    """A value as JSON, in plain ASCII, short enough for one line."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list | tuple):
        return "an array"
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."


def did_you_mean(word: str, known: Mapping[str, object]) -> str:
    folded = {name.casefold(): name for name in known}
    near = difflib.get_close_matches(word[:100].casefold(), folded, 1)
    return f", did you mean {shown(folded[near[0]])}?" if near else ""


class Table(BaseModel):
    """Base of the objects in the file: frozen, and a key that is not declared is a fault."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


def shared(table: type[T]) -> Callable[[], T]:
    """A default factory that gives everybody the same table: tables are frozen, and many units have defaults."""
    made: list[T] = []

    def default() -> T:
        if not made:
            made.append(table())
        return made[0]

    return default


def table_in(annotation: Any) -> type[Table] | None:
    """The table somewhere in an annotation, such as the values of a dict."""
    if isinstance(annotation, type) and issubclass(annotation, Table):
        return annotation
    return next((table for part in get_args(annotation) if (table := table_in(part))), None)
