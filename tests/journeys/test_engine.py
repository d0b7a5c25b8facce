"""Whole runs in virtual time: what is started, dropped, drained, stopped, undone and written."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace

import pytest

from busyhour.arrivals import Burst, Constant, Hold, Poisson
from busyhour.carriers.memory import MemoryCarrier, MemoryService
from busyhour.clock import VirtualClock
from busyhour.engine import Execution, Stopped
from busyhour.errors import ServiceError
from busyhour.model import SECOND, Arrival, Clock, Endpoint, Mark, Operation, Phase, Plan, Sample


@dataclass
class Notes:
    """A notebook in memory."""

    records: list[Operation | Sample | Mark] = field(default_factory=list)

    def append(self, record: Operation | Sample | Mark) -> None:
        self.records.append(record)

    def marks(self) -> list[str]:
        return [f"{r.kind} {r.name}".strip() for r in self.records if isinstance(r, Mark)]

    def mark(self, kind: str) -> Mark:
        return next(r for r in self.records if isinstance(r, Mark) and r.kind == kind)

    def operations(self) -> list[Operation]:
        return [r for r in self.records if isinstance(r, Operation)]


@dataclass
class Work:
    """A workload that takes a while; says if it was cut off."""

    seconds: float = 10.0
    draws: list[float] = field(default_factory=list)

    async def perform(self, arrival: Arrival) -> None:
        self.draws.append(arrival.random.random())
        began_ns, outcome = arrival.clock.now_ns(), "ok"
        try:
            await arrival.clock.sleep_until(began_ns + round(self.seconds * SECOND))
        except asyncio.CancelledError:
            outcome = "cut off"
            raise
        finally:
            operation = Operation(
                id=arrival.id,
                kind="call",
                phase=arrival.phase,
                due_ns=arrival.due_ns,
                began_ns=began_ns,
                ended_ns=arrival.clock.now_ns(),
                outcome=outcome,
            )
            arrival.record(operation)


@dataclass
class Harm:
    """A fault that notes when it is injected and undone."""

    log: list[str]
    name: str = "harm"
    service: str = "target"
    effective: bool = True

    @asynccontextmanager
    async def injected(self, endpoints: Mapping[str, Endpoint], clock: Clock) -> AsyncIterator["Harm"]:
        self.log.append("injected")
        try:
            yield self
        finally:
            self.log.append("undone")

    async def effect(self) -> tuple[bool, str]:
        return self.effective, "seen"


@dataclass(kw_only=True, eq=False)
class Dying(MemoryService):
    """A service that dies at a given time."""

    clock: VirtualClock
    at_seconds: float

    def obituary(self) -> str | None:
        return f"{self.name} was killed by SIGKILL" if self.clock.now_ns() >= self.at_seconds * SECOND else None


def planned(clock: VirtualClock, *phases: Phase, log: list[str] | None = None) -> Plan:
    return Plan(
        target=MemoryService("target", [] if log is None else log),
        carrier=MemoryCarrier(clock=clock),
        services=[MemoryService("twin", [] if log is None else log)],
        phases=phases,
        gates=[],
    )


def executed(plan: Plan, clock: VirtualClock, *, seed: int = 0, stop_after: float | None = None) -> Notes:
    notes = Notes()
    execution = Execution(plan, notes, clock=clock, seed=seed)

    async def main() -> None:
        if stop_after is not None:
            asyncio.get_running_loop().call_later(stop_after, execution.stop, "stopped by the test")
        await execution.execute()

    with suppress(Stopped):
        clock.run(main())
    return notes


def test_arrivals_start_when_they_are_due_however_long_the_others_take() -> None:
    clock = VirtualClock()
    notes = executed(planned(clock, Phase("p", Constant(1, 5), Work(seconds=40))), clock)
    operations = notes.operations()
    assert len(operations) == 5
    assert all(o.began_ns == o.due_ns for o in operations)
    assert [o.outcome for o in operations] == ["ok"] * 5


def test_the_marks_tell_the_run_in_order_and_services_nest() -> None:
    clock, log = VirtualClock(), list[str]()
    notes = executed(planned(clock, Phase("a", Burst(1), Work(1)), Phase("b", Burst(1), Work(1)), log=log), clock)
    assert [m for m in notes.marks() if not m.startswith("service")] == [
        "run.began",
        "phase.began a",
        "phase.ended a",
        "phase.began b",
        "phase.ended b",
        "run.ended",
    ]
    assert log == ["twin started", "target started", "target stopped", "twin stopped"]


def test_what_finds_no_place_is_dropped_and_counted() -> None:
    clock = VirtualClock()
    phase = Phase("p", Constant(1, 10), Work(seconds=3.5), at_once=2)
    notes = executed(planned(clock, phase), clock)
    dropped = sum(
        int(str(r.detail["count"])) for r in notes.records if isinstance(r, Mark) and r.kind == "arrival.dropped"
    )
    assert dropped + len(notes.operations()) == 10
    assert dropped == 4


def test_a_closed_load_keeps_its_number_in_progress() -> None:
    clock = VirtualClock()
    notes = executed(planned(clock, Phase("p", Hold(3, 100), Work(seconds=10))), clock)
    assert len(notes.operations()) == 30


def test_what_does_not_end_is_cut_off_after_the_drain() -> None:
    clock = VirtualClock()
    phase = Phase("p", Burst(2), Work(seconds=10_000), drain_seconds=30)
    notes = executed(planned(clock, phase), clock)
    assert [o.outcome for o in notes.operations()] == ["cut off"] * 2
    assert notes.marks()[-1] == "run.ended"
    assert 30 <= clock.now_ns() / SECOND < 40


def test_a_closed_load_ends_at_its_time_though_nothing_has_finished() -> None:
    clock = VirtualClock()
    notes = executed(planned(clock, Phase("p", Hold(3, 100), Work(seconds=10_000), drain_seconds=30)), clock)
    assert [o.outcome for o in notes.operations()] == ["cut off"] * 3
    assert 130 <= clock.now_ns() / SECOND < 140


def test_a_stopped_run_undoes_everything_and_says_why() -> None:
    clock, log = VirtualClock(), list[str]()
    phase = Phase("p", Constant(1, 1000), Work(seconds=50), faults=[Harm(log)])
    notes = executed(planned(clock, phase, log=log), clock, stop_after=20.5)
    assert notes.mark("run.stopped").detail["why"] == "stopped by the test"
    assert "run.ended" not in notes.marks()
    assert log == ["twin started", "target started", "injected", "undone", "target stopped", "twin stopped"]
    assert {o.outcome for o in notes.operations()} == {"cut off"}


def test_a_fault_is_proved_before_it_is_undone() -> None:
    clock, log = VirtualClock(), list[str]()
    phase = Phase("p", Burst(1), Work(1), faults=[Harm(log, effective=False)])
    notes = executed(planned(clock, phase), clock)
    assert notes.mark("fault.proof").detail["effective"] is False
    kinds = [m for m in notes.marks() if m.startswith("fault")]
    assert kinds == ["fault.began harm", "fault.proof harm", "fault.ended harm"]
    assert log == ["injected", "undone"]


def test_arrivals_begin_once_the_faults_are_in_force_and_not_in_a_burst_of_what_was_overdue() -> None:
    @dataclass
    class Slow(Harm):
        """A fault that takes a while to be injected: a restart, memory that is filled."""

        @asynccontextmanager
        async def injected(self, endpoints: Mapping[str, Endpoint], clock: Clock) -> AsyncIterator[Harm]:
            await clock.sleep_until(clock.now_ns() + 5 * SECOND)
            async with super().injected(endpoints, clock):
                yield self

    clock = VirtualClock()
    notes = executed(planned(clock, Phase("harmed", Constant(1, 3), Work(1), faults=[Slow([])])), clock)
    in_force_ns = notes.mark("fault.began").at_ns
    assert in_force_ns >= 5 * SECOND
    assert [(o.due_ns - in_force_ns) // SECOND for o in notes.operations()] == [0, 1, 2]
    assert all(o.began_ns == o.due_ns for o in notes.operations())


def test_a_death_ends_the_run_within_two_seconds_and_is_written_down() -> None:
    clock = VirtualClock()
    plan = planned(clock, Phase("p", Constant(1, 1000), Work(seconds=50)))
    notes = executed(replace(plan, target=Dying("agent", clock=clock, at_seconds=30)), clock)
    died = notes.mark("service.died")
    assert died.detail == {"obituary": "agent was killed by SIGKILL", "role": "target"}
    assert clock.now_ns() <= 32 * SECOND
    assert "run.ended" not in notes.marks()


def test_a_bug_in_a_workload_ends_the_run_and_still_undoes_everything() -> None:
    class Broken:
        async def perform(self, arrival: Arrival) -> None:
            raise ZeroDivisionError

    clock, log = VirtualClock(), list[str]()
    with pytest.raises(ExceptionGroup) as caught:
        executed(planned(clock, Phase("p", Burst(1), Broken(), faults=[Harm(log)]), log=log), clock)
    assert caught.group_contains(ZeroDivisionError)
    assert log[-3:] == ["undone", "target stopped", "twin stopped"]


def test_a_service_that_does_not_start_stops_those_that_did() -> None:
    class Unstartable(MemoryService):
        @asynccontextmanager
        async def running(self, peers: Mapping[str, Endpoint]) -> AsyncIterator[Endpoint]:
            raise ServiceError("agent: no")
            yield

    clock, log = VirtualClock(), list[str]()
    plan = replace(planned(clock, Phase("p", Burst(1), Work()), log=log), target=Unstartable("agent"))
    with pytest.raises(ServiceError):
        executed(plan, clock)
    assert log == ["twin started", "twin stopped"]


def test_a_run_replays_from_its_seed() -> None:
    def draws(seed: int) -> Sequence[float]:
        clock, work = VirtualClock(), Work()
        executed(planned(clock, Phase("p", Poisson(3, count=30, seed=1), work)), clock, seed=seed)
        return work.draws

    assert draws(1) == draws(1)
    assert draws(1) != draws(2)


def test_what_a_twin_witnessed_is_filed_under_the_phase_of_its_time() -> None:
    class Witnessing(MemoryService):
        async def witnessed(self, endpoint: Endpoint) -> Sequence[Operation]:
            now_ns = clock.now_ns()
            return [Operation(id=f"llm/{now_ns}", kind="llm", phase="", due_ns=now_ns)]

    clock = VirtualClock()
    plan = planned(clock, Phase("a", Burst(1), Work(5)), Phase("b", Burst(1), Work(5)))
    notes = executed(replace(plan, services=[Witnessing("llm")]), clock)
    phases = [o.phase for o in notes.operations() if o.kind == "llm"]
    assert set(phases) == {"a", "b"}
    assert phases == sorted(phases)
