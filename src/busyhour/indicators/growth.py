"""What a run's probes read of memory and of what is counted: as traces over time, and after batches of calls."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import inf, sqrt
from typing import Protocol, runtime_checkable

import numpy as np

from busyhour.model import SECOND, Comparison, Estimate, Outcome, Run, Sample
from busyhour.statistics.leaks.cause import Sensor
from busyhour.statistics.leaks.counts import Batch
from busyhour.statistics.leaks.traces import Trace
from busyhour.statistics.leaks.trend import Trend
from busyhour.statistics.tails import student
from busyhour.statistics.wording import exactly

_MB = 1_000_000
READ_AS: Mapping[Sensor, Sequence[tuple[str, float]]] = {
    Sensor.PRIVATE_DIRTY: [("private_mb", 1)],
    Sensor.RSS: [("rss_mb", 1)],
    Sensor.HEAP: [("heap_bytes", 1 / _MB), ("process_heap_bytes", 1 / _MB)],
    Sensor.BLOCKS: [("python_blocks", 1), ("process_python_blocks", 1)],
    Sensor.DESCRIPTORS: [("fds", 1)],
    Sensor.THREADS: [("threads", 1)],
    Sensor.TASKS: [("asyncio_tasks", 1), ("process_asyncio_tasks", 1)],
    Sensor.SOCKETS: [("fds_sockets", 1)],
    Sensor.CHILDREN: [("children", 1)],
}
"""By which sample's name a sensor is known, the first that there is, and what it is multiplied by."""
_LEAST_BATCHES = 3


# ---------------------------------------------------------------- over time


@dataclass(frozen=True)
class Life:
    """The longest time that one process of a service was watched without a restart; `of`: how many there were."""

    traces: Mapping[Sensor, Trace]
    hours: float
    of: int
    since_ns: int = 0


def longest_life(run: Run, service: str, phases: Sequence[str] = ()) -> Life:
    """What was read of it, beside the calls in progress and completed. phases: only readings in these; () for all."""
    cuts = _beginnings(run, service)
    read = {sensor: found for sensor in Sensor if (found := _samples(run, service, sensor, phases))}
    stamps = sorted({sample.at_ns for samples in read.values() for sample in samples})
    spans: dict[int, list[int]] = {}
    for at_ns in stamps:
        spans.setdefault(bisect_right(cuts, at_ns), []).append(at_ns)
    if not spans:
        return Life({}, 0.0, 0)
    longest = max(spans, key=lambda life: spans[life][-1] - spans[life][0])
    first_ns, last_ns = spans[longest][0], spans[longest][-1]
    calls = run.operations("call")
    began_ns = np.sort([call.began_ns or call.due_ns for call in calls])
    ended_ns = np.sort([call.ended_ns for call in calls if call.ended_ns is not None])

    def trace(samples: Sequence[Sample]) -> Trace:
        kept = [sample for sample in samples if first_ns <= sample.at_ns <= last_ns]
        at_ns = np.array([sample.at_ns for sample in kept], dtype=np.int64)
        completed = np.searchsorted(ended_ns, at_ns, side="right").astype(np.float64)
        load = np.searchsorted(began_ns, at_ns, side="right") - completed
        seconds = (at_ns - first_ns) / SECOND
        values = np.array([sample.value for sample in kept], dtype=np.float64)
        return Trace(seconds, values, load if calls else None, completed if calls else None)

    traces = {sensor: trace(samples) for sensor, samples in read.items()}
    return Life(traces, (last_ns - first_ns) / SECOND / 3600, len(spans), first_ns)


@dataclass(frozen=True, eq=False)
class Growing:
    """The evidence of a growth: the trend of one sensor of a process, and the readings that it was found in."""

    trend: Trend
    life: Life
    sensor: Sensor

    def at_most(self, limit: float, alpha: float) -> Comparison:
        """By the interval of the slope, whatever the level it was made at."""
        slope = self.trend.slope
        return _compared(slope is not None and slope.high <= limit, slope is not None and slope.low > limit)

    def at_least(self, limit: float, alpha: float) -> Comparison:
        slope = self.trend.slope
        return _compared(slope is not None and slope.low >= limit, slope is not None and slope.high < limit)


def _compared(kept: bool, broken: bool) -> Comparison:
    if kept or broken:
        return Comparison(Outcome.PASS if kept else Outcome.FAIL, "")
    return Comparison(Outcome.INCONCLUSIVE, "its interval holds the limit")


def _beginnings(run: Run, service: str) -> list[int]:
    """When another process was in the place of the one before."""
    starts = [mark.at_ns for mark in run.marks("service.started") if mark.name == service]
    if service == "harness":
        starts = [mark.at_ns for mark in run.marks("run.resumed")]
    seen = run.samples(service, "restarts")
    restarts = [later.at_ns for earlier, later in pairwise(seen) if later.value > earlier.value]
    return sorted({*starts, *restarts})


def _samples(run: Run, service: str, sensor: Sensor, phases: Sequence[str]) -> list[Sample]:
    for name, factor in READ_AS[sensor]:
        found = [sample for phase in phases or (None,) for sample in run.samples(service, name, phase)]
        if found:
            return [Sample(one.at_ns, one.source, one.name, one.value * factor) for one in found]
    return []


# ---------------------------------------------------------------- after batches of calls


def unbroken(run: Run, service: str, phases: Sequence[str]) -> tuple[Sequence[str], str]:
    """Those phases after which the same process was there, the longest row of them; and a clause if others are not.

    What another process has says nothing of what the first one kept.
    """
    rows: list[list[str]] = []
    last = None
    for phase in phases:
        now = _life_after(run, service, phase)
        if rows and (now == last or now is None):
            rows[-1].append(phase)
        else:
            rows.append([phase])
        last = last if now is None else now
    longest = max(rows, key=len, default=[])
    if len(rows) < 2:
        return phases, ""
    return longest, f", from {longest[0]} to {longest[-1]}: between others {service} was another process"


def _life_after(run: Run, service: str, phase: str) -> int | None:
    """How many processes had been in its place when the phase was over; None if it never was."""
    ended_ns = _ended_ns(run, phase)
    return None if ended_ns is None else bisect_right(_beginnings(run, service), ended_ns)


def _ended_ns(run: Run, phase: str) -> int | None:
    return max((mark.at_ns for mark in run.marks("phase.ended") if mark.name == phase), default=None)


@runtime_checkable
class _Interrupted(Protocol):
    """A run that was not watched all the time."""

    def missed(self, from_ns: int, until_ns: int) -> bool: ...


def left_after(run: Run, service: str, phase: str, sensor: Sensor) -> float | None:
    """The last reading before any call came again: when those of the phase had been over for as long as can be.

    None where the end of the phase was not watched, nor the time to any reading: those may be of calls in progress.
    """
    ended_ns = _ended_ns(run, phase)
    if ended_ns is None:
        return None
    again_ns = min((call.due_ns for call in run.operations("call") if call.due_ns > ended_ns), default=inf)
    rested = [sample for sample in _samples(run, service, sensor, ()) if sample.at_ns < again_ns]
    own = _samples(run, service, sensor, (phase,))
    if isinstance(run, _Interrupted):
        rested = [one for one in rested if not run.missed(min(one.at_ns, ended_ns), max(one.at_ns, ended_ns))]
    return rested[-1].value if own and rested else None


def batch(run: Run, service: str, phase: str, sensors: Sequence[Sensor]) -> Batch:
    """The calls of a phase by how they ended, and what was there when they were over."""
    calls = Counter(str(call.detail.get("why") or call.outcome) for call in run.operations("call", phase))
    counts = {sensor: left_after(run, service, phase, sensor) for sensor in sensors}
    return Batch(calls, {sensor: round(count) for sensor, count in counts.items() if count is not None})


@dataclass(frozen=True)
class KeptPerCall:
    """See `indicators.kept_per_call`."""

    service: str
    batches: tuple[str, ...]
    sensor: Sensor = Sensor.PRIVATE_DIRTY
    unit: str = "KB"

    @property
    def what(self) -> str:
        return f"{self.sensor} kept per call by {self.service} from {self.batches[0]} to {self.batches[-1]}"

    @property
    def phases(self) -> tuple[str, ...]:
        return self.batches

    @property
    def reads(self) -> tuple[tuple[str, str], ...]:
        return tuple((self.service, name) for name, _ in READ_AS[self.sensor])

    def __call__(self, run: Run) -> Estimate:
        batches, broken = unbroken(run, self.service, self.batches)
        readings = [left_after(run, self.service, phase, self.sensor) for phase in batches]
        calls = [len(run.operations("call", phase)) for phase in batches]
        steps = zip(pairwise(readings), calls[1:], strict=True)
        grown = [
            1000 * (after - before) / n
            for (before, after), n in steps
            if before is not None and after is not None and n
        ]
        evidence = replace(Grown.of(grown), note=broken.removeprefix(", "))
        return Estimate(self.what, self.unit, sum(calls[1:]), evidence.value, evidence.low, evidence.high, evidence)


@dataclass(frozen=True)
class Grown:
    """By how much a call has made it grow, batch by batch: the mean with Student's interval."""

    n: int
    value: float | None
    error: float = inf
    note: str = ""

    @classmethod
    def of(cls, grown: Sequence[float]) -> Grown:
        if not grown:
            return cls(0, None)
        each = np.asarray(grown, dtype=np.float64)
        return cls(len(each), float(each.mean()), float(each.std(ddof=1)) / sqrt(len(each)) if len(each) > 1 else inf)

    @property
    def low(self) -> float | None:
        return self._bound(-1, 0.05)

    @property
    def high(self) -> float | None:
        return self._bound(1, 0.05)

    def at_most(self, limit: float, alpha: float) -> Comparison:
        low, high = self._bound(-1, alpha), self._bound(1, alpha)
        assert low is not None
        assert high is not None
        if self.n < _LEAST_BATCHES:
            few = f"{self.n} batches after the first; at least {_LEAST_BATCHES} tell"
            return self._noted(Outcome.INCONCLUSIVE, few)
        if high <= limit:
            return self._noted(Outcome.PASS, "")
        if low > limit:
            return self._noted(Outcome.FAIL, f"it grew so in {self.n} batches")
        return self._noted(Outcome.INCONCLUSIVE, f"its interval, of {self.n} batches, holds {exactly(limit)}")

    def at_least(self, limit: float, alpha: float) -> Comparison:
        """What nobody asks: that calls keep something."""
        turned = {Outcome.PASS: Outcome.FAIL, Outcome.FAIL: Outcome.PASS}
        found = self.at_most(limit, alpha)
        return Comparison(turned.get(found.outcome, found.outcome), found.because)

    def _noted(self, outcome: Outcome, because: str) -> Comparison:
        return Comparison(outcome, "; ".join(filter(None, (because, self.note))))

    def _bound(self, side: int, alpha: float) -> float | None:
        if self.value is None:
            return None
        return self.value + side * (student(self.n - 1, 1 - alpha) * self.error if self.n > 1 else inf)
