"""`mgmt request`: one value in, one value out, by hand."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from mgmt.protocol.errors import Exit, MgmtError

from .completion import complete_models
from .invocation import Invocation, verb

REQUEST_TIMEOUT_S = 60.0


@verb("request")
@click.argument("name", shell_complete=complete_models)
@click.option("--text", metavar="TEXT", help="Send this text.")
@click.option("--data", metavar="JSON", help="Send this JSON value.")
@click.option(
    "--file",
    "files",
    metavar="PATH",
    multiple=True,
    help='Send {"data": the bytes of the file}; may be given more than once.',
)
@click.option("--stdin", is_flag=True, help="Send the bytes of standard input.")
@click.option("--relay", is_flag=True, help="Through the daemon instead of straight to the backend.")
@click.option("--load", is_flag=True, help="Load the model first when it is not loaded.")
def request(
    invocation: Invocation,
    name: str,
    text: str | None,
    data: str | None,
    files: tuple[str, ...],
    stdin: bool,
    relay: bool,
    load: bool,
) -> int:
    """One of --text, --data, --file and --stdin is the request. An answer that is text is printed as it is,
    bytes are written raw, anything else is JSON. With several files the answers come in their order, and
    the exit status is 9 when some failed."""
    inputs = _inputs(text, data, files, stdin)
    answers: list[dict[str, Any]] = []
    first: MgmtError | None = None
    timeout_s = invocation.timeout(REQUEST_TIMEOUT_S)
    with (
        invocation.client(REQUEST_TIMEOUT_S) as client,
        client.model(name, mode="relay" if relay else "direct", load=load) as model,
    ):
        for label, read in inputs:
            try:
                value = read()
                started = time.perf_counter()
                result = model.ask(value, timeout_s=timeout_s)
            except MgmtError as error:
                first = first or error
                if len(inputs) == 1:
                    raise
                answers.append({"input": label, "error": {"detail": {}, **error.as_body()}})
            else:
                latency_ms = (time.perf_counter() - started) * 1e3
                answers.append({"input": label, "result": result, "latency_ms": latency_ms})
            if not invocation.json:
                _show(answers[-1], len(inputs) > 1)
    if first is not None and all("error" in answer for answer in answers):
        raise first
    if invocation.json:
        invocation.emit("mgmt.request/1", {"model": name}, {"answers": answers})
    return Exit.OK if first is None else Exit.PARTIAL


def _inputs(
    text: str | None, data: str | None, files: tuple[str, ...], stdin: bool
) -> list[tuple[str, Callable[[], Any]]]:
    """(label, function that reads the value) of each request."""
    given = [text is not None, data is not None, bool(files), stdin]
    if sum(given) != 1:
        raise click.UsageError("Give one of --text, --data, --file and --stdin.")
    if files:
        return [(path, lambda path=path: _file(path)) for path in files]  # type: ignore[misc]  # bound early
    if data is not None:
        try:
            value = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise click.UsageError(f"--data is not JSON: {error}.") from None
        return [("data", lambda: value)]
    if stdin:
        return [("stdin", sys.stdin.buffer.read)]
    return [("text", lambda: text)]


def _file(path: str) -> dict[str, Any]:
    try:
        return {"data": Path(path).read_bytes()}
    except OSError as error:
        raise MgmtError("bad-body", f"{path}: {error.strerror}") from None


def _show(answer: dict[str, Any], labelled: bool) -> None:
    from .render import plain

    label = f"{answer['input']}: " if labelled else ""
    if "error" in answer:
        click.echo(f"error: {label}{answer['error']['text']}", err=True)
    elif isinstance(answer["result"], bytes):
        click.echo(label, nl=False)
        click.echo(answer["result"], nl=labelled)
    elif isinstance(answer["result"], str):
        click.echo(f"{label}{answer['result']}")
    else:
        result = json.dumps(plain(answer["result"], frozenset()), ensure_ascii=False)
        click.echo(f"{label}{result}")
    sys.stdout.flush()
