"""How much less than n readings weigh, because those of one call are alike.

The turns of one call share its line, its model replica and its prompt. `design_effect` estimates the intraclass
correlation (ICC) of *being over*, by the one-way ANOVA estimator, clipped at 0, and turns it into the factor by which
n readings shrink: n_eff = n / (1 + (m - 1) ICC) (Kish 1965), m being the size of the call that a reading finds itself
in on average, sum(m_i^2) / n. The count k of readings over a limit shrinks by the same factor, so that the share k / n
stays what was seen and only its weight changes (Korn and Graubard 1998). As the ICC goes to 1 this becomes the gate per
call, so no second rule is needed for strong correlation.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from busyhour.statistics.tails import chi_square_above, f_above, poisson_above

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Groups = npt.NDArray[np.intp]

ENOUGH = 10
"""So many readings must be over before their correlation is worth an estimate at the usual level."""


@dataclass(frozen=True, slots=True)
class Alike:
    """How alike the readings of one group are, and the factor (1 or more) that divides n for it."""

    factor: float = 1.0
    icc: float = 0.0
    of: str = "call"

    def clause(self, n: int, noun: str) -> str:
        """What a sentence must say when the discount bit; "" when it did not."""
        if self.factor <= 1.0:
            return ""
        weight = n / self.factor
        count = f"{weight:.0f}" if weight >= 10 else f"{weight:.1f}"
        return f"{noun} of one {self.of} are alike (correlation {self.icc:.2f}), so that {n} weigh as {count}"


INDEPENDENT = Alike()


def numbered(groups: Sequence[Hashable] | Groups | None, n: int) -> Groups:
    """The groups as numbers from 0, which an array has already; without groups every reading stands for itself."""
    if groups is None:
        return np.arange(n, dtype=np.intp)
    if len(groups) != n:
        raise ValueError(f"{n} readings, but {len(groups)} groups")
    if isinstance(groups, np.ndarray):
        return groups
    known: dict[Hashable, int] = {}
    return np.fromiter((known.setdefault(group, len(known)) for group in groups), dtype=np.intp, count=n)


def design_effect(over: Bools, groups: Groups) -> Alike:
    """The discount for readings that are `over` or not, in `groups` numbered from 0.

    It is applied only where a test finds the correlation to be real. Without the test half of all clean systems would
    be discounted for the noise of the estimate alone; with it, one in twenty. Simulated in tests/test_quantile.py:
    false verdicts stay near alpha for an ICC from 0 to 0.7, given 50 groups or more. Of few long ones the correlation
    is itself guessed: a limit that is the true p95 passes with .08 to .10 in 10 calls of 20 turns (.06 in 20 of 10),
    and with .10 to .13 in 3 to 5 calls of 40.

    A single group says nothing of other groups: all its readings weigh as one.
    """
    if not over.size:
        return INDEPENDENT
    overs, sizes = np.bincount(groups, weights=over), np.bincount(groups)
    return design_effect_of(overs.astype(np.float64), sizes.astype(np.float64))


def design_effect_of(overs: Floats, sizes: Floats, of: str = "call") -> Alike:
    """The same from counts: how many are over, and how many there are, in each group that has any."""
    n, count = int(sizes.sum()), sizes.size
    if n == count:
        return INDEPENDENT
    if count == 1:
        return Alike(float(n), 1.0, of)
    rarer = overs if 2 * overs.sum() <= n else sizes - overs
    between, within = _mean_squares(rarer, sizes)
    if between <= within:
        return INDEPENDENT
    if rarer.sum() < ENOUGH:
        if not _bunched(rarer, float((sizes * (sizes - 1)).sum()) / (n * (n - 1))):
            return INDEPENDENT
    elif within > 0 and f_above(between / within, count - 1, n - count) > 0.05:
        return INDEPENDENT
    usual = (n - float((sizes**2).sum()) / n) / (count - 1)
    icc = float((between - within) / (between + (usual - 1) * within))
    return Alike(1.0 + (float((sizes**2).sum()) / n - 1.0) * icc, icc, of)


def _mean_squares(overs: Floats, sizes: Floats) -> tuple[float, float]:
    n = float(sizes.sum())
    shares = overs / sizes
    share = float(overs.sum()) / n
    between = float((sizes * (shares - share) ** 2).sum()) / (sizes.size - 1)
    # Of zeros and ones the squares within a group sum to m s (1 - s); rounding must not make equal groups differ.
    within = float((sizes * shares * (1 - shares)).sum()) / (n - sizes.size)
    return between, within


def _bunched(counts: Floats, chance: float) -> bool:
    """Whether more pairs share a group than may be; `chance` is that of a single pair.

    For few, where an F or chi-square test takes two that meet by chance for a pattern: the number of pairs that do is
    nearly Poisson. At one in a hundred, for the sake of verdicts that hang on a handful.
    """
    total = float(counts.sum())
    pairs = float((counts * (counts - 1)).sum()) / 2
    return poisson_above(pairs, total * (total - 1) / 2 * chance) <= 0.01


def overdispersion(counts: Floats, exposures: Floats) -> Alike:
    """The discount for events counted per group: Pearson's chi-square over its degrees of freedom, where it is real.

    Poisson counts have a factor of 1; events that come in bunches have more, and weigh so much less.
    """
    exposed = exposures > 0
    counts, exposures = counts[exposed], exposures[exposed]
    degrees, total = counts.size - 1, float(counts.sum())
    if total == 0 or degrees < 1:
        return INDEPENDENT
    expected = total / float(exposures.sum()) * exposures
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    factor = chi_square / degrees
    if factor <= 1.0:
        return INDEPENDENT
    if total < ENOUGH:
        if not _bunched(counts, float(((exposures / exposures.sum()) ** 2).sum())):
            return INDEPENDENT
    elif chi_square_above(chi_square, degrees) > 0.05:
        return INDEPENDENT
    return Alike(factor, min(1.0, (factor - 1.0) / max(1.0, total / counts.size)))
