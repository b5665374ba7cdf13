"""Who asks, and whether they may. What is not allowed here is refused.

Who came through a file of this machine, whose mode is the authority, is its administrator; a key or a token says
otherwise. What each of them may say at all is in MAY, by the audience of a verb; what a user needs besides is in
the verb's row.
"""

from __future__ import annotations

from typing import NoReturn

from mgmt.core import effect as fx
from mgmt.core import event as ev
from mgmt.core.event import ADMINISTRATOR, MACHINE, OWNER, Asked, Caller, Now
from mgmt.core.nodes import Node
from mgmt.core.sessions import Session
from mgmt.core.state import State
from mgmt.core.users import Token
from mgmt.protocol import keys
from mgmt.protocol import messages as msg
from mgmt.protocol.errors import MgmtError
from mgmt.protocol.keys import Grant
from mgmt.protocol.messages import Audience, Verb

USER, WORKER = "user", "worker"

MAY: dict[str, frozenset[Audience]] = {
    MACHINE: frozenset(Audience),
    keys.OPERATOR: frozenset(
        {Audience.OPERATOR, Audience.USER, Audience.COURIER, Audience.CLIENT, Audience.ANYBODY}
    ),
    USER: frozenset({Audience.USER, Audience.COURIER, Audience.CLIENT, Audience.ANYBODY}),
    keys.CLIENT: frozenset({Audience.CLIENT, Audience.ANYBODY}),
    WORKER: frozenset({Audience.WORKER, Audience.ANYBODY}),
    keys.BACKEND: frozenset({Audience.BACKEND}),
    keys.AGENT: frozenset({Audience.AGENT, Audience.COURIER}),
}


# ---- who asks --------------------------------------------------------------------------------------------


def authenticate(state: State, now: Now, asked: Asked, session: Session | None) -> Caller:
    """Who asks; `session` is the one this request belongs to, if any.

    MgmtError `not-authorised` for a key or token that is not good any more, or whose user is not.
    """
    grant, body = asked.route.grant, asked.body
    if grant is None and session is not None and not session.token:
        return OWNER  # nearly always
    if grant is not None and grant.role == keys.REVOKED:
        text = f"the key {grant.key} is not allowed here any more; `mgmt keys allow` would allow it again"
        raise MgmtError("not-authorised", text, key=grant.key)
    if isinstance(body, msg.Hello | msg.AgentHello):
        token = state.users.tokens.present(now, body.token) if body.token is not None else None
    elif session is not None and session.token:
        token = state.users.tokens.by_id.get(session.token)
        if token is None:
            raise MgmtError("not-authorised", f"the token {session.token!r} of this session was revoked")
        state.users.tokens.prove(now, token)
    else:
        token = None
    if token is not None:
        caller = _of_token(state, asked, token)
        if grant is not None and grant.user not in ("", caller.user):
            text = f"key {grant.name!r} speaks for user {grant.user!r}, and the token for {caller.user!r}"
            raise MgmtError("not-authorised", text)
        fixed = grant is not None and (grant.role == keys.BACKEND or (grant.node and not caller.node))
        if not fixed:
            return caller  # else it opens no session, whoever shows a token with it
    return OWNER if grant is None else _of_key(state, grant)


def _of_key(state: State, grant: Grant) -> Caller:
    via = f"key {grant.name!r}"
    if grant.user:
        admin = state.users.prove(grant.user).admin
        return Caller(keys.OPERATOR if admin else USER, grant.user, via)
    if grant.role == keys.OPERATOR:
        return Caller(keys.OPERATOR, ADMINISTRATOR, via)
    return Caller(keys.AGENT if grant.node else grant.role, "", via, grant.node)


def _of_token(state: State, asked: Asked, token: Token) -> Caller:
    admin = state.users.prove(token.user).admin
    via = f"token {token.name!r}"
    if token.scope == "node":
        if not isinstance(asked.body, msg.AgentHello) or asked.body.worker is not None:
            text = f"token {token.id!r} is for the agent of node {token.node!r} alone (`mgmt agent --token-file`)"
            raise MgmtError("not-authorised", text, token=token.name)
        return Caller(keys.AGENT, token.user, via, token.node, token.id)
    if isinstance(asked.body, msg.AgentHello) and asked.body.worker is not None and token.scope == "worker":
        return Caller(keys.AGENT, token.user, via, token=token.id)
    if isinstance(asked.body, msg.AgentHello):
        text = (
            f"token {token.id!r} is no agent's: `mgmt user token new NAME --node {asked.body.node}` makes one"
        )
        raise MgmtError("not-authorised", text, token=token.name)
    if token.scope == "worker":
        return Caller(WORKER, token.user, via, token=token.id)
    return Caller(keys.OPERATOR if admin else USER, token.user, via, token=token.id)


def lives(state: State, now: Now, session: Session) -> bool:
    """Whether the token and the user that a session speaks for are still good."""
    try:
        if session.user:
            state.users.prove(session.user)
        if session.token:
            state.users.tokens.prove(now, state.users.tokens.by_id[session.token])
    except (MgmtError, KeyError):
        return False
    return True


# ---- whether they may ------------------------------------------------------------------------------------


def permits(role: str, audience: Audience) -> bool:
    return audience in MAY.get(role, frozenset())


def authorise(state: State, asked: Asked) -> None:
    """MgmtError `not-authorised` when the key or token does not allow it, `denied` when the user may not."""
    if asked.by is OWNER:
        return
    by, row, what = asked.by, msg.REQUESTS[asked.verb], asked.verb
    if isinstance(asked.body, msg.LeaseModel) and asked.body.load:
        # A way to say it, and no way around it.
        row, what = msg.REQUESTS["load-model"], "a lease that loads the model"
    if not permits(by.role, row.audience):
        _refuse(asked, row, what)
    if isinstance(asked.body, msg.AgentHello):
        _speaks_for(asked, asked.body.node)
    elif by.role in (USER, WORKER):
        _meet(state, asked, row)


def _refuse(asked: Asked, row: Verb, what: str) -> NoReturn:
    by, grant, audience = asked.by, asked.route.grant, row.audience
    if by.role == USER:
        text = (
            f"user {by.user!r} may not: {what} is for administrators, who are made with `mgmt user create NAME "
            "--admin`; the owner of the daemon's socket is one"
        )
        raise MgmtError("denied", text, user=by.user, verb=asked.verb)
    if by.role == WORKER or grant is None:
        text = f"{by.via} of user {by.user!r} is a {by.role}'s, and {what} is for the role {audience}"
        raise MgmtError("not-authorised", text, verb=asked.verb)
    needed = {Audience.USER: "user:NAME", Audience.AGENT: "agent:NODE", Audience.COURIER: "user:NAME"}.get(
        audience, str(audience)
    )
    text = (
        f"{by.via} has the role {grant.role}, and {what} is for the role {audience}: use another "
        f"key, or have its role changed (`mgmt keys allow --role {needed} {grant.key}`)"
    )
    raise MgmtError("not-authorised", text, role=grant.role, verb=asked.verb)


def _speaks_for(asked: Asked, node: str) -> None:
    """The key and the token of an agent each name the one node that it may be."""
    grant, by = asked.route.grant, asked.by
    if by.node in ("", node) and (grant is None or grant.node in ("", node)):
        return
    own = by.node if by.node != node or grant is None else grant.node
    text = f"{by.via} is for node {own!r}, and this agent is {node!r}: use --name {own}, or "
    text += f"a key with the role agent:{node}" if grant is not None else "a token of that node"
    raise MgmtError("not-authorised", text, role=grant.role if grant is not None else by.role, node=node)


def _meet(state: State, asked: Asked, row: Verb) -> None:
    """What the row says that a user needs; of objects that no field names, the handler asks."""
    by, need = asked.by, row.need
    if need is None:
        text = f"nothing lets anybody but administrators say {asked.verb}"
        raise MgmtError("denied", text, user=by.user, verb=asked.verb)
    if not need.field:
        return
    told = getattr(asked.body, need.field)
    names: list[str] = told if isinstance(told, list) else [told] if told is not None else []
    for name in names:
        if need.object == "user" and name != by.user:
            text = (
                f"user {by.user!r} may not: {asked.verb} of {name!r:.80} is for that user and administrators"
            )
            raise MgmtError("denied", text, user=by.user, verb=asked.verb)
        elif need.object in ("group", "node", "worker"):
            state.users.require(asked, **{need.object: name}, role=need.role)


# ---- sessions --------------------------------------------------------------------------------------------


def key_of(grant: Grant | None) -> str:
    """What a session of this grant is bound to."""
    return grant.key if grant is not None else ""


def owns(session: Session, grant: Grant | None) -> bool:
    """Whether a session was opened with this key; identities of connections can be forged, keys cannot."""
    return session.key == key_of(grant)


def shut_out(
    state: State, now: Now, sessions: list[Session], nodes: list[Node], reason: str, out: list[fx.Effect]
) -> None:
    """Who opened these is out at once. What agents and workers among them run is ended, to be done by others."""
    close(state, sessions, out)
    for node in nodes:
        state.board.abort(now, node.name, reason, out)
        state.roster.shut_out(node, reason, out)


def close(state: State, sessions: list[Session], out: list[fx.Effect]) -> None:
    for session in sessions:
        out.append(fx.Tell(session.peer, session.id, "session-gone", {}))
        state.sessions.end(session, out)


def on_keys_revoked(state: State, now: Now, event: ev.KeysRevoked, out: list[fx.Effect]) -> None:
    """The keys are gone or have another role: what they opened is closed."""
    theirs = [session for session in state.sessions.by_id.values() if session.key in event.keys]
    known = state.roster.nodes
    nodes = [known[name] for name in sorted(event.nodes) if name in known]
    shut_out(state, now, theirs, nodes, "its key was revoked or changed", out)
    for name in sorted(event.keys.values()):
        reason = f"key {name!r} was revoked or changed; its sessions are closed"
        state.journal.record(now, "daemon", {"what": "key-revoked", "reason": reason}, out)
