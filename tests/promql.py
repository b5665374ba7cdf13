"""What Prometheus makes of our alert rules: the few forms of expression that they have, over two scrapes.

A form that is not among them is an error, not an answer.
"""

from __future__ import annotations

import re

Labels = frozenset[tuple[str, str]]
Scrape = dict[tuple[str, Labels], float]

SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$")
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
SELECTOR = r"(?P<name>\w+)(?:\{(?P<labels>[^}]*)\})?"
WINDOW = r"\[\d+[sm]\]"
TERM = {
    "now": re.compile(r"time\(\)"),
    "taken": re.compile(rf"(?:sum|max)\({SELECTOR}\)"),
    "increase": re.compile(rf"sum\(increase\({SELECTOR}{WINDOW}\)\)"),
    "quantile": re.compile(
        rf"histogram_quantile\((?P<q>[\d.]+), sum by \(le\) \(rate\({SELECTOR}{WINDOW}\)\)\)"
    ),
}


def scrape(text: str) -> Scrape:
    """Samples of the text format, version 0.0.4."""
    found: Scrape = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            match = SAMPLE.match(line)
            assert match is not None, f"not a sample: {line!r}"
            key = match[1], frozenset(LABEL.findall(match[2] or ""))
            assert key not in found, f"twice: {line!r}"
            found[key] = float(match[3])
    return found


def holds(expression: str, before: Scrape, after: Scrape, now_s: float) -> bool:
    """Whether an alert's expression has a value. `before`: a scrape at the begin of its window."""
    return any(_one(part, before, after, now_s) for part in expression.split(" or "))


def _one(expression: str, before: Scrape, after: Scrape, now_s: float) -> bool:
    absent = re.fullmatch(rf"absent\({SELECTOR}\)", expression)
    if absent is not None:
        return not _chosen(absent, after)
    compared = re.fullmatch(r"(.+) > ([\d.]+)", expression)
    assert compared is not None, f"no form of ours: {expression!r}"
    value = 0.0
    for sign, term in re.findall(r"(?:^|( [+-] ))((?:(?! [+-] ).)+)", compared[1]):
        found = _value(term, before, after, now_s)
        if found is None:
            return False  # no value: nothing to compare
        value += -found if sign == " - " else found
    return value > float(compared[2])


def _value(term: str, before: Scrape, after: Scrape, now_s: float) -> float | None:
    for form, pattern in TERM.items():
        match = pattern.fullmatch(term)
        if match is None:
            continue
        if form == "now":
            return now_s
        there = _chosen(match, after)
        if not there:
            return None
        if form == "taken":
            return sum(there.values()) if term.startswith("sum") else max(there.values())
        grown = {key: count - before.get(key, 0.0) for key, count in there.items()}
        return sum(grown.values()) if form == "increase" else _quantile(float(match["q"]), grown)
    raise AssertionError(f"no form of ours: {term!r}")


def _chosen(match: re.Match[str], scraped: Scrape) -> Scrape:
    wanted = set(LABEL.findall(match["labels"] or ""))
    return {key: value for key, value in scraped.items() if key[0] == match["name"] and wanted <= key[1]}


def _quantile(q: float, buckets: Scrape) -> float | None:
    """Linear within the bucket, as Prometheus has it; the lower edge of the last one."""
    edges = sorted((float(dict(labels)["le"]), count) for (_, labels), count in buckets.items())
    rank = q * edges[-1][1]
    if not edges[-1][1]:
        return None
    low = below = 0.0
    for edge, count in edges:
        if count >= rank:
            return low if edge == float("inf") else low + (edge - low) * (rank - below) / (count - below)
        low, below = edge, count
    raise AssertionError("the last bucket has them all")
