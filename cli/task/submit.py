"""`mgmt task submit`: one command, or as many tasks as a file or a stream has."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from signal import SIGINT
from typing import Any

import click

from mgmt.protocol.errors import Exit, MgmtError

from .._table import VERBS
from ..completion import complete_suites
from ..invocation import Duration, Invocation, verb
from ..meter import Meter
from ..suite.asking import nearest
from . import COMMANDS, outcome, source
from .feed import Feed
from .watch import WAIT_TIMEOUT_S

FIELDS = VERBS["task-submit"][1]
COMMAND = "mgmt.task.command"


class WithCommand(click.Command):
    """What stands behind `--` is a command, whatever it looks like."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if "--" in args:
            at = args.index("--")
            args, ctx.meta[COMMAND] = args[:at], args[at + 1 :]
        return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return [*super().collect_usage_pieces(ctx), "[-- COMMAND [ARG]...]"]


class Json(click.ParamType):  # type: ignore[type-arg]  # generic in the newest click only
    """A JSON value."""

    name = "json"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return json.loads(value)
        except (ValueError, RecursionError) as error:
            self.fail(f"{value!r} is not JSON: {error}", param, ctx)


@verb("submit", COMMANDS["submit"][1], WithCommand)
@click.argument("file", required=False)
@click.option("--suite", metavar="SUITE", shell_complete=complete_suites, help="The suite they belong to.")
@click.option("--group", metavar="GROUP", help=FIELDS["group"])
@click.option("--tag", "tags", metavar="TAG", multiple=True, help=FIELDS["tags"])
@click.option("--repeat", type=click.IntRange(1), default=1, metavar="N", help="Each task N times.")
@click.option("--once", "key", metavar="KEY", help=FIELDS["key"])
@click.option(
    "--wait", is_flag=True, help="Wait until they have ended; the exit status is the worst of theirs."
)
@click.option("--function", metavar="MODULE:FUNCTION", help="Call it instead of running a command.")
@click.option(
    "--param", "params", type=Json(), metavar="JSON", multiple=True, help="Of --function; in order."
)
@click.option("--priority", type=int, help="Tasks with more go first.")
@click.option("--label", "labels", metavar="LABEL", multiple=True, help="For queries; may be repeated.")
@click.option("--env", "envs", metavar="NAME=VALUE", multiple=True, help="Environment; may be repeated.")
@click.option(
    "--resource",
    "resources",
    metavar="PATH=FILE",
    multiple=True,
    help="A file (GROUP/KEY, task:NUMBER/KIND) that it finds as $MITO_RESOURCE_DIR/PATH; may be repeated.",
)
@click.option("--cwd", metavar="FOLDER", help="Working folder on the node; a fresh one by default.")
@click.option("--task-timeout", type=Duration(), help="End a task with all it started after this time.")
@click.option("--output", is_flag=True, help="Keep all its output, not just the end.")
@click.option("--exec-log", is_flag=True, help="Keep what it leaves in its folder $MITO_EXEC_DIR.")
@click.option(
    "--retries", type=click.IntRange(0, 1000), help="Run it again so often when it does not exit with 0."
)
@click.option("--retry-delay", type=Duration(), help="Before the first of --retries; doubles each time.")
@click.option("--retry-on", type=int, metavar="STATUS", multiple=True, help="Only after these exit statuses.")
@click.option(
    "--after", type=click.IntRange(1), metavar="TASK", multiple=True, help="Start when this task has ended."
)
@click.option("--after-success", is_flag=True, help="Cancel it when one of --after did not exit with 0.")
def submit(
    invocation: Invocation,
    file: str | None,
    suite: str | None,
    group: str | None,
    tags: tuple[str, ...],
    repeat: int,
    key: str | None,
    wait: bool,
    **options: Any,
) -> int:
    """FILE has JSON lines, a JSON array, or YAML when it is called so; `-` is standard input. A task is an object
    with the fields of the request (args, or function with params and kw; envs, cwd, timeout_s, priority, labels,
    retries, after, ...) or just a list of arguments. The options are for tasks that do not say it themselves.

    Without --suite they are independent tasks, for workers that belong to no suite.

    Tasks are sent in batches, each all or nothing. A wrong line is told with its number: what is before its batch
    is submitted, what follows is not. With --once the same submission can be repeated, after any failure:
    batches that are durable already are not doubled."""
    command = click.get_current_context().meta.get(COMMAND)
    task = _task(options)
    found = _entries(file, command, task)
    target: dict[str, Any] = {"suite": suite, "group": group, "tags": list(tags)}
    path = file or ""
    with invocation.client() as client:
        feed = Feed(client, target, key, path)
        try:
            with nearest(client), Meter(invocation, "submitted") as meter:
                for count in feed.send(source.batches(path, found, task if file else {}, repeat)):
                    meter.show(count, repeat if command else None)
        except (MgmtError, KeyboardInterrupt) as error:
            if feed.submitted:
                hint = f"; with --once {key} the rest can follow" if key else ""
                click.echo(
                    f"{feed.submitted} tasks were submitted before: {_spans(feed.spans)}{hint}", err=True
                )
            raise error from None
        told = {"suite": suite, "count": feed.submitted, "already": feed.already, "spans": feed.spans}
        if not wait:
            invocation.say(_said(feed, suite))
            if invocation.json:
                invocation.emit("mgmt.task-submit/1", {**told, "states": {}, "exit_status": None})
            return Exit.OK
        try:
            with Meter(invocation, "tasks") as meter:
                end_s = time.monotonic() + invocation.timeout(WAIT_TIMEOUT_S)
                ended = outcome.wait_for(client, feed.spans, end_s, meter)
        except KeyboardInterrupt:
            text = f"the tasks go on; `mgmt task list` shows them: {_spans(feed.spans)}"
            invocation.complain({"code": "cancelled", "text": text, "retryable": True})
            return 128 + SIGINT
    states = {state.lower(): count for state, count in sorted(ended.states.items())}
    if invocation.json:
        invocation.emit("mgmt.task-submit/1", {**told, "states": states, "exit_status": ended.worst})
    else:
        counts = ", ".join(f"{count} {state}" for state, count in states.items())
        click.echo(f"{_said(feed, suite)}; {counts}, the highest exit status is {ended.worst}")
    return ended.worst


def _entries(file: str | None, command: list[str] | None, task: dict[str, Any]) -> Iterator[source.Entry]:
    """What there is to do: of the file, or the one thing that the options say."""
    said = [
        name for name, given in (("FILE", file), ("--", command), ("--function", "function" in task)) if given
    ]
    if len(said) != 1:
        text = "Say what to do: FILE, `-`, --function, or a command behind `--`"
        raise click.UsageError(f"{text}; not {' and '.join(said)}." if said else f"{text}.")
    if file is not None:
        if file != "-" and not Path(file).is_file():
            hint = f"; for a command: mgmt task submit -- {file}"
            raise click.UsageError(f"{file}: there is no such file{hint}.")
        return source.entries(file)
    whole = {"args": command, **task} if command else task
    return iter([source.Entry(0, len(json.dumps(whole)), whole)])


def _task(options: dict[str, Any]) -> dict[str, Any]:
    """The fields of a Task that were given."""
    task = {name: options[name] for name in ("function", "priority", "cwd") if options[name] is not None}
    task |= {name: list(options[name]) for name in ("params", "labels", "after") if options[name]}
    if options["envs"]:
        pairs = [one.partition("=") for one in options["envs"]]
        for name, equals, _ in pairs:
            if not (name and equals):
                raise click.UsageError(f"--env wants NAME=VALUE, not {name!r}.")
        task["envs"] = {name: value for name, _, value in pairs}
    if options["resources"]:
        pairs = [one.partition("=") for one in options["resources"]]
        for path, equals, blob in pairs:
            if not (path and equals and blob):
                raise click.UsageError(f"--resource wants PATH=FILE, not {path!r}.")
        task["resources"] = [{"blob": blob, "path": path} for path, _, blob in pairs]
    if options["task_timeout"] is not None:
        task["timeout_s"] = options["task_timeout"]
    if options["output"]:
        task["terminal_output"] = True
    if options["exec_log"]:
        task["exec_log"] = True
    if options["after_success"]:
        task["after_condition"] = "success"
    if options["retries"]:
        retries: dict[str, Any] = {"limit": options["retries"]}
        if options["retry_on"]:
            retries["on_exit"] = list(options["retry_on"])
        if options["retry_delay"] is not None:
            retries["delay_s"] = options["retry_delay"]
        task["retries"] = retries
    elif options["retry_on"] or options["retry_delay"] is not None:
        raise click.UsageError("--retry-on and --retry-delay say more about --retries: give it, too.")
    return task


def _said(feed: Feed, suite: str | None) -> str:
    if not feed.submitted:
        return "nothing was submitted: there was no task"
    where = f" to suite {suite}" if suite is not None else ""
    many = "1 task" if feed.submitted == 1 else f"{feed.submitted} tasks"
    known = f", {feed.already} of them before under the same key" if feed.already else ""
    return f"{many} submitted{where}: {_spans(feed.spans)}{known}"


def _spans(spans: list[tuple[int, int]]) -> str:
    shown = [str(first) if first == last else f"{first}-{last}" for first, last in spans[:10]]
    return ", ".join([*shown, "..."] if spans[10:] else shown)
