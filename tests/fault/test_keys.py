"""P9: a wrong key is an error on both sides within two seconds, never silence; roles and revocations hold."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import zmq

from mgmt.client import AsyncClient, Client
from mgmt.protocol import curve, frames, keys
from mgmt.protocol.errors import Exit, MgmtError
from mgmt.protocol.keys import Credentials, Grant, KeyFile
from tests.system.agents import Agent
from tests.system.clients import Native, eventually
from tests.system.daemon import Config, Daemon, config, shipped

TOLD_S = 2.0  # how soon somebody hears that a key is wrong
HOST = "127.0.0.1"

pytestmark = pytest.mark.skipif(not curve.is_available(), reason="this libzmq has no CURVE")


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.create_server((HOST, 0))) for _ in range(count)]
        return [int(probe.getsockname()[1]) for probe in probes]


def a_pair(name: str, role: str = keys.CLIENT) -> KeyFile:
    return keys.new_pair(zmq.curve_keypair, name, role, "")


class Guarded(Daemon):
    """A daemon with all its own endpoints on tcp; the fixture's connections have the local operator's key."""

    def __init__(self, settings: Config, *arguments: str) -> None:
        super().__init__(None, *arguments)
        self.control_port, relay, self.nodes_port = free_ports(3)
        endpoints = {
            "control": f"tcp://{HOST}:{self.control_port}",
            "relay": f"tcp://0.0.0.0:{relay}",
            "nodes": f"tcp://{HOST}:{self.nodes_port}",
            **settings.pop("endpoints", {}),
        }
        self.configure({**settings, "endpoints": endpoints})
        self.keys = keys.keys_dir(self.state_dir)
        self.server = keys.own_pairs(self.keys, zmq.curve_keypair).public
        self.local = keys.read_pair(self.keys / "local.key")

    def endpoint(self, key: str) -> str:
        told = self.config["endpoints"].get(key)
        return str(told) if told is not None and told.startswith("tcp://") else super().endpoint(key)

    def native(self, *, hello: bool = True, identity: bytes | None = None, **options: int) -> Native:
        return self.as_key(self.local, hello=hello, identity=identity)

    def as_key(
        self, pair: KeyFile, *, hello: bool = True, identity: bytes | None = None, at: str = "control"
    ) -> Native:
        """A raw connection with this key."""
        told: dict[str, Any] = {
            "CURVE_SERVERKEY": self.server.encode(),
            "CURVE_PUBLICKEY": pair.public.encode(),
            "CURVE_SECRETKEY": pair.secret.encode(),
        }
        peer = self.keep(Native(self.context, self.endpoint(at), identity, **told))
        if hello:
            peer.hello()
        return peer

    def allow(self, pair: KeyFile, role: str) -> Credentials:
        """Let a key in; the credentials of its owner."""
        with keys.changing(self.keys) as grants:
            keys.allow(grants, Grant(pair.public, role, pair.name))
        return Credentials(self.server, pair.public, pair.secret)

    def revoke(self, name: str) -> None:
        with keys.changing(self.keys) as grants:
            keys.revoke(grants, name)

    def client(self, credentials: Credentials | None, **keys: Any) -> Client:
        return Client(self.endpoint("control"), credentials=credentials, **keys)


Start = Callable[..., Guarded]


@contextmanager
def guarded() -> Iterator[Start]:
    with ExitStack() as stack:

        def start(*arguments: str, **settings: Any) -> Guarded:
            whole = config({"echo": shipped("echo")}, **settings)
            daemon = Guarded(whole, *arguments)
            stack.enter_context(daemon)
            daemon.start()
            return daemon

        yield start


@pytest.fixture(scope="module")
def service() -> Iterator[Guarded]:
    """One daemon for the tests that only ask it."""
    with guarded() as start:
        yield start()


@pytest.fixture
def start() -> Iterator[Start]:
    with guarded() as make:
        yield make


def refusal(call: Callable[[], object], code: str = "not-authorised", within_s: float = TOLD_S) -> MgmtError:
    """The error of a call that is refused in time."""
    began_s = time.monotonic()
    with pytest.raises(MgmtError) as refused:
        call()
    took_s = time.monotonic() - began_s
    assert refused.value.code == code, refused.value.text
    assert took_s < within_s, f"{took_s:.2f} s: {refused.value.text}"
    return refused.value


def says(daemon: Daemon, words: str) -> None:
    """The daemon's log has these words in time."""
    eventually(lambda: words in daemon.log(), TOLD_S, f"the daemon logs {words!r}: {daemon.log()}")


# ---- a key that is wrong, on both sides --------------------------------------------------------------------


def test_a_right_key_is_let_in(service: Guarded) -> None:
    mine = service.allow(a_pair("alice"), keys.OPERATOR)
    with service.client(mine) as client, client.model("echo", mode="relay", load=True) as model:
        assert client.request("status")["service"]["state"] == "running"
        assert model.ask({"a": 1}) == {"a": 1}  # through the relay, whose endpoint names no address

    async def ask() -> Any:
        async with AsyncClient(service.endpoint("control"), credentials=mine) as client:
            return await client.model("echo", mode="relay").ask("x")

    assert asyncio.run(ask()) == "x"


def test_a_wrong_server_key_is_told_to_both(service: Guarded) -> None:
    mine = service.allow(a_pair("bob"), keys.OPERATOR)
    wrong = Credentials(a_pair("other").public, mine.public, mine.secret)
    with service.client(wrong) as client:
        assert "another server key" in refusal(lambda: client.request("status")).text
        # And again: a refusal is not the end of the client, and no later request waits in silence.
        refusal(lambda: client.request("status"))
    says(service, "it was made for another server key than this daemon's")


def test_a_key_that_is_not_allowed_is_told_to_both(service: Guarded) -> None:
    stranger = a_pair("stranger")
    with service.client(Credentials(service.server, stranger.public, stranger.secret)) as client:
        error = refusal(lambda: client.request("status"))
        assert stranger.public in error.text and "mgmt keys allow" in error.text
        for _ in range(3):
            refusal(lambda: client.request("status"))
    says(service, f"the key {stranger.public} from 127.0.0.1 is not allowed here")
    assert service.log().count(stranger.public) == 1  # and not once for each attempt


def test_no_key_is_told_to_both(service: Guarded) -> None:
    with service.client(None) as client:
        assert "wants a key" in refusal(lambda: client.request("status")).text
        with client.model("echo", mode="relay") as model:
            refusal(lambda: model.ask(1))
        refusal(lambda: list(client.events()))

    def told() -> bool:
        """libzmq says nothing of a connection whose other side saw the difference first, and closed it."""
        with service.client(None) as client:
            refusal(lambda: client.request("status"))
        return "the other side uses no key" in service.log()

    eventually(told, what="the daemon logs that the other side uses no key")


def test_the_asyncio_client_hears_it_as_well(service: Guarded) -> None:
    async def ask(credentials: Credentials | None) -> None:
        async with AsyncClient(service.endpoint("control"), credentials=credentials) as client:
            await client.request("status")

    pair = a_pair("stranger2")
    for credentials in (
        None,
        Credentials(service.server, pair.public, pair.secret),
        Credentials(pair.public, pair.public, pair.secret),
    ):
        refusal(lambda credentials=credentials: asyncio.run(ask(credentials)))  # type: ignore[misc]  # bound early


def test_a_client_that_was_refused_is_let_in_when_its_key_is_allowed(service: Guarded) -> None:
    late = a_pair("late")
    with service.client(Credentials(service.server, late.public, late.secret)) as client:
        refusal(lambda: client.request("status"))
        service.allow(late, keys.CLIENT)
        assert client.request("status")["service"]["pid"] == service.pid


# ---- what a key may do -------------------------------------------------------------------------------------


def test_a_client_key_gives_no_orders(service: Guarded) -> None:
    mine = service.allow(a_pair("web"), keys.CLIENT)
    with service.client(mine) as client:
        client.request("models")
        for verb, body in (
            ("stop-service", {}),
            ("load-model", {"model": "echo"}),
            ("apply", {}),
            ("dump", {}),
        ):
            error = refusal(lambda verb=verb, body=body: client.request(verb, body))  # type: ignore[misc]  # early
            assert (error.detail["role"], error.row.exit) == (keys.CLIENT, Exit.DENIED)
    assert service.status()["service"]["state"] == "running"


def test_an_agent_key_gives_no_orders(service: Guarded) -> None:
    pair = a_pair("n1", "agent:n1")
    service.allow(pair, "agent:n1")
    for at in ("control", "nodes"):
        peer = service.as_key(pair, hello=False, at=at)
        bodies: dict[str, dict[str, Any]] = {
            "hello": {"versions": [frames.VERSION]},
            "status": {},
            "stop-service": {},
        }
        for verb, body in bodies.items():
            reply = peer.reply(peer.ask(verb, **body))
            assert reply.body["code"] == "not-authorised", (at, verb, reply.body)
    relay = Credentials(service.server, pair.public, pair.secret)
    with Client(service.endpoint("relay").replace("0.0.0.0", HOST), credentials=relay) as client:
        refusal(client.hello)
    says(service, "which may not use endpoints.relay")


def test_an_operators_key_is_no_agent(service: Guarded) -> None:
    with Client(service.endpoint("nodes"), credentials=service.allow(a_pair("op"), keys.OPERATOR)) as client:
        refusal(client.hello)
    says(service, "which may not use endpoints.nodes")


def test_a_session_is_of_no_use_to_another_key(service: Guarded) -> None:
    owner, thief = a_pair("owner"), a_pair("thief")
    service.allow(owner, keys.OPERATOR)
    service.allow(thief, keys.OPERATOR)
    first = service.as_key(owner, identity=b"same name")
    second = service.as_key(thief, hello=False, identity=b"same name")
    second.session = first.session
    second.ask("status")
    # The name is taken: the second connection is none, and the first one hears nothing of it.
    assert second.silent_for(0.3)
    assert first.ok("status")["service"]["pid"] == service.pid
    first.close()

    def answer() -> frames.Reply | None:
        """None while the daemon has not noticed yet that the name is free: such a connection stays unheard."""
        third = service.as_key(thief, hello=False, identity=b"same name")
        third.session = first.session
        try:
            return third.reply(third.ask("status"), 2.0)
        except TimeoutError:
            return None

    refused = eventually(answer)
    assert refused is not None and refused.body.get("code") == "session-gone"


# ---- a key that is revoked ---------------------------------------------------------------------------------


def test_a_revoked_key_is_shut_out_without_a_restart(service: Guarded) -> None:
    gone, stays = a_pair("gone"), a_pair("stays")
    service.allow(gone, keys.CLIENT)
    service.allow(stays, keys.CLIENT)
    service.control.ok("load-model", model="echo")
    first, second = service.as_key(gone), service.as_key(stays)
    lease = first.ok("lease", model="echo", mode="relay")
    before = service.status()["service"]["sessions"]
    began_s = time.monotonic()
    service.revoke("gone")
    while not any(notice.name == "session-gone" for notice in first.notices):
        first.take(TOLD_S)
    assert time.monotonic() - began_s < TOLD_S
    assert service.status()["service"]["sessions"] == before - 1
    assert first.reply(first.ask("status")).body["code"] == "not-authorised"
    assert first.reply(first.ask("hello", versions=[frames.VERSION])).body["code"] == "not-authorised"
    assert second.ok("status")["service"]["pid"] == service.pid
    assert lease["lease"]  # of a session that has ended; its relay says so
    with service.client(Credentials(service.server, gone.public, gone.secret)) as client:
        refusal(lambda: client.request("status"))


def test_a_hangup_reads_the_table_and_a_role_takes_effect(service: Guarded) -> None:
    pair = a_pair("promoted")
    mine = service.allow(pair, keys.CLIENT)
    with service.client(mine) as client:
        refusal(lambda: client.request("dump"))
        service.allow(pair, keys.OPERATOR)
        service.send_signal(signal.SIGHUP)

        def promoted() -> bool:
            try:
                return "state" in client.request("dump")
            except MgmtError as error:
                assert error.code in ("not-authorised", "session-gone")
                return False

        assert eventually(promoted, TOLD_S, "the new role counts")


def test_a_broken_table_changes_nothing_and_is_told(service: Guarded) -> None:
    mine = service.allow(a_pair("during"), keys.CLIENT)
    with service.client(mine) as client:
        client.request("status")
    path = service.keys / keys.ALLOWED
    good = path.read_text()
    keys.write(path, good + "what is this\n", 0o600)
    try:
        says(service, "the former table of keys stays in force")
        with service.client(mine) as client:
            client.request("status")
    finally:
        keys.write(path, good, 0o600)


# ---- listening without keys --------------------------------------------------------------------------------


def test_nothing_listens_on_tcp_without_keys_unless_that_is_said() -> None:
    (port,) = free_ports(1)
    legacy = config({}, endpoints={"cli_management": f"tcp://{HOST}:{port}"})
    with Daemon(legacy) as daemon:
        done = daemon.run_to_end()
        assert done.returncode == Exit.USAGE
        assert "endpoints: cli_management" in done.stderr and '"insecure": true' in done.stderr
    with Daemon(legacy, "--insecure") as daemon:
        daemon.start()
        assert daemon.legacy("status")["success"]
        applied = daemon.control.ok("plan")  # the file is read again, and the word still counts
        assert applied["daemon"] == []


def test_keys_are_of_no_use_to_a_daemon_that_asks_for_none() -> None:
    control = f"tcp://{HOST}:{free_ports(1)[0]}"
    pair = a_pair("anybody")
    with Daemon(config({}, endpoints={"control": control, "insecure": True})) as daemon:
        daemon.start()
        with Client(control, credentials=Credentials(pair.public, pair.public, pair.secret)) as client:
            error = refusal(lambda: client.request("status"))
            assert "uses no keys" in error.text or "or uses none" in error.text
        with Client(control) as client:
            assert client.request("status")["service"]["pid"] == daemon.pid
        assert not (keys.keys_dir(daemon.state_dir) / keys.IN_USE).exists()


def test_backends_of_a_guarded_daemon_have_a_key_of_their_own(start: Start) -> None:
    daemon = start()
    unit = daemon.control.ok("load-model", model="echo")
    assert unit["state"] == "RUNNING"
    environ = Path(f"/proc/{unit['pid']}/environ").read_bytes().split(b"\0")
    (told,) = (entry for entry in environ if entry.startswith(b"MGMT_BACKEND_KEYS="))
    server, public, secret = told.decode().partition("=")[2].split()
    assert server == daemon.server
    peer = daemon.as_key(KeyFile(public, secret), hello=False)
    assert peer.reply(peer.ask("hello", versions=[frames.VERSION])).body["code"] == "not-authorised"
    daemon.crash()
    daemon.start()  # the backend finds the next one with the same key
    assert daemon.reaches("echo", "RUNNING")["pid"] == unit["pid"]


# ---- agents ------------------------------------------------------------------------------------------------


@contextmanager
def agent_of(daemon: Guarded, name: str, key: Path, *arguments: str, server: str = "") -> Iterator[Agent]:
    told = ("--key", str(key), "--server-key", server or daemon.server)
    agent = Agent(daemon.endpoint("nodes"), name, *told, *arguments)
    with agent:
        yield agent


def node_state(daemon: Guarded, name: str) -> str:
    found = [one["state"] for one in daemon.control.ok("nodes")["nodes"] if one["node"] == name]
    return found[0] if found else ""


def test_an_agent_joins_with_its_key_and_is_lost_with_it(start: Start) -> None:
    timing = {"node_heartbeat_s": 0.3, "node_lost_s": 1.2}
    sleeper = {"command": ["{python}", "-c", "import time; time.sleep(600)"], "node": "n1"}
    shell = {"command": ["/bin/sh", "-c", "sleep 600"], "node": "n1"}
    daemon = start(timing=timing, units={"allowed": sleeper, "refused": shell})
    pair = a_pair("n1", "agent:n1")
    daemon.allow(pair, pair.role)
    key = keys.write_pair(daemon.folder / "n1", pair)
    policy = daemon.folder / "policy.json"
    policy.write_text(json.dumps({"executables": ["{python}"]}))
    with agent_of(daemon, "n1", key, "--policy", str(policy)) as agent:
        agent.start()
        eventually(lambda: node_state(daemon, "n1") == "ALIVE", what="the agent joins")
        daemon.control.ok("start", targets=["allowed"])
        reply = daemon.control.reply(daemon.control.ask("start", targets=["refused"]))
        assert "`executables` of this agent's policy" in reply.body["text"], reply.body
        assert daemon.unit("refused")["state"] == "FATAL"
        daemon.revoke("n1")
        eventually(lambda: node_state(daemon, "n1") == "LOST", what="its node is lost")
        eventually(lambda: "does not know the key" in agent.log(), what=f"the agent says why: {agent.log()}")
        assert not agent.process_ended()  # it serves what it has
        daemon.allow(pair, pair.role)
        eventually(lambda: node_state(daemon, "n1") == "ALIVE", what="it comes back when it may")
        daemon.control.ok("stop", targets=["allowed"])


@pytest.mark.parametrize("wrong", ["key", "name", "server", "none", "policy"])
def test_an_agent_that_may_not_join_says_why_and_ends(service: Guarded, wrong: str, tmp_path: Path) -> None:
    pair = a_pair(f"for-{wrong}", "agent:n7")
    if wrong != "key":
        service.allow(pair, pair.role)
    key = keys.write_pair(tmp_path, pair)
    server = a_pair("x").public if wrong == "server" else ""
    arguments = () if wrong == "policy" else ("--policy", "any")
    name = "n8" if wrong == "name" else "n7"
    with agent_of(service, name, key, *arguments, server=server) as agent:
        agent.clean = False
        if wrong == "none":
            agent.arguments = tuple(
                word
                for word in agent.arguments
                if word not in ("--key", str(key), "--server-key", service.server)
            )
        agent.launch()
        if wrong == "server":  # it cannot be told from a daemon that is away, so the agent goes on trying
            eventually(lambda: "ready: pid" in agent.log(), what="the agent is up")
            says(agent, "another server key")
            return
        status = agent.wait(10.0)
        words, code = {
            "key": ("does not know the key", Exit.DENIED),
            "name": ("is for node 'n7', and this agent is 'n8'", Exit.DENIED),
            "none": ("wants a key of this agent", Exit.DENIED),
            "policy": ("policy.json", Exit.USAGE),
        }[wrong]
        assert words in agent.log()
        assert status == code


# ---- the command line --------------------------------------------------------------------------------------


def mgmt(daemon: Guarded, *arguments: str, state: bool = True) -> subprocess.CompletedProcess[str]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("MGMT_", "XDG_"))}
    environ |= {"MGMT_STATE_DIR": str(daemon.state_dir if state else daemon.folder / "elsewhere")}
    return subprocess.run(
        [sys.executable, "-m", "mgmt_cli", *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env=environ,
    )


def test_the_commands_make_allow_list_and_revoke_keys(service: Guarded, tmp_path: Path) -> None:
    made = mgmt(service, "keys", "new", "carol", "--role", "client", "--comment", "on the train",
                "--output", str(tmp_path))  # fmt: skip
    assert made.returncode == 0, made.stderr
    control = ["--endpoint", service.endpoint("control"), "--key", str(tmp_path / "carol.key")]
    control += ["--server-key", mgmt(service, "keys", "show").stdout.strip()]
    denied = mgmt(service, "status", *control, state=False)
    assert (denied.returncode, "does not know the key" in denied.stderr) == (Exit.DENIED, True), denied
    assert mgmt(service, "keys", "allow", str(tmp_path / "carol.pub")).returncode == 0
    assert mgmt(service, "status", *control, state=False).returncode == 0
    order = mgmt(service, "stop-service", *control, state=False)
    assert (order.returncode, "has the role client" in order.stderr) == (Exit.DENIED, True)
    listed = json.loads(mgmt(service, "keys", "list", "--json").stdout)["keys"]
    (row,) = (row for row in listed if row["name"] == "carol")
    assert (row["role"], row["comment"]) == ("client", "on the train")
    assert mgmt(service, "keys", "revoke", "carol").returncode == 0
    assert mgmt(service, "status", *control, state=False).returncode == Exit.DENIED
    unknown = mgmt(service, "keys", "revoke", "carol")
    assert (unknown.returncode, "no key 'carol' is allowed" in unknown.stderr) == (Exit.USAGE, True)


def test_on_the_daemons_machine_no_key_has_to_be_named(service: Guarded) -> None:
    done = mgmt(service, "--config", str(service.config_path), "status", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["service"]["pid"] == service.pid
    found = mgmt(service, "--config", str(service.config_path), "doctor", "--json")
    probes = {probe["probe"]: probe for probe in json.loads(found.stdout)["probes"]}
    assert probes["CURVE"]["status"] == probes["keys"]["status"] == "ok"
