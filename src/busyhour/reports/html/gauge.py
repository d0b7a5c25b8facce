"""An interval drawn against its limit: where everything lies on a small line, and the words beside it.

The words are composed by `statistics.wording`, of the very numbers that the JSON has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, isfinite, log10

from busyhour.model import Estimate, Verdict
from busyhour.statistics.wording import exactly, number, spread, with_unit

WIDTH = 280.0
LEFT, RIGHT = 10.0, 270.0
_LOG_FROM = 30.0  # times that the largest is the smallest
_LETTER = 6.3  # wide, of the words


@dataclass(frozen=True, slots=True)
class Label:
    text: str
    x: float
    anchor: str


@dataclass(frozen=True, slots=True)
class Gauge:
    """All x are from 0 to `WIDTH`. `allowed` is the stretch within the limits, `limits` are where they are, `interval`
    is the stretch from low to high, with `open_low` and `open_high` where it has no end; `value` is None where it is
    infinite, which is drawn as an arrow out of the picture."""

    told: str
    allowed: tuple[float, float]
    limits: tuple[Label, ...]
    interval: tuple[float, float] | None
    open_low: bool
    open_high: bool
    value: float | None
    label: Label
    log: bool


def figure(estimate: Estimate | None) -> str:
    """A value with its unit; "never" for what did not come, a dash for what was not measured."""
    if estimate is None or estimate.value is None:
        return "\u2013"
    return "never" if estimate.value == inf else with_unit(number(estimate.value, estimate.unit), estimate.unit)


def gauge(verdict: Verdict) -> Gauge | None:
    """None where nothing was measured, or there is no limit to draw it against."""
    estimate, limits = verdict.estimate, [limit for limit in verdict.limits if limit is not None]
    if estimate is None or estimate.value is None or not limits:
        return None
    scale = _Scale.of(estimate, limits)
    low, high = estimate.low, estimate.high
    shown = low is not None and high is not None and low != high
    value = None if not isfinite(estimate.value) else scale.x(estimate.value)
    at = RIGHT if value is None else value
    at_least, at_most = verdict.limits
    allowed = (
        0.0 if at_least is None else scale.x(at_least),
        WIDTH if at_most is None else scale.x(at_most),
    )
    return Gauge(
        told=_told(estimate, verdict),
        allowed=allowed,
        limits=_limits(verdict, scale),
        interval=(_edge(scale, low, 0.0), _edge(scale, high, WIDTH)) if shown else None,
        open_low=shown and low == -inf,
        open_high=shown and high == inf,
        value=value,
        label=_label(number(estimate.value, estimate.unit, apart_from=limits), at, estimate.unit),
        log=scale.log,
    )


def _edge(scale: _Scale, end: float | None, beyond: float) -> float:
    return beyond if end is None or not isfinite(end) else scale.x(end)


def _told(estimate: Estimate, verdict: Verdict) -> str:
    """The drawing in words: "712 ms (698-731, n=1200), limit <= 800 ms"."""
    limits = [limit for limit in verdict.limits if limit is not None]
    value = number(estimate.value or 0, estimate.unit, apart_from=limits)
    interval = spread(estimate.low, estimate.high, estimate.unit, apart_from=limits)
    counted = ", ".join(filter(None, (interval, f"n={estimate.n}")))
    unit = "" if estimate.value == inf else estimate.unit
    told = " and ".join(f"{sign} {with_unit(exactly(limit), estimate.unit)}" for sign, limit in _signed(verdict))
    return f"{with_unit(value, unit)} ({counted}), limit {told}"


def _signed(verdict: Verdict) -> list[tuple[str, float]]:
    at_least, at_most = verdict.limits
    return [(sign, limit) for sign, limit in (("\u2265", at_least), ("\u2264", at_most)) if limit is not None]


def _limits(verdict: Verdict, scale: _Scale) -> tuple[Label, ...]:
    unit = "" if verdict.estimate is None else verdict.estimate.unit
    return tuple(_label(f"{sign} {exactly(limit)}", scale.x(limit), unit) for sign, limit in _signed(verdict))


def _label(text: str, x: float, unit: str) -> Label:
    """In the middle below or above its place, or to the side of it where that would leave the picture."""
    words = with_unit(text, "" if text == "infinite" else unit)
    half = _LETTER * len(words) / 2
    anchor = "start" if x - half < 0 else "end" if x + half > WIDTH else "middle"
    return Label(words, {"start": 0.0, "end": WIDTH}.get(anchor, x), anchor)


@dataclass(frozen=True, slots=True)
class _Scale:
    low: float
    high: float
    log: bool

    @classmethod
    def of(cls, estimate: Estimate, limits: Sequence[float]) -> _Scale:
        ends = [estimate.value, estimate.low, estimate.high, *limits]
        points = [float(end) for end in ends if end is not None and isfinite(end)]
        least, most = min(points), max(points)
        if least > 0 and most / least >= _LOG_FROM:
            return cls(least / 1.6, most * 1.6, True)
        if estimate.unit == "%" and least >= 50 and most <= 100:
            return cls(max(0.0, least - 0.3 * (100 - least) - 0.5), 100.0, False)
        if least >= 0 and (least < 0.6 * most or most == 0):
            return cls(0.0, most * 1.2 or 1.0, False)
        room = 0.35 * (most - least) or 0.2 * abs(most) or 1.0
        return cls(least - room, most + room, False)

    def x(self, value: float) -> float:
        if self.log:
            value, low, high = (log10(max(one, 1e-300)) for one in (value, self.low, self.high))
        else:
            low, high = self.low, self.high
        share = (value - low) / (high - low)
        return round(LEFT + (RIGHT - LEFT) * min(1.0, max(0.0, share)), 2)
