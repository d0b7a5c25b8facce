"""The TCP sockets that processes hold open: their states, and the bytes that they have carried.

Linux tells of them in two ways. sock_diag(7) answers a netlink message in 0.4 ms and 2 us for each socket of the
machine, with its `tcp_info`, but only of our own network namespace. The tables in /proc/PID/net take 6 ms where there
are hardly any, and count no bytes.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from busyhour import proc

STATES = {
    1: "established",
    2: "syn_sent",
    4: "fin_wait1",
    5: "fin_wait2",
    8: "close_wait",
    9: "last_ack",
    10: "listen",
    11: "closing",
}
"""The kernel's numbers (net/tcp_states.h) of those that a process can have; SYN_RECV and TIME_WAIT belong to none."""

_SOCK_DIAG = 4  # NETLINK_SOCK_DIAG
_BY_FAMILY = 20  # SOCK_DIAG_BY_FAMILY
_REQUEST_DUMP = 0x301  # NLM_F_REQUEST | NLM_F_ROOT | NLM_F_MATCH
_ERROR, _DONE = 2, 3
_INFO = 2  # INET_DIAG_INFO, whose attribute is a struct tcp_info (linux/tcp.h)
_WANTED = sum(1 << state for state in STATES)
_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_REQUEST = struct.Struct("=BBBBI48x")  # inet_diag_req_v2: family, protocol, extensions, pad, states, any socket
_ERRNO = struct.Struct("=i")
_INODE = struct.Struct("=I")
_STATE_AT, _INODE_AT, _ATTRIBUTES_AT = 16 + 1, 16 + 68, 16 + 72  # in inet_diag_msg, which follows the header
_ATTRIBUTE = struct.Struct("=HH")  # its length, its type
_CARRIED = struct.Struct("=QQ")
_CARRIED_AT = 120  # in tcp_info: bytes_acked, bytes_received
_WITHIN_SECONDS = 1.0
_ANSWER_BYTES = 1 << 16  # a message has at most half of it


@dataclass(frozen=True, slots=True)
class Tcp:
    """A TCP socket. carried: the bytes it has received, and those sent that the other end has acknowledged."""

    state: int
    carried: tuple[int, int] | None


def tcp_of(inodes: Mapping[int, set[int]], *, proc_root: Path = proc.PROC) -> dict[int, Tcp] | None:
    """pid -> the inodes of its sockets, into inode -> TCP socket, for those that are one. None if nothing tells."""
    networks: dict[int | None, tuple[int, set[int]]] = {}
    for pid, held in inodes.items():
        _, together = networks.setdefault(proc.network(pid, proc_root=proc_root), (pid, set()))
        together |= held
    ours = proc.network(os.getpid())
    found: dict[int, Tcp] = {}
    for network, (pid, held) in networks.items():
        told = _asked(held) if network is not None and network == ours else None
        if told is None:
            states = proc.tcp_states(pid, proc_root=proc_root)
            if states is None:
                return None
            told = {inode: Tcp(state, None) for inode, state in states.items()}
        found |= {inode: told[inode] for inode in held & told.keys()}
    return found


def _asked(wanted: Container[int]) -> dict[int, Tcp] | None:
    """Those TCP sockets of our network namespace, by inode; None where the kernel does not answer such questions."""
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _SOCK_DIAG) as link:
            link.settimeout(_WITHIN_SECONDS)
            found = dict(_dumped(link, socket.AF_INET, wanted))
            if socket.has_ipv6:
                found |= dict(_dumped(link, socket.AF_INET6, wanted))
    except OSError:
        return None
    return found


def _dumped(link: socket.socket, family: int, wanted: Container[int]) -> Iterator[tuple[int, Tcp]]:
    """Raises OSError if it is refused."""
    request = _REQUEST.pack(family, socket.IPPROTO_TCP, 1 << (_INFO - 1), 0, _WANTED)
    link.send(_HEADER.pack(_HEADER.size + len(request), _BY_FAMILY, _REQUEST_DUMP, 1, 0) + request)
    while True:
        answer, at = link.recv(_ANSWER_BYTES), 0
        while at < len(answer):
            length, kind, *_ = _HEADER.unpack_from(answer, at)
            if kind == _DONE:
                return
            if kind == _ERROR:
                raise OSError(-_ERRNO.unpack_from(answer, at + _HEADER.size)[0], "sock_diag")
            (inode,) = _INODE.unpack_from(answer, at + _INODE_AT)
            if inode in wanted:
                yield inode, Tcp(answer[at + _STATE_AT], _carried(answer, at + _ATTRIBUTES_AT, at + length))
            at += _aligned(length)


def _carried(answer: bytes, at: int, end: int) -> tuple[int, int] | None:
    """From the attributes of a socket; None of a kernel before 4.1."""
    while at + _ATTRIBUTE.size <= end:
        length, kind = _ATTRIBUTE.unpack_from(answer, at)
        if kind == _INFO and length >= _ATTRIBUTE.size + _CARRIED_AT + _CARRIED.size:
            acked, received = _CARRIED.unpack_from(answer, at + _ATTRIBUTE.size + _CARRIED_AT)
            return received, acked
        at += max(_aligned(length), _ATTRIBUTE.size)
    return None


def _aligned(length: int) -> int:
    return (length + 3) & ~3
