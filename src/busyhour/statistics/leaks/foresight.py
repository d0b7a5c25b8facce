"""Before a run: what leak it could see, and how long it has to be for a given one."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, log, sqrt
from statistics import NormalDist

import numpy as np

from busyhour.statistics.leaks.shapes import coarse_taus
from busyhour.statistics.leaks.traces import LEAST_BLOCKS, Trace, blocks, readings, without_load

POWER = 0.9


@dataclass(frozen=True, slots=True)
class Noise:
    """What readings do without a leak: their standard deviation, how alike two in a row are (the autocorrelation at
    lag one, 0 to 1), and how often they are taken."""

    deviation: float
    alike: float
    every_seconds: float

    @property
    def effective_per_hour(self) -> float:
        """How many independent readings an hour of these is worth: f (1 - rho) / (1 + rho)."""
        return 3600 / self.every_seconds * (1 - self.alike) / (1 + self.alike)

    @property
    def memory_hours(self) -> float:
        """The time after which two readings are alike by 1 / e."""
        return inf if self.alike >= 1 else 0.0 if self.alike <= 0 else -self.every_seconds / 3600 / log(self.alike)

    @classmethod
    def of(cls, trace: Trace) -> Noise | None:
        """From a trace of a system at rest or at its usual load, a line taken away; None of fewer than ten blocks."""
        given = readings(trace)
        if len(given.hours) < LEAST_BLOCKS:
            return None
        made = blocks(without_load(given))
        if len(made.hours) < LEAST_BLOCKS:
            return None
        line = np.polynomial.Polynomial.fit(made.hours, made.value, 1)
        rest = made.value - line(made.hours)
        power = float((rest * rest).mean())
        alike = float((rest[1:] * rest[:-1]).mean()) / power if power > 0 else 0.0
        n = len(rest)  # both estimates are too small by about what a line takes (Kendall 1954)
        return cls(sqrt(power * n / (n - 2)), min(0.98, max(0.0, alike + (1 + 3 * alike) / n)), made.width * 3600)


def hours_to_detect(
    noise: Noise,
    rate_per_hour: float,
    *,
    limit_per_hour: float,
    alpha: float = 0.01,
    power: float = POWER,
) -> float:
    """How long a run must be to tell a leak of that rate from the limit, in hours.

    [12 s^2 (z_a + z_b)^2 / (f_eff (r - r0)^2)]^(1/3), s the noise's deviation: least squares, from noise alone. A
    warm-up that may still be going on asks for more (`detectable_per_hour`). Infinite for a rate that is not above the
    limit.
    """
    if rate_per_hour <= limit_per_hour or noise.effective_per_hour <= 0:
        return inf
    reach = _z(1 - alpha) + _z(power)
    excess = rate_per_hour - limit_per_hour
    return float((12 * noise.deviation**2 * reach**2 / (noise.effective_per_hour * excess**2)) ** (1 / 3))


def detectable_per_hour(
    noise: Noise,
    hours: float,
    *,
    limit_per_hour: float,
    alpha: float = 0.01,
    power: float = POWER,
    settling_hours: float = 0.0,
) -> float:
    """The smallest leak that a run of so many hours finds with probability `power`.

    Without `settling_hours` the inverse of `hours_to_detect`. With it, the slope is told apart from a warm-up of any
    time constant up to that, by generalised least squares under the noise: in a run that is short against it, hardly.
    """
    if hours <= 0:
        return inf
    reach = _z(1 - alpha) + _z(power)
    if settling_hours <= 0:
        if noise.effective_per_hour <= 0:
            return inf
        return limit_per_hour + reach * noise.deviation * sqrt(12 / (noise.effective_per_hour * hours**3))
    return limit_per_hour + reach * noise.deviation * _error_beside_warm_up(noise, hours, settling_hours)


def _error_beside_warm_up(noise: Noise, hours: float, settling_hours: float) -> float:
    """The standard error of the slope in units of the noise, beside the warm-up that hides it best."""
    n = int(min(200, max(8, hours * 3600 / noise.every_seconds)))
    at = np.linspace(0.0, hours, n)
    apart = np.abs(at[:, None] - at[None, :])
    memory = max(noise.memory_hours, 1e-6)
    # n points of what may have been more: each stands for as much independent information as it replaces.
    thinned = max(1.0, noise.effective_per_hour * hours / n) if memory < hours / n else 1.0
    precision = np.linalg.inv(np.exp(-apart / min(memory, 100 * hours)) + 1e-9 * np.eye(n)) * thinned
    worst = 0.0
    for tau in coarse_taus(hours, settling_hours):
        columns = np.column_stack([np.ones(n), 1 - np.exp(-at / tau), at])
        worst = max(worst, sqrt(float(np.linalg.pinv(columns.T @ precision @ columns)[2, 2])))
    return worst


def _z(p: float) -> float:
    return NormalDist().inv_cdf(p)
