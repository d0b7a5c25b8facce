"""The diagnosis of a missed latency: which stage of a turn owns it.

The stages of a turn are the times between the events on the wire, as the twins of the vendors stamped them; they sum up
to its latency (docs/reference/latency.md says of each where it begins and ends). What is told is their mean over the
slowest turns, those at or above the missed value, beside that over typical turns, the middle half. The field's name
for it is a component split (LiveKit's `end_of_utterance_delay`, `transcription_delay`, `ttft`, `ttfb`; Pipecat's
`LatencyBreakdown`), which an agent tells of itself; this one is told by those it waits for.

A diagnosis judges nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil, inf

import numpy as np

from busyhour.columns import NEVER, Bools, Floats, Ints
from busyhour.indicators import readings
from busyhour.indicators.attribution import AMBIGUOUS, STAGES, Attribution, Shared
from busyhour.indicators.shapes import MeanOf, Pooled, QuantileOf
from busyhour.indicators.waits import Wait, Waits
from busyhour.indicators.witnessed import Places
from busyhour.model import MS, SECOND, Indicator, Run
from busyhour.statistics.mean import Mean

_AT_MOST = 100
"""Of the slowest turns, and of the typical ones, so many are looked at: evenly chosen, and more would tell no more."""
_LEAST_SHARE = 0.5
"""If fewer can be attributed, no stage is named: what the others waited for might outweigh all that was found."""
_TOLD_SHARE = 0.05
_WORTH_SHARE = 0.005
_GROWN_SHARE = 0.1
"""Of what is typical: less is no growth that anybody would look for."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of the latency: its mean over the slowest turns, as a share of theirs, the interval of the mean at 95 %
    on either side (None where one call alone tells of it), and its mean over typical turns (None if there are none)."""

    name: str
    ms: float
    share: float  # of 1
    low: float | None  # ms
    high: float | None  # ms
    typical_ms: float | None


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Of one gate. `stages` are in the order of a turn and sum up to its latency; none where no stage can be named.

    n: the slowest turns that could be attributed, `of` so many that were looked at. unanswered: slowest turns without
    an answer, by the stage in which they stood still. because: the whole sentence; every report prints it verbatim.
    """

    gate: str
    because: str
    n: int
    of: int
    stages: tuple[Stage, ...]
    unanswered: tuple[tuple[str, int], ...] = ()

    @property
    def ms(self) -> float:
        """The mean latency of the slowest turns."""
        return sum(stage.ms for stage in self.stages)

    @property
    def typical_ms(self) -> float | None:
        """The mean latency of typical turns; None if there are none."""
        usual = [stage.typical_ms for stage in self.stages if stage.typical_ms is not None]
        return sum(usual) if usual else None

    @property
    def owner(self) -> str:
        """The stage that took longest; "" if none can be named."""
        return max(self.stages, key=lambda stage: stage.ms).name if self.stages else ""


@dataclass(frozen=True, slots=True)
class Missed:
    """A gate that was not met, and what its indicator found."""

    gate: str
    indicator: Indicator
    value: float


def diagnose(run: Run, missed: Sequence[Missed]) -> tuple[Diagnosis, ...]:
    """Which stage owns each missed latency; none for what is no wait for the agent, and where no twin saw anything."""
    asked = [(one, read) for one in missed if (read := _read(one.indicator))]
    phases = dict.fromkeys(phase for _, read in asked for _, phase in read)
    known = {phase: Attribution(run, phase) for phase in phases}
    slowest = [_Slowest([_Part(known[phase], what) for what, phase in read], one.value) for one, read in asked]
    return tuple(
        _diagnosis(one, its)
        for (one, read), its in zip(asked, slowest, strict=True)
        if its.count and any(known[phase] for _, phase in read)
    )


# ---------------------------------------------------------------- which turns


@dataclass(frozen=True, slots=True)
class _What:
    """A reading of waits: of greetings or turns, in which unit; owed: what never came counts until it was given up."""

    noun: str
    unit_ns: int
    owed: bool = False


_KNOWN: Sequence[tuple[object, _What]] = (
    (readings.response_ms, _What("turn", MS)),
    (readings.greeting_ms, _What("greeting", MS)),
    (readings.dead_air_s, _What("turn", SECOND, owed=True)),
)


def _read(indicator: Indicator) -> list[tuple[_What, str]]:
    """What it reads of which phases; nothing if it is no wait."""
    if not isinstance(indicator, QuantileOf | MeanOf):
        return []
    parts = indicator.read.parts if isinstance(indicator.read, Pooled) else ((indicator.read, indicator.phase),)
    return [(what, phase) for read, phase in parts for known, what in _KNOWN if read is known]


@dataclass(frozen=True, eq=False, slots=True)
class _Part:
    """A phase of those that an indicator reads."""

    attribution: Attribution
    what: _What

    @property
    def waits(self) -> Waits:
        return self.attribution.greetings if self.what.noun == "greeting" else self.attribution.turns

    @property
    def late(self) -> Floats:
        """In the indicator's unit."""
        late_ns = self.waits.owed_ns if self.what.owed else self.waits.late_ns
        return np.where(late_ns == NEVER, inf, late_ns / self.what.unit_ns)


class _Slowest:
    """The waits at or above a value with all that never came, and typical ones, each attributed where that can be."""

    def __init__(self, parts: Sequence[_Part], value: float) -> None:
        late = np.concatenate([part.late for part in parts])
        answered = np.concatenate([part.waits.late_ns for part in parts])
        self.noun, self.total = parts[0].what.noun, len(late)
        slow = np.flatnonzero(_beyond(late, value, never=answered == NEVER))
        self.count, self.answered = len(slow), int((answered[slow] > 0).sum())
        self._parts = parts
        self._unanswered = self._chosen(slow[answered[slow] == NEVER])
        self._slow = self._chosen(slow[answered[slow] > 0])
        self._typical = self._chosen(_middle_half(answered))

    def _chosen(self, places: Places) -> list[tuple[Attribution, Wait]]:
        """Some of these, evenly chosen if there are many."""
        if len(places) > _AT_MOST:
            places = places[np.linspace(0, len(places) - 1, _AT_MOST).round().astype(np.intp)]
        begins = np.cumsum([0, *(len(part.waits) for part in self._parts)])
        chosen = []
        for place in places.tolist():
            i = int(np.searchsorted(begins, place, side="right")) - 1
            wait = self._parts[i].waits[place - int(begins[i])]
            self._parts[i].attribution.look_at([wait])
            chosen.append((self._parts[i].attribution, wait))
        return chosen

    @cached_property
    def unanswered(self) -> list[Shared]:
        return [attribution.shared(wait) for attribution, wait in self._unanswered]

    @cached_property
    def seen(self) -> list[Shared]:
        return [attribution.shared(wait) for attribution, wait in self._slow]

    @cached_property
    def attributed(self) -> list[Shared]:
        return [one for one in self.seen if one.stages]

    @cached_property
    def typical(self) -> list[Shared]:
        found = [attribution.shared(wait) for attribution, wait in self._typical]
        return [one for one in found if one.stages]


def _beyond(late: Floats, value: float, *, never: Bools) -> Bools:
    """The longest dead air is that of the turn which the caller gave up last, by chance: those without an answer are
    all told, or none, if it was no wait for an answer that was so long."""
    slow = late >= value
    return slow | never if slow.any() else slow


def _middle_half(late_ns: Ints) -> Places:
    """Of those that were answered, and not before they had ended: from the first quartile to the third."""
    answered = np.flatnonzero(late_ns > 0)
    order = answered[np.argsort(late_ns[answered], kind="stable")]
    return order[len(order) // 4 : ceil(len(order) * 3 / 4)]


# ---------------------------------------------------------------- what is told


def _diagnosis(missed: Missed, slowest: _Slowest) -> Diagnosis:
    attributed = slowest.attributed
    stuck = Counter(one.stuck for one in slowest.unanswered if one.stuck)
    unanswered = tuple((stage, stuck[stage]) for stage in STAGES if stuck[stage])
    stages: tuple[Stage, ...] = ()
    if attributed and len(attributed) >= _LEAST_SHARE * len(slowest.seen):
        stages = _stages(attributed, slowest.typical)
    clauses = []
    if stages:
        clauses += [_told(stages, slowest), *(_compared(stages) if slowest.count < slowest.total else ())]
    elif slowest.seen:
        clauses.append(_refused(slowest))
    if slowest.unanswered:
        clauses.append(_never(slowest, unanswered, first=not slowest.seen))
    because = f"{missed.indicator.what}: {'; '.join(clauses)}"
    return Diagnosis(missed.gate, because, len(attributed), len(slowest.seen), stages, unanswered)


def _stages(attributed: Sequence[Shared], typical: Sequence[Shared]) -> tuple[Stage, ...]:
    """The mean of each stage that any of them has."""
    calls = [one.wait.call for one in attributed]
    names = [name for name in STAGES if any(one.stages.get(name) for one in (*attributed, *typical))]
    whole = sum(sum(one.stages.values()) for one in attributed) / len(attributed)
    found = []
    for name in names:
        mean = Mean.of([one.stages.get(name, 0) / MS for one in attributed], calls)
        assert mean.value is not None
        bounded = mean.degrees > 0 and mean.low is not None
        usual = sum(one.stages.get(name, 0) for one in typical) / len(typical) / MS if typical else None
        low, high = (max(0.0, mean.low or 0.0), mean.high) if bounded else (None, None)
        found.append(Stage(name, mean.value, mean.value * MS / whole, low, high, usual))
    return tuple(found)


def _told(stages: Sequence[Stage], slowest: _Slowest) -> str:
    """Who took how much of it, the most first."""
    most = sorted(stages, key=lambda stage: -stage.ms)
    told = [stage for stage in most if stage.share >= _TOLD_SHARE]
    rest = [stage for stage in most if stage.share < _TOLD_SHARE]
    owner = told[0]
    interval = "" if owner.low is None or owner.high is None else f"; {owner.low:.0f}-{owner.high:.0f} ms"
    parts = [f"{owner.name} took {_ms(owner.ms)} ({_pct(owner.share)}{interval})"]
    parts += [f"{stage.name} {_ms(stage.ms)} ({_pct(stage.share)})" for stage in told[1:]]
    if sum(one.share for one in rest) >= _WORTH_SHARE:
        parts.append(f"all else {_ms(sum(one.ms for one in rest))} ({_pct(sum(one.share for one in rest))})")
    return f"of {_ms(sum(stage.ms for stage in stages))} in {_which(slowest)}, {', '.join(parts)}"


def _which(slowest: _Slowest, *, told: bool = True) -> str:
    """ "the 14 slowest of 120 turns (12 of them could be attributed)"."""
    which = f"the {slowest.answered} slowest" if slowest.answered > 1 else "the slowest"
    seen, attributed = len(slowest.seen), len(slowest.attributed)
    whole = f"{which} of {slowest.total} {slowest.noun}s"
    if not told:
        return whole
    if seen < slowest.answered:
        return f"{whole} ({attributed} of {seen} that were looked at could be attributed)"
    return whole if attributed == seen else f"{whole} ({attributed} of them could be attributed)"


def _compared(stages: Sequence[Stage]) -> Iterator[str]:
    """What typical turns have of it; and what the slowest take longer for, if that is another stage."""
    usual = {stage.name: stage.typical_ms for stage in stages if stage.typical_ms is not None}
    if not usual:
        return
    whole, owner = sum(usual.values()), max(stages, key=lambda stage: stage.ms).name
    yield f"typical ones take {_ms(whole)}, {owner} {_ms(usual[owner])} ({_pct(usual[owner] / whole)})"
    more = {stage.name: stage.ms - usual[stage.name] for stage in stages}
    grown, by = max(more, key=lambda name: more[name]), sum(more.values())
    if grown != owner and by >= _GROWN_SHARE * whole:
        yield f"of the {_ms(by)} more, {grown} took {_ms(more[grown])}"


def _refused(slowest: _Slowest) -> str:
    why = Counter(one.why for one in slowest.seen if one.why)
    told = ", ".join(f"{count} {reason}" for reason, count in sorted(why.items()))
    mend = "; fewer calls at once, or callers who say different things, would tell" if why[AMBIGUOUS] else ""
    count = len(slowest.attributed)
    few = f"only {count}" if count else "none"
    return f"no stage can be named: of {_which(slowest, told=False)} {few} could be attributed ({told}){mend}"


def _never(slowest: _Slowest, unanswered: Sequence[tuple[str, int]], *, first: bool) -> str:
    """Where those stood still that never came."""
    count, seen = slowest.count - slowest.answered, len(slowest.unanswered)
    others = seen - sum(number for _, number in unanswered)
    parts = [f"{number} stood still at {stage}" for stage, number in unanswered]
    parts += [f"of {others} it cannot be told"] if others else []
    of = f" of {slowest.total} {slowest.noun}s" if first else ""
    looked = f" ({seen} were looked at)" if seen < count else ""
    were = "was" if count == 1 else "were"
    return f"{count}{'' if first else ' more'}{of} {were} never answered{looked}: {', '.join(parts)}"


def _ms(ms: float) -> str:
    return f"{ms:.0f} ms"


def _pct(share: float) -> str:
    return f"{100 * share:.0f} %"
