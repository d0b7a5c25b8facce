"""Limits on a running service: processor time, memory, open files, file sizes.

A limit is in force once the kernel says so; whether the service ran into it, the proof says where it can be known.
"""

from __future__ import annotations

import asyncio
import resource
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from math import inf
from typing import TypeAlias

from busyhour import proc
from busyhour.errors import PlanError, ServiceError
from busyhour.faults.claims import Claim
from busyhour.faults.undoing import check_times, ended, in_force, roots, with_processes
from busyhour.model import MS, Clock, Endpoint, Proof, Service

_LOOK_NS = 100 * MS
_ROUNDS = 50
_MB = 1_000_000

Key: TypeAlias = tuple[int, int]  # a pid and when it began: a later process of the same number is another


@dataclass(frozen=True)
class FdLimit:
    """Each process of a service may have at most `limit` open files (RLIMIT_NOFILE): beyond it sockets, pipes and files
    cannot be opened; what is open stays."""

    victim: Service
    limit: int
    after_seconds: float = field(default=0.0, kw_only=True)
    seconds: float | None = field(default=None, kw_only=True)
    acts_on_processes = True

    def __post_init__(self) -> None:
        _check_limit(self.name, self.limit)
        check_times(self.name, after_seconds=self.after_seconds, seconds=self.seconds)

    @property
    def name(self) -> str:
        return f"{self.victim.name} limited to {self.limit} open files"

    @property
    def service(self) -> str:
        return self.victim.name

    @property
    def claims(self) -> Sequence[Claim]:
        return _claims("open files", self.service, self.after_seconds, self.seconds)

    @asynccontextmanager
    async def injected(self, endpoints: Mapping[str, Endpoint], clock: Clock) -> AsyncIterator[Proof]:
        """Raises PlanError for a service without processes, ServiceError when they are gone or another user's."""
        endpoint = with_processes(self.name, self.service, endpoints)
        ceiling = _Ceiling(self.service, endpoint, clock, _OPEN_FILES, lambda _pid: self.limit)
        async with in_force(ceiling, clock, after_seconds=self.after_seconds, seconds=self.seconds):
            yield ceiling


@dataclass(frozen=True)
class MemoryLimit:
    """Each process of a service may have `headroom_megabytes` more private memory than it has (RLIMIT_DATA, 10^6
    bytes): beyond it allocations fail, which a program may survive. See OutOfMemory for a limit that kills."""

    victim: Service
    headroom_megabytes: float
    after_seconds: float = field(default=0.0, kw_only=True)
    seconds: float | None = field(default=None, kw_only=True)
    acts_on_processes = True

    def __post_init__(self) -> None:
        _check_limit(self.name, self.headroom_megabytes)
        check_times(self.name, after_seconds=self.after_seconds, seconds=self.seconds)

    @property
    def name(self) -> str:
        return f"{self.victim.name} limited to {self.headroom_megabytes:g} MB more"

    @property
    def service(self) -> str:
        return self.victim.name

    @property
    def claims(self) -> Sequence[Claim]:
        return _claims("memory", self.service, self.after_seconds, self.seconds)

    @asynccontextmanager
    async def injected(self, endpoints: Mapping[str, Endpoint], clock: Clock) -> AsyncIterator[Proof]:
        """Raises PlanError for a service without processes, ServiceError when they are gone or another user's."""
        endpoint = with_processes(self.name, self.service, endpoints)
        more = round(self.headroom_megabytes * _MB)
        ceiling = _Ceiling(self.service, endpoint, clock, _MEMORY, lambda pid: (_data_bytes(pid) or 0) + more)
        async with in_force(ceiling, clock, after_seconds=self.after_seconds, seconds=self.seconds):
            yield ceiling


@dataclass(frozen=True)
class FileSizeLimit:
    """No process of a service may write a file beyond `kilobytes` (RLIMIT_FSIZE, 10^3 bytes): the write fails with
    EFBIG, and a program that has not provided for it is ended by SIGXFSZ. What can be done about disks without root;
    see DiskFull for ENOSPC."""

    victim: Service
    kilobytes: float
    after_seconds: float = field(default=0.0, kw_only=True)
    seconds: float | None = field(default=None, kw_only=True)
    acts_on_processes = True

    def __post_init__(self) -> None:
        _check_limit(self.name, self.kilobytes)
        check_times(self.name, after_seconds=self.after_seconds, seconds=self.seconds)

    @property
    def name(self) -> str:
        return f"{self.victim.name} limited to files of {self.kilobytes:g} kB"

    @property
    def service(self) -> str:
        return self.victim.name

    @property
    def claims(self) -> Sequence[Claim]:
        return _claims("file sizes", self.service, self.after_seconds, self.seconds)

    @asynccontextmanager
    async def injected(self, endpoints: Mapping[str, Endpoint], clock: Clock) -> AsyncIterator[Proof]:
        """Raises PlanError for a service without processes, ServiceError when they are gone or another user's."""
        endpoint = with_processes(self.name, self.service, endpoints)
        ceiling = _Ceiling(self.service, endpoint, clock, _FILE_SIZE, lambda _pid: round(self.kilobytes * 1000))
        async with in_force(ceiling, clock, after_seconds=self.after_seconds, seconds=self.seconds):
            yield ceiling


def _check_limit(fault: str, limit: float) -> None:
    if not 0 <= limit < inf:
        raise PlanError(f"the fault {fault!r} has a limit that makes no sense; give it 0 or more")


def _claims(what: str, service: str, after_seconds: float, seconds: float | None) -> list[Claim]:
    to_seconds = inf if seconds is None else after_seconds + seconds
    return [Claim(of=f"the {what} of {service}", from_seconds=after_seconds, to_seconds=to_seconds)]


# ---------------------------------------------------------------- limits of single processes: prlimit(2)


@dataclass(frozen=True, kw_only=True)
class _Kind:
    """One of the limits of prlimit(2). used: by a process, in the limit's unit; None when it cannot be seen."""

    number: int
    kernels_name: str
    used: Callable[[int], int | None]
    told: Callable[[int], str]


def _data_bytes(pid: int) -> int | None:
    kb = proc.data_kb(pid)
    return None if kb is None else kb * 1024


_OPEN_FILES = _Kind(
    number=resource.RLIMIT_NOFILE,
    kernels_name="Max open files",
    used=proc.open_files,
    told=lambda n: f"{n} open files",
)
_MEMORY = _Kind(
    number=resource.RLIMIT_DATA,
    kernels_name="Max data size",
    used=_data_bytes,
    told=lambda n: f"{n / _MB:.1f} MB",
)
_FILE_SIZE = _Kind(
    number=resource.RLIMIT_FSIZE,
    kernels_name="Max file size",
    used=lambda _pid: None,
    told=lambda n: f"{n / 1000:g} kB",
)


class _Ceiling:
    """A soft limit on every process of a service, and the proof of it. The hard limit stays: only root may raise it."""

    def __init__(
        self, service: str, endpoint: Endpoint, clock: Clock, kind: _Kind, wanted: Callable[[int], int]
    ) -> None:
        self._service = service
        self._endpoint = endpoint
        self._clock = clock
        self._kind = kind
        self._wanted = wanted
        self._before: dict[Key, int] = {}
        self._ours: dict[Key, int] = {}
        self._limit: int | None = None  # the tightest
        self._tightened = False  # of any process: else all is as it was
        self._most: int | None = None  # that any process used
        self._reached = False
        self._watch: asyncio.Task[None] | None = None

    async def effect(self) -> tuple[bool, str]:
        self._look()
        if self._limit is None:
            return False, f"no process of {self._service} has been limited"
        if not self._tightened:
            told = self._kind.told(self._limit)
            return False, f"{self._service} was limited to {told} already: nothing was changed"
        told = f"{self._service} was limited to {self._kind.told(self._limit)} (read back from the kernel)"
        if self._reached:
            return True, f"{told}, and ran into it"
        used = "" if self._most is None else f": it had {self._kind.told(self._most)} at most"
        return True, f"{told}; the limit was in force, but it was not seen to run into it{used}"

    async def begin(self) -> None:
        if self._ours:
            return
        for _ in range(_ROUNDS):
            fresh = [one for one in proc.tree(roots(self._endpoint)) if _key(one) not in self._ours]
            if not fresh:
                break
            for one in fresh:
                self._limit_one(one)
        if not self._ours:
            raise ServiceError(f"{self._service} cannot be limited: its processes are gone")
        self._limit = min(self._ours.values())
        self._watch = asyncio.ensure_future(self._watching())

    async def end(self) -> None:
        if self._watch is not None:
            await ended(self._watch)
        if not self._ours:
            return
        self._look()
        usual = next(iter(self._before.values()))
        for one in proc.tree(roots(self._endpoint)):
            now = self._read(one.pid)
            if now is not None and now in self._ours.values():  # those forked meanwhile have inherited it
                self._set(one, self._before.get(_key(one), usual))
        self._ours.clear()

    async def _watching(self) -> None:
        while True:
            await self._clock.sleep_until(self._clock.now_ns() + _LOOK_NS)
            self._look()

    def _look(self) -> None:
        for (pid, began_ticks), limit in self._ours.items():
            one = proc.stat(pid)
            used = self._kind.used(pid) if one is not None and one.began_ticks == began_ticks else None
            if used is not None:
                self._most = max(used, self._most or 0)
                self._reached = self._reached or used >= limit

    def _limit_one(self, one: proc.Stat) -> None:
        before = self._read(one.pid)
        if before is None:
            return
        wanted = self._wanted(one.pid)
        if before in self._ours.values():  # forked by a process that we have limited, it has inherited that
            self._before[_key(one)], self._ours[_key(one)] = next(iter(self._before.values())), before
            return
        if before == resource.RLIM_INFINITY or wanted < before:
            self._before[_key(one)], self._ours[_key(one)] = before, wanted
            self._set(one, wanted)
            self._tightened = True
        else:  # it is limited more tightly than that already
            self._before[_key(one)], self._ours[_key(one)] = before, before

    def _set(self, one: proc.Stat, limit: int) -> None:
        try:
            _, hard = resource.prlimit(one.pid, self._kind.number)
            resource.prlimit(one.pid, self._kind.number, (limit, hard))
        except ProcessLookupError:
            return
        except PermissionError:
            raise self._foreign(one.pid) from None
        told = proc.limits(one.pid)
        wanted = None if limit == resource.RLIM_INFINITY else limit
        if told is not None and told.get(self._kind.kernels_name) != wanted:
            raise ServiceError(
                f"the limit of {self._service} did not take: {one.name} (pid {one.pid}) was given "
                f"{self._kind.kernels_name} = {wanted}, and the kernel says {told.get(self._kind.kernels_name)}"
            )

    def _read(self, pid: int) -> int | None:
        try:
            return resource.prlimit(pid, self._kind.number)[0]
        except ProcessLookupError:
            return None
        except PermissionError:
            raise self._foreign(pid) from None

    def _foreign(self, pid: int) -> ServiceError:
        return ServiceError(f"{self._service} cannot be limited: its process {pid} is another user's; run as that user")


def _key(one: proc.Stat) -> Key:
    return one.pid, one.began_ticks
