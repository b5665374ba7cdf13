"""Keys: who may speak over tcp, and as what. The files that `mgmt keys` writes and everybody else reads.

    keys/server.key    the daemon's own pair, made when it is needed
    keys/server.pub    its public half, for clients and agents
    keys/local.key     an operator's pair, made with it: for commands on the daemon's own machine
    keys/backends.key  the pair of the daemon's own backends, when they reach it over tcp
    keys/allowed       one line a key: public key, role, name, comment
    keys/in-use        there while the daemon that was started last asks for keys

A key is 40 printable characters (Z85 of 32 bytes). A pair belongs to one party; what it may do is said by the line
of its public half in `allowed`, never by the file of the pair. Standard library only.
"""

from __future__ import annotations

import fcntl
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from mgmt.protocol import defaults, places
from mgmt.protocol.errors import MgmtError

KEY_CHARS = 40
ALLOWED = "allowed"
IN_USE = "in-use"
SERVER = "server"  # names of the pairs that a daemon makes for itself
LOCAL = "local"
BACKENDS = "backends"
MAX_FILE_BYTES = 1 << 20
OPERATOR, CLIENT, BACKEND = "operator", "client", "backend"
REVOKED = "revoked"  # of a key whose connection is older than its revocation
AGENT = "agent:"  # and the name of the node
USER = "user:"  # ... of the user
ROLES = "operator, client, user:NAME or agent:NODE"

_KEY = re.compile(r"[0-9A-Za-z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
_FIELDS = ("name", "role", "comment", "public", "secret")
_HEAD_PAIR = """\
# A key of mgmt: its secret half belongs to one party and to nobody else. What it may do is said by the daemon that
# allows its public half (`mgmt keys allow`).
"""
_HEAD_PUBLIC = "# The public half of a key of mgmt; not a secret.\n"
_HEAD_ALLOWED = """\
# Who may speak to this daemon over tcp: public key, role (operator, client, user:NAME, agent:NODE), name, comment.
# A daemon sees changes within a second; `mgmt keys allow` and `mgmt keys revoke` make them.
"""


class Grant(NamedTuple):
    """A line of `allowed`: what the holder of a key may do here."""

    key: str
    role: str
    name: str
    comment: str = ""

    @property
    def node(self) -> str:
        """The node an agent's key is for; empty for other roles."""
        return self.role.removeprefix(AGENT) if self.role.startswith(AGENT) else ""

    @property
    def user(self) -> str:
        """The user a key speaks as; empty for other roles."""
        return self.role.removeprefix(USER) if self.role.startswith(USER) else ""


@dataclass(frozen=True, slots=True)
class KeyFile:
    """A pair, or its public half when `secret` is empty. `role` is what it was made for, and no right."""

    public: str
    secret: str = ""
    name: str = ""
    role: str = ""
    comment: str = ""

    def text(self, *, secret: bool) -> str:
        """The file's content, with or without the secret half."""
        fields = {field: getattr(self, field) for field in _FIELDS if secret or field != "secret"}
        lines = [f"{field:8}{value}\n" for field, value in fields.items() if value]
        return (_HEAD_PAIR if secret else _HEAD_PUBLIC) + "".join(lines)


def is_key(text: str) -> bool:
    return _KEY.fullmatch(text) is not None


def role_of(text: str) -> str:
    """The role, checked; MgmtError `bad-body`."""
    whose = text.removeprefix(AGENT).removeprefix(USER)
    if text in (OPERATOR, CLIENT) or (whose != text and _NAME.fullmatch(whose)):
        return text
    raise MgmtError("bad-body", f"{text!r} is no role: {ROLES}")


def name_of(text: str) -> str:
    """The name of a key, checked: it is a file's name, too; MgmtError `bad-body`."""
    if _NAME.fullmatch(text) and len(text) <= 64:
        return text
    raise MgmtError(
        "bad-body",
        f"{text!r} is no name of a key: at most 64 of letters, digits and . _ + -, first a letter or digit",
    )


def comment_of(text: str) -> str:
    """One line, without what would confuse a reader of the file."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[: defaults.MAX_NAME_CHARS]


def keys_dir(state_dir: Path | None = None) -> Path:
    return (state_dir or places.state_dir()) / "keys"


# ---- a pair ------------------------------------------------------------------------------------------------


def parse_key(text: str, where: str) -> KeyFile:
    """The content of a key file; MgmtError `bad-config` names the line."""
    fields: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        word, _, value = line.strip().partition(" ")
        if not word or word.startswith("#"):
            continue
        if word not in _FIELDS or word in fields:
            raise _bad(where, f"line {number}: {word[:20]!r} is not known here, or said twice")
        fields[word] = value.strip()
    for half in ("public", "secret"):
        if (half == "public" or half in fields) and not is_key(fields.get(half, "")):
            raise _bad(where, f"it has no {half} key of {KEY_CHARS} characters")
    return KeyFile(**fields)


def read_pair(path: Path) -> KeyFile:
    """A key with its secret half; MgmtError `bad-config` when it is none, or when others may read it."""
    found = parse_key(_read(path, private=True), str(path))
    if not found.secret:
        raise _bad(str(path), "it has the public half only; name the file of the pair (NAME.key)")
    return found


def public_key(told: str) -> str:
    """A public key from its 40 characters or from a key file's path; MgmtError `bad-config`."""
    if is_key(told):
        return told
    return read_public(Path(told)).public


def read_public(path: Path) -> KeyFile:
    """What a key file says without its secret half; MgmtError `bad-config`."""
    return replace(parse_key(_read(path, private=False), str(path)), secret="")


def write_pair(folder: Path, pair: KeyFile) -> Path:
    """NAME.key, for its owner only, and NAME.pub beside it; the path of the first.

    MgmtError `conflict` when there is such a file: a pair that is overwritten is lost.
    """
    path = folder / f"{pair.name}.key"
    if path.exists():
        text = f"{path} exists, and its secret half is nowhere else; choose another name, or remove it"
        raise MgmtError("conflict", text)
    make_folder(folder)
    write(path, pair.text(secret=True), 0o600)
    write(path.with_suffix(".pub"), pair.text(secret=False), 0o644)
    return path


def own_pairs(folder: Path, keypair: Callable[[], tuple[bytes, bytes]]) -> KeyFile:
    """The daemon's pair. The first time it is made, and an operator's pair for this machine with it.

    `keypair` draws a public and a secret key.
    """
    path = folder / f"{SERVER}.key"
    if not path.exists():
        local = new_pair(
            keypair, LOCAL, OPERATOR, "made with the server's key, for commands on its own machine"
        )
        if not (folder / f"{LOCAL}.key").exists():
            write_pair(folder, local)
            with changing(folder) as grants:
                allow(grants, Grant(local.public, local.role, local.name, local.comment))
        # Last: while it is missing, all of this is done again.
        write_pair(
            folder, new_pair(keypair, SERVER, "", "the daemon's own; clients and agents need its public half")
        )
    return read_pair(path)


def backends_pair(folder: Path, keypair: Callable[[], tuple[bytes, bytes]]) -> KeyFile:
    """The pair of the daemon's backends, made when it is missing. It outlives the daemon, as backends do."""
    path = folder / f"{BACKENDS}.key"
    if not path.exists():
        write_pair(
            folder, new_pair(keypair, BACKENDS, BACKEND, "given by the daemon to the backends it starts")
        )
    return read_pair(path)


def mark(folder: Path, in_use: bool) -> None:
    """Tell this machine's commands whether the daemon asks for keys."""
    if in_use:
        write(folder / IN_USE, "", 0o600)
    else:
        (folder / IN_USE).unlink(missing_ok=True)


def new_pair(keypair: Callable[[], tuple[bytes, bytes]], name: str, role: str, comment: str) -> KeyFile:
    public, secret = keypair()
    return KeyFile(public.decode(), secret.decode(), name, role, comment)


# ---- the table of those that may speak ---------------------------------------------------------------------


def parse_allowed(text: str, where: str) -> dict[str, Grant]:
    """Grants by public key; MgmtError `bad-config` names the line."""
    grants: dict[str, Grant] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split(maxsplit=3)
        if not words or words[0] == "#":
            continue
        try:
            if not is_key(words[0]):
                raise MgmtError("bad-body", f"{words[0][:50]!r} is no key of {KEY_CHARS} characters")
            if len(words) < 3:
                raise MgmtError("bad-body", "a line is: public key, role, name, comment")
            if words[0] in grants:
                raise MgmtError("bad-body", "this key has a line already")
            grant = Grant(words[0], role_of(words[1]), name_of(words[2]), words[3] if words[3:] else "")
        except MgmtError as error:
            raise _bad(where, f"line {number}: {error.text}") from None
        grants[grant.key] = grant
    return grants


def allowed_text(grants: Iterable[Grant]) -> str:
    rows = sorted(grants, key=lambda grant: grant.name)
    return _HEAD_ALLOWED + "".join(f"{' '.join(grant)}".rstrip() + "\n" for grant in rows)


def read_allowed(folder: Path) -> dict[str, Grant]:
    """The table of a folder of keys; empty when there is none."""
    path = folder / ALLOWED
    try:
        return parse_allowed(_read(path, private=False, written_by_others=False), str(path))
    except FileNotFoundError:
        return {}


@contextmanager
def changing(folder: Path) -> Iterator[dict[str, Grant]]:
    """The table to be changed in place, and written when the block ends well. One at a time."""
    make_folder(folder)
    held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        grants = read_allowed(folder)
        before = dict(grants)
        yield grants
        if grants != before:
            write(folder / ALLOWED, allowed_text(grants.values()), 0o600)
    finally:
        os.close(held)


def allow(grants: dict[str, Grant], grant: Grant) -> None:
    """Add or change a line; MgmtError `conflict` when another key has the name."""
    other = next((known for known in grants.values() if known.name == grant.name), None)
    if other is not None and other.key != grant.key:
        text = (
            f"another key is called {grant.name!r} ({other.key}); revoke it first, or choose another --name"
        )
        raise MgmtError("conflict", text)
    grants[grant.key] = grant


def revoke(grants: dict[str, Grant], told: str) -> Grant:
    """Take a line away, by name or by key; MgmtError `bad-body` when there is none."""
    for grant in grants.values():
        if told in (grant.name, grant.key):
            del grants[grant.key]
            return grant
    known = ", ".join(sorted(grant.name for grant in grants.values())) or "none"
    raise MgmtError("bad-body", f"no key {told!r} is allowed; allowed are: {known}")


# ---- what one end of a connection is told ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a client of a tcp endpoint needs: the server's public key and a pair of its own."""

    server: str
    public: str
    secret: str


def credentials(
    server_key: str | None, key_file: str | None, environ: Mapping[str, str] | None = None
) -> Credentials | None:
    """From what was told, else $MGMT_SERVER_KEY and $MGMT_KEY_FILE; None when there is neither.

    `server_key` is the key or a file's path. MgmtError `not-authorised` when only one of the two is there.
    """
    environ = os.environ if environ is None else environ
    server_key = server_key or environ.get("MGMT_SERVER_KEY") or ""
    key_file = key_file or environ.get("MGMT_KEY_FILE") or ""
    if not server_key and not key_file:
        return None
    if not server_key or not key_file:
        have, lack = (
            "server key",
            "a key of your own: --key FILE or MGMT_KEY_FILE (`mgmt keys new` makes one)",
        )
        if not server_key:
            have, lack = (
                "key",
                "the server's public key: --server-key or MGMT_SERVER_KEY (`mgmt keys show`)",
            )
        raise MgmtError("not-authorised", f"there is a {have}, but not {lack}")
    pair = read_pair(Path(key_file))
    return Credentials(public_key(server_key), pair.public, pair.secret)


def for_endpoint(endpoint: str, server_key: str | None, key_file: str | None) -> Credentials | None:
    """`credentials` for an endpoint that may want them; None for a file's, whose mode is the authority."""
    return credentials(server_key, key_file) if endpoint.startswith("tcp://") else None


def local_credentials(state_dir: Path | None = None) -> Credentials | None:
    """Those of whoever may read the state folder of a daemon on this machine; None when it asks for none."""
    folder = keys_dir(state_dir)
    try:
        (folder / IN_USE).stat()
        return credentials(str(folder / f"{SERVER}.pub"), str(folder / f"{LOCAL}.key"), {})
    except (MgmtError, OSError):
        return None


# ---- files -------------------------------------------------------------------------------------------------


def make_folder(folder: Path) -> None:
    """0700 from the start, and given to the owner of the folder that it is made in."""
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
        folder.mkdir(mode=0o700, exist_ok=True)
        _give(folder, folder.parent)


def write(path: Path, text: str, mode: int) -> None:
    """Replace a file at once: a reader sees the old content or the new one, also after a crash."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    try:
        os.fchmod(descriptor, mode)
        os.write(descriptor, text.encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    _give(fresh, path.parent)
    os.replace(fresh, path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _give(path: Path, like: Path) -> None:
    """What root writes into the folder of the daemon's account is to be read by that account."""
    if os.geteuid() == 0:
        owner = like.stat()
        os.chown(path, owner.st_uid, owner.st_gid)


def read_private(path: Path) -> str:
    """The text of a file for its owner only; MgmtError `bad-config`."""
    return _read(path, private=True)


def _read(path: Path, *, private: bool, written_by_others: bool = True) -> str:
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise _bad(str(path), "it is no regular file")
        if private and mode & 0o077:
            raise _bad(str(path), f"others may read this secret (mode {mode & 0o777:04o}); chmod 600 it")
        if not written_by_others and mode & 0o022:
            raise _bad(str(path), f"others may change it (mode {mode & 0o777:04o}); chmod 600 it")
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise _bad(str(path), f"it is larger than {MAX_FILE_BYTES} bytes")
        return data.decode()
    except UnicodeDecodeError:
        raise _bad(str(path), "it is no text") from None
    except FileNotFoundError:
        if not written_by_others:
            raise
        either = "" if private else ", and it is no key either"
        raise _bad(str(path), f"there is no such file{either}") from None
    except OSError as error:
        raise _bad(str(path), f"cannot be read: {error.strerror}") from None


def _bad(where: str, what: str) -> MgmtError:
    return MgmtError("bad-config", f"{where}: {what}")
