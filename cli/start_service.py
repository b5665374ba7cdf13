"""`mgmt start-service`: become the daemon, or start one that outlives the terminal."""

from __future__ import annotations

import os
import sys

import click

from mgmt.protocol.errors import Exit, MgmtError

from . import spawn
from .invocation import Invocation, verb

START_TIMEOUT_S = 30.0


@verb("start-service")
@click.option("--daemonize", is_flag=True, help="Detach; return when the daemon answers, or say why not.")
@click.option("--foreground", is_flag=True, help="Stay in the foreground (the default).")
@click.option("--config", metavar="PATH", help="Configuration file of the daemon.")
@click.option("--backend-path", metavar="DIR", help="Folder that is searched first for backend scripts.")
@click.option(
    "--log-level",
    type=click.Choice(["DEBUG", "INFO", "WARNING", "ERROR"], case_sensitive=False),
    help="Overrides the level of the configuration.",
)
@click.option("--insecure", is_flag=True, help="tcp without keys: whoever reaches it may do everything.")
def start_service(
    invocation: Invocation,
    daemonize: bool,
    foreground: bool,
    config: str | None,
    backend_path: str | None,
    log_level: str | None,
    insecure: bool,
) -> int:
    """A running daemon is left alone, and that is no error."""
    if daemonize and foreground:
        raise click.UsageError("--daemonize and --foreground exclude each other.")
    if invocation.endpoint:
        raise click.UsageError(
            "The daemon serves at endpoints.control of its configuration; --endpoint is for the others."
        )
    invocation.config = config or invocation.config
    invocation.endpoint = invocation.served()
    service = spawn.answering(invocation)
    if service is not None:
        told(invocation, spawn.Daemon(service["pid"], service["control_endpoint"], already=True))
        return Exit.OK
    command = spawn.argv(invocation.config, backend_path, log_level, insecure)
    if not daemonize:
        os.execve(sys.executable, command, spawn.environment())
    invocation.say("Starting management service...")
    try:
        daemon = spawn.start(invocation, command, invocation.timeout(START_TIMEOUT_S))
    except MgmtError as error:
        if error.code == "start-failed":
            invocation.say("Failed to start management service")
        raise
    told(invocation, daemon)
    return Exit.OK


def told(invocation: Invocation, daemon: spawn.Daemon) -> None:
    if invocation.json:
        body = {"pid": daemon.pid, "endpoint": daemon.endpoint, "already": daemon.already}
        invocation.emit("mgmt.start-service/1", body)
    elif daemon.already:
        click.echo(f"Management service is already running (pid {daemon.pid}, {daemon.endpoint})")
    else:
        click.echo("Management service started successfully")
        click.echo(f"pid {daemon.pid}, {daemon.endpoint}")
