"""What some defects do to the process as a whole: they burn time, and keep what they should not (`hoard`)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from voice_agent.defects import Defects
from voice_agent.hoard import Hoard

_CROWD = 3  # calls, from which on they are in each other's way
_FRAME_SECONDS = 0.02
_SPIN_SECONDS = 0.001  # between two looks at the event loop


class Burdens:
    """One for all calls."""

    def __init__(self, defects: Defects) -> None:
        self._defects = defects
        self._loop = asyncio.get_running_loop()
        self._calls = 0
        self._pool: list[bytearray] = []  # blocks that no call uses now
        self._desk = asyncio.Lock()
        self._hoard = Hoard(defects)

    async def close(self) -> None:
        """At the end of the process."""
        await self._hoard.close()

    async def dispatch(self) -> None:
        """Before a call is set up."""
        if seconds := self._defects.seconds("serial_dispatch"):
            async with self._desk:
                await asyncio.sleep(seconds)

    def refused(self) -> None:
        """A call has ended without a conversation."""
        self._hoard.refused()

    @asynccontextmanager
    async def of_a_call(self, start: Callable[[Coroutine[Any, Any, None]], object]) -> AsyncIterator[None]:
        """Around a conversation; `start` is for what is to outlive it."""
        self._calls += 1
        block = self._borrow()
        blocking_seconds = self._defects.seconds("gil_contention")
        contending = self._loop.create_task(self._contend(blocking_seconds)) if blocking_seconds else None
        try:
            yield
        finally:
            self._calls -= 1
            if contending is not None:
                contending.cancel()
            if block is not None:
                self._pool.append(block)
            self._hoard.call_over()
            if seconds := self._defects.seconds("spin_after_hangup"):
                start(self._spin(seconds))

    def _borrow(self) -> bytearray | None:
        """Memory that is used again: as much as there ever were calls at once, and no more."""
        kilobytes = self._defects.amount("pool_high_water")
        if not kilobytes:
            return None
        return self._pool.pop() if self._pool else bytearray(b"\x01") * int(1024 * kilobytes)

    async def _contend(self, seconds: float) -> None:
        while True:
            if self._calls >= _CROWD:
                self._burn(seconds)
            await asyncio.sleep(_FRAME_SECONDS)

    async def _spin(self, seconds: float) -> None:
        until = self._loop.time() + seconds
        while self._loop.time() < until:
            self._burn(_SPIN_SECONDS)
            await asyncio.sleep(0)

    def _burn(self, seconds: float) -> None:
        until = self._loop.time() + seconds
        while self._loop.time() < until:
            pass
