"""Documents out of a YAML or JSON file, and the line of each value for what is said about it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

from mgmt.protocol import defaults
from mgmt.protocol.errors import MgmtError

if TYPE_CHECKING:
    import yaml

_OURS = "refused"
_STEP = re.compile(r"([A-Za-z0-9_-]+)|\[([0-9]+)\]|\['([^']*)'\]")


@dataclass
class Source:
    """A file and the documents in it."""

    path: str
    text: str
    documents: list[Any] = field(default_factory=list)

    def line_of(self, document: int, steps: list[str]) -> int | None:
        """The line, from 1, of the value that the steps lead to, or of the last one there is on the way."""
        import yaml

        try:
            roots = list(yaml.compose_all(self.text, Loader=_fast_loader()))
        except (yaml.YAMLError, RecursionError):
            return None
        node = roots[document] if document < len(roots) else None
        if node is None:
            return None
        line: int = node.start_mark.line + 1
        for step in steps:
            found = _child(node, step)
            if found is None:
                break
            node, line = found
        return line


def _child(node: yaml.Node, step: str) -> tuple[yaml.Node, int] | None:
    """The value below `node` and the line where it is given: that of its key."""
    import yaml

    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == step:
                return value, key.start_mark.line + 1
    if isinstance(node, yaml.SequenceNode) and step.isdigit() and int(step) < len(node.value):
        child = node.value[int(step)]
        return child, child.start_mark.line + 1
    return None


def _refused(mark: Any, problem: str) -> yaml.MarkedYAMLError:
    """An error that is no matter of syntax; told apart by its context."""
    import yaml

    return yaml.MarkedYAMLError(context=_OURS, problem=problem, problem_mark=mark)


def _fast_loader() -> type[Any]:
    import yaml

    return getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read(path: str) -> Source:
    """MgmtError `bad-workload` when it cannot be read, or is neither YAML nor JSON."""
    text = read_text(path, limit=defaults.MAX_WORKLOAD_BYTES)
    source = Source(path, text)
    source.documents = _json(source) if path.endswith(".json") else _yaml(source)
    return source


def read_text(path: str, code: str = "bad-workload", limit: int = defaults.MAX_WORKLOAD_BYTES) -> str:
    """The file; `-` is standard input. MgmtError `code` when it is no text of at most `limit` bytes."""
    try:
        with open(0 if path == "-" else path, "rb", closefd=path != "-") as opened:
            data = opened.read(limit + 1)
    except OSError as error:
        raise MgmtError(code, f"{path}: {error.strerror}") from None
    if len(data) > limit:
        raise MgmtError(code, f"{path}: is larger than {limit} bytes; the right file?")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise MgmtError(code, f"{path}: is not UTF-8: byte {error.start} is {data[error.start]:#x}") from None


def _json(source: Source) -> list[Any]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value: dict[str, Any] = {}
        for key, item in pairs:
            if key in value:
                raise ValueError(f"the key {key!r} is given twice")
            value[key] = item
        return value

    try:
        return [json.loads(source.text, object_pairs_hook=once)]
    except (ValueError, RecursionError) as error:
        raise MgmtError("bad-workload", f"{source.path}: not JSON: {error}") from None


def _yaml(source: Source) -> list[Any]:
    import yaml

    class Once(_fast_loader()):  # type: ignore[misc]  # the base is chosen at run time
        """A key that is given twice would silently lose one of its values."""

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            seen = set()
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode):
                    if key.value in seen:
                        raise _refused(key.start_mark, f"the key {key.value!r} is given twice")
                    seen.add(key.value)
            return super().construct_mapping(node, deep)  # type: ignore[no-any-return]  # untyped base

    def fail(said: str) -> NoReturn:
        raise MgmtError("bad-workload", f"{source.path}{said}") from None

    try:
        _check_shape(source.text)
        return list(yaml.load_all(source.text, Loader=Once))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f":{mark.line + 1}" if mark else ""
        said = " ".join(str(error.problem or error.context).split())
        fail(f"{where}: {said}" if error.context == _OURS else f"{where}: not YAML: {said}")
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        fail(f": not YAML: {' '.join(str(error).split())[:300]}")


def _check_shape(text: str) -> None:
    """Refuse what grows when it is composed: one anchor used ten times in ten levels would be ten thousand
    million values, and the C composer ends the process on a nesting of some ten thousand."""
    import yaml

    depth = 0
    for event in yaml.parse(text, Loader=_fast_loader()):
        if isinstance(event, yaml.AliasEvent):
            raise _refused(event.start_mark, "anchors and aliases are not taken here; write the value out")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > defaults.MAX_DEPTH:
                raise _refused(event.start_mark, f"is nested deeper than {defaults.MAX_DEPTH} levels")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def located(error: MgmtError, documents: Source, nodes: Source | None = None) -> MgmtError:
    """A `bad-workload` with file and line before each problem instead of the path in the parsed values."""
    problems = error.detail.get("problems")
    if error.code != "bad-workload" or not isinstance(problems, list):
        return error
    told, lines = [], []
    for item in problems:
        root, *steps = [a or b or c for a, b, c in _STEP.findall(item["path"])] or [""]
        source = nodes if root == "nodes" and nodes is not None else documents
        line = source.line_of(int(steps[0]), steps[1:]) if steps and steps[0].isdigit() else None
        told.append({**item, "file": source.path, "line": line})
        lines.append(f"{source.path}{f':{line}' if line else ''}: {item['problem']}")
    more = error.detail.get("more", 0)
    if more:
        lines.append(f"and {more} more")
    return MgmtError("bad-workload", "\n".join(lines), problems=told, more=more)
