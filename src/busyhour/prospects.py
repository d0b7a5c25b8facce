"""What a plan will not be able to say, known before it is carried out.

A phase that a gate reads and in which nothing ever arrives is an error, and so is a service whose readings a gate looks
at and no probe takes: the gate would be NOT RUN, so no run of the plan could pass. All else is a note. Too few readings
leave a gate INCONCLUSIVE at best, but able to fail, and that is what short runs are made for; what a scale leaves out
was asked for; and who soaks without a look at memory may have his reasons, but hardly all of them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from difflib import get_close_matches
from math import ceil, floor, log10

from busyhour.arrivals import Constant, Hold
from busyhour.errors import PlanError
from busyhour.gates import AtLeast, AtMost, Between, NoLeak, NothingLeft
from busyhour.indicators import KeptPerCall, MeanOf, QuantileOf, SampleGrowth, SampleMean, SampleQuantile, ShareOf
from busyhour.indicators.halves import SecondOverFirst
from busyhour.indicators.shapes import HARNESS
from busyhour.indicators.unread import Sensing
from busyhour.indicators.vendors import Said
from busyhour.model import SECOND, Due, Gate, Indicator, Metered, Phase, Plan
from busyhour.planfile import PlanFile, load
from busyhour.statistics.mean import AT_LEAST
from busyhour.statistics.rate import needed
from busyhour.workloads.call import BargeIn, Call, Greeting, Say, Step
from busyhour.workloads.idle import Idle

SOAK_SECONDS = 3600
"""A phase that takes so long is a soak: in less, growth is hardly told from warming up (docs/reference/leaks.md)."""
_MANY = 10_000_000
_TRIES = 16
_LEAST_SCALE = 0.01
_MEMORY = {"private_mb", "private_dirty_mb", "uss_mb", "pss_mb", "rss_mb", "anon_mb", "heap_bytes", "python_blocks"}
_STEPS: dict[str, tuple[type[Step], ...]] = {
    "turns": (Say, BargeIn),
    "interruptions": (BargeIn,),
    "greetings": (Greeting,),
}
"""By the noun of an indicator's readings: the steps of a call that give one each."""


def foretold(file: PlanFile) -> list[str]:
    """A sentence for each thing that the run will not say, with the mend.

    Raises PlanError for what gates read in vain: a phase, with the smallest scale that has arrivals in it; a service.
    """
    scales = _Scales(file)
    if hopeless := [*_empty(file.plan, scales), *_unwatched(file.plan)]:
        raise PlanError([f"{file.path}: {problem}" for problem in hopeless])
    return [
        *scales.left_out(),
        *_short_of_readings(file.plan, scales),
        *_strangers(file.plan),
        *_memory(file.plan),
        *_ungreeted(file.plan),
    ]


# ---------------------------------------------------------------- what a schedule holds


def arrivals_of(phase: Phase) -> int | None:
    """How many operations arrive; None where that depends on how the target fares."""
    count = bisect_left(range(_MANY), True, key=lambda n: phase.arrivals.due_ns(n, n, 0) is Due.ENDED)
    return count if count < _MANY else None


def length_seconds(phase: Phase) -> float:
    """From its beginning until nothing arrives any more; 0 where that is not known."""
    if isinstance(phase.arrivals, Constant | Hold):
        seconds = phase.arrivals.seconds
    else:
        count = arrivals_of(phase)
        last = phase.arrivals.due_ns(count - 1, count - 1, 0) if count else 0
        seconds = last / SECOND if isinstance(last, int) else 0.0
    return seconds + (phase.workload.seconds if isinstance(phase.workload, Idle) else 0.0)


def _readings(plan: Plan, phases: Sequence[str], noun: str) -> int | None:
    """The most that an indicator of them can read; None where it is not known."""
    total = 0
    for phase in plan.phases:
        if phase.name not in phases:
            continue
        count = arrivals_of(phase)
        if count is None or not isinstance(phase.workload, Call):
            return None
        total += count * _most(phase.workload, noun)
    return total


def _most(workload: Call, noun: str) -> int:
    """Of one call."""
    kinds = _STEPS.get(noun)
    if noun == "calls":
        return 1
    counts = (
        sum(kinds is None or isinstance(step, kinds) for step in scenario.steps) for scenario in workload.scenarios
    )
    return max(counts, default=0)


# ---------------------------------------------------------------- what a scale leaves


class _Scales:
    """The plan at other scales, where it has one."""

    def __init__(self, file: PlanFile) -> None:
        self._file = file
        self.given = file.options.get("scale")

    def left_out(self) -> Iterator[str]:
        """The phases that the plan has by itself, and not at this scale."""
        if self.given is None:
            return
        names = {phase.name for phase in self._file.plan.phases}
        usual = load(self._file.path, {name: text for name, text in self._file.options.items() if name != "scale"})
        if missing := [phase.name for phase in usual.plan.phases if phase.name not in names]:
            told = ", ".join(repr(name) for name in missing)
            those = "the phase" if len(missing) == 1 else "the phases"
            mend = self.mend(lambda plan: {phase.name for phase in plan.phases}.issuperset(missing))
            yield f"--scale {self.given} leaves out {those} {told}, and what gates read of them{mend}"

    def mend(self, enough: Callable[[Plan], bool], times: float = 0.0) -> str:
        """The clause that names a scale with enough, the smallest of those tried; "" where the plan has no scale, or
        none of them has. times: how many times this scale it takes, if that is known."""
        if self.given is None:
            return ""
        now = float(self.given)
        scale = max(_LEAST_SCALE, _two_digits(now * times)) if now > 0 and times else _LEAST_SCALE
        for _ in range(_TRIES):
            try:
                if scale > now and enough(load(self._file.path, {**self._file.options, "scale": f"{scale:g}"}).plan):
                    return f"; --scale {scale:g} has enough"
            except PlanError:  # it goes no further
                return ""
            scale = _two_digits(scale * (1.1 if times else 2))
        return ""


def _two_digits(value: float) -> float:
    """Rounded up."""
    unit = 10.0 ** (floor(log10(value)) - 1)
    return float(f"{ceil(value / unit - 1e-9) * unit:.6g}")


def _empty(plan: Plan, scales: _Scales) -> Iterator[str]:
    for phase in plan.phases:
        gates = [gate.name for gate in [*plan.gates, *plan.valid_if] if phase.name in gate.phases]
        if gates and arrivals_of(phase) == 0:
            mend = scales.mend(lambda other, name=phase.name: _has_arrivals(other, name))  # type: ignore[misc]  # bound now
            yield (
                f"nothing ever arrives in the phase {phase.name!r}, which the gate {gates[0]!r} reads: it could not "
                f"pass{mend or '; give its schedule more time, or arrivals'}"
            )


def _has_arrivals(plan: Plan, name: str) -> bool:
    return any(phase.name == name and arrivals_of(phase) != 0 for phase in plan.phases)


# ---------------------------------------------------------------- gates that cannot pass


def _short_of_readings(plan: Plan, scales: _Scales) -> Iterator[str]:
    for gate in plan.gates:
        if not isinstance(gate, AtMost | AtLeast) or (asked := _asked(gate, gate.indicator)) is None:
            continue
        least, noun = asked
        most = _readings(plan, gate.phases, noun)
        if most is None or most >= least:
            continue

        def enough(other: Plan, gate: Gate = gate, least: int = least, noun: str = noun) -> bool:
            found = _readings(other, gate.phases, noun)
            return found is None or found >= least

        mend = scales.mend(enough, least / most if most else 0.0)
        places = " and ".join(repr(phase) for phase in gate.phases)
        yield (
            f"the gate {gate.name!r} cannot pass, only fail: it takes {least} {noun}, and {places} "
            f"{'has' if len(gate.phases) == 1 else 'have'} {most} at most{mend or _more(least, most, noun)}"
        )


def _more(least: int, most: int, noun: str) -> str:
    """The clause that names the mend where it is no scale."""
    if not most:
        return f"; give its scenarios some {noun}"
    arrivals = f"; give it {ceil(least / most)} times as many arrivals"
    return arrivals if noun == "calls" else f"{arrivals}, or its scenarios more {noun}"


def _asked(gate: AtMost | AtLeast, indicator: Indicator) -> tuple[int, str] | None:
    """How many readings it takes to pass when all are as good as can be, and what they are; None if not known."""
    at_most = isinstance(gate, AtMost)
    if isinstance(indicator, SecondOverFirst):
        inner = indicator.indicator
        if isinstance(inner, QuantileOf) and inner.q < 1:  # an interval with two ends, of either half
            return 2 * max(_needed(1 - inner.q, gate.alpha), _needed(inner.q, gate.alpha)), inner.noun
        return None
    if isinstance(indicator, QuantileOf) and indicator.q < 1:
        return _needed(1 - indicator.q if at_most else indicator.q, gate.alpha), indicator.noun
    if isinstance(indicator, ShareOf):
        share = gate.limit if gate.unit == "share" else gate.limit / 100
        share = share if at_most else 1 - share
        return (_needed(share, gate.alpha), indicator.noun) if 0 < share < 1 else None
    return (AT_LEAST, indicator.noun) if isinstance(indicator, MeanOf) else None


def _needed(share: float, alpha: float) -> int:
    return needed(0, share, alpha) or 0


# ---------------------------------------------------------------- hours without a look at memory


def _memory(plan: Plan) -> Iterator[str]:
    target = plan.target.name
    long = [phase for phase in plan.phases if length_seconds(phase) >= SOAK_SECONDS]
    if long and not any(_reads_memory(gate) for gate in plan.gates):
        hours = length_seconds(long[0]) / SOAK_SECONDS
        yield (
            f"the phase {long[0].name!r} takes {hours:.3g} h, and no gate looks at memory, so that a leak would go "
            f"unseen; add NoLeak({target!r}, mb_per_hour=...) to the gates, and Process(target) to the probes"
        )


def _reads_memory(gate: Gate) -> bool:
    if isinstance(gate, NoLeak):
        return True
    indicator = getattr(gate, "indicator", None)
    if isinstance(indicator, SampleQuantile | SampleMean | SampleGrowth):
        return indicator.sample in _MEMORY
    return isinstance(indicator, KeptPerCall)


# ---------------------------------------------------------------- greetings that nobody demands


def _ungreeted(plan: Plan) -> Iterator[str]:
    """A greeting is no turn: what gates demand of turns and calls holds without it."""
    awaited = [
        phase.name for phase in plan.phases if isinstance(phase.workload, Call) and _awaits_greeting(phase.workload)
    ]
    if awaited and not any(_may_read_greetings(gate) for gate in [*plan.gates, *plan.valid_if]):
        yield (
            f"the callers in {awaited[0]!r} wait for a greeting, and no gate reads it: an agent that never greets "
            f'would pass; add AtMost(first_audio_latency({awaited[0]!r}, q=0.5), 1000, "ms") to the gates'
        )


def _awaits_greeting(workload: Call) -> bool:
    return any(isinstance(step, Greeting) for scenario in workload.scenarios for step in scenario.steps)


def _may_read_greetings(gate: Gate) -> bool:
    """Of what is not our own nobody knows what it reads."""
    if isinstance(gate, NoLeak | NothingLeft):
        return False
    if not isinstance(gate, AtMost | AtLeast | Between):
        return True
    indicator = gate.indicator.indicator if isinstance(gate.indicator, SecondOverFirst) else gate.indicator
    ours = type(indicator).__module__.startswith("busyhour.")
    says = isinstance(getattr(indicator, "read", None), Said)
    return not ours or says or getattr(indicator, "noun", "") == "greetings"


# ---------------------------------------------------------------- readings that nobody takes


def _unwatched(plan: Plan) -> Iterator[str]:
    """Gates on readings of a service that nothing in the plan takes."""
    watched = {probe.service for probe in plan.probes}
    watched |= {service.name for service in plan.everyone if isinstance(service, Metered)}
    unwatched = {service.name for service in plan.everyone} - watched
    for gate, source, what in _reading(plan):
        if source in unwatched:
            probe = f"Process({source})" if source.isidentifier() else "Process(service)"
            yield (
                f"the gate {gate.name!r} reads {what} of {source!r}, and no probe of the plan does: it could not pass; "
                f"add one to its probes, like {probe}"
            )


def _strangers(plan: Plan) -> Iterator[str]:
    """Gates on readings of what is no service, but nearly. Of other sources a workload may be what records them."""
    names = [service.name for service in plan.everyone]
    for gate, source, what in _reading(plan):
        if source not in (*names, HARNESS) and (alike := get_close_matches(source, names, 1)):
            yield (
                f"the gate {gate.name!r} reads {what} of {source!r}, which is no service of the plan; "
                f"did you mean {alike[0]!r}?"
            )


def _reading(plan: Plan) -> Iterator[tuple[Gate, str, str]]:
    """The gates that look at readings, whose readings, and what of them."""
    for gate in [*plan.gates, *plan.valid_if]:
        for source, what in _sources(gate).items():
            yield gate, source, what


def _sources(gate: Gate) -> dict[str, str]:
    """Whose readings it looks at, and what of each."""
    if isinstance(gate, NoLeak | NothingLeft):
        watched = gate.watched if isinstance(gate.watched, str) else gate.watched.name
        return {watched: "the memory" if isinstance(gate, NoLeak) else "counters"}
    indicator = getattr(gate, "indicator", None)
    reads = indicator.reads if isinstance(indicator, Sensing) else ()
    return {source: repr(name) for source, name in reversed(reads)}
