"""Faults of processes: the service's own, and the harness's, which is how the harness's gates are proven."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from busyhour import proc
from busyhour.clock import SystemClock
from busyhour.errors import PlanError, ServiceError
from busyhour.faults.undoing import aimed_at, to_the_end
from busyhour.model import MS, SECOND, Clock, Endpoint, Proof, Service

_LOOKS = 1000  # 2 ms apart: the kernel stops and continues a process within milliseconds
_LOOK_SECONDS = 0.002
_STOPPED = "T"


@dataclass(frozen=True)
class Freeze:
    """All processes of a service stand still (SIGSTOP) for so many seconds, `after_seconds` into the phase.

    Its sockets stay open and the kernel goes on to acknowledge what they receive: the grey failure of a stalled
    virtual machine. A phase that ends earlier ends it. Its proof: the kernel's word that all of them were stopped.
    """

    victim: Service
    seconds: float
    after_seconds: float = field(default=0.0, kw_only=True)

    def __post_init__(self) -> None:
        if self.seconds <= 0 or self.after_seconds < 0:
            raise PlanError(f"the fault {self.name!r} has no duration: give it more than 0 s, after 0 s or more")

    @property
    def name(self) -> str:
        return f"{self.victim.name} frozen for {self.seconds:g} s"

    @property
    def service(self) -> str:
        return self.victim.name

    @asynccontextmanager
    async def injected(self, endpoints: Mapping[str, Endpoint], clock: Clock) -> AsyncIterator[Proof]:
        """Raises PlanError for a service without processes, ServiceError when they are gone or do not obey."""
        endpoint = aimed_at(self.name, self.service, endpoints)
        if not endpoint.pids:
            raise PlanError(
                f"the fault {self.name!r} needs processes, and {self.service} has none that busyhour started: "
                "it runs inside the harness, or elsewhere"
            )
        frost = _Frost(self.service, endpoint.pids, clock)
        try:
            if self.after_seconds == 0:
                await frost.stop()
            task = asyncio.ensure_future(self._freeze(frost, clock))
            try:
                yield frost
            finally:
                await to_the_end(_ended(task))
        finally:
            await to_the_end(frost.thaw())

    async def _freeze(self, frost: _Frost, clock: Clock) -> None:
        if self.after_seconds > 0:
            await clock.sleep_until(clock.now_ns() + round(self.after_seconds * SECOND))
            await frost.stop()
        await clock.sleep_until(clock.now_ns() + round(self.seconds * SECOND))
        await frost.thaw()


class _Frost:
    """The processes that we have stopped, and the proof of it."""

    def __init__(self, service: str, roots: tuple[int, ...], clock: Clock) -> None:
        self._service = service
        self._roots = roots
        self._clock = clock
        self._ours: dict[int, proc.Stat] = {}
        self._seen_stopped = 0
        self._stopped_ns: int | None = None
        self._lasted_ns: int | None = None

    async def effect(self) -> tuple[bool, str]:
        if self._stopped_ns is None:
            return False, f"no process of {self._service} has been stopped"
        lasted_ns = self._lasted_ns or self._clock.now_ns() - self._stopped_ns
        seconds = f"{lasted_ns / SECOND:.1f} s"
        who = "the process" if self._seen_stopped == 1 else f"all {self._seen_stopped} processes"
        return True, f"{who} of {self._service} stood still (state T) for {seconds}"

    async def stop(self) -> None:
        """Returns once the kernel shows all of them as stopped, those included that were forked meanwhile."""
        for _ in range(_LOOKS):
            processes = proc.tree(self._roots)
            if not processes:
                raise ServiceError(f"{self._service} cannot be frozen: its processes are gone")
            running = [one for one in processes if one.state != _STOPPED]
            if not running:
                self._seen_stopped, self._stopped_ns = len(processes), self._clock.now_ns()
                return
            for one in running:
                self._ours[one.pid] = one
                self._send(one.pid, signal.SIGSTOP)
            await asyncio.sleep(_LOOK_SECONDS)
        names = ", ".join(f"{one.name} (pid {one.pid}, state {one.state})" for one in running)
        raise ServiceError(f"{self._service} cannot be frozen: {names} did not stop within 2 s of SIGSTOP")

    async def thaw(self) -> None:
        """Returns once none of those we stopped is shown as stopped; harmless when there are none."""
        for look in range(_LOOKS):
            still = [now for pid, one in self._ours.items() if (now := proc.stat(pid)) and _same_and_stopped(now, one)]
            if not still:
                self._ours.clear()
                if self._stopped_ns is not None and self._lasted_ns is None:
                    self._lasted_ns = self._clock.now_ns() - self._stopped_ns
                return
            if look == 0:
                for one in still:
                    self._send(one.pid, signal.SIGCONT)
            await asyncio.sleep(_LOOK_SECONDS)
        names = ", ".join(f"{one.name} (pid {one.pid})" for one in still)
        raise ServiceError(f"{self._service} could not be thawed: {names} still stopped 2 s after SIGCONT")

    def _send(self, pid: int, number: signal.Signals) -> None:
        try:
            with suppress(ProcessLookupError):  # it ended by itself
                os.kill(pid, number)
        except PermissionError:
            raise ServiceError(
                f"{self._service} cannot be frozen: its process {pid} is another user's; run as that user"
            ) from None


def _same_and_stopped(now: proc.Stat, before: proc.Stat) -> bool:
    return now.began_ticks == before.began_ticks and now.state == _STOPPED


@dataclass(frozen=True, kw_only=True)
class BlockLoop:
    """The harness's own event loop stands still for `milliseconds`, every `every_milliseconds`.

    The control for the harness's own gates: a run with it must be INVALID. Its proof: the blocks, measured.
    """

    milliseconds: float
    every_milliseconds: float

    def __post_init__(self) -> None:
        if not 0 < self.milliseconds < self.every_milliseconds:
            raise PlanError(f"the fault {self.name!r} leaves the loop no time: block for less than the period")

    @property
    def name(self) -> str:
        return f"event loop blocked for {self.milliseconds:g} ms every {self.every_milliseconds:g} ms"

    @property
    def service(self) -> str:
        return "harness"

    @asynccontextmanager
    async def injected(self, endpoints: Mapping[str, Endpoint], clock: Clock) -> AsyncIterator[Proof]:
        blocks = _Blocks(self.milliseconds)
        task = asyncio.ensure_future(self._block(blocks, clock))
        try:
            yield blocks
        finally:
            await to_the_end(_ended(task))

    async def _block(self, blocks: _Blocks, clock: Clock) -> None:
        next_ns = clock.now_ns()
        while True:
            next_ns = max(next_ns + round(self.every_milliseconds * MS), clock.now_ns())
            await clock.sleep_until(next_ns)
            blocks.block()


class _Blocks:
    def __init__(self, milliseconds: float) -> None:
        self._milliseconds = milliseconds
        self._count = 0
        self._longest_ns = 0
        self._never = threading.Event()

    def block(self) -> None:
        clock = SystemClock()  # a block is real, whatever time the plan runs on
        began_ns = clock.now_ns()
        self._never.wait(self._milliseconds / 1000)
        self._count += 1
        self._longest_ns = max(self._longest_ns, clock.now_ns() - began_ns)

    async def effect(self) -> tuple[bool, str]:
        if self._count == 0:
            return False, "the event loop has not been blocked"
        longest_ms = self._longest_ns / MS
        times = "once" if self._count == 1 else f"{self._count} times"
        return True, f"the event loop was blocked {times}, for up to {longest_ms:.0f} ms"


async def _ended(task: asyncio.Task[None]) -> None:
    """The task is over; what it failed with is raised."""
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
