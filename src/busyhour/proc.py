"""What Linux tells of its processes (proc(5)). A process that is gone has no answers: None, or it is left out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_HAS_CHILDREN = os.path.exists("/proc/thread-self/children")  # CONFIG_PROC_CHILDREN
_LISTENING = "0A"


@dataclass(frozen=True, slots=True)
class Stat:
    """One process. state: "R", "S", "D", "T" (stopped), "Z" (ended, not yet collected). cpu_seconds: user and system.

    began_ticks tells it from a later process with the same pid.
    """

    pid: int
    name: str
    state: str
    parent: int
    cpu_seconds: float
    threads: int
    began_ticks: int
    rss_bytes: int


def stat(pid: int) -> Stat | None:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            head, _, tail = file.read().rpartition(")")  # a name may contain blanks and parentheses
    except OSError:
        return None
    fields = tail.split()
    return Stat(
        pid=pid,
        name=head.partition("(")[2],
        state=fields[0],
        parent=int(fields[1]),
        cpu_seconds=(int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND,
        threads=int(fields[17]),
        began_ticks=int(fields[19]),
        rss_bytes=int(fields[21]) * _PAGE_BYTES,
    )


def tree(roots: Iterable[int]) -> list[Stat]:
    """The processes named and all below them that have not ended, parents first.

    Of a process that forks meanwhile a child may be missed. It costs some 20 us a thread: every thread has its own list
    of children. Reading all of /proc instead, as where the kernel has no such lists, costs milliseconds.
    """
    found: dict[int, Stat] = {}
    pending = list(roots)
    below = _children if _HAS_CHILDREN else _children_among_all()
    while pending:
        one = stat(pending.pop(0))
        if one is not None and one.state != "Z" and one.pid not in found:
            found[one.pid] = one
            pending += below(one.pid)
    return list(found.values())


def children(pid: int) -> list[int]:
    """The processes whose parent it is."""
    return (_children if _HAS_CHILDREN else _children_among_all())(pid)


def _children(pid: int) -> list[int]:
    children: list[int] = []
    with suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with suppress(OSError), open(f"/proc/{pid}/task/{thread}/children", encoding="ascii") as file:
                children += map(int, file.read().split())
    return children


def _children_among_all() -> Callable[[int], list[int]]:
    children: dict[int, list[int]] = {}
    for one in map(stat, _pids()):
        if one is not None:
            children.setdefault(one.parent, []).append(one.pid)
    return lambda pid: children.get(pid, [])


def memory_kb(pid: int) -> dict[str, int] | None:
    """The summed memory map in kB: "Rss", "Pss", "Private_Dirty", "Private_Clean", "Swap" and the rest of it.

    None when it is gone, is another user's, or is a kernel thread.
    """
    try:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
            lines = [line.split() for line in file]
    except OSError:
        return None
    return {words[0].rstrip(":"): int(words[1]) for words in lines if len(words) == 3 and words[2] == "kB"}


def data_kb(pid: int) -> int | None:
    """Its private writable memory, touched or not: what RLIMIT_DATA limits. None when it is gone."""
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
            return next((int(line.split()[1]) for line in file if line.startswith("VmData:")), None)
    except OSError:
        return None


def limits(pid: int) -> dict[str, int | None] | None:
    """The soft limits by the kernel's names ("Max open files"); None for one that is unlimited.

    None when it is gone or another user's.
    """
    try:
        with open(f"/proc/{pid}/limits", encoding="ascii") as file:
            lines = [line.rstrip() for line in file][1:]
    except OSError:
        return None
    found = {line[:26].rstrip(): line[26:].split()[0] for line in lines}
    return {name: None if value == "unlimited" else int(value) for name, value in found.items()}


def available_bytes() -> int:
    """The memory that could be had without swapping (MemAvailable)."""
    with open("/proc/meminfo", encoding="ascii") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable:"))


def capable(capability: int) -> bool:
    """Whether we have it in effect, by its number in capabilities(7)."""
    with open("/proc/self/status", encoding="utf-8", errors="replace") as file:
        effective = next(int(line.split()[1], 16) for line in file if line.startswith("CapEff:"))
    return bool(effective >> capability & 1)


def open_files(pid: int) -> int | None:
    """How many file descriptors it has open; None when it is gone or another user's."""
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return None


def listener(port: int) -> Stat | None:
    """The process that listens on a TCP port, as far as we may see."""
    sockets = {f"socket:[{inode}]" for table in ("tcp", "tcp6") for inode in _listening(table, port)}
    for pid in _pids() if sockets else ():
        if not sockets.isdisjoint(_open_targets(pid)):
            return stat(pid)
    return None


def _open_targets(pid: int) -> list[str]:
    targets = []
    with suppress(OSError):
        for entry in os.listdir(f"/proc/{pid}/fd"):
            with suppress(OSError):  # closed while we looked
                targets.append(os.readlink(f"/proc/{pid}/fd/{entry}"))
    return targets


def _listening(table: str, port: int) -> list[str]:
    try:
        with open(f"/proc/net/{table}", encoding="ascii") as file:
            rows = [line.split() for line in file][1:]
    except OSError:
        return []
    return [row[9] for row in rows if row[3] == _LISTENING and int(row[1].rpartition(":")[2], 16) == port]


def _pids() -> list[int]:
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]
