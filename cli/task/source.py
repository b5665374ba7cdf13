"""Tasks out of a file or a stream: JSON lines, a JSON array, YAML; each with the line on which it begins."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import IO, Any, NamedTuple

from mgmt.protocol.errors import MgmtError

from .. import documents

BATCH_TASKS = 1000
BATCH_BYTES = 256 << 10  # of text; what is sent of it is not longer, and a message may have 1 MiB
MAX_LINE_BYTES = 512 << 10


class Entry(NamedTuple):
    """A task as it was read; `line` 0: of no file."""

    line: int
    size_bytes: int
    task: Any


class Batch(NamedTuple):
    """Tasks of one request, in order; `lines` tells where each comes from."""

    number: int
    tasks: list[dict[str, Any]]
    lines: list[int]


def entries(path: str) -> Iterator[Entry]:
    """MgmtError `bad-body` names the line that is not what it should be; those before it have been given."""
    with documents.opened(path) as file:
        if documents.is_yaml(path):
            yield from _yaml(path, documents.text_of(path, file.read(documents.MAX_BYTES + 1)))
            return
        skipped, first = 0, b"\n"
        while first and not first.strip():
            first = file.readline(MAX_LINE_BYTES + 1)
            skipped += 1
        if _begins_array(first):
            text = documents.text_of(path, b"\n" * (skipped - 1) + first + file.read(documents.MAX_BYTES + 1))
            yield from _array(path, text)
        else:
            yield from _lines(path, file, first, skipped)


def batches(path: str, found: Iterator[Entry], defaults: dict[str, Any], repeat: int) -> Iterator[Batch]:
    """Checked tasks, `repeat` of each, with `defaults` for what they do not say.

    The same input has the same batches, which is why their keys recognise them.
    """
    number, size_bytes = 0, 0
    tasks: list[dict[str, Any]] = []
    lines: list[int] = []
    for line, each_bytes, value in found:
        task = _checked(path, line, value, defaults)
        for _ in range(repeat):
            if tasks and (len(tasks) == BATCH_TASKS or size_bytes + each_bytes > BATCH_BYTES):
                yield Batch(number, tasks, lines)
                number, size_bytes, tasks, lines = number + 1, 0, [], []
            tasks.append(task)
            lines.append(line)
            size_bytes += each_bytes
    if tasks:
        yield Batch(number, tasks, lines)


def where(path: str, line: int) -> str:
    """How a place in the input is named."""
    name = "standard input" if path == "-" else path
    return f"{name}:{line}" if line else name


def _checked(path: str, line: int, value: Any, defaults: dict[str, Any]) -> dict[str, Any]:
    from pydantic import ValidationError

    from mgmt.protocol.messages_suites import Task

    task = {"args": value} if isinstance(value, list) else value
    if not isinstance(task, dict):
        text = 'a task is an object such as {"args": ["sort", "f"]}, or just its list of arguments'
        raise MgmtError("bad-body", f"{where(path, line)}: {text}", line=line)
    task = {**defaults, **task}
    try:
        Task.model_validate(task)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        said = first["msg"].removeprefix("Value error, ")
        place = f"{where(path, line)}: " if path else ""
        text = f"{place}{f'field `{field}`: ' if field else ''}{said}"
        raise MgmtError("bad-body", text, line=line) from None
    return task


def _begins_array(first: bytes) -> bool:
    """Whether a file is one JSON array, by its first line: a list of words alone is a task by itself."""
    text = first.strip()
    if not text.startswith(b"["):
        return False
    try:
        value = json.loads(text)
    except ValueError:
        return True
    return not value or not all(isinstance(item, str) for item in value)


def _lines(path: str, file: IO[bytes], first: bytes, number: int) -> Iterator[Entry]:
    line = first
    while line:
        if len(line) > MAX_LINE_BYTES:
            text = f"{where(path, number)}: is longer than {MAX_LINE_BYTES >> 10} KiB"
            raise MgmtError("bad-body", text, line=number)
        if not line.isspace():
            try:
                value = json.loads(line)
            except UnicodeDecodeError:
                raise MgmtError("bad-body", f"{where(path, number)}: is not UTF-8", line=number) from None
            except (ValueError, RecursionError) as error:
                said = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply"
                text = f"{where(path, number)}: not JSON: {said}"
                raise MgmtError("bad-body", text, line=number) from None
            yield Entry(number, len(line), value)
        line = file.readline(MAX_LINE_BYTES + 1)
        number += 1


def _array(path: str, text: str) -> Iterator[Entry]:
    decoder = json.JSONDecoder()
    at, line, counted = text.index("[") + 1, 1, 0
    wanted = "a task"  # or a comma behind one
    while True:
        at = _skip_space(text, at)
        line, counted = line + text.count("\n", counted, at), at
        if text[at : at + 1] == "]":
            rest = _skip_space(text, at + 1)
            if rest == len(text):
                return
            line += text.count("\n", at, rest)
            wanted = "nothing behind the array; for JSON lines leave its brackets out"
        elif wanted == "a comma" and text[at : at + 1] == ",":
            at, wanted = at + 1, "a task"
            continue
        elif wanted == "a task":
            try:
                value, end = decoder.raw_decode(text, at)
            except (ValueError, RecursionError) as error:
                said = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply"
                if isinstance(error, json.JSONDecodeError):
                    line = error.lineno
                raise MgmtError("bad-body", f"{where(path, line)}: not JSON: {said}", line=line) from None
            yield Entry(line, end - at, value)
            at, wanted = end, "a comma"
            continue
        raise MgmtError("bad-body", f"{where(path, line)}: not JSON: expected {wanted}", line=line)


def _skip_space(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


def _yaml(path: str, text: str) -> Iterator[Entry]:
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(text)
    try:
        root = loader.get_single_node()
        if not isinstance(root, yaml.SequenceNode):
            raise MgmtError("bad-body", f"{path}: is not a list of tasks", line=1)
        for node in root.value:
            size = node.end_mark.index - node.start_mark.index
            yield Entry(node.start_mark.line + 1, size, loader.construct_object(node, deep=True))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 0
        said = error.problem or error.context
        raise MgmtError("bad-body", f"{where(path, line)}: not YAML: {said}", line=line) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        text = f"{path}: not YAML: {' '.join(str(error).split())[:300]}"
        raise MgmtError("bad-body", text) from None
    finally:
        loader.dispose()
