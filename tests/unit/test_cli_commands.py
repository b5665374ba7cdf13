"""Every command against a scripted daemon: what it asks, what it says, and its exit status."""

from __future__ import annotations

import json
import os
import socket
import time
from typing import Any

import jsonschema
import pytest

from mgmt.protocol.errors import TABLE, Exit, MgmtError
from mgmt_cli.schemas import schema_of
from tests.system.clients import eventually
from tests.unit.cli_runner import Situation, judge, judge_json, run
from tests.unit.scripted_daemon import (
    a_model,
    a_unit,
    an_event,
    failed_unit,
    scripted,
    status_of,
)

LOADED = {
    "model": "echo",
    "type": "echo",
    "state": "RUNNING",
    "endpoint": "ipc:///tmp/symphony-model-0000002a",
    "pid": 4712,
    "units": ["echo"],
    "already": False,
}
LOG = {"unit": "echo", "path": "/l", "data": b"", "offset": 9, "inode": 1}


def log(body: dict[str, Any]) -> dict[str, Any]:
    """Two lines and the beginning of a third, then nothing more."""
    return {**LOG, "data": b"one\ntwo\nthr" if body.get("offset") is None else b""}


S = Situation
UNITS = status_of(a_unit("echo"), failed_unit("bad"), a_unit("slow", state="STARTING", ready=False))
NOT_LOADED = MgmtError("not-loaded", "model 'echo' is not loaded", model="echo")
UNKNOWN = MgmtError("unknown-model", "no model 'nope' is configured", model="nope")

SITUATIONS = [
    # no daemon
    S("status", None, Exit.UNREACHABLE, "mgmt start-service"),
    S("models", None, Exit.UNREACHABLE, "no daemon at ipc://"),
    S("load-model echo", None, Exit.UNREACHABLE, "no such socket"),
    S("is-ready echo", None, Exit.UNREACHABLE, "no daemon"),
    S("stop-service", None, Exit.OK, "Management service is not running"),
    S("status --endpoint nonsense", None, Exit.UNREACHABLE, "not an endpoint"),
    # usage
    S("", None, Exit.FAILED, "Commands:"),
    S("nonsense", None, Exit.USAGE, "No such command"),
    S("status --nonsense", None, Exit.USAGE, "mgmt status --help"),
    S("load-model", None, Exit.USAGE, "NAME"),
    S("status --timeout soon", None, Exit.USAGE, "duration"),
    S("status --timeout -1s", None, Exit.USAGE, "duration"),
    S("wait echo --for never", None, Exit.USAGE, "never"),
    S("request echo", None, Exit.USAGE, "--text, --data"),
    S("request echo --data {", None, Exit.USAGE, "not JSON"),
    S("request echo --data 1 --text 2", None, Exit.USAGE, "one of"),
    S("start-service --daemonize --foreground", None, Exit.USAGE, "exclude"),
    S("start-service --endpoint ipc:///x", None, Exit.USAGE, "endpoints.control"),
    S("completion tcsh", None, Exit.USAGE, "tcsh"),
    S("--config /nowhere/c.json status", None, Exit.USAGE, "/nowhere/c.json"),
    # a silent daemon, and one that refuses
    S("status --timeout 1s", {"status": None}, Exit.TIMED_OUT, "no answer"),
    S("models", {"models": MgmtError("busy", "a queue is full")}, Exit.BUSY, "a queue is full"),
    S("models", {"models": MgmtError("denied", "you may not")}, Exit.DENIED, "you may not"),
    S("load-model nope", {"load-model": UNKNOWN}, Exit.UNKNOWN, "no model 'nope'"),
    S("load-model echo", {"load-model": MgmtError("start-failed", "it died")}, Exit.FAILED, "it died"),
    S("load-model echo", {"load-model": MgmtError("expired", "too slow")}, Exit.TIMED_OUT, "too slow"),
    S("load-model echo", {"load-model": MgmtError("stopping", "no")}, Exit.NOT_READY, "no"),
    # verbs, and verbs again
    S("load-model echo", {"load-model": LOADED}, Exit.OK, "Model loaded successfully on endpoint: ipc://"),
    S("load-model echo", {"load-model": {**LOADED, "already": True}}, Exit.OK, "already loaded"),
    S("load-model echo --no-wait", {"load-model": {**LOADED, "state": "STARTING"}}, Exit.OK, "is STARTING"),
    S("unload-model echo", {"unload-model": {"model": "echo", "units": ["echo"]}}, Exit.OK, "unloaded"),
    S("unload-model echo", {"unload-model": NOT_LOADED}, Exit.OK, "Model is not loaded"),
    S("start-service", {}, Exit.OK, "already running (pid 4711"),
    S("start-service --daemonize", {}, Exit.OK, "already running (pid 4711"),
    S("stop-service --no-wait", {"stop-service": {"message": "", "units": []}}, Exit.OK, "stop requested"),
    # status
    S("status", {"status": UNITS}, Exit.OK, "bad      FATAL"),
    S("status", {}, Exit.OK, "No models currently loaded"),
    S("status -o symphony", {}, Exit.OK, "Service Status: running"),
    S("status -o name ech*", {"status": UNITS}, Exit.OK, "echo\n"),
    S("status nope", {"status": UNITS}, Exit.UNKNOWN, "no model 'nope'"),
    S(
        "status echo nope",
        {"status": UNITS, "models": {"models": []}},
        Exit.PARTIAL,
        "no unit or model 'nope'",
    ),
    S("status echo", {"status": UNITS, "logs": log}, Exit.OK, "0-3,6"),
    S("models", {"models": {"models": [a_model(default=True)]}}, Exit.OK, "echo*"),
    # conditions
    S("is-ready echo", {"status": UNITS}, 0, "RUNNING"),
    S("is-ready slow", {"status": UNITS}, 3, "STARTING"),
    S("is-ready bad", {"status": UNITS}, 1, "FATAL"),
    S("is-ready nope", {"status": UNITS}, 4, "nope"),
    S("is-active slow", {"status": UNITS}, 0, "STARTING"),
    S("is-active bad", {"status": UNITS}, 1, "FATAL"),
    S("is-active nope", {"status": UNITS}, 4, "nope"),
    S("is-failed bad", {"status": UNITS}, 0, "FATAL"),
    S("is-failed echo", {"status": UNITS}, 1, "RUNNING"),
    S("is-failed nope", {"status": UNITS}, 4, "nope"),
    S("is-ready --monitor slow", {"status": UNITS}, 3, "STARTING"),
    S(
        "wait echo",
        {"wait": {"target": "echo", "condition": "ready", "state": "RUNNING"}},
        Exit.OK,
        "echo is ready",
    ),
    S("wait echo --for failed --timeout 1s", {"wait": None}, Exit.TIMED_OUT, "wait"),
    # logs
    S("logs echo", {"status": UNITS, "logs": log}, Exit.OK, "one\ntwo\nthr\n"),
    S("logs echo bad", {"status": UNITS, "logs": log}, Exit.OK, "[bad] two"),
    S("logs echo nope", {"status": UNITS, "logs": log}, Exit.PARTIAL, "nope"),
    S("logs nope", {"status": UNITS, "logs": log}, Exit.UNKNOWN, "nope"),
    # a model that cannot be asked
    S("request echo --text hi", {"lease": NOT_LOADED}, Exit.NOT_READY, "not loaded"),
    S("request echo --file /nowhere", {}, Exit.USAGE, "/nowhere"),
    # no daemon needed
    S("version", None, Exit.OK, "mgmt 0.1.0 (protocol 1)"),
    S("config schema", None, Exit.OK, "supported_models"),
    S("config schema mgmt.status/1", None, Exit.OK, "cpu_percent"),
    S("config schema nonsense", None, Exit.USAGE, "mgmt.status/1"),
    S("config check", None, Exit.OK, "valid"),
    S("config check /nowhere", None, Exit.USAGE, "there is no such file"),
    S("config show", None, Exit.OK, "heartbeat_s"),
    S("completion bash", None, Exit.OK, "_MGMT_COMPLETE"),
    S("completion zsh", None, Exit.OK, "_MGMT_COMPLETE"),
    S("completion fish", None, Exit.OK, "_MGMT_COMPLETE"),
]


@pytest.mark.parametrize("situation", SITUATIONS, ids=str)
def test_a_situation_has_its_exit_status_and_its_words(situation: Situation, folder: str) -> None:
    judge(situation, folder)


# Help and other forms are no JSON.
@pytest.mark.parametrize(
    "situation", [s for s in SITUATIONS if s.args and "-o" not in s.args.split()], ids=str
)
def test_with_json_every_line_of_stdout_satisfies_its_schema(situation: Situation, folder: str) -> None:
    judge_json(situation, folder)


def test_errors_exit_as_their_row_says(folder: str) -> None:
    for code, row in TABLE.items():
        with scripted(folder, {"models": MgmtError(code, "said by the daemon")}) as daemon:
            if code == "session-gone":
                continue  # answered by another hello, not shown
            result = run("models", "--endpoint", daemon.endpoint)
        assert (code, result.exit_code) == (code, row.exit)


def test_shared_options_count_before_and_after_the_command(folder: str) -> None:
    with scripted(folder, {"status": UNITS}) as daemon:
        before = run("--endpoint", daemon.endpoint, "--json", "--timeout", "5s", "status")
        after = run("status", "--timeout", "5s", "--json", "--endpoint", daemon.endpoint)
        by_environment = run("status", env={"MGMT_OUTPUT": "json", "MGMT_ENDPOINT": daemon.endpoint})
    assert before.stdout == after.stdout == by_environment.stdout
    assert json.loads(before.stdout)["units"][0]["unit"] == "bad"


def test_the_last_of_two_endpoints_is_the_commands_own(folder: str) -> None:
    with scripted(folder, {}) as daemon:
        assert run("--endpoint", "ipc:///nowhere", "status", "--endpoint", daemon.endpoint).exit_code == 0


def test_a_commands_config_does_not_move_the_endpoint(folder: str) -> None:
    """The configuration of the daemon and that of a backend are two things with one name."""
    with open(f"{folder}/mine.json", "w") as file:
        json.dump({"endpoints": {"control": "ipc://{runtime}/elsewhere"}}, file)
    with scripted(folder, {"load-model": LOADED}, "elsewhere") as daemon:
        result = run("--config", f"{folder}/mine.json", "load-model", "echo", "--config", "relative.yaml")
        assert result.exit_code == 0, result.output
        sent = dict(daemon.asked)["load-model"]
    assert sent["config_path"].startswith("/")
    assert sent["config_path"].endswith("/relative.yaml")


def test_the_configuration_in_its_usual_place_names_the_endpoint(folder: str) -> None:
    os.mkdir(f"{folder}/mgmt")
    with open(f"{folder}/mgmt/config.json", "w") as file:
        json.dump({"endpoints": {"control": f"ipc://{folder}/usual"}}, file)
    with scripted(folder, {}, "usual"):
        assert run("status").exit_code == 0


def test_a_status_asks_once(folder: str) -> None:
    with scripted(folder, {"status": UNITS}) as daemon:
        run("status")
        assert daemon.verbs() == ["status"]


def test_times_are_iso_8601_and_durations_seconds(folder: str) -> None:
    with scripted(folder, {"status": UNITS}):
        value = json.loads(run("status", "--json").stdout)
    bad = next(unit for unit in value["units"] if unit["unit"] == "bad")
    assert bad["last_exit"]["at"] == "2023-11-14T22:15:50.500Z"
    assert value["service"]["started_at"] == "2023-11-14T22:13:20.000Z"
    assert value["service"]["uptime_s"] == 192.0


def test_globs_choose_and_sort_orders(folder: str) -> None:
    units = status_of(a_unit("a", restarts=1), a_unit("b", restarts=9), a_unit("other"))
    with scripted(folder, {"status": units}):
        assert run("status", "[ab]*", "-o", "name").stdout == "a\nb\n"
        assert run("status", "-o", "name", "--sort", "restarts").stdout == "b\na\nother\n"


SNAPSHOT = {"seq": 3, "epoch": 42, "units": [], "events": [], "gap": False}


def test_events_show_the_past_and_then_end(folder: str) -> None:
    with scripted(folder, {"subscribe": {**SNAPSHOT, "events": [an_event(2), an_event(3)]}}) as daemon:
        result = run("events")
        assert daemon.asked[-1][1] == {"follow": False, "since": 0}
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [
        "     2  2023-11-14T22:13:22.250Z  echo  STARTING -> RUNNING pid 4712  ready",
        "     3  2023-11-14T22:13:23.250Z  echo  STARTING -> RUNNING pid 4712  ready",
    ]


def test_events_in_json_satisfy_their_schemas(folder: str) -> None:
    ended = an_event(2, state="FATAL", exit={"code": None, "signal": 9, "reason": "killed", "at": 1.5})
    said = {"kind": "daemon", "seq": 3, "at": 3.0, "what": "stopping", "reason": "asked"}
    moved = {"kind": "schedule", "seq": 4, "at": 4.0, "what": "removed", "workload": "w", "reason": "gone"}
    with scripted(folder, {"subscribe": {**SNAPSHOT, "events": [ended, said, moved]}}):
        result = run("events", "--json")
        assert run("events").stdout.endswith("schedule  removed  w  gone\n")
    values = [json.loads(line) for line in result.stdout.splitlines()]
    for value in values:
        jsonschema.validate(value, schema_of(value["schema"]))
    assert [value["seq"] for value in values] == [2, 3, 4]
    assert values[0]["exit"]["at"] == "1970-01-01T00:00:01.500Z"


def test_missing_events_are_not_passed_over_in_silence(folder: str) -> None:
    with scripted(folder, {"subscribe": {**SNAPSHOT, "gap": True}}):
        assert "events before 3 are missing" in run("events", "--since", "1").stderr


def test_monitor_ends_when_the_unit_is_no_longer_ready(folder: str) -> None:
    states = iter(["RUNNING", "RUNNING", "BACKOFF"])

    def status(_: dict[str, Any]) -> dict[str, Any]:
        return status_of(a_unit(state=next(states)))({})

    with scripted(folder, {"status": status, "subscribe": SNAPSHOT}) as daemon:
        daemon.events = [an_event(4, state="BACKOFF")]
        result = run("is-ready", "--monitor", "echo")
    assert (result.exit_code, result.stdout) == (3, "RUNNING\nBACKOFF\n")


def test_a_model_stands_for_its_worst_replica(folder: str) -> None:
    replicas = status_of(a_unit("m#0"), a_unit("m#1", state="BACKOFF", ready=False))
    with scripted(folder, {"status": replicas}):
        assert run("is-ready", "m").exit_code == 3
        assert run("is-ready", "m#0").exit_code == 0


def test_is_ready_of_a_model_that_was_never_loaded(folder: str) -> None:
    nothing = {"service": status_of()({})["service"], "units": []}
    with scripted(folder, {"status": nothing}):
        result = run("is-ready", "echo")
    assert (result.exit_code, result.stdout) == (3, "STOPPED\n")


def test_names_are_completed_from_the_daemon(folder: str) -> None:
    models = {"models": [a_model("llama", aliases=["l"]), a_model("echo")]}
    complete = {"_MGMT_COMPLETE": "bash_complete", "COMP_WORDS": "mgmt load-model ", "COMP_CWORD": "2"}
    with scripted(folder, {"models": models, "status": UNITS}):
        assert run(env=complete).stdout.split() == ["plain,llama", "plain,echo"]
        units = run(env={**complete, "COMP_WORDS": "mgmt status e"}).stdout.split()
    assert units == ["plain,echo"]
    assert run(env=complete).output.strip() == "", "silent without a daemon"


def test_completion_does_not_wait_for_a_silent_daemon(folder: str) -> None:
    complete = {"_MGMT_COMPLETE": "zsh_complete", "COMP_WORDS": "mgmt load-model ", "COMP_CWORD": "2"}
    with scripted(folder, {"hello": None, "models": None}):
        started = time.monotonic()
        assert run(env=complete).output.strip() == ""
    assert time.monotonic() - started < 1.5, "capped at 300 ms; the rest is this machine's"


def test_a_request_carries_one_value_each_way(folder: str) -> None:
    with scripted(folder, {}, model=lambda value: {"got": value, "raw": b"\x00", "at": 5}) as daemon:
        result = run("request", "echo", "--data", '{"a": [1, null]}')
        assert result.exit_code == 0, result.output
        eventually(lambda: daemon.verbs()[-1] == "release", what="the lease is given back")
        assert daemon.asked[-2:] == [
            ("lease", {"model": "echo", "mode": "direct", "load": False}),
            ("release", {"lease": 5}),
        ]
        value = json.loads(run("request", "echo", "--text", "hi", "--relay", "--load", "--json").stdout)
        eventually(lambda: daemon.verbs()[-3:] == ["release", "lease", "release"], what="and the second one")
        assert daemon.asked[-2][1] == {"model": "echo", "mode": "relay", "load": True}
    assert json.loads(result.stdout) == {"got": {"a": [1, None]}, "raw": {"base64": "AA=="}, "at": 5}
    jsonschema.validate(value, schema_of("mgmt.request/1"))
    assert value["answers"][0]["result"]["got"] == "hi"


def test_text_and_bytes_are_answered_as_they_are(folder: str) -> None:
    with scripted(folder, {}, model=lambda value: value):
        assert run("request", "echo", "--text", "grüße").stdout == "grüße\n"
        assert run("request", "echo", "--stdin", input=b"\x00\xff").stdout_bytes == b"\x00\xff"


def test_of_several_files_some_may_fail(folder: str) -> None:
    with open(f"{folder}/there.txt", "wb") as file:
        file.write(b"content")
    with scripted(folder, {}, model=lambda value: [len(value["data"])]):
        args = ("request", "echo", "--file", f"{folder}/there.txt", "--file", f"{folder}/missing")
        result, value = run(*args), json.loads(run(*args, "--json").stdout)
        assert run("request", "echo", "--file", "/x", "--file", "/y").exit_code == Exit.USAGE, "all failed"
    assert result.exit_code == Exit.PARTIAL
    assert f"{folder}/there.txt: [7]" in result.stdout
    assert "missing: No such file" in result.stderr
    jsonschema.validate(value, schema_of("mgmt.request/1"))


def test_a_refusing_backend_is_an_error_of_its_row(folder: str) -> None:
    def refuse(value: Any) -> Any:
        raise MgmtError("backend-error", f"cannot read {value}")

    with scripted(folder, {}, model=refuse):
        result = run("request", "echo", "--text", "this")
    assert (result.exit_code, result.stderr) == (Exit.FAILED, "error: cannot read this\n")


@pytest.mark.parametrize("command", ["status", "load-model m", "events", "top --once", "stop echo"])
def test_without_a_daemon_on_a_network_address_every_command_fails_at_once(command: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        endpoint = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
    began_s = time.monotonic()
    result = run(*command.split(), "--endpoint", endpoint)
    assert result.exit_code == Exit.UNREACHABLE
    assert f"no daemon at {endpoint}" in result.stderr and "mgmt start-service" in result.stderr
    assert time.monotonic() - began_s < 2.0
