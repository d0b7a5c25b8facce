"""What a run would have cost: tokens, characters and minutes as the twins saw them on the wire, times a price list.

A request is charged for what the vendor did, whether or not it was of use: a reply that the caller interrupted was
paid for. What was refused costs nothing.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from math import inf
from pathlib import Path

from busyhour.errors import PlanError
from busyhour.indicators.vendors import served
from busyhour.model import SECOND, Comparison, Estimate, Operation, Outcome, Run

_MILLION, _MINUTE_NS, _MINUTE_MS = 1_000_000, 60 * SECOND, 60_000
_UNITS = {
    "llm": {"input_per_million_tokens", "output_per_million_tokens"},
    "stt": {"per_minute"},
    "tts": {"per_million_characters"},
    "vector": {"per_million_queries"},
    "carrier": {"per_minute"},
}


@dataclass(frozen=True)
class Prices:
    """A price list: kind -> beginning of the model's name -> price by its unit, all in `currency`."""

    currency: str
    of: Mapping[str, Mapping[str, Mapping[str, float]]]

    @classmethod
    def load(cls, path: str | Path) -> Prices:
        """Read a list of your own, in the form of indicators/prices.json. Raises PlanError with every problem."""
        try:
            return cls.parse(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise PlanError(f"{path}: the price list cannot be read: {error}") from None
        except PlanError as error:
            raise PlanError([f"{path}: {problem}" for problem in error.problems]) from None

    @classmethod
    def parse(cls, text: str) -> Prices:
        try:
            form = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise PlanError(f"the price list is not JSON: {error}") from None
        if not isinstance(form, Mapping) or not isinstance(form.get("currency"), str):
            raise PlanError('the price list is no JSON object with a "currency"')
        problems = [problem for kind in _UNITS for problem in _wrong(kind, form.get(kind, {}))]
        if problems:
            raise PlanError(problems)
        return cls(form["currency"], {kind: form.get(kind, {}) for kind in _UNITS})

    def found(self, kind: str, model: str) -> Mapping[str, float] | None:
        """The prices of a model: those of the longest name that it begins with; None if there is none."""
        known = [name for name in self.of.get(kind, {}) if model.startswith(name)]
        return self.of[kind][max(known, key=len)] if known else None


def _wrong(kind: str, models: object) -> Iterator[str]:
    if not isinstance(models, Mapping):
        yield f"{kind} is {models!r}; it must be an object of model: prices"
        return
    for model, prices in models.items():
        units = set(prices) if isinstance(prices, Mapping) else set()
        if units != _UNITS[kind]:
            yield f"{kind} {model!r} must have exactly {', '.join(sorted(_UNITS[kind]))}"
        elif not all(isinstance(p, int | float) and not isinstance(p, bool) and 0 <= p < inf for p in prices.values()):
            yield f"{kind} {model!r}: a price is a number of at least 0"


@cache
def list_prices() -> Prices:
    """The price list that is shipped; it says of when it is."""
    return Prices.parse(files("busyhour").joinpath("indicators/prices.json").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Total:
    """A sum of money over an amount. What has no price is not in it, so with `unpriced` it is a lower bound only."""

    value: float | None
    n: int
    parts: str
    unpriced: tuple[str, ...] = ()

    @property
    def low(self) -> float | None:
        return self.value

    @property
    def high(self) -> float | None:
        return inf if self.unpriced and self.value is not None else self.value

    def at_most(self, limit: float, alpha: float) -> Comparison:
        """Whether it is; alpha says nothing here, for nothing was sampled."""
        assert self.value is not None
        if self.value > limit:
            return Comparison(Outcome.FAIL, self.parts)
        return (
            Comparison(Outcome.INCONCLUSIVE, self._missing()) if self.unpriced else Comparison(Outcome.PASS, self.parts)
        )

    def at_least(self, limit: float, alpha: float) -> Comparison:
        assert self.value is not None
        if self.value >= limit:
            return Comparison(Outcome.PASS, self.parts)
        return (
            Comparison(Outcome.INCONCLUSIVE, self._missing()) if self.unpriced else Comparison(Outcome.FAIL, self.parts)
        )

    def _missing(self) -> str:
        return f"the price list has no {' and no '.join(self.unpriced)}"


@dataclass(frozen=True)
class Cost:
    """Money per minute of call, or per call, of a phase ("" for the whole run)."""

    per: str
    phase: str
    prices: Prices

    @property
    def what(self) -> str:
        return f"cost per {self.per}{f' in {self.phase}' if self.phase else ''}"

    @property
    def unit(self) -> str:
        return self.prices.currency

    @property
    def phases(self) -> tuple[str, ...]:
        return (self.phase,) if self.phase else ()

    def __call__(self, run: Run) -> Estimate:
        calls = [call for call in run.operations("call", self.phase or None) if _minutes(call) > 0]
        amount = sum(map(_minutes, calls)) if self.per == "minute" else len(calls)
        parts: dict[str, float] = defaultdict(float)
        unpriced: dict[str, None] = {}
        for kind, model, price in self._charges(run):
            if price is None:
                unpriced[f"{kind} model {model!r}"] = None
            else:
                parts[kind] += price
        value = sum(parts.values()) / amount if amount else None
        told = ", ".join(
            f"{kind} {100 * part / total:.0f} %"
            for total in [sum(parts.values())]
            if total
            for kind, part in parts.items()
        )
        total = Total(value, len(calls), told, tuple(unpriced))
        return Estimate(self.what, self.unit, total.n, total.value, total.low, total.high, total)

    def _charges(self, run: Run) -> Iterator[tuple[str, str, float | None]]:
        """Kind, model, and what it cost; None for what has no price."""
        phase = self.phase or None
        for kind, charge in _CHARGES.items():
            for row in run.operations(_ROWS.get(kind, kind), phase):
                model = str(row.detail.get("model") or "")
                prices = self.prices.found(kind, model)
                cost = charge(row, prices) if prices is not None else 0.0 if not _billed(kind, row) else None
                yield kind, model, cost
        carrier = str(run.meta.get("carrier") or "")
        prices = self.prices.found("carrier", carrier)
        for call in run.operations("call", phase):
            yield "carrier", carrier, None if prices is None else prices["per_minute"] * _minutes(call)


def _number(row: Operation, name: str) -> float:
    value = row.detail.get(name)
    return value if isinstance(value, int | float) else 0.0


def _of_llm(row: Operation, prices: Mapping[str, float]) -> float:
    return (
        prices["input_per_million_tokens"] * _number(row, "prompt_tokens")
        + prices["output_per_million_tokens"] * _number(row, "tokens")
    ) / _MILLION


def _of_stt(row: Operation, prices: Mapping[str, float]) -> float:
    return prices["per_minute"] * _number(row, "audio_ms") / _MINUTE_MS


def _of_tts(row: Operation, prices: Mapping[str, float]) -> float:
    return prices["per_million_characters"] * _number(row, "characters") / _MILLION


def _of_vector(row: Operation, prices: Mapping[str, float]) -> float:
    return prices["per_million_queries"] / _MILLION if _queried(row) else 0.0


def _queried(row: Operation) -> bool:
    return row.detail.get("op") == "query" and served(row)


_CHARGES: Mapping[str, Callable[[Operation, Mapping[str, float]], float]] = {
    "llm": _of_llm,
    "stt": _of_stt,
    "tts": _of_tts,
    "vector": _of_vector,
}
_ROWS = {"stt": "stt_connection"}
"""Sound is charged as it was sent: a row of a final tells of what was understood."""
_AMOUNTS = {"llm": ("prompt_tokens", "tokens"), "stt": ("audio_ms",), "tts": ("characters",)}


def _billed(kind: str, row: Operation) -> bool:
    return _queried(row) if kind == "vector" else any(_number(row, name) for name in _AMOUNTS[kind])


def _minutes(call: Operation) -> float:
    """From the answer to the end; nothing for a call that was not answered."""
    answered_ns = call.detail.get("answered_ns")
    if not isinstance(answered_ns, int) or not answered_ns or call.ended_ns is None:
        return 0.0
    return max(0, call.ended_ns - answered_ns) / _MINUTE_NS
