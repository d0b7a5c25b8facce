"""Means, for targets that say "average": by groups where readings of one group are alike.

The interval is Student's, bent by the skewness of the readings (P. Hall, "On the removal of skewness by
transformation", J. R. Statist. Soc. B 54, 1992): latencies lean to the right, and Student's own upper end is then too
low. One-sided at a nominal .05, of 4,000 samples each: exponential readings pass wrongly in .066 (n=30) and .052 (100)
where Student's do in .102 and .071; lognormal ones with sigma 1, more skewed than latencies are, in .093, .072 and .060
(n=300).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from math import cbrt, inf, isinf, sqrt

import numpy as np

from busyhour.model import Comparison, Outcome
from busyhour.statistics.clusters import Groups, numbered
from busyhour.statistics.quantile import rank
from busyhour.statistics.rate import ALPHA
from busyhour.statistics.tails import student
from busyhour.statistics.wording import number, with_unit

AT_LEAST = 30
"""Fewer readings are INCONCLUSIVE: below it the mean of skewed readings is not yet near a normal one."""

_STRAIGHT = 1e-6
"""So little skewness bends nothing, and is no divisor."""


@dataclass(frozen=True, slots=True)
class Mean:
    """The mean of n readings with its standard error. The 99th percentile is told beside it: a mean hides the worst."""

    n: int
    value: float | None
    error: float = 0.0
    degrees: int = 0
    skewness: float = 0.0
    p99: float = 0.0
    unit: str = ""
    noun: str = "readings"

    @classmethod
    def of(
        cls,
        values: Sequence[float],
        groups: Sequence[Hashable] | Groups | None = None,
        *,
        unit: str = "",
        noun: str = "readings",
    ) -> Mean:
        """The error is that of group totals about the mean (the linearised variance of cluster sampling), and so is the
        skewness."""
        n = len(values)
        if n == 0:
            return cls(0, None, unit=unit, noun=noun)
        readings = np.asarray(values, dtype=np.float64)
        p99 = float(np.sort(readings)[rank(n, 0.99) - 1])
        if np.isinf(readings).any():
            return cls(n, inf, p99=p99, unit=unit, noun=noun)
        mean = float(readings.mean())
        totals = np.bincount(numbered(groups, n), weights=readings - mean)
        degrees = totals.size - 1
        error = sqrt(totals.size / degrees * float((totals**2).sum())) / n if degrees else inf
        spread = sqrt(float((totals**2).mean()))
        skewness = float((totals**3).mean()) / spread**3 if spread else 0.0
        return cls(n, mean, error, degrees, skewness, p99, unit, noun)

    @property
    def low(self) -> float | None:
        return self._bound(-1, ALPHA)

    @property
    def high(self) -> float | None:
        return self._bound(1, ALPHA)

    def at_most(self, limit: float, alpha: float) -> Comparison:
        return self._compared(self._bound(1, alpha), self._bound(-1, alpha), limit, 1)

    def at_least(self, limit: float, alpha: float) -> Comparison:
        return self._compared(self._bound(-1, alpha), self._bound(1, alpha), limit, -1)

    def _bound(self, side: int, alpha: float) -> float | None:
        if self.value is None:
            return None
        if isinf(self.value):
            return inf  # one that never came makes every mean infinite, however many did come
        if self.degrees < 1:
            return side * inf
        return self.value + side * abs(self._bent(-side * student(self.degrees, 1 - alpha))) * self.error

    def _bent(self, t: float) -> float:
        """Hall's g^-1: the t of skewed readings that is as rare as this one is of normal readings."""
        lean = self.skewness / sqrt(self.degrees + 1)
        if abs(lean) < _STRAIGHT:
            return t
        bent = 3 / lean * (cbrt(1 + lean * (t - lean / 6)) - 1)
        return max(0.0, bent) if t > 0 else min(0.0, bent)

    def _compared(self, worst: float | None, best: float | None, limit: float, side: int) -> Comparison:
        if worst is None or best is None:
            return Comparison(Outcome.INCONCLUSIVE, "nothing was measured")
        beside = f"its p99 is {with_unit(number(self.p99, self.unit), self.unit)}"
        if side * best > side * limit and (self.n >= AT_LEAST or isinf(best)):
            return Comparison(Outcome.FAIL, beside)
        if self.n < AT_LEAST:
            return Comparison(
                Outcome.INCONCLUSIVE, f"a mean needs {AT_LEAST} {self.noun}, {AT_LEAST - self.n} more; {beside}"
            )
        if side * worst <= side * limit:
            return Comparison(Outcome.PASS, beside)
        return Comparison(Outcome.INCONCLUSIVE, f"the interval holds the limit: more {self.noun} would tell; {beside}")
