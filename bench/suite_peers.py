"""Task queues that others wrote, in their own interpreter: `dask|huey|hyperqueue COUNT ROUNDS FOLDER`.

Prints a JSON list: tasks per second of each round, from the first submission until all have ended.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

Round = Callable[[], None]
WORKERS = 2


def nothing(_: int) -> None:
    """What a task of dask and huey calls."""


def dask(count: int, folder: Path) -> Round:
    """Two worker processes of one thread each; nothing is durable."""
    from distributed import Client, LocalCluster, wait

    cluster = LocalCluster(
        n_workers=WORKERS,
        threads_per_worker=1,
        processes=True,
        dashboard_address=None,
        local_directory=str(folder),
    )
    client = Client(cluster)
    wait(client.map(nothing, range(100), pure=False))
    return lambda: wait(client.map(nothing, range(count), pure=False))


def huey(count: int, folder: Path) -> Round:
    """Enqueued, then dequeued and executed by the same process: nothing is waited for but the disk."""
    from huey import SqliteHuey

    queue = SqliteHuey(filename=str(folder / "huey.db"), fsync=True)
    task = queue.task()(nothing)

    def once() -> None:
        for number in range(count):
            task(number)
        for _ in range(count):
            queue.execute(queue.dequeue())

    return once


def hyperqueue(count: int, folder: Path) -> Round:
    """Server and one worker with two cores in this process; a job of so many /bin/true."""
    from hyperqueue import Job, LocalCluster
    from hyperqueue.cluster import WorkerConfig

    client = LocalCluster(str(folder), WorkerConfig(cores=WORKERS)).client()

    def once() -> None:
        job = Job(str(folder))
        for _ in range(count):
            job.program(["/bin/true"], stdout=None, stderr=None)
        client.wait_for_jobs([client.submit(job)])

    return once


def main() -> None:
    name, count, rounds, folder = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
    once = {"dask": dask, "huey": huey, "hyperqueue": hyperqueue}[name](count, folder)
    rates = []
    for _ in range(rounds):
        started_s = time.perf_counter()
        once()
        rates.append(count / (time.perf_counter() - started_s))
    print(json.dumps(rates), flush=True)


if __name__ == "__main__":
    main()
