"""Files of keys: their format, their modes, and what is said about a wrong one; what a failed handshake means."""

from __future__ import annotations

import multiprocessing
import os
import stat
from pathlib import Path

import pytest
import zmq

from mgmt.protocol import curve, keys, places
from mgmt.protocol.errors import Exit, MgmtError
from mgmt.protocol.keys import Credentials, Grant, KeyFile

PUBLIC = "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7"
OTHER = "Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID"
HASH = "#" + OTHER[1:]  # a key may begin like a comment


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def a_pair(name: str = "alice", role: str = keys.CLIENT, comment: str = "") -> KeyFile:
    return keys.new_pair(zmq.curve_keypair, name, role, comment)


def test_a_pair_is_for_its_owner_and_its_public_half_for_everybody(tmp_path: Path) -> None:
    pair = a_pair(comment="alice's # laptop")
    former = os.umask(0)
    try:
        path = keys.write_pair(tmp_path / "keys", pair)
    finally:
        os.umask(former)
    assert (mode(path.parent), mode(path), mode(path.with_suffix(".pub"))) == (0o700, 0o600, 0o644)
    assert keys.read_pair(path) == pair
    assert pair.secret not in path.with_suffix(".pub").read_text()
    assert keys.public_key(str(path.with_suffix(".pub"))) == keys.public_key(pair.public) == pair.public
    assert [one.name for one in path.parent.iterdir() if one.name.startswith(".")] == []


def test_a_pair_is_never_overwritten(tmp_path: Path) -> None:
    path = keys.write_pair(tmp_path, a_pair())
    before = path.read_bytes()
    with pytest.raises(MgmtError, match="its secret half is nowhere else") as refused:
        keys.write_pair(tmp_path, a_pair())
    assert refused.value.code == "conflict"
    assert path.read_bytes() == before


@pytest.mark.parametrize("bits", [0o644, 0o640, 0o602, 0o660])
def test_a_secret_that_others_may_read_is_not_used(tmp_path: Path, bits: int) -> None:
    path = keys.write_pair(tmp_path, a_pair())
    path.chmod(bits)
    with pytest.raises(MgmtError, match="chmod 600"):
        keys.read_pair(path)


def test_a_table_that_others_may_write_is_not_used(tmp_path: Path) -> None:
    with keys.changing(tmp_path) as grants:
        keys.allow(grants, Grant(PUBLIC, keys.CLIENT, "alice"))
    path = tmp_path / keys.ALLOWED
    assert mode(path) == 0o600
    path.chmod(0o620)
    with pytest.raises(MgmtError, match="others may change it"):
        keys.read_allowed(tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no public key of 40 characters"),
        (f"public {PUBLIC[1:]}", "no public key"),
        (f"public {PUBLIC}\npublic {OTHER}", "line 2: 'public' is not known here, or said twice"),
        (f"public {PUBLIC}\nsecret x", "no secret key"),
        (f"public {PUBLIC}\ncolour red", "line 2: 'colour'"),
        ("-----BEGIN PRIVATE KEY-----", "line 1"),
    ],
)
def test_a_file_that_is_no_key_is_refused_with_its_name(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "some.key"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(MgmtError, match=words) as refused:
        keys.read_pair(path)
    assert str(path) in refused.value.text
    assert refused.value.code == "bad-config"


def test_files_of_other_kinds_are_refused(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "huge").write_bytes(b"#" * (keys.MAX_FILE_BYTES + 1))
    os.mkfifo(tmp_path / "pipe")
    for name in ("binary", "huge", "pipe", ".", "nowhere"):
        with pytest.raises(MgmtError):
            keys.read_public(tmp_path / name)


def test_the_table_is_what_was_written(tmp_path: Path) -> None:
    rows = [
        Grant(PUBLIC, keys.OPERATOR, "alice", "her laptop # the old one"),
        Grant(OTHER, "agent:n1", "n1"),
        Grant(HASH, keys.CLIENT, "web"),
    ]
    with keys.changing(tmp_path) as grants:
        for row in rows:
            keys.allow(grants, row)
    assert keys.read_allowed(tmp_path) == {row.key: row for row in rows}
    assert [row.node for row in rows] == ["", "n1", ""]
    assert (tmp_path / keys.ALLOWED).read_text().startswith("# Who may speak")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (f"{PUBLIC} root alice", "no role: operator, client, user:NAME or agent:NODE"),
        (f"{PUBLIC} backend alice", "no role"),
        (f"{PUBLIC} agent: alice", "no role"),
        (f"{PUBLIC} agent:../x alice", "no role"),
        (f"{PUBLIC} client", "a line is"),
        (f"{PUBLIC} client ../../x", "no name"),
        (f"{PUBLIC}x client alice", "no key"),
        ("#comment client alice", "no key"),
        (f"{PUBLIC} client a\n{PUBLIC} operator b", "has a line already"),
    ],
)
def test_a_wrong_line_is_refused_with_its_number(line: str, words: str) -> None:
    with pytest.raises(MgmtError, match=words) as refused:
        keys.parse_allowed(f"# head\n\n{line}\n", "keys/allowed")
    assert "keys/allowed: line" in refused.value.text


def test_a_name_means_one_key(tmp_path: Path) -> None:
    grants = {PUBLIC: Grant(PUBLIC, keys.CLIENT, "alice")}
    with pytest.raises(MgmtError, match="another key is called 'alice'"):
        keys.allow(grants, Grant(OTHER, keys.CLIENT, "alice"))
    keys.allow(grants, Grant(PUBLIC, keys.OPERATOR, "alice"))  # the same key: its role changes
    assert keys.revoke(grants, "alice").role == keys.OPERATOR
    with pytest.raises(MgmtError, match="no key 'alice' is allowed; allowed are: none"):
        keys.revoke(grants, "alice")


def test_a_change_that_fails_changes_nothing(tmp_path: Path) -> None:
    with keys.changing(tmp_path) as grants:
        keys.allow(grants, Grant(PUBLIC, keys.CLIENT, "alice"))
    before = (tmp_path / keys.ALLOWED).read_bytes()
    with pytest.raises(MgmtError), keys.changing(tmp_path) as grants:
        keys.revoke(grants, "alice")
        keys.revoke(grants, "alice")
    assert (tmp_path / keys.ALLOWED).read_bytes() == before


def _allow_some(folder: Path, start: int) -> None:
    for number in range(start, start + 20):
        with keys.changing(folder) as grants:
            keys.allow(grants, Grant(f"{number:040}", keys.CLIENT, f"k{number}"))


def test_two_that_change_the_table_lose_nothing(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("spawn")
    both = [fork.Process(target=_allow_some, args=(tmp_path, start)) for start in (100, 200)]
    for one in both:
        one.start()
    for one in both:
        one.join(30)
    assert len(keys.read_allowed(tmp_path)) == 40


def test_the_daemons_keys_are_made_once(tmp_path: Path) -> None:
    first = keys.own_pairs(tmp_path, zmq.curve_keypair)
    local = keys.read_pair(tmp_path / "local.key")
    assert keys.own_pairs(tmp_path, zmq.curve_keypair) == first
    assert keys.read_allowed(tmp_path)[local.public].role == keys.OPERATOR
    with keys.changing(tmp_path) as grants:
        keys.revoke(grants, keys.LOCAL)
    keys.own_pairs(tmp_path, zmq.curve_keypair)
    assert keys.read_allowed(tmp_path) == {}  # what was revoked does not come back
    assert keys.backends_pair(tmp_path, zmq.curve_keypair) == keys.backends_pair(tmp_path, zmq.curve_keypair)


def test_local_commands_have_a_key_while_the_daemon_asks_for_one(tmp_path: Path) -> None:
    folder = keys.keys_dir(tmp_path)
    assert keys.local_credentials(tmp_path) is None
    pair = keys.own_pairs(folder, zmq.curve_keypair)
    keys.mark(folder, True)
    found = keys.local_credentials(tmp_path)
    assert found is not None and found.server == pair.public
    keys.mark(folder, False)
    assert keys.local_credentials(tmp_path) is None


def test_one_key_without_the_other_is_an_error_that_says_which(tmp_path: Path) -> None:
    path = str(keys.write_pair(tmp_path, a_pair()))
    assert keys.credentials(None, None, {}) is None
    for server, own, words in ((PUBLIC, None, "a key of your own"), (None, path, "the server's public key")):
        with pytest.raises(MgmtError, match=words) as refused:
            keys.credentials(server, own, {})
        assert (refused.value.code, refused.value.row.exit) == ("not-authorised", Exit.DENIED)
    environ = {"MGMT_SERVER_KEY": PUBLIC, "MGMT_KEY_FILE": path}
    told = keys.credentials(None, None, environ)
    assert told is not None and told.server == PUBLIC
    outranked = keys.credentials(OTHER, None, environ)
    assert outranked is not None and outranked.server == OTHER
    assert keys.for_endpoint("ipc:///x", PUBLIC, None) is None  # its file's mode is the authority


@pytest.mark.parametrize(
    ("endpoint", "heard_from", "dialled"),
    [
        ("tcp://0.0.0.0:7", "", "tcp://127.0.0.1:7"),
        ("tcp://*:7", "", "tcp://127.0.0.1:7"),
        ("tcp://[::]:7", "tcp://far:8", "tcp://far:7"),
        ("tcp://0.0.0.0:7", "tcp://0.0.0.0:8", "tcp://127.0.0.1:7"),
        ("tcp://10.0.0.1:7", "tcp://far:8", "tcp://10.0.0.1:7"),
        ("ipc:///run/x", "tcp://far:8", "ipc:///run/x"),
    ],
)
def test_an_endpoint_for_every_address_is_dialled_where_it_was_heard_of(
    endpoint: str, heard_from: str, dialled: str
) -> None:
    assert places.dialled(endpoint, heard_from) == dialled


CREDENTIALS = Credentials(PUBLIC, OTHER, OTHER)
CUT = zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL


def test_a_refusal_is_certain_at_once() -> None:
    refused = curve.Handshakes("tcp://h:1", CREDENTIALS).judge(0.0, zmq.EVENT_HANDSHAKE_FAILED_AUTH, 400)
    assert refused is not None and refused.code == "not-authorised" and OTHER in refused.text
    for credentials, words in ((None, "wants a key"), (CREDENTIALS, "uses no keys")):
        error = curve.Handshakes("tcp://h:1", credentials).judge(
            0.0, zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL, curve.MECHANISM_DIFFERS
        )
        assert error is not None and words in error.text


def test_being_cut_off_counts_when_it_goes_on() -> None:
    watch = curve.Handshakes("tcp://h:1", CREDENTIALS)
    assert watch.judge(10.0, CUT, 0) is None
    assert watch.judge(10.3, CUT, 0) is None
    assert watch.judge(10.4, zmq.EVENT_HANDSHAKE_SUCCEEDED, 0) is None  # it was a restart
    assert watch.judge(20.0, CUT, 0) is None
    error = watch.judge(20.6, CUT, 0)
    assert error is not None and "another server key" in error.text


def test_files_have_no_handshake_to_judge() -> None:
    watch = curve.Handshakes("ipc:///x", None)
    assert watch.judge(0.0, CUT, 0) is watch.judge(9.0, CUT, 0) is None
