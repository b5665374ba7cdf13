"""config.json: what loads, what is refused and in which words, which file is read, where things are found."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mgmt import config, strictjson
from mgmt.config import load, parse, search_path
from mgmt.core.models import Registry
from mgmt.launch import Found, find_backend_script, launch
from mgmt.protocol import defaults, places
from mgmt.protocol.errors import MgmtError
from mgmt.settings import BackendSettings, ModelSettings, Settings, parse_cpus
from mgmt.settings.relations import find_cycle
from mgmt.shell.logs import archive_name

ROOT = Path(__file__).parents[2]
ANCESTOR = ROOT / "tests" / "data" / "symphony_config.json"
RUNTIME, STATE = Path("/r"), Path("/s")


def a_backend(**keys: Any) -> dict[str, Any]:
    return {"command": ["run"], **keys}


def a_model(name: str = "m", type: str = "t", **keys: Any) -> dict[str, Any]:
    return {"name": name, "type": type, **keys}


def with_backend(**keys: Any) -> dict[str, Any]:
    return {"model_backends": {"t": a_backend(**keys)}}


def with_units(**units: dict[str, Any]) -> dict[str, Any]:
    return {"units": {name: {"command": ["run"], **keys} for name, keys in units.items()}}


def with_model(**keys: Any) -> dict[str, Any]:
    return {"supported_models": [a_model(**keys)]}


def problems_of(value: object) -> dict[str, str]:
    """path -> problem of a value that must be refused."""
    with pytest.raises(MgmtError) as caught:
        parse(value, runtime=RUNTIME, state=STATE)
    assert caught.value.code == "bad-config"
    found = {item["path"]: item["problem"] for item in caught.value.detail["problems"]}
    assert len(found) == len(caught.value.detail["problems"])
    return found


# --- what loads ---


def test_the_ancestors_file_loads_unchanged_with_every_value() -> None:
    raw = json.loads(ANCESTOR.read_text())
    loaded = load(ANCESTOR)
    settings = loaded.settings
    assert (loaded.path, loaded.source) == (ANCESTOR, "flag")
    assert {name: backend.script for name, backend in settings.model_backends.items()} == raw[
        "model_backends"
    ]
    assert {backend.kind for backend in settings.model_backends.values()} == {"symphony"}
    assert settings.endpoints.client_handshake == raw["endpoints"]["client_handshake"]
    assert settings.endpoints.cli_management == raw["endpoints"]["cli_management"]
    assert settings.logging.model_dump(exclude={"style"}) == raw["logging"]
    models = [model.model_dump(include={"name", "fullname", "type"}) for model in settings.supported_models]
    assert models == raw["supported_models"]
    assert settings.default_model is None
    assert settings.backend_path is None
    assert settings.warnings() == []


def test_the_repositorys_file_loads_and_its_default_model_can_be_loaded() -> None:
    settings = load(ROOT / "config.json", runtime=RUNTIME).settings
    by_name = {model.name: model for model in settings.supported_models}
    assert settings.default_model == "magika"
    assert settings.model_backends[by_name["magika"].type].kind == "native"
    assert settings.backend_path == str(ROOT / "backends")
    assert settings.endpoints.client_handshake == "ipc:///r/symphony-ipc"
    assert settings.endpoints.cli_management == "ipc:///r/symphony-cli"
    assert settings.warnings() == []


def test_an_empty_object_is_the_table_of_defaults() -> None:
    settings = parse({}, runtime=RUNTIME)
    assert settings.endpoints.served() == {
        "client_handshake": "ipc:///tmp/symphony-ipc",
        "cli_management": "ipc:///tmp/symphony-cli",
        "control": "ipc:///r/control",
        "relay": "ipc:///r/relay",
        "nodes": "ipc:///r/nodes",
    }
    assert "nodes" not in parse({"endpoints": {"nodes": None}}, runtime=RUNTIME).endpoints.served()
    assert settings.endpoints.model_socket_dir == "/tmp"
    for table in (settings.limits, settings.timing):
        for key, value in table.model_dump().items():
            assert value == getattr(defaults, key.upper())


def test_a_backend_has_the_documented_defaults() -> None:
    backend = parse(with_backend()).model_backends["t"]
    nothing = dict.fromkeys(("group", "user", "umask", "oom_score_adj", "timer_slack_us", "log_max_age_s"))
    probes = dict.fromkeys(("startup", "ready", "live"))
    hooks = dict.fromkeys(("pre_start", "post_start", "pre_stop", "post_stop"))
    assert backend.model_dump() == {
        **nothing,
        "after": {},
        "requires": {},
        "wants": {},
        "autostart": False,
        "node": None,
        "on_node_lost": "keep",
        "log_compress": False,
        "probes": probes,
        "hooks": hooks,
        "rlimits": {},
        "resources": dict.fromkeys(("memory_max_mb", "cpu_max_percent", "pids_max")),
        "scheduling": {
            "policy": "other",
            **dict.fromkeys(("priority", "runtime_us", "deadline_us", "period_us")),
        },
        "placement": {
            "cpus": None,
            "exclusive": False,
            "layout": "compact",
            "numa_node": None,
            "gpus": 0,
            "memory_mb": None,
        },
        "kind": "native",
        "command": ("run",),
        "script": None,
        "env": {},
        "cwd": None,
        "cpus": None,
        "nice": 0,
        "restart": {
            "policy": "on-failure",
            "delay_s": 1.0,
            "delay_max_s": 60.0,
            "factor": 2.0,
            "jitter": 0.1,
            "limit": 5,
            "window_s": 300.0,
        },
        "success_exit_codes": (0,),
        "ready_timeout_s": 60.0,
        "stop_signal": "TERM",
        "grace_s": 10.0,
        "log_max_bytes": 10 * 1024 * 1024,
        "log_keep": 5,
    }


def test_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        parse({}).default_model = "x"  # type: ignore[misc] # the point of the test


@pytest.mark.parametrize(
    ("written", "level", "number"),
    [
        ("DEBUG", "DEBUG", 10),
        ("info", "INFO", 20),
        ("Warning", "WARNING", 30),
        ("WARN", "WARN", 30),
        ("error", "ERROR", 40),
        ("trace", "TRACE", 5),
    ],
)
def test_log_levels_of_both_ancestors_in_any_case(written: str, level: str, number: int) -> None:
    logging = parse({"logging": {"level": written}}).logging
    assert (logging.level, logging.level_number) == (level, number)


@pytest.mark.parametrize("written", ["INT", "SIGINT", "sigint"])
def test_stop_signal_with_and_without_prefix(written: str) -> None:
    assert parse(with_backend(stop_signal=written)).model_backends["t"].stop_signal == "INT"


def test_fullname_is_the_name_when_absent() -> None:
    assert parse(with_model(name="m")).supported_models[0].fullname == "m"


def test_endpoints_expand_both_folders_and_keep_tcp() -> None:
    endpoints = {"control": "ipc://{state}/c", "relay": "tcp://[::1]:7000", "model_socket_dir": "{runtime}/m"}
    settings = parse({"endpoints": endpoints}, runtime=RUNTIME, state=STATE)
    assert settings.endpoints.control == "ipc:///s/c"
    assert settings.endpoints.relay == "tcp://[::1]:7000"
    assert settings.endpoints.model_socket_dir == "/r/m"


def test_relative_folders_are_meant_from_the_file(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"backend_path": "b", **with_backend(cwd="w")}))
    settings = load(file).settings
    assert settings.backend_path == str(tmp_path / "b")
    assert settings.model_backends["t"].cwd == str(tmp_path / "w")
    file.write_text(json.dumps({"backend_path": "/abs"}))
    assert load(file).settings.backend_path == "/abs"


@pytest.mark.parametrize(
    ("text", "cpus"),
    [
        ("0", (0,)),
        ("0-3,6", (0, 1, 2, 3, 6)),
        ("6, 0-1 ,1", (0, 1, 6)),
        (str(defaults.MAX_CPU), (defaults.MAX_CPU,)),
    ],
)
def test_cpu_lists(text: str, cpus: tuple[int, ...]) -> None:
    assert parse_cpus(text) == cpus


# --- what is refused ---

ALIAS = "supported_models[1].aliases[0]"
NAME = "supported_models[0].name"
REPLICA = 'its replica "m.0" has the name of supported_models[0].name'
NOT_A_NAME = "must start with a letter or digit and hold only letters, digits and . _ + : -"

REFUSED: list[tuple[Any, str, str]] = [
    # unknown keys
    ({"modle_backends": {}}, "modle_backends", 'unknown key, did you mean "model_backends"?'),
    ({"zzz": 1}, "zzz", "unknown key; known are model_backends, supported_models"),
    (with_backend(scirpt="x"), "model_backends.t.scirpt", 'did you mean "script"?'),
    (with_backend(restart={"polcy": "no"}), "model_backends.t.restart.polcy", 'did you mean "policy"?'),
    (with_model(replica=2), "supported_models[0].replica", 'did you mean "replicas"?'),
    ({"model_backends": {"a b": {"Kind": "x"}}}, 'model_backends["a b"].Kind', 'did you mean "kind"?'),
    # wrong types
    ({"model_backends": []}, "model_backends", "must be an object, not an array"),
    ({"model_backends": {"t": 5}}, "model_backends.t", "must be the name of a script or an object, not 5"),
    ({"model_backends": {"t": ""}}, "model_backends.t.script", "must not be empty"),
    ({"supported_models": {}}, "supported_models", "must be an array, not an object"),
    ({"supported_models": ["m"]}, "supported_models[0]", 'must be an object, not "m"'),
    ({"supported_models": [{"type": "t"}]}, "supported_models[0].name", "is required"),
    ({"supported_models": [{"name": "m"}]}, "supported_models[0].type", "is required"),
    ({"endpoints": None}, "endpoints", "must be an object, not null"),
    ({"logging": {"level": 10}}, "logging.level", "must be one of 'TRACE'"),
    ({"default_model": 7}, "default_model", "must be a string, not 7"),
    (with_model(replicas="2"), "supported_models[0].replicas", 'must be a whole number, not "2"'),
    (with_model(replicas=True), "supported_models[0].replicas", "must be a whole number, not true"),
    (with_model(replicas=1.5), "supported_models[0].replicas", "must be a whole number, not 1.5"),
    (with_backend(grace_s="1"), "model_backends.t.grace_s", 'must be a number, not "1"'),
    (with_backend(command="run"), "model_backends.t.command", 'must be an array, not "run"'),
    (with_backend(env={"A": 1}), "model_backends.t.env.A", "must be a string, not 1"),
    # bounds
    (with_model(replicas=0), "supported_models[0].replicas", "must be at least 1, not 0"),
    (with_model(replicas=65), "supported_models[0].replicas", "must be at most 64, not 65"),
    (with_backend(grace_s=0), "model_backends.t.grace_s", "must be more than 0, not 0"),
    (with_backend(nice=20), "model_backends.t.nice", "must be at most 19, not 20"),
    (with_backend(success_exit_codes=[0, 256]), "model_backends.t.success_exit_codes[1]", "at most 255"),
    (with_backend(command=[]), "model_backends.t.command", "must not be empty"),
    ({"limits": {"max_units": 0}}, "limits.max_units", "must be at least 1"),
    ({"timing": {"heartbeat_s": float("nan")}}, "timing.heartbeat_s", "must be"),
    # values with a form of their own
    (with_backend(cpus="3-1"), "model_backends.t.cpus", "the range 3-1 runs backwards"),
    (with_backend(cpus="0,,1"), "model_backends.t.cpus", "write a list such as 0-3,6"),
    (with_backend(cpus="99999"), "model_backends.t.cpus", "CPU 99999 is beyond the highest"),
    (with_backend(cpus=""), "model_backends.t.cpus", "must not be empty"),
    (with_model(cpus="all"), "supported_models[0].cpus", "'all' is no CPU number or range"),
    (with_model(name="a/b"), "supported_models[0].name", NOT_A_NAME),
    (with_model(name="../x"), "supported_models[0].name", NOT_A_NAME),
    (with_model(name="n" * 129), "supported_models[0].name", "at most 128 characters"),
    (with_units(**{"u" * 129: {}}), "units[" + '"' + "u" * 76 + "...]", "at most 128 characters"),
    (with_units(**{"a/b": {}}), 'units["a/b"]', NOT_A_NAME),
    (with_model(fullname="n" * 257), "supported_models[0].fullname", "at most 256 characters"),
    (with_model(aliases=["ok", "no good"]), "supported_models[0].aliases[1]", NOT_A_NAME),
    (with_model(options={"a.b": "x"}), "supported_models[0].options", "'a.b' is no option name"),
    (with_backend(env={"A=B": "x"}), "model_backends.t.env", "'A=B' is no name of an environment variable"),
    (with_backend(stop_signal="STOP"), "model_backends.t.stop_signal", "must be one of 'TERM'"),
    (with_backend(restart={"policy": "sometimes"}), "model_backends.t.restart.policy", "must be one of 'no'"),
    ({"logging": {"level": "LOUD"}}, "logging.level", 'not "LOUD"'),
    ({"logging": {"style": "xml"}}, "logging.style", "must be one of 'console' or 'json'"),
    ({"logging": {"format": "%(nope)s"}}, "logging.format", "is no format of Python's logging"),
    ({"logging": {"format": "%(message)99999999s"}}, "logging.format", "pads to thousands"),
    # templates
    (with_backend(command=["run", "{modle}"]), "model_backends.t.command", "did you mean {model}?"),
    (with_backend(command=["run", "{zzz}"]), "model_backends.t.command", "(write {{zzz}} for the text"),
    (with_backend(command=[""]), "model_backends.t.command", "the first element is the program"),
    (with_backend(env={"A": "{zzz}"}), "model_backends.t.env", "unknown placeholder {zzz}"),
    ({"model_backends": {"t": {"kind": "native"}}}, "model_backends.t", "needs a command"),
    ({"model_backends": {"t": {"kind": "symphony"}}}, "model_backends.t", "needs a script"),
    (with_backend(command=["{python}", "{script}"]), "model_backends.t", "needs a script"),
    # endpoints
    ({"endpoints": {"control": ""}}, "endpoints.control", "must not be empty"),
    ({"endpoints": {"control": "ipc://relative"}}, "endpoints.control", "'ipc://relative' is no endpoint"),
    ({"endpoints": {"control": "tcp://host"}}, "endpoints.control", "tcp://HOST:PORT"),
    ({"endpoints": {"control": "tcp://host:70000"}}, "endpoints.control", "is no endpoint"),
    ({"endpoints": {"control": "ipc://{home}/c"}}, "endpoints.control", "known are {runtime} and {state}"),
    ({"endpoints": {"control": "ipc:///" + "x" * 107}}, "endpoints.control", "has 108 bytes"),
    ({"endpoints": {"relay": "ipc://{runtime}/control"}}, "endpoints", "control and relay are the same"),
    ({"endpoints": {"model_socket_dir": "tmp"}}, "endpoints.model_socket_dir", "not an absolute folder"),
    ({"endpoints": {"model_socket_dir": "/" + "x" * 84}}, "endpoints.model_socket_dir", "would exceed 107"),
    # rules between keys
    (with_backend(restart={"delay_s": 90}), "model_backends.t.restart", "delay_max_s (60) is smaller"),
    ({"timing": {"heartbeat_s": 10}}, "timing", "less than two heartbeats"),
    ({"supported_models": [a_model("m"), a_model("m")]}, "supported_models[1].name", "is taken by"),
    ({"supported_models": [a_model("m"), a_model("n", aliases=["m"])]}, ALIAS, "is taken by"),
    ({"supported_models": [a_model("m.0"), a_model("m", replicas=2)]}, "supported_models[1].name", REPLICA),
    ({"supported_models": [a_model("m", replicas=2), a_model("n", aliases=["m.0"])]}, NAME, "[1].aliases[0]"),
    (with_model(name="m", aliases=["m"]), "supported_models[0].aliases[0]", "a name means one model"),
    ({"default_model": "Magika", **with_model(name="magika")}, "default_model", 'did you mean "magika"?'),
    ({"default_model": "m"}, "default_model", '"m" is no name or alias of a model'),
    ({"default_model": ""}, "default_model", "must not be empty"),
    (with_backend(command=["{option.x}"]) | with_model(), "supported_models[0].options", "lacks 'x'"),
    (with_model(env={"A": "{option.y}"}), "supported_models[0].options", "lacks 'y'"),
    # units: each name once, every relation to one that is there, none to itself
    ({**with_units(m={}), **with_model()}, "units.m", "is taken by supported_models[0].name"),
    ({**with_units(n={}), **with_model(aliases=["n"])}, "units.n", "is taken by supported_models[0].aliases[0]"),
    (
        {**with_units(**{"m.1": {}}), **with_backend(), **with_model(replicas=2)},
        'units["m.1"]',
        'is taken by a replica of the model "m"',
    ),
    (with_units(app={"requires": ["cahce"]}, cache={}), "units.app.requires[0]", 'did you mean "cache"?'),
    (with_units(app={"wants": {"x": "started"}}), "units.app.wants.x", 'there is no unit "x"'),
    (with_units(app={"after": ["x"]}), "units.app.after[0]", 'there is no unit "x"'),
    (with_backend(after=["x"]), "model_backends.t.after[0]", 'there is no unit "x"'),
    (
        {**with_units(a={"requires": ["m"]}), **with_backend(), **with_model(replicas=2)},
        "units.a.requires[0]",
        'the model has several: "m.0", "m.1"',
    ),
    (
        {**with_units(a={"requires": ["n"]}), **with_backend(), **with_model(aliases=["n"])},
        "units.a.requires[0]",
        'it is an alias, the model\'s name is "m"',
    ),
    (
        {**with_units(a={"requires": ["m"]}), **with_model()},
        "units.a.requires[0]",
        'model_backends has no "t" to run the model',
    ),
    (with_units(app={"requires": {"db": "up"}}, db={}), "units.app.requires.db", "must be one of 'started'"),
    (with_units(a={"requires": ["a"]}), "units.a", "a -> a (a requires a)"),
    (
        with_units(z={"requires": ["b"]}, b={"requires": ["c"]}, c={"wants": ["d"]}, d={"after": ["b"]}),
        "units.b",
        "b -> c -> d -> b (b requires c, c wants d, d comes after b)",
    ),
    (
        {**with_units(a={"wants": ["m.1"]}), **with_backend(requires=["a"]), **with_model(replicas=2)},
        "units.a",
        "a -> m.1 -> a (a wants m.1, m.1 requires a)",
    ),
    # the whole
    ([], "", "must be an object, not an array"),
    ("x", "", 'must be an object, not "x"'),
    (None, "", "must be an object, not null"),
]  # fmt: skip


def test_the_longest_name_of_a_unit_fits_into_the_names_of_its_files(tmp_path: Path) -> None:
    model = a_model("m" * defaults.MAX_UNIT_NAME_CHARS, replicas=defaults.MAX_REPLICAS)
    value = {**with_backend(), "supported_models": [model]}
    unit = max((spec.name for spec in Registry(parse(value)).all_specs()), key=len)
    (tmp_path / f"{unit}.{2**63}").mkdir()  # of a start, in the runtime folder and among the control groups
    (tmp_path / archive_name(Path(f"{unit}.log"), 0.0, 2**64 - 1)).touch()


def test_relations_without_a_cycle_load_however_they_cross() -> None:
    units = with_units(
        web={"requires": ["app", "db"], "after": ["m.0"]},
        app={"requires": {"db": "started"}, "wants": ["db"], "after": ["m.1"]},
        db={},
    )
    value = {**units, **with_backend(requires={"db": "ready"}), **with_model(replicas=2)}
    assert parse(value).units["app"].requires == {"db": "started"}


@given(
    st.dictionaries(st.integers(0, 6), st.lists(st.integers(0, 6), max_size=3), max_size=7).map(
        lambda graph: {str(name): [str(other) for other in others] for name, others in graph.items()}
    )
)
def test_a_cycle_is_found_exactly_when_there_is_one(graph: dict[str, list[str]]) -> None:
    cycle = find_cycle(graph)
    assert all(other in graph.get(name, ()) for name, other in pairwise(cycle))
    left = {name: {other for other in others if other in graph} for name, others in graph.items()}
    while free := {name for name, others in left.items() if not others}:
        left = {name: others - free for name, others in left.items() if name not in free}
    assert bool(cycle) == bool(left)
    assert not cycle or (cycle[0] == cycle[-1] and len(set(cycle)) == len(cycle) - 1)


@pytest.mark.parametrize(("value", "path", "words"), REFUSED)
def test_a_fault_is_named_with_its_path(value: object, path: str, words: str) -> None:
    found = problems_of(value)
    assert list(found) == [path]
    assert words in found[path]


def test_all_faults_are_reported_at_once_with_the_file_before_each(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    value = {
        "logging": {"level": "LOUD"},
        "supported_models": [a_model("m"), a_model("m", replicas=0)],
        "default_model": "nope",
        "timing": {"heartbeat_s": -1},
    }
    file.write_text(json.dumps(value)[:-1] + ', "limits": {"max_units": 3, "max_units": 4}}')
    with pytest.raises(MgmtError) as caught:
        load(file)
    paths = {item["path"] for item in caught.value.detail["problems"]}
    assert paths == {
        "logging.level",
        "supported_models[1].replicas",
        "supported_models[1].name",
        "default_model",
        "timing.heartbeat_s",
        "limits.max_units",
    }
    *lines, hint = caught.value.text.splitlines()
    assert {line.removeprefix(f"{file}: ").split(": ")[0] for line in lines} == paths
    assert "mgmt config schema" in hint


def test_very_many_faults_are_counted() -> None:
    with pytest.raises(MgmtError) as caught:
        parse({f"key{index}": 1 for index in range(250)})
    assert len(caught.value.detail["problems"]) == defaults.MAX_CONFIG_PROBLEMS
    assert "and 150 more" in caught.value.text


BAD_BYTES: list[tuple[bytes, str, str]] = [
    (b"", "", "the file is empty"),
    (b" \n\t", "", "the file is empty"),
    (b"{", "", "line 1 column 2: expecting property name"),
    (
        b'{"default_model": "x",\n  "limits": {} "timing": {}}',
        "",
        "line 2 column 16: expecting ',' delimiter",
    ),
    (b"{} {}", "", "line 1 column 4: extra data"),
    (b'{"a": \n"\xff"}', "", "line 2 column 2: not UTF-8 (byte 0xff)"),
    (b"\x89PNG\r\n\x1a\n\x00", "", "line 1 column 1: not UTF-8 (byte 0x89)"),
    (b"[" * 100_000, "", "nested deeper than 32 levels"),
    (b"[" * 40 + b"]" * 40, "[0][0][0]", "nested deeper than 32 levels"),
    (b'{"a":' * 40 + b"1" + b"}" * 40, "a.a.a", "nested deeper than 32 levels"),
    (b'{"default_model": "a\\u0000b"}', "default_model", "the text has a NUL character"),
    (b'{"default_model": "\\ud800"}', "default_model", "half of a surrogate pair"),
    (b'{"\\ud800": 1}', '["\\ud800"]', "the key has half of a surrogate pair"),
    (b'{"limits": {}, "limits": {}}', "limits", "this key is given twice"),
    (b'{"limits": {"max_units": 1, "max_units": 1}}', "limits.max_units", "this key is given twice"),
    (b'{"timing": {"heartbeat_s": NaN}}', "timing.heartbeat_s", "must be a finite number"),
    (b'{"timing": {"heartbeat_s": 1e999}}', "timing.heartbeat_s", "must be a finite number"),
    (b'{"timing": {"heartbeat_s": -Infinity}}', "timing.heartbeat_s", "must be a finite number"),
    (b'{"limits": {"max_units": ' + b"9" * 5000 + b"}}", "limits.max_units", "fits into 64 bits"),
    (b'{"limits": {"max_units": 99999999999999999999}}', "limits.max_units", "must be at most 1.04858e+06"),
    (b"[1]", "", "must be an object, not an array"),
    (b"42", "", "must be an object, not 42"),
    (b" " * (defaults.MAX_CONFIG_BYTES + 1), "", "is larger than 1048576 bytes"),
]


@pytest.mark.parametrize(("data", "path", "words"), BAD_BYTES, ids=[words for _, _, words in BAD_BYTES])
def test_bytes_that_are_no_configuration(tmp_path: Path, data: bytes, path: str, words: str) -> None:
    file = tmp_path / "config.json"
    file.write_bytes(data)
    with pytest.raises(MgmtError) as caught:
        load(file)
    assert caught.value.code == "bad-config"
    assert caught.value.text.startswith(f"{file}: ")
    (problem,) = caught.value.detail["problems"]
    assert problem["path"] == path
    assert words in problem["problem"]


def test_a_byte_order_mark_is_no_fault(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_bytes(b"\xef\xbb\xbf{}")
    assert load(file).settings == parse({})


def test_what_cannot_be_read_is_refused_without_blocking(tmp_path: Path) -> None:
    fifo, sock, loop = tmp_path / "fifo", tmp_path / "sock", tmp_path / "loop"
    os.mkfifo(fifo)
    loop.symlink_to(loop)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(sock))
        for path, words in [
            (tmp_path / "missing.json", "there is no such file"),
            (tmp_path, "is a folder"),
            (fifo, "is no regular file"),
            (sock, "is no regular file"),
            (Path("/dev/zero"), "is no regular file"),
            (loop, "cannot be read: Too many levels of symbolic links"),
            (tmp_path / ("x" * 300), "cannot be read: File name too long"),
            (tmp_path / "fifo" / "x", "cannot be read: Not a directory"),
        ]:
            with pytest.raises(MgmtError, match=words) as caught:
                load(path)
            assert str(path) in caught.value.text


@pytest.mark.parametrize("closed", ["mgmt/config.json", "mgmt"])
def test_an_unreadable_file_is_refused_not_skipped(closed: str) -> None:
    # Not tmp_path: its parents are closed to the ordinary user that root has to become for this.
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        file = Path(folder, "mgmt", "config.json")
        file.parent.mkdir()
        file.write_text("{}")
        Path(folder).chmod(0o755)
        Path(folder, closed).chmod(0)
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)
        try:
            with pytest.raises(MgmtError, match="cannot be read: Permission denied") as caught:
                load(environ={"XDG_CONFIG_HOME": folder})
        finally:
            os.seteuid(user)
            Path(folder, closed).chmod(0o755)
        assert str(file) in caught.value.text


def test_a_file_name_that_is_not_utf_8_can_be_printed(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.json"))
    with pytest.raises(MgmtError) as caught:
        load(path)
    assert "there is no such file" in caught.value.text.encode().decode()


# --- hostile input ---

patiently = settings(deadline=None)  # other work on the machine is no fault of the reader

KEYS = st.one_of(
    st.text(max_size=8),
    st.sampled_from(
        [
            *Settings.model_fields,
            *BackendSettings.model_fields,
            *ModelSettings.model_fields,
            *["client_handshake", "control", "level", "format", "date_format", "heartbeat_s", "policy"],
        ]
    ),
)  # fmt: skip
VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(),
        st.sampled_from(["{runtime}", "{option.x}", "{config_path}", "%(asctime)s", "0-3", "SIGTERM", "{{"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(KEYS, inner, max_size=4),
        st.fixed_dictionaries({"supported_models": inner, "model_backends": inner, "endpoints": inner}),
    ),
    max_leaves=20,
)


def loads_or_says_why(data: bytes) -> None:
    try:
        value, problems = strictjson.parse(data, defaults.MAX_DEPTH)
    except strictjson.NotJsonError as error:
        assert error.problems
        return
    try:
        parse(value, Path("/etc/mgmt/config.json"))
    except MgmtError as error:
        assert error.code == "bad-config"
        assert error.detail["problems"]
        assert error.text.isprintable() or "\n" in error.text
        error.text.encode()
    else:
        assert isinstance(problems, list)


@patiently
@given(VALUES)
def test_any_json_loads_or_says_why(value: object) -> None:
    loads_or_says_why(json.dumps(value).encode())


@patiently
@given(st.dictionaries(st.sampled_from(list(Settings.model_fields)), VALUES))
def test_any_json_under_known_keys_loads_or_says_why(value: object) -> None:
    loads_or_says_why(json.dumps(value).encode())


@patiently
@given(st.binary())
def test_any_bytes_load_or_say_why(data: bytes) -> None:
    loads_or_says_why(data)


@patiently
@given(st.data())
def test_a_damaged_file_loads_or_says_why(data: st.DataObject) -> None:
    good = ANCESTOR.read_bytes()
    start = data.draw(st.integers(0, len(good)))
    end = data.draw(st.integers(start, min(len(good), start + 20)))
    loads_or_says_why(good[:start] + data.draw(st.binary(max_size=8)) + good[end:])


@patiently
@given(st.text())
def test_any_cpu_list_parses_or_says_why(text: str) -> None:
    try:
        cpus = parse_cpus(text)
    except ValueError as error:
        assert str(error)
    else:
        assert cpus
        assert list(cpus) == sorted(set(cpus))


# --- warnings ---


def test_what_is_allowed_but_odd_is_warned_of() -> None:
    settings = parse(
        {
            "model_backends": {"llama3": "l4m_backend.py"},
            "supported_models": [
                a_model("a", "lama3", fullname="same"),
                a_model("b", "llama3", fullname="same"),
            ],
            "endpoints": {"control": "tcp://0.0.0.0:7000", "relay": "tcp://127.0.0.1:7001", "insecure": True},
        }
    )
    untyped, shared, open_tcp = settings.warnings()
    assert untyped.startswith("supported_models[0].type: model 'a' cannot be loaded")
    assert 'did you mean "llama3"?' in untyped
    assert shared.startswith("supported_models: the fullname 'same' is shared by a, b")
    assert open_tcp.startswith("endpoints.control: tcp://0.0.0.0:7000 is open to everyone")


# --- which file ---


def test_the_first_file_of_the_documented_order_is_read(tmp_path: Path) -> None:
    def write(path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
        return path

    environ = {"HOME": str(tmp_path / "home")}
    assert search_path(environ)[-1] == ("system", Path("/etc/mgmt/config.json"))
    home = write(tmp_path / "home" / ".config" / "mgmt" / "config.json")
    assert load(environ=environ).path == home
    environ["XDG_CONFIG_HOME"] = str(tmp_path / "xdg")
    xdg = write(tmp_path / "xdg" / "mgmt" / "config.json")
    assert (load(environ=environ).path, load(environ=environ).source) == (xdg, "user")
    told = write(tmp_path / "told.json")
    environ["MGMT_CONFIG"] = str(told)
    assert (load(environ=environ).path, load(environ=environ).source) == (told, "environment")
    flag = write(tmp_path / "flag.json")
    assert (load(flag, environ=environ).path, load(flag, environ=environ).source) == (flag, "flag")
    told.unlink()
    with pytest.raises(MgmtError, match=r"told\.json: there is no such file"):
        load(environ=environ)


def test_without_any_file_the_defaults_are_built_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = [("user", tmp_path / "no" / "config.json"), ("system", tmp_path / "neither.json")]
    monkeypatch.setattr(config, "search_path", lambda environ: nowhere)
    loaded = load(environ={})
    assert (loaded.path, loaded.source) == (None, "built-in")
    assert loaded.settings == parse({})
    assert loaded.settings.supported_models == ()


def test_a_relative_file_is_reported_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "c.json").write_text('{"backend_path": "b"}')
    monkeypatch.chdir(tmp_path)
    loaded = load(Path("c.json"))
    assert loaded.path == tmp_path / "c.json"
    assert loaded.settings.backend_path == str(tmp_path / "b")


# --- folders ---


@pytest.mark.parametrize(
    ("environ", "uid", "runtime", "state"),
    [
        ({}, 0, "/run/mgmt", "/var/lib/mgmt"),
        ({"XDG_RUNTIME_DIR": "/x", "XDG_STATE_HOME": "/y"}, 0, "/run/mgmt", "/var/lib/mgmt"),
        ({"HOME": "/h"}, 7, "/tmp/mgmt-7", "/h/.local/state/mgmt"),
        ({"XDG_RUNTIME_DIR": "/x", "XDG_STATE_HOME": "/y"}, 7, "/x/mgmt", "/y/mgmt"),
        ({"XDG_RUNTIME_DIR": "x", "XDG_STATE_HOME": "", "HOME": "/"}, 7, "/tmp/mgmt-7", "/.local/state/mgmt"),
        ({"RUNTIME_DIRECTORY": "/a:/b", "STATE_DIRECTORY": "/c:/d"}, 0, "/a", "/c"),
        (
            {"MGMT_RUNTIME_DIR": "/m", "RUNTIME_DIRECTORY": "/a", "MGMT_STATE_DIR": "/n"},
            0,
            "/m",
            "/n",
        ),
        ({"MGMT_RUNTIME_DIR": "", "MGMT_STATE_DIR": ""}, 0, "/run/mgmt", "/var/lib/mgmt"),
    ],
)  # fmt: skip
def test_folders(environ: dict[str, str], uid: int, runtime: str, state: str) -> None:
    assert str(places.runtime_dir(environ, uid)) == runtime
    assert str(places.state_dir(environ, uid)) == state
    assert places.default_control_endpoint(environ, uid) == f"ipc://{runtime}/control"


def test_a_told_folder_becomes_absolute_and_a_told_endpoint_wins() -> None:
    assert places.runtime_dir({"MGMT_RUNTIME_DIR": "r"}) == Path.cwd() / "r"
    assert places.default_control_endpoint({"MGMT_ENDPOINT": "tcp://h:1"}, 0) == "tcp://h:1"


def test_the_daemon_binds_where_commands_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MGMT_ENDPOINT", raising=False)
    monkeypatch.setenv("MGMT_RUNTIME_DIR", "/some/where")
    assert parse({}).endpoints.control == places.default_control_endpoint()
    assert Settings().endpoints.control == places.default_control_endpoint()


def test_folders_and_numbers_need_the_standard_library_only() -> None:
    code = (
        "import sys; import mgmt.protocol.places, mgmt.protocol.defaults;"
        "sys.exit(bool({'pydantic', 'zmq', 'msgpack', 'click'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


# --- backend search ---


def find(
    tmp_path: Path, script: str = "b.py", flag: str | None = None, backend_path: str | None = None
) -> Found:
    """Search from a working folder six levels below `tmp_path`."""
    cwd = tmp_path / "1" / "2" / "3" / "4" / "5" / "6"
    cwd.mkdir(parents=True, exist_ok=True)
    settings = Settings(backend_path=backend_path)
    return find_backend_script(settings, script, Path(flag) if flag else None, cwd=cwd)


def test_backend_search_order(tmp_path: Path) -> None:
    flag, configured = tmp_path / "flag", tmp_path / "configured"
    places_by_rank = [
        flag / "b.py",
        flag / "backend" / "b.py",
        flag / "backends" / "b.py",
        configured / "b.py",
        configured / "backend" / "b.py",
        configured / "backends" / "b.py",
        # the package's own folder comes here, and has no b.py
        tmp_path / "1/2/3/4/5/6/b.py",
        tmp_path / "1/2/3/4/5/6/backend/b.py",
        tmp_path / "1/2/3/4/5/b.py",
        tmp_path / "1/2/3/4/backends/b.py",
        tmp_path / "1/2/3/b.py",
        tmp_path / "1/2/b.py",
        tmp_path / "1/backend/b.py",
    ]
    for path in reversed(places_by_rank):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
        found = find(tmp_path, flag=str(flag), backend_path=str(configured))
        assert found.path == found.require() == path == found.tried[-1]


def test_backend_search_stops_five_folders_above(tmp_path: Path) -> None:
    (tmp_path / "b.py").write_text("")  # six levels up
    found = find(tmp_path)
    assert found.path is None
    assert tmp_path / "b.py" not in found.tried
    with pytest.raises(MgmtError, match="--backend-path DIR") as caught:
        found.require()
    assert caught.value.code == "start-failed"
    assert all(str(path) in caught.value.text for path in found.tried)


def test_backend_search_beside_the_package_comes_before_the_working_folder(tmp_path: Path) -> None:
    tried = find(tmp_path).tried
    assert tried[:3] == [ROOT / "b.py", ROOT / "backend" / "b.py", ROOT / "backends" / "b.py"]
    assert len(tried) == len(set(tried))


def test_backend_search_of_an_absolute_script_and_of_a_folder(tmp_path: Path) -> None:
    script = tmp_path / "x.py"
    assert find(tmp_path, str(script)).tried == [script]
    assert find(tmp_path, str(script)).path is None
    script.mkdir()
    assert find(tmp_path, str(script)).path is None
    script.rmdir()
    script.write_text("")
    assert find(tmp_path, str(script)).path == script


# --- start of a process ---


def launch_of(backend: object, config_path: str | None = None, **model: Any) -> Any:
    settings = parse({"model_backends": {"t": backend}, "supported_models": [a_model(**model)]})
    return launch(
        settings.model_backends["t"],
        settings.supported_models[0],
        unit="m-1",
        endpoint="ipc:///e",
        script=Path("/b/s.py"),
        config_path=config_path,
        backend_path="/b",
        python="/py",
    )


def test_a_legacy_script_gets_both_arguments() -> None:
    argv = launch_of("s.py", fullname="org/m").argv
    assert argv == ["/py", "/b/s.py", "--ipc-endpoint", "ipc:///e", "--model-name", "org/m"]


@pytest.mark.parametrize(
    ("command", "config_path", "argv"),
    [
        (["{model}", "{unit}", "{backend_path}"], None, ["m", "m-1", "/b"]),
        (["run", "-c{config_path}"], "/c", ["run", "-c/c"]),
        (["run", "-c{config_path}"], None, ["run"]),
        (["run", "--config", "{config_path}", "x"], "/c", ["run", "--config", "/c", "x"]),
        (["run", "--config", "{config_path}", "x"], None, ["run", "x"]),
        (["run", "--a", "--config={config_path}"], None, ["run"]),
        (["run", "--a=1", "{config_path}"], None, ["run", "--a=1"]),
        (["run", "--", "{config_path}"], None, ["run", "--"]),
        (["run", "{config_path}", "{config_path}"], None, ["run"]),
        (["run", '{"a": {"b": 1}}', "{{model}}", "{}"], None, ["run", '{"a": {"b": 1}}', "{model}", "{}"]),
        (["run", "{option.x}-{option.y}"], None, ["run", "{model}-"]),
    ],
)
def test_command_templates(command: list[str], config_path: str | None, argv: list[str]) -> None:
    options = {"x": "{model}", "y": ""}  # a value is inserted as it is
    assert launch_of({"command": command}, config_path, options=options).argv == argv


def test_the_models_environment_and_cpus_win_over_the_backends() -> None:
    backend = a_backend(env={"A": "1", "PIE_ENDPOINT": "{endpoint}"}, cpus="0-1", cwd="/w")
    plain = launch_of(backend)
    assert (plain.env, plain.cpus, plain.cwd) == ({"A": "1", "PIE_ENDPOINT": "ipc:///e"}, (0, 1), "/w")
    own = launch_of(backend, env={"A": "{model}"}, cpus="3")
    assert (own.env, own.cpus) == ({"A": "m", "PIE_ENDPOINT": "ipc:///e"}, (3,))
    assert launch_of(a_backend()).cpus is None


def test_a_backend_knows_whether_a_config_path_reaches_it() -> None:
    backends = parse({"model_backends": {"a": "s.py", "b": a_backend(command=["r", "{config_path}"])}})
    assert not backends.model_backends["a"].takes_config_path
    assert backends.model_backends["b"].takes_config_path


# --- schema and documentation ---


@pytest.mark.parametrize("path", [ANCESTOR, ROOT / "config.json"], ids=["ancestor", "repository"])
def test_the_schema_accepts_what_loads(path: Path) -> None:
    schema = config.json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(json.loads(path.read_text()), schema)


@pytest.mark.parametrize("value", [{"zzz": 1}, with_model(replicas=0), {"model_backends": {"t": 5}}])
def test_the_schema_refuses_what_does_not_load(value: object) -> None:
    problems_of(value)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(value, config.json_schema())


def test_the_documentation_is_current_and_has_every_key() -> None:
    text = (ROOT / "docs" / "config.md").read_text()
    assert config.render_docs(text) == text
    table = config.markdown()
    for name, part in [("", config.json_schema()), *config.json_schema()["$defs"].items()]:
        for key in part["properties"]:
            assert f"| `{key}` |" in table, (name, key)


def test_the_example_of_the_documentation_loads() -> None:
    text = (ROOT / "docs" / "config.md").read_text()
    example = text.split("```json\n")[1].split("```")[0]
    assert parse(json.loads(example)).warnings() == []


@pytest.mark.parametrize("text", ["", config.DOCS_BEGIN, config.DOCS_END])
def test_documentation_without_markers_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="lacks the line"):
        config.render_docs(text)
