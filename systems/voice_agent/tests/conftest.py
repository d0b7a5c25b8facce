"""Small fakes of the vendors and of the carrier, on loopback sockets, and a caller who uses them.

The caller's sound is sent as fast as it goes: the agent counts frames, not seconds. What it says comes in real time.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
import uuid
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import httpx
import numpy as np
import pytest
import uvicorn
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from voice_agent import audio
from voice_agent.app import create_app
from voice_agent.settings import Settings

_TONE = 10 ** (-12 / 20) * np.sin(2 * np.pi * 300 * np.arange(160) / 8000)
VOICED = bytes(int(np.abs(audio.decode(bytes(range(256))) - sample).argmin()) for sample in _TONE)
SILENT = audio.SILENCE * 160


def environment(**changes: str) -> dict[str, str]:
    needed = ("TELNYX_API_KEY", "OPENAI_API_KEY", "DEEPGRAM_API_KEY", "CARTESIA_API_KEY")
    return {**dict.fromkeys(needed, "k"), "TELNYX_VERIFY": "off", **changes}


class Deepgram:
    """Answers a Finalize with the next of `transcripts`."""

    def __init__(self) -> None:
        self.transcripts: deque[str] = deque()
        self.mode = ""  # "no final", "drop" (once), "refuse", "frozen" (from the first sound)
        self.interim = ""
        self.connections = 0
        self.open = 0
        self.heard = bytearray()
        self.messages: list[str] = []
        self.heard_some = asyncio.Event()

    def refuse(self, connection: ServerConnection, _request: object) -> Any:
        return connection.respond(503, "down\n") if self.mode == "refuse" else None

    async def serve(self, socket: ServerConnection) -> None:
        self.connections += 1
        self.open += 1
        seconds, begun = 0.0, 0.0
        try:
            async for message in socket:
                if isinstance(message, bytes):
                    if self.mode == "frozen":
                        socket.transport.pause_reading()
                    self.heard += message
                    self.heard_some.set()
                    seconds += len(message) / 8000
                    if self.interim:
                        await socket.send(self._result(self.interim, begun, seconds, final=False))
                    continue
                kind = json.loads(message)["type"]
                self.messages.append(kind)
                if kind == "Finalize" and self.mode == "drop":
                    self.mode = ""
                    return
                if kind == "Finalize" and self.mode != "no final":
                    text = self.transcripts.popleft() if self.transcripts else ""
                    await socket.send(self._result(text, begun, seconds, final=True))
                    begun = seconds
        except ConnectionClosed:
            return
        finally:
            self.open -= 1

    @staticmethod
    def _result(text: str, begun: float, ended: float, *, final: bool) -> str:
        alternatives = [{"transcript": text, "confidence": 0.9, "words": []}]
        result = {"type": "Results", "channel_index": [0, 1], "start": begun, "duration": ended - begun}
        return json.dumps(
            {**result, "is_final": final, "from_finalize": final, "channel": {"alternatives": alternatives}}
        )


class OpenAI:
    """Answers a request with the next of `replies`, word by word."""

    def __init__(self) -> None:
        self.replies: deque[str] = deque()
        self.modes: deque[str] = deque()  # one a request: "", "no token", "truncate", "malformed", "tool", "500", "401"
        self.requests: list[dict[str, Any]] = []
        self.asked = asyncio.Event()
        self.hold: asyncio.Event | None = None  # no more until it is set, after so many words:
        self.hold_after = 0

    async def complete(self, request: Request) -> Response:
        self.requests.append(await request.json())
        self.asked.set()
        mode = self.modes.popleft() if self.modes else ""
        if mode.isdecimal():
            return Response('{"error":{"message":"no"}}', int(mode))
        return StreamingResponse(self._stream(mode), media_type="text/event-stream")

    async def _stream(self, mode: str) -> AsyncIterator[str]:
        yield self._event({"role": "assistant", "content": ""})
        if mode == "no token":
            await asyncio.Event().wait()
        if mode == "tool":
            call = {"index": 0, "id": "t", "type": "function", "function": {"name": "transfer_call", "arguments": ""}}
            yield self._event({"tool_calls": [call]})
            yield self._event({"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]})
            yield self._event({}, finish="tool_calls")
            return
        reply = self.replies.popleft() if self.replies else "We are open until six. Anything else?"
        words = reply.split(" ")
        for number, word in enumerate(words):
            if self.hold is not None and number == self.hold_after:
                await self.hold.wait()
            if mode == "truncate" and number == len(words) - 1:
                return
            yield "data: {not json\n\n" if mode == "malformed" else self._event({"content": word + " "})
        yield self._event({}, finish="stop")
        yield 'data: {"id":"c","choices":[],"usage":{}}\n\n'
        yield "data: [DONE]\n\n"

    @staticmethod
    def _event(delta: dict[str, Any], finish: str | None = None) -> str:
        chunk = {"id": "c", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}
        return f"data: {json.dumps(chunk)}\n\n"


class Cartesia:
    """Makes 10 ms of sound a word, at once."""

    def __init__(self) -> None:
        self.mode = ""  # "hang", "no audio", "error", "drop", "stall" (after the first sentence)
        self.ms_per_word = 10
        self.said: list[str] = []
        self.cancelled: list[str] = []
        self.failed = asyncio.Event()
        self.open = 0
        self.news = asyncio.Event()

    async def serve(self, socket: ServerConnection) -> None:
        self.open += 1
        at: dict[str, float] = {}
        try:
            async for message in socket:
                request = json.loads(message)
                context = request["context_id"]
                if request.get("cancel"):
                    self.cancelled.append(context)
                    self.news.set()
                elif self.mode == "drop":
                    return
                elif self.mode == "error":
                    self.failed.set()
                    await self._send(
                        socket, context, type="error", title="no", message="no", status_code=402, done=True
                    )
                elif self.mode != "hang":
                    await self._speak(socket, context, request, at)
        except ConnectionClosed:
            return
        finally:
            self.open -= 1

    async def _speak(
        self, socket: ServerConnection, context: str, request: dict[str, Any], at: dict[str, float]
    ) -> None:
        words = request["transcript"].split()
        if words:
            self.said.append(request["transcript"].strip())
            self.news.set()
        if words and self.mode != "no audio" and not (self.mode == "stall" and context in at):
            begun = at.setdefault(context, 0.0)
            ends = [begun + self.ms_per_word / 1000 * (n + 1) for n in range(len(words))]
            timed = {"words": words, "start": ends, "end": ends}
            await self._send(socket, context, type="timestamps", word_timestamps=timed, done=False, status_code=206)
            sound = (VOICED * (len(words) * self.ms_per_word // 20 + 1))[: len(words) * self.ms_per_word * 8]
            data = base64.b64encode(sound).decode()
            await self._send(socket, context, type="chunk", data=data, done=False, status_code=206, step_time=1)
            at[context] = ends[-1]
        if not request["continue"] and self.mode != "stall":
            await self._send(socket, context, type="done", done=True, status_code=200)

    async def _send(self, socket: ServerConnection, context: str, **message: Any) -> None:
        await socket.send(json.dumps({"context_id": context, **message}))


class Telnyx:
    """Takes commands. `failures`: how many more requests are answered with 500; `frozen`: not before it is set."""

    def __init__(self) -> None:
        self.commands: list[tuple[str, dict[str, Any]]] = []
        self.news = asyncio.Event()
        self.failures = 0
        self.ended = False
        self.frozen: asyncio.Event | None = None
        self.on_command: Callable[[str, str], None] | None = None

    async def command(self, call_control_id: str, action: str, request: Request) -> Response:
        self.commands.append((action, {**await request.json(), "call": call_control_id}))
        self.news.set()
        if self.frozen is not None:
            await self.frozen.wait()
        if self.failures:
            self.failures -= 1
            return Response(status_code=500)
        if self.ended:
            return Response('{"errors":[{"code":"90018","title":"Call has already ended"}]}', 422)
        if self.on_command is not None:
            self.on_command(action, call_control_id)
        return Response('{"data":{"result":"ok"}}', media_type="application/json")

    async def commanded(self, action: str, call: str = "") -> dict[str, Any]:
        """The first such command, of any call unless told."""
        while True:
            for name, command in self.commands:
                if name == action and call in ("", command["call"]):
                    return command
            self.news.clear()
            await self.news.wait()

    def names(self) -> list[str]:
        return [name for name, _ in self.commands]


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
        await self.sound(SILENT, 40)  # a line without noise

    async def sound(self, frame: bytes, ms: int) -> None:
        for _ in range(ms // 20):
            self._chunk += 1
            media = {"track": "inbound", "chunk": str(self._chunk), "payload": base64.b64encode(frame).decode()}
            await self._socket.send(json.dumps({"event": "media", "media": media}))

    async def say(self, *transcript: str, ms: int = 400) -> float:
        """Speak, and pause long enough to have spoken; returns when."""
        self._world.deepgram.transcripts.extend(transcript)
        await self.sound(VOICED, ms)
        await self.sound(SILENT, 200)
        return self._loop.time()

    async def next(self, kind: str) -> float:
        """Wait for an event, skipping others; returns when it came."""
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

    def __init__(self) -> None:
        self.deepgram, self.openai, self.cartesia, self.telnyx = Deepgram(), OpenAI(), Cartesia(), Telnyx()
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
            deepgram = await stack.enter_async_context(
                serve(self.deepgram.serve, "127.0.0.1", 0, process_request=self.deepgram.refuse, close_timeout=0.2)
            )
            cartesia = await stack.enter_async_context(serve(self.cartesia.serve, "127.0.0.1", 0))
            vendors = FastAPI()
            vendors.post("/v1/chat/completions")(self.openai.complete)
            vendors.post("/v2/calls/{call_control_id}/actions/{action}")(self.telnyx.command)
            vendors_url = await stack.enter_async_context(served(vendors))
            ours = {
                "TELNYX_API_BASE": f"{vendors_url}/v2",
                "OPENAI_BASE_URL": f"{vendors_url}/v1",
                "DEEPGRAM_URL": f"http://127.0.0.1:{deepgram.sockets[0].getsockname()[1]}",
                "CARTESIA_URL": f"http://127.0.0.1:{cartesia.sockets[0].getsockname()[1]}",
                "GREETING": "Hello there.",
            }
            self.settings = environment(**{**ours, **changes})
            self.app = create_app(Settings.from_environment(self.settings))
            self.agent = await stack.enter_async_context(served(self.app))
            yield self
        await asyncio.gather(*self._tasks)

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
        async with asyncio.timeout(10):
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

    async def quiet(self) -> None:
        """Until the agent has no open call, nor any connection to a vendor."""
        while await self.metric("voice_agent_open_calls") or self.deepgram.open or self.cartesia.open:
            pass  # each look is a request of its own

    async def counted(self, line: str, times: int = 1) -> None:
        """Until the metric has come to so much."""
        while await self.metric(line) < times:
            pass

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
        await asyncio.gather(*server.server_state.tasks)
        await server.lifespan.shutdown()


@pytest.fixture
async def world() -> AsyncIterator[World]:
    """The agent among its vendors, with short patience."""
    async with World().running() as world:
        yield world


@pytest.fixture
def worlds() -> Callable[..., Any]:
    """`async with worlds(DEFECT="no_clear") as world`: the same, with other settings."""

    @asynccontextmanager
    async def running(**changes: str) -> AsyncIterator[World]:
        async with World().running(**changes) as world:
            yield world

    return running
