"""The percentile plot: every quantile with its order-statistic interval, under the targets of the plan.

The axis is 1 / (1 - q), as HdrHistogram plots it: each decade is a nine more. At the quantile of a gate the curve and
its band are the estimate of that gate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import inf

import numpy as np

from busyhour.columns import Floats
from busyhour.indicators.readings import Readings, greeting_ms, response_ms, yield_ms
from busyhour.model import JSON, Estimate, Run, Verdict
from busyhour.reports.html.body import Body, Chart, section
from busyhour.reports.html.scene import Scene
from busyhour.reports.html.section import Section
from busyhour.reports.html.series import highest_finite, ranks, told
from busyhour.statistics.clusters import ENOUGH, INDEPENDENT, Alike, Groups, design_effect_of
from busyhour.statistics.quantile import Quantile, rank
from busyhour.statistics.wording import exactly, percentile, with_unit

PLOTS_MOST = 8
QUANTILES = 48
_READ = (("response latency", response_ms), ("first-audio latency", greeting_ms), ("barge-in stop time", yield_ms))


@dataclass(frozen=True, slots=True)
class Target:
    """A quantile gate: at `q` the curve is to be at most, or at least, `limit`."""

    q: float
    limit: float
    sign: str
    estimate: Estimate

    @property
    def told(self) -> str:
        return f"{percentile(self.q)} {self.sign} {with_unit(exactly(self.limit), self.estimate.unit)}"


@dataclass(frozen=True, eq=False)
class Curve:
    """The samples of one measure in one place, and what is demanded of them."""

    title: str
    unit: str
    noun: str
    ordered: Sequence[float]
    targets: Sequence[Target]
    readings: Readings | None = None

    @cached_property
    def _sizes(self) -> tuple[Groups, Floats]:
        """The calls of the readings as numbers, and how many each has."""
        assert self.readings is not None
        groups = self.readings.groups
        return groups, np.bincount(groups).astype(np.float64)

    def quantile(self, q: float) -> Quantile:
        """As the indicator of a gate takes it; without the calls of the readings, with a gate's own discount."""
        given = next((_plain(target.estimate.evidence) for target in self.targets if target.q == q), None)
        if isinstance(given, Quantile):
            return given
        if self.readings is not None:
            return Quantile(self.ordered, q, self.noun, self._alike(self.readings.value, q))
        nearest = min(self.targets, key=lambda target: abs(target.q - q))
        evidence = _plain(nearest.estimate.evidence)
        assert isinstance(evidence, Quantile)
        return replace(evidence, q=q)

    def _alike(self, values: Floats, q: float) -> Alike:
        """The discount for the turns of one call being alike, as `Quantile.of` has it."""
        n = len(self.ordered)
        slowest = max(n - rank(n, q), min(ENOUGH, n // 2), 1)
        groups, sizes = self._sizes
        if n == len(sizes):
            return INDEPENDENT
        overs = np.bincount(groups, weights=values >= self.ordered[-slowest]).astype(np.float64)
        return design_effect_of(overs, sizes)


def plots(scene: Scene) -> Section | None:
    """A plot of each measure that a quantile gate speaks of, then of the response latency of each phase."""
    curves = _of_gates(scene.seen, scene.judgement.verdicts)
    demanded = {curve.title for curve in curves}
    others = [curve for curve in _of_phases(scene.seen, scene) if curve.title not in demanded]
    others.sort(key=lambda curve: -len(curve.ordered))
    every = [*curves, *others]
    if not every:
        return None
    charts = [_chart(curve, number) for number, curve in enumerate(every[:PLOTS_MOST])]
    lead = (
        "Each step to the right is a nine more. The band is the order-statistic interval of each percentile, wrong at "
        "either end in at most 5 of 100 runs; where it is open to the top, the run was too short to bound it. The "
        "stairs are the targets of the plan: the curve has to pass below them."
    )
    left = len(every) - PLOTS_MOST
    notes = [f"{left} more are not drawn: those with the fewest samples, and no gate first."] if left > 0 else []
    return section("percentiles", "Percentiles against targets", Body(lead=lead, charts=charts, notes=notes))


def _plain(evidence: object) -> object:
    """The evidence itself, where it was explained."""
    return getattr(evidence, "evidence", evidence)


def _of_gates(run: Run, verdicts: Sequence[Verdict]) -> list[Curve]:
    targets: dict[str, list[Target]] = {}
    for verdict in verdicts:
        estimate = verdict.estimate
        quantile = None if estimate is None else _plain(estimate.evidence)
        if estimate is None or not isinstance(quantile, Quantile) or not quantile.n:
            continue
        at_least, at_most = verdict.limits
        stem = estimate.what.removeprefix(percentile(quantile.q)).strip()
        for sign, limit in (("\u2264", at_most), ("\u2265", at_least)):
            if limit is not None:
                targets.setdefault(stem, []).append(Target(quantile.q, limit, sign, estimate))
    return [_demanded(run, stem, demanded) for stem, demanded in targets.items()]


def _demanded(run: Run, stem: str, targets: Sequence[Target]) -> Curve:
    first = targets[0].estimate
    quantile = _plain(first.evidence)
    assert isinstance(quantile, Quantile)
    name, _, phase = stem.partition(" in ")
    read = dict(_READ).get(name)
    readings = None if read is None else read(run, phase)
    if readings is None or len(readings) != quantile.n:  # of several phases together
        readings = None
    ordered = quantile.ordered
    return Curve(stem, first.unit, quantile.noun, ordered, sorted(targets, key=lambda t: t.q), readings)


def _of_phases(run: Run, scene: Scene) -> list[Curve]:
    found = []
    for phase in dict.fromkeys(stretch.name for stretch in scene.phases):
        readings = response_ms(run, phase)
        if len(readings):
            ordered = np.sort(readings.value).tolist()
            found.append(Curve(f"response latency in {phase}", "ms", "turns", ordered, (), readings))
    return found


def _chart(curve: Curve, number: int) -> Chart:
    drawn = [curve.quantile(q) for q in ranks(len(curve.ordered), QUANTILES, [target.q for target in curve.targets])]
    xs = [1 / (1 - one.q) for one in drawn]
    values = [one.value for one in drawn]
    low = [None if one.low == -inf else one.low for one in drawn]
    high = [one.high if one.q else None for one in drawn]  # the lowest of all is no quantile that has an interval
    never = any(value == inf for value in values)
    series: list[JSON] = [
        {"label": "interval from", "values": told(low), "style": "edge", "unit": curve.unit},
        {"label": "to", "values": told(high), "style": "edge", "unit": curve.unit},
        {"label": "measured", "values": told(values), "ink": 1, "style": "line", "unit": curve.unit},
    ]
    limits = [target.limit for target in curve.targets]
    highest = max([highest_finite(values), *limits])
    stairs: list[JSON] = [
        {"x": 1 / (1 - t.q), "limit": t.limit, "label": t.told, "below": t.sign == "\u2264"} for t in curve.targets
    ]
    picture: dict[str, JSON] = {
        "x": "percentile",
        "y": {"label": f"{curve.title.partition(' in ')[0]} ({curve.unit})", "never": never, "top": 1.1 * highest},
        "tables": [{"xs": told(xs), "series": series}],
        "stairs": stairs,
    }
    demanded = "; ".join(target.told for target in curve.targets)
    caption = f"{len(curve.ordered):,} {curve.noun}" + (f"; targets: {demanded}" if demanded else "; no target")
    return Chart(
        id=f"percentiles-{number}",
        title=curve.title[:1].upper() + curve.title[1:],
        drawn=picture,
        caption=caption,
        small=True,
    )
