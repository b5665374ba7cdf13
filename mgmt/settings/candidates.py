"""The table of `config.json` about candidates: what is set of their policy, and where they run."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from mgmt.settings.values import Count, Table, Text


def _positive(value: str) -> str:
    if not set(value) & set("123456789"):
        raise ValueError("must be more than 0")
    return value


def _computable(value: float) -> float:
    if value and not 1e-15 <= value <= 1e15:
        raise ValueError("must be from 1e-15 to 1e15: products of what is set are numbers still")
    return value


_LENGTH = r"^[0-9]{1,9}(\.[0-9]{1,9})?\s*(ms|s|m|h|d)$"
Length = Annotated[str, Field(pattern=_LENGTH), AfterValidator(_positive)]  # with its unit
Pause = Annotated[str, Field(pattern=_LENGTH)]  # may be none
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False), AfterValidator(_computable)]
Weight = Annotated[float, Field(gt=0, allow_inf_nan=False), AfterValidator(_computable)]
Days = Weight | Length  # a number of days, or with its unit
Share = Annotated[float, Field(ge=0, le=1)]


class RunSchedulingSettings(Table):
    """What is taken where nothing is known."""

    default_estimated_duration: Length = Field("15s", description="of a run of which nothing is known")
    campaign_durations: dict[Text, Length] = Field(
        default_factory=dict, description="of a run of this campaign of which nothing is known"
    )
    first_run_bonus: Amount | None = Field(
        None,
        description="added to the value of what has not been run yet; null: 0, and 100 for janitor_compat",
    )
    default_schedule_offset: float = Field(
        -1.0, allow_inf_nan=False, description="of what a person asks for, by the rules of janitor_compat"
    )


class SuccessSettings(Table):
    """How little is enough."""

    minimum_data_points: Count = Field(5, description="runs below which their median says nothing")
    historical_data_window: Length | None = Field(None, description="how far back runs count; null: for ever")
    historical_data_window_days: Days | None = Field(None, description="the same as a number of days")
    ignore_worker_failures_older_than: Length | None = Field(
        None,
        description="worker failures that count no more; null: they count for no chance, and after a day not for "
        "janitor_compat either",
    )
    ignore_worker_failures_older_than_days: Days | None = Field(
        None, description="the same as a number of days"
    )
    prior_strength: Weight = Field(4.0, description="runs that what is known before weighs as much as")
    exploration: Amount = Field(
        0.5, description="added to the value of what is not known at all, as its share"
    )
    same_context_penalty: Share = Field(
        0.9, description="taken off the value right after an attempt in the same context, as its share"
    )

    @model_validator(mode="after")
    def _say_it_once(self) -> SuccessSettings:
        for name in ("historical_data_window", "ignore_worker_failures_older_than"):
            if getattr(self, name) is not None and getattr(self, f"{name}_days") is not None:
                raise ValueError(f"{name} says the same as {name}_days: give one of them")
        return self


class DecaySettings(Table):
    """How fast runs are forgotten."""

    half_life: Length = Field("14d", description="after which a run says half as much")


class FairnessSettings(Table):
    """Between campaigns."""

    weights: dict[Text, Weight] = Field(default_factory=dict, description="share of a campaign; 1 for others")
    max_wait: Length = Field("7d", description="who waits longer comes before all others")


class BackoffSettings(Table):
    """After transient failures in a row: base, doubled by each, up to cap."""

    base: Length = Field("30m", description="pause after none of them")
    cap: Length = Field("1d", description="longest pause")
    jitter: Share = Field(0.25, description="part of a pause that may be cut off")


class PartSettings(Table):
    """Parts of the default policy. One that is off is as janitor_compat has it."""

    probability: bool = Field(True, description="decayed chance of success; else its rate of all runs")
    duration: bool = Field(True, description="medians by levels; else its means")
    publish: bool = Field(True, description="what publishing is worth; else the value as it was loaded")
    dependency: bool = Field(True, description="wait for campaigns and packages; else nothing waits")
    fairness: bool = Field(True, description="share between campaigns, and ageing; else by score alone")


class AccuracySettings(Table):
    """How good predictions have to be. What is worse is an alert, until it is better again."""

    half_life: Length = Field("7d", description="after which a prediction counts half as much")
    minimum_runs: Amount = Field(30, description="weight of predictions below which nothing is said")
    brier: Amount = Field(0.3, description="mean square of (chance - outcome) at most; guessing 0.5 is 0.25")
    calibration: Share = Field(0.2, description="predicted and real rates are apart by at most so much")
    duration: Amount = Field(
        1.5, description="|ln(expected / real)| in the mean at most; 0.7 is a factor of 2"
    )


class CandidateSettings(Table):
    """Candidates: which command to run next on which codebase. Lengths of time have a unit: ms, s, m, h, d."""

    policy: Literal["default", "janitor_compat"] = Field("default", description="by whose rules")
    mode: Literal["native", "fallback", "shadow"] = Field(
        "native",
        description="of the policy `default`: native, it decides alone; fallback, janitor_compat decides where it "
        "fails; shadow, janitor_compat decides and both are compared",
    )
    suite: Text | None = Field(None, description="suite that their tasks go into; name, number or UUID")
    campaigns: tuple[Text, ...] = Field((), description="only these are scheduled; all when empty")
    every: Length | None = Field(
        None,
        description="how often all are scheduled by itself; null: never, only `mgmt candidates schedule` does",
    )
    after_run: bool = Field(
        True, description="with `every`: what has run, or waited for that, is scheduled again without a pass"
    )
    rest: Pause = Field(
        "1h", description="from the end of a run until the candidate is scheduled by itself again"
    )
    result_codes: dict[Text, Text] = Field(
        default_factory=dict,
        description="exit status of a task to the result code that it means, such as "
        '`{"75": "worker-failure"}`; else 0 is `success` and all others are failures',
    )
    publish_mode_values: dict[Text, Amount] = Field(
        default_factory=dict, description="what a publish mode is worth, in place of the built-in value"
    )
    scheduling: RunSchedulingSettings = Field(default_factory=RunSchedulingSettings, description="defaults")
    success_estimation: SuccessSettings = Field(default_factory=SuccessSettings, description="estimates")
    decay: DecaySettings = Field(default_factory=DecaySettings, description="of what runs say")
    fairness: FairnessSettings = Field(default_factory=FairnessSettings, description="between campaigns")
    backoff: BackoffSettings = Field(default_factory=BackoffSettings, description="after transient failures")
    parts: PartSettings = Field(default_factory=PartSettings, description="of the default policy")
    accuracy: AccuracySettings = Field(default_factory=AccuracySettings, description="of predictions")
