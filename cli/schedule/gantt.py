"""The schedule as a picture: an SVG that stands alone and says what its marks mean.

A row for each task under its CPU, the most urgent first: bars where it runs, a rise where a job is released,
a fall where it is due, a diamond at its worst response, and the slack behind that. Its colours keep their
contrast on white and on black, and tell tasks apart without red against green.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from .tables import policy, time

if TYPE_CHECKING:
    from mgmt.core.schedule.timeline import Job, Lane, Timeline

WIDTH = 1280  # px of the whole
LEFT = 250  # of the column of names
RIGHT = 200  # of the column of figures
RESPONSE_AT = WIDTH - 94
ROW = 26
HEAD = 34  # of the line above the rows of a CPU
TOP = 92
BAR = 12
MAX_ROWS = 400
# Okabe and Ito's palette less its black and yellow: told apart by all kinds of colour vision.
COLORS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")
LATE = "#d00000"
# Plain values and no variables: not only browsers read it. Dark paper comes last, for those that know of it.
STYLE = """
text { font: 12px "DejaVu Sans", "Segoe UI", sans-serif; fill: #1b1f24 }
text.title { font-size: 17px; font-weight: bold }
text.head { font-weight: bold }
text.soft, text.tick { fill: #5b6670; font-size: 11px }
text.figure { font-size: 11px }
text.late { fill: #c40000; font-weight: bold }
.paper { fill: #ffffff }
.band { fill: #f0f3f6 }
.grid { stroke: #dde2e7; stroke-width: 1; fill: none }
.axis { stroke: #5b6670; stroke-width: 1; fill: none }
.release { stroke: #1b1f24; stroke-width: 1.2; fill: none }
.due { stroke: #6b7680; stroke-width: 1.2; fill: none }
.slack { stroke: #6b7680; stroke-width: 1.5; stroke-dasharray: 2 3; fill: none }
.worst { fill: none; stroke: #1b1f24; stroke-width: 1.4 }
.missed { fill: none; stroke: #c40000; stroke-width: 2 }
.load { fill: #0072b2 }
.free { fill: #cfd6dd }
@media (prefers-color-scheme: dark) {
  text { fill: #e8ecef }
  text.soft, text.tick { fill: #9aa6b0 }
  text.late { fill: #ff7b6e }
  .paper { fill: #14181c }
  .band { fill: #1f262c }
  .grid { stroke: #333b43 }
  .release { stroke: #e8ecef }
  .due, .slack, .axis { stroke: #9aa6b0 }
  .worst { stroke: #e8ecef }
  .missed { stroke: #ff7b6e }
  .load { fill: #56b4e9 }
  .free { fill: #3a434c }
}
""".strip()


def svg(
    title: str, subtitle: str, cpus: Sequence[Mapping[str, Any]], timeline: Timeline, note: str = ""
) -> str:
    """`cpus`: the rows of the schedule's CPUs, for their load; those that run nothing are only counted.

    `note` says what is shown when it is not the worst case.
    """
    return "\n".join(_Picture(title, subtitle, cpus, timeline, note).lines())


class _Picture:
    def __init__(
        self, title: str, subtitle: str, cpus: Sequence[Mapping[str, Any]], timeline: Timeline, note: str
    ) -> None:
        self.note = note
        self.title, self.subtitle = title, subtitle
        self.timeline = timeline
        self.load = {(row["node"], row["cpu"]): row["utilisation"] for row in cpus}
        self.idle = len(cpus) - sum((lane.node, lane.cpu) in self.load for lane in timeline.lanes)
        self.scale = (WIDTH - LEFT - RIGHT) / timeline.length_us
        self.lanes = list(_fitting(timeline.lanes))
        rows = sum(len(lane.tasks) for lane in self.lanes)
        self.bottom = TOP + rows * ROW + len(self.lanes) * HEAD
        self.height = self.bottom + 104

    def x(self, at_us: float) -> float:
        return round(LEFT + at_us * self.scale, 2)

    def lines(self) -> Iterator[str]:
        yield (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{self.height}" '
            f'viewBox="0 0 {WIDTH} {self.height}" role="img" aria-labelledby="title about">'
        )
        yield f'<title id="title">{escape(self.title)}</title><desc id="about">{escape(self.subtitle)}</desc>'
        yield f"<style>{STYLE}</style>"
        yield f'<rect class="paper" width="{WIDTH}" height="{self.height}"/>'
        yield _text(24, 32, self.title, "title")
        yield _text(24, 52, self.subtitle, "soft")
        yield from self.axis()
        y = TOP
        for lane in self.lanes:
            yield from self.lane(lane, y)
            y += HEAD + ROW * len(lane.tasks)
        yield from self.legend()
        yield "</svg>\n"

    def axis(self) -> Iterator[str]:
        """Grid and times, at the round distance that gives about ten of them."""
        step_us = _step(self.timeline.length_us)
        unit, per_us = ("ms", 1000) if self.timeline.length_us < 10_000_000 else ("s", 1_000_000)
        for at_us in range(0, self.timeline.length_us + 1, step_us):
            x = self.x(at_us)
            yield f'<path class="grid" d="M{x} {TOP - 6}V{self.bottom}"/>'
            for y in (TOP - 11, self.bottom + 16):
                yield _text(x, y, f"{at_us / per_us:g}", "tick", "middle")
        yield _text(LEFT - 14, TOP - 11, f"time in {unit}", "tick", "end")
        yield f'<path class="axis" d="M{LEFT} {self.bottom}H{WIDTH - RIGHT}"/>'
        for x, name in ((RESPONSE_AT, "worst response"), (WIDTH - 24, "slack")):
            yield _text(x, TOP - 11, name, "tick", "end")

    def lane(self, lane: Lane, top: int) -> Iterator[str]:
        load = self.load.get((lane.node, lane.cpu), 0.0)
        where = f"{lane.node}  CPU {lane.cpu}" if lane.cpu >= 0 else f"{lane.node}: no CPU (phantom)"
        yield f'<rect class="band" x="12" y="{top + 6}" width="{WIDTH - 24}" height="{HEAD - 10}" rx="4"/>'
        yield _text(24, top + 22, where, "head")
        x, width = LEFT, 120
        yield f'<rect class="free" x="{x}" y="{top + 14}" width="{width}" height="8" rx="4"/>'
        if load:
            filled = max(round(width * min(load, 1.0), 1), 4)
            yield f'<rect class="load" x="{x}" y="{top + 14}" width="{filled}" height="8" rx="4"/>'
        yield _text(x + width + 8, top + 22, f"{100 * load:.1f} % load", "soft")
        segments: dict[int, list[tuple[int, int, int]]] = {}
        for segment in lane.segments:
            segments.setdefault(segment.task, []).append((segment.start_us, segment.end_us, segment.job))
        jobs: dict[int, list[Job]] = {}
        for job in lane.jobs:
            jobs.setdefault(job.task, []).append(job)
        for i in range(len(lane.tasks)):
            yield from self.row(lane, i, segments.get(i, []), jobs.get(i, []), top + HEAD + i * ROW)

    def row(
        self, lane: Lane, i: int, segments: Sequence[tuple[int, int, int]], jobs: Sequence[Job], top: int
    ) -> Iterator[str]:
        placed = lane.tasks[i]
        task, base = placed.task, top + ROW - 5
        missed = {
            job.job
            for job in jobs
            if job.late or (job.end_us is None and job.due_us < self.timeline.length_us)
        }
        name = task.name if len(task.name) <= 22 else f"{task.name[:21]}…"
        about = (
            f"{placed.workload}/{task.name}: period {time(task.period_us)}, WCET {time(task.wcet_us)}, "
            f"deadline {time(task.deadline_us)}"
        )
        yield f"<g><title>{escape(about)}</title>"
        yield _text(36, base - 2, name, "late" if missed else "")
        how = policy({"policy": task.policy, "priority": task.priority})
        yield _text(LEFT - 14, base - 2, how, "soft", "end")
        yield f'<path class="grid" d="M{LEFT} {base}H{WIDTH - RIGHT}"/>'
        if placed.response_us is not None:
            yield from self.slack(jobs, placed.response_us, base)
        color = COLORS[i % len(COLORS)]
        for start_us, end_us, job in segments:
            x, width = self.x(start_us), max(round((end_us - start_us) * self.scale, 2), 0.6)
            fill = LATE if job in missed else color
            told = f"{task.name} job {job}: {time(start_us)} to {time(end_us)}"
            yield (
                f'<rect x="{x}" y="{base - BAR}" width="{width}" height="{BAR}" rx="1.5" fill="{fill}">'
                f"<title>{escape(told)}</title></rect>"
            )
        if placed.response_us is not None and jobs:
            yield from self.worst(jobs, placed.response_us, base)
        yield from self.marks(jobs, missed, base)
        yield from self.figures(placed.response_us, placed.slack_us, bool(missed), base)
        yield "</g>"

    def marks(self, jobs: Iterable[Job], missed: set[int], base: int) -> Iterator[str]:
        """Release: an arrow up at the left of its job. Deadline: an arrow down."""
        releases, dues = [], []
        for job in jobs:
            x = self.x(job.release_us)
            releases.append(f"M{x} {base}V{base - 17}m-2.5 4l2.5 -4l2.5 4")
            if job.due_us <= self.timeline.length_us:
                x = self.x(job.due_us)
                dues.append(f"M{x} {base - 17}V{base}m-2.5 -4l2.5 4l2.5 -4")
                if job.job in missed:
                    yield f'<circle class="missed" cx="{x}" cy="{base - 9}" r="6"/>'
        yield f'<path class="due" d="{"".join(dues)}"/><path class="release" d="{"".join(releases)}"/>'

    def slack(self, jobs: Iterable[Job], response_us: int, base: int) -> Iterator[str]:
        """From the worst response of each job to its deadline."""
        spans = []
        for job in jobs:
            start_us = job.release_us + response_us
            end_us = min(job.due_us, self.timeline.length_us)
            if start_us < end_us:
                spans.append(f"M{self.x(start_us)} {base - BAR / 2}H{self.x(end_us)}")
        if spans:
            yield f'<path class="slack" d="{"".join(spans)}"/>'

    def worst(self, jobs: Iterable[Job], response_us: int, base: int) -> Iterator[str]:
        middle = base - BAR / 2
        for job in jobs:
            at_us = job.release_us + response_us
            if at_us <= self.timeline.length_us:
                yield f'<path class="worst" d="M{self.x(at_us)} {middle - 4}l4 4l-4 4l-4 -4z"/>'

    def figures(
        self, response_us: int | None, slack_us: int | None, missed: bool, base: int
    ) -> Iterator[str]:
        if missed:
            yield _text(WIDTH - 24, base - 2, "misses its deadline", "late", "end")
        elif response_us is None or slack_us is None:
            yield _text(WIDTH - 24, base - 2, "not computed", "soft", "end")
        else:
            yield _text(RESPONSE_AT, base - 2, time(response_us), "figure", "end")
            yield _text(WIDTH - 24, base - 2, time(slack_us), "figure", "end")

    def legend(self) -> Iterator[str]:
        y, x = self.bottom + 46, 24
        samples = (
            (f'<rect x="{x}" y="{y - 11}" width="26" height="{BAR}" rx="1.5" fill="{COLORS[0]}"/>', "runs"),
            (f'<path class="release" d="M{x + 112} {y + 1}V{y - 16}m-2.5 4l2.5 -4l2.5 4"/>', "released"),
            (f'<path class="due" d="M{x + 212} {y - 16}V{y + 1}m-2.5 -4l2.5 4l2.5 -4"/>', "deadline"),
            (f'<path class="worst" d="M{x + 312} {y - 9}l4 4l-4 4l-4 -4z"/>', "worst response, proven"),
            (f'<path class="slack" d="M{x + 502} {y - 5}h30"/>', "slack"),
            (f'<circle class="missed" cx="{x + 622}" cy="{y - 6}" r="6"/>', "deadline missed"),
        )
        for (mark, words), at in zip(samples, (34, 124, 224, 324, 542, 636), strict=True):
            yield mark + _text(x + at, y - 1, words, "soft")
        for i, note in enumerate(self.notes()):
            yield _text(24, y + 22 + 16 * i, note, "soft")

    def notes(self) -> list[str]:
        """What the picture does not show."""
        line, hyperperiod = self.timeline, time(self.timeline.hyperperiod_us)
        first = "Every job takes its worst case, from a common start and without jitter."
        if line.truncated:
            first += f" Shown are {time(line.length_us)} of {hyperperiod}, after which it repeats."
        else:
            first += f" After {hyperperiod} it repeats."
        first = self.note or first
        left = []
        hidden = sum(len(lane.tasks) for lane in line.lanes) - sum(len(lane.tasks) for lane in self.lanes)
        if hidden:
            left.append(f"{hidden} tasks on {len(line.lanes) - len(self.lanes)} CPUs do not fit here")
        if self.idle:
            left.append(f"{self.idle} CPU{'s' if self.idle > 1 else ''} without tasks not shown")
        return [first, *(["; ".join(left) + "."] if left else [])]


def _fitting(lanes: Iterable[Lane]) -> Iterator[Lane]:
    """As many CPUs as a reader can take in."""
    rows = 0
    for lane in lanes:
        rows += len(lane.tasks)
        if rows > MAX_ROWS and rows != len(lane.tasks):
            return
        yield lane


def _step(length_us: int) -> int:
    """1, 2 or 5 times a power of ten: the largest that gives at least eight steps."""
    step_us = 1
    while True:
        for factor in (2, 5, 10):
            if length_us // (step_us * factor) < 8:
                return step_us if factor == 2 else step_us * (2 if factor == 5 else 5)
        step_us *= 10


def _text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    of_kind = f' class="{kind}"' if kind else ""
    to = f' text-anchor="{anchor}"' if anchor != "start" else ""
    return f'<text x="{x}" y="{y}"{of_kind}{to}>{escape(words)}</text>'
