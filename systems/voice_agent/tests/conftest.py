"""The agent among fakes of its vendors (`../conftest.py`), and a caller who uses it.

The caller's sound is sent as fast as it goes: the agent counts frames, not seconds. What it says comes at the pace of
the loop's clock, which stands still while anybody has something to do (`IdleTime`).
"""

from __future__ import annotations

import asyncio
import base64
import json
import selectors
import time
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import httpx
import pytest
import uvicorn
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fastapi import FastAPI
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed

from voice_agent.app import create_app
from voice_agent.settings import Settings

_HELD_SECONDS = 5.0
_PATIENCE_SECONDS = 60.0  # a guard against hanging: no test asserts that anything is quick
_TURN_SECONDS = 1e-7  # of the loop: no two are at the same time, so that rounding makes nothing early
_LOOK_SECONDS = 0.01  # between two looks at the metrics, so that time passes


class _Waiting(selectors.DefaultSelector):
    """Counts the seconds in which there was nothing to do, and of a wait no more than was asked for."""

    seconds = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.seconds += _TURN_SECONDS
        ready = super().select(0)
        if ready or (timeout is not None and timeout <= 0):
            return ready
        began = time.monotonic()
        ready = super().select(timeout)
        waited = time.monotonic() - began
        self.seconds += waited if timeout is None else min(waited, timeout)
        return ready


class IdleTime(asyncio.SelectorEventLoop):
    """A loop whose time passes only while it waits.

    The agent and all whom it talks with run on one loop. However slow the machine is, and however long it stalls:
    nobody's patience runs out while there is anything left to do for the one who is waited for, but only with a vendor
    that does nothing.
    """

    def __init__(self) -> None:
        self._waiting = _Waiting()
        super().__init__(self._waiting)

    def time(self) -> float:
        return self._waiting.seconds


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> Mapping[str, Callable[[], IdleTime]]:
    return {"idle time": IdleTime}


def environment(**changes: str) -> dict[str, str]:
    needed = ("TELNYX_API_KEY", "OPENAI_API_KEY", "DEEPGRAM_API_KEY", "CARTESIA_API_KEY")
    return {**dict.fromkeys(needed, "k"), "TELNYX_VERIFY": "off", **changes}


class Caller:
    """A call leg: speaks, listens, plays what it gets in real time, and tells marks as the carrier does."""

    def __init__(self, world: World, socket: ClientConnection) -> None:
        self._world, self._socket = world, socket
        self._chunk = 0
        self._loop = asyncio.get_running_loop()
        self.plays_until = 0.0
        self.events: asyncio.Queue[tuple[str, float]] = asyncio.Queue()  # "media", "mark", "clear", "closed"; when
        self.played_ms = 0.0  # of the sound since the last silence, as sent

    async def start(self) -> None:
        media_format = {"encoding": "PCMU", "sample_rate": 8000, "channels": 1}
        start = {"call_control_id": "v3:a b", "media_format": media_format}
        await self._socket.send('{"event":"connected","version":"1.0.0"}')
        await self._socket.send(json.dumps({"event": "start", "stream_id": "s", "start": start}))
        await self.sound(self._world.silent, 40)  # a line without noise

    async def sound(self, frame: bytes, ms: int) -> None:
        for _ in range(ms // 20):
            self._chunk += 1
            media = {"track": "inbound", "chunk": str(self._chunk), "payload": base64.b64encode(frame).decode()}
            await self._socket.send(json.dumps({"event": "media", "media": media}))

    async def say(self, *transcript: str, ms: int = 400) -> float:
        """Speak, and pause long enough to have spoken; returns when the pause began, at the latest."""
        self._world.deepgram.transcripts.extend(transcript)
        await self.sound(self._world.voiced, ms)
        finished = self._loop.time()
        await self.sound(self._world.silent, 200)
        return finished

    async def next(self, kind: str) -> float:
        """Wait for an event, skipping others; returns when it came."""
        async with asyncio.timeout(_PATIENCE_SECONDS):
            while True:
                event, at = await self.events.get()
                if event == kind:
                    return at
                if event == "closed":
                    raise AssertionError(f"closed before {kind}")

    async def greeted(self) -> None:
        await self.next("mark")

    async def read(self) -> None:
        try:
            async for text in self._socket:
                await self._take(json.loads(text))
        except ConnectionClosed:
            pass
        self.events.put_nowait(("closed", self._loop.time()))

    async def _take(self, message: dict[str, Any]) -> None:
        now, kind = self._loop.time(), message["event"]
        if kind == "media":
            ms = len(base64.b64decode(message["media"]["payload"])) / 8
            self.played_ms += ms
            self.plays_until = max(self.plays_until, now) + ms / 1000
        elif kind == "clear":
            self.plays_until = now
        elif kind == "mark":
            self._loop.call_at(max(now, self.plays_until), lambda: self._world.start(self._mark(message)))
            return
        self.events.put_nowait((kind, now))

    async def _mark(self, message: dict[str, Any]) -> None:
        self.events.put_nowait(("mark", self._loop.time()))
        try:
            await self._socket.send(json.dumps(message))
        except ConnectionClosed:
            return

    async def hang_up(self) -> None:
        await self._socket.send('{"event":"stop","stop":{}}')
        await self._world.webhook("call.hangup")


class World:
    """Everything around the agent, and the agent."""

    def __init__(self, vendors: Any) -> None:
        self.deepgram, self.deepgram_fallback = vendors.deepgram, vendors.deepgram_fallback
        self.openai, self.anthropic, self.gemini = vendors.openai, vendors.anthropic, vendors.gemini
        self.cartesia, self.elevenlabs, self.telnyx = vendors.cartesia, vendors.elevenlabs, vendors.telnyx
        self.company, self.voiced, self.silent = vendors.company, vendors.voiced, vendors.silent
        self.key = Ed25519PrivateKey.generate()
        self.http = httpx.AsyncClient(trust_env=False, verify=False)  # there is no TLS here; to load it takes 20 ms
        self.agent = ""
        self.settings: dict[str, str] = {}
        self.app = FastAPI()
        self._tasks: set[asyncio.Task[None]] = set()
        self.telnyx.on_command = self._commanded

    def _commanded(self, action: str, call_control_id: str) -> None:
        if action == "hangup":
            self.start(self._hangup(call_control_id))

    async def _hangup(self, call_control_id: str) -> None:
        with suppress(httpx.TransportError):  # the agent may be gone
            await self.webhook("call.hangup", call_control_id=call_control_id)

    def start(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    @asynccontextmanager
    async def running(self, **changes: str) -> AsyncIterator[World]:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self.http)
            vendors = FastAPI()
            vendors.post("/v1/chat/completions")(self.openai.complete)
            vendors.post("/v1/messages")(self.anthropic.complete)
            vendors.post("/v1beta/models/{method}")(self.gemini.complete)
            vendors.post("/v2/calls/{call_control_id}/actions/{action}")(self.telnyx.command)
            vendors.post("/company/appointments")(self.company.book)
            vendors.delete("/company/appointments")(self.company.cancel)
            vendors_url = await stack.enter_async_context(served(vendors))
            ours = {
                "TELNYX_API_BASE": f"{vendors_url}/v2",
                "OPENAI_BASE_URL": f"{vendors_url}/v1",
                "ANTHROPIC_BASE_URL": vendors_url,
                "GEMINI_BASE_URL": vendors_url,
                "DEEPGRAM_URL": await self._listening(stack, self.deepgram),
                "CARTESIA_URL": await self._listening(stack, self.cartesia),
                "GREETING": "Hello there.",
            }
            if changes.pop("COMPANY", ""):
                ours["COMPANY_API_URL"] = f"{vendors_url}/company"
            if changes.get("ELEVENLABS_API_KEY"):
                ours["ELEVENLABS_URL"] = await self._listening(stack, self.elevenlabs)
            if changes.get("DEEPGRAM_FALLBACK_API_KEY"):
                ours["DEEPGRAM_FALLBACK_URL"] = await self._listening(stack, self.deepgram_fallback)
            self.settings = environment(**{**ours, **changes})
            self.app = create_app(Settings.from_environment(self.settings))
            self.agent = await stack.enter_async_context(served(self.app))
            yield self
        async with asyncio.timeout(_PATIENCE_SECONDS):
            await asyncio.gather(*self._tasks)

    @staticmethod
    async def _listening(stack: AsyncExitStack, vendor: Any) -> str:
        server = await stack.enter_async_context(
            serve(vendor.serve, "127.0.0.1", 0, process_request=vendor.refuse, close_timeout=0.2)
        )
        return f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async def webhook(self, event_type: str, id_: str = "", **payload: str) -> int:
        payload = {"call_control_id": "v3:a b", "direction": "incoming", **payload}
        event = {"record_type": "event", "event_type": event_type, "id": id_ or str(uuid.uuid4()), "payload": payload}
        return await self.post(json.dumps({"data": event}).encode())

    async def post(self, body: bytes, *, age_seconds: int = 0, key: Ed25519PrivateKey | None = None) -> int:
        timestamp = str(int(time.time()) - age_seconds)
        signature = (key or self.key).sign(f"{timestamp}|".encode() + body)
        headers = {"telnyx-timestamp": timestamp, "telnyx-signature-ed25519": base64.b64encode(signature).decode()}
        return (await self.http.post(f"{self.agent}/api/telnyx/webhook", content=body, headers=headers)).status_code

    async def stream_url(self, call: str = "") -> str:
        """Where the agent wants the media stream, by way of the port that it has in this test."""
        url = (await self.telnyx.commanded("streaming_start", call))["stream_url"]
        return self.agent.replace("http", "ws") + url[url.index("/ws/") :]

    @asynccontextmanager
    async def calling(self, call: str = "v3:a b", *, quiet: bool = True) -> AsyncIterator[Caller]:
        """A call, answered, with its media stream open; hung up on the way out."""
        async with asyncio.timeout(_PATIENCE_SECONDS):
            async with self._calling(call) as caller:
                yield caller
            if quiet:
                await self.quiet()

    @asynccontextmanager
    async def _calling(self, call: str) -> AsyncIterator[Caller]:
        assert await self.webhook("call.initiated", call_control_id=call) == 200
        await self.telnyx.commanded("answer", call)
        await self.webhook("call.answered", call_control_id=call)
        async with connect(await self.stream_url(call), compression=None, proxy=None) as socket:
            caller = Caller(self, socket)
            reading = asyncio.create_task(caller.read())
            await caller.start()
            try:
                yield caller
                with suppress(httpx.TransportError):  # the agent may be gone
                    await self.webhook("call.hangup", call_control_id=call)
            finally:
                await socket.close()
                await reading

    def breaker(self, provider: str) -> Any:
        models: Any = self.app.state.switchboard._equipment.models
        return next(model.breaker for model in models._chain if model.name == provider)

    async def quiet(self) -> None:
        """Until the agent has no open call, nor any connection to a vendor."""
        vendors = (self.deepgram, self.deepgram_fallback, self.cartesia, self.elevenlabs)
        async with asyncio.timeout(_PATIENCE_SECONDS):
            while await self.metric("voice_agent_open_calls") or any(  # noqa: ASYNC110  (the agent tells when asked)
                vendor.open for vendor in vendors
            ):
                await asyncio.sleep(_LOOK_SECONDS)

    async def counted(self, line: str, times: int = 1) -> None:
        """Until the metric has come to so much."""
        async with asyncio.timeout(_PATIENCE_SECONDS):
            while await self.metric(line) < times:  # noqa: ASYNC110  (the agent tells when asked)
                await asyncio.sleep(_LOOK_SECONDS)

    async def metric(self, line: str) -> float:
        text = (await self.http.get(f"{self.agent}/metrics")).text
        return next((float(found.rsplit(" ", 1)[1]) for found in text.splitlines() if found.startswith(line)), 0.0)


@asynccontextmanager
async def served(app: FastAPI) -> AsyncIterator[str]:
    config = uvicorn.Config(app, port=0, log_config=None, access_log=False, ws_ping_interval=None)
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:  # as server.shutdown() does, but without its pauses
        for listener in server.servers:
            listener.close()
        for connection in list(server.server_state.connections):
            connection.shutdown()
        if server.server_state.tasks:
            _, held = await asyncio.wait(server.server_state.tasks, timeout=_HELD_SECONDS)
            for task in held:
                task.cancel()  # of a test that has failed before it let go
        await server.lifespan.shutdown()


@pytest.fixture
async def world(vendors: Callable[[], Any]) -> AsyncIterator[World]:
    """The agent among its vendors."""
    async with World(vendors()).running() as world:
        yield world


@pytest.fixture
def worlds(vendors: Callable[[], Any]) -> Callable[..., Any]:
    """`async with worlds(DEFECT="no_clear") as world`: the same, with other settings."""

    @asynccontextmanager
    async def running(**changes: str) -> AsyncIterator[World]:
        async with World(vendors()).running(**changes) as world:
            yield world

    return running


@pytest.fixture
def together(worlds: Callable[..., Any]) -> Callable[..., Coroutine[Any, Any, None]]:
    """`await together(_one_scene, (_another, "case"))`: each in worlds of its own, side by side: they mostly wait."""

    async def play(*scenes: Any) -> None:
        async with asyncio.TaskGroup() as group:
            for scene, *case in (one if isinstance(one, tuple) else (one,) for one in scenes):
                group.create_task(scene(worlds, *case), name=f"{scene.__name__} {case}")

    return play
