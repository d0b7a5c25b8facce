"""A disk without room, for a service that writes to a folder."""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from math import inf
from pathlib import Path

from busyhour import proc
from busyhour.errors import PlanError, ServiceError
from busyhour.faults.claims import Claim
from busyhour.faults.undoing import aimed_at, check_times, in_force
from busyhour.model import Clock, Endpoint, FaultUnavailable, Proof, Service

_CAP_SYS_ADMIN = 21
_MNT_DETACH = 2
_MOUNTER = Path(__file__).with_name("_mount.py")
_KIND = "busyhour-full"
_PAGE_BYTES = 4096
_WITHIN_SECONDS = 5.0


@dataclass(frozen=True)
class DiskFull:
    """The folder a service writes to is on a disk with `free_kilobytes` (10^3 bytes) left: what is written beyond fails
    with ENOSPC.

    A small file system in memory is mounted over the folder, which needs root. The folder then appears empty, and what
    the service has open below it is still where it was: meant for programs that open what they write to. Unmounted
    again on every way out, even that of a harness that is killed. FileSizeLimit needs no root.
    """

    victim: Service
    folder: Path
    free_kilobytes: float = field(default=0.0, kw_only=True)
    after_seconds: float = field(default=0.0, kw_only=True)
    seconds: float | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if not 0 <= self.free_kilobytes <= 1e6:
            raise PlanError(
                f"the fault {self.name!r} leaves an amount free that makes no sense; give 0 to 1,000,000 kB"
            )
        check_times(self.name, after_seconds=self.after_seconds, seconds=self.seconds)

    @property
    def name(self) -> str:
        return f"disk of {self.victim.name} full"

    @property
    def service(self) -> str:
        return self.victim.name

    @property
    def claims(self) -> Sequence[Claim]:
        until = inf if self.seconds is None else self.after_seconds + self.seconds
        where = f"the folder {self.folder}"
        return [Claim(of=where, from_seconds=self.after_seconds, to_seconds=until)]

    def lacking(self) -> str | None:
        if proc.capable(_CAP_SYS_ADMIN):
            return None
        return "needs root, to mount a file system: run as root, or use FileSizeLimit, which needs none"

    @asynccontextmanager
    async def injected(self, endpoints: Mapping[str, Endpoint], clock: Clock) -> AsyncIterator[Proof]:
        """Raises FaultUnavailable without root, PlanError when there is no such folder, ServiceError."""
        aimed_at(self.name, self.service, endpoints)
        if (why := self.lacking()) is not None:
            raise FaultUnavailable(why)
        folder = self.folder.resolve()
        if not folder.is_dir():
            raise PlanError(
                f"the fault {self.name!r} needs a folder, and {self.folder} is none; make it, or correct it"
            )
        disk = _Disk(self.name, folder, round(self.free_kilobytes * 1000))
        async with in_force(disk, clock, after_seconds=self.after_seconds, seconds=self.seconds):
            yield disk


class _Disk:
    """A file system in memory, mounted over a folder and filled up, and the proof of it.

    It is another process that mounts it, and unmounts it when its standard input ends, as it does whatever becomes of
    us: not below the supervisor of our children, which would kill it.
    """

    def __init__(self, fault: str, folder: Path, free_bytes: int) -> None:
        self._fault = fault
        self._folder = folder
        self._free_bytes = free_bytes
        self._mounter: asyncio.subprocess.Process | None = None
        self._told: tuple[bool, str] | None = None

    async def effect(self) -> tuple[bool, str]:
        return self._told or self._now()

    def _now(self) -> tuple[bool, str]:
        if not self._mounted():
            return False, f"nothing has been mounted over {self._folder}"
        room = os.statvfs(self._folder)
        free_bytes = room.f_bavail * room.f_frsize
        files = sum(1 for _ in self._folder.iterdir()) - 1  # but the one that fills it up
        return free_bytes <= self._free_bytes, (
            f"a file system with {free_bytes / 1000:g} kB free was mounted over {self._folder}, "
            f"and {files or 'no'} files were written to it"
        )

    async def begin(self) -> None:
        if self._mounter is not None:
            return
        pages = 1 + -(-self._free_bytes // _PAGE_BYTES)
        argv = [sys.executable, "-I", "-S", str(_MOUNTER), str(self._folder), str(pages * _PAGE_BYTES), _KIND]
        pipe = asyncio.subprocess.PIPE
        self._mounter = await asyncio.create_subprocess_exec(*argv, stdin=pipe, stdout=pipe, start_new_session=True)
        assert self._mounter.stdout is not None
        said = (await self._mounter.stdout.readline()).decode(errors="replace").strip()
        if said != "MOUNTED" or not self._mounted():
            raise ServiceError(f"the fault {self._fault!r} could not mount over {self._folder}: {said or 'no answer'}")
        free_bytes = os.statvfs(self._folder).f_bavail * _PAGE_BYTES
        with suppress(OSError):  # it is full
            fill = free_bytes - self._free_bytes // _PAGE_BYTES * _PAGE_BYTES
            (self._folder / ".filled").write_bytes(b"\0" * fill)

    async def end(self) -> None:
        mounter = self._mounter
        if mounter is None:
            return
        if self._told is None:
            self._told = self._now()
        assert mounter.stdin is not None
        mounter.stdin.close()
        try:
            async with asyncio.timeout(_WITHIN_SECONDS):
                await mounter.wait()
        except TimeoutError:
            mounter.kill()
            await mounter.wait()
        if self._mounted():  # it was killed by somebody: then it is for us to do
            ctypes.CDLL(None).umount2(os.fsencode(self._folder), _MNT_DETACH)
        if self._mounted():
            raise ServiceError(
                f"the fault {self._fault!r} could not be undone: {self._folder} is still mounted over; "
                f"unmount it with `umount {self._folder}`"
            )

    def _mounted(self) -> bool:
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        return any(line.split()[4] == _escaped(self._folder) and f" {_KIND} " in line for line in mounts)


def _escaped(folder: Path) -> str:
    """As /proc/self/mountinfo writes it."""
    octal = {" ": "\\040", "\t": "\\011", "\n": "\\012", "\\": "\\134"}
    return "".join(octal.get(character, character) for character in str(folder))
