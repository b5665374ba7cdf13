"""gRPC for asyncio out of the table of services: no generated stubs.

The only module that knows how a method is called on the wire; servers and clients, mocks included, use it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import grpc
import grpc.aio

from mgmt.protocol.errors import MgmtError
from mgmt.protocol.protobuf import serialize

from .messages import PACKAGE, SCHEMAS, SERVICES

MAX_MESSAGE_BYTES = 16 << 20  # a larger one is refused by gRPC itself; what the daemon takes is far smaller
MAX_CALLS = 4096  # at once on one port; a node that waits for the common start is one of them
SERVER_OPTIONS = [
    # With it a second gateway could listen on the same port, and each would hear some of the calls.
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # A node whose machine is gone must not count as one that waits.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    # Nodes may ping as they like: they are few.
    ("grpc.http2.min_ping_interval_without_data_ms", 1_000),
    ("grpc.http2.max_ping_strikes", 0),
]
CHANNEL_OPTIONS = [
    # The default grows to two minutes: a sink that is back should not wait so long.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
]

Handler = Callable[[Any, Any], Awaitable[Any]]
Call = Callable[..., Awaitable[Any]]


def message(name: str, /, **fields: Any) -> Any:
    """A message of the package, `message("SyncRequest", node_id="node01")`."""
    return SCHEMAS.message_class(f"{PACKAGE}.{name}")(**fields)


def server(service: str, handlers: Mapping[str, Handler]) -> Any:
    """A grpc.aio server of one service; a handler takes (message, context) and returns a message."""
    methods = {
        method: grpc.unary_unary_rpc_method_handler(
            handlers[method],
            request_deserializer=SCHEMAS.message_class(f"{PACKAGE}.{asked}").FromString,
            response_serializer=serialize,
        )
        for method, (asked, _) in SERVICES[service].items()
    }
    served = grpc.aio.server(options=SERVER_OPTIONS, maximum_concurrent_rpcs=MAX_CALLS)
    served.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(f"{PACKAGE}.{service}", methods),))
    return served


def bind(served: Any, address: str, port: int, option: str) -> int:
    """The port that it listens on; 0 lets the system choose. MgmtError `already-running` when it is taken."""
    where = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    try:
        bound = int(served.add_insecure_port(where))
    except RuntimeError:
        bound = 0
    if not bound:
        text = f"cannot listen on {where}: the port is taken, or the address is not of this machine"
        raise MgmtError("already-running", f"{text}; see `ss -ltnp`, or choose another with {option}")
    return bound


def channel(target: str) -> Any:
    """A grpc.aio channel without encryption, which the family does not have; connects when it is used."""
    return grpc.aio.insecure_channel(target, options=CHANNEL_OPTIONS)


def call(opened: Any, service: str, method: str) -> Call:
    """A method of a service behind a channel."""
    _, answered = SERVICES[service][method]
    made: Call = opened.unary_unary(
        f"/{PACKAGE}.{service}/{method}",
        request_serializer=serialize,
        response_deserializer=SCHEMAS.message_class(f"{PACKAGE}.{answered}").FromString,
    )
    return made
