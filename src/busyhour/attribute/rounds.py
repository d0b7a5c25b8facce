"""The plan that is carried out: calls to warm up, then two halves of those that count, drained and with a pause before
each word that is told to the target's processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

from busyhour.arrivals import Burst
from busyhour.attribute.desk import Desk
from busyhour.bulk import Bulk
from busyhour.capacity.level import Held
from busyhour.errors import PlanError
from busyhour.model import SECOND, Arrival, Operation, Phase, Plan, Service, Workload
from busyhour.recording import Recording
from busyhour.workloads.call import BargeIn, Call, Say
from busyhour.workloads.function import Function
from busyhour.workloads.idle import Idle

_AT_MOST_SECONDS = 3600.0


@dataclass(frozen=True, kw_only=True)
class Rounds:
    """How many calls: to warm up, and then to attribute; so many at once; and the pause after the last of each."""

    warm_up: int
    calls: int
    at_once: int
    settle_seconds: float

    @property
    def halves(self) -> tuple[int, int]:
        return self.calls - self.calls // 2, self.calls // 2


@dataclass(eq=False)
class Counted:
    """A workload, and what came of its calls."""

    workload: Workload
    outcomes: Counter[str] = field(default_factory=Counter, init=False)

    async def perform(self, arrival: Arrival) -> None:
        def record(operation: Operation) -> None:
            if operation.id == arrival.id:
                self.outcomes[operation.outcome] += 1
            arrival.record(operation)

        await self.workload.perform(replace(arrival, record=record))


@dataclass(frozen=True, eq=False)
class Word:
    """Lets the target come to rest, then does one thing."""

    act: Callable[[], Awaitable[None]]
    after_seconds: float

    async def perform(self, arrival: Arrival) -> None:
        await arrival.clock.sleep_until(arrival.clock.now_ns() + round(self.after_seconds * SECOND))
        await self.act()
        await arrival.clock.sleep_until(arrival.clock.now_ns() + round(0.3 * SECOND))


def plan_of(plan: Plan, phase: Phase, target: Service, desk: Desk, rounds: Rounds) -> tuple[Plan, Counted]:
    """The plan with this phase's calls alone, without its faults, gates and probes; and what will have come of both
    halves' calls."""
    counted = Counted(phase.workload)

    def calls(name: str, count: int, workload: Workload) -> list[Phase]:
        arrivals = Held(at_once=rounds.at_once, seconds=_AT_MOST_SECONDS, count=count)
        at_once = max(phase.at_once, rounds.at_once)
        return [replace(phase, name=name, arrivals=arrivals, workload=workload, faults=(), at_once=at_once)][:count]

    def word(name: str, act: Callable[[], Awaitable[None]]) -> Phase:
        return Phase(name, Burst(1), Word(act, rounds.settle_seconds), drain_seconds=_AT_MOST_SECONDS)

    first, second = rounds.halves
    phases = [
        *calls("warm-up", rounds.warm_up, phase.workload),
        word("begins to be tracked", desk.start),
        *calls("first half", first, counted),
        word("between the halves", desk.mark),
        *calls("second half", second, counted),
        word("is tracked no more", desk.stop),
    ]
    services = [desk, *plan.services]
    alone = replace(plan, target=target, services=services, phases=phases, recording=Recording.off())
    return replace(alone, gates=(), valid_if=(), probes=(), controls=(), tables=()), counted


def phase_of(plan: Plan, name: str = "") -> Phase:
    """The phase of that name; without one the first in which somebody talks and nothing is broken on purpose, or else
    the first without faults. Raises PlanError when there is none, or it has no calls."""
    known = ", ".join(phase.name for phase in plan.phases)
    if name:
        found = next((phase for phase in plan.phases if phase.name == name), None)
        if found is None:
            raise PlanError(f"--phase {name}: the plan has no such phase; it has {known}")
        if not _countable(found.workload):
            raise PlanError(
                f"--phase {name}: its workload is {type(found.workload).__name__}, of which no single calls can be "
                f"counted; choose another phase (the plan has {known})"
            )
        return found
    fit = [phase for phase in plan.phases if not phase.faults and _countable(phase.workload)]
    found = next((phase for phase in fit if _conversational(phase.workload)), fit[0] if fit else None)
    if found is None:
        raise PlanError(f"no phase of the plan has calls and no faults; choose one of {known} by --phase")
    return found


def _countable(workload: Workload) -> bool:
    return not isinstance(workload, Bulk | Function | Idle)


def _conversational(workload: Workload) -> bool:
    return isinstance(workload, Call) and any(
        isinstance(step, Say | BargeIn) for scenario in workload.scenarios for step in scenario.steps
    )
