"""Two daemons on one queue in a PostgreSQL database: what one is told, both work on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.system.agents import Join, a_daemon, agents
from tests.system.clients import eventually
from tests.system.daemon import Daemon, Start
from tests.unit import queues

pytestmark = pytest.mark.xdist_group("postgres")


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    if queues.postgres_programs() is None:
        pytest.skip("PostgreSQL's server is not installed here (Debian's package: postgresql)")
    for conninfo in queues.serve_postgres():
        folder = next(part.removeprefix("host=") for part in conninfo.split() if part.startswith("host="))
        yield f"postgresql://mgmt@/postgres?host={folder}"


@pytest.fixture
def join() -> Iterator[Join]:
    with agents() as make:
        yield make


def suite(daemon: Daemon, name: str) -> dict[str, Any]:
    found: dict[str, Any] = daemon.control.ok("suites", suites=[name])["suites"][0]
    return found


def test_what_one_daemon_is_told_both_work_on(start: Start, database: str, tmp_path: Path) -> None:
    config = {"queue": {"database": database, "database_schema": "shared"}}
    one, other = start(config), start(config)
    one.control.ok("suite-create", name="s", worker={"worker_count": 1})
    marks = tmp_path / "marks"
    marks.mkdir()
    task = {"args": ["sh", "-c", f"echo $PPID >> {marks}/$MITO_TASK_UUID; sleep 0.02"]}
    numbers = one.control.ok("task-submit", suite="s", tasks=[task] * 300)["tasks"]
    eventually(
        lambda: "s" in [s["name"] for s in other.control.ok("suites")["suites"]], what="the other sees it"
    )
    status = other.control.ok("suite-wait", suite="s")
    assert status["state"] == "COMPLETE" and status["tasks"]["finished"] == len(numbers)
    eventually(lambda: suite(one, "s")["state"] == "COMPLETE", what="the first one sees its end")
    runs = [path.read_text().split() for path in marks.iterdir()]
    assert len(runs) == len(numbers) and all(len(run) == 1 for run in runs), "each ran once"
    assert len({run[0] for run in runs}) == 2, "a worker of each daemon"


def test_who_waits_at_one_daemon_hears_what_another_one_ran(start: Start, join: Join, database: str) -> None:
    queue = {"database": database, "database_schema": "waited"}
    one, other = start({"queue": queue}), a_daemon(start, queue=queue)
    join(other, "n1", "--tag", "x")
    one.control.ok("suite-create", name="s", tags=["x"], worker={"worker_count": 1})
    for status in (3, 0):
        task = {"args": ["sh", "-c", f"exit {status}"]}
        asked = one.control.ask("task-submit", 30_000, suite="s", tasks=[task], wait=True)
        assert one.control.reply(asked, 35.0).body["ended"]["exit_status"] == status


def test_a_database_that_does_not_answer_is_said(start: Start, tmp_path: Path) -> None:
    config = {"queue": {"database": f"postgresql://mgmt@/postgres?host={tmp_path}"}}
    ended = start(config, run=False).run_to_end()
    said = ended.stderr + ended.stdout
    assert ended.returncode and "PostgreSQL" in said and "Traceback" not in said, said
