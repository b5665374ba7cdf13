"""An assignment: what a node is told of one unit, fenced by an epoch.

The epoch grows with every word about any unit, through all lives of a daemon; an agent refuses an older one than
it has, and a report of an older one says nothing about what was told since. `life` grows with every start: a
unit that an agent runs for an earlier life is started again.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from pydantic import ValidationError

from mgmt.core.supervision import Unit, UnitSpec
from mgmt.protocol.errors import MgmtError
from mgmt.settings import BackendSettings, ModelSettings, UnitSettings
from mgmt.settings.values import Table

# What only the daemon has to do with.
_DAEMONS = {"requires", "wants", "after", "autostart", "node"}
_MODELS_DAEMONS = {"autostart", "aliases", "replicas", "node"}


@dataclass(slots=True)
class Posting:
    """Where the daemon put a unit, and the last word about it. `there`, `cpus`: as the node reported."""

    node: str
    epoch: int
    life: int
    wanted: bool
    reason: str = ""
    there: bool = False  # a process of it is known to be on the node, or may be
    cpus: tuple[int, ...] = ()

    def to_record(self) -> dict[str, Any]:
        return {
            "node": self.node,
            "epoch": self.epoch,
            "life": self.life,
            "wanted": self.wanted,
            "reason": self.reason,
            "there": self.there,
        }


@dataclass(frozen=True, slots=True)
class Assignment:
    """The agent's side: what it was told, in a form that it can keep."""

    unit: str
    epoch: int
    life: int
    wanted: bool
    reason: str
    config_path: str | None
    incarnation: int  # starts of the unit are counted from here, wherever they were
    plain: bool
    model: dict[str, Any]
    backend: dict[str, Any]

    def to_record(self) -> dict[str, Any]:
        return asdict(self)

    def spec(self) -> UnitSpec:
        """MgmtError `bad-body` when this agent does not know such settings."""
        kind = UnitSettings if self.plain else BackendSettings
        try:
            return UnitSpec(
                self.unit, ModelSettings.model_validate(self.model), kind.model_validate(self.backend)
            )
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"]))
            text = (
                f"unit {self.unit!r}: this agent does not understand its setting {where!r} ({first['msg']}); "
                "are the daemon and the agent of the same version?"
            )
            raise MgmtError("bad-body", text, unit=self.unit) from None


def assignment_body(unit: Unit, posting: Posting) -> dict[str, Any]:
    """What is pushed to the node."""
    spec = unit.spec
    backend = _differing(spec.backend, _DAEMONS)
    if isinstance(spec.node, str) and backend.get("on_node_lost") == "replace":
        del backend["on_node_lost"]  # there is no other node for it
    return {
        "unit": spec.name,
        "epoch": posting.epoch,
        "life": posting.life,
        "wanted": posting.wanted,
        "reason": posting.reason,
        "config_path": unit.config_path,
        "incarnation": max(0, unit.incarnation - 1),  # the start that is asked for is counted already
        "plain": isinstance(spec.backend, UnitSettings),
        "model": _differing(spec.model, _MODELS_DAEMONS),
        "backend": backend,
    }


def _differing(settings: Table, without: set[str]) -> dict[str, Any]:
    """What is not as by default. What was never set is not looked at, which is most of it."""
    return settings.model_dump(include=settings.model_fields_set - without, exclude_defaults=True)


def from_body(body: dict[str, Any]) -> Assignment:
    """The Assignment in a push or a record, without what only a newer version knows; MgmtError `bad-body` when
    something is missing."""
    try:
        return Assignment(**{name: value for name, value in body.items() if name in Assignment.__slots__})
    except TypeError as error:
        raise MgmtError("bad-body", f"an assignment lacks what this agent needs: {error}") from None
