"""The operators' commands against a scripted daemon: starting and stopping, plans, explanations, top, store."""

from __future__ import annotations

import json
import os
import sqlite3
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from mgmt.protocol.errors import Exit, MgmtError
from mgmt.store import FILE_NAME, Batch, Lock, SqliteStore
from mgmt.store.queue import tables
from mgmt.store.queue.postgres import PostgresEngine
from mgmt.store.sqlite import SCHEMA_VERSION
from mgmt_cli import explain, top
from mgmt_cli.schemas import schema_of
from tests.unit.cli_runner import Situation, judge, judge_json, run
from tests.unit.scripted_daemon import (
    EPOCH,
    SERVICE,
    Script,
    a_unit,
    an_event,
    an_explanation,
    failed_unit,
    scripted,
    status_of,
)

S = Situation
UNITS = status_of(a_unit("echo"), failed_unit("bad"))


def targets(*names: str, already: tuple[str, ...] = (), state: str = "RUNNING") -> dict[str, Any]:
    return {"units": list(names), "states": dict.fromkeys(names, state), "already": list(already)}


def planned(*rows: tuple[str, str, str], daemon: tuple[str, ...] = ()) -> dict[str, Any]:
    actions = [{"unit": unit, "action": action, "reason": reason} for unit, action, reason in rows]
    return {"actions": actions, "daemon": list(daemon), "warnings": ["look twice"]}


KEEP = ("a", "keep", "unchanged")
RESTART = ("b", "restart", "changed: env")
BAD = MgmtError("bad-config", "the file: 2 faults\nunits.a: wrong\nunits.b: wrong")
CANNOT = MgmtError("start-failed", "unit 'b' did not start: it died")
READY = {"target": "b", "condition": "ready", "state": "RUNNING"}

SITUATIONS = [
    # verbs, and verbs again
    S("start echo", {"start": targets("echo")}, 0, "echo: started (RUNNING)"),
    S("start echo", {"start": targets("echo", already=("echo",))}, 0, "echo: already running (RUNNING)"),
    S("start echo --no-wait", {"start": targets("echo", state="STARTING")}, 0, "is being started (STARTING)"),
    S("start a b", {"start": targets("a", "b", already=("b",))}, 0, "a: started (RUNNING)\nb: already run"),
    S("start b", {"start": CANNOT}, 1, "it died"),
    S("start nope", {"start": MgmtError("unknown-model", "no model 'nope'")}, 4, "nope"),
    S("start nope*", {"status": UNITS}, 4, "no unit or model matches 'nope*'"),
    S("start", {}, 2, "TARGETS"),
    S("start echo --timeout 50ms", {"start": None}, 7, "start"),
    S("stop echo", {"stop": targets("echo", state="STOPPED")}, 0, "echo: stopped (STOPPED)"),
    S("stop echo", {"stop": targets("echo", already=("echo",), state="STOPPED")}, 0, "already stopped"),
    S("stop echo --no-wait", {"stop": targets("echo", state="STOPPING")}, 0, "is being stopped (STOPPING)"),
    S("restart echo", {"restart": targets("echo")}, 0, "echo: restarted (RUNNING)"),
    S("reset-failed", {"reset-failed": targets("a", "b", already=("a", "b"))}, 0, "nothing had failed"),
    S("reset-failed a", {"reset-failed": targets("a", already=("a",))}, 0, "a: had not failed"),
    S("reset-failed", {"reset-failed": targets("a", "b", already=("a",))}, 0, "b: failures forgotten"),
    S("stop echo", None, 5, "mgmt start-service"),
    # plans
    S("plan", {"plan": planned(KEEP)}, 0, "no unit changes"),
    S("plan", {"plan": planned(KEEP, RESTART)}, 1, "b     restart  changed: env"),
    S("plan", {"plan": planned(KEEP, daemon=("limits.max_units",))}, 1, "limits.max_units differs"),
    S("plan", {"plan": BAD}, 255, "units.b: wrong"),
    S("plan /nowhere", {}, 255, "/nowhere: No such file"),
    S("plan", None, 255, "mgmt start-service"),
    S("apply", {"apply": planned(KEEP)}, 0, "no unit changes"),
    S("apply", {"apply": planned(KEEP, RESTART), "wait": READY}, 0, "restart"),
    S("apply --no-wait", {"apply": planned(RESTART)}, 0, "restart"),
    S("apply", {"apply": planned(RESTART), "wait": CANNOT}, 1, "it died"),
    S("apply", {"apply": BAD}, 2, "units.a: wrong"),
    S("apply /nowhere", {}, 2, "/nowhere"),
    # looking
    S("explain echo", {"status": UNITS}, 0, "echo: RUNNING: ready\n  it holds nothing of its own"),
    S("explain nope", {"status": UNITS}, 4, "nope"),
    S("dump", {"dump": {"state": {"at": 5, "raw": b"\x00"}}}, 0, "mgmt.dump/1"),
    S("top --once", {"status": UNITS}, 0, "2 units (1 FATAL, 1 RUNNING), CPU 12.3 %, memory 12.3M"),
    S("top --once", None, 5, "no daemon"),
    S("status -a", {"status": UNITS}, 0, "echo"),
    S("logs --since 10m echo", {"status": UNITS, "logs": {"unit": "echo", "path": "/l", "data": b"", "offset": 1,
                                                        "inode": 1}}, 0, ""),
    # no daemon needed
    S("store check", None, 0, "is not there yet"),
    S("store recover", None, 0, "nothing was changed"),
]  # fmt: skip


@pytest.mark.parametrize("situation", SITUATIONS, ids=str)
def test_a_situation_has_its_exit_status_and_its_words(situation: Situation, folder: str) -> None:
    judge(situation, folder)


@pytest.mark.parametrize("situation", [s for s in SITUATIONS if not s.args.startswith("logs")], ids=str)
def test_with_json_every_line_of_stdout_satisfies_its_schema(situation: Situation, folder: str) -> None:
    judge_json(situation, folder)


def test_globs_stand_for_units_and_for_replicas_of_models(folder: str) -> None:
    units = status_of(a_unit("llama.0", model="llama"), a_unit("llama.1", model="llama"), a_unit("echo"))
    with scripted(folder, {"status": units, "stop": targets("x", state="STOPPED")}) as daemon:
        assert run("stop", "lla*", "echo", "echo").exit_code == 0
        assert daemon.asked[-2:] == [
            ("status", {"all": True}),
            ("stop", {"targets": ["llama.0", "llama.1", "echo"], "wait": True}),
        ]
        run("stop", "llama", "--no-wait")
        assert daemon.asked[-1] == ("stop", {"targets": ["llama"], "wait": False})


def test_apply_waits_for_what_it_starts_and_says_what_failed(folder: str) -> None:
    def wait(body: dict[str, Any]) -> dict[str, Any]:
        if body["target"] == "b":
            raise CANNOT
        return {**READY, "target": body["target"]}

    script: Script = {
        "apply": planned(KEEP, RESTART, ("c", "start", "new"), ("d", "stop", "gone")),
        "wait": wait,
    }
    with scripted(folder, script) as daemon:
        result, value = run("apply"), json.loads(run("apply", "--json").stdout)
        waited = [body["target"] for verb, body in daemon.asked if verb == "wait"]
    assert (result.exit_code, result.stderr.splitlines()[-1]) == (Exit.PARTIAL, f"error: {CANNOT.text}")
    assert waited == ["b", "c"] * 2
    jsonschema.validate(value, schema_of("mgmt.apply/1"))
    assert [row["unit"] for row in value["failed"]] == ["b"]


def test_a_file_is_sent_with_its_absolute_path(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    Path("c.json").write_text('{"units": {}}')
    with scripted(folder, {"plan": planned(KEEP)}) as daemon:
        assert run("plan", "c.json").exit_code == 0
        assert daemon.asked[-1] == (
            "plan",
            {"config": {"units": {}}, "path": os.path.realpath("c.json")},
        )


@pytest.mark.parametrize("text", ["{", "[]", '{"a": 1, "a": 2}', "[" * 100_000])
def test_a_file_that_is_no_object_is_refused_before_the_daemon_is_asked(folder: str, text: str) -> None:
    Path(folder, "c.json").write_text(text)
    assert run("plan", f"{folder}/c.json").exit_code == 255
    result = run("apply", f"{folder}/c.json")
    assert result.exit_code == 2
    assert "mgmt config check" in result.stderr


def test_the_plan_is_painted_on_a_terminal_only(folder: str) -> None:
    with scripted(folder, {"plan": planned(RESTART)}):
        assert "\033[" not in run("plan").output
        assert "\033[33mrestart\033[0m" in run("plan", "--color", "always").output


def test_an_explanation_tells_what_is_held_and_what_is_planned() -> None:
    explained = an_explanation("b", lines=["BACKOFF: it died", "next start in 2.0 s"], cpus=[0, 1])
    explained["holds"] = {**explained["holds"], "cpus": [], "memory_bytes": 1 << 30, "gpus": ["GPU-1"]}
    assert explain.described(explained) == [
        "b: RUNNING: ready",
        "  next start in 2.0 s",
        "  it holds GPU GPU-1, 1.0G of memory",
        "  its place in the plan: CPUs 0-1 (exclusive)",
    ]


def test_a_status_of_one_unit_explains_it(folder: str) -> None:
    waits = an_explanation("echo", lines=["STOPPED: never started", "it waits for db (ready)"], cpus=[3])
    log = {"unit": "echo", "path": "/l", "data": b"hello\n", "offset": 6, "inode": 1}
    with scripted(folder, {"status": UNITS, "explain": waits, "logs": log}):
        said = run("status", "echo").output
    assert "\n  Place:      CPUs 3 (exclusive)\n" in said
    assert "\n\n  it waits for db (ready)\n\nhello\n" in said


# ---- following -------------------------------------------------------------------------------------------


def chunk(data: bytes, offset: int = 1) -> dict[str, Any]:
    return {"unit": "echo", "path": "/l", "data": data, "offset": offset, "inode": 1}


def test_since_asks_for_a_time_and_n_keeps_the_last_of_it(folder: str) -> None:
    def log(body: dict[str, Any]) -> dict[str, Any]:
        return chunk(b"1\n2\n3\n" if "since_s" in body else b"")

    with scripted(folder, {"status": UNITS, "logs": log}) as daemon:
        assert run("logs", "echo", "--since", "10m").output == "1\n2\n3\n"
        assert daemon.asked[-2][1] == {"unit": "echo", "since_s": 600.0}
        assert run("logs", "echo", "--since", "10m", "-n", "2").output == "2\n3\n"


def test_a_snapshot_without_a_gap_is_told_once(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon restarted: its successor has the same numbers, so a follower sees events and nothing else."""
    snapshot = {"seq": 2, "epoch": EPOCH, "units": [], "events": [], "gap": False}
    answers: list[dict[str, Any] | MgmtError] = [
        {**snapshot, "events": [an_event(2)]},
        MgmtError("stopping", "the daemon is stopping"),
        {**snapshot, "seq": 3, "epoch": EPOCH + 1, "events": [an_event(3)]},
        MgmtError("denied", "enough"),
    ]

    def subscribe(_: dict[str, Any]) -> dict[str, Any]:
        answer = answers.pop(0)
        if isinstance(answer, MgmtError):
            raise answer
        return answer

    with scripted(folder, {"subscribe": subscribe}) as daemon:
        # An event out of order makes the client ask again, which is where a restart would show.
        daemon.events = [an_event(9)]
        result = run("events", "-f", "--since", "1", "--json")
        since = [body["since"] for verb, body in daemon.asked if verb == "subscribe"]
    values = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(value["schema"], value.get("seq")) for value in values] == [
        ("mgmt.snapshot/1", 2),
        ("mgmt.event/1", 2),
        ("mgmt.event/1", 3),
        ("mgmt.error/1", None),
    ]
    assert since == [1, 2, 2, 3]
    assert "the daemon does not answer" in result.stderr


# ---- top -------------------------------------------------------------------------------------------------

TOP = """\
mgmt 0.1.0 running, pid 4711, up 3m12s, epoch 42, ipc:///run/mgmt/control
3 units (1 FATAL, 2 RUNNING), CPU 103.1 %, memory 24.6M

SERVICE  STATE    READY   PID  UPTIME  RESTARTS  CPU%    MEM  CPUS
busy     RUNNING  yes    4712   1m32s         0  90.8  12.3M  0-3,6
echo     RUNNING  yes    4712   1m32s         0  12.3  12.3M  0-3,6
bad      FATAL    no        -       -         5     -      -  -"""


def test_top_is_golden_and_the_busiest_is_first(folder: str) -> None:
    with scripted(folder, {"status": status_of(failed_unit(), a_unit(), a_unit("busy", cpu_percent=90.76))}):
        assert run("top", "--once").output == TOP + "\n"
        value = json.loads(run("top", "--once", "--json").stdout)
    assert [unit["unit"] for unit in value["units"]] == ["busy", "echo", "bad"]


@pytest.mark.parametrize(("width", "height"), [(20, 10), (80, 5), (80, 6), (200, 24), (1, 1)])
def test_top_fits_the_terminal(width: int, height: int) -> None:
    units = [a_unit(f"unit-{number}") for number in range(30)]
    lines = top.screen(SERVICE, units, width, height)
    assert len(lines) <= height
    assert all(len(line) <= width for line in lines)
    if height >= 6:
        assert lines[-1].startswith("... and ")
    strip = [
        line.replace("\033[32m", "").replace("\033[0m", "")
        for line in top.screen(SERVICE, units, width, height, colored=True)
    ]
    assert strip == lines


def test_top_without_a_terminal_says_what_to_do(folder: str) -> None:
    result = run("top")
    assert (result.exit_code, "--once" in result.stderr) == (Exit.USAGE, True)


# ---- the store -------------------------------------------------------------------------------------------


def a_store(folder: str) -> Path:
    path = Path(folder) / FILE_NAME
    store = SqliteStore(path)
    store.commit(Batch(units={"echo": {"state": "RUNNING"}}, events=({"seq": 1},)), lambda failure: None)
    store.close()
    return path


def test_a_sound_store_is_counted_and_left_alone(folder: str) -> None:
    path = a_store(folder)
    before = path.read_bytes()
    checked = run("store", "check")
    assert checked.exit_code == 0
    assert checked.output.startswith(f"{path} is sound: 0 meta, 1 units, 1 events, 0 ")
    recovered = json.loads(run("store", "recover", "--json").stdout)
    jsonschema.validate(recovered, schema_of("mgmt.store-recover/1"))
    assert {table: rows for table, rows in recovered["rows"].items() if rows} == {"units": 1, "events": 1}
    assert path.read_bytes() == before
    assert not list(Path(folder).glob("*.damaged-*"))


def test_a_damaged_store_is_refused_then_recovered_and_kept(folder: str) -> None:
    path = a_store(folder)
    damaged = path.read_bytes()[:5000]
    path.write_bytes(damaged)
    checked = run("store", "check")
    assert checked.exit_code == 1
    assert "damaged" in checked.stderr
    assert "mgmt store recover" in checked.stderr
    assert path.read_bytes() == damaged, "a look changes nothing"
    recovered = run("store", "recover")
    assert recovered.exit_code == 0, recovered.output
    (aside,) = Path(folder).glob(f"{FILE_NAME}.damaged-*Z")
    assert str(aside) in recovered.output
    assert aside.read_bytes() == damaged
    assert run("store", "check").exit_code == 0
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    db.close()


def test_a_store_of_a_newer_version_is_not_recovered(folder: str) -> None:
    path = a_store(folder)
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")
    db.close()
    before = path.read_bytes()
    for command in ("check", "recover"):
        result = run("store", command)
        assert result.exit_code == 1
        assert f"mgmt store downgrade --state {SCHEMA_VERSION}" in result.stderr
    assert path.read_bytes() == before
    assert not list(Path(folder).glob("*.damaged-*"))


def test_a_store_is_made_one_of_an_older_version(folder: str) -> None:
    path = a_store(folder)
    done = run("store", "downgrade", "--state", str(SCHEMA_VERSION - 1), "--json")
    assert done.exit_code == 0, done.output
    jsonschema.validate(json.loads(done.stdout), schema_of("mgmt.store-downgrade/1"))
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION - 1,)
    db.close()
    assert "1 units" in run("store", "check").output, "it is of this version again, with what it had"
    nothing = run("store", "downgrade", "--queue", "1")
    assert nothing.exit_code == 1 and f"there is no queue {path.parent}/queue.db" in nothing.stderr
    assert not (path.parent / "queue.db").exists()
    for wrong in ([], ["--state", str(SCHEMA_VERSION + 1)], ["--queue", "99"]):
        assert run("store", "downgrade", *wrong).exit_code == Exit.USAGE


@pytest.mark.xdist_group("postgres")
def test_a_queue_in_a_database_is_taken_back(folder: str, postgres: str) -> None:
    engine = PostgresEngine(postgres, "taken_back")
    engine.open().close()
    config = Path(folder) / "with-database.json"
    words = dict(word.split("=", 1) for word in postgres.split())
    url = f"postgresql://{words['user']}@/{words['dbname']}?host={words['host']}"
    config.write_text(json.dumps({"queue": {"database": url, "database_schema": "taken_back"}}))
    for version in (1, 1):
        done = run("--config", str(config), "store", "downgrade", "--queue", str(version))
        assert done.exit_code == 0, done.output
        assert "the queue in the database schema taken_back has schema version 1 now" in done.output
    assert not (Path(folder) / "queue.db").exists()
    db = engine.open()
    assert tables.identity(db)[1] == tables.SCHEMA_VERSION, "and brought up to date again"
    db.close()


def test_a_store_in_use_is_not_touched(folder: str) -> None:
    a_store(folder)
    lock = Lock(Path(folder))
    try:
        for command in ("check", "recover", "downgrade --state 1 --queue 1"):
            result = run("store", *command.split())
            assert result.exit_code == Exit.BUSY
            assert f"pid {os.getpid()}" in result.stderr
    finally:
        lock.release()
    assert run("store", "check").exit_code == 0


def test_a_state_folder_that_is_not_there_is_said(folder: str) -> None:
    result = run("store", "check", env={"MGMT_STATE_DIR": f"{folder}/none"})
    assert result.exit_code == 1
    assert f"there is no state folder {folder}/none" in result.stderr
    assert not Path(folder, "none").exists()
