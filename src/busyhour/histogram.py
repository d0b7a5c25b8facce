"""Readings by the thousand, kept as a handful of weighted samples."""

from __future__ import annotations

from array import array

from busyhour.fastlane import decimal_edges, upper_edges
from busyhour.model import MS, Sample

_PRECISION_BITS = 7  # 64 buckets to the octave: none is wider than 1/64 (1.6 %) of its value


class LogHistogram:
    """Counts durations in buckets of at most 1.6 % of their value, so that a drain is small however long it was.

    Below 128 ns every bucket is exact. There are at most 64 buckets to an octave, so a histogram of everything
    between a nanosecond and a day has fewer than 2,700: memory does not grow with the number of readings.
    """

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}

    def add(self, ns: int, count: int = 1) -> None:
        """Count a duration; a negative one counts as 0 (it was early: it was not late)."""
        upper = _upper_edge(ns)
        self._counts[upper] = self._counts.get(upper, 0) + count

    def add_all(self, durations_ns: array[int]) -> None:
        """Count them, each as `add` does, at a small part of its cost."""
        for upper, count in upper_edges(durations_ns, _PRECISION_BITS):
            self._counts[upper] = self._counts.get(upper, 0) + count

    def drain(self, at_ns: int, source: str, name: str) -> list[Sample]:
        """What was counted since the last drain, one sample for each bucket, smallest first; values in ms.

        The value is the bucket's upper edge: what is read from it is never better than what was.
        """
        counts, self._counts = self._counts, {}
        return [Sample(at_ns, source, name, upper / MS, count) for upper, count in sorted(counts.items())]


def _upper_edge(ns: int) -> int:
    if ns <= 0:
        return 0
    shift = max(0, ns.bit_length() - _PRECISION_BITS)
    return (((ns >> shift) + 1) << shift) - 1


class DecimalHistogram:
    """Counts durations in buckets of 0.5 % to 1 % of their value, whose upper edges are round decimal numbers.

    Between powers of ten, the edges are 1.00, 1.01, ... 2.00, 2.02, ... 5.00, 5.05, ... 10.0. So every limit of two
    digits (300 ms, 1.2 s) is an edge, and how many readings are over it is known exactly; at any other limit the
    readings of the bucket that it falls into count as over it. There are 350 buckets to a decade, however many the
    readings.
    """

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}

    def add_all(self, durations_ns: array[int]) -> None:
        """Count them; a negative one counts as 0."""
        for upper, count in decimal_edges(durations_ns):
            self._counts[upper] = self._counts.get(upper, 0) + count

    def drain(self, at_ns: int, source: str, name: str) -> list[Sample]:
        """What was counted since the last drain, one sample for each bucket, smallest first; values in ms."""
        counts, self._counts = self._counts, {}
        return [Sample(at_ns, source, name, upper / MS, count) for upper, count in sorted(counts.items())]
