"""The parts of a stream's way through the proxy: flows in a row, each of which hands on to the next.

A *stage* is what one toxic does to one stream of one connection. It is told when its attributes have changed
(`changed`, it reads them anew), when its toxic is removed (`release`: what it holds goes on, in order) and when the
connection is over (`discard`).
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, Protocol

from busyhour.faults.proxy.toxic import Toxic
from busyhour.timers import Alarms


class Flow(Protocol):
    def feed(self, data: bytes) -> None: ...

    def end(self, *, reset: bool) -> None:
        """No data after these: the sender has closed its half (FIN), or with `reset` broken the connection (RST)."""
        ...


class Stage(Flow, Protocol):
    out: Flow

    @property
    def held_bytes(self) -> int: ...

    @property
    def room_bytes(self) -> int:
        """Of held bytes; beyond it the sender is not read from."""
        ...

    def changed(self) -> None: ...

    def release(self) -> bool:
        """Hand on what is held and do no harm any more; False if it must stay in the row, to mend what follows."""
        ...

    def discard(self) -> None: ...


class Grasp:
    """A toxic's grasp on one stream of one connection: all that a stage can reach beside the data."""

    def __init__(
        self,
        *,
        toxic: Toxic,
        alarms: Alarms,
        random: Random,
        fresh: bool,
        reset: Callable[[], None],
        abandon: Callable[[], None],
        relieved: Callable[[], None],
    ) -> None:
        self.alarms = alarms
        self.random = random
        self.fresh = fresh  # no byte has passed on this connection yet
        self.reset = reset  # both sides, with RST
        self.relieved = relieved  # a stage holds less than before
        self.abandon = abandon  # close the side that sends this stream; what the other still says is not heard
        self.toxic = toxic
        self._touched = False

    @property
    def attributes(self) -> Any:
        return self.toxic.form.attributes

    def count(self, *, events: int = 1, bytes: int = 0) -> None:  # noqa: A002  (what it counts)
        """The toxic has taken effect: this is its proof."""
        effect = self.toxic.effect
        effect.events += events
        effect.bytes += bytes
        if not self._touched:
            self._touched = True
            effect.connections += 1

    def cut(self, out: Flow) -> None:
        """End the stream in good order for whoever receives it; whoever sends it finds the connection closed."""
        out.end(reset=False)
        self.abandon()
