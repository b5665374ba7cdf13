"""`python -m mgmt`: arguments, settings, build, run, exit status. The daemon in the foreground."""

from __future__ import annotations

import argparse
import platform
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mgmt import config
from mgmt.protocol import defaults, places, tokens
from mgmt.protocol.errors import Exit, MgmtError
from mgmt.protocol.keys import Credentials, credentials
from mgmt.protocol.messages_suites import IndependentWorker
from mgmt.shell import agent as agents
from mgmt.shell.daemon import Daemon
from mgmt.shell.logging import set_up

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+:-]*")
LEVELS = ("TRACE", "DEBUG", "INFO", "WARNING", "WARN", "ERROR")


def main(argv: Sequence[str] | None = None) -> int:
    """0 after an orderly stop, 1 when it cannot start, 2 for wrong arguments or configuration, 6 without a key."""
    parser = argparse.ArgumentParser(prog="python -m mgmt", description="The mgmt daemon, in the foreground.")
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="configuration instead of the searched one"
    )
    parser.add_argument("--backend-path", type=Path, metavar="DIR", help="folder searched first for backends")
    parser.add_argument(
        "--log-level", type=str.upper, choices=LEVELS, help="outranks the configuration's level"
    )
    parser.add_argument(
        "--insecure", action="store_true", help="tcp without keys: whoever reaches it may do everything"
    )
    joins = parser.add_argument_group("agent", "serve another daemon instead of a configuration")
    joins.add_argument(
        "--join", metavar="ENDPOINT", help="`endpoints.nodes` of that daemon; makes this an agent"
    )
    joins.add_argument("--name", help="name of the node; the machine's when absent")
    joins.add_argument("--tag", action="append", default=[], help="what the node is; may be repeated")
    joins.add_argument("--label", action="append", default=[], metavar="KEY=VALUE", help="may be repeated")
    joins.add_argument(
        "--state-dir", type=Path, metavar="DIR", help="what survives; its sockets are in DIR/run"
    )
    joins.add_argument("--key", metavar="FILE", help="key of this agent, for tcp")
    joins.add_argument("--server-key", metavar="KEY", help="public key of that daemon, or a file with it")
    joins.add_argument(
        "--policy", metavar="FILE", help="what may be run here; policy.json of the state folder; `any`"
    )
    joins.add_argument("--token-file", metavar="FILE", help="a token of this node, of the user who brings it")
    joins.add_argument(
        "--group",
        action="append",
        default=[],
        metavar="NAME[:ROLE]",
        help="may use the node; may be repeated",
    )
    joins.add_argument("--worker", action="store_true", help="an independent worker of tasks, and no node")
    joins.add_argument("--workers", type=int, default=1, metavar="N", help="tasks at a time")
    joins.add_argument("--kind", choices=("process", "resident"), default="process", help="what runs tasks")
    joins.add_argument("--prefetch", type=int, default=defaults.TASK_PREFETCH, metavar="N")
    joins.add_argument("--join-timeout", type=float, metavar="S", help="end when not joined within this time")
    joins.add_argument("--lifetime", type=float, metavar="S", help="seconds after which it ends by itself")
    arguments = parser.parse_args(argv)
    runtime, state_dir = places.runtime_dir(), places.state_dir()
    try:
        agent = None
        if arguments.join is not None:
            agent = _agent(arguments)
            worker = agent.name if agent.worker is not None else None
            runtime, state_dir = agents.folders(arguments.state_dir, worker=worker)
            loaded = agents.settings(runtime, state_dir)
        else:
            loaded = config.load(
                arguments.config, runtime=runtime, state=state_dir, insecure=arguments.insecure
            )
        set_up(loaded.settings.logging, arguments.log_level)
        backend_path = arguments.backend_path.absolute() if arguments.backend_path is not None else None
        daemon = Daemon(loaded, backend_path, runtime, state_dir, agent)
    except MgmtError as error:
        print(f"error: {error.text}", file=sys.stderr)
        return error.row.exit if error.code in ("bad-config", "not-authorised") else Exit.FAILED
    except OSError as error:
        print(f"error: cannot start: {error.filename or 'system call'}: {error.strerror}", file=sys.stderr)
        return Exit.FAILED
    return daemon.run()


def _agent(arguments: argparse.Namespace) -> agents.AgentOptions:
    """MgmtError `bad-config` names the option that is wrong."""
    host = platform.node().partition(".")[0]
    name = arguments.name or (f"{host}-worker" if arguments.worker else host)
    labels = dict(label.partition("=")[::2] for label in arguments.label)
    for what, values in (("--name", [name]), ("--tag", arguments.tag), ("--label", labels)):
        for value in values:
            if not NAME.fullmatch(value) or len(value) > defaults.MAX_NAME_CHARS:
                text = (
                    f"{what} {value!r}: must start with a letter or digit, then letters, digits and . _ + : -"
                )
                raise MgmtError("bad-config", text)
    join = endpoint_of(arguments.join)
    token = tokens.find(arguments.token_file)
    if arguments.group and token is None and not join.startswith("ipc://"):
        kind = "--scope worker" if arguments.worker else "--node NODE"
        text = f"--group: takes --token-file with a token of whoever brings it (`mgmt user token new NAME {kind}`)"
        raise MgmtError("bad-config", text)
    return agents.AgentOptions(
        join=join,
        name=name,
        tags=tuple(dict.fromkeys(arguments.tag)),
        labels=labels,
        credentials=_credentials(arguments, join),
        policy=Path(arguments.policy) if arguments.policy not in (None, "any") else None,
        any_policy=arguments.policy == "any",
        token=token,
        groups=tuple(dict.fromkeys(arguments.group)),
        worker=_worker(arguments) if arguments.worker else None,
        join_s=arguments.join_timeout,
    )


def _worker(arguments: argparse.Namespace) -> dict[str, Any]:
    """What an independent worker runs; MgmtError `bad-config` names the option that is wrong."""
    told = {
        "worker_count": arguments.workers,
        "kind": arguments.kind,
        "task_prefetch_count": arguments.prefetch,
        "lifetime_s": arguments.lifetime,
    }
    try:
        return IndependentWorker.model_validate(told).model_dump()
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        option = {
            "worker_count": "--workers",
            "task_prefetch_count": "--prefetch",
            "lifetime_s": "--lifetime",
        }
        raise MgmtError(
            "bad-config", f"{option.get(str(first['loc'][0]), '--kind')}: {first['msg']}"
        ) from None


def _credentials(arguments: argparse.Namespace, join: str) -> Credentials | None:
    """MgmtError `not-authorised` when there are none for a tcp endpoint, and nobody said that this is meant."""
    if not join.startswith("tcp://") or arguments.insecure:
        return None
    found = credentials(arguments.server_key, arguments.key)
    if found is None:
        text = (
            f"--join {join}: the daemon there wants a key of this agent. On its machine, `mgmt keys new NAME "
            "--role agent:NODE --allow` makes one, and `mgmt keys show` prints the daemon's own; give both with "
            "--key FILE and --server-key KEY. --insecure joins without, where the daemon is as open"
        )
        raise MgmtError("not-authorised", text)
    return found


def endpoint_of(text: str) -> str:
    """MgmtError `bad-config` when it is no endpoint that can be joined."""
    if not re.fullmatch(r"ipc:///.+|tcp://(?:\[[0-9A-Fa-f:.%a-z]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}", text):
        raise MgmtError("bad-config", f"--join {text!r}: write tcp://HOST:PORT or ipc:///absolute/path")
    return text


if __name__ == "__main__":
    sys.exit(main())
