"""What one call of `mgmt` was told: the options every command understands, before or behind its name."""

from __future__ import annotations

import inspect
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mgmt.protocol import defaults, keys, places, tokens
from mgmt.protocol.errors import MgmtError
from mgmt.protocol.keys import Credentials

if TYPE_CHECKING:
    from mgmt.client import Client

    _Seconds = click.ParamType[float]
else:
    _Seconds = click.ParamType  # generic for the type checker only, and in the newest click

QUERY_TIMEOUT_S = 10.0  # of a request the daemon answers from its memory
UNITS_OF_TIME = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


def _wants_json() -> bool:
    return os.environ.get("MGMT_OUTPUT") == "json"


@dataclass
class Invocation:
    """The shared options; `timeout_s` is None when the command's own default applies."""

    endpoint: str | None = None
    timeout_s: float | None = None
    json: bool = field(default_factory=_wants_json)
    color: str = "auto"
    config: str | None = None
    server_key: str | None = None
    key: str | None = None
    token_file: str | None = None

    def name_config(self, path: str | None) -> None:
        self.config = path

    def where(self) -> str:
        """The endpoint: --endpoint, $MGMT_ENDPOINT, that of the configuration, the runtime folder's."""
        return self.endpoint or os.environ.get("MGMT_ENDPOINT") or self.served()

    def served(self) -> str:
        """Where a daemon started with this configuration serves: it listens to no variable."""
        told = endpoint_in(Path(self.config)) if self.config else endpoint_of_the_place()
        return told or places.default_control_endpoint({**os.environ, "MGMT_ENDPOINT": ""})

    def client(self, timeout_s: float = QUERY_TIMEOUT_S) -> Client:
        """A client of the daemon; `timeout_s` is the default of its requests unless --timeout was given."""
        timeout_s = self.timeout(timeout_s)
        connect_s = min(timeout_s, defaults.CONNECT_TIMEOUT_S)
        return self.client_at(timeout_s, connect_s)

    def client_at(self, timeout_s: float, connect_timeout_s: float) -> Client:
        """A client of the daemon with these times."""
        from mgmt.client import Client

        return Client(
            self.where(),
            name="mgmt",
            timeout_s=timeout_s,
            connect_timeout_s=connect_timeout_s,
            credentials=self.credentials(),
            token=tokens.find(self.token_file),
        )

    def credentials(self) -> Credentials | None:
        """For a tcp endpoint: what was told, else, for the daemon of this machine, what its own user may read."""
        endpoint = self.where()
        found = keys.for_endpoint(endpoint, self.server_key, self.key)
        if found is None and endpoint.startswith("tcp://") and endpoint == self.served():
            found = keys.local_credentials()
        return found

    def timeout(self, default_s: float) -> float:
        return default_s if self.timeout_s is None else self.timeout_s

    def emit(self, schema: str, value: dict[str, Any], opaque: dict[str, Any] | None = None) -> None:
        """Print one JSON value, or one line of a stream, that satisfies `schema` of `schemas`.

        `opaque` are further fields whose content is not ours, so nothing in it is taken for a time.
        """
        from .render import dumps, plain

        told = plain(opaque or {}, frozenset())
        click.echo(dumps({"schema": schema, **plain(value), **told}))
        sys.stdout.flush()

    def complain(self, body: dict[str, Any]) -> None:
        """Say no: `error: text` on stderr, or one JSON value on stdout."""
        if self.json:
            self.emit("mgmt.error/1", {"error": {"detail": {}, **body}})
        else:
            click.echo(f"error: {body['text']}", err=True)

    def say(self, text: str) -> None:
        """A line for people; nothing with --json."""
        if not self.json:
            click.echo(text)

    @property
    def colored(self) -> bool:
        """Whether stdout takes colours: --color, else a terminal without $NO_COLOR."""
        if self.color == "auto":
            return sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        return self.color == "always"

    @property
    def live(self) -> bool:
        """Whether progress can be drawn: stderr is a terminal and nobody asked for JSON."""
        return not self.json and sys.stderr.isatty()


def endpoint_in(path: Path) -> str | None:
    """`endpoints.control` of a configuration file, read without checking the rest; None when it has none.

    The daemon's own reader costs a tenth of a second of imports, which no command has to give.
    """
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise MgmtError("bad-config", f"{path}: {error.strerror}: name another with --config") from None
    except (ValueError, RecursionError) as error:
        text = f"{path}: not JSON: {error}: see `mgmt config check {path}`"
        raise MgmtError("bad-config", text) from None
    endpoints = value.get("endpoints") if isinstance(value, dict) else None
    told = endpoints.get("control") if isinstance(endpoints, dict) else None
    if not isinstance(told, str):
        return None
    return told.replace("{runtime}", str(places.runtime_dir())).replace("{state}", str(places.state_dir()))


def endpoint_of_the_place() -> str | None:
    """That of the file a daemon started without --config reads; a broken one is that daemon's matter."""
    environ = os.environ
    user = places.xdg_dir(environ, "XDG_CONFIG_HOME") or places.home_dir(environ) / ".config"
    told = environ.get("MGMT_CONFIG")
    for path in [Path(told)] if told else [user / "mgmt" / "config.json", Path("/etc/mgmt/config.json")]:
        if path.is_file():
            try:
                return endpoint_in(path)
            except MgmtError:
                return None
    return None


class Duration(_Seconds):
    """Seconds, or a number with a unit: 500ms, 60s, 5m, 1h, 30d."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        digits = str(value).rstrip("mhsd")
        unit = str(value)[len(digits) :] or "s"
        try:
            seconds = float(digits) * UNITS_OF_TIME[unit]
        except (ValueError, KeyError):
            seconds = -1.0
        if not 0 < seconds < 1e9:
            self.fail(f"{value!r} is not a duration like 500ms, 60s or 5m", param, ctx)
        return seconds


def _keep(name: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    """A callback that stores a given option and leaves what was given before the command otherwise."""

    def store(context: click.Context, _: click.Parameter, value: Any) -> None:
        if value:
            setattr(context.ensure_object(Invocation), name, value)

    return store


def _color(context: click.Context, _: click.Parameter, value: str | None) -> None:
    if value:
        context.ensure_object(Invocation).color = value
        # Else click takes the colours out again where it sees no terminal.
        context.color = {"always": True, "never": False}.get(value)


def shared_options() -> list[click.Parameter]:
    """--endpoint, the keys for it, --timeout, --json and --color, for the group and for every command."""

    def option(*names: str, **attributes: Any) -> click.Option:
        return click.Option([*names], expose_value=False, **attributes)

    return [
        option(
            "--endpoint",
            metavar="ADDRESS",
            help="Control endpoint (also: $MGMT_ENDPOINT).",
            callback=_keep("endpoint"),
        ),
        option(
            "--server-key",
            metavar="KEY",
            help="Public key of the daemon at a tcp endpoint, or a file with it (also: $MGMT_SERVER_KEY).",
            callback=_keep("server_key"),
        ),
        option(
            "--key",
            metavar="FILE",
            help="File of your own key (also: $MGMT_KEY_FILE).",
            callback=_keep("key"),
        ),
        option(
            "--token-file",
            metavar="FILE",
            help="Speak as the user of the token in this file (also: $MGMT_TOKEN_FILE, $MGMT_TOKEN).",
            callback=_keep("token_file"),
        ),
        option(
            "--timeout",
            type=Duration(),
            help="Give up after this time: 500ms, 60s, 5m.",
            callback=_keep("timeout_s"),
        ),
        option(
            "--json",
            is_flag=True,
            is_eager=True,
            help="Print JSON (also: MGMT_OUTPUT=json).",
            callback=_keep("json"),
        ),
        option(
            "--color",
            type=click.Choice(["auto", "always", "never"]),
            help="When to colour output.",
            callback=_color,
        ),
    ]


def verb(
    name: str, help: str | None = None, cls: type[click.Command] = click.Command
) -> Callable[[Callable[..., int]], click.Command]:
    """Declare a command: its first parameter is the Invocation, its result the exit status.

    The first line of the help is the table's; the function's docstring follows it.
    """

    def declare(function: Callable[..., int]) -> click.Command:
        from .main import COMMANDS

        first = help or COMMANDS[name][1]
        rest = inspect.cleandoc(function.__doc__ or "")
        decorate = click.command(name, cls=cls, help=f"{first}\n\n{rest}", short_help=first)
        command = decorate(click.make_pass_decorator(Invocation)(function))
        command.params += shared_options()
        return command

    return declare
