"""`mgmt events`: what happened to units and the daemon, and what happens next."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import click

from mgmt.protocol.errors import Exit, MgmtError

from ._table import VERBS
from .following import Patience
from .invocation import Invocation, verb
from .render import moment, painted


@verb("events")
@click.option("-f", "--follow", is_flag=True, help="Go on with what happens from now on.")
@click.option("--since", type=click.IntRange(0), metavar="SEQ", help=VERBS["subscribe"][1]["since"])
def events(invocation: Invocation, follow: bool, since: int | None) -> int:
    """Without -f: the events that are still remembered. With -f alone: only new ones; with --since SEQ the
    past ones first, and a restart of the daemon leaves no gap. A line of --json is one event, or with -f a
    snapshot: first, and after every gap."""
    since = 0 if since is None and not follow else since
    first = True
    for event in stream(invocation, since, follow):
        if event["kind"] == "snapshot":
            # What happened before the first one was not asked for; a later one without a gap repeats nothing.
            if invocation.json and follow and (first or event["gap"]):
                invocation.emit("mgmt.snapshot/1", event)
            elif event["gap"]:
                text = f"events before {event['seq']} are missing; mgmt status shows what they led to"
                click.echo(text, err=True)
            first = False
        elif invocation.json:
            invocation.emit("mgmt.event/1", event)
        else:
            line = described(event)
            click.echo(painted(line, event.get("state", "")) if invocation.colored else line)
            sys.stdout.flush()
    return Exit.OK


def stream(invocation: Invocation, since: int | None, follow: bool) -> Iterator[dict[str, Any]]:
    """Snapshots and events; a follower resumes behind the last number it has seen."""
    patience = Patience()
    while True:
        try:
            with invocation.client() as client:
                for event in client.events(since=since, follow=follow):
                    patience.heard()
                    since = max(since or 0, event["seq"])
                    yield event
                return
        except MgmtError as error:
            if not follow:
                raise
            patience.wait(error)


def described(event: dict[str, Any]) -> str:
    """One line: number, time, who, what and why."""
    head = f"{event['seq']:>6}  {moment(event['at'])}  "
    reason = f"  {event['reason']}" if event.get("reason") else ""
    if event["kind"] == "fault":
        whose = f"  {event['workload']}.{event['task']}" if event["task"] else ""
        times = f" x{event['count']}" if event["count"] > 1 else ""
        return f"{head}{event['what']}{times}{whose}{reason}".partition("\n")[0]
    if "unit" in event:
        pid = f" pid {event['pid']}" if event["pid"] is not None else ""
        where = f" ({event['node']})" if event.get("node") else ""
        change = f"{event['was']} -> {event['state']}"
        return f"{head}{event['unit']}{where}  {change}{pid}{reason}".partition("\n")[0]
    if "node" in event:
        change = f"{event['was']} -> {event['state']}"
        return f"{head}node {event['node']}  {change}{reason}".partition("\n")[0]
    if event["kind"] == "schedule":
        whose = f"  {event['workload']}" if event["workload"] else ""
        return f"{head}schedule  {event['what']}{whose}{reason}".partition("\n")[0]
    return f"{head}daemon  {event['what']}{reason}".partition("\n")[0]
