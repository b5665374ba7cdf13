"""supervisord.conf: `[program:x]` sections, their groups and the defaults of `[supervisord]`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from . import ini
from .report import MAX_DAY_S, MAX_INSTANCES, MAX_RESTARTS, Origin, Report, Unit, order_by

_EXPANSION = re.compile(r"%(?:%|\(([A-Za-z0-9_]{1,200})\)(0?[0-9]{0,2})([sd]))")
_BYTES = {"kb": 1 << 10, "mb": 1 << 20, "gb": 1 << 30}
_OWN_FILE = "output goes to a file of each unit in the state folder"
_ONE_FILE = "standard output and error of a unit share one file"
_LOGS = "read it with `mgmt logs UNIT`"
_NO_EVENTS = "output is never read as events"

# setting of a program -> (why it is dropped, what to do instead)
DROPPED = {
    "stdout_capture_maxbytes": (_NO_EVENTS, ""),
    "stdout_events_enabled": (_NO_EVENTS, "follow it with `mgmt logs -f UNIT`"),
    "stdout_syslog": ("output is not sent to syslog", _LOGS),
    "stderr_logfile": (_ONE_FILE, _LOGS),
    "stderr_logfile_maxbytes": (_ONE_FILE, "log_max_bytes holds for both"),
    "stderr_logfile_backups": (_ONE_FILE, "log_keep holds for both"),
    "stderr_capture_maxbytes": (_NO_EVENTS, ""),
    "stderr_events_enabled": (_NO_EVENTS, "follow it with `mgmt logs -f UNIT`"),
    "stderr_syslog": ("output is not sent to syslog", _LOGS),
    "serverurl": ("there is no such server", "units talk to `mgmt` over its control endpoint"),
}
HANDLED = {
    *("command", "process_name", "numprocs", "numprocs_start", "priority", "autostart", "autorestart"),
    *("exitcodes", "startsecs", "startretries", "stopsignal", "stopwaitsecs", "stopasgroup", "killasgroup"),
    *("user", "umask", "directory", "environment", "redirect_stderr"),
    *("stdout_logfile", "stdout_logfile_maxbytes", "stdout_logfile_backups"),
}
# kind of section -> (why it is dropped, what to do instead)
_SECTIONS = {
    "unix_http_server": ("it is the interface of supervisord", "the daemon has its own: `endpoints.control`"),
    "inet_http_server": ("it is the interface of supervisord", "the daemon has its own: `endpoints.control`"),
    "supervisorctl": ("it is the client of supervisord", "use the command `mgmt`"),
    "rpcinterface": ("it is the interface of supervisord", ""),
    "eventlistener": ("there is no event pipe to a child", "read `mgmt events --follow --json` in a unit"),
    "fcgi-program": ("no socket is handed to a program", "let the program bind its socket itself"),
}


def translate(text: str, origin: Origin) -> Report:
    """One unit for each process: `NAME`, `GROUP:NAME`, and with numprocs above 1 `NAME.0` and so on."""
    report = Report()
    sections = ini.read(text, comments=(";", "#"), fold_case=True)
    daemon = _daemon(report, sections.get("supervisord", {}))
    groups = _groups(report, sections)
    levels: dict[str, tuple[int, int]] = {}
    for section, raw in sections.items():
        kind, name = ini.kind_and_name(section)
        if kind == "program":
            group, group_priority = groups.get(name, ("", None))
            program = _Program(report, origin, section, name, group, raw, daemon)
            for unit, priority in program.units():
                levels[unit] = (priority if group_priority is None else group_priority, priority)
        elif kind == "include":
            report.dropped(
                f"{section}.files", raw.get("files", ""), "only this file is read",
                "import each of these files and put their `units` together",
            )  # fmt: skip
        elif kind not in ("supervisord", "group"):
            why, instead = _SECTIONS.get(kind, ("no such section is known here", ""))
            report.dropped(section, raw.get("command", "section"), why, instead)
    order_by(report, levels)
    return report


def _daemon(report: Report, raw: Mapping[str, str]) -> dict[str, str]:
    """The settings of supervisord that its children inherit."""
    for key, value in raw.items():
        if key == "user":
            report.dropped(f"supervisord.{key}", value, "it is the account of the daemon", "run mgmt as it")
        elif key not in ("environment", "umask", "directory"):
            report.dropped(f"supervisord.{key}", value, "it is about supervisord itself")
    return {key: raw[key] for key in ("environment", "umask", "directory") if key in raw}


def _groups(report: Report, sections: ini.Sections) -> dict[str, tuple[str, int]]:
    """program -> (its group, the group's priority)."""
    found: dict[str, tuple[str, int]] = {}
    for section, raw in sections.items():
        kind, group = ini.kind_and_name(section)
        if kind != "group":
            continue
        priority = report.whole(f"{section}.priority", raw.get("priority", "999"), 999, -(1 << 31), 1 << 31)
        for program in filter(None, (word.strip() for word in raw.get("programs", "").split(","))):
            if f"program:{program}" in sections:
                found[program] = (group, priority)
            else:
                report.dropped(f"{section}.programs", program, "there is no such program in this file")
        for key in raw.keys() - {"programs", "priority"}:
            report.dropped(f"{section}.{key}", raw[key], "no such setting of a group is known here")
    return found


@dataclass(slots=True)
class _Program:
    report: Report
    origin: Origin
    section: str
    name: str
    group: str
    raw: dict[str, str]
    daemon: dict[str, str]

    def units(self) -> list[tuple[str, int]]:
        """Add the units of this program; their names with the program's priority."""
        report, raw, path = self.report, self.raw, self.section
        for key, value in raw.items():
            if key in DROPPED:
                report.dropped(f"{path}.{key}", value, *DROPPED[key])
            elif key not in HANDLED:
                report.dropped(f"{path}.{key}", value, "no such setting of a program is known here")
        count = report.whole(f"{path}.numprocs", raw.get("numprocs", "1"), 1, 1, MAX_INSTANCES)
        first = report.whole(f"{path}.numprocs_start", raw.get("numprocs_start", "0"), 0, 0, 1 << 31)
        priority = report.whole(f"{path}.priority", raw.get("priority", "999"), 999, -(1 << 31), 1 << 31)
        wanted = f"{self.group}:{self.name}" if self.group else self.name
        names: list[tuple[str, int]] = []
        for number in range(first, first + count):
            values = {
                "program_name": self.name,
                "group_name": self.group or self.name,
                "process_num": str(number),
                "numprocs": str(count),
                "here": str(self.origin.folder),
                "host_node_name": self.origin.host,
            }
            unit = self._unit(values)
            if unit is None:
                return []
            name = report.name(path, wanted if count == 1 else f"{wanted}.{number}")
            report.units[name] = unit
            names.append((name, priority))
        process_name = raw.get("process_name", "%(program_name)s").strip()
        if count > 1 or process_name != "%(program_name)s":
            said = f"{names[0][0]} to {names[-1][0]}" if count > 1 else names[0][0]
            why = "units are named after their program"
            report.approximated(f"{path}.process_name", process_name, why, f"they are {said}")
        return names

    def _expand(self, path: str, text: str, values: Mapping[str, str]) -> str:
        def value(match: re.Match[str]) -> str:
            name, width, kind = match[1], match[2], match[3]
            if name is None:
                return "%"
            variable = name.removeprefix("ENV_")
            if name in values:
                found = values[name]
            elif variable != name and variable in self.origin.environ:
                found = self.origin.environ[variable]
                why = f"the value that ${variable} has now is written down"
                self.report.approximated(path, match[0], why, "change it in the unit")
            else:
                instead = f"set ${variable} and import again" if variable != name else ""
                self.report.dropped(
                    path, match[0], "it has no value here, the text is left as it is", instead
                )
                return match[0]
            if kind == "d":
                return found.zfill(int(width)) if width.startswith("0") else found.rjust(int(width or 0))
            return found.rjust(int(width or 0))

        return _EXPANSION.sub(value, text)

    def _unit(self, values: Mapping[str, str]) -> Unit | None:
        report, raw, path = self.report, self.raw, self.section
        got = {
            key: self._expand(f"{path}.{key}", text, values)
            for key, text in raw.items()
            if key in HANDLED - {"environment", "process_name"}
        }
        command = ini.split_command(report, f"{path}.command", got.get("command", ""))
        if not command:
            return None
        unit: Unit = {"command": command, "autostart": True}
        if "autostart" in got:
            unit["autostart"] = report.flag(f"{path}.autostart", got["autostart"], True)
        env = self._env(values)
        if env:
            unit["env"] = env
        folder = got.get("directory") or self._expand(
            "supervisord.directory", self.daemon.get("directory", ""), values
        )
        if folder:
            unit["cwd"] = self.origin.inside(folder)
        ini.warn_of_relative_program(report, f"{path}.command", unit)
        if got.get("user"):
            unit["user"] = got["user"]
        umask = got.get("umask") or self.daemon.get("umask")
        mask = report.umask(f"{path}.umask", umask) if umask else None
        if mask:
            unit["umask"] = mask
        self._ends(unit, got)
        self._stop(unit, got)
        self._log(unit, got)
        return unit

    def _env(self, values: Mapping[str, str]) -> dict[str, str]:
        found: dict[str, str] = {}
        for path, options in (("supervisord", self.daemon), (self.section, self.raw)):
            text = options.get("environment", "")
            read = ini.pairs(text)
            if read is None:
                why = "it is no list of NAME=value, with commas between them"
                self.report.dropped(f"{path}.environment", text, why, "set `env` in the unit")
                continue
            # A variable that is only handed through is inherited from the daemon anyway.
            told = [(name, value) for name, value in read if value != f"%(ENV_{name})s"]
            expanded = [(name, self._expand(f"{path}.environment", value, values)) for name, value in told]
            found |= self.report.env(f"{path}.environment", expanded)
        return found

    def _ends(self, unit: Unit, got: Mapping[str, str]) -> None:
        """What follows an end: autorestart, exitcodes, startsecs, startretries."""
        report, path = self.report, self.section
        restart = got.get("autorestart", "unexpected").strip().lower()
        seconds = report.whole(f"{path}.startsecs", got.get("startsecs", "1"), 1, 0, int(MAX_DAY_S))
        retries = report.whole(f"{path}.startretries", got.get("startretries", "3"), 3, 0, MAX_RESTARTS)
        if restart != "unexpected" and not report.flag(f"{path}.autorestart", restart, True):
            unit["restart"] = {"policy": "no"}
            if seconds == 0:
                unit["oneshot"] = True
            else:
                why = "a start that ends within startsecs is not tried again either"
                report.approximated(
                    f"{path}.autorestart", restart, why, "use restart.policy on-failure for that"
                )
        else:
            # Its nth retry comes after n seconds, and only ends before startsecs count; a window that all
            # retries fit in, each with its wait, is the nearest to that.
            waits_s = retries * (retries + 1) // 2 + (retries + 1) * max(seconds, 1)
            unit["restart"] = {
                "policy": "on-failure" if restart == "unexpected" else "always",
                "delay_max_s": float(min(max(retries, 1), MAX_DAY_S)),
                "limit": retries,
                "window_s": float(min(waits_s, MAX_DAY_S)),
            }
            for key in ("autorestart", "startretries"):
                if key in got:
                    why = "every end within restart.window_s counts, and each restart waits"
                    instead = "raise restart.limit when a program often ends by design"
                    report.approximated(f"{path}.{key}", got[key], why, instead)
        if "startsecs" in got and seconds > 0:
            why = "a unit without a startup probe is up when its program runs; it only sets restart.window_s"
            report.approximated(f"{path}.startsecs", got["startsecs"], why, "give it `probes.startup`")
        if "exitcodes" in got:
            words = [word.strip() for word in got["exitcodes"].split(",") if word.strip()]
            codes = [int(word) for word in words if re.fullmatch("[0-9]{1,3}", word) and int(word) < 256]
            if len(codes) < len(words):
                report.dropped(
                    f"{path}.exitcodes", got["exitcodes"], "an exit code is a number from 0 to 255"
                )
            unit["success_exit_codes"] = codes

    def _stop(self, unit: Unit, got: Mapping[str, str]) -> None:
        report, path = self.report, self.section
        if "stopsignal" in got:
            unit["stop_signal"] = report.signal(f"{path}.stopsignal", got["stopsignal"])
        if "stopwaitsecs" in got:
            unit["grace_s"] = report.seconds(f"{path}.stopwaitsecs", got["stopwaitsecs"], 10)
        for key in ("stopasgroup", "killasgroup"):
            if key in got and not report.flag(f"{path}.{key}", got[key], True):
                why = "a stop always reaches every process of the unit"
                report.approximated(f"{path}.{key}", got[key], why)

    def _log(self, unit: Unit, got: Mapping[str, str]) -> None:
        report, path = self.report, self.section
        file = got.get("stdout_logfile", "AUTO").strip()
        if file.upper() in ("NONE", "OFF"):
            report.dropped(
                f"{path}.stdout_logfile", file, "output is always kept", "it is bounded by log_keep"
            )
        elif file.upper() != "AUTO":
            report.dropped(f"{path}.stdout_logfile", file, _OWN_FILE, _LOGS)
        if "redirect_stderr" in got and not report.flag(
            f"{path}.redirect_stderr", got["redirect_stderr"], True
        ):
            report.approximated(f"{path}.redirect_stderr", got["redirect_stderr"], _ONE_FILE)
        unit["log_max_bytes"] = self._bytes(got.get("stdout_logfile_maxbytes", "50MB"))
        unit["log_keep"] = report.whole(
            f"{path}.stdout_logfile_backups", got.get("stdout_logfile_backups", "10"), 10, 0, 1000
        )

    def _bytes(self, text: str) -> int:
        path = f"{self.section}.stdout_logfile_maxbytes"
        match = re.fullmatch(r"\s*([0-9]{1,15})\s*(kb|mb|gb)?\s*", text, re.I)
        if match is None:
            self.report.dropped(path, text, "it is no size", "50MB is used")
            return 50 << 20
        size = int(match[1]) * _BYTES.get((match[2] or "").lower(), 1)
        if size == 0:
            why = "a log is always rotated at some size"
            self.report.approximated(path, text, why, "log_max_bytes is set to 1 TiB")
            return 1 << 40
        return self.report.whole(path, str(size), 50 << 20, 4096, 1 << 40)
