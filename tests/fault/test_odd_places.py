"""Endpoints that are taken, names that are not UTF-8, things that are not there: said in words."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from mgmt.protocol import defaults
from tests.system.daemon import Start, config, model, shipped


def test_a_tcp_endpoint_that_is_taken_is_named(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        endpoint = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        result = start(config(endpoints={"control": endpoint}), run=False).run_to_end()
    assert result.returncode == 1
    assert result.stderr.startswith(f"error: endpoint {endpoint} cannot be served: Address already in use")
    assert "Traceback" not in result.stderr


def test_an_address_of_another_machine_is_a_fault_of_the_configuration(start: Start) -> None:
    endpoint = "tcp://192.0.2.1:4444"  # reserved for documentation
    result = start(config(endpoints={"relay": endpoint}), run=False).run_to_end()
    assert result.returncode == 2
    assert result.stderr.startswith(f"error: endpoint {endpoint} cannot be served")
    assert "Traceback" not in result.stderr


def test_folders_whose_names_are_not_utf_8(start: Start, tmp_path: Path) -> None:
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    daemon = start(config({"echo": shipped("echo")}), environ={"MGMT_STATE_DIR": str(odd)})
    daemon.loaded("echo")
    assert "\\udcff/logs/echo.log" in daemon.unit("echo")["log"]


def test_a_model_with_the_longest_name_runs_and_has_its_log(start: Start) -> None:
    name = "n" * defaults.MAX_UNIT_NAME_CHARS
    daemon = start(config({"echo": shipped("echo")}, [model(name, "echo")]))
    daemon.loaded(name)
    assert Path(daemon.unit(name)["log"]).is_file()


def test_a_runtime_folder_that_no_endpoint_can_name(start: Start) -> None:
    result = start(config(), run=False, environ={"MGMT_RUNTIME_DIR": "/tmp/\udcff"}).run_to_end()
    assert result.returncode == 2
    assert "endpoints.control" in result.stderr and "MGMT_RUNTIME_DIR" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"command": ["/no/such program"]}, "exec /no/such program: No such file or directory"),
        ({"cwd": "/no/such/folder"}, "cwd /no/such/folder: No such file or directory"),
    ],
)
def test_what_is_missing_for_a_start_is_named(start: Start, keys: dict[str, object], said: str) -> None:
    daemon = start(config({"t": {**shipped("echo"), **keys}}, [model("m", "t")]))
    answer = daemon.legacy("load-model", model_name="m")
    assert answer["success"] is False
    assert answer["error"] == f"unit 'm' did not start: cannot start: {said}"


def test_an_offset_that_no_log_can_have_is_answered(start: Start) -> None:
    daemon = start(config({"echo": shipped("echo")}))
    daemon.loaded("echo")
    answer = daemon.control.reply(daemon.control.ask("logs", unit="echo", offset=1 << 63)).body
    assert answer["unit"] == "echo" and answer["offset"] <= 1 << 20  # as if somebody had emptied it
