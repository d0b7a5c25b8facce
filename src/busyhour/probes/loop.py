"""The harness's reading of itself: how late its event loop is, and what it takes from the machine.

A harness that is late measures itself and calls it the target; `valid_if` gates read these samples.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from busyhour import proc
from busyhour.clock import SystemClock
from busyhour.histogram import LogHistogram
from busyhour.model import MS, SECOND, Clock, Sample
from busyhour.probes.missing import Absences, Missing
from busyhour.probes.schedule import Schedule
from busyhour.probes.tree import Tree

_SOURCE = "harness"


class LoopMeter:
    """A timer that is due every 10 ms, and how late it was each time. Metered.

    A loop that is blocked for 200 ms has missed twenty timers, and each of them was late: all twenty are counted, or
    one long block would be one reading among a thousand good ones. uvloop's timers are exact to 1 ms.
    """

    def __init__(
        self,
        clock: Clock | None = None,
        *,
        every_ms: int = 10,
        details_seconds: float = 10.0,
        proc_root: Path = proc.PROC,
    ) -> None:
        self._clock = clock or SystemClock()
        self._details = Schedule(details_seconds)
        self._absences = Absences()
        self._proc_root = proc_root
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
        """Since the last drain: "loop_lag_ms" as a histogram, "cpu_pct" of one core, and "rss_mb" now.

        Every `details_seconds`, what a leak of ours would show in: "private_mb" (memory that it has written and shares
        with nobody, and what of it is swapped out), "fds", "threads", "python_blocks", and "process_probe_ms", which
        is what these took.
        """
        samples = [*self._lag.drain(now_ns, _SOURCE, "loop_lag_ms"), *self._own_use(now_ns)]
        if self._details.due(now_ns):
            samples += [Sample(now_ns, _SOURCE, name, value) for name, value in self._own_details().items()]
        return samples

    def read_all_next(self) -> None:
        """The next drain has everything."""
        self._details.at_once()

    def missing(self) -> Sequence[Missing]:
        """What could not be read of ourselves, since the last call."""
        return self._absences.taken()

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
        own = proc.stat(os.getpid(), proc_root=self._proc_root)
        if own is None:  # /proc is not mounted
            return []
        last, self._cpu = self._cpu, (now_ns, own.cpu_seconds)
        samples = [Sample(now_ns, _SOURCE, "rss_mb", own.rss_bytes / 1_000_000)]
        if last is not None and now_ns > last[0]:
            share = (own.cpu_seconds - last[1]) * SECOND / (now_ns - last[0])
            samples.append(Sample(now_ns, _SOURCE, "cpu_pct", 100 * share))
        return samples

    def _own_details(self) -> dict[str, float]:
        began_ns, root = self._clock.now_ns(), self._proc_root
        readings = {"python_blocks": float(sys.getallocatedblocks())}
        own = proc.stat(os.getpid(), proc_root=root)
        if own is not None:
            readings["threads"] = float(own.threads)
            alone = Tree([own], [], root, self._absences)
            for _, kb in (
                alone.each(["private_mb"], "smaps_rollup", lambda pid: proc.memory_kb(pid, proc_root=root)) or ()
            ):
                readings["private_mb"] = (kb.get("Private_Dirty", 0) + kb.get("Swap", 0)) * 1024 / 1_000_000
            for _, count in alone.each(["fds"], "fd", lambda pid: proc.open_files(pid, proc_root=root)) or ():
                readings["fds"] = float(count)
        return readings | {"process_probe_ms": (self._clock.now_ns() - began_ns) / MS}
