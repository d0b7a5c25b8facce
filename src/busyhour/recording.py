"""The sound of calls as values: which are to be kept, what was kept, and how bad a call was. Imports nothing of ours.

A recording has two channels on one time axis, whose zero is an instant of the monotonic clock (`began_ns`): operations
and marks of the journal are drawn on it by subtraction. The caller's is what was said, each frame ending when it was
handed to the network; the agent's is what the caller *heard*: on the played-out clock, without what `clear` took back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

_SECOND = 1_000_000_000
_SAMPLED_BYTES_MAX = 100_000_000
_ALL_BYTES_MAX = 10_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """Which calls of a run are kept as sound.

    A call is recorded when fewer than `at_once` are being recorded as it begins; the first `seconds_max` of it. Of
    those of each phase, `sample` are kept that are drawn at random, and the `worst`. Together they are kept to
    `megabytes_max` (100; 10,000 of `all`), of which each phase has an equal part.
    """

    all: bool = False  # record and keep every call
    sample: int = 5
    worst: int = 10
    at_once: int = 20
    seconds_max: float = 600.0
    megabytes_max: float | None = None

    @classmethod
    def off(cls) -> Recording:
        """No call is recorded."""
        return cls(sample=0, worst=0)

    @property
    def on(self) -> bool:
        return self.all or self.sample > 0 or self.worst > 0

    @property
    def bytes_max(self) -> int:
        if self.megabytes_max is None:
            return _ALL_BYTES_MAX if self.all else _SAMPLED_BYTES_MAX
        return round(self.megabytes_max * 1e6)

    def problems(self) -> list[str]:
        """What is wrong with it, for people who write plans."""
        wrong = [
            f"Recording({name}={getattr(self, name)}): it cannot be less than {least}"
            for name, least in (("sample", 0), ("worst", 0), ("at_once", 1))
            if getattr(self, name) < least
        ]
        wrong += [
            f"Recording({name}={value:g}): it must be more than 0; to record nothing, give Recording.off()"
            for name in ("seconds_max", "megabytes_max")
            if (value := getattr(self, name)) is not None and not value > 0
        ]
        return wrong


# ---------------------------------------------------------------- sound


@dataclass(frozen=True, slots=True, eq=False)
class Track:
    """One channel without its silence. `runs` has a row for each stretch of sound, in order: the sample at which it
    begins, and how many it has; their octets follow each other in `octets`."""

    octets: bytes
    runs: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Sound:
    """Both channels of one call from `began_ns` to `ended_ns`."""

    began_ns: int
    ended_ns: int
    codec: str  # "PCMU", "PCMA", or "L16": 16 bits, little-endian whatever it was on the wire
    rate_hz: int
    silence: bytes  # the octets of one sample of it
    caller: Track
    agent: Track
    clears_ns: tuple[int, ...] = ()  # when the agent took back what was not yet played
    marks: tuple[tuple[int, str], ...] = ()  # the agent's marks that were played, and when
    cut: bool = False  # the call went on: it was longer than what is kept of one

    @property
    def samples(self) -> int:
        """Of each channel."""
        return at_sample(self.ended_ns - self.began_ns, self.rate_hz)

    @property
    def bytes(self) -> int:
        """What it takes to keep."""
        return sum(len(track.octets) + track.runs.nbytes for track in (self.caller, self.agent))

    def octets(self, track: Track) -> bytearray:
        """A channel with its silence: `samples` samples."""
        width, end = len(self.silence), self.samples
        whole, taken = bytearray(self.silence * end), 0
        for begin, count in track.runs.tolist():
            first, last = max(0, begin), min(end, begin + count)
            if first < last:
                at = (taken + first - begin) * width
                whole[first * width : last * width] = track.octets[at : at + (last - first) * width]
            taken += count
        return whole


def at_sample(ns: int, rate_hz: int) -> int:
    """The number of the sample nearest to an instant, so many ns after the zero."""
    return (ns * rate_hz + _SECOND // 2) // _SECOND


# ---------------------------------------------------------------- how bad a call was


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What a caller had to bear in one call."""

    outcome: str = "ok"
    why: str = ""
    response_ns: int = 0  # the longest of its answered turns
    dead_air_ns: int = 0  # the longest silence that the agent owed
    missed: int = 0  # turns, the greeting among them, that were not answered
    ungreeted: bool = False  # the greeting is one of them
    talked_over: int = 0  # barge-ins to which the agent did not yield
    yield_ns: int = 0  # the longest it took to yield
    cut_ins: int = 0  # turns that the agent answered before the caller had ended
    cut_in_ns: int = 0  # the longest before
    holes: int = 0  # in the agent's speech: underruns
    hole_ns: int = 0  # the longest


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """A call whose sound is in the journal; `StoredRun.recording(call)` has the sound itself."""

    call: str
    phase: str
    began_ns: int
    ended_ns: int
    codec: str
    rate_hz: int
    bytes: int
    cut: bool = False
    clears_ns: tuple[int, ...] = ()
    marks: tuple[tuple[int, str], ...] = ()
    figures: Figures = field(default_factory=Figures)


_Badness: TypeAlias = tuple[str, int]  # of what kind, and how bad; 0: not


def badness(figures: Figures) -> Sequence[_Badness]:
    """By kind; the worst of each kind is worth hearing before the second of any."""
    return (
        ("response", figures.response_ns),
        ("dead air", figures.dead_air_ns),
        ("barge-in", _counted(figures.talked_over, figures.yield_ns)),
        ("unanswered", figures.missed),
        ("failed", int(figures.outcome != "ok")),
        ("early", _counted(figures.cut_ins, figures.cut_in_ns)),
        ("underrun", _counted(figures.holes, figures.hole_ns)),
    )


def _counted(count: int, longest_ns: int) -> int:
    """More of them are worse, and of as many the longer."""
    return count * 3_600 * _SECOND + longest_ns


def unanswered(figures: Figures) -> str:
    """In words: "no greeting, 2 unanswered"; "" if all was answered."""
    turns = figures.missed - figures.ungreeted
    return ", ".join(["no greeting"] * figures.ungreeted + [f"{turns} unanswered"] * (turns > 0))


def worst(calls: Mapping[str, Figures], most: int) -> dict[str, str]:
    """The worst calls, at most so many, each with the kind for which it was taken: the worst by each kind in turn, then
    the next of each. Ties go to the call whose name comes first."""
    ranked: dict[str, list[tuple[int, str]]] = {}
    for call, figures in calls.items():
        for kind, how_bad in badness(figures):
            if how_bad > 0:
                ranked.setdefault(kind, []).append((-how_bad, call))
    orders = [(kind, iter(sorted(ranked[kind]))) for kind, _ in badness(Figures()) if kind in ranked]
    taken: dict[str, str] = {}
    while orders and len(taken) < most:
        for order in list(orders):
            kind, rest = order
            fresh = next((name for _, name in rest if name not in taken), None)
            if fresh is None:
                orders.remove(order)
            elif len(taken) < most:
                taken[fresh] = kind
    return taken


# ---------------------------------------------------------------- who has sound, and who takes it


@runtime_checkable
class Recordable(Protocol):
    """A line that keeps the sound of a call whose setup asks for it (`CallSetup.record_ns`)."""

    def recorded(self) -> Sound | None:
        """Once the call is over; None if nothing was kept."""
        ...


@runtime_checkable
class Shelf(Protocol):
    """Where recordings are kept; neither call waits for it."""

    def keep(self, recorded: Recorded, sound: Sound) -> None: ...

    def discard(self, calls: Iterable[str]) -> None:
        """Forget those that were kept before."""
        ...
