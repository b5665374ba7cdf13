"""How files are named: `GROUP/KEY` (attachments), `task:NUMBER/KIND` (artifacts), `sha256:HEX` (content)."""

from __future__ import annotations

import re
from typing import NamedTuple

KINDS = ("result", "exec-log", "std-log")  # of artifacts, as they are numbered
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_ARTIFACT = re.compile(rf"task:([1-9]\d{{0,17}})/({'|'.join(KINDS)})")


class Reference(NamedTuple):
    """Either group and key, or task and kind, or digest; the others are empty."""

    group: str = ""
    key: str = ""
    task: int = 0
    kind: str = ""
    digest: str = ""


def parse(text: str) -> Reference:
    """ValueError, for people, when it names nothing."""
    digest = _DIGEST.fullmatch(text)
    if digest is not None:
        return Reference(digest=digest[1])
    artifact = _ARTIFACT.fullmatch(text)
    if artifact is not None:
        return Reference(task=int(artifact[1]), kind=artifact[2])
    group, _, key = text.partition("/")
    if not group or not key or ":" in group:
        raise ValueError(
            f"{text!r:.100} names no file: write GROUP/KEY for an attachment, task:NUMBER/KIND for an artifact "
            f"(one of {', '.join(KINDS)}), or sha256:HEX"
        )
    return Reference(group, key)
