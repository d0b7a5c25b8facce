"""Gates that a leak breaks: memory that grows for hours, and what calls leave behind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import inf, isfinite

from busyhour.errors import PlanError
from busyhour.indicators.growth import READ_AS, Growing, Life, batch, longest_life, unbroken
from busyhour.indicators.shapes import processes_of
from busyhour.indicators.unread import why_unread
from busyhour.model import Estimate, Outcome, Phase, Run, Service, Verdict
from busyhour.statistics.leaks.cause import Cause, Sensor, cause
from busyhour.statistics.leaks.counts import Residue, judge_counts
from busyhour.statistics.leaks.trend import SETTLING_HOURS, Finding, Trend
from busyhour.statistics.leaks.weighing import Slope
from busyhour.statistics.wording import exactly, number

_MEMORY = (Sensor.PRIVATE_DIRTY, Sensor.RSS)
_OUTCOMES = {
    Finding.LEAK: Outcome.FAIL,
    Finding.NO_LEAK: Outcome.PASS,
    Finding.STEP: Outcome.PASS,  # it grew once, and stayed
}
_BADNESS = list(Outcome)
_LEAST_CALLS = 10  # what fewer keep comes in steps, and steps are not growth
COUNTED = (Sensor.DESCRIPTORS, Sensor.THREADS, Sensor.TASKS, Sensor.SOCKETS, Sensor.CHILDREN)


def _name(service: Service | str) -> str:
    return service if isinstance(service, str) else service.name


def _names(phases: Sequence[Phase | str]) -> tuple[str, ...]:
    return tuple(phase if isinstance(phase, str) else phase.name for phase in phases)


@dataclass(frozen=True)
class NoLeak:
    """In the long run the memory of a service grows by no more than `mb_per_hour`, MB being 10^6 bytes.

    Judged is the longest life of its processes, by `statistics.leaks`: LEAK fails; NO LEAK and STEP pass; RETENTION,
    SUSPECT and too little evidence are INCONCLUSIVE, and so is whatever less than `settling_hours` say. watched: a
    service, or "harness" for busyhour itself; of a service the plan needs a probe (`Process`). phases: only readings in
    these (none: all). A warm-up may take a time constant of `settling_hours`: in a run that is short against it a leak
    is hardly told from one. Raises PlanError for a limit below 0, or an alpha outside (0, 0.5).
    """

    watched: Service | str
    mb_per_hour: float
    within: Sequence[Phase | str] = field(default=(), kw_only=True)
    alpha: float = field(default=0.01, kw_only=True)
    settling_hours: float = field(default=SETTLING_HOURS, kw_only=True)

    def __post_init__(self) -> None:
        if not (isfinite(self.mb_per_hour) and self.mb_per_hour >= 0):
            raise PlanError(f"{self.name}: the limit must be a number of MB an hour, 0 or more")
        if not 0 < self.alpha < 0.5:
            raise PlanError(f"{self.name}: alpha is an error rate and lies between 0 and 0.5, not at {self.alpha:g}")

    @property
    def name(self) -> str:
        where = f" in {', '.join(self.phases)}" if self.phases else ""
        return f"memory of {_name(self.watched)}{where} grows by <= {exactly(self.mb_per_hour)} MB/h"

    @property
    def phases(self) -> tuple[str, ...]:
        return _names(self.within)

    def judge(self, run: Run) -> Verdict:
        """Of the harness, where it was several processes, the worst of them."""
        verdicts = [self._of(run, process) for process in processes_of(run, _name(self.watched))]
        return max(verdicts, key=lambda verdict: _BADNESS.index(verdict.outcome))

    def _of(self, run: Run, process: str) -> Verdict:
        life = longest_life(run, process, self.phases)
        if not any(sensor in life.traces for sensor in _MEMORY):
            why = _unread(run, process, _MEMORY) or "give the plan a probe of it: Process(service)"
            return Verdict(self.name, Outcome.NOT_RUN, f"memory of {process} was not read; {why}")
        found = cause(
            life.traces, limit_mb_per_hour=self.mb_per_hour, alpha=self.alpha, settling_hours=self.settling_hours
        )
        young = life.hours < self.settling_hours and found.finding in (Finding.LEAK, Finding.RETENTION)
        if young:  # all of it may have been one warm-up
            found = replace(found, finding=Finding.SUSPECT)
        sensor = next(sensor for sensor in _MEMORY if sensor in found.trends)
        trend = found.trends[sensor]
        outcome = _OUTCOMES.get(found.finding, Outcome.INCONCLUSIVE)
        brief = life.hours < self.settling_hours and outcome is Outcome.PASS
        if brief:  # what leaks in steps has had no time for one, or for a second
            outcome = Outcome.INCONCLUSIVE
        who = f"{sensor} of {process}"
        sentence, estimate = self._sentence(who, life, found, trend), self._estimate(who, life, sensor, trend)
        if young:
            sentence += f"; {number(life.hours)} h may all have been warming up"
        if brief:
            sentence += f"; {number(life.hours)} h are too few to show it, {exactly(self.settling_hours)} would"
        if sensor is not _MEMORY[0] and (why := _unread(run, process, _MEMORY[:1])):
            sentence += f"; {_MEMORY[0]} was not read: {why}"
        return Verdict(self.name, outcome, sentence, estimate, limits=(None, self.mb_per_hour))

    def _estimate(self, who: str, life: Life, sensor: Sensor, trend: Trend) -> Estimate:
        what, n = f"growth of {who}", len(life.traces[sensor].value)
        slope = trend.slope
        if slope is None:
            return Estimate(what, "MB/h", n, None, None, None)
        return Estimate(what, "MB/h", n, slope.value, slope.low, slope.high, Growing(trend, life, sensor))

    def _sentence(self, who: str, life: Life, found: Cause, trend: Trend) -> str:
        told = [f"{who}: {found.finding}"]
        if trend.slope is not None:
            told.append(f"{_slope(trend.slope, apart_from=(self.mb_per_hour,))} MB/h")
        if trend.per_call is not None:
            told.append(f"{_slope(trend.per_call.times(1000))} KB per call")
        told.append(f"in {number(life.hours)} h" + (f", the longest of {life.of} lives" if life.of > 1 else ""))
        because = [trend.because]
        if found.finding in (Finding.LEAK, Finding.RETENTION):
            because.append(
                f"what grows: {', '.join(found.classes)} ({found.because})" if found.classes else found.because
            )
        because += self._power(trend, _calls(life))
        return f"{', '.join(told)}; limit {exactly(self.mb_per_hour)} MB/h: {'; '.join(filter(None, because))}"

    def _power(self, trend: Trend, calls: int | None) -> list[str]:
        told = []
        if trend.smallest_detectable is not None and isfinite(trend.smallest_detectable):
            smallest = f"the smallest leak this run could have seen is {number(trend.smallest_detectable)} MB/h"
            if calls is not None and calls < _LEAST_CALLS:
                few = "1 call is" if calls == 1 else f"{calls} calls are"
                smallest += f" by the clock ({few} too few to tell of one by the call)"
            elif trend.smallest_detectable_per_call is not None and isfinite(trend.smallest_detectable_per_call):
                smallest += f", {number(1000 * trend.smallest_detectable_per_call)} KB per call"
            told.append(f"{smallest}, a warm-up of up to {number(self.settling_hours)} h allowed for")
        if trend.needed_hours is not None and trend.finding in (Finding.INCONCLUSIVE, Finding.SUSPECT):
            needed = trend.needed_hours
            told.append("no length of run would decide at this limit" if needed == inf else f"{number(needed)} h would")
        return told


def _calls(life: Life) -> int | None:
    """How many were completed in it; None where no call is known of."""
    completed = next((trace.completed for trace in life.traces.values() if trace.completed is not None), None)
    return None if completed is None or not len(completed) else round(completed[-1] - completed[0])


def _unread(run: Run, service: str, sensors: Sequence[Sensor]) -> str:
    return why_unread(run, service, [name for sensor in sensors for name, _ in READ_AS[sensor]])


def _slope(slope: Slope, *, apart_from: Sequence[float] = ()) -> str:
    value, low, high = (number(one, apart_from=apart_from) for one in (slope.value, slope.low, slope.high))
    return f"{value} ({low}-{high})" if slope.low >= 0 else f"{value} ({low} to {high})"


@dataclass(frozen=True)
class NothingLeft:
    """When the calls of a batch are over, nothing is left of them: no descriptor, thread, task, socket or process.

    batches: phases, each of which is a batch of calls; what is there after the first is the baseline, so that it takes
    four to tell. FAIL when a counter grew in three batches in a row; PASS when none did that could be read, and the
    sentence names the others (few agents tell their tasks). Where another process came into the place of the first,
    those of one process that are most are judged. Raises PlanError for fewer than four batches, or no counters.
    """

    watched: Service | str
    batches: Sequence[Phase | str]
    counters: Sequence[Sensor] = COUNTED

    def __post_init__(self) -> None:
        if len(self.batches) < 4:
            raise PlanError(f"{self.name}: {len(self.batches)} batches; give it four or more, the first to warm up")
        if not self.counters:
            raise PlanError(f"{self.name}: it has no counters to look at")

    @property
    def name(self) -> str:
        return f"calls leave nothing behind in {_name(self.watched)}"

    @property
    def phases(self) -> tuple[str, ...]:
        return _names(self.batches)

    def judge(self, run: Run) -> Verdict:
        name = _name(self.watched)
        phases, broken = unbroken(run, name, self.phases)
        first, *others = (batch(run, name, phase, self.counters) for phase in phases)
        others = [one for one in others if one.total]
        if not first.counts or not others:
            missing = f"no calls in the batches after the first{broken}"
            if not first.counts:
                why = _unread(run, name, self.counters)
                missing = f"no counter was read{f': {why}' if why else ''}"
            return Verdict(self.name, Outcome.NOT_RUN, f"{self.name}: {missing}")
        found = judge_counts(first.counts, others)
        unread = [counter for counter in self.counters if counter not in first.counts]
        calls = sum(one.total for one in others)
        leaks = [one for one in found if one.finding is Finding.LEAK]
        if leaks:
            return Verdict(self.name, Outcome.FAIL, f"{self.name}: {'; '.join(map(_left, leaks))}")
        unsure = [f"{one.counter}: {one.because}" for one in found if one.finding is not Finding.NO_LEAK]
        clean = f"{calls} calls in {len(others)} batches{broken}"
        if most := max((one.chance.high for one in found if one.chance is not None), default=None):
            clean += f", so that fewer than {number(100 * most)} % of calls leave anything"
        note = f" ({', '.join(unread)}: not read)" if unread else ""
        if unsure:
            return Verdict(self.name, Outcome.INCONCLUSIVE, f"{self.name}: {'; '.join(unsure)}; {clean}{note}")
        return Verdict(self.name, Outcome.PASS, f"{self.name}: {clean}{note}")


def _left(residue: Residue) -> str:
    kept = ", ".join("?" if one is None else f"{one:+d}" for one in residue.residues)
    rates = [
        f"{number(one.value)} per call that ended by {ending}"
        for ending, one in residue.per_call.items()
        if one.value is not None
    ]
    return f"{residue.counter}: {residue.because} ({kept} after each; {', '.join(rates)})"
