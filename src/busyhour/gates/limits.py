"""The gates of a plan: AtMost, AtLeast, Between for a number; Holds for a statement about the run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import inf, isfinite

from busyhour.errors import PlanError
from busyhour.gates.calls import Calls
from busyhour.indicators import SampleMean, SampleQuantile
from busyhour.indicators.unread import why_unmeasured
from busyhour.model import Comparison, Estimate, Evidence, Indicator, Outcome, Run, Verdict
from busyhour.statistics.wording import exactly, number, spread, with_unit

_UNITS = {
    "ns": ("time", 1e-9),
    "us": ("time", 1e-6),
    "ms": ("time", 1e-3),
    "s": ("time", 1.0),
    "min": ("time", 60.0),
    "%": ("share", 0.01),
    "share": ("share", 1.0),
    "KB": ("memory", 1e3),
    "MB": ("memory", 1e6),
    "GB": ("memory", 1e9),
}


@dataclass(frozen=True)
class AtMost:
    """The indicator is at most `limit`, given in `unit` (converted to the indicator's; "" only for what has none).

    Raises PlanError when built with a unit that does not fit, a limit that is no number, or an alpha outside (0, 0.5).
    """

    indicator: Indicator
    limit: float
    unit: str = ""
    alpha: float = field(default=0.05, kw_only=True)

    def __post_init__(self) -> None:
        _check_kinds(self.indicator, [self.limit])
        _check(self.name, self.indicator, [self.limit], self.unit, self.alpha)

    @property
    def name(self) -> str:
        return f"{self.indicator.what} <= {with_unit(exactly(self.limit), self.unit)}{_strictness(self.alpha)}"

    @property
    def phases(self) -> tuple[str, ...]:
        return self.indicator.phases

    def judge(self, run: Run) -> Verdict:
        limit = with_unit(exactly(self.limit), self.unit)
        bounds = (None, self.limit)
        return _Weighing(self.name, self.indicator, self.unit, bounds, f"within {limit}", f"over {limit}").judge(
            run, lambda evidence, limits: evidence.at_most(limits[0], self.alpha)
        )


@dataclass(frozen=True)
class AtLeast:
    """The indicator is at least `limit`; otherwise like AtMost."""

    indicator: Indicator
    limit: float
    unit: str = ""
    alpha: float = field(default=0.05, kw_only=True)

    def __post_init__(self) -> None:
        _check_kinds(self.indicator, [self.limit])
        _check(self.name, self.indicator, [self.limit], self.unit, self.alpha)

    @property
    def name(self) -> str:
        return f"{self.indicator.what} >= {with_unit(exactly(self.limit), self.unit)}{_strictness(self.alpha)}"

    @property
    def phases(self) -> tuple[str, ...]:
        return self.indicator.phases

    def judge(self, run: Run) -> Verdict:
        limit = with_unit(exactly(self.limit), self.unit)
        bounds = (self.limit, None)
        weighing = _Weighing(self.name, self.indicator, self.unit, bounds, f"at least {limit}", f"below {limit}")
        return weighing.judge(run, lambda evidence, limits: evidence.at_least(limits[0], self.alpha))


@dataclass(frozen=True)
class Between:
    """The indicator is at least `low` and at most `high`: PASS if both are shown, FAIL if either is shown not to be."""

    indicator: Indicator
    low: float
    high: float
    unit: str = ""
    alpha: float = field(default=0.05, kw_only=True)

    def __post_init__(self) -> None:
        _check_kinds(self.indicator, [self.low, self.high])
        _check(self.name, self.indicator, [self.low, self.high], self.unit, self.alpha)

    @property
    def name(self) -> str:
        return f"{self.indicator.what} in {self._range}{_strictness(self.alpha)}"

    @property
    def _range(self) -> str:
        return with_unit(f"{exactly(self.low)}..{exactly(self.high)}", self.unit)

    @property
    def phases(self) -> tuple[str, ...]:
        return self.indicator.phases

    def judge(self, run: Run) -> Verdict:
        weighing = _Weighing(
            self.name,
            self.indicator,
            self.unit,
            (self.low, self.high),
            f"within {self._range}",
            f"outside {self._range}",
        )
        return weighing.judge(run, self._compared)

    def _compared(self, evidence: Evidence, limits: Sequence[float]) -> Comparison:
        sides = [evidence.at_least(limits[0], self.alpha), evidence.at_most(limits[1], self.alpha)]
        for outcome in (Outcome.FAIL, Outcome.INCONCLUSIVE, Outcome.PASS):
            said = [side.because for side in sides if side.outcome is outcome]
            if said:
                return Comparison(outcome, "; ".join(filter(None, dict.fromkeys(said))))
        raise AssertionError(f"evidence compares to PASS, FAIL or INCONCLUSIVE, not {sides}")


@dataclass(frozen=True)
class Holds:
    """A statement about the run that is no number: `check` says whether it holds, and why.

    `name` is the statement ("every fault took effect"); `check` answers with a Comparison whose outcome may be any of
    the five (NOT_RUN where there was nothing to look at) and whose clause completes the sentence.
    """

    name: str
    check: Callable[[Run], Comparison]
    phases: tuple[str, ...] = ()

    def judge(self, run: Run) -> Verdict:
        comparison = self.check(run)
        because = f"{self.name}: {comparison.because}" if comparison.because else self.name
        return Verdict(self.name, comparison.outcome, because)


# ---------------------------------------------------------------- weighing


@dataclass(frozen=True)
class _Weighing:
    """One judgement of one gate: takes the estimate, has it compared, and composes the sentence in the gate's unit."""

    gate: str
    indicator: Indicator
    unit: str
    bounds: tuple[float | None, float | None]  # at least, at most
    kept: str  # "within 800 ms"
    broken: str  # "over 800 ms"

    @property
    def limits(self) -> tuple[float, ...]:
        return tuple(bound for bound in self.bounds if bound is not None)

    def judge(self, run: Run, compare: Callable[[Evidence, Sequence[float]], Comparison]) -> Verdict:
        estimate = self.indicator(run)
        factor = _factor(self.unit, self.indicator.unit) or 1.0
        low, high = (None if bound is None else _rounded(bound * factor) for bound in self.bounds)
        if estimate.value is None:
            return Verdict(self.gate, Outcome.NOT_RUN, self._unmeasured(run), estimate, limits=(low, high))
        evidence = estimate.evidence or _Ends(estimate.low, estimate.high)
        comparison = compare(evidence, [_rounded(limit * factor) for limit in self.limits])
        sentence = self._sentence(estimate, comparison, factor)
        return Verdict(self.gate, comparison.outcome, sentence, estimate, limits=(low, high))

    def _sentence(self, estimate: Estimate, comparison: Comparison, factor: float) -> str:
        value, low, high = (None if x is None else x / factor for x in (estimate.value, estimate.low, estimate.high))
        assert value is not None
        told = number(value, self.unit, apart_from=self.limits)
        if value not in {inf, -inf}:
            told = with_unit(told, self.unit)
        interval = spread(low, high, self.unit, apart_from=self.limits)
        relation = {Outcome.PASS: self.kept, Outcome.FAIL: self.broken}.get(
            comparison.outcome, f"not shown to be {self.kept}"
        )
        counted = ", ".join(filter(None, (interval, f"n={estimate.n}")))
        sentence = f"{estimate.what} is {told} ({counted}), {relation}"
        return f"{sentence}: {comparison.because}" if comparison.because else sentence

    def _unmeasured(self, run: Run) -> str:
        began = {mark.name for mark in run.marks("phase.began")}
        missed = [phase for phase in self.indicator.phases if phase not in began]
        if missed:
            return f"{self.indicator.what} was not measured: {_phases(missed)} did not begin"
        if why := why_unmeasured(run, self.indicator):
            return f"{self.indicator.what} was not measured: {why}"
        if not self.indicator.phases:
            return f"{self.indicator.what} was not measured: the run gave no reading of it"
        calls = Calls.of(run, self.indicator.phases)
        counted = f"{calls.count} call{'' if calls.count == 1 else 's'}"
        failed = f": {calls.alike} of them failed: {calls.reason}" if calls.failed else ""
        return (
            f"{self.indicator.what} was not measured: {_phases(self.indicator.phases)} ran with {counted}, "
            f"which gave no reading of it{failed}"
        )


def _phases(names: Sequence[str]) -> str:
    return f"phase {names[0]}" if len(names) == 1 else f"phases {', '.join(names)}"


@dataclass(frozen=True, slots=True)
class _Ends:
    """The evidence of an estimate that brings none: its interval, at whatever level that is."""

    low: float | None
    high: float | None

    def at_most(self, limit: float, alpha: float) -> Comparison:
        return self._compared(self.high is not None and self.high <= limit, self.low is not None and self.low > limit)

    def at_least(self, limit: float, alpha: float) -> Comparison:
        return self._compared(self.low is not None and self.low >= limit, self.high is not None and self.high < limit)

    def _compared(self, kept: bool, broken: bool) -> Comparison:
        if kept or broken:
            return Comparison(Outcome.PASS if kept else Outcome.FAIL, "")
        missing = self.low is None or self.high is None
        return Comparison(Outcome.INCONCLUSIVE, "it has no interval" if missing else "its interval holds the limit")


# ---------------------------------------------------------------- checking the plan's words


def _check_kinds(indicator: object, limits: Sequence[object]) -> None:
    if callable(indicator) and not hasattr(indicator, "what") and (name := getattr(indicator, "__name__", "")):
        raise PlanError(
            f"a gate sets a limit to an indicator, not to the function {name} itself; call it: {name}(steady)"
        )
    if isinstance(indicator, type) or not hasattr(indicator, "what"):
        raise PlanError(f"a gate sets a limit to an indicator, like response_latency(steady), not to {indicator!r}")
    for limit in limits:
        if not isinstance(limit, int | float):
            raise PlanError(f"a gate of {indicator.what}: its limit is a number, not {limit!r}")


def _check(gate: str, indicator: Indicator, limits: Sequence[float], unit: str, alpha: float) -> None:
    problems = []
    if not all(isfinite(limit) for limit in limits):
        problems.append(f"{gate}: a limit must be a finite number")
    if list(limits) != sorted(set(limits)):
        problems.append(f"{gate}: the lower limit must be below the upper one")
    if not 0 < alpha < 0.5:
        problems.append(f"{gate}: alpha is an error rate and lies between 0 and 0.5, not at {alpha:g}")
    if _factor(unit, indicator.unit) is None:
        problems.append(f"{gate}: {_mend(unit, indicator)}")
    if problems:
        raise PlanError(problems)


def _mend(unit: str, indicator: Indicator) -> str:
    wanted = indicator.unit
    if not wanted and isinstance(indicator, SampleQuantile | SampleMean):
        name = f"{indicator.sample!r} has no unit, which would be the end of its name, as in 'rss_mb'"
        return f"{name}; correct the name, or leave out {unit!r}"
    known = [name for name, (kind, _) in _UNITS.items() if wanted in _UNITS and kind == _UNITS[wanted][0]]
    choices = " or ".join(repr(name) for name in known or [wanted])
    if not wanted:
        return f"it has no unit; leave out {unit!r}"
    return f"its unit is missing; give {choices}" if not unit else f"{unit!r} is no unit of it; give {choices}"


def _factor(unit: str, wanted: str) -> float | None:
    """What a number in `unit` is multiplied by to be in `wanted`; None when they do not go together."""
    if unit == wanted:
        return 1.0
    if unit not in _UNITS or wanted not in _UNITS or _UNITS[unit][0] != _UNITS[wanted][0]:
        return None
    return _UNITS[unit][1] / _UNITS[wanted][1]


def converted(value: float, unit: str, wanted: str) -> float | None:
    """A number of `unit` in `wanted`: 0.8 s is 800 ms; None when they do not go together."""
    factor = _factor(unit, wanted)
    return None if factor is None else _rounded(value * factor)


def _rounded(value: float) -> float:
    """0.07 of all is 7 %, not 7.000000000000001 %."""
    return float(f"{value:.12g}")


def _strictness(alpha: float) -> str:
    return "" if alpha == 0.05 else f" (alpha {alpha:g})"
