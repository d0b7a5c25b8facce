"""Counts what goes into the journal on its way there, so that the figures of a run can be told while it goes on.

It costs the run a call and a look-up for each entry, when the figures are asked for at all (`docs/benchmarks.md`);
without it the journal is written to directly. Its memory does not grow: the lines of a family are at most `SERIES_MAX`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import inf, isnan
from typing import Protocol, TypeAlias, TypeVar

from busyhour import __version__
from busyhour.exporting import families as known
from busyhour.exporting.families import Family
from busyhour.model import SECOND, Clock, Mark, Operation, Sample
from busyhour.performing import LATENCY_EDGES_MS, Progress
from busyhour.recording import Recorded, Sound

SERIES_MAX = 1000
"""Of a family; what would be one more is counted together, with "other" for its labels."""
PHASES_MAX = 100
"""Of a family that has many lines for each phase, or source."""

_OTHER = "other"
_LABEL_CHARS = 100
_LATE_BY_SOURCE = {
    "send_lateness_ms": known.SEND_LATENESS,
    "loop_lag_ms": known.LOOP_LAG,
    "proxy_lag_ms": known.LOOP_LAG,
}
_WATCHED_FOR = ("service.died", "harness.stopped", "machine.suspended")  # told as 0: only so can an alert see the first
_REQUESTS = "requests"  # the source of a flood's samples
_RESPONSE = known.response(LATENCY_EDGES_MS)

Labels: TypeAlias = tuple[str, ...]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Distribution:
    """`counts` of each bucket of the family's, and of what is beyond the last edge; `total` is in the family's unit."""

    counts: tuple[int, ...]
    total: float


Series: TypeAlias = tuple[Labels, float | Distribution]


class Notebook(Protocol):
    """What is counted on its way into it: a journal."""

    def append(self, entry: Operation | Sample | Mark) -> None: ...
    def keep(self, recorded: Recorded, sound: Sound) -> None: ...
    def discard(self, calls: Iterable[str]) -> None: ...


class Tapped:
    """A journal as the engine needs one, whose entries are counted when they are in it."""

    def __init__(self, notebook: Notebook, tally: Tally) -> None:
        self._append, self._count = notebook.append, tally.count
        self.keep, self.discard = notebook.keep, notebook.discard

    def append(self, entry: Operation | Sample | Mark) -> None:
        self._append(entry)
        self._count(entry)


class _Buckets:
    """A distribution while it is counted, in ms."""

    def __init__(self, family: Family) -> None:
        self._edges_ms = [edge * 1000 for edge in family.edges]
        self._counts = [0] * (len(family.edges) + 1)
        self._total_ms = 0.0

    def add(self, ms: float, count: int) -> None:
        self._counts[bisect_left(self._edges_ms, ms)] += count
        if ms != inf:
            self._total_ms += ms * count

    def seen(self) -> Distribution:
        return Distribution(tuple(self._counts), self._total_ms / 1000)


class Tally:
    """The figures of one run: `count` every entry, `follow` the engine's progress, and ask for `families`."""

    def __init__(self, *, plan: str, seed: int, clock: Clock) -> None:
        self._run = (plan, str(seed), __version__)
        self._clock, self._began_ns = clock, clock.now_ns()
        self._progress = Progress()
        self._last_over = 0  # the number of the phase that was over last
        self._over: dict[Labels, Sequence[float]] = {}
        self._operations: dict[Labels, int] = {}
        self._marks = Counter(dict.fromkeys(_WATCHED_FOR, 0))
        self._faults: dict[Labels, float] = {}
        self._readings: dict[tuple[str, str], float] = {}
        self._late: dict[Family, dict[Labels, _Buckets]] = {
            family: {} for family in (known.REQUESTS, known.SEND_LATENESS, known.LOOP_LAG)
        }
        self._by_source: dict[tuple[str, str], _Buckets] = {}  # the same, by what finds them sooner
        self.spent_ns: Counter[str] = Counter()  # of the loop, by whom
        self.pushes: Counter[str] = Counter()  # by what came of them

    def follow(self, progress: Progress) -> None:
        """Where the arrivals of the run are counted."""
        self._progress = progress

    def count(self, entry: Operation | Sample | Mark) -> None:
        if type(entry) is Sample:
            self._count_sample(entry)
        elif type(entry) is Operation:
            labels = (entry.phase, entry.kind, entry.outcome)
            if labels in self._operations:
                self._operations[labels] += 1
            else:
                _add(self._operations, labels, 1)
        elif type(entry) is Mark:
            self._count_mark(entry)

    def _count_sample(self, sample: Sample) -> None:
        key = (sample.source, sample.name)
        if key in self._by_source:
            self._by_source[key].add(sample.value, sample.count)
        elif key in self._readings:
            self._readings[key] = sample.value
        elif sample.source == _REQUESTS:
            if sample.name == "latency_ms":
                self._buckets(known.REQUESTS, self._progress.phase).add(sample.value, sample.count)
        elif sample.name in _LATE_BY_SOURCE:
            buckets = self._buckets(_LATE_BY_SOURCE[sample.name], sample.source)
            buckets.add(sample.value, sample.count)
            if len(self._by_source) < SERIES_MAX:
                self._by_source[key] = buckets
        elif len(self._readings) < SERIES_MAX:
            self._readings[key] = sample.value

    def _buckets(self, family: Family, label: str) -> _Buckets:
        there = self._late[family]
        found = there.get((label,))
        if found is None:
            labels = _placed(there, (label,), PHASES_MAX)
            found = there[labels] = there.get(labels) or _Buckets(family)
        return found

    def _count_mark(self, mark: Mark) -> None:
        self._marks[mark.kind] += 1
        if mark.kind == "phase.ended":
            # The engine counts the next phase from nought: this is the last time that the figures of this one are seen.
            phase = _placed(self._over, (self._progress.phase,), PHASES_MAX)
            self._over[phase] = _sum(self._over.get(phase), _standing(self._progress))
            self._last_over = self._progress.phase_number
        elif mark.kind == "fault.began":
            labels = _placed(self._faults, (mark.name, str(mark.detail.get("service", ""))))
            self._faults[labels] = 1
        elif mark.kind == "fault.ended":
            for labels in self._faults:
                if labels[0] == mark.name:
                    self._faults[labels] = 0

    # ---------------------------------------------------------------- telling

    def families(self) -> Iterator[tuple[Family, list[Series]]]:
        """Every family that has something to tell, with its lines. Each is as of when it is asked for."""
        progress = self._progress
        yield known.RUN, [(self._run, 1)]
        yield known.ELAPSED, [((), (self._clock.now_ns() - self._began_ns) / SECOND)]
        yield known.PHASES, [((), progress.phases)]
        if self._going_on:
            yield known.PHASE, [((progress.phase, str(progress.phase_number)), 1)]
            yield known.IN_PROGRESS, [((progress.phase,), progress.in_progress)]
        yield from self._arrivals()
        yield known.OPERATIONS, list(self._operations.items())
        yield known.MARKS, [((kind,), count) for kind, count in self._marks.items()]
        yield known.FAULT, list(self._faults.items())
        for family, buckets in self._late.items():
            yield family, [(labels, found.seen()) for labels, found in buckets.items()]
        yield from self._read()
        yield known.EXPORT, [((by,), ns / SECOND) for by, ns in self.spent_ns.items()]
        yield known.PUSHES, [((outcome,), count) for outcome, count in self.pushes.items()]

    @property
    def _going_on(self) -> bool:
        return self._progress.phase_number > self._last_over

    def _arrivals(self) -> Iterator[tuple[Family, list[Series]]]:
        standings = dict(self._over)
        if self._going_on:
            phase = _placed(standings, (self._progress.phase,), PHASES_MAX)
            standings[phase] = _sum(standings.get(phase), _standing(self._progress))
        for place, family in enumerate(_ARRIVALS):
            yield family, [(phase, standing[place]) for phase, standing in standings.items()]
        yield _RESPONSE, [(phase, _response(standing)) for phase, standing in standings.items() if standing[_TURNS]]

    def _read(self) -> Iterator[tuple[Family, list[Series]]]:
        told: dict[Family, list[Series]] = {family: [] for family, _ in known.OF_A_PROCESS.values()}
        others: list[Series] = []
        for (source, name), value in self._readings.items():
            if isnan(value):
                continue
            if name in known.OF_A_PROCESS:
                family, factor = known.OF_A_PROCESS[name]
                told[family].append(((source,), value * factor))
            else:
                others.append(((source, name), value))
        yield from told.items()
        yield known.READING, others


_ARRIVALS = (known.STARTED, known.FINISHED, known.FAILED, known.DROPPED, known.TURNS, known.MISSED)
_TURNS, _MISSED = _ARRIVALS.index(known.TURNS), _ARRIVALS.index(known.MISSED)


def all_families() -> tuple[Family, ...]:
    """Every family there is, whether or not a run has something to tell of it."""
    fixed = [family for family in vars(known).values() if isinstance(family, Family)]
    return (*fixed, _RESPONSE)


def _standing(progress: Progress) -> Sequence[float]:
    """All that is counted of a phase, so that it can be summed: as `_ARRIVALS`, then the latencies' sum and buckets."""
    counts = (progress.started, progress.finished, progress.failed, progress.dropped, progress.turns, progress.missed)
    return (*counts, progress.latency_ms_sum, *progress.latency_counts)


def _response(standing: Sequence[float]) -> Distribution:
    total_ms, *counts = standing[len(_ARRIVALS) :]
    *within, beyond = map(int, counts)
    return Distribution((*within, beyond + int(standing[_MISSED])), total_ms / 1000)


def _sum(one: Sequence[float] | None, other: Sequence[float]) -> Sequence[float]:
    return other if one is None else [a + b for a, b in zip(one, other, strict=True)]


def _add(table: dict[Labels, int], labels: Labels, count: int) -> None:
    labels = _placed(table, labels)
    table[labels] = table.get(labels, 0) + count


def _placed(table: dict[Labels, T], labels: Labels, room: int = SERIES_MAX) -> Labels:
    """The labels, cut to a length that is bearable; or, where there is no more room, those of all others."""
    cut = tuple(label if len(label) <= _LABEL_CHARS else label[: _LABEL_CHARS - 3] + "..." for label in labels)
    return cut if cut in table or len(table) < room - 1 else (_OTHER,) * len(labels)
