"""What has been learned so far: delays, shares, numbers; bounded, whatever the length of the lesson.

A request that its client abandoned before what is timed came counts for the delay as far as it had waited (see
`waits`). For the outcomes it does not count, unless its own was known: what it would have come to, nobody knows, so
that a vendor's hanging, which every client ends, is found in the delays and not in the outcomes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import median

from busyhour.emulators.behaviour import LONGEST_MS
from busyhour.emulators.profile import Abandoned, Profile, measured_latency
from busyhour.learn.waits import Reservoir, Waits
from busyhour.model import MS

_HTTP = "http_"


class Lessons:
    """`finished`: requests, contexts or utterances that came to an end, good or bad.

    Outcomes are shares of what they can befall, as a twin draws them: a status befalls requests and connections, all
    others requests and what is asked inside a connection.
    """

    def __init__(self) -> None:
        self.finished = 0
        self._waits: dict[str, Waits] = {}
        self._numbers: dict[str, Reservoir[float]] = {}
        self._met: Counter[str] = Counter()
        self._doors = 0
        self._works = 0

    @property
    def delays(self) -> Mapping[str, Sequence[float]]:
        """In milliseconds: of what came."""
        return {name: waits.values for name, waits in self._waits.items() if waits.came}

    @property
    def waits(self) -> Mapping[str, Waits]:
        return self._waits

    @property
    def outcomes(self) -> Mapping[str, int]:
        return self._met

    def delay(self, name: str, ns: int) -> None:
        """A latency was measured. What is below zero came before it could be due, and is 0."""
        self._waited(name, ns, abandoned=False)

    def abandoned(self, name: str, ns: int) -> None:
        """Somebody waited so long for it, and left before it came."""
        self._waited(name, ns, abandoned=True)

    def _waited(self, name: str, ns: int, *, abandoned: bool) -> None:
        waits = self._waits.setdefault(name, Waits(name))
        waits.add(min(max(ns, 0) / MS, LONGEST_MS), abandoned=abandoned)

    def number(self, name: str, value: float) -> None:
        self._numbers.setdefault(name, Reservoir(name)).add(value)

    def request(self) -> None:
        """An HTTP request that asks for what is learned."""
        self._doors += 1
        self._works += 1

    def connection(self, status: int) -> None:
        """A WebSocket was asked for, and answered with that status."""
        self._doors += 1
        if outcome := outcome_of(status):
            self.met(outcome)
            self.finished += 1

    def work(self) -> None:
        """Something was asked inside a connection."""
        self._works += 1

    def met(self, outcome: str) -> None:
        self._met[outcome] += 1

    def profile(self, *, vendor: str, upstream: str, learned: str) -> Profile | None:
        """None if nothing was learned."""
        if not self._works and not self._doors:
            return None
        outcomes = {
            outcome: round(min(1.0, count / max(1, self._doors if outcome.startswith(_HTTP) else self._works)), 6)
            for outcome, count in sorted(self._met.items())
        }
        came = {name: waits for name, waits in sorted(self._waits.items()) if waits.came}
        # Statuses and the rest are shares of different wholes: together they can be more than 1, and a twin takes 1.
        scale = max(1.0, sum(outcomes.values()))
        return Profile(
            vendor=vendor,
            learned=learned,
            upstream=upstream,
            requests=self._works,
            latencies={name: measured_latency(waits.drawn()) for name, waits in came.items()},
            measured={name: waits.came for name, waits in came.items()},
            abandoned={name: _abandoned(waits) for name, waits in sorted(self._waits.items()) if waits.abandoned},
            numbers={name: round(median(kept.values), 3) for name, kept in sorted(self._numbers.items())},
            outcomes={outcome: share / scale for outcome, share in outcomes.items()},
        )


def _abandoned(waits: Waits) -> Abandoned:
    curve = waits.curve()
    return Abandoned(n=waits.abandoned, unseen=round(curve.unseen, 6), longer_than_ms=round(curve.longest_ms, 3))


def outcome_of(status: int) -> str:
    """What a twin calls a status; "" for one that the vendor is not to blame for (a 400, a wrong key)."""
    if status == 429:
        return "http_429"
    if status in (502, 503, 504, 529):  # of a gateway, and Anthropic's "overloaded"
        return "http_503"
    return "http_500" if status >= 500 else ""
