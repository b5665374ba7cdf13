"""`mgmt keys`: who may speak to the daemon over tcp. Works on files; a running daemon sees the change itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mgmt.protocol import keys as files
from mgmt.protocol.errors import Exit, MgmtError
from mgmt.protocol.keys import Grant, KeyFile

from . import render
from .invocation import Invocation, shared_options, verb

ROLE = f"{files.ROLES}."


@click.group("keys", params=shared_options())
def keys() -> None:
    """Make, allow and revoke the keys that tcp endpoints ask for."""


@keys.add_command
@verb("new", "Make a key for an operator, a user, a client or an agent.")
@click.argument("name")
@click.option("--role", metavar="ROLE", help=ROLE)
@click.option("--user", metavar="NAME", help="It speaks as this user; the same as --role user:NAME.")
@click.option("--comment", default="", metavar="TEXT", help="One line for people.")
@click.option("--output", metavar="DIR", help="Where to write it; the state folder's `keys` when absent.")
@click.option("--allow", is_flag=True, help="Allow it here, too: this machine's daemon lets it in.")
def new(
    invocation: Invocation,
    name: str,
    role: str | None,
    user: str | None,
    comment: str,
    output: str | None,
    allow: bool,
) -> int:
    """Writes NAME.key, the secret, for the machine that will use it, and NAME.pub, which may be shown to
    everybody. The role counts where the key is allowed, and is only proposed here."""
    import zmq

    from mgmt.protocol import curve

    curve.need_curve()
    role = _role(role, user)
    if role is None:
        raise click.UsageError("Say what it is for: --role or --user.")
    if name in (files.SERVER, files.LOCAL, files.BACKENDS):
        raise MgmtError("conflict", f"the name {name!r} is that of a key the daemon makes for itself")
    pair = files.new_pair(
        zmq.curve_keypair, files.name_of(name), files.role_of(role), files.comment_of(comment)
    )
    path = files.write_pair(Path(output) if output else files.keys_dir(), pair)
    invocation.say(f"{path}: the key, for nobody but its owner (--key, MGMT_KEY_FILE)")
    invocation.say(f"{path.with_suffix('.pub')}: its public half")
    if allow:
        _allow(invocation, Grant(pair.public, pair.role, pair.name, pair.comment))
    else:
        invocation.say(f"It opens nothing before `mgmt keys allow {pair.name}.pub` on the daemon's machine.")
    _emit(invocation, pair, path)
    return Exit.OK


@keys.add_command
@verb("list", "List the keys that this machine's daemon allows.")
@click.option("--no-headers", is_flag=True, help="Only the rows.")
def list_(invocation: Invocation, no_headers: bool) -> int:
    grants = sorted(files.read_allowed(files.keys_dir()).values(), key=lambda grant: grant.name)
    if invocation.json:
        rows = [_body(KeyFile(g.key, "", g.name, g.role, g.comment), None) for g in grants]
        invocation.emit("mgmt.keys/1", {"keys": rows})
        return Exit.OK
    lines = render.table(
        ["NAME", "ROLE", "PUBLIC KEY", "COMMENT"], [[g.name, g.role, g.key, g.comment or "-"] for g in grants]
    )
    click.echo("\n".join(lines[1:] if no_headers else lines))
    return Exit.OK


@keys.add_command
@verb("allow", "Let a key in, or change what it may do; in force within a second.")
@click.argument("which", metavar="KEY")
@click.option("--role", metavar="ROLE", help=f"{ROLE} The file's when absent.")
@click.option("--user", metavar="NAME", help="It speaks as this user; the same as --role user:NAME.")
@click.option("--name", metavar="NAME", help="What it is called here; the file's name for it when absent.")
@click.option("--comment", metavar="TEXT", help="One line for people.")
def allow(
    invocation: Invocation,
    which: str,
    role: str | None,
    user: str | None,
    name: str | None,
    comment: str | None,
) -> int:
    """KEY is a file (NAME.pub), the name of a file in the state folder's `keys`, or the public key itself."""
    found = _find(which)
    known = files.read_allowed(files.keys_dir()).get(found.public)
    role = _role(role, user) or (known.role if known else found.role)
    name = name or (known.name if known else found.name)
    if not role or not name:
        lacks = "--role" if not role else "--name"
        raise click.UsageError(f"A public key alone says neither its role nor its name: give {lacks}.")
    comment = comment if comment is not None else known.comment if known else found.comment
    grant = Grant(found.public, files.role_of(role), files.name_of(name), files.comment_of(comment))
    _allow(invocation, grant)
    _emit(invocation, KeyFile(grant.key, "", grant.name, grant.role, grant.comment), None)
    return Exit.OK


@keys.add_command
@verb("revoke", "Let a key in no more, and close what it has opened; in force within a second.")
@click.argument("which", metavar="KEY")
def revoke(invocation: Invocation, which: str) -> int:
    """KEY is the name of `mgmt keys list`, or the public key."""
    with files.changing(files.keys_dir()) as grants:
        grant = files.revoke(grants, which)
    invocation.say(f"{grant.name} ({grant.role}) is revoked: {grant.key}")
    _emit(invocation, KeyFile(grant.key, "", grant.name, grant.role, grant.comment), None)
    return Exit.OK


@keys.add_command
@verb("show", "Print a public key: the daemon's own, or that of a file.")
@click.argument("which", metavar="[KEY]", default=files.SERVER)
def show(invocation: Invocation, which: str) -> int:
    """Without KEY: the key of this machine's daemon, which clients and agents are told with --server-key. It is
    made when there is none yet."""
    if which == files.SERVER:
        import zmq

        from mgmt.protocol import curve

        curve.need_curve()
        files.own_pairs(files.keys_dir(), zmq.curve_keypair)
    found = _find(which)
    invocation.say(found.public)
    _emit(invocation, found, None)
    return Exit.OK


def _role(role: str | None, user: str | None) -> str | None:
    if role is not None and user is not None:
        raise click.UsageError("Give either --role or --user.")
    return files.USER + user if user is not None else role


def _find(told: str) -> KeyFile:
    """A public key from its 40 characters, a path, or a name in the folder of keys."""
    if files.is_key(told):
        return KeyFile(told)
    for path in (Path(told), files.keys_dir() / f"{told}.pub", files.keys_dir() / told):
        if path.is_file():
            return files.read_public(path)
    for grant in files.read_allowed(files.keys_dir()).values():
        if grant.name == told:
            return KeyFile(grant.key, "", grant.name, grant.role, grant.comment)
    text = (
        f"{told!r} is neither a public key ({files.KEY_CHARS} characters) nor a file, nor in `mgmt keys list`"
    )
    raise MgmtError("bad-body", text)


def _allow(invocation: Invocation, grant: Grant) -> None:
    with files.changing(files.keys_dir()) as grants:
        files.allow(grants, grant)
    invocation.say(f"{grant.name} is allowed as {grant.role}")


def _body(key: KeyFile, path: Path | None) -> dict[str, Any]:
    return {
        "name": key.name,
        "role": key.role,
        "comment": key.comment,
        "public": key.public,
        "file": str(path) if path is not None else None,
    }


def _emit(invocation: Invocation, key: KeyFile, path: Path | None) -> None:
    if invocation.json:
        invocation.emit("mgmt.key/1", _body(key, path))
