"""A workload that does nothing: to see what a system does when nothing is asked of it."""

from __future__ import annotations

from dataclasses import dataclass

from busyhour.model import SECOND, Arrival


@dataclass(frozen=True)
class Idle:
    """Each arrival waits for `seconds` and leaves no operation behind."""

    seconds: float

    async def perform(self, arrival: Arrival) -> None:
        await arrival.clock.sleep_until(arrival.due_ns + round(self.seconds * SECOND))
