"""The history of runs as a picture: a bar of outcomes for each campaign or codebase. An SVG that stands alone."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Any

from .. import render
from .picture import STYLE, text

WIDTH, LEFT, BAR, ROW, TOP = 960, 220, 420, 24, 96
# Told apart by all kinds of colour vision.
COLORS = {"success": "#009e73", "nothing": "#b9c2ca", "failure": "#d55e00", "transient": "#e8d060"}


def svg(title: str, told: dict[str, Any], groups: list[str], top: int) -> str:
    """`told`: what `analytics` says, with `now`; the first `top` of each group."""
    height = TOP + sum(ROW * (min(top, len(told[group])) + 3) for group in groups)
    about = f"{told['runs']} runs until {told['now']}; the trend is of {told['period_days']:g} days"
    size = f'width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-labelledby="title about">',
        f'<title id="title">{escape(title)}</title><desc id="about">{escape(about)}</desc>',
        f"<style>{STYLE}</style>",
        f'<rect class="paper" width="{WIDTH}" height="{height}"/>',
        text(24, 32, f"Runs of {title}", "title"),
        text(24, 52, about, "soft"),
        *_legend(),
    ]
    y = TOP
    for group in groups:
        rows = told[group][:top]
        lines += _group(group, rows, y)
        y += ROW * (len(rows) + 3)
    return "\n".join([*lines, "</svg>\n"])


def _legend() -> Iterator[str]:
    for i, (name, color) in enumerate(COLORS.items()):
        yield f'<rect x="{LEFT + 104 * i}" y="64" width="12" height="12" fill="{color}"/>'
        yield text(LEFT + 104 * i + 18, 74, name, "soft")


def _group(group: str, rows: list[dict[str, Any]], y: int) -> Iterator[str]:
    yield text(24, y + 16, group, "title")
    for place, head in enumerate(("runs", "rate", "P50", "P90", "trend")):
        yield text(LEFT + BAR + 60 + 62 * place, y + 16, head, "soft", "end")
    for i, row in enumerate(rows, 1):
        at, x = y + ROW * i, float(LEFT)
        yield text(LEFT - 12, at + 16, row["name"][:26], "", "end", row["name"])
        for name, color in COLORS.items():
            width = BAR * row[name] / row["runs"]
            about = f"{row['name']}: {row[name]} {name}"
            if width:
                yield (
                    f'<rect x="{x:.1f}" y="{at + 4}" width="{width:.1f}" height="{ROW - 8}" fill="{color}">'
                    f"<title>{escape(about)}</title></rect>"
                )
            x += width
        cells = [
            str(row["runs"]), "-" if row["rate"] is None else f"{row['rate']:.2f}",
            render.duration(row["p50_s"]), render.duration(row["p90_s"]),
            "-" if row["trend"] is None else f"{row['trend']:+.2f}",
        ]  # fmt: skip
        for place, cell in enumerate(cells):
            yield text(LEFT + BAR + 60 + 62 * place, at + 16, cell, "", "end")
