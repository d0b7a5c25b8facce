"""One level: the phase's workload, so many calls at once, and which of them are measured.

A level begins with a warm-up as long as a call, over which its callers come one by one: so at any instant some are
greeted and some say goodbye, as in traffic, and not all do the same. The calls that are due in the window after it are
measured. Then calls go on coming for as long as the last of the measured ones may need, because the end of a call
that finds the target deserted would be measured too kindly. Only the measured calls bear the phase's name, and so
only they are read by its gates.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace

from busyhour.arrivals import Constant
from busyhour.bulk import Bulk
from busyhour.capacity.files import Fullest
from busyhour.errors import PlanError
from busyhour.model import SECOND, Arrival, Arrivals, Due, Gate, Phase, Plan, Variation, Workload
from busyhour.planfile import vary
from busyhour.probes.process import Process
from busyhour.workloads.call import BargeIn, Call, Say
from busyhour.workloads.function import Function
from busyhour.workloads.idle import Idle

FIRST_CALLS = 2
"""Calls of the first level, one after the other: how long a call is, and whether one is answered as it must be."""
_FOREVER_SECONDS = 3600.0
_ROOM = 10  # times the level: what an open-loop level may pile up before arrivals are dropped
_HURRY = 2  # a held place is given to a new call at most so many times as often as calls of the usual length leave it


@dataclass(frozen=True, kw_only=True)
class Level:
    """at_once calls, held or, open_loop, arriving at the rate that amounts to as many while calls take call_seconds.

    call_seconds 0: not known yet, the level of `FIRST_CALLS`.
    """

    at_once: int
    open_loop: bool = False
    call_seconds: float = 0.0
    warm_up_seconds: float = 0.0
    window_seconds: float = _FOREVER_SECONDS

    @property
    def first(self) -> bool:
        return not self.call_seconds

    @property
    def name(self) -> str:
        return f"{'ramp' if self.open_loop else 'hold'} {self.at_once}"

    @property
    def arrivals(self) -> Arrivals:
        loaded_seconds = self.warm_up_seconds + self.window_seconds
        if self.open_loop:
            return Constant(self.at_once / self.call_seconds, loaded_seconds)
        if self.first:
            return Held(at_once=self.at_once, seconds=loaded_seconds, count=FIRST_CALLS)
        return Held(
            at_once=self.at_once,
            seconds=loaded_seconds + self.call_seconds,
            filled_seconds=self.warm_up_seconds,
            least_seconds=self.call_seconds / _HURRY,
        )


@dataclass(frozen=True, kw_only=True)
class Held:
    """Keep `at_once` operations in progress for `seconds`, the first of them spread evenly over `filled_seconds`.

    A place that is free again is not taken faster than operations of `least_seconds` would leave it: a target that
    refuses at once is not to be stormed. count: at most so many operations; 0: any number.
    """

    at_once: int
    seconds: float
    filled_seconds: float = 0.0
    least_seconds: float = 0.0
    count: int = 0

    def due_ns(self, started: int, finished: int, elapsed_ns: int) -> int | Due:
        until_ns = round(self.seconds * SECOND)
        if elapsed_ns >= until_ns or (self.count and started >= self.count):
            return Due.ENDED
        if started - finished >= self.at_once:
            return Due.PENDING
        later = max(0, started - self.at_once)
        spread_seconds = min(started, self.at_once) * self.filled_seconds + later * self.least_seconds
        due_ns = max(elapsed_ns, round(spread_seconds / self.at_once * SECOND))
        return due_ns if due_ns < until_ns else Due.ENDED


@dataclass(eq=False)
class Windowed:
    """A workload whose calls are of the phase only if they are due in the window; those after it are cut off as soon as
    the last measured one is over. The window is counted from the first arrival on."""

    workload: Workload
    warm_up_ns: int
    window_ns: int
    lasts_ns: int
    _began_ns: int | None = field(default=None, init=False)
    _measured: int = field(default=0, init=False)  # in progress
    _after: set[asyncio.Task[object]] = field(default_factory=set, init=False)

    async def perform(self, arrival: Arrival) -> None:
        self._began_ns = arrival.due_ns if self._began_ns is None else self._began_ns
        since_ns = arrival.due_ns - self._began_ns
        if since_ns < self.warm_up_ns:
            await self.workload.perform(replace(arrival, phase=f"{arrival.phase}: warm-up"))
        elif since_ns < self.warm_up_ns + self.window_ns:
            await self._measure(arrival)
        elif self._measured:
            await self._accompany(replace(arrival, phase=f"{arrival.phase}: cool-down"))
        else:
            await arrival.clock.sleep_until(self._began_ns + self.lasts_ns)  # there is nothing left to keep company

    async def _measure(self, arrival: Arrival) -> None:
        self._measured += 1
        try:
            await self.workload.perform(arrival)
        finally:
            self._measured -= 1
            if not self._measured:
                for task in self._after:
                    task.cancel()

    async def _accompany(self, arrival: Arrival) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._after.add(task)
        try:
            await self.workload.perform(arrival)
        finally:
            self._after.discard(task)


def plan_at(plan: Plan, phase: Phase, level: Level, *, places: int | None = None) -> Plan:
    """The plan with this phase alone, at this level, and the gates that read it or the whole run; with the processor
    time, the memory and the files of every service's processes read, whatever the plan reads. places: how many calls
    there is room for at once, be they late."""
    lasts_seconds = level.warm_up_seconds + level.window_seconds + (0 if level.open_loop else level.call_seconds)
    windowed = Windowed(
        phase.workload,
        warm_up_ns=round(level.warm_up_seconds * SECOND),
        window_ns=round(level.window_seconds * SECOND),
        lasts_ns=round(lasts_seconds * SECOND),
    )
    at_once = max(phase.at_once, level.at_once * (_ROOM if level.open_loop else 1))
    at_once = at_once if places is None else max(level.at_once, min(places, at_once))
    changed = replace(phase, arrivals=level.arrivals, workload=windowed, at_once=at_once)
    alone = vary(plan, Variation(name=level.name, phases=[changed]), [phase.name])
    watched = {probe.service for probe in plan.probes if isinstance(probe, Process)}
    probes = [*plan.probes, *(Process(service) for service in plan.everyone if service.name not in watched)]
    return replace(alone, probes=[*probes, Fullest(plan.target)])


def phase_of(plan: Plan, name: str = "") -> Phase:
    """The phase of that name; without one the first in which somebody talks and nothing is broken on purpose.

    Raises PlanError when there is none, when it has no calls, or when no gate reads it.
    """
    known = ", ".join(phase.name for phase in plan.phases)
    if name:
        found = next((phase for phase in plan.phases if phase.name == name), None)
        if found is None:
            raise PlanError(f"--phase {name}: the plan has no such phase; it has {known}")
        if isinstance(found.workload, Bulk | Function | Idle):
            raise PlanError(
                f"--phase {name}: its workload is {type(found.workload).__name__}, and what is searched for is a "
                f"number of calls; choose a phase with calls (the plan has {known})"
            )
    else:
        found = next((phase for phase in plan.phases if not phase.faults and _conversational(phase.workload)), None)
        if found is None:
            raise PlanError(f"no phase of the plan is a conversation without faults; choose one of {known} by --phase")
    if not gates_of(plan, found):
        raise PlanError(f"no gate of the plan reads the phase {found.name!r} alone, so every load would pass; add one")
    return found


def gates_of(plan: Plan, phase: Phase) -> list[Gate]:
    """The gates that a level is judged by: those on this phase alone. (Those on the whole run are judged besides.)"""
    return [gate for gate in plan.gates if gate.phases and {phase.name}.issuperset(gate.phases)]


def _conversational(workload: Workload) -> bool:
    return isinstance(workload, Call) and any(
        isinstance(step, Say | BargeIn) for scenario in workload.scenarios for step in scenario.steps
    )
