"""A Janitor's database for tests: the tables that the adapter may meet, and rows to fill them."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import psycopg

NOW = datetime(2024, 6, 1, 12)  # noqa: DTZ001  # as their columns, which have no zone
SCHEMA = """
CREATE DOMAIN suite_name AS text CHECK (value ~ '^[a-z0-9-]+$');
CREATE TYPE vcs_type AS ENUM ('bzr', 'git', 'svn', 'mercurial');
CREATE TYPE publish_mode AS ENUM
    ('push', 'attempt-push', 'propose', 'build-only', 'push-derived', 'skip', 'bts');
CREATE TYPE branch_publish_policy AS (role text, mode publish_mode, frequency_days int);
CREATE TYPE queue_bucket AS ENUM ('update-existing-mp', 'manual', 'control', 'hook', 'reschedule',
    'update-new-mp', 'missing-deps', 'default');
CREATE TABLE codebase (name text PRIMARY KEY, branch_url text, url text, branch text, subpath text,
    vcs_type vcs_type, value int, inactive boolean NOT NULL DEFAULT false);
CREATE TABLE named_publish_policy (name text PRIMARY KEY, per_branch_policy branch_publish_policy[],
    rate_limit_bucket text);
CREATE TABLE change_set (id text PRIMARY KEY);
CREATE TABLE candidate (id serial PRIMARY KEY, suite suite_name NOT NULL, context text,
    value int CHECK (value > 0), success_chance float, command text NOT NULL, publish_policy text,
    change_set text REFERENCES change_set (id), codebase text NOT NULL);
CREATE TABLE run (id text PRIMARY KEY, command text NOT NULL, description text, start_time timestamp,
    finish_time timestamp, result_code text NOT NULL, instigated_context text, context text,
    failure_details json, failure_transient boolean, suite suite_name NOT NULL, codebase text NOT NULL,
    change_set text REFERENCES change_set (id), worker text);
CREATE TABLE queue (id serial PRIMARY KEY, bucket queue_bucket NOT NULL DEFAULT 'default',
    codebase text NOT NULL REFERENCES codebase (name), branch_url text, suite suite_name NOT NULL,
    command text NOT NULL CHECK (command <> ''), priority bigint NOT NULL DEFAULT 0, context text,
    estimated_duration interval, refresh boolean DEFAULT false, requester text,
    change_set text REFERENCES change_set (id));
CREATE UNIQUE INDEX queue_key ON queue (codebase, suite, coalesce(change_set, ''));
"""
# One item at a time, as the ancestor puts it in.
ADD = """
INSERT INTO queue (codebase, suite, command, context, bucket, estimated_duration, refresh, requester, priority)
VALUES (%(codebase)s, %(campaign)s, %(command)s, %(context)s, %(bucket)s, %(duration)s, false, 'scheduler',
    (SELECT coalesce(min(priority), 0) FROM queue) + %(offset)s)
ON CONFLICT (codebase, suite, coalesce(change_set, '')) DO UPDATE SET context = excluded.context,
    priority = excluded.priority, bucket = excluded.bucket, estimated_duration = excluded.estimated_duration,
    refresh = excluded.refresh, requester = excluded.requester, command = excluded.command
WHERE queue.bucket >= excluded.bucket
"""
ROWS = (
    "SELECT bucket::text, codebase, suite::text, command, priority, context, estimated_duration, refresh, "
    "requester, change_set FROM queue ORDER BY queue.bucket, priority, id"
)
SHAPE = (
    "SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, "
    "array(SELECT indexrelid::regclass::text FROM pg_index i WHERE i.indrelid = c.oid ORDER BY 1) "
    "FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid JOIN pg_namespace n ON n.oid = c.relnamespace "
    "WHERE n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast') AND a.attnum > 0 ORDER BY 1, 2"
)


def create(url: str) -> None:
    """Empty tables."""
    with psycopg.connect(url, autocommit=True) as db:
        db.execute(SCHEMA.encode())


def fill(db: psycopg.Connection[Any]) -> None:
    """Six codebases in two campaigns with a history, contexts, urgent rows, and policies of all kinds."""
    for i in range(6):
        db.execute(
            "INSERT INTO codebase (name, value, branch_url, vcs_type) VALUES (%s, %s, %s, 'git')",
            (f"c{i}", None if i == 5 else 10 * (i + 1), f"https://host{i % 2}/c{i}"),
        )
    db.execute(
        "INSERT INTO named_publish_policy (name, per_branch_policy) VALUES "
        "('main', ARRAY[('main', 'propose', 7), ('side', 'build-only', NULL)]::branch_publish_policy[]), "
        "('odd', ARRAY[('main', 'push-derived', NULL)]::branch_publish_policy[]), ('none', NULL)"
    )
    db.execute("INSERT INTO change_set VALUES ('set-1')")
    for i in range(6):
        for campaign, value in (("fix", 40), ("tidy", 10)):
            db.execute(
                "INSERT INTO candidate (suite, codebase, command, value, context, publish_policy) "
                "VALUES (%s, %s, %s, %s, %s, 'main')",
                (campaign, f"c{i}", f"{campaign} --all", value + i, f"v{i % 2}" if i % 3 else None),
            )
    for n in range(60):
        code = ("success", "build-failed", "nothing-to-do", "worker-failure", "success")[n % 5]
        end = NOW - timedelta(days=40) + timedelta(hours=9 * n)
        db.execute(
            "INSERT INTO run (id, command, suite, codebase, result_code, start_time, finish_time, context, "
            "failure_transient) VALUES (%s, 'run', %s, %s, %s, %s, %s, %s, %s)",
            (f"r{n}", ("fix", "tidy")[n % 7 % 2], f"c{n % 5}", code, end - timedelta(seconds=31.25 * (n + 1)), end,
             f"v{n % 2}" if n % 4 else None, code == "worker-failure" if n % 2 else None),
        )  # fmt: skip
    for bucket, codebase, campaign, priority, refresh in (
        ("manual", "c0", "fix", -500, True), ("default", "c1", "fix", 77, True), ("hook", "c5", "old", 3, False),
    ):  # fmt: skip
        db.execute(
            "INSERT INTO queue (bucket, codebase, suite, command, priority, refresh, requester) "
            "VALUES (%s, %s, %s, 'by hand', %s, %s, 'somebody')",
            (bucket, codebase, campaign, priority, refresh),
        )
