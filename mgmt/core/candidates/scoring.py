"""The default policy: what a run is expected to cost and to bring, for one candidate and for all at once."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias
from zlib import crc32

from mgmt import kernel
from mgmt.kernel.reference_history import estimate as estimate_one

from . import compat, history
from .beta import interval
from .compat_queue import CompatError
from .graph import Order, order_of
from .history import DONE, ENDED, LOST, RUNS, STREAK, F, History, Level, S, Z
from .records import Candidate, RowError, Run, World
from .relations import RelationError, satisfied
from .settings import AHEAD_US, Settings

NAN = math.nan
Three: TypeAlias = "tuple[array[float], array[float], array[float]]"
Six = tuple[Any, Any, Any, Any, Any, Any]  # three columns of float64, three of int64


@dataclass(frozen=True, slots=True)
class PriorityFactor:
    """One factor of a score and where it comes from. `kind`: `expected` ones multiply up to the expected value,
    `cost` ones add up to the cost in ms; score = cost / expected. Others, of kind `about`, explain these."""

    name: str
    kind: str
    value: float
    source: str


@dataclass(frozen=True, slots=True)
class CandidateScore:
    """`score`: expected cost in ms by expected value; lower is earlier. None: see `reason`."""

    codebase: str
    campaign: str
    change_set: str
    score: float | None
    probability: float | None
    duration_us: float | None
    not_before_us: int = 0
    waits_for: tuple[str, ...] = ()
    reason: str = ""
    factors: tuple[PriorityFactor, ...] = ()

    @property
    def key(self) -> tuple[str, str, str]:
        return self.codebase, self.campaign, self.change_set


@dataclass(slots=True)
class Columns:
    """Candidates as the kernel reads them; the columns of one are at its number."""

    value: array[float] = field(default_factory=lambda: array("d"))
    chance: array[float] = field(default_factory=lambda: array("d"))
    tried: array[float] = field(default_factory=lambda: array("d"))
    series: array[int] = field(default_factory=lambda: array("q"))
    codebase: array[int] = field(default_factory=lambda: array("q"))
    campaign: array[int] = field(default_factory=lambda: array("q"))
    worth: array[float] = field(default_factory=lambda: array("d"))  # of the codebase, normalised

    def all(self) -> Six:
        return self.value, self.chance, self.tried, self.series, self.codebase, self.campaign

    def one(self, i: int) -> Six:
        value, chance, tried, series, codebase, campaign = (column[i : i + 1] for column in self.all())
        return value, chance, tried, series, codebase, campaign


class Scorer:
    """Candidates with the history of their runs. One that cannot be scored is in `faults`, with the reason."""

    def __init__(
        self,
        world: World,
        settings: Settings,
        now_us: int,
        columns: history.Columns | None = None,
        reference: compat.Past | None = None,
    ) -> None:
        """`columns`, and `reference` for parts that are off: the runs, instead of those of `world`."""
        self.settings, self.world = settings, world
        self.history = History(settings, now_us)
        if columns is not None:
            self.history.adopt(columns, now_us)
        self.candidates: list[Candidate] = []
        self.columns = Columns()
        self.faults: list[RowError] = []
        self.warnings: set[str] = set()
        self._most = max(
            (one.value for one in world.codebases.values() if one.value is not None), default=0.0
        )
        self._at: dict[tuple[str, str, str], int] = {}
        self._of_series: dict[int, list[int]] = {}
        for i, candidate in enumerate(world.candidates):
            try:
                self._place(i, candidate)
            except RowError as error:
                self.faults.append(error)
        if columns is None:
            self.faults += self.history.load(world.runs)
        self.reference: compat.Past | None = None
        """For parts that are off, by Janitor's rules."""
        if not settings.parts.are_columns_enough:
            constants = compat.constants_of(settings)
            self.reference = reference or compat.History(world.runs, world.versions, constants)
        self.forget(now_us)
        self.refresh()

    def begin(self, columns: history.Columns, now_us: int) -> None:
        """Another history, whose series begin with those of the candidates."""
        self.history.adopt(columns, now_us)
        for i, candidate in enumerate(self.candidates):
            if candidate.context:
                self.columns.tried[i] = 0.0
        self.forget(now_us)
        self.refresh()

    def refresh(self) -> None:
        """The history has got, or lost, many runs at once."""
        self._settle()
        for series in {series for series, _ in self.history.tried}:
            self._retry(series)
        if self.settings.first_run_bonus:
            for i in range(len(self.candidates)):
                self._revalue(i)

    def forget(self, now_us: int) -> None:
        """Runs that ended before the window of history are as if they had never been."""
        window_s = self.settings.history_window_s
        if window_s is not None and self.history.expire(now_us - window_s * 1e6):
            for i, candidate in enumerate(self.candidates):
                tried = (self.columns.series[i], candidate.context or "")
                self.columns.tried[i] = self.history.tried.get(tried, 0.0)
            self.refresh()

    def _place(self, i: int, candidate: Candidate) -> None:
        if candidate.key in self._at:
            raise RowError(
                "candidates", i, "", f"{candidate.codebase} in {candidate.campaign} is there twice"
            )
        if self.world.codebases and candidate.codebase not in self.world.codebases:
            raise RowError("candidates", i, "codebase", f"there is no codebase {candidate.codebase!r}")
        if not candidate.command:
            raise RowError("candidates", i, "command", "is empty")
        value = self.value_of(i, candidate)
        row, columns = self.history.row(candidate.codebase, candidate.campaign), self.columns
        columns.value.append(NAN if value is None else value)
        columns.chance.append(NAN if candidate.success_chance is None else candidate.success_chance)
        columns.tried.append(0.0)
        columns.series.append(row)
        columns.codebase.append(self.history.codebase_of[row])
        columns.campaign.append(self.history.campaign_of[row])
        columns.worth.append(self.normalized(candidate.codebase))
        self._at[candidate.key] = len(self.candidates)
        self._of_series.setdefault(row, []).append(len(self.candidates))
        self.candidates.append(candidate)

    def value_of(self, i: int, candidate: Candidate) -> float | None:
        """With what publishing is worth, on every path. A mode that is not known is worth 0, with a warning."""
        policy, value = candidate.publish_policy, candidate.value
        if value is not None and value <= 0:
            raise RowError("candidates", i, "value", f"is {value}: must be positive")
        if policy is None or not self.settings.parts.publish:
            return value
        if policy not in self.world.policies:
            raise RowError("candidates", i, "publish_policy", f"there is no policy {policy!r}")
        for mode in self.world.policies[policy] or ():
            if mode not in self.settings.publish_mode_values:
                self.warnings.add(f"policies[{policy}]: the mode {mode!r} has no value and counts 0")
            value = (value or 0.0) + self.settings.publish_mode_values.get(mode, 0.0)
        return value

    def normalized(self, codebase: str) -> float:
        """The same on every path: a share of the most valuable one; without a value the default."""
        found = self.world.codebases.get(codebase)
        if found is None or found.value is None or self._most <= 0:
            return self.settings.default_codebase_value
        return max(self.settings.minimum_codebase_value, min(found.value / self._most, 1.0))

    def _retry(self, series: int) -> None:
        for i in self._of_series.get(series, ()):
            context = self.candidates[i].context
            self.columns.tried[i] = self.history.tried.get((series, context), 0.0) if context else 0.0

    def _revalue(self, i: int) -> None:
        """The bonus is for what has not been run yet."""
        value = self.value_of(i, self.candidates[i])
        if value is not None and not self.history.series.at(RUNS, self.columns.series[i]):
            value += self.settings.first_run_bonus or 0.0
        self.columns.value[i] = NAN if value is None else value

    def renew(self, i: int, candidate: Candidate) -> None:
        """The same candidate with another context, value or chance. RowError when it cannot be used."""
        self.value_of(i, candidate)
        self.columns.chance[i] = NAN if candidate.success_chance is None else candidate.success_chance
        self.candidates[i] = candidate
        self._revalue(i)
        self._retry(self.columns.series[i])

    def _settle(self) -> None:
        def there(relations: Any) -> bool:
            try:
                return satisfied(relations, self.world.versions)
            except RelationError as error:
                self.warnings.add(f"runs: {error}")
                return True  # nobody could ever say what it waits for

        self.history.settle(there)

    def finished(self, run: Run) -> list[int]:
        """One more run; the numbers of the candidates that it concerns, to be scored again. O(1)."""
        row = self.history.add(run)
        if self.reference is not None:
            self.reference.add(run)
        self._settle_one(row)
        self._retry(row)
        concerned = self._of_series.get(row, [])
        if self.settings.first_run_bonus:
            for i in concerned:
                self._revalue(i)
        return concerned

    def _settle_one(self, row: int) -> None:
        if row in self.history.lacking:
            self._settle()

    def scores(self, now_us: int) -> Any:
        """Scores of all candidates: a column of float64, NaN where nothing is expected."""
        self.forget(now_us)
        return self._scores(self.estimates(now_us))

    def _scores(self, matrix: Any) -> Any:
        n, view = len(self.candidates), memoryview(matrix)
        return kernel.score(
            view[2 * n :], view[:n], view[n : 2 * n], None, self.columns.worth,
            minimum_cost_ms=self.settings.minimum_cost_s * 1000,
        )  # fmt: skip

    def campaigns(self, now_us: int, quantile: int = 0) -> Three:
        """Prior means and durations of the campaigns: what was set, else what was seen, else the default."""
        settings, level = self.settings, self.history.campaigns
        rates, _ = self.history.rates(settings.prior_strength, now_us)
        done, lost = array("d"), array("d")
        for name, row in level.rows.items():
            base = settings.campaign_durations_s.get(str(name), settings.default_duration_s) * 1e6
            for column, field_ in ((done, DONE), (lost, LOST)):
                column.append(self._level(level, field_, row, base, quantile))
        return rates, done, lost

    def _level(self, level: Level, field_: int, row: int, following: float, quantile: int) -> float:
        points, shrink = level.at(field_, row), self.settings.duration_prior_points
        if points < self.settings.minimum_data_points:
            return following
        return (points * level.at(field_ + 1 + quantile, row) + shrink * following) / (points + shrink)

    def _rule(self, now_us: int, quantile: int = 0) -> dict[str, Any]:
        settings = self.settings
        return {
            "decay": self.history.decay(now_us), "strength": settings.prior_strength,
            "explore": settings.exploration, "penalty": settings.same_context_penalty,
            "shrink": settings.duration_prior_points, "least_points": settings.minimum_data_points,
            "quantile": quantile,
        }  # fmt: skip

    def estimates(self, now_us: int, quantile: int = 0) -> Any:
        """Columns probability, duration in us and worth of all candidates, in one matrix."""
        matrix: Any = kernel.estimate(
            *self.columns.all(), self.history.series.matrix, self.history.codebases.matrix,
            *self.campaigns(now_us, quantile), **self._rule(now_us, quantile),
        )  # fmt: skip
        if self.reference is not None:
            n = len(self.candidates)
            for i, candidate in enumerate(self.candidates):
                three = matrix[i], matrix[n + i], matrix[2 * n + i]
                matrix[i], matrix[n + i], matrix[2 * n + i] = self._as_janitor(
                    candidate.codebase,
                    candidate.campaign,
                    candidate.context,
                    self.columns.value[i],
                    three,
                    now_us,
                )
        return matrix

    def _as_janitor(
        self,
        codebase: str,
        campaign: str,
        context: str | None,
        value: float,
        own: Sequence[float],
        now_us: int,
    ) -> Sequence[float]:
        """Probability, duration in us and worth with Janitor's for the parts that are off; of what it ends at, our
        own stay, with a warning."""
        parts, (p, duration_us, worth) = self.settings.parts, own
        assert self.reference is not None  # by the callers
        try:
            found = compat.estimate(self.reference, codebase, campaign, context, now_us)
        except CompatError as error:
            self.warnings.add(f"{codebase} in {campaign}: {error}: its own parts are used")
            return own
        if not parts.probability:
            p, worth = found.probability, 1.0 if math.isnan(value) else value
        return p, duration_us if parts.duration else float(found.duration_us), worth

    def score(self, i: int, now_us: int, campaigns: Three | None = None) -> CandidateScore:
        """One candidate, by the same arithmetic as all of them; `campaigns` spares computing these anew."""
        p, duration_us, worth = self._estimate(i, now_us, 0, campaigns)
        candidate, row = self.candidates[i], self.columns.series[i]
        expected = self.columns.worth[i] * p * worth
        cost_ms = self.settings.minimum_cost_s * 1000 + duration_us / 1000.0
        reason = "" if expected > 0 else "nothing is expected of it"
        return CandidateScore(
            *candidate.key, cost_ms / expected if expected > 0 else None, p, duration_us,
            self.not_before_us(row, now_us), self.waits_for(i), reason,
        )  # fmt: skip

    def _estimate(
        self, i: int, now_us: int, quantile: int, campaigns: Three | None = None
    ) -> Sequence[float]:
        own = estimate_one(
            *self.columns.one(i), self.history.series.matrix, self.history.codebases.matrix,
            *(campaigns or self.campaigns(now_us, quantile)), **self._rule(now_us, quantile),
        )  # fmt: skip
        one, value = self.candidates[i], self.columns.value[i]
        if self.reference is None:
            return own
        return self._as_janitor(one.codebase, one.campaign, one.context, value, own, now_us)

    def late_us(self, i: int, now_us: int) -> float:
        """What nine of ten of its runs take less than."""
        return self._estimate(i, now_us, 1)[1]

    def predict(self, codebase: str, campaign: str, chance: float | None, now_us: int) -> tuple[float, float]:
        """Probability of success and duration in us of any series, a candidate or not, in a context that was not
        tried yet."""
        row = self.history.row(codebase, campaign)
        found = estimate_one(
            [NAN], [NAN if chance is None else chance], [0.0], [row], [self.history.codebase_of[row]],
            [self.history.campaign_of[row]], self.history.series.matrix, self.history.codebases.matrix,
            *self.campaigns(now_us), **self._rule(now_us),
        )  # fmt: skip
        if self.reference is not None:
            found = self._as_janitor(codebase, campaign, "", NAN, found, now_us)
        return found[0], found[1]

    def not_before_us(self, row: int, now_us: int) -> int:
        """The end of a streak's pause: base * 2^n after the latest end, with a part cut off by chance, which is
        the same each time it is asked for. 0 without a streak, or when it is over."""
        streak, settings = self.history.series.at(STREAK, row), self.settings
        if not streak:
            return 0
        ended_us = self.history.series.at(ENDED, row)
        ignore_s = settings.ignore_worker_failures_s
        if ignore_s is not None and now_us - ended_us >= ignore_s * 1e6:
            return 0
        if ended_us > now_us + AHEAD_US:
            return 0  # by a clock that was wrong: it would pause for ever
        delay_s = min(settings.backoff_cap_s, settings.backoff_base_s * 2.0 ** min(streak, 64))
        name = f"{self.history.names[row]}:{streak:.0f}:{ended_us:.0f}"
        at_us = ended_us + delay_s * 1e6 * (1 - settings.backoff_jitter * crc32(name.encode()) / 2**32)
        return round(at_us) if at_us > now_us else 0

    def waits_for(self, i: int) -> tuple[str, ...]:
        """Campaigns that have not succeeded for its codebase yet, and packages that are not there."""
        if not self.settings.parts.dependency:
            return ()
        candidate, row = self.candidates[i], self.columns.series[i]
        found = [
            campaign
            for campaign in candidate.requires
            if self.history.series.rows.get((candidate.codebase, campaign)) not in self.history.succeeded
        ]
        if self.history.waits(row):
            names = {
                one["name"] for alternatives in self.history.lacking[row].relations for one in alternatives
            }
            found.append(f"packages: {', '.join(sorted(map(str, names)))}")
        return tuple(found)

    def order(self) -> Order:
        """Candidates by what they require of their codebases."""
        needs: dict[tuple[str, str, str], list[tuple[str, str, str]]] = {}
        if not self.settings.parts.dependency:
            return order_of({candidate.key: () for candidate in self.candidates})
        for candidate in self.candidates:
            needs[candidate.key] = [(candidate.codebase, one, "") for one in candidate.requires]
        return order_of(needs)

    def pass_over(self, now_us: int) -> list[CandidateScore]:
        """All candidates, the best first; those of which nothing is expected last."""
        return [
            CandidateScore(
                *self.candidates[i].key, score, p, us, not_before_us, waits_for,
                "nothing is expected of it" if score is None else "",
            )
            for i, score, p, us, not_before_us, waits_for in self.expected(now_us)
        ]  # fmt: skip

    def expected(self, now_us: int) -> Iterator[tuple[int, float | None, float, float, int, tuple[str, ...]]]:
        """(number, score, chance, duration in us, not before in us, what it waits for) in the order of a pass."""
        self.forget(now_us)
        matrix, n, history = self.estimates(now_us), len(self.candidates), self.history
        column, of, candidates = self._scores(matrix), self.columns.series, self.candidates
        scores = memoryview(column).tolist()
        chances, durations_us = memoryview(matrix)[:n].tolist(), memoryview(matrix)[n : 2 * n].tolist()
        streaks = history.series.column(STREAK)
        order = kernel.top_k(column, n)
        for i in order:
            row = of[i]
            held = row in history.lacking or candidates[i].requires
            yield (
                i, scores[i], chances[i], durations_us[i], self.not_before_us(row, now_us) if streaks[row] else 0,
                self.waits_for(i) if held else (),
            )  # fmt: skip
        for i in range(n) if len(order) < n else ():
            if math.isnan(scores[i]):
                yield (
                    i,
                    None,
                    chances[i],
                    durations_us[i],
                    self.not_before_us(of[i], now_us),
                    self.waits_for(i),
                )

    def number_of(self, codebase: str, campaign: str, change_set: str = "") -> int | None:
        return self._at.get((codebase, campaign, change_set))

    def explain(self, i: int, now_us: int) -> CandidateScore:
        """The score with every factor and its source."""
        found, candidate = self.score(i, now_us), self.candidates[i]
        return CandidateScore(
            *found.key, found.score, found.probability, found.duration_us, found.not_before_us, found.waits_for,
            found.reason, tuple(self._factors(i, candidate, found, now_us)),
        )  # fmt: skip

    def _factors(
        self, i: int, candidate: Candidate, found: CandidateScore, now_us: int
    ) -> Iterable[PriorityFactor]:
        settings, columns, series = self.settings, self.columns, self.history.series
        row, value, duration_us = columns.series[i], columns.value[i], found.duration_us or 0.0
        modes = self.world.policies.get(candidate.publish_policy or "") or []
        told = f", with {' + '.join(modes)} of policy {candidate.publish_policy}"
        publishing = told if modes and settings.parts.publish else ""
        bonus = settings.first_run_bonus and not series.at(RUNS, row)
        first = f", and {settings.first_run_bonus:g} for the first run" if bonus else ""
        yield PriorityFactor(
            "value", "expected", 1.0 if math.isnan(value) else value,
            "none given, worth 1" if math.isnan(value) else f"{candidate.value} given{publishing}{first}",
        )  # fmt: skip
        known = self.world.codebases.get(candidate.codebase)
        given = known is not None and known.value is not None
        yield PriorityFactor(
            "codebase value", "expected", columns.worth[i],
            f"{known.value} of at most {self._most}" if known and given else "none given, the default",
        )  # fmt: skip
        if settings.parts.probability:
            yield from self._chances(i, candidate, found.probability or 0.0, now_us)
        else:
            source = "by Janitor's rules: the part probability is off"
            yield PriorityFactor("success", "expected", found.probability or 0.0, source)
        yield PriorityFactor("overhead", "cost", settings.minimum_cost_s * 1000, "of any run, ms")
        median = f"median, ms: {self._duration_source(i)}"
        mean = "mean by Janitor's rules, ms: the part duration is off"
        yield PriorityFactor(
            "duration", "cost", duration_us / 1000.0, median if settings.parts.duration else mean
        )
        if settings.parts.duration:
            yield PriorityFactor("duration, 90 %", "about", self.late_us(i, now_us) / 1000.0, "ms")
        yield PriorityFactor("weight", "about", settings.weight(candidate.campaign), "of the campaign")
        streak = series.at(STREAK, row)
        if streak:
            yield PriorityFactor("transient streak", "about", streak, "not before the pause is over")

    def _chances(self, i: int, candidate: Candidate, p: float, now_us: int) -> Iterable[PriorityFactor]:
        settings, columns, series = self.settings, self.columns, self.history.series
        row, k, decay = columns.series[i], settings.prior_strength, self.history.decay(now_us)
        s, f, z = (series.at(one, row) * decay for one in (S, F, Z))
        rates, overall = self.history.rates(k, now_us)
        chance = columns.chance[i]
        mean = rates[columns.campaign[i]] if math.isnan(chance) else chance
        seen, again = k + (s + f), min(columns.tried[i] * decay, 1.0)
        runs = int(series.at(RUNS, row))
        yield PriorityFactor(
            "success", "expected", p,
            f"{runs} runs, which weigh {s:.3g} successes and {f:.3g} failures now, and {k:g} runs of prior",
        )  # fmt: skip
        source = (
            f"rate of the campaign, drawn toward {overall:.3f} of all"
            if math.isnan(chance)
            else "success_chance"
        )
        yield PriorityFactor("prior", "about", mean, source)
        for name, bound in zip(
            ("success, low", "success, high"), interval(k * mean + s, k * (1 - mean) + f), strict=True
        ):
            yield PriorityFactor(name, "about", bound, "90 % interval of the posterior")
        yield PriorityFactor(
            "same context", "expected", 1.0 - settings.same_context_penalty * again,
            f"{candidate.context!r} was tried already; recovers" if again else "not tried yet in this context",
        )  # fmt: skip
        yield PriorityFactor(
            "something to do", "expected", 1.0 - z / (seen + z), f"runs with nothing to do weigh {z:.3g} now"
        )
        yield PriorityFactor(
            "exploration", "expected", 1.0 + settings.exploration * (k / seen), "for what is not known"
        )

    def _duration_source(self, i: int) -> str:
        history, columns, least = self.history, self.columns, self.settings.minimum_data_points
        told = []
        for what, field_ in (("successes", DONE), ("others", LOST)):
            for level, row, name in (
                (history.series, columns.series[i], "this codebase in this campaign"),
                (history.codebases, columns.codebase[i], "this codebase"),
                (history.campaigns, columns.campaign[i], "this campaign"),
            ):
                points = level.at(field_, row)
                if points >= least:
                    told.append(f"{points:.0f} {what} of {name}")
                    break
            else:
                told.append(f"the default for {what}")
        return ", ".join(told)
