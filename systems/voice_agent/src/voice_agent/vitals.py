"""What the process alone knows of its memory. Each costs a few microseconds: no walk over all objects."""

from __future__ import annotations

import asyncio
import ctypes
import sys
from collections.abc import Callable

_FIELDS = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"  # mallinfo(3)


class _Heap(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in _FIELDS.split()]


def _mallinfo2() -> Callable[[], _Heap] | None:
    """None where there is none: not glibc, or one before 2.33."""
    function = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if function is not None:
        function.restype = _Heap
    return function


_heap = _mallinfo2()


def vitals() -> dict[str, float]:
    """By name of the metric; must be called on the event loop.

    process_heap_bytes is what malloc(3) has given out and not got back; Python's small objects (512 bytes and less) are
    not among it, but in process_python_blocks, as larger ones are as well.
    """
    found = {
        "process_asyncio_tasks": float(len(asyncio.all_tasks())),
        "process_python_blocks": float(sys.getallocatedblocks()),
    }
    if _heap is not None:
        heap = _heap()
        found["process_heap_bytes"] = float(heap.uordblks + heap.hblkhd)
    return found
