"""THE table of --json outputs: the `schema` of each, and its JSON Schema.

Imported by `mgmt config schema NAME` and the tests only; what answers to requests carry comes from the
message table, with its times as ISO 8601 text.
"""

from __future__ import annotations

from typing import Any

from .render import TIMES

Schema = dict[str, Any]

STRING: Schema = {"type": "string"}
NUMBER: Schema = {"type": "number"}
COUNT: Schema = {"type": "integer", "minimum": 0}
BOOL: Schema = {"type": "boolean"}
NAMES_LIST: Schema = {"type": "array", "items": STRING}
ANY: Schema = {}
TIME: Schema = {"type": "string", "format": "date-time", "pattern": r"^\d{4}-\d\d-\d\dT[\d:.]+Z$"}


def _maybe(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def _list(schema: Schema) -> Schema:
    return {"type": "array", "items": schema}


def _object(optional: tuple[str, ...] = (), /, **properties: Schema) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": [name for name in properties if name not in optional],
        "additionalProperties": False,
    }


ERROR = _object(code=STRING, text=STRING, retryable=BOOL, detail={"type": "object"})
PROBE = _object(
    probe=STRING,
    status={"enum": ["ok", "refused", "absent"]},
    needed=BOOL,
    detail=STRING,
    meaning=STRING,
)
ANSWER = {
    "oneOf": [
        _object(input=STRING, result=ANY, latency_ms=NUMBER),
        _object(input=STRING, error=ERROR),
    ]
}

# Where a task got its CPU in a placement by TIMPANI's rules; CPU -1: none.
SPOT = _object(node=STRING, cpu={"type": "integer", "minimum": -1})
TASK_SPOT = _object(task=STRING, **SPOT["properties"])
PLACED = {
    "placed": COUNT,
    "phantom": COUNT,
    "unplaced": COUNT,
    "late": NAMES_LIST,
    "refusal": _maybe(STRING),
}
COMPARED = _object(
    workload=STRING,
    tasks=COUNT,
    left=_object(**PLACED),
    right=_object(**PLACED),
    differences=_list(_object(task=STRING, left=SPOT, right=SPOT)),
)
PLACE = _maybe({"type": "integer", "minimum": 1})
ROW_FAULT = _object(table=STRING, row=STRING, column=STRING, problem=STRING)
CANDIDATE = {"codebase": STRING, "campaign": STRING, "change_set": STRING}
CANDIDATE_SCORE = {
    **CANDIDATE,
    "rank": PLACE,
    "score": _maybe(NUMBER),
    "probability": _maybe(NUMBER),
    "duration_s": _maybe(NUMBER),
    "not_before": _maybe(STRING),
    "waits_for": NAMES_LIST,
    "reason": STRING,
}
QUEUE_ITEM = _object(
    **CANDIDATE,
    bucket=STRING,
    priority={"type": "integer"},
    command=STRING,
    duration_s=_maybe(NUMBER),
)
FACTOR = _object(name=STRING, kind={"enum": ["expected", "cost", "about"]}, value=NUMBER, source=STRING)
RUN_FIGURES = _object(
    name=STRING,
    runs=COUNT,
    success=COUNT,
    failure=COUNT,
    nothing=COUNT,
    transient=COUNT,
    rate=_maybe(NUMBER),
    p50_s=_maybe(NUMBER),
    p90_s=_maybe(NUMBER),
    trend=_maybe(NUMBER),
)
FIGURES = _object(
    policy=STRING,
    predicted=COUNT,
    refused=COUNT,
    brier=_maybe(NUMBER),
    calibration_error=_maybe(NUMBER),
    duration_error=_maybe(NUMBER),
    calibration=_list({"type": "array", "items": NUMBER, "minItems": 3, "maxItems": 3}),
    value_per_hour=_maybe(NUMBER),
    regret=_maybe(NUMBER),
)
ROWS = {"type": "object", "additionalProperties": COUNT}
SPANS = {"type": "object", "additionalProperties": _list(_list(COUNT))}
QUEUE = _object(path=STRING, rows=ROWS, text=STRING, lost=SPANS, mended=_list(STRING))
STORE = _object(path=STRING, rows=ROWS, text=STRING, queue=_maybe(QUEUE))
KEY = _object(name=STRING, role=STRING, comment=STRING, public=STRING, file=_maybe(STRING))

TOKEN = _object(
    user=STRING,
    name=STRING,
    scope={"enum": ["user", "node", "worker"]},
    node=_maybe(STRING),
    created_at=TIME,
    expires_at=TIME,
    used_at=_maybe(TIME),
    expired=BOOL,
    token=_maybe(STRING),
    file=_maybe(STRING),
)

# Outputs of our own. A reply of the daemon is named in REPLIES instead.
OWN: dict[str, Schema] = {
    "mgmt.error/1": _object(error=ERROR),
    "mgmt.start-service/1": _object(pid=COUNT, endpoint=STRING, already=BOOL),
    "mgmt.stop-service/1": _object(pid=_maybe(COUNT), units=NAMES_LIST, stopped=BOOL),
    "mgmt.log/1": _object(unit=STRING, line=STRING),
    "mgmt.condition/1": _object(target=STRING, condition=STRING, state=STRING, met=BOOL),
    "mgmt.request/1": _object(model=STRING, answers=_list(ANSWER)),
    "mgmt.config-check/1": _object(
        file=_maybe(STRING),
        valid=BOOL,
        warnings=NAMES_LIST,
        problems=_list(_object(path=STRING, problem=STRING)),
    ),
    "mgmt.config/1": _object(file=_maybe(STRING), source=STRING, config={"type": "object"}),
    "mgmt.import/1": _object(
        file=STRING,
        format=STRING,
        output=_maybe(STRING),
        warnings=NAMES_LIST,
        notes=_list(_object(path=STRING, value=STRING, change=STRING, why=STRING, instead=STRING)),
        config={"type": "object"},
    ),
    "mgmt.dump/1": _object(state={"type": "object"}),
    "mgmt.keys/1": _object(keys=_list(KEY)),
    "mgmt.key/1": KEY,
    "mgmt.token-new/1": TOKEN,
    "mgmt.store-check/1": STORE,
    "mgmt.store-recover/1": STORE,
    "mgmt.store-downgrade/1": _object(versions={"type": "object", "additionalProperties": COUNT}),
    "mgmt.schedule-compat/1": _object(
        file=STRING,
        mode={"const": "compat"},
        algorithm=STRING,
        workload=STRING,
        ok=BOOL,
        tasks=_list(TASK_SPOT),
        **PLACED,
    ),
    "mgmt.schedule-compare/1": _object(
        left=STRING, right=STRING, compared=COUNT, differing=COUNT, workloads=_list(COMPARED)
    ),
    "mgmt.candidates-replay/1": _object(
        file=STRING,
        passed=COUNT,
        failed=COUNT,
        failures=_list(_object(id=STRING, kind=STRING, difference=STRING)),
    ),
    "mgmt.candidates-score/1": _object(
        policy=STRING,
        now=STRING,
        candidates=_list(_object(**CANDIDATE_SCORE)),
        cycles=_list(NAMES_LIST),
        faults=_list(ROW_FAULT),
        warnings=NAMES_LIST,
    ),
    "mgmt.candidates-load/1": _object(
        file=STRING, rows={"type": "object", "additionalProperties": COUNT}, faults=_list(ROW_FAULT)
    ),
    "mgmt.candidates-export/1": _object(file=STRING, rows={"type": "object", "additionalProperties": COUNT}),
    "mgmt.candidates-import/1": _object(file=STRING, rows={"type": "object", "additionalProperties": COUNT}),
    "mgmt.candidates-pass/1": _object(
        policy=STRING,
        now=STRING,
        dry_run=BOOL,
        considered=COUNT,
        decided=_list(QUEUE_ITEM),
        written=COUNT,
        held=_list(_object(codebase=STRING, campaign=STRING, reason=STRING)),
        mirrored=_maybe(COUNT),
        faults=_list(ROW_FAULT),
        warnings=NAMES_LIST,
    ),
    "mgmt.candidates-explain/1": _object(**CANDIDATE_SCORE, now=STRING, of=COUNT, factors=_list(FACTOR)),
    "mgmt.candidates-analytics/1": _object(
        now=STRING,
        runs=COUNT,
        period_days=NUMBER,
        all=_maybe(RUN_FIGURES),
        campaigns=_list(RUN_FIGURES),
        codebases=_list(RUN_FIGURES),
        faults=_list(ROW_FAULT),
    ),
    "mgmt.candidates-compare/1": _object(
        now=STRING,
        candidates=COUNT,
        runs=COUNT,
        top=COUNT,
        policies=_list(FIGURES),
        rank_correlation=_maybe(NUMBER),
        overlap=NUMBER,
        rows=_list(_object(**CANDIDATE, left=PLACE, right=PLACE)),
        faults=_list(ROW_FAULT),
    ),
    "mgmt.schedule-replay/1": _object(
        file=STRING,
        passed=COUNT,
        failed=COUNT,
        failures=_list(_object(id=STRING, category=STRING, difference=STRING)),
    ),
    "mgmt.timpani-gateway/1": _object(
        pid=COUNT,
        mode={"enum": ["strict", "compat"]},
        address=STRING,
        schedinfo_port=COUNT,
        node_port=COUNT,
        sink=STRING,
    ),
    "mgmt.task-submit/1": _object(
        suite=_maybe(STRING),
        count=COUNT,
        already=COUNT,
        spans=_list(_list(COUNT)),
        states={"type": "object", "additionalProperties": COUNT},
        exit_status=_maybe(COUNT),
    ),
    "mgmt.task-log/1": _object(task=COUNT, tail=STRING, whole=_maybe(STRING)),
    "mgmt.schema/1": _object(json_schema={"type": "object"}),
    "mgmt.doctor/1": _object(probes=_list(PROBE)),
    "mgmt.completion/1": _object(shell=STRING, script=STRING),
    "mgmt.version/1": _object(version=STRING, protocol=COUNT),
}
# output -> verb whose reply it is
REPLIES = {
    "mgmt.status/1": "status",
    "mgmt.models/1": "models",
    "mgmt.load-model/1": "load-model",
    "mgmt.unload-model/1": "unload-model",
    "mgmt.wait/1": "wait",
    "mgmt.start/1": "start",
    "mgmt.stop/1": "stop",
    "mgmt.restart/1": "restart",
    "mgmt.reset-failed/1": "reset-failed",
    "mgmt.plan/1": "plan",
    "mgmt.apply/1": "apply",
    "mgmt.explain/1": "explain",
    "mgmt.nodes/1": "nodes",
    "mgmt.node/1": "node-wait",
    "mgmt.whoami/1": "whoami",
    "mgmt.users/1": "users",
    "mgmt.user/1": "user-create",
    "mgmt.tokens/1": "tokens",
    "mgmt.token/1": "token-revoke",
    "mgmt.groups/1": "groups",
    "mgmt.group/1": "group-create",
    "mgmt.quotas/1": "quotas",
    "mgmt.attachments/1": "attachments",
    "mgmt.attachments-deleted/1": "attachment-delete",
    "mgmt.artifacts/1": "artifacts",
    "mgmt.artifacts-deleted/1": "artifact-delete",
    "mgmt.file/1": "blob-commit",
    "mgmt.schedule-submit/1": "schedule-submit",
    "mgmt.schedule-show/1": "schedule-show",
    "mgmt.schedule-stat/1": "schedule-stat",
    "mgmt.schedule-remove/1": "schedule-remove",
    "mgmt.schedule-explain/1": "schedule-explain",
    "mgmt.schedule-rebalance/1": "schedule-rebalance",
    "mgmt.suites/1": "suites",
    "mgmt.suite/1": "suite-wait",
    "mgmt.suite-cancel/1": "suite-cancel",
    "mgmt.suite-agents/1": "suite-agents",
    "mgmt.tasks/1": "tasks",
    "mgmt.task/1": "task-wait",
    "mgmt.task-show/1": "task-show",
    "mgmt.task-cancel/1": "task-cancel",
    "mgmt.task-retry/1": "task-retry",
    "mgmt.workers/1": "workers",
    "mgmt.metrics/1": "metrics",
    "mgmt.candidates-list/1": "candidates-list",
    "mgmt.candidates-queue/1": "candidates-queue",
    "mgmt.candidates-next/1": "candidates-next",
    "mgmt.candidates-position/1": "candidates-position",
    "mgmt.candidates-explained/1": "candidates-explain",
    "mgmt.candidates-schedule/1": "candidates-schedule",
    "mgmt.candidates-reset/1": "candidates-reset",
    "mgmt.candidates-hosts/1": "candidates-hosts",
    "mgmt.schedule-plan/1": "schedule-show",  # its tasks and CPUs; what is in force has more
}
EVENT = "mgmt.event/1"
SNAPSHOT = "mgmt.snapshot/1"
NAMES = sorted((*OWN, *REPLIES, EVENT, SNAPSHOT))


def schema_of(name: str) -> Schema:
    """The JSON Schema of the output whose `schema` field is `name`; KeyError when there is none."""
    if name in OWN:
        body = _copy(OWN[name])
    else:
        from mgmt.protocol import messages

        if name == EVENT:
            return _event()
        reply = messages.Snapshot if name == SNAPSHOT else messages.REQUESTS[REPLIES[name]].reply
        assert reply is not None
        body = _told(reply.model_json_schema())
    if name == "mgmt.status/1":
        body["properties"]["missing"] = NAMES_LIST
    if name == "mgmt.apply/1":
        body["properties"]["failed"] = _list(_object(unit=STRING, error=ERROR))
        body["required"].append("failed")
    if name == "mgmt.explain/1":
        body = _object(units=_list(body))
    if name == "mgmt.schedule-plan/1":
        body = _planned(body)
    if name == SNAPSHOT:
        del body["properties"]["events"]
        body["required"].remove("events")
        body["properties"]["kind"] = {"const": "snapshot"}
    return _named(body, name)


def _planned(shown: Schema) -> Schema:
    """A schedule of one workload that nobody submitted: the same rows of tasks, CPUs and chains."""
    rows = {key: shown["properties"][key] for key in ("tasks", "cpus")}
    chains = _list({"$ref": "#/$defs/ScheduleChain"})
    head = {"file": STRING, "mode": {"const": "strict"}, "workload": STRING, "algorithm": STRING}
    return {**_object(**head, hyperperiod_us=COUNT, **rows, chains=chains), "$defs": shown["$defs"]}


def _event() -> Schema:
    """One of the kinds of the message table, in one line of the stream."""
    from mgmt.protocol import messages

    kinds: list[Schema] = []
    defs: Schema = {}
    for kind, model in messages.EVENTS.items():
        body = _told(model.model_json_schema())
        defs |= body.pop("$defs", {})
        body["properties"]["kind"] = {"const": kind}
        body["required"].append("kind")
        kinds.append(_named(body, EVENT))
    return {"oneOf": kinds, "$defs": defs}


def _named(body: Schema, name: str) -> Schema:
    body["properties"] = {"schema": {"const": name}, **body["properties"]}
    body["required"] = ["schema", *body.get("required", [])]
    return body


def _told(schema: Any) -> Any:
    """The schema of a message after `render.plain`: times are text, and nothing is left out."""
    if isinstance(schema, list):
        return [_told(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    told = {key: _told(value) for key, value in schema.items()}
    for name in TIMES & told.get("properties", {}).keys():
        field = told["properties"][name]
        note = {key: field[key] for key in ("title",) if key in field}
        told["properties"][name] = {**(_maybe(TIME) if "anyOf" in field else TIME), **note}
    return told


def _copy(schema: Schema) -> Schema:
    return {**schema, "properties": dict(schema["properties"]), "required": list(schema["required"])}
