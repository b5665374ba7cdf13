"""Fields of documents, checked one by one; every fault is kept with its path and told at the end."""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from mgmt.protocol import defaults
from mgmt.protocol.errors import MgmtError

Path = tuple[str | int, ...]

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class Faults:
    """(path, problem) in the order found; true when there are any."""

    def __init__(self) -> None:
        self._found: list[tuple[Path, str]] = []

    def __bool__(self) -> bool:
        return bool(self._found)

    def add(self, path: Path, problem: str) -> None:
        self._found.append((path, problem))

    def settle(self) -> None:
        """MgmtError `bad-workload` with all of them."""
        if not self._found:
            return
        shown_ones = self._found[: defaults.MAX_WORKLOAD_PROBLEMS]
        problems = [{"path": path_text(path), "problem": problem} for path, problem in shown_ones]
        lines = [": ".join(part for part in item.values() if part) for item in problems]
        left = len(self._found) - len(shown_ones)
        if left:
            lines.append(f"and {left} more")
        raise MgmtError("bad-workload", "\n".join(lines), problems=problems, more=left)


def path_text(path: Path) -> str:
    """`documents[0].spec[2].period`; a key that is no plain word is quoted in brackets."""
    told = ""
    for step in path:
        if isinstance(step, str) and re.fullmatch(r"[A-Za-z0-9_-]{1,64}", step):
            told += f".{step}" if told else step
        else:
            told += f"[{shown(step)}]"
    return told


def shown(value: object) -> str:
    """A value of the document for a message, cut where it is long."""
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "a map"
    told = repr(value) if isinstance(value, str) else str(value)
    return told if len(told) <= 60 else f"{told[:57]}..."


def kind(value: object) -> str:
    """What sort of value it is, for a message."""
    names = {
        dict: "a map",
        list: "a list",
        str: "text",
        bool: "true or false",
        int: "a number",
        float: "a number",
    }
    return "nothing" if value is None else names.get(type(value), type(value).__name__)


class Fields:
    """One map of a document. `names` makes fields of its keys; "" is a key that is known and has no use here.

    A key that is not known is a fault: a misspelt one would silently be its default. `whose` starts every
    problem: `task 'a'`.
    """

    def __init__(
        self, value: Mapping[Any, Any], names: Mapping[str, str], path: Path, whose: str, faults: Faults
    ) -> None:
        self._path, self._whose, self._faults = path, f"{whose}: " if whose else "", faults
        self._names = names
        self._keys: dict[str, str] = {}
        self._values: dict[str, Any] = {}
        for key, item in value.items():
            field = names.get(key) if isinstance(key, str) else None
            if field is None:
                near = get_close_matches(str(key), names, 1)
                hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(sorted(names))}"
                self.wrong("", f"the key {shown(key)} is unknown: {hint}")
            elif field and field in self._values:
                faults.add((*path, key), f"{self._whose}{key} says again what {self._keys[field]} said")
            elif field:
                self._keys[field], self._values[field] = key, item

    def __contains__(self, field: str) -> bool:
        return field in self._values

    def __getitem__(self, field: str) -> Any:
        return self._values.get(field)

    def key(self, field: str) -> str:
        """The key that gave it, or could have."""
        return self._keys.get(field) or next((key for key, of in self._names.items() if of == field), field)

    def at(self, field: str) -> Path:
        """Where it is; of one that was not given, where the map is."""
        return (*self._path, self._keys[field]) if field in self._keys else self._path

    def wrong(self, field: str, problem: str) -> None:
        self._faults.add(self.at(field), f"{self._whose}{problem}")

    def name(self, field: str) -> str | None:
        """A name, or None with a fault."""
        return text(self[field], self.at(field), f"{self._whose}{self.key(field)}", self._faults)

    def integer(
        self, field: str, low: int, high: int, default: int | None = None, unit: str = ""
    ) -> int | None:
        """An integer from `low` to `high`; of one that is absent the default, or None with a fault."""
        value = self[field]
        if field not in self:
            if default is None:
                self.wrong("", f"{self.key(field)} is missing: give {low} to {high}{unit}")
            return default
        return whole(value, self.at(field), f"{self._whose}{self.key(field)}", self._faults, low, high, unit)


def text(value: Any, path: Path, what: str, faults: Faults) -> str | None:
    """A name; a number is taken as its digits, since YAML does not ask for quotes."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if value is None or value == "":
        faults.add(path, f"{what} is missing")
    elif not isinstance(value, str):
        faults.add(path, f"{what} is {shown(value)}: must be text; quote it")
    elif len(value) > defaults.MAX_NAME_CHARS:
        faults.add(path, f"{what} is {shown(value)}: must have at most {defaults.MAX_NAME_CHARS} characters")
    elif _CONTROL.search(value) or value != value.strip():
        faults.add(path, f"{what} is {shown(value)}: control characters and blanks around it are not taken")
    else:
        return value
    return None


def whole(
    value: Any, path: Path, what: str, faults: Faults, low: int, high: int, unit: str = ""
) -> int | None:
    """An integer from `low` to `high`."""
    if isinstance(value, bool) or not isinstance(value, int):
        hint = " without fraction" if isinstance(value, float) else ""
        faults.add(path, f"{what} is {shown(value)}: must be a whole number{hint}{unit}")
    elif not low <= value <= high:
        faults.add(path, f"{what} is {shown(value)}: must be {low} to {high}{unit}")
    else:
        return value
    return None
