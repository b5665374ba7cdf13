"""Configurations of other supervisors as units of `config.json`: pure translations, one module a format.

Each module has `translate(text, origin) -> Report`. It reads no file and no environment of its own, and what
it refuses is a `MgmtError`. A setting is translated, or it is a note: nothing is left out in silence.
"""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import PurePath

from mgmt.protocol.errors import MgmtError

from .report import Note, Origin, Report

__all__ = ["FORMATS", "Note", "Origin", "Report", "format_of", "translate"]

FORMATS = {"supervisord": "supervisord", "circus": "circus", "process-compose": "process_compose"}

# A section header that only one of the two INI formats has.
_SIGNS = {
    "supervisord": re.compile(
        r"^\[(?:(?:program|group|eventlistener|fcgi-program):|supervisord\]|supervisorctl\])", re.M
    ),
    "circus": re.compile(r"^\[(?:(?:watcher|socket|env):|circus\])", re.M),
}


def format_of(file: PurePath, text: str) -> str:
    """The format of a file, from its name and sections; MgmtError when neither tells."""
    if file.suffix.lower() in (".yaml", ".yml"):
        return "process-compose"
    found = [name for name, sign in _SIGNS.items() if sign.search(text)]
    if len(found) == 1:
        return found[0]
    if not found and re.search(r"^processes\s*:", text, re.M):
        return "process-compose"
    raise MgmtError(
        "bad-config",
        f"{file}: {'more than one format' if found else 'no format'} that is known here "
        f"({', '.join(FORMATS)}) fits its sections: name it with --format",
    )


def translate(name: str, text: str, origin: Origin) -> Report:
    """Translate `text`, a file of the format `name` of FORMATS."""
    if "\0" in text:
        raise MgmtError("bad-config", "the file has NUL characters, so it is no configuration text")
    report: Report = import_module(f".{FORMATS[name]}", __package__).translate(text, origin)
    if not report.units:
        said = "".join(f"\n{note.line()}" for note in report.notes)
        raise MgmtError("bad-config", f"nothing in this {name} file can become a unit{said}")
    return report
