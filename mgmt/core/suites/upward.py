"""How the crew of an agent talks to the board of its daemon: over the link, when there is one."""

from __future__ import annotations

from mgmt.core import effect as fx
from mgmt.core.event import Now
from mgmt.core.nodes import Agent
from mgmt.core.suites.files import Outcome
from mgmt.core.suites.pool import Progress


class ToDaemon:
    """An Upward. What cannot be said now is said again by the crew when the link stands."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    def exchange(
        self,
        now: Now,
        holder: int,
        number: int,
        want: int,
        outcomes: list[Outcome],
        states: list[list[int]],
        out: list[fx.Effect],
    ) -> None:
        body = {"holder": holder, "number": number, "want": want, "outcomes": outcomes, "states": states}
        self._agent.send("crew-exchange", body, out)

    def progress(self, now: Now, progress: Progress, out: list[fx.Effect]) -> None:
        self._agent.send("crew-phase", progress._asdict() | {"phase": str(progress.phase)}, out)
