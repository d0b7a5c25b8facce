"""Alarms to the microsecond on an event loop, from one timer of the kernel.

uvloop's timers are whole milliseconds and ring up to half of one early; asyncio's ring up to one late. Both are too
coarse for a latency of 50 ms that is to be exact to one, or for a bandwidth to be exact at all. Linux has timerfd,
which the loop watches like a socket; elsewhere the loop's own timers take its place.
"""

from __future__ import annotations

import asyncio
import ctypes
import heapq
import os
import sys
from collections.abc import Callable
from functools import partial
from typing import Protocol

from busyhour.clock import SystemClock
from busyhour.model import MS, SECOND

HAS_KERNEL_TIMER = sys.platform == "linux"
_CLOCK_MONOTONIC = 1
_ABSOLUTE = 1
_SWEPT_FROM = 128
"""Alarms that are kept before the cancelled among them are looked for."""


# ---------------------------------------------------------------- alarms


class Alarm:
    """A call that is due, until it has been made or cancelled."""

    __slots__ = ("call",)

    def __init__(self, call: Callable[[], None]) -> None:
        self.call: Callable[[], None] | None = call

    def cancel(self) -> None:
        """No call any more. Harmless after it was made."""
        self.call = None


class Alarms(Protocol):
    """Any number of alarms on one clock."""

    def now_ns(self) -> int: ...

    def at(self, due_ns: int, call: Callable[[], None]) -> Alarm:
        """Have `call()` called once it is `due_ns`, never before, and never from inside `at`."""
        ...


class TimerAlarms:
    """Alarms on the machine's monotonic clock, rung by the running loop in the order in which they are due.

    A call that raises is told to the loop's exception handler, and the others ring all the same. After `close`, which
    has to come before the loop's, none rings.
    """

    def __init__(self, *, kernel: bool = HAS_KERNEL_TIMER) -> None:
        self._clock = SystemClock()
        self._heap: list[tuple[int, int, Alarm]] = []
        self._number = 0
        self._sweep_at = _SWEPT_FROM
        self._armed_ns: int | None = None
        self._closed = False
        self._timer = KernelTimer(self._ring) if kernel else _LoopTimer(self._ring)

    def now_ns(self) -> int:
        return self._clock.now_ns()

    def at(self, due_ns: int, call: Callable[[], None]) -> Alarm:
        """As `Alarms.at`. Raises RuntimeError when closed."""
        if self._closed:
            raise RuntimeError("These alarms are closed.")
        alarm = Alarm(call)
        self._number += 1
        if len(self._heap) >= self._sweep_at:
            self._sweep()
        heapq.heappush(self._heap, (due_ns, self._number, alarm))
        if self._armed_ns is None or due_ns < self._armed_ns:
            self._arm(due_ns)
        return alarm

    def close(self) -> None:
        self._closed = True
        self._heap.clear()
        self._timer.close()

    def _ring(self) -> None:
        self._armed_ns = None
        now_ns, last = self._clock.now_ns(), self._number
        try:
            # Those that are set by these calls wait for the next turn of the loop, however early they are due.
            while self._heap and self._heap[0][0] <= now_ns and self._heap[0][1] <= last:
                alarm = heapq.heappop(self._heap)[2]
                call, alarm.call = alarm.call, None
                if call is not None:
                    call()
        finally:
            while self._heap and self._heap[0][2].call is None:
                heapq.heappop(self._heap)
            if self._heap and (self._armed_ns is None or self._heap[0][0] < self._armed_ns):
                self._arm(self._heap[0][0])

    def _sweep(self) -> None:
        """Forget the cancelled: timeouts that are hardly ever reached would pile up until they are due."""
        self._heap = [entry for entry in self._heap if entry[2].call is not None]
        heapq.heapify(self._heap)
        self._sweep_at = max(_SWEPT_FROM, 2 * len(self._heap))

    def _arm(self, due_ns: int) -> None:
        self._armed_ns = due_ns
        self._timer.set(due_ns)


class PreciseClock:
    """The system's clock, whose sleepers are woken by alarms: some 0.05 ms late, and never early."""

    def __init__(self, alarms: Alarms) -> None:
        self._alarms = alarms

    def now_ns(self) -> int:
        return self._alarms.now_ns()

    async def sleep_until(self, at_ns: int) -> None:
        if at_ns <= self._alarms.now_ns():
            await asyncio.sleep(0)
            return
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        alarm = self._alarms.at(at_ns, partial(_wake, woken))
        try:
            await woken
        finally:
            alarm.cancel()


def _wake(sleeper: asyncio.Future[None]) -> None:
    if not sleeper.done():  # cancelled in this turn of the loop
        sleeper.set_result(None)


# ---------------------------------------------------------------- timers


class KernelTimer:
    """A timer of Linux (timerfd_create(2)) on CLOCK_MONOTONIC: the running loop calls `expired()` when it has expired.

    It neither drifts nor rounds. By ctypes, because `os.timerfd_create` came with Python 3.13. Raises OSError.
    """

    def __init__(self, expired: Callable[[], None]) -> None:
        self._expired = expired
        libc = ctypes.CDLL(None, use_errno=True)
        self._fd: int = libc.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._spec = _TimerSpec()
        self._settime = libc.timerfd_settime
        self._settime.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
        self._spec_at = ctypes.addressof(self._spec)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._fd, self._readable)

    def set(self, due_ns: int, *, every_ns: int = 0) -> None:
        """Expire at `due_ns` (at once, if that is past) instead of whatever was set before; then every `every_ns`."""
        spec = self._spec
        spec.every_s, spec.every_ns = divmod(every_ns, SECOND)
        spec.due_s, spec.due_ns = divmod(max(1, due_ns), SECOND)  # one that is due at 0 would be off
        if self._settime(self._fd, _ABSOLUTE, self._spec_at, None) < 0:
            raise OSError(ctypes.get_errno(), "timerfd_settime")

    def close(self) -> None:
        """Harmless a second time."""
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _readable(self) -> None:
        try:
            os.read(self._fd, 8)  # how often it expired; the clock says it better
        except BlockingIOError:  # it was set anew since
            return
        self._expired()


class _TimerSpec(ctypes.Structure):
    """struct itimerspec."""

    _fields_ = (
        ("every_s", ctypes.c_long),
        ("every_ns", ctypes.c_long),
        ("due_s", ctypes.c_long),
        ("due_ns", ctypes.c_long),
    )


class _LoopTimer:
    """What takes its place: to the next whole millisecond, because a loop that rounds down would turn until then."""

    def __init__(self, expired: Callable[[], None]) -> None:
        self._expired = expired
        self._loop = asyncio.get_running_loop()
        self._handle: asyncio.TimerHandle | None = None

    def set(self, due_ns: int) -> None:
        self.close()
        wait_ms = max(0, -((SystemClock().now_ns() - due_ns) // MS))
        self._handle = self._loop.call_later(wait_ms / 1000, self._expired)

    def close(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
