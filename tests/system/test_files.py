"""Files of a real daemon, and of tasks on it and on a real agent: whole, counted, and nobody else's."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from mgmt.client import Client
from mgmt.client.files import download, upload
from mgmt.protocol import defaults, tokens
from mgmt.protocol.errors import MgmtError
from mgmt_cli.schemas import schema_of
from tests.system.agents import Agent, a_daemon, agents, becomes
from tests.system.clients import PATIENCE_S, eventually
from tests.system.daemon import Daemon, daemons

CHUNK = defaults.BLOB_CHUNK_BYTES


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with daemons() as start:
        yield a_daemon(start)


@pytest.fixture
def client(daemon: Daemon) -> Iterator[Client]:
    with Client(daemon.endpoint("control"), timeout_s=PATIENCE_S) as client:
        yield client


def a_file(folder: Path, size: int, name: str = "file") -> Path:
    path = folder / name
    path.write_bytes(os.urandom(size))
    return path


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def as_user(daemon: Daemon, name: str) -> Client:
    text = tokens.new()
    daemon.control.ok("user-create", user=name)
    daemon.control.ok("token-new", user=name, name="t", digest=tokens.digest(text))
    return Client(daemon.endpoint("control"), token=text, timeout_s=PATIENCE_S)


def refused(code: str, call: Any, *arguments: Any) -> str:
    with pytest.raises(MgmtError) as refusal:
        call(*arguments)
    assert refusal.value.code == code, refusal.value.text
    return refusal.value.text


def contents(daemon: Daemon) -> list[Path]:
    return sorted(file for file in (daemon.state_dir / "blobs" / "sha256").rglob("*") if file.is_file())


def spools(daemon: Daemon) -> list[Path]:
    return sorted((daemon.state_dir / "blobs" / "uploads").iterdir())


def used(daemon: Daemon, group: str = "administrator") -> int:
    (row,) = daemon.control.ok("quotas", name=group)["groups"]
    return int(row["storage_used_bytes"])


def run(daemon: Daemon, suite: int, *tasks: dict[str, Any]) -> list[dict[str, Any]]:
    """Submit tasks, wait for their end; what `task-show` says of each."""
    numbers = daemon.control.ok("task-submit", suite=str(suite), tasks=list(tasks))["tasks"]

    def shown() -> list[dict[str, Any]] | None:
        found = [daemon.control.ok("task-show", task=number) for number in numbers]
        return found if all(one["result"] is not None for one in found) else None

    found = eventually(shown, what="the tasks end")
    assert found is not None
    return found


# ---- attachments -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, CHUNK, 5 * CHUNK + 7])
def test_a_file_goes_up_and_comes_down_again(
    daemon: Daemon, client: Client, tmp_path: Path, size: int
) -> None:
    path = a_file(tmp_path, size)
    seen: list[int] = []
    told = upload(client, path, None, "data/net.bin", lambda done, total: seen.append(done))
    assert (told["blob"], told["bytes"]) == ("administrator/data/net.bin", size)
    assert told["digest"] == digest(path.read_bytes())
    assert seen == sorted(seen) and (not size or seen[-1] == size)
    for blob in (told["blob"], f"sha256:{told['digest']}"):
        assert download(client, blob, tmp_path / "back") == told
        assert (tmp_path / "back").read_bytes() == path.read_bytes()
    assert used(daemon) == size
    assert upload(client, path, None, "data/net.bin") == told, "there is nothing to do"
    assert not spools(daemon) and len(contents(daemon)) == 1


def test_names_are_listed_replaced_and_deleted(daemon: Daemon, client: Client, tmp_path: Path) -> None:
    for key, size in (("a/1", 10), ("a/2", 20), ("b", 30), ("a/1", 50), ("a/2", 5)):
        upload(client, a_file(tmp_path, size), None, key)
    assert used(daemon) == 85
    listed = client.request("attachments", {"prefix": "a/"})
    assert [(one["key"], one["bytes"]) for one in listed["blobs"]] == [("a/1", 50), ("a/2", 5)]
    assert (listed["total"], listed["bytes"]) == (2, 55)
    assert [one["key"] for one in client.request("attachments", {"limit": 1, "offset": 1})["blobs"]] == [
        "a/2"
    ]
    assert client.request("attachment-delete", {"prefix": "a/"}) == {"deleted": 2, "bytes": 55}
    assert used(daemon) == 30
    refused("unknown-blob", download, client, "administrator/a/1", tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_a_damaged_byte_is_refused(daemon: Daemon, client: Client, tmp_path: Path) -> None:
    told = upload(client, a_file(tmp_path, 3 * CHUNK), None, "net")
    (content,) = contents(daemon)
    content.chmod(0o600)
    with content.open("r+b") as file:
        file.seek(CHUNK)
        byte = file.read(1)
        file.seek(CHUNK)
        file.write(bytes([byte[0] ^ 1]))
    text = refused("corrupt", download, client, told["blob"], tmp_path / "back")
    assert told["digest"] in text
    assert not [one for one in tmp_path.iterdir() if one.name != "file"]
    # Whoever has it can repair it, under any name.
    upload(client, tmp_path / "file", None, "again")
    download(client, told["blob"], tmp_path / "back")


def test_what_is_not_what_was_announced_is_not_kept(daemon: Daemon, client: Client) -> None:
    begun = client.request("blob-begin", {"key": "x", "digest": "0" * 64, "bytes": 3})
    assert used(daemon) == 3, "it counts from the grant on"
    client.request("blob-chunk", {"upload": begun["upload"], "offset": 0, "data": b"abc"})
    for offset in (0, 2):
        chunk = {"upload": begun["upload"], "offset": offset, "data": b"x"}
        refused("conflict", client.request, "blob-chunk", chunk)
    beyond = {"upload": begun["upload"], "offset": 3, "data": b"x"}
    refused("bad-body", client.request, "blob-chunk", beyond)
    refused("corrupt", client.request, "blob-commit", {"upload": begun["upload"]})
    assert used(daemon) == 0 and not spools(daemon) and not contents(daemon)
    refused("unknown-blob", client.request, "blob-commit", {"upload": begun["upload"]})


def test_the_quota_holds_for_the_larger_of_old_and_new(
    daemon: Daemon, client: Client, tmp_path: Path
) -> None:
    daemon.control.ok("quota-set", name="administrator", storage_bytes=100)
    upload(client, a_file(tmp_path, 80), None, "x")
    upload(client, a_file(tmp_path, 95), None, "x")
    text = refused("over-quota", upload, client, a_file(tmp_path, 6), None, "y")
    assert "mgmt quota set administrator --storage 101" in text
    begun = client.request("blob-begin", {"key": "x", "digest": "0" * 64, "bytes": 98})
    assert begun["upload"] and used(daemon) == 98
    refused("over-quota", upload, client, a_file(tmp_path, 3), None, "y")
    assert daemon.control.ok("attachments")["bytes"] == 95, "nothing half of it is visible"


def test_another_groups_files_are_nobodys(daemon: Daemon, tmp_path: Path) -> None:
    path = a_file(tmp_path, 100)
    with as_user(daemon, "alice") as alice, as_user(daemon, "bob") as bob:
        told = upload(alice, path, None, "secret")
        denied = (
            ("blob-read", {"blob": "alice/secret"}, "denied"),
            ("blob-read", {"blob": f"sha256:{told['digest']}"}, "unknown-blob"),
            ("attachments", {"group": "alice"}, "denied"),
            ("attachment-delete", {"group": "alice", "keys": ["secret"]}, "denied"),
            ("artifact-delete", {"group": "alice"}, "denied"),
            ("blob-begin", {"group": "alice", "key": "mine", "digest": "0" * 64, "bytes": 1}, "denied"),
            ("blob-begin", {"task": 1, "kind": "result", "digest": "0" * 64, "bytes": 1}, "denied"),
        )
        for verb, body, code in denied:
            refused(code, bob.request, verb, body)
        begun = alice.request("blob-begin", {"key": "next", "digest": "0" * 64, "bytes": 1})
        chunk = {"upload": begun["upload"], "offset": 0, "data": b"x"}
        refused("denied", bob.request, "blob-chunk", chunk)
        refused("denied", bob.request, "blob-commit", {"upload": begun["upload"]})
        assert bob.request("attachments")["blobs"] == []
        # The same content is each group's own name for it, and counted for each.
        upload(bob, path, None, "mine")
        assert used(daemon, "bob") == 100 and len(contents(daemon)) == 1
        daemon.control.ok("group-add", group="alice", user="bob", role="read")
        download(bob, "alice/secret", tmp_path / "back")
        refused("denied", upload, bob, path, "alice", "mine")


def test_two_uploads_of_the_same_content_at_once(daemon: Daemon, tmp_path: Path) -> None:
    path = a_file(tmp_path, 40 * CHUNK)
    errors: list[MgmtError] = []

    def put(key: str) -> None:
        with Client(daemon.endpoint("control"), timeout_s=PATIENCE_S) as client:
            try:
                upload(client, path, None, key)
            except MgmtError as error:
                errors.append(error)

    # Two names, and one name from two clients, who go on with one upload.
    threads = [threading.Thread(target=put, args=(key,)) for key in ("one", "two", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(contents(daemon)) == 1 and not spools(daemon)
    assert used(daemon) == 2 * 40 * CHUNK


def test_a_killed_daemon_goes_on_where_it_was(daemon: Daemon, tmp_path: Path) -> None:
    path = a_file(tmp_path, 64 * CHUNK)
    at_kill: list[int] = []
    seen: list[int] = []

    def progress(done: int, total: int) -> None:
        seen.append(done)
        if done >= 8 * CHUNK and not at_kill:
            at_kill.append(len(seen))
            os.kill(daemon.pid, signal.SIGKILL)
            assert daemon.process is not None
            daemon.process.wait(PATIENCE_S)
            assert not contents(daemon)
            daemon.launch()

    with Client(daemon.endpoint("control"), timeout_s=PATIENCE_S, connect_timeout_s=PATIENCE_S) as client:
        told = upload(client, path, None, "big", progress)
        assert told["digest"] == digest(path.read_bytes())
        assert seen[at_kill[0]] > 0, "it did not start over"
        download(client, told["blob"], tmp_path / "back")
        (row,) = client.request("quotas", {"name": "administrator"})["groups"]
        assert row["storage_used_bytes"] == 64 * CHUNK
    assert not spools(daemon)
    daemon.clean = False  # the fixture's own session is of the former daemon
    daemon.stop()


def test_a_large_file_does_not_fill_the_daemons_memory(
    daemon: Daemon, client: Client, tmp_path: Path
) -> None:
    size = 200 << 20
    path = tmp_path / "large"
    with path.open("wb") as file:
        for _ in range(size >> 20):
            file.write(os.urandom(1 << 20))
    before, most = daemon.memory_bytes(), 0
    slowest_s = 0.0

    def progress(done: int, total: int) -> None:
        nonlocal most, slowest_s
        if done % (8 << 20) == 0:
            most = max(most, daemon.memory_bytes())
            started = time.monotonic()
            daemon.control.ok("nodes")
            slowest_s = max(slowest_s, time.monotonic() - started)

    told = upload(client, path, None, "large", progress)
    download(client, told["blob"], tmp_path / "back", progress)
    assert most - before < 60 << 20, f"{(most - before) >> 20} MiB more"
    assert slowest_s < 1.0, "others are answered meanwhile"
    assert (tmp_path / "back").stat().st_size == size


def test_what_nothing_names_is_collected_and_nothing_else(tmp_path: Path) -> None:
    with daemons() as start:
        daemon = a_daemon(start, files={"collect_s": 0.2, "grace_s": 1.0})
        with Client(daemon.endpoint("control"), timeout_s=PATIENCE_S) as client:
            kept = upload(client, a_file(tmp_path, 10), None, "kept")
            gone = upload(client, a_file(tmp_path, 20), None, "gone")
            begun = client.request("blob-begin", {"key": "broken", "digest": "0" * 64, "bytes": 50})
            client.request("blob-chunk", {"upload": begun["upload"], "offset": 0, "data": b"x" * 30})
            slow = client.request("blob-begin", {"key": "slow", "digest": "1" * 64, "bytes": 1000})
            assert used(daemon) == 1080
            client.request("attachment-delete", {"keys": ["gone"]})
            assert len(contents(daemon)) == 2, "for a while"
            offset = 0

            def collected() -> bool:
                nonlocal offset
                chunk = {"upload": slow["upload"], "offset": offset, "data": b"s"}
                offset = client.request("blob-chunk", chunk)["offset"]
                return len(contents(daemon)) == 1 and len(spools(daemon)) == 1

            eventually(collected, what="what nothing names is removed")
            assert contents(daemon)[0].name == kept["digest"][2:] != gone["digest"][2:]
            assert spools(daemon)[0].name == str(slow["upload"]), "the one of which something comes"
            assert used(daemon) == 1010
            refused("unknown-blob", client.request, "blob-commit", {"upload": begun["upload"]})
            download(client, kept["blob"], tmp_path / "back")


# ---- tasks -----------------------------------------------------------------------------------------------

LEAVE = (
    "cat $MITO_RESOURCE_DIR/in/net.bin > $MITO_RESULT_DIR/copy; mkdir $MITO_RESULT_DIR/d; "
    "echo printed; echo x > $MITO_RESULT_DIR/d/x"
)


def a_suite(daemon: Daemon, **more: Any) -> int:
    return int(daemon.control.ok("suite-create", **more)["suite"])


@pytest.fixture(params=["local", "agent"])
def node(request: pytest.FixtureRequest, daemon: Daemon) -> Iterator[Agent | None]:
    """Where tasks run: on the daemon's machine, or an agent."""
    if request.param == "local":
        yield None
        return
    with agents() as join:
        agent = join(daemon, "n1")
        daemon.control.ok("group-grant", group="administrator", node="n1")
        yield agent


def on(node: Agent | None) -> dict[str, Any]:
    return {} if node is None else {"tags": ["n1"]}


def test_a_task_finds_its_files_and_what_it_leaves_is_kept(
    daemon: Daemon, client: Client, tmp_path: Path, node: Agent | None
) -> None:
    path = a_file(tmp_path, 3 * CHUNK + 5)
    told = upload(client, path, None, "net.bin")
    suite = a_suite(daemon)
    if node is not None:
        daemon.control.ok("suite-agents", suite=str(suite), add=["n1"], remove=["local"])
    wanted = [{"blob": told["blob"], "path": "in/net.bin"}]
    task = {"args": ["sh", "-c", LEAVE], "resources": wanted, "terminal_output": True}
    shown = run(daemon, suite, task, task, {"args": ["echo", "resources"]})
    for one in shown[:2]:
        assert (one["result"]["exit_status"], one["result"]["message"]) == (0, ""), one
        number = one["status"]["task"]
        assert [artifact["kind"] for artifact in one["artifacts"]] == ["result", "std-log"]
        download(client, f"task:{number}/result", tmp_path / "result")
        with tarfile.open(tmp_path / "result") as archive:
            assert archive.getnames() == ["copy", "d", "d/x"]
            copy = archive.extractfile("copy")
            assert copy is not None and copy.read() == path.read_bytes()
        download(client, f"task:{number}/std-log", tmp_path / "log")
        assert (tmp_path / "log").read_bytes() == b"printed\n"
    assert shown[2]["artifacts"] == []
    # The output of one task is the input of the next.
    number = shown[0]["status"]["task"]
    unpack = {
        "args": [
            "sh",
            "-c",
            "tar xzf $MITO_RESOURCE_DIR/r.tar.gz && cmp copy $MITO_RESOURCE_DIR/net && cat d/x",
        ],
        "resources": [
            {"blob": f"task:{number}/result", "path": "r.tar.gz"},
            {"blob": f"sha256:{told['digest']}", "path": "net"},
        ],
    }
    (last,) = run(daemon, suite, unpack)
    assert (last["result"]["exit_status"], last["result"]["tail"]) == (0, "x\n"), last
    machine = node or daemon
    left = [file for file in (machine.state_dir / "suites").rglob("*") if file.is_file()]
    assert not [
        file for file in left if "/in/" in str(file) or "/out/" in str(file) or "/inputs/" in str(file)
    ]
    listed = client.request("artifacts", {"suite": str(suite)})
    assert listed["total"] == 4
    assert client.request("artifact-delete", {"suite": str(suite), "kinds": ["std-log"]})["deleted"] == 2
    assert client.request("artifact-delete", {"tasks": [number]})["deleted"] == 1
    assert used(daemon) == client.request("artifacts", {})["bytes"] + path.stat().st_size


@pytest.mark.parametrize("kind", ["process", "resident"])
def test_what_a_task_leaves_in_its_own_folder_is_kept_when_it_says_so(
    daemon: Daemon, client: Client, tmp_path: Path, kind: str
) -> None:
    suite = a_suite(daemon, worker={"worker_count": 1, "kind": kind})
    if kind == "process":
        one: dict[str, Any] = {
            "args": ["sh", "-c", "echo trace > $MITO_EXEC_DIR/trace; echo r > $MITO_RESULT_DIR/r"]
        }
        none: dict[str, Any] = {"args": ["true"]}
    else:
        one = {"function": "shutil:copy", "params": ["/etc/hostname", "trace"]}
        none = {"function": "builtins:len", "params": ["x"]}
    kept, plain, empty = run(daemon, suite, {**one, "exec_log": True}, one, {**none, "exec_log": True})
    kinds = [[artifact["kind"] for artifact in shown["artifacts"]] for shown in (kept, plain, empty)]
    results = ["result"] if kind == "process" else []
    assert kinds == [[*results, "exec-log"], results, []]
    download(client, f"task:{kept['status']['task']}/exec-log", tmp_path / "kept")
    with tarfile.open(tmp_path / "kept") as archive:
        assert archive.getnames() == ["trace"]
    left = [file for file in (daemon.state_dir / "suites").rglob("*") if file.is_file()]
    assert not [file for file in left if "/out/" in str(file)]


def test_what_cannot_be_had_ends_the_task_and_is_no_strike(
    daemon: Daemon, client: Client, tmp_path: Path, node: Agent | None
) -> None:
    with as_user(daemon, "alice") as alice:
        upload(alice, a_file(tmp_path, 5), None, "secret")
        upload(alice, a_file(tmp_path, 6), None, "damaged")
        damaged = next(file for file in contents(daemon) if file.stat().st_size == 6)
        damaged.chmod(0o600)
        damaged.write_bytes(b"123456")
        daemon.control.ok("group-create", group="bobs")
        with as_user(daemon, "bob") as bob:
            daemon.control.ok("group-grant", group="bob", node="local")
            if node is not None:
                daemon.control.ok("group-grant", group="bob", node="n1")
            suite = int(bob.request("suite-create", {})["suite"])
            if node is not None:
                bob.request("suite-agents", {"suite": str(suite), "add": ["n1"], "remove": ["local"]})

            def ends(blob: str) -> tuple[str, str]:
                task = {"args": ["true"], "resources": [{"blob": blob, "path": "x"}]}
                number = bob.request("task-submit", {"suite": str(suite), "tasks": [task]})["tasks"][0]
                bob.request("task-wait", {"task": number})
                shown = bob.request("task-show", {"task": number})
                assert shown["status"]["state"] == "FINISHED" and shown["failures"] == []
                assert (shown["status"]["exit_status"] is None) is bool(shown["result"]["message"])
                return shown["result"]["message"], shown["result"]["tail"]

            assert ends("alice/secret")[0] == "ResourceForbidden"
            assert ends("bob/nothing")[0] == "ResourceNotFound"
            assert ends("task:99/result")[0] == "ResourceNotFound"
            daemon.control.ok("group-add", group="alice", user="bob", role="read")
            assert ends("alice/secret") == ("", "")
            message, tail = ends("alice/damaged")
            assert message == "ResourceNotFound" and "is damaged" in tail
            text = refused("bad-body", ends, "nonsense")
            assert "GROUP/KEY" in text


def test_hooks_find_their_files_before_they_run(
    daemon: Daemon, client: Client, tmp_path: Path, node: Agent | None
) -> None:
    path = a_file(tmp_path, CHUNK)
    told = upload(client, path, None, "setup")
    seen = tmp_path / "seen"
    hook = {
        "args": ["sh", "-c", f"cp resources/deep/setup {seen}"],
        "resources": [{"blob": told["blob"], "path": "deep/setup"}],
    }
    suite = a_suite(daemon, hooks={"provision": hook})
    where = "local" if node is None else "n1"
    if node is not None:
        daemon.control.ok("suite-agents", suite=str(suite), add=["n1"], remove=["local"])
    (shown,) = run(daemon, suite, {"args": ["true"]})
    assert shown["result"]["exit_status"] == 0
    assert seen.read_bytes() == path.read_bytes()
    missing = {**hook, "resources": [{"blob": "administrator/nothing", "path": "x"}]}
    other = a_suite(daemon, hooks={"provision": missing})
    if node is not None:
        daemon.control.ok("suite-agents", suite=str(other), add=["n1"], remove=["local"])
    daemon.control.ok("task-submit", suite=str(other), tasks=[{"args": ["true"]}])

    def given_up() -> str:
        (status,) = daemon.control.ok("suites", suites=[str(other)])["suites"]
        return next((str(one["reason"]) for one in status["nodes"] if one["node"] == where), "")

    reason = eventually(given_up, what="the suite is not worked on here")
    assert "ResourceNotFound" in (reason or "")


def test_results_beyond_the_quota_are_told_and_the_task_counts(
    daemon: Daemon, client: Client, node: Agent | None
) -> None:
    daemon.control.ok("quota-set", name="administrator", storage_bytes=1000)
    suite = a_suite(daemon)
    if node is not None:
        daemon.control.ok("suite-agents", suite=str(suite), add=["n1"], remove=["local"])
    big = "head -c 100000 /dev/urandom > $MITO_RESULT_DIR/x"
    (shown,) = run(daemon, suite, {"args": ["sh", "-c", big]})
    assert shown["result"]["exit_status"] == 0 and "was not kept" in shown["result"]["message"]
    assert shown["artifacts"] == [] and used(daemon) == 0


@pytest.mark.parametrize("victim", ["agent", "daemon"])
def test_who_is_killed_while_results_are_kept_keeps_them_all(
    daemon: Daemon, client: Client, tmp_path: Path, victim: str
) -> None:
    with agents() as join:
        agent = join(daemon, "n1")
        daemon.control.ok("group-grant", group="administrator", node="n1")
        suite = a_suite(daemon, worker={"worker_count": 2})
        daemon.control.ok("suite-agents", suite=str(suite), add=["n1"], remove=["local"])
        leave = f"head -c {6 << 20} /dev/urandom > $MITO_RESULT_DIR/x; sha256sum < $MITO_RESULT_DIR/x"
        tasks = [{"args": ["sh", "-c", leave]}] * 8
        numbers = daemon.control.ok("task-submit", suite=str(suite), tasks=tasks)["tasks"]

        def some_are_kept(count: int) -> bool:
            return bool(client.request("artifacts", {})["total"] >= count)

        for kept in (1, 3):
            eventually(partial(some_are_kept, kept), what="some are kept")
            if victim == "agent":
                agent.kill()
                agent.launch()
            else:
                daemon.crash()
                daemon.start()
        for number in numbers:
            client.request("task-wait", {"task": number}, timeout_s=60.0)
            shown = client.request("task-show", {"task": number})
            assert (shown["status"]["state"], shown["result"]["exit_status"]) == ("FINISHED", 0), (
                shown,
                agent.unit_log("suite-1.w0").read_text(),
                agent.log(),
            )
            download(client, f"task:{number}/result", tmp_path / "r")
            with tarfile.open(fileobj=io.BytesIO((tmp_path / "r").read_bytes())) as archive:
                file = archive.extractfile("x")
                assert file is not None
                assert digest(file.read()) == shown["result"]["tail"].split()[0], "of the attempt that counts"


# ---- the command line ------------------------------------------------------------------------------------


def mgmt(daemon: Daemon, *arguments: str, status: int = 0) -> bytes:
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("MGMT_", "XDG_"))}
    environ |= {"MGMT_ENDPOINT": daemon.endpoint("control"), "MGMT_STATE_DIR": str(daemon.state_dir)}
    done = subprocess.run(
        [sys.executable, "-m", "mgmt_cli", *arguments],
        capture_output=True,
        timeout=60,
        check=False,
        env=environ,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


def shown(daemon: Daemon, *arguments: str) -> Any:
    """What a command says with --json, which is as its schema says."""
    told = json.loads(mgmt(daemon, *arguments, "--json"))
    jsonschema.validate(told, schema_of(told["schema"]))
    return told


def test_files_on_the_command_line(daemon: Daemon, tmp_path: Path) -> None:
    path = a_file(tmp_path, 2 * CHUNK, "net.bin")
    told = shown(daemon, "attachment", "put", str(path), "nets/a.bin")
    assert told["digest"] == digest(path.read_bytes())
    (listed,) = shown(daemon, "attachment", "list", "nets/")["blobs"]
    assert listed["blob"] == "administrator/nets/a.bin"
    for name in ("nets/a.bin", listed["blob"]):
        assert mgmt(daemon, "attachment", "get", name, "-o", "-") == path.read_bytes()
    shown(daemon, "attachment", "get", "nets/a.bin", "-o", str(tmp_path / "copy"))
    assert (tmp_path / "copy").read_bytes() == path.read_bytes()
    mgmt(daemon, "attachment", "get", "nothing", "-o", str(tmp_path / "no"), status=4)
    mgmt(daemon, "attachment", "rm", status=2)
    assert shown(daemon, "attachment", "rm", "nets/a.bin")["deleted"] == 1
    suite = str(a_suite(daemon))
    command = ("sh", "-c", "seq 700000; echo r > $MITO_RESULT_DIR/r")
    mgmt(daemon, "task", "submit", "--suite", suite, "--output", "--wait", "--", *command)
    artifacts = shown(daemon, "artifact", "list", "--suite", suite)["blobs"]
    assert [one["kind"] for one in artifacts] == ["result", "std-log"]
    task = str(artifacts[0]["task"])
    whole = mgmt(daemon, "task", "logs", task)
    assert whole == b"".join(b"%d\n" % number for number in range(1, 700_001)), "nearly 5 MB, all of it"
    assert shown(daemon, "task", "logs", task)["whole"] == f"task:{task}/std-log"
    mgmt(daemon, "artifact", "get", task, "std-log", "-o", str(tmp_path / "log"))
    assert (tmp_path / "log").read_bytes() == whole
    assert shown(daemon, "artifact", "rm", task, "--kind", "result")["deleted"] == 1
    mgmt(daemon, "artifact", "get", task, "-o", str(tmp_path / "no"), status=4)
    assert not (tmp_path / "no").exists()


def test_what_a_task_wrote_is_there_when_its_agent_is_gone(daemon: Daemon, tmp_path: Path) -> None:
    """The end of its output with its result, all of it as content: nothing is asked of the node any more."""
    with agents() as join:
        agent = join(daemon, "n1")
        suite = a_suite(daemon)
        daemon.control.ok("suite-agents", suite=str(suite), add=["n1"], remove=["local"])
        talk = {"args": ["sh", "-c", "seq 1 40000; echo the end"]}
        brief, whole = run(daemon, suite, talk, {**talk, "terminal_output": True})
        agent.crash()
        agent.clean = False  # as its machine would be
        becomes(daemon, "n1", "LOST", 40.0)
        expected = "".join(f"{n}\n" for n in range(1, 40001)) + "the end\n"
        assert mgmt(daemon, "task", "logs", str(brief["status"]["task"])) == expected[-4096:].encode()
        number = whole["status"]["task"]
        assert mgmt(daemon, "task", "logs", str(number)) == expected.encode()
        (kept,) = daemon.control.ok("artifacts", tasks=[number])["blobs"]
        assert (kept["kind"], kept["bytes"]) == ("std-log", len(expected))
        assert kept["digest"] == digest(expected.encode())
        assert [hashlib.sha256(one.read_bytes()).hexdigest() for one in contents(daemon)] == [kept["digest"]]
