"""Several workloads in one phase, and calls to agents that stand beside the target."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import pytest

from busyhour.arrivals import Burst, Schedule
from busyhour.carriers.memory import MemoryCarrier
from busyhour.clock import VirtualClock
from busyhour.engine import Execution
from busyhour.errors import PlanError
from busyhour.gates import AtMost
from busyhour.indicators import dropped
from busyhour.model import CallSetup, Endpoint, Line, Mark, Operation, Phase, Plan, Sample, Variation
from busyhour.planfile import check, vary
from busyhour.preflight import check as room_for
from busyhour.workloads.call import Call, Greeting, Scenario, Silence
from busyhour.workloads.idle import Idle
from busyhour.workloads.in_turn import InTurn

GREETED, WAITING = Scenario("greeted", [Greeting()]), Scenario("waiting", [Silence(1)])


@dataclass(eq=False)
class At:
    """An agent at an address of its own."""

    name: str

    @asynccontextmanager
    async def running(self, peers: Mapping[str, Endpoint]) -> AsyncIterator[Endpoint]:
        yield Endpoint(f"memory:{self.name} after {', '.join(peers)}")


@dataclass(kw_only=True, eq=False)
class Noting(MemoryCarrier):
    called: list[str] = field(default_factory=list)

    @asynccontextmanager
    async def dial(self, target: Endpoint, call: CallSetup) -> AsyncIterator[Line]:
        self.called.append(f"{call.id} {target.url}")
        async with super().dial(target, call) as line:
            yield line


class Notes(list[Operation | Sample | Mark]):
    def calls(self) -> list[Operation]:
        return [one for one in self if isinstance(one, Operation) and one.kind == "call"]


def plan_of(carrier: MemoryCarrier, phase: Phase, *beside: str) -> Plan:
    return Plan(
        target=At("agent"),
        carrier=carrier,
        beside=[At(name) for name in beside],
        phases=[phase],
        gates=[AtMost(dropped(), 0)],
    )


def carried_out(plan: Plan, clock: VirtualClock) -> list[Operation]:
    notes = Notes()
    clock.run(Execution(plan, notes, clock=clock).execute())
    return sorted(notes.calls(), key=lambda call: call.id)


def test_each_arrival_does_what_its_place_says() -> None:
    clock = VirtualClock()
    deal = InTurn([Call([GREETED]), Call([WAITING]), Call([WAITING])])
    calls = carried_out(plan_of(MemoryCarrier(clock=clock), Phase("p", Schedule([0, 1, 2, 3, 4]), deal)), clock)
    told = [call.detail["scenario"] for call in calls]
    assert told == ["greeted", "waiting", "waiting", "greeted", "waiting"]


def test_calls_reach_the_agent_that_they_name() -> None:
    clock = VirtualClock()
    carrier = Noting(clock=clock)
    deal = InTurn([Call([GREETED]), Call([GREETED], CallSetup(id="", service="second"))])
    carried_out(plan_of(carrier, Phase("p", Burst(4), deal), "second"), clock)
    assert carrier.called == [  # beside the target: started after the carrier, and before it
        "p/1 memory:agent after carrier, second",
        "p/2 memory:second after carrier",
        "p/3 memory:agent after carrier, second",
        "p/4 memory:second after carrier",
    ]


def test_who_is_called_must_stand_beside_the_target() -> None:
    clock = VirtualClock()
    call = Call([GREETED], CallSetup(id="", service="third"))
    plan = plan_of(MemoryCarrier(clock=clock), Phase("p", Burst(1), InTurn([Idle(1), call])), "second")
    (problem,) = check(plan)
    assert problem == (
        "the phase 'p' calls 'third', which does not stand beside the plan's target (second does); put it into the "
        "plan's beside"
    )
    assert "(nobody does)" in check(replace(plan, beside=[]))[0]
    assert check(replace(plan, beside=[At("third")])) == []


def test_several_processes_call_nobody_beside_the_target() -> None:
    call = Call([GREETED], CallSetup(id="", service="second"))
    plan = plan_of(MemoryCarrier(clock=VirtualClock()), Phase("p", Burst(1), call), "second")
    room_for(plan)
    with pytest.raises(PlanError, match="'p' calls second beside the target, which only one process can"):
        room_for(plan, processes=2)


def test_a_variation_replaces_who_stands_beside_the_target() -> None:
    call = Call([GREETED], CallSetup(id="", service="second"))
    plan = plan_of(MemoryCarrier(clock=VirtualClock()), Phase("p", Burst(1), call), "second", "third")
    other = At("second")
    assert vary(plan, Variation(name="v", services=[other])).beside == [other]  # nobody calls the third


def test_a_variation_that_calls_nobody_else_starts_nobody_else() -> None:
    call = Call([GREETED], CallSetup(id="", service="second"))
    plan = plan_of(MemoryCarrier(clock=VirtualClock()), Phase("p", Burst(1), call), "second")
    alone = replace(plan.phases[0], workload=Call([GREETED]))
    assert vary(plan, Variation(name="v", phases=[alone])).beside == []


def test_what_is_wrong_with_any_of_them_is_told() -> None:
    plan = plan_of(MemoryCarrier(clock=VirtualClock()), Phase("p", Burst(1), InTurn([Idle(1), Call([])])))
    assert check(plan) == ["the phase 'p': a Call needs at least one Scenario"]
    assert check(replace(plan, phases=[Phase("p", Burst(1), InTurn([]))]))[0].endswith("needs at least one workload")
    with pytest.raises(PlanError, match="places calls, and the plan has no carrier"):
        room_for(replace(plan, carrier=None))
