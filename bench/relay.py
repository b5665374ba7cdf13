"""Figures of the relay: what it adds to a round trip and what it carries, against libzmq's own proxy."""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from typing import NamedTuple, TypeAlias

import zmq

from bench import daemon, machine, peers, wire
from bench.figure import Figure, interleave, median_us
from mgmt.protocol.frames import DataKind, encode_tag

MIB = 1 << 20
Socket: TypeAlias = zmq.Socket[bytes]


class Ways(NamedTuple):
    """Samples of the same requests by three ways: µs of a round trip, answers a second."""

    direct_us: list[float]
    proxy_us: list[float]
    relay_us: list[float]
    direct_per_s: list[float]
    proxy_per_s: list[float]
    relay_per_s: list[float]


def relay(quick: bool) -> list[Figure]:
    """The same client and the same backend: directly, through zmq.proxy, through the daemon."""
    return [figure for placement in machine.placements() for figure in _placed(placement, quick)]


def _placed(placement: machine.Placement, quick: bool) -> list[Figure]:
    where = placement.name
    small = _ways(
        placement, "bench", os.urandom(100), *((9, 100, 3000, 64) if quick else (31, 150, 5000, 64))
    )
    large = _ways(placement, "bench-large", os.urandom(MIB), *((5, 20, 60, 4) if quick else (15, 40, 150, 4)))

    def added(ways: Ways) -> tuple[list[float], list[float], str]:
        """What relay and proxy put on top of the direct way."""
        base = statistics.median(ways.direct_us)
        return [us - base for us in ways.relay_us], [us - base for us in ways.proxy_us], "zmq.proxy"

    return [
        Figure(f"added to a round trip, p50, {where}", "µs", *added(small), "ratio<=", 1.3),
        Figure(
            f"requests, window 64, {where}",
            "1/s",
            small.relay_per_s,
            small.proxy_per_s,
            "zmq.proxy",
            "ratio>=",
            0.4,
        ),
        Figure(
            f"1 MiB echoes, window 4, {where}",
            "1/s",
            large.relay_per_s,
            large.proxy_per_s,
            "zmq.proxy",
            "ratio>=",
            0.7,
        ),
        Figure(f"added to 1 MiB, p50, {where}", "µs", *added(large)),
        Figure(f"direct round trip, p50, {where}", "µs", small.direct_us),
        Figure(f"direct requests, window 64, {where}", "1/s", small.direct_per_s),
    ]


def _ways(
    placement: machine.Placement,
    model: str,
    payload: bytes,
    rounds: int,
    trips: int,
    stream: int,
    window: int,
) -> Ways:
    copy = len(payload) < 65536
    cpus = ",".join(map(str, sorted(placement.client)))
    with ExitStack() as stack:
        front = f"ipc://{stack.enter_context(tempfile.TemporaryDirectory())}/proxy"
        ours = stack.enter_context(daemon.running(cpus))
        machine.move(ours.pid, placement.server)
        with machine.on(placement.server):
            session = wire.Control(ours.control)
            loaded = session.call("load-model", {"model": model})
            lease = session.call("lease", {"model": model, "mode": "relay"})
            stack.enter_context(peers.running("proxy", front, loaded["endpoint"]))
        stack.enter_context(machine.on(placement.client))
        sockets = [wire.dealer(endpoint) for endpoint in (loaded["endpoint"], front, lease["endpoint"])]
        messages = [
            [encode_tag(DataKind.REQUEST, lease["lease"], number), payload] for number in range(stream)
        ]
        for socket in sockets:
            wire.send(socket, messages[0])
            answer = wire.receive(socket)
            if answer[0][:2] != bytes((1, DataKind.RESULT)) or answer[1] != payload:
                raise RuntimeError(f"a wrong answer: {answer[0]!r}")

        def p50(socket: Socket) -> Callable[[], float]:
            return lambda: median_us(wire.round_trips(socket, messages[:trips], copy))

        def flow(socket: Socket) -> Callable[[], float]:
            return lambda: wire.pipelined(socket, messages, window, copy)

        return Ways(*interleave(rounds, *map(p50, sockets)), *interleave(rounds, *map(flow, sockets)))
