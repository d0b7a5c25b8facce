"""Quantiles of samples that may be infinitely late, judged by counting (no bootstrap, no interpolation).

"The 95th percentile is within T" is "at most 5 % of all are over T", which binomial tails decide exactly for every n.
The interval is of order statistics, chosen so that a limit at or above its upper end is a PASS and one below its lower
end a FAIL, each at 5 %. The bootstrap's nominal 95 % covers the 99th percentile 65 times in 100 at n = 100, and
interpolating quantiles reach beyond the largest sample.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from math import ceil, inf

import numpy as np

from busyhour.model import Comparison, Outcome
from busyhour.statistics.clusters import ENOUGH, INDEPENDENT, Alike, Groups, design_effect, design_effect_of, numbered
from busyhour.statistics.counted import Counted
from busyhour.statistics.rate import ALPHA, compare, missing
from busyhour.statistics.tails import binomial_below, share_above
from busyhour.statistics.wording import certified


def rank(n: float, q: float) -> int:
    """The rank, from 1, of the sample that is the quantile q of n: the least with at least q n at or below it."""
    return max(1, ceil(n * q - 1e-9))  # 100 * 0.99 is a little more than 99 on some machines


def order_interval(n: int, q: float, alpha: float = ALPHA) -> tuple[int, int]:
    """The ranks l and u, from 1, between which the quantile lies; 0 and n + 1 stand for an end that n does not bound.

    Either end is wrong with a probability of at most alpha.
    """
    return _lower_rank(n, q, alpha, 1.0), _upper_rank(n, q, alpha, 1.0)


def coverage(n: int, q: float, lower: int, upper: int) -> float:
    """The exact probability that x_(lower) <= quantile < x_(upper): sum of C(n,j) q^j (1-q)^(n-j) for l <= j < u."""
    return binomial_below(upper - 1, n, q) - (binomial_below(lower - 1, n, q) if lower >= 1 else 0.0)


def _upper_rank(n: int, q: float, alpha: float, factor: float) -> int:
    passing = _count_while(n, lambda over: compare(over, n, 1 - q, alpha, factor=factor) is Outcome.PASS)
    return n - passing + 1  # with one less than `passing` samples above it


def _lower_rank(n: int, q: float, alpha: float, factor: float) -> int:
    undecided = _count_while(n, lambda over: compare(over, n, 1 - q, alpha, factor=factor) is not Outcome.FAIL)
    return n - undecided + 1  # 0 where even all n above it would not do


def _count_while(n: int, holds: Callable[[int], bool]) -> int:
    """How many of 0, 1, ... n hold, from the first on; what holds, holds for all before it."""
    return bisect_left(range(n + 1), True, key=lambda over: not holds(over))


@dataclass(frozen=True, slots=True)
class Quantile:
    """The quantile `q` of `ordered` samples, the infinitely late among them. `noun` says what they are: "turns"."""

    ordered: Sequence[float]
    q: float
    noun: str = "samples"
    alike: Alike = INDEPENDENT

    @classmethod
    def of(
        cls,
        values: Sequence[float],
        q: float,
        groups: Sequence[Hashable] | Groups | None = None,
        *,
        noun: str = "samples",
    ) -> Quantile:
        """From single samples, discounted for those of one group being alike.

        What must not be alike is being over the quantile, not the latency as such: at the true quantile, where a gate
        errs most, the slowest 1 - q of the samples are those that are over. Hence the correlation is that of belonging
        to them (to the slowest `ENOUGH`, where they are fewer). It does not depend on the limit, so that a later limit
        never changes a PASS. What it cannot see: a kind of call so rare that the run has none of it.
        """
        samples = np.asarray(values, dtype=np.float64)
        if np.isnan(samples).any():
            raise ValueError("a sample that is not a number")
        ordered = np.sort(samples)
        alike = INDEPENDENT
        if samples.size:
            slowest = max(samples.size - rank(samples.size, q), min(ENOUGH, samples.size // 2), 1)
            alike = design_effect(samples >= ordered[-slowest], numbered(groups, samples.size))
        return cls(tuple(ordered.tolist()), q, noun, alike)

    @classmethod
    def of_counts(cls, counted: Counted, q: float, *, noun: str = "samples", group: str = "second") -> Quantile:
        """The same from counts of equal samples in groups, of which `group` says what they are."""
        n, alike = len(counted), INDEPENDENT
        if n:
            slowest = max(n - rank(n, q), min(ENOUGH, n // 2), 1)
            alike = design_effect_of(*counted.at_least(counted[n - slowest]), of=group)
        return cls(counted, q, noun, alike)

    @property
    def n(self) -> int:
        return len(self.ordered)

    @property
    def value(self) -> float | None:
        return self.ordered[rank(self.n, self.q) - 1] if self.ordered else None

    @property
    def low(self) -> float | None:
        lower = _lower_rank(self.n, self.q, ALPHA, self.alike.factor)
        return None if not self.ordered else self.ordered[lower - 1] if lower else -inf

    @property
    def high(self) -> float | None:
        upper = _upper_rank(self.n, self.q, ALPHA, self.alike.factor)
        return None if not self.ordered else self.ordered[upper - 1] if upper <= self.n else inf

    def at_most(self, limit: float, alpha: float) -> Comparison:
        """Whether at most 1 - q of all are over `limit`."""
        over = self.n - bisect_right(self.ordered, limit)
        return self._compared(over, 1 - self.q, alpha, "over it", self._certified(over, alpha))

    def at_least(self, limit: float, alpha: float) -> Comparison:
        """Whether at most q of all are below `limit`."""
        return self._compared(bisect_left(self.ordered, limit), self.q, alpha, "below it", "")

    def _compared(self, k: int, share: float, alpha: float, side: str, certifies: str) -> Comparison:
        outcome = compare(k, self.n, share, alpha, factor=self.alike.factor)
        clauses = [self.alike.clause(self.n, self.noun)]
        if outcome is not Outcome.PASS:
            clauses.insert(0, f"{k} of {self.n} {self.noun} are {side}")
        if outcome is Outcome.INCONCLUSIVE:
            clauses[0] += certifies
            clauses.append(missing(k, self.n, share, alpha, factor=self.alike.factor, noun=self.noun))
        return Comparison(outcome, "; ".join(filter(None, clauses)))

    def _certified(self, over: int, alpha: float) -> str:
        """The highest percentile that is certified to be within the limit: alpha^(1/n) when none is over it."""
        reached = 1 - share_above(over / self.alike.factor, self.n / self.alike.factor, alpha)
        return f", which certifies {certified(reached)} at most" if reached > 0 else ""
