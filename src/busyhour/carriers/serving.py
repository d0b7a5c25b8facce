"""The HTTP API of a carrier on loopback: served, authenticated, and its refusals in the carrier's own words."""

from __future__ import annotations

import asyncio
import os
from abc import abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Protocol, TypeAlias

import aiohttp
from aiohttp import web
from aiohttp.typedefs import Middleware

from busyhour.carriers.background import Background
from busyhour.errors import ServiceError

# Of webhooks under way: one that waits here for a connection uses up the time that the agent has for its answer, and
# would be told as unanswered. 1,000 calls have one each when they begin together.
CONNECTIONS_MAX = 1_000
# Shorter than the 5 s after which common servers close an idle connection: a webhook must not meet a closed one.
KEEP_ALIVE_SECONDS = 2.0
SETTLE_SECONDS = 5.0  # for webhooks that are still under way when the carrier stops

Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]


class ApiRefusal(Exception):
    """A request that is answered with an error. Nothing of it was done."""

    status: int

    @abstractmethod
    def body(self) -> Mapping[str, Any]:
        """The JSON of the answer."""


class Manner(Protocol):
    """How a carrier's API checks who asks, and words what every API has to refuse."""

    def authenticate(self, request: web.Request) -> None:
        """Raises ApiRefusal."""
        ...

    def refused(self, request: web.Request, refusal: ApiRefusal) -> None:
        """Told of each refusal."""
        ...

    def not_found(self, path: str) -> ApiRefusal: ...

    def not_allowed(self) -> ApiRefusal:
        """There is such a path, but not with that method."""
        ...

    def malformed(self, detail: str) -> ApiRefusal: ...

    def unexpected(self) -> ApiRefusal: ...


def answering(manner: Manner, background: Background) -> Middleware:
    """Every refusal in the carrier's shape; a bug ends the run, and is not hidden in a 500."""

    @web.middleware
    async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            manner.authenticate(request)
            # aiohttp would log a bug and go on; as a task in the background it is heard.
            task = background.spawn(_run(manner, handler, request))
            if task is None:
                raise manner.unexpected()
            return await task
        except ApiRefusal as refusal:
            manner.refused(request, refusal)
            return web.json_response(refusal.body(), status=refusal.status)

    return answer


async def _run(manner: Manner, handler: Handler, request: web.Request) -> web.StreamResponse:
    """The handler, with its refusals as answers: nothing that is expected may end the task group."""
    try:
        return await handler(request)
    except ApiRefusal as refusal:
        manner.refused(request, refusal)
        return web.json_response(refusal.body(), status=refusal.status)
    except web.HTTPException as problem:
        if problem.status in (404, 405):
            said = manner.not_found(request.path) if problem.status == 404 else manner.not_allowed()
        else:
            said = manner.malformed(problem.reason)
        return web.json_response(said.body(), status=problem.status)
    except (ConnectionError, asyncio.IncompleteReadError) as failure:  # the agent went away while we read
        return web.json_response(manner.malformed(str(failure)).body(), status=400)


@asynccontextmanager
async def serving(app: web.Application, port: int, name: str) -> AsyncIterator[int]:
    """Serve the application on loopback: the port it is found at. Raises ServiceError when that is taken."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", port)
        try:
            await site.start()
        except OSError as failure:
            raise ServiceError(
                f"{name} cannot listen on 127.0.0.1:{port}: {os.strerror(failure.errno or 0)}; "
                "stop what holds the port, or use port=0 for a free one"
            ) from failure
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


def client(timeout_seconds: float) -> aiohttp.ClientSession:
    """What a carrier sends its webhooks with; the timeout is that of one attempt."""
    timeout = aiohttp.ClientTimeout(total=timeout_seconds)
    connector = aiohttp.TCPConnector(limit=CONNECTIONS_MAX, keepalive_timeout=KEEP_ALIVE_SECONDS)
    return aiohttp.ClientSession(connector=connector, timeout=timeout)


def not_running(name: str) -> ServiceError:
    return ServiceError(f"{name} is not running: dial inside `async with carrier.running(peers)`")
