"""A backend that speaks the ancestor's data plane and computes nothing; for tests and for trying things out.

    python symphony_stub.py --ipc-endpoint EP [--model-name FULL] [--delay-s X] [--dump FILE]

The first message of a connection is the protobuf handshake, answered with the protocol list; after that
`[protocol index byte][protobuf]`. `ping` answers its text, `l4m` answers `get_info` and
`sample_top_k_request`; requests that have no result get no reply. It knows nothing of
the daemon: it is ready when it answers the handshake, and its socket file stays behind when it ends, as
with the backends it stands for. SIGTERM and SIGINT end it with status 0; an endpoint that cannot be bound, 1.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import zmq

from mgmt.protocol.symphony import PROTOCOLS, decode_handshake, encode_handshake_response, split_envelope
from mgmt.protocol.symphony_messages import BadMessage, message_class, parse, serialize

UNDECODABLE = b"\x00"
MAX_SAMPLES = 1024  # a request may ask for 2^32 - 1 tokens
UNITS = 1024


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Stub backend of the Symphony data plane.")
    parser.add_argument("--ipc-endpoint", required=True, metavar="EP", help="ZeroMQ endpoint to bind")
    parser.add_argument("--model-name", default="stub", metavar="FULL", help="name told by get_info")
    parser.add_argument("--delay-s", type=float, default=0.0, metavar="X", help="wait before binding")
    parser.add_argument("--dump", type=Path, metavar="FILE", help="write argv, env, cwd and affinity as JSON")
    return parser.parse_args()


def dump(path: Path) -> None:
    """Write what this process was started with; the file appears whole or not at all."""
    facts = {
        "argv": sys.argv,
        "env": dict(os.environ),
        "cwd": os.getcwd(),
        "affinity": sorted(os.sched_getaffinity(0)),
        "pid": os.getpid(),
    }
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(facts), encoding="utf-8")
    part.replace(path)


def stop_signals() -> socket.socket:
    """A socket that becomes readable at SIGTERM or SIGINT, so that every wait is also a wait for the end."""
    ours, wakeup = socket.socketpair()
    wakeup.setblocking(False)
    signal.set_wakeup_fd(wakeup.detach())
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    return ours


def answer(protocol: str, payload: bytes, model_name: str) -> bytes | None:
    """The reply to one data request; None when it has no result. Raises BadMessage."""
    if protocol == "ping":
        ping = parse("ping.Ping", payload)
        pong = message_class("ping.Pong")
        return serialize(pong(correlation_id=ping.correlation_id, message="Pong:" + ping.message))
    if protocol == "l4m-vision":
        parse("l4m.vision.Request", payload)
        return None
    request = parse("l4m.Request", payload)
    response = message_class("l4m.Response")(correlation_id=request.correlation_id)
    match request.WhichOneof("command"):
        case "get_info":
            response.get_info.version = "stub"
            response.get_info.model_name = model_name
            response.get_info.block_size = 16
            response.get_info.num_available_blocks = UNITS
            response.get_info.num_available_embeddings = UNITS
            response.get_info.num_available_distributions = UNITS
        case "sample_top_k_request":
            response.sample_top_k.SetInParent()  # a batch of none is still an answer
            for item in request.sample_top_k_request.items:
                k = min(item.k, MAX_SAMPLES)
                response.sample_top_k.items.add(token_ids=range(k), probabilities=[1 / k for _ in range(k)])
        case _:
            return None
    return serialize(response)


def reply(identity: bytes, frames: list[bytes], known: set[bytes], model_name: str) -> list[bytes] | None:
    """The frames to send back to `identity`, or None; `known` holds the identities that shook hands."""
    prefix, payload = split_envelope(frames)
    if identity not in known or len(payload) == 1:
        if not decode_handshake(payload[0]):
            return [*prefix, UNDECODABLE]
        known.add(identity)
        return [*prefix, encode_handshake_response(PROTOCOLS)]
    index, body = payload[0], payload[1]
    if len(index) != 1 or index[0] >= len(PROTOCOLS):
        print(f"ignored: no protocol has the index {index[:16].hex()}", flush=True)
        return None
    try:
        result = answer(PROTOCOLS[index[0]], body, model_name)
    except BadMessage as fault:
        print(f"ignored: {fault}", flush=True)
        return None
    return None if result is None else [*prefix, index, result]


def serve(endpoint: str, model_name: str, stop: socket.socket) -> None:
    """Answer at `endpoint` until `stop` is readable."""
    known: set[bytes] = set()
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        router.linger = 0
        router.bind(endpoint)
        print(f"serving {model_name} on {endpoint}", flush=True)
        poller = zmq.Poller()
        poller.register(router, zmq.POLLIN)
        poller.register(stop.fileno(), zmq.POLLIN)
        while True:
            ready: dict[Any, int] = dict(poller.poll())
            if stop.fileno() in ready:
                return
            identity, *frames = router.recv_multipart()
            frames_back = reply(identity, frames, known, model_name)
            if frames_back is not None:
                router.send_multipart([identity, *frames_back])


def main() -> int:
    stop = stop_signals()
    args = arguments()
    if args.dump:
        dump(args.dump)
    if args.delay_s > 0 and select.select([stop], [], [], args.delay_s)[0]:
        return 0
    try:
        serve(args.ipc_endpoint, args.model_name, stop)
    except zmq.ZMQError as fault:
        print(f"cannot serve on {args.ipc_endpoint}: {fault}", file=sys.stderr, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
