"""A proxy on real sockets in the test's own process, in front of a server that the test writes."""

from __future__ import annotations

import asyncio
import functools
import heapq
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import uvloop

from busyhour.faults.proxy.collection import Collection, Proxied
from busyhour.timers import Alarm, TimerAlarms

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Stand:
    """A proxy named "it" and the server behind it."""

    collection: Collection
    proxied: Proxied
    _writers: list[asyncio.StreamWriter] = field(default_factory=list)

    @property
    def port(self) -> int:
        return int(self.proxied.listen.rpartition(":")[2])

    @property
    def url(self) -> str:
        return f"http://{self.proxied.listen}"

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self._writers.append(writer)
        return reader, writer

    def toxic(self, kind: str, attributes: dict[str, Any], **fields: Any) -> str:
        """Add a toxic; its name."""
        return self.proxied.add({"type": kind, "attributes": attributes, **fields}).form.name

    def effect(self, name: str) -> dict[str, Any]:
        effects: Any = self.proxied.effects()
        return dict(effects["toxics"][name])

    async def until(self, met: Callable[[], bool], what: str) -> None:
        """Wait for what the wire does."""
        try:
            async with asyncio.timeout(60):
                while not met():  # noqa: ASYNC110  (it is what the wire did)
                    await asyncio.sleep(0.002)
        except TimeoutError:
            raise AssertionError(f"{what}: {self.proxied.effects()}") from None

    async def close_clients(self) -> None:
        for writer in self._writers:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


def on_uvloop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an async test on the loop of the proxy's own process."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(test(*args, **kwargs))

    return run


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


@asynccontextmanager
async def served(handler: Handler = echo) -> AsyncIterator[int]:
    """A server whose connections are closed when the handler returns; its port."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(OSError, asyncio.IncompleteReadError):
                await handler(reader, writer)
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accepted, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def standing(handler: Handler = echo, *, upstream: int = 0, seed: int = 1) -> AsyncIterator[Stand]:
    """upstream: the port of a server that is there already, instead of one for the handler."""
    alarms = TimerAlarms()
    collection = Collection(alarms, seed)
    async with served(handler) as port:
        proxied = await collection.create({"name": "it", "upstream": f"127.0.0.1:{upstream or port}"})
        stand = Stand(collection, proxied)
        try:
            yield stand
        finally:
            await stand.close_clients()
            await collection.close()
            await stand.until(lambda: not proxied._links, "all links are over")
            alarms.close()


class ManualAlarms:
    """Time that the test moves."""

    def __init__(self) -> None:
        self.ns = 1_000_000_000
        self._heap: list[tuple[int, int, Alarm]] = []
        self._number = 0

    def now_ns(self) -> int:
        return self.ns

    def at(self, due_ns: int, call: Callable[[], None]) -> Alarm:
        alarm = Alarm(call)
        self._number += 1
        heapq.heappush(self._heap, (due_ns, self._number, alarm))
        return alarm

    def advance(self, ns: int) -> None:
        until = self.ns + ns
        while self._heap and self._heap[0][0] <= until:
            due_ns, _, alarm = heapq.heappop(self._heap)
            self.ns = max(self.ns, due_ns)
            call, alarm.call = alarm.call, None
            if call is not None:
                call()
        self.ns = until
