"""A small agent of no framework, for the tests of the Telnyx twin: it notes what it is told, and does as it is told."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import aiohttp
import numpy as np
import pytest
from aiohttp import web

from busyhour.carriers import Telnyx, TelnyxStream
from busyhour.carriers.line import CallerLine
from busyhour.clock import SystemClock
from busyhour.media.codec import codec
from busyhour.model import SECOND, Audio, CallFailed, CallSetup, Endpoint, Heard, HeardKind, Samples
from busyhour.probes.loop import LoopMeter

CLOCK = SystemClock()
PCMU = codec("PCMU")
SETUP = CallSetup(id="steady/1", answer_within_ns=60 * SECOND)
RTP = {"stream_bidirectional_mode": "rtp", "stream_bidirectional_codec": "PCMU"}

Talk = Callable[["Agent", web.WebSocketResponse], Awaitable[None]]
Measured = TypeVar("Measured")
Found = TypeVar("Found")
PATIENCE_SECONDS = 60.0  # a guard against hanging


async def silent(_agent: Agent, ws: web.WebSocketResponse) -> None:
    async for _ in ws:
        pass


class Listener:
    """What any agent of these tests does on its media sockets: it talks as it is told, and notes what it hears."""

    def __init__(self, talk: Callable[[Any, web.WebSocketResponse], Awaitable[None]]) -> None:
        self.talk = talk
        self.paths: list[str] = []
        self.handshakes: list[dict[str, str]] = []
        self.frames: list[dict[str, Any]] = []
        self._news = asyncio.Condition()

    async def media(self, request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse(max_msg_size=0)
        self.paths.append(request.path_qs)
        self.handshakes.append({k.lower(): v for k, v in request.headers.items()})
        await ws.prepare(request)
        try:
            await self.talk(self, ws)
        finally:
            await ws.close()
        return ws

    async def hears(self, ws: web.WebSocketResponse, event: str) -> dict[str, Any]:
        """The next frame of that kind."""
        async for message in ws:
            frame: dict[str, Any] = json.loads(message.data)
            await self.saw(frame)
            if frame["event"] == event:
                return frame
        raise AssertionError(f"the socket closed before a {event} frame")

    async def saw(self, frame: dict[str, Any]) -> None:
        async with self._news:
            self.frames.append(frame)
            self._news.notify_all()

    async def shown(self, event: str, count: int = 1) -> list[dict[str, Any]]:
        """The frames of that kind, once there are so many."""

        def frames() -> list[dict[str, Any]]:
            return [frame for frame in self.frames if frame["event"] == event]

        return await self.come(frames, count)

    async def come(self, found: Callable[[], list[Found]], count: int) -> list[Found]:
        """What is found, once there are so many."""
        async with asyncio.timeout(PATIENCE_SECONDS), self._news:
            await self._news.wait_for(lambda: len(found()) >= count)
        return found()


class Agent(Listener):
    """Notes what it is told; `on[event_type]` says which commands it answers an event with."""

    def __init__(self, talk: Talk = silent) -> None:
        super().__init__(talk)
        self.on: dict[str, Callable[[str], Awaitable[object]]] = {}
        self.webhooks: list[tuple[dict[str, str], bytes]] = []
        self.events: list[dict[str, Any]] = []
        self.statuses: list[int] = []  # the webhooks' answers, the first first; then 200
        self.url = ""
        self.api = ""

    async def webhook(self, request: web.Request) -> web.Response:
        raw = await request.read()
        event = json.loads(raw)
        async with self._news:
            self.webhooks.append(({k.lower(): v for k, v in request.headers.items()}, raw))
            self.events.append(event)
            self._news.notify_all()
        data = event["data"]
        act = self.on.get(data["event_type"])
        if act is not None:
            await act(data["payload"]["call_control_id"])
        return web.Response(status=self.statuses.pop(0) if self.statuses else 200)

    async def told(self, event_type: str, count: int = 1) -> list[dict[str, Any]]:
        """The payloads of the webhooks of that type, once there are so many."""

        def payloads() -> list[dict[str, Any]]:
            return [e["data"]["payload"] for e in self.events if e["data"]["event_type"] == event_type]

        return await self.come(payloads, count)

    async def command(self, call: str, action: str, *, token: str = "key", **body: Any) -> tuple[int, dict[str, Any]]:
        url = f"{self.api}/calls/{call}/actions/{action}"
        headers = {"authorization": f"Bearer {token}"}
        async with aiohttp.ClientSession() as session, session.post(url, json=body, headers=headers) as answer:
            return answer.status, await answer.json()

    def answers(self, **body: Any) -> None:
        """Answer each call, with a stream unless told otherwise."""

        async def answer(call: str) -> None:
            asked = {"stream_url": self.url.replace("http", "ws") + "/media", **RTP} | body
            await self.command(call, "answer", **{name: value for name, value in asked.items() if value is not None})

        self.on["call.initiated"] = answer


@asynccontextmanager
async def serving(agent: Agent, telnyx: Telnyx | TelnyxStream) -> AsyncIterator[Endpoint]:
    app = web.Application()
    app.router.add_post("/api/telnyx/webhook", agent.webhook)
    app.router.add_get("/media", agent.media)
    app.router.add_get("/media/{call}", agent.media)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        agent.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        async with telnyx.running({}) as endpoint:
            agent.api = endpoint.url
            yield Endpoint(agent.url)
    finally:
        await runner.cleanup()


@asynccontextmanager
async def calling(agent: Agent, telnyx: Telnyx | None = None, setup: CallSetup = SETUP) -> AsyncIterator[CallerLine]:
    telnyx = telnyx or Telnyx()
    async with serving(agent, telnyx) as target, telnyx.dial(target, setup) as line:
        assert isinstance(line, CallerLine)
        yield line


async def undisturbed(measured: Callable[[], Awaitable[Measured]]) -> Measured:
    """What was measured while this process was held up for less than 30 ms at a time: on a busy machine that may take
    another attempt, or five."""
    for _ in range(5):
        async with LoopMeter().running() as meter:
            found = await measured()
            lags = [sample.value for sample in meter.drain(CLOCK.now_ns()) if sample.name == "loop_lag_ms"]
        if max(lags, default=0) < 30:
            break
    return found


async def next_of(line: CallerLine, kind: HeardKind, within_s: float = 60) -> Heard:
    until_ns = CLOCK.now_ns() + round(within_s * SECOND)
    while True:
        heard = await line.hear(until_ns)
        assert heard is not None, f"no {kind} within {within_s} s"
        if heard.kind == kind:
            return heard
        assert heard.kind != HeardKind.ENDED, heard


def tone(ms: int, rate_hz: int = 8000) -> Samples:
    at = np.arange(rate_hz * ms // 1000)
    return (8000 * np.sin(2 * np.pi * 440 * at / rate_hz)).astype(np.int16)


# 300 ms, of which the middle 240 ms are speech
HELLO = Audio("hello", "hello", np.random.default_rng(1).integers(-9000, 9000, 2400).astype(np.int16), 8000, 240, 2160)


def payload(samples: Samples) -> str:
    return base64.b64encode(PCMU.encode(samples)).decode()


def call_id(agent: Agent) -> str:
    return str(agent.events[0]["data"]["payload"]["call_control_id"])


async def failure(agent: Agent, telnyx: Telnyx | None = None, **setup: Any) -> CallFailed:
    with pytest.raises(CallFailed) as failed:
        async with calling(agent, telnyx, CallSetup(id="steady/1", **setup)):
            pass
    return failed.value


def then(
    first: Callable[[str], Awaitable[object]], second: Callable[[str], Awaitable[object]]
) -> Callable[[str], Awaitable[object]]:
    async def both(call: str) -> None:
        await first(call)
        await second(call)

    return both
