"""The command as a process: starting and stopping a real daemon, signals, pipes and faults."""

from __future__ import annotations

import json
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from mgmt_cli.schemas import schema_of
from tests.system.place import BOUND_S, Place, until
from tests.unit.scripted_daemon import a_unit, scripted, status_of


def test_daemonize_returns_when_the_daemon_answers(place: Place) -> None:
    # Relative paths: the daemon has them made absolute.
    started = place.mgmt("start-service", "--daemonize", "--config", "config.json", "--log-level", "debug")
    assert started.returncode == 0, started.stderr
    pid = place.daemon_pid()
    assert f"pid {pid}, ipc://{place.folder}/run/control" in started.stdout
    assert pid is not None
    assert os.getsid(pid) == pid, "it has a session of its own"
    assert os.readlink(f"/proc/{pid}/fd/0") == "/dev/null"
    command = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    assert command[command.index("--config") + 1] == str(place.config)
    assert "DEBUG" in command

    again = place.mgmt("start-service", "--daemonize", "--config", "config.json")
    assert (again.returncode, again.stdout.split(",")[0]) == (
        0,
        f"Management service is already running (pid {pid}",
    )
    stopped = place.mgmt("stop-service")
    assert (stopped.returncode, stopped.stdout.splitlines()[-1]) == (0, "Management service stopped")
    assert place.mgmt("status").returncode == 5
    assert not list(place.folder.rglob("control")), "no socket is left"
    assert place.mgmt("stop-service").returncode == 0


def test_what_lies_in_the_callers_folder_is_not_the_daemon(place: Place) -> None:
    (place.folder / "mgmt").mkdir()
    (place.folder / "mgmt" / "__init__.py").write_text("raise SystemExit('a stranger')")
    # Called as it is installed: `python -m mgmt_cli` itself would look into the folder.
    command = [str(Path(sys.executable).with_name("mgmt")), "start-service", "--daemonize"]
    log = place.folder / "said"
    with log.open("w") as said:
        status = subprocess.run(
            command,
            check=False,
            stdout=said,
            stderr=said,
            timeout=BOUND_S,
            env=place.environ,
            cwd=place.folder,
        ).returncode
    assert status == 0, log.read_text()
    shutil.rmtree(place.folder / "mgmt")
    assert place.daemon_pid() is not None


def test_a_day_with_a_model(place: Place) -> None:
    """Every command of daily use against the real daemon and a real backend."""
    backend = {"kind": "native", "command": ["{python}", "-m", "mgmt_backends.echo"]}
    place.configure(
        default_model="echo",
        model_backends={"echo": backend, "broken": {**backend, "command": ["/bin/false"]}},
        supported_models=[{"name": "echo", "type": "echo"}, {"name": "broken", "type": "broken"}],
    )
    assert place.mgmt("--config", "config.json", "start-service", "--daemonize").returncode == 0
    assert place.mgmt("is-ready", "echo").returncode == 3
    loaded = place.mgmt("load-model", "echo")
    assert loaded.returncode == 0, loaded.stderr
    assert loaded.stdout.splitlines()[1].startswith("Model loaded successfully on endpoint: ipc://")
    assert "already loaded" in place.mgmt("load-model", "echo").stdout
    assert place.mgmt("is-ready", "echo").stdout == "RUNNING\n"
    assert place.mgmt("wait", "echo", "--for", "ready").returncode == 0
    assert "State:      RUNNING (ready)" in place.mgmt("status", "echo").stdout
    for way in ((), ("--relay",)):
        asked = place.mgmt("request", "echo", "--data", '{"n": [1, 2]}', *way)
        assert json.loads(asked.stdout) == {"n": [1, 2]}, asked.stderr
    assert place.mgmt("logs", "echo", "-n", "5").returncode == 0

    broken = place.mgmt("load-model", "broken")
    assert broken.returncode == 1
    assert "exit status 1" in broken.stderr
    assert place.mgmt("is-failed", "broken").returncode == 0

    assert place.mgmt("unload-model", "echo").stdout.splitlines()[-1] == "Model unloaded successfully"
    assert place.mgmt("unload-model", "echo").stdout.splitlines()[-1] == "Model is not loaded"
    events = [json.loads(line) for line in place.mgmt("events", "--json").stdout.splitlines()]
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    for event in events:
        jsonschema.validate(event, schema_of(event["schema"]))
    states = [event["state"] for event in events if event.get("unit") == "echo"]
    assert states == ["STARTING", "RUNNING", "STOPPING", "STOPPED"]
    for command, schema in (("status", "mgmt.status/1"), ("models", "mgmt.models/1")):
        jsonschema.validate(json.loads(place.mgmt(command, "--json").stdout), schema_of(schema))
    assert place.mgmt("stop-service").returncode == 0


def test_a_daemon_that_cannot_start_says_why(place: Place) -> None:
    place.configure(supported_models=3)
    done = place.mgmt("start-service", "--daemonize", "--config", "config.json")
    assert done.returncode == 1
    assert "Failed to start management service" in done.stdout
    assert "ended with status 2" in done.stderr
    assert "supported_models: must be an array" in done.stderr, "the end of its log"


def test_only_the_log_of_this_start_is_shown(place: Place) -> None:
    log = place.folder / "state" / "daemon.log"
    log.parent.mkdir()
    log.write_text("from another time\n")
    place.configure(nonsense=1)
    done = place.mgmt("start-service", "--daemonize", "--config", "config.json", "--json")
    error = json.loads(done.stdout)["error"]
    assert "another time" not in error["text"]
    assert "nonsense" in error["text"]


def test_in_the_foreground_the_command_becomes_the_daemon(place: Place) -> None:
    process = place.popen("start-service", "--config", "config.json")
    try:
        until(lambda: place.daemon_pid() == process.pid)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=BOUND_S)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, said


def test_ctrl_c_ends_the_waiting_and_not_the_load(place: Place) -> None:
    with scripted(str(place.folder), {"load-model": None}) as daemon:
        process = place.popen("load-model", "echo", "--endpoint", daemon.endpoint)
        until(lambda: "load-model" in daemon.verbs())
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=BOUND_S)
        assert daemon.verbs() == ["load-model"]
    assert process.returncode == 130
    assert said.splitlines() == [
        "the load goes on: mgmt wait echo --for ready, or mgmt unload-model echo",
        "error: interrupted",
    ]


def test_a_reader_that_goes_away_is_no_fault(place: Place) -> None:
    units = status_of(*(a_unit(f"unit-{number:04}") for number in range(2000)))
    with scripted(str(place.folder), {"status": units}) as daemon:
        reader, writer = os.pipe()
        os.close(reader)
        process = place.popen("status", "--endpoint", daemon.endpoint, stdout=writer)
        os.close(writer)
        _, said = process.communicate(timeout=BOUND_S)
    assert (process.returncode, said) == (128 + signal.SIGPIPE, "")


def test_following_a_log_shows_what_comes_and_ends_quietly(place: Place) -> None:
    chunks = [b"one\ntw", b"o\n", b""]

    def log(body: dict[str, Any]) -> dict[str, Any]:
        data = chunks.pop(0) if len(chunks) > 1 else b""
        return {"unit": "echo", "path": "/l", "data": data, "offset": 1, "inode": 1}

    with scripted(str(place.folder), {"logs": log, "status": status_of(a_unit())}) as daemon:
        process = place.popen("logs", "-f", "echo", "--endpoint", daemon.endpoint)
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(2)] == ["one\n", "two\n"]
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=BOUND_S)
    assert (process.returncode, said) == (130, "error: interrupted\n")


def test_a_fault_of_ours_is_one_line(place: Place) -> None:
    code = (
        "import mgmt_cli.status as s; s.overview = lambda *a: 1 / 0; from mgmt_cli.main import main; main()"
    )
    with scripted(str(place.folder), {}) as daemon:
        done = subprocess.run(
            [sys.executable, "-c", code, "status", "--endpoint", daemon.endpoint],
            capture_output=True,
            check=False,
            text=True,
            timeout=BOUND_S,
            env=place.environ,
        )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: a fault of mgmt itself: ZeroDivisionError: division by zero")
    assert "Traceback" not in done.stderr


def test_doctor_reports_what_it_tried(place: Place) -> None:
    done = place.mgmt("doctor", "--json")
    probes = {probe["probe"]: probe for probe in json.loads(done.stdout)["probes"]}
    needed = [probe for probe in probes.values() if probe["needed"] and probe["status"] != "ok"]
    assert done.returncode == (1 if needed else 0)
    assert probes["python"]["status"] == "ok"
    assert probes["daemon"]["status"] == "absent"
    assert probes["affinity"]["status"] == "ok"
    assert probes["SCHED_FIFO"]["status"] in ("ok", "refused")
    tried = {
        "SCHED_DEADLINE",
        "RLIMIT_RTPRIO",
        "clock source",
        "pidfd",
        "subreaper",
        "topology",
        "GPUs",
        "store",
    }
    assert tried <= probes.keys()
    assert probes["store"]["status"] == "absent"
    controllers = {name for name in probes if name.startswith("cgroup ")}
    assert controllers == {f"cgroup {name}" for name in ("cpu", "cpuset", "memory", "pids", "kill")}
    observers = [probes[f"observer {name}"] for name in ("ebpf", "perf", "schedstat")]
    assert observers[-1]["status"] == "ok" and all(probe["detail"] for probe in observers)
    assert not list(place.folder.glob("run/*")), "it leaves nothing"
    assert not list(place.folder.glob("state/*")), "not even a lock"
    place.configure(nonsense=1)
    wrong = place.mgmt("--config", "config.json", "doctor")
    assert wrong.returncode == 1
    assert "nonsense" in wrong.stdout


def test_a_terminal_sees_that_a_load_is_alive(place: Place) -> None:
    starting = status_of(a_unit(state="STARTING", ready=False))
    ours, theirs = pty.openpty()
    with scripted(str(place.folder), {"load-model": None, "status": starting}) as daemon:
        process = place.popen("load-model", "echo", "--endpoint", daemon.endpoint, stderr=theirs)
        os.close(theirs)
        drawn = b""
        while b"STARTING" not in drawn:
            assert select.select([ours], [], [], BOUND_S)[0], "nothing was drawn"
            drawn += os.read(ours, 4096)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=BOUND_S)
    os.close(ours)
    assert process.returncode == 130
    assert b"echo  STARTING" in drawn


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_accepts_its_completion_script(place: Place, shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    script = place.mgmt("completion", shell).stdout
    done = subprocess.run(
        [shell, "-n"], input=script, text=True, capture_output=True, timeout=BOUND_S, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
