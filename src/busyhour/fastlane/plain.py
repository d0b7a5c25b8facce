"""What the fast lane works on, where it is not compiled: plain objects with the same names, and no short cuts.

All that a call does is written in Python, in `media` and `carriers`, and what a request does in `workloads.http`. These
are the few attributes of it that the compiled lane reads and writes as well.
"""

from __future__ import annotations

from abc import abstractmethod
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from picows import WSListener, WSTransport

from busyhour.errors import ProtocolError
from busyhour.model import Due


class WheelState:
    hurry_ns: int  # from when on `Wheel.hurry` does something


class InboxState:
    reads: int  # how often all that had arrived was read

    def open(self) -> None:
        """The running loop begins to turn the wheel: sockets may be read directly."""

    def close(self) -> None:
        """Their transports read them again. Harmless when it is not open."""

    def read_until(self, now_ns: int) -> int:
        """What had arrived by then was read from the sockets: it is now, if what is not read yet is stamped later."""
        return now_ns


class DisturbanceState:
    media: bool  # whether any vice of media is set


class PlayoutState:
    """Of a `Playout`; times in ns."""

    tells_ns: int
    ended_ns: int
    run_ns: int
    _jitter_buffer_ns: int
    _dry: bool
    _whole_ns: int
    _tail_ns: int  # NO_TAIL: none
    _tail_loud: bool  # whether there is one, and it is
    _now_ns: int
    _queue: deque[tuple[int, int, bytes]]
    _rest: Any


class SpeakingState:
    """An utterance on its way: the frames, the next to be sent, and those in which the speech begins and ends."""

    payloads: tuple[bytes, ...]
    next: int
    first_speech: int
    last_speech: int


class StreamState:
    """Of a `MediaSocket`. A frame to the agent is `head` with its three numbers, the payload, and `tail`; one from the
    agent that can be taken at once is `before`, the payload, and `after`."""

    head: bytes
    tail: bytes
    before: bytes | None
    after: bytes | None
    leg: LegState | None  # who hears it; None: not a leg alone, or nobody
    ear: Ear | None
    _sequence: int
    _first_chunk: int  # NO_CHUNK: nothing was sent yet
    _sent: int
    _received: int


class LegState:
    """Of a `Leg`."""

    wakes_ns: int  # before this, `after` of its slot has nothing to do
    _steady: bool  # and that stays so, when sound comes behind sound
    _offset_ns: int  # while it is steady: when it will have been silent for a hangover, if nothing loud comes
    _looks_after_ns: int  # so long after the end of what sounds, if it is steady
    disturbance: Any  # a Disturbance
    _stream: StreamState | None  # where its frames go, if they go there only
    _speaking: Any
    _silence: bytes
    _sent: int
    _held: list[tuple[int, int, bytes]]
    _tape: Any
    _ended: Any
    _undecoded: bool
    _playout: Any
    _meter: Meter | None


class Ear(WSListener):
    """Takes the frames of an `AgentSocket` before it does, and hands on what it does not take. Compiled only."""

    outlet: WSTransport | None  # to which may be sent; None: it cannot
    stream: StreamState | None  # whose frames may be taken
    arrived_ns: int  # when the kernel had what is being taken or handed on; 0: that is not known

    def leave(self, resume: bool) -> None:
        """Read it no more; whether its transport is to."""

    def sent_beside(self) -> None:
        """To be called with whatever is sent by the transport: what the ear sends must not overtake it."""


class Meter(Protocol):
    """Knows frames of 20 ms of one codec. Compiled only."""

    def loud(self, payload: bytes) -> bytes | None:
        """One octet for each window of a frame in base64, 1 if it is loud; None if that is no frame."""
        ...

    def loud_of(self, octets: bytes) -> bytes:
        """The same of a frame's octets."""
        ...


def ear_of(_socket: object) -> Ear | None:
    """None: the socket is its own."""
    return None


def meter_of(
    _frame_bytes: int, _window_samples: int, _decoding: bytes, _little_endian: bool, _least_power: float
) -> Meter | None:
    """decoding: the sample of each octet, as 256 native shorts; empty for linear samples of two octets."""
    return None


class Slot:
    """A place on the wheel. `lost` is called when the tick failed because its socket or its peer did, `after` when all
    lines of the slot have had their tick; leg: whose they are, if it is one that can say when it `wakes_ns`."""

    __slots__ = ("after", "attached", "index", "leg", "lost", "tick")

    def __init__(
        self,
        index: int,
        tick: Callable[[int], None],
        lost: Callable[[OSError | ProtocolError], None] | None,
        after: Callable[[], None] | None,
        leg: LegState | None,
    ) -> None:
        self.index, self.tick, self.lost, self.after, self.leg = index, tick, lost, after, leg
        self.attached = True


def tick_all(
    slots: Sequence[Slot],
    due_ns: int,
    now_ns: Callable[[], int],
    latenesses: array[int],
    failed: Callable[[Slot, OSError | ProtocolError], None],
) -> None:
    """Send the frame of every line of a slot, note how late each was, and let those look around that have reason to."""
    for slot in slots:
        if not slot.attached:
            continue
        try:
            slot.tick(due_ns)
        except (OSError, ProtocolError) as failure:
            failed(slot, failure)
        else:
            latenesses.append(now_ns() - due_ns)
    at_ns = now_ns()
    for slot in slots:
        if slot.attached and slot.after is not None and (slot.leg is None or slot.leg.wakes_ns <= at_ns):
            slot.after()


def upper_edges(durations_ns: array[int], precision_bits: int) -> list[tuple[int, int]]:
    """Durations in buckets whose width is a power of two: the upper edge of each that holds one, and how many it holds.

    Those below 2**precision_bits are exact, and no bucket is wider than 2**(1 - precision_bits) of its value. A
    negative duration counts as 0.
    """
    durations = np.maximum(np.asarray(durations_ns, dtype=np.int64), 0)
    bits = np.frexp(durations.astype(np.float64))[1].astype(np.int64)
    shift = np.maximum(bits - precision_bits, 0)
    uppers = np.where(durations, (((durations >> shift) + 1) << shift) - 1, 0)
    found, counts = np.unique(uppers, return_counts=True)
    return list(zip(found.tolist(), counts.tolist(), strict=True))


# ---------------------------------------------------------------- requests


class TallyState:
    """Of a `Tally`; all in ns."""

    _latencies: array[int]
    _services: array[int]
    _latenesses: array[int]
    wants_from_ns: int  # the next success that ends no earlier is wanted as an operation


class Script:
    """What an arrival asks, one after another, and the bytes of each. simple: it is one request, and any answer from
    200 to 399 will do."""

    __slots__ = ("encoded", "requests", "simple")

    def __init__(self, requests: tuple[Any, ...], encoded: tuple[bytes, ...], simple: bool) -> None:
        self.requests, self.encoded, self.simple = requests, encoded, simple


class Asked:
    """A request of an arrival, under way or waiting for a connection."""

    __slots__ = ("again", "began_ns", "due_ns", "number", "script", "step")

    def __init__(self, script: Script, number: int, due_ns: int, step: int = 0) -> None:
        self.script, self.number, self.due_ns, self.step = script, number, due_ns, step
        self.began_ns = 0  # when it was written to a connection; 0: not yet
        self.again = False  # it was sent before, on a connection that the server had closed


class FloodState:
    """Of a `Flood`."""

    now_ns: Callable[[], int]
    _due_ns: Callable[[int, int, int], int | Due]  # of its schedule
    _ended_ns: int | None  # when the schedule had no more
    _waiting: deque[Asked]
    _idle: list[Any]  # connections
    _scripts: list[Script]
    _tally: Any
    _began_ns: int
    _at_once: int
    _first: int  # the number of its first arrival, from 1,
    _every: int  # and so many further the next, of those of all processes
    _number: int  # of its own arrivals so far
    _started: int
    _finished: int
    _dropped: int
    _pending: bool  # the schedule wants to be asked again when one has finished
    _closing: bool
    _bodies: bool  # are looked at

    def read_directly(self) -> None:
        """From now on, on the running loop, the sockets of its connections may be."""

    def read_no_more(self) -> None:
        """Harmless where they were not."""

    def start_due(self, now_ns: int, most: int) -> int | Due | None:
        """Start what is due, at most so many arrivals: what the schedule says of the next; None if it was not asked."""
        for _ in range(most):
            due = self._due_ns(self._number, self._finished + self._dropped, now_ns - self._began_ns)
            if isinstance(due, Due) or self._began_ns + due > now_ns:
                return due
            number = self._first + self._number * self._every
            self._number += 1
            if self._started - self._finished >= self._at_once:
                self._dropped += 1
                continue
            self._started += 1
            due_ns = self._began_ns + due
            self._tally.late(now_ns - due_ns)
            asked = Asked(self._scripts[(number - 1) % len(self._scripts)], number, due_ns)  # they take turns
            connection = self._idle_one()
            if connection is not None:
                connection.ask(asked, now_ns)
            else:
                self._wait(asked)
        return None

    def _idle_one(self) -> Any:
        while self._idle:
            connection = self._idle.pop()  # the last that was used: the others may be closed by a server that counts
            if not connection.closed:
                return connection
        return None

    @abstractmethod
    def _wait(self, asked: Asked) -> None:
        """There is no connection for it yet."""


class ConnectionState:
    """Of a `Connection`."""

    asked: Asked | None
    closed: bool
    _read: bool  # something of the answer to `asked`
    _owner: Any
    _transport: Any

    def join(self) -> None:
        """Nothing that the server has sent waits in the transport: from now on the lane may read the socket."""

    def leave(self, resume: bool) -> None:
        """The lane reads it no more; whether its transport is to. Harmless where it did not."""

    def put(self, _request: bytes) -> bool:
        """Send it by the lane, which is False where it is to be sent by the transport."""
        return False


def decimal_edges(durations_ns: array[int]) -> list[tuple[int, int]]:
    """Durations in buckets whose edges are 1.00, 1.01, ... 2.00, 2.02, ... 5.00, 5.05, ... 10.0 times a power of ten:
    the upper edge of each that holds one, and how many it holds.

    A negative duration counts as 0, and one of more than 31 years as that.
    """
    durations = np.clip(np.asarray(durations_ns, dtype=np.int64), 0, 2 * _STEPS[-1])
    step = _STEPS[np.maximum(np.searchsorted(_STEPS, durations, side="right") - 1, 0)]
    units = np.maximum(step // 100, 1)
    uppers, counts = np.unique(-(-durations // units) * units, return_counts=True)
    return list(zip(uppers.tolist(), counts.tolist(), strict=True))


_STEPS = np.array([step * 10**power for power in range(18) for step in (1, 2, 5)], dtype=np.int64)
