"""A backend that misbehaves on purpose, one way per mode; between its faults it echoes.

    python -m mgmt_backends.faulty --mode MODE [flags]

The flags of a mode are in `--help`. What it starts beside itself is named on its standard output.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import NoReturn
from unittest import mock

import zmq

from mgmt.protocol import frames
from mgmt.serve import Handler, Place, serve

GARBAGE = (
    b"",
    b"\x00",
    b"\xc1",  # the one byte msgpack never uses
    b"\xff" * 64,
    b"\xdd\xff\xff\xff\xff",  # an array of four billion elements
    b"\x91" * 500 + b"\x00",  # nested deeper than any limit
    frames.pack([frames.VERSION, 9, 1, 0, "status", {}]),  # no such kind
    frames.pack([frames.VERSION, 1, 1, 0, "backend-ready", {"unit": 7}, 0, ""]),  # a body of wrong types
)


def crash() -> NoReturn:
    """End by a real SIGSEGV, as a fault in native code does."""
    import ctypes

    ctypes.string_at(0)
    raise AssertionError("reading address 0 succeeded")


def after(delay_s: float, action: Callable[[], None]) -> None:
    """Do it `delay_s` from now, in a thread of its own."""
    timer = threading.Timer(delay_s, action)
    timer.daemon = True
    timer.start()


def echo(payload: list[bytes]) -> list[bytes]:
    return payload


class Modes:
    """One method per mode: start serving, wrongly, and return the exit status."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args

    def _serve(self, setup: Callable[[], None] | None = None, handler: Handler = echo) -> int:
        return serve(handler, setup=setup)

    def _die(self) -> NoReturn:
        print(f"dying with status {self.args.code}", flush=True)
        os._exit(self.args.code)

    def dies_before_ready(self) -> int:
        """--delay-s, --code"""

        def setup() -> None:
            threading.Event().wait(self.args.delay_s)
            self._die()

        return self._serve(setup)

    def dies_after_ready(self) -> int:
        """--delay-s, --code"""
        # From inside setup the process is not ready yet; the delay is what makes it "after".
        return self._serve(lambda: after(self.args.delay_s, self._die))

    def dies_mid_reply(self) -> int:
        """Takes a request and dies instead of answering; --code"""

        def handler(payload: list[bytes]) -> list[bytes]:
            self._die()

        return self._serve(handler=handler)

    def hangs(self) -> int:
        """Ready, heartbeats on time, no request ever answered; SIGTERM waits for the answer"""

        def handler(payload: list[bytes]) -> list[bytes]:
            threading.Event().wait()
            raise AssertionError("an event nobody sets was set")

        return self._serve(handler=handler)

    def hangs_before_ready(self) -> int:
        """Says hello and never ready"""

        def setup() -> None:
            threading.Event().wait()

        return self._serve(setup)

    def floods_stdout(self) -> int:
        """Writes 64 KiB blocks of lines as fast as they are taken, for a minute"""
        block = ("x" * 127 + "\n") * 512

        def flood() -> None:
            end_s = time.monotonic() + 60
            while time.monotonic() < end_s:
                sys.stdout.write(block)

        return self._serve(lambda: after(0, flood))

    def ignores_sigterm(self) -> int:
        """Only SIGKILL ends it"""
        # Blocked before any thread starts, so that every thread inherits it.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
        return self._serve()

    def bad_frames(self) -> int:
        """Sends garbage to the daemon, then serves and answers each request with garbage"""

        def setup() -> None:
            place = Place.of()
            with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
                socket.linger = 1000
                socket.connect(place.endpoint)
                for frame in GARBAGE:
                    socket.send(frame)
                socket.send_multipart([b"two", b"frames"])

        with mock.patch.object(frames, "answer_tag", lambda tag, kind: b"\xc1" * 7):
            return self._serve(setup)

    def wrong_version(self) -> int:
        """Speaks protocol version 99; exits 1 when it is refused"""
        place = Place.of()
        body = {
            "versions": [99],
            "unit": place.unit,
            "incarnation": place.incarnation,
            "token": place.token,
            "pid": os.getpid(),
        }
        with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
            socket.linger = 0
            socket.connect(place.endpoint)
            socket.send(frames.encode_request(1, 0, "backend-hello", body))
            reply = frames.decode(socket.recv_multipart())
        print(f"refused: {reply}", file=sys.stderr, flush=True)
        return 1

    def forks(self) -> int:
        """Leaves --count grandchildren behind, each in a session of its own and deaf to SIGTERM"""

        def setup() -> None:
            deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(1e6)"
            for _ in range(self.args.count):
                child = subprocess.Popen([sys.executable, "-Ic", deaf], start_new_session=True)
                print(f"grandchild {child.pid}", flush=True)

        return self._serve(setup)

    def segfault(self) -> int:
        """At the first request"""

        def handler(payload: list[bytes]) -> list[bytes]:
            crash()

        return self._serve(handler=handler)

    def slow_ready(self) -> int:
        """--delay-s"""

        def setup() -> None:
            threading.Event().wait(self.args.delay_s)

        return self._serve(setup)


def main() -> int:
    modes = {
        name.replace("_", "-"): (method.__doc__ or "").strip()
        for name, method in vars(Modes).items()
        if callable(method) and not name.startswith("_")
    }
    parser = argparse.ArgumentParser(
        prog="mgmt_backends.faulty",
        description="A backend that misbehaves on purpose.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="modes:\n" + "\n".join(f"  {name:20}{text}" for name, text in modes.items()),
    )
    parser.add_argument("--mode", required=True, choices=modes, metavar="MODE")
    parser.add_argument("--delay-s", type=float, default=0.1, metavar="X", help="(default: 0.1)")
    parser.add_argument("--code", type=int, default=3, metavar="N", help="exit status (default: 3)")
    parser.add_argument("--count", type=int, default=2, metavar="N", help="(default: 2)")
    args = parser.parse_args()
    status: int = getattr(Modes(args), args.mode.replace("-", "_"))()
    return status


if __name__ == "__main__":
    sys.exit(main())
