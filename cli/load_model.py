"""`mgmt load-model`: start a model's backends and say when they serve."""

from __future__ import annotations

import os
from typing import Any

import click

from mgmt.protocol.errors import Exit

from ._table import VERBS
from .completion import complete_models
from .invocation import Invocation, verb
from .progress import Spinner

LOAD_TIMEOUT_S = 600.0
_HELP = VERBS["load-model"][1]


@verb("load-model")
@click.argument("name", shell_complete=complete_models)
@click.option("--config", "backend_config", metavar="PATH", help=_HELP["config_path"])
@click.option("--wait/--no-wait", default=True, help=_HELP["wait"])
def load_model(invocation: Invocation, name: str, backend_config: str | None, wait: bool) -> int:
    """Loading a loaded model changes nothing and is no error. Ctrl-C or --timeout end the waiting, not the
    load: `mgmt wait NAME` takes it up again, `mgmt unload-model NAME` ends it."""
    body: dict[str, Any] = {"model": name, "wait": wait}
    if backend_config is not None:
        body["config_path"] = os.path.abspath(backend_config)
    invocation.say(f"Loading model: {name}")
    try:
        with invocation.client(LOAD_TIMEOUT_S) as client, Spinner(invocation, name):
            loaded = client.request("load-model", body, timeout_s=invocation.timeout(LOAD_TIMEOUT_S))
    except KeyboardInterrupt:
        click.echo(f"the load goes on: mgmt wait {name} --for ready, or mgmt unload-model {name}", err=True)
        raise
    if invocation.json:
        invocation.emit("mgmt.load-model/1", loaded)
    elif loaded["state"] != "RUNNING":
        click.echo(f"Model is {loaded['state']}: mgmt wait {loaded['model']} --for ready")
    elif loaded["already"]:
        click.echo(f"Model is already loaded on endpoint: {loaded['endpoint']}")
    else:
        click.echo(f"Model loaded successfully on endpoint: {loaded['endpoint']}")
    return Exit.OK
