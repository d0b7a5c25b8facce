"""The shapes of indicators: what is done with the readings of a phase."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import numpy as np

from busyhour.columns import operations_of, samples_of
from busyhour.errors import PlanError
from busyhour.indicators.readings import Reading, columns_of, joined
from busyhour.model import Comparison, Estimate, Evidence, Outcome, Run
from busyhour.statistics.events import Events
from busyhour.statistics.exact import Exact, Worst, weighted_quantile
from busyhour.statistics.mean import Mean
from busyhour.statistics.quantile import Quantile
from busyhour.statistics.rate import Rate
from busyhour.statistics.wording import percentile

TOLD_AT_MOST = 160
"""Characters of an example in a sentence."""
PHASES_TOLD = 3
REASONS_TOLD = 3
HARNESS = "harness"
Read = Callable[[Run, str], Sequence[Reading]]
"""Reads the run's operations of a phase."""


class _Measured(Evidence, Protocol):
    @property
    def n(self) -> int: ...
    @property
    def value(self) -> float | None: ...
    @property
    def low(self) -> float | None: ...
    @property
    def high(self) -> float | None: ...


def estimated(what: str, unit: str, measured: _Measured) -> Estimate:
    return Estimate(what, unit, measured.n, measured.value, measured.low, measured.high, measured)


def _phases(read: Read, phase: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part for _, part in read.parts)) if isinstance(read, Pooled) else (phase,)


def checked(q: float) -> None:
    if not 0 < q <= 1:
        mend = f" (did you mean {q / 100:g}?)" if 1 < q <= 100 else ""
        raise PlanError(f"a quantile lies between 0 and 1, not at {q:g}{mend}")


@dataclass(frozen=True)
class Explained:
    """Evidence that says more of itself than the numbers do."""

    evidence: Evidence
    why: str

    def at_most(self, limit: float, alpha: float) -> Comparison:
        return self._told(self.evidence.at_most(limit, alpha))

    def at_least(self, limit: float, alpha: float) -> Comparison:
        return self._told(self.evidence.at_least(limit, alpha))

    def _told(self, comparison: Comparison) -> Comparison:
        return replace(comparison, because="; ".join(filter(None, (comparison.because, self.why))))


# ---------------------------------------------------------------- the shapes of indicators


@dataclass(frozen=True)
class QuantileOf:
    """A quantile of the readings; q = 1 is the worst of them, known exactly and of this run only."""

    name: str
    phase: str
    q: float
    unit: str
    noun: str
    read: Read

    def __post_init__(self) -> None:
        checked(self.q)

    @property
    def what(self) -> str:
        return f"{'longest' if self.q == 1 else percentile(self.q)} {self.name} in {self.phase}"

    @property
    def phases(self) -> tuple[str, ...]:
        return _phases(self.read, self.phase)

    def __call__(self, run: Run) -> Estimate:
        readings = columns_of(self.read(run, self.phase))
        if self.q == 1:
            return estimated(self.what, self.unit, Worst.of(readings.value.tolist(), noun=self.noun))
        groups = readings.groups
        return estimated(self.what, self.unit, Quantile.of(readings.value.tolist(), self.q, groups, noun=self.noun))


@dataclass(frozen=True)
class ShareOf:
    """The share of the readings that are not 0, in percent. `explain` says what became of the others."""

    name: str
    phase: str
    noun: str
    read: Read
    unit: str = "%"
    explain: Callable[[Run, str], str] | None = None

    @property
    def what(self) -> str:
        return f"{self.name} in {self.phase}"

    @property
    def phases(self) -> tuple[str, ...]:
        return _phases(self.read, self.phase)

    def __call__(self, run: Run) -> Estimate:
        readings = columns_of(self.read(run, self.phase))
        hits = readings.value != 0
        rate = Rate.of(hits.tolist(), readings.groups, noun=self.noun)
        estimate = estimated(self.what, self.unit, rate)
        why = "" if self.explain is None or hits.all() else _explained(self.explain, run, self.phases)
        return replace(estimate, evidence=Explained(rate, why)) if why else estimate


def _explained(explain: Callable[[Run, str], str], run: Run, phases: Sequence[str]) -> str:
    """What became of the others: of the first phases that have any to tell of."""
    told = [said for phase in phases if (said := explain(run, phase))]
    more = f", and in {len(told) - PHASES_TOLD} more phases" if len(told) > PHASES_TOLD else ""
    return ", ".join(told[:PHASES_TOLD]) + more


@dataclass(frozen=True)
class Pooled:
    """The readings of several indicators in one: each of its own phase."""

    parts: tuple[tuple[Read, str], ...]

    def __call__(self, run: Run, phase: str) -> Sequence[Reading]:
        return joined([read(run, its_phase) for read, its_phase in self.parts])


@dataclass(frozen=True)
class CountOf:
    """How many of the readings are not 0: a statement of this run. Says the first of them, by its group."""

    name: str
    phase: str
    read: Read
    unit: str = ""

    @property
    def what(self) -> str:
        return f"{self.name} in {self.phase}"

    @property
    def phases(self) -> tuple[str, ...]:
        return _phases(self.read, self.phase)

    def __call__(self, run: Run) -> Estimate:
        readings = self.read(run, self.phase)
        hits = [reading.group for reading in readings if reading.value]
        first = hits[0] if hits else ""
        note = f"the first: {first if len(first) <= TOLD_AT_MOST else first[:TOLD_AT_MOST] + '...'}" if hits else ""
        return estimated(self.what, self.unit, Exact(len(hits) if readings else None, len(readings), note))


@dataclass(frozen=True)
class EventsPer:
    """Events per exposure: in percent of it (unit "%"), or each."""

    name: str
    phase: str
    unit: str
    events: str
    noun: str
    read: Read

    @property
    def what(self) -> str:
        return f"{self.name} in {self.phase}"

    @property
    def phases(self) -> tuple[str, ...]:
        return _phases(self.read, self.phase)

    def __call__(self, run: Run) -> Estimate:
        readings = columns_of(self.read(run, self.phase))
        events = Events.of(
            [round(value) for value in readings.value.tolist()],
            [1.0] * len(readings) if readings.exposure is None else readings.exposure.tolist(),
            readings.groups,
            per=100 if self.unit == "%" else 1,
            noun=self.noun,
            what=self.events,
        )
        return estimated(self.what, self.unit, events)


Poolable = TypeVar("Poolable", QuantileOf, ShareOf, CountOf, EventsPer)


def across(where: str, indicators: Sequence[Poolable]) -> Poolable:
    """One indicator over the readings of several of the same kind: `across("all outages", [dead_air(p) for p in ...])`.

    Raises PlanError when there are none, or they are not alike but for their phases and readings.
    """
    if not indicators:
        raise PlanError(f"across({where!r}): give at least one indicator")
    alike = {replace(one, phase=where, read=indicators[0].read) for one in indicators}
    if len(alike) > 1:
        names = ", ".join(dict.fromkeys(one.what for one in indicators))
        raise PlanError(f"across({where!r}): these are not alike: {names}")
    parts = [one.read.parts if isinstance(one.read, Pooled) else ((one.read, one.phase),) for one in indicators]
    return replace(indicators[0], phase=where, read=Pooled(tuple(part for some in parts for part in some)))


@dataclass(frozen=True)
class _LowestSeen:
    """The lowest of what was measured; in phases that gave no reading it may be lower still."""

    seen: Exact
    unseen: tuple[str, ...]

    @property
    def n(self) -> int:
        return self.seen.n

    @property
    def value(self) -> float | None:
        return self.seen.value

    @property
    def low(self) -> float | None:
        return None

    @property
    def high(self) -> float | None:
        return self.seen.high

    def at_most(self, limit: float, alpha: float) -> Comparison:
        return self._unless(Outcome.FAIL, self.seen.at_most(limit, alpha))

    def at_least(self, limit: float, alpha: float) -> Comparison:
        return self._unless(Outcome.PASS, self.seen.at_least(limit, alpha))

    def _unless(self, unknown: Outcome, found: Comparison) -> Comparison:
        if found.outcome is not unknown:
            return found
        return Comparison(Outcome.INCONCLUSIVE, f"nothing was measured in {', '.join(self.unseen)}")


@dataclass(frozen=True)
class Lowest:
    """The lowest value of several indicators, each of a phase of its own: what an average over them would hide. A
    statement of this run."""

    where: str
    parts: tuple[ShareOf, ...]

    @property
    def what(self) -> str:
        return f"lowest {self.parts[0].name} in {self.where}"

    @property
    def unit(self) -> str:
        return self.parts[0].unit

    @property
    def phases(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(phase for part in self.parts for phase in part.phases))

    def __call__(self, run: Run) -> Estimate:
        found = [(estimate.value, part.phase, estimate.n) for part in self.parts for estimate in [part(run)]]
        measured = [(value, phase, n) for value, phase, n in found if value is not None]
        if not measured:
            return estimated(self.what, self.unit, Exact(None, 0))
        began = {mark.name for mark in run.marks("phase.began")}
        unseen = tuple(phase for value, phase, _ in found if value is None and phase in began)
        value, phase, n = min(measured)
        seen = Exact(value, sum(n for _, _, n in measured), f"in {phase}, of {n}")
        return estimated(self.what, self.unit, _LowestSeen(seen, unseen) if unseen else seen)


def lowest(where: str, indicators: Sequence[ShareOf]) -> Lowest:
    """The lowest of some shares: `lowest("any outage", [call_success(p) for p in outages])`. Raises PlanError for none
    or unlike ones."""
    across(where, indicators)
    return Lowest(where, tuple(indicators))


@dataclass(frozen=True)
class MeanOf:
    """The mean of the readings."""

    name: str
    phase: str
    unit: str
    noun: str
    read: Read

    @property
    def what(self) -> str:
        return f"mean {self.name} in {self.phase}"

    @property
    def phases(self) -> tuple[str, ...]:
        return (self.phase,)

    def __call__(self, run: Run) -> Estimate:
        readings = columns_of(self.read(run, self.phase))
        groups = readings.groups
        return estimated(self.what, self.unit, Mean.of(readings.value.tolist(), groups, unit=self.unit, noun=self.noun))


@dataclass(frozen=True)
class SampleQuantile:
    """A quantile of a probe's samples by their counts. All of them were taken, so it is exact, for this run.

    `needless` says why a run without samples needs none ("" if it does): what was not to be done was not done late.
    """

    name: str
    source: str
    sample: str
    q: float
    unit: str
    phase: str | None = None
    needless: Callable[[Run], str] | None = None
    worst_phase: bool = False  # the quantile of each phase, and of those the worst

    def __post_init__(self) -> None:
        checked(self.q)

    @property
    def what(self) -> str:
        place = f" in {self.phase}" if self.phase else ""
        return f"{'highest' if self.q == 1 else percentile(self.q)} {self.name}{place}"

    @property
    def phases(self) -> tuple[str, ...]:
        return (self.phase,) if self.phase else ()

    @property
    def reads(self) -> tuple[tuple[str, str], ...]:
        return ((self.source, self.sample),)

    def __call__(self, run: Run) -> Estimate:
        phases: list[str | None] = [mark.name for mark in run.marks("phase.began")] if self.worst_phase else []
        found = [
            self._in(run, source, phase)
            for source in processes_of(run, self.source)
            for phase in phases or [self.phase]
        ]
        measured = [one for one in found if one.value is not None]
        n = sum(one.n for one in measured)
        if not measured:
            why = self.needless(run) if self.needless is not None else ""
            return estimated(self.what, self.unit, Exact(0, 0, why) if why else Exact(None, 0))
        worst = max(measured, key=lambda one: one.value or 0)
        return estimated(self.what, self.unit, Exact(worst.value, n, worst.note if len(measured) > 1 else ""))

    def _in(self, run: Run, source: str, phase: str | None) -> Exact:
        samples = samples_of(run, source, self.sample, phase)
        samples = samples.taken(~np.isnan(samples.value))
        value = weighted_quantile(samples.value, samples.count, self.q)
        notes = [f"in {phase}, the worst phase"] if self.worst_phase and phase else []
        notes += [f"of {source}, the worst process"] if source != self.source else []
        return Exact(value, int(samples.count.sum()), ", ".join(notes))


def processes_of(run: Run, source: str) -> list[str]:
    """The sources of what is to be read of it: of the harness, where it was several processes, that of each.

    It is as good as its worst: a mean over its processes, or their sum, would hide the one that was late.
    """
    told = run.meta.get("harnesses", [])
    workers = [name for name in told if isinstance(name, str)] if isinstance(told, list) else []
    return [source, *(workers if source == HARNESS else [])]


@dataclass(frozen=True)
class Dropped:
    """Arrivals that found no place: none is a measurement, as soon as one of the phases began."""

    phases: tuple[str, ...]
    unit: str = ""

    @property
    def what(self) -> str:
        return f"count of dropped arrivals{' in ' + ' and '.join(self.phases) if self.phases else ''}"

    def __call__(self, run: Run) -> Estimate:
        began = [mark.name for mark in run.marks("phase.began") if not self.phases or mark.name in self.phases]
        if not began:
            return estimated(self.what, self.unit, Exact(None, 0))
        marks = [mark for mark in run.marks("arrival.dropped") if mark.name in began]
        dropped = sum(count for mark in marks if isinstance(count := mark.detail.get("count", 1), int))
        arrived = sum(len(operations_of(run, kind, phase)) for phase in began for kind in ("call", "function"))
        arrived += sum(int(samples_of(run, "requests", "latency_ms", phase).count.sum()) for phase in began)
        return estimated(self.what, self.unit, Exact(dropped, arrived + dropped))
