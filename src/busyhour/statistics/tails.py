"""The distributions we need, as typed functions of floats: the one place that knows scipy.

`scipy.special` only: `scipy.stats` takes a second to import. The binomial and Poisson tails are continued to real
counts by the incomplete beta and gamma functions, which is what an effective sample size asks for.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import special  # type: ignore[import-untyped]  # its stubs are a package of their own


def binomial_below(k: float, n: float, p: float) -> float:
    """P(X <= k)."""
    return 1.0 if k >= n else float(special.betainc(n - k, k + 1, 1 - p))


def binomial_above(k: float, n: float, p: float) -> float:
    """P(X >= k)."""
    return 1.0 if k <= 0 else float(special.betainc(k, n - k + 1, p))


def share_above(k: float, n: float, alpha: float) -> float:
    """The share that k of n leave possible at most: the upper end of Clopper and Pearson."""
    return 1.0 if k >= n else float(special.betaincinv(k + 1, n - k, 1 - alpha))


def share_below(k: float, n: float, alpha: float) -> float:
    """The share that k of n leave possible at least."""
    return 0.0 if k <= 0 else float(special.betaincinv(k, n - k + 1, alpha))


def poisson_below(k: float, mean: float) -> float:
    """P(X <= k)."""
    return float(special.gammaincc(k + 1, mean))


def poisson_above(k: float, mean: float) -> float:
    """P(X >= k)."""
    return 1.0 if k <= 0 else float(special.gammainc(k, mean))


def mean_above(k: float, alpha: float) -> float:
    """The Poisson mean that k events leave possible at most (Garwood 1936)."""
    return float(special.gammaincinv(k + 1, 1 - alpha))


def mean_below(k: float, alpha: float) -> float:
    """The Poisson mean that k events leave possible at least."""
    return 0.0 if k <= 0 else float(special.gammaincinv(k, alpha))


def f_above(ratio: float, between: int, within: int) -> float:
    """P(F >= ratio) with so many degrees of freedom."""
    return float(special.fdtrc(between, within, ratio))


def chi_square_above(value: float, degrees: int) -> float:
    return float(special.chdtrc(degrees, value))


def student(degrees: int, probability: float) -> float:
    """The quantile of Student's t."""
    return float(special.stdtrit(degrees, probability))


def student_below(degrees: npt.NDArray[np.float64], values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """P(T <= value), for each value and its degrees of freedom."""
    return np.asarray(special.stdtr(degrees, values), dtype=np.float64)
