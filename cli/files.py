"""`mgmt attachment` and `mgmt artifact`: files that users bring, and files that tasks leave."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mgmt.protocol import references
from mgmt.protocol.errors import Exit

from . import render
from .completion import complete_groups
from .groups import NearGroup, sub
from .invocation import Invocation, shared_options
from .meter import Meter

if TYPE_CHECKING:
    from mgmt.client import Client

Row = dict[str, Any]
PAGE = 1000  # files listed by one request
TIMEOUT_S = 60.0  # of one request of a transfer; the transfer itself takes as long as something moves

COLUMNS: dict[str, Callable[[Row], str]] = {
    "FILE": lambda file: file["blob"],
    "SIZE": lambda file: render.size(file["bytes"]),
    "BY": lambda file: file["creator"],
    "CREATED": lambda file: render.moment(file["created_at"]),
    "SHA-256": lambda file: file["digest"][:12],
}
RIGHT = "SIZE"
KINDS = click.Choice(list(references.KINDS))
_group_option = click.option(
    "--group", metavar="GROUP", shell_complete=complete_groups, help="Whose it is; your own when absent."
)
_no_headers = click.option("--no-headers", is_flag=True, help="Only the rows.")


@click.group("attachment", cls=NearGroup, params=shared_options())
def attachment() -> None:
    """Store files for tasks and hooks, list and fetch them.

    A file is named GROUP/KEY, where a task names its resources, too; KEY alone is of your own group.
    """


_attachment = partial(sub, attachment)


@_attachment("put", "blob-begin")
@click.argument("path", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("name", metavar="[KEY]", required=False)
@_group_option
def put(invocation: Invocation, path: Path, name: str | None, group: str | None) -> int:
    """KEY is the name of the file when absent. A transfer that was broken off goes on where it was when it is
    repeated."""
    from mgmt.client import files

    with invocation.client(TIMEOUT_S) as client, Meter(invocation, f"{path.name}, bytes") as meter:
        told = files.upload(client, path, group, name or path.name, meter.show)
    return _say(invocation, told, "stored")


@_attachment("get", "blob-read")
@click.argument("name")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Where to; `-` is standard output.")
@_group_option
def get(invocation: Invocation, name: str, output: Path | None, group: str | None) -> int:
    """NAME is a key of your group, of --group, or GROUP/KEY as `mgmt attachment list` shows it. The file gets the
    last word of the key as its name. It is whole, or it is not there."""
    with invocation.client(TIMEOUT_S) as client:
        return _fetch(invocation, client, _blob_of(client, name, group), output)


def _blob_of(client: Client, name: str, group: str | None) -> str:
    """What a name means: GROUP/KEY wherever there is such a file, else a key of one's own."""
    if group is not None:
        return f"{group}/{name}"
    if name.startswith(("sha256:", "task:")):
        return name
    own = f"{client.request('whoami', {})['user']}"
    if "/" in name:
        first, _, rest = name.partition("/")
        groups = {one["group"] for one in client.request("groups", {})["groups"]}
        if first in groups and rest:
            return name
    return f"{own}/{name}"


@_attachment("list", "attachments")
@click.argument("prefix", required=False, default="")
@click.option("--group", metavar="GROUP", shell_complete=complete_groups, help="Only of this group.")
@_no_headers
def list_attachments(invocation: Invocation, prefix: str, group: str | None, no_headers: bool) -> int:
    """PREFIX is the beginning of keys."""
    return _list(invocation, "attachments", {"group": group, "prefix": prefix}, no_headers)


@_attachment("rm", "attachment-delete")
@click.argument("keys", nargs=-1)
@click.option("--prefix", default="", help="All keys that begin like this.")
@_group_option
def rm_attachments(invocation: Invocation, keys: tuple[str, ...], prefix: str, group: str | None) -> int:
    if bool(keys) is bool(prefix):
        raise click.UsageError("Give either KEYS or --prefix.")
    body: Row = {"group": group, "prefix": prefix} if prefix else {"group": group, "keys": list(keys)}
    return _delete(invocation, "attachment-delete", body)


# ---- artifacts -------------------------------------------------------------------------------------------


@click.group("artifact", cls=NearGroup, params=shared_options())
def artifact() -> None:
    """List, fetch and delete what tasks have left.

    A task leaves its results ($MITO_RESULT_DIR, as a tar.gz) and, with terminal output kept, its std-log.
    """


_artifact = partial(sub, artifact)
_kind = click.option("--kind", "kinds", type=KINDS, multiple=True, help="Only this kind.")
_suite = click.option("--suite", metavar="SUITE", help="Only of tasks of this suite.")


@_artifact("list", "artifacts")
@click.argument("tasks", nargs=-1, type=click.IntRange(1))
@_suite
@_kind
@click.option("--group", metavar="GROUP", shell_complete=complete_groups, help="Only of this group.")
@_no_headers
def list_artifacts(
    invocation: Invocation,
    tasks: tuple[int, ...],
    suite: str | None,
    kinds: tuple[str, ...],
    group: str | None,
    no_headers: bool,
) -> int:
    body = {"tasks": list(tasks), "suite": suite, "kinds": list(kinds), "group": group}
    return _list(invocation, "artifacts", body, no_headers)


@_artifact("get", "blob-read")
@click.argument("task", type=click.IntRange(1))
@click.argument("kind", type=KINDS, required=False, default="result")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Where to; `-` is standard output.")
def get_artifact(invocation: Invocation, task: int, kind: str, output: Path | None) -> int:
    """KIND is result when absent. It is whole, or it is not there."""
    name = f"task-{task}.tar.gz" if kind == "result" else f"task-{task}.{kind}"
    with invocation.client(TIMEOUT_S) as client:
        return _fetch(invocation, client, f"task:{task}/{kind}", output or Path(name))


@_artifact("rm", "artifact-delete")
@click.argument("tasks", nargs=-1, type=click.IntRange(1))
@_suite
@_kind
def rm_artifacts(
    invocation: Invocation, tasks: tuple[int, ...], suite: str | None, kinds: tuple[str, ...]
) -> int:
    if not tasks and suite is None:
        raise click.UsageError("Give TASKS, --suite or both.")
    body = {"tasks": list(tasks), "suite": suite, "kinds": list(kinds)}
    return _delete(invocation, "artifact-delete", body)


# ---- both ------------------------------------------------------------------------------------------------


def _fetch(invocation: Invocation, client: Client, blob: str, output: Path | None) -> int:
    from mgmt.client import files

    if output is not None and str(output) == "-":
        told = files.read(client, blob, sys.stdout.buffer.write)
        return Exit.OK
    target = output or Path(blob.rpartition("/")[2])
    if target.is_dir():
        target = target / blob.rpartition("/")[2]
    with Meter(invocation, f"{target.name}, bytes") as meter:
        told = files.download(client, blob, target, meter.show)
    return _say(invocation, told, f"in {target}")


def _say(invocation: Invocation, told: Row, where: str) -> int:
    if invocation.json:
        invocation.emit("mgmt.file/1", told)
    else:
        invocation.say(f"{told['blob']}: {render.size(told['bytes'])} {where}, sha256:{told['digest']}")
    return Exit.OK


def _list(invocation: Invocation, request: str, body: Row, no_headers: bool) -> int:
    with invocation.client() as client:
        reply = client.request(request, {**body, "limit": PAGE})
        while len(reply["blobs"]) < reply["total"]:
            more = client.request(request, {**body, "limit": PAGE, "offset": len(reply["blobs"])})["blobs"]
            if not more:
                break  # somebody deletes meanwhile
            reply["blobs"] += more
    if invocation.json:
        invocation.emit(f"mgmt.{request}/1", reply)
    else:
        render.show(COLUMNS, reply["blobs"], no_headers, RIGHT)
    return Exit.OK


def _delete(invocation: Invocation, request: str, body: Row) -> int:
    with invocation.client() as client:
        reply = client.request(request, body)
    if invocation.json:
        invocation.emit(f"mgmt.{request.partition('-')[0]}s-deleted/1", reply)
    else:
        invocation.say(f"{reply['deleted']} deleted, {render.size(reply['bytes'])}")
    return Exit.OK
