"""The HTTP side of the ElevenLabs twin: who may ask, speech by request, the account, and the way to the sockets."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Awaitable, Callable, Mapping
from uuid import UUID

from aiohttp import web

from busyhour.emulators.behaviour import HTTP_OUTCOMES
from busyhour.emulators.elevenlabs import account
from busyhour.emulators.elevenlabs.connection import Connection
from busyhour.emulators.elevenlabs.context import characters_of, refuse_if_fated
from busyhour.emulators.elevenlabs.request import (
    DEFAULT_FORMAT,
    FATED,
    Options,
    Refused,
    key_of,
    options,
    read_body,
    sound_of,
    unauthorized,
)
from busyhour.emulators.synthesis import CONTEXT_OUTCOMES, Chunk, Message, Speech, cut, warm_up
from busyhour.emulators.twin import RETRY_AFTER_SECONDS, Twin, Unreadable, body_of, hang, reset, text_setting
from busyhour.model import JSON

_MESSAGE_BYTES_AT_MOST = 1024 * 1024
_CLOSE_SECONDS = 2.0
"""How long a client may take to answer a close."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def application(twin: Twin, more: Mapping[str, JSON]) -> web.Application:
    """The API on the twin's application. `more`: api_key. Raises PlanError."""
    api = _Api(twin, text_setting(more, "api_key"))
    warm_up()
    app = twin.application()
    speech = "/v1/text-to-speech/{voice}"
    app.router.add_get(f"{speech}/stream-input", api.answering(api.stream_input, keyless=True))
    app.router.add_get(f"{speech}/multi-stream-input", api.answering(api.multi_stream_input, keyless=True))
    app.router.add_post(speech, api.answering(api.convert))
    app.router.add_post(f"{speech}/stream", api.answering(api.stream))
    app.router.add_post(f"{speech}/with-timestamps", api.answering(api.convert_with_timestamps))
    app.router.add_post(f"{speech}/stream/with-timestamps", api.answering(api.stream_with_timestamps))
    for path, answer in account.ANSWERS.items():
        app.router.add_get(path, api.answering(api.about_the_account(answer)))
    app.router.add_route("*", "/{rest:.*}", api.answering(api.unknown))
    return app


class _Api:
    def __init__(self, twin: Twin, api_key: str) -> None:
        self._twin = twin
        self._api_key = api_key
        self._characters = 0  # billed

    def answering(self, handler: Handler, *, keyless: bool = False) -> Handler:
        """The handler behind the check of the key and the fate of the connection, its refusals in the vendor's shape.

        keyless: the key may come later. A refusal is counted as what it is on the wire: http_400, http_401 and so on.
        """

        async def answer(request: web.Request) -> web.StreamResponse:
            fate = self._twin.draw("connection", HTTP_OUTCOMES)
            try:
                if not keyless:
                    self._authenticate(request)
                if fate.outcome in FATED:
                    raise FATED[fate.outcome]
                return await handler(request)
            except Refused as refusal:
                self._twin.count(f"http_{refusal.status}")
                return _refusal(refusal)

        return answer

    def _authenticate(self, request: web.Request) -> None:
        given = key_of(request.headers, request.query)
        if not given or (self._api_key and given != self._api_key):
            raise unauthorized(given)

    def _bill(self, characters: int) -> None:
        self._characters += characters

    # -- sockets

    async def stream_input(self, request: web.Request) -> web.StreamResponse:
        return await self._talk(request, multi=False)

    async def multi_stream_input(self, request: web.Request) -> web.StreamResponse:
        return await self._talk(request, multi=True)

    async def _talk(self, request: web.Request, *, multi: bool) -> web.StreamResponse:
        socket = web.WebSocketResponse(compress=False, max_msg_size=_MESSAGE_BYTES_AT_MOST, timeout=_CLOSE_SECONDS)
        if not socket.can_prepare(request).ok:
            raise Refused("This endpoint speaks WebSocket.", code="websocket_expected", status=426)
        try:
            chosen: Options | Refused = options(request.query)
        except Refused as refusal:  # is told on the socket, where clients of the vendor look for it
            chosen = refusal
        await socket.prepare(request)
        if isinstance(chosen, Refused):
            self._twin.count(f"http_{chosen.status}")
            await socket.send_str(json.dumps(chosen.frame()))
            await socket.close(code=1008, message=str(chosen).encode()[:120])
            return socket
        key = key_of(request.headers, request.query)
        await Connection(
            self._twin, request, socket, options=chosen, multi=multi, key=key, wanted=self._api_key, bill=self._bill
        ).serve()
        return socket

    # -- speech by request

    async def convert(self, request: web.Request) -> web.StreamResponse:
        """The audio in one piece, when it is made."""
        made: list[bytes] = []

        async def keep(octets: bytes) -> None:
            made.append(octets)

        async def done() -> web.StreamResponse:
            return web.Response(body=b"".join(made), content_type=_media_type(request))

        return await self._generate(request, _octets, keep, done)

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """The audio as it is made."""
        response = web.StreamResponse()
        response.content_type = _media_type(request)
        return await self._generate(request, _octets, *_streaming(request, response))

    async def convert_with_timestamps(self, request: web.Request) -> web.StreamResponse:
        """The audio and when its characters are spoken, as one object."""
        made: list[bytes] = []
        characters: list[tuple[str, float, float]] = []

        async def keep(chunk: Chunk) -> None:
            made.append(chunk.octets)
            characters.extend(_characters(chunk))

        async def done() -> web.StreamResponse:
            return web.json_response(_timed(b"".join(made), characters))

        return await self._generate(request, lambda chunk: chunk, keep, done)

    async def stream_with_timestamps(self, request: web.Request) -> web.StreamResponse:
        """The same chunk by chunk, one object a line; times are since the request's first audio."""
        response = web.StreamResponse()
        response.content_type = "application/json"
        return await self._generate(
            request,
            lambda chunk: json.dumps(_timed(chunk.octets, _characters(chunk))).encode() + b"\n\n",
            *_streaming(request, response),
        )

    async def _generate(
        self,
        request: web.Request,
        shape: Callable[[Chunk], Message],
        send: Callable[[Message], Awaitable[None]],
        done: Callable[[], Awaitable[web.StreamResponse]],
    ) -> web.StreamResponse:
        sound = sound_of(request.query.get("output_format", DEFAULT_FORMAT))
        try:
            asked = read_body(await body_of(request))
        except Unreadable as problem:
            raise Refused(f"{problem}.", code="invalid_body", status=problem.status) from None
        speech = Speech(self._twin, self._twin.draw("context", CONTEXT_OUTCOMES), sound, model=asked.model)
        speech.note(asked.text)
        speech.busy = True
        self._bill(len(asked.text))
        try:
            if speech.fate.outcome == "hang":
                await hang()
            refuse_if_fated(speech.fate, len(asked.text))
            pieces, _ = cut(asked.text, whole=True)
            await speech.say(pieces, arrived_ns=speech.began_ns, shape=shape, send=send)
            response = await done()
            speech.over = True
        except ConnectionAbortedError:
            reset(request)
            return web.Response()
        except ConnectionResetError:  # the client went away while we sent
            return web.Response()
        except Refused as refusal:  # its fate, which is counted already
            return _refusal(refusal)
        finally:
            speech.witness()
        if not response.prepared:
            identity = self._twin.draw("request_id", ()).random.getrandbits(128)
            response.headers["request-id"] = str(UUID(int=identity, version=4))
            response.headers["character-cost"] = str(len(asked.text))
        return response

    # -- the account

    def about_the_account(self, answer: Callable[[int], JSON]) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            return web.json_response(answer(self._characters))

        return handle

    async def unknown(self, request: web.Request) -> web.StreamResponse:
        return web.json_response({"detail": "Not Found"}, status=404)


def _octets(chunk: Chunk) -> bytes:
    return chunk.octets


def _streaming(
    request: web.Request, response: web.StreamResponse
) -> tuple[Callable[[bytes], Awaitable[None]], Callable[[], Awaitable[web.StreamResponse]]]:
    """How chunks are sent in a body as they are made, and how that body ends."""

    async def send(octets: bytes) -> None:
        if not response.prepared:
            await response.prepare(request)
        await response.write(octets)

    async def done() -> web.StreamResponse:
        if response.prepared:
            await response.write_eof()
        return response

    return send, done


def _characters(chunk: Chunk) -> list[tuple[str, float, float]]:
    """The characters that begin in a chunk, with their times since the beginning of the whole, in ms."""
    before = chunk.piece_began_ms + chunk.at_ms
    return [(character, before + began, before + ended) for character, began, ended in characters_of(chunk)]


def _timed(octets: bytes, characters: list[tuple[str, float, float]]) -> dict[str, JSON]:
    alignment: dict[str, JSON] = {
        "characters": [character for character, _, _ in characters],
        "character_start_times_seconds": [round(began / 1000, 3) for _, began, _ in characters],
        "character_end_times_seconds": [round(ended / 1000, 3) for _, _, ended in characters],
    }
    return {"audio_base64": b64encode(octets).decode(), "alignment": alignment, "normalized_alignment": alignment}


def _media_type(request: web.Request) -> str:
    name = request.query.get("output_format", "")
    return "audio/pcm" if name.startswith("pcm_") else "audio/basic"


def _refusal(refusal: Refused) -> web.Response:
    headers = {"Retry-After": str(RETRY_AFTER_SECONDS)} if refusal.status == 429 else {}
    return web.json_response(refusal.body(), status=refusal.status, headers=headers)
