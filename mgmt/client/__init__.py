"""What talks to the daemon and, by its leave, to the models: `Client` (blocking) and `AsyncClient` (asyncio).

Both drive the same Conversation (session.py, conversation.py: no input or output) over the same Wires
(wires.py: ZeroMQ). asyncio is imported with `AsyncClient` only; pydantic never is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mgmt.client.sync import Client, ModelClient

if TYPE_CHECKING:
    from mgmt.client.aio import AsyncClient, AsyncModelClient

__all__ = ["AsyncClient", "AsyncModelClient", "Client", "ModelClient"]


def __getattr__(name: str) -> Any:
    if name in ("AsyncClient", "AsyncModelClient"):
        from mgmt.client import aio

        return getattr(aio, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
