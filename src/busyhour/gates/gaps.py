"""What the harness did not see, and what is therefore left out of every judgement; never without saying so.

A gap is when the machine was suspended, when the harness stood still, or the time between two segments of a run that
was cut. What overlaps it was not measured, be it good or bad: it is left out by when it was, never by what it was. A
call is left out whole, with all that belongs to it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from busyhour.columns import Bools, Ints, OperationColumns, SampleColumns, operations_of, samples_of
from busyhour.model import JSON, SECOND, Mark, Operation, Run, Sample
from busyhour.statistics.wording import number

_SETTLING_NS = 10 * SECOND  # connections that broke meanwhile are made anew, what was late is caught up with
_COUNTS = {"arrival.dropped", "requests.failed"}  # marks that are readings
_ARRIVALS = ("call", "function", "request")
_HOUR, _MINUTE = 3600, 60


@dataclass(frozen=True, slots=True)
class Gap:
    """What overlaps `from_ns` to `until_ns` is left out; `why` is a clause."""

    from_ns: int
    until_ns: int
    why: str

    def holds(self, at_ns: int) -> bool:
        return self.from_ns <= at_ns <= self.until_ns

    def overlaps(self, began_ns: int, ended_ns: int) -> bool:
        return began_ns <= self.until_ns and ended_ns >= self.from_ns


def gaps(run: Run) -> list[Gap]:
    """In order of time."""
    found = [*_absences(run), *(_cut(run, mark) for mark in run.marks("run.resumed"))]
    return sorted(found, key=lambda gap: gap.from_ns)


def segments(run: Run) -> list[str]:
    """A clause for each segment of the run after the first."""
    told = []
    for mark in run.marks("run.resumed"):
        when = str(mark.detail.get("at", ""))[:19].replace("T", " ")
        why = f": {mark.detail['why']}" if mark.detail.get("why") else ""
        cut = f"after a cut {_since(run, _instant(mark, 'cut_ns'))}{why}"
        told.append(f"segment {mark.detail.get('segment', '')} began{f' at {when} UTC' if when else ''}, {cut}")
    return told


def unwatched(run: Run) -> list[str]:
    """A clause for each time that the machine or the harness was away."""
    return [gap.why for gap in sorted(_absences(run), key=lambda gap: gap.from_ns)]


def _absences(run: Run) -> list[Gap]:
    words = {"machine.suspended": "the machine was suspended", "harness.stopped": "the harness stood still"}
    return [
        Gap(
            _instant(mark, "from_ns"),
            mark.at_ns + _SETTLING_NS,
            f"{what} for {_duration(_seconds(mark))}, {_since(run, mark.at_ns)}",
        )
        for kind, what in words.items()
        for mark in run.marks(kind)
    ]


def stood_still(run: Run) -> tuple[int, float]:
    """How often the harness did, though the machine was awake, and for how many seconds in all."""
    marks = run.marks("harness.stopped")
    return len(marks), sum(_seconds(mark) for mark in marks)


def _cut(run: Run, resumed: Mark) -> Gap:
    cut_ns = _instant(resumed, "cut_ns")
    return Gap(cut_ns, resumed.at_ns, f"the run was cut {_since(run, cut_ns)}")


class Watched:
    """A run without what overlaps its gaps. Of a run without gaps it is the run itself that is judged: see `of`."""

    def __init__(self, run: Run, gaps: Sequence[Gap]) -> None:
        self._run, self._gaps = run, gaps

    @classmethod
    def of(cls, run: Run) -> Run:
        found = gaps(run)
        return cls(run, found) if found else run

    @property
    def meta(self) -> Mapping[str, JSON]:
        return self._run.meta

    def operations(self, kind: str, phase: str | None = None) -> Sequence[Operation]:
        return [one for one in self._run.operations(kind, phase) if not self._left_out(one)]

    def samples(self, source: str, name: str, phase: str | None = None) -> Sequence[Sample]:
        samples = self._run.samples(source, name, phase)
        return [one for one in samples if not any(gap.holds(one.at_ns) for gap in self._gaps)]

    def operation_columns(
        self, kind: str, phase: str | None = None, *, instants: Sequence[str] = (), texts: Sequence[str] = ()
    ) -> OperationColumns:
        """What `operations` says, as columns."""
        asked = tuple(dict.fromkeys([*instants, "gave_up_ns"]))
        columns = operations_of(self._run, kind, phase, instants=asked, texts=texts)
        left_out = self._overlap(columns)
        of_words = np.array([int(self._calls.get(word, -1)) for word in columns.call.words])
        if len(columns):
            of_calls = of_words[columns.call.codes]
            left_out = np.where(of_calls < 0, left_out, of_calls == 1)
        return columns.taken(~left_out)

    def sample_columns(self, source: str, name: str, phase: str | None = None) -> SampleColumns:
        """What `samples` says, as columns."""
        columns = samples_of(self._run, source, name, phase)
        return columns.taken(~self._any_overlap(columns.at_ns, columns.at_ns))

    def missed(self, from_ns: int, until_ns: int) -> bool:
        """Whether any of that time was not watched."""
        return any(gap.overlaps(from_ns, until_ns) for gap in self._gaps)

    def marks(self, kind: str) -> Sequence[Mark]:
        marks = self._run.marks(kind)
        if kind not in _COUNTS:
            return marks
        return [one for one in marks if not any(gap.holds(one.at_ns) for gap in self._gaps)]

    def told(self, phases: Sequence[str]) -> str:
        """For a sentence about these phases (none: the whole run): what is left out of it, and why; "" if nothing."""
        touching = [gap for gap in self._gaps if not phases or any(self._touches(gap, phase) for phase in phases)]
        if not touching:
            return ""
        arrived = {key: count for key, count in self._arrived.items() if not phases or key[0] in phases}
        noun = "call" if all(kind == "call" for _, kind, _ in arrived) else "operation"
        count = sum(count for (_, _, left_out), count in arrived.items() if left_out)
        counted = f"{count} {noun} is" if count == 1 else f"{count} {noun}s are"
        return (
            f"{counted if arrived else 'what fell into it is'} left out, for {'; '.join(gap.why for gap in touching)}"
        )

    def _touches(self, gap: Gap, phase: str) -> bool:
        ends = [mark.at_ns for mark in self._run.marks("phase.ended") if mark.name == phase]
        begins = [mark.at_ns for mark in self._run.marks("phase.began") if mark.name == phase]
        return any(gap.overlaps(began, min((end for end in ends if end >= began), default=began)) for began in begins)

    def _left_out(self, operation: Operation) -> bool:
        call = operation.parent or operation.id
        known = self._calls.get(call)
        return self._overlapping(operation) if known is None else known

    @cached_property
    def _arrived(self) -> Mapping[tuple[str, str, bool], int]:
        """How many by phase, kind, and whether they are left out."""
        found: Counter[tuple[str, str, bool]] = Counter()
        for kind in _ARRIVALS:
            arrived = operations_of(self._run, kind).phase.counts()
            kept = dict(self.operation_columns(kind).phase.counts())
            for phase, count in arrived:
                found[phase, kind, False] += kept.get(phase, 0)
                found[phase, kind, True] += count - kept.get(phase, 0)
        return +found

    @cached_property
    def _calls(self) -> Mapping[str, bool]:
        """Whether a call is left out."""
        calls = operations_of(self._run, "call", instants=("gave_up_ns",))
        left_out = self._overlap(calls).tolist()
        return {calls.call[i]: left_out[i] for i in range(len(calls))}

    def _overlap(self, operations: OperationColumns) -> Bools:
        """As `_overlapping`, of each."""
        began_ns = np.minimum(operations.due_ns, operations.since_ns)
        ends = [operations.ended_ns, operations.instants["gave_up_ns"], began_ns]
        return self._any_overlap(began_ns, np.maximum.reduce(ends))

    def _any_overlap(self, began_ns: Ints, ended_ns: Ints) -> Bools:
        found = np.zeros(len(began_ns), dtype=np.bool_)
        for gap in self._gaps:
            found |= (began_ns <= gap.until_ns) & (ended_ns >= gap.from_ns)
        return found

    def _overlapping(self, operation: Operation) -> bool:
        began_ns = min(operation.due_ns, operation.due_ns if operation.began_ns is None else operation.began_ns)
        gave_up_ns = operation.detail.get("gave_up_ns")
        ends = [one for one in (operation.ended_ns, gave_up_ns, began_ns) if isinstance(one, int)]
        return any(gap.overlaps(began_ns, max(ends)) for gap in self._gaps)


def _instant(mark: Mark, name: str) -> int:
    value = mark.detail.get(name)
    return value if isinstance(value, int) else mark.at_ns


def _seconds(mark: Mark) -> float:
    value = mark.detail.get("seconds")
    return float(value) if isinstance(value, int | float) else 0.0


def _since(run: Run, at_ns: int) -> str:
    began_ns = min((mark.at_ns for mark in run.marks("run.began")), default=at_ns)
    return f"{_duration((at_ns - began_ns) / SECOND)} after it began"


def _duration(seconds: float) -> str:
    if seconds < _MINUTE:
        return f"{number(seconds)} s"
    if seconds < _HOUR:
        return f"{seconds / _MINUTE:.0f} min"
    return f"{seconds // _HOUR:.0f} h {seconds % _HOUR / _MINUTE:.0f} min"
