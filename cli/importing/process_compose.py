"""process-compose.yaml: its processes, with their dependencies and probes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from typing import Any

from mgmt.protocol.errors import MgmtError

from . import yaml_text
from .probes import probe_of
from .report import MAX_DAY_S, MAX_INSTANCES, MAX_RESTARTS, Origin, Report, Unit, literal
from .shell import Shell
from .texts import Texts

_LOGS = "read it with `mgmt logs UNIT`"
_WHOLE = ("no unit ends the daemon", "watch it with `mgmt events --follow --json`")
_PLAIN_OUTPUT = ("output is written as it comes", "")
_NO_TERMINAL = ("a unit has no terminal", "run it beside the daemon")
_SERVICE = "it is about process-compose itself"

# setting of a process -> (why it is dropped, what to do instead)
DROPPED = {
    "description": ("a unit has no description", ""),
    "namespace": ("there are no namespaces", "a name such as NAMESPACE:NAME can be matched by a pattern"),
    "is_daemon": (
        "a unit is its first process: one that goes to the background has ended",
        "keep it in front",
    ),
    "is_foreground": _NO_TERMINAL,
    "is_tty": _NO_TERMINAL,
    "is_interactive": _NO_TERMINAL,
    "disable_ansi_colors": _PLAIN_OUTPUT,
    "truncate_log": _PLAIN_OUTPUT,
    "log_location": ("output goes to a file of each unit in the state folder", _LOGS),
    "launch_timeout_seconds": ("it belongs to is_daemon", "set ready_timeout_s"),
    "env_file": ("only this file is read", "write its variables in `env`"),
    "is_dotenv_disabled": ("no .env file is read", "write its variables in `env`"),
    "extends": ("only this file is read", "write out what it takes from there"),
    "watch": ("files are not watched", ""),
    "mcp": (_SERVICE, ""),
    "monitor_for": ("output is not watched", "give it `probes.live`"),
    "monitor_silence_threshold": ("output is not watched", "give it `probes.live`"),
}
HANDLED = {
    *("command", "entrypoint", "working_dir", "environment", "depends_on", "availability", "readiness_probe"),
    *("liveness_probe", "ready_log_line", "shutdown", "replicas", "disabled", "is_disabled", "is_elevated"),
    *("log_configuration", "vars", "is_template_disabled", "schedule", "success_exit_codes"),
}
_PROJECT_DROPPED = {
    "env_cmds": ("no command is run to find variables", "write their values in `env`"),
    "extends": ("only this file is read", "import that one too and put their `units` together"),
    "ordered_shutdown": ("units always stop in reverse order of their needs", ""),
}
_PROJECT_HANDLED = {"processes", "environment", "vars", "shell", "disable_env_expansion", "version", "name"}
_AVAILABILITY = {"restart", "backoff_seconds", "max_restarts", "exit_on_end", "exit_on_skipped"}
_SHUTDOWN = {"command", "signal", "timeout_seconds", "parent_only"}
_CONDITIONS = {
    "process_started": ("requires", "started"),
    "process_healthy": ("requires", "ready"),
    "process_log_ready": ("requires", "ready"),
    "process_completed": ("wants", "completed"),
    "process_completed_successfully": ("requires", "completed"),
}


def translate(text: str, origin: Origin) -> Report:
    """One unit for each process: `NAME`, and with replicas above 1 `NAME.0` and so on."""
    value = yaml_text.read(text)
    if not isinstance(value, dict) or not isinstance(value.get("processes"), dict):
        raise MgmtError("bad-config", "no process-compose file: it has no table `processes` at its top")
    report = Report()
    for key, told in value.items():
        if key not in _PROJECT_HANDLED and not key.startswith("x-"):
            report.dropped(key, told, *_PROJECT_DROPPED.get(key, (_SERVICE, "")))
    project = _Project(report, origin, value)
    processes = [_Process(project, name, raw) for name, raw in value["processes"].items()]
    for process in processes:
        process.choose_names()
    for process in processes:
        process.add_units()
    for process in processes:
        process.relate()
    _refuse_cycle(report)
    return report


def _refuse_cycle(report: Report) -> None:
    needs = {name: {*unit.get("requires", ()), *unit.get("wants", ())} for name, unit in report.units.items()}
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        said = " -> ".join(reversed(error.args[1]))
        raise MgmtError("bad-config", f"processes depend on each other in a circle: {said}") from None


class _Project:
    """What all processes share."""

    def __init__(self, report: Report, origin: Origin, raw: Mapping[str, Any]) -> None:
        self.report = report
        self.origin = origin
        off = raw.get("disable_env_expansion", "")
        self.expands = not (off and report.flag("disable_env_expansion", off, False))
        self.vars = report.table("vars", raw.get("vars"))
        self.environment = raw.get("environment", "")
        shell = report.table("shell", raw.get("shell"))
        self.shell = Shell(report, shell.get("shell_command", ""), shell.get("shell_argument", ""))
        for key in shell.keys() - {"shell_command", "shell_argument"}:
            report.dropped(f"shell.{key}", shell[key], "no password is asked for")
        self.names: dict[str, list[str]] = {}  # process -> its units
        self.replicas: dict[str, list[str]] = {}  # one replica, `NAME-0` in the file -> its unit


@dataclass(slots=True)
class _Process:
    project: _Project
    name: str
    given: object
    raw: dict[str, Any] = field(init=False)
    path: str = field(init=False)
    units: list[str] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.path = f"processes.{self.name}"
        self.raw = self.project.report.table(self.path, self.given)

    def choose_names(self) -> None:
        """Names first: a process may need one that stands below it in the file."""
        project, report = self.project, self.project.report
        count = report.whole(f"{self.path}.replicas", self.raw.get("replicas") or "1", 1, 1, MAX_INSTANCES)
        if not (self.raw.get("command") or self.raw.get("entrypoint")):
            report.dropped(f"{self.path}.command", "", "it names no program", "the process is left out")
            return
        width = len(str(count))
        for number in range(count):
            name = report.name(self.path, self.name if count == 1 else f"{self.name}.{number}")
            report.units[name] = {}
            self.units.append(name)
            project.names.setdefault(self.name, []).append(name)
            if count > 1:
                project.replicas[f"{self.name}-{number:0{width}}"] = [name]

    def add_units(self) -> None:
        report = self.project.report
        for key, value in self.raw.items():
            if key in DROPPED:
                report.dropped(f"{self.path}.{key}", value, *DROPPED[key])
            elif key not in HANDLED and not key.startswith("x-"):
                report.dropped(f"{self.path}.{key}", value, "no such setting of a process is known here")
        for number, name in enumerate(self.units):
            report.units[name] = self._unit(number)

    def relate(self) -> None:
        """Translate `depends_on`, when every unit is there."""
        project, report = self.project, self.project.report
        for other, value in report.table(f"{self.path}.depends_on", self.raw.get("depends_on")).items():
            path = f"{self.path}.depends_on.{other}"
            told = report.table(path, value).get("condition") or "process_started"
            needed = project.names.get(other) or project.replicas.get(other) or []
            relation, condition = _CONDITIONS.get(told if isinstance(told, str) else "", ("", ""))
            if not relation:
                report.dropped(f"{path}.condition", told, "no such condition is known here")
            elif not needed:
                report.dropped(path, told, "there is no such process in this file")
            else:
                for name in self.units:
                    needs = report.units[name].setdefault(relation, {})
                    needs |= dict.fromkeys(needed, condition)
                for unit in needed if condition == "completed" else ():
                    self._let_end(path, told, report.units[unit])

    def _let_end(self, path: str, told: str, unit: Unit) -> None:
        unit["oneshot"] = True
        if unit["restart"]["policy"] == "always":
            why = "what is always started again never completes"
            self.project.report.approximated(path, told, why, "set its restart.policy to on-failure")

    # --- one unit ---------------------------------------------------------------------------------------

    def _unit(self, number: int) -> Unit:
        report, raw = self.project.report, self.raw
        texts = self._texts(number)
        unit: Unit = {"command": self._command(texts), "autostart": True}
        for key in ("disabled", "is_disabled"):
            if raw.get(key) and report.flag(f"{self.path}.{key}", raw[key], False):
                unit["autostart"] = False
        env = self._env(texts, number, unit["command"])
        if env:
            unit["env"] = env
        unit["cwd"] = self.project.origin.inside(texts.plain("working_dir", raw.get("working_dir", "")))
        if raw.get("is_elevated") and report.flag(f"{self.path}.is_elevated", raw["is_elevated"], False):
            unit["user"] = "root"
            why = "no password is asked for, the daemon must have the right"
            report.approximated(f"{self.path}.is_elevated", raw["is_elevated"], why)
        self._ends(unit)
        self._stop(unit, texts)
        self._log(unit)
        self._probes(unit, texts)
        if raw.get("schedule"):
            why = "there is no clock to start units"
            report.dropped(
                f"{self.path}.schedule", raw["schedule"], why, "run `mgmt start UNIT` from cron or a timer"
            )
            unit |= {"autostart": False, "oneshot": True}
        return unit

    def _texts(self, number: int) -> Texts:
        project, raw = self.project, self.raw
        variables = {**project.vars, **project.report.table(f"{self.path}.vars", raw.get("vars"))}
        variables |= {"PC_REPLICA_NUM": str(number), "PC_PROC_NAME": self.name}
        off = raw.get("is_template_disabled", "")
        templates = not (off and project.report.flag(f"{self.path}.is_template_disabled", off, False))
        return Texts(project.report, self.path, project.origin.environ, project.expands, templates, variables)

    def _command(self, texts: Texts) -> list[str]:
        command, words = self.raw.get("command", ""), self.raw.get("entrypoint", "")
        if not command and isinstance(words, list) and all(isinstance(word, str) for word in words):
            argv = [literal(texts.plain("entrypoint", word)) for word in words]
            if argv[0]:
                return argv
        if isinstance(command, str) and command:
            return [
                literal(word)
                for word in self.project.shell.argv(f"{self.path}.command", texts.shell("command", command))
            ]
        self.project.report.dropped(
            f"{self.path}.command", command or words, "it is no command", "write it in the unit"
        )
        return ["/bin/false"]

    def _env(self, texts: Texts, number: int, command: list[str]) -> dict[str, str]:
        report = self.project.report
        found: dict[str, str] = {}
        for path, value in (
            ("environment", self.project.environment),
            (f"{self.path}.environment", self.raw.get("environment", "")),
        ):
            items = value if isinstance(value, list) else []
            if isinstance(value, dict):
                items = [f"{name}={told}" for name, told in value.items() if isinstance(told, str)]
            if len(items) < (len(value) if isinstance(value, list | dict) else bool(value)):
                report.dropped(path, value, "it is no list of NAME=value", "set `env` in the unit")
            pairs: list[tuple[str, str]] = []
            for item in items:
                name, equals, told = item.partition("=") if isinstance(item, str) else ("", "", "")
                if equals:
                    pairs.append((name, texts.plain("environment", told)))
                else:
                    report.dropped(path, item, "it is not NAME=value")
            found |= report.env(path, pairs)
        if len(self.units) > 1 or "PC_" in " ".join(command):
            found = {"PC_PROC_NAME": literal(self.name), "PC_REPLICA_NUM": str(number)} | found
        return found

    def _ends(self, unit: Unit) -> None:
        """What follows an end: `availability` and the exit codes that are no failure."""
        report, path = self.project.report, f"{self.path}.availability"
        told = report.table(path, self.raw.get("availability"))
        for key in told.keys() - _AVAILABILITY:
            report.dropped(f"{path}.{key}", told[key], "no such setting is known here")
        for key in ("exit_on_end", "exit_on_skipped"):
            if told.get(key) and report.flag(f"{path}.{key}", told[key], False):
                report.dropped(f"{path}.{key}", told[key], *_WHOLE)
        word = told.get("restart") or "no"
        policies = {
            "no": "no",
            "false": "no",
            "always": "always",
            "on_failure": "on-failure",
            "exit_on_failure": "no",
        }
        policy = policies.get(word.lower() if isinstance(word, str) else "")
        if policy is None:
            report.dropped(f"{path}.restart", word, "no such policy is known here", "it is not restarted")
        elif word == "exit_on_failure":
            report.dropped(f"{path}.restart", word, *_WHOLE)
        unit["restart"] = {"policy": policy or "no"}
        if policy in ("always", "on-failure"):
            wait_s = report.number(
                f"{path}.backoff_seconds", told.get("backoff_seconds") or "1", 1, 1, MAX_DAY_S
            )
            limit = report.whole(f"{path}.max_restarts", told.get("max_restarts") or "0", 0, 0, MAX_RESTARTS)
            unit["restart"] |= {
                "delay_s": float(wait_s), "delay_max_s": float(wait_s), "factor": 1.0, "jitter": 0.0,
                "limit": limit or MAX_RESTARTS,
            }  # fmt: skip
            if limit:
                unit["restart"]["window_s"] = MAX_DAY_S
                why = "restarts are counted within a day, not for ever"
                report.approximated(f"{path}.max_restarts", told["max_restarts"], why)
        codes = self.raw.get("success_exit_codes") or []
        good = [int(code) for code in codes if isinstance(code, str) and re.fullmatch("[0-9]{1,3}", code)]
        if codes:
            unit["success_exit_codes"] = sorted({0, *(code for code in good if code < 256)})

    def _stop(self, unit: Unit, texts: Texts) -> None:
        report, path = self.project.report, f"{self.path}.shutdown"
        told = report.table(path, self.raw.get("shutdown"))
        for key in told.keys() - _SHUTDOWN:
            report.dropped(f"{path}.{key}", told[key], "no such setting is known here")
        if told.get("signal"):
            unit["stop_signal"] = report.signal(f"{path}.signal", told["signal"])
        if told.get("timeout_seconds"):
            unit["grace_s"] = report.seconds(f"{path}.timeout_seconds", told["timeout_seconds"], 10)
        if told.get("parent_only") and report.flag(f"{path}.parent_only", told["parent_only"], False):
            why = "a stop always reaches every process of the unit"
            report.approximated(f"{path}.parent_only", told["parent_only"], why)
        line = told.get("command", "")
        if isinstance(line, str) and line:
            argv = self.project.shell.argv(f"{path}.command", texts.shell("shutdown.command", line))
            unit["hooks"] = {
                "pre_stop": {
                    "command": [literal(word) for word in argv],
                    "timeout_s": unit.get("grace_s", 10.0),
                }
            }
            report.approximated(
                f"{path}.command", line, "the stop signal is sent after it, not only when it fails"
            )

    def _log(self, unit: Unit) -> None:
        report, path = self.project.report, f"{self.path}.log_configuration"
        told = report.table(path, self.raw.get("log_configuration"))
        for key in told.keys() - {"rotation"}:
            report.dropped(f"{path}.{key}", told[key], *_PLAIN_OUTPUT)
        rotation = report.table(f"{path}.rotation", told.get("rotation"))
        for key, value in rotation.items():
            where = f"{path}.rotation.{key}"
            if key == "max_size_mb":
                unit["log_max_bytes"] = report.whole(where, value, 10, 1, 1 << 20) << 20
            elif key == "max_backups":
                unit["log_keep"] = report.whole(where, value, 5, 0, 1000)
            elif key == "compress":
                unit["log_compress"] = report.flag(where, value, False)
            elif key == "max_age_days":
                report.dropped(where, value, "old files go by number, not by age", "set log_keep")
            else:
                report.dropped(where, value, "output goes to a file of each unit in the state folder", _LOGS)

    def _probes(self, unit: Unit, texts: Texts) -> None:
        report, shell = self.project.report, self.project.shell
        probes: dict[str, Unit] = {}
        told = {
            key: report.table(f"{self.path}.{key}", self.raw.get(key))
            for key in ("readiness_probe", "liveness_probe")
        }
        live = probe_of(report, f"{self.path}.liveness_probe", told["liveness_probe"], texts, shell)
        ready = probe_of(report, f"{self.path}.readiness_probe", told["readiness_probe"], texts, shell)
        if ready:
            probes["ready"] = ready.table()
            probes["startup"] = ready.table(more_failures=ready.delayed)
            unit["ready_timeout_s"] = ready.up_to_s
            why = "a bad one takes it out of service and does not end it"
            report.approximated(
                f"{self.path}.readiness_probe", told["readiness_probe"], why, "`probes.live` would"
            )
        if live:
            probes["live"] = live.table()
        line = self.raw.get("ready_log_line", "")
        if isinstance(line, str) and line:
            if len(re.escape(line)) > 1000:
                report.dropped(f"{self.path}.ready_log_line", line, "it is too long for a pattern")
            else:
                probes["startup"] = {"kind": "log", "pattern": re.escape(line)}
                unit["ready_timeout_s"] = MAX_DAY_S
        if probes:
            unit["probes"] = probes
