"""The harness's reading of itself: how late its event loop is, and what it takes from the machine.

A harness that is late measures itself and calls it the target; `valid_if` gates read these samples.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from busyhour import proc
from busyhour.clock import SystemClock
from busyhour.histogram import LogHistogram
from busyhour.model import MS, SECOND, Clock, Sample

_SOURCE = "harness"


class LoopMeter:
    """A timer that is due every 10 ms, and how late it was each time. Metered.

    A loop that is blocked for 200 ms has missed twenty timers, and each of them was late: all twenty are counted, or
    one long block would be one reading among a thousand good ones. uvloop's timers are exact to 1 ms.
    """

    def __init__(self, clock: Clock | None = None, *, every_ms: int = 10) -> None:
        self._clock = clock or SystemClock()
        self._every_ns = every_ms * MS
        self._lag = LogHistogram()
        self._due_ns = 0
        self._timer: asyncio.TimerHandle | None = None
        self._cpu: tuple[int, float] | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[LoopMeter]:
        """Measure the running loop for as long as the context is open."""
        self._due_ns = self._clock.now_ns() + self._every_ns
        self._schedule()
        try:
            yield self
        finally:
            if self._timer is not None:
                self._timer.cancel()

    def drain(self, now_ns: int) -> Sequence[Sample]:
        """Since the last drain: "loop_lag_ms" as a histogram, "cpu_pct" of one core, and "rss_mb" now."""
        return [*self._lag.drain(now_ns, _SOURCE, "loop_lag_ms"), *self._own_use(now_ns)]

    def _schedule(self) -> None:
        delay_ns = max(0, self._due_ns - self._clock.now_ns())
        self._timer = asyncio.get_running_loop().call_later(delay_ns / SECOND, self._tick)

    def _tick(self) -> None:
        now_ns = self._clock.now_ns()
        self._lag.add(now_ns - self._due_ns)
        self._due_ns += self._every_ns
        while self._due_ns <= now_ns:
            self._lag.add(now_ns - self._due_ns)
            self._due_ns += self._every_ns
        self._schedule()

    def _own_use(self, now_ns: int) -> list[Sample]:
        own = proc.stat(os.getpid())
        if own is None:  # /proc is not mounted
            return []
        last, self._cpu = self._cpu, (now_ns, own.cpu_seconds)
        samples = [Sample(now_ns, _SOURCE, "rss_mb", own.rss_bytes / 1_000_000)]
        if last is not None and now_ns > last[0]:
            share = (own.cpu_seconds - last[1]) * SECOND / (now_ns - last[0])
            samples.append(Sample(now_ns, _SOURCE, "cpu_pct", 100 * share))
        return samples
