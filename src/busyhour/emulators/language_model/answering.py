"""Answering: a request meets its fate, the receptionist's reply is paced out, and a row is written."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterator
from dataclasses import replace
from itertools import chain

from aiohttp import web

from busyhour.emulators.behaviour import HTTP_OUTCOMES, Fate
from busyhour.emulators.language_model.nouns import API, OUTCOMES, Asked, Finished, Part, Refused
from busyhour.emulators.language_model.relay import CUT_BYTES, Relay
from busyhour.emulators.language_model.tokens import finish
from busyhour.emulators.language_model.witness import Record
from busyhour.emulators.twin import Twin, Unreadable, body_of, hang, reset

_REFUSING = (*HTTP_OUTCOMES, "quota", "overloaded")
_HALVED = ("stall", "truncate", "malformed")
_WITHOUT_UPSTREAM = ("reset", "hang", "blocked")


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class LanguageModel:
    """Answers the requests of a twin's APIs.

    gullible: a defect of the receptionist, see receptionist.py; relay: has the answers, in the receptionist's place.
    """

    def __init__(
        self, twin: Twin, *, outcomes: Collection[str] = OUTCOMES, gullible: bool = False, relay: Relay | None = None
    ) -> None:
        self._twin = twin
        self._outcomes = outcomes
        self._gullible = gullible
        self._relay = relay

    def serving(self, api: API) -> Handler:
        """The handler of an API's path."""

        async def handler(request: web.Request) -> web.StreamResponse:
            return await self.answer(request, api)

        return handler

    async def answer(self, request: web.Request, api: API) -> web.StreamResponse:
        """The answer to one request, witnessed once, whatever becomes of it."""
        try:
            raw = await body_of(request)
        except Unreadable as problem:
            return _refusal(api, problem)
        fate = self._twin.draw("request", self._outcomes)
        record = Record(began_ns=self._twin.clock.now_ns(), number=fate.number, outcome=fate.outcome)
        fated = api.fated(fate.outcome) if fate.outcome in _REFUSING else None
        try:
            if self._relay is None:
                api.authenticate(request)
            if fated is not None:
                raise fated
            record.asked = self._read(request, raw, api)
            if self._relay is not None and fate.outcome not in _WITHOUT_UPSTREAM:
                return await self._relay.answer(request, raw, api=api, fate=fate, record=record)
            record.count(self._twin)
            return await self._answer(request, record.asked, api, fate, record)
        except Refused as refusal:
            if refusal is not fated:
                record.outcome = f"http_{refusal.status}"
            headers = {**api.headers(fate.number), **refusal.headers}
            return web.json_response(api.error(refusal), status=refusal.status, headers=headers)
        except (asyncio.CancelledError, ConnectionResetError):
            record.client_closed = True
            raise
        finally:
            record.witness(self._twin, api)

    def _read(self, request: web.Request, raw: bytes, api: API) -> Asked:
        """Raises Refused, unless it is an upstream that judges the request."""
        try:
            return api.read(request, raw)
        except Refused:
            if self._relay is None:
                raise
            return api.outline(request, raw)

    async def _answer(
        self, request: web.Request, asked: Asked, api: API, fate: Fate, record: Record
    ) -> web.StreamResponse:
        if fate.outcome == "reset":
            reset(request)
            return web.Response()
        if fate.outcome == "hang":
            await hang()
        finished = finish(asked, fate.random, gullible=self._gullible)
        if fate.outcome == "blocked":
            finished = replace(finished, parts=(), finish="blocked", stopped_by="")
        headers = dict(api.headers(fate.number))
        if asked.stream:
            return await self._stream(request, finished, headers, fate, record)
        return await self._whole(request, finished, headers, fate, record)

    async def _whole(
        self, request: web.Request, finished: Finished, headers: dict[str, str], fate: Fate, record: Record
    ) -> web.StreamResponse:
        if fate.outcome == "no_token":
            await hang()
        due_ns = record.began_ns + self._delay_ns("first_token", fate)
        due_ns += sum(self._delay_ns("between_tokens", fate) for _ in range(finished.tokens - 1))
        body = finished.asked.shape(finished).whole()
        await self._twin.clock.sleep_until(due_ns)
        record.first_token_ns = self._twin.clock.now_ns()
        for part, piece in _pieces(finished):
            record.sent(piece, key=part.key, tool=part.tool)
        if fate.outcome == "stall":
            response = web.StreamResponse(headers={"Content-Type": "application/json", **headers})
            response.content_length = len(body)
            await response.prepare(request)
            await response.write(body[: len(body) // 2])
            await hang()
        if fate.outcome in _HALVED:
            body = body[: len(body) // 2]
        return web.Response(body=body, content_type="application/json", headers=headers)

    async def _stream(
        self, request: web.Request, finished: Finished, headers: dict[str, str], fate: Fate, record: Record
    ) -> web.StreamResponse:
        shape = finished.asked.shape(finished)
        due_ns = record.began_ns + self._delay_ns("first_token", fate)
        response = web.StreamResponse(
            headers={"Content-Type": shape.content_type, "Cache-Control": "no-cache", **headers}
        )
        # What is said first is made before it is due, and leaves with the headers.
        opening, deltas = shape.opening(), shape.deltas()
        frames = chain([next(deltas, b"")], deltas)
        await self._twin.clock.sleep_until(due_ns)
        await response.prepare(request)
        if fate.outcome == "no_token":
            await response.write(opening)
            await hang()
        for index, (part, piece) in enumerate(_pieces(finished, halved=fate.outcome in _HALVED)):
            if index:
                due_ns += self._delay_ns("between_tokens", fate)
                await self._twin.clock.sleep_until(due_ns)
            if frame := opening + next(frames):
                await response.write(frame)
            opening = b""
            record.first_token_ns = record.first_token_ns or self._twin.clock.now_ns()
            record.sent(piece, key=part.key, tool=part.tool)
        if opening:
            await response.write(opening)
        if fate.outcome == "stall":
            await hang()
        if fate.outcome == "malformed":
            event = next((frame for frame in frames if frame), b"") or shape.closing()
            await response.write(event[:-CUT_BYTES] + b"\n\n")
        elif fate.outcome != "truncate":
            await response.write(b"".join(frames) + shape.closing())
        await response.write_eof()
        return response

    def _delay_ns(self, latency: str, fate: Fate) -> int:
        if self._relay is not None:
            return 0  # the twin has no latencies then
        return self._twin.behaviour.delay_ns(latency, fate.random)


def beside(api: API, handler: Handler) -> Handler:
    """The handler of a path that generates nothing and has no fate: behind the check of the key, with its refusals
    (Refused, Unreadable) in the vendor's shape."""

    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            api.authenticate(request)
            return await handler(request)
        except (Refused, Unreadable) as problem:
            return _refusal(api, problem)

    return answer


def _refusal(api: API, problem: Refused | Unreadable) -> web.Response:
    refusal = problem if isinstance(problem, Refused) else Refused(f"{problem}.", status=problem.status)
    return web.json_response(api.error(refusal), status=refusal.status)


def _pieces(finished: Finished, *, halved: bool = False) -> Iterator[tuple[Part, str]]:
    """The pieces with their parts; halved: the first half of them, at least one if there are any."""
    left = max(1, finished.tokens // 2) if halved else finished.tokens
    for part in finished.parts:
        for piece in part.pieces[:left]:
            yield part, piece
        left -= min(left, len(part.pieces))
