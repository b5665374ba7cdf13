"""Figures of the relay: what it adds to a round trip and what it carries, against libzmq's own proxy."""

from __future__ import annotations

import os
import statistics
import tempfile
from typing import Any

from bench import daemon, machine, peers, wire
from bench.figure import Figure, interleave, median_us
from mgmt.protocol.frames import DataKind, encode_tag

MIB = 1 << 20


def relay(quick: bool) -> list[Figure]:
    """The same client and the same backend: directly, through zmq.proxy, through the daemon."""
    small = _through("bench", os.urandom(100), *((9, 100, 3000, 64) if quick else (31, 150, 5000, 64)))
    large = _through("bench-large", os.urandom(MIB), *((5, 20, 60, 4) if quick else (15, 40, 150, 4)))
    added, added_by_proxy, flow, flow_of_proxy, direct, flow_direct = small
    return [
        Figure("relay: added to a round trip, p50", "µs", added, added_by_proxy, "zmq.proxy", "ratio<=", 1.3),
        Figure("relay: requests, window 64", "1/s", flow, flow_of_proxy, "zmq.proxy", "ratio>=", 0.4),
        Figure("relay: 1 MiB echoes, window 4", "1/s", large[2], large[3], "zmq.proxy", "ratio>=", 0.7),
        Figure("relay: added to 1 MiB, p50", "µs", large[0], large[1], "zmq.proxy"),
        Figure("direct: round trip, p50", "µs", direct),
        Figure("direct: requests, window 64", "1/s", flow_direct),
    ]


def relay_one_cpu(quick: bool) -> list[Figure]:
    """The same with everything on one CPU."""
    with machine.one_cpu():
        return relay(quick)


def _through(
    model: str, payload: bytes, rounds: int, trips: int, stream: int, window: int
) -> tuple[list[float], list[float], list[float], list[float], list[float], list[float]]:
    """Samples: added µs (relay, proxy), answers a second (relay, proxy), direct µs, direct answers a second."""
    copy = len(payload) < 65536
    with daemon.running() as ours, tempfile.TemporaryDirectory() as folder:
        session = wire.Control(ours.control)
        loaded = session.call("load-model", {"model": model})
        lease = session.call("lease", {"model": model, "mode": "relay"})
        front = f"ipc://{folder}/proxy"
        with peers.running("proxy", front, loaded["endpoint"]):
            sockets = [wire.dealer(endpoint) for endpoint in (loaded["endpoint"], front, lease["endpoint"])]
            messages = [
                [encode_tag(DataKind.REQUEST, lease["lease"], number), payload] for number in range(stream)
            ]
            for socket in sockets:
                wire.send(socket, messages[0])
                answer = wire.receive(socket)
                if answer[0][:2] != bytes((1, DataKind.RESULT)) or answer[1] != payload:
                    raise RuntimeError(f"a wrong answer: {answer[0]!r}")

            def p50(socket: Any) -> float:
                return median_us(wire.round_trips(socket, messages[:trips], copy))

            def flow(socket: Any) -> float:
                return wire.pipelined(socket, messages, window, copy)

            direct, proxied, relayed = interleave(rounds, *(lambda s=s: p50(s) for s in sockets))
            flows = interleave(rounds, *(lambda s=s: flow(s) for s in sockets))
    base = statistics.median(direct)
    return (
        [us - base for us in relayed],
        [us - base for us in proxied],
        flows[2],
        flows[1],
        direct,
        flows[0],
    )
