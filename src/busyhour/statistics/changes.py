"""Where the runs of a history changed: E-divisive, with Student's test in the place of permutations.

Where the energy distance between what lies before and what lies behind is greatest, a series may be divided, and each
part again (Matteson and James, Journal of the American Statistical Association 109, 2014). Whether a division is real,
they ask permutations, which differ from one time to the next; a t-test gives the same answer every time (Fleming and
others, ICPE 2023, for the performance tests of MongoDB and Cassandra, today Apache Otava). Divisions are first made on
weak evidence, so that a rise that is followed by a fall is found, and then taken back, the weakest first, until each is
shown by the runs beside it. The test's level is divided by the places where a division might have been made and by the
series that are looked at: in histories without change, at most alpha of them show any.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import comb, inf, isfinite, sqrt
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from busyhour.statistics.tails import student, student_below

LEAST_RUNS = 3
"""On either side of a change: of two, the spread says next to nothing."""
ALPHA = 0.05
_WEAK = 0.2
_ROUNDING = 1e-12
"""Of the largest reading: what equal ones may seem to differ by, because their mean is rounded."""
_Floats: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Change:
    """Between two runs: `at` is the place, from 0, of the first of the new kind; `before` and `after` are the means of
    the stretches on either side, `p` the chance of the t-test alone, not yet divided among the places."""

    at: int
    before: float
    after: float
    p: float


def changes(series: Sequence[float], *, alpha: float = ALPHA, of_series: int = 1) -> list[Change]:
    """The changes in a series of runs, in order of time; none where there are fewer than six runs.

    of_series: how many series are looked at, in all of which together at most alpha is to be found by chance. A series
    in which some runs are infinite is searched by its ranks. Raises ValueError for what is no number.
    """
    values = np.asarray(series, dtype=np.float64)
    if np.isnan(values).any():
        raise ValueError("a run's reading that is not a number")
    if places(len(values)) < 1:
        return []
    searched = values if np.isfinite(values).all() else _ranks(values)
    found = _shown(searched, _divided(searched, 0, len(values)), _level(len(values), alpha, of_series))
    ends = [0, *found, len(values)]
    return [
        Change(at, _mean(values[began:at]), _mean(values[at:ended]), _p(searched[began:at], searched[at:ended]))
        for began, at, ended in zip(ends, found, ends[2:], strict=False)
    ]


def places(runs: int) -> int:
    """In how many places so many runs might be divided."""
    return max(0, runs - 2 * LEAST_RUNS + 1)


def smallest_seen(series: Sequence[float], *, alpha: float = ALPHA, of_series: int = 1) -> float | None:
    """The change in its middle that would be found in half of all such series: for how much a flat one is known to be
    flat. None for fewer runs than six, for infinite ones, and where none differs from the others."""
    values = np.asarray(series, dtype=np.float64)
    if places(len(values)) < 1 or not np.isfinite(values).all():
        return None
    found = [0, *(change.at for change in changes(series, alpha=alpha, of_series=of_series)), len(values)]
    residues = np.concatenate([values[began:ended] - values[began:ended].mean() for began, ended in pairwise(found)])
    degrees = len(values) - len(found) + 1
    spread = sqrt(float(residues @ residues) / degrees)
    if spread <= _ROUNDING * float(np.abs(values).max()):
        return None
    half = len(values) // 2
    wanted = student(len(values) - 2, 1 - _level(len(values), alpha, of_series) / 2)
    return wanted * spread * sqrt(1 / half + 1 / (len(values) - half))


def _level(runs: int, alpha: float, of_series: int) -> float:
    return alpha / (places(runs) * of_series)


def _divided(values: _Floats, began: int, ended: int) -> list[int]:
    """All places between where a division is worth a look."""
    part = values[began:ended]
    if places(len(part)) < 1:
        return []
    at = LEAST_RUNS + int(np.argmax(_apart(part)))
    if _p(part[:at], part[at:]) > _WEAK:
        return []
    return [*_divided(values, began, began + at), began + at, *_divided(values, began + at, ended)]


def _shown(values: _Floats, cuts: list[int], level: float) -> list[int]:
    """Those that are left when the weakest is taken back for as long as it does not reach the level."""
    while cuts:
        ends = [0, *cuts, len(values)]
        chances = [
            _p(values[began:at], values[at:ended]) for began, at, ended in zip(ends, cuts, ends[2:], strict=False)
        ]
        weakest = max(range(len(cuts)), key=lambda i: chances[i])
        if chances[weakest] <= level:
            break
        cuts = cuts[:weakest] + cuts[weakest + 1 :]
    return cuts


def _apart(values: _Floats) -> _Floats:
    """For each place of a division the energy statistic between what is before and what is behind:
    n m / (n + m) (2 E|X - Y| - E|X - X'| - E|Y - Y'|)."""
    sums = np.abs(values[:, None] - values[None, :]).cumsum(axis=0).cumsum(axis=1)
    n = np.arange(LEAST_RUNS, len(values) - LEAST_RUNS + 1)
    m = len(values) - n
    before = sums[n - 1, n - 1]
    across = sums[n - 1, -1] - before
    behind = sums[-1, -1] - before - 2 * across
    energy = 2 * across / (n * m) - before / (n * (n - 1)) - behind / (m * (m - 1))
    return np.asarray(n * m / (n + m) * energy, dtype=np.float64)


def _p(before: _Floats, after: _Floats) -> float:
    """Of Student's test for two means, both sides. Where neither side varies at all it has nothing to go by: as many
    orders of the runs as there are, this is one of the two most extreme."""
    n, m = len(before), len(after)
    apart = abs(float(after.mean() - before.mean()))
    if apart <= _ROUNDING * max(float(np.abs(before).max()), float(np.abs(after).max())):
        return 1.0
    squares = float(((before - before.mean()) ** 2).sum() + ((after - after.mean()) ** 2).sum())
    if squares <= (1e-12 * apart) ** 2:
        return 2 / comb(n + m, n)
    ratio = apart / sqrt(squares / (n + m - 2) * (1 / n + 1 / m))
    return 2 * float(student_below(np.array([n + m - 2.0]), np.array([-ratio]))[0])


def _ranks(values: _Floats) -> _Floats:
    """From 1; of equal ones the mean of theirs."""
    return np.asarray([(values < one).sum() + ((values == one).sum() + 1) / 2 for one in values], dtype=np.float64)


def _mean(values: _Floats) -> float:
    return float(values.mean()) if isfinite(float(values.max())) else inf
