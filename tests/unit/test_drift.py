"""Generated files are what the code says, and a file that is not is found."""

from __future__ import annotations

from pathlib import Path

import pytest

from mgmt.protocol.messages import REQUESTS
from tests import drift, drift_frames, drift_protocol, drift_schema


def test_no_generated_file_differs_from_the_code() -> None:
    found = drift.drifted()
    assert not found, "\n".join([*found.values(), "", "`make drift` writes these files"])


def test_rendering_is_deterministic() -> None:
    assert drift_schema.render() == drift_schema.render()
    assert drift_frames.vectors() == drift_frames.vectors()


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hand-written texts with their blocks, in a folder of their own; the generated files are missing."""
    (tmp_path / "docs").mkdir()
    for name in (drift_protocol.PATH, "docs/config.md", "docs/security.md"):
        (tmp_path / name).write_text((drift.ROOT / name).read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.setattr(drift, "ROOT", tmp_path)
    return tmp_path


def test_missing_files_are_written_and_then_nothing_differs(copy: Path) -> None:
    assert drift_schema.PATH in drift.drifted()
    assert drift_schema.PATH in drift.write()
    assert drift.drifted() == {}
    assert drift.write() == []


def test_one_changed_line_shows_as_a_diff_and_a_stray_file_by_its_name(copy: Path) -> None:
    drift.write()
    schema = copy / drift_schema.PATH
    schema.write_text(schema.read_text(encoding="utf-8").replace('"version": 1,', '"version": 9,'))
    stray = copy / drift_frames.FOLDER / "request-gone.hex"
    stray.write_text("00\n")
    found = drift.drifted()
    assert set(found) == {drift_schema.PATH, f"{drift_frames.FOLDER}/request-gone.hex"}
    assert '\n- "version": 9,\n+ "version": 1,\n' in found[drift_schema.PATH]
    drift.write()
    assert not stray.exists()


def test_a_page_that_lost_a_block_is_refused() -> None:
    text = drift._text(drift_protocol.PATH)
    with pytest.raises(ValueError, match="states"):
        drift_protocol.render(text.replace("<!-- generated: states -->", ""))
    with pytest.raises(ValueError, match="end: states"):
        drift_protocol.render(text.replace("<!-- end: states -->", ""))


def test_examples_fill_every_field() -> None:
    """An example that leaves a field out would publish less than the table has."""
    for verb in REQUESTS.values():
        assert set(drift_frames.example(verb.body, full=True)) == set(verb.body.model_fields)
