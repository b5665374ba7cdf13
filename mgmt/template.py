"""Argument templates: `{name}` in a backend's command and environment is replaced when it is started.

`{{name}}` stands for the text `{name}`; braces around anything but a name (JSON, say) are left alone.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping

NAMES = ("python", "script", "endpoint", "model", "fullname", "unit", "config_path", "backend_path")
OPTION = "option."
OPTION_NAME = re.compile(r"[A-Za-z0-9_-]+")

_HOLE = re.compile(r"\{(\{(?:[a-z_]+|option\.[A-Za-z0-9_-]+)\})\}|\{([a-z_]+|option\.[A-Za-z0-9_-]+)\}")


def holes(texts: Iterable[str]) -> set[str]:
    """The names to be replaced in `texts`; those of a model's options start with `option.`."""
    return {match[2] for text in texts for match in _HOLE.finditer(text) if match[2]}


def fault(texts: Iterable[str]) -> str | None:
    """Why `texts` are no templates: the first unknown name, or None."""
    for name in sorted(holes(texts)):
        if name not in NAMES and not name.startswith(OPTION):
            near = difflib.get_close_matches(name, NAMES, 1)
            hint = f"did you mean {{{near[0]}}}?" if near else f"known are {', '.join(NAMES)}, option.NAME"
            return f"unknown placeholder {{{name}}}; {hint} (write {{{{{name}}}}} for the text itself)"
    return None


def escape(text: str) -> str:
    """The template of exactly this text."""
    return _HOLE.sub(lambda match: "{" + match[0] + "}", text)


def fill(text: str, values: Mapping[str, str | None]) -> str:
    """Replace each name by its value, None by nothing. A value is inserted as it is, not filled again."""

    def value(match: re.Match[str]) -> str:
        return match[1] or values[match[2]] or ""

    return _HOLE.sub(value, text)


def fill_command(command: Iterable[str], values: Mapping[str, str | None]) -> list[str]:
    """Fill each element. One that holds `{config_path}` is left out when there is none, with its flag.

    The flag is a directly preceding element that starts with `--` and has no `=` of its own.
    """
    argv: list[str] = []
    flag = False  # the last element of argv is a literal `--flag`
    for element in command:
        if values.get("config_path") is None and "config_path" in holes([element]):
            if flag:
                argv.pop()
            flag = False
            continue
        argv.append(fill(element, values))
        flag = element.startswith("--") and "=" not in element and len(element) > 2
    return argv
