"""`mgmt agent`: become the agent of a node, in the service of a daemon elsewhere."""

from __future__ import annotations

import os
import sys

import click

from . import spawn
from .invocation import Invocation, verb


@verb("agent")
@click.option(
    "--join", metavar="ENDPOINT", required=True, help="`endpoints.nodes` of the daemon: tcp://HOST:PORT."
)
@click.option("--name", metavar="NAME", help="Name of this node; the machine's when absent.")
@click.option("--tag", "tags", multiple=True, help="What this node is, for units that ask; may be repeated.")
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="For people; may be repeated.")
@click.option(
    "--group",
    "groups",
    multiple=True,
    metavar="NAME[:ROLE]",
    help="May send work here (write, the default) or manage it (admin); may be repeated; takes --token-file.",
)
@click.option("--insecure", is_flag=True, help="Join over tcp without keys, where the daemon wants none.")
@click.option(
    "--policy",
    metavar="FILE",
    help="What the daemon may run here: policy.json of the state folder when absent; `any`: anything.",
)
@click.option("--state-dir", metavar="DIR", help="What survives a restart; its sockets are in DIR/run.")
@click.option("--backend-path", metavar="DIR", help="Folder that is searched first for backend scripts.")
@click.option(
    "--log-level",
    type=click.Choice(["DEBUG", "INFO", "WARNING", "ERROR"], case_sensitive=False),
    help="Least severe level of the agent's own log.",
)
def agent(
    invocation: Invocation,
    join: str,
    name: str | None,
    tags: tuple[str, ...],
    labels: tuple[str, ...],
    groups: tuple[str, ...],
    state_dir: str | None,
    backend_path: str | None,
    log_level: str | None,
    insecure: bool,
    policy: str | None,
) -> int:
    """Stays in the foreground. The daemon decides what runs here; that goes on while the daemon is away, and when
    this agent is killed and started again. Over tcp it needs --key, whose role is agent:NAME, and --server-key.
    It waits for a daemon that is not there yet; with --timeout no longer than that.
    With --token-file the token's user, who brings this node, manages it.
    `mgmt --endpoint ipc://DIR/run/control status` asks it locally."""
    options = {
        "--name": name,
        "--join-timeout": invocation.timeout_s and str(invocation.timeout_s),
        "--state-dir": state_dir and os.path.abspath(state_dir),
        "--key": spawn.absolute(invocation.key),
        "--server-key": spawn.absolute(invocation.server_key),
        "--token-file": spawn.absolute(invocation.token_file),
        "--policy": policy if policy == "any" else spawn.absolute(policy),
    }
    command = [*spawn.argv(None, backend_path, log_level, insecure), "--join", join]
    command += [part for option, value in options.items() if value for part in (option, value)]
    command += [part for tag in tags for part in ("--tag", tag)]
    command += [part for label in labels for part in ("--label", label)]
    command += [part for group in groups for part in ("--group", group)]
    os.execve(sys.executable, command, spawn.environment())
