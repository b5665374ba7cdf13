"""`mgmt import`: files of other supervisors become configurations that load; nothing is lost in silence."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from mgmt import template
from mgmt.config import parse
from mgmt.protocol.errors import Exit, MgmtError
from mgmt.settings.values import RLIMITS
from mgmt_cli.importing import (
    FORMATS,
    Origin,
    Report,
    circus,
    format_of,
    process_compose,
    supervisord,
    translate,
)
from mgmt_cli.importing.report import SIGNALS, literal
from mgmt_cli.main import mgmt
from mgmt_cli.schemas import schema_of

DATA = Path(__file__).parents[1] / "data" / "import"
SAMPLES = {
    "supervisord": "supervisord.conf",
    "circus": "circus.ini",
    "process-compose": "process-compose.yaml",
}
ENVIRON = {"PATH": "/usr/bin:/bin", "REGION": "eu", "SECRET_KEY": "s3cret", "HOME": "/home/u"}
ORIGIN = Origin(Path("/srv/app"), ENVIRON, "host1")


def said(report: Report) -> dict[str, Any]:
    return {"config": report.config(), "notes": [asdict(note) for note in report.notes]}


def golden(kind: str) -> dict[str, Any]:
    return said(translate(kind, (DATA / SAMPLES[kind]).read_text(), ORIGIN))


def one(kind: str, text: str) -> tuple[dict[str, Any], dict[str, str]]:
    """The first unit of a file, and its notes by path with what they say."""
    report = translate(kind, text, ORIGIN)
    parse(report.config())
    unit = next(iter(report.units.values()))
    notes: dict[str, str] = {}
    for note in report.notes:
        notes[note.path] = notes.get(note.path, "") + f"{note.change}: {note.why}; {note.instead}\n"
    return unit, notes


def supervised(lines: str) -> tuple[dict[str, Any], dict[str, str]]:
    return one("supervisord", f"[program:x]\ncommand = /bin/x\n{lines}\n")


def watched(lines: str) -> tuple[dict[str, Any], dict[str, str]]:
    return one("circus", f"[watcher:x]\ncmd = /bin/x\n{lines}\n")


def composed(lines: str) -> tuple[dict[str, Any], dict[str, str]]:
    told = "".join(f"    {line}\n" for line in lines.splitlines())
    return one("process-compose", f"processes:\n  x:\n    command: /bin/x\n{told}")


READ: dict[str, Callable[[str], tuple[dict[str, Any], dict[str, str]]]] = {
    "supervisord": supervised,
    "circus": watched,
    "process-compose": composed,
}


@pytest.mark.parametrize("kind", FORMATS)
def test_a_realistic_file_becomes_what_was_agreed(kind: str) -> None:
    expected = json.loads((DATA / f"{SAMPLES[kind]}.expected.json").read_text())
    assert golden(kind) == expected, "if this is meant: python -m tests.unit.test_import"


@pytest.mark.parametrize("kind", FORMATS)
def test_a_realistic_file_loads_and_is_recognised(kind: str) -> None:
    text = (DATA / SAMPLES[kind]).read_text()
    loaded = parse(translate(kind, text, ORIGIN).config())
    assert len(loaded.units) >= 4
    assert loaded.warnings() == []
    assert format_of(Path(SAMPLES[kind]), text) == kind


@pytest.mark.parametrize(
    ("kind", "lines", "expected"),
    [
        # supervisord
        ("supervisord", "autostart = false", {"autostart": False}),
        ("supervisord", "stopsignal = INT\nstopwaitsecs = 3", {"stop_signal": "INT", "grace_s": 3.0}),
        ("supervisord", "stopsignal = SIGUSR2", {"stop_signal": "USR2"}),
        ("supervisord", "stopsignal = 3", {"stop_signal": "QUIT"}),
        ("supervisord", "directory = /srv\numask = 2", {"cwd": "/srv", "umask": "002"}),
        ("supervisord", "directory = sub", {"cwd": "/srv/app/sub"}),
        ("supervisord", "directory = %(here)s/%(program_name)s", {"cwd": "/srv/app/x"}),
        ("supervisord", "exitcodes = 0, 3", {"success_exit_codes": [0, 3]}),
        ("supervisord", "user = %(host_node_name)s", {"user": "host1"}),
        ("supervisord", "autorestart = false\nstartsecs = 0", {"restart": {"policy": "no"}, "oneshot": True}),
        ("supervisord", 'environment = A="1,2",B=\'x y\', C=3', {"env": {"A": "1,2", "B": "x y", "C": "3"}}),
        ("supervisord", 'environment = A="50%%",B="{python}"', {"env": {"A": "50%", "B": "{{python}}"}}),
        ("supervisord", "stdout_logfile_maxbytes = 0", {"log_max_bytes": 1 << 40}),
        ("supervisord", "stdout_logfile_maxbytes = 1GB", {"log_max_bytes": 1 << 30}),
        ("supervisord", "stdout_logfile_backups = 2", {"log_keep": 2}),
        ("supervisord", "", {"log_max_bytes": 50 << 20, "log_keep": 10}),
        (
            "supervisord", "startretries = 2\nstartsecs = 10\nautorestart = true",
            {"restart": {"policy": "always", "delay_max_s": 2.0, "limit": 2, "window_s": 33.0}},
        ),
        # circus
        ("circus", "args = -v 'a b'", {"command": ["/bin/x", "-v", "a b"]}),
        ("circus", "shell = true\nargs = | tee log", {"command": ["/bin/sh", "-c", "/bin/x | tee log"]}),
        ("circus", "args = $(circus.wid) ((circus.wid))", {"command": ["/bin/x", "1", "1"]}),
        ("circus", "args = $(CIRCUS.ENV.region)", {"command": ["/bin/x", "eu"]}),
        ("circus", "", {"grace_s": 30.0, "restart": {"policy": "always", "limit": 1 << 20}}),
        ("circus", "respawn = False", {"restart": {"policy": "no"}}),
        ("circus", "max_retry = 4", {"restart": {"policy": "always", "limit": 4}}),
        ("circus", "rlimit_NOFILE = 10\nrlimit_core=-1", {"rlimits": {"nofile": 10, "core": "unlimited"}}),
        ("circus", "numprocesses = 9\nsingleton = 1", {"autostart": True}),
        ("circus", "env = A=1,B=$REGION", {"env": {"A": "1", "B": "eu"}}),
        ("circus", "[env]\nA = 1\nB = 1\n[env:x*]\nB = 2\n[env:y]\nC = 3", {"env": {"A": "1", "B": "2"}}),
        ("circus", "uid = 33\ngid = www", {"user": "33", "group": "www"}),
        # process-compose
        ("process-compose", "", {"restart": {"policy": "no"}, "cwd": "/srv/app", "autostart": True}),
        ("process-compose", "disabled: true", {"autostart": False}),
        ("process-compose", "availability: {restart: no}", {"restart": {"policy": "no"}}),
        ("process-compose", "environment: [A=b=c, H=$HOME]", {"env": {"A": "b=c", "H": "/home/u"}}),
        ("process-compose", "environment: [D=$$x]", {"env": {"D": "$x"}}),
        ("process-compose", "success_exit_codes: [3]", {"success_exit_codes": [0, 3]}),
        ("process-compose", "shutdown: {signal: 10, timeout_seconds: 3}", {"stop_signal": "USR1", "grace_s": 3.0}),
        ("process-compose", "ready_log_line: up.", {"probes": {"startup": {"kind": "log", "pattern": "up\\."}}}),
        (
            "process-compose", "liveness_probe: {http_get: {path: h, port: 8}, period_seconds: 2}",
            {"probes": {"live": {
                "kind": "http", "url": "http://127.0.0.1:8/h", "period_s": 2.0, "timeout_s": 1.0,
                "success_threshold": 1, "failure_threshold": 3,
            }}},
        ),
    ],
)  # fmt: skip
def test_a_setting_and_what_it_becomes(kind: str, lines: str, expected: dict[str, Any]) -> None:
    unit, _ = READ[kind](lines)
    assert {key: unit.get(key) for key in expected} == expected


@pytest.mark.parametrize(
    ("kind", "lines", "path", "says"),
    [
        ("supervisord", "stdout_logfile = /var/log/x", "program:x.stdout_logfile", "mgmt logs"),
        ("supervisord", "stdout_logfile = NONE", "program:x.stdout_logfile", "always kept"),
        ("supervisord", "killasgroup = false", "program:x.killasgroup", "every process"),
        ("supervisord", "redirect_stderr = false", "program:x.redirect_stderr", "share one file"),
        ("supervisord", "startsecs = 3", "program:x.startsecs", "probes.startup"),
        ("supervisord", "startsecs = soon", "program:x.startsecs", "no number; 1 is used"),
        ("supervisord", "stopwaitsecs = 0", "program:x.stopwaitsecs", "between"),
        ("supervisord", "stopsignal = WINCH", "program:x.stopsignal", "TERM is used"),
        ("supervisord", "autostart = maybe", "program:x.autostart", "neither true nor false"),
        ("supervisord", "umask = rwx", "program:x.umask", "octal"),
        ("supervisord", "environment = A", "program:x.environment", "no list"),
        ("supervisord", "environment = A-B=1", "program:x.environment.A-B", "no name"),
        ("supervisord", "environment = A=%(ENV_NOPE)s", "program:x.environment", "set $NOPE"),
        ("supervisord", "process_name = %(program_name)s!", "program:x.process_name", "they are x"),
        (
            "supervisord",
            "numprocs = 1000000000\nprocess_name=%(process_num)d",
            "program:x.numprocs",
            "1024 is used",
        ),
        ("supervisord", "colour = red", "program:x.colour", "no such setting"),
        ("supervisord", "[eventlistener:e]\ncommand=e", "eventlistener:e", "mgmt events"),
        ("supervisord", "[fcgi-program:f]\nsocket=s", "fcgi-program:f", "socket"),
        ("supervisord", "[include]\nfiles = conf.d/*", "include.files", "import each"),
        ("supervisord", "[group:g]\nprograms = x, y", "group:g.programs", "no such program"),
        ("supervisord", "[supervisord]\nuser = nobody", "supervisord.user", "run mgmt as it"),
        ("circus", "use_sockets = True", "watcher:x.use_sockets", "bind its socket"),
        ("circus", "hooks.before_start = a.b", "watcher:x.hooks.before_start", "hooks.pre_start"),
        ("circus", "copy_env = False", "watcher:x.copy_env", "inherits"),
        ("circus", "virtualenv = /v", "watcher:x.virtualenv", "bin folder"),
        ("circus", "max_retry = 3", "watcher:x.max_retry", "every end"),
        ("circus", "rlimit_x = 3", "watcher:x.rlimit_x", "no such resource limit"),
        ("circus", "args = $(circus.env.nope)", "watcher:x.args", "no value"),
        ("circus", "[socket:s]\nport = 1", "socket:s", "bind its socket"),
        ("circus", "[plugin:f]\nuse = circus.plugins.flapping.Flapping", "plugin:f", "restart.limit"),
        ("circus", "[env:y]\nA = 1", "env:y", "no such watcher"),
        ("circus", "[circus]\nendpoint = tcp://127.0.0.1:5", "circus.endpoint", "circusd itself"),
        ("process-compose", "is_daemon: true", "processes.x.is_daemon", "in front"),
        ("process-compose", "namespace: n", "processes.x.namespace", "NAMESPACE:NAME"),
        ("process-compose", "log_location: l", "processes.x.log_location", "mgmt logs"),
        ("process-compose", "schedule: {interval: 1h}", "processes.x.schedule", "timer"),
        (
            "process-compose",
            "availability: {exit_on_end: true}",
            "processes.x.availability.exit_on_end",
            "ends the daemon",
        ),
        (
            "process-compose",
            "availability: {restart: maybe}",
            "processes.x.availability.restart",
            "no such policy",
        ),
        ("process-compose", "availability: 3", "processes.x.availability", "must be a table"),
        ("process-compose", "liveness_probe: {grpc: {port: 1}}", "processes.x.liveness_probe", "neither"),
        ("process-compose", "depends_on: {y: {}}", "processes.x.depends_on.y", "no such process"),
        ("process-compose", "shutdown: {command: stop it}", "processes.x.shutdown.command", "stop signal"),
        ("process-compose", "environment: A=1", "processes.x.environment", "no list"),
        ("process-compose", "colour: red", "processes.x.colour", "no such setting"),
    ],
)
def test_what_has_no_equivalent_is_named(kind: str, lines: str, path: str, says: str) -> None:
    _, notes = READ[kind](lines)
    assert says in notes[path]


# A setting and a value that is not its default; whoever adds one to the tables has to add it here.
OTHER_VALUES = {
    "supervisord": {
        "command": "/bin/y", "process_name": "n", "numprocs": "2", "priority": "x", "autostart": "no",
        "autorestart": "no", "exitcodes": "7", "startsecs": "9", "startretries": "9", "stopsignal": "INT",
        "stopwaitsecs": "9", "stopasgroup": "no", "killasgroup": "no", "user": "u", "umask": "077",
        "directory": "/d", "environment": "A=1", "redirect_stderr": "no", "stdout_logfile": "/l",
        "stdout_logfile_maxbytes": "9MB", "stdout_logfile_backups": "9",
    },
    "circus": {
        "cmd": "/bin/y", "args": "a", "shell": "1", "shell_args": "a", "numprocesses": "2", "singleton": "x",
        "working_dir": "/w", "uid": "u", "gid": "g", "env": "A=1", "copy_env": "0", "virtualenv": "/v",
        "respawn": "0", "max_retry": "9", "graceful_timeout": "9", "stop_signal": "INT", "stop_children": "0",
        "priority": "x", "autostart": "0", "stdout_stream.class": "C", "stdout_stream.filename": "f",
        "stdout_stream.max_bytes": "9999", "stdout_stream.backup_count": "9", "stderr_stream.class": "C",
        "rlimit_core": "9", "hooks.before_start": "h",
    },
    "process-compose": {
        "command": "/bin/y", "entrypoint": "[/bin/y]", "working_dir": "w", "environment": "[A=1]",
        "depends_on": "{y: {}}", "availability": "{restart: always}", "readiness_probe": "{exec: {command: y}}",
        "liveness_probe": "{exec: {command: y}}", "ready_log_line": "up", "shutdown": "{signal: 2}",
        "replicas": "2", "disabled": "true", "is_disabled": "true", "is_elevated": "true",
        "log_configuration": "{rotation: {max_backups: 9}}", "vars": "{A: 1}", "is_template_disabled": "maybe",
        "schedule": "{interval: 1h}", "success_exit_codes": "[7]",
    },
}  # fmt: skip
TABLES = {"supervisord": supervisord, "circus": circus, "process-compose": process_compose}
ONLY_WITH_OTHERS = {("supervisord", "numprocs_start"), ("process-compose", "vars")}
SETTINGS = [
    (kind, key)
    for kind, module in TABLES.items()
    for key in sorted({*module.HANDLED, *module.DROPPED, *OTHER_VALUES[kind]})
    if (kind, key) not in ONLY_WITH_OTHERS
]


@pytest.mark.parametrize(("kind", "key"), SETTINGS)
def test_no_setting_is_left_out_in_silence(kind: str, key: str) -> None:
    drop = {
        "supervisord": "command = /bin/x\n",
        "circus": "cmd = /bin/x\n",
        "process-compose": "    command: /bin/x\n",
    }
    value = OTHER_VALUES[kind].get(key, "9")
    line = f"    {key}: {value}\n" if kind == "process-compose" else f"{key} = {value}\n"
    head = {
        "supervisord": "[program:x]\n",
        "circus": "[watcher:x]\n",
        "process-compose": "processes:\n  x:\n",
    }[kind]
    own = "" if key in ("command", "cmd", "entrypoint") else drop[kind]
    before = said(translate(kind, head + drop[kind], ORIGIN))
    assert said(translate(kind, head + own + line, ORIGIN)) != before


@pytest.mark.parametrize("kind", FORMATS)
def test_a_plain_program_needs_no_note(kind: str) -> None:
    _, notes = READ[kind]("")
    assert notes == {}


def test_a_variable_that_is_only_handed_through_is_inherited() -> None:
    unit, notes = supervised('environment = SECRET_KEY="%(ENV_SECRET_KEY)s",B="%(ENV_REGION)s-1"')
    assert unit["env"] == {"B": "eu-1"}
    assert "written down" in notes["program:x.environment"]


def test_instances_have_numbers_and_priorities_an_order() -> None:
    text = (
        "[program:a]\ncommand=/bin/a %(process_num)d\nnumprocs=2\nnumprocs_start=5\n"
        "process_name=%(process_num)d\npriority=2\n"
        "[program:off]\ncommand=/bin/off\nautostart=false\npriority=3\n"
        "[program:b]\ncommand=/bin/b\npriority=4\n[program:c]\ncommand=/bin/c\npriority=1\n"
    )
    units = translate("supervisord", text, ORIGIN).units
    assert [unit["command"] for unit in units.values()][:2] == [["/bin/a", "5"], ["/bin/a", "6"]]
    after = {name: list(unit.get("after", ())) for name, unit in units.items()}
    # Nobody waits for `off`: it may never start.
    assert after == {"a.5": ["c"], "a.6": ["c"], "off": ["a.5", "a.6"], "b": ["a.5", "a.6"], "c": []}


def test_a_high_priority_of_circus_is_early() -> None:
    text = "[watcher:a]\ncmd=/bin/a\n[watcher:b]\ncmd=/bin/b\npriority=1\n"
    assert translate("circus", text, ORIGIN).units["a"]["after"] == {"b": "started"}


def test_dependencies_reach_every_replica() -> None:
    text = (
        "processes:\n  a: {command: a, replicas: 2}\n  b: {command: b, replicas: 2, depends_on: {a: {}}}\n"
        "  c: {command: c, depends_on: {a-1: {condition: process_completed}}}\n"
    )
    units = translate("process-compose", text, ORIGIN).units
    assert units["b.1"]["requires"] == {"a.0": "started", "a.1": "started"}
    assert units["c"]["wants"] == {"a.1": "completed"}
    assert (units["a.1"].get("oneshot"), units["a.0"].get("oneshot")) == (True, None)


@pytest.mark.parametrize(
    ("line", "argv"),
    [
        ("serve --port 80", ["serve", "--port", "80"]),
        ("serve 'a b'", ["serve", "a b"]),
        ("A=1 serve", ["/bin/sh", "-c", "A=1 serve"]),
        ("cd /x && serve", ["/bin/sh", "-c", "cd /x && serve"]),
        ("exec serve", ["/bin/sh", "-c", "exec serve"]),
        ("ls *.log", ["/bin/sh", "-c", "ls *.log"]),
        ("it's", ["/bin/sh", "-c", "it's"]),
        ("echo $$x {python}", ["/bin/sh", "-c", "echo $x {{python}}"]),
        ("source env; serve", ["/bin/bash", "-c", "source env; serve"]),
        ("[[ -f x ]] && serve", ["/bin/bash", "-c", "[[ -f x ]] && serve"]),
    ],
)
def test_a_shell_is_kept_where_one_is_needed(line: str, argv: list[str]) -> None:
    text = f"processes:\n  x:\n    command: {json.dumps(line)}\n"
    assert one("process-compose", text)[0]["command"] == argv


def test_the_shell_of_the_project_is_used() -> None:
    text = "shell: {shell_command: fish, shell_argument: -c}\nprocesses: {x: {command: serve}}\n"
    assert one("process-compose", text)[0]["command"] == ["fish", "-c", "serve"]


def test_templates_are_filled() -> None:
    text = "vars: {A: 1}\nprocesses: {x: {vars: {B: b}, command: 's {{.A}} {{ .B }} {{.C}}'}}\n"
    unit, notes = one("process-compose", text)
    assert unit["command"] == ["/bin/sh", "-c", "s 1 b {{.C}}"]
    assert "{{.NAME}}" in notes["processes.x.command"]


def test_more_units_than_the_default_limit_raise_it() -> None:
    text = "[program:x]\ncommand=/bin/x\nnumprocs=300\nprocess_name=%(process_num)d\n"
    loaded = parse(translate("supervisord", text, ORIGIN).config())
    assert len(loaded.units) == loaded.limits.max_units == 300


def test_names_are_made_to_fit() -> None:
    text = "processes: {'a b': {command: x}, 'a-b': {command: x}, '..': {command: x}}\n"
    report = translate("process-compose", text, ORIGIN)
    parse(report.config())
    assert list(report.units) == ["a-b", "a-b-2", "unit"]


def test_the_tables_here_are_those_of_the_settings() -> None:
    assert frozenset(RLIMITS) == circus.LIMITS
    for signal in SIGNALS:
        unit = parse({"units": {"x": {"command": ["x"], "stop_signal": signal}}}).units["x"]
        assert unit.stop_signal == signal


@given(st.text(st.sampled_from("{}abpython. _"), max_size=30))
def test_a_literal_stands_for_itself(text: str) -> None:
    assert template.fill(literal(text), {}) == text
    assert template.holes([literal(text)]) == set()


# --- files that are nothing of the kind ---------------------------------------------------------------------

WORDS = st.sampled_from(
    [
        *(
            "[program:x]",
            "[supervisord]",
            "[group:g]",
            "[watcher:x]",
            "[env]",
            "[circus]",
            "command",
            "cmd",
            "args",
        ),
        *(
            "numprocs",
            "environment",
            "exitcodes",
            "priority",
            "programs",
            "x",
            "=",
            ":",
            ",",
            "'",
            '"',
            "%(",
            ")s",
        ),
        *(
            "%(ENV_PATH)s",
            "%(process_num)02d",
            "$(circus.wid)",
            "$PATH",
            "0",
            "-1",
            "99999999999",
            "1e9",
            "true",
        ),
        *(
            "processes:",
            "  x:",
            "    command: a b",
            "    depends_on:",
            "      x:",
            "availability:",
            "&a",
            "*a",
            "<<:",
        ),
        *(
            "- ",
            "{",
            "}",
            "[",
            "]",
            "!!int ",
            "\\U",
            "\\ud800",
            "nan",
            "\t",
            "\n",
            " ",
            "\n ",
            "\n    ",
            "é",
            "\x85",
        ),
        *(
            "    liveness_probe: {http_get: {host: h, port: 1}}",
            "    replicas: 2",
            "shutdown",
            "stop_signal",
            "rlimit_",
        ),
    ]
)
FILES = st.one_of(st.text(max_size=200), st.lists(WORDS, max_size=40).map("".join))


@pytest.mark.parametrize("kind", FORMATS)
def test_any_text_is_refused_or_becomes_a_configuration(kind: str) -> None:
    @settings(max_examples=100, deadline=None)
    @given(FILES)
    def attempt(text: str) -> None:
        try:
            report = translate(kind, text, ORIGIN)
        except MgmtError as error:
            assert error.text
            return
        parse(report.config())
        json.dumps(said(report)).encode()

    attempt()


SCALARS = st.one_of(st.text(max_size=12), st.integers(), st.booleans(), st.none(), st.floats(), WORDS)
KEYS = st.sampled_from(
    [
        *(
            "command",
            "entrypoint",
            "working_dir",
            "environment",
            "depends_on",
            "x",
            "condition",
            "availability",
        ),
        *(
            "restart",
            "backoff_seconds",
            "max_restarts",
            "readiness_probe",
            "liveness_probe",
            "exec",
            "http_get",
        ),
        *("host", "port", "path", "scheme", "period_seconds", "failure_threshold", "initial_delay_seconds"),
        *(
            "shutdown",
            "signal",
            "timeout_seconds",
            "replicas",
            "log_configuration",
            "rotation",
            "max_size_mb",
        ),
        *("ready_log_line", "schedule", "success_exit_codes", "disabled", "vars", "is_elevated", "namespace"),
    ]
)
TREES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=4)),
    max_leaves=12,
)


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(st.sampled_from(["x", "y", "a b"]), st.dictionaries(KEYS, TREES, max_size=8), max_size=3),
    TREES,
)
def test_any_table_of_processes_is_refused_or_becomes_a_configuration(processes: Any, rest: Any) -> None:
    value = {**(rest if isinstance(rest, dict) else {}), "processes": processes}  # JSON is YAML
    try:
        report = translate("process-compose", json.dumps(value), ORIGIN)
    except MgmtError:
        return
    parse(report.config())


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(["supervisord", "circus"]),
    st.dictionaries(
        st.sampled_from(
            [
                *(
                    "numprocs",
                    "numprocs_start",
                    "process_name",
                    "priority",
                    "autostart",
                    "autorestart",
                    "exitcodes",
                ),
                *("startsecs", "startretries", "stopsignal", "stopwaitsecs", "user", "umask", "directory"),
                *(
                    "environment",
                    "stdout_logfile",
                    "stdout_logfile_maxbytes",
                    "stdout_logfile_backups",
                    "args",
                    "shell",
                ),
                *(
                    "numprocesses",
                    "singleton",
                    "working_dir",
                    "uid",
                    "gid",
                    "env",
                    "copy_env",
                    "virtualenv",
                    "respawn",
                ),
                *("max_retry", "graceful_timeout", "stop_signal", "rlimit_core", "stdout_stream.max_bytes"),
            ]
        ),
        st.one_of(
            st.text(st.characters(exclude_characters="\r\n\0"), max_size=20), WORDS, st.integers().map(str)
        ),
        max_size=8,
    ),
)
def test_any_values_of_a_program_become_a_configuration(kind: str, options: dict[str, str]) -> None:
    lines = "".join(f"{key} = {value}\n" for key, value in options.items())
    try:
        report = translate(
            kind, f"[program:x]\ncommand=/bin/x\n{lines}[watcher:x]\ncmd=/bin/x\n{lines}", ORIGIN
        )
    except MgmtError:
        return
    parse(report.config())


@pytest.mark.parametrize(
    ("kind", "text", "says"),
    [
        ("supervisord", "command = x", "no section headers"),
        ("supervisord", "[program:x]\nnonsense\n", "parsing errors"),
        ("supervisord", "[supervisord]\nnodaemon = true\n", "nothing in this supervisord file"),
        ("supervisord", "[program:x]\ncommand = 'unclosed\n", "no closing quotation"),
        ("supervisord", "[program:x]\nuser = me\n", "names no program"),
        ("supervisord", "[program:x]\ncommand = a\0b\n", "NUL"),
        ("circus", "[watcher:x]\nnumprocesses = 2\n", "names no program"),
        ("circus", "[watcher:x]\ncmd = a\nnumprocesses = 0\n", "none is none"),
        ("process-compose", "a: [", "not a YAML file"),
        ("process-compose", "a: !!python/object:os.system x", "no table `processes`"),
        ("process-compose", 'processes: "\\Uffffffff"', "not a YAML file"),
        ("process-compose", "[" * 5000, "nested too deeply"),
        ("process-compose", "services: {}", "no table `processes`"),
        ("process-compose", "processes: {x: {description: d}}", "names no program"),
        (
            "process-compose",
            "processes: {a: {command: a, depends_on: {b: {}}}, b: {command: b, depends_on: {a: {}}}}",
            "in a circle: a -> b -> a",
        ),
    ],
)
def test_a_bad_file_is_refused_with_its_reason(kind: str, text: str, says: str) -> None:
    with pytest.raises(MgmtError) as caught:
        translate(kind, text, ORIGIN)
    assert says in caught.value.text
    assert caught.value.row.exit == Exit.USAGE


# --- the command --------------------------------------------------------------------------------------------


def run(*args: str) -> Result:
    result = CliRunner().invoke(mgmt, ["import", *args])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    return result


def test_the_configuration_goes_to_stdout_and_the_notes_to_stderr() -> None:
    result = run(str(DATA / "circus.ini"))
    assert result.exit_code == Exit.OK
    assert "web.1" in parse(json.loads(result.stdout)).units
    assert "note: watcher:web.use_sockets" in result.stderr
    assert "4 units" in result.stderr


def test_the_configuration_goes_to_a_new_file_only(tmp_path: Path) -> None:
    output = tmp_path / "config.json"
    result = run(str(DATA / "process-compose.yaml"), "--output", str(output))
    assert (result.exit_code, result.stdout) == (Exit.OK, "")
    assert "api.0" in parse(json.loads(output.read_text())).units
    again = run(str(DATA / "circus.ini"), "--output", str(output))
    assert again.exit_code == Exit.BUSY
    assert "is left as it is" in again.stderr
    assert "api.0" in output.read_text()


def test_json_is_one_value_that_satisfies_its_schema() -> None:
    result = run(str(DATA / "supervisord.conf"), "--json")
    value = json.loads(result.stdout)
    jsonschema.validate(value, schema_of("mgmt.import/1"))
    assert value["format"] == "supervisord"
    assert {note["change"] for note in value["notes"]} == {"dropped", "approximated"}
    assert result.stderr == ""


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("absent.conf", None, "No such file"),
        ("x.conf", b"\xff\xfe", "not UTF-8"),
        ("x.conf", b"hello", "--format"),
        ("x.conf", b"[program:x]\n[watcher:x]\n", "--format"),
        ("x.conf", b" " * ((1 << 20) + 1), "larger than"),
        ("x.yaml", b"a: [", "not a YAML file"),
    ],
)
def test_a_file_that_cannot_be_read_is_a_usage_error(
    name: str, data: bytes | None, says: str, tmp_path: Path
) -> None:
    if data is not None:
        (tmp_path / name).write_bytes(data)
    result = run(str(tmp_path / name))
    assert result.exit_code == Exit.USAGE
    assert result.stderr.startswith("error: ")
    assert name in result.stderr
    assert says in result.stderr


if __name__ == "__main__":
    for sample in FORMATS:
        target = DATA / f"{SAMPLES[sample]}.expected.json"
        target.write_text(json.dumps(golden(sample), indent=1, ensure_ascii=False) + "\n")
