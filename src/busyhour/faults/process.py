"""Faults of processes: the service's own, and the harness's, which is how the harness's gates are proven."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from math import inf
from urllib.parse import urlsplit

from busyhour import proc
from busyhour.clock import SystemClock
from busyhour.errors import PlanError, ServiceError
from busyhour.faults.claims import Claim
from busyhour.faults.undoing import (
    STOPPED,
    Restartable,
    aimed_at,
    check_times,
    ended,
    in_force,
    roots,
    to_the_end,
    with_processes,
)
from busyhour.model import MS, SECOND, Clock, Endpoint, Proof, Service

_LOOKS = 1000  # 2 ms apart: the kernel stops and continues a process within milliseconds
_LOOK_SECONDS = 0.002
_CONNECT_SECONDS = 1.0


@dataclass(frozen=True)
class Kill:
    """All processes of a service die at once (SIGKILL), `after_seconds` into the phase.

    It is started again, as it was and at the same address, `restart_after_seconds` later, or when the phase ends; not
    at all if `stays_dead`: then the rest of the run goes without it. Its proof: the kernel's word that they are gone.
    """

    victim: Service
    after_seconds: float = field(default=0.0, kw_only=True)
    restart_after_seconds: float | None = field(default=None, kw_only=True)
    stays_dead: bool = field(default=False, kw_only=True)
    acts_on_processes = True
    restarts = True

    def __post_init__(self) -> None:
        check_times(self.name, after_seconds=self.after_seconds, seconds=self.restart_after_seconds)
        if self.stays_dead and self.restart_after_seconds is not None:
            raise PlanError(f"the fault {self.name!r} is to stay dead and to be started again; leave out one of them")

    @property
    def name(self) -> str:
        return f"{self.victim.name} killed"

    @property
    def service(self) -> str:
        return self.victim.name

    @property
    def claims(self) -> Sequence[Claim]:
        lasting = inf if self.restart_after_seconds is None else self.restart_after_seconds
        return claims_of_all(self.service, self.after_seconds, self.after_seconds + lasting)

    @asynccontextmanager
    async def injected(self, endpoints: Mapping[str, Endpoint], clock: Clock) -> AsyncIterator[Proof]:
        """Raises PlanError for a service that cannot be started again, ServiceError when it does not come back."""
        death = _Death(self.service, restartable(self.name, self.service, endpoints), clock, self.stays_dead)
        async with in_force(death, clock, after_seconds=self.after_seconds, seconds=self.restart_after_seconds):
            yield death


class _Death:
    """A service that we have killed, and the proof of it."""

    def __init__(self, service: str, handle: Restartable, clock: Clock, stays_dead: bool) -> None:
        self._service = service
        self._handle = handle
        self._clock = clock
        self._stays_dead = stays_dead
        self._killed: list[proc.Stat] = []
        self._killed_ns: int | None = None
        self._back_ns: int | None = None

    async def effect(self) -> tuple[bool, str]:
        if self._killed_ns is None:
            return False, f"no process of {self._service} has been killed"
        count = len(self._killed)
        who = "the process" if count == 1 else f"all {count} processes"
        again = "and is still down"
        if self._back_ns is not None:
            again = f"and answered again {(self._back_ns - self._killed_ns) / SECOND:.1f} s later"
        return True, f"{self._service} lost {who} by SIGKILL, {again}"

    async def begin(self) -> None:
        if self._killed_ns is not None:
            return
        self._killed = proc.tree(self._handle.pids)
        if not self._killed:
            raise ServiceError(f"{self._service} cannot be killed: its processes are gone")
        await self._handle.end(asked=False)
        if left := [one for one in self._killed if _same(proc.stat(one.pid), one)]:
            raise ServiceError(f"{self._service} could not be killed: {_names(left)} is still there after SIGKILL")
        self._killed_ns = self._clock.now_ns()

    async def end(self) -> None:
        if self._killed and self._back_ns is None and not self._stays_dead:
            await self._handle.start_again()
            self._back_ns = self._clock.now_ns()


@dataclass(frozen=True)
class Restart:
    """A service is ended in order (SIGTERM, and after its time SIGKILL) and started again at the same address.

    It is down when the phase's first operations arrive, or `after_seconds` later, and is started again meanwhile: for
    as long as it takes to start, nobody answers. Its proof: the processes that it was are gone by the kernel's word,
    nobody answered at its address in between, and others answer. Read while it starts, the proof waits for that.
    """

    victim: Service
    after_seconds: float = field(default=0.0, kw_only=True)
    acts_on_processes = True
    restarts = True

    def __post_init__(self) -> None:
        check_times(self.name, after_seconds=self.after_seconds, seconds=None)

    @property
    def name(self) -> str:
        return f"{self.victim.name} restarted"

    @property
    def service(self) -> str:
        return self.victim.name

    @property
    def claims(self) -> Sequence[Claim]:
        return claims_of_all(self.service, self.after_seconds, inf)

    @asynccontextmanager
    async def injected(self, endpoints: Mapping[str, Endpoint], clock: Clock) -> AsyncIterator[Proof]:
        """Raises PlanError for a service that cannot be started again, ServiceError when it does not come back."""
        handle = restartable(self.name, self.service, endpoints)
        renewal = _Renewal(self.service, handle, aimed_at(self.name, self.service, endpoints).url, clock)
        # It is down when the body begins, and comes back beside the body, so that there is somebody to miss it.
        async with in_force(renewal, clock, after_seconds=self.after_seconds, seconds=0):
            yield renewal


class _Renewal:
    """A service that we have ended and started again, and the proof of it."""

    def __init__(self, service: str, handle: Restartable, url: str, clock: Clock) -> None:
        self._service = service
        self._handle = handle
        self._url = url
        self._clock = clock
        self._before: list[proc.Stat] = []
        self._how = ""
        self._silent = False
        self._asked_ns = 0
        self._back_ns: int | None = None
        self._starting = asyncio.Lock()

    async def effect(self) -> tuple[bool, str]:
        if not self._how:
            return False, f"{self._service} has not been asked to end"
        await self.end()
        assert self._back_ns is not None
        now = proc.tree(self._handle.pids)
        if left := [one for one in self._before if _same(proc.stat(one.pid), one)]:
            return False, f"{self._service} {self._how}, but {_names(left)} is still there"
        if not self._silent:
            return False, f"{self._service} {self._how}, but somebody else answered at {self._url} meanwhile"
        seconds = (self._back_ns - self._asked_ns) / SECOND
        again = f"answered again {seconds:.1f} s after it was asked to end"
        return bool(
            now
        ), f"{self._service} {self._how}, and {again}, as {_names(now)} instead of {_names(self._before)}"

    async def begin(self) -> None:
        if self._how:
            return
        self._before = proc.tree(self._handle.pids)
        if not self._before:
            raise ServiceError(f"{self._service} cannot be restarted: its processes are gone")
        self._asked_ns = self._clock.now_ns()
        self._how = await self._handle.end(asked=True)
        self._silent = not await _answers(self._url)

    async def end(self) -> None:
        async with self._starting:  # who reads the proof waits for the start as well
            if self._how and self._back_ns is None:
                await self._handle.start_again()
                self._back_ns = self._clock.now_ns()


async def _answers(url: str) -> bool:
    """Whether somebody takes connections there."""
    address = urlsplit(url)
    try:
        async with asyncio.timeout(_CONNECT_SECONDS):
            _, writer = await asyncio.open_connection(address.hostname, address.port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return True


def _names(processes: Sequence[proc.Stat]) -> str:
    return ", ".join(f"{one.name} (pid {one.pid})" for one in processes) or "none"


def restartable(fault: str, service: str, endpoints: Mapping[str, Endpoint]) -> Restartable:
    """The handle of a service that can be started again. Raises PlanError."""
    handle = with_processes(fault, service, endpoints).handle
    if not isinstance(handle, Restartable):
        raise PlanError(f"the fault {fault!r} needs a service that busyhour can start again, and {service} is none")
    return handle


def claims_of_all(service: str, from_seconds: float, to_seconds: float) -> list[Claim]:
    """Everything about its processes: while they are gone, nothing else can be done to them, or told them."""
    what = ("processes", "open files", "memory", "file sizes", "behaviour")
    return [Claim(of=f"the {one} of {service}", from_seconds=from_seconds, to_seconds=to_seconds) for one in what]


@dataclass(frozen=True)
class Freeze:
    """All processes of a service stand still (SIGSTOP) for so many seconds, `after_seconds` into the phase.

    Its sockets stay open and the kernel goes on to acknowledge what they receive: the grey failure of a stalled
    virtual machine. A phase that ends earlier ends it. Its proof: the kernel's word that all of them were stopped.
    """

    victim: Service
    seconds: float
    after_seconds: float = field(default=0.0, kw_only=True)
    acts_on_processes = True

    def __post_init__(self) -> None:
        check_times(self.name, after_seconds=self.after_seconds, seconds=self.seconds)

    @property
    def name(self) -> str:
        return f"{self.victim.name} frozen for {self.seconds:g} s"

    @property
    def service(self) -> str:
        return self.victim.name

    @property
    def claims(self) -> Sequence[Claim]:
        # A twin that stands still can be told nothing, and tells no count: not even that it is to be as before.
        what, until = ("processes", "behaviour"), self.after_seconds + self.seconds
        return [
            Claim(of=f"the {one} of {self.service}", from_seconds=self.after_seconds, to_seconds=until) for one in what
        ]

    @asynccontextmanager
    async def injected(self, endpoints: Mapping[str, Endpoint], clock: Clock) -> AsyncIterator[Proof]:
        """Raises PlanError for a service without processes, ServiceError when they are gone or do not obey."""
        frost = _Frost(self.service, with_processes(self.name, self.service, endpoints), clock)
        async with in_force(frost, clock, after_seconds=self.after_seconds, seconds=self.seconds):
            yield frost


class _Frost:
    """The processes that we have stopped, and the proof of it."""

    def __init__(self, service: str, endpoint: Endpoint, clock: Clock) -> None:
        self._service = service
        self._endpoint = endpoint
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

    async def begin(self) -> None:
        """Returns once the kernel shows all of them as stopped, those included that were forked meanwhile."""
        for _ in range(_LOOKS):
            processes = proc.tree(roots(self._endpoint))
            if not processes:
                raise ServiceError(f"{self._service} cannot be frozen: its processes are gone")
            running = [one for one in processes if one.state != STOPPED]
            if not running:
                self._seen_stopped, self._stopped_ns = len(processes), self._clock.now_ns()
                return
            for one in running:
                self._ours[one.pid] = one
                self._send(one.pid, signal.SIGSTOP)
            await asyncio.sleep(_LOOK_SECONDS)
        names = ", ".join(f"{one.name} (pid {one.pid}, state {one.state})" for one in running)
        raise ServiceError(f"{self._service} cannot be frozen: {names} did not stop within 2 s of SIGSTOP")

    async def end(self) -> None:
        """Returns once none of those we stopped is shown as stopped; harmless when there are none."""
        if not self._ours:
            return
        for pid, one in self._ours.items():
            if _same(proc.stat(pid), one):  # stopped or not: SIGCONT takes back a SIGSTOP that has yet to come
                self._send(pid, signal.SIGCONT)
        for _ in range(_LOOKS):
            await asyncio.sleep(_LOOK_SECONDS)
            still = [now for pid, one in self._ours.items() if (now := proc.stat(pid)) and _same_and_stopped(now, one)]
            if not still:
                self._ours.clear()
                if self._stopped_ns is not None and self._lasted_ns is None:
                    self._lasted_ns = self._clock.now_ns() - self._stopped_ns
                return
        raise ServiceError(f"{self._service} could not be thawed: {_names(still)} still stopped 2 s after SIGCONT")

    def _send(self, pid: int, number: signal.Signals) -> None:
        try:
            with suppress(ProcessLookupError):  # it ended by itself
                os.kill(pid, number)
        except PermissionError:
            raise ServiceError(
                f"{self._service} cannot be frozen: its process {pid} is another user's; run as that user"
            ) from None


def _same(now: proc.Stat | None, before: proc.Stat) -> bool:
    """Whether it is still there, and no later process of the same number."""
    return now is not None and now.began_ticks == before.began_ticks and now.state != "Z"


def _same_and_stopped(now: proc.Stat, before: proc.Stat) -> bool:
    return _same(now, before) and now.state == STOPPED


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
            await to_the_end(ended(task))

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
