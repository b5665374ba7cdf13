"""Figures of the control plane: round trips, throughput, handshakes, and the tail while others are busy."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import TypeAlias

import msgpack
import zmq

from bench import daemon, machine, peers, wire
from bench.figure import Figure, interleave, median_us, percentile

Socket: TypeAlias = zmq.Socket[bytes]
PAYLOAD = bytes(msgpack.packb({"floor": "x" * 91}))  # 100 bytes


def control(quick: bool) -> list[Figure]:
    """`status` and hello on one DEALER against the smallest pyzmq echo; the legacy planes beside it."""
    return [figure for placement in machine.placements() for figure in _placed(placement, quick)]


def _placed(placement: machine.Placement, quick: bool) -> list[Figure]:
    rounds, trips, stream = (9, 100, 3000) if quick else (31, 150, 5000)
    with ExitStack() as stack:
        endpoint = f"ipc://{stack.enter_context(tempfile.TemporaryDirectory())}/echo"
        with machine.on(placement.server):
            ours = stack.enter_context(daemon.running())
            stack.enter_context(peers.running("echo", endpoint))
        stack.enter_context(machine.on(placement.client))
        floor = wire.dealer(endpoint)
        native, hello = wire.Control(ours.control), wire.Control(ours.control)
        commands, handshake = wire.Legacy(ours.commands), wire.dealer(ours.handshake)
        statuses = [[native.frame("status")] for _ in range(stream)]
        hellos = [[hello.frame("hello", {"versions": [1], "name": "bench"}, 0)] for _ in range(trips)]
        json_status = [[wire.Legacy.frame("status")]] * stream
        floor_messages, empty = [[PAYLOAD]] * stream, [[b""]] * trips

        def p50(socket: Socket, messages: list[list[bytes]]) -> Callable[[], float]:
            return lambda: median_us(wire.round_trips(socket, messages[:trips]))

        def flow(socket: Socket, messages: list[list[bytes]], window: int) -> Callable[[], float]:
            return lambda: wire.pipelined(socket, messages, window)

        def fresh(endpoint: str, message: wire.Message) -> Callable[[], float]:
            """The median of a few requests, each on a connection of its own."""

            def once() -> float:
                start = time.perf_counter()
                socket = wire.dealer(endpoint)
                wire.send(socket, message)
                wire.receive(socket)
                socket.close(0)
                return time.perf_counter() - start

            return lambda: median_us([once() for _ in range(20)])

        base, status, hello_us, legacy_hello, legacy_status = interleave(
            rounds,
            p50(floor, floor_messages),
            p50(native.socket, statuses),
            p50(hello.socket, hellos),
            p50(handshake, empty),
            p50(commands.socket, json_status),
        )
        where = placement.name
        figures = [
            Figure(f"status round trip, p50, {where}", "µs", status, base, "echo", "ratio<=", 1.6),
            Figure(f"handshake (hello), p50, {where}", "µs", hello_us, base, "echo", "ratio<=", 1.8),
            Figure(f"legacy handshake, p50, {where}", "µs", legacy_hello, base, "echo"),
            Figure(f"legacy JSON status, p50, {where}", "µs", legacy_status, base, "echo"),
        ]
        for window in (64, 1000):
            base, status, legacy_status = interleave(
                rounds,
                flow(floor, floor_messages, window),
                flow(native.socket, statuses, window),
                flow(commands.socket, json_status, window),
            )
            name = f"status, window {window}, {where}"
            figures += [
                Figure(name, "1/s", status, base, "echo", "ratio>=", 0.45),
                Figure(f"legacy JSON {name}", "1/s", legacy_status, base, "echo"),
            ]
        base, status = interleave(rounds, fresh(endpoint, [PAYLOAD]), fresh(ours.commands, json_status[0]))
        figures.append(Figure(f"legacy status, new connection, p50, {where}", "µs", status, base, "echo"))
    return figures


def tail(quick: bool) -> list[Figure]:
    """p99 of `status` while ten loads are under way, and while a backend that ignores SIGTERM is stopped."""
    rounds = 2 if quick else 5
    with daemon.running() as ours, tempfile.TemporaryDirectory() as folder:
        endpoint = f"ipc://{folder}/echo"
        with peers.running("echo", endpoint):
            floor = wire.dealer(endpoint)
            reader, driver = wire.Control(ours.control), wire.Control(ours.control)
            statuses = [[reader.frame("status")] for _ in range(64)]
            echoes = [[PAYLOAD]] * 64
            status_s: list[float] = []
            idle: list[float] = []
            idle_floor: list[float] = []
            samples: dict[str, list[float]] = {"load": [], "load floor": [], "stop": [], "stop floor": []}
            worst_ms: list[float] = []

            def watch(busy: Callable[[], bool]) -> tuple[float, float]:
                """p99 in µs of status and of the floor, taking turns, for as long as something is busy."""
                nonlocal status_s
                status_s = []
                floor_s: list[float] = []
                while busy():
                    status_s += wire.round_trips(reader.socket, statuses)
                    floor_s += wire.round_trips(floor, echoes)
                return percentile(status_s, 0.99) * 1e6, percentile(floor_s, 0.99) * 1e6

            def finished(wanted: int) -> Callable[[], bool]:
                """Busy until the driver has so many answers."""
                seen = 0

                def busy() -> bool:
                    nonlocal seen
                    while seen < wanted and driver.socket.poll(0):
                        driver.answer()
                        seen += 1
                    return seen < wanted

                return busy

            def for_s(length_s: float) -> Callable[[], bool]:
                end = time.monotonic() + length_s
                return lambda: time.monotonic() < end

            for _ in range(rounds):
                for into, value in zip((idle, idle_floor), watch(for_s(1.0)), strict=True):
                    into.append(value)
                for n in range(10):
                    driver.ask("load-model", {"model": f"slow-{n}"})
                ours_us, floor_us = watch(finished(10))
                worst_ms.append(max(status_s) * 1e3)
                samples["load"].append(ours_us)
                samples["load floor"].append(floor_us)
                for n in range(10):
                    driver.call("unload-model", {"model": f"slow-{n}"})
                driver.call("load-model", {"model": "stubborn-0"})
                driver.ask("unload-model", {"model": "stubborn-0"})
                ours_us, floor_us = watch(finished(1))
                samples["stop"].append(ours_us)
                samples["stop floor"].append(floor_us)
    return [
        Figure("status p99, ten loads under way", "µs", samples["load"], idle, "idle", "ratio<=", 3),
        Figure("status p99, a stop waits for its grace", "µs", samples["stop"], idle, "idle", "ratio<=", 3),
        Figure("status worst, ten loads under way", "ms", worst_ms, sense="value<", goal=50),
        Figure("echo p99, ten loads under way", "µs", samples["load floor"], idle_floor, "idle echo"),
        Figure("echo p99, a stop waits for its grace", "µs", samples["stop floor"], idle_floor, "idle echo"),
    ]
