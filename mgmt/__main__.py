"""`python -m mgmt`: arguments, settings, build, run, exit status. The daemon in the foreground."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mgmt import config
from mgmt.protocol import places
from mgmt.protocol.errors import Exit, MgmtError
from mgmt.shell.daemon import Daemon
from mgmt.shell.logging import set_up

LEVELS = ("TRACE", "DEBUG", "INFO", "WARNING", "WARN", "ERROR")


def main(argv: Sequence[str] | None = None) -> int:
    """0 after an orderly stop, 1 when it cannot start, 2 for wrong arguments or configuration."""
    parser = argparse.ArgumentParser(prog="python -m mgmt", description="The mgmt daemon, in the foreground.")
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="configuration instead of the searched one"
    )
    parser.add_argument("--backend-path", type=Path, metavar="DIR", help="folder searched first for backends")
    parser.add_argument(
        "--log-level", type=str.upper, choices=LEVELS, help="outranks the configuration's level"
    )
    arguments = parser.parse_args(argv)
    runtime, state_dir = places.runtime_dir(), places.state_dir()
    try:
        loaded = config.load(arguments.config, runtime=runtime, state=state_dir)
        set_up(loaded.settings.logging, arguments.log_level)
        backend_path = arguments.backend_path.absolute() if arguments.backend_path is not None else None
        daemon = Daemon(loaded, backend_path, runtime, state_dir)
    except MgmtError as error:
        print(f"error: {error.text}", file=sys.stderr)
        return Exit.USAGE if error.code == "bad-config" else Exit.FAILED
    except OSError as error:
        print(f"error: cannot start: {error.filename or 'system call'}: {error.strerror}", file=sys.stderr)
        return Exit.FAILED
    daemon.run()
    return Exit.OK


if __name__ == "__main__":
    sys.exit(main())
