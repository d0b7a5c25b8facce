"""Rates: k of n. Clopper and Pearson (1934), by the tails of the binomial distribution.

Also the core of the quantile gate: "the 95th percentile is within T" is "at most 5 % are over T".
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from busyhour.model import Comparison, Outcome
from busyhour.statistics.clusters import INDEPENDENT, Alike, Groups, design_effect, numbered
from busyhour.statistics.tails import binomial_above, binomial_below, share_above, share_below
from busyhour.statistics.wording import exactly

ALPHA = 0.05
"""The error rate of either end of the intervals shown."""

_SLACK = 1e-12  # 1 - 0.95 is a little more than 0.05
_MOST = 10**9


def compare(k: float, n: float, share: float, alpha: float, *, factor: float = 1.0) -> Outcome:
    """What k of n say of "at most `share` of all": wrong PASSes and wrong FAILs have at most the probability alpha.

    PASS iff P(X <= k) <= alpha, FAIL iff P(X >= k) <= alpha, for X binomial with n and `share`; else INCONCLUSIVE.
    `factor` discounts k and n alike (see clusters.py).
    """
    if n <= 0:
        return Outcome.INCONCLUSIVE
    if share >= 1:
        return Outcome.PASS
    if binomial_below(k / factor, n / factor, share) <= alpha + _SLACK:
        return Outcome.PASS
    if binomial_above(k / factor, n / factor, share) <= alpha + _SLACK:
        return Outcome.FAIL
    return Outcome.INCONCLUSIVE


def needed(k: float, share: float, alpha: float = ALPHA, *, factor: float = 1.0) -> int | None:
    """The least n that PASSes with k over; None when none does (a share of 0)."""
    return _least(lambda n: compare(k, n, share, alpha, factor=factor) is Outcome.PASS, start=int(k) + 1)


def needed_to_fail(k: int, n: int, share: float, alpha: float = ALPHA, *, factor: float = 1.0) -> int | None:
    """The least n that FAILs when the share k / n stays as it is; None when it is not above `share`."""
    if k / n <= share:
        return None
    return _least(lambda more: compare(k / n * more, more, share, alpha, factor=factor) is Outcome.FAIL, start=n)


def _least(holds: Callable[[int], bool], *, start: int) -> int | None:
    step, low = 1, start - 1
    while not holds(start):
        low, start, step = start, start + step, step * 2
        if start > _MOST:
            return None
    while start - low > 1:
        middle = (low + start) // 2
        low, start = (low, middle) if holds(middle) else (middle, start)
    return start


@dataclass(frozen=True, slots=True)
class Rate:
    """`hits` of `n`, in percent as people read it. `noun` says of what: "turns", "calls"."""

    hits: int
    n: int
    noun: str = "readings"
    alike: Alike = INDEPENDENT

    @classmethod
    def of(
        cls, hits: Sequence[bool], groups: Sequence[Hashable] | Groups | None = None, *, noun: str = "readings"
    ) -> Rate:
        """From single readings, discounted for those of one group being alike."""
        over = np.asarray(hits, dtype=np.bool_)
        return cls(int(over.sum()), len(hits), noun, design_effect(over, numbered(groups, len(hits))))

    @property
    def value(self) -> float | None:
        return 100 * self.hits / self.n if self.n else None

    @property
    def low(self) -> float | None:
        return 100 * share_below(self.hits / self.alike.factor, self.n / self.alike.factor, ALPHA) if self.n else None

    @property
    def high(self) -> float | None:
        return 100 * share_above(self.hits / self.alike.factor, self.n / self.alike.factor, ALPHA) if self.n else None

    def at_most(self, limit: float, alpha: float) -> Comparison:
        """Whether at most `limit` percent of all are hits."""
        return self._compared(self.hits, limit / 100, limit, alpha)

    def at_least(self, limit: float, alpha: float) -> Comparison:
        """Whether at least `limit` percent of all are hits: at most the rest are not."""
        return self._compared(self.n - self.hits, 1 - limit / 100, limit, alpha)

    def _compared(self, k: int, share: float, limit: float, alpha: float) -> Comparison:
        share = min(1.0, max(0.0, share))
        outcome = compare(k, self.n, share, alpha, factor=self.alike.factor)
        clauses = [self.alike.clause(self.n, self.noun)]
        if outcome is not Outcome.PASS:
            clauses.insert(0, f"{self.hits} of {self.n} {self.noun}")
        if outcome is Outcome.INCONCLUSIVE:
            clauses.append(self._missing(k, share, limit, alpha))
        return Comparison(outcome, "; ".join(filter(None, clauses)))

    def _missing(self, k: int, share: float, limit: float, alpha: float) -> str:
        if share == 0.0:
            return f"no number of {self.noun} can show {exactly(limit)} %"
        return missing(k, self.n, share, alpha, factor=self.alike.factor, noun=self.noun)


def missing(k: int, n: int, share: float, alpha: float, *, factor: float, noun: str) -> str:
    """The clause that says how many more readings would decide an INCONCLUSIVE comparison."""
    if n == 0:
        return "nothing was measured"
    if k / n < share:
        least = needed(k, share, alpha, factor=factor)
        return f"at least {least - n} more {noun} are needed" if least else f"no number of {noun} can show it"
    least = needed_to_fail(k, n, share, alpha, factor=factor)
    more = f"about {_roughly(least - n)}" if least else "many"
    return f"chance may explain it: {more} more {noun} would tell"


def _roughly(count: int) -> int:
    """Two digits of a large count: it is an extrapolation."""
    scale = int(10 ** max(0, len(str(count)) - 2))
    return -(-count // scale) * scale
