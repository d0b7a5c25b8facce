"""Whether memory leaks, judged by how it grows: every shape that could be the truth must agree, at every look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from math import inf, isfinite

import numpy as np

from busyhour.statistics.leaks.traces import LEAST_BLOCKS, Floats, Readings, Trace, readings
from busyhour.statistics.leaks.weighing import POWER, Kept, Rates, Slope, Weighing, weighed, z
from busyhour.statistics.wording import number

FIRST_LOOK_HOURS = 2.0
MOST_LOOKS = 24
SETTLING_HOURS = 3.0
_MOST_TIMES_LONGER = 30
_STEP_BETTER_BIC = 6.0


class Finding(StrEnum):
    """What a trace, or a count, says of a leak."""

    LEAK = "LEAK"
    NO_LEAK = "NO LEAK"
    STEP = "STEP"
    RETENTION = "RETENTION"  # `cause` alone says so
    SUSPECT = "SUSPECT"
    INCONCLUSIVE = "INCONCLUSIVE"


@dataclass(frozen=True, slots=True)
class Look:
    """What the readings until then said: whether of a leak, and of the slope (None where they were too few)."""

    at_hours: float
    hit: bool
    slope: Slope | None


@dataclass(frozen=True, eq=False)
class Trend:
    """The finding on one trace, and all that it rests on. Slopes are per hour, in the unit of the trace.

    `hours` and `floor` are the blocks that were judged (of a periodic trace its floor; less what follows the load), and
    `kept` the shapes that could be the truth, best first. `smallest_detectable` is the leak that this trace would have
    shown with a probability of 0.9 at least; `needed_hours` the length of a run that decides at this limit; None where
    nothing can be said. `odds` is the decimal logarithm of the odds that the slope is above the limit: it ranks traces.
    """

    finding: Finding
    because: str
    limit_per_hour: float
    slope: Slope | None = None
    per_call: Slope | None = None
    smallest_detectable: float | None = None
    smallest_detectable_per_call: float | None = None
    needed_hours: float | None = None
    period_hours: float = 0.0
    hours: Floats | None = None
    floor: Floats | None = None
    kept: Sequence[Kept] = ()
    looks: Sequence[Look] = ()
    odds: float = -inf

    @property
    def alarm_hours(self) -> float | None:
        """When it could have been said that it leaks: at the second hit in a row, or at a hit at the end."""
        for before, look in zip([None, *self.looks], self.looks, strict=False):
            if look.hit and (look is self.looks[-1] or (before is not None and before.hit)):
                return look.at_hours
        return None


def judge_trend(
    trace: Trace,
    *,
    limit_per_hour: float,
    alpha: float = 0.01,
    looks: Sequence[float] | None = None,
    settling_hours: float = SETTLING_HOURS,
) -> Trend:
    """Whether the trace grows in the long run by more than `limit_per_hour`.

    It is meant that at most `alpha` of the traces that do not are called LEAK, over all looks together, and at most
    `alpha` of those that do NO LEAK. `looks` are hours after the first reading: by default every hour from the second
    on; the end is always one. A warm-up may have a time constant of up to `settling_hours`; a slower one is not told
    from a leak.
    """
    given = readings(trace)
    if why := _unusable(given, limit_per_hour, alpha, settling_hours):
        return Trend(Finding.INCONCLUSIVE, why, limit_per_hour)
    if not np.ptp(given.value):
        return _constant(given, limit_per_hour)
    at = look_hours(given.span, looks)
    rates = look_rates(len(at), alpha)
    seen = [
        weighed(given.until(hours), limit_per_hour, rate, settling_hours) for hours, rate in zip(at, rates, strict=True)
    ]
    told = [
        Look(hours, _is_hit(one, hours, at[-1], settling_hours), None if one is None else one.slope)
        for hours, one in zip(at, seen, strict=True)
    ]
    last = seen[-1]
    if last is None:
        why = f"the readings make fewer than {LEAST_BLOCKS} blocks: a longer run is needed, or more readings"
        return Trend(Finding.INCONCLUSIVE, why, limit_per_hour, looks=told)
    return _Judged(last, told, rates[-1], limit_per_hour, settling_hours).trend


def look_hours(span: float, asked: Sequence[float] | None = None) -> list[float]:
    """The hours of the looks, in order; the end is the last. At most 24."""
    if asked is None:
        every = max(1.0, span / MOST_LOOKS)
        asked = [FIRST_LOOK_HOURS + every * i for i in range(MOST_LOOKS)]
    earlier = sorted({float(hours) for hours in asked if 0 < hours < 0.98 * span})
    return [*earlier[: MOST_LOOKS - 1], span]


def look_rates(looks: int, alpha: float) -> list[Rates]:
    """The share of alpha that each look may spend on a wrong LEAK: half of it at the end, where one hit suffices.

    Before the end a LEAK takes two hits in a row. The first of a pair spends nothing that the pair does not, so the
    other half is split over the pairs: looks 2 to the one before the last.
    """
    if looks == 1:
        return [Rates(alpha, alpha)]
    pairs = max(1, looks - 2)
    return [*[Rates(alpha / 2 / pairs, alpha)] * (looks - 1), Rates(alpha / 2, alpha)]


def _is_hit(seen: Weighing | None, hours: float, end: float, settling_hours: float) -> bool:
    """Before the end what is younger than a warm-up may be is none: a pool that fills evenly is a line until it is
    full, and waiting costs nothing."""
    return seen is not None and bool(seen.hit) and (hours == end or hours >= settling_hours)


def _unusable(given: Readings, limit: float, alpha: float, settling_hours: float) -> str:
    if not isfinite(limit):
        return f"the limit is {limit}, which is no number to compare with"
    if not 0 < alpha < 0.5:
        return f"alpha is an error rate and lies between 0 and 0.5, not at {alpha:g}"
    if not 0 < settling_hours < inf:
        return f"a warm-up cannot take {settling_hours:g} hours"
    if len(given.hours) < LEAST_BLOCKS:
        return f"there are {len(given.hours)} usable readings, at least {LEAST_BLOCKS} are needed"
    return ""


def _constant(given: Readings, limit: float) -> Trend:
    finding = Finding.NO_LEAK if limit >= 0 else Finding.LEAK
    slope = Slope(0.0, 0.0, 0.0)
    return Trend(finding, "it never changed", limit, slope=slope, hours=given.hours, floor=given.value)


@dataclass(frozen=True, eq=False)
class _Judged:
    """The last look, and what it means after those before it."""

    last: Weighing
    looks: Sequence[Look]
    rates: Rates
    limit: float
    settling_hours: float

    @property
    def trend(self) -> Trend:
        finding, because = self._finding()
        calls = self._calls_per_hour()
        smallest = self.limit + self.last.error(self.rates) * self._reach
        decided = finding in {Finding.LEAK, Finding.NO_LEAK, Finding.STEP}
        return Trend(
            finding,
            because,
            self.limit,
            slope=self.last.slope,
            per_call=None if calls is None else self.last.slope.times(1 / calls),
            smallest_detectable=smallest,
            smallest_detectable_per_call=None if calls is None else smallest / calls,
            needed_hours=None if decided else self._needed_hours(),
            period_hours=self.last.blocks.period,
            hours=self.last.blocks.hours,
            floor=self.last.blocks.value,
            kept=self.shown,
            looks=self.looks,
            odds=self.last.odds,
        )

    @cached_property
    def shown(self) -> list[Kept]:
        return self.last.shown(self.rates)

    @property
    def _reach(self) -> float:
        return z(1 - self.rates.hit) + z(POWER)

    def _finding(self) -> tuple[Finding, str]:
        if self.last.hit:
            return Finding.LEAK, self.last.hit
        if self.last.slope.high <= self.limit:
            if rises := self._material_steps():
                told = " and by ".join(map(number, rises))
                if len(rises) > 1:
                    return Finding.INCONCLUSIVE, f"it rose at once by {told}: whether it does so again is not known"
                return Finding.STEP, f"it rose by {told} at once and does not go on growing"
            best = self.last.best.shape.name
            return Finding.NO_LEAK, f"no shape that could be the truth grows beyond the limit, first of them: {best}"
        ending = [fit.shape.name for fit in self.last.kept if fit.shape.ends]
        why = f"growth that ends explains it as well: {ending[0]}" if ending else "the interval holds the limit"
        if ending and self.looks[-1].at_hours < self.settling_hours:
            why += f"; a warm-up may have a time constant of {number(self.settling_hours)} h, longer than the run"
        if any(look.hit for look in self.looks[-2:]):
            return Finding.SUSPECT, f"the look before the last spoke of a leak, but {why}"
        return Finding.INCONCLUSIVE, why

    def _material_steps(self) -> list[float]:
        """How high the best shape with a step rises at it, if no smooth one comes near, and if so much once in each
        such run would be beyond the limit; of two steps both, if half of it is in either: what came twice may come
        again. A plateau that begins late may be as steep as a step."""
        stepped = next((i for i, fit in enumerate(self.last.kept) if "step" in fit.shape.base), None)
        if stepped is None:
            return []
        near = self.last.kept[stepped].bic + _STEP_BETTER_BIC
        late = {"late plateau", "two plateaus", "late start"}
        if any(
            fit.bic < near and "step" not in fit.shape.base and fit.shape.base not in late for fit in self.last.kept
        ):
            return []
        rises = np.diff(self.shown[stepped].curve)
        allowed = max(0.0, self.limit) * float(np.ptp(self.last.blocks.hours))
        if self.last.kept[stepped].shape.base == "two steps" and len(both := rises[rises > allowed / 2]) > 1:
            return [float(rise) for rise in both]
        return [float(rises.max())] if rises.max() > allowed else []

    def _calls_per_hour(self) -> float | None:
        done = self.last.blocks.completed
        if done is None or not np.ptp(done):
            return None
        return float(np.ptp(done)) / float(np.ptp(self.last.blocks.hours))

    def _needed_hours(self) -> float | None:
        """The error of a slope falls with the length to the power of 1.5. None for a slope that is at the limit, which
        no run decides."""
        hours = self.looks[-1].at_hours
        growing = next(fit for fit in self.last.kept if not fit.shape.ends)
        slope = next(one for one in self.shown if one.name == growing.shape.name).slope.value
        excess = abs(slope - self.limit)
        longer = (self.last.error(self.rates) * self._reach / excess) ** (2 / 3) if excess > 0 else inf
        return None if longer > _MOST_TIMES_LONGER else max(1.25 * hours, longer * hours, self.settling_hours)
