"""How long a thing takes, of which some who waited for it left before it came.

Of an abandoned wait it is known only that the thing took longer: it is right-censored. To leave it out would make the
vendor look faster than it is, for slow answers are abandoned more often than fast ones; to count it as an answer would
too. The product-limit estimator uses what is known of both (Kaplan and Meier, "Nonparametric estimation from incomplete
observations", 1958). It supposes that a client leaves for reasons of its own: because its time is up, the caller talks
on, another vendor was faster; not because it knew how long this answer would still have taken.

Beyond the longest wait it says nothing. If somebody left last of all, the slowest are taken to last as long as that
wait (Efron, 1967), which is the least they can have taken: `unseen` is the share of which this is so.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Generic, TypeVar

from busyhour.emulators.profile import KEPT_AT_MOST as POINTS

KEPT_AT_MOST = 20_000
T = TypeVar("T")


class Reservoir(Generic[T]):
    """At most 20,000 of all the values given, each as likely to be kept (Vitter's algorithm R, seeded)."""

    def __init__(self, seed: str) -> None:
        self.values: list[T] = []
        self.given = 0
        self._random = Random(seed)

    def add(self, value: T) -> None:
        self.given += 1
        if len(self.values) < KEPT_AT_MOST:
            self.values.append(value)
        elif (place := self._random.randrange(self.given)) < KEPT_AT_MOST:
            self.values[place] = value


@dataclass(frozen=True)
class Curve:
    """ms: when it came, in order; shares: of all, how many had it by then; unseen: who may have waited longer than
    longest_ms, the longest wait there was."""

    ms: Sequence[float]
    shares: Sequence[float]
    unseen: float
    longest_ms: float

    def quantile(self, q: float) -> float:
        """In milliseconds; the longest wait, which is too little, for the `unseen`."""
        at = bisect_right(self.shares, q)
        return self.ms[at] if at < len(self.ms) else self.longest_ms

    def knows(self, q: float) -> bool:
        return q < 1 - self.unseen


class Waits:
    """All waits for one thing: those at whose end it came, and those that were abandoned."""

    def __init__(self, name: str) -> None:
        self.came = 0
        self.abandoned = 0
        self._kept: Reservoir[tuple[float, bool]] = Reservoir(name)

    def add(self, ms: float, *, abandoned: bool = False) -> None:
        self.came += not abandoned
        self.abandoned += abandoned
        self._kept.add((ms, abandoned))

    @property
    def values(self) -> list[float]:
        """Of those that came, in milliseconds, in no order."""
        return [ms for ms, abandoned in self._kept.values if not abandoned]

    def curve(self) -> Curve:
        """The product-limit estimate. There must have been a wait."""
        # Who left at the very instant at which it came for another had waited as long as that one: False before True.
        ordered = sorted(self._kept.values)
        waiting = len(ordered)
        surviving = 1.0
        ms: list[float] = []
        shares: list[float] = []
        for wait_ms, abandoned in ordered:
            if not abandoned:
                surviving *= 1 - 1 / waiting
                ms.append(wait_ms)
                shares.append(1 - surviving)
            waiting -= 1
        return Curve(ms, shares, surviving, ordered[-1][0])

    def drawn(self) -> list[float]:
        """What a twin is to draw from: the values themselves; where some were abandoned, 1,000 evenly spaced quantiles
        of the estimate."""
        if not self.abandoned:
            return self.values
        curve = self.curve()
        return [curve.quantile((i + 0.5) / POINTS) for i in range(POINTS)]
