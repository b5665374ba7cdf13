"""Groups of commands: a wrong name is told the nearest, and modules are imported when one of them is asked for."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Mapping
from importlib import import_module
from keyword import iskeyword

import click

from ._table import VERBS
from .invocation import verb


class NearGroup(click.Group):
    """A wrong name is told the nearest."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from difflib import get_close_matches  # only here: each call of mgmt would pay for it

            near = get_close_matches(args[0], self.list_commands(ctx), n=2)
            if not near or "Did you mean" in error.format_message():  # the newest click says it itself
                raise
            text = f"{error.format_message()} Did you mean {' or '.join(near)}?"
            raise click.UsageError(text, ctx) from None


class LazyGroup(NearGroup):
    """`commands_of`: name -> (module of `package`, first line of its help)."""

    package: str
    commands_of: Mapping[str, tuple[str, str]]

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands_of)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        row = self.commands_of.get(cmd_name)
        if row is None:
            return None
        name = cmd_name.replace("-", "_")
        module = import_module(f".{row[0]}", self.package)
        command = getattr(module, f"{name}_" if iskeyword(name) or name in dir(builtins) else name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, row[1]) for name, row in self.commands_of.items()])


def sub(
    group: click.Group, name: str, request: str, about: str = ""
) -> Callable[[Callable[..., int]], click.Command]:
    """Declare a command of a group; its help is the request's in the message table, or `about` where several
    commands are one request."""

    def declare(function: Callable[..., int]) -> click.Command:
        command = verb(name, about or VERBS[request][0])(function)
        group.add_command(command)
        return command

    return declare
