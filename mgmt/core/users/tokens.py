"""Tokens by which sessions speak as users: known by their digests, good for a time and a scope."""

from __future__ import annotations

from mgmt.core.event import Now
from mgmt.protocol import defaults, tokens
from mgmt.protocol.errors import MgmtError

from .records import Record, Token, token_from


class Tokens:
    """By id (USER/NAME) and by digest; `dirty` has the ids that the store does not have yet."""

    def __init__(self) -> None:
        self.by_id: dict[str, Token] = {}
        self.dirty: set[str] = set()
        self._by_digest: dict[str, Token] = {}

    def restore(self, records: dict[str, Record]) -> None:
        for record in records.values():
            self._put(token_from(record))

    def of(self, user: str) -> list[Token]:
        return sorted((t for t in self.by_id.values() if t.user == user), key=lambda token: token.name)

    def add(self, now: Now, token: Token) -> None:
        """Let it in; MgmtError `conflict` when name or secret are known, `over-quota` beyond the limit."""
        known = self.by_id.get(token.id)
        if known is not None and not is_expired(now, known):
            text = (
                f"user {token.user!r} has a token {token.name!r}: choose another name, or revoke it first "
                f"(`mgmt user token revoke {token.name} --user {token.user}`)"
            )
            raise MgmtError("conflict", text)
        other = self._by_digest.get(token.digest)
        if other is not None and other is not known:
            raise MgmtError("conflict", "this secret is another token's: draw a new one")
        mine = self.of(token.user)
        if len(mine) >= defaults.MAX_USER_TOKENS:
            for old in mine:
                if is_expired(now, old):
                    self.remove(old)
        if len(self.of(token.user)) >= defaults.MAX_USER_TOKENS:
            text = (
                f"user {token.user!r} has {defaults.MAX_USER_TOKENS} tokens, which is the limit: revoke some "
                f"(`mgmt user token list --user {token.user}`)"
            )
            raise MgmtError("over-quota", text)
        if known is not None:
            self.remove(known)
        self._put(token)
        self.dirty.add(token.id)

    def get(self, user: str, name: str) -> Token:
        """MgmtError `unknown-token`."""
        token = self.by_id.get(f"{user}/{name}")
        if token is None:
            known = ", ".join(token.name for token in self.of(user)) or "none"
            text = f"user {user!r} has no token {name!r:.80}; there are: {known}"
            raise MgmtError("unknown-token", text, user=user)
        return token

    def remove(self, token: Token) -> None:
        del self.by_id[token.id], self._by_digest[token.digest]
        self.dirty.add(token.id)

    def present(self, now: Now, text: str) -> Token:
        """The token of this text, used now; MgmtError `not-authorised`, which never repeats the text."""
        token = self._by_digest.get(tokens.digest(text))
        if token is None:
            why = (
                "the token is not let in here: it was revoked, or it is another daemon's. `mgmt user token new` "
                "makes one; --token-file, MGMT_TOKEN and MGMT_TOKEN_FILE name the one in use"
            )
            raise MgmtError("not-authorised", why)
        self.prove(now, token)
        # Not with each hello: what is written down is what is known.
        if token.used_at is None or abs(now.real_s - token.used_at) >= defaults.TOKEN_USE_S:
            token.used_at = now.real_s
            self.dirty.add(token.id)
        return token

    def prove(self, now: Now, token: Token) -> None:
        """MgmtError `not-authorised` when its time is over."""
        if is_expired(now, token):
            ago_s = now.real_s - token.expires_at
            text = (
                f"token {token.name!r} of user {token.user!r} expired {ago_s:.0f} s ago; make another with "
                "`mgmt user token new`"
            )
            raise MgmtError("not-authorised", text, user=token.user, token=token.name)

    def _put(self, token: Token) -> None:
        self.by_id[token.id] = self._by_digest[token.digest] = token


def is_expired(now: Now, token: Token) -> bool:
    return now.real_s >= token.expires_at
