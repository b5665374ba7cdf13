"""`mgmt candidates schedule`: one pass over the daemon's candidates, or over a Janitor's into its own queue."""

from __future__ import annotations

import time
from typing import Any

import click

from mgmt.protocol.errors import Exit, MgmtError

from .. import render
from ..invocation import Duration, Invocation, verb
from . import COMMANDS
from .files import chosen, clock_us, moment, shared
from .janitor import adapter
from .list_ import listed
from .score import fault_text

SHOWN = 20
PASS_S = 300.0  # of a pass over very many, with the history read first
BUCKETS = (
    "update-existing-mp", "manual", "control", "hook", "reschedule", "update-new-mp", "missing-deps", "default",
)  # fmt: skip


@verb("schedule", COMMANDS["schedule"][1])
@click.argument("codebases", nargs=-1)
@click.option(
    "--database", metavar="URL", help="A Janitor's instead, like postgresql://janitor@host/janitor."
)
@click.option("--suite", help="Whose queue it is; default: `candidates.suite` of the configuration.")
@click.option("--bucket", type=click.Choice(BUCKETS), help="How urgent they are; default: default.")
@click.option("--policy", type=click.Choice(["default", "janitor_compat"]), help="By whose rules.")
@click.option("--campaign", help="Candidates of this campaign only.")
@click.option("--limit", type=click.IntRange(1), help="The best so many only.")
@click.option("--dry-run", is_flag=True, help="Decide, and write nothing.")
@click.option("--redis", metavar="URL", help="Keep a mirror of the queue there, a sorted set a bucket.")
@click.option("--every", "every_s", type=Duration(), help="Again and again, until it is interrupted.")
@shared
def schedule(
    invocation: Invocation,
    codebases: tuple[str, ...],
    database: str | None,
    suite: str | None,
    bucket: str | None,
    policy: str | None,
    campaign: str | None,
    limit: int | None,
    dry_run: bool,
    redis: str | None,
    every_s: float | None,
    now: str | None,
    settings: str | None,
) -> int:
    """CODEBASES: these only. What is decided is committed when this ends; what is queued in a more urgent bucket
    stays there. Rows that cannot be used are told and left out, and the exit status is 9 then. --redis, --now and
    --settings are for --database; the daemon has its own, --suite and --bucket are for it. --every keeps what a
    pass has read, and the next one reads what has changed; one that fails is told and tried again."""
    if database is None:
        if redis or now or settings or every_s:
            raise click.UsageError("--redis, --every, --now and --settings belong to --database")
        wanted = {"suite": suite, "policy": policy, "campaign": campaign, "limit": limit}
        body = {name: value for name, value in wanted.items() if value is not None}
        return _ask(
            invocation, {**body, "codebases": codebases, "bucket": bucket or "default", "dry_run": dry_run}
        )
    if suite or bucket:
        raise click.UsageError("--suite and --bucket are for the daemon's candidates, not for --database")
    if every_s and now:
        raise click.UsageError("--every takes the time of each pass: leave out --now")
    at = _Source(invocation, database, policy or "default", redis if not dry_run else None, settings)
    wanted = at.passes.Choice(codebases, campaign, limit, dry_run, at.mirror is not None)
    try:
        if every_s is None:
            return at.once(wanted, clock_us(now))
        while True:
            try:
                at.once(wanted, clock_us(None))
            except MgmtError as error:
                at.leave()
                invocation.complain(error.as_body())
            time.sleep(every_s)
    finally:
        at.close()


def _ask(invocation: Invocation, body: dict[str, Any]) -> int:
    with invocation.client(PASS_S) as client:
        told = client.request("candidates-schedule", body)
    if invocation.json:
        invocation.emit("mgmt.candidates-schedule/1", told)
        return Exit.PARTIAL if told["faults"] else Exit.OK
    lines = listed(told["first"]) if told["first"] else []
    lines += [f"warning: {warning}" for warning in told["warnings"]]
    lines += [f"left out: {fault_text(fault)}" for fault in told["faults"][:SHOWN]]
    what = "would be queued" if body["dry_run"] else "queued"
    lines.append(
        f"{told['considered']} candidates, {told['queued']} {what} in suite {told['suite']}, {told['changed']} "
        f"others have another priority, {told['held']} held, {len(told['faults'])} rows left out"
    )
    if not told["considered"]:
        lines.append("no candidate is meant: `mgmt candidates list` shows those there are")
    click.echo("\n".join(lines))
    return Exit.PARTIAL if told["faults"] else Exit.OK


class _Source:
    """A Janitor's database between two passes; its connection is kept, and what was read over it."""

    def __init__(
        self, invocation: Invocation, url: str, policy: str, redis: str | None, settings: str | None
    ) -> None:
        self.passes = adapter("passes", "postgres")
        self.mirror = adapter("mirror", "redis").Mirror(redis) if redis is not None else None
        self._invocation, self._url, self._policy = invocation, url, policy
        self._settings = chosen(settings)
        self._database: Any = None
        self._follower: Any = None

    def close(self) -> None:
        self.leave()
        if self.mirror is not None:
            self.mirror.close()

    def leave(self) -> None:
        """The next pass begins anew."""
        if self._database is not None:
            self._database.close()
        self._database = self._follower = None

    def once(self, wanted: Any, now_us: int) -> int:
        if self._database is None:
            self._database = adapter("database", "postgres").Database(self._url)
            self._follower = adapter("following", "postgres").Follower(self._database, self._settings)
        if self._policy == "default":
            done = self.passes.default_pass(self._follower, wanted, now_us)
        else:
            done = self.passes.compat_pass(self._database, wanted, self._settings, now_us)
        told = {
            "policy": self._policy, "now": moment(now_us), "dry_run": wanted.dry_run,
            "considered": done.considered, "decided": [_item(item) for item in done.decided],
            "written": done.written,
            "held": [
                {"codebase": one.candidate.codebase, "campaign": one.candidate.campaign, "reason": one.held}
                for one in done.held
            ],
            "mirrored": self.mirror.replace(done.queue) if self.mirror is not None else None,
            "faults": [fault.as_row() for fault in done.faults], "warnings": list(done.warnings),
        }  # fmt: skip
        if self._invocation.json:
            self._invocation.emit("mgmt.candidates-pass/1", told)
        else:
            click.echo("\n".join(shown(told)))
        return Exit.PARTIAL if told["faults"] else Exit.OK


def _item(item: Any) -> dict[str, Any]:
    us = item.estimated_duration_us
    return {
        "codebase": item.codebase, "campaign": item.campaign, "change_set": item.change_set or "",
        "bucket": item.bucket, "priority": item.priority, "command": item.command,
        "duration_s": None if us is None else us / 1e6,
    }  # fmt: skip


def shown(told: dict[str, Any]) -> list[str]:
    rows = told["decided"]
    cells = [
        [
            row["bucket"],
            str(row["priority"]),
            row["codebase"],
            row["campaign"],
            render.duration(row["duration_s"]),
        ]
        for row in rows[:SHOWN]
    ]
    lines = render.table(
        ["BUCKET", "PRIORITY", "CODEBASE", "CAMPAIGN", "DURATION"], cells, "PRIORITY DURATION"
    )
    if rows[SHOWN:]:
        lines.append(f"and {len(rows) - SHOWN} more: --json has them")
    lines += [f"held: {row['codebase']} {row['campaign']}: {row['reason']}" for row in told["held"][:SHOWN]]
    lines += [f"warning: {warning}" for warning in told["warnings"]]
    lines += [f"left out: {fault_text(fault)}" for fault in told["faults"][:SHOWN]]
    written = "nothing was written" if told["dry_run"] else f"{told['written']} written"
    lines.append(
        f"{told['considered']} candidates, {len(rows)} decided, {len(told['held'])} held, "
        f"{len(told['faults'])} rows left out; {written}"
    )
    if told["mirrored"] is not None:
        lines.append(f"{told['mirrored']} rows in the mirror")
    return lines
