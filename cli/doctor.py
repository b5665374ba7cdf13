"""`mgmt doctor`: what this machine allows, found out by trying it. Starts nothing, leaves nothing."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import click

from mgmt.protocol import keys, places
from mgmt.protocol.errors import Exit, MgmtError

from . import render, spawn, store
from .findings import Probe, tried
from .invocation import Invocation, verb

PACKAGES = ("pyzmq", "msgpack", "psutil", "click", "pydantic", "uvloop", "protobuf")
COLORS = {"ok": "32", "refused": "31", "absent": "33"}


@verb("doctor")
def doctor(invocation: Invocation) -> int:
    """Exits 1 when something the daemon cannot do without is missing; what is merely absent costs a feature,
    and its meaning says which."""
    probes = [probe for look in LOOKS for probe in look(invocation)]
    if invocation.json:
        invocation.emit("mgmt.doctor/1", {"probes": [asdict(probe) for probe in probes]})
    else:
        rows = [[probe.probe, probe.status, probe.detail, probe.meaning] for probe in probes]
        head, *lines = render.table(["PROBE", "STATUS", "FOUND", "MEANING"], rows)
        click.echo(head)
        for line, probe in zip(lines, probes, strict=True):
            painted = f" \033[{COLORS[probe.status]}m{probe.status}\033[0m "
            click.echo(line.replace(f" {probe.status} ", painted, 1) if invocation.colored else line)
    failed = any(probe.needed and probe.status != "ok" for probe in probes)
    return Exit.FAILED if failed else Exit.OK


def python(_: Invocation) -> Iterator[Probe]:
    from importlib.metadata import PackageNotFoundError, version

    found = ".".join(map(str, sys.version_info[:3]))
    status = "ok" if sys.version_info >= (3, 11) else "refused"
    yield Probe("python", status, True, found, "3.11 or newer is needed")
    for package in PACKAGES:
        try:
            yield Probe(package, "ok", True, version(package), "a package mgmt runs on")
        except PackageNotFoundError:
            yield Probe(package, "absent", True, "not installed", "a package mgmt runs on: make venv")
    import zmq

    ipc = "with ipc" if zmq.has("ipc") else "without ipc"
    yield Probe(
        "libzmq", "ok" if zmq.has("ipc") else "absent", True, f"{zmq.zmq_version()} {ipc}", "the transport"
    )
    meaning = "keys for tcp endpoints; without it they are not served, unless `insecure` is said"
    curve = zmq.has("curve")
    yield Probe(
        "CURVE", "ok" if curve else "absent", False, "in libzmq" if curve else "not in libzmq", meaning
    )
    yield _keys()


def _keys() -> Probe:
    meaning = "who may speak over tcp; see `mgmt keys`"
    folder = keys.keys_dir()
    try:
        allowed = keys.read_allowed(folder)
        keys.read_pair(folder / f"{keys.SERVER}.key")
    except MgmtError as error:
        made = os.path.exists(folder / f"{keys.SERVER}.key")
        return Probe(
            "keys", "refused" if made else "absent", False, error.text if made else "none yet", meaning
        )
    return Probe("keys", "ok", False, f"{folder}: {len(allowed)} allowed", meaning)


def folders(_: Invocation) -> Iterator[Probe]:
    for name, folder, meaning in (
        ("runtime folder", places.runtime_dir(), "sockets; MGMT_RUNTIME_DIR names another"),
        ("state folder", places.state_dir(), "logs and what must survive; MGMT_STATE_DIR names another"),
    ):
        yield tried(name, lambda folder=folder: _writable(folder), meaning, needed=True)  # type: ignore[misc]  # bound early


def _writable(folder: Path) -> str:
    """Create and remove a file in it, or in the nearest folder above that it would be made in."""
    import tempfile

    there = next(path for path in (folder, *folder.parents) if path.exists())
    with tempfile.TemporaryFile(dir=there):
        pass
    return f"{folder} is writable" if there == folder else f"{folder} can be made in {there}"


def configuration(invocation: Invocation) -> Iterator[Probe]:
    from mgmt.config import load

    meaning = "what the daemon is told; see `mgmt config check`"
    try:
        loaded = load(Path(invocation.config) if invocation.config else None)
    except MgmtError as error:
        yield Probe("configuration", "refused", True, error.text.partition("\n")[0], meaning)
        return
    where = loaded.path or "built-in"
    yield Probe(
        "configuration", "ok", True, f"{where}, {len(loaded.settings.supported_models)} models", meaning
    )


def daemon(invocation: Invocation) -> Iterator[Probe]:
    meaning = "a running daemon; start one with `mgmt start-service`"
    try:
        service = spawn.answering(invocation)
    except MgmtError as error:
        yield Probe("daemon", "refused", False, error.text.partition("\n")[0], meaning)
        return
    if service is None:
        yield Probe("daemon", "absent", False, f"nobody answers at {invocation.where()}", meaning)
    else:
        found = f"pid {service['pid']}, epoch {service['epoch']}, {service['version']}"
        yield Probe("daemon", "ok", False, found, meaning)


def store_on_disk(_: Invocation) -> Iterator[Probe]:
    meaning = "what the daemon must know after a crash; see `mgmt store`"
    path = places.state_dir() / store.file_name()
    if not path.exists():
        yield Probe("store", "absent", False, f"{path} is not there yet", meaning)
        return
    try:
        with store.held() as held:
            rows = store.count(held)
    except MgmtError as error:
        if error.code == "already-running":
            yield Probe("store", "ok", True, f"{path} is in use", meaning)
        else:
            yield Probe("store", "refused", True, error.text.partition("\n")[0], meaning)
        return
    found = ", ".join(f"{count} {table}" for table, count in rows.items())
    yield Probe("store", "ok", True, f"{path}: {found}", meaning)


def mechanisms(_: Invocation) -> Iterator[Probe]:
    from .mechanisms import MECHANISMS

    for look in MECHANISMS:
        yield from look()


def programs(_: Invocation) -> Iterator[Probe]:
    import mgmt

    shim = Path(mgmt.__file__).parent / "shell" / "mgmt-shim"

    def look() -> str:
        shim.stat()
        if not os.access(shim, os.X_OK):
            raise PermissionError(errno.EACCES, "it is not executable")
        return str(shim)

    yield tried("mgmt-shim", look, "every backend is started through it: make venv builds it", needed=True)
    try:
        import onnxruntime

        found = f"{onnxruntime.__version__}, {', '.join(onnxruntime.get_available_providers())}"
        status = "ok"
    except ImportError as error:
        found, status = str(error), "absent"
    yield Probe("onnxruntime", status, False, found, "models of type onnx: pip install 'mgmt[magika]'")


LOOKS: tuple[Callable[[Invocation], Iterator[Probe]], ...] = (
    python,
    folders,
    configuration,
    store_on_disk,
    daemon,
    mechanisms,
    programs,
)
