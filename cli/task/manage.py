"""`mgmt task list`, `cancel`, `retry`, `change`."""

from __future__ import annotations

from typing import Any

import click

from mgmt.protocol.errors import Exit

from ..invocation import Invocation, verb
from ..suite.asking import nearest
from . import COMMANDS, filters, tables


def ask(invocation: Invocation, request: str, body: dict[str, Any]) -> dict[str, Any]:
    """One request about tasks."""
    with invocation.client() as client, nearest(client):
        return client.request(request, body)


@verb("list", COMMANDS["list"][1])
@filters.filtered
@click.option(
    "--limit", type=click.IntRange(0, 10_000), default=100, show_default=True, help="So many at most."
)
@click.option("--offset", type=click.IntRange(0), default=0, help="Leave out the first ones.")
@click.option("--count", is_flag=True, help="Only say how many there are.")
@click.option("--no-headers", is_flag=True, help="Only the rows.")
def list_(
    invocation: Invocation, limit: int, offset: int, count: bool, no_headers: bool, **options: Any
) -> int:
    """A COMPARISON is a number with = != < <= > >= before it, such as '!=0'; the exit status of a task that a
    signal ended is the signal's negative number."""
    body = {**filters.body(options), "limit": limit, "offset": offset, "count_only": count}
    reply = ask(invocation, "tasks", body)
    if invocation.json:
        invocation.emit("mgmt.tasks/1", reply)
        return Exit.OK
    if count:
        click.echo(str(reply["total"]))
        return Exit.OK
    rows = reply["tasks"]
    lines = tables.tasks(rows, invocation.colored)[1 if no_headers else 0 :]
    if lines:
        click.echo("\n".join(lines))
    if reply["total"] > offset + len(rows):
        click.echo(f"{len(rows)} of {reply['total']} are shown; --limit and --offset show others", err=True)
    return Exit.OK


@verb("cancel", COMMANDS["cancel"][1])
@filters.filtered
@click.option("--queued-only", is_flag=True, help="Leave running ones alone.")
def cancel(invocation: Invocation, queued_only: bool, **options: Any) -> int:
    """At least one TASK or option has to say which."""
    reply = ask(invocation, "task-cancel", {**filters.body(options), "running": not queued_only})
    if invocation.json:
        invocation.emit("mgmt.task-cancel/1", reply)
    else:
        click.echo(f"{reply['cancelled']} tasks will not run, {reply['ending']} running ones are being ended")
        if not (reply["cancelled"] or reply["ending"]):
            click.echo(
                "mgmt: none of these has still to run; `mgmt task list` shows those there are", err=True
            )
    return Exit.OK


@verb("retry", COMMANDS["retry"][1])
@filters.filtered
def retry(invocation: Invocation, **options: Any) -> int:
    """At least one TASK or option has to say which. A suite that was complete is open again."""
    reply = ask(invocation, "task-retry", filters.body(options))
    if invocation.json:
        invocation.emit("mgmt.task-retry/1", reply)
    else:
        shown = ", ".join(map(str, reply["tasks"][:10])) + (", ..." if reply["tasks"][10:] else "")
        click.echo(f"{len(reply['tasks'])} tasks run again{': ' if shown else ''}{shown}")
    return Exit.OK


@verb("change", COMMANDS["change"][1])
@click.argument("task", type=click.IntRange(1))
@click.option("--priority", type=int, help="Tasks with more go first.")
@click.option(
    "--add-label", "add_labels", metavar="LABEL", multiple=True, help="A label it gets; may be repeated."
)
@click.option(
    "--remove-label",
    "remove_labels",
    metavar="LABEL",
    multiple=True,
    help="A label it loses; may be repeated.",
)
def change(
    invocation: Invocation,
    task: int,
    priority: int | None,
    add_labels: tuple[str, ...],
    remove_labels: tuple[str, ...],
) -> int:
    body: dict[str, Any] = {
        "task": task,
        "add_labels": list(add_labels),
        "remove_labels": list(remove_labels),
    }
    if priority is not None:
        body["priority"] = priority
    elif not (add_labels or remove_labels):
        raise click.UsageError("Say what to change: --priority, --add-label or --remove-label.")
    told = ask(invocation, "task-change", body)
    if invocation.json:
        invocation.emit("mgmt.task/1", told)
    else:
        labels = f", labels {', '.join(told['labels'])}" if told["labels"] else ""
        click.echo(f"{tables.summary(told)}, priority {told['priority']}{labels}")
    return Exit.OK
