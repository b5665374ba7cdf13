"""The daemon's own log: console lines or one JSON object a line, as `logging` of the configuration says.

Lines are written by a thread of their own: stderr may be a pipe that nobody reads or a disk that hangs, and the
loop must not wait for either.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import threading
import time
from typing import Any

from mgmt.settings import TRACE, LoggingSettings

MAX_LINES = 10_000  # waiting to be written; some megabytes
STDERR = 2
FLUSH_S = 1.0  # how long the last lines may take at the end


class JsonFormatter(logging.Formatter):
    """`time` (ISO-8601 UTC), `level`, `logger`, `text`, and the fields of the record."""

    def format(self, record: logging.LogRecord) -> str:
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "text": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class Writer(logging.Handler):
    """Writes to stderr in a thread. What waits beyond MAX_LINES is dropped, and the log says how much that was.

    Closed by the interpreter's own `logging.shutdown`. The descriptor is written to, not `sys.stderr`: a thread
    that hangs in there would hold a lock that the end of the interpreter needs.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lines: queue.Queue[logging.LogRecord | None] = queue.Queue(MAX_LINES)
        self._dropped = 0
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        # Now, for what the arguments refer to may have changed by the time the line is written.
        record.msg, record.args = record.getMessage(), None
        try:
            self._lines.put_nowait(record)
        except queue.Full:
            self._dropped += 1

    def close(self) -> None:
        """Write what is left, unless that takes longer than FLUSH_S."""
        with contextlib.suppress(queue.Full):
            self._lines.put(None, timeout=FLUSH_S)
            self._thread.join(FLUSH_S)
        super().close()

    def _run(self) -> None:
        while (record := self._lines.get()) is not None:
            self._write(record)
            if self._dropped:
                text = f"{self._dropped} lines of this log were dropped: what reads it is too slow"
                self._dropped = 0
                self._write(logging.LogRecord(__name__, logging.WARNING, __file__, 0, text, None, None))

    def _write(self, record: logging.LogRecord) -> None:
        line = f"{self.format(record)}\n".encode("utf-8", "backslashreplace")
        with contextlib.suppress(OSError):  # closed, or the disk is full: there is nobody to tell
            while line:
                line = line[os.write(STDERR, line) :]


class LineFormatter(logging.Formatter):
    """The configured line; the date of a second is made once, because the C library looks for the time zone's
    file each time.
    """

    _dated = (0, "")

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        second = int(record.created)
        if self._dated[0] != second:
            text = time.strftime(datefmt or self.default_time_format, time.localtime(second))
            self._dated = (second, text)
        return self._dated[1] if datefmt else f"{self._dated[1]},{int(record.msecs):03d}"


def set_up(settings: LoggingSettings, level: str | None) -> None:
    """Send every record to stderr; a level of the command line outranks the file's."""
    logging.addLevelName(TRACE, "TRACE")
    handler = Writer()
    if settings.style == "json":
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(LineFormatter(settings.format, settings.date_format))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    chosen = settings.model_copy(update={"level": level}) if level else settings
    root.setLevel(chosen.level_number)
