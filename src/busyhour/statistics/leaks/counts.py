"""Counts per batch of calls: after each batch has ended and been collected, nothing may be left of it.

Tasks, threads, descriptors, sockets, children, objects of the project: each is a number that should be what it was
before. Leaks in voice agents are per call and often of one way a call can end, so the batches are kept apart by it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from busyhour.statistics.leaks.trend import Finding
from busyhour.statistics.tails import mean_above, mean_below, share_above, share_below, student

IN_A_ROW = 3
"""So many batches, each of which leaves something behind, are a leak."""


@dataclass(frozen=True, slots=True)
class Batch:
    """So many `calls` by how they ended ("hang-up", "refused"), and what the counters said when all of them were over,
    and the garbage collected. A counter that could not be read is left out."""

    calls: Mapping[str, int]
    counts: Mapping[str, int]

    @property
    def total(self) -> int:
        return sum(self.calls.values())

    @property
    def ending(self) -> str | None:
        """How all its calls ended; None where they did not end alike."""
        ways = [ending for ending, calls in self.calls.items() if calls]
        return ways[0] if len(ways) == 1 else None


@dataclass(frozen=True, slots=True)
class PerCall:
    """What a call leaves behind, with its interval at alpha for either end; None where the batches cannot tell."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Chance:
    """That a call leaks: `leaked` of `calls`, and what that leaves possible at most and at least."""

    leaked: int
    calls: int
    low: float
    high: float


@dataclass(frozen=True)
class Residue:
    """What one counter kept over its baseline after each batch (None: not read), and what it says."""

    counter: str
    finding: Finding
    because: str
    residues: Sequence[int | None]
    chance: Chance | None
    per_call: Mapping[str, PerCall]


def judge_counts(baseline: Mapping[str, int], batches: Sequence[Batch], *, alpha: float = 0.05) -> list[Residue]:
    """One judgement for each counter of the baseline, in its order."""
    return [_judged(counter, start, batches, alpha) for counter, start in baseline.items()]


def chance_of_leak(leaked: int, calls: int, *, alpha: float = 0.05) -> Chance | None:
    """Clopper and Pearson (1934). Of `calls` clean ones the upper end is 1 - alpha^(1 / calls). None of no calls."""
    if calls <= 0:
        return None
    k = min(max(0, leaked), calls)
    return Chance(k, calls, share_below(k, calls, alpha), share_above(k, calls, alpha))


def residues(counter: str, start: int, batches: Sequence[Batch]) -> list[int | None]:
    """What the counter has over its baseline after each batch."""
    return [None if (count := batch.counts.get(counter)) is None else count - start for batch in batches]


def left_by(kept: Sequence[int | None]) -> list[int | None]:
    """What each batch alone left: the residue less that before it."""
    return [None if a is None or b is None else b - a for a, b in pairwise([0, *kept])]


def longest_rise(left: Sequence[int | None]) -> int:
    """The most batches in a row that each left something."""
    longest = current = 0
    for one in left:
        current = current + 1 if one is not None and one > 0 else 0
        longest = max(longest, current)
    return longest


def by_ending(batches: Sequence[Batch], left: Sequence[int | None]) -> dict[str, list[int | None]]:
    """What the batches left whose calls all ended alike, in order. A leak of one ending among others grows in a row
    only here."""
    found: dict[str, list[int | None]] = {}
    for batch, one in zip(batches, left, strict=True):
        if batch.ending is not None:
            found.setdefault(batch.ending, []).append(one)
    return found


def per_call(batches: Sequence[Batch], left: Sequence[int | None], alpha: float) -> dict[str, PerCall]:
    """What a call of each ending leaves.

    Where an ending has batches of its own they are counted: the exact interval of a Poisson mean (Garwood 1936). Where
    endings come mixed only, by least squares over the batches, with Student's interval if there are enough of them.
    """
    known = [(batch, one) for batch, one in zip(batches, left, strict=True) if one is not None]
    endings = list(dict.fromkeys(ending for batch, _ in known for ending, calls in batch.calls.items() if calls))
    mixed = _least_squares(known, endings, alpha)
    found = {}
    for ending in endings:
        own = [(batch.total, one) for batch, one in known if batch.ending == ending]
        found[ending] = _counted(own, alpha) if own else mixed[ending]
    return found


def _counted(own: Sequence[tuple[int, int]], alpha: float) -> PerCall:
    calls, kept = sum(calls for calls, _ in own), sum(kept for _, kept in own)
    events = max(0, kept)
    return PerCall(kept / calls, mean_below(events, alpha) / calls, mean_above(events, alpha) / calls)


def _least_squares(known: Sequence[tuple[Batch, int]], endings: Sequence[str], alpha: float) -> dict[str, PerCall]:
    unknown = dict.fromkeys(endings, PerCall(None, None, None))
    calls = np.array([[batch.calls.get(ending, 0) for ending in endings] for batch, _ in known], dtype=np.float64)
    if not endings or np.linalg.matrix_rank(calls) < len(endings):
        return unknown
    kept = np.array([one for _, one in known], dtype=np.float64)
    value = np.linalg.lstsq(calls, kept, rcond=None)[0]
    degrees = len(known) - len(endings)
    if degrees < 1:
        return {ending: PerCall(float(v), None, None) for ending, v in zip(endings, value, strict=True)}
    rest = kept - calls @ value
    error = np.sqrt(np.diag(np.linalg.inv(calls.T @ calls)) * float(rest @ rest) / degrees)
    reach = student(degrees, 1 - alpha) * error
    return {
        ending: PerCall(float(v), float(v - r), float(v + r))
        for ending, v, r in zip(endings, value, reach, strict=True)
    }


def _judged(counter: str, start: int, batches: Sequence[Batch], alpha: float) -> Residue:
    kept = residues(counter, start, batches)
    left = left_by(kept)
    finding, because = _finding(kept, left, by_ending(batches, left))
    last = next((one for one in reversed(kept) if one is not None), None)
    read = [batch.total for batch, one in zip(batches, kept, strict=True) if one is not None]
    chance = None if last is None else chance_of_leak(last, sum(read), alpha=alpha)
    return Residue(counter, finding, because, kept, chance, per_call(batches, left, alpha))


def _finding(
    kept: Sequence[int | None], left: Sequence[int | None], endings: Mapping[str, Sequence[int | None]]
) -> tuple[Finding, str]:
    for ending, own in {"": left, **endings}.items():
        if longest_rise(own) >= IN_A_ROW:
            which = f" whose calls ended by {ending}" if ending else ""
            return Finding.LEAK, f"it grew in {longest_rise(own)} batches in a row{which}"
    if any(one is None for one in kept):
        return (
            Finding.INCONCLUSIVE,
            f"it could not be read after {sum(one is None for one in kept)} of {len(kept)} batches",
        )
    if len(kept) < IN_A_ROW:
        return Finding.INCONCLUSIVE, f"{len(kept)} batches were run, at least {IN_A_ROW} are needed"
    last = kept[-1] or 0
    if last <= 0:
        return Finding.NO_LEAK, "nothing is left"
    if any((own[-1] or 0) > 0 for own in [left, *endings.values()]):
        return Finding.SUSPECT, f"{last} are left, and the latest batch left some: more batches would tell"
    return Finding.STEP, f"{last} are left, but the latest batch added none"
