"""The queue of tasks in the state folder, looked at and repaired without a daemon."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mgmt.protocol.errors import MgmtError

SPANS_SHOWN = 10
COUNTED = ("suites", "tasks", "submissions", "holders", "blobs")


@dataclass(slots=True)
class Told:
    """What is said of it. `lost`: spans of numbers, by table, that cannot be read any more."""

    path: Path
    rows: dict[str, int]
    text: str
    lost: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    mended: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        counts = ", ".join(f"{count} {table}" for table, count in self.rows.items())
        lines = [f"{self.path} {self.text}: {counts}"]
        for table, spans in self.lost.items():
            some = ", ".join(f"{a}-{b}" if b > a else str(a) for a, b in spans[:SPANS_SHOWN])
            more = f" and {len(spans) - SPANS_SHOWN} further spans" if len(spans) > SPANS_SHOWN else ""
            lines.append(f"  {table}: what had the numbers {some}{more} is lost")
        return [*lines, *(f"  {sentence}" for sentence in self.mended)]

    def value(self) -> dict[str, Any]:
        spans = {table: [list(span) for span in spans] for table, spans in self.lost.items()}
        return {
            "path": str(self.path),
            "rows": self.rows,
            "text": self.text,
            "lost": spans,
            "mended": self.mended,
        }


def count(path: Path) -> Told | None:
    """A sound queue, or None where there never was one; MgmtError `bad-store` names the damage."""
    from mgmt.store.queue.sqlite import SqliteEngine

    if not path.exists() and not path.with_name(f"{path.name}.id").exists():
        return None  # opening it would make one
    db = SqliteEngine(path).open()
    try:
        rows = {table: db.rows(f"SELECT count(*) FROM {table}")[0][0] for table in COUNTED}
    finally:
        db.close()
    return Told(path, rows, "is sound")


def recovered(path: Path, stamp: str) -> Told | None:
    """The queue, sound or made so."""
    from mgmt.store.queue.recovery import recover

    try:
        found = count(path)
        if found is not None:
            found.text = "is sound; nothing was changed"
        return found
    except MgmtError as error:
        if error.code != "bad-store" or "version" in error.detail:
            raise  # one of a newer program is not damaged
        reason = error.detail.get("reason", error.text)
    saved = recover(path, stamp)
    text = f"was damaged ({reason}) and is new{kept(path, stamp)}"
    return Told(path, saved.rows, text, saved.gaps, saved.mended)


def kept(path: Path, stamp: str) -> str:
    """Where the damaged file is, if there was one."""
    aside = path.with_name(f"{path.name}.damaged-{stamp}")
    return f"; the old one is {aside}" if aside.exists() else ""
