"""Cartesia's text to speech: the WebSocket with its contexts, and the bytes and SSE endpoints.

Source: Cartesia's API reference; judged by the official `cartesia` SDK. Text waits for the end of its sentence, at most
`max_buffer_delay_ms`; each sentence takes `first_audio` from its text to its first chunk, unless the sentence before is
still being made, and then comes `realtime_factor` times faster than it plays. Phoneme timestamps are not made.

Outcomes beside the common ones (the http_ ones befall connections and HTTP requests, all others contexts):
    zero_audio  success without a chunk: only "done"
    error       an error event instead of audio
    stall       half of the first sentence, then nothing, not even "done"
    hang        nothing, ever
    reset       the connection breaks
"""

from __future__ import annotations

import asyncio
import json
import sys
from base64 import b64decode
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass, field
from uuid import UUID

from aiohttp import WSMsgType, web

from busyhour.emulators.behaviour import COMMON_OUTCOMES, HTTP_OUTCOMES, Behaviour, Constant, Fate, Latency
from busyhour.emulators.cartesia_context import Context, Event, event
from busyhour.emulators.cartesia_request import (
    Asked,
    Cancel,
    Format,
    Refused,
    audio_of,
    context_of,
    cut,
    read_body,
    read_event,
    word_timestamps,
)
from busyhour.emulators.twin import RETRY_AFTER_SECONDS, Twin, TwinProcess, Unreadable, body_of, reset, run
from busyhour.model import JSON, Endpoint, Operation

OUTCOMES = (*COMMON_OUTCOMES, "zero_audio", "error", "stall")
_CONTEXT_OUTCOMES = tuple(outcome for outcome in OUTCOMES if outcome not in HTTP_OUTCOMES)
_IDLE_SECONDS = 300.0
"""A connection without a message from the client is closed after this long (documented)."""
_CONTEXTS_AT_MOST = 256
_MESSAGE_BYTES_AT_MOST = 1024 * 1024
_TOLD_AS_STRING_BEFORE = "2026-03-01"
"""Older API versions put an error into one string."""


# ---------------------------------------------------------------- in the plan


@dataclass(kw_only=True, eq=False)
class Cartesia:
    """A twin of the Cartesia API as a Service, at http://127.0.0.1:PORT (ws:// for the socket).

    first_audio: from a sentence's text to its first chunk. realtime_factor: audio comes this many times faster than
    it plays. outcomes: the share of contexts and connections that go wrong, by name (see OUTCOMES). Raises PlanError
    for impossible settings.
    """

    name: str = "tts"
    first_audio: Latency = field(default_factory=lambda: Constant(90))
    realtime_factor: float = 4.0
    outcomes: Mapping[str, float] = field(default_factory=dict)
    seed: int = 1
    port: int = 0
    _behaviour: Behaviour = field(init=False, repr=False)
    _process: TwinProcess = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._behaviour = Behaviour(
            possible=OUTCOMES,
            latencies={"first_audio": self.first_audio},
            numbers={"realtime_factor": self.realtime_factor},
            outcomes=self.outcomes,
            seed=self.seed,
        )
        self._process = TwinProcess(name=self.name, module="busyhour.emulators.cartesia")

    def running(self, peers: Mapping[str, Endpoint]) -> AbstractAsyncContextManager[Endpoint]:
        return self._process.running(port=self.port, behaviour=self._behaviour)

    async def witnessed(self, endpoint: Endpoint) -> Sequence[Operation]:
        return await self._process.witnessed(endpoint)

    async def behave(self, endpoint: Endpoint, change: Mapping[str, JSON]) -> Mapping[str, JSON]:
        return await self._process.behave(endpoint, change)

    def obituary(self) -> str | None:
        return self._process.obituary()


# ---------------------------------------------------------------- one connection


class _Connection:
    """One WebSocket and its contexts, which are spoken side by side."""

    def __init__(self, twin: Twin, request: web.Request, socket: web.WebSocketResponse, identity: str) -> None:
        self._twin = twin
        self._request = request
        self._socket = socket
        self._identity = identity
        self._contexts: dict[str, tuple[Context, asyncio.Task[None]]] = {}

    async def serve(self) -> None:
        """Until the client closes or falls silent; all contexts end with it."""
        async with asyncio.TaskGroup() as group:
            try:
                while await self._turn(group):
                    pass
            finally:
                for _, task in self._contexts.values():
                    task.cancel()

    async def _turn(self, group: asyncio.TaskGroup) -> bool:
        """Read one message and do what it asks; False at the end."""
        try:
            message = await self._socket.receive(timeout=_IDLE_SECONDS)
        except TimeoutError:
            if not self._contexts:
                await self._socket.close(message=b"idle for five minutes")
            return bool(self._contexts)
        if message.type is WSMsgType.BINARY:
            await self._refuse(Refused("Messages are JSON text, not binary.", title="Invalid JSON"), None)
        elif message.type is WSMsgType.TEXT:
            try:
                await self._heed(read_event(message.data), group)
            except Refused as refusal:
                await self._refuse(refusal, context_of(message.data))
        else:
            return False
        return True

    async def _heed(self, asking: Asked | Cancel, group: asyncio.TaskGroup) -> None:
        known = self._contexts.get(asking.context_id)
        if isinstance(asking, Cancel):
            if known:
                known[0].cancelled = True
                known[1].cancel()
                del self._contexts[asking.context_id]
            return
        if known:
            known[0].give(asking)
            return
        if not asking.goes_on and not asking.transcript.strip():
            # The last, empty input of a context that has expired meanwhile: there is nothing left to say.
            await self._tell(event("done", asking.context_id, done=True))
            return
        if len(self._contexts) >= _CONTEXTS_AT_MOST:
            message = f"More than {_CONTEXTS_AT_MOST} contexts are open on this connection."
            raise Refused(message, status=429, title="Too many concurrent requests", code="concurrency_limited")
        fate = self._twin.draw("context", _CONTEXT_OUTCOMES)
        context = Context(self._twin, fate, asking, self._send)
        context.give(asking)
        task = group.create_task(self._speak(asking.context_id, context))
        # Not a `finally` in the task: one that is cancelled before its first step never runs at all.
        task.add_done_callback(lambda _: context.witness())
        self._contexts[asking.context_id] = (context, task)

    async def _speak(self, context_id: str, context: Context) -> None:
        try:
            await context.speak()
        except Refused as refusal:
            await self._refuse(refusal, context_id)
        except ConnectionAbortedError:
            reset(self._request)
        finally:
            if context_id in self._contexts and self._contexts[context_id][0] is context:
                del self._contexts[context_id]

    async def _send(self, message: Event) -> None:
        await self._socket.send_str(json.dumps(message))

    async def _refuse(self, refusal: Refused, context_id: str | None) -> None:
        request_id = f"{self._identity}:{context_id}" if context_id else self._identity
        await self._tell(_error_event(refusal, request_id, context_id, _version(self._request)))

    async def _tell(self, message: Event) -> None:
        with suppress(ConnectionResetError):  # the client went away; the next receive says so
            await self._send(message)


# ---------------------------------------------------------------- the API


def application(twin: Twin, more: Mapping[str, JSON]) -> web.Application:
    """The API on the twin's application; there are no settings beyond the behaviour."""
    # Loading the recordings takes a moment: now, and not while the first caller waits.
    audio_of("One moment please.", Format("raw", "pcm_mulaw", 8000))
    word_timestamps("", began_ms=0, lasts_ms=0)
    api = _Api(twin)
    app = twin.application()
    app.router.add_get("/tts/websocket", api.answering(api.websocket))
    app.router.add_post("/tts/bytes", api.answering(api.bytes))
    app.router.add_post("/tts/sse", api.answering(api.sse))
    app.router.add_route("*", "/{rest:.*}", api.answering(api.unknown))
    return app


class _Api:
    def __init__(self, twin: Twin) -> None:
        self._twin = twin

    def answering(
        self, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """The handler behind the check of the key and the fate of the connection, its refusals in the vendor's shape.

        A refusal is counted as what it is on the wire: http_400, http_401 and so on.
        """

        async def answer(request: web.Request) -> web.StreamResponse:
            fate = self._twin.draw("connection", HTTP_OUTCOMES)
            try:
                _authenticate(request)
                _refuse_if_fated(fate)
                return await handler(request)
            except Refused as refusal:
                self._twin.count(f"http_{refusal.status}")
                return _refusal(refusal, _id(fate))

        return answer

    async def websocket(self, request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse(compress=False, max_msg_size=_MESSAGE_BYTES_AT_MOST)
        if not socket.can_prepare(request).ok:
            raise Refused("This endpoint speaks WebSocket.", status=426, title="Upgrade required")
        await socket.prepare(request)
        await _Connection(self._twin, request, socket, _id(self._twin.draw("socket", ()))).serve()
        return socket

    async def bytes(self, request: web.Request) -> web.StreamResponse:
        """The audio as one streamed body: raw, or in a WAV container."""
        asking = await _read(request, containers=("raw", "wav"))
        is_wav = asking.format.container == "wav"
        response = web.StreamResponse()
        response.content_type = "audio/wav" if is_wav else "application/octet-stream"

        async def send(message: Event) -> None:
            if not response.prepared:
                await response.prepare(request)
                if is_wav:
                    pieces, _ = cut(asking.transcript, whole=True)
                    octets = sum(len(audio_of(piece, asking.format)) for piece in pieces)
                    await response.write(asking.format.wav_header(octets if message["type"] == "chunk" else 0))
            if message["type"] == "chunk":
                await response.write(b64decode(str(message["data"])))

        return await self._generate(request, asking, response, send)

    async def sse(self, request: web.Request) -> web.StreamResponse:
        """The events of a context that has one input, as server-sent events."""
        asking = await _read(request, containers=("raw",))
        response = web.StreamResponse(headers={"Cache-Control": "no-cache"})
        response.content_type = "text/event-stream"

        async def send(message: Event) -> None:
            if not response.prepared:
                await response.prepare(request)
            told = {name: value for name, value in message.items() if name != "context_id" or value}
            await response.write(f"event: {message['type']}\ndata: {json.dumps(told)}\n\n".encode())

        return await self._generate(request, asking, response, send)

    async def _generate(
        self,
        request: web.Request,
        asking: Asked,
        response: web.StreamResponse,
        send: Callable[[Event], Awaitable[None]],
    ) -> web.StreamResponse:
        context = Context(self._twin, self._twin.draw("context", _CONTEXT_OUTCOMES), asking, send)
        context.give(asking)
        try:
            await context.speak()
        except ConnectionAbortedError:
            reset(request)
        except Refused as refusal:  # its fate, which is counted already
            return _refusal(refusal, _id(self._twin.draw("socket", ())))
        finally:
            context.witness()
        if response.prepared:
            await response.write_eof()
        return response

    async def unknown(self, request: web.Request) -> web.StreamResponse:
        raise Refused(f"There is no {request.method} {request.path}.", status=404, title="Not found")


async def _read(request: web.Request, *, containers: Sequence[str]) -> Asked:
    try:
        return read_body(await body_of(request), containers=containers)
    except Unreadable as problem:
        raise Refused(f"{problem}.", status=problem.status) from None


def _authenticate(request: web.Request) -> None:
    """Any key will do, in any of the places where clients put it; none will not."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    keys = (
        token if scheme.lower() == "bearer" else "",
        request.headers.get("X-API-Key", ""),
        request.query.get("api_key", ""),
        request.query.get("access_token", ""),
    )
    if not any(key.strip() for key in keys):
        raise _unauthorized()


def _unauthorized() -> Refused:
    return Refused("The API key is missing or not valid.", status=401, title="Unauthorized", code="unauthorized")


def _refuse_if_fated(fate: Fate) -> None:
    """Raise the refusal that was drawn, if it was one."""
    if fate.outcome == "http_401":
        raise _unauthorized()
    if fate.outcome == "http_429":
        message = "You have exceeded your plan's concurrency limit."
        raise Refused(message, status=429, title="Too many concurrent requests", code="concurrency_limited")
    if fate.outcome == "http_500":
        raise Refused("Something went wrong on our side.", status=500, title="Internal server error")
    if fate.outcome == "http_503":
        raise Refused("The service is overloaded.", status=503, title="Service unavailable")


def _id(fate: Fate) -> str:
    return str(UUID(int=fate.random.getrandbits(128), version=4))


def _version(request: web.Request) -> str:
    return request.headers.get("Cartesia-Version") or request.query.get("cartesia_version", "")


def _refusal(refusal: Refused, request_id: str) -> web.Response:
    headers = {"Retry-After": str(RETRY_AFTER_SECONDS)} if refusal.status == 429 else {}
    return web.json_response(_error_body(refusal, request_id), status=refusal.status, headers=headers)


def _error_body(refusal: Refused, request_id: str) -> dict[str, JSON]:
    return {
        "error_code": refusal.code,
        "title": refusal.title,
        "message": refusal.message,
        "request_id": request_id,
    }


def _error_event(refusal: Refused, request_id: str, context_id: str | None, version: str) -> dict[str, JSON]:
    event: dict[str, JSON] = {"type": "error", "done": True, "status_code": refusal.status}
    if version < _TOLD_AS_STRING_BEFORE:
        event["error"] = f"{refusal.title}: {refusal.message}"
    event |= _error_body(refusal, request_id)
    return event if context_id is None else {**event, "context_id": context_id}


def main(argv: Sequence[str]) -> int:
    """`python -m busyhour.emulators.cartesia '<json settings>'`: see twin.run."""
    default = Cartesia()
    return run(application, default=default._behaviour, default_name=default.name, argv=argv)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
