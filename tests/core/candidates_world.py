"""A month of runs, one after the other, with known truth: what each policy would have earned."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field, replace
from random import Random

from mgmt.core.candidates import compat, queue
from mgmt.core.candidates.comparison import Tally
from mgmt.core.candidates.records import DAY_US, Candidate, Codebase, Run, World
from mgmt.core.candidates.scoring import Scorer
from mgmt.core.candidates.settings import Settings

NOW_US = 1_700_000_000_000_000
HOUR_US = 3_600_000_000
POLICY = {"propose": ["propose"]}


def a_run(
    code: str = "success",
    age_days: float = 1.0,
    *,
    codebase: str = "alpha",
    campaign: str = "fix",
    took_s: float = 60.0,
    now_us: int = NOW_US,
    **fields: object,
) -> Run:
    """A run that ended so many days ago."""
    end_us = now_us - round(age_days * DAY_US)
    return Run(codebase, campaign, code, end_us - round(took_s * 1e6), end_us, **fields)  # type: ignore[arg-type]


def a_candidate(
    codebase: str = "alpha", campaign: str = "fix", value: float | None = 100, **fields: object
) -> Candidate:
    return Candidate(codebase, campaign, "run", value, **fields)  # type: ignore[arg-type]  # by name


def a_world(
    candidates: list[Candidate] | None = None, runs: list[Run] | None = None, **tables: object
) -> World:
    found = [a_candidate()] if candidates is None else candidates
    codebases = {one.codebase: Codebase(one.codebase, 100) for one in found}
    return World(**{"codebases": codebases, "candidates": found, "runs": runs or [], **tables})  # type: ignore[arg-type]


@dataclass
class Truth:
    """What nobody is told of a candidate."""

    chance: float
    later_chance: float  # from the middle of the month
    duration_s: float
    failure_s: float
    worth: float  # of a success
    news_us: list[int]  # when there is something new to do: the candidate gets another context
    done: set[str] = field(default_factory=set)  # contexts that have succeeded
    failed: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Shape:
    """What kind of a world it is. Rates are by day; `drift`: share of candidates whose chance changes."""

    outages: float = 1 / 8
    outage_hours: float = 12.0
    drift: float = 0.2
    duration_log: tuple[float, float] = (6.2, 0.9)  # mean and deviation of ln(seconds)
    slow: float = 0.01
    spread: float = 6.0  # how much alike candidates of one campaign are
    repeats: float = 0.15  # chance of what failed in the same context already, as its share
    guesses: float = 0.5  # share of candidates of which a fair guess is given
    past: int = 12  # runs before the month at most


USUAL = Shape()


class Month:
    """The same truth for every policy, and the same dice for the same attempt.

    A success earns the candidate's value, publishing included, times its codebase's share; a second one in the
    same context finds nothing to do, and one that failed there mostly fails again. Some of the candidates
    change their chance in the middle of the month. Codebases are out of reach for hours at a time, in which every
    run fails for its time-out, as transient. Of half of them a fair guess of the chance is given. Now and then
    a run takes twenty times as long.
    """

    def __init__(
        self, seed: int, shape: Shape = USUAL, codebases: int = 60, campaigns: int = 4, days: int = 30
    ) -> None:
        self.shape = shape
        self.seed, self.start_us, self.end_us = seed, NOW_US, NOW_US + days * DAY_US
        dice = Random(seed)
        self.world = World(policies={"propose": ["propose"], "build": ["build-only"]})
        self.truths: dict[tuple[str, str], Truth] = {}
        self.away_us: dict[str, list[tuple[float, float]]] = {}
        usual = [dice.betavariate(2, 2) for _ in range(campaigns)]
        for c in range(codebases):
            name, value = f"c{c:03}", dice.choice([None, 10, 100, 1000])
            self.world.codebases[name] = Codebase(name, value)
            self.away_us[name] = self.outages(dice, days)
            for k in range(campaigns):
                self.one(dice, name, f"k{k}", usual[k], max(0.1, (value or 500) / 1000), days)
        for key in self.truths:
            for _ in range(dice.randrange(self.shape.past)):
                at_us = self.start_us - round((1 + 60 * dice.random()) * DAY_US)
                self.world.runs.append(self.attempt(key, "old", at_us, len(self.world.runs))[0])
        found = []
        for candidate in self.world.candidates:
            for count, at_us in enumerate(self.truths[candidate.key[:2]].news_us, 1):
                found.append((at_us, candidate.key, replace(candidate, context=f"v{count}")))
        found.sort(key=lambda one: one[:2])
        self.upload_us, self.uploads = [one[0] for one in found], [one[2] for one in found]

    def outages(self, dice: Random, days: int) -> list[tuple[float, float]]:
        found, at = [], dice.expovariate(self.shape.outages)
        while at < days:
            hours = dice.expovariate(1 / self.shape.outage_hours)
            found.append((self.start_us + at * DAY_US, self.start_us + at * DAY_US + hours * HOUR_US))
            at += hours / 24 + dice.expovariate(self.shape.outages)
        return found

    def one(self, dice: Random, name: str, campaign: str, usual: float, share: float, days: int) -> None:
        spread = self.shape.spread
        alike = spread * usual + 0.3, spread * (1 - usual) + 0.3
        chance, other = (dice.betavariate(*alike) for _ in range(2))
        value, publish = dice.randrange(20, 400), dice.choice(["propose", "build"])
        seconds = dice.lognormvariate(*self.shape.duration_log)
        at, every, news_us = 0.0, dice.choice([1, 4, 15]), []
        while (at := at + dice.expovariate(1 / every)) < days:
            news_us.append(self.start_us + round(at * DAY_US))
        self.truths[name, campaign] = Truth(
            chance, other if dice.random() < self.shape.drift else chance, seconds,
            seconds * dice.uniform(0.2, 1.5), share * (value + (400 if publish == "propose" else 0)), news_us,
        )  # fmt: skip
        guess = min(max(dice.gauss(chance, 0.15), 0.02), 0.98) if dice.random() < self.shape.guesses else None
        self.world.candidates.append(Candidate(name, campaign, "run", value, guess, "v0", publish))

    def reset(self) -> None:
        for truth in self.truths.values():
            truth.done, truth.failed = set(), set()

    def news(self, since_us: int, until_us: int) -> list[Candidate]:
        """Candidates that have got another context in between."""
        low, high = (bisect_right(self.upload_us, at_us) for at_us in (since_us, until_us))
        return self.uploads[low:high]

    def attempt(self, key: tuple[str, str], context: str, at_us: int, number: int) -> tuple[Run, float]:
        """The run, and what it earned."""
        truth, dice = self.truths[key], Random(f"{self.seed} {key} {number}")
        chance = truth.chance if at_us < (self.start_us + self.end_us) / 2 else truth.later_chance
        slow = 20.0 if dice.random() < self.shape.slow else dice.lognormvariate(0, 0.3)
        earned, transient, past = 0.0, None, context == "old"
        chance *= self.shape.repeats if context in truth.failed else 1.0
        if any(a_us <= at_us < b_us for a_us, b_us in self.away_us[key[0]]):
            code, seconds, transient = "worker-failure", 900.0, True
        elif context in truth.done and not past:
            code, seconds = "nothing-to-do", truth.failure_s * 0.5
        elif dice.random() < chance:
            code, seconds = "success", truth.duration_s * slow
            earned = truth.worth
            truth.done.add(context)
        else:
            code, seconds = "build-failed", truth.failure_s * slow
            truth.failed |= set() if past else {context}
        end_us = at_us + round(seconds * 1e6)
        shown = f"old {number}" if past else context
        return Run(*key, code, at_us, end_us, shown, None, transient), earned


def ended_us(run: Run) -> int:
    assert run.finish_us is not None
    return run.finish_us


def by_default(month: Month, settings: Settings | None = None) -> tuple[float, Tally]:
    """What the default policy earns, and its predictions of runs in a context that was not tried before."""
    month.reset()
    settings = settings or Settings()
    scorer, waiting, tally = Scorer(month.world, settings, month.start_us), queue.Queue(settings), Tally()
    now_us, earned, number, day = month.start_us, 0.0, 0, 0
    chances = {one.key[:2]: one.success_chance for one in month.world.candidates}

    def put(i: int) -> None:
        candidate, found = scorer.candidates[i], scorer.score(i, now_us)
        assert found.score is not None
        waiting.remove(candidate.key)
        waiting.add(
            queue.QueueItem(
                *candidate.key, candidate.command, found.score, now_us, duration_us=found.duration_us or 0,
                not_before_us=found.not_before_us, context=candidate.context,
            )
        )  # fmt: skip

    for i in range(len(scorer.candidates)):
        put(i)
    while now_us < month.end_us:
        if (now_us - month.start_us) // DAY_US > day:  # each night all are scored anew, as the ancestor's are
            day += 1
            scores = scorer.scores(now_us)
            for i, candidate in enumerate(scorer.candidates):
                waiting.rescore(candidate.key, scores[i], 0.0)
        item = waiting.take(now_us)
        if item is None:
            now_us += 60_000_000
            continue
        key, fresh = (item.codebase, item.campaign), item.context not in month.truths[item.key[:2]].failed
        run, value = month.attempt(key, item.context or "", now_us, number)
        if fresh:
            tally.note(scorer.predict(*key, chances[key], now_us), run)
        number, earned, before_us = number + 1, earned + value, now_us
        now_us = ended_us(run) + 20_000_000
        for i in scorer.finished(run):
            put(i)
        for candidate in month.news(before_us, now_us):
            at = scorer.number_of(*candidate.key)
            assert at is not None
            scorer.renew(at, candidate)
            put(at)
    return earned, tally


def by_compat(month: Month) -> tuple[float, Tally]:
    """What Janitor's rules earn on the same: a pass every night, and what has run, or is uploaded, is scheduled at
    once."""
    month.reset()
    history, tally = compat.History(month.world.runs, month.world.versions), Tally()
    engine = compat.Engine(month.world, month.start_us, history=history)
    contexts = {candidate.key[:2]: candidate for candidate in month.world.candidates}
    now_us, earned, number, day = month.start_us, 0.0, 0, 0
    engine.bulk()
    while now_us < month.end_us:
        engine.now_us = now_us
        if (now_us - month.start_us) // DAY_US > day:
            day += 1
            engine.world = replace(month.world, candidates=list(contexts.values()))
            engine.bulk()
        found = engine.queue.next()
        assert found is not None
        item, key = found[0], (found[0].codebase, found[0].campaign)
        fresh = contexts[key].context not in month.truths[key].failed
        run, value = month.attempt(key, contexts[key].context or "", now_us, number)
        if fresh:
            predicted = compat.estimate(history, *key, contexts[key].context, now_us)
            tally.note((predicted.probability, float(predicted.duration_us)), run)
        number, earned, before_us = number + 1, earned + value, now_us
        now_us = engine.now_us = ended_us(run) + 20_000_000
        engine.queue.remove(item)
        history.add(run)
        engine.regular(*key, requester="after run schedule")
        for candidate in month.news(before_us, now_us):
            contexts[candidate.key[:2]] = candidate
            engine.renew(candidate)
            engine.regular(*candidate.key[:2])
    return earned, tally
