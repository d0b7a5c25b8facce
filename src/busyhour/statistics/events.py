"""Events per exposure, which may be more than one each: Poisson counts with their exact interval (Garwood 1936)."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from math import ceil, inf

import numpy as np

from busyhour.model import Comparison, Outcome
from busyhour.statistics.clusters import INDEPENDENT, Alike, Groups, numbered, overdispersion
from busyhour.statistics.rate import ALPHA
from busyhour.statistics.tails import mean_above, mean_below, poisson_above, poisson_below
from busyhour.statistics.wording import exactly, number

_SLACK = 1e-12


@dataclass(frozen=True, slots=True)
class Events:
    """`count` events in `exposure`, told as `per` times their ratio (100: in percent, 1: each).

    n is the number of readings the exposure is made of; `noun` says what the exposure is in: "words", "minutes".
    """

    count: int
    exposure: float
    n: int
    per: float = 1.0
    noun: str = "units"
    what: str = "events"
    alike: Alike = INDEPENDENT

    @classmethod
    def of(
        cls,
        counts: Sequence[int],
        exposures: Sequence[float],
        groups: Sequence[Hashable] | Groups | None = None,
        *,
        per: float = 1.0,
        noun: str = "units",
        what: str = "events",
    ) -> Events:
        """From single readings, discounted where the events come in bunches of a group."""
        numbers = numbered(groups, len(counts))
        if len(counts) == 0:
            return cls(0, 0.0, 0, per, noun, what)
        by_group = np.bincount(numbers, weights=np.asarray(counts, dtype=np.float64))
        exposed = np.bincount(numbers, weights=np.asarray(exposures, dtype=np.float64))
        alike = overdispersion(by_group.astype(np.float64), exposed.astype(np.float64))
        return cls(int(sum(counts)), float(sum(exposures)), len(counts), per, noun, what, alike)

    @property
    def value(self) -> float | None:
        return self.per * self.count / self.exposure if self.exposure > 0 else None

    @property
    def low(self) -> float | None:
        if self.exposure <= 0:
            return None
        k, factor = self.count / self.alike.factor, self.alike.factor
        return self.per * factor * mean_below(k, ALPHA) / self.exposure

    @property
    def high(self) -> float | None:
        if self.exposure <= 0:
            return None
        k, factor = self.count / self.alike.factor, self.alike.factor
        return self.per * factor * mean_above(k, ALPHA) / self.exposure

    def at_most(self, limit: float, alpha: float) -> Comparison:
        below, above = self._tails(limit)
        if below <= alpha + _SLACK:
            return Comparison(Outcome.PASS, self._clause(""))
        if above <= alpha + _SLACK:
            return Comparison(Outcome.FAIL, self._clause(self._counted()))
        return Comparison(Outcome.INCONCLUSIVE, self._clause(self._counted(), self._missing(limit, alpha)))

    def at_least(self, limit: float, alpha: float) -> Comparison:
        below, above = self._tails(limit)
        if above <= alpha + _SLACK or (limit <= 0 and self.exposure > 0):  # no rate is below 0
            return Comparison(Outcome.PASS, self._clause(""))
        if below <= alpha + _SLACK:
            return Comparison(Outcome.FAIL, self._clause(self._counted()))
        return Comparison(Outcome.INCONCLUSIVE, self._clause(self._counted(), f"more {self.noun} are needed"))

    def _tails(self, limit: float) -> tuple[float, float]:
        if self.exposure <= 0:
            return 1.0, 1.0
        k, mean = self.count / self.alike.factor, limit / self.per * self.exposure / self.alike.factor
        return poisson_below(k, mean), poisson_above(k, mean)

    def _counted(self) -> str:
        return f"{self.count} {self.what} in {number(self.exposure)} {self.noun}"

    def _missing(self, limit: float, alpha: float) -> str:
        if limit <= 0:
            return f"no number of {self.noun} can show {exactly(limit)}"
        most = limit / self.per * self.exposure
        if self.count >= most:
            return f"chance may explain it: more {self.noun} would tell"
        mean = mean_above(self.count / self.alike.factor, alpha) * self.alike.factor
        more = mean * self.per / limit - self.exposure
        return f"at least {ceil(more) if more < inf else 'endlessly many'} more {self.noun} are needed"

    def _clause(self, *clauses: str) -> str:
        bunched = ""
        if self.alike.factor > 1:
            bunched = f"{self.what} come in bunches, so that {self.count} weigh as {self.count / self.alike.factor:.1f}"
        return "; ".join(filter(None, (*clauses, bunched)))
