"""The floors, each a process of its own: `python -m bench.peers echo ENDPOINT`, `proxy FRONT BACK`.

`echo` is the smallest pyzmq ROUTER that answers: its descriptor in uvloop, recv_multipart, send_multipart.
`proxy` is libzmq's own ROUTER/DEALER proxy, everything in C.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import zmq


def echo(endpoint: str) -> None:
    import uvloop

    loop = uvloop.new_event_loop()
    socket = zmq.Context().socket(zmq.ROUTER)
    socket.set_hwm(0)  # it must not drop answers at the window of 1000
    socket.bind(endpoint)

    def drain() -> None:
        try:
            while True:
                socket.send_multipart(socket.recv_multipart(zmq.NOBLOCK))
        except zmq.Again:
            pass

    loop.add_reader(socket.getsockopt(zmq.FD), drain)
    loop.call_soon(drain)
    loop.run_forever()


def proxy(front: str, back: str) -> None:
    context = zmq.Context()
    router, dealer = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
    for socket in (router, dealer):
        socket.set_hwm(0)
    router.bind(front)
    dealer.connect(back)
    zmq.proxy(router, dealer)


@contextmanager
def running(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """One of the peers as a process, killed at the end."""
    process = subprocess.Popen([sys.executable, "-m", "bench.peers", *arguments])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    if sys.argv[1] == "echo":
        echo(sys.argv[2])
    else:
        proxy(sys.argv[2], sys.argv[3])
