"""What is compared: the estimates of a plan's gates, which way of each is worse, and how much of that is borne."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import isnan

from busyhour.errors import PlanError
from busyhour.gates import AtLeast, AtMost, Between, Judgement, NoLeak
from busyhour.gates.limits import converted
from busyhour.model import Estimate, Gate, Plan
from busyhour.statistics.wording import exactly, number, with_unit

LARGER, SMALLER, EITHER = 1, -1, 0
"""Which way is worse."""
POINTS = "pp"
_SHARE = "%"
_WRITTEN = re.compile(r"(?P<value>\d+(?:\.\d+)?)\s*(?P<unit>\S*)")


@dataclass(frozen=True, slots=True)
class Metric:
    """An estimate that every run has one of; `worse` is LARGER, SMALLER, or EITHER way."""

    what: str
    unit: str
    worse: int

    def difference(self, value: float) -> str:
        """A difference of two of them, as people read it: that of two percentages is in points."""
        sign = "+" if value > 0 else ""
        return with_unit(f"{sign}{number(value)}", POINTS if self.unit == _SHARE else self.unit)


DEATHS = Metric("deaths of the target", "", LARGER)
"""Of a run that the target did not outlive nothing else is comparable; that it did not is."""


def measured(plan: Plan, judgement: Judgement) -> dict[Metric, Estimate]:
    """The estimates of the plan's gates, each once; of a gate that could not measure, an estimate without a value.

    A metric that is to be at most one number and at least another can be worse either way.
    """
    gates = {gate.name: gate for gate in plan.gates}
    found: dict[str, tuple[int, Estimate]] = {}
    for verdict in judgement.verdicts:
        gate = gates.get(verdict.gate)
        estimate = verdict.estimate or _unmeasured(gate)
        if gate is None or estimate is None:
            continue
        if estimate.value is not None and isnan(estimate.value):
            estimate = replace(estimate, value=None)
        worse, _ = found.get(estimate.what, (_worse(gate), estimate))
        found[estimate.what] = (worse if worse == _worse(gate) else EITHER, estimate)
    return {Metric(one.what, one.unit, worse): one for worse, one in found.values()}


def _worse(gate: Gate) -> int:
    if isinstance(gate, AtMost | NoLeak):
        return LARGER
    return SMALLER if isinstance(gate, AtLeast) else EITHER


def _unmeasured(gate: Gate | None) -> Estimate | None:
    if not isinstance(gate, AtMost | AtLeast | Between):
        return None
    return Estimate(gate.indicator.what, gate.indicator.unit, 0, None, None, None)


def chosen(metrics: Iterable[Metric], only: Sequence[str]) -> list[Metric]:
    """Those whose names contain one of the texts, in any case; all without one. Raises PlanError if none does."""
    known = list(dict.fromkeys(metrics))
    kept = [one for one in known if not only or any(_named(one, text) for text in only)]
    if known and not kept:
        raise PlanError(f"--only {only[0]}: no metric of the plan is named so; {_list(known)}")
    return kept


def _named(metric: Metric, text: str) -> bool:
    return text.casefold() in metric.what.casefold()


def _list(metrics: Iterable[Metric]) -> str:
    return f"there are: {'; '.join(metric.what for metric in metrics)}"


# ---------------------------------------------------------------- how much is borne


@dataclass(frozen=True, slots=True)
class Limit:
    """How much worse is not worse yet: in the metric's own unit, or as a share of what it is (0.1: a tenth)."""

    value: float
    is_share: bool = False


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Of the metrics whose name contains `name` ("": of all that `unit` fits): "%" is a share of what it is in A.

    Percentages are told in points, "pp": 5 % of a success rate of 98 % would be nearly five calls in a hundred, so that
    "%" counts for them only where they are named.
    """

    value: float
    unit: str = "%"
    name: str = ""

    @classmethod
    def parsed(cls, text: str) -> Tolerance:
        """`5%`, `50ms`, `2pp`, `NAME=5%`. Raises PlanError."""
        name, equals, amount = text.rpartition("=")
        written = _WRITTEN.fullmatch(amount.strip())
        if written is None or (equals and not name.strip()):
            raise PlanError(
                f"--tolerance {text}: write it as 5%, 2pp, or NAME=50ms, NAME being part of a metric's name"
            )
        return cls(float(written["value"]), written["unit"], name.strip())

    def fits(self, metric: Metric) -> bool:
        if not _named(metric, self.name) or metric == DEATHS:
            return False
        if self.unit == _SHARE:
            return bool(self.name) or metric.unit != _SHARE
        return self._in_unit_of(metric) is not None

    def limit(self, metric: Metric) -> Limit:
        """Of a metric that it fits."""
        if self.unit == _SHARE:
            return Limit(self.value / 100, is_share=True)
        value = self._in_unit_of(metric)
        assert value is not None, "only a tolerance that fits is asked"
        return Limit(value)

    def _in_unit_of(self, metric: Metric) -> float | None:
        if self.unit == POINTS or metric.unit == _SHARE:
            return self.value if (self.unit, metric.unit) == (POINTS, _SHARE) else None
        return converted(self.value, self.unit, metric.unit)


DEFAULTS = (Tolerance(10, "%"), Tolerance(1, POINTS))
"""What a caller does not notice, and CI's machines differ by: a tenth; of a share, one in a hundred."""


def limit_of(metric: Metric, tolerances: Sequence[Tolerance]) -> Limit:
    """By the last that fits it; of the named before the unnamed."""
    fitting = [one for one in (*DEFAULTS, *tolerances) if one.fits(metric)]
    return max(reversed(fitting), key=lambda one: bool(one.name)).limit(metric) if fitting else Limit(0.0)


def check(tolerances: Sequence[Tolerance], metrics: Sequence[Metric]) -> None:
    """Raises PlanError for those that say nothing of any metric."""
    problems = []
    for one in tolerances:
        meant = [metric for metric in metrics if _named(metric, one.name)]
        if not meant:
            problems.append(f"--tolerance {one.name}=...: no metric that is compared is named so; {_list(metrics)}")
        elif not any(one.fits(metric) for metric in meant):
            units = ", ".join(
                sorted({POINTS if metric.unit == _SHARE else metric.unit or "no unit" for metric in meant})
            )
            problems.append(
                f"--tolerance {exactly(one.value)}{one.unit}: {one.unit or 'a number without a unit'} is not what is "
                f"measured; give % or one of: {units}"
            )
    if problems:
        raise PlanError(problems)
