"""Command lines of process-compose, which a shell reads, as argument vectors."""

from __future__ import annotations

import re
import shlex

from .report import Report

# Nothing in it that a shell would act on; then the shell can be left out.
_PLAIN = re.compile(r"""[\w./:,@%+= \t"'-]+""")
_BUILTINS = frozenset(
    (
        *(
            ".",
            ":",
            "[",
            "break",
            "case",
            "cd",
            "command",
            "eval",
            "exec",
            "exit",
            "export",
            "for",
            "if",
            "read",
        ),
        *(
            "return",
            "set",
            "shift",
            "source",
            "test",
            "time",
            "times",
            "trap",
            "type",
            "ulimit",
            "umask",
            "unset",
        ),
        *(
            "until",
            "wait",
            "while",
            "alias",
            "builtin",
            "declare",
            "echo",
            "local",
            "printf",
            "shopt",
            "function",
        ),
    )
)
# What /bin/sh need not understand.
_BASH = re.compile(
    r"\[\[|<\(|>\(|<<<|&>|\|&|\$'|\$\{[A-Za-z_]\w*[\^,/:@]|\b(?:source|shopt|declare|pipefail)\b"
)


class Shell:
    """The shell of a project; without one of its own, /bin/sh, and /bin/bash for what only that reads."""

    def __init__(self, report: Report, command: object, argument: object) -> None:
        self._report = report
        self._own: list[str] = []
        if isinstance(command, str) and command:
            self._own = [command, argument if isinstance(argument, str) and argument else "-c"]

    def argv(self, path: str, line: str) -> list[str]:
        """The vector for a command line that is not empty."""
        if self._own:
            return [*self._own, line]
        if _PLAIN.fullmatch(line):
            try:
                words = shlex.split(line)
            except ValueError:
                words = []
            if words and words[0] and words[0] not in _BUILTINS and "=" not in words[0]:
                return words
        if _BASH.search(line):
            why = "it has what only bash understands, so that runs it"
            self._report.approximated(path, line, why)
            return ["/bin/bash", "-c", line]
        return ["/bin/sh", "-c", line]
