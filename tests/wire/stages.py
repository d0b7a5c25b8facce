"""What the tests of the twins share: a twin on a real socket in this process, the SDK's client on it, and its rows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import openai

from busyhour.clock import SystemClock
from busyhour.emulators import Constant
from busyhour.emulators.openai import OpenAI
from busyhour.emulators.openai.application import application as openai_application
from busyhour.emulators.twin import Build, Twin, listening
from busyhour.emulators.vendor import VendorTwin
from busyhour.model import JSON, Operation

PARKING = "There is free parking right behind the building."
OFFER = "We have nine o'clock in the morning or half past two in the afternoon."
AT_ONCE: Mapping[str, Any] = {"first_token": Constant(0), "between_tokens": Constant(0)}
"""The settings of a language model whose answers take no time."""
Client = TypeVar("Client")


async def rows_of(twin: Twin, count: int = 1, *, kind: str = "") -> list[Operation]:
    """The next witnessed operations (of a kind): they may be written a moment after the client saw the end."""
    found: list[Operation] = []
    async with asyncio.timeout(60):
        while len(found) < count:
            found += [row for row in twin.drain()[0] if kind in ("", row.kind)]
            await asyncio.sleep(0.002)
    assert len(found) == count
    return found


async def row_of(twin: Twin) -> Operation:
    """The next witnessed operation, which comes alone."""
    (row,) = await rows_of(twin)
    return row


@dataclass
class Stage(Generic[Client]):
    """A twin on a real socket in this process, and the SDK's client on it."""

    twin: Twin
    url: str
    client: Client

    async def row(self) -> Operation:
        return await row_of(self.twin)

    async def rows(self, count: int = 1) -> list[Operation]:
        return await rows_of(self.twin, count)


@asynccontextmanager
async def served(
    service: VendorTwin, application: Build, more: Mapping[str, JSON] | None = None
) -> AsyncIterator[tuple[Twin, str]]:
    """The twin as the service would start it, but in this process, and its origin. more: the vendor's own settings."""
    twin = Twin(service.name, service._behaviour, SystemClock())
    async with listening(application(twin, more or {})) as port:
        yield twin, f"http://127.0.0.1:{port}"


@asynccontextmanager
async def playing_openai(
    more: Mapping[str, JSON] | None = None, **settings: Any
) -> AsyncIterator[Stage[openai.AsyncOpenAI]]:
    """By default tokens come at once."""
    async with (
        served(OpenAI(**{**AT_ONCE, **settings}), openai_application, more) as (twin, origin),
        openai.AsyncOpenAI(base_url=f"{origin}/v1", api_key="sk-test", max_retries=0, timeout=60) as client,
    ):
        yield Stage(twin, f"{origin}/v1", client)
