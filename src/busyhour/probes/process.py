"""What a service's processes take from the machine: read from outside, from Linux's /proc."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

from busyhour import proc
from busyhour.clock import SystemClock
from busyhour.errors import PlanError
from busyhour.model import MS, Clock, Endpoint, Service
from busyhour.probes.growth import Growth, Rates, TreeGrowth
from busyhour.probes.missing import Absences, Missing
from busyhour.probes.schedule import Schedule
from busyhour.probes.sockets import STATES, tcp_of
from busyhour.probes.tree import Finder, Tree

_MB = 1_000_000
_MAP_SHARE = 1 / 1000  # of all time

_ALWAYS = ("cpu_pct", "rss_mb", "threads", "processes", "restarts")
_ANON = ("anon_mb",)
_FDS = ("fds",)
_DISK = ("disk_read_mb", "disk_written_mb")
_MAP = ("private_mb", "private_dirty_mb", "uss_mb", "pss_mb")
_KINDS = ("fds_sockets", "fds_pipes", "fds_files", "fds_deleted", "fds_anon_inodes")
_TCP = (*(f"tcp_{state}" for state in STATES.values()), "sockets_other")
_CARRIED = ("tcp_received_mb", "tcp_sent_mb")
_NETWORK = ("netns_received_mb", "netns_sent_mb")
_SWITCHES = ("voluntary_switches_per_second", "involuntary_switches_per_second")
_FAULTS = ("minor_faults_per_second", "major_faults_per_second")
_CPU_PARTS = ("cpu_user_pct", "cpu_system_pct")


def _rate(total: str) -> str:
    return f"{total}_per_second"


def _and_rates(totals: Sequence[str]) -> tuple[str, ...]:
    return (*totals, *map(_rate, totals))


_HELD = (*_KINDS, *_TCP, *_and_rates(_CARRIED))
_SELDOM = ("children", "zombies", *_CPU_PARTS, *_FAULTS, *_SWITCHES, *_ANON, *_HELD, *_and_rates(_NETWORK))
_ALL = (*_ALWAYS, *_FDS, *_and_rates(_DISK), *_MAP, *_SELDOM)


@runtime_checkable
class Talkative(Protocol):
    """What a service was started as, if its output comes to us."""

    @property
    def output_bytes(self) -> int:
        """How much it has written to its stdout and stderr, however often it was started."""
        ...


@dataclass(eq=False)
class Process:
    """Watches the process tree of a service, each reading being the sum over the tree. MB are 10^6 bytes.

    Every read: "cpu_pct" (of one core), "rss_mb", "threads", "fds", "processes", "restarts", what the disks did a
    second, "output_mb", which it has written to its stdout and stderr if we have started it, and "process_probe_ms",
    which is what the read took. Every `details_seconds`: "anon_mb", descriptors by
    kind, TCP sockets by state, what they carried, page faults and context switches a second, and more. Every
    `memory_map_seconds` (0: every read), because the kernel walks the page tables for them (1 to 5 ms for 400 MB):
    "private_mb", "uss_mb", "private_dirty_mb", "pss_mb"; less often where it takes more than a thousandth of the time.

    "restarts" counts how often another process was found in the place of the first: a slope of memory is one of the
    readings between two of its steps. Rates and totals go on across it. Whatever cannot be read of one process of the
    tree is left out for the whole of it, and told of by `missing`. proc_root: where proc(5) is mounted.
    """

    watched: Service
    memory_map_seconds: float = field(default=10.0, kw_only=True)
    details_seconds: float = field(default=10.0, kw_only=True)
    clock: Clock = field(default_factory=SystemClock, kw_only=True)
    proc_root: Path = field(default=proc.PROC, kw_only=True)

    def __post_init__(self) -> None:
        for name in ("memory_map_seconds", "details_seconds"):
            if not getattr(self, name) >= 0:
                raise PlanError(f"Process({self.service}): {name} is {getattr(self, name)}; it must be 0 or more")
        self._absences = Absences()
        self._finder = Finder(self.service, _ALL, self.proc_root, self._absences)
        self._map, self._details = Schedule(self.memory_map_seconds, share=_MAP_SHARE), Schedule(self.details_seconds)
        self._leader: proc.Key | None = None
        self._restarts = 0
        self._use, self._disk = TreeGrowth(4), TreeGrowth(2)
        self._switches: Growth[tuple[proc.Key, int]] = Growth(2)
        self._carried: Growth[int] = Growth(2)
        self._network: Growth[int | None] = Growth(2)
        self._rates, self._rates_of_details = Rates(), Rates()

    @property
    def service(self) -> str:
        return self.watched.name

    def read(self, endpoint: Endpoint) -> Mapping[str, float]:
        """The readings; empty when the processes are gone, or the service has none."""
        began_ns = self.clock.now_ns()
        roots = self._finder.roots(endpoint, began_ns)
        tree = Tree.of(roots, self.proc_root, self._absences)
        if not tree.living:
            self._finder.note_hidden(roots)
            return {}
        self._follow(tree)
        disk = self._count_disk(tree)
        readings = self._always(tree, disk, began_ns)
        if isinstance(endpoint.handle, Talkative):
            readings["output_mb"] = endpoint.handle.output_bytes / _MB
        if self._details.due(began_ns):
            readings |= disk | self._detailed(tree, roots, began_ns)
        if self._map.due(began_ns):
            map_ns = self.clock.now_ns()
            readings |= _memory_map(tree)
            self._map.took(self.clock.now_ns() - map_ns)
        return readings | {"process_probe_ms": (self.clock.now_ns() - began_ns) / MS}

    def read_all_next(self) -> None:
        """The next read is of everything, whenever that was last read."""
        self._map.at_once()
        self._details.at_once()

    def missing(self) -> Sequence[Missing]:
        """What was found missing since the last call: a sensor that a process of the tree refuses, or the tree."""
        return self._absences.taken()

    def _follow(self, tree: Tree) -> None:
        keys = [one.key for one in tree.living]
        if self._leader not in keys:
            self._restarts += self._leader is not None
            self._leader = keys[0]

    # ---------------------------------------------------------------- every time

    def _always(self, tree: Tree, disk: Mapping[str, float], now_ns: int) -> dict[str, float]:
        rates = self._rates.per_second({**self._count_use(tree), **disk}, now_ns)
        readings = {
            "rss_mb": sum(one.rss_bytes for one in tree.living) / _MB,
            "threads": float(sum(one.threads for one in tree.living)),
            "processes": float(len(tree.living)),
            "restarts": float(self._restarts),
        }
        if "cpu_seconds" in rates:
            readings["cpu_pct"] = 100 * rates["cpu_seconds"]
        readings |= {_rate(name): rates[name] for name in _DISK if name in rates}
        open_files = tree.each(_FDS, "fd", lambda pid: proc.open_files(pid, proc_root=self.proc_root))
        if open_files is not None:
            readings["fds"] = float(sum(count for _, count in open_files))
        return readings

    def _count_use(self, tree: Tree) -> dict[str, float]:
        used = [astuple(one.used) for one in tree.living]
        user, system, *_ = self._use.add(tree.living, used, {one.key for one in tree.ended})
        return {"cpu_seconds": proc.seconds(user + system)}

    def _count_disk(self, tree: Tree) -> dict[str, float]:
        counted = tree.each(_and_rates(_DISK), "io", lambda pid: proc.disk_bytes(pid, proc_root=self.proc_root))
        if counted is None:
            return {}
        processes, moved = zip(*counted, strict=True)
        total = self._disk.add(processes, moved, {one.key for one in tree.ended})
        return _in_mb(_DISK, total)

    # ---------------------------------------------------------------- now and then

    def _detailed(self, tree: Tree, roots: Sequence[int], now_ns: int) -> dict[str, float]:
        user, system, minor, major = self._use.total
        counts = dict(zip(_CPU_PARTS, (100 * proc.seconds(user), 100 * proc.seconds(system)), strict=True))
        counts |= dict(zip(_FAULTS, (float(minor), float(major)), strict=True)) | self._count_switches(tree)
        sockets, carried = self._sockets(tree)
        network = self._count_network(tree)
        rates = self._rates_of_details.per_second({**counts, **carried, **network}, now_ns)
        return {
            "children": float(sum(one.pid not in roots for one in tree.living)),
            "zombies": float(len(tree.ended)),
            **self._anonymous(tree),
            **sockets,
            **carried,
            **network,
            **{name if name in counts else _rate(name): rate for name, rate in rates.items()},
        }

    def _anonymous(self, tree: Tree) -> dict[str, float]:
        found = tree.each(_ANON, "statm", lambda pid: proc.anonymous_bytes(pid, proc_root=self.proc_root))
        return {} if found is None else {"anon_mb": sum(own_bytes for _, own_bytes in found) / _MB}

    def _count_switches(self, tree: Tree) -> dict[str, float]:
        counted = tree.each(_SWITCHES, "status", lambda pid: _switches(pid, self.proc_root))
        if counted is None:
            return {}
        now = {(one.key, thread): counters for one, threads in counted for thread, counters in threads.items()}
        return dict(zip(_SWITCHES, map(float, self._switches.add(now)), strict=True))

    def _count_network(self, tree: Tree) -> dict[str, float]:
        """Of the namespace that the first process is in, whoever else is in it."""
        first = replace(tree, living=tree.living[:1])
        moved = first.each(
            _and_rates(_NETWORK), "net/dev", lambda pid: proc.network_bytes(pid, proc_root=self.proc_root)
        )
        if moved is None:
            return {}
        namespace = proc.network(tree.living[0].pid, proc_root=self.proc_root)
        return _in_mb(_NETWORK, self._network.add({namespace: moved[0][1]}))

    def _sockets(self, tree: Tree) -> tuple[dict[str, float], dict[str, float]]:
        """Descriptors by kind and sockets by state; and what was carried."""
        held = tree.each(_HELD, "fd", lambda pid: proc.open_targets(pid, proc_root=self.proc_root))
        if held is None:
            return {}, {}
        kinds = _kinds([target for _, targets in held for target in targets])
        inodes = {one.pid: _inodes(targets) for one, targets in held}
        found = tcp_of(inodes, proc_root=self.proc_root)
        if found is None:
            where = f"{self.proc_root}/{tree.living[0].pid}/net/tcp"
            self._absences.note((*_TCP, *_and_rates(_CARRIED)), f"{where} cannot be read; watch it from outside")
            return kinds, {}
        states = Counter(STATES.get(one.state, "") for one in found.values())
        by_state = {f"tcp_{state}": float(states[state]) for state in STATES.values()}
        by_state["sockets_other"] = float(len(set().union(*inodes.values())) - len(found))
        carried = {inode: one.carried for inode, one in found.items() if one.carried is not None}
        if len(carried) < len(found):
            self._absences.note(
                _and_rates(_CARRIED),
                f"{self.service} is in a network namespace of its own, of whose sockets the bytes are not told; "
                "run busyhour in that namespace",
            )
            return kinds | by_state, {}
        return kinds | by_state, _in_mb(_CARRIED, self._carried.add(carried))


def _memory_map(tree: Tree) -> dict[str, float]:
    maps = tree.each(_MAP, "smaps_rollup", lambda pid: proc.memory_kb(pid, proc_root=tree.proc_root))
    if maps is None:
        return {}

    def mb(*names: str) -> float:
        return sum(found.get(name, 0) for _, found in maps for name in names) * 1024 / _MB

    return {
        "private_mb": mb("Private_Dirty", "Swap"),
        "private_dirty_mb": mb("Private_Dirty"),
        "uss_mb": mb("Private_Dirty", "Private_Clean"),
        "pss_mb": mb("Pss", "SwapPss"),
    }


def _switches(pid: int, proc_root: Path) -> dict[int, tuple[int, int]] | None:
    """By thread; None if none of them tells."""
    threads = proc.threads(pid, proc_root=proc_root) or ()
    counted = {thread: proc.switches(pid, thread, proc_root=proc_root) for thread in threads}
    return {thread: counters for thread, counters in counted.items() if counters is not None} or None


def _inodes(targets: Sequence[str]) -> set[int]:
    return {int(target[len("socket:[") : -1]) for target in targets if target.startswith("socket:[")}


def _kinds(targets: Sequence[str]) -> dict[str, float]:
    files = [target for target in targets if target.startswith("/")]
    sockets, pipes = (sum(target.startswith(kind) for target in targets) for kind in ("socket:", "pipe:"))
    deleted = sum(target.endswith(" (deleted)") for target in files)
    others = len(targets) - len(files) - sockets - pipes
    return dict(zip(_KINDS, map(float, (sockets, pipes, len(files), deleted, others)), strict=True))


def _in_mb(names: Sequence[str], totals: Sequence[int]) -> dict[str, float]:
    return {name: total / _MB for name, total in zip(names, totals, strict=True)}
