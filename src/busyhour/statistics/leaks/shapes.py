"""The shapes that memory over time may have: each a set of columns for least squares, tried with many parameters.

Growth that ends (a plateau, a logarithm, a capped ramp, a step) is a shape of its own, and each also occurs with a line
that does not end: a leak. Whoever looks for lines alone finds them in every warm-up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from busyhour.statistics.leaks.traces import Blocks, Floats

Indices = npt.NDArray[np.intp]


class Growth(StrEnum):
    """What goes on growing in a shape when the rest has settled."""

    NOTHING = ""
    LINE = "line"  # with time
    CALLS = "calls"  # with the calls completed


@dataclass(frozen=True, eq=False)
class Shape:
    """Its variants, one for each choice of parameters: a row of column numbers beside the constant; the factor that
    makes the last column's coefficient a slope per hour at the end of the trace; and what was chosen, in hours."""

    base: str
    growth: Growth
    variants: Indices
    rate: Floats
    chosen: Floats

    @property
    def name(self) -> str:
        if self.growth is Growth.NOTHING:
            return self.base
        return str(self.growth) if self.base == "constant" else f"{self.base} with {self.growth}"

    @property
    def ends(self) -> bool:
        return self.growth is Growth.NOTHING

    @property
    def width(self) -> int:
        """Coefficients, that of the constant among them."""
        return 1 + int(self.variants.shape[1])

    @property
    def parameters(self) -> int:
        """All that is fitted: coefficients, time constants, places."""
        return self.width + int(self.chosen.shape[1])


@dataclass(frozen=True, eq=False)
class Design:
    """All columns, of range 1 and beginning at 0 but for the first, the constant; and the shapes made of them."""

    columns: Floats
    shapes: Sequence[Shape]


@dataclass(frozen=True, eq=False)
class _Family:
    """Columns that differ in a parameter: their numbers, the parameters, how fast the last still rises at the end."""

    columns: Indices
    chosen: Floats
    end_rate: Floats

    def beside(self, other: _Family, *, apart: float = -np.inf) -> _Family:
        """Each of these together with each of the others, whose first parameter is greater by at least `apart`."""
        mine, others = np.nonzero(other.chosen[None, :, 0] - self.chosen[:, None, 0] >= apart)
        return _Family(
            np.hstack([self.columns[mine], other.columns[others]]),
            np.hstack([self.chosen[mine], other.chosen[others]]),
            other.end_rate[others],
        )

    def thinned(self, step: int) -> _Family:
        """Every so many of them, the last among them."""
        return _Family(self.columns[::-step], self.chosen[::-step], self.end_rate[::-step])


@dataclass
class _Making:
    """A design while it is made."""

    hours: Floats  # from the first block
    count: int = 0
    columns: list[Floats] = field(default_factory=list)
    shapes: list[Shape] = field(default_factory=list)
    growths: list[tuple[Growth, int]] = field(default_factory=list)

    @property
    def span(self) -> float:
        return float(self.hours[-1])

    def family(self, columns: Floats, chosen: Floats, end_rate: Floats | None = None) -> _Family:
        """New columns, one in each row, each with the parameter, or the row of them, that was chosen."""
        self.columns.append(columns)
        numbers = np.arange(self.count, self.count + len(columns))
        self.count += len(columns)
        rate = np.zeros(len(columns)) if end_rate is None else end_rate
        return _Family(numbers[:, None], chosen.reshape(len(columns), -1), rate)

    def column(self, values: Floats) -> int:
        return int(self.family(values[None, :], np.zeros(1)).columns[0, 0])

    def add(self, base: str, family: _Family) -> None:
        """A shape, and the same with each growth."""
        many = len(family.columns)
        if not many:
            return
        self.shapes.append(Shape(base, Growth.NOTHING, family.columns, family.end_rate, family.chosen))
        for growth, column in self.growths:
            grown = np.hstack([family.columns, np.full((many, 1), column, dtype=np.intp)])
            self.shapes.append(Shape(base, growth, grown, np.full(many, 1 / self.span), family.chosen))


def coarse_taus(span: float, settling_hours: float) -> Floats:
    """Time constants from a fortieth of the trace to the longest that a warm-up may have."""
    return np.geomspace(min(span, settling_hours) / 40, settling_hours, 12)


def taus_around(tau: float, ratio: float, most: float) -> Floats:
    """Itself, and three on either side, in steps of a quarter of the ratio; none above `most`."""
    return np.unique(np.minimum(most, tau * ratio ** (np.arange(-3, 4) / 4)))


def design(blocks: Blocks, taus: Floats, *, starts: Indices | None = None) -> Design:
    """The model set at the times of the blocks. Without `starts`, blocks in which something may have begun, what has a
    place in time and more besides is left out."""
    making = _begun(blocks)
    making.add("constant", _Family(np.zeros((1, 0), dtype=np.intp), np.zeros((1, 0)), np.zeros(1)))
    plateaus = _plateaus(making, taus)
    making.add("plateau", plateaus)
    making.add("logarithm", _logarithms(making))
    places = making.hours[2:-2]
    ramps = places[: int(0.85 * len(places))]
    making.add("capped ramp", making.family(np.minimum(1.0, making.hours / ramps[:, None]), ramps))
    steps = making.family((making.hours >= places[:, None]).astype(np.float64), places)
    making.add("step", steps)
    _add_late_line(making)
    _add_load(making, blocks)
    if starts is not None:
        making.add("two steps", steps.beside(steps, apart=making.span / 16))
        making.add("plateau and step", steps.beside(plateaus))
        _add_late(making, plateaus.thinned(3), making.hours[starts], taus[::-1][:: max(1, len(taus) // 6)])
    return Design(np.vstack(making.columns).T, making.shapes)


def plateaus_only(blocks: Blocks, taus: Floats) -> Design:
    """What grows and ends, without and with what grows evenly."""
    making = _begun(blocks)
    making.add("plateau", _plateaus(making, taus))
    return Design(np.vstack(making.columns).T, making.shapes)


def late_only(blocks: Blocks, taus: Floats, starts: Indices, late_taus: Floats) -> Design:
    """What begins within the trace, alone and after a plateau from the start."""
    making = _begun(blocks)
    _add_late(making, _plateaus(making, taus), making.hours[starts], late_taus)
    return Design(np.vstack(making.columns).T, making.shapes)


def line_only(blocks: Blocks) -> Design:
    """What grows evenly, and nothing else."""
    making = _begun(blocks)
    making.add("constant", _Family(np.zeros((1, 0), dtype=np.intp), np.zeros((1, 0)), np.zeros(1)))
    return Design(np.vstack(making.columns).T, [shape for shape in making.shapes if not shape.ends])


def _begun(blocks: Blocks) -> _Making:
    making = _Making(blocks.hours - blocks.hours[0])
    making.column(np.ones(len(making.hours)))
    making.growths.append((Growth.LINE, making.column(making.hours / making.span)))
    _add_calls(making, blocks)
    return making


def _add_calls(making: _Making, blocks: Blocks) -> None:
    """The calls completed, where they did not come so evenly that they are the line over again."""
    done = blocks.completed
    if done is None or not np.ptp(done):
        return
    share = (done - done[0]) / np.ptp(done)
    if np.abs(share - making.hours / making.span).max() >= 0.01:
        making.growths.append((Growth.CALLS, making.column(share)))


def _add_load(making: _Making, blocks: Blocks) -> None:
    """What a pool keeps of the most that ever was in progress, and what follows the load otherwise than its fast
    movements show: more, or less, where it is high. They compete with a line like every other shape: a leak is
    explained by them only if it looks so."""
    if blocks.load is None or blocks.high_water is None or not np.ptp(blocks.high_water):
        return
    load, bent, high = (
        making.column((column - column[0]) / np.ptp(column)) if np.ptp(column) else None
        for column in (blocks.load, (blocks.load - blocks.load.min()) ** 2, blocks.high_water)
    )
    shapes = {
        "load": [load],
        "bent load": [load, bent],
        "high water": [high],
        "load and high water": [load, high],
        "bent load and high water": [load, bent, high],
    }
    for base, columns in shapes.items():
        if None not in columns:  # a load that is the same in all blocks explains nothing
            making.add(base, _Family(np.array([columns]), np.zeros((1, 0)), np.zeros(1)))


def _plateaus(making: _Making, taus: Floats) -> _Family:
    """1 - exp(-t / tau)."""
    reached = 1 - np.exp(-making.span / taus)
    columns = (1 - np.exp(-making.hours / taus[:, None])) / reached[:, None]
    return making.family(columns, taus, np.exp(-making.span / taus) / taus / reached)


def _add_late(making: _Making, plateaus: _Family, starts: Floats, taus: Floats) -> None:
    later = _late_plateaus(making, starts, taus)
    making.add("late plateau", later)
    making.add("two plateaus", plateaus.beside(later))
    _add_late_start(making, later)


def _late_plateaus(making: _Making, starts: Floats, taus: Floats) -> _Family:
    """A warm-up that begins within the trace: of a cache whose first user comes later."""
    start, tau = (grid.ravel() for grid in np.meshgrid(starts, taus, indexing="ij"))
    since = np.maximum(0.0, making.hours - start[:, None])
    left = making.span - start
    reached = 1 - np.exp(-left / tau)
    columns = (1 - np.exp(-since / tau[:, None])) / reached[:, None]
    return making.family(columns, np.column_stack([start, tau]), np.exp(-left / tau) / tau / reached)


def _add_late_start(making: _Making, later: _Family) -> None:
    """Something is put to use: it takes its place at once, warms up, and from then on may leak."""
    starts = later.chosen[:, 0]
    at_once = making.family((making.hours >= starts[:, None]).astype(np.float64), starts)
    from_then = making.family(np.maximum(0.0, making.hours - starts[:, None]) / making.span, starts)
    plain = np.hstack([at_once.columns, later.columns])
    grown = np.hstack([plain, from_then.columns])
    making.shapes.append(Shape("late start", Growth.NOTHING, plain, later.end_rate, later.chosen))
    making.shapes.append(Shape("late start", Growth.LINE, grown, np.full(len(starts), 1 / making.span), later.chosen))


def _logarithms(making: _Making) -> _Family:
    """log(1 + t / tau): a cache of keys that repeat ever more often, pages that fragment."""
    taus = making.span * np.geomspace(0.01, 0.3, 32)
    reached = np.log1p(making.span / taus)
    columns = np.log1p(making.hours / taus[:, None]) / reached[:, None]
    return making.family(columns, taus, 1 / (making.span + taus) / reached)


def _add_late_line(making: _Making) -> None:
    """A line that begins within the first three quarters of the trace."""
    starts = making.hours[2 : max(3, int(0.75 * len(making.hours)))]
    family = making.family(np.maximum(0.0, making.hours - starts[:, None]) / making.span, starts)
    making.shapes.append(
        Shape("late", Growth.LINE, family.columns, np.full(len(starts), 1 / making.span), family.chosen)
    )
