"""The client for asyncio, on any loop that can watch a descriptor (uvloop or not); not zmq.asyncio.

libzmq's descriptor is edge-triggered, and a send may swallow the edge. So a turn ends only after every socket
said "nothing more" behind the last send.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from types import TracebackType
from typing import Any

import zmq

from mgmt.client.conversation import Conversation, Target
from mgmt.client.session import NEVER, Answer
from mgmt.client.sync import packed, single
from mgmt.client.wires import Wires
from mgmt.protocol import defaults, frames, places, tokens
from mgmt.protocol.keys import Credentials, for_endpoint


class AsyncClient:
    """Like Client, with the same arguments and errors; to be made and used in one running loop.

    Heartbeats are sent by a timer of the loop, so the session lives as long as the loop turns.
    """

    def __init__(
        self,
        endpoint: str | None = None,
        *,
        name: str = "",
        timeout_s: float = defaults.REQUEST_TIMEOUT_S,
        connect_timeout_s: float = defaults.CONNECT_TIMEOUT_S,
        server_key: str | None = None,
        key_file: str | None = None,
        credentials: Credentials | None = None,
        token: str | None = None,
    ) -> None:
        self.endpoint = endpoint or places.default_control_endpoint()
        self._loop = asyncio.get_running_loop()
        token = tokens.find() if token is None else token
        self._conversation = Conversation(self.endpoint, name, timeout_s, connect_timeout_s, token)
        self._wires = Wires(
            self._conversation,
            self._watch,
            self._unwatch,
            credentials or for_endpoint(self.endpoint, server_key, key_file),
        )
        self._futures: dict[int, asyncio.Future[Any]] = {}
        self._items: deque[dict[str, Any]] = deque()
        self._arrived = asyncio.Event()
        self._scheduled = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at_s = NEVER

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Say bye and close; requests still open are cancelled. Bounded by CLIENT_LINGER_MS."""
        linger_ms = defaults.CLIENT_LINGER_MS if self._conversation.welcome else 0
        self._conversation.bye()
        self._carry_out()
        if self._timer is not None:
            self._timer.cancel()
        for future in self._futures.values():
            future.cancel()
        self._wires.close(linger_ms)

    # ---- the daemon ----

    async def hello(self) -> dict[str, Any]:
        """The body of the daemon's welcome; opens a session when there is none."""
        self._wires.connect()
        welcome: dict[str, Any] = await self._answer(self._conversation.say_hello(self._loop.time()))
        return welcome

    async def request(
        self, verb: str, body: dict[str, Any] | None = None, *, timeout_s: float | None = None, key: str = ""
    ) -> dict[str, Any]:
        """Ask the daemon and return the body of its answer; see Client.request."""
        self._wires.connect()
        id = self._conversation.request(self._loop.time(), verb, body, timeout_s, key)
        answer: dict[str, Any] = await self._answer(id)
        return answer

    async def events(
        self, since: int | None = None, epoch: int | None = None, follow: bool = True
    ) -> AsyncGenerator[dict[str, Any], None]:
        """A snapshot, then events; see Client.events. One at a time per client."""
        self._wires.connect()
        self._items.clear()
        id = self._conversation.subscribe(self._loop.time(), since, epoch, follow)
        end = self._futures[id] = self._loop.create_future()
        end.add_done_callback(lambda _: self._arrived.set())
        self._schedule()
        try:
            while True:
                while self._items:
                    yield self._items.popleft()
                if end.done():
                    end.result()
                    return
                self._arrived.clear()
                await self._arrived.wait()
        finally:
            self._futures.pop(id, None)
            end.cancel()
            self._conversation.unsubscribe(id)

    # ---- models ----

    def model(
        self, name: str, mode: str = "direct", load: bool = False, retries: int = 0
    ) -> AsyncModelClient:
        """A client of the model `name`; see Client.model."""
        return AsyncModelClient(self, self._conversation.target(name, mode, load, retries))

    async def _call(self, target: Target, payload: tuple[bytes, ...], timeout_s: float | None) -> list[bytes]:
        self._wires.connect()
        frames: list[bytes] = await self._answer(
            self._conversation.call(self._loop.time(), target, payload, timeout_s)
        )
        return frames

    def _release(self, target: Target) -> None:
        self._conversation.release(self._loop.time(), target)
        self._schedule()

    # ---- turning ----

    async def _answer(self, id: int) -> Any:
        future = self._futures[id] = self._loop.create_future()
        self._schedule()
        try:
            return await future
        finally:
            self._futures.pop(id, None)
            self._conversation.forget(id)  # only matters when this task was cancelled

    def _schedule(self) -> None:
        """Turn soon: requests of one loop iteration leave together."""
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._scheduled = False
        conversation, wires = self._conversation, self._wires
        while True:
            now_s = self._loop.time()
            wires.read(now_s)
            conversation.tick(now_s)
            if not self._carry_out():
                break  # the last thing done with every socket was a receive that said "again"
        due_s = conversation.due_s()
        if due_s < self._timer_at_s:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = None if due_s == NEVER else self._loop.call_at(due_s, self._alarm)
            self._timer_at_s = due_s

    def _alarm(self) -> None:
        self._timer_at_s = NEVER  # an alarm may ring early by the clock's grain; then it is set again
        self._schedule()

    def _carry_out(self) -> bool:
        """False when there was nothing to do."""
        return self._wires.carry_out(self._loop.time(), self._answered, self._happened)

    def _answered(self, answer: Answer) -> None:
        future = self._futures.get(answer.id)
        if future is None or future.done():
            return
        if answer.error is not None:
            future.set_exception(answer.error)
        else:
            future.set_result(answer.result)

    def _happened(self, item: dict[str, Any]) -> None:
        self._items.append(item)
        self._arrived.set()

    def _watch(self, socket: zmq.Socket[bytes]) -> None:
        self._loop.add_reader(int(socket.getsockopt(zmq.FD)), self._turn)

    def _unwatch(self, socket: zmq.Socket[bytes]) -> None:
        self._loop.remove_reader(int(socket.getsockopt(zmq.FD)))


class AsyncModelClient:
    """One model through one lease; made by `AsyncClient.model`. Calls run at the same time: use gather."""

    def __init__(self, client: AsyncClient, target: Target) -> None:
        self._client = client
        self._target = target

    @property
    def unit(self) -> str | None:
        """The replica behind the present lease; None without a lease and in relay mode."""
        return self._target.lease.unit if self._target.lease is not None else None

    async def call(self, *payload: bytes, timeout_s: float | None = None) -> list[bytes]:
        """Send opaque frames to the model and return the frames of its answer."""
        return await self._client._call(self._target, payload, timeout_s)

    async def ask(self, value: Any, timeout_s: float | None = None) -> Any:
        """One msgpack value each way, the convention of the shipped backends."""
        return frames.unpack(single(await self.call(packed(value), timeout_s=timeout_s)))

    def release(self) -> None:
        """Give the lease back; a later call asks for another."""
        self._client._release(self._target)
