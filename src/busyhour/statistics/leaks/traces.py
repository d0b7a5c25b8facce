"""From raw readings to the few numbers that a trend is judged by: cleaned, without what follows the load, in blocks.

Of a collector's sawtooth only the floor says what is live, so a periodic trace is reduced to the floor of blocks that
each hold a whole period; any other to medians, which spikes do not move.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import sqrt
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float64]

MINUTE = 1 / 60
"""Of an hour: the unit of time in here."""
LEAST_BLOCKS = 10
_FLOOR = 0.05
_LAGS = (0.0, 3 * MINUTE, 10 * MINUTE, 30 * MINUTE)
_MOST_READINGS = 4096
_MOST_POINTS = 8192


@dataclass(frozen=True, eq=False)
class Trace:
    """Readings of one sensor, of one process without a restart in between, in any order and at any times.

    `load` is what the memory may rightly follow (calls in progress), `completed` the calls completed so far; both are
    read at the times of `value`. Readings that are not finite count as missing. Raises ValueError on unequal lengths.
    """

    at_seconds: Sequence[float] | Floats
    value: Sequence[float] | Floats
    load: Sequence[float] | Floats | None = None
    completed: Sequence[float] | Floats | None = None

    def __post_init__(self) -> None:
        for name in ("value", "load", "completed"):
            column = getattr(self, name)
            if column is not None and len(column) != len(self.at_seconds):
                raise ValueError(f"a trace has {len(self.at_seconds)} times but {len(column)} of {name}")


@dataclass(frozen=True, eq=False)
class Readings:
    """A trace that is clean: times in hours since its first reading, in order, each once; every number finite."""

    hours: Floats
    value: Floats
    load: Floats | None
    completed: Floats | None

    @property
    def span(self) -> float:
        return float(self.hours[-1]) if len(self.hours) else 0.0

    @property
    def every(self) -> float:
        """The usual time from one reading to the next, in hours."""
        return float(np.median(np.diff(self.hours))) if len(self.hours) > 1 else 0.0

    def until(self, hours: float) -> Readings:
        k = int(np.searchsorted(self.hours, hours + 1e-9, side="right"))
        load, completed = (None if x is None else x[:k] for x in (self.load, self.completed))
        return Readings(self.hours[:k], self.value[:k], load, completed)


@dataclass(frozen=True, eq=False)
class Blocks:
    """One number for each stretch of time. `high_water` is the greatest load so far, `period` is 0 where there is none;
    `width` is how far apart they are, `weight` is below 1 for a block that stands out from its neighbours."""

    hours: Floats
    value: Floats
    load: Floats | None
    high_water: Floats | None
    completed: Floats | None
    weight: Floats
    period: float
    width: float

    def last_half(self) -> Blocks:
        k = len(self.hours) // 2
        load, high, done = (None if x is None else x[k:] for x in (self.load, self.high_water, self.completed))
        return replace(
            self,
            hours=self.hours[k:],
            value=self.value[k:],
            load=load,
            high_water=high,
            completed=done,
            weight=self.weight[k:],
        )


def readings(trace: Trace) -> Readings:
    """The trace in order of time, without what is not finite; of several readings at one instant the last."""
    at = np.asarray(trace.at_seconds, dtype=np.float64)
    value = np.asarray(trace.value, dtype=np.float64)
    usable = np.flatnonzero(np.isfinite(at) & np.isfinite(value) & (np.abs(value) < 1e100) & (np.abs(at) < 1e12))
    order = usable[np.argsort(at[usable], kind="stable")]
    order = order[np.append(np.diff(at[order]) > 0, True)] if len(order) else order
    hours = (at[order] - (at[order[0]] if len(order) else 0.0)) / 3600
    load = _filled(hours, trace.load, order)
    completed = _filled(hours, trace.completed, order)
    done = None if completed is None else np.maximum.accumulate(completed)
    return _thinned(Readings(hours, value[order], load, done))


def _thinned(given: Readings) -> Readings:
    """Means of neighbours where there are more readings than the fastest period that matters needs."""
    if len(given.hours) <= _MOST_READINGS:
        return given
    bins = np.floor(given.hours / given.span * _MOST_READINGS)
    starts = np.flatnonzero(np.diff(bins, prepend=-1.0))
    counts = np.diff(starts, append=len(bins))
    hours, value, load, done = (
        None if column is None else np.add.reduceat(column, starts) / counts
        for column in (given.hours, given.value, given.load, given.completed)
    )
    assert hours is not None
    assert value is not None
    return Readings(hours - hours[0], value, load, done)


def _filled(hours: Floats, column: Sequence[float] | Floats | None, order: npt.NDArray[np.intp]) -> Floats | None:
    """What accompanies the value, its missing readings put between their neighbours; None where there is none."""
    if column is None:
        return None
    picked = np.asarray(column, dtype=np.float64)[order]
    known = np.isfinite(picked)
    if not known.any():
        return None
    return np.interp(hours, hours[known], picked[known])


# ---------------------------------------------------------------- what follows the load


def without_load(given: Readings) -> Readings:
    """The value less the part that follows the load.

    How much memory goes with one call in progress is learned from movements faster than an hour alone, and robustly:
    a trend has none of those, so it cannot be explained away by a load that happens to rise with it. Memory may follow
    the load a little later; the delay that explains most is taken.
    """
    if given.load is None or len(given.hours) < 4 * LEAST_BLOCKS or not np.ptp(given.load):
        return given
    window = _odd(min(1.0, given.span / 4) / given.every)
    value = _fast(given.value, window)
    best: tuple[float, Floats] | None = None
    for lag in _LAGS:
        followed = _delayed(given.hours, given.load, lag)
        share, coefficient = _following(_fast(followed, window), value)
        if coefficient > 0 and (best is None or share > best[0]):
            best = share, coefficient * followed
    return given if best is None else replace(given, value=given.value - best[1])


def _following(load: Floats, value: Floats) -> tuple[float, float]:
    """How much of the value's fast movement the load explains, and the coefficient; 0 where it may well be chance."""
    weight, coefficient, rest = np.ones_like(load), 0.0, value
    for _ in range(5):
        power = float((weight * load * load).sum())
        if power <= 0:
            return 0.0, 0.0
        coefficient = float((weight * load * value).sum()) / power
        rest = value - coefficient * load
        bulk = 2 * _spread(rest)
        weight = bulk / np.maximum(np.abs(rest), bulk) if bulk else np.ones_like(load)
    alike = float(np.clip(_lag_one(load) * _lag_one(rest), 0.0, 0.99))
    error = sqrt(float((weight * rest * rest).sum()) / power / len(load) * (1 + alike) / (1 - alike))
    before = float((weight * value * value).sum())
    share = 1 - float((weight * rest * rest).sum()) / before if before > 0 else 0.0
    return (share, coefficient) if coefficient > 4 * error * sqrt(len(load) / max(1.0, float(weight.sum()))) else (0, 0)


def _delayed(hours: Floats, load: Floats, lag: float) -> Floats:
    """The load as something sees it that forgets with a time constant of `lag`."""
    if not lag:
        return load
    seen = np.empty_like(load)
    level = float(load[0])
    keep = np.exp(-np.diff(hours, prepend=hours[0]) / lag)
    for i in range(len(load)):
        level = keep[i] * level + (1 - keep[i]) * load[i]
        seen[i] = level
    return seen


def _fast(x: Floats, window: int) -> Floats:
    """What is left when a moving mean over so many readings is taken away."""
    half = window // 2
    total = np.cumsum(np.concatenate([[0.0], np.pad(x, half, mode="edge")]))
    return np.asarray(x - (total[window:] - total[:-window]) / window, dtype=np.float64)


def _odd(count: float) -> int:
    return 2 * int(max(2.0, count) // 2) + 1


def _spread(x: Floats) -> float:
    """The standard deviation of the bulk of x."""
    return 1.4826 * float(np.median(np.abs(x - np.median(x))))


def _lag_one(x: Floats) -> float:
    x = x - x.mean()
    power = float((x * x).sum())
    return float((x[1:] * x[:-1]).sum()) / power if power > 0 else 0.0


# ---------------------------------------------------------------- period and blocks


def longest_period(given: Readings) -> float:
    """The period in hours, of the whole trace or of either half if theirs is longer; 0 where none stands out.

    A collector that runs ever more rarely has short periods first: blocks made for those would miss the later floors.
    """
    if len(given.hours) < 4 * LEAST_BLOCKS:
        return 0.0
    step = max(given.every, given.span / _MOST_POINTS)
    grid = np.arange(0.0, given.span, step)
    value = np.interp(grid, given.hours, given.value)
    half = len(value) // 2
    return step * max(_period(value), _period(value[:half]), _period(value[half:]))


def _period(value: Floats) -> int:
    """In readings, from the autocorrelation of the detrended values: its greatest peak beyond the first zero.

    A peak counts when it is above 0.25 and three times what chance gives values that are as alike as these (Bartlett
    1946): the autocorrelation of slow noise has hills of its own.
    """
    n = len(value)
    moving = _fast(value, _odd(n / 3))
    spectrum = np.fft.rfft(moving - moving.mean(), 2 * n)
    alike = np.fft.irfft(np.abs(spectrum) ** 2)[: n // 3]
    if len(alike) < 4 or alike[0] <= 0:
        return 0
    alike = alike / alike[0]
    below = np.flatnonzero(alike < 0)
    if not len(below) or below[0] >= len(alike) - 1:
        return 0
    zero = int(below[0])
    hills = alike[zero:]
    if hills.max() <= 0.25:
        return 0
    high = hills >= 0.8 * hills.max()
    rising = np.diff(hills, prepend=-np.inf) >= 0
    falling = np.diff(hills, append=-np.inf) <= 0
    peak = zero + int(np.flatnonzero(high & rising & falling)[0])  # of multiples that are as good the first
    chance = sqrt((1 + 2 * float((alike[1:zero] ** 2).sum())) / n)
    return peak if peak > 2 and alike[peak] > 3 * chance else 0


def blocks(given: Readings, *, most: int = 64) -> Blocks:
    """At most `most` blocks of at least five minutes (less in a run of under four hours) and 1.3 periods each.

    They are laid from the end, so that the last is whole; one with under a third of its readings (a machine that
    slept) is left out. Where so long a period leaves fewer than sixteen, they overlap by up to two thirds.
    """
    period = longest_period(given)
    least = max(min(5 * MINUTE, given.span / 48), given.span / most, given.every)
    width = max(least, 1.3 * period)
    apart = max(least, width / 3, min(width, (given.span - width) / 15))
    ends = given.span - apart * np.arange(int((given.span - width) / apart + 1e-6) + 1)[::-1]
    after = np.searchsorted(given.hours, ends + 1e-9, side="right")
    before = np.searchsorted(given.hours, ends - width + 1e-9, side="right")
    enough = np.flatnonzero((after - before) * 3 >= max(1.0, width / max(given.every, 1e-12)))
    picked = [slice(int(before[i]), int(after[i])) for i in enough]
    share = _FLOOR if period else 0.5
    value = np.array([_quantile(given.value[one], share) for one in picked])
    high = None if given.load is None else np.maximum.accumulate(given.load)
    return Blocks(
        hours=_means(given.hours, picked),
        value=value,
        load=None if given.load is None else _means(given.load, picked),
        high_water=None if high is None else _means(high, picked),
        completed=None if given.completed is None else _means(given.completed, picked),
        weight=_huber(value),
        period=period,
        width=apart,
    )


def _quantile(values: Floats, share: float) -> float:
    """As numpy's, which takes ten times as long for so few."""
    ordered = np.sort(values)
    whole, part = divmod(share * (len(ordered) - 1), 1)
    low = int(whole)
    return float(ordered[low] + part * (ordered[min(low + 1, len(ordered) - 1)] - ordered[low]))


def _means(column: Floats, picked: Sequence[slice]) -> Floats:
    return np.array([column[one].mean() for one in picked])


def _huber(value: Floats) -> Floats:
    """Weights for blocks that stand out from the median of their five neighbours by more than twice the usual."""
    if len(value) < LEAST_BLOCKS:
        return np.ones(len(value))
    around = np.median(np.lib.stride_tricks.sliding_window_view(np.pad(value, 2, mode="edge"), 5), axis=1)
    off = np.abs(value - around)
    usual = 1.4826 * float(np.median(off[off > 0])) if (off > 0).any() else 0.0
    return 2.5 * usual / np.maximum(off, 2.5 * usual) if usual else np.ones(len(value))
