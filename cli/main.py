"""The entry point: the table of commands, the global options, and one exit status for every outcome."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from signal import SIGINT, SIGPIPE
from typing import Any, NoReturn

import click

from mgmt.protocol.errors import Exit, MgmtError

from ._table import VERBS
from .groups import LazyGroup
from .invocation import Invocation, shared_options

HELP_OPTIONS = {"help_option_names": ["-h", "--help"]}


def _verb(name: str) -> str:
    return VERBS[name][0]


# name -> (module of this package, first line of its help); the order is that of `mgmt --help`
COMMANDS: dict[str, tuple[str, str]] = {
    "start-service": ("start_service", "Start the daemon, in the foreground or detached."),
    "stop-service": ("stop_service", _verb("stop-service")),
    "status": ("status", _verb("status")),
    "top": ("top", "Watch the units, the busiest first."),
    "start": ("operations", _verb("start")),
    "stop": ("operations", _verb("stop")),
    "restart": ("operations", _verb("restart")),
    "reset-failed": ("operations", _verb("reset-failed")),
    "plan": ("planning", _verb("plan")),
    "apply": ("planning", _verb("apply")),
    "explain": ("explain", _verb("explain")),
    "load-model": ("load_model", _verb("load-model")),
    "unload-model": ("unload_model", _verb("unload-model")),
    "models": ("models", _verb("models")),
    "schedule": ("schedule", "Place periodic tasks on CPUs, prove their deadlines, draw the schedule."),
    "candidates": ("candidates", "Say what to run next, and why, from a history of runs."),
    "timpani-gateway": (
        "timpani_gateway",
        "Let submitters and nodes of TIMPANI talk to the daemon; runs until it is ended.",
    ),
    "suite": ("suite", "Create, follow and end suites of tasks."),
    "task": ("task", "Submit tasks, look at them, cancel and repeat them."),
    "worker": ("worker", "Show, pause and end workers, and become an independent one."),
    "metrics": ("metrics", _verb("metrics")),
    "request": ("request", "Send one request to a model and print its answer."),
    "wait": ("wait", _verb("wait")),
    "is-ready": ("conditions", "Exit 0 when a unit or model is ready."),
    "is-active": ("conditions", "Exit 0 when a unit or model has a running process."),
    "is-failed": ("conditions", "Exit 0 when a unit or model has failed for good."),
    "logs": ("logs", "Show what a unit wrote, and follow it with -f."),
    "events": ("events", "Show what happened, and follow it with -f."),
    "agent": ("agent", "Run this machine for a daemon elsewhere, in the foreground."),
    "node": ("node", "Show and manage the nodes that agents joined with."),
    "user": ("users", "Make, show and shut out users, and manage the tokens they speak with."),
    "group": ("accounts", "Make groups, let users in, and let groups use nodes and workers."),
    "quota": ("accounts", "Show and change how much users and groups may have."),
    "attachment": ("files", "Store files for tasks and hooks, list and fetch them."),
    "artifact": ("files", "List, fetch and delete what tasks have left."),
    "whoami": ("users", _verb("whoami")),
    "keys": ("keys", "Make, allow and revoke the keys that tcp endpoints ask for."),
    "config": ("config", "Check, describe or show the configuration."),
    "import": ("import_", "Translate the configuration of another supervisor."),
    "store": ("store", "Check, recover or take back what the daemon keeps on disk."),
    "dump": ("dump", _verb("dump")),
    "doctor": ("doctor", "Find out what this machine allows; starts nothing."),
    "completion": ("completion", "Print the completion script of a shell."),
    "version": ("version", "Print the version."),
}


ALIASES = {"manager": "agent", "node-manager": "agent"}  # what MITOSIS calls an agent; not shown


class Commands(LazyGroup):
    """All commands; every outcome is reported here."""

    package = __package__
    commands_of = COMMANDS

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return super().get_command(ctx, ALIASES.get(cmd_name, cmd_name))

    def main(
        self, args: Iterable[str] | None = None, prog_name: str | None = None, *_: Any, **extra: Any
    ) -> NoReturn:
        argv = list(sys.argv[1:] if args is None else args)
        invocation = extra.setdefault("obj", Invocation())
        self._main_shell_completion({}, prog_name or "mgmt")
        sys.exit(report(invocation, argv, lambda: self._call(argv, prog_name or "mgmt", extra)))

    def _call(self, argv: list[str], prog_name: str, extra: dict[str, Any]) -> int:
        with self.make_context(prog_name, argv, **extra) as context:
            status = self.invoke(context)
        return status if isinstance(status, int) else Exit.OK


def report(invocation: Invocation, argv: list[str], call: Callable[[], int]) -> int:
    """Run `call` and return its exit status; every refusal becomes one `error:` line or one JSON value.

    An interrupt is 128 + SIGINT and a reader that went away 128 + SIGPIPE, as a shell would say.
    """
    try:
        status = call()
        sys.stdout.flush()
        return int(status)
    except MgmtError as error:
        invocation.complain(error.as_body())
        return int(error.row.exit)
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.UsageError as error:
        if error.message.startswith("Usage: "):  # a group alone: newer click raises its help
            click.echo(error.message, err=True)
            return Exit.USAGE
        invocation.json |= "--json" in argv  # it may stand behind the argument that was refused
        command = error.ctx.command_path if error.ctx else "mgmt"
        text = f"{error.format_message()} See `{command} --help`."
        invocation.complain({"code": "bad-body", "text": text, "retryable": False})
        return Exit.USAGE
    except (KeyboardInterrupt, click.Abort):
        invocation.complain({"code": "cancelled", "text": "interrupted", "retryable": True})
        return 128 + SIGINT
    except BrokenPipeError:
        # What is still buffered has no reader; without this the interpreter complains while it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + SIGPIPE
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        text = f"{error.strerror or error}{where}"
        invocation.complain({"code": "internal", "text": text, "retryable": False})
        return Exit.FAILED


@click.group(
    cls=Commands,
    invoke_without_command=True,
    context_settings=HELP_OPTIONS,
    params=shared_options(),
)
@click.option(
    "--config",
    metavar="PATH",
    help="Configuration of the daemon to talk to, to start or to check.",
    callback=lambda context, _, value: context.ensure_object(Invocation).name_config(value),
    expose_value=False,
)
@click.pass_context
def mgmt(context: click.Context) -> int:
    """One daemon per machine that starts, pins, watches and answers for AI model backends.

    \b
    Exit status: 0 ok, 1 failed, 2 usage, 3 not running or not ready, 4 no such object,
    5 daemon unreachable, 6 denied, 7 timed out, 8 busy or conflict, 9 done in part.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())
        return Exit.FAILED
    return Exit.OK


def _excepthook(kind: type[BaseException], value: BaseException, trace: Any) -> None:
    if os.environ.get("MGMT_TRACEBACK"):
        sys.__excepthook__(kind, value, trace)
    else:
        text = f"a fault of mgmt itself: {kind.__name__}: {value} (MGMT_TRACEBACK=1 shows where)"
        Invocation(json="--json" in sys.argv).complain({"code": "internal", "text": text, "retryable": False})


def main() -> NoReturn:
    """The console script `mgmt`."""
    sys.excepthook = _excepthook
    mgmt.main(prog_name="mgmt")
