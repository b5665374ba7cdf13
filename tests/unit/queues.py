"""Queues for tests: on each engine, asked as from a loop, or in a transaction of the test's own."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import psycopg

from mgmt.protocol.errors import MgmtError
from mgmt.store.queue.connection import Connection
from mgmt.store.queue.counting import recount
from mgmt.store.queue.dispatch import OPERATIONS, QUERIES
from mgmt.store.queue.thread import Engine, Queue

PATIENCE_S = 30.0
FOREVER_MS = 10**14
SPEC = b"\x81\xa4args\x91\xa4true"


class Asked:
    """A queue whose answers are waited for; a refusal is raised."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.queue = Queue(engine, lambda call: call())

    def __call__(self, op: Any) -> Any:
        outcome = self.outcomes([op])[0]
        if isinstance(outcome, MgmtError):
            raise outcome
        return outcome

    def outcomes(self, wanted: list[Any]) -> list[Any]:
        """Of operations that are asked at once, in this order."""
        outcomes: list[Any] = [None] * len(wanted)
        left = threading.Semaphore(0)

        def note(place: int, outcome: Any) -> None:
            outcomes[place] = outcome
            left.release()

        for place, op in enumerate(wanted):
            self.queue.ask(op, lambda outcome, place=place: note(place, outcome))  # type: ignore[misc]  # bound early
        for _ in wanted:
            assert left.acquire(timeout=PATIENCE_S)
        return outcomes

    def recount(self) -> list[str]:
        db = self.engine.open_reader()
        try:
            return recount(db)
        finally:
            db.close()

    def close(self) -> None:
        self.queue.close()


def do(db: Connection, op: Any) -> Any:
    """One operation in a transaction of its own; a refusal is raised, and had changed nothing."""
    db.begin()
    try:
        answer = (OPERATIONS.get(type(op)) or QUERIES[type(op)])(db, op)
    except MgmtError:
        assert not db.writes, f"{type(op).__name__} was refused after it had written"
        db.rollback()
        raise
    except BaseException:
        db.rollback()
        raise
    db.commit()
    return answer


# ---- a PostgreSQL server ----------------------------------------------------------------------------------


def postgres_programs() -> Path | None:
    """Where `initdb` and `postgres` lie; Debian keeps them out of the path."""
    found = shutil.which("initdb")
    folders = [Path(found).parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return next((folder for folder in reversed(folders) if (folder / "postgres").exists()), None)


def serve_postgres(**more: str) -> Generator[str, None, None]:
    """A server of our own without a network, in a private folder; yields what libpq connects to.

    `more`: settings of the server.
    """
    programs = postgres_programs()
    assert programs is not None
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="mgmt-pg-", dir=memory if os.access(memory, os.W_OK) else None))
    dropped: list[str] = []
    if os.geteuid() == 0:  # which PostgreSQL refuses to be
        user = next(
            name for name in ("postgres", "nobody") if any(name == one.pw_name for one in pwd.getpwall())
        )
        identity = pwd.getpwnam(user)
        os.chown(folder, identity.pw_uid, identity.pw_gid)
        dropped = [f"--reuid={identity.pw_uid}", f"--regid={identity.pw_gid}", "--clear-groups"]
    # The server ends with the tests, however these end.
    as_user = ["setpriv", *dropped, "--pdeathsig=INT", "--"]
    data = folder / "data"
    subprocess.run(
        [*as_user, programs / "initdb", "-D", data, "-U", "mgmt", "-A", "trust", "-E", "UTF8", "--locale=C", "-N"],
        check=True, capture_output=True, cwd=folder, timeout=PATIENCE_S,
    )  # fmt: skip
    settings = {"listen_addresses": "", "unix_socket_directories": folder, "fsync": "off",
                "shared_buffers": "32MB", "max_connections": "40", "deadlock_timeout": "50ms",
                "dynamic_shared_memory_type": "mmap", **more}  # fmt: skip
    told = [f"--{name}={word}" for name, word in settings.items()]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [*as_user, programs / "postgres", "-D", data, *told],
            stdout=log, stderr=log, cwd=folder,
        )  # fmt: skip
    conninfo = f"host={folder} user=mgmt dbname=postgres"
    try:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                psycopg.connect(conninfo).close()
                break
            except psycopg.OperationalError:
                assert server.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()
                time.sleep(0.02)
        yield conninfo
    finally:
        server.send_signal(signal.SIGINT)  # SIGTERM would wait for its clients
        try:
            server.wait(5.0)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        shutil.rmtree(folder, ignore_errors=True)
