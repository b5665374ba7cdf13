"""`mgmt user` and `mgmt whoami`: who may speak, and the tokens they speak with."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click

from mgmt.protocol import defaults, keys, tokens
from mgmt.protocol.errors import Exit, MgmtError

from . import render
from .completion import complete_nodes, complete_users
from .groups import NearGroup, sub
from .invocation import Duration, Invocation, shared_options, verb

Row = dict[str, Any]

USER_COLUMNS: dict[str, Callable[[Row], str]] = {
    "USER": lambda user: user["user"],
    "STATE": lambda user: user["state"],
    "ADMIN": lambda user: "yes" if user["admin"] else "-",
    "GROUPS": lambda user: memberships(user["groups"]),
    "CREATED": lambda user: render.moment(user["created_at"]) if user["created_at"] else "-",
}
TOKEN_COLUMNS: dict[str, Callable[[Row], str]] = {
    "TOKEN": lambda token: token["name"],
    "USER": lambda token: token["user"],
    "SCOPE": lambda token: f"{token['scope']} {token['node'] or ''}".strip(),
    "EXPIRES": lambda token: "expired" if token["expired"] else render.moment(token["expires_at"]),
    "USED": lambda token: "never" if token["used_at"] is None else render.moment(token["used_at"]),
}


def memberships(groups: list[Row]) -> str:
    return ",".join(f"{one['group']}:{one['role']}" for one in groups) or "-"


@verb("whoami")
def whoami(invocation: Invocation) -> int:
    with invocation.client() as client:
        told = client.request("whoami", {})
    if invocation.json:
        invocation.emit("mgmt.whoami/1", told)
        return Exit.OK
    admin = ", an administrator" if told["admin"] else ""
    invocation.say(f"{told['user'] or 'nobody by name'}{admin} (says {told['via']})")
    invocation.say(f"groups: {memberships(told['groups'])}")
    return Exit.OK


@click.group("user", cls=NearGroup, params=shared_options())
def user() -> None:
    """Make, show and shut out users, and manage the tokens they speak with."""


_user = partial(sub, user)


@_user("create", "user-create")
@click.argument("name")
@click.option("--admin", is_flag=True, help="May do whatever an operator may.")
def create(invocation: Invocation, name: str, admin: bool) -> int:
    """Then `mgmt user token new` gives the user something to speak with, or `mgmt keys allow --user` does."""
    return _ask(invocation, "user-create", user=name, admin=admin)


@_user("list", "users", "List the users.")
@click.option("--no-headers", is_flag=True, help="Only the rows.")
def list_(invocation: Invocation, no_headers: bool) -> int:
    """Who is no administrator sees no other users."""
    with invocation.client() as client:
        reply = client.request("users", {})
    if invocation.json:
        invocation.emit("mgmt.users/1", reply)
    else:
        shown = [one for one in reply["users"] if one["state"] != "deleted"]
        render.show(USER_COLUMNS, shown, no_headers)
    return Exit.OK


@_user("show", "users", "Show one user: groups, state, when made.")
@click.argument("name", shell_complete=complete_users)
def show(invocation: Invocation, name: str) -> int:
    with invocation.client() as client:
        (told,) = client.request("users", {"users": [name]})["users"]
    return _say(invocation, told)


@_user("lock", "user-lock", "Shut a user out; what is theirs is kept.")
@click.argument("name", shell_complete=complete_users)
def lock(invocation: Invocation, name: str) -> int:
    """Sessions of the user are closed at once."""
    return _ask(invocation, "user-lock", user=name)


@_user("unlock", "user-lock", "Let a user in again who was shut out.")
@click.argument("name", shell_complete=complete_users)
def unlock(invocation: Invocation, name: str) -> int:
    """This is the second half: the user is let in again."""
    return _ask(invocation, "user-lock", user=name, locked=False)


@_user("delete", "user-delete")
@click.argument("name", shell_complete=complete_users)
def delete(invocation: Invocation, name: str) -> int:
    return _ask(invocation, "user-delete", user=name)


def _ask(invocation: Invocation, request: str, **body: Any) -> int:
    with invocation.client() as client:
        told = client.request(request, body)
    return _say(invocation, told)


def _say(invocation: Invocation, told: Row) -> int:
    if invocation.json:
        invocation.emit("mgmt.user/1", told)
    else:
        admin = ", an administrator" if told["admin"] else ""
        click.echo(f"{told['user']}: {told['state']}{admin}, groups {memberships(told['groups'])}")
    return Exit.OK


# ---- tokens ----------------------------------------------------------------------------------------------


@user.group("token", cls=NearGroup, params=shared_options(), help="Make, list and revoke tokens.")
def token() -> None:
    pass


_token = partial(sub, token)
_whose = click.option(
    "--user", "whose", metavar="USER", shell_complete=complete_users, help="Whose; your own when absent."
)


@_token("new", "token-new")
@click.argument("name")
@_whose
@click.option(
    "--node",
    metavar="NODE",
    shell_complete=complete_nodes,
    help="For the agent of this node, which the user brings, and for nothing else.",
)
@click.option("--worker", is_flag=True, help="For workers, which ask for tasks, and for nothing else.")
@click.option(
    "--lifetime",
    "lifetime_s",
    type=Duration(),
    default=defaults.TOKEN_LIFETIME_S,
    show_default="30d",
    help="How long it is let in: 12h, 90d.",
)
@click.option("--output", metavar="FILE", help="Write it there, mode 0600, instead of printing it.")
def new(
    invocation: Invocation,
    name: str,
    whose: str | None,
    node: str | None,
    worker: bool,
    lifetime_s: float,
    output: str | None,
) -> int:
    """Prints the token, once: nobody can show it again. It is drawn here, and the daemon keeps its digest only.
    --token-file, MGMT_TOKEN_FILE and MGMT_TOKEN speak with it."""
    if node is not None and worker:
        raise click.UsageError("Give either --node or --worker.")
    if output is not None and Path(output).exists():
        raise MgmtError("conflict", f"{output} exists; name another file, or remove it")
    text = tokens.new()
    body: Row = {"name": name, "digest": tokens.digest(text), "lifetime_s": lifetime_s}
    body |= {"user": whose} if whose is not None else {}
    body |= {"scope": "node", "node": node} if node is not None else {"scope": "worker" if worker else "user"}
    with invocation.client() as client:
        told = client.request("token-new", body)
    if output is not None:
        keys.write(Path(output), f"{text}\n", 0o600)
        invocation.say(f"{output}: the token, for nobody but its holder (--token-file, MGMT_TOKEN_FILE)")
    else:
        invocation.say(text)
    if invocation.json:
        shown = None if output is not None else text
        invocation.emit("mgmt.token-new/1", {**told, "token": shown, "file": output})
    return Exit.OK


@_token("list", "tokens")
@_whose
@click.option("--no-headers", is_flag=True, help="Only the rows.")
def list_tokens(invocation: Invocation, whose: str | None, no_headers: bool) -> int:
    with invocation.client() as client:
        reply = client.request("tokens", {} if whose is None else {"user": whose})
    if invocation.json:
        invocation.emit("mgmt.tokens/1", reply)
    else:
        render.show(TOKEN_COLUMNS, reply["tokens"], no_headers)
    return Exit.OK


@_token("revoke", "token-revoke")
@click.argument("name")
@_whose
def revoke(invocation: Invocation, name: str, whose: str | None) -> int:
    with invocation.client() as client:
        told = client.request("token-revoke", {"name": name} | ({"user": whose} if whose is not None else {}))
    invocation.say(f"token {told['name']} of {told['user']} is revoked; its sessions are closed")
    if invocation.json:
        invocation.emit("mgmt.token/1", told)
    return Exit.OK
