"""The golden frames of `proto/vectors/`: one valid frame for each message, and one refused frame for each fault.

A `.hex` file holds one frame a line, in hexadecimal; `XX*N` stands for N repetitions of XX. `index.json` says
what each file is: a message with its decoded value, or a frame with the error code that refuses it.
"""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from pydantic_core import PydanticUndefined

from mgmt.protocol import defaults, frames
from mgmt.protocol.errors import MgmtError
from mgmt.protocol.frames import DataKind, Outcome
from mgmt.protocol.messages import EVENTS, NOTICES, REQUESTS, Message

FOLDER = "proto/vectors"
SESSION = (0x65A1B2C3 << 24) + 7  # sessions are 56 bits wide: a reader that keeps 32 of them is found out
LEASE = 0xF1E2D3C4B5A69788  # the highest bit is set: a reader with signed integers is found out
AT = 1_700_000_000.25  # exact in binary, so every language writes the same bytes

# What the fields of examples hold, by field name; a field that is not here gets a value of its type.
VALUES: dict[str, Any] = {
    "versions": [1],
    "version": 1,
    "name": "golden",
    "model": "magika",
    "target": "magika",
    "unit": "magika",
    "units": ["magika"],
    "fullname": "google/magika",
    "type": "magika",
    "aliases": ["file-types"],
    "token": "0123456789abcdef0123456789abcdef",
    "lease": LEASE,
    "session": SESSION,
    "epoch": 1_700_000_000_123,
    "heartbeat_s": 5.0,
    "session_timeout_s": 15.0,
    "max_frame_bytes": defaults.MAX_CONTROL_FRAME_BYTES,
    "endpoint": "ipc:///tmp/symphony-model-0123abcd",
    "control_endpoint": "ipc:///run/mgmt/control",
    "relay_endpoint": "ipc:///run/mgmt/relay",
    "client_endpoint": "ipc:///tmp/symphony-ipc",
    "cli_endpoint": "ipc:///tmp/symphony-cli",
    "config": "/etc/mgmt/config.json",
    "config_path": "/etc/mgmt/magika.json",
    "log": "/var/lib/mgmt/logs/magika.log",
    "path": "/var/lib/mgmt/logs/magika.log",
    "protocols": ["msgpack"],
    "condition": "ready",
    "reason": "ready",
    "message": "Service shutdown requested",
    "what": "stopping",
    "at": AT,
    "started_at": AT,
    "pid": 4711,
    "cpus": [2, 3],
    "counters": {"peers_lost": 1},
    "was": "STARTING",
    "data": b"a line\n\xff not UTF-8\n",
    "inode": 1_048_577,
    "offset": 21,
    "targets": ["magika"],
    "lines": 20,
    "node": "n1",
    "tags": ["gpu"],
    "add": ["gpu"],
    "remove": ["old"],
    "labels": {"rack": "7"},
    "facts": {"cpus": 4},
    "machine_id": "0123456789abcdef0123456789abcdef",
    "agent": "fedcba9876543210fedcba9876543210",
    "log_dir": "/var/lib/mgmt-agent/logs",
    "workload": "control",
    "task": "steer",
    "tasks": ["sense", "steer"],
    "to_node": "local",
    "nodes": ["local"],
    "documents": [
        {
            "workload": "control",
            "tasks": [{"name": "steer", "period_us": 10_000, "wcet_us": 2_000, "priority": 50}],
        }
    ],
    "closed": "",
    "period_us": 10_000,
    "wcet_us": 2_000,
    "deadline_us": 10_000,
    "response_us": 2_500,
    "slack_us": 7_500,
    "hyperperiod_us": 10_000,
    "allowed": [2, 3],
    "utilisation": 0.25,
    "before": 0.75,
    "user": "alice",
    "users": ["alice"],
    "group": "vision",
    "groups": ["vision"],
    "role": "write",
    "digest": bytes(range(32)).hex(),
    "created_at": AT,
    "expires_at": AT + 2_592_000,
    "used_at": AT + 60,
    "lifetime_s": 86_400.0,
    "via": "token 'golden'",
    "after": 0.5,
    "chain": "sense-to-steer",
}
# The same name with another shape.
SPECIAL: dict[tuple[str, str], Any] = {
    ("ServiceStatus", "version"): "0.1.0",
    ("ServiceStatus", "state"): "running",
    ("CandidateStatus", "task"): 41,
    ("QueuedCandidate", "task"): 41,
    ("QueuedCandidate", "state"): "READY",
    ("CandidatePosition", "task"): 41,
    ("CandidatePosition", "state"): "READY",
    ("CandidateExplained", "waits_for"): ["tidy"],
    ("CandidatesLoad", "rows"): [{"codebase": "alpha", "campaign": "fix", "command": "fix it"}],
    ("CandidatesLoad", "table"): "candidates",
    ("CandidatesReply", "cycles"): [["alpha fix", "alpha tidy"]],
    ("UnitStatus", "state"): "RUNNING",
    ("Model", "state"): "RUNNING",
    ("Loaded", "state"): "RUNNING",
    ("Condition", "state"): "RUNNING",
    ("UnitEvent", "state"): "RUNNING",
    ("Explanation", "state"): "RUNNING",
    ("Explanation", "lines"): ["RUNNING: ready"],
    ("Explanation", "holds"): {"cpus": [2, 3]},
    ("Explanation", "place"): {"cpus": [2, 3]},
    ("Targets", "states"): {"magika": "RUNNING"},
    ("Nodes", "nodes"): ["n1"],
    ("NodeStatus", "version"): "0.1.0",
    ("NodeStatus", "units"): 2,
    ("NodeEvent", "was"): "ALIVE",
    ("NodeEvent", "state"): "SUSPECT",
    ("NodeEvent", "reason"): "not heard for 2.5 s",
    ("AgentHello", "version"): "0.1.0",
    ("AgentReport", "usage"): {"magika": [12.5, 1_048_576]},
    ("UnitReport", "state"): "RUNNING",
    ("NodePush", "what"): "drop",
    ("NodePush", "body"): {"unit": "magika"},
    ("NodeAsk", "body"): {"unit": "magika"},
    ("AgentAnswer", "body"): {"unit": "magika"},
    ("AgentAnswer", "outcome"): "ok",
    ("NodeHeartbeat", "next_ns"): 875_000_000,
    ("NodeWait", "condition"): "drained",
    ("Targets", "already"): ["magika"],
    ("PlanReply", "daemon"): ["limits.max_units"],
    ("PlanReply", "warnings"): [],
    ("Plan", "config"): {"supported_models": []},
    ("Apply", "config"): {"supported_models": []},
    ("DumpReply", "state"): {"undeclared": []},
    ("Workload", "tasks"): 2,
    ("Workload", "version"): 42,
    ("ScheduleReply", "version"): 42,
    ("ScheduleSubmitted", "version"): 42,
    ("ScheduleRemoved", "tasks"): 2,
    ("ScheduleRemoved", "version"): 42,
    ("ScheduleRebalanced", "version"): 42,
    ("ScheduleCpu", "tasks"): 2,
    ("ScheduleSubmit", "nodes"): [{"nodes": {"local": {"available_cpus": [2, 3]}}}],
    ("ScheduledTask", "target"): "local",
    ("ScheduleEvent", "what"): "submitted",
    ("FaultEvent", "what"): "fault",
    ("StageReport", "error"): {"code": "denied", "text": "its policy does not allow it"},
    ("TaskStatistics", "state"): "released",
    ("Hello", "token"): "mgmt_0123456789abcdef",
    ("AgentHello", "token"): "mgmt_0123456789abcdef",
    ("AgentHello", "groups"): ["vision:write"],
    ("UserQuota", "groups"): 2,
    ("QuotaSet", "groups"): 10,
    ("GroupStatus", "creator"): "alice",
    ("GroupStatus", "tasks"): 2,
    ("Observed", "mechanism"): "ebpf",
    **{(owner, "suite"): 12 for owner in ("SuiteStatus", "TasksSubmitted", "TaskStatus", "WorkerStatus")},
    **{
        (owner, "task"): 41
        for owner in ("Watch", "TaskStatus", "TaskShow", "TaskChange", "TaskWait", "WorkerStatus")
    },
    **{
        (owner, "tasks"): [41]
        for owner in ("TasksSubmitted", "Tasks", "TaskCancel", "TaskRetry", "TasksRetried")
    },
    **{
        (owner, "labels"): ["nightly"]
        for owner in (
            "SuiteCreate",
            "SuiteStatus",
            "Suites",
            "Task",
            "Tasks",
            "TaskCancel",
            "TaskRetry",
            "TaskStatus",
        )
    },
    **{(owner, "creators"): ["alice"] for owner in ("Tasks", "TaskCancel", "TaskRetry")},
    **{(owner, "exit_status"): "!=0" for owner in ("Tasks", "TaskCancel", "TaskRetry")},
    **{(owner, "priority"): ">=5" for owner in ("Tasks", "TaskCancel", "TaskRetry")},
    ("CpuBinding", "cores"): [0, 1, 2, 3],
    ("Task", "args"): ["/bin/true"],
    ("Task", "function"): None,
    ("Task", "params"): [],
    ("Task", "kw"): {},
    ("Task", "after"): [40],
    ("Task", "cwd"): "/tmp",
    ("Task", "envs"): {"LANG": "C"},
    ("SuiteHook", "args"): ["sh", "-c", "true"],
    ("BackgroundHook", "args"): ["sleep", "1000"],
    ("Watch", "state"): "ExecSpawned",
    ("TaskWait", "state"): "TaskCommitted",
    ("WorkerStatus", "worker"): "suite-12.w0",
    ("WorkerStatus", "state"): "busy",
    ("TaskStatus", "worker"): "suite-12.w0",
    ("TaskStatus", "state"): "FINISHED",
    ("SuiteStatus", "state"): "OPEN",
    ("SuiteCounters", "total"): 10,
    ("Suites", "suites"): ["nightly"],
    ("SuiteNode", "reason"): "",
    ("Retries", "on_exit"): [75],
    ("TaskDetail", "lines"): ["it ended with exit status 0"],
    ("TaskResult", "message"): "",
    ("TaskStatus", "message"): "",
    ("SuiteWait", "condition"): "ended",
    ("CrewExchange", "outcomes"): [["returned", 41, 1]],
    ("CrewExchange", "states"): [[41, 1, 11]],
    ("CrewWork", "tasks"): [[41, 1, b"\x80", "f9002738-eea6-859b-b4ea-f341460ca510", ""]],
    ("CrewWork", "cancelling"): [[40, 2]],
    ("CrewPhase", "held"): [[41, 1]],
    ("Resource", "blob"): "vision/net.bin",
    ("Resource", "path"): "net.bin",
    ("BlobBegin", "key"): "net.bin",
    ("BlobBegin", "task"): None,
    ("BlobBegin", "kind"): None,
    ("BlobBegin", "attempt"): 0,
    ("BlobBegin", "holder"): 0,
    ("BlobRead", "blob"): "vision/net.bin",
    ("BlobRead", "holder"): 0,
    ("BlobRead", "task"): 0,
    ("BlobStatus", "blob"): "vision/net.bin",
    ("BlobStatus", "kind"): "attachment",
    ("BlobStatus", "key"): "net.bin",
    ("BlobStatus", "task"): None,
    ("Artifacts", "tasks"): [41],
    ("ArtifactDelete", "tasks"): [41],
    ("TaskExplanation", "lines"): ["on CPU 2 of node 'local': chosen by best_fit_decreasing"],
}
NEEDED = {("Task", "args"), ("BlobBegin", "key")}  # or other fields instead, so none of them is required
# One for each outcome that is not ok.
REFUSALS: dict[str, dict[str, Any]] = {
    "bad-body": {"field": "model"},
    "busy": {},
    "expired": {},
    "session-gone": {"epoch": 1_700_000_000_123},
}


@dataclass(frozen=True, slots=True)
class Vector:
    """One row of the index. `lines` are the frames as written in the file; `about` is the rest of the row."""

    name: str
    lines: tuple[str, ...]
    about: dict[str, Any]

    @property
    def path(self) -> str:
        return f"{FOLDER}/{self.name}.hex"


# ---- examples of bodies ----------------------------------------------------------------------------------


def example(model: type[Message], full: bool) -> dict[str, Any]:
    """A valid body. Full: every field, and a value where none is allowed; else only what is required."""
    body: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        if full or (model.__name__, name) in NEEDED or field.is_required():
            whole = full or (model.__name__, name) in NEEDED
            body[name] = _value(model.__name__, name, field.annotation, whole, default=field.default)
    model.model_validate(body)
    return body


def _value(owner: str, name: str, kind: Any, full: bool, default: Any = PydanticUndefined) -> Any:
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (types.UnionType, typing.Union) and type(None) in parts:
        if not full:
            return None
        return _value(owner, name, next(part for part in parts if part is not type(None)), full)
    if isinstance(kind, type) and issubclass(kind, Message):
        return example(kind, full)
    if origin is list and isinstance(parts[0], type) and issubclass(parts[0], Message):
        return [example(parts[0], full)]
    if (owner, name) in SPECIAL:
        return SPECIAL[owner, name]
    if name in VALUES:
        return VALUES[name]
    if origin is typing.Annotated:
        return _value(owner, name, parts[0], full)
    if origin is Literal:
        return next((part for part in parts if part != default), parts[0])
    if origin is list:
        if get_origin(parts[0]) is dict:
            return [{"kind": "daemon", "seq": 41, "at": AT}]
        return [] if parts[0] is str else [_value(owner, f"{name}[]", parts[0], full)]
    if origin is dict:
        return {}
    simple = {bool: True, int: 3, float: 1.5, str: name.removesuffix("[]"), bytes: b"\x00\xff", Any: 3}
    return simple[kind]


# ---- vectors ---------------------------------------------------------------------------------------------


def vectors() -> list[Vector]:
    """Every golden frame, in the order of the index."""
    return [*_messages(), *_refused_control(), *_data(), *_refused_data()]


def _messages() -> Iterator[Vector]:
    for number, (name, verb) in enumerate(REQUESTS.items(), start=1):
        for suffix, full in _forms(verb.body):
            # hello has no session yet, the long form asks for everything a head can carry.
            session = 0 if name in ("hello", "backend-hello", "agent-hello") else SESSION
            deadline_ms, key = (30_000, f"golden-{number}") if full else (0, "")
            body = example(verb.body, full)
            frame = frames.encode_request(number, session, name, body, deadline_ms, key)
            head = {"id": number, "session": session, "deadline_ms": deadline_ms, "key": key}
            yield _control("request", name, suffix, frame, body, head)
    for number, (name, verb) in enumerate(REQUESTS.items(), start=1):
        assert verb.reply is not None
        for suffix, full in _forms(verb.reply):
            body = example(verb.reply, full)
            frame = frames.encode_reply(number, SESSION, Outcome.OK, body)
            head = {"id": number, "session": SESSION, "outcome": "ok"}
            yield _control("reply", name, suffix, frame, body, head)
    for code, detail in REFUSALS.items():
        body = MgmtError(code, f"an example of {code}", **detail).as_body()
        outcome = frames.OUTCOME_OF_CODE.get(code, Outcome.ERROR)
        frame = frames.encode_reply(9, SESSION, outcome, body)
        head = {"id": 9, "session": SESSION, "outcome": str(outcome)}
        yield _control("reply", str(outcome), "", frame, body, head)
    for name, verb in NOTICES.items():
        for suffix, full in _forms(verb.body):
            body = example(verb.body, full)
            frame = frames.encode_notice(SESSION, name, body)
            yield _control("notice", name, suffix, frame, body, {"session": SESSION})
    for name, model in EVENTS.items():
        for suffix, full in _forms(model):
            body = example(model, full)
            frame = frames.encode_event(body["seq"], SESSION, name, body)
            yield _control("event", name, suffix, frame, body, {"seq": body["seq"], "session": SESSION})


def _forms(model: type[Message]) -> list[tuple[str, bool]]:
    """(suffix of the name, full): two vectors when a body may be shorter than its full form."""
    return [("", True), ("-short", False)] if example(model, True) != example(model, False) else [("", True)]


def _control(
    kind: str, name: str, suffix: str, frame: bytes, body: dict[str, Any], head: dict[str, Any]
) -> Vector:
    about = {"plane": "control", "kind": kind, "name": name, **head, "body": plain(body)}
    return Vector(f"{kind}-{name}{suffix}", (frame.hex(),), about)


def _refused_control() -> Iterator[Vector]:
    status = frames.encode_request(5, SESSION, "status", {})
    deep: Any = 1
    for _ in range(defaults.MAX_DEPTH):
        deep = [deep]
    pack = frames.pack
    rows: list[tuple[str, str, tuple[bytes, ...], str]] = [
        ("empty", "bad-frame", (b"",), "no bytes"),
        ("no-msgpack", "bad-frame", (b"\xc1",), "a byte that msgpack never uses"),
        ("truncated", "bad-frame", (status[:-1],), "the last byte is missing"),
        ("trailing", "bad-frame", (status + b"\x00",), "a byte too many"),
        ("two-frames", "bad-frame", (status, b""), "a control message is one frame"),
        ("no-array", "bad-frame", (pack({"verb": "status"}),), "a map instead of an array"),
        ("short-array", "bad-frame", (pack([1, 1, 5]),), "three elements"),
        ("long-array", "bad-frame", (pack([1, 1, 5, 0, "status", {}, 0, "", 0]),), "nine elements"),
        ("negative-id", "bad-frame", (pack([1, 1, -5, 0, "status", {}, 0, ""]),), "ids are unsigned"),
        ("float-session", "bad-frame", (pack([1, 1, 5, 0.5, "status", {}, 0, ""]),), "so are sessions"),
        ("unknown-kind", "bad-frame", (pack([1, 9, 5, 0, "status", {}]),), "kinds are 1 to 4"),
        ("verb-no-string", "bad-frame", (pack([1, 1, 5, 0, 17, {}, 0, ""]),), "a number as verb"),
        ("long-key", "bad-frame", (pack([1, 1, 5, 0, "status", {}, 0, "k" * 129]),), "129 characters"),
        (
            "extension",
            "bad-frame",
            (b"\x98\x01\x01\x05\x00\xa6status\xd4\x01\x00\x00\xa0",),
            "extension type",
        ),
        ("bad-utf8", "bad-frame", (b"\x98\x01\x01\x05\x00\xa2\xff\xfe\x80\x00\xa0",), "verb is not UTF-8"),
        ("integer-key", "bad-frame", (b"\x98\x01\x01\x05\x00\xa6status\x81\x01\x02\x00\xa0",), "map key 1"),
        ("other-version", "bad-version", (pack([2, 1, 5, SESSION, "status", {}, 0, ""]),), "version 2"),
        ("body-no-map", "bad-body", (pack([1, 1, 5, 0, "status", [], 0, ""]),), "a list as body"),
        ("missing-field", "bad-body", (frames.encode_request(5, 0, "load-model", {}),), "model is required"),
        (
            "unknown-field",
            "bad-body",
            (frames.encode_request(5, 0, "models", {"verbose": True}),),
            "no field is ignored",
        ),
        (
            "wrong-type",
            "bad-body",
            (frames.encode_request(5, 0, "hello", {"versions": ["1"]}),),
            "numbers are never read from strings",
        ),
        (
            "out-of-range",
            "bad-body",
            (frames.encode_request(5, 0, "logs", {"unit": "magika", "lines": -1}),),
            "lines start at 0",
        ),
        ("unknown-verb", "unknown-verb", (frames.encode_request(5, 0, "make-tea", {}),), "no such request"),
        ("too-deep", "too-deep", (frames.encode_request(5, 0, "status", {"units": deep}),), "33 levels"),
    ]
    fields = {"body-no-map": "body", "missing-field": "model", "unknown-field": "verbose"}
    fields |= {"wrong-type": "versions.0", "out-of-range": "lines"}
    for name, code, message, why in rows:
        about: dict[str, Any] = {"plane": "control", "refused": code, "why": why}
        if name in fields:
            about["field"] = fields[name]
        yield Vector(f"refused-{name}", tuple(frame.hex() for frame in message), about)
    about = {"plane": "control", "refused": "too-large", "why": "one byte more than the limit"}
    yield Vector("refused-too-large", (f"00*{defaults.MAX_CONTROL_FRAME_BYTES + 1}",), about)


def _data() -> Iterator[Vector]:
    for kind in DataKind:
        deadline_ms = 30_000 if kind is DataKind.REQUEST else 0
        tag = frames.encode_tag(kind, LEASE, 12, deadline_ms)
        about: dict[str, Any] = {"plane": "data", "kind": kind.name, "deadline_ms": deadline_ms}
        about |= {"lease": LEASE, "id": 12}
        payload = frames.pack({"text": "hello"})
        if kind > DataKind.RESULT:
            code = {"ERROR": "backend-error", "BUSY": "busy", "EXPIRED": "expired", "GONE": "lease-gone"}
            payload = frames.pack(MgmtError(code[kind.name], f"an example of {kind.name}").as_body())
        about["payload"] = plain(frames.unpack(payload))
        yield Vector(f"data-{kind.name.lower()}", (tag.hex(), payload.hex()), about)


def _refused_data() -> Iterator[Vector]:
    tag = frames.encode_tag(DataKind.REQUEST, LEASE, 12)
    rows = [
        ("short-tag", "bad-frame", tag[:-1], "21 bytes"),
        ("long-tag", "bad-frame", tag + b"\x00", "23 bytes"),
        ("data-version", "bad-version", b"\x02" + tag[1:], "version 2"),
        ("data-kind", "bad-frame", tag[:1] + b"\x07" + tag[2:], "kinds are 1 to 6"),
    ]
    for name, code, frame, why in rows:
        about = {"plane": "data", "refused": code, "why": why}
        yield Vector(f"refused-{name}", (frame.hex(),), about)


# ---- files -----------------------------------------------------------------------------------------------


def plain(value: Any) -> Any:
    """A msgpack value as JSON: bytes become {"hex": ...}; nothing else needs a change."""
    if isinstance(value, bytes):
        return {"hex": value.hex()}
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value


def render_index() -> str:
    """The text of index.json."""
    rows = [{"file": vector.path.rpartition("/")[2], **vector.about} for vector in vectors()]
    head = {
        "about": "Golden frames of the native protocol; generated, do not edit.",
        "hex": "one frame a line; XX*N is the byte XX, N times",
        "version": frames.VERSION,
    }
    return json.dumps({**head, "vectors": rows}, indent=1, ensure_ascii=False) + "\n"
