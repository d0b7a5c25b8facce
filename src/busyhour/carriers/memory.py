"""A telephone line in memory: an agent of known manners on any clock, for testing workloads and whole plans at once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from busyhour.model import (
    JSON,
    MS,
    SECOND,
    Audio,
    CallFailed,
    CallSetup,
    Clock,
    Endpoint,
    Heard,
    HeardKind,
    Line,
    Spoken,
)
from busyhour.share import Share


@dataclass(frozen=True, kw_only=True)
class Manner:
    """How the agent in memory behaves; numbers of turns count from 1 within a call."""

    greets_after_ms: int = 200
    answers_after_ms: int = 400
    speaks_ms: int = 2000
    stops_after_ms: int = 150  # when talked over
    misses_turn: int = 0  # this turn is not answered
    refuses: str = ""  # every call fails with this reason
    hangs_up_after_turn: int = 0
    hangs_up_after_ms: int = 0  # since the call was answered
    pauses_ms: int = 0  # in the middle of each answer
    hangover_ms: int = 500  # after its end the caller is told of it


@dataclass(kw_only=True, eq=False)
class MemoryCarrier:
    """A Carrier without a wire: `dial` gives MemoryLines whose far end has these manners."""

    clock: Clock
    manner: Manner = field(default_factory=Manner)
    name: str = "carrier"
    dialled: list[CallSetup] = field(default_factory=list)

    @asynccontextmanager
    async def running(self, peers: Mapping[str, Endpoint]) -> AsyncIterator[Endpoint]:
        yield Endpoint("memory:")

    def of_share(self, share: Share) -> MemoryCarrier:
        return self

    @asynccontextmanager
    async def dial(self, target: Endpoint, call: CallSetup) -> AsyncIterator[Line]:
        self.dialled.append(call)
        if self.manner.refuses:
            raise CallFailed(self.manner.refuses)
        line = MemoryLine(self.clock, self.manner)
        try:
            yield line
        finally:
            await line.hang_up()


@dataclass(eq=False)
class MemoryService:
    """A Service that is nothing but a name; `log` tells when it was started and stopped."""

    name: str
    log: list[str] = field(default_factory=list)

    @asynccontextmanager
    async def running(self, peers: Mapping[str, Endpoint]) -> AsyncIterator[Endpoint]:
        self.log.append(f"{self.name} started")
        try:
            yield Endpoint("memory:")
        finally:
            self.log.append(f"{self.name} stopped")


class MemoryLine:
    """A Line whose far end answers by its Manner. Truth and measurement are the same numbers here."""

    def __init__(self, clock: Clock, manner: Manner) -> None:
        self._clock, self._manner = clock, manner
        self.answered_ns = self.opened_ns = clock.now_ns()
        self.pressed = ""
        self.trail: list[tuple[int, str]] = []
        self.detail: dict[str, JSON] = {}
        self._turns = 0
        self._ends_ns: int | None = None
        self._events: list[Heard] = []
        self._speak(self.opened_ns + manner.greets_after_ms * MS)
        if manner.hangs_up_after_ms:
            self._hang_up_at(self.opened_ns + manner.hangs_up_after_ms * MS)

    async def say(self, audio: Audio) -> Spoken:
        base_ns, rate = self._clock.now_ns(), audio.rate_hz
        spoken = Spoken(
            base_ns + audio.speech_began * SECOND // rate,
            base_ns + audio.speech_ended * SECOND // rate,
        )
        if self._ends_ns is not None and self._ends_ns <= spoken.ended_ns:
            raise CallFailed("lost", "hung up")
        self._fall_silent(spoken.began_ns + self._manner.stops_after_ms * MS)
        self._turns += 1
        if self._turns != self._manner.misses_turn:
            self._speak(spoken.ended_ns + self._manner.answers_after_ms * MS)
        if self._turns == self._manner.hangs_up_after_turn:
            self._hang_up_at(self._events[-1].at_ns)
        await self._clock.sleep_until(base_ns + len(audio.samples) * SECOND // rate)
        return spoken

    async def hear(self, until_ns: int) -> Heard | None:
        told_ns = self._told_ns(self._events[0]) if self._events else None
        if told_ns is None or told_ns > max(until_ns, self._clock.now_ns()):
            await self._clock.sleep_until(until_ns)
            return None
        await self._clock.sleep_until(told_ns)
        first = self._events[0]
        return first if first.kind is HeardKind.ENDED else self._events.pop(0)

    async def press(self, digits: str) -> None:
        self.pressed += digits

    async def hang_up(self) -> None:
        now_ns = self._clock.now_ns()
        if self._ends_ns is None or self._ends_ns > now_ns:
            self._hang_up_at(now_ns)

    def _speak(self, from_ns: int) -> None:
        manner, to_ns = self._manner, from_ns + self._manner.speaks_ms * MS
        self._events.append(Heard(HeardKind.ONSET, from_ns))
        if manner.pauses_ms:
            middle_ns = (from_ns + to_ns) // 2
            self._events.append(Heard(HeardKind.OFFSET, middle_ns))
            self._events.append(Heard(HeardKind.ONSET, middle_ns + manner.pauses_ms * MS))
            to_ns += manner.pauses_ms * MS
        self._events.append(Heard(HeardKind.OFFSET, to_ns))

    def _hang_up_at(self, at_ns: int) -> None:
        self._ends_ns = at_ns
        self._events = [event for event in self._events if event.at_ns <= at_ns]
        self._events.append(Heard(HeardKind.ENDED, at_ns, detail="hung up"))

    def _fall_silent(self, at_ns: int) -> None:
        """Whoever is talked over stops; what they had not begun to say is not said."""
        kept = [event for event in self._events if event.at_ns < at_ns]
        rest = self._events[len(kept) :]
        if rest and rest[0].kind is HeardKind.OFFSET:
            kept.append(Heard(HeardKind.OFFSET, at_ns))
        self._events = kept

    def _told_ns(self, event: Heard) -> int:
        return event.at_ns + (self._manner.hangover_ms * MS if event.kind is HeardKind.OFFSET else 0)
