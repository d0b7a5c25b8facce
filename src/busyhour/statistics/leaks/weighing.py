"""What one look at a trace sees: which shapes could be the truth, and what is left of each in the long run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, log10
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from busyhour.statistics.leaks.fitting import Belief, Fitted, curve, fitted, plausible
from busyhour.statistics.leaks.noise import Noises, noises
from busyhour.statistics.leaks.shapes import (
    Growth,
    coarse_taus,
    design,
    late_only,
    line_only,
    plateaus_only,
    taus_around,
)
from busyhour.statistics.leaks.traces import LEAST_BLOCKS, Blocks, Floats, Readings, blocks, without_load

WITHIN_BIC = 9.0
"""A shape that is worse than the best by more is dropped."""
POWER = 0.9
"""Of the leaks at `Trend.smallest_detectable` at least so many are found."""
_QUARTERS_FROM_HOURS = 4.0
_LATE = ("late plateau", "two plateaus", "late start")


@dataclass(frozen=True, slots=True)
class Slope:
    """Per hour, or per call, in the long run."""

    value: float
    low: float
    high: float

    def times(self, factor: float) -> Slope:
        return Slope(self.value * factor, self.low * factor, self.high * factor)


@dataclass(frozen=True, eq=False)
class Kept:
    """A shape that could be the truth, its own slope, and its curve at `Trend.hours`. `chosen` are its time constants
    and places, in hours; `ends` says that it has no growth that goes on."""

    name: str
    worse_by: float  # BIC above the best
    slope: Slope
    chosen: tuple[float, ...]
    curve: Floats
    ends: bool


@dataclass(frozen=True, slots=True)
class Rates:
    """How often a look may be wrong: in saying LEAK (`hit`), in saying NO LEAK (`clear`)."""

    hit: float
    clear: float


@dataclass(frozen=True, eq=False)
class Weighing:
    """One look: the blocks, the fits that were kept, best first, and what they amount to."""

    blocks: Blocks
    kept: Sequence[Fitted]
    slope: Slope
    hit: str  # why it is a leak; "" if it is none
    odds: float  # the decimal logarithm of the odds that the slope is above the limit
    _noises: Noises
    _middle: float
    _scale: float

    @property
    def best(self) -> Fitted:
        return self.kept[0]

    def error(self, rates: Rates) -> float:
        """The standard error of the slope, should there be one; the doubt about its shape is in it."""
        growing = _slope([fit for fit in self.kept if not fit.shape.ends], rates).times(self._scale)
        return (growing.high - growing.low) / (z(1 - rates.hit) + z(1 - rates.clear))

    def shown(self, rates: Rates) -> list[Kept]:
        """The shapes that were kept, for people."""
        found = []
        for fit in self.kept:
            drawn = curve(fit, self._value, self._noises)
            chosen = tuple(float(one) for one in fit.shape.chosen[fit.best[1]])
            slope = _slope([fit], rates).times(self._scale)
            worse = fit.bic - self.best.bic
            found.append(Kept(fit.shape.name, worse, slope, chosen, self._middle + self._scale * drawn, fit.shape.ends))
        return found

    @property
    def _value(self) -> Floats:
        return (self.blocks.value - self._middle) / self._scale


def weighed(given: Readings, limit: float, rates: Rates, settling_hours: float) -> Weighing | None:
    """All shapes fitted to the readings; None where they make too few blocks."""
    if len(given.hours) < LEAST_BLOCKS:
        return None
    made = blocks(without_load(given))
    if len(made.hours) < LEAST_BLOCKS:
        return None
    middle = float(np.median(made.value))
    scale = float(np.abs(made.value - middle).max()) or 1.0
    value, bound = (made.value - middle) / scale, limit / scale
    fits, under = all_fits(made, value, settling_hours)
    kept = kept_of(fits)
    return Weighing(
        made,
        kept,
        slope=_slope(kept, rates).times(scale),
        hit=_hit(made, value, fits, kept, bound, rates),
        odds=_odds(kept, bound),
        _noises=under,
        _middle=middle,
        _scale=scale,
    )


def all_fits(made: Blocks, value: Floats, settling_hours: float) -> tuple[list[Fitted], Noises]:
    """Three passes: the simple shapes under every noise; all, with finer time constants, under those that count; and
    what begins late once more, around where it fits best."""
    taus = coarse_taus(float(np.ptp(made.hours)), settling_hours)
    every = noises(made.hours, made.weight)
    first = fitted(design(made, taus), value, every)
    under = plausible(first, every)
    model = design(made, np.union1d(taus, _finer(made, value, under, taus, first)), starts=_starts(made, first))
    fits = fitted(model, value, under)
    best = {fit.shape.name: fit for fit in fits}
    for fit in _finer_late(made, value, under, taus, fits):
        if fit.bic < best[fit.shape.name].bic:
            best[fit.shape.name] = fit
    return list(best.values()), under


def _finer_late(made: Blocks, value: Floats, under: Noises, taus: Floats, fits: Sequence[Fitted]) -> list[Fitted]:
    """What begins within the trace, with places and time constants around the best of them, in two rounds."""
    early = float(taus[-1])
    ratio = float(taus[1] / taus[0]) ** 3
    at = made.hours - made.hours[0]
    for _ in range(2):
        best = min((fit for fit in fits if fit.shape.base in _LATE), key=lambda fit: fit.bic)
        *first, start, late = (float(one) for one in best.shape.chosen[best.best[1]])
        early = first[0] if first else early
        place = int(np.searchsorted(at, start - 1e-9))
        near = np.unique(np.clip(place + np.arange(-2, 3), 2, len(at) - 4))
        most = float(taus[-1])
        model = late_only(made, taus_around(early, ratio, most), near, taus_around(late, ratio, most))
        fits = fitted(model, value, under)
        ratio **= 0.25
    return list(fits)


def _starts(made: Blocks, fits: Sequence[Fitted]) -> npt.NDArray[np.intp]:
    """Blocks in which something may have begun: where the shapes with one place in time have theirs, those beside them,
    and one in eight of all."""
    last = len(made.hours) - 4
    at = made.hours - made.hours[0]
    found = [
        int(np.searchsorted(at, fit.shape.chosen[fit.best[1]][0]))
        for fit in fits
        if fit.shape.base in {"step", "late", "capped ramp"}
    ]
    near = np.unique([place + step for place in found for step in (-1, 0, 1)])
    return np.union1d(near[(near >= 2) & (near <= last)], np.arange(3, last, 8))


def _finer(made: Blocks, value: Floats, under: Noises, taus: Floats, fits: Sequence[Fitted]) -> Floats:
    """Time constants around the best ones, in two rounds of finer steps: on a coarse grid the misfit of a warm-up looks
    like a slope."""
    ratio = float(taus[1] / taus[0])
    around = taus
    for _ in range(2):
        best = [float(fit.shape.chosen[fit.best[1]][0]) for fit in fits if fit.shape.base == "plateau"]
        around = np.unique(np.concatenate([taus_around(tau, ratio, float(taus[-1])) for tau in best]))
        fits = fitted(plateaus_only(made, around), value, under)
        ratio **= 0.25
    return around


def kept_of(fits: Sequence[Fitted]) -> list[Fitted]:
    """Those that could be the truth, best first. With each that ends the same with a line is kept: it must not be the
    price of a parameter that rules a leak out."""
    best = min(fit.bic for fit in fits)
    near = {fit.shape.base for fit in fits if fit.bic <= best + WITHIN_BIC and fit.shape.ends}
    kept = [
        fit
        for fit in fits
        if fit.bic <= best + WITHIN_BIC or (fit.shape.growth is Growth.LINE and fit.shape.base in near)
    ]
    return sorted(kept, key=lambda fit: fit.bic)


def _slope(fits: Sequence[Fitted], rates: Rates) -> Slope:
    """The lower end counts what ends as nothing, the upper one as what it still rises by."""
    low = Belief.of(fits, in_the_long_run=True).quantile(rates.hit)
    end = Belief.of(fits)
    high = end.quantile(1 - rates.clear)
    if all(fit.shape.ends for fit in fits):
        return Slope(0.0, 0.0, max(0.0, high))
    best = min(fits, key=lambda fit: fit.bic)
    value = 0.0 if best.shape.ends else Belief.of([best]).quantile(0.5)
    return Slope(value, min(low, value), max(high, value))


def _hit(
    made: Blocks, value: Floats, fits: Sequence[Fitted], kept: Sequence[Fitted], bound: float, rates: Rates
) -> str:
    """A leak: by every shape that could be the truth, and by the last half alone; or by four quarters that all rise."""
    believed = Belief.of(kept, in_the_long_run=True).below(bound) <= rates.hit
    if believed and recent_slope(made.last_half(), value[len(value) // 2 :]) > bound / 2:
        return f"every shape that could be the truth goes on growing, first of them: {kept[0].shape.name}"
    if float(made.hours[-1]) < _QUARTERS_FROM_HOURS or not still_rising(value, bound * float(np.ptp(made.hours))):
        return ""
    lines = [fit for fit in fits if fit.shape.base == "constant" and not fit.shape.ends]
    ending = min(fit.bic for fit in fits if fit.shape.ends)
    going_on = min(fit.bic for fit in fits if not fit.shape.ends)
    if going_on + 2 < ending and Belief.of(lines).below(bound) <= rates.hit:
        return "it rose in each quarter, and no less in the last"
    return ""


def still_rising(value: Floats, limit_over_all: float) -> bool:
    """Whether each quarter's median is above that before by its share of the limit, and the last rise is no less than
    0.6 of the mean of the first two and half of the second: stairs do this, warm-ups and single steps do not."""
    rises = np.diff([float(np.median(part)) for part in np.array_split(value, 4)])
    enough = bool((rises > limit_over_all / 4).all())
    return enough and bool(rises[2] >= max(0.3 * (rises[0] + rises[1]), 0.5 * rises[1]))


def recent_slope(half: Blocks, value: Floats) -> float:
    """The lower end (95 %) of the slope of a line through the last half of the trace."""
    if len(value) < 5:
        return -inf
    return Belief.of(fitted(line_only(half), value, noises(half.hours, half.weight))).quantile(0.05)


def _odds(kept: Sequence[Fitted], bound: float) -> float:
    """Shapes that end count with what they still rise by."""
    belief = Belief.of(kept, in_the_long_run=True)
    return log10(max(belief.above(bound), 1e-300)) - log10(max(belief.below(bound), 1e-300))


def z(p: float) -> float:
    """The quantile of the normal distribution."""
    return NormalDist().inv_cdf(p)
