"""By how much the runs of one build differ from those of another: a shift, with its exact interval.

A run is one reading here (its own percentile, its own rate): what differs from run to run is in it, what only differs
from call to call has been summed up. The shift is the median of all differences between a run of the one and a run of
the other (Hodges and Lehmann, Annals of Mathematical Statistics 34, 1963); its interval are the shifts that the test of
Mann and Whitney (ibid. 18, 1947) does not reject, by the exact distribution: nothing is asked of the shape of the
readings but that it be the same on either side. Where readings are equal, each doubt counts against what is claimed, so
that the error rates hold for rounded and for counted readings too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import comb, inf, isinf, isnan, sqrt

from busyhour.model import Estimate

LEAST_RUNS = 5
"""A side. With four, the exact test cannot go below .014 (.029 of both sides): one metric could just be decided."""
MOST_RUNS = 100
_SLACK = 1e-12


@dataclass(frozen=True, slots=True)
class Shift:
    """What is added to `before` to make `after`: a value for each run, infinite where what was awaited never came.

    The difference of two infinite readings is not known: it counts as the least where a shift is to be shown to be
    large, and as the greatest where it is to be shown to be small. Raises ValueError for no readings, or one that is no
    number, or more than 100.
    """

    before: Sequence[float]
    after: Sequence[float]

    def __post_init__(self) -> None:
        for side in (self.before, self.after):
            if not 0 < len(side) <= MOST_RUNS:
                raise ValueError(f"{len(side)} runs; a shift is of 1 to {MOST_RUNS} a side")
            if any(map(isnan, side)):
                raise ValueError("a run's reading that is not a number")

    @property
    def value(self) -> float | None:
        """Hodges and Lehmann's; None where it hangs on the difference of two that never came."""
        low, high = (_median(self._differences(unknown)) for unknown in (-inf, inf))
        return low if low == high else None

    def low(self, alpha: float) -> float:
        """A shift below this has at most the probability alpha to look like this one; -inf if so few tell nothing."""
        bound = _rank(len(self.before), len(self.after), alpha)
        return self._differences(-inf)[bound - 1] if bound else -inf

    def high(self, alpha: float) -> float:
        """The same from above."""
        bound = _rank(len(self.before), len(self.after), alpha)
        return self._differences(inf)[-bound] if bound else inf

    def p_above(self, by: float) -> float:
        """The chance to see evidence as strong as this for a shift of more than `by`, where it is no more."""
        return self._p(sum(difference > by for difference in self._differences(-inf)))

    def p_below(self, by: float) -> float:
        """The same for a shift of less than `by`, where it is no less."""
        return self._p(sum(difference < by for difference in self._differences(inf)))

    def _p(self, won: int) -> float:
        m, n = len(self.before), len(self.after)
        return at_most(m * n - won, m, n)

    def _differences(self, unknown: float) -> list[float]:
        """All of them, in order."""
        return sorted(
            unknown if isinf(late) and late == early else late - early for early in self.before for late in self.after
        )


def at_most(u: int, m: int, n: int) -> float:
    """P(U <= u) of Mann and Whitney's U for m and n readings from one distribution; by symmetry P(U >= m n - u)."""
    if u < 0:
        return 0.0
    return 1.0 if u >= m * n else sum(_orders(m, n)[: u + 1]) / comb(m + n, m)


def smallest_p(m: int, n: int) -> float:
    """The least that m against n can reach, when all of the one are beyond all of the other; twice it for two sides."""
    return 1 / comb(m + n, m)


def runs_needed(p: float) -> int:
    """How many runs a side it takes to reach that p."""
    runs = 1
    while smallest_p(runs, runs) > p + _SLACK:
        runs += 1
    return runs


def holm(p_values: Sequence[float]) -> list[float]:
    """The p values as they count for each when all are looked at (Holm, Scandinavian Journal of Statistics 6, 1979):
    those at or below alpha can all be told, and the chance that any of them is told wrongly is at most alpha."""
    adjusted, most = [0.0] * len(p_values), 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        most = max(most, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = most
    return adjusted


def within_runs(before: Estimate, after: Estimate) -> tuple[float, float]:
    """The interval of the difference of two estimates, from their own intervals (the method of variance estimates
    recovery: Zou and Donner, Statistics in Medicine 27, 2008; of two proportions it is Newcombe's, ibid. 17, 1998).

    It knows of the calls within the two runs only, not of what differs from run to run. An estimate without an interval
    was counted in full: its value is its interval.
    """
    first, last = _ends(before), _ends(after)
    if before.value is None or after.value is None:
        return -inf, inf
    if any(map(isinf, (*first, *last, before.value, after.value))):
        return _minus(last[0], first[1], unknown=-inf), _minus(last[1], first[0], unknown=inf)
    shift = after.value - before.value
    below = sqrt((after.value - last[0]) ** 2 + (first[1] - before.value) ** 2)
    above = sqrt((last[1] - after.value) ** 2 + (before.value - first[0]) ** 2)
    return shift - below, shift + above


def _ends(estimate: Estimate) -> tuple[float, float]:
    if estimate.low is None or estimate.high is None:
        return -inf, inf
    return estimate.low, estimate.high


def _minus(this: float, that: float, *, unknown: float) -> float:
    return unknown if isinf(this) and this == that else this - that


def _median(ordered: Sequence[float]) -> float:
    low, high = ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]
    return low if low == high else (low + high) / 2


@lru_cache(maxsize=256)
def _rank(m: int, n: int, alpha: float) -> int:
    """The rank, from 1, of the difference that bounds the shift at alpha: P(U < rank) <= alpha; 0 where none does."""
    rank = 0
    while at_most(rank, m, n) <= alpha + _SLACK:
        rank += 1
    return rank


@lru_cache(maxsize=64)
def _orders(m: int, n: int) -> tuple[int, ...]:
    """How many of the orders of m and n readings have U = 0, 1, ... m n: the coefficients of the Gaussian binomial, the
    product of (1 - q^(n+i)) / (1 - q^i) for i = 1 ... m. In whole numbers, so that no tail is lost to rounding."""
    counts = [1] + [0] * (m * n)
    for i in range(1, m + 1):
        for u in range(m * n, n + i - 1, -1):
            counts[u] -= counts[u - n - i]
        for u in range(i, m * n + 1):
            counts[u] += counts[u - i]
    return tuple(counts)
