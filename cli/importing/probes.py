"""The probes of process-compose as those of a unit."""

from __future__ import annotations

import math
import re
import shlex
from dataclasses import dataclass
from typing import Any

from .report import MAX_DAY_S, Report, Unit
from .shell import Shell
from .texts import Texts

_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,250}[A-Za-z0-9])?")
_KNOWN = {
    *("exec", "http_get", "initial_delay_seconds", "period_seconds", "timeout_seconds"),
    *("success_threshold", "failure_threshold"),
}
MAX_COUNT = 1 << 20  # the largest threshold config.json takes


@dataclass(frozen=True, slots=True)
class Probe:
    """`asks` is the question; the first answers may be bad for `delay_s`."""

    asks: Unit
    delay_s: float
    period_s: float
    timeout_s: float
    successes: int
    failures: int

    @property
    def delayed(self) -> int:
        """Questions that fall into the delay: the first is asked at once here."""
        return math.ceil(self.delay_s / self.period_s)

    @property
    def up_to_s(self) -> float:
        """When the source would give up a start, from its beginning."""
        return float(min(self.delay_s + self.period_s * self.failures + self.timeout_s, MAX_DAY_S))

    def table(self, more_failures: int = 0) -> Unit:
        return {
            **self.asks,
            "period_s": self.period_s,
            "timeout_s": self.timeout_s,
            "success_threshold": self.successes,
            "failure_threshold": min(self.failures + more_failures, MAX_COUNT),
        }


def probe_of(report: Report, path: str, told: dict[str, Any], texts: Texts, shell: Shell) -> Probe | None:
    """The probe that the table at `path` describes; None, with a note, when it cannot be asked."""
    if not told:
        return None
    for key in told.keys() - _KNOWN:
        report.dropped(f"{path}.{key}", told[key], "no such setting of a probe is known here")

    def number(key: str, default: float, low: float, high: float) -> float:
        # What is below its bounds stands for the default there.
        value = told.get(f"{key}") or str(default)
        return float(report.number(f"{path}.{key}", value, default, low, high))

    asks = _exec(report, path, told, texts, shell) or _http(report, path, told, texts)
    if asks is None:
        why = "it asks neither with exec nor with http_get over plain HTTP"
        report.dropped(path, told, why, "write an exec probe, with curl say")
        return None
    delay_s = number("initial_delay_seconds", 0, 0, MAX_DAY_S)
    if delay_s:
        why = "the first question comes at once, and the bad answers of that time are forgiven"
        if path.endswith("liveness_probe"):
            why = "it is asked from when the unit is ready"
        report.approximated(f"{path}.initial_delay_seconds", told["initial_delay_seconds"], why)
    return Probe(
        asks=asks,
        delay_s=delay_s,
        period_s=number("period_seconds", 10, 0.1, MAX_DAY_S),
        timeout_s=number("timeout_seconds", 1, 0.1, MAX_DAY_S),
        successes=int(number("success_threshold", 1, 1, MAX_COUNT)),
        failures=int(number("failure_threshold", 3, 1, MAX_COUNT)),
    )


def _exec(report: Report, path: str, told: dict[str, Any], texts: Texts, shell: Shell) -> Unit | None:
    question = report.table(f"{path}.exec", told.get("exec"))
    line = question.get("command", "")
    if not isinstance(line, str) or not line:
        return None
    key = f"{path.rpartition('.')[2]}.exec"
    line = texts.shell(f"{key}.command", line)
    folder = texts.plain(f"{key}.working_dir", question.get("working_dir", ""))
    if folder:
        line = f"cd {shlex.quote(folder)} || exit\n{line}"
    return {"kind": "exec", "command": shell.argv(f"{path}.exec.command", line)} if line else None


def _http(report: Report, path: str, told: dict[str, Any], texts: Texts) -> Unit | None:
    question = report.table(f"{path}.http_get", told.get("http_get"))
    if not question:
        return None
    key = f"{path.rpartition('.')[2]}.http_get"
    filled = {
        name: texts.plain(f"{key}.{name}", question.get(name, "")).strip()
        for name in ("host", "scheme", "path", "port")
    }
    host = filled["host"] or "127.0.0.1"
    port = filled["port"] or texts.plain(f"{key}.num_port", question.get("num_port", ""))
    for name in question.keys() - {*filled, "num_port"}:
        why = "any answer of 200 to 399 to a plain GET is good"
        report.dropped(f"{path}.http_get.{name}", question[name], why, "write an exec probe, with curl say")
    if (filled["scheme"] or "http").lower() != "http" or not _HOST.fullmatch(host):
        return None
    if port and not (re.fullmatch("[0-9]{1,5}", port) and 1 <= int(port) <= 65535):
        report.dropped(f"{path}.http_get.port", port, "it is no port number", "80 is asked")
        port = ""
    return {"kind": "http", "url": f"http://{host}{f':{port}' if port else ''}/{filled['path'].lstrip('/')}"}
