"""The HTTP side of the Cartesia twin: who may ask, the bytes and SSE endpoints, and the way to the socket."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Awaitable, Callable, Mapping, Sequence
from uuid import UUID

from aiohttp import web

from busyhour.emulators.behaviour import HTTP_OUTCOMES, Fate
from busyhour.emulators.cartesia.connection import Connection
from busyhour.emulators.cartesia.context import Context, Event
from busyhour.emulators.cartesia.request import Asked, Refused, error_body, read_body, wav_header
from busyhour.emulators.synthesis import CONTEXT_OUTCOMES, audio_of, cut, warm_up
from busyhour.emulators.twin import RETRY_AFTER_SECONDS, Twin, Unreadable, body_of, reset, text_setting
from busyhour.model import JSON

_MESSAGE_BYTES_AT_MOST = 1024 * 1024


def application(twin: Twin, more: Mapping[str, JSON]) -> web.Application:
    """The API on the twin's application. `more`: api_key. Raises PlanError."""
    api = _Api(twin, text_setting(more, "api_key"))
    warm_up()
    app = twin.application()
    app.router.add_get("/tts/websocket", api.answering(api.websocket))
    app.router.add_post("/tts/bytes", api.answering(api.bytes))
    app.router.add_post("/tts/sse", api.answering(api.sse))
    app.router.add_route("*", "/{rest:.*}", api.answering(api.unknown))
    return app


class _Api:
    def __init__(self, twin: Twin, api_key: str) -> None:
        self._twin = twin
        self._api_key = api_key

    def answering(
        self, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """The handler behind the check of the key and the fate of the connection, its refusals in the vendor's shape.

        A refusal is counted as what it is on the wire: http_400, http_401 and so on.
        """

        async def answer(request: web.Request) -> web.StreamResponse:
            fate = self._twin.draw("connection", HTTP_OUTCOMES)
            try:
                _authenticate(request, self._api_key)
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
        await Connection(self._twin, request, socket, _id(self._twin.draw("socket", ()))).serve()
        return socket

    async def bytes(self, request: web.Request) -> web.StreamResponse:
        """The audio as one streamed body: raw, or in a WAV container."""
        asking = await _read(request, containers=("raw", "wav"))
        is_wav = asking.container == "wav"
        response = web.StreamResponse()
        response.content_type = "audio/wav" if is_wav else "application/octet-stream"

        async def send(message: Event) -> None:
            if not response.prepared:
                await response.prepare(request)
                if is_wav:
                    pieces, _ = cut(asking.transcript, whole=True)
                    octets = sum(len(audio_of(piece, asking.sound)) for piece in pieces)
                    await response.write(wav_header(asking.sound, octets if message["type"] == "chunk" else 0))
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
        context = Context(self._twin, self._twin.draw("context", CONTEXT_OUTCOMES), asking, send)
        context.give(asking)
        try:
            await context.speak()
        except ConnectionAbortedError:
            reset(request)
        except Refused as refusal:  # its fate, which is counted already
            return _refusal(refusal, _id(self._twin.draw("socket", ())))
        finally:
            context.speech.witness()
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


def _authenticate(request: web.Request, api_key: str) -> None:
    """Raise the refusal of a request without a key, in any of the places where clients put it, or with a wrong one."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    keys = (
        token if scheme.lower() == "bearer" else "",
        request.headers.get("X-API-Key", ""),
        request.query.get("api_key", ""),
        request.query.get("access_token", ""),
    )
    given = next((key.strip() for key in keys if key.strip()), "")
    if not given or (api_key and given != api_key):
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


def _refusal(refusal: Refused, request_id: str) -> web.Response:
    headers = {"Retry-After": str(RETRY_AFTER_SECONDS)} if refusal.status == 429 else {}
    return web.json_response(error_body(refusal, request_id), status=refusal.status, headers=headers)
