"""A carrier of documents at work: opened, and calls dialled through it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

from busyhour.carriers.background import Background
from busyhour.carriers.documents.api import application
from busyhour.carriers.documents.call import DocumentCall
from busyhour.carriers.documents.courier import Courier, Sign
from busyhour.carriers.documents.exchange import Exchange, Manners, Provider
from busyhour.carriers.documents.script import Source
from busyhour.carriers.line import CallerLine
from busyhour.carriers.serving import SETTLE_SECONDS, client, serving
from busyhour.disturbance import COMMANDS, MEDIA, STREAMS, Kind
from busyhour.media.studio import Studio
from busyhour.model import CallSetup, Endpoint

VICES: frozenset[Kind] = MEDIA | STREAMS | COMMANDS | {"webhook.late", "webhook.signature"}
"""What faults may do to such a carrier."""


@asynccontextmanager
async def opened(
    *,
    provider: Provider,
    manners: Manners,
    sign: Sign,
    webhook_timeout_seconds: float,
    webhook_retries: int,
    port: int,
    name: str,
    api_prefix: str,
    api_suffix: str,
    vices: frozenset[Kind] = VICES,
) -> AsyncIterator[tuple[Exchange, int]]:
    """The exchange, and the port of its API. Raises ServiceError when the port is taken."""
    studio = Studio(vices=vices)
    async with (
        studio.turning(),
        client(webhook_timeout_seconds) as session,
        Background(SETTLE_SECONDS) as background,
    ):
        exchange = Exchange(
            clock=studio.clock,
            studio=studio,
            background=background,
            provider=provider,
            manners=manners,
            courier=Courier(
                session=session,
                clock=studio.clock,
                sign=sign,
                disturbance=studio.disturbance,
                retries=webhook_retries,
            ),
        )
        async with serving(application(exchange, api_prefix, api_suffix), port, name) as found_port:
            try:
                yield exchange, found_port
            finally:
                # Nobody should be left, for calls are dialled inside of `running`.
                await asyncio.gather(*(call.release() for call in list(exchange.calls.values())))


@asynccontextmanager
async def dialled(
    exchange: Exchange, target: Endpoint, setup: CallSetup, *, source: Source, random: Random
) -> AsyncIterator[CallerLine]:
    """Call the agent, and do as the document says; hang up on the way out. Raises CallFailed."""
    await exchange.studio.wheel.admitted()
    call = DocumentCall(exchange, setup, target.url, source, random)
    exchange.calls[call.sid] = call
    try:
        await call.ring()
        yield CallerLine(call)
    finally:
        await call.release()
