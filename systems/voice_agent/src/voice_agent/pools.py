"""HTTP connections to vendors: shared by all calls, kept for the next request, and no longer.

httpx pools them. A pool has only so many, and counts on nobody being cancelled at certain instants of a request: then a
connection is in use for ever. Here callers hang up and interrupt whenever they like, so what ends a request is not
broken off, and what is in use without a request is closed.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx

from voice_agent.settings import Settings

_IDLE_SECONDS = 4.0  # of a connection: many servers close theirs after 5, and a request may cross with that
_LOOK_SECONDS = 1.0  # between two looks for idle ones


def pool(
    base_url: str, headers: Mapping[str, str], settings: Settings, tls: ssl.SSLContext | bool
) -> httpx.AsyncClient:
    """For one vendor: at most two requests a call are in progress."""
    return httpx.AsyncClient(
        base_url=base_url + "/",
        headers=headers,
        timeout=httpx.Timeout(30, connect=settings.connect_seconds),  # the callers' own deadlines are shorter
        limits=httpx.Limits(
            max_connections=2 * settings.max_calls,
            max_keepalive_connections=settings.max_calls,
            keepalive_expiry=_IDLE_SECONDS,
        ),
        trust_env=False,
        verify=tls,
    )


def connections(client: httpx.AsyncClient) -> int:
    """How many are open, in use or not."""
    return sum(not connection.is_closed() for connection in _pool(client).connections)


# ---------------------------------------------------------------- requests


async def asked(client: httpx.AsyncClient, method: str, path: str, **asked_for: Any) -> httpx.Response:
    """Ask, and read the whole answer. Raises httpx.HTTPError."""
    response = await client.send(client.build_request(method, path, **asked_for), stream=True)
    await _unbroken(_read(response))
    return response


async def done_with(response: httpx.Response) -> None:
    """Close an answer, whether it has been read to its end or not."""
    await _unbroken(_closed(response))


async def _read(response: httpx.Response) -> None:
    try:
        await response.aread()
    finally:
        await _closed(response)


async def _closed(response: httpx.Response) -> None:
    await response.aclose()
    response.stream = httpx.ByteStream(b"")  # its stream and it hold each other


async def _unbroken(work: Coroutine[Any, Any, None]) -> None:
    """Await it; whoever is cancelled meanwhile goes, and it goes on."""
    task = asyncio.get_running_loop().create_task(work)
    _going_on.add(task)
    task.add_done_callback(_going_on.discard)
    await asyncio.shield(task)


_going_on: set[asyncio.Task[None]] = set()
"""The loop itself does not hold its tasks."""

# ---------------------------------------------------------------- connections that nobody uses


@asynccontextmanager
async def aired(clients: Mapping[str, httpx.AsyncClient]) -> AsyncIterator[None]:
    """Meanwhile, connections that nobody uses any more are closed. A pool by itself looks for them only when it is
    asked for one: after a crowd it would keep as many as there were callers, until the next."""

    async def air() -> None:
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            for client in clients.values():
                await air_out(client)

    airing = asyncio.create_task(air(), name="airing")
    try:
        yield
    finally:
        airing.cancel()
        await asyncio.wait({airing})


async def air_out(client: httpx.AsyncClient) -> None:
    """Close what has been idle for long, and what is in use, but not for any request."""
    pool = _pool(client)
    used = {id(request.connection) for request in pool._requests}
    for connection in pool.connections:
        idle = connection.is_idle()
        if (idle and connection.has_expired()) or not (idle or connection.is_closed() or id(connection) in used):
            await connection.aclose()


def _pool(client: httpx.AsyncClient) -> Any:
    transport: Any = client._transport  # httpx tells of its connections nowhere else
    return transport._pool
