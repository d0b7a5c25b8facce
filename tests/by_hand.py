"""A clock that a test moves by hand, for what waits for a time while real processes do what they do."""

from __future__ import annotations

import asyncio
from collections import deque

from busyhour.model import SECOND


class ByHand:
    """Time stands still until somebody who sleeps is woken: then it is as late as he wanted it to be."""

    def __init__(self) -> None:
        self._now_ns = SECOND
        self._asleep: deque[tuple[int, asyncio.Event]] = deque()
        self._news = asyncio.Event()

    def now_ns(self) -> int:
        return self._now_ns

    async def sleep_until(self, at_ns: int) -> None:
        woken = asyncio.Event()
        self._asleep.append((at_ns, woken))
        self._news.set()
        await woken.wait()

    async def wake(self) -> float:
        """Wake who has slept for longest, once there is anybody who does. Returns the seconds that he slept for."""
        while not self._asleep:
            self._news.clear()
            await self._news.wait()
        at_ns, woken = self._asleep.popleft()
        slept_ns, self._now_ns = at_ns - self._now_ns, max(self._now_ns, at_ns)
        woken.set()
        return slept_ns / SECOND
