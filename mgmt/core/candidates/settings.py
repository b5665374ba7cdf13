"""What can be set of the default policy; the keys are those of Janitor's migration plan, and ours."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

DAY_S = 86_400.0
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
class Settings:
    """The defaults are for runs of minutes to hours, tried again over weeks."""

    publish_mode_values: Mapping[str, float] = field(default_factory=_modes)
    half_life_s: float = 14 * DAY_S  # of what a run says
    prior_strength: float = 4.0  # in runs
    exploration: float = 0.25  # what is added to a value of which nothing is known
    same_context_penalty: float = 0.9  # right after an attempt in the same context
    minimum_cost_s: float = 20.0  # of any run, beside its duration
    default_duration_s: float = 15.0
    campaign_durations_s: Mapping[str, float] = field(default_factory=dict)
    minimum_data_points: int = 5  # below which a median says nothing
    duration_prior_points: float = 5.0
    duration_window: int = 100  # latest runs of each kind that a median is of
    weights: Mapping[str, float] = field(default_factory=dict)  # of campaigns; 1 for others
    max_wait_s: float = 7 * DAY_S  # after which an item comes before all later ones
    backoff_base_s: float = 1800.0
    backoff_cap_s: float = DAY_S
    backoff_jitter: float = 0.25  # the share of a delay that may be cut off
    minimum_codebase_value: float = 0.1
    default_codebase_value: float = 0.5

    def __post_init__(self) -> None:
        positive = {"half_life_s", "prior_strength", "minimum_cost_s", "max_wait_s", "default_codebase_value"}
        shares = {"same_context_penalty", "backoff_jitter"}
        for one in fields(self):
            value = getattr(self, one.name)
            for key, number in value.items() if isinstance(value, Mapping) else [("", value)]:
                path = f"{one.name}.{key}" if key else one.name
                if (
                    isinstance(number, bool)
                    or not isinstance(number, int | float)
                    or not math.isfinite(number)
                ):
                    raise SettingError(f"{path} is {number!r}: must be a number")
                if number < 0 or (number == 0 and (one.name in positive or one.name == "weights")):
                    raise SettingError(
                        f"{path} is {number}: must be {'positive' if number == 0 else 'at least 0'}"
                    )
                if one.name in shares and number > 1:
                    raise SettingError(f"{path} is {number}: must be at most 1")
        for name in ("minimum_data_points", "duration_window"):
            if getattr(self, name) < 1:
                raise SettingError(f"{name} is {getattr(self, name)}: must be at least 1")

    def weight(self, campaign: str) -> float:
        return self.weights.get(campaign, 1.0)


# The plan's sections and keys, and ours beside them -> (name in Settings, whether it is a duration)
KEYS: dict[str, dict[str, tuple[str, bool]]] = {
    "scheduling": {"default_estimated_duration": ("default_duration_s", True)},
    "success_estimation": {"minimum_data_points": ("minimum_data_points", False)},
    "decay": {"half_life": ("half_life_s", True)},
    "fairness": {"max_wait": ("max_wait_s", True)},
    "backoff": {
        "base": ("backoff_base_s", True),
        "cap": ("backoff_cap_s", True),
        "jitter": ("backoff_jitter", False),
    },
}


def settings_of(value: Any) -> Settings:
    """Out of the plan's sections. SettingError names the key that is wrong or not known."""
    if not isinstance(value, Mapping):
        raise SettingError("must be an object of sections")
    found: dict[str, Any] = {}
    for section, keys in value.items():
        if section == "publish_mode_values":
            found["publish_mode_values"] = {**_modes(), **_object(section, keys)}
            continue
        known = KEYS.get(section)
        if known is None:
            raise SettingError(
                f"{section}: there is no such section; known are publish_mode_values, {', '.join(KEYS)}"
            )
        for key, given in _object(section, keys).items():
            if section == "fairness" and key == "weights":
                found["weights"] = _object("fairness.weights", given)
                continue
            if key not in known:
                raise SettingError(f"{section}.{key}: there is no such key; known are {', '.join(known)}")
            name, is_duration = known[key]
            try:
                found[name] = duration_s(given) if is_duration else given
            except SettingError as error:
                raise SettingError(f"{section}.{key} {error}") from None
    return Settings(**found)


def _object(path: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise SettingError(f"{path}: must be an object")
    return dict(value)
