"""A peer's own client library, run by the peer's own interpreter: `peer_client.py circus|supervisord ADDRESS`.

One verb a line on standard input, one line of JSON on standard output:

    status      names and states of all
    start       start all, do not wait
    stop        stop all, and wait
    time N      seconds of each of N status requests
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

Verbs = dict[str, Callable[[], Any]]


def circus(address: str) -> Verbs:
    from circus.client import CircusClient

    client = CircusClient(endpoint=address, timeout=120)
    return {
        "status": lambda: client.send_message("status")["statuses"],
        "start": lambda: client.send_message("start", waiting=False),
        "stop": lambda: client.send_message("stop", waiting=True),
    }


def supervisord(address: str) -> Verbs:
    from xmlrpc.client import ServerProxy

    from supervisor.xmlrpc import SupervisorTransport

    # The address in the first argument is not used: the transport has the socket's.
    api: Any = ServerProxy("http://127.0.0.1", transport=SupervisorTransport(None, None, address)).supervisor
    return {
        "status": lambda: {info["name"]: info["statename"] for info in api.getAllProcessInfo()},
        "start": lambda: len(api.startAllProcesses(False)),
        "stop": lambda: len(api.stopAllProcesses(True)),
    }


def timed(call: Callable[[], Any], count: int) -> list[float]:
    durations = []
    for _ in range(count):
        start = time.perf_counter()
        call()
        durations.append(time.perf_counter() - start)
    return durations


def main() -> None:
    verbs = {"circus": circus, "supervisord": supervisord}[sys.argv[1]](sys.argv[2])
    for line in sys.stdin:
        word, *rest = line.split()
        told = timed(verbs["status"], int(rest[0])) if word == "time" else verbs[word]()
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
