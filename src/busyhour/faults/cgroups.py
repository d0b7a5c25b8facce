"""Control groups for faults: made for a while, with the processes of a service in them, limited, and taken away again.

Version 2 (the kernel's cgroup-v2.rst) where a group above ours gives the controller to its children and may be written
to; version 1 (cgroup-v1/) where the controller is still mounted in that way.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Literal, TypeAlias

from busyhour import proc
from busyhour.errors import ServiceError

Controller: TypeAlias = Literal["cpu", "memory"]

PERIOD_US = 100_000  # what container platforms use
_ROUNDS = 500  # 4 ms apart: a group is busy until its last process has left it or was collected
_ROUND_SECONDS = 0.004
_NAME = "busyhour"
_numbers = count(1)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a group for a controller can be made. mount: of its hierarchy."""

    controller: Controller
    version: Literal[1, 2]
    parent: Path
    mount: Path


def place(
    controller: Controller,
    *,
    mountinfo: Path = Path("/proc/self/mountinfo"),
    membership: Path = Path("/proc/self/cgroup"),
) -> Place | None:
    """Where we may make a group, or None. The paths are for tests."""
    own = _groups(membership)
    for kind, mount, options in _mounts(mountinfo):
        if kind == "cgroup" and controller in options:
            parent = mount / own.get(controller, "").lstrip("/")
            if _writable(parent):
                return Place(controller, 1, parent, mount)
        if kind == "cgroup2":
            # Not in our own group: one that holds processes cannot give controllers to its children.
            for parent in _upwards(mount, own.get("", "")):
                if controller in _words(parent / "cgroup.subtree_control") and _writable(parent):
                    return Place(controller, 2, parent, mount)
    return None


def _mounts(mountinfo: Path) -> Iterator[tuple[str, Path, list[str]]]:
    for line in mountinfo.read_text(encoding="utf-8", errors="replace").splitlines():
        head, _, tail = line.partition(" - ")
        yield tail.split()[0], Path(head.split()[4]), tail.split()[2].split(",")


def _groups(membership: Path) -> dict[str, str]:
    """Of a process, by controller; "" is version 2."""
    found: dict[str, str] = {}
    for line in membership.read_text(encoding="utf-8").splitlines():
        _, controllers, path = line.split(":", 2)
        found |= dict.fromkeys(controllers.split(","), path)
    return found


def _upwards(mount: Path, group: str) -> Iterator[Path]:
    path = mount / group.lstrip("/")
    while path != mount:
        path = path.parent
        yield path


def _words(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii").split()
    except OSError:
        return []


def _writable(parent: Path) -> bool:
    return os.access(parent, os.W_OK) and os.access(parent / "cgroup.procs", os.W_OK)


@dataclass(eq=False)
class Group:
    """One group of ours. `make`, `take` the processes, `limit_...`, and at the end `remove`."""

    where: Place
    path: Path = field(init=False)
    _earlier: dict[tuple[int, int], str] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.path = self.where.parent / f"{_NAME}-{os.getpid()}-{next(_numbers)}"

    @property
    def kind(self) -> str:
        return f"control group, version {self.where.version}"

    def make(self) -> None:
        """Raises OSError. What a harness that was killed has left behind is swept away: its processes are gone."""
        for stale in self.where.parent.glob(f"{_NAME}-*-*"):
            owner = stale.name.split("-")[1]
            if owner.isdigit() and proc.stat(int(owner)) is None:
                with suppress(OSError):
                    stale.rmdir()
        self.path.mkdir()

    def take(self, roots: Callable[[], tuple[int, ...]]) -> int:
        """Move all processes of a tree into it, those forked meanwhile too: how many. Raises OSError."""
        for _ in range(_ROUNDS):
            inside = set(map(int, _words(self.path / "cgroup.procs")))
            outside = [one for one in proc.tree(roots()) if one.pid not in inside]
            if not outside:
                break
            for one in outside:
                with suppress(ProcessLookupError, FileNotFoundError):  # it ended by itself
                    earlier = _groups(Path(f"/proc/{one.pid}/cgroup"))
                    name = "" if self.where.version == 2 else self.where.controller
                    self._earlier[one.pid, one.began_ticks] = earlier.get(name, "/")
                    (self.path / "cgroup.procs").write_text(str(one.pid), encoding="ascii")
        return len(inside)

    def limit_cpu(self, share: float) -> None:
        """At most so many cores' time. Raises OSError, ServiceError."""
        quota_us = round(share * PERIOD_US)
        if self.where.version == 2:
            self._set("cpu.max", f"{quota_us} {PERIOD_US}")
        else:
            self._set("cpu.cfs_period_us", str(PERIOD_US))
            self._set("cpu.cfs_quota_us", str(quota_us))

    def limit_memory(self, limit_bytes: int) -> None:
        """At most so much of what is taken from now on: what a process has already stays its old group's. Beyond it the
        kernel kills. Raises OSError, ServiceError."""
        whole = limit_bytes // 4096 * 4096
        if self.where.version == 2:
            self._set("memory.max", str(whole))
            self._set("memory.swap.max", "0")
        else:
            self._set("memory.limit_in_bytes", str(whole))

    def throttled(self) -> tuple[int, float]:
        """In how many periods it wanted more than its share, and for how many seconds it had to wait."""
        told = self._pairs("cpu.stat")
        seconds = (
            told.get("throttled_usec", 0) / 1e6 if self.where.version == 2 else told.get("throttled_time", 0) / 1e9
        )
        return told.get("nr_throttled", 0), seconds

    def killed(self) -> int:
        """How many processes the kernel has killed for want of memory."""
        name = "memory.events" if self.where.version == 2 else "memory.oom_control"
        return self._pairs(name).get("oom_kill", 0)

    async def remove(self) -> None:
        """Move what is in it back to where it was; returns once it is gone. Raises ServiceError."""
        for _ in range(_ROUNDS):
            if not self.path.exists():
                return
            for pid in map(int, _words(self.path / "cgroup.procs")):
                self._move_back(pid)
            with suppress(OSError):
                self.path.rmdir()
                return
            await asyncio.sleep(_ROUND_SECONDS)
        raise ServiceError(f"the {self.kind} {self.path} could not be removed: processes are left in it")

    def _move_back(self, pid: int) -> None:
        one = proc.stat(pid)
        if one is None:
            return
        # What was forked inside goes where its tree came from.
        earlier = self._earlier.get((pid, one.began_ticks), next(iter(self._earlier.values()), "/"))
        with suppress(OSError):
            (self.where.mount / earlier.lstrip("/") / "cgroup.procs").write_text(str(pid), encoding="ascii")

    def _set(self, name: str, value: str) -> None:
        path = self.path / name
        path.write_text(value, encoding="ascii")
        if (now := path.read_text(encoding="ascii").split()) != value.split():
            raise ServiceError(f"{path} was set to {value} and says {' '.join(now)}")

    def _pairs(self, name: str) -> Mapping[str, int]:
        words = _words(self.path / name)
        return {key: int(value) for key, value in zip(words[::2], words[1::2], strict=False) if value.isdigit()}
