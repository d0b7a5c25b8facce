"""The live figures pushed to a collector of OpenTelemetry, by OTLP over HTTP, every 10 s and once more at the end.

Of the libraries only the messages are used: the exporter of the SDK works in a thread, which takes the interpreter from
the loop that paces the calls. Figures are cumulative, so a push that fails is not kept for later: the next one says it
all. A collector that is slow, wrong or not there costs the run a connection attempt every 10 s, and is told of once.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import aiohttp
import yarl

from busyhour import __version__
from busyhour.clock import unix_ns
from busyhour.errors import PlanError
from busyhour.exporting.counting import Tally
from busyhour.model import SECOND, Clock

if TYPE_CHECKING:
    from busyhour.exporting.messages import Message

EVERY_SECONDS = 10.0
_WITHIN_SECONDS = 5.0
_LAST_WITHIN_SECONDS = 2.0  # nobody is to wait long for figures when the run is over
_ANSWER_BYTES_MAX = 65_536
_SAID_CHARS_MAX = 200
_PATH = "v1/metrics"
_HEADERS = "OTEL_EXPORTER_OTLP_HEADERS"
_PROTOBUF = "application/x-protobuf"


@dataclass(frozen=True)
class Collector:
    """Where to, and with which headers; these may hold a key, so that they are told nobody."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def at(cls, url: str, environment: Mapping[str, str]) -> Collector:
        """`url` is a base, as OTEL_EXPORTER_OTLP_ENDPOINT is, or ends in /v1/metrics; headers are those of
        OTEL_EXPORTER_OTLP_HEADERS (https://opentelemetry.io/docs/specs/otel/protocol/exporter/).

        Raises PlanError for what is no URL, headers that are none, and where OpenTelemetry's messages are not
        installed.
        """
        try:
            there = yarl.URL(url)
        except ValueError as error:
            raise PlanError(f"--otlp {url}: this is no URL: {error}") from None
        if there.scheme not in {"http", "https"} or not there.host:
            raise PlanError(f"--otlp {url}: give the URL of a collector, like http://127.0.0.1:4318")
        try:
            from busyhour.exporting.messages import Message  # noqa: F401, PLC0415  (an extra that need not be there)
        except ImportError:
            raise PlanError(
                "--otlp needs the messages of OpenTelemetry, which are not installed: pip install 'busyhour[otlp]'"
            ) from None
        full = there if there.path.endswith(f"/{_PATH}") else there.joinpath(*_PATH.split("/"))
        return cls(str(full), _headers(environment.get(_HEADERS, "")))


def _headers(told: str) -> dict[str, str]:
    pairs = [part.strip().partition("=") for part in told.split(",") if part.strip()]
    if any(not name.strip() or not equals for name, equals, _ in pairs):
        raise PlanError(f"{_HEADERS}: write it as NAME=VALUE,NAME=VALUE, and what is not printable as in a URL")
    return {unquote(name).strip(): unquote(value).strip() for name, _, value in pairs}


class Pushing:
    """Pushes of one run's figures to one collector."""

    def __init__(self, tally: Tally, collector: Collector, clock: Clock, *, every_seconds: float) -> None:
        self._tally, self._collector, self._clock = tally, collector, clock
        self._every_ns = round(every_seconds * SECOND)
        self._began_unix_ns = unix_ns()
        self._trouble = ""  # the last
        self._resource = {
            "service.name": "busyhour",
            "service.version": __version__,
            "service.instance.id": f"{os.getpid()}-{self._began_unix_ns}",  # the next run counts from nought
        }

    async def go_on(self, session: aiohttp.ClientSession) -> None:
        """Push every so often, for ever; none is made up for."""
        next_ns = self._clock.now_ns()
        while True:
            next_ns = max(next_ns + self._every_ns, self._clock.now_ns())
            await self._clock.sleep_until(next_ns)
            await self.push(session, within_seconds=_WITHIN_SECONDS)

    async def push(self, session: aiohttp.ClientSession, *, within_seconds: float) -> None:
        """Push what there is now, and count what came of it."""
        octets = (await self._message()).encoded()
        timeout = aiohttp.ClientTimeout(total=within_seconds)
        headers = {**self._collector.headers, "Content-Type": _PROTOBUF}
        try:
            async with session.post(
                self._collector.url, data=octets, headers=headers, timeout=timeout, allow_redirects=False
            ) as answer:
                trouble = _trouble(answer.status, await answer.content.read(_ANSWER_BYTES_MAX))
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            trouble = str(error) or f"no answer within {within_seconds:g} s"
        self._tally.pushes["failed" if trouble else "ok"] += 1
        self._trouble = trouble or self._trouble

    async def _message(self) -> Message:
        from busyhour.exporting.messages import Message  # noqa: PLC0415  (an extra; `Collector.at` has seen to it)

        message = Message(self._resource, version=__version__, began_unix_ns=self._began_unix_ns, at_unix_ns=unix_ns())
        steps = (True for family, series in self._tally.families() for _ in message.add(family, series))
        while True:
            began_ns = self._clock.now_ns()
            more = next(steps, False)
            self._tally.spent_ns["otlp"] += self._clock.now_ns() - began_ns
            if not more:
                return message
            await asyncio.sleep(0)  # the loop paces the calls

    def told(self) -> str:
        """What did not come through, in a sentence; "" if all did."""
        failed, of = self._tally.pushes["failed"], self._tally.pushes.total()
        if not failed:
            return ""
        return f"--otlp: {failed} of {of} pushes to {self._collector.url} failed, the last with: {self._trouble}"


def _trouble(status: int, octets: bytes) -> str:
    """Why a push has failed, in a clause; "" if it has not."""
    from busyhour.exporting.messages import refused  # noqa: PLC0415  (an extra)

    if not 200 <= status < 300:
        said = " ".join(octets.decode("utf-8", "replace").split())
        shown = "".join(c for c in said if c.isprintable())[:_SAID_CHARS_MAX]
        return f"HTTP {status}{f' ({shown})' if shown else ''}"
    return refused(octets)


@asynccontextmanager
async def pushed(
    tally: Tally, collector: Collector, *, clock: Clock, every_seconds: float = EVERY_SECONDS
) -> AsyncIterator[Pushing]:
    """Push until the body ends, and then once more; whatever the collector does, it raises nothing."""
    pushing = Pushing(tally, collector, clock, every_seconds=every_seconds)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1)) as session:
        task: asyncio.Task[Any] = asyncio.create_task(pushing.go_on(session))
        try:
            yield pushing
        finally:
            task.cancel()
            await asyncio.wait({task})
            await pushing.push(session, within_seconds=_LAST_WITHIN_SECONDS)
            if not task.cancelled():
                task.result()  # a bug of ours
