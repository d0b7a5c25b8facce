"""The Universal Scalability Law (Gunther, Guerrilla Capacity Planning, 2007) fitted to throughputs.

    X(N) = lambda N / (1 + sigma (N - 1) + kappa N (N - 1))

sigma is what waits for one another (contention), kappa what has to agree with one another (coherency): throughput is
greatest at the knee, N* = sqrt((1 - sigma) / kappa). N / X(N) is linear in 1/lambda, sigma/lambda and kappa/lambda, so
the fit is one of least squares with none of them negative: no starting values, and the same every time. Errors are
taken as relative to what is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf, isinf, sqrt
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from busyhour.statistics.tails import student

LEAST_LEVELS = 3
"""As many as there are parameters: fewer distinct concurrencies determine nothing."""
_GRID = 240
_Floats: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """95 %: the values with which the law, its other parameters fitted anew, is not significantly worse (a profile
    interval by F with 1 and n - 3 degrees of freedom; Bates and Watts, Nonlinear Regression Analysis, 1988, 6.1). It
    respects that no parameter is negative and may be open above. Three points have none: low and high are None."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Scalability:
    """`rate` is lambda, the throughput of one alone; `knee` is infinite where kappa is 0, and lies
    beyond what was measured where it is greater than `reached`."""

    rate: Interval
    contention: Interval
    coherency: Interval
    knee: Interval
    n: int
    reached: float

    def throughput(self, at_once: float) -> float:
        sigma, kappa = self.contention.value, self.coherency.value
        return self.rate.value * at_once / (1 + sigma * (at_once - 1) + kappa * at_once * (at_once - 1))


def fit(at_once: Sequence[float], throughput: Sequence[float]) -> Scalability | None:
    """The law through (N, X) points; None for fewer than three distinct N. Points without throughput say nothing."""
    points = [(n, x) for n, x in zip(at_once, throughput, strict=True) if n >= 1 and x > 0]
    if len({n for n, _ in points}) < LEAST_LEVELS:
        return None
    measured = _Points.of(points)
    knees = [*np.geomspace(1.0, 100 * measured.most, _GRID).tolist(), inf]
    knee = _least(measured.by_knee, knees)
    u, b = measured.solution_by_knee(knee)
    sigma = b / (u + b)
    kappa = 0.0 if isinf(knee) else (1 - sigma) / knee**2
    rate = 1 / (u + b)
    limit = measured.limit(measured.by_knee(knee))
    small = [0.0, *np.geomspace(1e-9, 1.0, _GRID).tolist()]
    rates = np.geomspace(measured.slowest / 4, measured.fastest * 4, _GRID).tolist()
    return Scalability(
        rate=_interval(measured.by_rate, rate, rates, limit),
        contention=_interval(measured.by_contention, sigma, small, limit, most=1.0),
        coherency=_interval(measured.by_coherency, kappa, small, limit),
        knee=_interval(measured.by_knee, knee, knees, limit),
        n=len(points),
        reached=measured.most,
    )


@dataclass(frozen=True, eq=False)
class _Points:
    """The squared residuals of the law by one parameter, the others fitted: of y = N / X, in units of itself."""

    n: _Floats
    y: _Floats

    @classmethod
    def of(cls, points: Sequence[tuple[float, float]]) -> _Points:
        n, x = (np.asarray(column, dtype=np.float64) for column in zip(*sorted(points), strict=True))
        return cls(n, n / x)

    @property
    def most(self) -> float:
        return float(self.n.max())

    @property
    def slowest(self) -> float:
        return float((1 / self.y).min())

    @property
    def fastest(self) -> float:
        return float((1 / self.y).max())

    @property
    def _pairs(self) -> _Floats:
        return np.asarray(self.n * (self.n - 1), dtype=np.float64)

    def limit(self, least: float) -> float | None:
        """How great a sum of squares may be that is not significantly worse than the least."""
        degrees = len(self.n) - 3
        return None if degrees < 1 else least * (1 + student(degrees, 0.975) ** 2 / degrees) + 1e-12

    def solution_by_knee(self, knee: float) -> tuple[float, float]:
        """u and b of y = u (1 + N (N - 1) / knee^2) + b N: with 1/lambda = u + b and sigma/lambda = b, sigma <= 1."""
        bent = np.ones_like(self.n) if isinf(knee) else 1 + self._pairs / knee**2
        return _not_negative(bent / self.y, self.n / self.y)[1]

    def by_knee(self, knee: float) -> float:
        bent = np.ones_like(self.n) if isinf(knee) else 1 + self._pairs / knee**2
        return _not_negative(bent / self.y, self.n / self.y)[0]

    def by_contention(self, sigma: float) -> float:
        return _not_negative((1 + sigma * (self.n - 1)) / self.y, self._pairs / self.y)[0]

    def by_coherency(self, kappa: float) -> float:
        bent = 1 + kappa * self._pairs
        return _not_negative(bent / self.y, (self.n - 1 + bent) / self.y)[0]

    def by_rate(self, rate: float) -> float:
        rest = 1 - 1 / (rate * self.y)
        return _not_negative((self.n - 1) / self.y, self._pairs / self.y, rest)[0]


def _not_negative(first: _Floats, second: _Floats, of: _Floats | None = None) -> tuple[float, tuple[float, float]]:
    """The least squares of `of` (1 by default) by two columns with coefficients that are not negative: the sum, and
    the two. With two columns the choices are few enough to be tried."""
    wanted = np.ones_like(first) if of is None else of
    aa, bb, ab = float(first @ first), float(second @ second), float(first @ second)
    ay, by = float(first @ wanted), float(second @ wanted)
    choices = [(max(0.0, ay / aa) if aa else 0.0, 0.0), (0.0, max(0.0, by / bb) if bb else 0.0)]
    determinant = aa * bb - ab * ab
    if determinant > 1e-12 * aa * bb:
        both = ((ay * bb - by * ab) / determinant, (by * aa - ay * ab) / determinant)
        if min(both) >= 0:
            choices.append(both)
    sums = [(float(((wanted - u * first - b * second) ** 2).sum()), (u, b)) for u, b in choices]
    return min(sums)


def _least(of: Callable[[float], float], grid: Sequence[float]) -> float:
    """Where it is least: on the grid, then between the neighbours of that by golden section. A minimum at infinity is
    taken only where no finite one is better by more than rounding."""
    values = [of(value) for value in grid]
    best = min(range(len(grid)), key=lambda i: values[i])
    if isinf(grid[-1]) and values[-1] <= values[best] * (1 + 1e-9) + 1e-12:
        return grid[-1]
    low, high = grid[max(0, best - 1)], grid[min(best + 1, len(grid) - 1)]
    high = grid[best] if isinf(high) else high
    ratio = (sqrt(5) - 1) / 2
    for _ in range(60):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, right) if of(left) <= of(right) else (left, high)
    return (low + high) / 2


def _interval(
    of: Callable[[float], float], value: float, grid: Sequence[float], limit: float | None, *, most: float = inf
) -> Interval:
    """Outwards from the value for as long as the sum of squares stays within the limit; up to `most`, than which it is
    never greater, where the upper end of the grid is still within it."""
    if limit is None:
        return Interval(value)
    low = _edge(of, value, [x for x in reversed(grid) if x < value], limit)
    high = _edge(of, value, [x for x in grid if x > value], limit)
    return Interval(value, low, most if high == grid[-1] else high)


def _edge(of: Callable[[float], float], value: float, outwards: Sequence[float], limit: float) -> float:
    """The last that is within the limit, to a thousandth of what lies between two of the grid."""
    within = value
    for beyond in outwards:
        if of(beyond) > limit:
            if isinf(beyond):
                return within
            outside = beyond
            for _ in range(10):
                middle = (within + outside) / 2
                within, outside = (within, middle) if of(middle) > limit else (middle, outside)
            return within
        within = beyond
    return within
