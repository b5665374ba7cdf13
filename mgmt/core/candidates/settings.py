"""What can be set of the default policy; the keys are those of Janitor's migration plan, and ours."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

DAY_S = 86_400.0
AHEAD_US = 3_600_000_000  # what ended so much later than now did so by a clock that was wrong
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(ms|s|m|h|d)")
_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": DAY_S}


class SettingError(Exception):
    """A setting that cannot be: its name, and why."""


def duration_s(value: Any) -> float:
    """`15s`, `20m`, `14d`: a bare number says no unit, and the ancestor's documents disagree about theirs."""
    found = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None:
        raise SettingError(f"is {value!r}: must be a duration with its unit, like 15s, 20m, 4h or 14d")
    return float(found[1]) * _UNITS_S[found[2]]


def _modes() -> dict[str, float]:
    return {
        "skip": 0, "build-only": 0, "push": 500, "propose": 400, "attempt-push": 450, "bts": 100,
        "push-derived": 200,
    }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Parts:
    """Which parts of the default policy are at work, so that each can be tried alone. Those off are as in Janitor:

    `probability`: its rate of all history, with its penalty of a context that was tried; `duration`: its means;
    `publish`: the value as it was uploaded; `dependency`: nothing waits; `fairness`: by score alone.
    """

    probability: bool = True
    duration: bool = True
    publish: bool = True
    dependency: bool = True
    fairness: bool = True

    @property
    def are_columns_enough(self) -> bool:
        """Whether nothing of Janitor's rules is needed, which look at each run as it is."""
        return self.probability and self.duration


@dataclass(frozen=True, slots=True)
class Settings:
    """The defaults are for runs of minutes to hours, tried again over weeks."""

    parts: Parts = Parts()
    publish_mode_values: Mapping[str, float] = field(default_factory=_modes)
    first_run_bonus: float | None = None  # None: 0, what is not known is explored instead; Janitor's is 100
    default_schedule_offset: float = -1.0  # of what a person asks for, by Janitor's rules
    half_life_s: float = 14 * DAY_S  # of what a run says
    history_window_s: float | None = None  # of the runs that are looked at; None: all
    ignore_worker_failures_s: float | None = None  # None: never here, after a day by Janitor's rules
    prior_strength: float = 4.0  # in runs
    exploration: float = 0.5  # what is added to a value of which nothing is known
    same_context_penalty: float = 0.9  # right after an attempt in the same context
    minimum_cost_s: float = 20.0  # of any run, beside its duration
    default_duration_s: float = 15.0
    campaign_durations_s: Mapping[str, float] = field(default_factory=dict)
    minimum_data_points: int = 5  # below which a median says nothing
    duration_prior_points: float = 2.0
    duration_window: int = 100  # latest runs of each kind that a median is of
    weights: Mapping[str, float] = field(default_factory=dict)  # of campaigns; 1 for others
    max_wait_s: float = 7 * DAY_S  # after which an item comes before all later ones
    backoff_base_s: float = 1800.0
    backoff_cap_s: float = DAY_S
    backoff_jitter: float = 0.25  # the share of a delay that may be cut off
    minimum_codebase_value: float = 0.1
    default_codebase_value: float = 0.5
    accuracy_half_life_s: float = 7 * DAY_S  # of what a prediction says of how good they are
    accuracy_runs: float = 30.0  # by their weight, below which nothing is said
    most_brier: float = 0.3
    most_calibration_error: float = 0.2
    most_duration_error: float = 1.5

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if one.name == "parts" or (value is None and one.default is None):
                continue
            for key, number in value.items() if isinstance(value, Mapping) else [("", value)]:
                path = f"{one.name}.{key}" if key else one.name
                if (
                    isinstance(number, bool)
                    or not isinstance(number, int | float)
                    or not math.isfinite(number)
                ):
                    raise SettingError(f"{path} is {number!r}: must be a number")
                if one.name in SIGNED:
                    continue
                if number < 0 or (number == 0 and one.name in POSITIVE):
                    raise SettingError(
                        f"{path} is {number}: must be {'positive' if number == 0 else 'at least 0'}"
                    )
                if one.name in SHARES and number > 1:
                    raise SettingError(f"{path} is {number}: must be at most 1")
        for name in ("minimum_data_points", "duration_window"):
            if getattr(self, name) < 1:
                raise SettingError(f"{name} is {getattr(self, name)}: must be at least 1")

    def weight(self, campaign: str) -> float:
        return self.weights.get(campaign, 1.0) if self.parts.fairness else 1.0

    @property
    def ageing_s(self) -> float:
        """After which an item comes before all later ones; without fairness, never."""
        return self.max_wait_s if self.parts.fairness else NEVER_S


NEVER_S = 1e11
# Of the configuration's table, what is no setting of the policy.
OWN_KEYS = frozenset(["policy", "mode", "suite", "campaigns", "result_codes", "every", "after_run", "rest"])
SIGNED = frozenset(["default_schedule_offset"])
SHARES = frozenset(["same_context_penalty", "backoff_jitter"])
POSITIVE = frozenset(
    ["half_life_s", "prior_strength", "minimum_cost_s", "max_wait_s", "default_codebase_value", "weights",
     "accuracy_half_life_s", "history_window_s", "campaign_durations_s"]
)  # fmt: skip
# What a key takes: a number, a duration, a number of days (its name says so), one of these for each name.
NUMBER, DURATION, DAYS, NUMBERS, DURATIONS = range(5)
# The plan's sections and keys, and ours beside them -> (name in Settings, what it takes).
KEYS: dict[str, dict[str, tuple[str, int]]] = {
    "scheduling": {
        "first_run_bonus": ("first_run_bonus", NUMBER),
        "default_estimated_duration": ("default_duration_s", DURATION),
        "default_schedule_offset": ("default_schedule_offset", NUMBER),
        "campaign_durations": ("campaign_durations_s", DURATIONS),
    },
    "success_estimation": {
        "minimum_data_points": ("minimum_data_points", NUMBER),
        "historical_data_window": ("history_window_s", DURATION),
        "historical_data_window_days": ("history_window_s", DAYS),
        "ignore_worker_failures_older_than": ("ignore_worker_failures_s", DURATION),
        "ignore_worker_failures_older_than_days": ("ignore_worker_failures_s", DAYS),
        "prior_strength": ("prior_strength", NUMBER),
        "exploration": ("exploration", NUMBER),
        "same_context_penalty": ("same_context_penalty", NUMBER),
    },
    "decay": {"half_life": ("half_life_s", DURATION)},
    "fairness": {"weights": ("weights", NUMBERS), "max_wait": ("max_wait_s", DURATION)},
    "backoff": {
        "base": ("backoff_base_s", DURATION),
        "cap": ("backoff_cap_s", DURATION),
        "jitter": ("backoff_jitter", NUMBER),
    },
    "accuracy": {
        "half_life": ("accuracy_half_life_s", DURATION),
        "minimum_runs": ("accuracy_runs", NUMBER),
        "brier": ("most_brier", NUMBER),
        "calibration": ("most_calibration_error", NUMBER),
        "duration": ("most_duration_error", NUMBER),
    },
}


def settings_of(value: Any) -> Settings:
    """Out of the plan's sections; what is null is as if it were not there. SettingError names the key that is
    wrong or not known."""
    if not isinstance(value, Mapping):
        raise SettingError("must be an object of sections")
    found: dict[str, Any] = {}
    for section, given in value.items():
        if section == "publish_mode_values":
            found[section] = {**_modes(), **_object(section, given)}
        elif section == "parts":
            found[section] = _parts(_object(section, given))
        elif section in KEYS:
            _section(section, _object(section, given), found)
        else:
            known = ", ".join(("publish_mode_values", "parts", *KEYS))
            raise SettingError(f"{section}: there is no such section; known are {known}")
    return Settings(**found)


def _section(section: str, given: Mapping[str, Any], found: dict[str, Any]) -> None:
    known, by = KEYS[section], dict[str, str]()
    for key, value in given.items():
        if key not in known:
            raise SettingError(f"{section}.{key}: there is no such key; known are {', '.join(known)}")
        if value is None:
            continue
        name, kind = known[key]
        if name in by:
            raise SettingError(f"{section}.{key} says the same as {section}.{by[name]}: give one of them")
        by[name] = key
        try:
            found[name] = _read(kind, f"{section}.{key}", value)
        except SettingError as error:
            text = str(error)
            raise SettingError(text if text.startswith(section) else f"{section}.{key} {text}") from None


def _read(kind: int, path: str, value: Any) -> Any:
    if kind == DURATION:
        return duration_s(value)
    if kind == DAYS:  # the unit is in its name; one with a unit of its own is understood, too
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return value * DAY_S if number else duration_s(value)
    if kind == NUMBER:
        return value
    rows = _object(path, value)
    return {name: duration_s(one) for name, one in rows.items()} if kind == DURATIONS else rows


def _parts(given: Mapping[str, Any]) -> Parts:
    known = [one.name for one in fields(Parts)]
    for name, value in given.items():
        if name not in known:
            raise SettingError(f"parts.{name}: there is no such part; known are {', '.join(known)}")
        if not isinstance(value, bool):
            raise SettingError(f"parts.{name} is {value!r}: must be true or false")
    return Parts(**given)


def _object(path: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise SettingError(f"{path}: must be an object")
    return dict(value)
