"""How numbers are written in the sentences that people read."""

from __future__ import annotations

from collections.abc import Sequence
from math import floor, inf, isinf, log10


def number(value: float, unit: str = "", *, apart_from: Sequence[float] = ()) -> str:
    """About three significant digits, and as many more as it takes to stay on its side of those it is `apart_from`.

    Of a percentage near 100 the distance from 100 has two: 99.97 % is not "100 %".
    """
    if isinf(value):
        return "infinite" if value > 0 else "-infinite"
    decimals = _decimals(value, 3)
    if unit == "%":
        decimals = max(decimals, _decimals(100 - value, 2))
    text = f"{value:.{decimals}f}"
    # 800.3 beside a limit of 800 would read "800 ms, over 800 ms", and 1.253 beside 1.252 "1.25 s, over 1.252 s".
    while decimals < 12 and any(_side(float(text), limit) != _side(value, limit) for limit in apart_from):
        decimals += 1
        text = f"{value:.{decimals}f}"
    return _stripped(text)


def exactly(value: float) -> str:
    """A number as its author wrote it: 800, 0.05, 99.9."""
    return f"{value:.12g}"


def percentile(q: float) -> str:
    """0.95 is "p95", 0.999 "p99.9"."""
    return f"p{exactly(q * 100)}"


def certified(q: float) -> str:
    """A percentile rounded down, never up: 0.92785 is "p92.7", 0.99037 "p99"."""
    decimals = 1 if q < 0.99 or q >= 1 else min(12, max(1, floor(-log10(1 - q)) - 1))
    scale = 10**decimals
    return f"p{exactly(floor(q * 100 * scale) / scale)}"


def spread(low: float | None, high: float | None, unit: str, *, apart_from: Sequence[float]) -> str:
    """An interval: "698-731", "698 or more", "up to 731"; "" where neither end is bounded or both are the same."""
    if low is None or high is None or low == high or (low == -inf and high == inf):
        return ""
    if high == inf:
        return f"{number(low, unit, apart_from=apart_from)} or more"
    if low == -inf:
        return f"up to {number(high, unit, apart_from=apart_from)}"
    return f"{number(low, unit, apart_from=apart_from)}-{number(high, unit, apart_from=apart_from)}"


def with_unit(text: str, unit: str) -> str:
    return f"{text} {unit}".rstrip()


def _side(value: float, limit: float) -> int:
    return (value > limit) - (value < limit)


def _decimals(value: float, digits: int) -> int:
    return min(12, max(0, digits - 1 - floor(log10(abs(value))))) if value else 0


def _stripped(text: str) -> str:
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text == "-0" else text
