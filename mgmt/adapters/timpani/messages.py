"""The family's messages and services, by name and number; published as text in `proto/`, which a test compares."""

from __future__ import annotations

from mgmt.protocol.protobuf import Field, File, Schemas

PACKAGE = "schedinfo.v1"
STATUS_OK, STATUS_FAILED = 0, -1
DMISS = 1  # FaultType
POLICIES = ("normal", "fifo", "rr")  # SchedPolicy, by number

_NODE_ID = (Field("string", "node_id", 1),)

FILES: dict[str, File] = {
    "schedinfo.proto": File(
        PACKAGE,
        {
            "Response": (Field("int32", "status", 1),),
            "TaskInfo": (
                Field("string", "name", 1),
                Field("int32", "priority", 2),
                Field("SchedPolicy", "policy", 3),
                Field("uint64", "cpu_affinity", 4),
                Field("int32", "period", 5),
                Field("int32", "release_time", 6),
                Field("int32", "runtime", 7),
                Field("int32", "deadline", 8),
                Field("string", "node_id", 9),
                Field("int32", "max_dmiss", 10),
            ),
            "SchedInfo": (Field("string", "workload_id", 1), Field("TaskInfo", "tasks", 2, repeated=True)),
            "FaultInfo": (
                Field("string", "workload_id", 1),
                Field("string", "node_id", 2),
                Field("string", "task_name", 3),
                Field("FaultType", "type", 4),
            ),
        },
        {"SchedPolicy": ("NORMAL", "FIFO", "RR"), "FaultType": ("UNKNOWN", "DMISS")},
        {
            "SchedInfoService": {"AddSchedInfo": ("SchedInfo", "Response")},
            "FaultService": {"NotifyFault": ("FaultInfo", "Response")},
        },
    ),
    "node_service.proto": File(
        PACKAGE,
        {
            "NodeSchedRequest": _NODE_ID,
            "ScheduledTask": (
                Field("string", "name", 1),
                Field("int32", "sched_priority", 2),
                Field("int32", "sched_policy", 3),
                Field("int32", "period_us", 4),
                Field("int32", "release_time_us", 5),
                Field("int32", "runtime_us", 6),
                Field("int32", "deadline_us", 7),
                Field("uint64", "cpu_affinity", 8),
                Field("int32", "max_dmiss", 9),
                Field("string", "assigned_node", 10),
            ),
            "NodeSchedResponse": (
                Field("string", "workload_id", 1),
                Field("uint64", "hyperperiod_us", 2),
                Field("ScheduledTask", "tasks", 3, repeated=True),
            ),
            "SyncRequest": _NODE_ID,
            "SyncResponse": (
                Field("bool", "ack", 1),
                Field("int64", "start_time_sec", 2),
                Field("int32", "start_time_nsec", 3),
            ),
            "DeadlineMissInfo": (Field("string", "node_id", 1), Field("string", "task_name", 2)),
            "NodeResponse": (Field("int32", "status", 1), Field("string", "error_message", 2)),
        },
        {},
        {
            "NodeService": {
                "GetSchedInfo": ("NodeSchedRequest", "NodeSchedResponse"),
                "SyncTimer": ("SyncRequest", "SyncResponse"),
                "ReportDMiss": ("DeadlineMissInfo", "NodeResponse"),
            }
        },
    ),
}
SERVICES = {name: methods for file in FILES.values() for name, methods in file.services.items()}
SCHEMAS = Schemas(FILES)
