"""Executes a plan: starts the services, lets operations arrive, injects the faults, and writes it all down.

The only starter of tasks. Arrivals are open: what is due starts when it is due, however the system fares; what cannot
be started is counted. Stopping is cancelling: every service, fault and call is a context manager, so whichever way a
run ends - its plan, a signal, a dead service, our own bug - everything is undone.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from random import Random
from typing import Protocol

from busyhour.bulk import Bulk, Counts, Stretch
from busyhour.clock import SystemClock
from busyhour.errors import BusyhourError, JournalError, PlanError, ServiceError
from busyhour.model import (
    JSON,
    MS,
    SECOND,
    Arrival,
    CallSetup,
    Clock,
    Due,
    Endpoint,
    FaultUnavailable,
    Line,
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
from busyhour.probes.loop import LoopMeter
from busyhour.services import Child, Mortal

WATCH_SECONDS = 1.0  # how often meters, probes and witnesses are read, and deaths noticed
WITNESS_SECONDS = 5.0  # a twin that does not tell what it saw within this is not waited for


class Notebook(Protocol):
    """What the engine needs of a journal."""

    def append(self, record: Operation | Sample | Mark) -> None: ...


@dataclass(slots=True)
class Progress:
    """What is going on, for whoever watches; the engine alone writes it."""

    phase: str = ""
    phase_number: int = 0
    phases: int = 0
    began_ns: int = 0
    started: int = 0
    finished: int = 0
    failed: int = 0
    dropped: int = 0
    turns: int = 0
    missed: int = 0
    latencies_ms: deque[float] = field(default_factory=lambda: deque(maxlen=500))
    lateness_p99_ms: float | None = None
    doing: str = "starting"

    @property
    def in_progress(self) -> int:
        return self.started - self.finished

    def quantile_ms(self, q: float) -> float | None:
        """A running quantile of the last turns' response latency: to look at, never to judge by."""
        ordered = sorted(self.latencies_ms)
        return ordered[min(len(ordered) - 1, int(q * len(ordered)))] if ordered else None

    def enter(self, phase: Phase, number: int, at_ns: int) -> None:
        self.phase, self.phase_number, self.began_ns = phase.name, number, at_ns
        self.started = self.finished = self.failed = self.dropped = self.turns = self.missed = 0
        self.latencies_ms.clear()
        self.doing = "calling"

    def note(self, operation: Operation) -> None:
        if operation.kind == "call":
            self.failed += operation.outcome != "ok"
        elif operation.kind == "turn":
            self.turns += 1
            self.missed += operation.ended_ns is None
            if operation.ended_ns is not None:
                self.latencies_ms.append(max(0, operation.ended_ns - operation.due_ns) / MS)


class Stopped(Exception):
    """The run was stopped before its plan was done; `why` is in the journal too."""

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__(why)


class Execution:
    """One execution of one plan. `await execute()` once; `stop(why)` from the loop ends it early, in order."""

    def __init__(
        self,
        plan: Plan,
        notebook: Notebook,
        *,
        clock: Clock | None = None,
        seed: int = 0,
        on_started: Callable[[Mapping[str, Endpoint]], None] = lambda endpoints: None,
    ) -> None:
        self.progress = Progress(phases=len(plan.phases))
        self._plan, self._notebook, self._seed = plan, notebook, seed
        self._clock = clock or SystemClock()
        self._on_started = on_started
        self._endpoints: dict[str, Endpoint] = {}
        self._stopping: str | None = None
        self._main: asyncio.Task[None] | None = None
        self._phase_began: list[tuple[int, str]] = []
        self._dropped_unwritten = 0
        self._bulk: Counts | None = None  # of the phase, if its workload performs it by itself
        self._meter: LoopMeter | None = None
        self._silent: dict[str, str] = {}  # witnesses that did not answer when last asked, and why

    async def execute(self) -> None:
        """Execute the plan. Raises Stopped if it was stopped, ServiceError if a service did not start, JournalError if
        the journal can no longer be written; in each case all is undone and what was written stays."""
        if self._stopping is not None:
            raise Stopped(self._stopping)
        self._main = asyncio.current_task()
        self._mark("run.began")
        try:
            async with self._services():
                self._on_started(self._endpoints)
                async with asyncio.TaskGroup() as background:
                    watch = background.create_task(self._watch())
                    for number, phase in enumerate(self._plan.phases, start=1):
                        await self._phase(phase, number)
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

    async def _phase(self, phase: Phase, number: int) -> None:
        began_ns = self._clock.now_ns()
        self.progress.enter(phase, number, began_ns)
        self._phase_began.append((began_ns, phase.name))
        async with AsyncExitStack() as faults:
            self._mark("phase.began", phase.name)
            proofs = await self._inject(phase, faults)
            if proofs is not None:
                # Time that injecting took is nobody's lateness: what had been due in it would come in one burst.
                arrive_ns = self._clock.now_ns() if phase.faults else began_ns
                if isinstance(phase.workload, Bulk):
                    await self._in_bulk(phase.workload, phase, arrive_ns)
                else:
                    await self._arrivals(phase, arrive_ns)
            for name, proof in proofs or ():
                effective, because = await proof.effect()
                self._mark("fault.proof", name, phase=phase.name, effective=effective, because=because)
        await self._read_everything()
        self._mark("phase.ended", phase.name, started=self.progress.started, dropped=self.progress.dropped)

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

    async def _arrivals(self, phase: Phase, began_ns: int) -> None:
        finished = asyncio.Event()
        tasks: set[asyncio.Task[None]] = set()

        def over(task: asyncio.Task[None]) -> None:
            tasks.discard(task)
            self.progress.finished += 1
            finished.set()

        async with asyncio.TaskGroup() as group:
            number = 0
            while True:
                gone = self.progress.finished + self.progress.dropped
                due = phase.arrivals.due_ns(number, gone, self._clock.now_ns() - began_ns)
                if due is Due.ENDED:
                    break
                if due is Due.PENDING:
                    finished.clear()
                    await finished.wait()
                    continue
                assert isinstance(due, int)
                await self._clock.sleep_until(began_ns + due)
                number += 1
                if self.progress.in_progress >= phase.at_once:
                    self.progress.dropped += 1
                    self._dropped_unwritten += 1
                    continue
                self.progress.started += 1
                task = group.create_task(phase.workload.perform(self._arrival(phase, number, began_ns + due)))
                tasks.add(task)
                task.add_done_callback(over)
            await self._drain(tasks, phase.drain_seconds)

    async def _in_bulk(self, workload: Bulk, phase: Phase, began_ns: int) -> None:
        self._bulk = Counts()
        stretch = Stretch(
            phase=phase.name,
            arrivals=phase.arrivals,
            at_once=phase.at_once,
            drain_seconds=phase.drain_seconds,
            began_ns=began_ns,
            clock=self._clock,
            target=self._endpoints[self._plan.target.name],
            write=self._notebook.append,
            counts=self._bulk,
        )
        try:
            await workload.perform_all(stretch)
        finally:
            self._follow_bulk()
            self._bulk = None

    def _follow_bulk(self) -> None:
        if self._bulk is not None:
            progress, counts = self.progress, self._bulk
            self._dropped_unwritten += counts.dropped - progress.dropped
            progress.started, progress.finished = counts.started, counts.finished
            progress.failed, progress.dropped = counts.failed, counts.dropped

    async def _drain(self, tasks: set[asyncio.Task[None]], seconds: float) -> None:
        self.progress.doing = "waiting for the last calls"
        if tasks:
            await asyncio.wait(tasks, timeout=seconds)
        for task in tasks:
            task.cancel()

    def _arrival(self, phase: Phase, number: int, due_ns: int) -> Arrival:
        target = self._endpoints[self._plan.target.name]
        return Arrival(
            id=f"{phase.name}/{number}",
            phase=phase.name,
            due_ns=due_ns,
            clock=self._clock,
            random=Random(f"{self._seed}/{phase.name}/{number}"),
            dial=partial(self._dial, target),
            record=self._record,
            target=target,
        )

    def _dial(self, target: Endpoint, setup: CallSetup) -> AbstractAsyncContextManager[Line]:
        if self._plan.carrier is None:
            raise PlanError(f"the call {setup.id} cannot be placed: the plan has no carrier; give it one")
        return self._plan.carrier.dial(target, setup)

    # ---------------------------------------------------------------- watching

    async def _watch(self) -> None:
        """Once a second: read the meters, the probes and the witnesses, and stop the run if a service has died."""
        async with AsyncExitStack() as stack:
            self._meter = await stack.enter_async_context(LoopMeter(self._clock).running())
            next_ns = self._clock.now_ns()
            while True:
                next_ns += round(WATCH_SECONDS * SECOND)
                await self._clock.sleep_until(next_ns)
                await self._read_everything()
                await self._bury_the_dead()

    def _follow_restarts(self) -> None:
        """What a fault has ended or started again is other processes now, at the same address."""
        for name, endpoint in self._endpoints.items():
            if isinstance(endpoint.handle, Child):
                self._endpoints[name] = replace(endpoint, pids=endpoint.handle.pids)

    async def _read_everything(self) -> None:
        self._follow_restarts()
        self._follow_bulk()
        now_ns = self._clock.now_ns()
        if self._dropped_unwritten:
            self._mark("arrival.dropped", self.progress.phase, count=self._dropped_unwritten)
            self._dropped_unwritten = 0
        if self._meter is not None:
            self._append_samples(self._meter.drain(now_ns))
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
        lateness = sorted((s.value, s.count) for s in samples if s.name == "send_lateness_ms")
        if lateness:
            beyond = 0.01 * sum(count for _, count in lateness)
            while len(lateness) > 1 and lateness[-1][1] <= beyond:
                beyond -= lateness.pop()[1]
            self.progress.lateness_p99_ms = lateness[-1][0]
        for sample in samples:
            self._notebook.append(sample)

    async def _bury_the_dead(self) -> None:
        for service in self._plan.everyone:
            if isinstance(service, Mortal) and (obituary := service.obituary()) is not None and self._stopping is None:
                role = "target" if service is self._plan.target else "harness"
                self._mark("service.died", service.name, obituary=obituary, role=role)
                self.stop(obituary.partition("; ")[0])
        await asyncio.sleep(0)  # here the run is cancelled, if it is over

    # ---------------------------------------------------------------- writing

    def _record(self, operation: Operation) -> None:
        self.progress.note(operation)
        self._notebook.append(operation)

    def _mark(self, kind: str, name: str = "", **detail: JSON) -> None:
        self._notebook.append(Mark(self._clock.now_ns(), kind, name, detail))

    def _phase_at(self, at_ns: int) -> str:
        return next((name for began_ns, name in reversed(self._phase_began) if began_ns <= at_ns), "")


def _reason(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error) if isinstance(error, BusyhourError) else f"a bug of busyhour's own: {error!r}"
