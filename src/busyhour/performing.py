"""Performs the arrivals of a phase, or a share of them, on schedule; and keeps count for whoever watches.

Arrivals are open: what is due starts when it is due, however the system fares; what finds no place is counted.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from math import inf
from random import Random
from types import MappingProxyType

from busyhour.bulk import Bulk, Counts, Stretch
from busyhour.errors import PlanError
from busyhour.keeping import Keeper
from busyhour.model import (
    MS,
    Arrival,
    CallSetup,
    Carrier,
    Clock,
    Due,
    Endpoint,
    Line,
    Mark,
    Operation,
    Phase,
    Sample,
)
from busyhour.recording import Recordable
from busyhour.share import WHOLE, Share

LATENCY_EDGES_MS = (
    *(50.0, 100.0, 200.0, 300.0, 400.0, 500.0, 600.0, 700.0, 800.0, 900.0, 1000.0),
    *(1200.0, 1500.0, 2000.0, 2500.0, 3000.0, 4000.0, 5000.0, 7500.0, 10_000.0, 20_000.0),
)
"""The upper edges of the buckets in which a progress counts response latencies; beyond the last there is one more."""
_ASK_AGAIN_SECONDS = 0.25  # a schedule from which nothing is due for the time being


@dataclass(slots=True)
class Progress:
    """What is going on, for whoever watches; who performs, alone writes it."""

    phase: str = ""
    phase_number: int = 0
    phases: int = 0
    began_ns: int = 0
    started: int = 0
    finished: int = 0
    failed: int = 0
    dropped: int = 0
    turns: int = 0
    missed: int = 0
    latencies_ms: deque[float] = field(default_factory=lambda: deque(maxlen=500))
    latency_counts: list[int] = field(default_factory=lambda: [0] * (len(LATENCY_EDGES_MS) + 1))  # of all of the phase
    latency_ms_sum: float = 0.0
    lateness_p99_ms: float | None = None
    doing: str = "starting"

    @property
    def in_progress(self) -> int:
        return self.started - self.finished

    def quantile_ms(self, q: float) -> float | None:
        """A running quantile of the last turns' response latency: to look at, never to judge by."""
        ordered = sorted(self.latencies_ms)
        return ordered[min(len(ordered) - 1, int(q * len(ordered)))] if ordered else None

    def enter(self, phase: Phase, number: int, at_ns: int) -> None:
        self.phase, self.phase_number, self.began_ns = phase.name, number, at_ns
        self.started = self.finished = self.failed = self.dropped = self.turns = self.missed = 0
        self.latencies_ms.clear()
        self.latency_counts = [0] * len(self.latency_counts)
        self.latency_ms_sum = 0.0
        self.doing = "calling"

    def note(self, operation: Operation) -> None:
        if operation.kind == "call":
            self.failed += operation.outcome != "ok"
        elif operation.kind == "turn":
            self.turns += 1
            self.missed += operation.ended_ns is None
            if operation.ended_ns is not None:
                self.note_latencies([max(0, operation.ended_ns - operation.due_ns) / MS])

    def note_latencies(self, latencies_ms: Iterable[float]) -> None:
        """Response latencies of turns that were answered."""
        for latency_ms in latencies_ms:
            self.latencies_ms.append(latency_ms)
            self.latency_counts[bisect_left(LATENCY_EDGES_MS, latency_ms)] += 1
            self.latency_ms_sum += latency_ms

    def note_lateness(self, samples: list[tuple[float, int]]) -> None:
        """Of frames, (ms, count) each."""
        lateness = sorted(samples)
        if lateness:
            beyond = 0.01 * sum(count for _, count in lateness)
            while len(lateness) > 1 and lateness[-1][1] <= beyond:
                beyond -= lateness.pop()[1]
            self.lateness_p99_ms = lateness[-1][0]


class Performance:
    """The arrivals of one phase after another; `take_dropped` says which of them found no place since it was asked."""

    def __init__(
        self,
        *,
        clock: Clock,
        seed: int,
        carrier: Carrier | None,
        write: Callable[[Operation | Sample | Mark], None],
        progress: Progress,
        share: Share = WHOLE,
        keeper: Keeper | None = None,
        endpoints: Mapping[str, Endpoint] = MappingProxyType({}),
    ) -> None:
        """endpoints: of the services that may be called beside the target."""
        self._clock, self._seed, self._carrier, self._write = clock, seed, carrier, write
        self._endpoints = endpoints
        self._progress, self._share, self._keeper = progress, share, keeper
        self._bulk: Counts | None = None  # of the phase, if its workload performs it by itself
        self._dropped_untold = 0
        self._not_before_ns: float = -inf
        self.passed_over = 0  # arrivals of the phase

    async def perform(self, phase: Phase, target: Endpoint, began_ns: int, *, after: int = 0) -> None:
        """All of them, from `began_ns` on, until the last is over; cancelled, they are cut off.

        after: how many of them were performed before, in a run that was cut. An exception of a workload is a bug: it
        comes out of here, in a group.
        """
        self.passed_over = 0
        share = replace(self._share, after=self._share.after + after)
        if self._keeper is not None:
            self._keeper.enter(phase.name)
        if isinstance(phase.workload, Bulk):
            await self._in_bulk(phase.workload, phase, target, began_ns, share)
            return
        try:
            await self._one_by_one(phase, target, began_ns, share)
        finally:
            if self._keeper is not None and (told := self._keeper.told()):
                self._write(Mark(self._clock.now_ns(), "recordings", phase.name, told))

    def follow(self) -> None:
        """Have the progress say how a workload stands that performs a phase by itself."""
        if self._bulk is not None:
            progress, counts = self._progress, self._bulk
            self._dropped_untold += counts.dropped - progress.dropped
            progress.started, progress.finished = counts.started, counts.finished
            progress.failed, progress.dropped = counts.failed, counts.dropped
            progress.turns, progress.missed = counts.turns, counts.missed
            progress.note_latencies(counts.latencies_ms)
            counts.latencies_ms.clear()
            if counts.lateness_p99_ms is not None:
                progress.lateness_p99_ms = counts.lateness_p99_ms

    def take_dropped(self) -> int:
        """How many since the last time."""
        dropped, self._dropped_untold = self._dropped_untold, 0
        return dropped

    def pass_over(self, until_ns: int) -> None:
        """Leave out the arrivals that were due before, and have not been performed, because we were not there: all at
        once they would be a load that nobody has asked for. `passed_over` counts them.

        A workload that performs a phase by itself goes by its own schedule.
        """
        self._not_before_ns = until_ns

    async def _one_by_one(self, phase: Phase, target: Endpoint, began_ns: int, share: Share) -> None:
        finished = asyncio.Event()
        tasks: set[asyncio.Task[None]] = set()
        progress, arrivals, at_once = self._progress, share.arrivals(phase.arrivals), share.part(phase.at_once)

        def over(task: asyncio.Task[None]) -> None:
            tasks.discard(task)
            progress.finished += 1
            finished.set()

        async with asyncio.TaskGroup() as group:
            nth = 0
            while True:
                gone = progress.finished + progress.dropped + self.passed_over
                due = arrivals.due_ns(nth, gone, self._clock.now_ns() - began_ns)
                if due is Due.ENDED:
                    break
                if due is Due.PENDING:
                    finished.clear()
                    with suppress(TimeoutError):  # a schedule may also end while all that it has let in goes on
                        async with asyncio.timeout(_ASK_AGAIN_SECONDS):
                            await finished.wait()
                    continue
                assert isinstance(due, int)
                await self._clock.sleep_until(began_ns + due)
                nth += 1
                if began_ns + due < self._not_before_ns:
                    self.passed_over += 1
                    continue
                if progress.in_progress >= at_once:
                    progress.dropped += 1
                    self._dropped_untold += 1
                    continue
                progress.started += 1
                arrival = self._arrival(phase, target, share.number(nth - 1) + 1, began_ns + due)
                task = group.create_task(self._one(phase, arrival))
                tasks.add(task)
                task.add_done_callback(over)
            await self._drain(tasks, phase.drain_seconds)

    async def _one(self, phase: Phase, arrival: Arrival) -> None:
        try:
            await phase.workload.perform(arrival)
        finally:
            if self._keeper is not None:
                self._keeper.settle(arrival.id)

    async def _in_bulk(self, workload: Bulk, phase: Phase, target: Endpoint, began_ns: int, share: Share) -> None:
        self._bulk = Counts()
        stretch = Stretch(
            phase=phase.name,
            arrivals=share.arrivals(phase.arrivals),
            at_once=share.part(phase.at_once),
            drain_seconds=phase.drain_seconds,
            began_ns=began_ns,
            clock=self._clock,
            target=target,
            write=self._write,
            counts=self._bulk,
            share=share,
        )
        try:
            await workload.perform_all(stretch)
        finally:
            self.follow()
            self._bulk = None

    async def _drain(self, tasks: set[asyncio.Task[None]], seconds: float) -> None:
        self._progress.doing = "waiting for the last calls"
        if tasks:
            await asyncio.wait(tasks, timeout=seconds)
        for task in tasks:
            task.cancel()

    def _arrival(self, phase: Phase, target: Endpoint, number: int, due_ns: int) -> Arrival:
        return Arrival(
            id=f"{phase.name}/{number}",
            phase=phase.name,
            due_ns=due_ns,
            clock=self._clock,
            random=Random(f"{self._seed}/{phase.name}/{number}"),
            dial=partial(self._dial, target, f"{phase.name}/{number}"),
            record=self._record,
            target=target,
        )

    def _dial(self, target: Endpoint, arrival: str, setup: CallSetup) -> AbstractAsyncContextManager[Line]:
        carrier, keeper = self._carrier, self._keeper
        if carrier is None:
            raise PlanError(f"the call {setup.id} cannot be placed: the plan has no carrier; give it one")
        if setup.service:
            target = self._endpoints[setup.service]
        if keeper is not None and (record_ns := keeper.begin(setup.id, arrival)):
            return _recorded(carrier, target, replace(setup, record_ns=record_ns), keeper)
        return carrier.dial(target, setup)

    def _record(self, operation: Operation) -> None:
        if self._keeper is not None:
            self._keeper.note(operation)
        self._progress.note(operation)
        self._write(operation)


@asynccontextmanager
async def _recorded(carrier: Carrier, target: Endpoint, setup: CallSetup, keeper: Keeper) -> AsyncIterator[Line]:
    line: Line | None = None
    try:
        async with carrier.dial(target, setup) as line:
            yield line
    finally:
        if isinstance(line, Recordable):
            keeper.heard(setup.id, line.recorded())
