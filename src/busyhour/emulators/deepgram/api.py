"""The HTTP side of the Deepgram twin: who may listen, and the way to the two kinds of streams."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import lru_cache
from pathlib import Path
from random import Random
from uuid import UUID

from aiohttp import web
from multidict import MultiMapping

from busyhour.emulators.behaviour import Fate
from busyhour.emulators.deepgram.connection import CONNECTION_OUTCOMES, Connection
from busyhour.emulators.deepgram.flux_request import flux_options
from busyhour.emulators.deepgram.knowledge import read
from busyhour.emulators.deepgram.messages import Hearing
from busyhour.emulators.deepgram.request import REFUSALS, Refused, key, options, unauthorized
from busyhour.emulators.deepgram.room import Room
from busyhour.emulators.deepgram.stream import Stream
from busyhour.emulators.deepgram.turns import Turns
from busyhour.emulators.listening import Vocabulary
from busyhour.emulators.twin import RETRY_AFTER_SECONDS, Twin, text_setting
from busyhour.errors import PlanError
from busyhour.media.utterances import utterances as shipped
from busyhour.model import JSON

_MESSAGE_BYTES_AT_MOST = 4 * 1024 * 1024
_CLOSE_SECONDS = 2.0
"""How long a client may take to answer a close."""


def application(twin: Twin, more: Mapping[str, JSON]) -> web.Application:
    """The API on the twin's application. `more`: api_key; utterances, a file of what it knows. Raises PlanError."""
    api_key, path = text_setting(more, "api_key"), more.get("utterances")
    if path is not None and not isinstance(path, str):
        raise PlanError(f"utterances is {path!r}; it must be the path of a file.")
    known = _shipped() if path is None else Vocabulary(read(Path(path)))
    api = _Api(twin, known, api_key)
    app = twin.application()
    app.router.add_get("/v1/listen", api.listening(api.nova))
    app.router.add_get("/v2/listen", api.listening(api.flux))
    app.router.add_route("*", "/{rest:.*}", api.unknown)
    return app


@lru_cache(maxsize=1)
def _shipped() -> Vocabulary:
    return Vocabulary(shipped(16_000).values())


class _Api:
    def __init__(self, twin: Twin, vocabulary: Vocabulary, api_key: str) -> None:
        self._twin = twin
        self._vocabulary = vocabulary
        self._api_key = api_key
        self._room = Room()

    def listening(
        self, hearing: Callable[[MultiMapping[str], str], Hearing]
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """The handler of an endpoint. `hearing` makes the stream of a query and a request's ID, or raises Refused."""

        async def listen(request: web.Request) -> web.StreamResponse:
            fate = self._twin.draw("connection", CONNECTION_OUTCOMES)
            request_id = str(UUID(int=fate.random.getrandbits(128), version=4))
            # No extensions are negotiated: permessage-deflate costs a client 7 % of its CPU, and audio does not shrink.
            socket = web.WebSocketResponse(
                compress=False,
                max_msg_size=_MESSAGE_BYTES_AT_MOST,
                protocols=("token", "bearer"),
                timeout=_CLOSE_SECONDS,
            )
            try:
                self._admit(request, fate)
                stream = hearing(request.query, request_id)
                if not socket.can_prepare(request).ok:
                    raise Refused("Bad Request: this endpoint expects a WebSocket upgrade.")
            except Refused as refusal:
                self._twin.count("quota" if refusal is REFUSALS["quota"] else f"http_{refusal.status}")
                return _refusal(refusal, request_id)
            socket.headers["dg-request-id"] = request_id
            await socket.prepare(request)
            await Connection(self._twin, request, socket, stream=stream, request_id=request_id, room=self._room).serve()
            return socket

        return listen

    def nova(self, query: MultiMapping[str], request_id: str) -> Hearing:
        chosen = options(query)
        model_uuid = str(UUID(int=Random(chosen.model).getrandbits(128), version=4))
        return Stream(chosen, self._vocabulary, request_id=request_id, model_uuid=model_uuid)

    def flux(self, query: MultiMapping[str], request_id: str) -> Hearing:
        return Turns(flux_options(query), self._vocabulary, request_id=request_id)

    def _admit(self, request: web.Request, fate: Fate) -> None:
        """Raises Refused."""
        given = key(request.headers, request.query)
        if not given or (self._api_key and given != self._api_key):
            raise unauthorized()
        if fate.outcome in REFUSALS:
            raise REFUSALS[fate.outcome]

    async def unknown(self, request: web.Request) -> web.StreamResponse:
        refusal = Refused(f"There is no {request.method} {request.path}.", status=404, code="NOT_FOUND")
        return _refusal(refusal, str(UUID(int=self._twin.draw("silence", ()).random.getrandbits(128), version=4)))


def _refusal(refusal: Refused, request_id: str) -> web.Response:
    """In the body, and in the headers that a WebSocket client sees (documented)."""
    headers = {"dg-request-id": request_id, "dg-error": str(refusal).removeprefix("Bad Request: ")}
    if refusal.status == 429:
        headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    return web.json_response(refusal.body(request_id), status=refusal.status, headers=headers)
