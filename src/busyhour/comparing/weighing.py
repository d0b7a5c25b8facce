"""The verdict on each metric of two builds: its shift from A to B against what is borne, and the sentence that says so.

    REGRESSION    B is worse by more than the tolerance: the interval's lower end is beyond it, for the worse
    EQUIVALENT    the interval lies within the tolerance, either way
    IMPROVEMENT   B is better by more than the tolerance
    NO WORSE      B is not worse by more than the tolerance; whether it is better is open
    INCONCLUSIVE  none of these is shown

Each end of an interval is wrong with a probability of at most alpha. REGRESSION and IMPROVEMENT are told of metrics
that were picked out of many for being so, hence corrected by Holm: that any is told without cause has at most that
chance. EQUIVALENT and NO WORSE need no correction: that they are told of all metrics is no likelier than that they are
told of the one that got worse (docs/decisions/0018).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from math import ceil, expm1, inf, isfinite, isinf, log, log1p
from statistics import median

from busyhour.comparing.metrics import DEATHS, EITHER, LARGER, POINTS, Limit, Metric, Tolerance, limit_of
from busyhour.comparing.reading import Reading
from busyhour.model import Estimate
from busyhour.statistics.shift import LEAST_RUNS, MOST_RUNS, Shift, holm, runs_needed, smallest_p, within_runs
from busyhour.statistics.wording import number, with_unit

ALPHA = 0.05
_ROUNDING = 1e-9
"""Of a tolerance: log(220) - log(200) is a little more than log(1.1)."""


class Word(StrEnum):
    """In the order of badness; all metrics together come to the last that occurs."""

    EQUIVALENT = "equivalent"
    IMPROVEMENT = "improvement"
    NO_WORSE = "no worse"
    INCONCLUSIVE = "inconclusive"
    REGRESSION = "regression"


EXIT_CODE = {Word.REGRESSION: 1, Word.INCONCLUSIVE: 2, Word.NO_WORSE: 0, Word.IMPROVEMENT: 0, Word.EQUIVALENT: 0}
_BADNESS = list(Word)


@dataclass(frozen=True)
class Scale:
    """How two runs are set against each other: by their difference, or, where a share of A is borne, by their ratio.

    At the edge of a tolerance of 10 % the runs of B are those of A, each a tenth more: in logarithms this is a shift,
    and the exact test is exact. (A difference against a tenth of A's median would not be: that median is a guess.)
    Readings that are not all above 0 have no ratio: there the tenth is of A's median after all.
    """

    metric: Metric
    tolerance: float  # as it is told
    is_ratio: bool = False

    @classmethod
    def of(cls, metric: Metric, limit: Limit, before: Sequence[float], after: Sequence[float]) -> Scale:
        if not limit.is_share:
            return cls(metric, limit.value)
        ratio = cls(metric, 100 * limit.value, is_ratio=True)
        return ratio if all(value > 0 for value in (*before, *after)) else ratio.of_difference(before)

    def of_difference(self, before: Sequence[float]) -> Scale:
        """The same with the share of the median of `before` in the place of a ratio."""
        if not self.is_ratio:
            return self
        usual = median(before) if before else 0.0
        return Scale(self.metric, self.tolerance / 100 * abs(usual) if isfinite(usual) else 0.0)

    @property
    def unit(self) -> str:
        return "%" if self.is_ratio else POINTS if self.metric.unit == "%" else self.metric.unit

    def shift(self, before: Sequence[float], after: Sequence[float]) -> Shift:
        if self.is_ratio:
            return Shift([log(value) for value in before], [log(value) for value in after])
        return Shift(before, after)

    @property
    def bounds(self) -> tuple[float, float]:
        """Of the shift, downwards and upwards; a little wider, so that what is at the tolerance is within it."""
        wider = 1 + _ROUNDING
        if not self.is_ratio:
            return -self.tolerance * wider, self.tolerance * wider
        down = log1p(-self.tolerance / 100) * wider if self.tolerance < 100 else -inf
        return down, log1p(self.tolerance / 100) * wider

    def shown(self, shift: float) -> float:
        """In `unit`."""
        return 100 * expm1(shift) if self.is_ratio and isfinite(shift) else shift

    def told(self) -> str:
        return with_unit(number(self.tolerance), self.unit)


@dataclass(frozen=True)
class Row:
    """What was found of one metric. The shift is from A to B, in `scale.unit`, as are its interval and the tolerance;
    None where there is none. `p` is the chance of such a shift without a regression, as it counts among all metrics.
    `of_calls`: the interval knows of the calls within two runs only."""

    metric: Metric
    word: Word
    because: str  # the whole sentence
    runs: tuple[int, int]
    usual: tuple[float | None, float | None]  # the medians of the runs
    scale: Scale
    shift: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    of_calls: bool = False


def worst(words: Sequence[Word]) -> Word:
    """What all metrics come to; of none, nothing is shown."""
    return max(words, key=_BADNESS.index) if words else Word.INCONCLUSIVE


def weighed(
    metrics: Sequence[Metric],
    sides: tuple[Sequence[Reading], Sequence[Reading]],
    tolerances: Sequence[Tolerance],
    alpha: float = ALPHA,
) -> list[Row]:
    """A row for each metric, and one for the target's deaths if there were any. Each side needs a run that counts."""
    counted = [metric for metric in metrics if metric != DEATHS]
    if any(reading.died for side in sides for reading in side):
        counted.insert(0, DEATHS)
    pairs = [_Pair.of(metric, sides, tolerances) for metric in counted]
    tested = [pair for pair in pairs if pair.enough]
    worse = dict(zip(map(id, tested), holm([pair.p_worse for pair in tested]), strict=True))
    better = dict(zip(map(id, tested), holm([pair.p_better for pair in tested]), strict=True))
    return [
        _weighed(pair, worse[id(pair)], better[id(pair)], len(tested), alpha) if pair.enough else _untested(pair, alpha)
        for pair in pairs
    ]


# ---------------------------------------------------------------- one metric


@dataclass(frozen=True)
class _Pair:
    """The values of one metric in the runs of either side."""

    metric: Metric
    before: tuple[Estimate, ...]
    after: tuple[Estimate, ...]
    scale: Scale

    @classmethod
    def of(
        cls, metric: Metric, sides: tuple[Sequence[Reading], Sequence[Reading]], tolerances: Sequence[Tolerance]
    ) -> _Pair:
        before, after = (
            tuple(
                one for reading in side if (one := reading.estimates.get(metric)) is not None and one.value is not None
            )
            for side in sides
        )
        scale = Scale.of(metric, limit_of(metric, tolerances), _values(before), _values(after))
        return cls(metric, before, after, scale)

    @property
    def runs(self) -> tuple[int, int]:
        return len(self.before), len(self.after)

    @property
    def enough(self) -> bool:
        return min(self.runs) >= LEAST_RUNS

    @cached_property
    def shift(self) -> Shift:
        return self.scale.shift(_values(self.before), _values(self.after))

    @cached_property
    def usual(self) -> tuple[float | None, float | None]:
        before, after = (median(_values(side)) if side else None for side in (self.before, self.after))
        return before, after

    @cached_property
    def chances(self) -> tuple[float, float]:
        """Of a shift like this where it is not below the lower bound, and where it is not above the upper."""
        down, up = self.scale.bounds
        return self.shift.p_below(down), self.shift.p_above(up)

    @property
    def p_worse(self) -> float:
        if self.metric.worse == EITHER:
            return min(1.0, 2 * min(self.chances))
        return self.chances[self.metric.worse == LARGER]

    @property
    def p_better(self) -> float:
        return 1.0 if self.metric.worse == EITHER else self.chances[self.metric.worse != LARGER]

    def found(self, alpha: float) -> tuple[float | None, float, float]:
        """The shift and its interval, as they are told."""
        value, shown = self.shift.value, self.scale.shown
        return None if value is None else shown(value), shown(self.shift.low(alpha)), shown(self.shift.high(alpha))

    def sides_told(self) -> str:
        """ "612 ms in A, 702 ms in B" """
        if self.metric == DEATHS:
            told = zip((self.before, self.after), "AB", strict=True)
            return ", ".join(f"in {sum(map(bool, _values(side)))} of {len(side)} runs of {name}" for side, name in told)
        return ", ".join(
            f"{'none' if value is None else _with_unit(value, self.metric.unit)} in {name}"
            for name, value in zip("AB", self.usual, strict=True)
        )


def _values(estimates: Sequence[Estimate]) -> tuple[float, ...]:
    return tuple(one.value for one in estimates if one.value is not None)


def _with_unit(value: float, unit: str) -> str:
    return number(value, unit) if isinf(value) else with_unit(number(value, unit), unit)


def _weighed(pair: _Pair, p_worse: float, p_better: float, tested: int, alpha: float) -> Row:
    word = _word(pair, alpha, worse=p_worse <= alpha, better=p_better <= alpha)
    told = pair.scale.told()
    clause = {
        Word.REGRESSION: f"worse by more than {told}",
        Word.EQUIVALENT: f"within {told} either way",
        Word.IMPROVEMENT: f"better by more than {told}",
        Word.NO_WORSE: f"not worse by more than {told}",
        Word.INCONCLUSIVE: f"not shown to be within {told}",
    }[word]
    if word is Word.INCONCLUSIVE:
        clause += f": {_missing(pair, tested, alpha)}"
    many = f" among {tested} metrics" if tested > 1 else ""
    chance = f", p {_p(p_worse)}{many}" if word is Word.REGRESSION else ""
    shift, low, high = pair.found(alpha)
    sentence = f"{pair.metric.what}: {pair.sides_told()}, {_shifted(pair.scale, shift, low, high)}, {clause}"
    because = f"{sentence} ({pair.runs[0]} v {pair.runs[1]} runs{chance})"
    return Row(pair.metric, word, because, pair.runs, pair.usual, pair.scale, shift, low, high, p_worse)


def _word(pair: _Pair, alpha: float, *, worse: bool, better: bool) -> Word:
    low, high = pair.shift.low(alpha), pair.shift.high(alpha)
    down, up = pair.scale.bounds
    if worse:
        return Word.REGRESSION
    if down <= low and high <= up:
        return Word.EQUIVALENT
    if better:
        return Word.IMPROVEMENT
    if pair.metric.worse != EITHER and (high <= up if pair.metric.worse == LARGER else down <= low):
        return Word.NO_WORSE
    return Word.INCONCLUSIVE


def _missing(pair: _Pair, tested: int, alpha: float) -> str:
    """What it would take to tell."""
    reach = smallest_p(*pair.runs)
    if pair.p_worse <= alpha:
        if reach * tested <= alpha:
            return f"alone it would be a regression, but of {tested} metrics one may be by chance; more runs would tell"
        needed = runs_needed(alpha / tested)
        return (
            f"alone it would be a regression, but {pair.runs[0]} v {pair.runs[1]} runs can reach p {_p(reach)} at "
            f"best, and among {tested} metrics it takes {_p(alpha / tested)}: {needed} v {needed} runs, or fewer "
            "metrics (--only)"
        )
    shift, low, high = pair.found(alpha)
    if not (isfinite(low) and isfinite(high)):
        return "what never came in runs of both has no difference; gate a lower percentile, or the share that came"
    return _more(pair, shift or 0.0, high - low)


def _more(pair: _Pair, shift: float, width: float) -> str:
    """By the width of the interval, which shrinks with the root of the runs."""
    tolerance, runs = pair.scale.tolerance, min(pair.runs)
    if tolerance == 0 and pair.metric != DEATHS:
        unit = f" in {pair.scale.unit}" if pair.scale.unit else ""
        return f"the tolerance is 0, to which only runs keep that do not differ at all; give a --tolerance{unit}"
    room = abs(abs(shift) - tolerance)
    wider = max(1.0, min(width / 2 / room, MOST_RUNS)) if room else MOST_RUNS
    needed = ceil(runs * wider**2) + 1
    if needed > MOST_RUNS:
        return f"its shift is so near the tolerance that more than {MOST_RUNS} runs a side would have to tell"
    return f"about {needed} runs a side would tell"


# ---------------------------------------------------------------- too few runs


def _untested(pair: _Pair, alpha: float) -> Row:
    """Fewer runs than it takes are INCONCLUSIVE, whatever they look like: how much runs differ is not known of them."""
    m, n = pair.runs
    if m == 0 or n == 0:
        nowhere = "on either side" if m == n else f"in {'A' if m == 0 else 'B'}"
        because = f"{pair.metric.what}: not measured {nowhere}"
        return Row(pair.metric, Word.INCONCLUSIVE, because, pair.runs, pair.usual, pair.scale)
    scale, of_calls = pair.scale, m == n == 1
    if of_calls:
        scale = scale.of_difference(_values(pair.before))
        shift = scale.shift(_values(pair.before), _values(pair.after)).value
        found = (shift, *within_runs(pair.before[0], pair.after[0]))
    else:
        found = pair.found(alpha)
    told = _shifted(scale, *found, by_calls=of_calls)
    few = "" if of_calls else f"; {m} v {n} runs can reach p {_p(smallest_p(m, n))} at best, make {LEAST_RUNS} a side"
    because = f"{pair.metric.what}: {pair.sides_told()}, {told}{few}"
    return Row(pair.metric, Word.INCONCLUSIVE, because, pair.runs, pair.usual, scale, *found, p=None, of_calls=of_calls)


# ---------------------------------------------------------------- wording


def _shifted(scale: Scale, shift: float | None, low: float, high: float, *, by_calls: bool = False) -> str:
    """ "+15 % (+8 to +22)": the shift with its interval."""
    edges = (-scale.tolerance, scale.tolerance)
    told = "an unknown shift" if shift is None else _signed(shift, edges)
    value = told if shift is None or isinf(shift) else with_unit(told, scale.unit)
    if by_calls:
        interval = "counted in full" if low == high else f"{_interval(low, high, edges)} by calls alone"
        return f"{value} ({interval}, one run a side)"
    return value if low == high else f"{value} ({_interval(low, high, edges)})"


def _signed(value: float, edges: Sequence[float]) -> str:
    """On its side of the tolerance, but for what is at it and differs by the rounding of logarithms."""
    near = min(edges, key=lambda edge: abs(value - edge))
    apart_from = () if abs(value - near) <= _ROUNDING * max(1.0, abs(near)) else edges
    return f"{'+' if value > 0 else ''}{number(value, apart_from=apart_from)}"


def _interval(low: float, high: float, edges: Sequence[float]) -> str:
    if low == -inf and high == inf:
        return "no interval"
    if low == -inf or high == inf:
        return f"up to {_signed(high, edges)}" if low == -inf else f"{_signed(low, edges)} or more"
    return f"{_signed(low, edges)} to {_signed(high, edges)}"


def _p(p: float) -> str:
    """Two digits, and no zero before the point."""
    return f"{p:.2g}".removeprefix("0") if p >= 1e-4 else f"{p:.0e}"


def summary(rows: Sequence[Row]) -> str:
    """ "REGRESSION (1 regression, 3 equivalent)" """
    counts: Mapping[Word, int] = {word: sum(row.word is word for row in rows) for word in reversed(Word)}
    told = ", ".join(f"{count} {word.value}" for word, count in counts.items() if count)
    return f"{worst([row.word for row in rows]).value.upper()}{f' ({told})' if told else ''}"
