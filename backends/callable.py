"""Serves any Python callable: one msgpack value in, one out.

    python -m mgmt_backends.callable module:function [--setup module:function] [--concurrency N]

The module is found on the Python path, which includes the working directory. A class is instantiated without
arguments; the object is called for each request, and its `setup()`, if it has one, loads the model. Importing,
instantiating and setting up happen while the unit is STARTING; what they raise is the reason the start failed.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable
from typing import Any

from mgmt.serve import serve, value_handler


def resolve(name: str) -> Any:
    """The object `module:attribute[.attribute...]`; SystemExit with a reason when there is none."""
    module_name, colon, path = name.partition(":")
    if not (module_name and colon and path):
        raise SystemExit(f"{name!r} is not of the form module:function")
    found: Any = importlib.import_module(module_name)
    for part in path.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise SystemExit(f"{name}: {getattr(found, '__name__', found)!r} has no {part!r}") from None
    return found


class Callee:
    """The callable behind `name`, found by `setup`; `setup_name` names one more function to call before it."""

    def __init__(self, name: str, setup_name: str | None = None) -> None:
        self._name = name
        self._setup_name = setup_name
        self._function: Callable[[Any], Any] | None = None

    def setup(self) -> None:
        if self._setup_name is not None:
            resolve(self._setup_name)()
        function = resolve(self._name)
        if isinstance(function, type):
            function = function()
            load = getattr(function, "setup", None)
            if load is not None:
                load()
        if not callable(function):
            raise SystemExit(f"{self._name} is a {type(function).__name__}, which cannot be called")
        self._function = function

    def __call__(self, value: Any) -> Any:
        assert self._function is not None, "requests come after setup"
        return self._function(value)


def main() -> int:
    parser = argparse.ArgumentParser(prog="mgmt_backends.callable", description="Serve a Python callable.")
    parser.add_argument("callable", metavar="module:function", help="function, or class with __call__")
    parser.add_argument("--setup", metavar="module:function", help="called once before")
    parser.add_argument(
        "--concurrency", type=int, default=1, metavar="N", help="calls at a time (default: 1)"
    )
    args = parser.parse_args()
    callee = Callee(args.callable, args.setup)
    return serve(value_handler(callee), setup=callee.setup, concurrency=max(1, args.concurrency))


if __name__ == "__main__":
    sys.exit(main())
