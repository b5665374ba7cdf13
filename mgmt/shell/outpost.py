"""An agent's end of the daemon's relay: requests that came over its link go to units, answers come back.

A request is answered once: by its unit, or `backend-lost` when that goes away. The daemon counts what is
outstanding at each unit and sends no more than its limit, so nothing is counted here.
"""

from __future__ import annotations

from asyncio import AbstractEventLoop
from collections.abc import Callable, Sequence
from typing import Any

import zmq

from mgmt.core import effect as fx
from mgmt.protocol import frames
from mgmt.protocol.errors import MgmtError
from mgmt.protocol.frames import LEASE_AND_ID, TAG_BYTES, DataKind
from mgmt.shell.relay import NEVER_S, Replica, connect
from mgmt.shell.router import HWM


class Outpost:
    """`carry` sends [unit, tag, payload...] to the daemon."""

    def __init__(
        self,
        loop: AbstractEventLoop,
        context: zmq.Context[Any],
        carry: Callable[[Sequence[Any]], None],
    ) -> None:
        self._loop, self._context, self._carry = loop, context, carry
        self._replicas: dict[str, Replica] = {}
        self._models: dict[str, set[str]] = {}  # model -> its units among them

    def set_group(self, effect: fx.RelayGroup) -> None:
        """These units of the model serve; who is gone answers nothing any more."""
        wanted = dict(effect.replicas)
        for unit in self._models.get(effect.model, set()):
            replica = self._replicas[unit]
            if wanted.get(unit) != replica.endpoint:
                del self._replicas[unit]
                self._drop(replica)
        for unit, endpoint in wanted.items():
            if unit not in self._replicas:
                self._replicas[unit] = connect(
                    self._loop, self._context, unit, endpoint, self._on_answer, HWM
                )
        self._models[effect.model] = set(wanted)

    def on_carried(self, message: list[Any]) -> None:
        """A request of the daemon's relay."""
        if len(message) < 2 or len(message[1]) != TAG_BYTES:
            return
        unit = message[0].decode("utf-8", "replace")
        tag: bytes = message[1]
        replica = self._replicas.get(unit)
        if replica is None:
            self._refuse(
                unit, tag, DataKind.ERROR, MgmtError("not-ready", f"{unit} is not ready now; try again")
            )
        elif not replica.offer(message[1:]):
            self._refuse(unit, tag, DataKind.BUSY, MgmtError("busy", f"{unit} does not read; try later"))
        else:
            replica.outstanding[tag[LEASE_AND_ID]] = b"", NEVER_S

    def close(self) -> None:
        for replica in self._replicas.values():
            replica.close()
        self._replicas.clear()

    def _on_answer(self, replica: Replica, message: list[Any]) -> None:
        if replica.settles(message[0]) is not None:
            self._carry((replica.unit.encode(), *message))

    def _drop(self, replica: Replica) -> None:
        replica.close()
        lost = MgmtError("backend-lost", f"{replica.unit} died before it answered", unit=replica.unit)
        for tag in replica.open_tags():
            self._refuse(replica.unit, tag, DataKind.ERROR, lost)

    def _refuse(self, unit: str, tag: bytes, kind: DataKind, error: MgmtError) -> None:
        self._carry((unit.encode(), frames.answer_tag(tag, kind), frames.pack_body(error.as_body())))
