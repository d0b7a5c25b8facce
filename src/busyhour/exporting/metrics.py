"""The live figures on a page for Prometheus: `http://127.0.0.1:PORT/metrics`, while a run goes on.

It is served on the loop that paces the calls. A thread would hold the interpreter for up to 5 ms at a time, and frames
are due every 20 ms; the page is written in pieces of less than a millisecond, and at most once a second however often
it is asked for.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from busyhour.errors import PlanError
from busyhour.exporting.counting import Tally
from busyhour.exporting.openmetrics import CONTENT_TYPE, pieces
from busyhour.model import SECOND, Clock

HOST = "127.0.0.1"
PATH = "/metrics"
_FRESH_NS = SECOND
_CLOSING_SECONDS = 0.5  # for somebody who is being answered when the run ends


class Page:
    """The page as it was last written, and written anew when it is asked for after a second or more."""

    def __init__(self, tally: Tally, clock: Clock) -> None:
        self._tally, self._clock = tally, clock
        self._writing = asyncio.Lock()
        self._written_ns: int | None = None
        self._octets = b""

    async def octets(self) -> bytes:
        async with self._writing:
            if self._written_ns is None or self._clock.now_ns() - self._written_ns >= _FRESH_NS:
                self._octets = await self._write()
                self._written_ns = self._clock.now_ns()
            return self._octets

    async def _write(self) -> bytes:
        written: list[str] = []
        rest = pieces(self._tally.families())
        while True:
            began_ns = self._clock.now_ns()
            piece = next(rest, None)
            self._tally.spent_ns["metrics"] += self._clock.now_ns() - began_ns
            if piece is None:
                return "".join(written).encode()
            written.append(piece)
            await asyncio.sleep(0)


@asynccontextmanager
async def served(tally: Tally, port: int, *, clock: Clock) -> AsyncIterator[str]:
    """Serve the page until the body ends; gives its URL. port: 0 for any that is free.

    Raises PlanError where the port cannot be had.
    """
    page = Page(tally, clock)

    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=await page.octets(), headers={"Content-Type": CONTENT_TYPE})

    application = web.Application()
    application.router.add_get(PATH, answer)
    runner = web.AppRunner(application, access_log=None, handle_signals=False, shutdown_timeout=_CLOSING_SECONDS)
    await runner.setup()
    try:
        site = web.TCPSite(runner, HOST, port)
        try:
            await site.start()
        except OSError as error:
            raise PlanError(
                f"--metrics {port}: {HOST}:{port} cannot be listened on: {error.strerror}; "
                "give another port, or 0 for any that is free"
            ) from None
        host, its_port = runner.addresses[0][:2]
        yield f"http://{host}:{its_port}{PATH}"
    finally:
        await runner.cleanup()
