"""`mgmt stop-service`: an orderly stop, waited for."""

from __future__ import annotations

import click

from mgmt.protocol.errors import Exit, MgmtError

from . import spawn
from .invocation import Invocation, verb

STOP_TIMEOUT_S = 60.0


@verb("stop-service")
@click.option("--wait/--no-wait", default=True, help="Return when the daemon is gone (the default).")
def stop_service(invocation: Invocation, wait: bool) -> int:
    """A daemon that is not running is no error."""
    try:
        with invocation.client() as client:
            service = client.request("status", {})["service"]
            invocation.say("Stopping management service...")
            stopping = client.request("stop-service", {})
    except MgmtError as error:
        if error.code != "unreachable":
            raise
        told(invocation, None, [], True, "Management service is not running")
        return Exit.OK
    over = False
    if wait:
        timeout_s = invocation.timeout(STOP_TIMEOUT_S)
        over = spawn.gone(service["pid"], timeout_s)
        if not over:
            text = f"the daemon (pid {service['pid']}) is still stopping after {timeout_s:g} s: mgmt status"
            raise MgmtError("expired", text, pid=service["pid"])
    text = "Management service stopped" if over else "Management service stop requested"
    told(invocation, service["pid"], stopping["units"], over, text)
    return Exit.OK


def told(invocation: Invocation, pid: int | None, units: list[str], over: bool, text: str) -> None:
    invocation.say(text)
    if invocation.json:
        invocation.emit("mgmt.stop-service/1", {"pid": pid, "units": units, "stopped": over})
