"""A shadow run as a picture: who was right, and whose first ones are whose. An SVG that stands alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

WIDTH = 960
SIDE = 300  # of the square of calibration, px
TOP = 96
ROW = 20
COLORS = ("#e69f00", "#0072b2")  # of the two policies: told apart by all kinds of colour vision
# Plain values and no variables: not only browsers read it. Dark paper comes last, for those that know of it.
STYLE = """
text { font: 12px "DejaVu Sans", "Segoe UI", sans-serif; fill: #1b1f24 }
text.title { font-size: 17px; font-weight: bold }
text.soft { fill: #5b6670; font-size: 11px }
.paper { fill: #ffffff }
.grid { stroke: #dde2e7; stroke-width: 1; fill: none }
.axis { stroke: #5b6670; stroke-width: 1; fill: none }
.link { stroke: #6b7680; stroke-width: 1.2; fill: none }
@media (prefers-color-scheme: dark) {
  text { fill: #e8ecef }
  text.soft { fill: #9aa6b0 }
  .paper { fill: #14181c }
  .grid { stroke: #333b43 }
  .axis, .link { stroke: #9aa6b0 }
}
""".strip()


def svg(title: str, told: Mapping[str, Any]) -> str:
    """`told`: what `compared` says, with `now`."""
    rows = [row for row in told["rows"] if row["left"] or row["right"]]
    height = TOP + max(SIDE + 150, ROW * (told["top"] + 2) + 60)
    about = f"{told['candidates']} candidates, {told['runs']} runs, seen from {told['now']}"
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        f'viewBox="0 0 {WIDTH} {height}" role="img" aria-labelledby="title about">'
    )
    lines = [
        head,
        f'<title id="title">{escape(title)}</title><desc id="about">{escape(about)}</desc>',
        f"<style>{STYLE}</style>",
        f'<rect class="paper" width="{WIDTH}" height="{height}"/>',
        text(24, 32, f"Two policies on {title}", "title"),
        text(24, 52, about, "soft"),
        *_calibration(told["policies"]),
        *_ranks(rows, told),
        "</svg>\n",
    ]
    return "\n".join(lines)


def _calibration(policies: list[Mapping[str, Any]]) -> Iterator[str]:
    """Predicted against what happened: on the diagonal is right; a disc's area is the number of runs."""
    left, bottom = 64, TOP + SIDE
    yield text(left, TOP - 14, "chance of success: predicted, and what came true")
    for tenth in range(0, 11, 2):
        at = SIDE * tenth / 10
        yield f'<path class="grid" d="M{left + at} {TOP}V{bottom}M{left} {bottom - at}H{left + SIDE}"/>'
        yield text(left + at, bottom + 16, f"{tenth / 10:g}", "soft", "middle")
        yield text(left - 8, bottom - at + 4, f"{tenth / 10:g}", "soft", "end")
    yield f'<path class="axis" d="M{left} {bottom}L{left + SIDE} {TOP}"/>'
    most = max((count for one in policies for _, _, count in one["calibration"]), default=1)
    for color, one in zip(COLORS, policies, strict=True):
        for predicted, real, count in one["calibration"]:
            radius = 3 + 11 * (count / most) ** 0.5
            about = f"{one['policy']}: predicted {predicted:.2f}, came true {real:.2f}, {count:.0f} runs"
            yield (
                f'<circle cx="{left + SIDE * predicted:.1f}" cy="{bottom - SIDE * real:.1f}" r="{radius:.1f}" '
                f'fill="{color}" fill-opacity="0.7"><title>{escape(about)}</title></circle>'
            )
    for i, (color, one) in enumerate(zip(COLORS, policies, strict=True)):
        y = bottom + 48 + 40 * i
        yield f'<circle cx="{left + 6}" cy="{y - 4}" r="6" fill="{color}"/>'
        yield text(left + 20, y, one["policy"])
        figures = [
            f"{name} {one[key]:.3f}"
            for name, key in (
                ("Brier", "brier"),
                ("calibration error", "calibration_error"),
                ("duration error", "duration_error"),
            )
            if one[key] is not None
        ]
        yield text(left + 20, y + 16, ", ".join(figures), "soft")


def _ranks(rows: list[Mapping[str, Any]], told: Mapping[str, Any]) -> Iterator[str]:
    """The first ones of both side by side; a line joins the places of one that both have there."""
    left, right, top = 560, 800, told["top"]
    names = [one["policy"] for one in told["policies"]]
    yield text(left, TOP - 14, names[0], "", "end")
    yield text(right, TOP - 14, names[1])
    for row in rows:
        name = f"{row['codebase']} {row['campaign']}"
        cut = name if len(name) <= 20 else f"{name[:19]}…"
        at = [TOP + ROW * place for place in (row["left"] or 0, row["right"] or 0)]
        shown = [bool(row[side]) and row[side] <= top for side in ("left", "right")]
        if shown[0]:
            yield text(left, at[0] - 6, f"{cut}  {row['left']}", "", "end", name)
        if shown[1]:
            yield text(right, at[1] - 6, f"{row['right']}  {cut}", "", "start", name)
        if all(shown):
            yield f'<path class="link" d="M{left + 8} {at[0] - 10}L{right - 8} {at[1] - 10}"/>'


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "start", about: str = "") -> str:
    of_kind = f' class="{kind}"' if kind else ""
    to = f' text-anchor="{anchor}"' if anchor != "start" else ""
    told = f"<title>{escape(about)}</title>" if about else ""
    return f'<text x="{x}" y="{y}"{of_kind}{to}>{escape(words)}{told}</text>'
