"""Faults of the machine: processors that others keep busy, memory that others hold.

They are done by processes of their own, below the supervisor that ends them whatever becomes of the harness.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from math import inf

from busyhour import proc
from busyhour.errors import PlanError, ServiceError
from busyhour.faults.claims import Claim
from busyhour.faults.undoing import check_times, in_force
from busyhour.model import SECOND, Clock, Endpoint, Proof
from busyhour.processes import Child, child

_HOGS_MAX = 4  # for each processor
_LEAST_SHARE = 0.1  # of the time that was asked for: less than that and they have disturbed nobody
_MB = 1_000_000
_START_WITHIN_SECONDS = 60.0
_FILLED_MB_PER_SECOND = 200  # at least: pages of 4 KB on a busy machine


@dataclass(frozen=True, kw_only=True)
class CpuHog:
    """`processes` others keep a processor busy for `share` of the time each, in slices of 20 to 100 ms drawn by `seed`.

    nice: 0 competes with the service as an equal, 19 takes what is left over. The harness runs on the same machine:
    its own gates say whether it could still keep its time. Its proof: the processor time they took, by the kernel.
    """

    processes: int
    share: float = 1.0
    nice: int = 0
    seed: int = 0
    after_seconds: float = 0.0
    seconds: float | None = None

    def __post_init__(self) -> None:
        most = _HOGS_MAX * (os.cpu_count() or 1)
        if not (1 <= self.processes <= most and 0 < self.share <= 1 and 0 <= self.nice <= 19):
            raise PlanError(
                f"the fault {self.name!r} makes no sense: give it 1 to {most} processes on this machine, "
                "a share of more than 0 and at most 1, and a niceness of 0 to 19"
            )
        check_times(self.name, after_seconds=self.after_seconds, seconds=self.seconds)

    @property
    def name(self) -> str:
        return f"processors kept busy by {self.processes} at {self.share:g}"

    @property
    def service(self) -> str:
        return "machine"

    @property
    def claims(self) -> Sequence[Claim]:
        until = inf if self.seconds is None else self.after_seconds + self.seconds
        return [Claim(of="the idle processors", from_seconds=self.after_seconds, to_seconds=until)]

    @asynccontextmanager
    async def injected(self, endpoints: Mapping[str, Endpoint], clock: Clock) -> AsyncIterator[Proof]:
        """Raises ServiceError when they cannot be started."""
        hogs = _Hogs(self, clock)
        async with in_force(hogs, clock, after_seconds=self.after_seconds, seconds=self.seconds):
            yield hogs


class _Hogs:
    """Processes that keep processors busy, and the proof of it."""

    def __init__(self, fault: CpuHog, clock: Clock) -> None:
        self._fault = fault
        self._clock = clock
        self._crew = _Crew()
        self._began_ns = 0
        self._told: tuple[bool, str] | None = None

    async def effect(self) -> tuple[bool, str]:
        return self._told or self._now()

    def _now(self) -> tuple[bool, str]:
        used = sum(one.cpu_seconds for one in self._crew.processes())
        seconds = max(1e-9, (self._clock.now_ns() - self._began_ns) / SECOND) if self._began_ns else 0.0
        wanted = self._fault.processes * self._fault.share * seconds
        who = "1 process" if self._fault.processes == 1 else f"{self._fault.processes} processes"
        told = f"{who} took {used:.1f} s of processor time in {seconds:.1f} s, and wanted {wanted:.1f} s"
        return used > 0 and used >= _LEAST_SHARE * wanted, told

    async def begin(self) -> None:
        fault = self._fault
        if not self._crew.empty or self._told is not None:
            return
        for number in range(fault.processes):
            more = (str(fault.share), str(fault.nice), f"{fault.seed}/{number}")
            await self._crew.enlist("busyhour.faults.hog", *more)
        self._began_ns = self._clock.now_ns()

    async def end(self) -> None:
        if not self._crew.empty and self._told is None:
            self._told = self._now()
        await self._crew.dismiss()


@dataclass(frozen=True, kw_only=True)
class MemoryPressure:
    """Another process holds `share` of the memory that is available when it begins.

    It never takes so much that less than `floor_megabytes` (10^6 bytes) are left, gives back when others need them, and
    is what the kernel would kill first. Its proof: the memory it holds, by the kernel.
    """

    share: float
    floor_megabytes: float = 1000.0
    after_seconds: float = 0.0
    seconds: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.share <= 0.95 or not 100 <= self.floor_megabytes < inf:
            raise PlanError(
                f"the fault {self.name!r} makes no sense: give it a share of more than 0 and at most 0.95, "
                "and a floor of 100 MB or more"
            )
        check_times(self.name, after_seconds=self.after_seconds, seconds=self.seconds)

    @property
    def name(self) -> str:
        return f"memory filled to {self.share:g}"

    @property
    def service(self) -> str:
        return "machine"

    @property
    def claims(self) -> Sequence[Claim]:
        until = inf if self.seconds is None else self.after_seconds + self.seconds
        return [Claim(of="the free memory", from_seconds=self.after_seconds, to_seconds=until)]

    @asynccontextmanager
    async def injected(self, endpoints: Mapping[str, Endpoint], clock: Clock) -> AsyncIterator[Proof]:
        """Raises ServiceError when there is less free than the floor."""
        filling = _Filling(self)
        async with in_force(filling, clock, after_seconds=self.after_seconds, seconds=self.seconds):
            yield filling


class _Filling:
    """A process that holds memory, and the proof of it."""

    def __init__(self, fault: MemoryPressure) -> None:
        self._fault = fault
        self._crew = _Crew()
        self._wanted_bytes = 0
        self._told: tuple[bool, str] | None = None

    async def effect(self) -> tuple[bool, str]:
        return self._told or self._now()

    def _now(self) -> tuple[bool, str]:
        held = sum(one.rss_bytes for one in self._crew.processes())
        told = f"a process held {held / _MB:.0f} MB of the {self._wanted_bytes / _MB:.0f} MB it wanted"
        left = f"{proc.available_bytes() / _MB:.0f} MB were left"
        return held > 0 and held >= _LEAST_SHARE * self._wanted_bytes, f"{told}; {left}"

    async def begin(self) -> None:
        if not self._crew.empty or self._told is not None:
            return
        fault = self._fault
        available, floor = proc.available_bytes(), round(fault.floor_megabytes * _MB)
        self._wanted_bytes = round(fault.share * available)
        if available <= floor:
            raise ServiceError(
                f"the fault {fault.name!r} cannot be injected: {available / _MB:.0f} MB are available, "
                f"and {fault.floor_megabytes:g} MB must be left; make room, or lower floor_megabytes"
            )
        within_seconds = _START_WITHIN_SECONDS + self._wanted_bytes / _MB / _FILLED_MB_PER_SECOND
        await self._crew.enlist(
            "busyhour.faults.filler", str(self._wanted_bytes), str(floor), within_seconds=within_seconds
        )

    async def end(self) -> None:
        if not self._crew.empty and self._told is None:
            self._told = self._now()
        await self._crew.dismiss()


class _Crew:
    """Programs of ours that do a harm as long as they run."""

    def __init__(self) -> None:
        self._stack = AsyncExitStack()
        self._children: list[Child] = []

    @property
    def empty(self) -> bool:
        return not self._children

    async def enlist(self, module: str, *more: str, within_seconds: float = _START_WITHIN_SECONDS) -> None:
        """Start one; returns once it is at work. Raises ServiceError."""
        starting = child(
            [sys.executable, "-m", module, *more],
            name=module.rpartition(".")[2],
            ready=Child.first_line,
            start_within_seconds=within_seconds,
            stop_within_seconds=1,
        )
        self._children.append(await self._stack.enter_async_context(starting))

    def processes(self) -> list[proc.Stat]:
        return proc.tree([pid for one in self._children for pid in one.pids])

    async def dismiss(self) -> None:
        """Returns once all have ended. Raises ServiceError for one that has not."""
        known = self.processes()
        await self._stack.aclose()
        self._children.clear()
        await asyncio.sleep(0)
        if left := [one for one in known if (now := proc.stat(one.pid)) and now.began_ticks == one.began_ticks]:
            raise ServiceError(f"pressure on the machine could not be ended: pid {left[0].pid} is still there")
