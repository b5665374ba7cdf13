"""A daemon with keys and its agents, each a machine of a network of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

import zmq

from mgmt.protocol import keys
from mgmt.protocol.keys import Grant
from tests.system.agents import TIMING, Agent, becomes
from tests.system.daemon import Daemon
from tests.system.netns import Host, Network

PORT = 7412

S = TypeVar("S", bound="Site")


class Site:
    """The daemon is on `here`; `join` adds machines with an agent. Everything ends with the stack."""

    def __init__(self, stack: ExitStack, **settings: Any) -> None:
        self._stack = stack
        self.network = stack.enter_context(Network())
        self.here = self.network.attach()
        self.hosts: dict[str, Host] = {}
        self.agents: dict[str, Agent] = {}
        self.endpoint = f"tcp://{self.here.address}:{PORT}"
        self.daemon = Daemon()
        self.keys = keys.keys_dir(self.daemon.state_dir)
        endpoints = {"nodes": self.endpoint}
        self.daemon.configure({"model_backends": {}, "endpoints": endpoints, "timing": TIMING, **settings})
        self.daemon.wrapper = self.here.enter
        stack.enter_context(self.daemon)
        self.server_key = keys.own_pairs(self.keys, zmq.curve_keypair).public
        self.daemon.start()

    def key_options(self, name: str) -> tuple[str, ...]:
        """What an agent of that name says on its command line; its key is made and allowed."""
        path = self.daemon.folder / f"key-of-{name}" / f"{name}.key"
        if path.exists():
            return ("--key", str(path), "--server-key", self.server_key)
        pair = keys.new_pair(zmq.curve_keypair, name, f"agent:{name}", "")
        with keys.changing(self.keys) as grants:
            keys.allow(grants, Grant(pair.public, pair.role, name))
        keys.write_pair(path.parent, pair)
        return self.key_options(name)

    def host(self, name: str, *, wire: bool = True) -> Host:
        host = self.hosts[name] = self.network.attach(wire=wire)
        return host

    def agent(self, name: str, host: Host, options: tuple[str, ...], *arguments: str) -> Agent:
        """One that is not started yet."""
        agent = Agent(self.endpoint, name, *options, "--policy", "any", *arguments)
        agent.wrapper = host.enter
        self._stack.enter_context(agent)
        return agent

    def join(self, name: str, *arguments: str, wire: bool = True) -> Agent:
        """A machine of its own whose agent is ALIVE."""
        agent = self.agent(name, self.host(name, wire=wire), self.key_options(name), *arguments)
        self.agents[name] = agent
        agent.start()
        becomes(self.daemon, name, "ALIVE")
        return agent

    def mend(self) -> None:
        """Every link as good as new, and every node there."""
        for name, host in self.hosts.items():
            if host.wire is not None:
                host.wire.heal()
            host.link("up")
            self.network.port(host, "up")
            if name in self.agents:
                becomes(self.daemon, name, "ALIVE")


@contextmanager
def site(kind: type[S], **settings: Any) -> Iterator[S]:
    """A Site of this class."""
    with ExitStack() as stack:
        yield kind(stack, **settings)
