"""What is asked of users, groups, tokens and quotas.

Who may ask it was found out before, by the verb's row; what a row cannot say is asked here.
"""

from __future__ import annotations

from typing import Any

from mgmt.core import access
from mgmt.core import effect as fx
from mgmt.core.event import Asked, Now
from mgmt.core.nodes import Node, NodeState
from mgmt.core.sessions import Session
from mgmt.core.state import State
from mgmt.core.supervision import LOCAL
from mgmt.core.users import Group, Token, User, UserState
from mgmt.core.users.tokens import is_expired
from mgmt.core.verbs import Body, handles
from mgmt.protocol import frames
from mgmt.protocol import messages_users as ask
from mgmt.protocol.errors import MgmtError
from mgmt.protocol.messages import Role

# ---- users -----------------------------------------------------------------------------------------------


@handles("whoami")
def _whoami(state: State, now: Now, asked: Asked, body: ask.WhoAmI, out: list[fx.Effect]) -> Body:
    by = asked.by
    return {
        "user": by.user or None,
        "admin": by.is_administrator,
        "via": by.via,
        "groups": _memberships(state, by.user),
    }


@handles("user-create")
def _user_create(state: State, now: Now, asked: Asked, body: ask.UserCreate, out: list[fx.Effect]) -> Body:
    user = state.users.create(now, body.user, body.admin)
    _note(asked, f"user {user.name!r} is made{', an administrator' if user.admin else ''}", out)
    return _user_body(state, user)


@handles("users")
def _users(state: State, now: Now, asked: Asked, body: ask.Users, out: list[fx.Effect]) -> Body:
    if body.users:
        chosen = [state.users.user(name) for name in body.users]
    else:
        users = sorted(state.users.users.values(), key=lambda user: user.name)
        chosen = [user for user in users if asked.by.is_administrator or user.name == asked.by.user]
    return {"users": [_user_body(state, user) for user in chosen]}


@handles("user-lock")
def _user_lock(state: State, now: Now, asked: Asked, body: ask.UserLock, out: list[fx.Effect]) -> Body:
    _spare_oneself(asked, body.user)
    user = state.users.lock(body.user, body.locked)
    if body.locked:
        _shut_out(state, now, asked, user, "locked", out)
    else:
        _note(asked, f"user {user.name!r} is let in again", out)
    return _user_body(state, user)


@handles("user-delete")
def _user_delete(state: State, now: Now, asked: Asked, body: ask.UserDelete, out: list[fx.Effect]) -> Body:
    _spare_oneself(asked, body.user)
    user = state.users.delete(body.user)
    _shut_out(state, now, asked, user, "deleted", out)
    return _user_body(state, user)


def _spare_oneself(asked: Asked, name: str) -> None:
    if name == asked.by.user:
        raise MgmtError("conflict", f"you are {name!r}: another administrator may lock or delete you")


def _shut_out(state: State, now: Now, asked: Asked, user: User, how: str, out: list[fx.Effect]) -> None:
    theirs = [session for session in state.sessions.by_id.values() if session.user == user.name]
    nodes = [node for node in state.roster.nodes.values() if node.user == user.name]
    reason = f"user {user.name!r} was {how} by {asked.by.user}; {_closed(theirs, nodes)}"
    access.shut_out(state, now, theirs, nodes, f"user {user.name!r}, who brought it, was {how}", out)
    state.journal.record(now, "daemon", {"what": f"user-{how}", "reason": reason}, out)
    out.append(fx.Note("INFO", reason, {}))


def _closed(sessions: list[Session], nodes: list[Node]) -> str:
    there = [node.name for node in nodes if node.peer or node.state is not NodeState.LOST]
    agents = f", and those of {', '.join(sorted(there))}" if there else ""
    return f"{len(sessions)} sessions are closed{agents}"


# ---- tokens ----------------------------------------------------------------------------------------------


@handles("token-new")
def _token_new(state: State, now: Now, asked: Asked, body: ask.TokenNew, out: list[fx.Effect]) -> Body:
    user = state.users.user(body.user or asked.by.user)
    if (body.scope == "node") is not (body.node is not None):
        raise MgmtError("bad-body", "a token of the scope node names its node, and no other does")
    if body.node is not None and state.users.managers("node", body.node):
        state.users.require(asked, node=body.node, role=Role.ADMIN)
    expires_at = now.real_s + body.lifetime_s
    token = Token(
        user.name,
        body.name,
        body.digest,
        body.scope,
        body.node or "",
        now.real_s,
        expires_at,
        lifetime_s=body.lifetime_s,
    )
    state.users.tokens.add(now, token)
    _note(asked, f"token {token.id!r} (scope {token.scope}) is let in", out)
    return _token_body(now, token)


@handles("tokens")
def _tokens(state: State, now: Now, asked: Asked, body: ask.Tokens, out: list[fx.Effect]) -> Body:
    user = state.users.user(body.user or asked.by.user)
    return {"tokens": [_token_body(now, token) for token in state.users.tokens.of(user.name)]}


@handles("token-revoke")
def _token_revoke(state: State, now: Now, asked: Asked, body: ask.TokenRevoke, out: list[fx.Effect]) -> Body:
    user = state.users.user(body.user or asked.by.user)
    token = state.users.tokens.get(user.name, body.name)
    state.users.tokens.remove(token)
    theirs = [session for session in state.sessions.by_id.values() if session.token == token.id]
    nodes = [node for node in state.roster.nodes.values() if node.token == token.id]
    # First: it may be the token of whoever asks.
    state.sessions.answer(asked.route, frames.Outcome.OK, _token_body(now, token), out)
    reason = f"token {token.id!r} was revoked by {asked.by.user}; {_closed(theirs, nodes)}"
    access.shut_out(state, now, theirs, nodes, f"its token {token.id!r} was revoked", out)
    state.journal.record(now, "daemon", {"what": "token-revoked", "reason": reason}, out)
    out.append(fx.Note("INFO", reason, {}))
    return None


# ---- groups ----------------------------------------------------------------------------------------------


@handles("group-create")
def _group_create(state: State, now: Now, asked: Asked, body: ask.GroupCreate, out: list[fx.Effect]) -> Body:
    group = state.users.create_group(now, asked, body.group)
    _note(asked, f"group {group.name!r} is made", out)
    return _group_body(state, group)


@handles("groups")
def _groups(state: State, now: Now, asked: Asked, body: ask.Groups, out: list[fx.Effect]) -> Body:
    if body.groups:
        chosen = [state.users.group(name) for name in body.groups]
    else:
        chosen = _visible(state, asked)
    return {"groups": [_group_body(state, group) for group in chosen]}


@handles("group-delete")
def _group_delete(state: State, now: Now, asked: Asked, body: ask.GroupDelete, out: list[fx.Effect]) -> Body:
    group = state.users.delete_group(body.group)
    _note(asked, f"group {group.name!r} is deleted", out)
    return _group_body(state, group)


@handles("group-add")
def _group_add(state: State, now: Now, asked: Asked, body: ask.GroupAdd, out: list[fx.Effect]) -> Body:
    return _set_member(state, asked, body.group, body.user, _role(body.role), out, new=True)


@handles("group-remove")
def _group_remove(state: State, now: Now, asked: Asked, body: ask.GroupRemove, out: list[fx.Effect]) -> Body:
    return _set_member(state, asked, body.group, body.user, None, out)


@handles("group-role")
def _group_role(state: State, now: Now, asked: Asked, body: ask.GroupRole, out: list[fx.Effect]) -> Body:
    return _set_member(state, asked, body.group, body.user, _role(body.role), out)


def _set_member(
    state: State,
    asked: Asked,
    group: str,
    user: str,
    role: Role | None,
    out: list[fx.Effect],
    *,
    new: bool = False,
) -> Body:
    found = state.users.set_member(group, user, role, new=new)
    _note(asked, f"user {user!r} has the role {role if role is not None else 'none'} in group {group!r}", out)
    return _group_body(state, found)


@handles("group-grant")
def _group_grant(state: State, now: Now, asked: Asked, body: ask.GroupGrant, out: list[fx.Effect]) -> Body:
    if (body.node is None) is (body.worker is None):
        raise MgmtError("bad-body", "name either a node or a worker")
    state.users.require(asked, node=body.node, worker=body.worker, role=Role.ADMIN)
    role = None if body.role is None else _role(body.role)
    if role is not None:
        state.users.require(asked, group=body.group, role=Role.WRITE)
        if body.node not in (None, LOCAL):
            state.roster.get(body.node)
    kind, name = ("node", body.node) if body.node is not None else ("worker", body.worker)
    assert name is not None
    group = state.users.grant(body.group, kind, name, role)
    state.board.look_again(now, out)
    what = role if role is not None else "none"
    _note(asked, f"group {group.name!r} has the role {what} on {kind} {name!r}", out)
    return _group_body(state, group)


# ---- quotas ----------------------------------------------------------------------------------------------


@handles("quotas")
def _quotas(state: State, now: Now, asked: Asked, body: ask.Quotas, out: list[fx.Effect]) -> Body:
    if body.name is not None:
        state.users.require(asked, group=body.name, role=Role.READ)
        return _quotas_body(state, asked, [state.users.group(body.name)])
    return _quotas_body(state, asked, _visible(state, asked))


@handles("quota-set")
def _quota_set(state: State, now: Now, asked: Asked, body: ask.QuotaSet, out: list[fx.Effect]) -> Body:
    if body.groups is None and body.storage_bytes is None:
        raise MgmtError("bad-body", "name what is to be changed: groups, storage_bytes or both")
    user = None if body.groups is None else state.users.user(body.name)
    group = state.users.group(body.name)
    if user is not None and body.groups is not None:
        user.group_quota = body.groups
        state.users.touch(user)
    if body.storage_bytes is not None:
        group.storage_quota_bytes = body.storage_bytes
        state.users.touch(group)
    _note(asked, f"quotas of {body.name!r}: {body.groups} groups, {body.storage_bytes} bytes", out)
    return _quotas_body(state, asked, [group])


def _quotas_body(state: State, asked: Asked, groups: list[Group]) -> dict[str, Any]:
    users = [state.users.users[group.name] for group in groups if group.name in state.users.users]
    return {
        "users": [
            {
                "user": user.name,
                "group_quota": user.group_quota,
                "groups": state.users.created_by(user.name),
            }
            for user in users
            if asked.by.is_administrator or user.name == asked.by.user
        ],
        "groups": [
            {
                "group": group.name,
                "storage_quota_bytes": group.storage_quota_bytes,
                "storage_used_bytes": group.storage_used_bytes,
            }
            for group in groups
        ],
    }


# ---- bodies ----------------------------------------------------------------------------------------------


def _visible(state: State, asked: Asked) -> list[Group]:
    """The groups that whoever asks may read, in order of their names."""
    groups = sorted(state.users.groups.values(), key=lambda group: group.name)
    if asked.by.is_administrator:
        return [group for group in groups if not group.deleted]
    return [group for group in groups if state.users.role_in(asked.by.user, group.name) is not None]


def _memberships(state: State, user: str) -> list[dict[str, Any]]:
    groups = sorted(state.users.groups_of(user), key=lambda group: group.name)
    return [{"group": group.name, "role": str(group.members[user])} for group in groups]


def _user_body(state: State, user: User) -> dict[str, Any]:
    """A UserStatus."""
    return {
        "user": user.name,
        "admin": user.admin,
        "state": str(user.state),
        "created_at": user.created_at,
        "group_quota": user.group_quota,
        "groups": _memberships(state, user.name) if user.state is not UserState.DELETED else [],
    }


def _token_body(now: Now, token: Token) -> dict[str, Any]:
    """A TokenStatus."""
    return {
        "user": token.user,
        "name": token.name,
        "scope": token.scope,
        "node": token.node or None,
        "created_at": token.created_at,
        "expires_at": token.expires_at,
        "used_at": token.used_at,
        "expired": is_expired(now, token),
    }


def _group_body(state: State, group: Group) -> dict[str, Any]:
    """A GroupStatus."""

    def granted(kind: str) -> list[dict[str, Any]]:
        return [{"name": name, "role": str(role)} for name, role in sorted(group.grants[kind].items())]

    return {
        "group": group.name,
        "state": "deleted" if group.deleted else "active",
        "creator": group.creator,
        "created_at": group.created_at,
        "members": [{"user": user, "role": str(role)} for user, role in sorted(group.members.items())],
        "nodes": granted("node"),
        "workers": granted("worker"),
        "storage_quota_bytes": group.storage_quota_bytes,
        "storage_used_bytes": group.storage_used_bytes,
        "tasks": state.board.tasks_of(group.name),
    }


def _role(name: str) -> Role:
    return Role[name.upper()]


def _note(asked: Asked, text: str, out: list[fx.Effect]) -> None:
    """The daemon's log says who changed what."""
    out.append(fx.Note("INFO", f"{text}, said by {asked.by.user}", {}))
