"""The tables of `config.json` as frozen models: shapes, bounds, defaults and the rules within one table.

Descriptions of the fields are the documentation of the file (docs/config.md, `mgmt config schema`); numbers
come from `mgmt.protocol.defaults`. Reading the file, and the rules between tables, are in `mgmt.config`.
"""

from __future__ import annotations

import logging
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from mgmt.protocol import defaults
from mgmt.settings.candidates import CandidateSettings
from mgmt.settings.units import (
    BackendSettings,
    HookSettings,
    NodeTagSettings,
    PlacementSettings,
    ProbeSettings,
    RestartSettings,
    RunSettings,
    UnitSettings,
)
from mgmt.settings.values import (
    Count,
    Cpus,
    Endpoint,
    Env,
    Name,
    Seconds,
    Table,
    Text,
    did_you_mean,
    in_folder,
    level_name,
    log_format,
    option_names,
    parse_cpus,
    shown,
    socket_dir,
    table_in,
)

__all__ = [
    "TRACE",
    "BackendSettings",
    "CandidateSettings",
    "EndpointSettings",
    "HookSettings",
    "LimitSettings",
    "LoggingSettings",
    "ModelSettings",
    "NodeTagSettings",
    "PlacementSettings",
    "ProbeSettings",
    "RestartSettings",
    "RunSettings",
    "Settings",
    "Table",
    "TimingSettings",
    "UnitSettings",
    "did_you_mean",
    "parse_cpus",
    "shown",
    "table_in",
]

TRACE = 5  # below logging.DEBUG, as in the Rust ancestor
_LOOPBACK = ("tcp://127.", "tcp://localhost:", "tcp://[::1]:")


def _legacy_backend(value: object) -> object:
    """The ancestor's form: the name of a script, started with its two arguments."""
    if isinstance(value, str):
        return {"kind": "symphony", "script": value}
    if isinstance(value, dict | BackendSettings):
        return value
    raise ValueError(f"must be the name of a script or an object, not {shown(value)}")


class EndpointSettings(Table):
    """Sockets of the daemon. `{runtime}` and `{state}` stand for its two folders."""

    client_handshake: Endpoint = Field(
        "ipc:///tmp/symphony-ipc", description="legacy protobuf handshake of clients"
    )
    cli_management: Endpoint = Field("ipc:///tmp/symphony-cli", description="legacy JSON commands")
    control: Endpoint = Field("ipc://{runtime}/control", description="native protocol: commands and clients")
    relay: Endpoint = Field("ipc://{runtime}/relay", description="frames that are forwarded to backends")
    nodes: Endpoint | None = Field(
        "ipc://{runtime}/nodes",
        description="where agents and independent workers join, those of other machines over tcp; null: nowhere",
    )
    insecure: Annotated[bool, Field(strict=True)] = Field(
        False, description="tcp endpoints without keys: whoever reaches them may do everything"
    )
    model_socket_dir: Annotated[Text, AfterValidator(socket_dir)] = Field(
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

    @model_validator(mode="after")
    def _guarded(self) -> Self:
        for key in ("client_handshake", "cli_management"):
            endpoint = getattr(self, key)
            if endpoint.startswith("tcp://") and not self.insecure:
                raise ValueError(
                    f"{key}: {endpoint} would be open to everyone who reaches it, for the ancestor's clients have "
                    'no keys; use ipc, or say `"insecure": true` beside it'
                )
        return self

    def guarded(self) -> list[str]:
        """Keys of the endpoints where a key is asked for."""
        return [key for key, at in self.served().items() if at.startswith("tcp://") and not self.insecure]

    def served(self) -> dict[str, str]:
        """The endpoints that the daemon binds, by key."""
        keys = ("client_handshake", "cli_management", "control", "relay", "nodes")
        return {key: getattr(self, key) for key in keys if getattr(self, key) is not None}


class LoggingSettings(Table):
    """The daemon's own log."""

    level: Annotated[
        Literal["TRACE", "DEBUG", "INFO", "WARNING", "WARN", "ERROR"], BeforeValidator(level_name)
    ] = Field("INFO", description="least severe level written; upper or lower case")
    format: Annotated[Text, AfterValidator(log_format)] = Field(
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
    placement: PlacementSettings | None = Field(
        None, description="CPUs, GPUs, memory, instead of the backend's"
    )
    autostart: bool | None = Field(None, description="loaded with the daemon; the backend's word when absent")
    node: Name | NodeTagSettings | None = Field(
        None, description="the node that runs it, by name or by tags, instead of the backend's"
    )
    options: Annotated[dict[str, str], AfterValidator(option_names)] = Field(
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

    node_heartbeat_s: Seconds = Field(
        defaults.NODE_HEARTBEAT_S, description="between two heartbeats of a node, both ways"
    )
    node_lost_s: Seconds = Field(
        defaults.NODE_LOST_S, description="silence after which a node is lost; at least three heartbeats"
    )

    suite_auto_close_s: Seconds = Field(
        defaults.SUITE_AUTO_CLOSE_S, description="without a new task, an open suite of tasks is closed"
    )
    stage_s: Seconds = Field(
        defaults.STAGE_S, description="for all nodes of a workload to prepare for it; else it is refused"
    )

    @model_validator(mode="after")
    def _beats(self) -> Self:
        if self.node_lost_s < 3 * self.node_heartbeat_s:
            raise ValueError(
                f"node_lost_s ({self.node_lost_s:g}) is less than three heartbeats "
                f"({self.node_heartbeat_s:g} s each); two late ones would lose a node"
            )
        if self.session_timeout_s < 2 * self.heartbeat_s:
            raise ValueError(
                f"session_timeout_s ({self.session_timeout_s:g}) is less than two heartbeats "
                f"({self.heartbeat_s:g} s each); one late heartbeat would end a session"
            )
        return self


class S3Settings(Table):
    """A bucket of S3 or what speaks like it; credentials are found as boto3 does (environment, its own files)."""

    bucket: Text = Field(description="its name")
    prefix: str = Field("", description="before the keys of all objects")
    endpoint: Text | None = Field(None, description="URL of the server; absent: that of AWS")
    region: Text | None = Field(None, description="absent: as boto3 finds it")


class FileSettings(Table):
    """Where attachments and artifacts lie."""

    s3: S3Settings | None = Field(None, description="in a bucket (extra `s3`); absent: in the state folder")
    collect_s: Seconds = Field(
        defaults.BLOB_COLLECT_S, description="between two looks for content that nothing names any more"
    )
    grace_s: Seconds = Field(
        defaults.BLOB_GRACE_S, description="how long such content, and an upload that stands still, are kept"
    )


class QueueSettings(Table):
    """Where the queue of task suites lies; read at the start of the daemon."""

    database: Annotated[str, Field(strict=True, pattern=r"^postgres(ql)?://\S+$")] | None = Field(
        None,
        description="`postgresql://...`: a database that several daemons share (extra `postgres`); the file "
        "`queue.db` of the state folder when absent. A password belongs into a file named by PGPASSFILE",
    )
    database_schema: Annotated[str, Field(strict=True, pattern=r"^[a-z_][a-z0-9_]{0,62}$")] = Field(
        "mgmt", description="schema of that database which has the tables"
    )


class Settings(Table):
    """The whole file. In the program it comes from `mgmt.config`, which checks across tables too."""

    model_backends: dict[Text, Annotated[BackendSettings, BeforeValidator(_legacy_backend)]] = Field(
        default_factory=dict, description="by model type: the name of a script, or a table"
    )
    supported_models: tuple[ModelSettings, ...] = Field((), description="models that can be loaded")
    units: dict[Name, UnitSettings] = Field(
        default_factory=dict, description="supervised processes that are no models, by name"
    )
    default_model: Text | None = Field(
        None, description="name or alias of the model for a client that asks for none"
    )
    backend_path: Annotated[Text, AfterValidator(in_folder)] | None = Field(
        None, description="folder of backend scripts; a relative one is meant from the file's folder"
    )
    endpoints: EndpointSettings = Field(default_factory=EndpointSettings, description="sockets")
    logging: LoggingSettings = Field(default_factory=LoggingSettings, description="the daemon's log")
    limits: LimitSettings = Field(default_factory=LimitSettings, description="bounds of memory")
    timing: TimingSettings = Field(default_factory=TimingSettings, description="periods and deadlines")
    files: FileSettings = Field(default_factory=FileSettings, description="attachments and artifacts")
    queue: QueueSettings = Field(default_factory=QueueSettings, description="the queue of task suites")
    candidates: CandidateSettings = Field(
        default_factory=CandidateSettings, description="what to run next on which codebase"
    )

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
            if (
                key not in self.endpoints.guarded()
                and endpoint.startswith("tcp://")
                and (not endpoint.startswith(_LOOPBACK))
            ):
                found.append(
                    f"endpoints.{key}: {endpoint} is open to everyone who can reach this machine; "
                    "nobody is asked for a key on it (endpoints.insecure)"
                )
        return found
