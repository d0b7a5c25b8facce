"""Deepgram's live transcription (/v1/listen) by a twin that listens: it knows some utterances, and them by ear.

Source: Deepgram's documentation and captures of its wire; judged by the official `deepgram` SDK. Interim results leave
`interim` after the audio that brought them, finals `final` after the pause or the Finalize that ended them. Decided
where the documentation leaves it open: an empty binary message closes the stream like CloseStream (it once was the way
to do so); KeepAlive keeps a stream open only once audio has come; Finalize is not answered when less than 100 ms of
audio is left over; its answer has speech_final. Audio in containers and pre-recorded audio are not transcribed.

Outcomes beside the http_ ones, which befall connections; these befall utterances, when their speech begins:
    no_final    interim results, but never a final
    late_final  the final is `late` later than it would be
    hang        the connection stays open, and nothing is ever sent on it again
    reset       the connection breaks
"""

from __future__ import annotations

import json
import sys
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from uuid import UUID

import numpy as np
from aiohttp import web

from busyhour.emulators.behaviour import HTTP_OUTCOMES, Behaviour, Constant, Fate, Latency
from busyhour.emulators.deepgram_connection import OUTCOMES, Connection
from busyhour.emulators.deepgram_request import REFUSALS, Options, Refused, key, options, unauthorized
from busyhour.emulators.deepgram_stream import Stream
from busyhour.emulators.listening import Vocabulary
from busyhour.emulators.twin import RETRY_AFTER_SECONDS, Twin, TwinProcess, run
from busyhour.errors import PlanError
from busyhour.media.utterances import utterances as shipped
from busyhour.model import JSON, Audio, Endpoint, Operation, Word

_MESSAGE_BYTES_AT_MOST = 4 * 1024 * 1024
_CLOSE_SECONDS = 2.0
"""How long a client may take to answer a close."""


# ---------------------------------------------------------------- in the plan


@dataclass(kw_only=True, eq=False)
class Deepgram:
    """A twin of the Deepgram API as a Service, at http://127.0.0.1:PORT (clients swap the scheme to ws).

    final: from the end of an utterance (its pause heard, or Finalize) to its final result; interim: from the sound of
    a word to the interim result with it; late: what late_final adds. idle_seconds: without a message for so long the
    twin closes the stream (NET-0001). outcomes: shares, by name (see OUTCOMES). utterances: what it knows; None is all
    that are shipped. api_key: the one that is accepted, "" for any. Raises PlanError for impossible settings.
    """

    name: str = "stt"
    final: Latency = field(default_factory=lambda: Constant(80))
    interim: Latency = field(default_factory=lambda: Constant(150))
    late: Latency = field(default_factory=lambda: Constant(3000))
    idle_seconds: float = 10.0
    outcomes: Mapping[str, float] = field(default_factory=dict)
    utterances: Sequence[Audio] | None = None
    api_key: str = ""
    seed: int = 1
    port: int = 0
    _behaviour: Behaviour = field(init=False, repr=False)
    _process: TwinProcess = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._behaviour = Behaviour(
            possible=OUTCOMES,
            latencies={"final": self.final, "interim": self.interim, "late": self.late},
            numbers={"idle_seconds": self.idle_seconds},
            outcomes=self.outcomes,
            seed=self.seed,
        )
        self._process = TwinProcess(name=self.name, module="busyhour.emulators.deepgram")

    @asynccontextmanager
    async def running(self, peers: Mapping[str, Endpoint]) -> AsyncIterator[Endpoint]:
        with TemporaryDirectory(prefix="busyhour-") as folder:
            more: dict[str, JSON] = {"api_key": self.api_key}
            if self.utterances is not None:
                path = Path(folder, "utterances.jsonl")
                _write(self.utterances, path)
                more["utterances"] = str(path)
            async with self._process.running(port=self.port, behaviour=self._behaviour, more=more) as endpoint:
                yield endpoint

    async def witnessed(self, endpoint: Endpoint) -> Sequence[Operation]:
        return await self._process.witnessed(endpoint)

    async def behave(self, endpoint: Endpoint, change: Mapping[str, JSON]) -> Mapping[str, JSON]:
        return await self._process.behave(endpoint, change)

    def obituary(self) -> str | None:
        return self._process.obituary()


def _write(utterances: Sequence[Audio], path: Path) -> None:
    """One JSON object a line: an array of arrays of samples would be Python's to run (pickle), a WAV knows no words."""
    with path.open("w") as file:
        for audio in utterances:
            samples = b64encode(audio.samples.astype("<i2").tobytes()).decode()
            words = [(word.text, word.began, word.ended) for word in audio.words]
            speech = (audio.speech_began, audio.speech_ended)
            file.write(json.dumps([audio.name, audio.text, audio.rate_hz, speech, words, samples]) + "\n")


def _read(path: Path) -> list[Audio]:
    """What `_write` wrote. Raises PlanError."""
    found = []
    try:
        for line in path.read_text().splitlines():
            name, text, rate_hz, (began, ended), words, octets = json.loads(line)
            samples = np.frombuffer(b64decode(octets), "<i2").astype(np.int16)
            known = tuple(Word(*word) for word in words)
            found.append(Audio(name, text, samples, rate_hz, began, ended, known))
    except (OSError, ValueError, TypeError) as problem:
        raise PlanError(f"utterances: {path} cannot be read: {problem}.") from None
    return found


# ---------------------------------------------------------------- the API


def application(twin: Twin, more: Mapping[str, JSON]) -> web.Application:
    """The API on the twin's application. `more`: api_key; utterances, a file of what it knows. Raises PlanError."""
    api_key, path = more.get("api_key", ""), more.get("utterances")
    if not isinstance(api_key, str):
        raise PlanError(f"api_key is {api_key!r}; it must be a string.")
    if path is not None and not isinstance(path, str):
        raise PlanError(f"utterances is {path!r}; it must be the path of a file.")
    known = _shipped() if path is None else Vocabulary(_read(Path(path)))
    api = _Api(twin, known, api_key)
    app = twin.application()
    app.router.add_get("/v1/listen", api.listen)
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

    async def listen(self, request: web.Request) -> web.StreamResponse:
        fate = self._twin.draw("connection", HTTP_OUTCOMES)
        request_id = str(UUID(int=fate.random.getrandbits(128), version=4))
        # Extensions are not negotiated: permessage-deflate costs a client 7 % of its CPU, and audio does not shrink.
        socket = web.WebSocketResponse(
            compress=False, max_msg_size=_MESSAGE_BYTES_AT_MOST, protocols=("token", "bearer"), timeout=_CLOSE_SECONDS
        )
        try:
            chosen = self._admit(request, fate)
            if not socket.can_prepare(request).ok:
                raise Refused("Bad Request: this endpoint expects a WebSocket upgrade.")
        except Refused as refusal:
            self._twin.count(f"http_{refusal.status}")
            return _refusal(refusal, request_id)
        model_uuid = str(UUID(int=Random(chosen.model).getrandbits(128), version=4))
        stream = Stream(chosen, self._vocabulary, request_id=request_id, model_uuid=model_uuid)
        socket.headers["dg-request-id"] = request_id
        await socket.prepare(request)
        await Connection(self._twin, request, socket, stream, request_id).serve()
        return socket

    def _admit(self, request: web.Request, fate: Fate) -> Options:
        """Raises Refused."""
        given = key(request.headers, request.query)
        if not given or (self._api_key and given != self._api_key):
            raise unauthorized()
        if fate.outcome in REFUSALS:
            raise REFUSALS[fate.outcome]
        return options(request.query)

    async def unknown(self, request: web.Request) -> web.StreamResponse:
        refusal = Refused(f"There is no {request.method} {request.path}.", status=404, code="NOT_FOUND")
        return _refusal(refusal, str(UUID(int=self._twin.draw("silence", ()).random.getrandbits(128), version=4)))


def _refusal(refusal: Refused, request_id: str) -> web.Response:
    """In the body, and in the headers that a WebSocket client sees (documented)."""
    headers = {"dg-request-id": request_id, "dg-error": str(refusal).removeprefix("Bad Request: ")}
    if refusal.status == 429:
        headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    return web.json_response(refusal.body(request_id), status=refusal.status, headers=headers)


def main(argv: Sequence[str]) -> int:
    """`python -m busyhour.emulators.deepgram '<json settings>'`: see twin.run."""
    default = Deepgram()
    return run(application, default=default._behaviour, default_name=default.name, argv=argv)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
