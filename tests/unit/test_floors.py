"""Floors that import-linter cannot express: builtins the pure core must not call, and who may name what.

The layers and the forbidden modules are contracts in pyproject.toml, checked by `make check`.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# A core that opens a file or imports by name at run time would pass every import contract.
IMPURE_CALLS = {"open", "input", "print", "exec", "eval", "compile", "__import__", "breakpoint"}
IMPURE_MODULES = {
    "asyncio", "concurrent", "ctypes", "fcntl", "importlib", "io", "multiprocessing", "os", "psutil",
    "random", "secrets", "select", "selectors", "shutil", "signal", "socket", "sqlite3",
    "subprocess", "tempfile", "threading", "time", "uuid", "uvloop", "zmq",
}  # fmt: skip

CONTRACT = {"mgmt", "mgmt.protocol", "mgmt.client", "mgmt.serve"}
# folder -> what it may import at its top, and what more inside a function
MAY_NAME: dict[str, tuple[set[str], set[str]]] = {
    # The store is looked at and recovered when there is no daemon to ask, because it would not start; a schedule
    # is planned without one by the same pure functions. An adapter is a program that a command becomes.
    "cli": (
        CONTRACT,
        {"mgmt.config", "mgmt.store", "mgmt.core.schedule", "mgmt.core.candidates", "mgmt.adapters"},
    ),
    "backends": (CONTRACT, set()),
}


def for_types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def imports(tree: ast.AST) -> Iterator[tuple[str, bool, int]]:
    """(absolute module, whether it is not imported with its file, line) of every import; `from m import n` is
    m, and m.n when m is the bare package."""
    lazy = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or for_types_only(node)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module is not None:
            bare = node.module == "mgmt"
            names = [
                f"mgmt.{a.name}" if bare and a.name != "__version__" else node.module for a in node.names
            ]
        else:
            continue
        for name in names:
            yield name, id(node) in lazy, node.lineno


def impurities(source: str) -> list[str]:
    tree = ast.parse(source)
    found = [f"{line}: import {n}" for n, _, line in imports(tree) if n.split(".")[0] in IMPURE_MODULES]
    found += [
        f"{node.lineno}: {node.func.id}()"
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in IMPURE_CALLS
    ]
    return found


def trespasses(source: str, at_top: set[str], inside: set[str]) -> list[str]:
    def among(name: str, allowed: set[str]) -> bool:
        return name in allowed or any(name.startswith(f"{a}.") for a in allowed - {"mgmt"})

    return [
        f"{line}: import {name}"
        for name, lazy, line in imports(ast.parse(source))
        if name.split(".")[0] == "mgmt" and not among(name, at_top | inside if lazy else at_top)
    ]


def files(folder: str) -> list[Path]:
    found = sorted((ROOT / folder).rglob("*.py"))
    assert found, f"no Python file in {folder}/: the folder moved and this test looks at nothing"
    return found


def test_the_core_is_pure() -> None:
    found = {str(f.relative_to(ROOT)): impurities(f.read_text()) for f in files("mgmt/core")}
    assert {name: lines for name, lines in found.items() if lines} == {}


@pytest.mark.parametrize("folder", MAY_NAME)
def test_programs_beside_the_daemon_name_the_contract_only(folder: str) -> None:
    found = {str(f.relative_to(ROOT)): trespasses(f.read_text(), *MAY_NAME[folder]) for f in files(folder)}
    assert {name: lines for name, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import time",
        "import os.path as p",
        "from random import random",
        "def f():\n    import socket",
        "f = open('x')",
        "m = __import__('time')",
        "from importlib import import_module",
    ],
)
def test_an_impurity_is_seen(source: str) -> None:
    assert impurities(source)


@pytest.mark.parametrize("source", ["import enum", "from ..protocol import errors", "state.open(1)"])
def test_purity_is_not_an_impurity(source: str) -> None:
    assert not impurities(source)


@pytest.mark.parametrize(
    "source",
    [
        "import mgmt.core",
        "from mgmt import shell",
        "import mgmt.config",
        "def f():\n    from mgmt.shell import loop",
    ],
)
def test_a_trespass_is_seen(source: str) -> None:
    assert trespasses(source, *MAY_NAME["cli"])


@pytest.mark.parametrize(
    "source",
    [
        "from mgmt import __version__",
        "from mgmt.protocol.errors import Exit",
        "from .render import table",
        "def f():\n    from mgmt.config import load",
        "if TYPE_CHECKING:\n    from mgmt.core.schedule.workload import Node",
    ],
)
def test_the_contract_is_no_trespass(source: str) -> None:
    assert not trespasses(source, *MAY_NAME["cli"])
