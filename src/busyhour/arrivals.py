"""When operations are due. Pure: the same question has the same answer, and a seed gives the same schedule everywhere.

Open schedules (`Constant`, `Poisson`, `Ramp`, `Steps`, `Burst`, `Schedule`) do not care how the system fares: what
arrives, arrives. `Hold` is the closed one: it keeps a number of operations in progress, for soaks at constant
concurrency; never measure latency under it alone, it waits for the slow (coordinated omission).
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from random import Random

from busyhour.errors import PlanError
from busyhour.model import SECOND, Due


def _demand(schedule: object, **amounts: float) -> None:
    wrong = [name for name, amount in amounts.items() if not (math.isfinite(amount) and amount > 0)]
    if wrong:
        names = " and ".join(wrong)
        raise PlanError(f"{schedule!r}: {names} must be a positive number")


@dataclass(frozen=True)
class Constant:
    """One every 1/per_second seconds, the first at once, for `seconds`."""

    per_second: float
    seconds: float

    def __post_init__(self) -> None:
        _demand(self, per_second=self.per_second, seconds=self.seconds)

    def due_ns(self, started: int, finished: int, elapsed_ns: int) -> int | Due:
        del finished, elapsed_ns
        at_seconds = started / self.per_second
        return round(at_seconds * SECOND) if at_seconds < self.seconds else Due.ENDED


@dataclass(frozen=True)
class Poisson:
    """Independent arrivals at a mean rate, as calls do: exponential gaps, for `seconds` or until `count` have come."""

    per_second: float
    seconds: float = math.inf
    count: int = 0  # 0: no limit
    seed: int = 0

    def __post_init__(self) -> None:
        _demand(self, per_second=self.per_second)
        if not self.seconds > 0 or self.count < 0 or (self.count == 0 and math.isinf(self.seconds)):
            raise PlanError(f"{self!r}: give seconds > 0, or count > 0, or both: the schedule must end")

    @cached_property
    def _times_ns(self) -> array[int]:
        random = Random(self.seed)
        times: array[int] = array("q")
        at_seconds = 0.0
        while not self.count or len(times) < self.count:
            at_seconds += random.expovariate(self.per_second)
            if at_seconds >= self.seconds:
                break
            times.append(round(at_seconds * SECOND))
        return times

    def due_ns(self, started: int, finished: int, elapsed_ns: int) -> int | Due:
        del finished, elapsed_ns
        return self._times_ns[started] if started < len(self._times_ns) else Due.ENDED


@dataclass(frozen=True)
class Ramp:
    """A rate that grows (or falls) evenly from one value to another over `seconds`."""

    from_per_second: float
    to_per_second: float
    seconds: float

    def __post_init__(self) -> None:
        _demand(self, seconds=self.seconds)
        if min(self.from_per_second, self.to_per_second) < 0 or self.from_per_second == self.to_per_second:
            raise PlanError(f"{self!r}: the two rates must differ and not be negative; for a level rate use Constant")

    def due_ns(self, started: int, finished: int, elapsed_ns: int) -> int | Due:
        del finished, elapsed_ns
        # arrivals by time t: a t + b t^2 / 2, solved for t in the form that is stable for small b
        a, b = self.from_per_second, (self.to_per_second - self.from_per_second) / self.seconds
        under_root = a * a + 2 * b * started
        if under_root < 0:
            return Due.ENDED
        root = a + math.sqrt(under_root)
        at_seconds = 2 * started / root if root else 0.0
        return round(at_seconds * SECOND) if at_seconds < self.seconds else Due.ENDED


@dataclass(frozen=True)
class Steps:
    """Level rates one after another, each for `seconds_each`: a staircase."""

    per_second: Sequence[float]
    seconds_each: float

    def __post_init__(self) -> None:
        _demand(self, seconds_each=self.seconds_each, **{f"per_second[{i}]": r for i, r in enumerate(self.per_second)})
        if not self.per_second:
            raise PlanError("Steps(per_second=[]): give at least one rate")

    @cached_property
    def _firsts(self) -> list[int]:
        """The number of the first arrival of each step, and of the one after the last."""
        return [0, *accumulate(math.ceil(rate * self.seconds_each) for rate in self.per_second)]

    def due_ns(self, started: int, finished: int, elapsed_ns: int) -> int | Due:
        del finished, elapsed_ns
        if started >= self._firsts[-1]:
            return Due.ENDED
        step = bisect_right(self._firsts, started) - 1
        within = (started - self._firsts[step]) / self.per_second[step]
        return round((step * self.seconds_each + within) * SECOND)


@dataclass(frozen=True)
class Burst:
    """`count` arrivals at the same instant, `times` over, `every_seconds` apart."""

    count: int
    times: int = 1
    every_seconds: float = 1.0

    def __post_init__(self) -> None:
        _demand(self, count=self.count, times=self.times, every_seconds=self.every_seconds)

    def due_ns(self, started: int, finished: int, elapsed_ns: int) -> int | Due:
        del finished, elapsed_ns
        burst = started // self.count
        return round(burst * self.every_seconds * SECOND) if burst < self.times else Due.ENDED


@dataclass(frozen=True)
class Schedule:
    """Arrivals at given seconds, in order: a recorded hour of traffic, say."""

    at_seconds: Sequence[float]

    def __post_init__(self) -> None:
        if any(b < a for a, b in zip(self.at_seconds, self.at_seconds[1:], strict=False)) or min(self.at_seconds) < 0:
            raise PlanError("Schedule: at_seconds must be in rising order and not negative")

    def due_ns(self, started: int, finished: int, elapsed_ns: int) -> int | Due:
        del finished, elapsed_ns
        return round(self.at_seconds[started] * SECOND) if started < len(self.at_seconds) else Due.ENDED


@dataclass(frozen=True)
class Hold:
    """Keep `at_once` operations in progress for `seconds`: a new one is due when one has finished."""

    at_once: int
    seconds: float

    def __post_init__(self) -> None:
        _demand(self, at_once=self.at_once, seconds=self.seconds)

    def due_ns(self, started: int, finished: int, elapsed_ns: int) -> int | Due:
        if elapsed_ns >= self.seconds * SECOND:
            return Due.ENDED
        return elapsed_ns if started - finished < self.at_once else Due.PENDING
