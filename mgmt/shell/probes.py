"""Asking about a unit's health: a command, a web page, a connection, a line of its log.

Nothing here blocks the loop: connections are coroutines in it, commands are watched by it, and logs are read in
a worker thread. What the answers mean is the core's business.
"""

from __future__ import annotations

import asyncio
import os
import re
from asyncio import AbstractEventLoop, StreamReader, StreamWriter, Task, TimerHandle
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, urlsplit

from mgmt import __version__
from mgmt.core import effect as fx
from mgmt.core import event as ev
from mgmt.protocol.errors import MgmtError
from mgmt.settings import ProbeSettings
from mgmt.shell.commands import MAX_DETAIL_CHARS, Commands
from mgmt.shell.logs import read_log

MAX_HTTP_BYTES = 65_536  # of an answer that are read; what matters is its first line
MAX_LINE_BYTES = 65_536  # a longer line of a log is searched in pieces
MAX_SCAN_BYTES = 4 << 20  # of a log that are searched for one question; the next one goes on from there
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-5][0-9][0-9])(?: [^\r\n]*)?\r?\n")

Mark = tuple[int, int]  # inode and offset in a unit's log; inode 0: there was none


@dataclass(slots=True, eq=False)
class _Ask:
    effect: fx.AskProbe
    task: Task[None] | None = None
    timer: TimerHandle | None = None


@dataclass(slots=True, eq=False)
class _Search:
    """How far the log of a unit was searched for one pattern."""

    unit: str
    pattern: re.Pattern[str]
    inode: int
    offset: int
    part: bytes = b""  # of a line whose end was not written yet
    found: str | None = None  # the line
    asks: list[_Ask] = field(default_factory=list)  # waiting for the worker, which runs when there is one


class Probes:
    """Every `ask` is followed by one `emit(ProbeAnswered)`, unless `forget` comes first.

    `submit` runs a function in a worker thread; `log_path` names the log of a unit.
    """

    def __init__(
        self,
        loop: AbstractEventLoop,
        commands: Commands,
        log_path: Callable[[str], Path],
        submit: Callable[[Callable[[], None]], None],
        emit: Callable[[ev.Event], None],
    ) -> None:
        self._loop = loop
        self._commands = commands
        self._log_path = log_path
        self._submit = submit
        self._emit = emit
        self._asks: dict[str, set[_Ask]] = {}
        self._tasks: set[Task[None]] = set()  # a loop itself keeps no task alive
        self._marks: dict[str, Mark] = {}
        self._searches: dict[tuple[str, str], _Search] = {}  # by unit and pattern

    def mark(self, unit: str, mark: Mark | None = None) -> Mark:
        """From here on its log counts for `log` probes: from its present end, or from an earlier mark.

        To be called before the process is started; an adopted unit gets the mark of its own start back.
        Without any mark the whole current file counts.
        """
        if mark is None:
            try:
                found = os.stat(self._log_path(unit))
                mark = (found.st_ino, found.st_size)
            except OSError:
                mark = (0, 0)
        self._marks[unit] = mark
        self._drop_searches(unit)
        return mark

    def ask(self, effect: fx.AskProbe, env: Mapping[str, str], cwd: str | None) -> None:
        """Asks one question; `env` and `cwd` are those of the unit, for a command."""
        probe = effect.probe
        if probe.kind == "told":
            raise ValueError(f"{effect.unit}: a probe of kind told is not asked, the unit tells by itself")
        ask = _Ask(effect)
        self._asks.setdefault(effect.unit, set()).add(ask)
        if probe.kind == "exec":

            def done(ok: bool, detail: str) -> None:
                self._answer(ask, ok, detail)

            self._commands.run(ask, probe.command, env, cwd, probe.timeout_s, done)
        elif probe.kind == "log":
            self._search(ask, probe)
        else:
            ask.task = self._loop.create_task(self._connect(ask, probe))
            self._tasks.add(ask.task)
            ask.task.add_done_callback(self._tasks.discard)

    def forget(self, unit: str) -> None:
        """Ends the open questions about a unit without an answer. Its mark stays."""
        for ask in self._asks.pop(unit, ()):
            if ask.timer is not None:
                ask.timer.cancel()
            if ask.task is not None:
                ask.task.cancel()
            self._commands.cancel(ask)
        self._drop_searches(unit)

    def close(self) -> None:
        """Ends everything; the loop has to turn once more for the connections to be closed."""
        for unit in list(self._asks):
            self.forget(unit)
        for task in self._tasks:
            task.cancel()

    def _answer(self, ask: _Ask, ok: bool, detail: str) -> None:
        unit = ask.effect.unit
        asks = self._asks.get(unit)
        if asks is None or ask not in asks:
            return  # forgotten, or answered already
        asks.discard(ask)
        if not asks:
            del self._asks[unit]
        if ask.timer is not None:
            ask.timer.cancel()
        self._emit(ev.ProbeAnswered(unit, ask.effect.incarnation, ask.effect.which, ok, detail))

    # ---- http, tcp ----

    async def _connect(self, ask: _Ask, probe: ProbeSettings) -> None:
        try:
            async with asyncio.timeout(probe.timeout_s):
                if probe.url is not None:
                    await self._get(ask, probe.url)
                else:
                    _, writer = await _open(probe.address or "")
                    # Without a listener, a port of the local range can be connected to itself.
                    own = writer.get_extra_info("sockname")
                    itself = bool(own) and own == writer.get_extra_info("peername")
                    writer.transport.abort()
                    self._answer(ask, not itself, "nobody listens there" if itself else "connected")
        except TimeoutError:
            self._answer(ask, False, f"no answer within {probe.timeout_s:g} s")
        except (OSError, ValueError) as error:
            self._answer(ask, False, _reason(error))

    async def _get(self, ask: _Ask, url: str) -> None:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
        target = parts.path or "/"
        if parts.query:
            target += f"?{parts.query}"
        request = (
            f"GET {quote(target, safe='!$%&()*+,-./:;=?@_~')} HTTP/1.1\r\n"
            f"Host: {quote(host, safe='[]:.-_%')}\r\n"
            f"User-Agent: mgmt/{__version__}\r\nAccept: */*\r\nConnection: close\r\n\r\n"
        )
        reader, writer = await asyncio.open_connection(
            parts.hostname, 80 if parts.port is None else parts.port, limit=MAX_HTTP_BYTES
        )
        try:
            writer.write(request.encode("ascii"))
            line = await reader.readline()
            match = _STATUS_LINE.fullmatch(line)
            if match is None:
                said = line[:60].decode("utf-8", "replace").rstrip()
                self._answer(
                    ask, False, f"no HTTP answer, but {said!r}" if line else "closed without an answer"
                )
                return
            status = int(match[1])
            self._answer(ask, 200 <= status < 400, f"HTTP status {status}")
            # The rest is taken so that the server does not see its answer refused.
            left = MAX_HTTP_BYTES
            while left > 0 and (data := await reader.read(left)):
                left -= len(data)
        finally:
            writer.transport.abort()

    # ---- log ----

    def _search(self, ask: _Ask, probe: ProbeSettings) -> None:
        unit, pattern = ask.effect.unit, probe.pattern or ""
        search = self._searches.get((unit, pattern))
        if search is None:
            inode, offset = self._marks.get(unit, (0, 0))
            search = _Search(unit, re.compile(pattern), inode, offset)
            self._searches[unit, pattern] = search
        ask.timer = self._loop.call_later(
            probe.timeout_s, self._answer, ask, False, f"the log was not read within {probe.timeout_s:g} s"
        )
        search.asks.append(ask)
        if len(search.asks) == 1:
            path = self._log_path(unit)
            self._submit(lambda: self._read(search, path))

    def _read(self, search: _Search, path: Path) -> None:
        """In a worker thread. It alone touches the position meanwhile: there is one at a time for each search."""
        fault = ""
        try:
            scan(search, path)
        except MgmtError as error:
            fault = error.text
        self._loop.call_soon_threadsafe(self._on_read, search, fault)

    def _on_read(self, search: _Search, fault: str) -> None:
        asks, search.asks = search.asks, []
        for ask in asks:
            if search.found is not None:
                self._answer(ask, True, search.found)
            else:
                self._answer(ask, False, fault or "no line matches")

    def _drop_searches(self, unit: str) -> None:
        for key in [key for key in self._searches if key[0] == unit]:
            del self._searches[key]


def scan(search: _Search, path: Path) -> None:
    """Reads on in the log, across rotation, until a whole line matches or nothing new is there. Blocking."""
    left = MAX_SCAN_BYTES
    while search.found is None and left > 0:
        chunk = read_log(search.unit, path, 0, search.offset, search.inode)
        if not chunk["inode"] or (not chunk["data"] and chunk["inode"] == search.inode):
            return  # there is no file just now, or nothing new in it
        if chunk["inode"] != search.inode:
            search.part = b""
        search.inode, search.offset = chunk["inode"], chunk["offset"]
        left -= len(chunk["data"])
        *lines, search.part = (search.part + chunk["data"]).split(b"\n")
        if len(search.part) > MAX_LINE_BYTES:
            lines.append(search.part)
            search.part = b""
        for line in lines:
            text = line.decode("utf-8", "replace").removesuffix("\r")
            if search.pattern.search(text):
                search.found = text.strip()[:MAX_DETAIL_CHARS]
                return


async def _open(address: str) -> tuple[StreamReader, StreamWriter]:
    """Connects to HOST:PORT, IPv6 in brackets or not, or to an absolute socket path."""
    if address.startswith("/"):
        return await asyncio.open_unix_connection(address)
    host, _, port = address.rpartition(":")
    return await asyncio.open_connection(host.removeprefix("[").removesuffix("]"), int(port))


def _reason(error: OSError | ValueError) -> str:
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    return str(error)
