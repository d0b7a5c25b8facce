"""What some defects keep of the calls that are over: memory, descriptors, tasks.

Some keep it for ever, which is a leak; the benign ones only look like it for a while. None takes the machine: each
keeps 512 MB at most.
"""

from __future__ import annotations

import asyncio
import ctypes
import math
import os
import resource
import sys
from collections import defaultdict

from voice_agent.defects import Defects

SESSIONS: dict[int, list[dict[str, str | int]]] = {}
"""As real ones are: of the module, by number, and nobody ever takes one out."""

_KB_MAX = 512 * 1024.0
_TASKS_MAX = 10_000
_WARM_CALLS = 20  # after so many the cache has 63 % of what it will ever have, after three times as many 95 %
_SAW_CALLS = 20  # between two times that the other cache is emptied
_PINNED = 32  # one block of so many is not given back with the others
_KB_BLOCK = 1024 - sys.getsizeof(b"")  # of bytes, to be a KB; above 512 Python asks malloc(3)
_TEXT = "the caller asked for an appointment on Tuesday, number "


class Hoard:
    """One for all calls. `close` gives back what would be in the way of the end of the process."""

    def __init__(self, defects: Defects) -> None:
        self._defects = defects
        self._loop = asyncio.get_running_loop()
        self._kept_kb: defaultdict[str, float] = defaultdict(float)
        self._descriptors: list[int] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._warm: list[bytes] = []
        self._warm_calls = 0
        self._saw: list[list[bytes]] = []
        self._survivors: list[bytes] = []
        self._raw_malloc = ctypes.pythonapi.PyMem_RawMalloc  # malloc(3), called as extension modules do
        self._raw_malloc.argtypes, self._raw_malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
        if defects.on("leak_native_per_second"):
            self._start_drip()

    def call_over(self) -> None:
        """After each conversation."""
        self._remember("leak_python")
        self._allocate("leak_native")
        self._open_descriptor()
        self._start_idler("leak_task")
        self._warm_cache_up()
        self._fill_or_empty_cache()
        self._fragment()

    def refused(self) -> None:
        """After each call that ended without a conversation."""
        self._remember("leak_on_refused")
        self._start_idler("leak_task_on_refused")

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        while self._descriptors:
            os.close(self._descriptors.pop())

    # ------------------------------------------------------------ leaks

    def _remember(self, name: str) -> None:
        """Objects of Python: what was said in a call, which nobody will ask for again."""
        size = 1024 * self._granted_kb(name)
        if not size:
            return
        turns: list[dict[str, str | int]] = []
        used = float(sys.getsizeof(turns))
        while used < size:
            turn: dict[str, str | int] = {"text": f"{_TEXT}{len(turns)}", "at": len(turns)}
            turns.append(turn)
            used += sys.getsizeof(turn) + sys.getsizeof(turn["text"]) + 8
        SESSIONS[len(SESSIONS)] = turns

    def _allocate(self, name: str) -> None:
        """Memory below Python's sight, touched, so that it is really there."""
        size = round(1024 * self._granted_kb(name))
        if size and (block := self._raw_malloc(size)):
            ctypes.memset(block, 1, size)

    def _start_drip(self) -> None:
        async def drip() -> None:
            while True:
                await asyncio.sleep(1)
                self._allocate("leak_native_per_second")

        self._tasks.add(self._loop.create_task(drip(), name="leak_native_per_second"))

    def _open_descriptor(self) -> None:
        """As long as there are enough left for the calls: a process that has none left leaks no more."""
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2
        if self._defects.strikes("leak_fd") and len(self._descriptors) < most:
            self._descriptors.append(os.open(os.devnull, os.O_RDONLY))

    def _start_idler(self, name: str) -> None:
        if self._defects.strikes(name) and len(self._tasks) < _TASKS_MAX:
            self._tasks.add(self._loop.create_task(_idle(), name=name))

    def _granted_kb(self, name: str) -> float:
        """What a leak may keep on this occasion."""
        kilobytes = min(self._defects.amount(name), _KB_MAX - self._kept_kb[name])
        self._kept_kb[name] += kilobytes
        return kilobytes

    # ------------------------------------------------------------ benign

    def _warm_cache_up(self) -> None:
        """To A (1 - e^(-n/k)) after n calls."""
        if kilobytes := min(self._defects.amount("cache_warmup"), _KB_MAX):
            self._warm_calls += 1
            wanted = round(kilobytes * (1 - math.exp(-self._warm_calls / _WARM_CALLS)))
            self._warm += _blocks(wanted - len(self._warm))

    def _fill_or_empty_cache(self) -> None:
        if kilobytes := min(self._defects.amount("sawtooth_cache"), _KB_MAX / _SAW_CALLS):
            if len(self._saw) == _SAW_CALLS:
                self._saw.clear()
            self._saw.append(_blocks(round(kilobytes)))

    def _fragment(self) -> None:
        """Small blocks, most of which are freed at once; the few between them keep the pages from the kernel."""
        if kilobytes := min(self._defects.amount("fragmentation"), _KB_MAX):
            blocks = _blocks(round(kilobytes))
            self._survivors = blocks[::_PINNED]


def _blocks(count: int) -> list[bytes]:
    """A KB each."""
    return [bytes(_KB_BLOCK) for _ in range(count)]


async def _idle() -> None:
    await asyncio.get_running_loop().create_future()
