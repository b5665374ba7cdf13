"""INI files as their programs read them: sections of text, nothing interpolated."""

from __future__ import annotations

import re
import shlex
from configparser import Error, RawConfigParser

from mgmt.protocol.errors import MgmtError

from .report import Report, Unit, literal, plain

Sections = dict[str, dict[str, str]]


def read(text: str, comments: tuple[str, ...], fold_case: bool) -> Sections:
    """Section -> key -> value. `comments` start one behind a blank, `fold_case` lowers the keys."""
    parser = RawConfigParser(strict=False, inline_comment_prefixes=comments)
    if not fold_case:
        parser.optionxform = lambda optionstr: optionstr  # type: ignore[method-assign]  # its documented hook
    try:
        parser.read_string(text, "file")
    except Error as error:
        said = plain(" ".join(error.message.split()))[:300]
        raise MgmtError("bad-config", f"not an INI file: {said}") from None
    return {name: dict(parser.items(name)) for name in parser.sections()}


def kind_and_name(section: str) -> tuple[str, str]:
    """`program:web` -> program, web."""
    kind, _, name = section.partition(":")
    return kind.strip(), name.strip()


def split_command(report: Report, path: str, text: str) -> list[str]:
    """The argument vector of a command line that no shell reads; empty, with a note, when there is none."""
    try:
        argv = shlex.split(text)
    except ValueError as error:
        report.dropped(path, text, f"it cannot be split: {str(error).lower()}", "the program is left out")
        return []
    if not argv or not argv[0]:
        report.dropped(path, text, "it names no program", "the program is left out")
        return []
    return [literal(word) for word in argv]


def warn_of_relative_program(report: Report, path: str, unit: Unit) -> None:
    """Without a working folder, `bin/app` would be looked up wherever the daemon happens to run."""
    program = unit["command"][0]
    if "/" in program and not program.startswith("/") and "cwd" not in unit:
        why = "the program is found from the working folder, and none is set"
        report.approximated(path, program, why, "set `cwd` in the unit or name the program absolutely")


def pairs(text: str) -> list[tuple[str, str]] | None:
    """`A=1,B="x,y"` as pairs, commas or ends of lines between them; None when it is anything else."""
    item = re.compile(r"""\s*([^\s=,"']+)\s*=\s*("[^"]*"|'[^']*'|[^,\n]*)\s*(?:,|\n|$)""")
    found: list[tuple[str, str]] = []
    at = 0
    text = text.strip()
    while at < len(text):
        match = item.match(text, at)
        if match is None or match.end() == at:
            return None
        value = match[2].strip()
        found.append((match[1], value[1:-1] if value[:1] in ("'", '"') and len(value) > 1 else value))
        at = match.end()
    return found
