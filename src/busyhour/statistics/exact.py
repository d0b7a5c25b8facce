"""What was counted or measured in full: a statement of this run, and of no other, so it has no interval."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from busyhour.model import Comparison, Outcome
from busyhour.statistics.quantile import rank

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Exact:
    """A value known exactly: a count, or a quantile of all that there was. `note` is said in every sentence of it."""

    value: float | None
    n: int
    note: str = ""

    @property
    def low(self) -> float | None:
        return self.value

    @property
    def high(self) -> float | None:
        return self.value

    def at_most(self, limit: float, alpha: float) -> Comparison:
        """Whether it is; alpha says nothing here, for nothing was sampled."""
        return self._compared(self.value is not None and self.value <= limit)

    def at_least(self, limit: float, alpha: float) -> Comparison:
        return self._compared(self.value is not None and self.value >= limit)

    def _compared(self, holds: bool) -> Comparison:
        if self.value is None:
            return Comparison(Outcome.INCONCLUSIVE, "nothing was measured")
        return Comparison(Outcome.PASS if holds else Outcome.FAIL, self.note)


@dataclass(frozen=True, slots=True)
class Worst:
    """The largest of `ordered`. No number of readings shows that none can be worse, so it speaks of this run only."""

    ordered: Sequence[float]
    noun: str = "readings"

    @classmethod
    def of(cls, values: Sequence[float], *, noun: str = "readings") -> Worst:
        return cls(tuple(sorted(values)), noun)

    @property
    def n(self) -> int:
        return len(self.ordered)

    @property
    def value(self) -> float | None:
        return self.ordered[-1] if self.n else None

    @property
    def low(self) -> float | None:
        return self.value

    @property
    def high(self) -> float | None:
        return self.value

    def at_most(self, limit: float, alpha: float) -> Comparison:
        """Whether all are; alpha says nothing here."""
        over = self.n - bisect_right(self.ordered, limit)
        if over:
            return Comparison(Outcome.FAIL, f"{over} of {self.n} {self.noun} are over it")
        return self._unless_empty()

    def at_least(self, limit: float, alpha: float) -> Comparison:
        """Whether one is."""
        if self.value is not None and self.value < limit:
            return Comparison(Outcome.FAIL, "")
        return self._unless_empty()

    def _unless_empty(self) -> Comparison:
        if not self.n:
            return Comparison(Outcome.INCONCLUSIVE, "nothing was measured")
        return Comparison(Outcome.PASS, "the worst of this run, no bound for the next")


def weighted_quantile(values: Sequence[float] | Floats, counts: Sequence[int] | Ints, q: float) -> float | None:
    """The quantile of a histogram: the least value with at least q of all counts at or below it; None of nothing."""
    weights = np.asarray(counts, dtype=np.int64)
    total = int(weights.sum())
    if total <= 0:
        return None
    ordered = np.asarray(values, dtype=np.float64)
    order = np.argsort(ordered, kind="stable")
    seen = np.cumsum(weights[order])
    return float(ordered[order[np.searchsorted(seen, rank(total, q))]])
