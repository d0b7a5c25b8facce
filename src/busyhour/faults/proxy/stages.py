"""What the toxics on bytes do: Toxiproxy's, and `corrupt`."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from busyhour.faults.proxy.flow import Flow, Grasp, Stage
from busyhour.model import MS
from busyhour.timers import Alarm

WINDOW_BYTES = 4 * 1024 * 1024
"""In flight on a slow wire; about what a TCP window allows, so that latency alone does not limit the throughput."""
ROOM_BYTES = 64 * 1024
_RATE_ROOM_MS = 100
_US = 1000
_QUANTUM_NS = 2 * MS
_QUANTUM_BYTES_LEAST = 512
_NEVER_BYTES = 2**60


@dataclass(frozen=True, slots=True)
class End:
    """The end of a stream, on its way like the data."""

    reset: bool


# ---------------------------------------------------------------- stages that take their time


class Pace(Protocol):
    """When, and in which portions, a stream goes on."""

    @property
    def room_bytes(self) -> int: ...

    def portion(self, item: bytes | End, offset: int, arrived_ns: int) -> tuple[int, int | None]:
        """How many bytes go on next from `offset`, and when that is due; None: not before the attributes change."""
        ...

    def gone(self, size: int, due_ns: int, *, all_of_it: bool) -> None:
        """They went on; `all_of_it`: the item is through."""
        ...


class Paced:
    """Holds a stream back in order; a `Pace` says for how long."""

    def __init__(self, grasp: Grasp, pace: Pace, *, singly: bool = False) -> None:
        self.out: Flow
        self.held_bytes = 0
        self._grasp = grasp
        self._pace = pace
        self._singly = singly  # two portions in one turn of the loop would leave as one segment
        self._items: deque[tuple[int, bytes | End]] = deque()
        self._offset = 0
        self._next: tuple[int, int | None] | None = None
        self._alarm: Alarm | None = None

    @property
    def room_bytes(self) -> int:
        return self._pace.room_bytes

    def feed(self, data: bytes) -> None:
        self.held_bytes += len(data)
        self._add(data)

    def end(self, *, reset: bool) -> None:
        self._add(End(reset))

    def changed(self) -> None:
        self._next = None
        self._silence()
        self._advance()

    def release(self) -> bool:
        self._silence()
        while self._items:
            item = self._items.popleft()[1]
            if isinstance(item, End):
                self.out.end(reset=item.reset)
            else:
                self.out.feed(item[self._offset :])
                self._offset = 0
        self.held_bytes = 0
        return True

    def discard(self) -> None:
        self._silence()
        self._items.clear()
        self.held_bytes = 0

    def _add(self, item: bytes | End) -> None:
        self._items.append((self._grasp.alarms.now_ns(), item))
        if self._alarm is None:
            self._advance()

    def _rung(self) -> None:
        self._alarm = None
        self._advance()
        self._grasp.relieved()

    def _advance(self) -> None:
        """Hand on what is due; set the alarm for what is not."""
        while self._items:
            arrived_ns, item = self._items[0]
            if self._next is None:
                self._next = self._pace.portion(item, self._offset, arrived_ns)
            size, due_ns = self._next
            if due_ns is None:
                return
            if due_ns > self._grasp.alarms.now_ns():
                self._alarm = self._grasp.alarms.at(due_ns, self._rung)
                return
            self._next = None
            self._hand_on(item, size, due_ns)
            if self._singly and self._items:
                self._alarm = self._grasp.alarms.at(due_ns, self._rung)
                return

    def _hand_on(self, item: bytes | End, size: int, due_ns: int) -> None:
        if isinstance(item, End):
            self._items.popleft()
            self._pace.gone(0, due_ns, all_of_it=True)
            self.out.end(reset=item.reset)
            return
        begin, self._offset = self._offset, self._offset + size
        whole = self._offset >= len(item)
        self.held_bytes -= size
        if whole:
            self._items.popleft()
            self._offset = 0
        self._pace.gone(size, due_ns, all_of_it=whole)
        self.out.feed(item if size == len(item) else item[begin : begin + size])

    def _silence(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None


class LatencyPace:
    """`latency` +- `jitter` ms for each chunk, the end of the stream too; none overtakes another."""

    room_bytes = WINDOW_BYTES

    def __init__(self, grasp: Grasp) -> None:
        self._grasp = grasp
        self._delayed = False

    def portion(self, item: bytes | End, offset: int, arrived_ns: int) -> tuple[int, int | None]:
        attributes = self._grasp.attributes
        jitter = attributes["jitter"]
        delay_ms = attributes["latency"] + (self._grasp.random.uniform(-jitter, jitter) if jitter else 0)
        due_ns = arrived_ns + max(0, round(delay_ms * MS))
        self._delayed = due_ns > arrived_ns
        return 0 if isinstance(item, End) else len(item), due_ns

    def gone(self, size: int, due_ns: int, *, all_of_it: bool) -> None:
        if size and self._delayed:
            self._grasp.count(bytes=size)


class BandwidthPace:
    """`rate` kB/s, of 1000 bytes: a portion goes on when its last byte would have come through a line of that rate.

    The line's time is computed and not measured, so that what an alarm is late is made up for. A rate of 0 lets nothing
    pass, and loses nothing.
    """

    def __init__(self, grasp: Grasp) -> None:
        self._grasp = grasp
        self._free_ns = 0.0  # not rounded: a nanosecond with each byte would add up
        self._free_next_ns = 0.0

    @property
    def room_bytes(self) -> int:
        """So much that the line does not fall idle while the sender is woken."""
        return max(ROOM_BYTES, min(WINDOW_BYTES, int(self._grasp.attributes["rate"] * _RATE_ROOM_MS)))

    def portion(self, item: bytes | End, offset: int, arrived_ns: int) -> tuple[int, int | None]:
        rate = self._grasp.attributes["rate"]  # kB/s is bytes/ms
        if isinstance(item, End):
            return 0, math.ceil(max(self._free_ns, arrived_ns))
        if rate == 0:
            return 0, None
        size = min(len(item) - offset, max(_QUANTUM_BYTES_LEAST, int(rate * _QUANTUM_NS / MS)))
        self._free_next_ns = max(self._free_ns, arrived_ns) + size * MS / rate
        return size, math.ceil(self._free_next_ns)

    def gone(self, size: int, due_ns: int, *, all_of_it: bool) -> None:
        self._free_ns = self._free_next_ns
        if size:
            self._grasp.count(bytes=size)


class SlicerPace:
    """Slices of `average_size` +- `size_variation` bytes, `delay` us apart, each in a segment of its own."""

    room_bytes = ROOM_BYTES

    def __init__(self, grasp: Grasp) -> None:
        self._grasp = grasp
        self._last_ns = 0

    def portion(self, item: bytes | End, offset: int, arrived_ns: int) -> tuple[int, int | None]:
        attributes = self._grasp.attributes
        due_ns = max(arrived_ns, self._last_ns + round(attributes["delay"] * _US))
        if isinstance(item, End):
            return 0, due_ns
        variation = int(attributes["size_variation"])
        size = int(attributes["average_size"]) + self._grasp.random.randint(-variation, variation)
        return min(len(item) - offset, size), due_ns

    def gone(self, size: int, due_ns: int, *, all_of_it: bool) -> None:
        self._last_ns = due_ns
        if size and not all_of_it:
            self._grasp.count(bytes=size)


class SlowClosePace:
    """The end of the stream comes `delay` ms later; data and resets are not held back."""

    room_bytes = ROOM_BYTES

    def __init__(self, grasp: Grasp) -> None:
        self._grasp = grasp
        self._delayed = False

    def portion(self, item: bytes | End, offset: int, arrived_ns: int) -> tuple[int, int | None]:
        if not isinstance(item, End):
            return len(item), arrived_ns
        delay_ns = 0 if item.reset else round(self._grasp.attributes["delay"] * MS)
        self._delayed = delay_ns > 0
        return 0, arrived_ns + delay_ns

    def gone(self, size: int, due_ns: int, *, all_of_it: bool) -> None:
        if not size and self._delayed:
            self._grasp.count()


# ---------------------------------------------------------------- stages that take


class Timeout:
    """Drops all data, and ends the stream after `timeout` ms (0: never). Released, it ends it at once: bytes are
    missing from it."""

    room_bytes = ROOM_BYTES
    held_bytes = 0

    def __init__(self, grasp: Grasp) -> None:
        self.out: Flow
        self._grasp = grasp
        self._over = False
        self._began_ns = grasp.alarms.now_ns()
        self._alarm: Alarm | None = None
        self.changed()

    def feed(self, data: bytes) -> None:
        if not self._over:
            self._grasp.count(bytes=len(data))

    def end(self, *, reset: bool) -> None:
        if not self._over:
            self.discard()
            self.out.end(reset=reset)

    def changed(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        timeout_ms = self._grasp.attributes["timeout"]
        if timeout_ms > 0 and not self._over:
            self._alarm = self._grasp.alarms.at(self._began_ns + round(timeout_ms * MS), self._expire)

    def release(self) -> bool:
        self._close()
        return True

    def discard(self) -> None:
        self._over = True
        if self._alarm is not None:
            self._alarm.cancel()

    def _expire(self) -> None:
        self._grasp.count()
        self._close()

    def _close(self) -> None:
        if not self._over:
            self.discard()
            self._grasp.cut(self.out)


class ResetPeer:
    """At the first data, or the end, of the stream: both sides get a TCP reset after `timeout` ms, and nothing else."""

    room_bytes = ROOM_BYTES
    held_bytes = 0

    def __init__(self, grasp: Grasp) -> None:
        self.out: Flow
        self._grasp = grasp
        self._seen_ns: int | None = None
        self._alarm: Alarm | None = None

    def feed(self, data: bytes) -> None:
        self._see()

    def end(self, *, reset: bool) -> None:
        self._see()

    def changed(self) -> None:
        if self._alarm is not None and self._seen_ns is not None:
            self._alarm.cancel()
            self._set(self._seen_ns)

    def release(self) -> bool:
        if self._alarm is not None:
            self._reset()  # what it has swallowed cannot be had back
        return True

    def discard(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def _see(self) -> None:
        if self._seen_ns is None:
            self._seen_ns = self._grasp.alarms.now_ns()
            self._set(self._seen_ns)

    def _set(self, seen_ns: int) -> None:
        due_ns = seen_ns + round(self._grasp.attributes["timeout"] * MS)
        self._alarm = self._grasp.alarms.at(due_ns, self._reset)

    def _reset(self) -> None:
        self.discard()
        self._grasp.count()
        self._grasp.reset()


class LimitData:
    """Ends the stream after `bytes` bytes of it."""

    room_bytes = ROOM_BYTES
    held_bytes = 0

    def __init__(self, grasp: Grasp) -> None:
        self.out: Flow
        self._grasp = grasp
        self._passed = 0
        self._over = False

    def feed(self, data: bytes) -> None:
        if self._over:
            return
        left = max(0, int(self._grasp.attributes["bytes"]) - self._passed)
        if left:
            self.out.feed(data[:left])
        self._passed += min(left, len(data))
        if len(data) >= left:
            self._over = True
            self._grasp.count(bytes=len(data) - left)
            self._grasp.cut(self.out)

    def end(self, *, reset: bool) -> None:
        if not self._over:
            self.out.end(reset=reset)

    def changed(self) -> None: ...

    def release(self) -> bool:
        return True

    def discard(self) -> None:
        self._over = True


class Corrupt:
    """One bit is wrong in a `share` of the bytes."""

    room_bytes = ROOM_BYTES
    held_bytes = 0

    def __init__(self, grasp: Grasp) -> None:
        self.out: Flow
        self._grasp = grasp
        self._skip = self._gap()

    def feed(self, data: bytes) -> None:
        if self._skip >= len(data):
            self._skip -= len(data)
            self.out.feed(data)
            return
        corrupted = bytearray(data)
        at, flipped = self._skip, 0
        while at < len(data):
            corrupted[at] ^= 1 << self._grasp.random.randrange(8)
            flipped += 1
            at += 1 + self._gap()
        self._skip = at - len(data)
        self._grasp.count(bytes=flipped)
        self.out.feed(bytes(corrupted))

    def end(self, *, reset: bool) -> None:
        self.out.end(reset=reset)

    def changed(self) -> None:
        self._skip = self._gap()

    def release(self) -> bool:
        return True

    def discard(self) -> None: ...

    def _gap(self) -> int:
        """How many bytes to the next that is hit: geometric, so that what costs is the hits and not the bytes."""
        share = self._grasp.attributes["share"]
        if share >= 1:
            return 0
        gap = math.log(1 - self._grasp.random.random()) / math.log1p(-share)
        return int(min(gap, _NEVER_BYTES))


STAGES: Mapping[str, Callable[[Grasp], Stage]] = {
    "latency": lambda grasp: Paced(grasp, LatencyPace(grasp)),
    "bandwidth": lambda grasp: Paced(grasp, BandwidthPace(grasp)),
    "slicer": lambda grasp: Paced(grasp, SlicerPace(grasp), singly=True),
    "slow_close": lambda grasp: Paced(grasp, SlowClosePace(grasp)),
    "timeout": Timeout,
    "reset_peer": ResetPeer,
    "limit_data": LimitData,
    "corrupt": Corrupt,
}
