"""What a service's processes take from the machine: read from outside, from Linux's /proc."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from busyhour import proc
from busyhour.clock import SystemClock
from busyhour.model import SECOND, Clock, Endpoint, Service

_MB = 1_000_000


@dataclass(eq=False)
class Process:
    """Watches the process tree of a service.

    Every read: "cpu_pct" (of one core, user and system, since the last read; the first has none), "rss_mb",
    "threads", "fds", "processes", each summed over the tree. Every `memory_map_seconds`, because the kernel walks the
    page tables for it (about 10 ms a GB): "uss_mb" (memory nobody else shares: what would be free if it ended) and
    "private_dirty_mb" (of that, what it has written: a leak grows here). MB are 10^6 bytes. Readings of another
    user's processes that we may not see are left out.
    """

    watched: Service
    memory_map_seconds: float = field(default=10.0, kw_only=True)
    clock: Clock = field(default_factory=SystemClock, kw_only=True)
    _last: _Cpu | None = field(default=None, init=False, repr=False)
    _map_due_ns: int = field(default=0, init=False, repr=False)

    @property
    def service(self) -> str:
        return self.watched.name

    def read(self, endpoint: Endpoint) -> Mapping[str, float]:
        """The readings; empty when the processes are gone, or the service has none."""
        processes = proc.tree(endpoint.pids)
        if not processes:
            self._last = None
            return {}
        return {
            **self._cpu(processes),
            "rss_mb": sum(one.rss_bytes for one in processes) / _MB,
            "threads": float(sum(one.threads for one in processes)),
            "processes": float(len(processes)),
            **_open_files(processes),
            **self._memory_map(processes),
        }

    def _cpu(self, processes: list[proc.Stat]) -> dict[str, float]:
        last, self._last = self._last, _Cpu.of(processes, self.clock.now_ns())
        return {} if last is None else self._last.since(last)

    def _memory_map(self, processes: list[proc.Stat]) -> dict[str, float]:
        now_ns = self.clock.now_ns()
        if now_ns < self._map_due_ns:
            return {}
        self._map_due_ns = now_ns + round(self.memory_map_seconds * SECOND)
        maps = [found for one in processes if (found := proc.memory_kb(one.pid)) is not None]
        if not maps:
            return {}
        dirty = sum(found.get("Private_Dirty", 0) for found in maps)
        clean = sum(found.get("Private_Clean", 0) for found in maps)
        return {"uss_mb": (dirty + clean) * 1024 / _MB, "private_dirty_mb": dirty * 1024 / _MB}


@dataclass(frozen=True)
class _Cpu:
    """The processor time of each process of a tree, at an instant. A pid that was given anew is another process."""

    at_ns: int
    seconds: Mapping[tuple[int, int], float]

    @classmethod
    def of(cls, processes: list[proc.Stat], at_ns: int) -> _Cpu:
        return cls(at_ns, {(one.pid, one.began_ticks): one.cpu_seconds for one in processes})

    def since(self, last: _Cpu) -> dict[str, float]:
        elapsed_seconds = (self.at_ns - last.at_ns) / SECOND
        if elapsed_seconds <= 0:
            return {}
        used = sum(seconds - last.seconds.get(key, 0.0) for key, seconds in self.seconds.items())
        return {"cpu_pct": 100 * used / elapsed_seconds}


def _open_files(processes: list[proc.Stat]) -> dict[str, float]:
    counts = [count for one in processes if (count := proc.open_files(one.pid)) is not None]
    return {"fds": float(sum(counts))} if counts else {}
