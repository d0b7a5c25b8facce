"""Every shape by generalised least squares, under every noise: all of them at once, from one matrix of products.

The likelihood of a fit needs no more than the products of its columns, so the columns are multiplied with one another
once for each noise, and thousands of fits are eliminations of small matrices, done side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log

import numpy as np

from busyhour.statistics.leaks.noise import Noises
from busyhour.statistics.leaks.shapes import Design, Shape
from busyhour.statistics.leaks.traces import Floats
from busyhour.statistics.tails import student_below

_LEAST_WEIGHT = 1e-4
_MOST_CELLS = 60


@dataclass(frozen=True, eq=False)
class Fitted:
    """One shape under all noises (first axis) and with all parameters (second axis), the values in units of about 1.

    `slope` is what is left of its growth at the end, per hour; `error` its standard error; `score` minus twice the
    logarithm of the likelihood, the parameters paid for (BIC); `evidence` the logarithm of the likelihood with the
    coefficients and the variance integrated out, by which variants are weighed against each other.
    """

    design: Design
    shape: Shape
    slope: Floats
    error: Floats
    score: Floats
    evidence: Floats
    degrees: int

    @property
    def bic(self) -> float:
        return float(self.score.min())

    @property
    def best(self) -> tuple[int, int]:
        """Noise and variant of the best fit."""
        noise, variant = np.unravel_index(int(self.score.argmin()), self.score.shape)
        return int(noise), int(variant)


def fitted(design: Design, value: Floats, noises: Noises) -> list[Fitted]:
    """All shapes of the design."""
    both = np.column_stack([design.columns, value])
    # The constant is in all of them: it is taken out once, for all.
    ones = noises.precision.sum(axis=2)
    constant = ones.sum(axis=1)
    centred = noises.precision - ones[:, :, None] * ones[:, None, :] / constant[:, None, None]
    products = both.T @ (centred @ both)
    return [_fit(design, shape, products, constant, noises) for shape in design.shapes]


def _fit(design: Design, shape: Shape, products: Floats, constant: Floats, noises: Noises) -> Fitted:
    pivots, coefficient, rest = _eliminated(products, shape)
    n = len(design.columns)
    degrees = max(1, n - shape.width - 1)
    rest = np.maximum(rest, 1e-9 * n)
    usable = (pivots > 1e-9).all(axis=-1)
    log_determinant, log_rest = noises.log_determinant[:, None], np.log(rest)
    score = n * (log_rest - log(n)) + log_determinant + shape.parameters * log(n)
    information = np.log(np.maximum(pivots, 1e-300)).sum(axis=-1) + np.log(constant)[:, None]
    evidence = -0.5 * (log_determinant + information + degrees * log_rest)
    last = np.maximum(pivots[..., -1], 1e-9) if shape.width > 1 else constant[:, None]
    return Fitted(
        design,
        shape,
        slope=coefficient * shape.rate,
        error=np.sqrt(rest / degrees / last) * shape.rate,
        score=np.where(usable, score, np.inf),
        evidence=np.where(usable, evidence, -np.inf),
        degrees=degrees,
    )


def _eliminated(products: Floats, shape: Shape) -> tuple[Floats, Floats, Floats]:
    """Gauss: the pivots of each variant's products, its last coefficient, and the squares that it leaves. What is the
    constant alone has neither pivots nor such a coefficient."""
    columns = shape.variants
    matrix = products[:, columns[:, :, None], columns[:, None, :]]
    wanted = products[:, columns, -1]
    rest = np.broadcast_to(products[:, -1:, -1], matrix.shape[:2]).copy()
    pivots = np.empty(wanted.shape)
    for j in range(columns.shape[1]):
        pivot = np.maximum(matrix[..., j, j], 1e-12)
        pivots[..., j] = matrix[..., j, j]
        rest -= wanted[..., j] ** 2 / pivot
        factor = matrix[..., j + 1 :, j] / pivot[..., None]
        wanted[..., j + 1 :] -= factor * wanted[..., j, None]
        matrix[..., j + 1 :, j + 1 :] -= factor[..., None] * matrix[..., None, j, j + 1 :]
    last = wanted[..., -1] / np.maximum(pivots[..., -1], 1e-12) if shape.width > 1 else np.zeros_like(rest)
    return pivots, last, rest


def plausible(fits: Sequence[Fitted], noises: Noises, *, within: float = 9.0) -> Noises:
    """The noises under which some shape fits nearly as well as any shape does under any."""
    best = np.min([fit.score.min(axis=1) for fit in fits], axis=0)
    return noises.only(np.flatnonzero(best <= best.min() + within))


def curve(fit: Fitted, value: Floats, noises: Noises) -> Floats:
    """The best fit of a shape, at the times of its design."""
    noise, variant = fit.best
    columns = fit.design.columns[:, [0, *fit.shape.variants[variant]]]
    precise = columns.T @ noises.precision[noise]
    coefficients, *_ = np.linalg.lstsq(precise @ columns, precise @ value, rcond=None)
    return np.asarray(columns @ coefficients, dtype=np.float64)


@dataclass(frozen=True, eq=False)
class Belief:
    """What is believed of a slope: Student's distributions, one for each variant of each shape under each noise, and
    the weight of each. Nothing is chosen, so the doubt about the choice is in it."""

    centre: Floats
    error: Floats
    degrees: Floats
    weight: Floats

    @classmethod
    def of(cls, fits: Sequence[Fitted], *, in_the_long_run: bool = False) -> Belief:
        """Shapes weigh by their BIC, their variants by the evidence. A shape that ends is counted with what it still
        rises by at the end or, `in_the_long_run`, with nothing."""
        least = min(fit.bic for fit in fits)
        parts = []
        for fit in fits:
            evidence = fit.evidence.ravel()
            picked = np.argpartition(evidence, -min(_MOST_CELLS, len(evidence)))[-_MOST_CELLS:]
            weight = np.exp(evidence[picked] - evidence[picked].max())
            picked, weight = picked[weight > _LEAST_WEIGHT], weight[weight > _LEAST_WEIGHT]
            centre, error = fit.slope.ravel()[picked], fit.error.ravel()[picked]
            if in_the_long_run and fit.shape.ends:
                centre, error = np.zeros_like(centre), np.zeros_like(error)
            share = weight / weight.sum() * np.exp((least - fit.bic) / 2)
            parts.append((centre, error, np.full(len(picked), float(fit.degrees)), share))
        centre, error, degrees, share = (np.concatenate(column) for column in zip(*parts, strict=True))
        heavy = share > _LEAST_WEIGHT / 10 * share.sum()
        share = share[heavy] / share[heavy].sum()
        return cls(centre[heavy], np.maximum(error[heavy], 1e-12), degrees[heavy], share)

    def below(self, slope: float) -> float:
        """The probability that the slope is at most so much."""
        return float(self.weight @ student_below(self.degrees, (slope - self.centre) / self.error))

    def above(self, slope: float) -> float:
        return float(self.weight @ student_below(self.degrees, (self.centre - slope) / self.error))

    def quantile(self, p: float) -> float:
        """By bisection."""
        low, high = float((self.centre - 20 * self.error).min()), float((self.centre + 20 * self.error).max())
        for _ in range(24):
            middle = (low + high) / 2
            low, high = (middle, high) if self.below(middle) < p else (low, middle)
        return (low + high) / 2
