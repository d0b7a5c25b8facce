"""The only reader of time.

`SystemClock` is the machine's monotonic clock. `VirtualClock` runs a coroutine on an event loop whose time jumps to the
next timer as soon as nothing else can run: an hour of plan in milliseconds, and the same every time.
"""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from busyhour.model import SECOND

T = TypeVar("T")


class SystemClock:
    """CLOCK_MONOTONIC, which all processes of the machine share."""

    now_ns = staticmethod(time.monotonic_ns)  # itself, for it is asked at every frame: a call around it costs as much

    async def sleep_until(self, at_ns: int) -> None:
        await asyncio.sleep(max(0, at_ns - self.now_ns()) / SECOND)


class VirtualClock:
    """Time that passes only when everyone waits. For code without real sockets: those take no virtual time at all.

    >>> clock = VirtualClock()
    >>> clock.run(clock.sleep_until(3_600_000_000_000))
    >>> clock.now_ns()
    3600000000000
    """

    def __init__(self) -> None:
        self._now_ns = 0

    def now_ns(self) -> int:
        return self._now_ns

    async def sleep_until(self, at_ns: int) -> None:
        await asyncio.sleep(max(0, at_ns - self._now_ns) / SECOND)

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """Run `main` to its end on this clock; `asyncio.timeout` and `call_later` follow it too."""
        with asyncio.Runner(loop_factory=lambda: _VirtualLoop(self)) as runner:
            return runner.run(main)

    def _advance(self, seconds: float) -> None:
        self._now_ns += round(seconds * SECOND)


class _VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self, clock: VirtualClock) -> None:
        self._virtual = clock
        super().__init__(_JumpingSelector(clock))

    def time(self) -> float:
        return self._virtual.now_ns() / SECOND


class _JumpingSelector(selectors.DefaultSelector):
    """Where the loop would sleep, move the clock instead. A wait without a timer waits for another thread."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__()
        self._virtual = clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            return super().select(None)
        ready = super().select(0)
        if not ready and timeout > 0:
            # The loop rounds its timers to its clock's resolution: step past the timer, never short of it.
            self._virtual._advance(max(timeout, 1e-6))
        return ready


def since_boot_ns() -> int:
    """CLOCK_BOOTTIME: like the monotonic clock, but it goes on while the machine is suspended (clock_gettime(2))."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def boot_id() -> str:
    """Names the zero of the monotonic clock: another one each time the machine is started; "" where it has no name."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def wall_time() -> str:
    """Now, in ISO 8601 and UTC: for people; nothing is computed from it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def unix_ns() -> int:
    """Now, in nanoseconds since 1970: for the stamps of other people's formats; nothing is computed from it."""
    return time.time_ns()


def unix_seconds() -> int:
    """Now, in seconds since 1970: for signatures and ids on the wire."""
    return int(time.time())
