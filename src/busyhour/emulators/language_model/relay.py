"""Answering with the real model: a request is passed on to the upstream that the user has named, and its answer back.

Method, path, query, body and headers go as they came, the client's own key among them; status, headers and body come
back byte for byte and as they come, malformed ones too. Read beside it, they make the same row as the twin's own
answers do. The upstream judges keys, models and requests; paths that generate nothing are passed on unwitnessed.
No latency is added, so the twin has none to be set.

A fate takes effect all the same. Refusals, "reset", "hang" and "blocked" come without the upstream being asked. The
others befall an answer that is a good one (an upstream's own error is passed on, and is the outcome then):
    no_token    its headers, and nothing more
    stall, truncate, malformed    its first TOKENS_KEPT events that carry a token, fewer if it ends before, and then as
                                  in the twin's own answers; of a whole body the first half
A row has "upstream" if it was asked. What goes wrong there without a fate is told by the same names:
    http_NNN    its own status; 502 when it cannot be reached, 504 when it does not begin within TOTAL_SECONDS
    reset       it broke the connection off, and so was the client's
    no_token, stall    it was not over within TOTAL_SECONDS, and the client's connection was reset
    truncate    its stream ended in good order, without what closes it
    malformed   an event was no JSON, or longer than can be read, or encoded though it was asked for plain
    error       its stream carried an error
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

import aiohttp
from aiohttp import web
from multidict import CIMultiDict

from busyhour.emulators.behaviour import OK, Fate
from busyhour.emulators.headers import back
from busyhour.emulators.language_model import upstream
from busyhour.emulators.language_model.hearing import ArrayElements, Ear, Event, Heard, SentEvents, Unreadable, read
from busyhour.emulators.language_model.nouns import API, Refused
from busyhour.emulators.language_model.tokens import tokens_of
from busyhour.emulators.language_model.upstream import Upstream
from busyhour.emulators.language_model.witness import Record
from busyhour.emulators.twin import BODY_BYTES_AT_MOST, Twin, body_of, hang, reset
from busyhour.emulators.twin import Unreadable as UnreadableBody

TOKENS_KEPT = 8
CUT_BYTES = 20
"""Taken from the end of an event to make it malformed: more than the brackets that close it."""
_CUTTING = ("stall", "truncate", "malformed")
_BATCH_BYTES = 16 * 1024
"""Understood in one go, which takes half a millisecond."""
_TOKENISED_AT_MOST = 20_000
"""Characters of one piece; of longer ones the tokens are estimated."""


class _Broken(Exception):
    """The upstream broke the connection off."""


class Relay:
    """Passes requests on to one upstream, and the answers back."""

    def __init__(self, twin: Twin, to: Upstream) -> None:
        self._twin = twin
        self._to = to
        self._session: aiohttp.ClientSession | None = None

    @staticmethod
    def of(twin: Twin, url: str, *, own: str = "") -> Relay | None:
        """None without a URL. own: what the paths of the twin begin with, and the URL's path takes the place of.

        The twin loses its latencies: a fault that set them would be without effect. Raises PlanError.
        """
        if not url:
            return None
        to = Upstream.parse(url, own=own)
        twin.behaviour = replace(twin.behaviour, latencies={})
        return Relay(twin, to)

    def attach(self, app: web.Application, api: API) -> None:
        """To an application with the paths that generate: all others are passed on. api: whose errors they have."""
        app.cleanup_ctx.append(self._connected)
        app.router.add_route("*", "/{rest:.*}", self._passing(api))

    async def _connected(self, app: web.Application) -> AsyncIterator[None]:
        async with upstream.session() as self._session:
            yield

    def _passing(self, api: API) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """The handler of a path that generates nothing: no fate befalls it, and nobody witnesses it."""

        async def handler(request: web.Request) -> web.StreamResponse:
            client = _Client(request)
            try:
                await self._exchange(client, await body_of(request), api, lambda answer: _pass_on(answer, client))
            except UnreadableBody as problem:
                return _error(api, Refused(f"{problem}.", status=problem.status))
            except Refused as refusal:
                return _error(api, refusal)
            return client.response or web.Response()

        return handler

    async def answer(
        self, request: web.Request, raw: bytes, *, api: API, fate: Fate, record: Record
    ) -> web.StreamResponse:
        """The upstream's answer to a request that generates, harmed as fated. Raises Refused when there is none."""
        record.outcome, record.upstream = OK, self._to.origin
        client = _Client(request)
        passage = _Passage(client, ear=api.ear(), fate=fate, record=record, twin=self._twin)
        ending = await self._exchange(client, raw, api, passage.through)
        if ending == "reset":
            record.outcome = "reset"
        elif ending == "late" and client.writing:
            record.client_closed = True
        elif ending == "late":
            record.outcome = "stall" if record.tokens else "no_token"
        elif passage.hangs:
            await hang()
        return client.response or web.Response()

    async def _exchange(
        self,
        client: _Client,
        raw: bytes,
        api: API,
        through: Callable[[aiohttp.ClientResponse], Awaitable[None]],
    ) -> str:
        """Ask, and pass the answer through. Returns how it ended: "", "reset" or "late"; with the last two the client
        has been reset. Raises Refused when no answer began."""
        try:
            async with asyncio.timeout(upstream.TOTAL_SECONDS), await self._ask(client.request, raw, api) as answer:
                await through(answer)
        except _Broken:
            ending = "reset"
        except TimeoutError:
            if client.response is None:
                limit = f"has not answered within {upstream.TOTAL_SECONDS:g} s"
                raise self._refused(api, 504, limit) from None
            ending = "late"
        else:
            return ""
        reset(client.request)
        return ending

    async def _ask(self, request: web.Request, raw: bytes, api: API) -> aiohttp.ClientResponse:
        assert self._session is not None
        try:
            return await self._session.request(
                request.method,
                self._to.url(request.rel_url.raw_path_qs),
                headers=upstream.there(request.headers),
                data=raw or None,
                allow_redirects=False,
            )
        except (aiohttp.ClientConnectorError, aiohttp.ServerTimeoutError, aiohttp.ClientResponseError) as problem:
            raise self._refused(api, 502, f"cannot be reached: {upstream.why(problem)}") from None
        except (aiohttp.ClientError, ConnectionError):
            raise _Broken from None

    def _refused(self, api: API, status: int, what: str) -> Refused:
        like = api.fated("http_503")
        message = f"busyhour: the upstream {self._to.origin} {what}."
        return Refused(message, status=status, kind=like.kind, code=like.code)


def _error(api: API, refusal: Refused) -> web.Response:
    return web.json_response(api.error(refusal), status=refusal.status)


class _Client:
    """The client's side of an answer. writing: it is being written to."""

    def __init__(self, request: web.Request) -> None:
        self.request = request
        self.response: web.StreamResponse | None = None
        self.writing = False

    async def begin(self, answer: aiohttp.ClientResponse, *, length: int | None = None, open_end: bool = False) -> None:
        """Send the upstream's status and headers; with another length, or none."""
        headers: CIMultiDict[str] = back(answer.headers)
        if open_end or length is not None:
            headers.pop("Content-Length", None)
        self.response = web.StreamResponse(status=answer.status, reason=answer.reason, headers=headers)
        if length is not None:
            self.response.content_length = length
        self.writing = True
        await self.response.prepare(self.request)
        self.writing = False

    async def write(self, data: bytes) -> None:
        assert self.response is not None
        self.writing = True
        await self.response.write(data)
        self.writing = False

    async def end(self) -> None:
        assert self.response is not None
        self.writing = True
        await self.response.write_eof()
        self.writing = False


async def _next(answer: aiohttp.ClientResponse) -> bytes:
    """What has come; nothing at the end. Raises _Broken."""
    try:
        return await answer.content.readany()
    except (aiohttp.ClientError, ConnectionError):
        raise _Broken from None


async def _pass_on(answer: aiohttp.ClientResponse, client: _Client) -> None:
    await client.begin(answer)
    while chunk := await _next(answer):
        await client.write(chunk)
    await client.end()


class _Passage:
    """One answer's way back, listened to. hangs: the fate is that nothing more comes."""

    def __init__(self, client: _Client, *, ear: Ear, fate: Fate, record: Record, twin: Twin) -> None:
        self.hangs = False
        self._client = client
        self._ear = ear
        self._fate = fate
        self._record = record
        self._twin = twin
        self._ended = self._failed = self._broken = self._deaf = False

    async def through(self, answer: aiohttp.ClientResponse) -> None:
        """Pass it on, as fated. Raises _Broken."""
        if not 200 <= answer.status < 300:
            self._record.outcome = f"http_{answer.status}"
            self._record.told_prompt_tokens = 0
            await _pass_on(answer, self._client)
            return
        if self._fate.outcome != OK:
            self._record.outcome = self._fate.outcome
            self._record.count(self._twin)
        sent = answer.content_type == "text/event-stream"
        if sent and self._fate.outcome == "no_token":
            self.hangs = True
            await self._client.begin(answer, open_end=True)
            return
        if sent and self._fate.outcome == OK:
            await self._client.begin(answer)  # before the first byte of the body has come
        chunk = await _next(answer)
        if sent:
            await self._stream(answer, SentEvents(), chunk)
        elif chunk.lstrip().startswith(b"["):
            await self._stream(answer, ArrayElements(), chunk)
        else:
            await self._whole(answer, chunk)
        if self._record.outcome == OK:
            self._record.outcome = self._judged()

    def _judged(self) -> str:
        """What the upstream made of it, of its own accord."""
        if self._failed:
            return "error"
        if self._broken:
            return "malformed"
        return OK if self._ended else "truncate"

    # -- streams

    async def _stream(self, answer: aiohttp.ClientResponse, events: SentEvents | ArrayElements, chunk: bytes) -> None:
        if self._fate.outcome == "no_token":
            self.hangs = True
            await self._client.begin(answer, open_end=True)
        elif self._fate.outcome in _CUTTING:
            await self._client.begin(answer, open_end=True)
            await self._cut(answer, events, chunk)
        else:
            if self._client.response is None:
                await self._client.begin(answer)
            await self._uncut(answer, events, chunk)

    async def _uncut(self, answer: aiohttp.ClientResponse, events: SentEvents | ArrayElements, chunk: bytes) -> None:
        # Until the first token every chunk is understood at once, for that one is timed. What follows is understood in
        # batches, which is cheaper by half: beside the passing on it is the greatest part of what a stream costs.
        batch: list[bytes] = []
        held = 0
        try:
            while chunk:
                await self._client.write(chunk)
                batch.append(chunk)
                held += len(chunk)
                if self._record.first_token_ns is None or held > _BATCH_BYTES:
                    self._listen(events, b"".join(batch))
                    batch.clear()
                    held = 0
                chunk = await _next(answer)
        finally:
            self._listen(events, b"".join(batch))
        await self._client.end()

    def _listen(self, events: SentEvents | ArrayElements, chunk: bytes) -> None:
        if self._deaf:
            return
        try:
            for event in events.feed(chunk):
                self._take(self._heard(event))
        except Unreadable:
            self._broken = self._deaf = True

    async def _cut(self, answer: aiohttp.ClientResponse, events: SentEvents | ArrayElements, chunk: bytes) -> None:
        """The first events, and then what the fate wants. The upstream is not heard to the end."""
        cut = b""
        left = TOKENS_KEPT
        try:
            while chunk and not cut:
                for event in events.feed(chunk):
                    heard = self._heard(event)
                    token = any(piece.text for piece in heard.pieces)
                    if heard.ended or (token and not left):
                        cut = event.raw
                        break
                    await self._client.write(event.raw)
                    self._take(heard)
                    left -= token
                else:
                    chunk = await _next(answer)
        except Unreadable:
            cut = b""
        answer.close()
        if self._fate.outcome == "stall":
            self.hangs = True
            return
        if self._fate.outcome == "malformed":
            await self._client.write(cut[:-CUT_BYTES] + b"\n\n")
        await self._client.end()

    def _heard(self, event: Event) -> Heard:
        if event.form is None:
            self._broken = True
            return Heard()
        return Heard(ended=True) if event.done else self._understood(self._ear.event, event.form)

    def _understood(self, ear: Callable[[Mapping[str, Any]], Heard], form: Mapping[str, Any]) -> Heard:
        try:
            return ear(form)
        except RecursionError:  # JSON that is nested just as deep as can be read
            self._broken = True
            return Heard()

    # -- whole answers

    async def _whole(self, answer: aiohttp.ClientResponse, chunk: bytes) -> None:
        if self._fate.outcome == "no_token":
            self.hangs = True
            return
        cutting = self._fate.outcome in _CUTTING
        if not cutting:
            await self._client.begin(answer)
        body = bytearray()
        while chunk:
            if not cutting:
                await self._client.write(chunk)
            if len(body) <= BODY_BYTES_AT_MOST:  # what is longer is passed on, and not read
                body += chunk
            chunk = await _next(answer)
        form = read(bytes(body))
        self._broken, self._ended = form is None, True
        self._take(self._understood(self._ear.whole, form or {}))
        if not cutting:
            await self._client.end()
            return
        half = bytes(body[: len(body) // 2])
        self.hangs = self._fate.outcome == "stall"
        await self._client.begin(answer, length=len(body) if self.hangs else len(half))
        await self._client.write(half)
        if not self.hangs:
            await self._client.end()

    def _take(self, heard: Heard) -> None:
        """Into the record with it."""
        record = self._record
        for piece in heard.pieces:
            record.sent(piece.text, key=piece.key, tool=piece.tool, tokens=_tokens(piece.text))
            if piece.text and record.first_token_ns is None:
                record.first_token_ns = self._twin.clock.now_ns()
        if heard.tokens is not None:
            record.told_tokens = heard.tokens
        if heard.prompt_tokens is not None:
            record.told_prompt_tokens = heard.prompt_tokens
        self._ended = self._ended or heard.ended
        self._failed = self._failed or heard.failed


def _tokens(text: str) -> int:
    return len(tokens_of(text)) if len(text) <= _TOKENISED_AT_MOST else len(text) // 4
