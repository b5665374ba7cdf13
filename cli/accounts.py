"""`mgmt group` and `mgmt quota`: who works together, on what, and how much they may have."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import click

from mgmt.protocol.errors import Exit

from . import render
from .completion import complete_groups, complete_nodes, complete_users
from .groups import NearGroup, sub
from .invocation import Invocation, shared_options

Row = dict[str, Any]
ROLES = click.Choice(["read", "write", "admin"])

GROUP_COLUMNS: dict[str, Callable[[Row], str]] = {
    "GROUP": lambda group: group["group"],
    "MEMBERS": lambda group: _roles(group["members"], "user"),
    "NODES": lambda group: _roles(group["nodes"]),
    "WORKERS": lambda group: _roles(group["workers"]),
    "USED": lambda group: render.size(group["storage_used_bytes"]),
    "QUOTA": lambda group: render.size(group["storage_quota_bytes"]),
    "TASKS": lambda group: str(group["tasks"]),
}
RIGHT = "USED QUOTA TASKS"


def _roles(rows: list[Row], name: str = "name") -> str:
    return ",".join(f"{row[name]}:{row['role']}" for row in rows) or "-"


class Size(click.ParamType):  # type: ignore[type-arg]  # generic in the newest click only
    """Bytes, or a number with a binary unit: 512M, 16G, 1.5T."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        text = str(value).upper().removesuffix("B")
        unit = "KMGT".find(text[-1:]) + 1 if text[-1:] else 0
        try:
            count = float(text[:-1] if unit else text) * 1024**unit
        except ValueError:
            count = -1.0
        if not 0 <= count < 1 << 62:
            self.fail(f"{value!r} is not a size like 1000000, 512M or 16G", param, ctx)
        return int(count)


@click.group("group", cls=NearGroup, params=shared_options())
def group() -> None:
    """Make groups, let users in, and let groups use nodes and workers."""


_group = partial(sub, group)
_name = click.argument("name", shell_complete=complete_groups)
_user = click.argument("user", shell_complete=complete_users)


@_group("create", "group-create")
@click.argument("name")
def create(invocation: Invocation, name: str) -> int:
    return _ask(invocation, "group-create", group=name)


@_group("list", "groups", "List the groups.")
@click.option("--no-headers", is_flag=True, help="Only the rows.")
def list_(invocation: Invocation, no_headers: bool) -> int:
    """Those you are in; an administrator sees all."""
    with invocation.client() as client:
        reply = client.request("groups", {})
    if invocation.json:
        invocation.emit("mgmt.groups/1", reply)
    else:
        render.show(GROUP_COLUMNS, reply["groups"], no_headers, RIGHT)
    return Exit.OK


@_group("show", "groups", "Show one group: members, roles, nodes and workers.")
@_name
def show(invocation: Invocation, name: str) -> int:
    with invocation.client() as client:
        (told,) = client.request("groups", {"groups": [name]})["groups"]
    return _say(invocation, told)


@_group("delete", "group-delete")
@_name
def delete(invocation: Invocation, name: str) -> int:
    return _ask(invocation, "group-delete", group=name)


@_group("add", "group-add")
@_name
@_user
@click.option("--role", type=ROLES, default="read", show_default=True, help="What the user may do in it.")
def add(invocation: Invocation, name: str, user: str, role: str) -> int:
    """read: see what is in it; write: submit, cancel, change, upload; admin: let others in, too."""
    return _ask(invocation, "group-add", group=name, user=user, role=role)


@_group("remove", "group-remove")
@_name
@_user
def remove(invocation: Invocation, name: str, user: str) -> int:
    return _ask(invocation, "group-remove", group=name, user=user)


@_group("role", "group-role")
@_name
@_user
@click.argument("role", type=ROLES)
def role(invocation: Invocation, name: str, user: str, role: str) -> int:
    return _ask(invocation, "group-role", group=name, user=user, role=role)


@_group("grant", "group-grant")
@_name
@click.option("--node", metavar="NODE", shell_complete=complete_nodes, help="The node it is about.")
@click.option("--worker", metavar="WORKER", help="The worker it is about.")
@click.option(
    "--role",
    type=click.Choice(["write", "admin", "none"]),
    default="write",
    show_default=True,
    help="What the group may do there; none: nothing any more.",
)
def grant(invocation: Invocation, name: str, node: str | None, worker: str | None, role: str) -> int:
    """write: work of the group may go there; admin: admins of the group manage it, too."""
    if (node is None) is (worker is None):
        raise click.UsageError("Give either --node or --worker.")
    place = {"node": node} if node is not None else {"worker": worker}
    return _ask(invocation, "group-grant", group=name, role=None if role == "none" else role, **place)


def _ask(invocation: Invocation, request: str, **body: Any) -> int:
    with invocation.client() as client:
        told = client.request(request, body)
    return _say(invocation, told)


def _say(invocation: Invocation, told: Row) -> int:
    if invocation.json:
        invocation.emit("mgmt.group/1", told)
        return Exit.OK
    gone = " (deleted)" if told["state"] == "deleted" else ""
    used, quota = render.size(told["storage_used_bytes"]), render.size(told["storage_quota_bytes"])
    rows = [
        ("Members", _roles(told["members"], "user")),
        ("Nodes", _roles(told["nodes"])),
        ("Workers", _roles(told["workers"])),
        ("Stored", f"{used} of {quota}"),
        ("Tasks", str(told["tasks"])),
        ("Made by", told["creator"]),
    ]
    click.echo("\n".join([f"{told['group']}{gone}", *(f"  {name + ':':<9}{value}" for name, value in rows)]))
    return Exit.OK


# ---- quotas ----------------------------------------------------------------------------------------------


@click.group("quota", cls=NearGroup, params=shared_options())
def quota() -> None:
    """Show and change how much users and groups may have."""


_quota = partial(sub, quota)


@_quota("show", "quotas")
@click.argument("name", required=False, shell_complete=complete_groups)
@click.option("--no-headers", is_flag=True, help="Only the rows.")
def show_quotas(invocation: Invocation, name: str | None, no_headers: bool) -> int:
    with invocation.client() as client:
        return _quotas(invocation, client.request("quotas", {"name": name}), no_headers)


@_quota("set", "quota-set")
@click.argument("name", shell_complete=complete_groups)
@click.option("--groups", type=click.IntRange(0), help="How many groups the user may create.")
@click.option("--storage", type=Size(), help="How much the group may store: 512M, 16G.")
def set_(invocation: Invocation, name: str, groups: int | None, storage: int | None) -> int:
    """A user and the group of the same name have both."""
    if groups is None and storage is None:
        raise click.UsageError("Give --groups, --storage or both.")
    with invocation.client() as client:
        reply = client.request("quota-set", {"name": name, "groups": groups, "storage_bytes": storage})
        return _quotas(invocation, reply, False)


def _quotas(invocation: Invocation, reply: Row, no_headers: bool) -> int:
    if invocation.json:
        invocation.emit("mgmt.quotas/1", reply)
        return Exit.OK
    users = {row["user"]: f"{row['groups']} of {row['group_quota']}" for row in reply["users"]}
    columns: dict[str, Callable[[Row], str]] = {
        "NAME": lambda row: row["group"],
        "GROUPS": lambda row: users.get(row["group"], "-"),
        "STORED": lambda row: render.size(row["storage_used_bytes"]),
        "QUOTA": lambda row: render.size(row["storage_quota_bytes"]),
    }
    render.show(columns, reply["groups"], no_headers, "STORED QUOTA")
    return Exit.OK
