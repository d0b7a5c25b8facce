"""Several workloads in one phase: what happens at the same time is of one phase, and read by its gates together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from busyhour.model import Arrival, Checkable, Workload
from busyhour.workloads.call import Call


@dataclass(frozen=True)
class InTurn:
    """The first arrival of a phase does what the first of the workloads does, the second the second; after the last it
    is the first one's turn again: `InTurn([long, *[short] * 5])` is one long call to five short ones."""

    workloads: Sequence[Workload]

    @property
    def called(self) -> frozenset[str]:
        """The names of the services that they call beside the plan's target."""
        return frozenset().union(*(one.called for one in self.workloads if isinstance(one, Call)))

    @property
    def places_calls(self) -> bool:
        return any(isinstance(one, Call) for one in self.workloads)

    def problems(self) -> list[str]:
        if not self.workloads:
            return ["InTurn needs at least one workload"]
        found = [problem for one in self.workloads if isinstance(one, Checkable) for problem in one.problems()]
        return list(dict.fromkeys(found))

    async def perform(self, arrival: Arrival) -> None:
        number = int(arrival.id.rpartition("/")[2])
        await self.workloads[(number - 1) % len(self.workloads)].perform(arrival)
