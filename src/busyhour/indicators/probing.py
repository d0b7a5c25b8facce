"""What is made of a probe's samples over a phase: their mean over its time, what a total grew by, what a call took.

All of them were taken, so a mean and a growth are exact statements of this run. What a call takes of the processor
differs from call to call, and has an interval.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import isnan

import numpy as np
import numpy.typing as npt

from busyhour.indicators.shapes import estimated, processes_of
from busyhour.model import MS, SECOND, Estimate, Run, Sample
from busyhour.statistics.exact import Exact
from busyhour.statistics.mean import AT_LEAST, Mean

Floats = npt.NDArray[np.float64]
_STRETCHES_MAX = 2 * AT_LEAST
_LONGEST_TIMES = 2.0
"""A sample speaks for the time since the one before it, but for no more than so many times the usual: of a gap, nobody
knows."""
_HOUR = 3600


def _samples(run: Run, source: str, name: str, phase: str | None) -> list[Sample]:
    return [sample for sample in run.samples(source, name, phase) if not isnan(sample.value)]


def _worst(run: Run, source: str, of: Callable[[Run, str], Exact]) -> Exact:
    """Of the processes that it was, the one with most."""
    sources = processes_of(run, source)
    found = [(one, process) for process in sources if (one := of(run, process)).value is not None]
    if not found:
        return Exact(None, 0)
    worst, process = max(found, key=lambda pair: pair[0].value or 0.0)
    return worst if len(sources) == 1 else replace(worst, note=f"of {process}, the worst process")


def spoken_for_seconds(samples: Sequence[Sample]) -> Floats:
    """How long each of them speaks for."""
    at_seconds = np.array([sample.at_ns for sample in samples], dtype=np.float64) / SECOND
    gaps = np.diff(at_seconds)
    usual = float(np.median(gaps)) if gaps.size else 1.0
    seconds: Floats = np.minimum(np.concatenate([[usual], gaps]), _LONGEST_TIMES * usual)
    return seconds


@dataclass(frozen=True)
class SampleMean:
    """The mean of a probe's samples over the time of a phase: each weighs as much as the time since the one before."""

    name: str
    source: str
    sample: str
    unit: str
    phase: str

    @property
    def what(self) -> str:
        return f"mean {self.name} in {self.phase}"

    @property
    def phases(self) -> tuple[str, ...]:
        return (self.phase,)

    @property
    def reads(self) -> tuple[tuple[str, str], ...]:
        return ((self.source, self.sample),)

    def __call__(self, run: Run) -> Estimate:
        return estimated(self.what, self.unit, _worst(run, self.source, self._of))

    def _of(self, run: Run, source: str) -> Exact:
        samples = _samples(run, source, self.sample, self.phase)
        if not samples:
            return Exact(None, 0)
        seconds = spoken_for_seconds(samples)
        values = np.array([sample.value for sample in samples], dtype=np.float64)
        return Exact(float((values * seconds).sum() / seconds.sum()), len(samples))


@dataclass(frozen=True)
class SampleGrowth:
    """By how much a total grew in a phase, by the hour or the call completed in it; what began anew counts from 0."""

    name: str
    source: str
    sample: str
    unit: str
    phase: str
    per_call: bool
    factor: float = 1.0

    @property
    def what(self) -> str:
        return f"{self.name} per {'call' if self.per_call else 'hour'} in {self.phase}"

    @property
    def phases(self) -> tuple[str, ...]:
        return (self.phase,)

    @property
    def reads(self) -> tuple[tuple[str, str], ...]:
        return ((self.source, self.sample),)

    def __call__(self, run: Run) -> Estimate:
        return estimated(self.what, self.unit, _worst(run, self.source, self._of))

    def _of(self, run: Run, source: str) -> Exact:
        samples = _samples(run, source, self.sample, self.phase)
        if len(samples) < 2:
            return Exact(None, 0)
        first_ns, last_ns = samples[0].at_ns, samples[-1].at_ns
        calls = sum(first_ns < ended_ns <= last_ns for ended_ns in _ends_ns(run, self.phase))
        over = float(calls) if self.per_call else (last_ns - first_ns) / SECOND / _HOUR
        if not over:
            return Exact(None, 0)
        grown = sum(after if after < before else after - before for before, after in pairwise(s.value for s in samples))
        n = calls if self.per_call else len(samples)
        return Exact(self.factor * grown / over, n)


@dataclass(frozen=True)
class CpuPerCall:
    """Processor time of a service per call completed, from stretches of as many calls each.

    A stretch is from the end of one call to the end of another, so that no time is left out between them; 30 to 60 of
    them, since calls that overlap share what they take. Student's interval of their mean.
    """

    service: str
    phase: str
    unit: str = "ms"

    @property
    def what(self) -> str:
        return f"processor time of {self.service} per call in {self.phase}"

    @property
    def phases(self) -> tuple[str, ...]:
        return (self.phase,)

    @property
    def reads(self) -> tuple[tuple[str, str], ...]:
        return ((self.service, "cpu_pct"),)

    def __call__(self, run: Run) -> Estimate:
        samples = _samples(run, self.service, "cpu_pct", self.phase)
        ends_ns = np.sort(np.array(_ends_ns(run, self.phase), dtype=np.int64))
        if not samples or ends_ns.size < 2:
            return estimated(self.what, self.unit, Mean.of([], unit=self.unit))
        used_ms = np.cumsum(spoken_for_seconds(samples) * [sample.value / 100 for sample in samples]) * SECOND / MS
        at_ns = np.array([sample.at_ns for sample in samples], dtype=np.int64)
        within = ends_ns[(ends_ns >= at_ns[0]) & (ends_ns <= at_ns[-1])]
        if within.size < 2:
            return estimated(self.what, self.unit, Mean.of([], unit=self.unit))
        cuts = np.unique(np.linspace(0, within.size - 1, _STRETCHES_MAX + 1).round().astype(np.intp))
        used = np.diff(np.interp(within[cuts].astype(np.float64), at_ns.astype(np.float64), used_ms))
        per_call = (used / np.diff(cuts)).tolist()
        return estimated(self.what, self.unit, Mean.of(per_call, unit=self.unit, noun="stretches of calls"))


def _ends_ns(run: Run, phase: str) -> list[int]:
    return [call.ended_ns for call in run.operations("call", phase) if call.ended_ns is not None]
