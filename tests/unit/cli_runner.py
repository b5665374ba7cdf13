"""Running the command in this process, and judging what it says in a situation."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import jsonschema
from click.testing import CliRunner, Result

from mgmt.protocol.errors import TABLE, Exit
from mgmt_cli.main import mgmt
from mgmt_cli.schemas import schema_of
from tests.unit.scripted_daemon import Script, scripted

# Commands whose exit status is an answer; the others say why it is not 0.
ANSWERS = ("is-", "plan")


def run(*args: str, **options: Any) -> Result:
    result = CliRunner().invoke(mgmt, args, **options)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    return result


class Situation(NamedTuple):
    """A command line, what the daemon answers (None: there is none), the exit status, and a word of the text."""

    args: str
    script: Script | None
    exit: int
    says: str

    def __str__(self) -> str:
        return f"{self.args or 'nothing'}-{self.exit}"


def judge(situation: Situation, folder: str) -> Result:
    """Exit status and words are right, and a refusal is said on stderr."""
    args, script, exit, says = situation
    if script is None:
        result = run(*args.split())
    else:
        with scripted(folder, script):
            result = run(*args.split())
    assert result.exit_code == exit, result.output
    assert says in result.output
    assert "Traceback" not in result.output
    if exit not in (0, Exit.PARTIAL) and args and not args.startswith(ANSWERS):
        said = [line for line in result.stderr.splitlines() if not line.startswith("warning: ")]
        assert said[0].startswith("error: "), "a refusal is said on stderr"
    return result


def judge_json(situation: Situation, folder: str) -> None:
    """With --json: the same exit status, one value that satisfies its schema, nothing on stderr."""
    args, script, exit, _ = situation
    if script is None:
        result = run(*args.split(), "--json")
    else:
        with scripted(folder, script):
            result = run("--json", *args.split())
    assert result.exit_code == exit, result.output
    values = [json.loads(line) for line in result.stdout.splitlines()]
    for value in values:
        jsonschema.validate(value, schema_of(value["schema"]))
    if not args.startswith("logs"):
        assert len(values) == 1, "a command that is no stream prints exactly one value"
    if values[-1]["schema"] == "mgmt.error/1":
        assert values[-1]["error"]["code"] in TABLE
        assert not result.stderr
