"""`mgmt suite status` and `wait`: where a suite is, as it is or until it ends."""

from __future__ import annotations

import time
from signal import SIGINT
from typing import TYPE_CHECKING, Any

import click

from mgmt.protocol.errors import Exit, MgmtError

from ..completion import complete_suites
from ..following import Patience
from ..invocation import Invocation, verb
from ..meter import Meter
from . import COMMANDS, tables
from .asking import nearest

if TYPE_CHECKING:
    from mgmt.client import Client

ASK_EVERY_S = 0.2  # at most, while tasks end all the time
LISTEN_S = (
    5.0  # for one change; then it is asked anew, because a change of state alone is none of the counters
)
WAIT_TIMEOUT_S = 86_400.0


@verb("status", COMMANDS["status"][1])
@click.argument("suite", shell_complete=complete_suites)
@click.option("-f", "--follow", is_flag=True, help="Show its progress until it ends.")
def status(invocation: Invocation, suite: str, follow: bool) -> int:
    """With -f the exit status is 1 when a task failed or ended with another status than 0, or when the suite was
    cancelled. An interrupt ends the following, not the suite. With --json -f each change is a line."""
    with invocation.client() as client:
        with nearest(client):
            (told,) = client.request("suites", {"suites": [suite]})["suites"]
        if follow:
            return _follow(invocation, client, told)
    if invocation.json:
        invocation.emit("mgmt.suite/1", told)
    else:
        click.echo("\n".join(tables.detail(told, invocation.colored)))
    return Exit.OK


@verb("wait", COMMANDS["wait"][1])
@click.argument("suite", shell_complete=complete_suites)
@click.option(
    "--for",
    "condition",
    type=click.Choice(["ended", "complete"]),
    default="ended",
    help="complete: fails when it is cancelled; ended: either will do (the default).",
)
def wait(invocation: Invocation, suite: str, condition: str) -> int:
    """Exits 7 when --timeout passes first, a day by default."""
    timeout_s = invocation.timeout(WAIT_TIMEOUT_S)
    with invocation.client(WAIT_TIMEOUT_S) as client, nearest(client):
        told = client.request("suite-wait", {"suite": suite, "condition": condition}, timeout_s=timeout_s)
    if invocation.json:
        invocation.emit("mgmt.suite/1", told)
    else:
        click.echo(f"{tables.label(told)} is {told['state']}; tasks {tables.counts(told)}")
    return Exit.OK


def _follow(invocation: Invocation, client: Client, told: dict[str, Any]) -> int:
    label, key = tables.label(told), str(told["suite"])
    try:
        with Meter(invocation, label, tells=True) as meter:
            told = _until_end(invocation, client, told, meter)
        bad = _bad(client, told)
    except KeyboardInterrupt:
        text = f"{label} goes on; `mgmt suite status {key} --follow` shows it again"
        invocation.complain({"code": "cancelled", "text": text, "retryable": True})
        return 128 + SIGINT
    if not invocation.json:
        click.echo(f"{label} is {told['state']}; tasks {tables.counts(told)}")
    if bad:
        click.echo(
            f"{bad} of them did not end with 0: mgmt task list --suite {key} --exit-status '!=0'", err=True
        )
    return Exit.FAILED if bad or told["tasks"]["failed"] or told["state"] == "CANCELLED" else Exit.OK


def _until_end(invocation: Invocation, client: Client, told: dict[str, Any], meter: Meter) -> dict[str, Any]:
    """Show every change, at most one every ASK_EVERY_S; a daemon that restarts is waited for."""
    patience = Patience()
    end_s = None if invocation.timeout_s is None else time.monotonic() + invocation.timeout_s
    while True:
        patience.heard()
        if invocation.json:
            invocation.emit("mgmt.suite/1", told)
        tasks = told["tasks"]
        more = [f"{tasks[name]} {name}" for name in ("running", "failed", "cancelled") if tasks[name]]
        meter.show(tables.done(told), tasks["total"], ", ".join(more))
        if told["state"] == "COMPLETE" or (told["state"] == "CANCELLED" and not tasks["pending"]):
            return told
        time.sleep(ASK_EVERY_S)
        told = _change(client, told, patience, end_s)


def _change(client: Client, told: dict[str, Any], patience: Patience, end_s: float | None) -> dict[str, Any]:
    """The suite as soon as its counters are others, or its state; MgmtError `expired` at `end_s`."""
    body = {"suite": str(told["suite"]), "condition": "progress", "seen": told["tasks"]}
    while True:
        left_s = LISTEN_S if end_s is None else min(LISTEN_S, end_s - time.monotonic())
        if left_s <= 0:
            raise MgmtError("expired", f"{tables.label(told)} has not ended: {tables.counts(told)}")
        try:
            return client.request("suite-wait", body, timeout_s=left_s)
        except MgmtError as error:
            if error.code != "expired":
                patience.wait(error)
                continue
        (now,) = client.request("suites", {"suites": [body["suite"]]})["suites"]
        if now["state"] != told["state"]:
            return dict(now)


def _bad(client: Client, told: dict[str, Any]) -> int:
    """How many tasks of the suite ended with another status than 0."""
    if not told["tasks"]["finished"]:
        return 0
    body = {"suite": str(told["suite"]), "states": ["FINISHED"], "exit_status": "!=0", "count_only": True}
    return int(client.request("tasks", body)["total"])
