"""Probes in whole runs: what is missing is in the journal, and a phase ends with a reading of everything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from busyhour.arrivals import Constant
from busyhour.clock import VirtualClock
from busyhour.engine import Execution
from busyhour.model import Arrival, Endpoint, Mark, Operation, Phase, Plan, Sample
from busyhour.probes.missing import Missing
from busyhour.testing import MemoryService


class Work:
    """Does nothing."""

    async def perform(self, arrival: Arrival) -> None:
        arrival.record(Operation(id=arrival.id, kind="call", phase=arrival.phase, due_ns=arrival.due_ns))


@dataclass
class Half:
    """A probe that reads half of what it should, and all of that only when it is asked to."""

    service: str = "target"
    reads: int = 0
    asked: bool = False
    _told: bool = field(default=False, init=False)

    def read(self, endpoint: Endpoint) -> Mapping[str, float]:
        self.reads += 1
        everything, self.asked = self.asked, False
        return {"seen": 1.0} | ({"costly": 2.0} if everything else {})

    def read_all_next(self) -> None:
        self.asked = True

    def missing(self) -> Sequence[Missing]:
        told, self._told = self._told, True
        return [] if told else [Missing(("unseen", "hidden"), "it is dark; bring a lamp")]


class Notes(list[Operation | Sample | Mark]):
    """A journal in memory."""


def test_the_journal_says_what_was_missing_and_every_phase_ends_with_a_reading_of_everything() -> None:
    clock, notes, probe = VirtualClock(), Notes(), Half()
    phases = [Phase(name, Constant(1, 4.5), Work()) for name in ("first", "second")]
    plan = Plan(target=MemoryService("target"), phases=phases, gates=[], probes=[probe])
    clock.run(Execution(plan, notes, clock=clock).execute())
    marks = [note for note in notes if isinstance(note, Mark)]
    (missing,) = [mark for mark in marks if mark.kind == "probe.missing"]
    assert (missing.name, missing.detail) == (
        "target",
        {"readings": ["unseen", "hidden"], "why": "it is dark; bring a lamp"},
    )
    samples = [note for note in notes if isinstance(note, Sample)]
    ends = [mark.at_ns for mark in marks if mark.kind == "phase.ended"]
    assert [sample.at_ns for sample in samples if sample.name == "costly"] == ends
    blocks = [sample.at_ns for sample in samples if (sample.source, sample.name) == ("harness", "python_blocks")]
    assert set(ends) <= set(blocks), "of the harness, too, without anybody having asked for it"
    assert len(samples) > len(replace(plan).phases)
