"""The ancestor's line scanner for node files: not YAML, and read exactly as it reads.

Only `compat` uses it; everything else reads node files with a real parser.
"""

from __future__ import annotations

from .compat import DEFAULT_MEMORY_MB, CompatError, Node, leading_integer

_BLANK = " \t"


def scan_nodes(text: str) -> list[Node]:
    """The nodes of a file, in file order; none: the ancestor's one default node is the caller's to add.

    Ranges, units, block lists, comments behind values, tabs as indentation and CRLF are not understood, and
    a later node of the same id replaces the earlier. Raises CompatError, naming the line, where the
    ancestor would end: a memory size that does not start with a number or passes 32 bits.
    """
    nodes: dict[str, Node] = {}
    current: str | None = None
    in_section = False
    for number, line in enumerate(text.split("\n"), 1):
        stripped = line.strip(_BLANK)
        if not stripped or stripped.startswith("#"):
            continue
        if stripped == "nodes:":
            in_section = True
            continue
        indent = len(line) - len(line.lstrip(" "))
        name, colon, value = stripped.partition(":")
        if not in_section or not colon or indent < 2:
            continue
        if indent < 4:
            current = name
            nodes[name] = Node(name)
        elif current is not None:
            nodes[current] = _with_property(nodes[current], name.strip(_BLANK), value.strip(_BLANK), number)
    return list(nodes.values())


def _with_property(node: Node, key: str, value: str, line: int) -> Node:
    if len(value) >= 2 and value[0] == value[-1] and value[0] in "\"'":
        value = value[1:-1]
    if key == "available_cpus":
        return node._replace(available_cpus=_cpu_list(value))
    if key == "max_memory_mb":
        memory_mb = leading_integer(value)
        if memory_mb is None:
            raise CompatError(
                f"line {line}: max_memory_mb of node '{node.name}' is {value!r}, which does not start with a "
                f"number of 32 bits; write whole megabytes, for example {DEFAULT_MEMORY_MB}"
            )
        return node._replace(max_memory_mb=memory_mb)
    return node


def _cpu_list(value: str) -> tuple[int, ...]:
    if value.startswith("[") and value.endswith("]"):
        value = value[1:-1]
    numbers = (leading_integer(item.strip(_BLANK)) for item in value.split(","))
    return tuple(n for n in numbers if n is not None)
