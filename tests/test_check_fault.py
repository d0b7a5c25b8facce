"""The conformance check of faults tells a good one from those that do not keep the contract."""

from __future__ import annotations

import sys
from asyncio import CancelledError
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from busyhour.model import Clock, Endpoint
from busyhour.testing import MemoryService, check_fault


@dataclass
class Lamp:
    """What a fault may switch off. defects: what the fault does wrong."""

    lit: bool = True
    looked: int = 0
    log: list[str] = field(default_factory=list)

    async def state(self, _: Endpoint) -> bool:
        return self.lit

    async def look(self, _: Endpoint) -> None:
        self.looked += 1


@dataclass
class Switch:
    lamp: Lamp
    defect: str = ""
    name: str = "dark"
    service: str = "house"

    @asynccontextmanager
    async def injected(self, endpoints: Mapping[str, Endpoint], clock: Clock) -> AsyncIterator[Switch]:
        self.lamp.lit = self.defect == "does nothing"
        self.lamp.looked = 0
        self.lamp.log.append("injected")
        try:
            yield self
        finally:
            left_by = sys.exc_info()[0]
            how = "" if left_by is None else " by cancellation" if left_by is CancelledError else " by an exception"
            if self.defect != f"is not undone{how}":
                self.lamp.lit = True
            if self.defect == "forgets":
                self.lamp.looked = 0

    async def effect(self) -> tuple[bool, str]:
        return self.lamp.looked > 0 and self.defect != "proves nothing", f"{self.lamp.looked} stumbled"


async def checked(defect: str) -> str:
    lamp = Lamp()
    because = await check_fault(
        lambda: Switch(lamp, defect),
        MemoryService("house"),
        state=lamp.state,
        provoke=lamp.look,
        within_seconds=0.05,
    )
    assert lamp.log == ["injected"] * 3
    return because


async def test_a_good_one_passes_and_its_proof_is_given() -> None:
    assert await checked("") == "1 stumbled"


@pytest.mark.parametrize(
    ("defect", "words"),
    [
        ("does nothing", "dark, left in order: nothing is changed while it is injected"),
        ("is not undone", "dark, left in order: it was not undone: True is False"),
        ("is not undone by an exception", "dark, left by an exception: it was not undone"),
        ("is not undone by cancellation", "dark, left by cancellation: it was not undone"),
        ("proves nothing", "dark, left in order: no proof in time: [0-9]+ stumbled"),
        ("forgets", "dark, left in order: its proof is forgotten when it is over: 0 stumbled"),
    ],
)
async def test_what_breaks_the_contract_is_told(defect: str, words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        await checked(defect)
