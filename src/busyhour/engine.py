"""Executes a plan: starts the services, lets operations arrive, injects the faults, and writes it all down.

Stopping is cancelling: every service, fault and call is a context manager, so whichever way a
run ends - its plan, a signal, a dead service, our own bug - everything is undone.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from typing import Protocol

from busyhour.attendance import Attendance
from busyhour.clock import SystemClock
from busyhour.errors import BusyhourError, JournalError, ServiceError
from busyhour.keeping import keeper
from busyhour.model import (
    JSON,
    SECOND,
    Clock,
    Endpoint,
    FaultUnavailable,
    Mark,
    Metered,
    Operation,
    Phase,
    Plan,
    Probe,
    Proof,
    Sample,
    Service,
    Witness,
)
from busyhour.performing import Performance, Progress
from busyhour.probes.loop import LoopMeter
from busyhour.probes.missing import Candid
from busyhour.probes.schedule import Thorough
from busyhour.segments import Continuation
from busyhour.services import Child, Mortal

WATCH_SECONDS = 1.0  # how often meters, probes and witnesses are read, and deaths noticed
ATTEND_SECONDS = 0.5  # how often we make sure that we, and the machine, have been there
WITNESS_SECONDS = 5.0  # a twin that does not tell what it saw within this is not waited for


class Notebook(Protocol):
    """What the engine needs of a journal."""

    def append(self, record: Operation | Sample | Mark) -> None: ...


class Stopped(Exception):
    """The run was stopped before its plan was done; `why` is in the journal too."""

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__(why)


class Execution:
    """One execution of one plan. `await execute()` once; `stop(why)` from the loop ends it early, in order.

    continuing: where the plan is taken up again, if an execution of it was cut. attendance: who calls the roll; by
    default nobody on a clock that is not the machine's.
    """

    def __init__(
        self,
        plan: Plan,
        notebook: Notebook,
        *,
        clock: Clock | None = None,
        seed: int = 0,
        on_started: Callable[[Mapping[str, Endpoint]], None] = lambda endpoints: None,
        continuing: Continuation | None = None,
        attendance: Callable[[], Attendance] | None = None,
    ) -> None:
        self.progress = Progress(phases=len(plan.phases))
        self._plan, self._notebook = plan, notebook
        self._clock = clock or SystemClock()
        self._endpoints: dict[str, Endpoint] = {}
        self._performance = Performance(
            clock=self._clock,
            seed=seed,
            carrier=plan.carrier,
            endpoints=self._endpoints,
            write=notebook.append,
            progress=self.progress,
            keeper=keeper(plan, notebook, seed=seed),
        )
        self._on_started = on_started
        self._continuing = continuing
        self._attendance = attendance or (self._roll if isinstance(self._clock, SystemClock) else None)
        self._stopping: str | None = None
        self._main: asyncio.Task[None] | None = None
        self._phase_began: list[tuple[int, str]] = []
        self._meter: LoopMeter | None = None
        self._silent: dict[str, str] = {}  # witnesses that did not answer when last asked, and why

    async def execute(self) -> None:
        """Execute the plan. Raises Stopped if it was stopped, ServiceError if a service did not start, JournalError if
        the journal can no longer be written; in each case all is undone and what was written stays."""
        if self._stopping is not None:
            raise Stopped(self._stopping)
        self._main = asyncio.current_task()
        self._begin()
        try:
            async with self._services():
                self._on_started(self._endpoints)
                async with asyncio.TaskGroup() as background:
                    watches = [background.create_task(self._watch()), background.create_task(self._attend())]
                    done = self._continuing.done if self._continuing else ()
                    for number, phase in enumerate(self._plan.phases, start=1):
                        if phase.name not in done:
                            await self._phase(phase, number)
                    for watch in watches:
                        watch.cancel()
                await self._read_everything()
                await self._bury_the_dead()  # what died since the last look has spoilt the last calls
                for name, why in self._silent.items():
                    self._mark("witness.silent", name, why=why)
                self.progress.doing = "stopping"
        except BaseException as error:
            if self._stopping is not None and isinstance(error, asyncio.CancelledError):
                self._mark("run.stopped", why=self._stopping)
                raise Stopped(self._stopping) from None
            with suppress(JournalError):  # which is then what is being raised
                self._mark("run.failed", why=_reason(error))
            raise
        finally:
            self._main = None
        self._mark("run.ended")

    def stop(self, why: str) -> None:
        """End the run: calls are hung up, faults undone, services stopped. A second call changes nothing."""
        if self._stopping is None:
            self._stopping = why
            self.progress.doing = "stopping"
            if self._main is not None:
                with suppress(JournalError):  # which may be why
                    self._mark("run.stopping")
                self._main.cancel()

    # ---------------------------------------------------------------- services

    @asynccontextmanager
    async def _services(self) -> AsyncIterator[None]:
        """Twins first, then the carrier, then the target: each may refer to those before it."""
        async with AsyncExitStack() as stack:
            for service in self._plan.everyone:
                self.progress.doing = f"starting {service.name}"
                endpoint = await stack.enter_async_context(service.running(dict(self._endpoints)))
                self._endpoints[service.name] = endpoint
                self._mark("service.started", service.name, url=endpoint.url, pids=list(endpoint.pids))
            yield

    # ---------------------------------------------------------------- phases

    def _begin(self) -> None:
        if self._continuing is None:
            self._mark("run.began")
        else:
            self._notebook.append(Mark(self._clock.now_ns(), "run.resumed", "", self._continuing.told()))

    async def _phase(self, phase: Phase, number: int) -> None:
        began_ns = self._clock.now_ns()
        self.progress.enter(phase, number, began_ns)
        self._phase_began.append((began_ns, phase.name))
        elapsed_ns, after = self._continuing.of(phase.name) if self._continuing else (0, 0)
        async with AsyncExitStack() as faults:
            if self._continuing is not None and phase.name == self._continuing.phase:
                self._mark("phase.resumed", phase.name, elapsed_seconds=elapsed_ns / SECOND, after=after)
            else:
                self._mark("phase.began", phase.name)
            proofs = await self._inject(phase, faults)
            if proofs is not None:
                # Time that injecting took is nobody's lateness: what had been due in it would come in one burst.
                arrive_ns = (self._clock.now_ns() if phase.faults else began_ns) - elapsed_ns
                target = self._endpoints[self._plan.target.name]
                await self._performance.perform(phase, target, arrive_ns, after=after)
            for name, proof in proofs or ():
                effective, because = await proof.effect()
                self._mark("fault.proof", name, phase=phase.name, effective=effective, because=because)
        self._read_all_next()
        await self._read_everything()
        counts: dict[str, JSON] = {"started": self.progress.started, "dropped": self.progress.dropped}
        if self._performance.passed_over:
            counts["passed_over"] = self._performance.passed_over
        self._mark("phase.ended", phase.name, **counts)
        if (
            gc.get_freeze_count()
        ):  # then it is held off (`conduct`) while calls are in progress; here nobody waits for it
            gc.collect()

    async def _inject(self, phase: Phase, faults: AsyncExitStack) -> list[tuple[str, Proof]] | None:
        """The proofs of the phase's faults, by name; None where one of them cannot be had: without it the phase would
        say something else than was asked."""
        self._follow_restarts()
        proofs: list[tuple[str, Proof]] = []
        for fault in phase.faults:
            faults.callback(self._mark, "fault.ended", fault.name, phase=phase.name)  # once it is undone
            try:
                proof = await faults.enter_async_context(fault.injected(self._endpoints, self._clock))
            except FaultUnavailable as unavailable:
                self._mark("fault.unavailable", fault.name, phase=phase.name, why=unavailable.reason)
                return None
            self._mark("fault.began", fault.name, phase=phase.name, service=fault.service)
            proofs.append((fault.name, proof))
        return proofs

    # ---------------------------------------------------------------- watching

    async def _watch(self) -> None:
        """Once a second: read the meters, the probes and the witnesses, and stop the run if a service has died."""
        async with AsyncExitStack() as stack:
            self._meter = await stack.enter_async_context(LoopMeter(self._clock).running())
            next_ns = self._clock.now_ns()
            while True:
                next_ns = max(next_ns + round(WATCH_SECONDS * SECOND), self._clock.now_ns())  # none is made up for
                await self._clock.sleep_until(next_ns)
                await self._read_everything()
                await self._bury_the_dead()

    async def _attend(self) -> None:
        """Twice a second: whether we were there since the last time. What was due meanwhile is passed over."""
        if self._attendance is None:
            return
        attendance = self._attendance()
        while True:
            await self._clock.sleep_until(self._clock.now_ns() + round(ATTEND_SECONDS * SECOND))
            if (absence := attendance.absence()) is not None:
                self._performance.pass_over(absence.until_ns)
                self._notebook.append(absence.mark())

    def _roll(self) -> Attendance:
        return Attendance(self._clock.now_ns, round(ATTEND_SECONDS * SECOND))

    def _follow_restarts(self) -> None:
        """What a fault has ended or started again is other processes now, at the same address."""
        for name, endpoint in self._endpoints.items():
            if isinstance(endpoint.handle, Child):
                self._endpoints[name] = replace(endpoint, pids=endpoint.handle.pids)

    async def _read_everything(self) -> None:
        self._follow_restarts()
        self._performance.follow()
        now_ns = self._clock.now_ns()
        if dropped := self._performance.take_dropped():
            self._mark("arrival.dropped", self.progress.phase, count=dropped)
        if self._meter is not None:
            self._append_samples(self._meter.drain(now_ns))
            self._note_missing(self._meter, "harness")
        for service in self._plan.everyone:
            if isinstance(service, Metered):
                self._append_samples(service.drain(now_ns))
        await asyncio.gather(*(self._read(probe, now_ns) for probe in self._plan.probes))
        await asyncio.gather(*(self._hear_witness(s) for s in self._plan.everyone if isinstance(s, Witness)))

    async def _read(self, probe: Probe, now_ns: int) -> None:
        readings = probe.read(self._endpoints[probe.service])
        if isinstance(readings, Awaitable):
            readings = await readings
        for name, value in readings.items():
            self._notebook.append(Sample(now_ns, probe.service, name, value))
        self._note_missing(probe, probe.service)

    def _note_missing(self, probe: object, service: str) -> None:
        for one in probe.missing() if isinstance(probe, Candid) else ():
            self._mark("probe.missing", service, readings=list(one.readings), why=one.why)

    def _read_all_next(self) -> None:
        for probe in (self._meter, *self._plan.probes):
            if isinstance(probe, Thorough):
                probe.read_all_next()

    async def _hear_witness(self, service: Service) -> None:
        assert isinstance(service, Witness)
        try:
            async with asyncio.timeout(WITNESS_SECONDS):
                operations = await service.witnessed(self._endpoints[service.name])
        except (TimeoutError, OSError, ServiceError) as trouble:
            self._silent[service.name] = str(trouble) or type(trouble).__name__
            return
        self._silent.pop(service.name, None)  # what it could not tell then it has told now
        for operation in operations:
            self._notebook.append(replace(operation, phase=operation.phase or self._phase_at(operation.due_ns)))

    def _append_samples(self, samples: Sequence[Sample]) -> None:
        self.progress.note_lateness([(s.value, s.count) for s in samples if s.name == "send_lateness_ms"])
        for sample in samples:
            self._notebook.append(sample)

    async def _bury_the_dead(self) -> None:
        for service in self._plan.everyone:
            if isinstance(service, Mortal) and (obituary := service.obituary()) is not None and self._stopping is None:
                role = "target" if service in (*self._plan.beside, self._plan.target) else "harness"
                self._mark("service.died", service.name, obituary=obituary, role=role)
                self.stop(obituary.partition("; ")[0])
        await asyncio.sleep(0)  # here the run is cancelled, if it is over

    # ---------------------------------------------------------------- writing

    def _mark(self, kind: str, name: str = "", **detail: JSON) -> None:
        self._notebook.append(Mark(self._clock.now_ns(), kind, name, detail))

    def _phase_at(self, at_ns: int) -> str:
        return next((name for began_ns, name in reversed(self._phase_began) if began_ns <= at_ns), "")


def _reason(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error) if isinstance(error, BusyhourError) else f"a bug of busyhour's own: {error!r}"
