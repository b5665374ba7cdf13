"""Who may say what: the role of a key against the audience of a verb. What is not allowed here is refused.

A request without a grant came through a file of this machine, whose mode is the authority: it is an operator's.
"""

from __future__ import annotations

from mgmt.core import effect as fx
from mgmt.core import event as ev
from mgmt.core.event import Asked, Now
from mgmt.core.sessions import Session
from mgmt.core.state import State
from mgmt.protocol import keys
from mgmt.protocol import messages as msg
from mgmt.protocol.errors import MgmtError
from mgmt.protocol.keys import Grant
from mgmt.protocol.messages import Audience

MAY: dict[str, frozenset[Audience]] = {
    keys.OPERATOR: frozenset({Audience.OPERATOR, Audience.CLIENT}),
    keys.CLIENT: frozenset({Audience.CLIENT}),
    keys.BACKEND: frozenset({Audience.BACKEND}),
    keys.AGENT: frozenset({Audience.AGENT}),
}


def permits(grant: Grant, audience: Audience) -> bool:
    return audience in MAY.get(keys.AGENT if grant.node else grant.role, frozenset())


def authorise(asked: Asked) -> None:
    """MgmtError `not-authorised` when the role of the key does not allow the request."""
    grant = asked.route.grant
    if grant is None:
        return
    if grant.role == keys.REVOKED:
        text = f"the key {grant.key} is not allowed here any more; `mgmt keys allow` would allow it again"
        raise MgmtError("not-authorised", text, key=grant.key)
    audience = msg.REQUESTS[asked.verb].audience
    if isinstance(asked.body, msg.LeaseModel) and asked.body.load:
        audience = msg.REQUESTS["load-model"].audience  # a way to say it, and no way around it
    if not permits(grant, audience):
        usual = audience is msg.REQUESTS[asked.verb].audience
        what = asked.verb if usual else "a lease that loads the model"
        text = (
            f"key {grant.name!r} has the role {grant.role}, and {what} is for the role {audience}: use another "
            f"key, or have its role changed (`mgmt keys allow --role {audience} {grant.key}`)"
        )
        raise MgmtError("not-authorised", text, role=grant.role, verb=asked.verb)
    if isinstance(asked.body, msg.AgentHello) and asked.body.node != grant.node:
        text = (
            f"key {grant.name!r} is for node {grant.node!r}, and this agent is {asked.body.node!r}: use "
            f"--name {grant.node}, or a key with the role agent:{asked.body.node}"
        )
        raise MgmtError("not-authorised", text, role=grant.role, node=asked.body.node)


def key_of(grant: Grant | None) -> str:
    """What a session of this grant is bound to."""
    return grant.key if grant is not None else ""


def owns(session: Session, grant: Grant | None) -> bool:
    """Whether a session was opened with this key; identities of connections can be forged, keys cannot."""
    return session.key == key_of(grant)


def on_keys_revoked(state: State, now: Now, event: ev.KeysRevoked, out: list[fx.Effect]) -> None:
    """The keys are gone or have another role: what they opened is closed."""
    for session in list(state.sessions.by_id.values()):
        if session.key in event.keys:
            out.append(fx.Tell(session.peer, session.id, "session-gone", {}))
            state.sessions.end(session, out)
    for name in sorted(event.keys.values()):
        reason = f"key {name!r} was revoked or changed; its sessions are closed"
        state.journal.record(now, "daemon", {"what": "key-revoked", "reason": reason}, out)
