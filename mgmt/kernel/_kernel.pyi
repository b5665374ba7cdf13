"""The extension module; its functions are declared where they are handed out, in `__init__.pyi`."""

from typing import Any

def __getattr__(name: str) -> Any: ...
