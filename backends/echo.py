"""Answers each request with its own frames, unread; the smallest backend there is, and the start-up benchmark.

python -m mgmt_backends.echo
"""

from __future__ import annotations

import sys

from mgmt.serve import serve


def echo(payload: list[bytes]) -> list[bytes]:
    return payload


if __name__ == "__main__":
    sys.exit(serve(echo, concurrency=0))
