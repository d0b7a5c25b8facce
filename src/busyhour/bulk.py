"""The optional capability of a workload to perform a whole phase by itself.

Tens of thousands of arrivals a second leave no room for a task, a random source and a row of the journal for each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from busyhour.model import Arrivals, Clock, Endpoint, Mark, Operation, Sample
from busyhour.share import WHOLE, Share


@dataclass(slots=True)
class Counts:
    """How a phase stands, kept by the workload and read by the engine; `dropped` found no place."""

    started: int = 0
    finished: int = 0
    failed: int = 0
    dropped: int = 0
    turns: int = 0  # of calls, if it is those that it performs
    missed: int = 0
    latencies_ms: list[float] = field(default_factory=list)  # of turns, since the engine last took them
    lateness_p99_ms: float | None = None


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """A phase as the engine hands it over: its schedule from `began_ns` on, its limits, and where to write.

    At most `at_once` arrivals are in progress, `counts` says how many found no place; what is not finished
    `drain_seconds` after the last arrival is "cut off". Schedule and limits are those of the share; a bound or a name
    of the workload's own is to be shared, too.
    """

    phase: str
    arrivals: Arrivals
    at_once: int
    drain_seconds: float
    began_ns: int
    clock: Clock
    target: Endpoint
    write: Callable[[Operation | Sample | Mark], None]
    counts: Counts
    share: Share = WHOLE


@runtime_checkable
class Connecting(Protocol):
    """A workload with connections of its own to the target."""

    @property
    def connections(self) -> int:
        """How many there are at most at a time; each takes a descriptor of ours, and a port."""
        ...


@runtime_checkable
class Bulk(Protocol):
    """A Workload that may be handed a whole phase. What it does must be what `perform` does for each arrival."""

    async def perform_all(self, stretch: Stretch) -> None:
        """Perform the phase and return when it is over; cancelled, write what is in progress as "cut off".

        Write readings as weighted samples about once a second: memory must not grow with the length of the phase.
        """
        ...
