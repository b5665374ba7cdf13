"""One daemon per machine that starts, pins, watches and answers for AI model backends."""

from __future__ import annotations

__version__ = "0.1.0"
