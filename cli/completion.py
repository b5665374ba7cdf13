"""`mgmt completion`, and the live names it completes: asked of the daemon within 300 ms, else none."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from mgmt.protocol.errors import Exit, MgmtError

from .invocation import Invocation, verb

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

CAP_S = 0.3


@verb("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(invocation: Invocation, shell: str) -> int:
    """bash: add `eval "$(mgmt completion bash)"` to ~/.bashrc. zsh: the same in ~/.zshrc.
    fish: mgmt completion fish > ~/.config/fish/completions/mgmt.fish"""
    from click.shell_completion import get_completion_class

    from .main import mgmt

    kind = get_completion_class(shell)
    assert kind is not None
    instance = kind(mgmt, {}, "mgmt", "_MGMT_COMPLETE")
    # Not source(): that of bash runs bash to look at its version, and fails where there is none.
    script = instance.source_template % instance.source_vars()
    if invocation.json:
        invocation.emit("mgmt.completion/1", {"shell": shell, "script": script})
    else:
        click.echo(script)
    return Exit.OK


def complete_units(context: click.Context, _: click.Parameter, prefix: str) -> list[CompletionItem]:
    """Names of units and models."""
    return _items(context, prefix, (("status", "units", "unit"), ("models", "models", "model")))


def complete_models(context: click.Context, _: click.Parameter, prefix: str) -> list[CompletionItem]:
    """Names of models."""
    return _items(context, prefix, (("models", "models", "model"),))


def complete_workloads(context: click.Context, _: click.Parameter, prefix: str) -> list[CompletionItem]:
    """Names of workloads of periodic tasks."""
    return _items(context, prefix, (("schedule-show", "workloads", "workload"),))


def complete_tasks(context: click.Context, _: click.Parameter, prefix: str) -> list[CompletionItem]:
    """Names of periodic tasks; of a large schedule, the first ones."""
    return _items(context, prefix, (("schedule-show", "tasks", "task"),))


def complete_suites(context: click.Context, _: click.Parameter, prefix: str) -> list[CompletionItem]:
    """Names and numbers of suites."""
    return _items(context, prefix, (("suites", "suites", "name"), ("suites", "suites", "suite")))


def complete_users(context: click.Context, _: click.Parameter, prefix: str) -> list[CompletionItem]:
    """Names of users."""
    return _items(context, prefix, (("users", "users", "user"),))


def complete_groups(context: click.Context, _: click.Parameter, prefix: str) -> list[CompletionItem]:
    """Names of groups."""
    return _items(context, prefix, (("groups", "groups", "group"),))


def complete_nodes(context: click.Context, _: click.Parameter, prefix: str) -> list[CompletionItem]:
    """Names of nodes."""
    return _items(context, prefix, (("nodes", "nodes", "node"),))


def _items(
    context: click.Context, prefix: str, questions: tuple[tuple[str, str, str], ...]
) -> list[CompletionItem]:
    """The names that start with `prefix`, from (verb, list in its reply, field); none without a daemon."""
    from click.shell_completion import CompletionItem

    names: dict[str, None] = {}
    deadline = time.monotonic() + CAP_S
    try:
        with (context.find_object(Invocation) or Invocation()).client(CAP_S) as client:
            for request, rows, field in questions:
                left_s = max(0.01, deadline - time.monotonic())
                reply = client.request(request, {}, timeout_s=left_s)
                names.update(dict.fromkeys(str(row[field]) for row in reply[rows]))
    except MgmtError:
        pass
    return [CompletionItem(name) for name in names if name and name.startswith(prefix)]
