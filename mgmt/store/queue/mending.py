"""What makes a queue whole again of which rows were lost: references that lead nowhere, states, counters."""

from __future__ import annotations

import sqlite3

LOST = "what it waited for was lost with the file of the queue"

# In this order; the sentence is told with the number of rows. The numbers are those of `core.suites.states` and
# `tables.Flag`.
_STEPS: tuple[tuple[str, str], ...] = (
    (
        "suites without their counters are left out",
        "DELETE FROM suites WHERE id NOT IN (SELECT id FROM lanes)",
    ),
    (
        "suites without their description are left out",
        "DELETE FROM lanes WHERE is_suite = 1 AND id NOT IN (SELECT id FROM suites)",
    ),
    (
        "tasks whose suite is lost are left out",
        "DELETE FROM tasks WHERE lane NOT IN (SELECT id FROM lanes)",
    ),
    (
        "submissions are made up from their tasks",
        """INSERT INTO submissions
           SELECT t.submission, max(t.id) - t.submission + 1, t.lane, coalesce(s.creator, l.group_name), '', NULL,
               0, l.submitted_ms
           FROM tasks t JOIN lanes l ON l.id = t.lane LEFT JOIN suites s ON s.id = t.lane
           WHERE t.submission NOT IN (SELECT first FROM submissions) GROUP BY t.submission, t.lane""",
    ),
    (
        "running tasks are ready again: who held them is lost",
        """UPDATE tasks SET state = 1, holder = NULL, claim = NULL, flags = flags & ~8
           WHERE state = 2
               AND (holder IS NULL OR holder NOT IN (SELECT id FROM holders WHERE ended_ms = 0))""",
    ),
    ("", "DELETE FROM deps WHERE task NOT IN (SELECT id FROM tasks WHERE state = 0)"),
    (
        "waiting tasks are cancelled: what they wait for is lost",
        f"""UPDATE tasks SET state = 4, message = '{LOST}'
            WHERE state = 0 AND (
                blocked <> (SELECT count(*) FROM deps WHERE task = tasks.id)
                OR id IN (SELECT task FROM deps WHERE on_task NOT IN (SELECT id FROM tasks)))""",
    ),
    (
        "tasks of cancelled suites are cancelled",
        """UPDATE tasks SET state = 4
           WHERE state IN (0, 1) AND lane IN (SELECT id FROM lanes WHERE is_suite = 1 AND state = 3)""",
    ),
)
# Until nothing changes.
_CASCADE = (
    "tasks that waited for those are cancelled, too",
    f"""UPDATE tasks SET state = 4, message = '{LOST}'
        WHERE state = 0 AND id IN (
            SELECT d.task FROM deps d JOIN tasks t ON t.id = d.on_task WHERE t.state IN (3, 4, 6))""",
)
_AFTERWARDS = """
DELETE FROM deps WHERE task NOT IN (SELECT id FROM tasks WHERE state = 0);
DELETE FROM retries WHERE task NOT IN (SELECT id FROM tasks);
DELETE FROM failures WHERE task NOT IN (SELECT id FROM tasks);
DELETE FROM labels WHERE task NOT IN (SELECT id FROM tasks);
DELETE FROM submissions WHERE lane NOT IN (SELECT id FROM lanes);
UPDATE tasks SET blocked = 0, due_ms = NULL, finished_ms = coalesce(finished_ms, started_ms, 0) WHERE state = 4;
UPDATE tasks SET flags = flags & ~1 WHERE id NOT IN (SELECT on_task FROM deps);
UPDATE tasks SET flags = flags & ~4 WHERE id NOT IN (SELECT task FROM retries);
UPDATE tasks SET flags = flags & ~16 WHERE id NOT IN (SELECT task FROM labels);
UPDATE tasks SET flags = flags & ~34 WHERE id NOT IN (SELECT task FROM failures);
UPDATE lanes SET total = 0, pending = 0, ready = 0, running = 0, finished = 0, failed = 0, cancelled = 0;
UPDATE lanes SET total = c.total, pending = c.pending, ready = c.ready, running = c.running, finished = c.finished,
    failed = c.failed, cancelled = c.cancelled
    FROM (SELECT lane, count(*) AS total, sum(state NOT IN (3, 4, 6)) AS pending, sum(state = 1) AS ready,
        sum(state = 2) AS running, sum(state = 3) AS finished, sum(state = 6) AS failed,
        sum(state = 4) AS cancelled
        FROM tasks GROUP BY lane) c
    WHERE c.lane = lanes.id;
UPDATE lanes SET state = 2 WHERE is_suite = 1 AND total > 0 AND pending = 0 AND state IN (0, 1);
UPDATE lanes SET state = 0 WHERE is_suite = 1 AND pending > 0 AND state = 2;
DELETE FROM storage;
INSERT INTO storage SELECT name, sum(bytes)
    FROM (SELECT group_name AS name, size_bytes AS bytes FROM blobs
        UNION ALL SELECT group_name, reserved_bytes FROM uploads)
    GROUP BY name
"""


def mend(db: sqlite3.Connection) -> list[str]:
    """In a transaction that is open; what was put right, in sentences."""
    told = []
    for what, sql in _STEPS:
        count = db.execute(sql).rowcount
        if what and count > 0:
            told.append(f"{count} {what}")
    what, sql = _CASCADE
    cascade = 0
    while changed := db.execute(sql).rowcount:
        cascade += changed
    if cascade:
        told.append(f"{cascade} {what}")
    for sql in _AFTERWARDS.split(";"):
        db.execute(sql)
    return told
