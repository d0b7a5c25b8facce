"""The room in which all connections of a process are listened to together.

A piece of 80 ms costs much less when it is heard with others: numpy is called once for all of them, and the processor
still has the code and the references at hand. So a connection that has a piece waits for the next turn, the longer the
more connections there are. Nothing that is said is later for it than its setting, unless that is below 80 ms: what is
heard is dated by its arrival.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from busyhour.emulators.deepgram.messages import Piece
from busyhour.emulators.listening import Event, hear_together

WAIT_MS_EACH, WAIT_MS_AT_MOST = 0.4, 20.0
"""Until the next turn: for each connection, and with any number of them."""


class Guest(Protocol):
    def piece(self) -> list[Piece]:
        """What it has to be heard, for each of its listeners; empty if nothing any more."""
        ...

    def heard(self, events: Sequence[Sequence[Event]]) -> None:
        """What was heard in that."""
        ...

    def fail(self, problem: BaseException) -> None:
        """What `piece` or `heard` raised, or what befell all."""
        ...


class Room:
    """One for all connections of a process."""

    def __init__(self) -> None:
        self._guests = 0
        self._waiting: dict[Guest, None] = {}
        self._timer: asyncio.TimerHandle | None = None

    @contextmanager
    def entered(self, guest: Guest) -> Iterator[None]:
        """Inside, the guest may wait for its turn; after, none comes."""
        self._guests += 1
        try:
            yield
        finally:
            self._guests -= 1
            self._waiting.pop(guest, None)
            if self._timer is not None and not self._waiting:
                self._timer.cancel()
                self._timer = None

    def await_turn(self, guest: Guest) -> None:
        """Have it heard soon; once, however often this is asked before."""
        self._waiting[guest] = None
        if self._timer is None:
            wait_ms = min(WAIT_MS_AT_MOST, self._guests * WAIT_MS_EACH)
            self._timer = asyncio.get_running_loop().call_later(wait_ms / 1000, self._take_turns)

    def _take_turns(self) -> None:
        self._timer = None
        guests, self._waiting = list(self._waiting), {}
        try:
            pieces = [guest.piece() for guest in guests]
            events = iter(hear_together([piece for some in pieces for piece in some]))
        except BaseException as problem:
            # A callback has nobody to raise to, and whoever waited would wait for ever.
            for guest in guests:
                guest.fail(problem)
            return
        for guest, some in zip(guests, pieces, strict=True):
            heard = [next(events) for _ in some]
            if not heard:
                continue
            try:
                guest.heard(heard)
            except BaseException as problem:
                guest.fail(problem)
