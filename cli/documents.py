"""A file for people, in JSON or YAML, and what is read on standard input."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

from mgmt.protocol.errors import MgmtError

MAX_BYTES = 256 << 20  # of a file that has to be read as a whole


@contextmanager
def opened(path: str) -> Iterator[IO[bytes]]:
    """The file; `-` is standard input. MgmtError `bad-body` when it cannot be read."""
    if path == "-":
        yield sys.stdin.buffer
        return
    try:
        with open(path, "rb") as file:
            yield file
    except OSError as error:
        raise MgmtError("bad-body", f"{path}: {error.strerror}") from None


def text_of(path: str, data: bytes) -> str:
    """MgmtError `bad-body` when it is too large or no UTF-8."""
    if len(data) > MAX_BYTES:
        raise MgmtError("bad-body", f"{path}: is larger than {MAX_BYTES >> 20} MiB; use JSON lines")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise MgmtError("bad-body", f"{path}: is not UTF-8: byte {error.start}") from None


def is_yaml(path: str) -> bool:
    return path.endswith((".yaml", ".yml"))


def read(path: str) -> Any:
    """The one value in a file; MgmtError `bad-body` names the line where it is not JSON or YAML."""
    with opened(path) as file:
        text = text_of(path, file.read(MAX_BYTES + 1))
    if is_yaml(path):
        return yaml_of(path, text)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise MgmtError("bad-body", f"{path}:{error.lineno}: not JSON: {error.msg}") from None
    except RecursionError:
        raise MgmtError("bad-body", f"{path}: is nested too deeply") from None


def yaml_of(path: str, text: str) -> Any:
    """The one document in the text."""
    import yaml

    try:
        return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f":{mark.line + 1}" if mark else ""
        raise MgmtError("bad-body", f"{path}{where}: not YAML: {error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise MgmtError("bad-body", f"{path}: not YAML: {' '.join(str(error).split())[:300]}") from None
