"""Many samples as few: equal ones together with their count, by groups, and in order as if each stood for itself."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import overload

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


class Counted(Sequence[float]):
    """The sorted samples of `(value, count, group)`; the infinitely late may be among them.

    A Sequence of all samples that takes no more memory than there are different ones. Raises ValueError for a value
    that is no number.
    """

    def __init__(self, readings: Iterable[tuple[float, int, Hashable]]) -> None:
        known: dict[Hashable, int] = {}
        rows = [(value, count, known.setdefault(group, len(known))) for value, count, group in readings if count > 0]
        self._values = np.array([row[0] for row in rows], dtype=np.float64)
        if np.isnan(self._values).any():
            raise ValueError("a sample that is not a number")
        self._counts = np.array([row[1] for row in rows], dtype=np.float64)
        self._groups = np.array([row[2] for row in rows], dtype=np.intp)
        order = np.argsort(self._values, kind="stable")
        self._ordered = self._values[order]
        self._ends = np.cumsum(self._counts[order])

    def __len__(self) -> int:
        return int(self._ends[-1]) if self._ends.size else 0

    @overload
    def __getitem__(self, index: int) -> float: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[float]: ...
    def __getitem__(self, index: int | slice) -> float | Sequence[float]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        at = index + len(self) if index < 0 else index
        if not 0 <= at < len(self):
            raise IndexError(index)
        return float(self._ordered[np.searchsorted(self._ends, at, side="right")])

    def at_least(self, limit: float) -> tuple[Floats, Floats]:
        """How many samples of each group are at or above `limit`, and how many it has."""
        over = np.where(self._values >= limit, self._counts, 0.0)
        overs, sizes = np.bincount(self._groups, weights=over), np.bincount(self._groups, weights=self._counts)
        return overs.astype(np.float64), sizes.astype(np.float64)
