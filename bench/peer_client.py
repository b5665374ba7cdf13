"""A supervisor's own client library in its own interpreter: `mgmt|circus|supervisord ADDRESS NAME...`.

One verb a line on standard input, one line of JSON on standard output:

    status      all, in the words of the library
    start       start all (mgmt: those NAMEs), do not wait
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


def mgmt(address: str) -> Verbs:
    from mgmt.client import Client

    client, names = Client(address), sys.argv[3:]
    return {
        "status": lambda: client.request("status")["units"],
        "start": lambda: client.request("start", {"targets": names, "wait": False}),
        "stop": lambda: client.request("stop", {"targets": names}),
    }


def circus(address: str) -> Verbs:
    from circus.client import CircusClient

    client = CircusClient(endpoint=address, timeout=120)

    def stop() -> Any:
        # It refuses while the start still goes on, although every program runs.
        while (reply := client.send_message("stop", waiting=True))["status"] != "ok":
            time.sleep(0.05)
        return reply

    return {
        "status": lambda: client.send_message("status")["statuses"],
        "start": lambda: client.send_message("start", waiting=False),
        "stop": stop,
    }


def supervisord(address: str) -> Verbs:
    from xmlrpc.client import ServerProxy

    from supervisor.xmlrpc import SupervisorTransport

    # The first address is not used: the transport has the socket's.
    api: Any = ServerProxy("http://127.0.0.1", transport=SupervisorTransport(None, None, address)).supervisor
    return {
        "status": api.getAllProcessInfo,
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
    verbs = {"mgmt": mgmt, "circus": circus, "supervisord": supervisord}[sys.argv[1]](sys.argv[2])
    for line in sys.stdin:
        word, *rest = line.split()
        told = timed(verbs["status"], int(rest[0])) if word == "time" else verbs[word]()
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
