"""The folder of the daemon's sockets is its own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mgmt.protocol.errors import MgmtError
from mgmt.shell.ownership import own

SOMEBODY = 12_345


def test_a_folder_is_made_for_the_owner_and_the_group(tmp_path: Path) -> None:
    own(tmp_path / "a" / "b")
    own(tmp_path / "a" / "b")
    assert not (tmp_path / "a" / "b").stat().st_mode & 0o027


def test_a_folder_that_another_user_made_first_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.getuid() == 0:
        os.chown(tmp_path, SOMEBODY + 1, -1)
    monkeypatch.setattr(os, "geteuid", lambda: SOMEBODY)
    with pytest.raises(MgmtError) as refused:
        own(tmp_path)
    assert refused.value.code == "bad-config"
    assert str(tmp_path) in refused.value.text and "MGMT_RUNTIME_DIR" in refused.value.text
