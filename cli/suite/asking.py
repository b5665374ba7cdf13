"""Requests about suites: a name that nobody knows is answered with the nearest ones there are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mgmt.protocol.errors import MgmtError

if TYPE_CHECKING:
    from mgmt.client import Client

MOST = 1000  # suites among whose names the nearest is looked for


@contextmanager
def nearest(client: Client) -> Iterator[None]:
    """An `unknown-suite` of the block names those that may have been meant."""
    try:
        yield
    except MgmtError as error:
        key = error.detail.get("suite")
        if error.code != "unknown-suite" or not isinstance(key, str):
            raise
        from difflib import get_close_matches  # only here: each call of mgmt would pay for it

        try:
            names = {suite["name"] for suite in client.request("suites", {"limit": MOST})["suites"]}
        except MgmtError:
            raise error from None
        near = get_close_matches(key, names - {""}, n=2)
        hint = f". Did you mean {' or '.join(near)}?" if near else ""
        raise MgmtError(error.code, error.text + hint, **error.detail) from None
