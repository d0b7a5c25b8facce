"""What all sections look at: the run without what was not watched, its time axis, and what happened along it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

from busyhour.columns import operations_of
from busyhour.gates import Judgement
from busyhour.gates.gaps import Gap, Watched, gaps
from busyhour.model import JSON, SECOND, Mark, Run

BANDS_MOST = 300
_ENDS = ("run.ended", "run.stopped", "run.failed")
_LIVES = (
    "phase.began",
    "phase.resumed",
    "phase.ended",
    "fault.began",
    "fault.ended",
    "service.started",
    "service.died",
)
_AXES = ((180, "s", 1), (3 * 3600, "min", 60), (float("inf"), "h", 3600))


@dataclass(frozen=True, slots=True)
class Stretch:
    """A phase, a fault or a gap, from and until when; `cut`: it has no end in the journal. `phase`: of a fault."""

    name: str
    from_ns: int
    until_ns: int
    cut: bool = False
    phase: str = ""
    service: str = ""


@runtime_checkable
class Sampled(Protocol):
    """A Run that can say of which samples it has any: source and name."""

    def sources(self) -> Sequence[tuple[str, str]]: ...


@dataclass(frozen=True, eq=False)
class Scene:
    """`run` is as it was written; `seen` is what judgements are made of: without what overlaps a gap."""

    run: Run
    seen: Run
    judgement: Judgement
    began_ns: int
    ended_ns: int
    gaps: Sequence[Gap]

    @classmethod
    def of(cls, run: Run, judgement: Judgement) -> Scene:
        began_ns, ended_ns = _ends(run)
        return cls(run, Watched.of(run), judgement, began_ns, ended_ns, gaps(run))

    @property
    def seconds(self) -> float:
        return (self.ended_ns - self.began_ns) / SECOND

    def at_s(self, at_ns: int) -> float:
        return round((at_ns - self.began_ns) / SECOND, 3)

    @cached_property
    def axis(self) -> Mapping[str, JSON]:
        """The time axis: seconds, minutes or hours since the run began."""
        unit, factor = next((unit, factor) for most, unit, factor in _AXES if self.seconds <= most)
        return {"label": f"time since the run began ({unit})", "unit": unit, "factor": factor}

    @cached_property
    def phases(self) -> Sequence[Stretch]:
        return _stretches(self.run, ("phase.began", "phase.ended"), self.ended_ns)

    @cached_property
    def faults(self) -> Sequence[Stretch]:
        return _stretches(self.run, ("fault.began", "fault.ended"), self.ended_ns)

    @cached_property
    def target(self) -> str:
        """The name of what was called: the service that was started last, for each may refer to those before it."""
        started = self.run.marks("service.started")
        return started[-1].name if started else ""

    @cached_property
    def bands(self) -> Mapping[str, JSON]:
        """What charts shade: phases, faults and gaps, of each at most 300."""
        return {
            "axis": self.axis,
            "ends": [0, round(self.seconds, 3)],
            "phases": self._told(self.phases),
            "faults": self._told(self.faults),
            "gaps": [
                {"name": gap.why, "from": self.at_s(gap.from_ns), "to": self.at_s(gap.until_ns)}
                for gap in self.gaps[:BANDS_MOST]
            ],
        }

    def _told(self, stretches: Sequence[Stretch]) -> list[JSON]:
        return [
            {"name": one.name, "from": self.at_s(one.from_ns), "to": self.at_s(one.until_ns)}
            for one in stretches[:BANDS_MOST]
        ]


def _ends(run: Run) -> tuple[int, int]:
    """When the run began, and the last that is known of it."""
    marks = [mark.at_ns for kind in ("run.began", "run.resumed", *_ENDS, *_LIVES) for mark in run.marks(kind)]
    readings = [run.samples("harness", "cpu_pct"), run.samples("harness", "rss_mb")]
    marks += [sample.at_ns for samples in readings for sample in (*samples[:1], *samples[-1:])]
    calls = operations_of(run, "call")
    if len(calls):
        marks += [int(calls.due_ns.min()), int(calls.due_ns.max()), int(max(calls.ended_ns.max(), 0))]
    began = [mark.at_ns for mark in run.marks("run.began")]
    marks = [at_ns for at_ns in marks if at_ns > 0 or began]
    began_ns = min(began or marks, default=0)
    return began_ns, max([began_ns + 1, *marks])


def _stretches(run: Run, kinds: tuple[str, str], last_ns: int) -> list[Stretch]:
    """Each beginning with the next end of its name (of a fault: and of its phase)."""
    open_since: dict[tuple[str, str], list[Mark]] = {}
    marks = sorted((mark for kind in kinds for mark in run.marks(kind)), key=lambda mark: mark.at_ns)
    found: list[tuple[Mark, int | None]] = []
    for mark in marks:
        key = (mark.name, str(mark.detail.get("phase", "")) if kinds[0] == "fault.began" else "")
        if mark.kind == kinds[0]:
            open_since.setdefault(key, []).append(mark)
        elif open_since.get(key):
            found.append((open_since[key].pop(0), mark.at_ns))
    found += [(mark, None) for left in open_since.values() for mark in left]
    return [
        Stretch(
            mark.name,
            mark.at_ns,
            last_ns if until_ns is None else until_ns,
            until_ns is None,
            str(mark.detail.get("phase", "")),
            str(mark.detail.get("service", "")),
        )
        for mark, until_ns in sorted(found, key=lambda pair: pair[0].at_ns)
    ]
