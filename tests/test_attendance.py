"""Whether the machine was suspended, the harness stopped, or only busy."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from busyhour.arrivals import Constant, Hold
from busyhour.attendance import Absence, Attendance, occupied_ns
from busyhour.carriers.memory import MemoryService
from busyhour.clock import SystemClock, VirtualClock, since_boot_ns
from busyhour.engine import Execution
from busyhour.model import MS, SECOND, Arrivals, Endpoint, Mark, Operation, Phase, Plan, Sample
from busyhour.workloads.function import Function


@dataclass
class Machine:
    """Its clocks, to be turned by hand."""

    now_ns: int = 10 * SECOND
    slept_ns: int = 3 * SECOND
    occupied_ns: int = 0

    def attendance(self) -> Attendance:
        return Attendance(
            lambda: self.now_ns,
            SECOND,
            booted_ns=lambda: self.now_ns + self.slept_ns,
            occupied_ns=lambda: self.occupied_ns,
        )

    def passes(self, seconds: float, *, slept: float = 0, occupied: float = 0) -> None:
        self.now_ns += round(seconds * SECOND)
        self.slept_ns += round(slept * SECOND)
        self.occupied_ns += round(occupied * SECOND)


def test_a_machine_that_was_suspended_has_a_clock_that_went_on() -> None:
    machine = Machine()
    attendance = machine.attendance()
    machine.passes(1)
    assert attendance.absence() is None
    machine.passes(1, slept=420)
    assert attendance.absence() == Absence("machine.suspended", 11 * SECOND, 12 * SECOND, 420)
    machine.passes(1)
    assert attendance.absence() is None


@pytest.mark.parametrize(
    ("seconds", "occupied", "stood_still"),
    [(1.0, 0, None), (2.9, 0, None), (3.0, 0, 2.0), (61, 0.5, 59.5), (61, 60, None), (61, 59, None)],
    ids=["in time", "a little late", "stopped", "stopped for a minute", "computing", "without a processor"],
)
def test_a_harness_stood_still_when_it_neither_computed_nor_waited_to(
    seconds: float, occupied: float, stood_still: float | None
) -> None:
    machine = Machine()
    attendance = machine.attendance()
    machine.passes(seconds, occupied=occupied)
    absence = attendance.absence()
    if stood_still is None:
        assert absence is None
    else:
        assert absence is not None
        assert (absence.kind, absence.seconds) == ("harness.stopped", stood_still)
        assert (absence.from_ns, absence.until_ns) == (10 * SECOND, machine.now_ns)


def test_the_readings_of_this_machine() -> None:
    clock = SystemClock()
    assert since_boot_ns() >= clock.now_ns() - SECOND
    before = occupied_ns()
    assert sum(range(2_000_000)) > 0
    assert occupied_ns() >= before
    assert Attendance(clock.now_ns, SECOND).absence() is None


# ---------------------------------------------------------------- in a run


@dataclass
class Notes:
    records: list[Operation | Sample | Mark] = field(default_factory=list)

    def append(self, record: Operation | Sample | Mark) -> None:
        self.records.append(record)

    def marks(self, kind: str) -> list[Mark]:
        return [record for record in self.records if isinstance(record, Mark) and record.kind == kind]

    def numbers(self) -> list[int]:
        return sorted(int(one.id.rpartition("/")[2]) for one in self.records if isinstance(one, Operation))


@dataclass
class Stopping(MemoryService):
    """After `after` seconds the harness is stopped: time passes, and nobody is asked."""

    clock: VirtualClock = field(default_factory=VirtualClock)
    after: float = 10.5
    seconds: float = 30.0

    @asynccontextmanager
    async def running(self, peers: Mapping[str, Endpoint]) -> AsyncIterator[Endpoint]:
        asyncio.get_running_loop().call_later(self.after, self.clock._advance, self.seconds)
        yield Endpoint("memory:")


def stopped(arrivals: Arrivals) -> Notes:
    clock, notes = VirtualClock(), Notes()

    async def brief(arrival: object) -> None:
        await clock.sleep_until(clock.now_ns() + 100 * MS)

    phase = Phase("steady", arrivals, Function(brief))
    plan = Plan(target=Stopping("target", clock=clock), phases=[phase], gates=[])

    def roll() -> Attendance:
        return Attendance(clock.now_ns, SECOND // 2, booted_ns=clock.now_ns, occupied_ns=lambda: 0)

    clock.run(Execution(plan, notes, clock=clock, attendance=roll).execute())
    return notes


def test_a_stop_is_marked_and_what_was_due_meanwhile_does_not_come_in_one_burst() -> None:
    notes = stopped(Constant(2, 60))
    (mark,) = notes.marks("harness.stopped")
    assert mark.detail["seconds"] == pytest.approx(30, abs=0.6)
    from_ns = mark.detail["from_ns"]
    assert isinstance(from_ns, int)
    assert from_ns <= 10.5 * SECOND <= 40.5 * SECOND <= mark.at_ns == mark.detail["until_ns"]
    (ended,) = notes.marks("phase.ended")
    passed_over = ended.detail["passed_over"]
    assert isinstance(passed_over, int)
    assert 57 <= passed_over <= 61
    assert len(notes.numbers()) == 120 - passed_over
    assert notes.numbers()[-1] == 120
    meanwhile = [one for one in notes.records if isinstance(one, Operation) and from_ns < one.due_ns < 40 * SECOND]
    assert len(meanwhile) <= 3, "those that had been begun before anybody knew"


def test_a_stop_takes_no_place_from_who_holds_a_number_in_progress() -> None:
    notes = stopped(Hold(3, 60))
    began = [one.began_ns for one in notes.records if isinstance(one, Operation) and one.began_ns is not None]
    late = [at_ns for at_ns in began if 45 * SECOND < at_ns < 55 * SECOND]
    assert len(late) == pytest.approx(300, abs=9), "three at a time, each for 100 ms"
    assert len(set(notes.numbers())) == len(notes.numbers())


def test_nobody_calls_the_roll_on_a_clock_that_is_not_the_machines() -> None:
    clock, notes = VirtualClock(), Notes()

    async def nothing(arrival: object) -> None: ...

    plan = Plan(
        target=Stopping("target", clock=clock), phases=[Phase("p", Constant(1, 50), Function(nothing))], gates=[]
    )
    clock.run(Execution(plan, notes, clock=clock).execute())
    assert notes.marks("harness.stopped") == []
    assert len(notes.numbers()) == 50
