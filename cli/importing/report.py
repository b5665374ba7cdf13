"""What an import found: the units, and a note for each setting that did not go over unchanged."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mgmt.protocol import defaults

Unit = dict[str, Any]  # a value of `units` in config.json

MAX_INSTANCES = 1024  # of one program; more is a slip of the keyboard, not a plan
MAX_DAY_S = 86_400.0  # the longest time config.json takes
MAX_RESTARTS = 1 << 20  # the largest restart limit config.json takes: no limit, in effect

SIGNALS = ("TERM", "INT", "QUIT", "HUP", "USR1", "USR2", "KILL")
_SIGNAL_NUMBERS = {15: "TERM", 2: "INT", 3: "QUIT", 1: "HUP", 10: "USR1", 12: "USR2", 9: "KILL"}
_TRUE = {"yes", "true", "on", "1", "y", "t"}
_FALSE = {"no", "false", "off", "0", "n", "f"}
_HOLE = re.compile(r"\{(?:[a-z_]+|option\.[A-Za-z0-9_-]+)\}")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the file lies and what its placeholders may name: all that a translation knows besides its text."""

    folder: Path
    environ: Mapping[str, str]
    host: str = "localhost"

    def inside(self, path: str) -> str:
        """An absolute path: a relative one is meant from the folder of the file."""
        return str(self.folder / path)


@dataclass(frozen=True, slots=True)
class Note:
    """One setting of the source: `change` is "dropped" or "approximated", `value` is shortened JSON."""

    path: str
    value: str
    change: str
    why: str
    instead: str

    def line(self) -> str:
        instead = f"; {self.instead}" if self.instead else ""
        return f"{self.path} = {self.value}: {self.change}: {self.why}{instead}"


@dataclass(slots=True)
class Report:
    """Collects units and notes; the same note of several instances of a program is kept once."""

    units: dict[str, Unit] = field(default_factory=dict)
    _notes: dict[Note, None] = field(default_factory=dict)

    @property
    def notes(self) -> list[Note]:
        return list(self._notes)

    def dropped(self, path: str, value: object, why: str, instead: str = "") -> None:
        """The setting has no equivalent."""
        self._note(path, value, "dropped", why, instead)

    def approximated(self, path: str, value: object, why: str, instead: str = "") -> None:
        """The setting has an equivalent that differs in what `why` says."""
        self._note(path, value, "approximated", why, instead)

    def _note(self, path: str, value: object, change: str, why: str, instead: str) -> None:
        self._notes[Note(plain(path), shown(value), change, why, instead)] = None

    def config(self) -> dict[str, Any]:
        """The value of config.json."""
        if len(self.units) > defaults.MAX_UNITS:
            return {"limits": {"max_units": len(self.units)}, "units": self.units}
        return {"units": self.units}

    # --- one value of the source to one of config.json; a bad one is a note and the default --------------

    def number(
        self,
        path: str,
        value: object,
        default: float,
        low: float,
        high: float,
        parse: Callable[[str], float] = float,
    ) -> float:
        """A number within low..high; outside of them the nearest."""
        try:
            found = parse(_text(value)) if len(_text(value)) < 40 else None
        except (ValueError, OverflowError):
            found = None
        if found is None or found != found:
            self.dropped(path, value, "it is no number", f"{default:g} is used")
            return default
        if not low <= found <= high:
            near = low if found < low else high
            self.approximated(path, value, f"it must be between {low:g} and {high:g}", f"{near:g} is used")
            return near
        return found

    def seconds(self, path: str, value: object, default: float) -> float:
        """A time that config.json takes: above 0, at most a day."""
        return float(self.number(path, value, default, 0.01, MAX_DAY_S))

    def whole(self, path: str, value: object, default: int, low: int, high: int) -> int:
        return int(self.number(path, value, default, low, high, int))

    def flag(self, path: str, value: object, default: bool) -> bool:
        word = _text(value).lower()
        if word in _TRUE or word in _FALSE:
            return word in _TRUE
        self.dropped(path, value, "it is neither true nor false", f"{str(default).lower()} is used")
        return default

    def signal(self, path: str, value: object) -> str:
        word = _text(value).upper().removeprefix("SIG")
        name = _SIGNAL_NUMBERS.get(int(word)) if re.fullmatch(r"[0-9]{1,3}", word, re.ASCII) else word
        if name in SIGNALS:
            return name
        self.dropped(path, value, f"a stop signal is one of {', '.join(SIGNALS)}", "TERM is used")
        return "TERM"

    def table(self, path: str, value: object) -> dict[str, Any]:
        """A nested table; anything else is a note, and empty."""
        if isinstance(value, dict):
            return value
        if value not in ("", None):
            self.dropped(path, value, "it must be a table")
        return {}

    def umask(self, path: str, value: object) -> str | None:
        digits = _text(value).removeprefix("0o").lstrip("0").rjust(3, "0")
        if re.fullmatch(r"[0-7]{3}", digits):
            return digits
        self.dropped(path, value, "it is no octal file mode mask", "set `umask` in the unit")
        return None

    def env(self, path: str, pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
        """Variables as templates of config.json; a name that no shell could read is a note."""
        found: dict[str, str] = {}
        for name, value in pairs:
            if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
                found[name] = literal(value)
            else:
                self.dropped(f"{path}.{name}", value, "it is no name of an environment variable")
        return found

    def name(self, path: str, wanted: str) -> str:
        """A free name of a unit, as near to `wanted` as the rules of config.json allow."""
        name = re.sub(r"[^A-Za-z0-9._+:-]+", "-", wanted).lstrip("._+:-")[:200] or "unit"
        base, count = name, 2
        while name in self.units:
            name, count = f"{base}-{count}", count + 1
        if name != wanted:
            why = "a unit's name has only letters, digits and . _ + : -, and is used once"
            self.approximated(path, wanted, why, f"the unit is {name}")
        return name


def _text(value: object) -> str:
    """Scalars of every format arrive as text; what is nested is no value of one setting."""
    return value.strip() if isinstance(value, str) else ""


def plain(text: str) -> str:
    """`text` with whatever a terminal must not get written as an escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def literal(text: str) -> str:
    """`text` as a template that stands for itself: config.json fills names in braces."""
    return _HOLE.sub(r"{\g<0>}", text)


def shown(value: object) -> str:
    """A text as JSON in ASCII, one short line; what a nested value holds is not shown."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list | tuple):
        return "an array"
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."


def order_by(report: Report, levels: Mapping[str, Any]) -> None:
    """Give each unit `after` all of the level before its own; `levels` is what sorts them, by unit.

    A unit that is not started with the daemon would cut the chain, so nobody waits for one.
    """
    before: list[str] = []
    for level in sorted(set(levels.values())):
        members = [name for name in report.units if levels.get(name) == level]
        for name in members if before else ():
            report.units[name]["after"] = dict.fromkeys(before, "started")
        before = [name for name in members if report.units[name]["autostart"]] or before
