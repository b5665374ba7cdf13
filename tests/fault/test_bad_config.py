"""Configurations that cannot be used: exit status 2, every fault with its path in the file, no traceback."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

from tests.system.daemon import Start


def file(**keys: Any) -> bytes:
    return json.dumps(keys).encode()


def with_model(**keys: Any) -> bytes:
    return file(model_backends={"t": "t.py"}, supported_models=[{"name": "m", "type": "t", **keys}])


def with_backend(**keys: Any) -> bytes:
    return file(model_backends={"t": {"kind": "native", "command": ["x"], **keys}})


BAD: dict[str, tuple[bytes, list[str]]] = {
    "empty": (b"", ["the file is empty"]),
    "no JSON": (b'{"logging": ', ["line 1 column 13"]),
    "a comma too much": (b'{"logging": {},\n}', ["line 2 column 1"]),
    "not UTF-8": (b'{"default_model": "\xff"}', ["line 1 column 20: not UTF-8 (byte 0xff)"]),
    "UTF-16": ("{}".encode("utf-16"), ["not UTF-8"]),
    "an array": (b"[]", ["must be an object, not an array"]),
    "null": (b"null", ["must be an object, not null"]),
    "too deep": (b'{"logging":' + b"[" * 1000 + b"]" * 1000 + b"}", ["nested deeper than 32 levels"]),
    "far too deep": (b"[" * 500_000, ["nested deeper"]),
    "too large": (b" " * (1 << 20) + b"{}", ["is larger than 1048576 bytes"]),
    "a key twice": (b'{"logging": {}, "logging": {}}', ["logging: this key is given twice"]),
    "not a number": (b'{"timing": {"heartbeat_s": NaN}}', ["timing.heartbeat_s: must be a finite number"]),
    "NUL": (b'{"default_model": "a\\u0000b"}', ["default_model: the text has a NUL character"]),
    "half a surrogate": (
        b'{"backend_path": "\\ud800"}',
        ["backend_path: the text has half of a surrogate pair"],
    ),
    "unknown key": (file(loging={}), ["loging: unknown key", "did you mean", "logging"]),
    "table of wrong type": (file(endpoints=[], logging="INFO"), ["endpoints: must be", "logging: must be"]),
    "level": (file(logging={"level": "LOUD"}), ["logging.level: must be one of"]),
    "format": (file(logging={"format": "%(nothing)s"}), ["logging.format: is no format of Python's logging"]),
    "endpoint": (file(endpoints={"control": "http://x"}), ["endpoints.control: 'http://x' is no endpoint"]),
    "endpoint too long": (
        file(endpoints={"control": "ipc:///" + "x" * 200}),
        ["endpoints.control: the socket path", "the system allows 107"],
    ),
    "endpoints equal": (
        file(endpoints={"control": "ipc:///tmp/a", "relay": "ipc:///tmp/a"}),
        ["control and relay are the same endpoint"],
    ),
    "model without type": (
        file(supported_models=[{"name": "m"}, {"type": "t"}]),
        ["supported_models[0].type: is required", "supported_models[1].name: is required"],
    ),
    "model name": (with_model(name="a/b"), ["supported_models[0].name: must start with a letter or digit"]),
    "model twice": (
        file(supported_models=[{"name": "m", "type": "t"}, {"name": "m", "type": "t"}]),
        ['supported_models[1].name: "m" is taken by supported_models[0].name'],
    ),
    "default model": (file(default_model="m"), ['default_model: "m" is no name or alias of a model']),
    "replicas": (with_model(replicas=0), ["supported_models[0].replicas: must be at least 1, not 0"]),
    "replicas as text": (with_model(replicas="2"), ["supported_models[0].replicas: must be"]),
    "cpus": (with_model(cpus="3-1"), ["supported_models[0].cpus: the range 3-1 runs backwards"]),
    "backend of wrong type": (
        file(model_backends={"t": 5}),
        ["model_backends.t: must be the name of a script or an object, not 5"],
    ),
    "native without command": (file(model_backends={"t": {"kind": "native"}}), ["needs a command"]),
    "placeholder": (
        with_backend(command=["{pythn}"]),
        ["unknown placeholder {pythn}; did you mean {python}?"],
    ),
    "negative grace": (with_backend(grace_s=-1), ["model_backends.t.grace_s: must be more than 0, not -1"]),
    "environment": (with_backend(env={"A=B": "x"}), ["'A=B' is no name of an environment variable"]),
    "signal": (with_backend(stop_signal="SIGWHAT"), ["model_backends.t.stop_signal: must be one of"]),
    "heartbeats": (
        file(timing={"heartbeat_s": 10.0, "session_timeout_s": 11.0}),
        ["timing: session_timeout_s (11) is less than two heartbeats"],
    ),
    "several at once": (
        file(
            default_model=1,
            logging={"level": "x"},
            limits={"max_units": 0},
            supported_models=[{"name": "m", "type": 1}],
        ),
        ["default_model: ", "logging.level: ", "limits.max_units: ", "supported_models[0].type: "],
    ),
}


# S4
@pytest.mark.parametrize("name", BAD)
def test_every_fault_is_told_with_its_path_and_status_2(start: Start, name: str) -> None:
    content, wanted = BAD[name]
    daemon = start(run=False)
    daemon.config_path.write_bytes(content)
    ended = daemon.run_to_end()
    assert ended.returncode == 2, ended.stderr
    for text in wanted:
        assert text in ended.stderr
    assert f"{daemon.config_path}: " in ended.stderr
    assert "mgmt config check" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert len(ended.stderr) < 20_000
    assert not daemon.runtime.exists()  # nothing was begun


# S4, §2.8.4
def test_a_missing_file_a_folder_and_a_pipe_are_told(start: Start) -> None:
    daemon = start(run=False)
    daemon.config_path.unlink()
    ended = daemon.run_to_end()
    assert (ended.returncode, "there is no such file" in ended.stderr) == (2, True)
    daemon.config_path.mkdir()
    ended = daemon.run_to_end()
    assert (ended.returncode, "is a folder" in ended.stderr) == (2, True)
    daemon.config_path.rmdir()
    os.mkfifo(daemon.config_path)
    ended = daemon.run_to_end()
    assert (ended.returncode, "no regular file" in ended.stderr) == (2, True)


# S5
def test_a_file_named_by_the_environment_must_exist(start: Start) -> None:
    daemon = start(environ={"MGMT_CONFIG": "/no/such/config.json"}, run=False)
    ended = daemon.run_to_end(without_config=True)
    assert ended.returncode == 2
    assert "/no/such/config.json: there is no such file" in ended.stderr


# S5
def test_the_files_of_the_search_are_read_in_their_order(start: Start) -> None:
    for source in ("environment", "user"):
        daemon = start(run=False)
        user = daemon.folder / "xdg" / "mgmt" / "config.json"
        user.parent.mkdir(parents=True)
        daemon.config_path.rename(user)
        if source == "environment":
            named = daemon.folder / "named.json"
            named.write_bytes(user.read_bytes())
            user.write_text("not read")
            daemon.environ["MGMT_CONFIG"] = str(named)
        daemon.start(without_config=True)
        chosen = daemon.folder / "named.json" if source == "environment" else user
        assert daemon.status()["service"]["config"] == str(chosen)


@pytest.mark.parametrize("folder", ["runtime", "state_dir"])
def test_a_folder_that_cannot_be_made_is_told(start: Start, folder: str) -> None:
    daemon = start(run=False)
    getattr(daemon, folder).write_text("a file is in the way")
    ended = daemon.run_to_end()
    assert ended.returncode in (1, 2)
    assert str(getattr(daemon, folder)) in ended.stderr
    assert "Traceback" not in ended.stderr
    getattr(daemon, folder).unlink()
