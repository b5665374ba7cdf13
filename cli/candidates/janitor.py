"""A Janitor's database, for the commands that use one."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from mgmt.protocol.errors import MgmtError


def adapter(module: str, extra: str) -> Any:
    """A module of the adapter. MgmtError `bad-database` where the package that it needs is not installed."""
    try:
        return import_module(f"mgmt.adapters.janitor.{module}")
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] == "mgmt":
            raise
        text = f"this needs the package {error.name}, which is not installed: pip install 'mgmt[{extra}]'"
        raise MgmtError("bad-database", text) from None
