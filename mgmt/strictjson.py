"""JSON as a configuration needs it: duplicate keys, NaN, lone surrogates and deep nesting are faults.

Standard JSON readers accept the first three silently; each of them means that the file does not say what
its author believes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

Location = tuple[str | int, ...]
"""Keys and indexes from the top of the file to a value."""
Problem = tuple[Location, str]

_MAX_INTEGER_DIGITS = 20  # more than 64 bits; also keeps Python's own limit of 4300 digits out of sight


class NotJsonError(ValueError):
    """The text cannot be used at all; `problems` says why."""

    def __init__(self, *problems: Problem) -> None:
        super().__init__(problems[0][1])
        self.problems = list(problems)


class _Object(dict[str, object]):
    """An object that remembers the keys it was given twice."""

    twice: tuple[str, ...] = ()


def parse(data: bytes, max_depth: int) -> tuple[object, list[Problem]]:
    """The value, and the faults that leave it usable for further checks; `NotJsonError` for the others."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        where = _place(data[: error.start].decode("utf-8", "replace"))
        raise NotJsonError(((), f"{where}: not UTF-8 (byte 0x{data[error.start]:02x})")) from None
    if not text.strip():
        raise NotJsonError(((), "the file is empty; the smallest configuration is {}"))
    try:
        value = json.loads(text, object_pairs_hook=_object, parse_int=_integer)
    except json.JSONDecodeError as error:
        message = error.msg[:1].lower() + error.msg[1:]
        raise NotJsonError(((), f"line {error.lineno} column {error.colno}: {message}")) from None
    except RecursionError:
        raise NotJsonError(((), f"nested deeper than {max_depth} levels")) from None
    problems: list[Problem] = []
    broken: list[Problem] = []
    for location, item in _walk(value):
        if len(location) > max_depth:
            raise NotJsonError((location[:3], f"nested deeper than {max_depth} levels"))
        if isinstance(item, _Object):
            problems += [((*location, key), "this key is given twice in one object") for key in item.twice]
            faults = ((key, _text_fault(key)) for key in item)
            broken += [((*location, key), f"the key has {fault}") for key, fault in faults if fault]
        elif isinstance(item, str) and (fault := _text_fault(item)):
            broken.append((location, f"the text has {fault}"))
        elif isinstance(item, float) and not abs(item) < float("inf"):
            problems.append((location, "must be a finite number that fits into 64 bits"))
    if broken:
        raise NotJsonError(*problems, *broken)
    return value, problems


def _walk(value: object) -> Iterator[tuple[Location, object]]:
    """Every value in the order of the file, without recursion."""
    todo: list[tuple[Location, object]] = [((), value)]
    while todo:
        location, item = todo.pop()
        yield location, item
        if isinstance(item, dict):
            todo.extend([((*location, key), child) for key, child in item.items()][::-1])
        elif isinstance(item, list):
            todo.extend([((*location, index), child) for index, child in enumerate(item)][::-1])


def _object(pairs: list[tuple[str, object]]) -> _Object:
    result = _Object(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        twice: dict[str, None] = {}
        for key, _ in pairs:
            if key in seen:
                twice[key] = None
            seen.add(key)
        result.twice = tuple(twice)
    return result


def _integer(text: str) -> int | float:
    return int(text) if len(text) <= _MAX_INTEGER_DIGITS else float("inf")


def _text_fault(text: str) -> str | None:
    """What keeps a text out of an argument vector, an environment and a log line."""
    if "\0" in text:
        return "a NUL character"
    if any("\ud800" <= char <= "\udfff" for char in text):
        return "half of a surrogate pair (a bad \\u escape)"
    return None


def _place(before: str) -> str:
    lines = before.split("\n")
    return f"line {len(lines)} column {len(lines[-1]) + 1}"
