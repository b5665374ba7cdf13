"""The smallest supervisor of this design, `python -m bench.mini COUNT`: uvloop, pidfds, posix_spawn, nothing else.

It keeps no record, captures no output and answers nobody: the floor of what a restart takes.
"""

from __future__ import annotations

import os
import sys

import uvloop

COMMAND = ["/bin/sleep", "infinity"]


def main(count: int) -> None:
    loop = uvloop.new_event_loop()

    def start() -> None:
        pidfd = os.pidfd_open(os.posix_spawn(COMMAND[0], COMMAND, os.environ))
        loop.add_reader(pidfd, on_end, pidfd)

    def on_end(pidfd: int) -> None:
        loop.remove_reader(pidfd)
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
        os.close(pidfd)
        start()

    for _ in range(count):
        start()
    loop.run_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]))
