"""What Linux tells of its processes (proc(5)). A process that is gone has no answers: None, or it is left out.

`proc_root`: where the proc file system is mounted.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

PROC = Path("/proc")

Key: TypeAlias = tuple[int, int]
"""A process: its pid and when it began. A pid is given anew, the two together are not."""

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_LISTENING = "0A"
_CHUNK = 65_536
_HALF_PAGE = 2048


@dataclass(frozen=True, slots=True)
class Used:
    """What a process has used since it began, with those of its children that have ended and that it has waited for."""

    user_ticks: int
    system_ticks: int
    minor_faults: int  # a page that only had to be mapped
    major_faults: int  # a page that had to be read from a disk


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
    used: Used

    @property
    def key(self) -> Key:
        return (self.pid, self.began_ticks)


def stat(pid: int, *, proc_root: Path = PROC) -> Stat | None:
    try:
        head, _, tail = _text(f"{proc_root}/{pid}/stat").rpartition(")")  # a name may contain blanks and parentheses
    except OSError:
        return None
    fields = tail.split()
    user, system, user_collected, system_collected = map(int, fields[11:15])
    return Stat(
        pid=pid,
        name=head.partition("(")[2],
        state=fields[0],
        parent=int(fields[1]),
        cpu_seconds=seconds(user + system),
        threads=int(fields[17]),
        began_ticks=int(fields[19]),
        rss_bytes=int(fields[21]) * _PAGE_BYTES,
        used=Used(
            user_ticks=user + user_collected,
            system_ticks=system + system_collected,
            minor_faults=int(fields[7]) + int(fields[8]),
            major_faults=int(fields[9]) + int(fields[10]),
        ),
    )


def seconds(ticks: int) -> float:
    """Of processor time, from the unit that the kernel counts it in."""
    return ticks / _TICKS_PER_SECOND


# ---------------------------------------------------------------- who there is


def tree(roots: Iterable[int], *, proc_root: Path = PROC) -> list[Stat]:
    """The processes named and all below them that have not ended, parents first.

    Of a process that forks meanwhile a child may be missed. It costs some 20 us a thread: every thread has its own list
    of children. Reading all of /proc instead, as where the kernel has no such lists, costs milliseconds.
    """
    return [one for one in family(roots, proc_root=proc_root) if one.state != "Z"]


def family(roots: Iterable[int], *, proc_root: Path = PROC) -> list[Stat]:
    """As `tree`, with those that have ended and that nobody has waited for yet."""
    found: dict[int, Stat] = {}
    pending = list(roots)
    below = _below(proc_root)
    while pending:
        one = stat(pending.pop(0), proc_root=proc_root)
        if one is not None and one.pid not in found:
            found[one.pid] = one
            if one.state != "Z":
                pending += below(one.pid)
    return list(found.values())


def children(pid: int, *, proc_root: Path = PROC) -> list[int]:
    """The processes whose parent it is."""
    return _below(proc_root)(pid)


def _below(proc_root: Path) -> Callable[[int], list[int]]:
    if os.path.exists(f"{proc_root}/thread-self/children"):  # CONFIG_PROC_CHILDREN
        return lambda pid: _children(pid, proc_root)
    return _children_among_all(proc_root)


def _children(pid: int, proc_root: Path) -> list[int]:
    children: list[int] = []
    for thread in threads(pid, proc_root=proc_root) or ():
        with suppress(OSError):
            children += map(int, _text(f"{proc_root}/{pid}/task/{thread}/children").split())
    return children


def _children_among_all(proc_root: Path) -> Callable[[int], list[int]]:
    children: dict[int, list[int]] = {}
    for pid in _pids(proc_root):
        if (one := stat(pid, proc_root=proc_root)) is not None:
            children.setdefault(one.parent, []).append(one.pid)
    return lambda pid: children.get(pid, [])


def threads(pid: int, *, proc_root: Path = PROC) -> list[int] | None:
    """The ids of its threads; None when it is gone."""
    try:
        return list(map(int, os.listdir(f"{proc_root}/{pid}/task")))
    except OSError:
        return None


def listener(port: int, *, proc_root: Path = PROC) -> Stat | None:
    """The process that listens on a TCP port, as far as we may see: of several, the one the others descend from."""
    inodes = {inode for table in ("tcp", "tcp6") for inode in _listening(proc_root, table, port)}
    sockets = {f"socket:[{inode}]" for inode in inodes}

    def has_it(pid: int) -> bool:
        return not sockets.isdisjoint(open_targets(pid, proc_root=proc_root) or ())

    pid = next((pid for pid in _pids(proc_root) if has_it(pid)), None) if sockets else None
    found = None if pid is None else stat(pid, proc_root=proc_root)
    while found is not None and has_it(found.parent):
        parent = stat(found.parent, proc_root=proc_root)
        if parent is None:
            break
        found = parent
    return found


def ports_of(roots: Iterable[int], *, proc_root: Path = PROC) -> list[int]:
    """The TCP ports that the processes named, or any below them, listen on, as far as we may see."""
    processes = [one.pid for one in tree(roots, proc_root=proc_root)]
    sockets = {target for pid in processes for target in open_targets(pid, proc_root=proc_root) or ()}
    ports = set()
    for table in ("tcp", "tcp6"):
        with suppress(OSError):
            rows = [row for row in _rows(f"{proc_root}/net/{table}") if row[3] == _LISTENING]
            ports |= {_port(row) for row in rows if f"socket:[{row[9]}]" in sockets}
    return sorted(ports)


def _listening(proc_root: Path, table: str, port: int) -> list[str]:
    try:
        rows = _rows(f"{proc_root}/net/{table}")
    except OSError:
        return []
    return [row[9] for row in rows if row[3] == _LISTENING and _port(row) == port]


def _port(row: Sequence[str]) -> int:
    return int(row[1].rpartition(":")[2], 16)


def _rows(table: str) -> list[list[str]]:
    """Of a table of sockets: 1 is the local address, 3 the state, 9 the inode."""
    return [line.split() for line in _text(table).splitlines()[1:]]


def _pids(proc_root: Path) -> list[int]:
    return sorted(int(entry) for entry in os.listdir(proc_root) if entry.isdigit())


# ---------------------------------------------------------------- what one of them has


def memory_kb(pid: int, *, proc_root: Path = PROC) -> dict[str, int] | None:
    """The summed memory map in kB: "Rss", "Pss", "Private_Dirty", "Private_Clean", "Swap" and the rest of it.

    None when it is gone, is another user's, or is a kernel thread. The kernel walks the page tables for it.
    """
    try:
        lines = [line.split() for line in _text(f"{proc_root}/{pid}/smaps_rollup").splitlines()]
    except OSError:
        return None
    return {words[0].rstrip(":"): int(words[1]) for words in lines if len(words) == 3 and words[2] == "kB"}


def anonymous_bytes(pid: int, *, proc_root: Path = PROC) -> int | None:
    """Its resident memory that is of no file and not shared on purpose (statm); None when it is gone."""
    try:
        _, resident, shared, *_ = map(int, _text(f"{proc_root}/{pid}/statm").split())
    except OSError:
        return None
    return (resident - shared) * _PAGE_BYTES


def disk_bytes(pid: int, *, proc_root: Path = PROC) -> tuple[int, int] | None:
    """What was read from disks and written to them for it, and for the children it has waited for.

    None when it is gone, is another user's, or the kernel does not count it. What came from the cache is not in it;
    what was truncated before it was written, is.
    """
    try:
        lines = dict(line.split(": ") for line in _text(f"{proc_root}/{pid}/io").splitlines())
    except OSError:
        return None
    try:
        return int(lines["read_bytes"]), int(lines["write_bytes"])
    except KeyError:  # a kernel that counts what was asked for, not what the disks did
        return None


def switches(pid: int, thread: int, *, proc_root: Path = PROC) -> tuple[int, int] | None:
    """How often a thread gave up its processor, and how often it was taken from it; None when it is gone."""
    try:
        lines = _text(f"{proc_root}/{pid}/task/{thread}/status").splitlines()
    except OSError:
        return None
    found = dict(line.split(":\t", 1) for line in lines[-4:] if ":\t" in line)
    try:
        return int(found["voluntary_ctxt_switches"]), int(found["nonvoluntary_ctxt_switches"])
    except KeyError:  # a kernel, or what passes for one, that does not count them
        return None


def tcp_states(pid: int, *, proc_root: Path = PROC) -> dict[int, int] | None:
    """Inode -> the kernel's number of its state, of all TCP sockets in its network namespace.

    None when it is gone, or has no such tables. It costs milliseconds: the kernel looks through all its hash buckets.
    """
    states: dict[int, int] | None = None
    for table in ("tcp", "tcp6"):
        with suppress(OSError):
            rows = _rows(f"{proc_root}/{pid}/net/{table}")
            states = (states or {}) | {int(row[9]): int(row[3], 16) for row in rows}
    return states


def network(pid: int, *, proc_root: Path = PROC) -> int | None:
    """Which network namespace it is in, by its inode; None when it is gone or another user's."""
    try:
        return os.stat(f"{proc_root}/{pid}/ns/net").st_ino
    except OSError:
        return None


def network_bytes(pid: int, *, proc_root: Path = PROC) -> tuple[int, int] | None:
    """What all interfaces of its network namespace, loopback too, have received and sent; None when it is gone."""
    try:
        rows = [line.rpartition(":")[2].split() for line in _text(f"{proc_root}/{pid}/net/dev").splitlines()[2:]]
    except OSError:
        return None
    return sum(int(row[0]) for row in rows), sum(int(row[8]) for row in rows)


def data_kb(pid: int, *, proc_root: Path = PROC) -> int | None:
    """Its private writable memory, touched or not: what RLIMIT_DATA limits. None when it is gone."""
    try:
        lines = _text(f"{proc_root}/{pid}/status").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("VmData:")), None)


def limits(pid: int, *, proc_root: Path = PROC) -> dict[str, int | None] | None:
    """The soft limits by the kernel's names ("Max open files"); None for one that is unlimited.

    None when it is gone or another user's.
    """
    try:
        lines = [line.rstrip() for line in _text(f"{proc_root}/{pid}/limits").splitlines()][1:]
    except OSError:
        return None
    found = {line[:26].rstrip(): line[26:].split()[0] for line in lines}
    return {name: None if value == "unlimited" else int(value) for name, value in found.items()}


def open_files(pid: int, *, proc_root: Path = PROC) -> int | None:
    """How many file descriptors it has open; None when it is gone or another user's."""
    try:
        return len(os.listdir(f"{proc_root}/{pid}/fd"))
    except OSError:
        return None


def open_targets(pid: int, *, proc_root: Path = PROC) -> list[str] | None:
    """What each of its descriptors is: a path, "socket:[INODE]", "pipe:[INODE]", "anon_inode:[KIND]".

    None when it is gone or another user's.
    """
    targets = []
    try:
        entries = os.listdir(f"{proc_root}/{pid}/fd")
    except OSError:
        return None
    for entry in entries:
        with suppress(OSError):  # closed while we looked
            targets.append(os.readlink(f"{proc_root}/{pid}/fd/{entry}"))
    return targets


def refusal(pid: int, what: str, *, proc_root: Path = PROC) -> OSError | None:
    """Why a file or folder of a process could not be read; None if the process is gone: that is no refusal."""
    path = f"{proc_root}/{pid}/{what}"
    try:
        if os.path.isdir(path):
            os.listdir(path)
        else:
            _text(path)
    except OSError as error:
        one = stat(pid, proc_root=proc_root)
        gone = one is None or one.state == "Z" or error.errno == errno.ESRCH
        return None if gone else error
    return OSError(errno.ENODATA, "it does not tell")


# ---------------------------------------------------------------- the machine, and ourselves


def available_bytes() -> int:
    """The memory that could be had without swapping (MemAvailable)."""
    lines = _text(f"{PROC}/meminfo").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))


def capable(capability: int) -> bool:
    """Whether we have it in effect, by its number in capabilities(7)."""
    lines = _text(f"{PROC}/self/status").splitlines()
    effective = next(int(line.split()[1], 16) for line in lines if line.startswith("CapEff:"))
    return bool(effective >> capability & 1)


def _text(path: str) -> str:
    """A file's text, at half the cost that `open` has for a file of a few lines."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        read = os.read(descriptor, _CHUNK)
        if len(read) >= _HALF_PAGE:  # else it was all: where there is more, the kernel gives nearly a page of it
            while more := os.read(descriptor, _CHUNK):
                read += more
    finally:
        os.close(descriptor)
    return read.decode("utf-8", "replace")
