"""The tables of `config.json` as frozen models: shapes, bounds, defaults and the rules within one table.

Descriptions of the fields are the documentation of the file (docs/config.md, `mgmt config schema`); numbers
come from `mgmt.protocol.defaults`. Reading the file, and the rules between tables, are in `mgmt.config`.
"""

from __future__ import annotations

import difflib
import json
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    model_validator,
)

from mgmt import template
from mgmt.protocol import defaults, places

LEGACY_COMMAND = ("{python}", "{script}", "--ipc-endpoint", "{endpoint}", "--model-name", "{fullname}")
TRACE = 5  # below logging.DEBUG, as in the Rust ancestor
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+:-]*")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_TCP = re.compile(r"tcp://(?:\[[0-9A-Fa-f:.%a-z]+\]|[A-Za-z0-9._*-]+):([0-9]{1,5})")
_LOOPBACK = ("tcp://127.", "tcp://localhost:", "tcp://[::1]:")


# --- values -------------------------------------------------------------------------------------------------


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


def _option_names(options: dict[str, str]) -> dict[str, str]:
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


def _signal(value: object) -> object:
    return value.upper().removeprefix("SIG") if isinstance(value, str) else value


def _level(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


def _format(text: str) -> str:
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


def _socket_dir(text: str, info: ValidationInfo) -> str:
    text = _expand(text, info)
    if not text.startswith("/"):
        raise ValueError(f"{text!r} is not an absolute folder")
    longest = f"{text}/{defaults.MODEL_SOCKET_PREFIX}{'0' * defaults.MODEL_SOCKET_HEX_DIGITS}"
    if len(os.fsencode(longest)) > defaults.MAX_IPC_PATH_BYTES:
        raise ValueError(f"sockets such as {longest} would exceed {defaults.MAX_IPC_PATH_BYTES} bytes")
    return text


def _folder(text: str, info: ValidationInfo) -> str:
    """Relative folders are meant from where the file lies, not from where the daemon happens to start."""
    base = (info.context or {}).get("folder")
    return str(Path(base) / text) if base is not None else text


def _legacy_backend(value: object) -> object:
    """The ancestor's form: the name of a script, started with its two arguments."""
    if isinstance(value, str):
        return {"kind": "symphony", "script": value}
    if isinstance(value, dict | BackendSettings):
        return value
    raise ValueError(f"must be the name of a script or an object, not {shown(value)}")


Text = Annotated[str, Field(min_length=1)]
Name = Annotated[str, Field(min_length=1, max_length=defaults.MAX_NAME_CHARS), AfterValidator(_name)]
Cpus = Annotated[str, Field(min_length=1), AfterValidator(_cpus)]
Env = Annotated[dict[str, str], AfterValidator(_env_names), AfterValidator(_env_templates)]
Command = Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(_program), AfterValidator(_template)]
Endpoint = Annotated[str, Field(min_length=1), AfterValidator(_endpoint)]
Seconds = Annotated[float, Field(strict=True, gt=0, le=86_400, allow_inf_nan=False)]
Count = Annotated[int, Field(strict=True, ge=1, le=1 << 20)]
ExitCode = Annotated[int, Field(strict=True, ge=0, le=255)]


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


# --- tables -------------------------------------------------------------------------------------------------


class Table(BaseModel):
    """Base of the objects in the file: frozen, and a key that is not declared is a fault."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class RestartSettings(Table):
    """When and how fast a backend that ended is started again."""

    policy: Literal["no", "on-failure", "always"] = Field(
        "on-failure", description="after which end the backend is started again"
    )
    delay_s: Seconds = Field(defaults.RESTART_DELAY_S, description="wait before the first restart")
    delay_max_s: Seconds = Field(defaults.MAX_RESTART_DELAY_S, description="the growing wait stops here")
    factor: Annotated[float, Field(strict=True, ge=1, le=100, allow_inf_nan=False)] = Field(
        defaults.RESTART_FACTOR, description="growth of the wait from one restart to the next"
    )
    jitter: Annotated[float, Field(strict=True, ge=0, le=1, allow_inf_nan=False)] = Field(
        defaults.RESTART_JITTER, description="share of the wait that is drawn at random"
    )
    limit: Annotated[int, Field(strict=True, ge=0, le=1 << 20)] = Field(
        defaults.RESTART_LIMIT, description="restarts within the window; one more end is FATAL"
    )
    window_s: Seconds = Field(defaults.RESTART_WINDOW_S, description="the window of `limit`")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.delay_max_s < self.delay_s:
            raise ValueError(f"delay_max_s ({self.delay_max_s:g}) is smaller than delay_s ({self.delay_s:g})")
        return self


class BackendSettings(Table):
    """How the processes of one model type are run. A plain string is the script of a `symphony` backend."""

    kind: Literal["native", "symphony"] = Field(
        "native", description="what it speaks: the native protocol, or the ancestor's data plane"
    )
    command: Command = Field(
        LEGACY_COMMAND,
        description="argument vector; placeholders: "
        + ", ".join(f"`{{{name}}}`" for name in (*template.NAMES, "option.NAME"))
        + ". An element with `{config_path}` and a `--flag` before it vanish when there is none. "
        "Required for `native`; this default is for `symphony`",
    )
    script: Text | None = Field(
        None, description="file that `{script}` stands for; searched as described above"
    )
    env: Env = Field(
        default_factory=dict, description="variables added to the environment; placeholders as in `command`"
    )
    cwd: Annotated[Text, AfterValidator(_folder)] | None = Field(
        None, description="working folder; a relative one is meant from the file's folder"
    )
    cpus: Cpus | None = Field(None, description="CPUs it may run on, such as `0-3,6`; all when absent")
    nice: Annotated[int, Field(strict=True, ge=-20, le=19)] = Field(
        0, description="scheduling niceness; below 0 needs privileges"
    )
    restart: RestartSettings = Field(default_factory=RestartSettings, description="restart policy")
    success_exit_codes: tuple[ExitCode, ...] = Field(
        (0,), description="exit codes that are no failure for `on-failure`"
    )
    ready_timeout_s: Seconds = Field(
        defaults.READY_TIMEOUT_S, description="from start to ready; else the start failed"
    )
    stop_signal: Annotated[
        Literal["TERM", "INT", "QUIT", "HUP", "USR1", "USR2", "KILL"], BeforeValidator(_signal)
    ] = Field("TERM", description="first signal of a stop, with or without `SIG`")
    grace_s: Seconds = Field(defaults.GRACE_S, description="from the stop signal to SIGKILL of the tree")
    log_max_bytes: Annotated[int, Field(strict=True, ge=4096, le=1 << 40)] = Field(
        defaults.MAX_LOG_BYTES, description="size at which a captured output file is rotated"
    )
    log_keep: Annotated[int, Field(strict=True, ge=0, le=1000)] = Field(
        defaults.MAX_OLD_LOGS, description="rotated output files that are kept"
    )

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.kind == "native" and "command" not in self.model_fields_set:
            raise ValueError('needs a command (or kind "symphony", which has one)')
        if "script" in self.holes() and self.script is None:
            raise ValueError("needs a script: its command or environment uses {script}")
        return self

    def holes(self) -> set[str]:
        """The placeholders that its command and environment use."""
        return template.holes((*self.command, *self.env.values()))

    @property
    def takes_config_path(self) -> bool:
        """Whether a `config_path` given with a load reaches the backend at all."""
        return "config_path" in self.holes()


class EndpointSettings(Table):
    """Sockets of the daemon. `{runtime}` and `{state}` stand for its two folders."""

    client_handshake: Endpoint = Field(
        "ipc:///tmp/symphony-ipc", description="legacy protobuf handshake of clients"
    )
    cli_management: Endpoint = Field("ipc:///tmp/symphony-cli", description="legacy JSON commands")
    control: Endpoint = Field("ipc://{runtime}/control", description="native protocol: commands and clients")
    relay: Endpoint = Field("ipc://{runtime}/relay", description="frames that are forwarded to backends")
    model_socket_dir: Annotated[Text, AfterValidator(_socket_dir)] = Field(
        "/tmp", description="absolute folder of the backends' own sockets `symphony-model-XXXXXXXX`"
    )

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        taken: dict[str, str] = {}
        for key, endpoint in self.served().items():
            if endpoint in taken:
                raise ValueError(f"{taken[endpoint]} and {key} are the same endpoint, {endpoint}")
            taken[endpoint] = key
        return self

    def served(self) -> dict[str, str]:
        """The four endpoints that the daemon binds, by key."""
        keys = ("client_handshake", "cli_management", "control", "relay")
        return {key: getattr(self, key) for key in keys}


class LoggingSettings(Table):
    """The daemon's own log."""

    level: Annotated[
        Literal["TRACE", "DEBUG", "INFO", "WARNING", "WARN", "ERROR"], BeforeValidator(_level)
    ] = Field("INFO", description="least severe level written; upper or lower case")
    format: Annotated[Text, AfterValidator(_format)] = Field(
        "%(asctime)s - %(name)s - %(levelname)s - %(message)s",
        description="line of the console style, in the `%` style of Python's logging",
    )
    date_format: Text = Field("%Y-%m-%d %H:%M:%S", description="`%(asctime)s` of `format`, as of strftime")
    style: Literal["console", "json"] = Field(
        "console", description="lines for people, or one JSON object a line"
    )

    @property
    def level_number(self) -> int:
        """The level as a number of Python's logging; TRACE is 5."""
        return TRACE if self.level == "TRACE" else logging.getLevelNamesMapping()[self.level]


class ModelSettings(Table):
    """One model that can be loaded."""

    name: Name = Field(description="short name; letters, digits and `. _ + : -`")
    fullname: Annotated[Text, Field(max_length=defaults.MAX_NAME_CHARS)] = Field(
        "", description="published name, handed to the backend; `name` when absent", validate_default=False
    )
    type: Text = Field(description="key of `model_backends`")
    aliases: tuple[Name, ...] = Field((), description="further names it answers to")
    replicas: Annotated[int, Field(strict=True, ge=1, le=defaults.MAX_REPLICAS)] = Field(
        1, description="processes of this model"
    )
    cpus: Cpus | None = Field(None, description="CPUs it may run on, instead of the backend's")
    env: Env = Field(default_factory=dict, description="variables added after the backend's `env`")
    options: Annotated[dict[str, str], AfterValidator(_option_names)] = Field(
        default_factory=dict, description="values of `{option.NAME}` in the backend's command"
    )

    @model_validator(mode="before")
    @classmethod
    def _named(cls, data: Any) -> Any:
        if isinstance(data, dict) and "fullname" not in data and isinstance(data.get("name"), str):
            return {**data, "fullname": data["name"]}
        return data


class LimitSettings(Table):
    """Bounds of memory; what would exceed one is answered `busy` or `too-large`, never dropped silently."""

    max_relay_frame_bytes: Annotated[int, Field(strict=True, ge=1024, le=1 << 40)] = Field(
        defaults.MAX_RELAY_FRAME_BYTES, description="largest frame that is forwarded to a backend"
    )
    max_sessions: Count = Field(defaults.MAX_SESSIONS, description="clients at one time")
    max_session_requests: Count = Field(
        defaults.MAX_SESSION_REQUESTS, description="unanswered requests of one client"
    )
    max_requests: Count = Field(defaults.MAX_REQUESTS, description="unanswered requests of all clients")
    max_event_history: Count = Field(
        defaults.MAX_EVENT_HISTORY, description="past events kept for a subscriber that comes back"
    )
    max_subscriber_queue: Count = Field(
        defaults.MAX_SUBSCRIBER_QUEUE, description="events waiting for one subscriber; then a new snapshot"
    )
    max_relay_queue: Count = Field(
        defaults.MAX_RELAY_QUEUE, description="relayed requests in flight at one replica"
    )
    max_units: Count = Field(defaults.MAX_UNITS, description="backend processes of this daemon")


class TimingSettings(Table):
    """Periods and deadlines of the daemon."""

    heartbeat_s: Seconds = Field(defaults.HEARTBEAT_S, description="between two heartbeats of a session")
    session_timeout_s: Seconds = Field(
        defaults.SESSION_TIMEOUT_S, description="silence that ends a session; at least two heartbeats"
    )
    request_timeout_s: Seconds = Field(
        defaults.REQUEST_TIMEOUT_S, description="deadline of a request that names none"
    )
    idempotency_keep_s: Seconds = Field(
        defaults.IDEMPOTENCY_KEEP_S, description="how long the answer to an idempotency key is remembered"
    )
    legacy_load_answer_s: Seconds = Field(
        defaults.LEGACY_LOAD_ANSWER_S, description="a legacy load that takes longer is answered `starting`"
    )

    @model_validator(mode="after")
    def _beats(self) -> Self:
        if self.session_timeout_s < 2 * self.heartbeat_s:
            raise ValueError(
                f"session_timeout_s ({self.session_timeout_s:g}) is less than two heartbeats "
                f"({self.heartbeat_s:g} s each); one late heartbeat would end a session"
            )
        return self


class Settings(Table):
    """The whole file. In the program it comes from `mgmt.config`, which checks across tables too."""

    model_backends: dict[Text, Annotated[BackendSettings, BeforeValidator(_legacy_backend)]] = Field(
        default_factory=dict, description="by model type: the name of a script, or a table"
    )
    supported_models: tuple[ModelSettings, ...] = Field((), description="models that can be loaded")
    default_model: Text | None = Field(
        None, description="name or alias of the model for a client that asks for none"
    )
    backend_path: Annotated[Text, AfterValidator(_folder)] | None = Field(
        None, description="folder of backend scripts; a relative one is meant from the file's folder"
    )
    endpoints: EndpointSettings = Field(default_factory=EndpointSettings, description="sockets")
    logging: LoggingSettings = Field(default_factory=LoggingSettings, description="the daemon's log")
    limits: LimitSettings = Field(default_factory=LimitSettings, description="bounds of memory")
    timing: TimingSettings = Field(default_factory=TimingSettings, description="periods and deadlines")

    def warnings(self) -> list[str]:
        """What is allowed and probably not meant, one line each, starting with the path in the file."""
        found: list[str] = []
        fullnames: dict[str, list[str]] = {}
        for index, model in enumerate(self.supported_models):
            fullnames.setdefault(model.fullname, []).append(model.name)
            if model.type not in self.model_backends:
                found.append(
                    f"supported_models[{index}].type: model {model.name!r} cannot be loaded, "
                    f"model_backends has no {model.type!r}{did_you_mean(model.type, self.model_backends)}"
                )
        for fullname, names in fullnames.items():
            if len(names) > 1:
                found.append(
                    f"supported_models: the fullname {fullname!r} is shared by {', '.join(names)}; "
                    "only their names tell them apart"
                )
        for key, endpoint in self.endpoints.served().items():
            if endpoint.startswith("tcp://") and not endpoint.startswith(_LOOPBACK):
                found.append(
                    f"endpoints.{key}: {endpoint} is open to everyone who can reach this machine; "
                    "there is no authentication on it"
                )
        return found


def table_in(annotation: Any) -> type[Table] | None:
    if isinstance(annotation, type) and issubclass(annotation, Table):
        return annotation
    return next((table for part in get_args(annotation) if (table := table_in(part))), None)
