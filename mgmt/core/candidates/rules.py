"""What is set of candidates in `config.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .modes import Mode
from .policies import Policy
from .settings import OWN_KEYS, Settings, duration_s, settings_of


@dataclass(frozen=True, slots=True)
class Rules:
    """`result_codes`: exit status of a task -> result code; others are `failed-STATUS`.

    `every_s` None: nothing is scheduled by itself. `rest_s`: from the end of a run until it is, the next time.
    """

    settings: Settings
    policy: Policy
    mode: Mode
    campaigns: frozenset[str]
    suite: str | None
    result_codes: Mapping[str, str]
    every_s: float | None
    after_run: bool
    rest_s: float

    @property
    def is_fair(self) -> bool:
        """Whether campaigns share: by Janitor's rules they do not."""
        return self.policy == "default" and self.mode != "shadow"

    @property
    def is_automatic(self) -> bool:
        return self.suite is not None and self.every_s is not None


def rules_of(told: Mapping[str, Any]) -> Rules:
    """Out of the configuration's table, which has checked it."""
    sections = {name: value for name, value in told.items() if name not in OWN_KEYS}
    return Rules(
        settings=settings_of(sections),
        policy=told["policy"],
        mode=told["mode"],
        campaigns=frozenset(told["campaigns"]),
        suite=told["suite"],
        result_codes=told["result_codes"],
        every_s=None if told["every"] is None else duration_s(told["every"]),
        after_run=told["after_run"],
        rest_s=duration_s(told["rest"]),
    )
