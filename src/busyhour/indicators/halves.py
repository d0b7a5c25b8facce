"""Whether a phase was worse in its second half than in its first: any indicator of one phase, over either half.

A half is one of the phase's time. An arrival is in the half in which it was due, with all that belongs to it, so that
no call is in both: whatever the indicator knows of readings of one call being alike, it knows of either half.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import exp, hypot, inf, log

from busyhour.errors import PlanError
from busyhour.indicators.unread import Sensing
from busyhour.model import JSON, Comparison, Estimate, Indicator, Mark, Operation, Outcome, Run, Sample
from busyhour.statistics.rate import ALPHA
from busyhour.statistics.wording import number, spread, with_unit

_COUNTS = {"arrival.dropped", "requests.failed"}  # marks that are readings
_DOUBLINGS, _HALVINGS = 40, 40


@dataclass(frozen=True)
class SecondOverFirst:
    """See `indicators.second_half_over_first`."""

    indicator: Indicator
    unit: str = ""

    def __post_init__(self) -> None:
        if len(self.indicator.phases) != 1:
            raise PlanError(
                f"second_half_over_first({self.indicator.what}): it needs an indicator of one phase, "
                f"and this is of {', '.join(self.indicator.phases) or 'the whole run'}"
            )

    @property
    def what(self) -> str:
        return f"{self.indicator.what} (second half over first)"

    @property
    def phases(self) -> tuple[str, ...]:
        return self.indicator.phases

    @property
    def reads(self) -> Sequence[tuple[str, str]]:
        return self.indicator.reads if isinstance(self.indicator, Sensing) else ()

    def __call__(self, run: Run) -> Estimate:
        (phase,) = self.phases
        began_ns, ended_ns = extent_ns(run, phase)
        middle_ns = (began_ns + ended_ns) // 2
        first = self.indicator(Part(run, phase, None, middle_ns))
        second = self.indicator(Part(run, phase, middle_ns, ended_ns + 1))
        evidence = Ratio(first, second)
        n = first.n + second.n
        return Estimate(self.what, self.unit, n, evidence.value, evidence.low, evidence.high, evidence)


def extent_ns(run: Run, phase: str) -> tuple[int, int]:
    """From when a phase began until it ended or, of one that did not, was last heard of; nothing if it never began."""
    began = [mark.at_ns for mark in run.marks("phase.began") if mark.name == phase]
    if not began:
        return 0, 0
    ended = [mark.at_ns for mark in run.marks("phase.ended") if mark.name == phase]
    if not ended:
        ended = [sample.at_ns for sample in run.samples("harness", "loop_lag_ms", phase)]
        ended += [call.due_ns for call in run.operations("call", phase)]
    return min(began), max([*ended, *began])


class Part:
    """A run in which a phase is only from one instant to another: its arrivals that were due then, and its samples.

    from_ns: None for its beginning, which is marked a little later than its first arrivals were due.
    """

    def __init__(self, run: Run, phase: str, from_ns: int | None, until_ns: int) -> None:
        self._run, self._phase, self._from_ns, self._until_ns = run, phase, from_ns, until_ns

    @property
    def meta(self) -> Mapping[str, JSON]:
        return self._run.meta

    def operations(self, kind: str, phase: str | None = None) -> Sequence[Operation]:
        return [one for one in self._run.operations(kind, phase) if one.phase != self._phase or self._has(one)]

    def samples(self, source: str, name: str, phase: str | None = None) -> Sequence[Sample]:
        samples = self._run.samples(source, name, phase)
        return [one for one in samples if self._within(one.at_ns)] if phase == self._phase else samples

    def marks(self, kind: str) -> Sequence[Mark]:
        marks = self._run.marks(kind)
        if kind in _COUNTS:
            return [one for one in marks if one.name != self._phase or self._within(one.at_ns)]
        moved = {"phase.began": self._from_ns, "phase.ended": self._until_ns}
        at_ns = moved.get(kind)
        return [one if at_ns is None or one.name != self._phase else replace(one, at_ns=at_ns) for one in marks]

    def _has(self, operation: Operation) -> bool:
        return self._within(self._due_ns.get(operation.parent or operation.id, operation.due_ns))

    def _within(self, at_ns: int) -> bool:
        return (self._from_ns is None or self._from_ns <= at_ns) and at_ns < self._until_ns

    @cached_property
    def _due_ns(self) -> Mapping[str, int]:
        return {call.id: call.due_ns for call in self._run.operations("call", self._phase)}


@dataclass(frozen=True, slots=True)
class Ratio:
    """Of two independent estimates, none of them below 0: `second` over `first`.

    Its interval is made of theirs, by the distances of their ends on a logarithmic scale (MOVER; Zou and Donner,
    Statistics in Medicine 27, 2008): either end is wrong about as often as one of theirs, whatever the two are of.
    """

    first: Estimate
    second: Estimate

    @property
    def value(self) -> float | None:
        before, after = self.first.value, self.second.value
        if before is None or after is None or before == inf:
            return None
        return (1.0 if not after else inf) if not before else after / before

    @property
    def low(self) -> float | None:
        return self._ends(ALPHA)[0]

    @property
    def high(self) -> float | None:
        return self._ends(ALPHA)[1]

    def at_most(self, limit: float, alpha: float) -> Comparison:
        low, high = self._ends(alpha)
        return self._compared(high is not None and high <= limit, low is not None and low > limit)

    def at_least(self, limit: float, alpha: float) -> Comparison:
        low, high = self._ends(alpha)
        return self._compared(low is not None and low >= limit, high is not None and high < limit)

    def _compared(self, kept: bool, broken: bool) -> Comparison:
        halves = f"{_told(self.first)} in the first half, {_told(self.second)} in the second"
        if kept or broken:
            return Comparison(Outcome.PASS if kept else Outcome.FAIL, halves)
        return Comparison(Outcome.INCONCLUSIVE, f"the interval holds the limit: {halves}")

    def _ends(self, alpha: float) -> tuple[float | None, float | None]:
        if self.value is None:
            return None, None
        (low_1, high_1), (low_2, high_2) = _interval(self.first, alpha), _interval(self.second, alpha)
        before, after = self.first.value, self.second.value
        assert before is not None
        assert after is not None
        if high_1 == high_2 == 0:  # nothing in either half, and that for certain
            return 1.0, 1.0
        if not before or after in {0, inf}:  # no logarithms: the ends against each other, which is wrong less often
            low = low_2 / high_1 if high_1 else inf if low_2 > 0 else 0.0
            return (0.0 if high_1 == inf else low), (high_2 / low_1 if low_1 > 0 else inf)
        below = hypot(_apart(after, low_2), _apart(high_1, before))
        above = hypot(_apart(high_2, after), _apart(before, low_1))
        return after / before * exp(-below), (after / before * exp(above) if above < 700 else inf)


def _apart(more: float, less: float) -> float:
    return inf if less <= 0 or more == inf else log(more / less)


def _told(estimate: Estimate) -> str:
    if estimate.value is None:
        return "nothing"
    value = number(estimate.value, estimate.unit)
    value = value if estimate.value == inf else with_unit(value, estimate.unit)
    between = spread(estimate.low, estimate.high, estimate.unit, apart_from=())
    return f"{value} ({', '.join(filter(None, (between, f'n={estimate.n}')))})"


def _interval(estimate: Estimate, alpha: float) -> tuple[float, float]:
    """Its ends at an error rate of alpha each: those that it tells, or those at which its evidence changes its mind."""
    low = -inf if estimate.low is None else estimate.low
    high = inf if estimate.high is None else estimate.high
    if alpha == ALPHA or estimate.evidence is None or estimate.value is None or estimate.value == inf:
        return low, high
    evidence, value = estimate.evidence, estimate.value
    return (
        -_turns(lambda end: evidence.at_least(-end, alpha).outcome is Outcome.PASS, -value),
        _turns(lambda end: evidence.at_most(end, alpha).outcome is Outcome.PASS, value),
    )


def _turns(holds: Callable[[float], bool], start: float) -> float:
    """The least number from `start` on for which it holds, and then for all beyond it. Infinite if for none."""
    step, low, high = max(abs(start), 1e-6) / 1000, start, start
    for _ in range(_DOUBLINGS):
        if holds(high):
            break
        low, high, step = high, high + step, 2 * step
    else:
        return inf
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
