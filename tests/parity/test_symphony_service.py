"""The service itself: its configuration, sockets, ownership, signals, log, and how it starts a backend.

The comment above each test names the rows of the parity table (docs/parity.md) that it shows.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import stat
import time
from pathlib import Path
from typing import Any

import pytest

from mgmt.config import load
from tests.parity.test_symphony_lifecycle import IGNORES_TERM, written
from tests.system.clients import eventually
from tests.system.daemon import ROOT, STUB, Daemon, Start, alive, config, model, script, symphony

ANCESTORS_CONFIG = ROOT / "tests" / "data" / "symphony_config.json"
IDLE_STOP_S = 1.0  # the ancestor's loop saw its flag up to a second later


# ---- configuration ----


# S3 S27
def test_the_ancestors_configuration_loads_unchanged() -> None:
    settings = load(ANCESTORS_CONFIG).settings
    assert settings.endpoints.client_handshake == "ipc:///tmp/symphony-ipc"
    assert settings.endpoints.cli_management == "ipc:///tmp/symphony-cli"
    assert settings.endpoints.model_socket_dir == "/tmp"
    names = [model.name for model in settings.supported_models]
    assert names == ["Llama-3.1-8B-Instruct", "Llama-3.2-1B-Instruct", "DeepSeek-V3-0324"]


# S3 S7 S10 S27: only its endpoints differ, so that it disturbs nobody
def test_a_daemon_runs_on_the_ancestors_configuration(start: Start) -> None:
    settings = json.loads(ANCESTORS_CONFIG.read_text())
    del settings["endpoints"]
    daemon = start(run=False)
    folder = daemon.folder / "theirs"
    folder.mkdir()
    shutil.copy(STUB, folder / "l4m_backend.py")
    daemon.arguments = ("--backend-path", str(folder))
    daemon.configure(settings)
    daemon.start()
    listed = daemon.legacy("list-models")["data"]["models"]
    assert [row["type"] for row in listed] == ["llama3", "llama3", "deepseek"]
    assert daemon.loaded("Llama-3.1-8B-Instruct")["model_type"] == "llama3"
    reply = daemon.legacy("load-model", model_name="llama-3.2-1b-instruct")
    assert reply["error"].endswith("Do you mean: Llama-3.2-1B-Instruct?")
    assert "deepseek_backend.py" in daemon.legacy("load-model", model_name="DeepSeek-V3-0324")["error"]


# S4
@pytest.mark.parametrize("level", ["DEBUG", "INFO", "WARNING", "WARN", "ERROR", "TRACE", "warning"])
def test_every_level_of_both_ancestors_is_accepted(start: Start, level: str) -> None:
    daemon = start(config(logging={"level": level}))
    assert daemon.legacy("status")["success"]


# ---- sockets ----


# S8 S16 S22, fault 5
def test_socket_files_exist_after_bind_and_are_gone_after_a_stop(start: Start) -> None:
    daemon = start(config({"stub": symphony()}))
    keys = ("client_handshake", "cli_management", "control", "relay")
    files = [Path(daemon.endpoint(key).removeprefix("ipc://")) for key in keys]
    for path in files:
        assert stat.S_ISSOCK(path.stat().st_mode)
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
    model = Path(daemon.loaded("stub")["endpoint"].removeprefix("ipc://"))
    assert stat.S_IMODE(model.stat().st_mode) == 0o600  # whatever mask the backend has
    assert daemon.stop() == 0
    assert not any(path.exists() for path in (*files, model))
    assert daemon.socket_files() == []


# fault 4
def test_a_second_daemon_on_the_same_state_folder_is_refused_by_pid(start: Start) -> None:
    daemon = start()
    second = start(daemon.config, folder=daemon.folder, runtime=daemon.folder / "other", run=False)
    ended = second.run_to_end()
    assert ended.returncode == 1
    assert f"another daemon (pid {daemon.pid})" in ended.stderr
    assert "mgmt stop-service" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert daemon.legacy("status")["success"]


# fault 4
@pytest.mark.parametrize("key", ["client_handshake", "cli_management", "control", "relay"])
def test_a_second_daemon_on_the_same_endpoint_is_refused_by_pid(start: Start, key: str) -> None:
    first = start()
    second = start(config(endpoints={key: first.endpoint(key)}), run=False)
    ended = second.run_to_end()
    assert ended.returncode == 1
    assert f"another process (pid {first.pid}) serves {first.endpoint(key)}" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert second.socket_files() == []  # what it bound before is gone again
    assert first.legacy("status")["success"]
    assert first.handshake() == []
    assert first.status()["service"]["pid"] == first.pid


# fault 4: even one that is no daemon of ours
def test_a_live_socket_of_a_stranger_is_never_removed(start: Start) -> None:
    daemon = start(run=False)
    daemon.runtime.mkdir()
    path = daemon.runtime / "symphony-cli"
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.bind(str(path))
        stranger.listen()
        ended = daemon.run_to_end()
        assert ended.returncode == 1
        assert f"another process (pid {os.getpid()}) serves" in ended.stderr
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
    path.unlink()


# fault 4
def test_stale_socket_files_are_removed_and_other_files_are_not(start: Start) -> None:
    daemon = start(run=False)
    daemon.runtime.mkdir()
    for name in ("symphony-ipc", "symphony-cli", "control", "relay"):
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(daemon.runtime / name))
    neighbour = daemon.sockets / "symphony-model-00000000"
    with socket.socket(socket.AF_UNIX) as live:
        live.bind(str(neighbour))
        live.listen()
        daemon.start()
        assert daemon.legacy("status")["success"]
        assert daemon.handshake() == []
        assert neighbour.exists()  # the ancestor removed every symphony-* file at start
        daemon.stop()
        assert neighbour.exists()
    neighbour.unlink()


# fault 4
def test_a_regular_file_in_the_place_of_a_socket_is_kept(start: Start) -> None:
    daemon = start(run=False)
    daemon.runtime.mkdir()
    path = daemon.runtime / "symphony-cli"
    path.write_text("precious")
    ended = daemon.run_to_end()
    assert ended.returncode != 0
    assert f"endpoint ipc://{path} cannot be used: the file there is no socket" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert path.read_text() == "precious"
    path.unlink()


# fault 6, in part: the folders of a killed daemon can be used again
def test_a_daemon_starts_after_one_that_was_killed(start: Start) -> None:
    daemon = start()
    daemon.kill()
    assert (daemon.runtime / "control").exists()
    daemon.start()
    assert daemon.legacy("status")["success"]
    assert daemon.stop() == 0
    daemon.clean = True


# ---- signals ----


# S17 S20
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_stop_signal_ends_an_idle_daemon_at_once(start: Start, number: signal.Signals) -> None:
    daemon = start()
    begin = time.monotonic()
    assert daemon.stop(number) == 0
    assert time.monotonic() - begin < IDLE_STOP_S
    assert f"stopping: {number.name}" in daemon.log()


# S17 S20: busy
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_stop_signal_ends_a_busy_daemon_in_order(start: Start, number: signal.Signals) -> None:
    models = [model("running", "stub"), model("starting", "slow")]
    daemon = start(config({"stub": symphony(), "slow": symphony("--delay-s", "60")}, models))
    pid = daemon.loaded("running")["pid"]
    loading = daemon.legacy_peer()
    loading.ask("load-model", model_name="starting")
    daemon.reaches("starting", "STARTING")
    assert daemon.stop(number) == 0
    answer = loading.answer()  # the load that was under way is told, not dropped
    assert answer["success"] is False
    assert "stopping" in answer["error"]
    assert not alive(pid)


# S20
def test_a_second_stop_signal_is_fast(start: Start) -> None:
    daemon = start(run=False)
    path = written(daemon.folder, "deaf.py", IGNORES_TERM)
    daemon.configure(config({"deaf": {**script(path), "grace_s": 60.0}}))
    daemon.start()
    pid = daemon.loaded("deaf")["pid"]
    daemon.send_signal(signal.SIGTERM)
    daemon.reaches("deaf", "STOPPING")
    status = daemon.legacy("status")["data"]
    assert (status["service_status"], status["is_running"]) == ("stopping", False)  # S17
    assert daemon.legacy("load-model", model_name="deaf")["error"].startswith("the daemon is stopping")
    begin = time.monotonic()
    assert daemon.stop(signal.SIGINT) == 0
    assert time.monotonic() - begin < 5
    assert not alive(pid)


# S20, fault 17
def test_a_hangup_is_survived_and_answered_in_the_log(start: Start) -> None:
    daemon = start(config({"stub": symphony()}))
    pid = daemon.loaded("stub")["pid"]
    for _ in range(3):
        daemon.send_signal(signal.SIGHUP)
    eventually(lambda: daemon.log().count("SIGHUP: applying") >= 1, what="the message")
    assert alive(pid)
    assert daemon.legacy("status")["data"]["model_count"] == 1


# S17 S23: the answer leaves before the end
def test_stop_service_answers_and_ends(start: Start) -> None:
    daemon = start(config({"stub": symphony()}))
    pid = daemon.loaded("stub")["pid"]
    reply = daemon.legacy("stop-service")
    assert reply["success"] is True
    assert reply["data"] == {"message": "Service shutdown requested"}
    assert daemon.wait() == 0
    assert not alive(pid)


# ---- the log ----


# fault 17: INFO on the command line outranks the file, too
@pytest.mark.parametrize(
    ("file", "argument", "has_info"),
    [
        ("ERROR", "INFO", True),
        ("INFO", "ERROR", False),
        ("WARNING", None, False),
        ("DEBUG", "warning", False),
    ],
)
def test_a_level_of_the_command_line_outranks_the_files(
    start: Start, file: str, argument: str | None, has_info: bool
) -> None:
    daemon = start(config(logging={"level": file}), *(("--log-level", argument) if argument else ()))
    daemon.stop()
    assert (" - INFO - " in daemon.log()) is has_info


def test_a_wrong_argument_is_a_usage_error(start: Start) -> None:
    daemon = start(config(), "--log-level", "LOUD", run=False)
    ended = daemon.run_to_end()
    assert ended.returncode == 2
    assert "--log-level" in ended.stderr
    assert "Traceback" not in ended.stderr


# S3
def test_the_format_of_the_configuration_is_used_under_the_ancestors_logger(start: Start) -> None:
    daemon = start(
        config(logging={"format": "%(levelname)s|%(name)s|%(asctime)s|%(message)s", "date_format": "%Y"})
    )
    daemon.stop()
    assert re.search(rf"^INFO\|symphony-mgmt\|20\d\d\|ready: pid {daemon.pid}, ", daemon.log(), re.MULTILINE)


def test_the_json_style_is_one_object_a_line(start: Start) -> None:
    daemon = start(config({"stub": symphony()}, logging={"style": "json"}))
    daemon.loaded("stub")
    daemon.stop()
    lines = [json.loads(line) for line in daemon.log().splitlines()]
    assert all({"time", "level", "logger", "text"} <= set(line) for line in lines)
    assert all(re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"]) for line in lines)
    assert any(line.get("unit") == "stub" and "RUNNING" in line["text"] for line in lines)


# ---- how a backend is started ----


def dumped(path: Path) -> dict[str, Any]:
    eventually(path.exists, what=f"{path} is written")
    facts: dict[str, Any] = json.loads(path.read_text())
    return facts


# S9
def test_argv_environment_and_folder_of_a_backend(start: Start) -> None:
    daemon = start(run=False)
    dump, work = daemon.folder / "dump.json", daemon.folder / "work"
    work.mkdir()
    backend = symphony("--dump", str(dump), cwd=str(work), env={"OF_BACKEND": "{model}", "BOTH": "backend"})
    row = model("m", "stub", fullname="org/M", env={"BOTH": "model", "OF_MODEL": "{fullname}"})
    daemon.configure(config({"stub": backend}, [row]))
    daemon.start()
    endpoint = daemon.loaded("m")["endpoint"]
    facts = dumped(dump)
    assert facts["argv"][:1] == [str(STUB)]
    assert facts["argv"][1:5] == ["--ipc-endpoint", endpoint, "--model-name", "org/M"]
    assert facts["cwd"] == str(work)
    assert facts["pid"] == daemon.unit("m")["pid"]
    env = facts["env"]
    assert (env["OF_BACKEND"], env["OF_MODEL"], env["BOTH"]) == ("m", "org/M", "model")
    assert env["MGMT_UNIT"] == "m"
    assert env["PATH"] == daemon.environ["PATH"]


# S9, fault 14: the shipped backends need --model-name
def test_a_backend_given_as_a_script_gets_both_arguments(start: Start) -> None:
    daemon = start(run=False)
    source = "import runpy, sys\nopen({!r}, 'w').write(repr(sys.argv))\nsys.argv[0] = {!r}\n"
    source += "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    written(daemon.folder, "theirs.py", source.format(str(daemon.folder / "argv"), str(STUB)))
    daemon.configure(config({"t": "theirs.py"}, [model("m", "t", fullname="org/M")]))
    daemon.start()
    endpoint = daemon.loaded("m")["endpoint"]
    argv = [str(daemon.folder / "theirs.py"), "--ipc-endpoint", endpoint, "--model-name", "org/M"]
    assert (daemon.folder / "argv").read_text() == repr(argv)


# S1 S19
def test_a_config_path_reaches_a_backend_that_has_a_place_for_it(start: Start) -> None:
    daemon = start(run=False)
    dump = daemon.folder / "dump.json"
    takes = symphony("--dump", str(dump), env={"CONFIG": "{config_path}"})
    daemon.configure(config({"takes": takes, "ignores": symphony()}))
    daemon.start()
    for name in ("takes", "ignores"):
        assert daemon.legacy("load-model", model_name=name, config_path="/some/where.toml")["success"]
    assert dumped(dump)["env"]["CONFIG"] == "/some/where.toml"
    assert "ignores: config_path '/some/where.toml' is ignored" in daemon.log()
    assert "takes: config_path" not in daemon.log()


SEARCHED: dict[str, dict[str, Any]] = {
    # where the script lies, seen from the daemon's folder -> what else is needed to find it
    "flag/b.py": {"arguments": ["--backend-path", "flag"]},
    "flag/backend/b.py": {"arguments": ["--backend-path", "flag"]},
    "flag/backends/b.py": {"arguments": ["--backend-path", "flag"]},
    "told/b.py": {"backend_path": "told"},
    "told/backends/b.py": {"backend_path": "told"},
    "b.py": {},
    "backends/b.py": {},
    "one/b.py": {"cwd": "one/two/three"},
    "b.py ": {"cwd": "1/2/3/4/5"},
}


# S10
@pytest.mark.parametrize("place", SEARCHED)
def test_a_backend_script_is_found_in_each_place_of_the_search(start: Start, place: str) -> None:
    how = SEARCHED[place]
    daemon = start(run=False)
    path = daemon.folder / place.strip()
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(STUB, path)
    daemon.cwd = daemon.folder / how.get("cwd", "")
    daemon.cwd.mkdir(parents=True, exist_ok=True)
    daemon.arguments = tuple(how.get("arguments", ()))
    more = {"backend_path": how["backend_path"]} if "backend_path" in how else {}
    daemon.configure(config({"b": "b.py"}, **more))
    daemon.start()
    pid = daemon.loaded("b")["pid"]
    assert str(path) in Path(f"/proc/{pid}/cmdline").read_text().split("\0")


# S10
def test_the_order_of_the_search(start: Start) -> None:
    daemon = start(run=False)
    order = ["flag", "told", "."]
    for name in order:
        (daemon.folder / name).mkdir(exist_ok=True)
        shutil.copy(STUB, daemon.folder / name / "b.py")
    # Five levels up from there is our own folder: what lies in /tmp is never found.
    daemon.cwd = daemon.folder / "1/2/3/4/5"
    daemon.cwd.mkdir(parents=True)
    daemon.arguments = ("--backend-path", str(daemon.folder / "flag"))
    daemon.configure(config({"b": "b.py"}, backend_path=str(daemon.folder / "told")))
    daemon.start()
    for name in order:
        path = daemon.folder / name / "b.py"
        pid = daemon.loaded("b")["pid"]
        assert str(path) in Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        daemon.legacy("unload-model", model_name="b")
        path.unlink()
    error = daemon.legacy("load-model", model_name="b")["error"]
    places = [str(daemon.folder / name / "b.py") for name in ("flag", "told")]
    assert error.index(places[0]) < error.index(places[1]) < error.index(f"\n  {daemon.folder / 'b.py'}")


# S34, and S9: set before exec, so every thread has it
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs 2 CPUs")
@pytest.mark.parametrize("cpus", ["0", "1", "0-1"])
def test_a_pinned_backend_runs_on_its_cpus_alone(start: Start, cpus: str) -> None:
    daemon = start(run=False)
    dump = daemon.folder / "dump.json"
    daemon.configure(config({"stub": symphony("--dump", str(dump))}, [model("m", "stub", cpus=cpus)]))
    daemon.start()
    pid = daemon.loaded("m")["pid"]
    promised = {0, 1} if cpus == "0-1" else {int(cpus)}
    assert set(dumped(dump)["affinity"]) == promised
    threads = [int(name) for name in os.listdir(f"/proc/{pid}/task")]
    assert len(threads) > 1  # libzmq has threads of its own
    assert {frozenset(os.sched_getaffinity(thread)) for thread in threads} == {frozenset(promised)}
    assert daemon.unit("m")["cpus"] == sorted(promised)
    assert daemon.status()["service"]["counters"].get("mask_violations", 0) == 0


# ---- output of a backend ----


# fault 16
def test_output_that_is_no_text_neither_blocks_the_backend_nor_is_lost(start: Start) -> None:
    daemon = start(run=False)
    source = f"import os, sys\nos.write(1, bytes(range(256)) * 4096)\nsys.argv[0] = {str(STUB)!r}\n"
    source += "import runpy\nrunpy.run_path(sys.argv[0], run_name='__main__')\n"
    path = written(daemon.folder, "noisy.py", source)
    daemon.configure(config({"noisy": script(path, "--ipc-endpoint", "{endpoint}")}))
    daemon.start()
    daemon.loaded("noisy")
    eventually(lambda: daemon.unit_log("noisy").stat().st_size > 1 << 20, what="all of it is captured")
    assert daemon.unit_log("noisy").read_bytes().startswith(bytes(range(256)) * 4096)
    data = daemon.control.ok("logs", unit="noisy", lines=1)["data"]
    assert b"serving" in data


def test_the_helper_sees_what_a_daemon_leaves() -> None:
    """The checks at the end of each test can fail: a daemon that is killed leaves its backends."""
    with Daemon(config({"stub": symphony()})) as daemon:
        daemon.start()
        pid = daemon.loaded("stub")["pid"]
        daemon.kill()
        assert pid in daemon.children()
        assert daemon.socket_files() != []
    assert not alive(pid)
