"""Connections that the kernel refuses on a port, counted from the wire: they leave no trace at whoever refuses.

A packet socket on the loopback device with a filter for SYN segments to the port (packet(7), and the classic BPF of
linux/filter.h). It needs CAP_NET_RAW.
"""

from __future__ import annotations

import asyncio
import ctypes
import socket

_IPV4 = 0x0800
_ATTACH_FILTER = 26  # SO_ATTACH_FILTER
_TO_US = 0  # PACKET_HOST: on loopback each packet is seen going out, too

_LOAD_BYTE, _LOAD_HALF, _LOAD_HALF_AT_X, _LOAD_BYTE_AT_X = 0x30, 0x28, 0x48, 0x50
_X_IS_HEADER_LENGTH, _AND, _EQUAL, _ANY_BIT, _RETURN = 0xB1, 0x54, 0x15, 0x45, 0x06
_TCP, _FRAGMENT_OFFSET, _SYN, _SYN_ACK = 6, 0x1FFF, 0x02, 0x12


class RefusalCounter:
    """Counts the attempts to connect to a loopback port on which nobody listens."""

    def __init__(self, port: int) -> None:
        """Raises PermissionError without the right to, OSError where there are no such sockets."""
        self._count = 0
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)  # of no protocol: nothing comes yet
        try:
            self._filter(port)
            self._socket.bind(("lo", _IPV4))
        except OSError:
            self._socket.close()
            raise
        self._socket.setblocking(False)
        asyncio.get_running_loop().add_reader(self._socket, self._drain)

    @property
    def count(self) -> int:
        self._drain()
        return self._count

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()

    def _drain(self) -> None:
        while True:
            try:
                _, address = self._socket.recvfrom(64)
            except BlockingIOError:
                return
            self._count += address[2] == _TO_US

    def _filter(self, port: int) -> None:
        instructions = [
            (_LOAD_BYTE, 0, 0, 9),  # the protocol
            (_EQUAL, 0, 8, _TCP),
            (_LOAD_HALF, 0, 0, 6),
            (_ANY_BIT, 6, 0, _FRAGMENT_OFFSET),
            (_X_IS_HEADER_LENGTH, 0, 0, 0),
            (_LOAD_HALF_AT_X, 0, 0, 2),  # the destination port
            (_EQUAL, 0, 3, port),
            (_LOAD_BYTE_AT_X, 0, 0, 13),  # the flags
            (_AND, 0, 0, _SYN_ACK),
            (_EQUAL, 1, 0, _SYN),
            (_RETURN, 0, 0, 0),
            (_RETURN, 0, 0, 64),
        ]
        program = (_Instruction * len(instructions))(*(_Instruction(*each) for each in instructions))
        self._socket.setsockopt(
            socket.SOL_SOCKET, _ATTACH_FILTER, bytes(_Program(len(instructions), ctypes.addressof(program)))
        )


class _Instruction(ctypes.Structure):
    _fields_ = (("code", ctypes.c_ushort), ("jt", ctypes.c_ubyte), ("jf", ctypes.c_ubyte), ("k", ctypes.c_uint))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))
