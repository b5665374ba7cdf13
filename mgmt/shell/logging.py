"""The daemon's own log: console lines or one JSON object a line, as `logging` of the configuration says."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any

from mgmt.settings import TRACE, LoggingSettings


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
        return self._dated[1] if datefmt else f"{self._dated[1]},{record.msecs:03.0f}"


def set_up(settings: LoggingSettings, level: str | None) -> None:
    """Send every record to stderr; a level of the command line outranks the file's."""
    logging.addLevelName(TRACE, "TRACE")
    handler = logging.StreamHandler(sys.stderr)
    if settings.style == "json":
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(LineFormatter(settings.format, settings.date_format))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    chosen = settings.model_copy(update={"level": level}) if level else settings
    root.setLevel(chosen.level_number)
