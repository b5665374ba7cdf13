"""Users of a real daemon: two of them, locked, deleted, with wrong and expired tokens, across a restart."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from mgmt.client import Client
from mgmt.protocol import curve, keys, tokens
from mgmt.protocol.errors import Exit, MgmtError
from mgmt_cli.schemas import schema_of
from tests.fault.test_keys import a_pair, guarded
from tests.system.agents import agents
from tests.system.clients import eventually
from tests.system.daemon import Daemon, alive, config, daemons, shipped


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with daemons() as start:
        yield start(config({"echo": shipped("echo")}, endpoints={"nodes": "ipc://{runtime}/nodes"}))


def a_user(daemon: Daemon, name: str, **token: Any) -> str:
    """A user with a fresh token; its text."""
    known = [user["user"] for user in daemon.control.ok("users")["users"]]
    if name not in known:
        daemon.control.ok("user-create", user=name)
    text = tokens.new()
    named = {"name": f"t{len(daemon.control.ok('tokens', user=name)['tokens'])}", **token}
    daemon.control.ok("token-new", user=name, digest=tokens.digest(text), **named)
    return text


def as_user(daemon: Daemon, token: str) -> Client:
    return Client(daemon.endpoint("control"), token=token, timeout_s=20.0)


def code_of(client: Client, verb: str, **body: Any) -> str:
    with pytest.raises(MgmtError) as refused:
        client.request(verb, body)
    return refused.value.code


def mgmt(daemon: Daemon, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MGMT_", "XDG_"))}
    clean |= {"MGMT_ENDPOINT": daemon.endpoint("control"), "MGMT_STATE_DIR": str(daemon.state_dir), **environ}
    return subprocess.run(
        [sys.executable, "-m", "mgmt_cli", *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env=clean,
    )


def test_two_users_and_what_each_may(daemon: Daemon) -> None:
    with as_user(daemon, a_user(daemon, "alice")) as alice, as_user(daemon, a_user(daemon, "bob")) as bob:
        alice.request("group-create", {"group": "vision"})
        assert code_of(bob, "groups", groups=["vision"]) == "denied"
        alice.request("group-add", {"group": "vision", "user": "bob"})
        assert bob.request("groups", {"groups": ["vision"]})["groups"][0]["creator"] == "alice"
        before = daemon.control.ok("groups")
        for verb, body in (
            ("group-add", {"group": "vision", "user": "bob", "role": "admin"}),
            ("group-role", {"group": "vision", "user": "bob", "role": "admin"}),
            ("group-delete", {"group": "vision"}),
            ("group-grant", {"group": "bob", "node": "local", "role": "admin"}),
            ("quota-set", {"name": "bob", "groups": 100}),
            ("user-create", {"user": "mallory", "admin": True}),
            ("user-lock", {"user": "alice"}),
            ("token-new", {"user": "alice", "name": "mine", "digest": "0" * 64}),
            ("load-model", {"model": "echo"}),
            ("stop-service", {}),
            ("dump", {}),
        ):
            assert code_of(bob, verb, **body) == "denied", verb
        assert daemon.control.ok("groups") == before, "what was refused changed nothing"
        assert daemon.status()["service"]["state"] == "running"


@pytest.mark.parametrize(
    ("verb", "body"), [("user-lock", {}), ("user-delete", {}), ("token-revoke", {"name": "t0"})]
)
def test_who_is_shut_out_in_the_middle_of_a_session_hears_why(
    daemon: Daemon, verb: str, body: dict[str, Any]
) -> None:
    token = a_user(daemon, "alice")
    daemon.control.ok("load-model", model="echo")
    with as_user(daemon, token) as alice, alice.model("echo", mode="relay") as echo:
        assert echo.ask(1) == 1
        sessions = daemon.status()["service"]["sessions"]
        daemon.control.ok(verb, user="alice", **body)
        assert daemon.status()["service"]["sessions"] == sessions - 1
        assert code_of(alice, "status") == "not-authorised"
        with pytest.raises(MgmtError):  # its lease is closed, and there is no other
            echo.ask(2)
    with as_user(daemon, token) as again:
        assert code_of(again, "whoami") == "not-authorised"


def test_wrong_and_expired_tokens_are_told_clearly_and_open_nothing(daemon: Daemon) -> None:
    short = a_user(daemon, "alice", lifetime_s=1.0)
    sessions = daemon.status()["service"]["sessions"]
    with as_user(daemon, short) as alice:
        assert alice.request("whoami")["user"] == "alice"

        def expired() -> str:
            try:
                alice.request("status")
            except MgmtError as error:
                assert error.code == "not-authorised"
                return error.text
            return ""

        assert "expired" in eventually(expired, what="the token expires")
    for token in (short, tokens.new(), "nonsense"):
        with as_user(daemon, token) as client:
            assert code_of(client, "status") == "not-authorised"
    eventually(lambda: daemon.status()["service"]["sessions"] == sessions, what="no session is left of them")


def test_everything_is_there_after_a_crash(daemon: Daemon) -> None:
    alice, bob = a_user(daemon, "alice"), a_user(daemon, "bob")
    gone = a_user(daemon, "gone")
    with as_user(daemon, alice) as client:
        client.request("group-create", {"group": "vision"})
        client.request("group-add", {"group": "vision", "user": "bob", "role": "write"})
    daemon.control.ok("group-grant", group="vision", node="local")
    daemon.control.ok("quota-set", name="vision", storage_bytes=123)
    daemon.control.ok("user-lock", user="bob")
    daemon.control.ok("user-delete", user="gone")
    told = {verb: daemon.control.ok(verb) for verb in ("users", "groups", "quotas")}
    mine = daemon.control.ok("tokens", user="alice")
    daemon.crash()
    daemon.start()
    assert {verb: daemon.control.ok(verb) for verb in told} == told
    assert daemon.control.ok("tokens", user="alice") == mine
    with as_user(daemon, alice) as client:
        assert client.request("whoami")["user"] == "alice"
    for token in (bob, gone):
        with as_user(daemon, token) as client:
            assert code_of(client, "whoami") == "not-authorised"


def test_no_secret_is_in_logs_arguments_environments_events_or_on_the_disk(daemon: Daemon) -> None:
    token = a_user(daemon, "alice")
    file = daemon.folder / "token"
    keys.write(file, f"{token}\n", 0o600)
    daemon.control.ok("load-model", model="echo")
    with as_user(daemon, token) as alice, agents() as join:
        brought = a_user(daemon, "alice", scope="node", node="n1")
        path = daemon.folder / "node-token"
        keys.write(path, brought, 0o600)
        agent = join(daemon, "n1", "--token-file", str(path), "--group", "alice:write")
        events = str(daemon.control.ok("subscribe", since=0, follow=False))
        assert alice.request("node-cordon", {"node": "n1"})["cordoned"], "who brought a node manages it"
        processes = ""
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                for name in ("cmdline", "environ"):
                    try:
                        processes += (entry / name).read_bytes().decode(errors="replace")
                    except OSError:
                        continue
        dump = str(daemon.control.ok("dump"))
        disk = b"".join(p.read_bytes() for p in daemon.state_dir.rglob("*") if p.is_file())
        for secret in (token, brought):
            for where in (events, processes, dump, daemon.log(), agent.log(), disk.decode(errors="replace")):
                assert secret not in where
        assert tokens.digest(token).encode() in disk


def test_an_agent_with_a_token_of_another_node_ends_and_says_why(daemon: Daemon) -> None:
    path = daemon.folder / "token"
    keys.write(path, a_user(daemon, "alice", scope="node", node="n1"), 0o600)
    with agents() as join:
        agent = join(daemon, "n2", "--token-file", str(path), run=False)
        agent.clean = False
        agent.launch()
        assert agent.wait() == Exit.DENIED
        assert "is for node 'n1', and this agent is 'n2'" in agent.log()
    assert [one["node"] for one in daemon.control.ok("nodes")["nodes"]] == ["local"]


def test_the_commands_from_a_user_to_a_quota(daemon: Daemon, tmp_path: Path) -> None:
    file = tmp_path / "alice.token"
    for arguments in (
        ("user", "create", "alice"),
        ("user", "create", "bob"),
        ("user", "token", "new", "laptop", "--user", "alice", "--lifetime", "12h", "--output", str(file)),
        ("quota", "set", "alice", "--groups", "1", "--storage", "2G"),
    ):
        done = mgmt(daemon, *arguments)
        assert done.returncode == 0, done.stderr
    assert file.stat().st_mode & 0o777 == 0o600

    def alice(*arguments: str) -> subprocess.CompletedProcess[str]:
        return mgmt(daemon, *arguments, MGMT_TOKEN_FILE=str(file))

    assert alice("whoami").stdout == "alice (says token 'laptop')\ngroups: alice:admin\n"
    assert mgmt(daemon, "--token-file", str(file), "whoami").stdout.startswith("alice")
    assert mgmt(daemon, "whoami", MGMT_TOKEN=file.read_text().strip()).stdout.startswith("alice")
    assert mgmt(daemon, "whoami").stdout.startswith("administrator, an administrator")
    assert alice("group", "create", "vision").returncode == 0
    over = alice("group", "create", "more")
    assert over.returncode == Exit.DENIED and "mgmt quota set alice --groups 2" in over.stderr
    assert "bob:write" in alice("group", "add", "vision", "bob", "--role", "write").stdout
    assert "bob:admin" in alice("group", "role", "vision", "bob", "admin").stdout
    assert alice("group", "grant", "vision", "--node", "local").returncode == Exit.DENIED
    assert "local:write" in mgmt(daemon, "group", "grant", "vision", "--node", "local").stdout
    assert "local" not in mgmt(daemon, "group", "grant", "vision", "--node", "local", "--role", "none").stdout
    assert alice("group", "remove", "vision", "bob").returncode == 0
    listed = alice("group", "list").stdout.splitlines()
    assert [line.split()[0] for line in listed] == ["GROUP", "alice", "vision"]
    assert "1 of 1" in alice("quota", "show").stdout and "2.0G" in alice("quota", "show", "alice").stdout
    for shown in ("whoami", "user list", "user show alice", "group list", "group show vision", "quota show"):
        told = json.loads(mgmt(daemon, *shown.split(), "--json").stdout)
        jsonschema.validate(told, schema_of(told["schema"]))
    (row,) = json.loads(mgmt(daemon, "user", "token", "list", "--user", "alice", "--json").stdout)["tokens"]
    assert (row["name"], row["scope"], row["expired"]) == ("laptop", "user", False)
    assert mgmt(daemon, "user", "list", "--no-headers").stdout.split()[0] == "administrator"
    assert "locked" in mgmt(daemon, "user", "lock", "alice").stdout
    locked = alice("whoami")
    assert locked.returncode == Exit.DENIED and "mgmt user unlock alice" in locked.stderr
    assert "active" in mgmt(daemon, "user", "unlock", "alice").stdout
    assert alice("user", "token", "revoke", "laptop").returncode == 0
    assert alice("whoami").returncode == Exit.DENIED
    assert "deleted" in mgmt(daemon, "user", "delete", "bob").stdout
    assert "(deleted)" in mgmt(daemon, "group", "delete", "vision").stdout
    near = mgmt(daemon, "user", "show", "alcie")
    assert near.returncode == Exit.UNKNOWN and "did you mean alice?" in near.stderr


def test_a_token_is_printed_once_and_its_file_must_be_private(daemon: Daemon, tmp_path: Path) -> None:
    daemon.control.ok("user-create", user="alice")
    secret = mgmt(daemon, "user", "token", "new", "a", "--user", "alice").stdout.strip()
    told = json.loads(mgmt(daemon, "user", "token", "new", "b", "--user", "alice", "--json").stdout)
    jsonschema.validate(told, schema_of(told["schema"]))
    assert secret.startswith(tokens.PREFIX) and told["token"].startswith(tokens.PREFIX)
    assert secret != told["token"]
    file = tmp_path / "open.token"
    file.write_text(secret)
    file.chmod(0o644)
    done = mgmt(daemon, "--token-file", str(file), "whoami")
    assert done.returncode == Exit.USAGE and "chmod 600" in done.stderr
    file.write_text("no token at all")
    file.chmod(0o600)
    done = mgmt(daemon, "--token-file", str(file), "whoami")
    assert done.returncode == Exit.USAGE and "it is no token" in done.stderr and "at all" not in done.stderr


@pytest.mark.skipif(not curve.is_available(), reason="this libzmq has no CURVE")
def test_a_key_over_tcp_is_its_users_until_that_one_is_locked() -> None:
    with guarded() as start:
        daemon = start()
        pair = a_pair("laptop", "user:alice")
        mine = daemon.allow(pair, "user:alice")
        with daemon.client(mine) as client:
            assert code_of(client, "whoami") == "not-authorised", "there is no such user yet"
        daemon.control.ok("user-create", user="alice")
        daemon.control.ok("load-model", model="echo")
        with daemon.client(mine) as client, client.model("echo", mode="relay") as echo:
            told = client.request("whoami")
            assert (told["user"], told["admin"], told["via"]) == ("alice", False, "key 'laptop'")
            assert echo.ask("x") == "x"
            assert code_of(client, "stop-service") == "denied"
            daemon.control.ok("user-lock", user="alice")
            began_s = time.monotonic()
            assert code_of(client, "whoami") == "not-authorised"
            assert time.monotonic() - began_s < 10
        token = tokens.new()
        daemon.control.ok("user-create", user="bob")
        daemon.control.ok("token-new", user="bob", name="t", digest=tokens.digest(token))
        shared = daemon.allow(a_pair("shared"), keys.CLIENT)
        with daemon.client(shared, token=token) as client:
            assert client.request("whoami")["user"] == "bob"
            assert client.request("group-create", {"group": "bobs"})["creator"] == "bob"
        with daemon.client(shared) as client:
            assert client.request("whoami")["user"] is None
            assert code_of(client, "group-create", group="x") == "not-authorised"


@pytest.mark.parametrize("what", ["node", "worker"])
@pytest.mark.parametrize(
    ("verb", "body"), [("user-lock", {}), ("user-delete", {}), ("token-revoke", {"name": "t0"})]
)
def test_who_is_shut_out_has_no_agent_and_no_worker_any_more(
    tmp_path: Path, what: str, verb: str, body: dict[str, Any]
) -> None:
    """At once: what it ran is ended there, and is for others long before its silence would have shown."""
    with daemons() as start, agents() as join:
        slow = {"node_heartbeat_s": 10.0, "node_lost_s": 50.0}
        daemon = start({"endpoints": {"nodes": "ipc://{runtime}/nodes"}, "timing": slow})
        is_node = what == "node"
        scope = {"scope": "node", "node": "far"} if is_node else {"scope": "worker"}
        token = a_user(daemon, "alice", **scope)
        path = daemon.folder / "alice.token"
        keys.write(path, token, 0o600)
        endpoint = f"ipc://{daemon.runtime}/nodes"
        arguments = ["--tag", "far"] if is_node else ["--worker"]
        agent = join(endpoint, "far", "--token-file", str(path), *arguments)
        pid_file = tmp_path / "pid"
        task = {
            "args": ["sh", "-c", f"echo $$ > {pid_file}.new; mv {pid_file}.new {pid_file}; exec sleep 55"]
        }
        place: dict[str, Any] = {"group": "alice"}
        if is_node:
            place = {"suite": str(daemon.control.ok("suite-create", group="alice", tags=["far"])["suite"])}
        (number,) = daemon.control.ok("task-submit", tasks=[task], **place)["tasks"]
        eventually(pid_file.exists, what="the task runs there")
        pid = int(pid_file.read_text())
        began_s = time.monotonic()
        daemon.control.ok(verb, user="alice", **body)
        eventually(lambda: not alive(pid), what="what it ran is ended")
        eventually(
            lambda: daemon.control.ok("task-show", task=number)["status"]["state"] == "READY",
            what="the task is for others",
        )
        assert time.monotonic() - began_s < 30, "nobody waited for its silence"
        if is_node:
            (node,) = daemon.control.ok("nodes", nodes=["far"])["nodes"]
            assert node["state"] == "LOST" and "alice" in node["reason"]
        else:
            (worker,) = daemon.control.ok("workers", workers=["far"])["workers"]
            assert worker["state"] == "down" and "alice" in worker["reason"]
        eventually(lambda: "refuses node far" in agent.log(), what="it is told why when it asks again")
        last = daemon.control.ok("subscribe", since=0, follow=False)["events"]
        assert any("and those of far" in event.get("reason", "") for event in last)
