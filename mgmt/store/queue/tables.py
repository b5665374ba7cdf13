"""The tables of the queue, for both engines, and what makes an older database one of this version.

`lanes` counts its tasks in the same transaction that moves them. A task refers to its submission by the number of
the submission's first task, and its number in its group follows from the distance. `flags` says of which rows
elsewhere a task has any, so that a task without is never looked for there.
"""

from __future__ import annotations

from enum import IntFlag

from mgmt.protocol.errors import MgmtError
from mgmt.store.files import newer
from mgmt.store.queue.connection import Connection

SCHEMA_VERSION = 2


class Flag(IntFlag):
    """`tasks.flags`."""

    DEPENDENTS = 1  # `deps` has rows of tasks that wait for it
    STRUCK = 2  # `failures` has rows
    RETRY = 4  # `retries` has a row
    CANCELLING = 8  # somebody wants its running attempt cancelled
    LABELS = 16  # `labels` has rows
    EXCLUDED = 32  # one of its rows in `failures` excludes a node


# {int}, {blob}: 64 bits, bytes. A primary key that is an integer alone is the row's own number in SQLite.
_TABLES = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE groups (name TEXT PRIMARY KEY, tasks {int} NOT NULL);
CREATE TABLE lanes (
    id {key} PRIMARY KEY, is_suite {int} NOT NULL, state {int} NOT NULL, group_name TEXT NOT NULL,
    tags TEXT NOT NULL, priority {int} NOT NULL, created_ms {int} NOT NULL, submitted_ms {int} NOT NULL,
    total {int} NOT NULL DEFAULT 0, pending {int} NOT NULL DEFAULT 0, ready {int} NOT NULL DEFAULT 0,
    running {int} NOT NULL DEFAULT 0, finished {int} NOT NULL DEFAULT 0, failed {int} NOT NULL DEFAULT 0,
    cancelled {int} NOT NULL DEFAULT 0);
CREATE UNIQUE INDEX lanes_independent ON lanes (group_name, tags) WHERE is_suite = 0;
CREATE INDEX lanes_open ON lanes (submitted_ms) WHERE is_suite = 1 AND state = 0;
CREATE TABLE suites (
    id {key} PRIMARY KEY, name TEXT NOT NULL, creator TEXT NOT NULL, labels TEXT NOT NULL, record {blob} NOT NULL,
    request TEXT NOT NULL, reason TEXT NOT NULL DEFAULT '', completed_ms {int} NOT NULL DEFAULT 0);
CREATE UNIQUE INDEX suites_request ON suites (creator, request) WHERE request <> '';
CREATE INDEX suites_name ON suites (name) WHERE name <> '';
CREATE TABLE submissions (
    first {key} PRIMARY KEY, count {int} NOT NULL, lane {int} NOT NULL, creator TEXT NOT NULL,
    request TEXT NOT NULL, digest {blob}, sequence {int} NOT NULL, at_ms {int} NOT NULL);
CREATE UNIQUE INDEX submissions_request ON submissions (creator, request) WHERE request <> '';
CREATE INDEX submissions_lane ON submissions (lane);
CREATE TABLE tasks (
    id {key} PRIMARY KEY, lane {int} NOT NULL, state {int} NOT NULL, priority {int} NOT NULL,
    attempt {int} NOT NULL, flags {int} NOT NULL, submission {int} NOT NULL, holder {int}, claim {int},
    blocked {int} NOT NULL, due_ms {int}, exit_status {int}, exec_state {int}, started_ms {int}, finished_ms {int},
    message TEXT, spec {blob} NOT NULL, detail {blob});
CREATE INDEX tasks_ready ON tasks (lane, priority DESC, id) WHERE state = 1;
CREATE INDEX tasks_held ON tasks (holder, claim) WHERE state = 2;
CREATE INDEX tasks_waiting ON tasks (lane) WHERE state = 0;
CREATE INDEX tasks_due ON tasks (due_ms) WHERE due_ms IS NOT NULL;
CREATE TABLE deps (
    on_task {int} NOT NULL, task {int} NOT NULL, kind {int} NOT NULL, value {int} NOT NULL,
    PRIMARY KEY (on_task, task, kind, value));
CREATE INDEX deps_task ON deps (task);
CREATE TABLE retries (
    task {key} PRIMARY KEY, most {int} NOT NULL, used {int} NOT NULL, codes TEXT NOT NULL,
    delay_ms {int} NOT NULL);
CREATE TABLE failures (
    task {int} NOT NULL, node TEXT NOT NULL, strikes {int} NOT NULL, excluded {int} NOT NULL,
    deaths {blob} NOT NULL, PRIMARY KEY (task, node));
CREATE TABLE labels (label TEXT NOT NULL, task {int} NOT NULL, PRIMARY KEY (label, task));
CREATE INDEX labels_task ON labels (task);
CREATE TABLE holders (
    id {key} PRIMARY KEY, node TEXT NOT NULL, owner TEXT NOT NULL, worker TEXT NOT NULL, suite {int} NOT NULL,
    lease_until_ms {int} NOT NULL, opened_ms {int} NOT NULL, number {int} NOT NULL, acks {blob},
    cancelling {int} NOT NULL, ended_ms {int} NOT NULL);
CREATE INDEX holders_suite ON holders (suite) WHERE ended_ms = 0;
CREATE INDEX holders_lease ON holders (lease_until_ms) WHERE ended_ms = 0;
CREATE TABLE blobs (
    group_name TEXT NOT NULL, kind {int} NOT NULL, task {int} NOT NULL, name TEXT NOT NULL, digest TEXT NOT NULL,
    size_bytes {int} NOT NULL, creator TEXT NOT NULL, created_ms {int} NOT NULL,
    PRIMARY KEY (group_name, kind, task, name));
CREATE INDEX blobs_digest ON blobs (digest);
CREATE INDEX blobs_task ON blobs (task) WHERE task > 0;
CREATE TABLE uploads (
    id {key} PRIMARY KEY, group_name TEXT NOT NULL, kind {int} NOT NULL, task {int} NOT NULL, name TEXT NOT NULL,
    digest TEXT NOT NULL, size_bytes {int} NOT NULL, creator TEXT NOT NULL, holder {int} NOT NULL,
    attempt {int} NOT NULL, reserved_bytes {int} NOT NULL, touched_ms {int} NOT NULL);
CREATE TABLE storage (name TEXT PRIMARY KEY, used_bytes {int} NOT NULL);
CREATE TABLE candidate_rows (
    kind TEXT NOT NULL, name TEXT NOT NULL, record {blob} NOT NULL, PRIMARY KEY (kind, name));
"""

# version: (what makes it the next one, what makes the next one it again); never changed once it was released.
# A way back keeps tables that the older version does not look at: they are there for the next way up.
_CANDIDATE_ROWS = """
CREATE TABLE IF NOT EXISTS candidate_rows (
    kind TEXT NOT NULL, name TEXT NOT NULL, record {blob} NOT NULL, PRIMARY KEY (kind, name))"""
MIGRATIONS: dict[int, tuple[str, str]] = {1: (_CANDIDATE_ROWS, "")}

NAMES = (
    "meta", "groups", "lanes", "suites", "submissions", "tasks", "deps", "retries", "failures", "labels",
    "holders", "blobs", "uploads", "storage", "candidate_rows",
)  # fmt: skip

SEQUENCES = ("lane", "task", "holder", "upload")  # what `Connection.take` numbers


def statements(text: str, types: dict[str, str]) -> list[str]:
    """The statements of a text for an engine; `types`: its words for int, key and blob."""
    return [part.strip() for part in text.format(**types).split(";") if part.strip()]


def creation(types: dict[str, str], queue_id: int) -> list[str]:
    """What both engines need for an empty queue. `queue_id`: 64 random bits, what its UUIDs are derived from."""
    return [
        *statements(_TABLES, types),
        f"INSERT INTO meta (name, value) VALUES ('queue_id', '{queue_id}'), ('version', '{SCHEMA_VERSION}')",
    ]


def check_version(version: int, queue: str) -> None:
    """MgmtError `bad-store` for a queue that this program cannot read and cannot bring up to date either."""
    if version > SCHEMA_VERSION:
        raise newer(f"the queue {queue}", version, SCHEMA_VERSION, "--queue")
    if version != SCHEMA_VERSION and version not in MIGRATIONS:
        text = f"the queue {queue} has schema version {version}, and nothing leads from there to {SCHEMA_VERSION}"
        raise MgmtError("bad-store", f"{text}; start the version of mgmt that wrote it", version=version)


def identity(db: Connection) -> tuple[int, int]:
    """Queue id and schema version."""
    meta: dict[str, str] = dict(db.rows("SELECT name, value FROM meta"))
    return int(meta["queue_id"]), int(meta["version"])


def migrate(db: Connection, types: dict[str, str], here: int, version: int) -> None:
    """Up or down to a schema version, in one transaction: whoever is killed meanwhile changed nothing."""
    if here == version:
        return
    db.begin()
    try:
        for step in range(here, version):
            for statement in statements(MIGRATIONS[step][0], types):
                db.change(statement)
        for step in range(here - 1, version - 1, -1):
            for statement in statements(MIGRATIONS[step][1], types):
                db.change(statement)
        db.change("UPDATE meta SET value = ? WHERE name = 'version'", (str(version),))
        db.commit()
    except db.failures:
        db.rollback()
        raise
