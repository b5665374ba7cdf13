"""The command line's own description: complete, derived from the message table, and cheap."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click import Group
from click.testing import CliRunner

from mgmt.protocol.messages import REQUESTS, Audience
from mgmt_cli import candidates, schedule
from mgmt_cli.main import COMMANDS, mgmt
from tests import drift_cli
from tests.unit.scripted_daemon import a_unit, scripted, status_of

ROOT = Path(__file__).parents[2]
EXPENSIVE = ("pydantic", "rich", "asyncio", "uvloop", "psutil", "google.protobuf")


def test_the_help_table_is_that_of_the_messages() -> None:
    assert (ROOT / drift_cli.PATH).read_text() == drift_cli.render(), "run `make drift`"


def test_every_verb_for_people_is_a_command() -> None:
    people = (Audience.OPERATOR, Audience.USER, Audience.ANYBODY)
    operator = {name for name, verb in REQUESTS.items() if verb.audience in people} - {"hello"}
    operator -= {"fault-report"}  # the gateway of TIMPANI says it
    of_groups = {name.partition("-")[0].removesuffix("s") for name in operator} & {
        "node",
        "user",
        "group",
        "quota",
        "suite",
        "task",
        "worker",
        "attachment",
        "artifact",
    }
    operator = {
        name for name in operator if name.partition("-")[0].removesuffix("s") not in of_groups | {"token"}
    }
    of_groups |= {name.replace("-", " ", 1) for name in operator if name.startswith("candidates-")}
    operator = {name for name in operator if not name.startswith("candidates-")}
    known = {*COMMANDS, *(f"schedule-{name}" for name in schedule.COMMANDS)}
    assert operator | of_groups <= known | {f"candidates {name}" for name in candidates.COMMANDS}


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_explains_itself(name: str) -> None:
    result = CliRunner().invoke(mgmt, [name, "--help"])
    assert result.exit_code == 0, result.output
    command = mgmt.commands.get(name) or mgmt.get_command(None, name)  # type: ignore[arg-type]  # has no use of it
    assert command is not None
    assert command.name == name
    for parameter in command.params:
        if parameter.param_type_name == "option":
            assert getattr(parameter, "help", None), f"{name} {parameter.opts[0]} has no help"
    assert COMMANDS[name][1] in " ".join(result.output.split())
    if not isinstance(command, Group):
        for option in ("--json", "--timeout", "--endpoint"):
            assert option in result.output, f"{name} lacks {option}"


def test_the_list_of_commands_imports_none_of_them() -> None:
    code = (
        "import sys; sys.argv = ['mgmt', '--help']; from mgmt_cli.main import main\ntry: main()\n"
        "finally: print([n for n in sys.modules if n.startswith('mgmt_cli.')], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True
    )
    assert "load-model" in done.stdout
    assert "status" not in done.stderr
    assert "mgmt_cli.main" in done.stderr


def test_status_imports_nothing_expensive(tmp_path: Path) -> None:
    code = (
        "import sys; sys.argv = ['mgmt', 'status']; from mgmt_cli.main import main\ntry: main()\n"
        f"finally: print([n for n in sys.modules if n in {EXPENSIVE!r}], file=sys.stderr)"
    )
    with scripted(str(tmp_path), {"status": status_of(a_unit())}) as daemon:
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
            env={"MGMT_ENDPOINT": daemon.endpoint},
        )
    assert "echo" in done.stdout
    assert done.stderr == "[]\n"
