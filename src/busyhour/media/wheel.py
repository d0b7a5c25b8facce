"""One clock for all lines: a wheel of 20 slots of 1 ms that turns once in a frame of 20 ms.

Each line has a place in one slot, so that a thousand frames leave over 20 ms and not at once: with one slot the median
frame of a thousand calls is 3.6 ms late, with twenty 0.3 ms. On Linux the wheel is driven by a timerfd with an absolute
first expiry and a period of 1 ms, which neither drifts nor rounds; elsewhere, and on a virtual clock, by loop timers.
"""

from __future__ import annotations

import asyncio
from array import array
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

from busyhour.clock import SystemClock
from busyhour.errors import ProtocolError
from busyhour.fastlane import LegState, Slot, WheelState, tick_all
from busyhour.histogram import LogHistogram
from busyhour.media.codec import FRAME_NS
from busyhour.model import SECOND, Clock, Sample
from busyhour.timers import HAS_KERNEL_TIMER, KernelTimer

PATIENCE_NS = SECOND
QUIET_NS = SECOND // 2
_QUIET_SLOTS = 2
NEVER_NS = 1 << 62
_COUNTED_AT_ONCE = 5_000


@dataclass(eq=False, slots=True)
class _Duty:
    """What is done between the frames, in every slot whose number `every` divides."""

    every: int
    perform: Callable[[], None]


@dataclass(eq=False, slots=True)
class _Waiting:
    since_ns: int
    admitted: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Wheel(WheelState):
    """Ticks every line every 20 ms, measures by how much each frame was late, and lets new calls in one by one.

    A frame is due at its slot's time. When the process was held up for longer than a turn, a line gets one frame and
    not a burst: the frames between are skipped, counted in `frames_skipped`, and their lateness is recorded like that
    of any other, so that a gate on lateness sees them. What a line had to say is not lost: it goes on where it was.
    """

    def __init__(self, clock: Clock | None = None, slots: int = 20) -> None:
        self.hurry_ns = NEVER_NS  # from when on `hurry` does something
        self._clock = clock or SystemClock()
        self._has_kernel_timer = HAS_KERNEL_TIMER and isinstance(self._clock, SystemClock)
        self._slot_ns = FRAME_NS // slots
        self._slots: list[list[Slot]] = [[] for _ in range(slots)]
        self._duties: list[_Duty] = []
        self._waiting: deque[_Waiting] = deque()
        self._late = LogHistogram()
        self._latenesses = array("q")  # those not yet counted
        self._skipped = 0
        self._began_ns = 0
        self._next = 0  # the number, since the beginning, of the next slot to come
        self._turning = False
        # Of slots that began when they should, one after the other; elsewhere timers are coarser than a slot.
        self._in_time = 0
        self._in_time_ns = self._slot_ns // 4 if self._has_kernel_timer else self._slot_ns
        self._body: asyncio.Task[object] | None = None  # it runs while the wheel turns
        self._bug: BaseException | None = None

    @asynccontextmanager
    async def turning(self) -> AsyncIterator[None]:
        """Turn while the body runs. A tick that raises anything but a border error is a bug: it cancels the body and
        is raised from here."""
        self._body = body = asyncio.current_task()
        assert body is not None
        self._bug = None
        # Begin at a whole slot, a little later, so that the first expiry is not in the past.
        self._began_ns = (self._clock.now_ns() // self._slot_ns + 2) * self._slot_ns
        self._next, self.hurry_ns = 0, self._began_ns
        self._turning = True
        try:
            with self._driven():
                yield
        except asyncio.CancelledError:
            if self._bug is None:
                raise
            body.uncancel()
        finally:
            self._turning, self._body, self.hurry_ns = False, None, NEVER_NS
            self._turn_away()
        if self._bug is not None:
            raise self._bug

    def attach(
        self,
        tick: Callable[[int], None],
        lost: Callable[[OSError | ProtocolError], None] | None = None,
        after: Callable[[], None] | None = None,
        leg: LegState | None = None,
    ) -> Slot:
        """Have `tick(due_ns)` called every 20 ms from now on, in the slot that has fewest lines, and `after()` when all
        of the slot have been. leg: whose these two are, if it is one that can say when it `wakes_ns`."""
        index = min(range(len(self._slots)), key=lambda i: len(self._slots[i]))
        slot = Slot(index, tick, lost, after, leg)
        self._slots[index].append(slot)
        return slot

    def detach(self, slot: Slot) -> None:
        """No tick after this. Harmless when it is detached already."""
        if slot.attached:
            slot.attached = False
            self._slots[slot.index].remove(slot)

    def between(self, perform: Callable[[], None], *, every: int) -> None:
        """Have `perform()` called after the frames of every `every`-th slot."""
        self._duties.append(_Duty(every, perform))

    async def admitted(self) -> None:
        """Wait for leave to set up a call: one when two slots have begun in time since the last.

        A set-up costs as much as hundreds of frames, a piece at a time: the next begins when the last is no longer
        felt, or every line's frames are late. Who has waited half a second is let in with any slot that is not behind,
        after a second all the same, so that overload shows as lateness and not as calls that never begin.
        """
        if not self._turning:
            raise RuntimeError("the wheel does not turn: wait inside `async with wheel.turning()`")
        waiting = _Waiting(self._clock.now_ns())
        self._waiting.append(waiting)
        await waiting.admitted

    def drain(self, now_ns: int) -> list[Sample]:
        """Since the last drain: the lateness of every frame as weighted `send_lateness_ms`, and `frames_skipped`."""
        skipped, self._skipped = self._skipped, 0
        self._count()
        lateness = self._late.drain(now_ns, "harness", "send_lateness_ms")
        return [*lateness, Sample(now_ns, "harness", "frames_skipped", skipped)]

    def advance(self, now_ns: int) -> None:
        """Do what is due by `now_ns`. The drivers call it; a test that has no loop may, too."""
        last = (now_ns - self._began_ns) // self._slot_ns
        self._skip_to(last - len(self._slots) + 1, now_ns)
        while self._next <= last:
            number, self._next = self._next, self._next + 1
            due_ns = self._began_ns + number * self._slot_ns
            bucket = self._slots[number % len(self._slots)]
            if bucket:
                self.hurry_ns = NEVER_NS  # one slot is over before the next begins
                self._tick(bucket, due_ns)
            self.hurry_ns = due_ns + self._slot_ns
            for duty in self._duties:
                if number % duty.every == 0:
                    duty.perform()
            self._in_time = self._in_time + 1 if now_ns - due_ns < self._in_time_ns else 0
            if self._waiting:
                self._admit(due_ns)

    def hurry(self) -> None:
        """Do what is due, for whoever holds the loop for long, once `hurry_ns` is past: what is to be sent goes before
        what has arrived. It takes two thirds of the time at most, so that overload shows as lateness, as it should, and
        not as a loop that does nothing but send."""
        began_ns = self._clock.now_ns()
        if began_ns < self.hurry_ns:
            return
        self._perform(began_ns)
        ended_ns = self._clock.now_ns()
        self.hurry_ns = max(self.hurry_ns, ended_ns + (ended_ns - began_ns) // 2)

    def _expired(self) -> None:
        self._perform(self._clock.now_ns())

    def _perform(self, now_ns: int) -> None:
        try:
            self.advance(now_ns)
        except BaseException as bug:
            # A callback has nobody to raise to: the loop would only log it, and the run would go on without sound.
            if self._bug is None and self._body is not None:
                self._bug = bug
                self._body.cancel()

    def _count(self) -> None:
        latenesses, self._latenesses = self._latenesses, array("q")
        self._late.add_all(latenesses)

    def _tick(self, bucket: list[Slot], due_ns: int) -> None:
        if len(self._latenesses) >= _COUNTED_AT_ONCE:
            self._count()
        tick_all(tuple(bucket), due_ns, self._clock.now_ns, self._latenesses, self._failed)

    def _failed(self, slot: Slot, failure: OSError | ProtocolError) -> None:
        self.detach(slot)
        if slot.lost is not None:
            slot.lost(failure)

    def _skip_to(self, number: int, now_ns: int) -> None:
        """Give up the frames that were due before slot `number`: every line has a later one that is due too."""
        for behind in range(self._next, number):
            lines = len(self._slots[behind % len(self._slots)])
            if lines:
                self._skipped += lines
                self._late.add(now_ns - self._began_ns - behind * self._slot_ns, lines)
        self._next = max(self._next, number)

    def _admit(self, due_ns: int) -> None:
        now_ns = self._clock.now_ns()
        first = self._waiting[0]
        waited_ns, in_time = now_ns - first.since_ns, now_ns - due_ns < self._slot_ns
        quiet = in_time and (self._in_time >= _QUIET_SLOTS or waited_ns >= QUIET_NS)
        if first.admitted.done():  # cancelled while it waited
            self._waiting.popleft()
        elif quiet or waited_ns >= PATIENCE_NS:
            self._waiting.popleft().admitted.set_result(None)
            self._in_time = 0

    def _turn_away(self) -> None:
        while self._waiting:
            waiting = self._waiting.popleft()
            if not waiting.admitted.done():
                waiting.admitted.cancel()

    @contextmanager
    def _driven(self) -> Iterator[None]:
        if self._has_kernel_timer:
            driver = _kernel_timer(self._began_ns, self._slot_ns, self._expired)
        else:
            driver = _loop_timer(asyncio.get_running_loop(), self._clock, self._began_ns, self._slot_ns, self._expired)
        with driver:
            yield


@contextmanager
def _loop_timer(
    loop: asyncio.AbstractEventLoop, clock: Clock, first_ns: int, period_ns: int, expired: Callable[[], None]
) -> Iterator[None]:
    handle: asyncio.TimerHandle | None = None

    def again() -> None:
        nonlocal handle
        now_ns = clock.now_ns()
        if now_ns >= first_ns:
            expired()
            now_ns = clock.now_ns()
        due_ns = max(first_ns, now_ns + period_ns - (now_ns - first_ns) % period_ns)
        handle = loop.call_at(loop.time() + (due_ns - now_ns) / SECOND, again)

    again()
    try:
        yield
    finally:
        if handle is not None:
            handle.cancel()


@contextmanager
def _kernel_timer(first_ns: int, period_ns: int, expired: Callable[[], None]) -> Iterator[None]:
    timer = KernelTimer(expired)
    try:
        timer.set(first_ns, every_ns=period_ns)
        yield
    finally:
        timer.close()
