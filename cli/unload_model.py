"""`mgmt unload-model`: stop a model's backends."""

from __future__ import annotations

import click

from mgmt.protocol.errors import Exit, MgmtError

from ._table import VERBS
from .completion import complete_models
from .invocation import Invocation, verb

UNLOAD_TIMEOUT_S = 120.0


@verb("unload-model")
@click.argument("name", shell_complete=complete_models)
@click.option("--wait/--no-wait", default=True, help=VERBS["unload-model"][1]["wait"])
def unload_model(invocation: Invocation, name: str, wait: bool) -> int:
    """Unloading what is not loaded changes nothing and is no error."""
    invocation.say(f"Unloading model: {name}")
    timeout_s = invocation.timeout(UNLOAD_TIMEOUT_S)
    text = "Model unloaded successfully" if wait else "Model is being unloaded"
    try:
        with invocation.client(UNLOAD_TIMEOUT_S) as client:
            reply = client.request("unload-model", {"model": name, "wait": wait}, timeout_s=timeout_s)
    except MgmtError as error:
        if error.code != "not-loaded":
            raise
        reply, text = {"model": name, "units": []}, "Model is not loaded"
    invocation.say(text)
    if invocation.json:
        invocation.emit("mgmt.unload-model/1", reply)
    return Exit.OK
