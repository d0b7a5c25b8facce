"""The room in which the connections of the Deepgram twin are listened to together."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest

from busyhour.clock import VirtualClock
from busyhour.emulators.deepgram.messages import Ear, Piece
from busyhour.emulators.deepgram.room import WAIT_MS_AT_MOST, Room
from busyhour.emulators.listening import Event, Final, Listener, SpeechBegan, Vocabulary
from busyhour.media.codec import codec
from busyhour.media.utterances import utterance
from busyhour.model import MS, Samples

VOCABULARY = Vocabulary([utterance("price.card", 16_000), utterance("hours.sunday", 16_000)])
PIECE = 640
"""Samples in 80 ms."""


class Guest:
    """Has pieces of a sound, one for each turn; `broken`: where it raises."""

    def __init__(self, sound: Samples, *, broken: str = "") -> None:
        self.listener = Listener(VOCABULARY, 8_000, endpoint_ms=300)
        self._sound = sound
        self._broken = broken
        self.turns = 0
        self.over = asyncio.Event()  # the first turn
        self.events: list[Event] = []
        self.failed: BaseException | None = None

    def piece(self) -> list[Piece]:
        if self._broken == "piece":
            raise ZeroDivisionError("a bug")
        piece, self._sound = self._sound[:PIECE], self._sound[PIECE:]
        return [(self.listener, piece)] if len(piece) else []

    def heard(self, events: Sequence[Sequence[Event]]) -> None:
        self.turns += 1
        self.over.set()
        if self._broken == "heard":
            raise ConnectionAbortedError
        for found in events:
            self.events += found

    def fail(self, problem: BaseException) -> None:
        self.failed = problem

    @property
    def texts(self) -> list[str]:
        return [event.transcript.text for event in self.events if isinstance(event, Final)]


def said(name: str) -> Samples:
    return np.concatenate([utterance(name, 8_000).samples, np.zeros(8_000, np.int16)])


async def turn(room: Room, *guests: Guest) -> None:
    """Let them all ask for a turn, and have it."""
    for guest in guests:
        room.await_turn(guest)
    await asyncio.sleep(WAIT_MS_AT_MOST / 1000)


def test_each_guest_hears_its_own() -> None:
    async def main() -> None:
        room = Room()
        guests = [Guest(said("price.card")), Guest(said("hours.sunday")), Guest(np.zeros(PIECE * 3, np.int16))]
        with room.entered(guests[0]), room.entered(guests[1]), room.entered(guests[2]):
            for _ in range(60):
                await turn(room, *guests)
        assert [guest.texts for guest in guests] == [["Can I pay by credit card?"], ["Are you open on Sundays?"], []]
        assert sum(isinstance(event, SpeechBegan) for guest in guests for event in guest.events) == 2
        assert guests[2].turns == 3  # a turn without anything to hear is none
        assert [guest.failed for guest in guests] == [None] * 3

    VirtualClock().run(main())


def test_a_turn_comes_once_however_often_it_is_asked_for() -> None:
    async def main() -> None:
        room, guest = Room(), Guest(np.zeros(PIECE * 9, np.int16))
        with room.entered(guest):
            for _ in range(5):
                room.await_turn(guest)
            assert guest.turns == 0  # never from inside
            await asyncio.sleep(1)
        assert guest.turns == 1

    VirtualClock().run(main())


@pytest.mark.parametrize(("guests", "waits_ms"), [(1, 0.4), (10, 4), (50, 20), (500, 20)])
def test_the_wait_grows_with_the_guests_and_has_a_limit(guests: int, waits_ms: float) -> None:
    clock = VirtualClock()

    async def main() -> float:
        room, guest = Room(), Guest(np.zeros(PIECE, np.int16))
        inside = [room.entered(Guest(np.zeros(0, np.int16))) for _ in range(guests - 1)]
        for one in inside:
            one.__enter__()
        with room.entered(guest):
            began_ns = clock.now_ns()
            room.await_turn(guest)
            await guest.over.wait()
            return (clock.now_ns() - began_ns) / MS

    assert clock.run(main()) == pytest.approx(waits_ms, abs=0.2)


def test_who_has_left_has_no_turn() -> None:
    async def main() -> None:
        room, guest, other = Room(), Guest(np.zeros(PIECE, np.int16)), Guest(np.zeros(PIECE, np.int16))
        with room.entered(other):
            with room.entered(guest):
                room.await_turn(guest)
                room.await_turn(other)
            await asyncio.sleep(1)
            assert (guest.turns, other.turns) == (0, 1)
            with room.entered(guest):
                await turn(room, guest)  # and the room goes on
            assert guest.turns == 1

    VirtualClock().run(main())


def test_one_that_breaks_is_told_and_the_others_go_on() -> None:
    async def main() -> None:
        room = Room()
        guests = [Guest(said("price.card")), Guest(said("price.card"), broken="heard"), Guest(said("price.card"))]
        with room.entered(guests[0]), room.entered(guests[1]), room.entered(guests[2]):
            for _ in range(60):
                await turn(room, *guests)
        assert [type(guest.failed) for guest in guests] == [type(None), ConnectionAbortedError, type(None)]
        assert [len(guest.texts) for guest in guests] == [1, 0, 1]

    VirtualClock().run(main())


def test_a_bug_while_all_are_heard_is_told_to_all_who_waited() -> None:
    async def main() -> None:
        room = Room()
        guests = [Guest(said("price.card")), Guest(said("price.card"), broken="piece")]
        with room.entered(guests[0]), room.entered(guests[1]):
            await turn(room, *guests)
        assert [str(guest.failed) for guest in guests] == ["a bug", "a bug"]

    VirtualClock().run(main())


# ---------------------------------------------------------------- the ear


@pytest.mark.parametrize(("encoding", "channels"), [("mulaw", 1), ("alaw", 2), ("linear16", 1), ("linear16", 2)])
def test_the_pieces_are_the_same_however_the_octets_were_cut(encoding: str, channels: int) -> None:
    random = np.random.default_rng(3)
    samples = random.integers(-8_000, 8_000, 8_000 * channels, np.int16)
    law = {"mulaw": codec("PCMU"), "alaw": codec("PCMA"), "linear16": codec("L16", little_endian=True)}[encoding]
    octets = law.encode(samples)
    for cuts in (1, 160, 999, len(octets)):
        ear = Ear(encoding, 8_000, channels)
        pieces: list[Samples] = []
        for at in range(0, len(octets), cuts):
            waiting = ear.take(octets[at : at + cuts])
            for _ in range(waiting):
                piece = ear.piece()
                assert piece is not None
                assert piece.shape == (PIECE, channels)
                pieces.append(piece)
            assert ear.piece() is None
        rest = ear.rest()
        assert rest is not None
        assert len(rest) < PIECE
        assert ear.rest() is None
        assert ear.samples == 8_000
        whole = np.concatenate([*pieces, rest]).reshape(-1)
        assert np.array_equal(whole, law.decode(octets))
