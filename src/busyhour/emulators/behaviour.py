"""How a twin behaves: latency distributions and the share of requests that go wrong, as values with a JSON form.

All that is random is drawn from a `random.Random` seeded by (seed, stream, request number): the n-th request of a run
meets the same fate in every run with the same settings, whatever the settings of the others were. A problem is told
as a `PlanError` with one sentence for each thing wrong.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from random import Random
from typing import Any, Protocol

from busyhour.errors import PlanError
from busyhour.model import JSON

LONGEST_MS = 3_600_000.0
"""No latency is longer than an hour; what never comes is the outcome "hang"."""

OK = "ok"
HTTP_OUTCOMES = ("http_401", "http_429", "http_500", "http_503")
COMMON_OUTCOMES = (*HTTP_OUTCOMES, "reset", "hang")
"""What every twin can be told to do: answer with a status, reset the connection, or accept and never answer."""


class Latency(Protocol):
    """A distribution of delays."""

    def sample_ms(self, random: Random) -> float:
        """One delay, in milliseconds, from 0 to LONGEST_MS."""
        ...

    def as_json(self) -> Mapping[str, JSON]:
        """The form that `latency_from_json` reads back."""
        ...


@dataclass(frozen=True, slots=True)
class Constant:
    """Always `ms`."""

    ms: float

    def __post_init__(self) -> None:
        _check_delay(self.ms, "Constant: ms")

    def sample_ms(self, random: Random) -> float:
        return self.ms

    def as_json(self) -> Mapping[str, JSON]:
        return {"distribution": "constant", "ms": self.ms}


@dataclass(frozen=True, slots=True)
class LogNormal:
    """Half of the delays are below `median_ms`; `sigma` is the deviation of their logarithm: the p95 is
    median * exp(1.645 * sigma), so 0.4 puts it at 1.9 times the median. What service latencies usually look like."""

    median_ms: float
    sigma: float

    def __post_init__(self) -> None:
        _check_delay(self.median_ms, "LogNormal: median_ms")
        if self.median_ms == 0:
            raise PlanError("LogNormal: median_ms is 0; a log-normal delay is positive, use Constant(0).")
        if not _is_number(self.sigma) or not 0 <= self.sigma <= 5:
            raise PlanError(f"LogNormal: sigma is {self.sigma!r}; it must be a number from 0 to 5.")

    def sample_ms(self, random: Random) -> float:
        return min(self.median_ms * math.exp(random.gauss(0, self.sigma)), LONGEST_MS)

    def as_json(self) -> Mapping[str, JSON]:
        return {"distribution": "lognormal", "median_ms": self.median_ms, "sigma": self.sigma}


@dataclass(frozen=True, slots=True)
class Empirical:
    """One of the measured delays `ms`, each equally likely: a list from production is its own distribution."""

    ms: Sequence[float]

    def __post_init__(self) -> None:
        object.__setattr__(self, "ms", tuple(self.ms))
        if not self.ms:
            raise PlanError("Empirical: the list of delays is empty; give at least one, in ms.")
        for value in self.ms:
            _check_delay(value, "Empirical: a delay")

    def sample_ms(self, random: Random) -> float:
        return self.ms[int(random.random() * len(self.ms))]

    def as_json(self) -> Mapping[str, JSON]:
        return {"distribution": "empirical", "ms": list(self.ms)}


def latency_from_json(value: object, name: str = "latency") -> Latency:
    """Read what `as_json` wrote; a bare number is a constant, in ms. Raises PlanError beginning with `name`."""
    if _is_number(value):
        return Constant(_delay(value, name))
    if not isinstance(value, Mapping):
        raise PlanError(f"{name} is {value!r}; it must be a number of ms or an object with a distribution.")
    form = {str(key): item for key, item in value.items()}
    kind = form.pop("distribution", None)
    fields = {"constant": {"ms"}, "lognormal": {"median_ms", "sigma"}, "empirical": {"ms"}}
    if not isinstance(kind, str) or kind not in fields:
        raise PlanError(f"{name}: distribution is {kind!r}; known are constant, lognormal and empirical.")
    if set(form) != fields[kind]:
        raise PlanError(f"{name}: a {kind} distribution has exactly {_listed(fields[kind])}, got {_listed(form)}.")
    if kind == "constant":
        return Constant(_delay(form["ms"], name))
    if kind == "lognormal":
        if not _is_number(form["sigma"]):
            raise PlanError(f"{name}: sigma is {form['sigma']!r}; it must be a number from 0 to 5.")
        return LogNormal(_delay(form["median_ms"], name), _delay(form["sigma"], name))
    if not isinstance(form["ms"], Sequence) or isinstance(form["ms"], str):
        raise PlanError(f"{name}: ms of an empirical distribution is {form['ms']!r}; it must be a list of numbers.")
    return Empirical([_delay(item, name) for item in form["ms"]])


@dataclass(frozen=True, slots=True)
class Fate:
    """What was drawn for one request: its number in its stream (from 0), its outcome, and its own randomness."""

    number: int
    outcome: str
    random: Random


@dataclass(frozen=True, kw_only=True)
class Behaviour:
    """The settings of one twin: latencies, numbers and switches (a vendor's own), and outcome -> share of requests.

    The share that no outcome claims is "ok". `possible` is what this twin can be told to do. Raises PlanError.
    """

    possible: Collection[str]
    latencies: Mapping[str, Latency] = field(default_factory=dict)
    numbers: Mapping[str, float] = field(default_factory=dict)
    switches: Mapping[str, bool] = field(default_factory=dict)
    outcomes: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        problems = [*self._wrong_outcomes(), *self._wrong_numbers(), *self._wrong_switches()]
        # JSON's 0 and 1 are what shells and other languages write for a switch.
        object.__setattr__(self, "switches", {name: bool(value) for name, value in self.switches.items()})
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            problems.append(f"seed is {self.seed!r}; it must be an integer.")
        if problems:
            raise PlanError(problems)

    def _wrong_outcomes(self) -> list[str]:
        problems = []
        for outcome, share in self.outcomes.items():
            if outcome not in self.possible:
                near = get_close_matches(str(outcome), self.possible, n=1, cutoff=0.8)
                mend = f"; did you mean {near[0]}?" if near else "."
                known = ", ".join(sorted(self.possible))
                problems.append(f"outcome {outcome!r} is unknown here; possible are {known}{mend}")
            if not _is_number(share) or not 0 <= share <= 1:
                problems.append(f"the share of outcome {outcome!r} is {share!r}; it must be a number from 0 to 1.")
        if not problems and sum(self.outcomes.values()) > 1 + 1e-9:
            problems.append(f"the shares of the outcomes add up to {sum(self.outcomes.values()):g}; 1 is the most.")
        return problems

    def _wrong_numbers(self) -> list[str]:
        return [
            f"{name} is {value!r}; it must be a positive number."
            for name, value in self.numbers.items()
            if not _is_number(value) or not 0 < value <= 1e9
        ]

    def _wrong_switches(self) -> list[str]:
        return [
            f"{name} is {value!r}; it is a switch: true or false (or 1 or 0)."
            for name, value in self.switches.items()
            if not isinstance(value, int | float) or value not in (0, 1)
        ]

    def draw(self, stream: str, number: int, among: Collection[str]) -> Fate:
        """The fate of request `number` of `stream`; outcomes not in `among` do not concern this stream: "ok".

        Exactly one number is drawn for the outcome, so a change of shares leaves every latency as it was.
        """
        random = Random(f"{self.seed}/{stream}/{number}")
        at = random.random()
        for outcome, share in sorted(self.outcomes.items()):
            if outcome in among:
                if at < share:
                    return Fate(number, outcome, random)
                at -= share
        return Fate(number, OK, random)

    def delay_ns(self, latency: str, random: Random) -> int:
        """One delay of the named latency, in nanoseconds."""
        return round(self.latencies[latency].sample_ms(random) * 1e6)

    def as_json(self) -> dict[str, JSON]:
        """The flat form that `changed` reads: {"first_token": {...}, "realtime_factor": 4, "outcomes": {}}."""
        return {
            **{name: latency.as_json() for name, latency in self.latencies.items()},
            **self.numbers,
            **self.switches,
            "outcomes": dict(self.outcomes),
            "seed": self.seed,
        }

    def changed(self, change: object) -> Behaviour:
        """A copy with the named settings replaced (outcomes as a whole). Raises PlanError with every problem.

        "served", which a twin adds to its answers, is passed over: such an answer can be sent back as it came.
        """
        if not isinstance(change, Mapping):
            raise PlanError(f"a change of behaviour is a JSON object, not {type(change).__name__}.")
        problems: list[str] = []
        latencies: dict[str, Latency] = dict(self.latencies)
        own: dict[str, Any] = {**self.numbers, **self.switches}
        general: dict[str, Any] = {"outcomes": self.outcomes, "seed": self.seed}
        for name, value in change.items():
            if name in latencies:
                try:
                    latencies[name] = latency_from_json(value, name)
                except PlanError as problem:
                    problems.extend(problem.problems)
            elif name in own:
                own[name] = value
            elif name in general:
                general[name] = value
            elif name != "served":
                known = _listed([*latencies, *own, *general])
                problems.append(f"setting {name!r} is unknown here; known are {known}.")
        if not isinstance(general["outcomes"], Mapping):
            problems.append(f"outcomes is {general['outcomes']!r}; it must be an object of outcome: share.")
            general["outcomes"] = {}
        numbers = {name: own[name] for name in self.numbers}
        switches = {name: own[name] for name in self.switches}
        try:
            whole = replace(self, latencies=latencies, numbers=numbers, switches=switches, **general)
        except PlanError as problem:
            problems.extend(problem.problems)
        if problems:
            raise PlanError(problems)
        return whole


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check_delay(value: object, what: str) -> None:
    _delay(value, what)


def _delay(value: object, what: str) -> float:
    if not isinstance(value, int | float) or not _is_number(value) or not 0 <= value <= LONGEST_MS:
        raise PlanError(f"{what} is {value!r}; it must be a number of ms from 0 to {LONGEST_MS:.0f}.")
    return value


def _listed(names: Collection[str]) -> str:
    return ", ".join(sorted(names)) or "nothing"
