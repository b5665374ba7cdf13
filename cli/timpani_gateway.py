"""`mgmt timpani-gateway`: become the program that speaks TIMPANI's gRPC for the daemon."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from typing import Any

import click

from mgmt.protocol import places
from mgmt.protocol.errors import Exit, MgmtError

from .invocation import Duration, Invocation, verb
from .schedule import files

LOOPBACK = "127.0.0.1"
LOG_FORMAT = "%(asctime)s %(levelname)s %(message)s"
PORT = click.IntRange(0, 65535)


@verb("timpani-gateway")
@click.option("-c", "--nodes", metavar="FILE", help="Nodes of the family, and their CPUs: YAML or JSON.")
@click.option(
    "-s", "--schedinfo-port", type=PORT, default=50052, show_default=True, help="Port for submitters."
)
@click.option("-d", "--node-port", type=PORT, default=50054, show_default=True, help="Port for nodes.")
@click.option("-f", "--fault-host", default="localhost", show_default=True, help="Host of the fault sink.")
@click.option(
    "-p", "--fault-port", type=PORT, default=50053, show_default=True, help="Port of the fault sink."
)
@click.option(
    "-t", "--sync-timeout", type=Duration(), default="30s", show_default=True,
    help="How long a node waits for the others before the common start.",
)  # fmt: skip
@click.option(
    "--mode", type=click.Choice(["strict", "compat"]), default="strict", show_default=True,
    help="strict: the daemon admits; compat: TIMPANI's own scheduler, without the daemon.",
)  # fmt: skip
@click.option(
    "--insecure-listen", metavar="ADDRESS",
    help="Listen on this address, such as 0.0.0.0: whoever reaches it may submit, unencrypted.",
)  # fmt: skip
def timpani_gateway(
    invocation: Invocation,
    nodes: str | None,
    schedinfo_port: int,
    node_port: int,
    fault_host: str,
    fault_port: int,
    sync_timeout: float,
    mode: str,
    insecure_listen: str | None,
) -> int:
    """It listens on this machine only (127.0.0.1), because the family's protocol has neither keys nor encryption.
    A port of 0 is chosen by the system. Ends on SIGTERM, after the faults that still wait were told."""
    gateway = _gateway()
    options = gateway.Options(
        endpoint=invocation.where(),
        mode=mode,
        address=_address(insecure_listen) if insecure_listen else LOOPBACK,
        submit_port=schedinfo_port,
        node_port=node_port,
        sink=f"[{fault_host}]:{fault_port}" if ":" in fault_host else f"{fault_host}:{fault_port}",
        sync_timeout_s=sync_timeout,
        start_file=places.state_dir() / "timpani-start.json" if mode == "strict" else None,
        **_nodes(nodes, mode),
    )
    logging.basicConfig(format=LOG_FORMAT, level=logging.INFO)
    try:
        asyncio.run(gateway.serve(options, lambda told: _ready(invocation, told)))
    except MgmtError as error:
        raise _located(error, nodes) from None
    return Exit.OK


def _gateway() -> Any:
    try:
        from mgmt.adapters.timpani import gateway
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != "grpc":
            raise
        text = "grpcio is not installed, which the gateway needs: pip install 'mgmt[grpc]'"
        raise MgmtError("not-available", text) from None
    return gateway


def _address(told: str) -> str:
    try:
        return str(ipaddress.ip_address(told))
    except ValueError:
        raise click.UsageError(
            f"--insecure-listen {told!r} is no IP address, such as 0.0.0.0 or ::"
        ) from None


def _nodes(path: str | None, mode: str) -> dict[str, Any]:
    """The node file, read by the rules of the mode."""
    if path is None:
        return {}
    if mode == "strict":
        return {"nodes": files.read(path).documents}
    from mgmt.core.schedule import compat
    from mgmt.core.schedule.compat_yaml import scan_nodes

    try:
        return {"compat_nodes": scan_nodes(files.read_text(path))}
    except compat.CompatError as error:
        raise MgmtError("bad-workload", f"{path}: {error}") from None


def _located(error: MgmtError, nodes: str | None) -> MgmtError:
    """With the lines of the node file where that is what is wrong."""
    if error.code != "bad-workload" or nodes is None:
        return error
    source = files.read(nodes)
    return files.located(error, source, source)


def _ready(invocation: Invocation, told: dict[str, Any]) -> None:
    if invocation.json:
        invocation.emit("mgmt.timpani-gateway/1", told)
        return
    where = f"{told['address']}, ports {told['schedinfo_port']} (submitters) and {told['node_port']} (nodes)"
    click.echo(f"TIMPANI gateway listens on {where}, faults go to {told['sink']}, mode {told['mode']}")
