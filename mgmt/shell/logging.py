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


def set_up(settings: LoggingSettings, level: str | None) -> None:
    """Send every record to stderr; a level of the command line outranks the file's."""
    logging.addLevelName(TRACE, "TRACE")
    handler = logging.StreamHandler(sys.stderr)
    if settings.style == "json":
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(logging.Formatter(settings.format, settings.date_format))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    chosen = settings.model_copy(update={"level": level}) if level else settings
    root.setLevel(chosen.level_number)
