"""The two languages inside process-compose texts: variables of the environment, and templates."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .report import Report

_DOLLAR = re.compile(r"\$(?:(\$)|\{([A-Za-z_][A-Za-z0-9_]*)\}|([A-Za-z_][A-Za-z0-9_]*)|\{[^}]*\})")
_TEMPLATE = re.compile(r"\{\{-?\s*(?:\.([A-Za-z_][A-Za-z0-9_]*)|[^{}]*)\s*-?\}\}")


@dataclass(frozen=True, slots=True)
class Texts:
    """Fills the texts of one process; `path` is the process in the file."""

    report: Report
    path: str
    environ: Mapping[str, str]
    expands: bool  # variables of the environment
    templates: bool
    variables: Mapping[str, Any]  # of templates

    def plain(self, key: str, value: object) -> str:
        """A text that nothing reads again, with the values that variables have now."""
        path = f"{self.path}.{key}"
        text = self._checked(path, value)

        def fill(match: re.Match[str]) -> str:
            name = match[2] or match[3]
            if match[1]:
                return "$"
            if name is None or name not in self.environ:
                instead = f"set ${name} and import again" if name else ""
                self.report.dropped(
                    path, match[0], "it has no value here, the text is left as it is", instead
                )
                return match[0]
            why = f"the value that ${name} has now is written down"
            self.report.approximated(path, match[0], why, "change it in the unit")
            return self.environ[name]

        return self._filled(path, _DOLLAR.sub(fill, text) if self.expands else text)

    def shell(self, key: str, value: object) -> str:
        """A command line: its variables are left to the shell that runs it."""
        path = f"{self.path}.{key}"
        text = self._checked(path, value)

        def fill(match: re.Match[str]) -> str:
            if match[1]:
                return "$"
            why = "the shell reads the variable at each start, in the environment of the unit"
            self.report.approximated(path, match[0], why)
            return match[0]

        return self._filled(path, _DOLLAR.sub(fill, text) if self.expands else text)

    def _checked(self, path: str, value: object) -> str:
        if isinstance(value, str):
            return value
        self.report.dropped(path, value, "it must be a text")
        return ""

    def _filled(self, path: str, text: str) -> str:
        def fill(match: re.Match[str]) -> str:
            value = self.variables.get(match[1] or "")
            if isinstance(value, str):
                return value
            why = "only {{.NAME}} of `vars` is filled in, the text is left as it is"
            self.report.dropped(path, match[0], why)
            return match[0]

        return _TEMPLATE.sub(fill, text) if self.templates else text
