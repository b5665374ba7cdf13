"""mgmt_rt.h as seen from Python."""

from typing import Final

MAGIC: Final[str]
VERSION: Final[int]
SEGMENT_BYTES: Final[int]
RELEASES: Final[int]
RECORDS: Final[int]
BUCKETS: Final[int]
LAYOUT: Final[dict[str, int]]
"""Byte offsets in a segment by field, and the sizes `plan_bytes`, `histogram_bytes`, `record_bytes`."""

def refusal(plan: bytes) -> str | None:
    """The first field of a plan that cannot be; None when all can."""

class Task:
    def __init__(self, path: str | None = None) -> None: ...
    def wait_next_period(self) -> int: ...
    def close(self) -> None: ...
