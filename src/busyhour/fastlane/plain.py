"""What the fast lane works on, where it is not compiled: plain objects with the same names, and no short cuts.

All that a call does is written in Python, in `media` and `carriers`. These are the few attributes of it that the
compiled lane reads and writes as well.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from picows import WSListener, WSTransport

from busyhour.errors import ProtocolError


class WheelState:
    hurry_ns: int  # from when on `Wheel.hurry` does something


class InboxState:
    reads: int  # how often all that had arrived was read

    def open(self) -> None:
        """The running loop begins to turn the wheel: sockets may be read directly."""

    def close(self) -> None:
        """Their transports read them again. Harmless when it is not open."""


class DisturbanceState:
    media: bool  # whether any vice of media is set


class PlayoutState:
    """Of a `Playout`; times in ns."""

    tells_ns: int
    ended_ns: int
    _whole_ns: int
    _hush_ns: int  # NO_HUSH: none
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

    def leave(self, resume: bool) -> None:
        """Read it no more; whether its transport is to."""


class Meter(Protocol):
    """Knows frames of 20 ms of one codec. Compiled only."""

    def loud(self, payload: bytes) -> bytes | None:
        """One octet for each window of a frame in base64, 1 if it is loud; None if that is no frame."""
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
