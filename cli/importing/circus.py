"""circus.ini: `[watcher:x]` sections, with the variables of `[env]` and `[env:x]`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from . import ini
from .report import MAX_INSTANCES, MAX_RESTARTS, Origin, Report, Unit, literal, order_by

Env = dict[str, tuple[str, str]]  # variable -> (where it stands, its text)

LIMITS = frozenset(
    (
        *("as", "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc"),
        *("rss", "rtprio", "rttime", "sigpending", "stack"),
    )
)
_HOLE = re.compile(r"\$\(circus\.([\w.-]{1,200})\)|\(\(circus\.([\w.-]{1,200})\)\)", re.I | re.ASCII)
_VARIABLE = re.compile(r"\$([A-Z][A-Z0-9_]{0,200})")
_PYTHON = re.compile(r"python[0-9.]*")
_SOCKETS = ("no socket is handed to a program", "let the program bind its socket itself")
_AGE = ("a unit is not restarted for its age", "let a timer run `mgmt` for that")
_CLOSED = ("output is always kept", "send it to /dev/null in the command")
_CIRCUSD = "it is about circusd itself"

# setting of a watcher -> (why it is dropped, what to do instead)
DROPPED = {
    "warmup_delay": ("starts are not spaced in time", "let the unit wait for others with `after`"),
    "send_hup": ("there is no reload by a signal", "send it with `kill -HUP`"),
    "use_sockets": _SOCKETS,
    "on_demand": _SOCKETS,
    "use_papa": _SOCKETS,
    "max_age": _AGE,
    "max_age_variance": _AGE,
    "copy_path": ("the interpreter's own path is not handed on", "set PYTHONPATH in `env`"),
    "executable": ("the program is the first word of the command", "write it there"),
    "check_flapping": ("every unit has a restart limit", "set restart.limit and restart.window_s"),
    "close_child_stdin": ("standard input is always /dev/null", ""),
    "close_child_stdout": _CLOSED,
    "close_child_stderr": _CLOSED,
    "stream_backend": (_CIRCUSD, ""),
}
HANDLED = {
    *("cmd", "args", "shell", "shell_args", "numprocesses", "singleton", "working_dir", "uid", "gid", "env"),
    *("copy_env", "virtualenv", "respawn", "max_retry", "graceful_timeout", "stop_signal", "stop_children"),
    *("priority", "autostart"),
}
_STREAM = {
    "stdout_stream.class",
    "stdout_stream.filename",
    "stdout_stream.max_bytes",
    "stdout_stream.backup_count",
}
_HOOKS = {
    **dict.fromkeys(("before_start", "before_spawn"), "hooks.pre_start"),
    **dict.fromkeys(("after_start", "after_spawn"), "hooks.post_start"),
    "before_stop": "hooks.pre_stop",
    **dict.fromkeys(("after_stop", "before_reap", "after_reap"), "hooks.post_stop"),
}


def translate(text: str, origin: Origin) -> Report:
    """One unit for each process: `NAME`, and with numprocesses above 1 `NAME.0` and so on."""
    report = Report()
    sections = ini.read(text, comments=(";",), fold_case=False)
    levels: dict[str, int] = {}
    umask = None
    for section, raw in sections.items():
        kind, name = ini.kind_and_name(section)
        if section == "circus":
            umask = _daemon(report, raw)
        elif kind == "socket":
            report.dropped(section, raw.get("path") or raw.get("port", "section"), *_SOCKETS)
        elif kind == "plugin":
            instead = (
                "set restart.limit and restart.window_s" if "flapping" in raw.get("use", "").lower() else ""
            )
            report.dropped(section, raw.get("use", "section"), "there are no plugins of this kind", instead)
        elif kind == "env":
            _check_env(report, section, name, sections)
        elif kind != "watcher":
            report.dropped(section, "section", "no such section is known here")
    for section, raw in sections.items():
        kind, name = ini.kind_and_name(section)
        if kind == "watcher":
            watcher = _Watcher(report, origin, section, name, raw, _env_of(name, sections), umask)
            levels |= watcher.units()
    order_by(report, levels)
    return report


def _daemon(report: Report, raw: Mapping[str, str]) -> str | None:
    """Notes about `[circus]`; the umask that its processes inherit."""
    for key, value in raw.items():
        if key in ("include", "include_dir"):
            instead = "import each of these files and put their `units` together"
            report.dropped(f"circus.{key}", value, "only this file is read", instead)
        elif key != "umask":
            report.dropped(f"circus.{key}", value, *DROPPED.get(key, (_CIRCUSD, "")))
    return report.umask("circus.umask", raw["umask"]) if "umask" in raw else None


def _patterns(names: str) -> list[str]:
    return [word.strip() for word in names.split(",")]


def _env_of(watcher: str, sections: ini.Sections) -> Env:
    """The variables for a watcher, in the order of the file, with `[env]` below all."""
    found = {name: ("env", text) for name, text in sections.get("env", {}).items()}
    for section, raw in sections.items():
        kind, names = ini.kind_and_name(section)
        if kind == "env" and any(fnmatchcase(watcher, pattern) for pattern in _patterns(names)):
            found |= {name: (section, text) for name, text in raw.items()}
    return found


def _check_env(report: Report, section: str, names: str, sections: ini.Sections) -> None:
    watchers = [ini.kind_and_name(other)[1] for other in sections if other.startswith("watcher:")]
    for pattern in _patterns(names) if names else ():
        if not any(fnmatchcase(watcher, pattern) for watcher in watchers):
            report.dropped(section, pattern, "there is no such watcher in this file")


@dataclass(slots=True)
class _Watcher:
    report: Report
    origin: Origin
    section: str
    name: str
    raw: dict[str, str]
    env: Env
    umask: str | None

    def units(self) -> dict[str, int]:
        """Add the units of this watcher; their names with what sorts them: a high priority is early."""
        report, raw, path = self.report, self.raw, self.section
        self._note_the_rest()
        count = report.whole(f"{path}.numprocesses", raw.get("numprocesses", "1"), 1, 0, MAX_INSTANCES)
        if "singleton" in raw and report.flag(f"{path}.singleton", raw["singleton"], False):
            count = min(count, 1)
        if count == 0:
            report.dropped(f"{path}.numprocesses", raw["numprocesses"], "a unit is a process, none is none")
        priority = report.whole(f"{path}.priority", raw.get("priority", "0"), 0, -(1 << 31), 1 << 31)
        levels: dict[str, int] = {}
        for number in range(count):
            unit = self._unit(number + 1)
            if unit is None:
                break
            name = report.name(path, self.name if count == 1 else f"{self.name}.{number}")
            report.units[name] = unit
            levels[name] = -priority
        return levels

    def _note_the_rest(self) -> None:
        report, path = self.report, self.section
        for key, value in self.raw.items():
            if key in DROPPED:
                report.dropped(f"{path}.{key}", value, *DROPPED[key])
            elif key.startswith("hooks."):
                hook = _HOOKS.get(key.removeprefix("hooks."))
                instead = f"write it as a command in `{hook}`" if hook else ""
                report.dropped(f"{path}.{key}", value, "it is a function of Python", instead)
            elif key.startswith("stderr_stream"):
                why = "standard output and error of a unit share one file"
                report.dropped(f"{path}.{key}", value, why, "read it with `mgmt logs UNIT`")
            elif key.startswith("stdout_stream") and key not in _STREAM:
                report.dropped(f"{path}.{key}", value, "output is written as it comes")
            elif key not in HANDLED and not key.startswith(("rlimit_", "stdout_stream")):
                why = "no such setting of a watcher is known here"
                report.dropped(f"{path}.{key}", value, why, "set it in `env` if its program reads it")

    def _expand(self, key: str, text: str, number: int, section: str | None = None) -> str:
        path = f"{section or self.section}.{key}"
        mine = {name.lower(): value for name, (_, value) in self.env.items()}
        theirs = {name.lower(): value for name, value in self.origin.environ.items()}

        def value(match: re.Match[str]) -> str:
            name = (match[1] or match[2]).lower()
            variable = name.removeprefix("env.")
            if name == "wid":
                return str(number)
            if name == "name":
                return self.name
            if variable != name and variable in mine:
                return mine[variable]
            if variable != name and variable in theirs:
                why = f"the value that ${variable} has now is written down"
                self.report.approximated(path, match[0], why, "change it in the unit")
                return theirs[variable]
            why = _SOCKETS[0] if name.startswith("sockets.") else "it has no value here"
            self.report.dropped(path, match[0], why, "the text is left as it is")
            return match[0]

        return _HOLE.sub(value, text)

    def _unit(self, number: int) -> Unit | None:
        report, raw, path = self.report, self.raw, self.section
        command = self._command(number)
        if not command:
            return None
        unit: Unit = {"command": command, "autostart": True}
        if "autostart" in raw:
            unit["autostart"] = report.flag(f"{path}.autostart", raw["autostart"], True)
        env = report.env(f"{path}.env", self._variables(number))
        if env:
            unit["env"] = env
        if "copy_env" in raw and not report.flag(f"{path}.copy_env", raw["copy_env"], False):
            why = "a unit inherits the environment of the daemon"
            report.approximated(
                f"{path}.copy_env", raw["copy_env"], why, 'start it with ["/usr/bin/env", "-i", ...]'
            )
        folder = self._expand("working_dir", raw.get("working_dir", ""), number)
        if folder:
            unit["cwd"] = self.origin.inside(folder)
        ini.warn_of_relative_program(report, f"{path}.cmd", unit)
        for key, mine in (("uid", "user"), ("gid", "group")):
            account = self._expand(key, raw.get(key, ""), number)
            if account:
                unit[mine] = account
        if self.umask:
            unit["umask"] = self.umask
        limits = self._limits()
        if limits:
            unit["rlimits"] = limits
        self._ends(unit)
        self._log(unit)
        return unit

    def _command(self, number: int) -> list[str]:
        report, raw, path = self.report, self.raw, self.section
        line = " ".join(self._expand(key, raw[key], number) for key in ("cmd", "args") if raw.get(key))
        argv = ini.split_command(report, f"{path}.cmd", line)
        shell = "shell" in raw and report.flag(f"{path}.shell", raw["shell"], False)
        if argv and shell:
            extra = self._expand("shell_args", raw.get("shell_args", ""), number)
            rest = ini.split_command(report, f"{path}.shell_args", extra) if extra else []
            argv = ["/bin/sh", "-c", literal(line), *rest]
        elif "shell_args" in raw:
            report.dropped(f"{path}.shell_args", raw["shell_args"], "there is no shell")
        if argv and raw.get("virtualenv"):
            folder = self.origin.inside(self._expand("virtualenv", raw["virtualenv"], number))
            if not shell and _PYTHON.fullmatch(argv[0]):
                argv[0] = literal(f"{folder}/bin/{argv[0]}")
                why = "the interpreter of the environment is named in the command"
                report.approximated(f"{path}.virtualenv", raw["virtualenv"], why)
            else:
                instead = "name the program in its bin folder"
                report.dropped(f"{path}.virtualenv", raw["virtualenv"], "no such setting exists", instead)
        return argv

    def _variables(self, number: int) -> list[tuple[str, str]]:
        report, own = self.report, ini.pairs(self.raw.get("env", ""))
        if own is None:
            why = "it is no list of NAME=value, with commas between them"
            report.dropped(f"{self.section}.env", self.raw["env"], why)
        told = self.env | {name: (f"{self.section}.env", text) for name, text in own or []}
        found: list[tuple[str, str]] = []
        for name, (section, text) in told.items():
            path = f"{section}.{name}"

            def value(match: re.Match[str], path: str = path) -> str:
                now = self.origin.environ.get(match[1])
                if now is None:
                    report.dropped(
                        path, match[0], "it has no value here", f"set ${match[1]} and import again"
                    )
                    return ""
                why = f"the value that ${match[1]} has now is written down"
                report.approximated(path, match[0], why, "change it in the unit")
                return now

            found.append((name, _VARIABLE.sub(value, self._expand(name, text, number, section))))
        return found

    def _limits(self) -> dict[str, int | str]:
        found: dict[str, int | str] = {}
        for key, value in self.raw.items():
            name = key.removeprefix("rlimit_").lower()
            if not key.startswith("rlimit_"):
                continue
            if name not in LIMITS:
                self.report.dropped(f"{self.section}.{key}", value, "there is no such resource limit")
            elif value in ("", "-1"):
                found[name] = "unlimited"
            elif re.fullmatch("[0-9]{1,19}", value):
                found[name] = int(value)
            else:
                self.report.dropped(f"{self.section}.{key}", value, "it is no number")
        return found

    def _ends(self, unit: Unit) -> None:
        """How it is stopped, and what follows an end."""
        report, raw, path = self.report, self.raw, self.section
        # A watcher replaces an ended process without end: its max_retry counts programs that cannot be run.
        retries = report.whole(f"{path}.max_retry", raw.get("max_retry", "-1"), -1, -1, MAX_RESTARTS)
        if retries >= 0:
            why = "every end within restart.window_s counts, not only a start that fails"
            report.approximated(f"{path}.max_retry", raw["max_retry"], why, "raise restart.limit when needed")
        unit["restart"] = {"policy": "always", "limit": MAX_RESTARTS if retries < 0 else retries}
        if "respawn" in raw and not report.flag(f"{path}.respawn", raw["respawn"], True):
            unit["restart"] = {"policy": "no"}
        unit["grace_s"] = report.seconds(f"{path}.graceful_timeout", raw.get("graceful_timeout", "30"), 30)
        if "stop_signal" in raw:
            unit["stop_signal"] = report.signal(f"{path}.stop_signal", raw["stop_signal"])
        if "stop_children" in raw and not report.flag(f"{path}.stop_children", raw["stop_children"], True):
            why = "a stop always reaches every process of the unit"
            report.approximated(f"{path}.stop_children", raw["stop_children"], why)

    def _log(self, unit: Unit) -> None:
        report, raw, path = self.report, self.raw, self.section
        for key in ("stdout_stream.class", "stdout_stream.filename"):
            if key in raw:
                why = "output goes to a file of each unit in the state folder"
                report.dropped(f"{path}.{key}", raw[key], why, "read it with `mgmt logs UNIT`")
        key = "stdout_stream.max_bytes"
        if key in raw:
            unit["log_max_bytes"] = report.whole(f"{path}.{key}", raw[key], 10 << 20, 4096, 1 << 40)
        key = "stdout_stream.backup_count"
        if key in raw:
            unit["log_keep"] = report.whole(f"{path}.{key}", raw[key], 5, 0, 1000)
