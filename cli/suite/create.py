"""`mgmt suite create`: a suite out of options, or of a file that options change."""

from __future__ import annotations

import shlex
from typing import Any

import click

from mgmt.protocol.errors import Exit, MgmtError

from .. import documents
from .._table import VERBS
from ..invocation import Duration, Invocation, verb
from . import COMMANDS, tables

FIELDS = VERBS["suite-create"][1]


class CpuList(click.ParamType):  # type: ignore[type-arg]  # generic in the newest click only
    """CPUs as the kernel writes them: 0,2-3."""

    name = "cpus"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[int]:
        if isinstance(value, list):
            return value
        cpus: list[int] = []
        try:
            for part in str(value).split(","):
                first, dash, last = part.partition("-")
                cpus += range(int(first), int(last if dash else first) + 1)
        except ValueError:
            cpus = []
        if not cpus:
            self.fail(f"{value!r} is not a list of CPUs like 0,2-3", param, ctx)
        return cpus


class CommandLine(click.ParamType):  # type: ignore[type-arg]  # generic in the newest click only
    """A command in one argument, split as a shell does, without a shell."""

    name = "command"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[str]:
        if isinstance(value, list):
            return value
        try:
            words = shlex.split(str(value))
        except ValueError as error:
            self.fail(f"{value!r}: {error}", param, ctx)
        if not words:
            self.fail("is empty", param, ctx)
        return words


@verb("create", COMMANDS["create"][1])
@click.argument("name", required=False)
@click.option(
    "--file", "path", metavar="PATH", help="JSON or YAML with the suite; options change what it says."
)
@click.option("--description", metavar="TEXT", help="For people.")
@click.option("--group", metavar="GROUP", help=FIELDS["group"])
@click.option("--tag", "tags", metavar="TAG", multiple=True, help="A node must have it; may be repeated.")
@click.option("--label", "labels", metavar="LABEL", multiple=True, help="For queries; may be repeated.")
@click.option("--priority", type=int, help=FIELDS["priority"])
@click.option("--workers", type=int, help="Workers on each node (1).")
@click.option(
    "--kind",
    type=click.Choice(["process", "resident"]),
    help="process: one for each task (the default); resident: Python that calls functions.",
)
@click.option("--prefetch", type=int, help="Tasks fetched ahead for each worker, at most (64).")
@click.option("--cpus", type=CpuList(), metavar="LIST", help="CPUs of the workers, such as 0,2-3.")
@click.option(
    "--binding",
    type=click.Choice(["round-robin", "exclusive", "shared"]),
    help="How --cpus are dealt out: one each in turn (the default), parts of their own, all to all.",
)
@click.option(
    "--provision", type=CommandLine(), metavar="COMMAND", help="Run on each node before the workers."
)
@click.option("--provision-timeout", type=Duration(), help="For --provision; ten minutes by default.")
@click.option(
    "--background", type=CommandLine(), metavar="COMMAND", help="Run beside the workers; must stay up."
)
@click.option(
    "--background-policy",
    type=click.Choice(["restart", "fail"]),
    help="When --background ends: start it again (the default), or give the suite up on that node.",
)
@click.option("--cleanup", type=CommandLine(), metavar="COMMAND", help="Run on each node after the workers.")
@click.option("--cleanup-timeout", type=Duration(), help="For --cleanup; two minutes by default.")
def create(invocation: Invocation, name: str | None, path: str | None, **options: Any) -> int:
    """COMMAND is one argument, split like a shell's line but run without a shell: use `sh -c '...'` for one.
    A file has the fields of the request: name, description, group, tags, labels, priority,
    worker {worker_count, kind, task_prefetch_count, cpu_binding {cores, strategy}} and
    hooks {provision, background, cleanup} with args, envs, resources, timeout_s and policy."""
    body = _read(path) if path else {}
    if name is not None:
        body["name"] = name
    _change(body, options)
    with invocation.client() as client:
        told = client.request("suite-create", body)
    if invocation.json:
        invocation.emit("mgmt.suite/1", told)
    else:
        click.echo(f"{tables.label(told)} is {told['state']}")
        if not told["nodes"]:
            click.echo(tables.NO_NODES, err=True)
    return Exit.OK


def _read(path: str) -> dict[str, Any]:
    value = documents.read(path)
    if not isinstance(value, dict):
        raise MgmtError("bad-body", f"{path}: a suite is an object with fields such as `name` and `worker`")
    return value


def _change(body: dict[str, Any], options: dict[str, Any]) -> None:
    """Put what was given on the command line over what the file says."""
    body |= {
        name: options[name] for name in ("description", "group", "priority") if options[name] is not None
    }
    body |= {name: list(options[name]) for name in ("tags", "labels") if options[name]}
    worker = {"worker_count": "workers", "kind": "kind", "task_prefetch_count": "prefetch"}
    _put(body, "worker", {field: options[name] for field, name in worker.items()})
    cores, strategy = options["cpus"], options["binding"]
    if cores is not None or strategy is not None:
        inner = body.setdefault("worker", {})
        _put(inner, "cpu_binding", {"cores": cores, "strategy": strategy})
        if not inner["cpu_binding"].get("cores"):
            raise click.UsageError("--binding says how CPUs are dealt out: name them with --cpus.")
    hooks = body.get("hooks") or {}
    for which, more in (("provision", "timeout_s"), ("background", "policy"), ("cleanup", "timeout_s")):
        flag = "policy" if more == "policy" else "timeout"
        args, value = options[which], options[f"{which}_{flag}"]
        _put(hooks, which, {"args": args, more: value})
        if hooks.get(which) and not hooks[which].get("args"):
            raise click.UsageError(f"--{which}-{flag} belongs to a command: give it with --{which}.")
    if hooks:
        body["hooks"] = hooks


def _put(body: dict[str, Any], key: str, values: dict[str, Any]) -> None:
    given = {name: value for name, value in values.items() if value is not None}
    if given:
        body[key] = {**(body.get(key) or {}), **given}
