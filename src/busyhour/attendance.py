"""Whether we were there all the time: a machine that was suspended, a harness that stood still.

While a machine is suspended the monotonic clock stands still, and CLOCK_BOOTTIME does not: what it has gained is what
was slept. When only we are stopped (SIGSTOP, a debugger, a virtual machine that is paused) the monotonic clock goes on,
and we find that we have not looked at it when we were to. A harness that was busy, or that had to wait for a processor,
has not been away: that it is late is its own fault, and told as loop lag.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from busyhour.clock import since_boot_ns
from busyhour.model import MS, SECOND, Mark

SUSPENDED = "machine.suspended"
STOPPED = "harness.stopped"
_SUSPENDED_NS_MIN = 100 * MS  # the two clocks are not read at the same instant
_STOPPED_NS_MIN = 2 * SECOND
_SCHEDSTAT = Path("/proc/self/schedstat")  # of the first thread, which the loop runs in


@dataclass(frozen=True, slots=True)
class Absence:
    """Between two looks; `seconds` is how long we were away, by a clock that went on."""

    kind: str
    from_ns: int
    until_ns: int
    seconds: float

    def mark(self) -> Mark:
        detail = {"from_ns": self.from_ns, "until_ns": self.until_ns, "seconds": round(self.seconds, 3)}
        return Mark(self.until_ns, self.kind, "harness", detail)


def occupied_ns() -> int:
    """How long we have been computing, and waiting to; 0 where the kernel does not tell (proc(5), schedstat)."""
    try:
        running, waiting, *_ = _SCHEDSTAT.read_text(encoding="ascii").split()
    except OSError:
        return 0
    return int(running) + int(waiting)


class Attendance:
    """Called up once in `every_ns`; says when it should have been, and was not.

    booted_ns, occupied_ns: the readings, to be replaced in tests.
    """

    def __init__(
        self,
        now_ns: Callable[[], int],
        every_ns: int,
        *,
        booted_ns: Callable[[], int] = since_boot_ns,
        occupied_ns: Callable[[], int] = occupied_ns,
    ) -> None:
        self._now_ns, self._booted_ns, self._occupied_ns = now_ns, booted_ns, occupied_ns
        self._every_ns = every_ns
        self._last = self._read()

    def absence(self) -> Absence | None:
        """Since the last time it was asked."""
        last, self._last = self._last, self._read()
        now_ns, slept_ns, occupied_ns = (new - old for new, old in zip(self._last, last, strict=True))
        if slept_ns >= _SUSPENDED_NS_MIN:
            return Absence(SUSPENDED, last[0], self._last[0], slept_ns / SECOND)
        stood_still_ns = now_ns - self._every_ns - occupied_ns
        if stood_still_ns >= _STOPPED_NS_MIN:
            return Absence(STOPPED, last[0], self._last[0], stood_still_ns / SECOND)
        return None

    def _read(self) -> tuple[int, int, int]:
        now_ns = self._now_ns()
        return now_ns, self._booted_ns() - now_ns, self._occupied_ns()
