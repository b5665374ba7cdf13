"""The table of `config.json` about candidates: what is set of their policy, and where they run."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from mgmt.settings.values import Count, Table, Text


def _positive(value: str) -> str:
    if not set(value) & set("123456789"):
        raise ValueError("must be more than 0")
    return value


Length = Annotated[
    str, Field(pattern=r"^[0-9]+(\.[0-9]+)?\s*(ms|s|m|h|d)$"), AfterValidator(_positive)
]  # with its unit
Pause = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?\s*(ms|s|m|h|d)$")]  # may be none
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Weight = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]


class RunSchedulingSettings(Table):
    """What is taken where nothing is known."""

    default_estimated_duration: Length = Field("15s", description="of a run of which nothing is known")


class SuccessSettings(Table):
    """How little is enough."""

    minimum_data_points: Count = Field(5, description="runs below which their median says nothing")


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


class CandidateSettings(Table):
    """Candidates: which command to run next on which codebase. Lengths of time have a unit: ms, s, m, h, d."""

    policy: Literal["default", "janitor_compat"] = Field("default", description="by whose rules")
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
