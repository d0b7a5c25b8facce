"""Requests and functions: latency from when they were due, rate, and the share that failed.

Requests are read from histograms ("requests", "latency_ms": infinite for one that failed), functions from their
operations. What happened in one second is alike (a target that stands still stands still for all), and is discounted
for it as the turns of one call are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf, isinf

from busyhour.indicators.shapes import REASONS_TOLD, Explained, checked, estimated
from busyhour.model import MS, SECOND, Estimate, Run
from busyhour.statistics.clusters import INDEPENDENT, design_effect_of
from busyhour.statistics.counted import Counted
from busyhour.statistics.exact import Exact, Worst
from busyhour.statistics.quantile import Quantile
from busyhour.statistics.rate import Rate
from busyhour.statistics.wording import percentile

Row = tuple[float, int, int]  # ms, how many, in which second


def latencies(run: Run, phase: str, name: str = "latency_ms") -> list[Row]:
    counted = [(s.value, s.count, s.at_ns // SECOND) for s in run.samples("requests", name, phase)]
    return counted or [
        (
            max(0, o.ended_ns - o.due_ns) / MS if o.ended_ns is not None and o.outcome == "ok" else inf,
            1,
            o.due_ns // SECOND,
        )
        for o in run.operations("function", phase)
    ]


@dataclass(frozen=True)
class RequestLatency:
    """A quantile of the latency; one that failed is infinitely late. `sample`: which histogram is read."""

    phase: str
    q: float
    name: str = "request latency"
    sample: str = "latency_ms"
    unit: str = "ms"

    def __post_init__(self) -> None:
        checked(self.q)

    @property
    def what(self) -> str:
        return f"{'longest' if self.q == 1 else percentile(self.q)} {self.name} in {self.phase}"

    @property
    def phases(self) -> tuple[str, ...]:
        return (self.phase,)

    def __call__(self, run: Run) -> Estimate:
        counted = Counted(latencies(run, self.phase, self.sample))
        if self.q == 1:
            return estimated(self.what, self.unit, Worst(counted, "requests"))
        return estimated(self.what, self.unit, Quantile.of_counts(counted, self.q, noun="requests"))


@dataclass(frozen=True)
class ErrorRate:
    """The share that failed, in percent, with the commonest reasons."""

    phase: str
    unit: str = "%"

    @property
    def what(self) -> str:
        return f"error rate in {self.phase}"

    @property
    def phases(self) -> tuple[str, ...]:
        return (self.phase,)

    def __call__(self, run: Run) -> Estimate:
        counted = Counted(latencies(run, self.phase))
        failed, all_of_them = counted.at_least(inf)
        alike = design_effect_of(failed, all_of_them, of="second") if len(counted) else INDEPENDENT
        rate = Rate(int(failed.sum()), len(counted), "requests", alike)
        estimate = estimated(self.what, self.unit, rate)
        return replace(estimate, evidence=Explained(rate, why)) if (why := _why(run, self.phase)) else estimate


@dataclass(frozen=True)
class RequestRate:
    """Right answers a second, from the beginning of the phase to its last answer: what was carried, exactly."""

    phase: str
    unit: str = "/s"

    @property
    def what(self) -> str:
        return f"request rate in {self.phase}"

    @property
    def phases(self) -> tuple[str, ...]:
        return (self.phase,)

    def __call__(self, run: Run) -> Estimate:
        right = sum(count for ms, count, _ in latencies(run, self.phase) if not isinf(ms))
        n = sum(count for _, count, _ in latencies(run, self.phase))
        seconds = self._seconds(run)
        return estimated(self.what, self.unit, Exact(right / seconds if seconds and n else None, n))

    def _seconds(self, run: Run) -> float:
        began = [mark.at_ns for mark in run.marks("phase.began") if mark.name == self.phase]
        ends = [s.at_ns for s in run.samples("requests", "latency_ms", self.phase) if not isinf(s.value)]
        ends += [o.ended_ns for o in run.operations("function", self.phase) if o.ended_ns is not None]
        ends += [] if ends else [mark.at_ns for mark in run.marks("phase.ended") if mark.name == self.phase]
        return (max(ends) - min(began)) / SECOND if began and ends else 0.0


def _why(run: Run, phase: str) -> str:
    """The commonest reasons, each with the first request of it."""
    reasons: Counter[str] = Counter()
    for mark in run.marks("requests.failed"):
        if mark.name == phase:
            reasons.update({reason: count for reason, count in mark.detail.items() if isinstance(count, int)})
    functions = [o for o in run.operations("function", phase) if o.outcome != "ok"]
    reasons.update(o.outcome for o in functions)
    examples = [*run.operations("request", phase), *functions]
    told = [_example(reason, count, [o.id for o in examples if o.outcome == reason])
            for reason, count in reasons.most_common(REASONS_TOLD)]  # fmt: skip
    others = reasons.total() - sum(count for _, count in reasons.most_common(REASONS_TOLD))
    return ", ".join([*told, *([f"{others} for other reasons"] if others else [])])


def _example(reason: str, count: int, ids: Sequence[str]) -> str:
    return f"{count} {reason} ({ids[0]})" if ids else f"{count} {reason}"
