"""The one address that the agent knows the carrier by, where the carrier is several processes.

What comes there names a call; the call's id says which worker has it (`share.falls_to`). What names none is the first
worker's to answer, as any would.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol
from urllib.parse import unquote, urlsplit

import aiohttp
from aiohttp import web

from busyhour.carriers.serving import serving
from busyhour.errors import PlanError
from busyhour.model import CallSetup, Carrier, Endpoint, Line
from busyhour.share import falls_to

_CALL = re.compile(r"/[Cc]alls/([^/?.]+)")
_BODY_BYTES_MAX = 16 << 20
_CONNECTIONS_MAX = 1000
_TIMEOUT_SECONDS = 30.0
_NOT_OURS = frozenset(
    {"connection", "content-length", "date", "host", "keep-alive", "server", "te", "trailer", "transfer-encoding"}
)


class Opening(Protocol):
    """Opens the carrier of each worker."""

    async def open(self, peers: Mapping[str, Endpoint]) -> Sequence[str]:
        """Their URLs, in the order of the shares."""
        ...

    def demand_reachable(self, what: str, url: str) -> None:
        """Raises ServiceError where `url` is on our loopback and one of them is not."""
        ...


class Front:
    """The carrier of the leader of a run: its calls are placed by the workers."""

    def __init__(self, carrier: Carrier, workers: Opening) -> None:
        self.name = carrier.name
        self._port = getattr(carrier, "port", 0)
        self._workers = workers

    @asynccontextmanager
    async def running(self, peers: Mapping[str, Endpoint]) -> AsyncIterator[Endpoint]:
        urls = await self._workers.open(peers)
        if urlsplit(urls[0]).scheme not in ("http", "https"):  # nobody calls it back
            yield Endpoint(urls[0])
            return
        self._workers.demand_reachable(f"the carrier {self.name}", urls[0])
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT_SECONDS)
        connector = aiohttp.TCPConnector(limit=_CONNECTIONS_MAX)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False) as session:
            application = web.Application(client_max_size=_BODY_BYTES_MAX)
            application.router.add_route("*", "/{path:.*}", _Passing(urls, session).answer)
            async with serving(application, self._port, self.name) as port:
                yield Endpoint(urlsplit(urls[0])._replace(netloc=f"127.0.0.1:{port}").geturl())

    def dial(self, target: Endpoint, call: CallSetup) -> AbstractAsyncContextManager[Line]:
        raise PlanError(f"the call {call.id} cannot be placed by who leads the run: its workers place the calls")


class _Passing:
    """Each request goes to the worker whose call it names."""

    def __init__(self, urls: Sequence[str], session: aiohttp.ClientSession) -> None:
        self._roots = [urlsplit(url)._replace(path="", query="").geturl() for url in urls]
        self._session = session

    async def answer(self, request: web.Request) -> web.StreamResponse:
        url = self._roots[_worker_of(request.path_qs, len(self._roots))] + request.path_qs
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _NOT_OURS}
        try:
            body = await request.read()
            async with self._session.request(
                request.method, url, data=body, headers=headers, allow_redirects=False
            ) as answer:
                said = await answer.read()
        except (aiohttp.ClientError, OSError, TimeoutError, asyncio.IncompleteReadError) as failure:
            return web.Response(status=502, text=f"the carrier's worker does not answer: {failure!r}")
        kept = {name: value for name, value in answer.headers.items() if name.lower() not in _NOT_OURS}
        return web.Response(status=answer.status, body=said, headers=kept)


def _worker_of(path: str, of: int) -> int:
    named = _CALL.search(path)
    return 0 if named is None else falls_to(unquote(named.group(1)), of)
