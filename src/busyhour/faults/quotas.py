"""Limits on all of a service's processes together: a share of a processor, and memory beyond which the kernel kills."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from math import inf
from typing import Literal, TypeAlias

from busyhour import proc
from busyhour.errors import PlanError, ServiceError
from busyhour.faults import cgroups
from busyhour.faults.claims import Claim
from busyhour.faults.process import claims_of_all, restartable
from busyhour.faults.undoing import Restartable, check_times, ended, in_force, roots, with_processes
from busyhour.model import MS, SECOND, Clock, Endpoint, FaultUnavailable, Proof, Service

Means: TypeAlias = Literal["either", "quota", "stopping"]

_CYCLE_NS = 10 * MS
_TREE_EVERY = 20  # cycles: walking the tree costs more than a signal
_LOOKS = 1000
_LOOK_SECONDS = 0.002
_MB = 1_000_000


@dataclass(frozen=True)
class CpuLimit:
    """A service gets at most `share` of one processor's time.

    by: "quota", the kernel's own limit (a control group, as container platforms use it: periods of 100 ms); "stopping",
    SIGSTOP and SIGCONT in turn, every 10 ms, which needs no rights but lets a program with several threads use as many
    processors while it runs; "either" takes the quota where it can be had. The proof names the one that was used.
    """

    victim: Service
    share: float
    by: Means = field(default="either", kw_only=True)
    after_seconds: float = field(default=0.0, kw_only=True)
    seconds: float | None = field(default=None, kw_only=True)
    acts_on_processes = True

    def __post_init__(self) -> None:
        if not 0.01 <= self.share < inf or (self.by == "stopping" and self.share > 0.95):
            raise PlanError(
                f"the fault {self.name!r} has a share that cannot be kept: give it 0.01 or more, by stopping at most "
                "0.95"
            )
        check_times(self.name, after_seconds=self.after_seconds, seconds=self.seconds)

    @property
    def name(self) -> str:
        return f"{self.victim.name} limited to {self.share:g} of a processor"

    @property
    def service(self) -> str:
        return self.victim.name

    @property
    def claims(self) -> Sequence[Claim]:
        until = inf if self.seconds is None else self.after_seconds + self.seconds
        return [Claim(of=f"the processes of {self.service}", from_seconds=self.after_seconds, to_seconds=until)]

    def lacking(self) -> str | None:
        if self.by != "quota" or cgroups.place("cpu") is not None:
            return None
        return 'needs a control group that we may make: run as root, delegate one to this user, or limit by="stopping"'

    @asynccontextmanager
    async def injected(self, endpoints: Mapping[str, Endpoint], clock: Clock) -> AsyncIterator[Proof]:
        """Raises FaultUnavailable, PlanError for a service without processes, ServiceError when it does not obey."""
        endpoint = with_processes(self.name, self.service, endpoints)
        if (why := self.lacking()) is not None:
            raise FaultUnavailable(why)
        where = None if self.by == "stopping" else cgroups.place("cpu")
        harm: _Quota | _Stopping
        if where is not None:
            harm = _Quota(self.service, endpoint, self.share, cgroups.Group(where))
        else:
            harm = _Stopping(self.service, endpoint, self.share, clock)
        async with in_force(harm, clock, after_seconds=self.after_seconds, seconds=self.seconds):
            yield harm


class _Quota:
    """A share of a processor by the kernel's own limit, and the proof of it."""

    def __init__(self, service: str, endpoint: Endpoint, share: float, group: cgroups.Group) -> None:
        self._service = service
        self._endpoint = endpoint
        self._share = share
        self._group = group
        self._processes = 0
        self._told = (0, 0.0)
        self._over = False

    async def effect(self) -> tuple[bool, str]:
        if not self._processes:
            return False, f"no process of {self._service} has been limited"
        times, seconds = self._told if self._over else self._group.throttled()
        limit = f"{self._service} was limited to {self._share:g} of a processor by a {self._group.kind}"
        if times == 0:
            return True, f"{limit}; the limit was in force, but it never wanted more"
        return True, f"{limit}: it wanted more in {times} periods of 100 ms, and waited for {seconds:.1f} s in all"

    async def begin(self) -> None:
        if self._processes:
            return
        self._processes = _grouped(
            self._service, self._endpoint, self._group, lambda: self._group.limit_cpu(self._share)
        )

    async def end(self) -> None:
        if self._processes and not self._over:
            self._told, self._over = self._group.throttled(), True
        await self._group.remove()


class _Stopping:
    """A share of a processor by stopping it for the rest of every 10 ms, and the proof of it."""

    def __init__(self, service: str, endpoint: Endpoint, share: float, clock: Clock) -> None:
        self._service = service
        self._endpoint = endpoint
        self._share = share
        self._clock = clock
        self._task: asyncio.Task[None] | None = None
        self._ours: dict[tuple[int, int], proc.Stat] = {}
        self._began_ns = 0
        self._stopped_ns = 0
        self._stops = 0
        self._lasted_ns: int | None = None

    async def effect(self) -> tuple[bool, str]:
        if self._stops == 0:
            return False, f"no process of {self._service} has been stopped"
        lasted_ns = self._lasted_ns or max(1, self._clock.now_ns() - self._began_ns)
        ran = 100 * (1 - self._stopped_ns / lasted_ns)
        return True, (
            f"{self._service} ran for {ran:.0f} % of the time, stopped by signals {self._stops} times "
            f"in {lasted_ns / SECOND:.1f} s"
        )

    async def begin(self) -> None:
        if self._task is not None:
            return
        if not proc.tree(roots(self._endpoint)):
            raise ServiceError(f"{self._service} cannot be limited: its processes are gone")
        self._began_ns = self._clock.now_ns()
        self._task = asyncio.ensure_future(self._cycle())

    async def end(self) -> None:
        """Returns once none of those we stopped is shown as stopped."""
        if self._task is None:
            return
        try:
            await ended(self._task)
        finally:
            if self._lasted_ns is None:
                self._lasted_ns = max(1, self._clock.now_ns() - self._began_ns)
            await self._go_on()

    async def _cycle(self) -> None:
        next_ns = self._clock.now_ns()
        while True:
            if self._stops % _TREE_EVERY == 0:
                self._ours |= {(one.pid, one.began_ticks): one for one in proc.tree(roots(self._endpoint))}
            self._signal(signal.SIGSTOP)
            stopped_ns = self._clock.now_ns()
            self._stops += 1
            await self._clock.sleep_until(next_ns + round((1 - self._share) * _CYCLE_NS))
            self._signal(signal.SIGCONT)
            now_ns = self._clock.now_ns()
            self._stopped_ns += now_ns - stopped_ns
            # The time it runs for is given from when it runs again: a late wake-up of ours is made up for.
            ran_ns = round((now_ns - stopped_ns) * self._share / (1 - self._share))
            next_ns = now_ns + ran_ns
            await self._clock.sleep_until(next_ns)

    def _signal(self, number: signal.Signals) -> None:
        for (pid, _), one in list(self._ours.items()):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                del self._ours[pid, one.began_ticks]
            except PermissionError:
                raise ServiceError(
                    f"{self._service} cannot be stopped: its process {pid} is another user's; run as that user"
                ) from None

    async def _go_on(self) -> None:
        for _ in range(_LOOKS):
            self._signal(signal.SIGCONT)
            still = [one for one in map(proc.stat, [pid for pid, _ in self._ours]) if one and one.state == "T"]
            if not still:
                return
            await asyncio.sleep(_LOOK_SECONDS)
        names = ", ".join(f"{one.name} (pid {one.pid})" for one in still)
        raise ServiceError(f"{self._service} could not be let go on: {names} still stopped 2 s after SIGCONT")


@dataclass(frozen=True)
class OutOfMemory:
    """A service may take `headroom_megabytes` (10^6 bytes) more than it has; when it wants more, the kernel kills it.

    By a control group: needs the right to make one. Its death is meant to be; it is started again when the fault ends.
    Its proof is the kernel's count of those it killed: a service that stays below the limit proves nothing.
    """

    victim: Service
    headroom_megabytes: float
    after_seconds: float = field(default=0.0, kw_only=True)
    seconds: float | None = field(default=None, kw_only=True)
    acts_on_processes = True
    restarts = True

    def __post_init__(self) -> None:
        if not 0.1 <= self.headroom_megabytes < inf:
            raise PlanError(f"the fault {self.name!r} has a limit that makes no sense; give it 0.1 MB or more")
        check_times(self.name, after_seconds=self.after_seconds, seconds=self.seconds)

    @property
    def name(self) -> str:
        return f"{self.victim.name} out of memory after {self.headroom_megabytes:g} MB"

    @property
    def service(self) -> str:
        return self.victim.name

    @property
    def claims(self) -> Sequence[Claim]:
        until = inf if self.seconds is None else self.after_seconds + self.seconds
        return claims_of_all(self.service, self.after_seconds, until)

    def lacking(self) -> str | None:
        if cgroups.place("memory") is not None:
            return None
        return (
            "needs a control group that we may make: run as root, or delegate one to this user; MemoryLimit needs none"
        )

    @asynccontextmanager
    async def injected(self, endpoints: Mapping[str, Endpoint], clock: Clock) -> AsyncIterator[Proof]:
        """Raises FaultUnavailable, PlanError for a service that cannot be started again, ServiceError."""
        handle = restartable(self.name, self.service, endpoints)
        where = cgroups.place("memory")
        if where is None:
            raise FaultUnavailable(self.lacking() or "")
        shortage = _Shortage(
            self.service, endpoints[self.service], handle, round(self.headroom_megabytes * _MB), cgroups.Group(where)
        )
        async with in_force(shortage, clock, after_seconds=self.after_seconds, seconds=self.seconds):
            yield shortage


class _Shortage:
    """A limit of memory that kills, and the proof of it."""

    def __init__(
        self, service: str, endpoint: Endpoint, handle: Restartable, more_bytes: int, group: cgroups.Group
    ) -> None:
        self._service = service
        self._endpoint = endpoint
        self._handle = handle
        self._more_bytes = more_bytes
        self._group = group
        self._processes = 0
        self._killed: int | None = None
        self._back = False
        self._excuse = ExitStack()

    async def effect(self) -> tuple[bool, str]:
        if not self._processes:
            return False, f"no process of {self._service} has been limited"
        killed = self._group.killed() if self._killed is None else self._killed
        limit = f"{self._service} could take {self._more_bytes / _MB:g} MB more, by a {self._group.kind}"
        if killed == 0:
            return False, f"{limit}, and never wanted more: the kernel killed nothing"
        return True, f"{limit}: the kernel killed {killed} of its processes for want of memory"

    async def begin(self) -> None:
        if self._processes:
            return
        self._excuse.enter_context(self._handle.excused())
        self._processes = _grouped(
            self._service, self._endpoint, self._group, lambda: self._group.limit_memory(self._more_bytes)
        )

    async def end(self) -> None:
        if self._processes and self._killed is None:
            self._killed = self._group.killed()
        await self._group.remove()
        with self._excuse:  # until then: the kernel may have killed it just now
            down = self._killed or (self._processes and not self._handle.pids)  # it may have been killed just now
            if down and not self._back:
                await self._handle.end(asked=False)  # of a tree that lost some of its processes, the rest
                await self._handle.start_again()
                self._back = True


def _grouped(service: str, endpoint: Endpoint, group: cgroups.Group, limit: Callable[[], None]) -> int:
    """Put the service into the group, and limit it: how many processes. Raises ServiceError."""
    try:
        group.make()
        limit()
        processes = group.take(lambda: roots(endpoint))
    except OSError as error:
        raise ServiceError(
            f"{service} cannot be limited by the {group.kind} {group.path}: {os.strerror(error.errno or 0)}"
        ) from None
    if not processes:
        raise ServiceError(f"{service} cannot be limited: its processes are gone")
    return processes
