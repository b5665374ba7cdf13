"""Leases: which client may send requests to which model, and where it sends them.

A direct lease names one replica and ends with it. A relay lease names the model: the relay picks a replica
for each request, so it outlives them and ends with the unload or its session.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from mgmt.core import effect as fx
from mgmt.core.sessions import Session, Sessions
from mgmt.core.supervision import Unit
from mgmt.protocol.errors import MgmtError


@dataclass(frozen=True, slots=True)
class LeaseRecord:
    """`unit` is None for a relay lease."""

    id: int
    session: int
    model: str
    unit: str | None


class Leases:
    """All open leases; numbers are hashes under the daemon's secret, so that they cannot be guessed."""

    def __init__(self, secret: bytes, sessions: Sessions, relay_endpoint: str) -> None:
        self.by_id: dict[int, LeaseRecord] = {}
        self._secret = secret
        self._sessions = sessions
        self._relay_endpoint = relay_endpoint
        self._numbered = 0

    def grant(
        self, session: Session, model: str, replicas: list[Unit], mode: str, out: list[fx.Effect]
    ) -> dict[str, Any]:
        """A Lease body; direct: on the ready replica with the fewest direct leases (ties: first)."""
        unit = None
        protocols, endpoint = replicas[0].protocols, self._relay_endpoint
        if mode == "direct":
            here = [candidate for candidate in replicas if not candidate.node]
            if not here:
                text = f"model {model!r} runs on node {replicas[0].node}, where only this daemon reaches it: ask "
                raise MgmtError(
                    "not-available", text + "through the relay (`mgmt request --relay`)", model=model
                )
            unit = min(here, key=lambda candidate: self.count(candidate.spec.name))
            protocols, endpoint = unit.protocols, unit.endpoint
        self._numbered += 1
        digest = hashlib.blake2b(self._numbered.to_bytes(8, "big"), key=self._secret, digest_size=8).digest()
        lease = LeaseRecord(
            int.from_bytes(digest, "big"), session.id, model, unit.spec.name if unit else None
        )
        self.by_id[lease.id] = lease
        session.leases.add(lease.id)
        if unit is None:
            out.append(fx.RelayLease(lease.id, model))
        return {
            "lease": lease.id,
            "model": model,
            "mode": mode,
            "endpoint": endpoint,
            "unit": lease.unit,
            "protocols": list(protocols),
        }

    def count(self, unit: str) -> int:
        return sum(lease.unit == unit for lease in self.by_id.values())

    def release(self, session: Session, id: int, out: list[fx.Effect]) -> None:
        """The holder gives a lease back; MgmtError `lease-gone` when it is not theirs."""
        if id not in session.leases:
            raise MgmtError("lease-gone", f"lease {id} is not one of this session; ask for a new one")
        self._close(self.by_id[id], out)

    def on_unit_lost(self, unit: str, reason: str, out: list[fx.Effect]) -> None:
        """Tell each holder of a direct lease on the unit that its requests will not be answered."""
        for lease in [lease for lease in self.by_id.values() if lease.unit == unit]:
            session = self._close(lease, out)
            if session is not None:
                body = {"lease": lease.id, "unit": unit, "reason": reason}
                out.append(fx.Tell(session.peer, session.id, "lease-closed", body))

    def on_model_unloaded(self, model: str, out: list[fx.Effect]) -> None:
        for lease in [lease for lease in self.by_id.values() if lease.model == model and lease.unit is None]:
            self._close(lease, out)

    def on_session_ended(self, session: Session, out: list[fx.Effect]) -> None:
        for id in list(session.leases):
            self._close(self.by_id[id], out)

    def _close(self, lease: LeaseRecord, out: list[fx.Effect]) -> Session | None:
        del self.by_id[lease.id]
        if lease.unit is None:
            out.append(fx.RelayLease(lease.id, None))
        session = self._sessions.by_id.get(lease.session)
        if session is not None:
            session.leases.discard(lease.id)
        return session
