"""From columns to the few points that a chart has room for: windows of time, thinned readings, ranks of a curve.

However long a run was, a series has at most `WINDOWS_MOST` windows or `POINTS_MOST` points. Infinite values (what never
came) are kept as such; `told` makes JSON of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil, inf, isfinite, isnan

import numpy as np
import numpy.typing as npt

from busyhour.columns import Floats, Ints
from busyhour.model import JSON, SECOND
from busyhour.reports.html.words import duration
from busyhour.statistics.quantile import rank

WINDOWS_MOST = 160
POINTS_MOST = 1_200
READINGS_A_WINDOW = 20
NEVER = "never"
_WIDTHS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400)
_DIGITS = 6

Rows = npt.NDArray[np.intp]


def told(values: Iterable[float | None]) -> list[JSON]:
    """Numbers for a chart: six digits, "never" for what is infinitely late, null for what is not known."""
    return [_told(value) for value in values]


def _told(value: float | None) -> JSON:
    if value is None or isnan(value):
        return None
    if not isfinite(value):
        return NEVER if value > 0 else 0
    short = float(f"{value:.{_DIGITS}g}")
    return int(short) if short.is_integer() else short


# ---------------------------------------------------------------- windows


@dataclass(frozen=True, eq=False, slots=True)
class Windows:
    """A run cut into equal stretches of `width_s` seconds from its beginning on."""

    began_ns: int
    width_s: float
    count: int

    @classmethod
    def of(cls, began_ns: int, ended_ns: int, readings: int, *, each: int = READINGS_A_WINDOW) -> Windows:
        """Of a width that people count in: at most 160 windows, with `each` readings in one on average if there are so
        many at all."""
        seconds = max(1.0, (ended_ns - began_ns) / SECOND)
        most = max(1, min(WINDOWS_MOST, readings // each))
        width: float = next((width for width in _WIDTHS_S if seconds / width <= most), _WIDTHS_S[-1])
        if seconds / width > WINDOWS_MOST:
            width = ceil(seconds / WINDOWS_MOST / _WIDTHS_S[-1]) * _WIDTHS_S[-1]
        return cls(began_ns, min(width, seconds), max(1, ceil(seconds / width)))

    @property
    def middles_s(self) -> list[float]:
        return [round((i + 0.5) * self.width_s, 3) for i in range(self.count)]

    @property
    def edges_s(self) -> list[float]:
        """Where each begins, and where the last ends: for steps."""
        return [round(i * self.width_s, 3) for i in range(self.count + 1)]

    @property
    def told(self) -> str:
        """The width in words: "15 s", "2 min", "1 h"."""
        for size, unit in ((3600, "h"), (60, "min")):
            if self.width_s >= size and self.width_s % size == 0:
                return f"{self.width_s / size:.0f} {unit}"
        return f"{self.width_s:.3g} s" if self.width_s < 600 else duration(self.width_s)

    def index(self, at_ns: Ints) -> Rows:
        """In which each instant falls; what is before or after the run, in the first or the last."""
        found = np.floor((at_ns - self.began_ns) / (self.width_s * SECOND)).astype(np.intp)
        return np.clip(found, 0, self.count - 1)

    def counts(self, at_ns: Ints, weights: Ints | None = None) -> Floats:
        found = np.bincount(self.index(at_ns), weights=weights, minlength=self.count)
        return found.astype(np.float64)

    def sliced(self, at_ns: Ints, values: Floats) -> tuple[Rows, Rows]:
        """The order of readings by window and value, and where in it each window begins (and the last ends)."""
        index = self.index(at_ns)
        order = np.lexsort((values, index))
        return order, np.searchsorted(index[order], np.arange(self.count + 1))


def quantiles(windows: Windows, at_ns: Ints, values: Floats, qs: Sequence[float]) -> list[list[float | None]]:
    """Of each quantile, that of each window by counting, as gates take it; None where there are too few readings for
    any to be beyond it: 20 for the 95th percentile, 100 for the 99th."""
    order, ends = windows.sliced(at_ns, values)
    ordered, stretches = values[order], list(zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True))

    def one(first: int, n: int, q: float) -> float | None:
        least = 1 / (1 - q) if 0.5 < q < 1 else 1
        return None if n < least - 1e-9 else float(ordered[first + rank(n, q) - 1])

    return [[one(first, beyond - first, q) for first, beyond in stretches] for q in qs]


def weighted_quantiles(windows: Windows, at_ns: Ints, values: Floats, counts: Ints, q: float) -> list[float | None]:
    """The same of a histogram: readings that stand for several each. q = 1 is the highest."""
    order, ends = windows.sliced(at_ns, values)
    ordered, seen = values[order], np.cumsum(counts[order])
    found: list[float | None] = []
    for first, beyond in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True):
        before = int(seen[first - 1]) if first else 0
        total = int(seen[beyond - 1]) - before if beyond > first else 0
        if total <= 0:
            found.append(None)
            continue
        place = int(np.searchsorted(seen[first:beyond], before + rank(total, q)))
        found.append(float(ordered[first + place]))
    return found


def in_progress(windows: Windows, began_ns: Ints, ended_ns: Ints) -> list[float | None]:
    """The most that were in progress at once, by window. An end that is not known is the end of the run."""
    begins, ends = np.sort(began_ns), np.sort(ended_ns)
    at_begin = np.arange(1, len(begins) + 1) - np.searchsorted(ends, begins, side="right")
    edges = windows.began_ns + (np.arange(windows.count) * windows.width_s * SECOND).astype(np.int64)
    found = np.searchsorted(begins, edges, side="right") - np.searchsorted(ends, edges, side="right")
    np.maximum.at(found, windows.index(begins), at_begin)
    return [float(one) for one in found]


# ---------------------------------------------------------------- thinned readings


def thinned(at_ns: Ints, values: Floats, most: int = POINTS_MOST) -> Rows:
    """Which readings to draw: all, or of each of `most` / 2 equal stretches the lowest and the highest. In order of
    time; none that is not a number."""
    usable = np.flatnonzero(~np.isnan(values))
    if len(usable) <= most:
        return usable
    at, value = at_ns[usable], values[usable]
    stretches = most // 2
    span = max(1, int(at[-1]) - int(at[0]))
    index = np.minimum((at - at[0]) * stretches // span, stretches - 1)
    order = np.lexsort((value, index))
    first = np.flatnonzero(np.diff(index[order], prepend=-1))
    last = np.append(first[1:], len(order)) - 1
    kept: Rows = usable[np.unique(np.concatenate([order[first], order[last]]))]
    return kept


def ranks(n: int, most: int, wanted: Sequence[float] = ()) -> list[float]:
    """The quantiles at which the curve of n samples is drawn: evenly on the axis 1 / (1 - q), from 0 to beyond the last
    sample, and those that are `wanted`."""
    if n < 1:
        return []
    grid = 1 - 1 / np.geomspace(1.0, 2.0 * n, most)
    return sorted({*(round(float(q), 12) for q in grid), *(q for q in wanted if 0 < q < 1)})


def apart(xs: Sequence[float], hair: float = 0.0005) -> list[float]:
    """Places in order, equal ones a hair apart: a picture has one point for each place."""
    found: list[float] = []
    for x in xs:
        found.append(x if not found or x > found[-1] else round(found[-1] + hair, 6))
    return found


def stepped(values: Sequence[float | None]) -> list[JSON]:
    """Windows as steps: the last goes on to its own end."""
    return told([*values, *values[-1:]])


def highest_finite(values: Iterable[float | None]) -> float:
    return max((value for value in values if value is not None and value < inf and not isnan(value)), default=0.0)
