"""The documents name only what exists: commands with their options, files, tests, links."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import pytest

from mgmt.protocol.messages import NOTICES, REQUESTS
from mgmt_cli.invocation import Invocation
from mgmt_cli.main import mgmt

ROOT = Path(__file__).parents[2]
PAGES = sorted(["README.md", *(str(page.relative_to(ROOT)) for page in (ROOT / "docs").glob("*.md"))])
TOP = {entry.name for entry in ROOT.iterdir() if not entry.name.startswith(".")} | {".ci"}
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`([^`\n]+)`")


@cache
def text(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def fenced(page: str) -> Iterator[str]:
    """Lines inside the code blocks that stand for a terminal."""
    for block in FENCE.findall(text(page)):
        head, *lines = block.split("\n")[:-1]
        if head == "```":
            yield from lines


def inline(page: str) -> list[str]:
    return CODE.findall(FENCE.sub("", text(page)))


def commands(page: str) -> Iterator[tuple[str, bool]]:
    """(command line starting with `mgmt`, whether it is shown as something to type as it stands)."""
    for line in (line.removeprefix("$ ") for line in fenced(page)):
        if line.startswith("mgmt ") and not re.match(r"mgmt [0-9]", line):
            yield line, True
    for code in inline(page):
        inner = re.search(r"\$\((mgmt [^)]*)\)", code)
        if inner or code.startswith("mgmt "):
            yield (inner[1] if inner else code), False


def cut(line: str) -> list[str]:
    """The words of the first command of a line, without the `mgmt`."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";|&>")
    lexer.whitespace_split = True
    words: list[str] = []
    for word in lexer:
        if set(word) <= set(";|&>"):
            break
        words.append(word)
    return words[1:]


def fault(line: str, complete: bool) -> str | None:
    """What the command line would say before it does anything; None when it would go to work."""
    args = cut(line)
    command: click.Command = mgmt
    while isinstance(command, click.Group) and args and not args[0].startswith("-"):
        found = command.get_command(click.Context(command), args[0])
        if found is None:
            return f"{command.name} has no {args[0]}"
        command, args = found, args[1:]
    if isinstance(command, click.Group) and not args:
        return None
    try:
        command.make_context(command.name, args, obj=Invocation())
    except click.MissingParameter as missing:
        return missing.format_message() if complete else None
    except click.UsageError as error:
        return error.format_message()
    return None


@pytest.mark.parametrize("page", PAGES)
def test_every_command_shown_exists_with_its_options(page: str) -> None:
    assert {line: why for line, whole in commands(page) if (why := fault(line, whole))} == {}


def test_the_readme_shows_the_daily_commands() -> None:
    shown = {cut(line)[0] for line, _ in commands("README.md")}
    assert shown >= {"start-service", "load-model", "request", "status", "logs", "events", "stop-service"}


@pytest.mark.parametrize(
    ("line", "complete"),
    [
        ("mgmt make-tea", False),
        ("mgmt status --make-tea", False),
        ("mgmt status --sort tea", False),
        ("mgmt config make-tea", False),
        ("mgmt config check --make-tea", False),
        ("mgmt load-model", True),
    ],
)
def test_a_command_that_does_not_exist_is_seen(line: str, complete: bool) -> None:
    assert fault(line, complete)


def test_the_verbs_that_others_are_translated_to_exist() -> None:
    table = text("docs/suites.md").partition("## Coming from MITOSIS")[2].partition("\n## ")[0]
    rows = [line.split(" | ") for line in table.splitlines() if line.startswith("| ")][1:]
    named = {name for row in rows for name in CODE.findall(row[1])}
    assert len(rows) >= 20 and named - REQUESTS.keys() - NOTICES.keys() == set()
    ours = {
        name for name, row in REQUESTS.items() if name.split("-")[0] in ("suite", "task", "worker", "group")
    }
    told = named | {"suite-wait", "task-wait", "task-retry", "worker-pause"}  # which the ancestor has not
    assert ours <= told, "a verb of suites that the table does not know"


def test_the_targets_of_the_readme_exist() -> None:
    makefile = text("Makefile")
    shown = set(re.findall(r"\bmake ([a-z]+)\b", text("README.md")))
    assert {target for target in shown if not re.search(rf"^{target}:", makefile, re.MULTILINE)} == set()
    assert {"run", "test"} <= shown


def paths(page: str) -> Iterator[str]:
    """What looks like a file of this repository, and the targets of links; planned rooms excepted."""
    body = "\n".join(line for line in FENCE.sub("", text(page)).split("\n") if "planned" not in line)
    for code in CODE.findall(body):
        if re.fullmatch(r"[\w.*/-]+", code) and code.split("/")[0] in TOP and ("/" in code or "." in code):
            yield code
    for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", body):
        if "://" not in link:
            yield str(((ROOT / page).parent / link).resolve().relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES)
def test_every_file_named_exists(page: str) -> None:
    assert [path for path in paths(page) if not any(ROOT.glob(path.rstrip("/")))] == []


@pytest.mark.parametrize("page", PAGES)
def test_every_heading_linked_exists(page: str) -> None:
    missing = []
    for link, anchor in re.findall(r"\]\(([^)#]*)#([^)]+)\)", text(page)):
        if "://" in link:
            continue
        target = (ROOT / page).parent / link if link else ROOT / page
        titles = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
        anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
        if anchor not in anchors:
            missing.append(f"{link}#{anchor}")
    assert missing == []


@pytest.mark.parametrize("page", PAGES)
def test_every_test_named_exists(page: str) -> None:
    missing = []
    for path, name in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text(page)):
        if not (ROOT / path).is_file() or name not in functions(path):
            missing.append(f"{path}::{name}")
    assert missing == []


@cache
def functions(path: str) -> set[str]:
    tree = ast.parse(text(path))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
