"""`mgmt worker`: who does the tasks: the workers of nodes, and independent ones."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import click

from mgmt.protocol.errors import Exit, MgmtError

from . import render, spawn
from .completion import complete_suites
from .groups import NearGroup, sub
from .invocation import Duration, Invocation, shared_options, verb
from .suite.asking import nearest

HEADER = ["WORKER", "NODE", "SUITE", "STATE", "TASK", "DONE", "PID", "SINCE", "CPUS", "TAGS"]
RIGHT = "SUITE TASK DONE PID SINCE"


@click.group("worker", cls=NearGroup, params=shared_options())
def worker() -> None:
    """Show, pause and end workers, and become an independent one.

    Nodes start the workers of the suite they work on by themselves, and end them with it. An independent
    worker does tasks that were submitted without a suite, and no others.
    """


@verb("run", "Become an independent worker: do tasks that were submitted without a suite.")
@click.option(
    "--join", metavar="ENDPOINT", help="`endpoints.nodes` of the daemon; this machine's when absent."
)
@click.option("--name", metavar="NAME", help="Name of this worker; HOST-worker when absent.")
@click.option("--tag", "tags", multiple=True, help="What it is, for tasks that ask; may be repeated.")
@click.option(
    "--group",
    "groups",
    multiple=True,
    metavar="NAME[:ROLE]",
    help="May send work here (write, the default) or manage it (admin); may be repeated.",
)
@click.option("--workers", type=int, default=1, show_default=True, help="Tasks at a time.")
@click.option(
    "--kind",
    type=click.Choice(["process", "resident"]),
    default="process",
    show_default=True,
    help="resident: Python that calls functions.",
)
@click.option("--prefetch", type=int, metavar="N", help="Tasks fetched ahead for each of them.")
@click.option(
    "--lifetime", type=Duration(), metavar="TIME", help="End after this time; what runs then is finished."
)
@click.option("--insecure", is_flag=True, help="Join over tcp without keys, where the daemon wants none.")
@click.option("--state-dir", metavar="DIR", help="What survives a restart; its sockets are in DIR/run.")
@click.option(
    "--log-level",
    type=click.Choice(["DEBUG", "INFO", "WARNING", "ERROR"], case_sensitive=False),
    help="Least severe level of the worker's own log.",
)
def run(
    invocation: Invocation,
    join: str | None,
    name: str | None,
    tags: tuple[str, ...],
    groups: tuple[str, ...],
    workers: int,
    kind: str,
    prefetch: int | None,
    lifetime: float | None,
    insecure: bool,
    state_dir: str | None,
    log_level: str | None,
) -> int:
    """Stays in the foreground; `mgmt worker shutdown` ends it when what it runs has ended. Started again with
    the same name it goes on, and tells what ended meanwhile. With --token-file the token's user, who brings it,
    manages it; its scope is worker. It waits for a daemon that is not there yet; with --timeout no
    longer than that. Over tcp it needs --key, whose role is agent:NAME, and --server-key."""
    options = {
        "--name": name,
        "--workers": str(workers),
        "--kind": kind,
        "--prefetch": prefetch and str(prefetch),
        "--lifetime": lifetime and str(lifetime),
        "--join-timeout": invocation.timeout_s and str(invocation.timeout_s),
        "--state-dir": state_dir and os.path.abspath(state_dir),
        "--key": spawn.absolute(invocation.key),
        "--server-key": spawn.absolute(invocation.server_key),
        "--token-file": spawn.absolute(invocation.token_file),
    }
    command = [
        *spawn.argv(None, None, log_level, insecure),
        "--worker",
        "--join",
        join or invocation.joined(),
    ]
    command += [part for option, value in options.items() if value for part in (option, value)]
    command += [part for tag in tags for part in ("--tag", tag)]
    command += [part for group in groups for part in ("--group", group)]
    os.execve(sys.executable, command, spawn.environment())


@sub(worker, "list", "workers")
@click.option("--node", metavar="NODE", help="Only those of this node.")
@click.option("--suite", metavar="SUITE", shell_complete=complete_suites, help="Only those of this suite.")
@click.option("--independent/--managed", default=None, help="Only independent ones, or only those of nodes.")
@click.option("--tag", "tags", multiple=True, help="Only independent ones with all of these tags.")
@click.option("--group", metavar="GROUP", help="Only independent ones to which this group may send work.")
@click.option("--no-headers", is_flag=True, help="Only the rows.")
def list_(
    invocation: Invocation,
    node: str | None,
    suite: str | None,
    independent: bool | None,
    tags: tuple[str, ...],
    group: str | None,
    no_headers: bool,
) -> int:
    asked = {"node": node, "suite": suite, "independent": independent, "tags": list(tags), "group": group}
    with invocation.client() as client, nearest(client):
        reply = client.request("workers", asked)
    if invocation.json:
        invocation.emit("mgmt.workers/1", reply)
        return Exit.OK
    lines = render.table(HEADER, [_row(one) for one in reply["workers"]], RIGHT)[1 if no_headers else 0 :]
    if lines:
        click.echo("\n".join(lines))
    for one in reply.get("unreachable", ()):
        click.echo(f"node {one['node']} does not tell of its workers: {one['reason']}", err=True)
    return Exit.OK


@verb("pause", "Have the workers of a node finish what they run and take nothing new.")
@click.argument("node")
def pause(invocation: Invocation, node: str) -> int:
    """What they run ends as usual. The node keeps its suite."""
    return _pause(invocation, node, True)


@verb("resume", "Let the workers of a node go on.")
@click.argument("node")
def resume(invocation: Invocation, node: str) -> int:
    return _pause(invocation, node, False)


@sub(worker, "show", "workers", "Show one worker: state, task, process, CPUs, groups.")
@click.argument("name")
def show(invocation: Invocation, name: str) -> int:
    """Everything about one worker."""
    with invocation.client() as client:
        reply = client.request("workers", {"workers": [name]})
    if not reply["workers"]:
        raise MgmtError(
            "unknown-node", f"there is no worker {name!r}; `mgmt worker list` shows those there are"
        )
    if invocation.json:
        invocation.emit("mgmt.workers/1", reply)
        return Exit.OK
    one = reply["workers"][0]
    reason = f": {one['reason']}" if one["reason"] else ""
    rows = [
        ("State", one["state"] + reason),
        ("Suite", "none: it is independent" if one["independent"] else render.dashed(one["suite"])),
        (
            "Runs",
            f"{one['workers']} task{'s' if one['workers'] != 1 else ''} at a time, {one['done']} done"
            + (f", {one['kind']}" if one["kind"] else ""),
        ),
        ("Node", one["node"] or "-"),
        ("Pid", render.dashed(one["pid"]) + (f", since {_age(one)}" if one.get("started_at") else "")),
        ("CPUs", render.cpu_list(one["cpus"])),
        ("Tags", ", ".join(one["tags"]) or "-"),
        ("Groups", ", ".join(f"{group} ({role})" for group, role in sorted(one["roles"].items())) or "-"),
    ]
    click.echo("\n".join([one["worker"], *(f"  {what + ':':<8}{text}" for what, text in rows)]))
    return Exit.OK


@sub(worker, "shutdown", "worker-shutdown")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--tag", "tags", multiple=True, help="Those with all of these tags.")
@click.option("--group", metavar="GROUP", help="Those to which this group may send work.")
@click.option("--force", is_flag=True, help="At once; what they run is done again by others.")
def shutdown(
    invocation: Invocation, names: tuple[str, ...], tags: tuple[str, ...], group: str | None, force: bool
) -> int:
    asked = {"workers": list(names), "tags": list(tags), "group": group, "force": force}
    with invocation.client() as client:
        return _say(invocation, client.request("worker-shutdown", asked))


@sub(worker, "tags", "worker-tags")
@click.argument("name")
@click.argument("changes", nargs=-1, required=True, metavar="[TAG | TAG-]...")
def tags(invocation: Invocation, name: str, changes: tuple[str, ...]) -> int:
    """TAG is added, TAG- is removed. They outlive the worker's restarts and the daemon's."""
    add = [change for change in changes if not change.endswith("-")]
    remove = [change[:-1] for change in changes if change.endswith("-")]
    with invocation.client() as client:
        return _say(invocation, client.request("worker-tags", {"worker": name, "add": add, "remove": remove}))


@sub(worker, "grant", "group-grant")
@click.argument("name")
@click.argument("group")
@click.option(
    "--role",
    type=click.Choice(["write", "admin", "none"]),
    default="write",
    show_default=True,
    help="What the group may do there; none: nothing any more.",
)
def grant(invocation: Invocation, name: str, group: str, role: str) -> int:
    """The same as `mgmt group grant GROUP --worker NAME`."""
    with invocation.client() as client:
        told = None if role == "none" else role
        client.request("group-grant", {"group": group, "worker": name, "role": told})
        return _say(invocation, client.request("workers", {"workers": [name]}))


for command in (run, pause, resume):
    worker.add_command(command)


def _say(invocation: Invocation, reply: dict[str, Any]) -> int:
    if invocation.json:
        invocation.emit("mgmt.workers/1", reply)
        return Exit.OK
    for one in reply["workers"]:
        groups = ", ".join(f"{group} ({role})" for group, role in sorted(one["roles"].items()))
        told = f", tags {','.join(one['tags'])}" if one["tags"] else ""
        click.echo(f"{one['worker']}: {one['state']}{told}{', groups ' + groups if groups else ''}")
    return Exit.OK


def _pause(invocation: Invocation, node: str, paused: bool) -> int:
    with invocation.client() as client:
        reply = client.request("worker-pause", {"node": node, "paused": paused})
    if invocation.json:
        invocation.emit("mgmt.workers/1", reply)
    else:
        click.echo(f"{node}: its workers {'take nothing new' if paused else 'go on'}")
    return Exit.OK


def _age(one: dict[str, Any]) -> str:
    """How long its process runs; clocks of other machines may be ahead of this one's."""
    started_at = one.get("started_at")
    return render.duration(None if started_at is None else max(0.0, time.time() - started_at))


def _row(one: dict[str, Any]) -> list[str]:
    return [
        one["worker"],
        one["node"],
        render.dashed(one["suite"]),
        one["state"],
        render.dashed(one["task"]),
        str(one["done"]),
        render.dashed(one["pid"]),
        _age(one),
        render.cpu_list(one["cpus"]),
        ",".join(one["tags"]) or "-",
    ]
