"""The backend's side of the contract: hello, load, ready, heartbeats, requests, drain.

    serve(handler)          # the whole of a backend; the daemon's environment says where

`handler(payload)` takes the frames of one request and returns the frames of its answer. It may raise MgmtError
(sent as it is) or anything else (sent as `backend-error`); it never has to know who asked.

Three kinds of threads, so that none waits for another: the calling thread owns the ROUTER that clients and relay
connect to; the link's thread speaks with the daemon, so that a long `setup` or request does not look like death;
and `concurrency` workers call the handler. With `concurrency=0` the calling thread calls it itself: no switch of
threads, for handlers that take microseconds. While the daemon is away, requests are served as before.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from mgmt.protocol import defaults, frames
from mgmt.protocol.errors import MgmtError
from mgmt.serve.link import Place
from mgmt.serve.server import Handler, Server

__all__ = ["Handler", "Place", "serve", "value_handler"]


def serve(
    handler: Handler,
    *,
    protocols: Sequence[str] = ("msgpack",),
    setup: Callable[[], None] | None = None,
    concurrency: int = 1,
    max_queue: int = defaults.MAX_BACKEND_QUEUE,
) -> int:
    """Serve until SIGTERM or SIGINT; the exit status (1: the daemon refused this process, 2: not started by one).

    `setup` is the slow load of the model: it runs in the calling thread, which must be the main one, after the
    daemon knows the process and before it counts as ready; what it raises ends the process. More than
    `max_queue` unanswered requests are answered BUSY.
    """
    try:
        place = Place.of()
    except LookupError as error:
        print(error, file=sys.stderr, flush=True)
        return 2
    return Server(place, handler, protocols, concurrency, max_queue).run(setup)


def value_handler(function: Callable[[Any], Any]) -> Handler:
    """A handler for one msgpack value each way, the convention of the shipped backends."""

    def handler(payload: list[bytes]) -> list[bytes]:
        if len(payload) != 1:
            raise MgmtError("bad-body", f"the request has {len(payload)} frames, not one msgpack value")
        result = function(frames.unpack(payload[0]))
        try:
            return [frames.pack(result)]
        except (TypeError, ValueError, OverflowError) as error:
            text = f"the model's result does not fit into msgpack: {error}"
            raise MgmtError("backend-error", text, type=type(result).__name__) from None

    return handler
