"""Whoever leaves a vendor in the middle of a request, at whatever instant, leaves no connection in use behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from voice_agent import pools

_ANSWER = b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 15\r\n\r\n{"result":"ok"}'
_INSTANTS = 80  # turns of the loop, in which a request and its answer are over


@asynccontextmanager
async def _vendor() -> AsyncIterator[str]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(_ANSWER)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"


async def _command(client: httpx.AsyncClient, url: str) -> None:
    assert (await pools.asked(client, "GET", url)).json() == {"result": "ok"}


async def _stream(client: httpx.AsyncClient, url: str) -> None:
    response = await client.send(client.build_request("GET", url), stream=True)
    try:
        assert response.is_success
    finally:
        await pools.done_with(response)


@pytest.mark.parametrize("way", [_command, _stream])
async def test_cancelled_at_any_instant(way: Callable[[httpx.AsyncClient, str], Awaitable[None]]) -> None:
    stuck: list[tuple[int, str]] = []
    async with _vendor() as url:
        for instants in range(_INSTANTS):
            async with httpx.AsyncClient(trust_env=False, verify=False) as client:
                task = asyncio.ensure_future(way(client, url))
                for _ in range(instants):
                    await asyncio.sleep(0)
                over = task.done()
                task.cancel()
                await asyncio.wait({task})
                stuck += [(instants, told) for told in await _in_use(client)]
        assert over, "the last one was not begun too early"
    assert stuck == []


async def _in_use(client: httpx.AsyncClient) -> list[str]:
    """What is still in use when all that goes on has had its time."""
    transport: Any = client._transport
    for _ in range(_INSTANTS):
        await asyncio.sleep(0)
    await pools.air_out(client)
    connections = transport._pool.connections
    return [connection.info() for connection in connections if not (connection.is_idle() or connection.is_closed())]
