"""A native backend with as little Python as possible, so that what is measured is the way to it.

It says hello and ready like any backend, then turns each request's tag into a result's and sends the message
back, behind the daemon's relay and behind a plain proxy alike.

    --setup-s X     wait between hello and ready
    --ignore-term   live on after SIGTERM
    --zero-copy     do not copy payloads (for large ones; for small ones a copy is cheaper)
"""

from __future__ import annotations

import os
import signal
import sys
import time

import msgpack
import zmq
from zmq.backend import Socket

RESULT = b"\x01\x02"  # version and kind of an answer's tag


def main() -> None:
    options = sys.argv[1:]
    if "--ignore-term" in options:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    setup_s = float(options[options.index("--setup-s") + 1]) if "--setup-s" in options else 0.0
    context = zmq.Context()
    router, daemon = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
    router.set_hwm(0)
    router.bind(os.environ["MGMT_SERVE"])
    daemon.connect(os.environ["MGMT_ENDPOINT"])
    who = {
        "unit": os.environ["MGMT_UNIT"],
        "incarnation": int(os.environ["MGMT_INCARNATION"]),
        "token": os.environ["MGMT_TOKEN"],
    }
    daemon.send(
        msgpack.packb([1, 1, 1, 0, "backend-hello", {**who, "versions": [1], "pid": os.getpid()}, 0, ""])
    )
    daemon.recv()
    time.sleep(setup_s)
    daemon.send(msgpack.packb([1, 1, 2, 0, "backend-ready", {**who, "protocols": ["msgpack"]}, 0, ""]))
    daemon.recv()
    echo_frames(router) if "--zero-copy" in options else echo_bytes(router)


def echo_bytes(router: zmq.Socket[bytes]) -> None:
    # The undecorated methods: the backend is not to be what limits the relay or the proxy.
    recv, send, get, more, again = Socket.recv, Socket.send, Socket.get, int(zmq.RCVMORE), int(zmq.SNDMORE)
    while True:
        frames = [recv(router)]
        while get(router, more):
            frames.append(recv(router))
        for frame in frames[:-2]:
            send(router, frame, again)
        send(router, RESULT + frames[-2][2:], again)
        send(router, frames[-1])


def echo_frames(router: zmq.Socket[bytes]) -> None:
    while True:
        frames = router.recv_multipart(copy=False)
        tag = RESULT + frames[-2].bytes[2:]
        router.send_multipart([*frames[:-2], tag, frames[-1]], copy=False)


if __name__ == "__main__":
    main()
