"""Faults of the carrier and of the harness itself, where these are several processes: injected in each of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from busyhour.faults.undoing import to_the_end
from busyhour.model import Clock, Endpoint, Fault, FaultUnavailable, Proof

if TYPE_CHECKING:
    from busyhour.distributed.crew import Crew
    from busyhour.distributed.lines import Message
    from busyhour.distributed.member import Member

UNDO_SECONDS = 30.0
OF_WORKERS = "harness"


@dataclass(frozen=True)
class InEachWorker:
    """`fault` is number `index` of phase `number` of the plan, which every worker has."""

    fault: Fault
    crew: Crew
    number: int
    index: int

    @property
    def name(self) -> str:
        return self.fault.name

    @property
    def service(self) -> str:
        return self.fault.service

    @asynccontextmanager
    async def injected(self, endpoints: Mapping[str, Endpoint], clock: Clock) -> AsyncIterator[Proof]:
        """Raises FaultUnavailable where one of them cannot have it."""
        orders = self.crew.order_all("inject", number=self.number, fault=self.index)
        try:
            replies = await self.crew.replies(orders)
            for _, reply in replies:
                if "unavailable" in reply:
                    raise FaultUnavailable(str(reply["unavailable"]))
            yield _Proofs(self.crew, [(member, int(reply["re"])) for member, reply in replies])
        finally:
            # What was asked of them, whether they have answered or not, is undone by the number of the order.
            undoing = [member.order("undo", harm=number) for member, number, _ in orders]
            await to_the_end(_within(undoing, UNDO_SECONDS))


async def _within(orders: Sequence[asyncio.Future[Message]], seconds: float) -> None:
    if orders:
        await asyncio.wait(orders, timeout=seconds)


@dataclass(frozen=True)
class _Proofs:
    """It took effect if it did in any of them: of few calls a small share may be none."""

    crew: Crew
    harms: Sequence[tuple[Member, int]]

    async def effect(self) -> tuple[bool, str]:
        orders = [(member, harm, member.order("effect", harm=harm)) for member, harm in self.harms]
        replies = await self.crew.replies(orders)
        told = "; ".join(f"{member.name}: {reply['because']}" for member, reply in replies)
        return any(bool(reply["effective"]) for _, reply in replies), told or "no worker is left that had it"
